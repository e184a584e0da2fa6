//! What is particular to files: names, links, locks, and what a crash leaves.

use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use danube_core::Timestamp;

use super::*;
use crate::{LineIndex, LogStoreExt, LogSweep};

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
    // What cannot be understood at all counts as lost; a version that is newer is respected, whatever it says.
    for newer in [
        r#"{"version":3,"sealed":true,"something":"else"}"#,
        r#"{"version":3,"sealed":true,"truncated":false,"omitted_lines":0,"omitted_bytes":0,"steps":[],"sealed_at":null}"#,
    ] {
        fs::write(&idx, newer).unwrap();
        assert!(matches!(store.stat(&id()).await, Err(Error::Io { .. })), "{newer}");
        assert!(matches!(store.open(&id()).await, Err(Error::Io { .. })), "{newer}");
    }
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

#[tokio::test]
async fn who_is_late_creating_a_log_leaves_the_winners_state_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, late) = (FsLogs::new(dir.path()), FsLogs::new(dir.path()));
    sealed_long(&store).await;
    // Here stands who found no log a moment ago.
    assert!(late.0.create(&id()).unwrap().is_none());
    assert_eq!(store.stat(&id()).await.unwrap().phase, LogPhase::Sealed);
    assert!(store.compress(&id()).await.unwrap() > 0);
    assert!(matches!(late.0.create(&id()), Err(Error::Sealed { .. })));
    assert!(dir.path().join("job.idx").exists());
    // One at a time, in all processes: who comes second waits until the first is done.
    let names = store.0.dir.names_lock().unwrap();
    let second = std::thread::spawn(move || late.0.create(&"other".parse().unwrap()));
    while !fs::read_dir(dir.path())
        .unwrap()
        .any(|file| file.unwrap().file_name().to_str().unwrap().starts_with(".tmp-"))
    {
        std::thread::yield_now();
    }
    assert!(!dir.path().join("other.log").exists());
    drop(names);
    assert!(second.join().unwrap().unwrap().is_some());
}

#[tokio::test]
async fn a_state_that_is_too_long_is_an_error_and_not_an_unsealed_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsLogs::new(dir.path());
    sealed(&store, b"text\n").await;
    let mut state = br#"{"version":2,"sealed":true,"#.to_vec();
    state.resize(17 * 1024 * 1024, b' ');
    fs::write(dir.path().join("job.idx"), state).unwrap();
    assert!(matches!(store.stat(&id()).await, Err(Error::Io { .. })));
    assert!(matches!(store.open(&id()).await, Err(Error::Io { .. })));
}

/// 3,000 lines of 100 bytes.
fn long_text() -> Vec<u8> {
    (0..3000).flat_map(|n| format!("{n:99}\n").into_bytes()).collect()
}

async fn sealed_long(store: &FsLogs) {
    store.open(&id()).await.unwrap();
    store.append(&id(), 0, long_text().into()).await.unwrap();
    store.seal(&id(), &LogState::default()).await.unwrap();
    store.release(&id());
}

async fn finds_lines(dir: &Path) {
    for line in [0, 1, 700, 2999] {
        let found = FsLogs::new(dir).line_offset(&id(), line).await.unwrap();
        assert_eq!(found, Some(line * 100), "line {line}");
    }
    assert_eq!(FsLogs::new(dir).line_offset(&id(), 3000).await.unwrap(), None);
}

#[tokio::test]
async fn an_index_that_is_lost_damaged_or_anothers_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (log, idx) = (dir.path().join("job.log"), dir.path().join("job.idx"));
    sealed_long(&FsLogs::new(dir.path())).await;
    finds_lines(dir.path()).await;
    let whole = fs::read(&idx).unwrap();
    let state = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
    for cut in [state, state + 1, state + 60, whole.len() - 1] {
        fs::write(&idx, &whole[..cut]).unwrap();
        finds_lines(dir.path()).await;
    }
    for at in (state..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&idx, damaged).unwrap();
        finds_lines(dir.path()).await;
    }
    // A version before had the state alone.
    let old = String::from_utf8(whole[..state - 1].to_vec()).unwrap();
    fs::write(&idx, old.replace("\"version\":2", "\"version\":1")).unwrap();
    assert_eq!(FsLogs::new(dir.path()).stat(&id()).await.unwrap().phase, LogPhase::Sealed);
    finds_lines(dir.path()).await;
    // The index is whole, but of a log with other lines, and of a longer one.
    let longer: Vec<u8> = (0..9000).flat_map(|n| format!("{n:49}\n").into_bytes()).collect();
    let mut of_another = LineIndex::new();
    of_another.push(&longer);
    let mut foreign = whole[..state].to_vec();
    foreign.extend_from_slice(&of_another.encode());
    fs::write(&idx, &foreign).unwrap();
    finds_lines(dir.path()).await;
    fs::write(&idx, &whole).unwrap();
    let moved = [&b"one more, and short\n"[..], &long_text()].concat();
    fs::write(&log, moved).unwrap();
    let found = FsLogs::new(dir.path()).line_offset(&id(), 1500).await.unwrap();
    assert_eq!(found, Some(20 + 1499 * 100));
}

#[tokio::test]
async fn a_recovered_log_has_its_lines_indexed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("job.log"), long_text()).unwrap();
    finds_lines(dir.path()).await;
    let store = FsLogs::new(dir.path());
    assert_eq!(store.open(&id()).await.unwrap().len, 300_000);
    assert_eq!(store.line_offset(&id(), 2998).await.unwrap(), Some(299_800));
    store.append(&id(), 300_000, Bytes::from_static(b"more\n")).await.unwrap();
    assert_eq!(store.line_offset(&id(), 3000).await.unwrap(), Some(300_000));
    store.sync(&id(), &LogState::default()).await.unwrap();
    assert_eq!(FsLogs::new(dir.path()).line_offset(&id(), 3000).await.unwrap(), Some(300_000));
}

#[tokio::test]
async fn a_compressed_log_is_smaller_the_same_and_for_any_zstd() {
    let dir = tempfile::tempdir().unwrap();
    let (text, frames) = (dir.path().join("job.log"), dir.path().join("job.log.zst"));
    let store = FsLogs::new(dir.path());
    sealed_long(&store).await;
    let before = store.stat(&id()).await.unwrap();
    // Whoever reads at this moment reads on.
    let reading = store.0.dir.stored(&id()).unwrap();
    let freed = store.compress(&id()).await.unwrap();
    let size = fs::metadata(&frames).unwrap().len();
    assert!(!text.exists() && freed == 300_000 - size && size < 100_000, "{size}");
    assert_eq!(store.stat(&id()).await.unwrap(), before);
    assert_eq!(reading.read(ByteRange::new(299_900, 300_100)).unwrap(), long_text()[299_900..]);
    finds_lines(dir.path()).await;
    for range in [(0, 300_000), (131_071, 131_073), (262_143, 300_001), (299_999, 300_000)] {
        let range = ByteRange::new(range.0, range.1);
        let (from, to) = (range.start as usize, range.end.min(300_000) as usize);
        assert_eq!(store.read(&id(), range).await.unwrap(), long_text()[from..to], "{range}");
    }
    assert!(store.read(&id(), ByteRange::new(300_000, u64::MAX)).await.unwrap().is_empty());
    assert_eq!(store.compress(&id()).await.unwrap(), 0, "already");
    assert!(matches!(store.open(&id()).await, Err(Error::Sealed { .. })));
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    if let Ok(plain) = Command::new("zstd").arg("-dc").arg(&frames).output() {
        assert!(plain.status.success() && plain.stdout == long_text());
    }
    assert!(store.delete(&id()).await.unwrap() > size);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn only_a_sealed_log_that_nobody_owns_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (FsLogs::new(dir.path()), FsLogs::new(dir.path()));
    assert!(matches!(store.compress(&id()).await, Err(Error::NotFound { .. })));
    store.open(&id()).await.unwrap();
    store.append(&id(), 0, long_text().into()).await.unwrap();
    for store in [&store, &other] {
        assert!(matches!(store.compress(&id()).await, Err(Error::Owned { .. })));
    }
    store.release(&id());
    assert!(matches!(store.compress(&id()).await, Err(Error::Invalid { .. })));
    store.open(&id()).await.unwrap();
    store.seal(&id(), &LogState::default()).await.unwrap();
    assert!(matches!(other.compress(&id()).await, Err(Error::Owned { .. })));
    store.release(&id());
    assert!(other.compress(&id()).await.unwrap() > 0);
}

#[tokio::test]
async fn a_log_compressed_at_its_seal_stays_its_owners_until_released() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (FsLogs::compressed(dir.path()), FsLogs::new(dir.path()));
    store.open(&id()).await.unwrap();
    store.append(&id(), 0, long_text().into()).await.unwrap();
    store.seal(&id(), &LogState::default()).await.unwrap();
    assert!(!dir.path().join("job.log").exists());
    let stat = other.stat(&id()).await.unwrap();
    assert_eq!((stat.len, stat.phase, stat.owned), (300_000, LogPhase::Sealed, true));
    assert!(matches!(other.delete(&id()).await, Err(Error::Owned { .. })));
    for store in [&store, &other] {
        let read = store.read(&id(), ByteRange::new(150_000, 150_100)).await.unwrap();
        assert_eq!(read, long_text()[150_000..150_100]);
    }
    store.release(&id());
    assert!(!other.stat(&id()).await.unwrap().owned);
    assert!(other.delete(&id()).await.unwrap() > 0);
}

#[tokio::test]
async fn a_compression_that_was_cut_short_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (text, frames) = (dir.path().join("job.log"), dir.path().join("job.log.zst"));
    let store = FsLogs::new(dir.path());
    sealed_long(&store).await;
    // Died while the frames were written: they have no name yet, and go with the log.
    let unfinished = dir.path().join(".compress-job");
    fs::write(&unfinished, "half").unwrap();
    // Died between the two names: the text is meant, and both go with it.
    fs::write(&frames, "not even frames").unwrap();
    assert_eq!(store.stat(&id()).await.unwrap().len, 300_000);
    assert_eq!(store.list(None, 10).await.unwrap().len(), 1);
    finds_lines(dir.path()).await;
    assert!(store.compress(&id()).await.unwrap() > 0, "done again");
    assert!(!unfinished.exists());
    finds_lines(dir.path()).await;
    fs::write(&text, long_text()).unwrap();
    fs::write(&unfinished, "half").unwrap();
    assert!(store.delete(&id()).await.unwrap() > 300_000);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_log_that_cannot_be_compressed_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    fs::write(&text, long_text()).unwrap();
    let full = fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let error = frames::write(&File::open(text).unwrap(), 300_000, &full).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");

    let store = FsLogs::compressed(dir.path());
    fs::create_dir(dir.path().join(".compress-job")).unwrap();
    sealed_long(&store).await;
    assert!(matches!(store.compress(&id()).await, Err(Error::Io { .. })));
    assert_eq!(fs::read(dir.path().join("job.log")).unwrap(), long_text());
    finds_lines(dir.path()).await;
    fs::remove_dir(dir.path().join(".compress-job")).unwrap();
    assert!(store.compress(&id()).await.unwrap() > 0);
}

#[tokio::test]
async fn frames_are_sealed_without_their_state_and_refused_where_they_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let frames = dir.path().join("job.log.zst");
    let store = FsLogs::compressed(dir.path());
    sealed_long(&store).await;
    fs::remove_file(dir.path().join("job.idx")).unwrap();
    assert_eq!(store.stat(&id()).await.unwrap().phase, LogPhase::Sealed);
    assert!(matches!(store.open(&id()).await, Err(Error::Sealed { .. })));
    finds_lines(dir.path()).await;
    let whole = fs::read(&frames).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 300) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(&frames, damaged).unwrap();
        // A checksum each frame: what is told is right, or an error.
        let mut told = 0;
        while let Ok(bytes) = store.read(&id(), ByteRange::with_len(told, 131_072)).await
            && !bytes.is_empty()
        {
            let from = told as usize;
            assert_eq!(bytes, long_text()[from..from + bytes.len()], "byte {at}");
            told += bytes.len() as u64;
        }
    }
    for cut in (0..whole.len()).step_by(whole.len() / 100) {
        fs::write(&frames, &whole[..cut]).unwrap();
        assert!(store.stat(&id()).await.is_err(), "{cut} bytes");
        assert!(store.read(&id(), ByteRange::new(0, 1)).await.is_err(), "{cut} bytes");
    }
}

#[tokio::test]
async fn the_text_of_a_compressed_file_is_the_log_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let frames = dir.path().join("job.log.zst");
    sealed_long(&FsLogs::compressed(dir.path())).await;
    let text = || {
        let mut text = Vec::new();
        LogText::of_compressed(File::open(&frames)?)?.read_to_end(&mut text).map(|_| text)
    };
    assert_eq!(text().unwrap(), long_text());
    let mut byte_by_byte = LogText::of_compressed(File::open(&frames).unwrap()).unwrap();
    assert_eq!(byte_by_byte.read(&mut []).unwrap(), 0);
    for wanted in long_text() {
        let mut byte = [0];
        assert_eq!((byte_by_byte.read(&mut byte).unwrap(), byte[0]), (1, wanted));
    }
    assert_eq!(byte_by_byte.read(&mut [0; 9]).unwrap(), 0);

    let whole = fs::read(&frames).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(whole.len() / 500) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&frames, damaged).unwrap();
        match text() {
            Ok(text) => assert!(text == long_text(), "byte {at}"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 450, "{refused}");
    for cut in (0..whole.len()).step_by(whole.len() / 50) {
        fs::write(&frames, &whole[..cut]).unwrap();
        assert_eq!(text().unwrap_err().kind(), io::ErrorKind::InvalidData, "{cut} bytes");
    }
    // Text is no compressed log, nor is what another program compressed.
    for other in [long_text(), b"\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00".to_vec()] {
        fs::write(&frames, other).unwrap();
        assert_eq!(text().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn without_notifications_others_are_followed_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsLogs::new(dir.path());
    let other = FsLogs::build(dir.path().to_owned(), false, false);
    store.open(&id()).await.unwrap();
    for n in 0..20 {
        let grown = tokio::spawn({
            let other = other.clone();
            async move { other.changed(&id(), n * 5).await }
        });
        store.append(&id(), n * 5, Bytes::from_static(b"line\n")).await.unwrap();
        let stat = tokio::time::timeout(Duration::from_secs(20), grown).await.unwrap().unwrap();
        assert_eq!(stat.unwrap().len, n * 5 + 5);
    }
    store.seal(&id(), &LogState::default()).await.unwrap();
    assert_eq!(other.changed(&id(), 100).await.unwrap().phase, LogPhase::Sealed);
}

#[tokio::test]
async fn a_deleted_log_is_told_to_whoever_waits_for_it_in_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (FsLogs::new(dir.path()), FsLogs::new(dir.path()));
    store.open(&id()).await.unwrap();
    store.append(&id(), 0, Bytes::from_static(b"line\n")).await.unwrap();
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.changed(&id(), 5).await }
    });
    while other.0.watcher.find(&id()).is_none() {
        tokio::task::yield_now().await;
    }
    // As somebody would who does not ask.
    fs::remove_file(dir.path().join("job.log")).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    assert!(matches!(told, Err(Error::NotFound { .. })), "{told:?}");
}

#[tokio::test]
async fn what_many_followers_read_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (FsLogs::new(dir.path()), FsLogs::new(dir.path()));
    store.open(&id()).await.unwrap();
    for reader in [&store, &other] {
        let at = store.stat(&id()).await.unwrap().len;
        let waiting = tokio::spawn({
            let reader = reader.clone();
            async move { reader.changed(&id(), at).await }
        });
        let is_looked_at =
            || reader.0.watcher.find(&id()).is_some_and(|(watched, _)| watched.stat().is_some());
        while reader.find_owned(&id()).is_err() && !is_looked_at() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        store.append(&id(), at, Bytes::from_static(b"hot line\n")).await.unwrap();
        let stat = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
        assert_eq!(stat.unwrap().len, at + 9);
        // The file says something else: it is not asked.
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("job.log")).unwrap();
        file.write_all_at(b"COLD", at).unwrap();
        let read = reader.read(&id(), ByteRange::new(at, at + 100)).await.unwrap();
        assert_eq!(&read[..], b"hot line\n");
    }
}

#[tokio::test]
async fn what_a_refused_append_could_not_take_back_is_not_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (FsLogs::new(dir.path()), FsLogs::new(dir.path()));
    store.open(&id()).await.unwrap();
    store.append(&id(), 0, Bytes::from_static(b"line\n")).await.unwrap();
    // As a disk leaves it that refuses the rest and the way back.
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("job.log")).unwrap();
    file.write_all_at(b"half a li", 5).unwrap();
    store.seal(&id(), &LogState::default()).await.unwrap();
    assert_eq!(other.stat(&id()).await.unwrap().len, 5);
    assert_eq!(fs::read(dir.path().join("job.log")).unwrap(), b"line\n");
}

#[tokio::test]
async fn nobody_is_watched_for_who_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (FsLogs::new(dir.path()), FsLogs::new(dir.path()));
    store.open(&id()).await.unwrap();
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.changed(&id(), 0).await }
    });
    while other.0.watcher.find(&id()).is_none() {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    let ended = async {
        while Arc::strong_count(&other.0.watcher) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert!(other.0.watcher.find(&id()).is_none());
}
