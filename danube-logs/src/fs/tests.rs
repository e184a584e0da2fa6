//! What is particular to files: names, links, locks, and what a crash leaves.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use danube_core::Timestamp;

use super::*;
use crate::{LogStoreExt, LogSweep};

fn id() -> JobId {
    "job".parse().unwrap()
}

async fn sealed(store: &FsLogs, bytes: &'static [u8]) {
    store.open(&id()).await.unwrap();
    store.append(&id(), 0, Bytes::from_static(bytes)).await.unwrap();
    let state = LogState { sealed_at: Some(Timestamp::UNIX_EPOCH), ..LogState::default() };
    store.seal(&id(), &state).await.unwrap();
    store.release(&id());
}

#[tokio::test]
async fn files_lie_where_they_are_documented_and_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    sealed(&FsLogs::new(&logs), b"text\n").await;
    assert_eq!(fs::read(logs.join("job.log")).unwrap(), b"text\n");
    for (path, mode) in
        [(logs.clone(), 0o700), (logs.join("job.log"), 0o600), (logs.join("job.idx"), 0o600)]
    {
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            mode,
            "{}",
            path.display()
        );
    }
    let sidecar = fs::read(logs.join("job.idx")).unwrap();
    let state = sidecar.split(|&b| b == b'\n').next().unwrap();
    let state: serde_json::Value = serde_json::from_slice(state).unwrap();
    assert_eq!((&state["version"], &state["sealed"]), (&2.into(), &true.into()));
    let mut names: Vec<_> = fs::read_dir(&logs).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["job.idx", "job.log"], "nothing temporary is left");
}

#[tokio::test]
async fn room_is_set_aside_while_a_log_is_written_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = dir.path().join(".reserve-job");
    let store = FsLogs::new(dir.path());
    store.open(&id()).await.unwrap();
    assert!(fs::metadata(&reserve).unwrap().blocks() * 512 >= 256 * 1024);
    store.seal(&id(), &LogState::default()).await.unwrap();
    assert!(!reserve.exists());
    // What a killed owner left goes when somebody takes the log over and lets go, or with the log.
    let other: JobId = "other".parse().unwrap();
    store.open(&other).await.unwrap();
    store.release(&other);
    assert!(!dir.path().join(".reserve-other").exists());
    fs::write(dir.path().join(".reserve-other"), "left").unwrap();
    store.delete(&other).await.unwrap();
    assert!(!dir.path().join(".reserve-other").exists());
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsLogs::new(dir.path());
    let target = dir.path().join("target");
    fs::write(&target, "precious\n").unwrap();
    let path = dir.path().join("job.log");
    for what in ["a symbolic link", "a directory", "a FIFO"] {
        match what {
            "a symbolic link" => symlink(&target, &path).unwrap(),
            "a directory" => fs::create_dir(&path).unwrap(),
            _ => {
                let (kind, mode) =
                    (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
            }
        }
        for result in [
            store.open(&id()).await.map(drop),
            store.read(&id(), ByteRange::new(0, 10)).await.map(drop),
            store.delete(&id()).await.map(drop),
        ] {
            assert!(matches!(result, Err(Error::Io { .. })), "{what}: {result:?}");
        }
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&path);
    }
    assert_eq!(fs::read(&target).unwrap(), b"precious\n");
}

#[tokio::test]
async fn a_lost_or_broken_state_means_not_sealed_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsLogs::new(dir.path());
    sealed(&store, b"text\n").await;
    let idx = dir.path().join("job.idx");
    fs::write(&idx, r#"{"version":3,"sealed":true,"something":"else"}"#).unwrap();
    // What cannot be understood at all counts as lost; a version that is newer is respected.
    fs::write(&idx, r#"{"version":3,"sealed":true,"truncated":false,"omitted_lines":0,"omitted_bytes":0,"steps":[],"sealed_at":null}"#).unwrap();
    assert!(matches!(store.stat(&id()).await, Err(Error::Io { .. })));
    assert!(matches!(store.open(&id()).await, Err(Error::Io { .. })));
    for broken in ["", "{", "null"] {
        fs::write(&idx, broken).unwrap();
        assert_eq!(store.stat(&id()).await.unwrap().phase, LogPhase::Abandoned);
    }
    fs::remove_file(&idx).unwrap();
    assert_eq!(store.open(&id()).await.unwrap().len, 5);
    assert_eq!(fs::read(dir.path().join("job.log")).unwrap(), b"text\n");
}

#[tokio::test]
async fn a_state_of_an_earlier_log_is_not_taken_for_the_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsLogs::new(dir.path());
    sealed(&store, b"text\n").await;
    // A crash between the two removals of a deletion.
    fs::remove_file(dir.path().join("job.log")).unwrap();
    assert_eq!(store.open(&id()).await.unwrap().phase, LogPhase::Open);
    drop(store);
    assert_eq!(FsLogs::new(dir.path()).stat(&id()).await.unwrap().phase, LogPhase::Abandoned);
}

#[tokio::test]
async fn an_owner_in_another_process_is_respected_and_its_death_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.log");
    fs::write(&path, "[t] [s] [stdout] theirs\n").unwrap();
    let mut owner = Command::new("flock")
        .arg(&path)
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let store = FsLogs::new(dir.path());
    let wait = async {
        while store.stat(&id()).await.unwrap().phase != LogPhase::Open {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    assert!(matches!(store.open(&id()).await, Err(Error::Owned { .. })));
    let follower = tokio::spawn({
        let store = store.clone();
        async move { store.changed(&id(), 1000).await }
    });
    // flock holds the lock in its child too.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", owner.id())).unwrap();
    let sleep: i32 = children.trim().parse().unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(sleep).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let stat =
        tokio::time::timeout(Duration::from_secs(20), follower).await.unwrap().unwrap().unwrap();
    assert_eq!(stat.phase, LogPhase::Abandoned);
    assert_eq!(store.open(&id()).await.unwrap().len, 24);
}

#[tokio::test]
async fn sealed_logs_are_candidates_and_what_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsLogs::new(dir.path());
    sealed(&store, b"text\n").await;
    let open: JobId = "open".parse().unwrap();
    store.open(&open).await.unwrap();
    let sweep = LogSweep::new(Arc::new(store.clone()));
    let candidates = danube_core::Sweep::candidates(&sweep).await.unwrap();
    assert_eq!(candidates[0].finished_at, Some(Timestamp::UNIX_EPOCH));
    assert_eq!(candidates[1].finished_at, None, "an open log is at no rest");
    let refused = danube_core::Sweep::reap(&sweep, &candidates[1]).await;
    assert!(matches!(refused, Err(danube_core::SweepError::Changed { .. })), "{refused:?}");
    let mut changed = candidates[0].clone();
    changed.version.push('x');
    assert!(danube_core::Sweep::reap(&sweep, &changed).await.is_err());
    assert!(danube_core::Sweep::reap(&sweep, &candidates[0]).await.unwrap().bytes_freed > 5);
    assert_eq!(danube_core::Sweep::reap(&sweep, &candidates[0]).await.unwrap().bytes_freed, 0);
    assert_eq!(store.tail_offset(&open, 3).await.unwrap(), 0);
}
