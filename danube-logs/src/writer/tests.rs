//! Streams in, lines out: whatever the chunks, at the limit, and when the store refuses.

use std::fmt;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use danube_core::{ManualClock, OutputStream, Passthrough, Timestamp};
use proptest::prelude::*;

use super::queue::NOTES_AFTER_TRUNCATION;
use super::*;
use crate::{LogPhase, LogStat, LogTail, MemoryLogs, parse_line};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millisecond(1_704_542_400_123).unwrap()))
}

fn id() -> JobId {
    "job".parse().unwrap()
}

async fn writer(store: &Arc<dyn LogStore>, options: LogOptions) -> LogWriter {
    LogWriter::create(store.clone(), id(), clock(), options).await.unwrap()
}

async fn step(writer: &LogWriter, name: &str) -> StepWriter {
    writer.step(name.parse().unwrap(), Box::new(Passthrough), Box::new(Passthrough)).await.unwrap()
}

async fn text(store: &Arc<dyn LogStore>) -> Vec<u8> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let more = store.read(&id(), ByteRange::new(at, u64::MAX)).await.unwrap();
        if more.is_empty() {
            return all;
        }
        at += more.len() as u64;
        all.extend_from_slice(&more);
    }
}

/// What a stream wrote, put together again from the log's lines.
fn rebuilt(log: &[u8], source: crate::LineSource) -> Vec<u8> {
    let mut out = Vec::new();
    for line in log.split_inclusive(|&b| b == b'\n') {
        let line = parse_line(line).expect("every line of a log is one");
        if line.source == source {
            if line.continued {
                assert_eq!(out.pop(), Some(b'\n'), "a continuation follows a line");
            }
            out.extend_from_slice(line.content);
            out.push(b'\n');
        }
    }
    out
}

async fn captured(chunks: &[Vec<u8>]) -> Vec<u8> {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    for chunk in chunks {
        step.write(OutputStream::Stdout, chunk).await.unwrap();
    }
    step.finish().await.unwrap();
    writer.seal().await.unwrap();
    text(&store).await
}

#[tokio::test]
async fn a_line_looks_as_documented() {
    let log = captured(&[b"hello\nwor".to_vec(), b"ld\nopen".to_vec()]).await;
    let expected = "[2024-01-06T12:00:00.123Z] [s] [stdout] hello\n\
                    [2024-01-06T12:00:00.123Z] [s] [stdout] world\n\
                    [2024-01-06T12:00:00.123Z] [s] [stdout] open\n";
    assert_eq!(String::from_utf8(log).unwrap(), expected);
}

#[tokio::test]
async fn a_long_line_is_cut_at_the_cap_and_nothing_of_it_is_lost() {
    for len in [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES] {
        let mut input = vec![b'x'; len];
        input.extend_from_slice(b"\nnext\n");
        for pieces in [1, 1000, input.len()] {
            let chunks: Vec<Vec<u8>> =
                input.chunks(input.len().div_ceil(pieces)).map(<[u8]>::to_vec).collect();
            let log = captured(&chunks).await;
            assert_eq!(rebuilt(&log, crate::LineSource::Stdout), input, "{len} in {pieces}");
            let longest = log.split(|&b| b == b'\n').map(<[u8]>::len).max().unwrap();
            assert!(longest < MAX_LINE_BYTES + 64);
            // A line of exactly the cap is one line.
            let lines = len.div_ceil(MAX_LINE_BYTES).max(1) + 1;
            assert_eq!(log.split_inclusive(|&b| b == b'\n').count(), lines, "{len} in {pieces}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_line_is_written_after_a_second_of_silence_and_then_continued() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    step.write(OutputStream::Stderr, b"Password: ").await.unwrap();
    tokio::time::advance(Duration::from_millis(900)).await;
    step.idle().await.unwrap();
    assert!(text(&store).await.is_empty(), "a second has not passed");
    tokio::time::advance(Duration::from_millis(200)).await;
    step.idle().await.unwrap();
    step.idle().await.unwrap();
    step.write(OutputStream::Stderr, b"ok\nnew\n").await.unwrap();
    let log = String::from_utf8(text(&store).await).unwrap();
    let lines: Vec<&str> = log.lines().map(|line| line.split_once("[s] ").unwrap().1).collect();
    assert_eq!(lines, ["[stderr] Password: ", "[stderr+] ok", "[stderr] new"]);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_dribbles_is_seen_within_about_a_second() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    for percent in 0..6 {
        step.write(OutputStream::Stdout, format!("{percent}% ").as_bytes()).await.unwrap();
        tokio::time::advance(Duration::from_millis(200)).await;
        step.idle().await.unwrap();
    }
    assert!(text(&store).await.ends_with(b"[stdout] 0% 1% 2% 3% 4% \n"), "never silent, yet seen");
}

#[tokio::test]
async fn a_write_whose_caller_went_away_does_not_stop_the_next() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    // What a dropped call leaves behind: stored, and unknown to the writer.
    store.append(&id(), 0, Bytes::from_static(b"[t] [s] [stdout] dropped\n")).await.unwrap();
    let step = step(&writer, "s").await;
    step.write(OutputStream::Stdout, b"next\n").await.unwrap();
    let log = text(&store).await;
    assert_eq!(rebuilt(&log, crate::LineSource::Stdout), b"dropped\nnext\n");
}

#[tokio::test]
async fn steps_that_write_at_once_never_mix_within_a_line_and_know_their_ranges() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let write = async |name: &str| {
        let step = step(&writer, name).await;
        for n in 0..200 {
            step.write(OutputStream::Stdout, format!("{name}{n}").as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            step.write(OutputStream::Stdout, b" end\n").await.unwrap();
        }
        step.finish().await.unwrap()
    };
    let (a, b) = tokio::join!(write("a"), write("b"));
    let log = text(&store).await;
    for (name, range) in [("a", a), ("b", b)] {
        let part = &log[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let lines = part.split_inclusive(|&b| b == b'\n').map(|line| parse_line(line).unwrap());
        let contents: Vec<_> =
            lines.filter(|line| line.step == name).map(|line| line.content.to_vec()).collect();
        let expected: Vec<_> = (0..200).map(|n| format!("{name}{n} end").into_bytes()).collect();
        assert_eq!(contents, expected);
    }
}

#[tokio::test]
async fn a_full_log_keeps_whole_lines_says_so_once_and_counts_the_rest() {
    let line = b"0123456789\n";
    let one = captured(&[line.to_vec()]).await.len() as u64;
    for spare in [0, 1, one - 1] {
        let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
        let limit = 1024 * 1024 / one * one + spare;
        let writer = writer(&store, LogOptions::default().with_max_log_bytes(limit)).await;
        let step = step(&writer, "s").await;
        let fit = limit / one;
        let total = fit + 5000;
        let input = line.repeat(usize::try_from(total).unwrap());
        for chunk in input.chunks(65_536) {
            step.write(OutputStream::Stdout, chunk).await.unwrap();
        }
        step.finish().await.unwrap();
        assert!(writer.is_truncated());
        let sealed = writer.seal().await.unwrap();
        let log = text(&store).await;
        let marker = format!(
            "[2024-01-06T12:00:00.123Z] [s] [danube] [TRUNCATED - log exceeded {} MB limit]\n",
            limit / (1024 * 1024)
        );
        assert_eq!(log.len() as u64, fit * one + marker.len() as u64, "spare {spare}");
        assert!(log.ends_with(marker.as_bytes()));
        assert_eq!((sealed.truncated, sealed.omitted_lines), (true, 5000));
        assert_eq!(sealed.omitted_bytes, 5000 * line.len() as u64);
        let stat = store.stat(&id()).await.unwrap();
        assert!(stat.state.truncated && stat.phase == LogPhase::Sealed);
    }
}

#[tokio::test]
async fn a_full_log_still_takes_a_bounded_number_of_our_own_notes() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default().with_max_log_bytes(10)).await;
    let step = step(&writer, "s").await;
    step.write(OutputStream::Stdout, b"too long for this log\n").await.unwrap();
    for _ in 0..1000 {
        writer.note("the job was cancelled").await.unwrap();
    }
    let log = text(&store).await;
    let notes =
        log.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"cancelled\n")).count();
    assert_eq!(notes, NOTES_AFTER_TRUNCATION as usize);
}

#[tokio::test]
async fn a_successor_goes_on_where_the_log_ends_and_keeps_its_state() {
    let first = MemoryLogs::new();
    let again: Arc<dyn LogStore> = Arc::new(first.other_owner());
    {
        let store: Arc<dyn LogStore> = Arc::new(first);
        let writer = writer(&store, LogOptions::default()).await;
        let step = step(&writer, "s").await;
        step.write(OutputStream::Stdout, b"before\n").await.unwrap();
        step.finish().await.unwrap();
    }
    let writer = writer(&again, LogOptions::default()).await;
    writer.note("the process that ran this job died").await.unwrap();
    let sealed = writer.seal().await.unwrap();
    assert_eq!(sealed.steps.len(), 1);
    let log = String::from_utf8(text(&again).await).unwrap();
    assert!(
        log.contains("[s] [stdout] before\n")
            && log.ends_with("[danube] [danube] the process that ran this job died\n")
    );
}

/// A store that refuses changes while it is told so, or from a number of them on.
#[derive(Debug)]
struct Failing {
    inner: MemoryLogs,
    refuses: StdMutex<bool>,
    changes_left: StdMutex<usize>,
    syncs: StdMutex<usize>,
    longest: AtomicUsize,
}

impl Failing {
    fn over(inner: MemoryLogs, changes: usize) -> Arc<Self> {
        let (refuses, changes_left) = (StdMutex::new(false), StdMutex::new(changes));
        Arc::new(Self {
            inner,
            refuses,
            changes_left,
            syncs: StdMutex::default(),
            longest: AtomicUsize::default(),
        })
    }

    fn refuse(&self, refuses: bool) {
        *self.refuses.lock().unwrap() = refuses;
    }

    fn change(&self, log: &JobId) -> Result<(), Error> {
        let mut left = self.changes_left.lock().unwrap();
        if *self.refuses.lock().unwrap() || *left == 0 {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(Error::Io { log: log.clone(), operation: "write", source });
        }
        *left -= 1;
        Ok(())
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait::async_trait]
impl LogStore for Failing {
    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        self.inner.open(log).await
    }
    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        assert!(memchr::memmem::find(&bytes, b"the store panics").is_none(), "as the test asks");
        self.change(log)?;
        self.longest.fetch_max(bytes.len(), Ordering::Relaxed);
        self.inner.append(log, at, bytes).await
    }
    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        self.change(log)?;
        self.inner.append_tail(log, lines, output, keep).await
    }
    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        self.inner.tail(log).await
    }
    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        self.inner.read(log, range).await
    }
    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        self.inner.stat(log).await
    }
    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        self.inner.changed(log, beyond).await
    }
    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.change(log)?;
        *self.syncs.lock().unwrap() += 1;
        self.inner.sync(log, state).await
    }
    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.change(log)?;
        self.inner.seal(log, state).await
    }
    fn release(&self, log: &JobId) {
        self.inner.release(log);
    }
    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        self.inner.delete(log).await
    }
    async fn landmark(&self, log: &JobId, sought: crate::Sought) -> Result<crate::Landmark, Error> {
        self.inner.landmark(log, sought).await
    }
    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        self.inner.list(after, limit).await
    }
}

#[tokio::test]
async fn a_refused_write_is_told_at_once_counted_and_the_log_says_what_is_missing() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    step.write(OutputStream::Stdout, b"one\n").await.unwrap();
    failing.refuse(true);
    for lines in [&b"two\nthree\n"[..], b"three and a half\n"] {
        let refused = step.write(OutputStream::Stdout, lines).await.unwrap_err();
        assert_eq!(refused.class(), danube_core::ErrorClass::Exhausted);
    }
    failing.refuse(false);
    step.write(OutputStream::Stdout, b"four\n").await.unwrap();
    failing.refuse(true);
    step.write(OutputStream::Stdout, b"five\n").await.unwrap_err();
    failing.refuse(false);
    step.finish().await.unwrap();
    let sealed = writer.seal().await.unwrap();
    assert_eq!((sealed.truncated, sealed.omitted_lines, sealed.omitted_bytes), (true, 4, 32));
    let log = String::from_utf8(text(&store).await).unwrap();
    let lines: Vec<&str> = log.lines().map(|line| line.split_once("Z] ").unwrap().1).collect();
    assert_eq!(
        lines,
        [
            "[s] [stdout] one",
            "[danube] [danube] [… 3 lines, 27 bytes are missing here: no storage space …]",
            "[s] [stdout] four",
            "[danube] [danube] [… 1 lines, 5 bytes are missing here: no storage space …]",
        ]
    );
}

#[tokio::test]
async fn who_does_not_wait_hears_of_a_refused_write_at_the_next_call_and_nobody_else_does() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let writer = writer(&store, LogOptions::default()).await;
    let (a, b) = (step(&writer, "a").await, step(&writer, "b").await);
    failing.refuse(true);
    a.feed(OutputStream::Stdout, b"lost\n").await.unwrap();
    // The batch is refused before anybody asks.
    writer.note("lost too").await.unwrap_err();
    failing.refuse(false);
    b.write(OutputStream::Stdout, b"kept\n").await.unwrap();
    a.feed(OutputStream::Stdout, b"kept too\n").await.unwrap_err();
    a.flush().await.unwrap();
    a.finish().await.unwrap();
    b.finish().await.unwrap();
    let sealed = writer.seal().await.unwrap();
    assert_eq!((sealed.omitted_lines, sealed.omitted_bytes), (1, 5));
    assert_eq!(rebuilt(&text(&store).await, crate::LineSource::Stdout), b"kept\nkept too\n");
}

#[tokio::test]
async fn a_batch_whose_fate_nobody_knows_is_told_to_those_whose_it_was() {
    let store: Arc<dyn LogStore> = Failing::over(MemoryLogs::new(), usize::MAX);
    let writer = writer(&store, LogOptions::default()).await;
    let (a, b) = (step(&writer, "a").await, step(&writer, "b").await);
    a.feed(OutputStream::Stdout, b"the store panics\n").await.unwrap();
    tokio::task::yield_now().await;
    b.write(OutputStream::Stdout, b"kept\n").await.unwrap();
    let told = a.feed(OutputStream::Stdout, b"kept too\n").await.unwrap_err();
    assert!(told.to_string().contains("the store panicked"), "{told}");
    a.flush().await.unwrap();
    let told = a.write(OutputStream::Stdout, b"the store panics\n").await.unwrap_err();
    assert!(told.to_string().contains("the store panicked"), "{told}");
    a.flush().await.expect("who waited was told once");
    writer.seal().await.unwrap();
    assert_eq!(rebuilt(&text(&store).await, crate::LineSource::Stdout), b"kept\nkept too\n");
}

#[tokio::test]
async fn what_a_dropped_call_took_is_written() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    {
        let write = std::pin::pin!(step.write(OutputStream::Stdout, b"one\n"));
        let polled = futures_util::future::select(write, std::future::ready(())).await;
        assert!(matches!(polled, futures_util::future::Either::Right(_)), "it waits for the store");
    }
    step.write(OutputStream::Stdout, b"two\n").await.unwrap();
    assert_eq!(rebuilt(&text(&store).await, crate::LineSource::Stdout), b"one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_waits_at_the_moment_the_queue_runs_dry_all_end() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    let wait = |stream| {
        let step = step.clone();
        tokio::spawn(async move {
            for _ in 0..2000 {
                step.feed(stream, b"line\n").await.unwrap();
                tokio::task::yield_now().await;
                step.flush().await.unwrap();
            }
        })
    };
    let waits = [wait(OutputStream::Stdout), wait(OutputStream::Stderr)];
    for waited in waits {
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("answered").unwrap();
    }
}

#[tokio::test]
async fn a_flood_of_empty_lines_takes_no_more_memory_than_other_output() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, &"n".repeat(100)).await;
    step.write(OutputStream::Stdout, &vec![b'\n'; 300_000]).await.unwrap();
    let longest = failing.longest.load(Ordering::Relaxed);
    assert!(longest < 2 * 1024 * 1024, "{longest} bytes at once");
    assert_eq!(rebuilt(&text(&store).await, crate::LineSource::Stdout).len(), 300_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_of_a_step_write_their_streams_at_once_and_end_together() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    let input: Vec<u8> = (0..50_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    let copy = |stream| {
        let (step, input) = (step.clone(), input.clone());
        tokio::spawn(async move {
            for chunk in input.chunks(1000) {
                step.feed(stream, chunk).await.unwrap();
            }
        })
    };
    let (out, err) = (copy(OutputStream::Stdout), copy(OutputStream::Stderr));
    out.await.unwrap();
    err.await.unwrap();
    let other = step.clone();
    let range = step.finish().await.unwrap();
    let late = other.write(OutputStream::Stdout, b"late\n").await.unwrap_err();
    assert_eq!(late.to_string(), "step s has finished: nothing can be written to it");
    let log = text(&store).await;
    assert_eq!(range, ByteRange::new(0, log.len() as u64));
    assert_eq!(rebuilt(&log, crate::LineSource::Stdout), input);
    assert_eq!(rebuilt(&log, crate::LineSource::Stderr), input);
    writer.seal().await.unwrap();
    let late = other.flush().await;
    assert!(late.is_ok(), "nothing of it is missing: {late:?}");
}

#[tokio::test]
async fn a_sealed_log_takes_nothing_from_steps_that_are_still_open() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let writer = writer(&store, LogOptions::default()).await;
    let step = step(&writer, "s").await;
    step.feed(OutputStream::Stdout, b"in time\n").await.unwrap();
    writer.seal().await.unwrap();
    let late = step.write(OutputStream::Stdout, b"late\n").await;
    assert!(matches!(late, Err(Error::Sealed { .. })), "{late:?}");
    assert!(matches!(step.note("late").await, Err(Error::Sealed { .. })));
    assert_eq!(rebuilt(&text(&store).await, crate::LineSource::Stdout), b"in time\n");
}

#[tokio::test]
async fn with_durability_write_each_acknowledgement_follows_a_sync() {
    for (durability, syncs) in
        [(Durability::Write, 11), (Durability::StepEnd, 1), (Durability::Seal, 0)]
    {
        let failing = Failing::over(MemoryLogs::new(), usize::MAX);
        let store: Arc<dyn LogStore> = failing.clone();
        let writer = writer(&store, LogOptions::default().with_durability(durability)).await;
        let step = step(&writer, "s").await;
        for _ in 0..10 {
            step.write(OutputStream::Stdout, b"line\n").await.unwrap();
        }
        step.finish().await.unwrap();
        assert_eq!(*failing.syncs.lock().unwrap(), syncs, "{durability:?}");
    }
}

#[tokio::test]
async fn each_format_is_written_as_documented_also_at_the_limit() {
    let table = [
        (
            LineFormat::Seconds,
            "[2024-01-06T12:00:00Z] [s] [stdout] one\n\
             [2024-01-06T12:00:00Z] [s] [danube] [TRUNCATED - log exceeded 0 MB limit]\n",
        ),
        (
            LineFormat::TimeOfDay,
            "[12:00:00.123] one\n[12:00:00.123] [TRUNCATED - log exceeded 0 MB limit]\n",
        ),
        (LineFormat::Raw, "one\n[TRUNCATED - log exceeded 0 MB limit]\n"),
    ];
    for (format, expected) in table {
        let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
        let first = expected.find('\n').unwrap() as u64 + 1;
        let options = LogOptions::default().with_format(format).with_max_log_bytes(first + 3);
        let writer = writer(&store, options).await;
        let step = step(&writer, "s").await;
        step.write(OutputStream::Stdout, b"one\ntwo\n").await.unwrap();
        step.finish().await.unwrap();
        let sealed = writer.seal().await.unwrap();
        assert_eq!(String::from_utf8(text(&store).await).unwrap(), expected);
        assert_eq!((sealed.omitted_lines, sealed.omitted_bytes), (1, 4));
        assert_eq!(store.stat(&id()).await.unwrap().state.format, format);
    }
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let tail = |tail_bytes| Keep::HeadAndTail { tail_bytes };
    for (options, reason) in [
        (LogOptions::default().with_max_log_bytes(0), "at least one byte"),
        (LogOptions::default().with_keep(tail(0)), "it is 0"),
        (LogOptions::default().with_keep(tail(MAX_TAIL_BYTES + 1)), "at most 16777216"),
        (LogOptions::default().with_max_log_bytes(9).with_keep(tail(9)), "less than the whole (9)"),
    ] {
        let store = Arc::new(MemoryLogs::new());
        let refused = LogWriter::create(store.clone(), id(), clock(), options).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
        assert!(store.stat(&id()).await.is_err(), "no log was begun");
    }
}

#[tokio::test]
async fn a_torn_line_is_closed_and_marked_and_the_steps_are_found_again() {
    let first = MemoryLogs::new();
    let again: Arc<dyn LogStore> = Arc::new(first.other_owner());
    {
        let store: Arc<dyn LogStore> = Arc::new(first);
        let writer = writer(&store, LogOptions::default()).await;
        let (a, b) = (step(&writer, "a").await, step(&writer, "b").await);
        a.write(OutputStream::Stdout, b"one\n").await.unwrap();
        b.write(OutputStream::Stdout, b"two\n").await.unwrap();
        let len = a.write(OutputStream::Stdout, b"three\n").await.unwrap();
        // What a killed process leaves of its last write.
        store
            .append(&id(), len, Bytes::from_static(b"[2024-01-06T12:00:00.123Z] [b] [std"))
            .await
            .unwrap();
    }
    let writer = writer(&again, LogOptions::default()).await;
    let sealed = writer.seal().await.unwrap();
    let log = String::from_utf8(text(&again).await).unwrap();
    assert!(
        log.ends_with(
            "[b] [std\n[2024-01-06T12:00:00.123Z] [danube] [danube] [the line above was cut off: whoever wrote this \
             log died]\n"
        ),
        "{log}"
    );
    let steps: Vec<_> = sealed.steps.iter().map(|s| (s.name.as_str(), s.range)).collect();
    let line = "[2024-01-06T12:00:00.123Z] [a] [stdout] one\n".len() as u64;
    assert_eq!(
        steps,
        [("a", ByteRange::new(0, 3 * line + 2)), ("b", ByteRange::new(line, 2 * line))]
    );
}

proptest! {
    #[test]
    fn whatever_the_chunks_the_stream_can_be_put_together_again(
        chunks in prop::collection::vec(prop::collection::vec(prop_oneof![3 => Just(b'\n'), 8 => any::<u8>()], 0..40), 0..30)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut input = chunks.concat();
        let cut = runtime.block_on(captured(&chunks));
        let whole = runtime.block_on(captured(std::slice::from_ref(&input)));
        let byte_by_byte: Vec<Vec<u8>> = input.iter().map(|&b| vec![b]).collect();
        prop_assert_eq!(&cut, &runtime.block_on(captured(&byte_by_byte)));
        prop_assert_eq!(&cut, &whole);
        if input.last().is_some_and(|&b| b != b'\n') {
            input.push(b'\n');
        }
        prop_assert_eq!(rebuilt(&cut, crate::LineSource::Stdout), input);
    }
}

mod refused;
mod tail;
