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
