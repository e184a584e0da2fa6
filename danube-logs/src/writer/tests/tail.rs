//! Head and tail: what is kept, what is counted, and who dies meanwhile.

use super::*;

fn options(head: u64, tail_bytes: u64) -> LogOptions {
    LogOptions::default()
        .with_max_log_bytes(head + tail_bytes)
        .with_keep(Keep::HeadAndTail { tail_bytes })
        .with_format(LineFormat::Raw)
}

/// What a log of raw lines must be: the obvious way.
fn model(lines: &[String], head_bytes: u64, tail_bytes: u64) -> (Vec<u8>, u64, u64) {
    let whole = |lines: &[String]| lines.concat().into_bytes();
    let len = |lines: &[String]| lines.iter().map(|line| line.len() as u64).sum::<u64>();
    let head = (0..=lines.len()).rev().find(|&n| len(&lines[..n]) <= head_bytes).unwrap();
    let tail = (head..=lines.len()).find(|&n| len(&lines[n..]) <= tail_bytes).unwrap();
    let omitted = &lines[head..tail];
    let (count, bytes) = (omitted.len() as u64, len(omitted));
    let mut log = whole(&lines[..head]);
    if count > 0 {
        log.extend_from_slice(format!("[… {count} lines, {bytes} bytes omitted …]\n").as_bytes());
    }
    log.extend_from_slice(&whole(&lines[tail..]));
    (log, count, bytes)
}

#[tokio::test]
async fn the_head_and_the_end_are_kept_and_the_rest_is_counted() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, options(1000, 500).with_format(LineFormat::Milliseconds)).await;
    let (a, b) = (step(&writer, "a").await, step(&writer, "b").await);
    a.write(OutputStream::Stdout, b"begins\n").await.unwrap();
    for n in 0..1000 {
        b.write(OutputStream::Stderr, format!("{n} \u{e4}\u{20ac}\n").as_bytes()).await.unwrap();
    }
    let seen = text(&store).await;
    assert!(seen.len() <= 1000 && seen.ends_with(b"\n"), "until the seal the head alone is there");
    assert!(store.stat(&id()).await.unwrap().state.truncated, "and followers are told");
    writer.note("the end").await.unwrap();
    a.write(OutputStream::Stdout, b"ends\n").await.unwrap();
    a.finish().await.unwrap();
    b.finish().await.unwrap();
    let sealed = writer.seal().await.unwrap();
    let log = text(&store).await;
    assert!(log.starts_with(&seen) && log.len() as u64 == sealed.len && sealed.len <= 1500 + 100);
    let text = String::from_utf8(log).unwrap();
    assert!(
        text.ends_with("[danube] [danube] the end\n[2024-01-06T12:00:00.123Z] [a] [stdout] ends\n")
    );
    let marker = text.lines().position(|line| line.contains("lines, ")).unwrap();
    let (first_after, before) =
        (text.lines().nth(marker + 1).unwrap(), text.lines().nth(marker - 1).unwrap());
    let number = |line: &str| -> u64 {
        line.rsplit_once("] ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
    };
    let omitted = number(first_after) - number(before) - 1;
    let bytes: u64 = (number(before) + 1..number(first_after))
        .map(|n| format!("{n} \u{e4}\u{20ac}\n").len() as u64)
        .sum();
    assert_eq!((sealed.omitted_lines, sealed.omitted_bytes), (omitted, bytes));
    assert!(
        text.lines()
            .nth(marker)
            .unwrap()
            .ends_with(&format!("[danube] [danube] [… {omitted} lines, {bytes} bytes omitted …]"))
    );
    let range = |n: usize| sealed.steps[n].range;
    assert_eq!(range(0), ByteRange::new(0, sealed.len), "the first line and the last are a's");
    let b_ends = text.find("[2024-01-06T12:00:00.123Z] [danube] [danube] the end").unwrap();
    assert_eq!(range(1).end, b_ends as u64);
}

#[tokio::test]
async fn whoever_dies_while_the_end_is_put_behind_the_head_the_log_is_the_same() {
    dies_at_every_change(1000).await;
}

#[tokio::test]
async fn the_same_for_a_log_whose_head_is_empty_because_its_first_line_was_too_long() {
    dies_at_every_change(1).await;
}

async fn dies_at_every_change(head: u64) {
    let lines: Vec<String> =
        (0..400).map(|n| format!("line {n} {}\n", "x".repeat(n % 17))).collect();
    let (expected, omitted, _) = model(&lines, head, 700);
    assert!(omitted > 0);
    let mut sealed_at = None;
    // The changes that the store takes before its owner is dead, and what its successor and that one's get.
    for changes in 0.. {
        let mut log = MemoryLogs::new();
        let mut written = 0;
        let mut done = false;
        for life in 0..50 {
            // Successors die after a few changes, until one has nothing more to do.
            let failing = Failing::over(log.clone(), if life == 0 { usize::MAX } else { life - 1 });
            let owner: Arc<dyn LogStore> = failing.clone();
            log = log.other_owner();
            // What a successor would keep by itself does not matter.
            let options = if life == 0 { options(head, 700) } else { LogOptions::default() };
            let created = LogWriter::create(owner, id(), clock(), options).await;
            let Ok(writer) = created else { continue };
            if life == 0 {
                let step = step(&writer, "s").await;
                for line in &lines {
                    step.write(OutputStream::Stdout, line.as_bytes()).await.unwrap();
                    written += 1;
                }
                *failing.changes_left.lock().unwrap() = changes;
            }
            if writer.seal().await.is_ok() {
                done = true;
                sealed_at = sealed_at.or((life == 0).then_some(changes));
                break;
            }
        }
        assert!(done && written == lines.len());
        let store: Arc<dyn LogStore> = Arc::new(log);
        let log = text(&store).await;
        assert_eq!(
            String::from_utf8_lossy(&log),
            String::from_utf8_lossy(&expected),
            "{changes} changes"
        );
        let stat = store.stat(&id()).await.unwrap();
        assert_eq!((stat.phase, stat.state.omitted_lines), (LogPhase::Sealed, omitted));
        if sealed_at.is_some() {
            break;
        }
    }
    assert!(sealed_at.unwrap() >= 3, "the state, the end, and the seal are a change each");
}

#[tokio::test]
async fn a_successor_that_goes_on_behind_a_whole_end_loses_nothing() {
    let mut lines = vec!["one\n".to_owned(), "two\n".to_owned()];
    let log = MemoryLogs::new();
    let failing = Failing::over(log.clone(), usize::MAX);
    {
        let writer = LogWriter::create(failing.clone(), id(), clock(), options(4, 60)).await;
        let writer = writer.unwrap();
        let step = step(&writer, "s").await;
        step.write(OutputStream::Stdout, lines.concat().as_bytes()).await.unwrap();
        // The state and the end, and no seal.
        *failing.changes_left.lock().unwrap() = 2;
        writer.seal().await.unwrap_err();
    }
    let store: Arc<dyn LogStore> = Arc::new(log.other_owner());
    let writer = writer(&store, options(4, 60)).await;
    let step = step(&writer, "s").await;
    for n in 0..20 {
        step.write(OutputStream::Stdout, format!("more {n}\n").as_bytes()).await.unwrap();
        lines.push(format!("more {n}\n"));
    }
    step.finish().await.unwrap();
    let sealed = writer.seal().await.unwrap();
    let (mut expected, omitted, bytes) = model(&lines, 64, 0);
    let end = expected.iter().rposition(|&b| b == b'[').unwrap();
    expected.truncate(end);
    expected.extend_from_slice(b"[TRUNCATED - log exceeded 0 MB limit]\n");
    assert_eq!(String::from_utf8_lossy(&text(&store).await), String::from_utf8_lossy(&expected));
    assert_eq!((sealed.omitted_lines, sealed.omitted_bytes), (omitted, bytes));
}

proptest! {
    #[test]
    fn whatever_is_written_head_and_end_are_those_of_the_model(
        lines in prop::collection::vec("[a-zä]{0,12}", 0..120),
        (head, tail) in (1_u64..300, 1_u64..300),
        cuts in prop::collection::vec(1_usize..50, 1..20),
    ) {
        let lines: Vec<String> = lines.into_iter().map(|line| line + "\n").collect();
        let input = lines.concat().into_bytes();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (log, sealed) = runtime.block_on(async {
            let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
            let writer = writer(&store, options(head, tail)).await;
            let step = step(&writer, "s").await;
            let mut rest = &input[..];
            for cut in cuts.iter().cycle() {
                let (chunk, more) = rest.split_at(rest.len().min(*cut));
                step.feed(OutputStream::Stdout, chunk).await.unwrap();
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            step.finish().await.unwrap();
            let sealed = writer.seal().await.unwrap();
            (text(&store).await, sealed)
        });
        let (expected, count, bytes) = model(&lines, head, tail);
        prop_assert_eq!(String::from_utf8_lossy(&log), String::from_utf8_lossy(&expected));
        prop_assert_eq!((sealed.omitted_lines, sealed.omitted_bytes), (count, bytes));
        prop_assert_eq!(sealed.truncated, count > 0);
    }
}
