//! Two processes: one writes a log, the other follows it, is restarted, and has every byte all the same.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use danube_core::JobId;
use danube_logs::{FollowEvent, Follower, FsLogs, LogPhase, LogState, LogStore};

/// So often the follower begins anew where it stopped.
const RESUMES: usize = 10_000;

fn id() -> JobId {
    "job".parse().expect("a good id")
}

/// A sequence that looks random and is the same each time: xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Not a test: what the other process runs. It writes until its standard input ends.
#[tokio::test]
#[ignore = "run by a_follower_that_is_restarted_misses_and_repeats_nothing"]
#[expect(clippy::disallowed_methods, reason = "how a test tells its other process where to write")]
async fn the_writing_process() {
    let Some(dir) = std::env::var_os("DANUBE_TEST_LOGS") else { return };
    let store = FsLogs::new(Path::new(&dir));
    let mut at = store.open(&id()).await.unwrap().len;
    let told_to_end = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    let mut dice = Dice(0x5eed);
    while !told_to_end.is_finished() {
        let mut lines = Vec::new();
        for _ in 0..=dice.roll(3) {
            let len = if dice.roll(200) == 0 { dice.roll(70_000) } else { dice.roll(200) };
            lines.extend((0..len).map(|n| b' ' + (n % 90) as u8));
            lines.push(b'\n');
        }
        at = store.append(&id(), at, Bytes::from(lines)).await.unwrap();
        match dice.roll(20) {
            0 => tokio::time::sleep(Duration::from_micros(dice.roll(3000))).await,
            1..15 => tokio::time::sleep(Duration::from_micros(1)).await,
            _ => {}
        }
    }
    store.seal(&id(), &LogState::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_restarted_misses_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "the_writing_process"])
        .env("DANUBE_TEST_LOGS", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let waiting = async {
        while !dir.path().join("job.log").exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();

    let mut dice = Dice(0xca57);
    let mut told: Vec<u8> = Vec::new();
    let mut store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir.path()));
    let take = |event: FollowEvent, told: &mut Vec<u8>| match event {
        FollowEvent::Bytes { range, bytes } => {
            assert_eq!(range.start, told.len() as u64);
            told.extend_from_slice(&bytes);
            None
        }
        FollowEvent::Truncated => None,
        FollowEvent::End(phase) => Some(phase),
        other => panic!("{other:?}"),
    };
    for _ in 0..RESUMES {
        if dice.roll(10) == 0 {
            // As after a restart: nothing is remembered but the offset.
            store = Arc::new(FsLogs::new(dir.path()));
        }
        let mut follower = Follower::new(store.clone(), id(), told.len() as u64);
        for _ in 0..dice.roll(4) {
            let patience = Duration::from_micros(dice.roll(2000));
            // Broken off anywhere, also between the growth and the bytes.
            let Ok(event) = tokio::time::timeout(patience, follower.next()).await else { break };
            assert_eq!(take(event.unwrap(), &mut told), None, "the writer lives");
        }
        if dice.roll(50) == 0 {
            tokio::time::sleep(Duration::from_micros(dice.roll(5000))).await;
        }
    }
    drop(writer.stdin.take());
    let mut follower = Follower::new(store, id(), told.len() as u64);
    let end = async {
        loop {
            if let Some(phase) = take(follower.next().await.unwrap(), &mut told) {
                return phase;
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), end).await.unwrap(), LogPhase::Sealed);
    assert!(writer.wait().unwrap().success());
    let file = std::fs::read(dir.path().join("job.log")).unwrap();
    assert!(file.len() > 100_000, "{} bytes", file.len());
    assert!(told == file, "{} of {} bytes", told.len(), file.len());
}
