//! The line encoder against its reader: what two steps write to two streams each, cut anywhere, is read back
//! from the log byte for byte.

use std::sync::Arc;
use std::time::Duration;

use danube_core::{ByteRange, OutputStream, Passthrough, SystemClock};
use danube_logs::{
    Line, LineSource, LogOptions, LogStore, LogWriter, MAX_LINE_BYTES, MemoryLogs, parse_line,
};

const STEPS: [&str; 2] = ["a", "b"];

/// `[limit, (operation, length, bytes…)…]`: an operation writes to one of four streams, or waits until open
/// lines are written as they are, or ends a step.
pub(crate) fn what_was_written_is_read(data: &[u8]) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(run(data));
}

async fn run(data: &[u8]) {
    let Some((&limit, mut rest)) = data.split_first() else { return };
    let limit = match limit {
        0..128 => u64::MAX,
        few => u64::from(few - 127) * 50,
    };
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let log: danube_core::JobId = "fuzz".parse().unwrap();
    let options = LogOptions::default().with_max_log_bytes(limit);
    let writer = LogWriter::create(store.clone(), log.clone(), Arc::new(SystemClock), options);
    let writer = writer.await.unwrap();
    let mut steps = Vec::new();
    for name in STEPS {
        let step = writer.step(name.parse().unwrap(), Box::new(Passthrough), Box::new(Passthrough));
        steps.push(Some(step.await.unwrap()));
    }
    let mut written = [const { Vec::new() }; 4];
    while let Some((&[operation, len], after)) = rest.split_first_chunk() {
        let stream = usize::from(operation % 4);
        let step = &mut steps[stream / 2];
        let (chunk, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        match (operation / 4, step.as_mut()) {
            (60.., Some(_)) => drop(step.take().unwrap().finish().await.unwrap()),
            (50..60, Some(step)) => {
                tokio::time::advance(Duration::from_millis(1500)).await;
                step.idle().await.unwrap();
            }
            (operation, Some(step)) => {
                // Now and then a line longer than the longest that is kept in one piece.
                let chunk = chunk.repeat(if operation == 49 { 700 } else { 1 });
                written[stream].extend_from_slice(&chunk);
                let output = [OutputStream::Stdout, OutputStream::Stderr][stream % 2];
                if operation % 2 == 0 {
                    step.feed(output, &chunk).await.unwrap();
                } else {
                    step.write(output, &chunk).await.unwrap();
                }
            }
            (_, None) => {}
        }
    }
    for step in steps.into_iter().flatten() {
        step.finish().await.unwrap();
    }
    let sealed = writer.seal().await.unwrap();
    let mut text = Vec::new();
    while (text.len() as u64) < sealed.len {
        let range = ByteRange::new(text.len() as u64, sealed.len);
        text.extend_from_slice(&store.read(&log, range).await.unwrap());
    }
    check(&text, &written, sealed.truncated);
}

fn check(text: &[u8], written: &[Vec<u8>; 4], truncated: bool) {
    assert!(text.is_empty() || text.ends_with(b"\n"), "a log is whole lines");
    let mut read: [Option<Vec<u8>>; 4] = [const { None }; 4];
    let mut notes = 0;
    for stored in text.split_inclusive(|&b| b == b'\n') {
        let line = parse_line(stored).expect("a line of ours");
        let Line { timestamp, step, source, continued, content } = line;
        assert!(
            content.len() <= MAX_LINE_BYTES && timestamp.len() == "2024-01-06T12:00:00.123Z".len()
        );
        let step = STEPS.iter().position(|name| *name == step).expect("a step of ours");
        let stream = match source {
            LineSource::Stdout => 2 * step,
            LineSource::Stderr => 2 * step + 1,
            LineSource::Danube => {
                notes += 1;
                assert!(content.starts_with(b"[TRUNCATED - log exceeded "));
                continue;
            }
            LineSource::Unknown => panic!("this format says whose line it is"),
        };
        match &mut read[stream] {
            Some(lines) => {
                if !continued {
                    lines.push(b'\n');
                }
                lines.extend_from_slice(content);
            }
            none => {
                assert!(!continued, "nothing to continue");
                *none = Some(content.to_vec());
            }
        }
    }
    assert_eq!(notes, usize::from(truncated), "one line tells of the truncation");
    for (read, written) in read.into_iter().zip(written) {
        let lines = written.strip_suffix(b"\n").unwrap_or(written);
        match read {
            Some(read) if truncated => assert!(lines.starts_with(&read), "the beginning is kept"),
            Some(read) => assert_eq!(read, lines),
            None => assert!(written.is_empty() || truncated),
        }
    }
}
