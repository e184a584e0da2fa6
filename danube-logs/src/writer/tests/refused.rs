//! What the store refuses at the worst of moments, and runtimes that go away.

use std::sync::mpsc;

use super::*;

fn raw(max_log_bytes: u64) -> LogOptions {
    LogOptions::default().with_max_log_bytes(max_log_bytes).with_format(LineFormat::Raw)
}

async fn lines(store: &Arc<dyn LogStore>) -> Vec<String> {
    let log = String::from_utf8(text(store).await).unwrap();
    log.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_marker_that_was_refused_is_said_later_and_counted_nowhere() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let writer = writer(&store, raw(8)).await;
    let step = step(&writer, "s").await;
    step.write(OutputStream::Stdout, b"one\n").await.unwrap();
    failing.refuse(true);
    step.write(OutputStream::Stdout, b"two\nthree\n").await.unwrap_err();
    writer.note("refused too").await.unwrap_err();
    failing.refuse(false);
    step.write(OutputStream::Stdout, b"four\n").await.unwrap();
    step.finish().await.unwrap();
    writer.note("over").await.unwrap();
    let sealed = writer.seal().await.unwrap();
    let expected = [
        "one",
        "[… 1 lines, 4 bytes are missing here: no storage space …]",
        "[TRUNCATED - log exceeded 0 MB limit]",
        "over",
    ];
    assert_eq!(lines(&store).await, expected);
    assert_eq!((sealed.truncated, sealed.omitted_lines, sealed.omitted_bytes), (true, 3, 15));
    assert!(store.stat(&id()).await.unwrap().state.truncated);
}

#[tokio::test]
async fn a_marker_that_was_refused_is_said_at_the_seal_at_the_latest() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let writer = writer(&store, raw(4)).await;
    let step = step(&writer, "s").await;
    step.write(OutputStream::Stdout, b"one\n").await.unwrap();
    failing.refuse(true);
    step.write(OutputStream::Stdout, b"two\n").await.unwrap_err();
    failing.refuse(false);
    let sealed = writer.seal().await.unwrap();
    assert_eq!(lines(&store).await, ["one", "[TRUNCATED - log exceeded 0 MB limit]"]);
    assert_eq!((sealed.omitted_lines, sealed.omitted_bytes), (1, 4));
    let late = step.write(OutputStream::Stdout, b"late\n").await;
    assert!(matches!(late, Err(Error::Sealed { .. })), "{late:?}");
}

#[tokio::test]
async fn a_log_whose_owner_died_behind_its_marker_is_truncated_and_stays_so() {
    for format in [LineFormat::Milliseconds, LineFormat::TimeOfDay, LineFormat::Raw] {
        let log = MemoryLogs::new();
        let failing = Failing::over(log.clone(), usize::MAX);
        let options = raw(60).with_format(format);
        {
            let store: Arc<dyn LogStore> = failing.clone();
            let writer = writer(&store, options.clone()).await;
            let step = step(&writer, "s").await;
            step.write(OutputStream::Stdout, b"one\n").await.unwrap();
            // The marker, and no word of it in the state.
            *failing.changes_left.lock().unwrap() = 1;
            step.write(OutputStream::Stdout, &[b'x'; 61]).await.unwrap();
            step.write(OutputStream::Stdout, b"\n").await.unwrap_err();
        }
        let store: Arc<dyn LogStore> = Arc::new(log.other_owner());
        let writer = writer(&store, options.with_max_log_bytes(10_000)).await;
        assert!(writer.is_truncated());
        let step = step(&writer, "s").await;
        step.write(OutputStream::Stdout, b"dropped\n").await.unwrap();
        step.finish().await.unwrap();
        let sealed = writer.seal().await.unwrap();
        assert_eq!((sealed.truncated, sealed.omitted_lines), (true, 1), "{format:?}");
        let lines = lines(&store).await;
        assert!(lines.len() == 2 && lines[1].ends_with("[TRUNCATED - log exceeded 0 MB limit]"));
    }
}

#[tokio::test]
async fn an_end_that_is_stored_but_not_durable_is_not_counted_as_missing() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let options = raw(104)
        .with_keep(Keep::HeadAndTail { tail_bytes: 100 })
        .with_durability(Durability::Write);
    let writer = writer(&store, options).await;
    let step = step(&writer, "s").await;
    step.write(OutputStream::Stdout, b"one\ntwo\n").await.unwrap();
    *failing.changes_left.lock().unwrap() = 1;
    step.write(OutputStream::Stdout, b"three\n").await.unwrap_err();
    *failing.changes_left.lock().unwrap() = usize::MAX;
    step.finish().await.unwrap();
    let sealed = writer.seal().await.unwrap();
    assert_eq!(lines(&store).await, ["one", "two", "three"]);
    assert_eq!((sealed.truncated, sealed.omitted_lines), (false, 0));
}

#[tokio::test]
async fn a_step_that_hears_of_an_earlier_failure_at_its_end_still_writes_what_is_open() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let writer = writer(&store, raw(1000)).await;
    let step = step(&writer, "s").await;
    step.feed(OutputStream::Stdout, b"out").await.unwrap();
    step.feed(OutputStream::Stderr, b"lost\nerr").await.unwrap();
    failing.refuse(true);
    writer.note("lost too").await.unwrap_err();
    failing.refuse(false);
    step.finish().await.unwrap_err();
    writer.seal().await.unwrap();
    let expected = ["[… 1 lines, 5 bytes are missing here: no storage space …]", "out", "err"];
    assert_eq!(lines(&store).await, expected);
}

#[tokio::test]
async fn a_step_that_lost_nothing_is_told_nothing_of_what_another_lost() {
    let failing = Failing::over(MemoryLogs::new(), usize::MAX);
    let store: Arc<dyn LogStore> = failing.clone();
    let writer = writer(&store, raw(1000)).await;
    let (a, b) = (step(&writer, "a").await, step(&writer, "b").await);
    failing.refuse(true);
    a.feed(OutputStream::Stdout, b"lost\n").await.unwrap();
    b.flush().await.unwrap();
    a.flush().await.unwrap_err();
}

#[test]
fn what_was_taken_in_a_runtime_that_is_gone_is_carried_by_the_next() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let first = runtime();
    let (writer, step) = first.block_on(async {
        let writer = writer(&store, raw(1000)).await;
        let step = step(&writer, "s").await;
        step.feed(OutputStream::Stdout, b"one\n").await.unwrap();
        (writer, step)
    });
    drop(first);
    runtime().block_on(async {
        let flushed = tokio::time::timeout(Duration::from_secs(20), step.flush()).await;
        assert_eq!(flushed.expect("answered").unwrap(), 4);
        writer.seal().await.unwrap();
        assert_eq!(text(&store).await, b"one\n");
    });
}

#[test]
fn a_runtime_that_shuts_down_while_something_is_written_ends() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let step = runtime.block_on(async {
        let writer = writer(&store, raw(1000)).await;
        step(&writer, "s").await
    });
    let (running, is_running) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    runtime.spawn(async move {
        running.send(()).unwrap();
        may_go.recv().unwrap();
        let fed = step.feed(OutputStream::Stdout, b"one\n").await.is_ok();
        done.send(fed).unwrap();
    });
    is_running.recv().unwrap();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    while !handle.spawn(std::future::pending::<()>()).is_finished() {
        std::thread::yield_now();
    }
    go.send(()).unwrap();
    assert_eq!(is_done.recv_timeout(Duration::from_secs(20)), Ok(true));
}

#[derive(Debug, Clone)]
enum Op {
    /// So many bytes of the command's output, and whether its caller waits.
    Output(usize, bool),
    /// The store takes so many changes more, and refuses what follows.
    Refuse(usize),
    Allow,
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1_usize..60, any::<bool>()).prop_map(|(len, waits)| Op::Output(len, waits)),
        1 => (0_usize..4).prop_map(Op::Refuse),
        1 => Just(Op::Allow),
        1 => Just(Op::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn whenever_the_store_refuses_every_byte_is_in_the_log_or_counted(
        ops in prop::collection::vec(op(), 1..80),
        limit in 100_u64..3000,
        tail in prop_oneof![Just(None), (1_u64..99).prop_map(Some)],
        durability in prop_oneof![Just(Durability::StepEnd), Just(Durability::Write)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let lines: Vec<u8> = (0..2000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let (store, stored, sealed, fed) = runtime.block_on(async {
            let failing = Failing::over(MemoryLogs::new(), usize::MAX);
            let allow = |changes| *failing.changes_left.lock().unwrap() = changes;
            let store: Arc<dyn LogStore> = failing.clone();
            let mut options = LogOptions::default().with_durability(durability);
            options = options.with_max_log_bytes(limit);
            if let Some(tail_bytes) = tail {
                options = options.with_keep(Keep::HeadAndTail { tail_bytes });
            }
            let writer = writer(&store, options).await;
            let step = step(&writer, "s").await;
            let mut fed = 0;
            for op in &ops {
                // Whoever is told of an error goes on.
                match op {
                    Op::Output(len, waits) => {
                        let bytes = &lines[fed..fed + len];
                        fed += len;
                        let _ = match waits {
                            true => step.write(OutputStream::Stdout, bytes).await,
                            false => step.feed(OutputStream::Stdout, bytes).await,
                        };
                    }
                    Op::Refuse(changes) => allow(*changes),
                    Op::Allow => allow(usize::MAX),
                    Op::Flush => drop(step.flush().await),
                }
            }
            let end = fed + memchr::memchr(b'\n', &lines[fed..]).unwrap() + 1;
            let _ = step.feed(OutputStream::Stdout, &lines[fed..end]).await;
            let _ = step.flush().await;
            allow(usize::MAX);
            let _ = step.finish().await;
            let stored = text(&store).await;
            let sealed = writer.seal().await.unwrap();
            (store, stored, sealed, end)
        });
        let log = runtime.block_on(text(&store));
        prop_assert!(log.starts_with(&stored), "what was stored stays");
        let kept = rebuilt(&log, crate::LineSource::Stdout);
        prop_assert_eq!(kept.len() as u64 + sealed.omitted_bytes, fed as u64);
        let numbers: Vec<usize> = String::from_utf8(kept).unwrap().lines()
            .map(|line| line.strip_prefix("line ").unwrap().parse().unwrap())
            .collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{:?}", numbers);
        let log = String::from_utf8(log).unwrap();
        let is_full = sealed.omitted_bytes > 0 && tail.is_none() && !log.contains("missing here");
        let markers = log.matches("[TRUNCATED - log exceeded").count();
        prop_assert!(markers <= 1 && (markers == 1 || !is_full), "{}", log);
    }
}
