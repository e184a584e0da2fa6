//! Equal bytes once, and never at the price of somebody's bytes.

use super::*;
use crate::{ByteStream, Durability};
use bytes::Bytes;

const SIZE: usize = 3_000_000;

fn key_of(job: &str, path: &str) -> BlobKey {
    BlobKey::from_path(&job.parse().unwrap(), path).unwrap()
}

fn long(seed: u64) -> Vec<u8> {
    (0..SIZE as u64 / 8).flat_map(|at| (at.wrapping_mul(seed | 1) ^ seed).to_le_bytes()).collect()
}

async fn put_as(store: &FsBlobs, job: &str, path: &str, bytes: &[u8]) -> Stored {
    let chunks: Vec<_> = bytes.chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let body: ByteStream = Box::pin(futures_util::stream::iter(chunks));
    store.put(&key_of(job, path), body, PutOptions::default()).await.unwrap()
}

fn pooled(root: &Path) -> Vec<String> {
    let Ok(shelves) = fs::read_dir(root.join(".blobs/sha256")) else { return Vec::new() };
    let mut found: Vec<_> = shelves.flat_map(|shelf| names(&shelf.unwrap().path())).collect();
    found.sort();
    found
}

fn blob_path(root: &Path, bytes: &[u8]) -> PathBuf {
    let digest = Sha256Digest::from_bytes(Sha256::digest(bytes).into()).to_string();
    root.join(".blobs/sha256").join(&digest[..2]).join(digest)
}

fn meta(path: PathBuf) -> fs::Metadata {
    fs::metadata(path).unwrap()
}

fn on_disk(root: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(root).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_same_bytes_in_many_jobs_cost_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let bytes = long(1);
    put_as(&store, "j0", "a", &bytes).await;
    let once = on_disk(dir.path());
    for job in 1..40 {
        put_as(&store, &format!("j{job}"), "deep/b", &bytes).await;
    }
    let inode = meta(dir.path().join("j0/a")).ino();
    for job in 1..40 {
        let meta = meta(dir.path().join(format!("j{job}/deep/b")));
        assert_eq!((meta.ino(), meta.mode() & 0o7777, meta.nlink()), (inode, 0o444, 41));
    }
    // What is left are directories, one or two of 4 KiB for each job.
    let more = on_disk(dir.path()) - once;
    assert!(more < 40 * 3 * 4096, "{more} bytes for 39 duplicates of {SIZE}");
    assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
}

/// The counter of the process itself: no test beside may write meanwhile.
#[test]
fn a_duplicate_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = another_process("pool::put_the_same_twice_and_count", dir.path(), None);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let numbers = said.lines().find_map(|line| line.strip_prefix("written ")).unwrap();
    let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
    let [first, streamed, announced, small] = numbers[..] else { panic!("{said}") };
    assert!(first >= SIZE as u64, "{numbers:?}");
    for again in [streamed, announced, small] {
        assert!(again < SIZE as u64 / 100, "{numbers:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "a_duplicate_is_not_written runs it"]
#[expect(clippy::disallowed_methods, reason = "the test deletes what it made")]
async fn put_the_same_twice_and_count() {
    let written = || {
        let io = fs::read_to_string("/proc/self/io").unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let store = FsBlobs::new(".");
    let (bytes, small) = (long(3), vec![5; 20_000]);
    put_as(&store, "j", "small", &small).await;
    let mut at = written();
    let mut counts = Vec::new();
    put_as(&store, "j", "a", &bytes).await;
    counts.push((written() - at).to_string());
    at = written();
    put_as(&store, "k", "a", &bytes).await;
    counts.push((written() - at).to_string());
    // Without the head that gives it away, the announced digest does.
    fs::remove_dir_all(".blobs/heads").unwrap();
    at = written();
    let expected = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
    let options = PutOptions::default().with_expected(expected);
    store.put(&key_of("l", "a"), bytes_stream(bytes), options).await.unwrap();
    counts.push((written() - at).to_string());
    at = written();
    put_as(&store, "l", "small", &small).await;
    counts.push((written() - at).to_string());
    println!("written {}", counts.join(" "));
}

#[tokio::test]
async fn the_last_job_that_lets_go_frees_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let bytes = long(4);
    for job in ["a", "b", "c"] {
        put_as(&store, job, "x", &bytes).await;
    }
    assert_eq!(store.delete(&key_of("b", "x")).await.unwrap(), 0);
    assert_eq!(store.delete(&key_of("a", "x")).await.unwrap(), 0);
    assert_eq!(pooled(dir.path()).len(), 1);
    assert_eq!(store.delete(&key_of("c", "x")).await.unwrap(), SIZE as u64);
    assert_eq!(pooled(dir.path()), [""; 0]);
    assert_eq!(names(dir.path()), [".blobs", ".tmp"]);
}

#[tokio::test]
async fn what_is_replaced_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let replace = PutOptions::default().with_mode(PutMode::Replace);
    for bytes in [vec![1; 9_000], vec![2; 9_000], vec![2; 9_000], vec![1; 9_000]] {
        store.put(&key_of("j", "a"), bytes_stream(bytes.clone()), replace.clone()).await.unwrap();
        assert_eq!(pooled(dir.path()).len(), 1);
        assert_eq!(fs::read(blob_path(dir.path(), &bytes)).unwrap(), bytes);
    }
}

#[tokio::test]
async fn metadata_and_what_is_tiny_is_not_shared() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    put_as(&store, "j", "tiny", &[1; 4095]).await;
    put_as(&store, "j", ".danube/provenance.json", &[1; 9000]).await;
    assert!(!dir.path().join(".blobs").exists());
    put_as(&store, "j", "enough", &[1; 4096]).await;
    assert_eq!(pooled(dir.path()).len(), 1);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test deletes what it made")]
async fn the_pool_may_be_deleted_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let bytes = long(5);
    put_as(&store, "j", "a", &bytes).await;
    fs::remove_dir_all(dir.path().join(".blobs")).unwrap();
    assert_eq!(fs::read(dir.path().join("j/a")).unwrap(), bytes);
    put_as(&store, "k", "a", &bytes).await;
    assert_eq!(pooled(dir.path()).len(), 1);
    assert_eq!(store.delete(&key_of("j", "a")).await.unwrap(), SIZE as u64);
    assert_eq!(store.delete(&key_of("k", "a")).await.unwrap(), SIZE as u64);
}

/// One bit of the shared file turns on the disk: nobody who puts the true bytes gets the wrong ones.
#[tokio::test]
async fn a_damaged_blob_is_never_handed_on() {
    for at in [0, 1_048_577, SIZE - 1] {
        let dir = tempfile::tempdir().unwrap();
        let store = FsBlobs::new(dir.path());
        let (bytes, small) = (long(6), vec![9; 10_000]);
        for (path, content) in [("a", &bytes), ("s", &small)] {
            put_as(&store, "j", path, content).await;
            let path = dir.path().join("j").join(path);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            let bad = at % content.len();
            std::os::unix::fs::FileExt::write_all_at(&file, &[content[bad] ^ 1], bad as u64)
                .unwrap();
        }
        for job in ["k", "l"] {
            put_as(&store, job, "a", &bytes).await;
            put_as(&store, job, "s", &small).await;
            assert!(fs::read(dir.path().join(job).join("a")).unwrap() == bytes, "{at} {job}");
            assert!(fs::read(dir.path().join(job).join("s")).unwrap() == small, "{at} {job}");
        }
        // The pool holds the good one again.
        assert!(fs::read(blob_path(dir.path(), &bytes)).unwrap() == bytes, "{at}");
        let shared = meta(dir.path().join("k/a")).ino() == meta(dir.path().join("l/a")).ino();
        assert!(shared, "{at}");
        assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
    }
}

#[tokio::test]
async fn hostile_things_in_the_pool_are_not_used() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let (bytes, small) = (long(7), vec![3; 9_000]);
    for kind in ["link", "fifo", "dir"] {
        let dir = tempfile::tempdir().unwrap();
        let store = FsBlobs::new(dir.path());
        for content in [&bytes, &small] {
            let place = blob_path(dir.path(), content);
            files::create_private_dir(place.parent().unwrap()).unwrap();
            match kind {
                "link" => symlink(outside.path().join("secret"), &place).unwrap(),
                "dir" => fs::create_dir(&place).unwrap(),
                _ => {
                    let mode = Mode::from_raw_mode(0o600);
                    rustix::fs::mknodat(rustix::fs::CWD, &place, FileType::Fifo, mode, 0).unwrap();
                }
            }
        }
        for job in ["j", "k"] {
            put_as(&store, job, "a", &bytes).await;
            put_as(&store, job, "s", &small).await;
            assert!(fs::read(dir.path().join(job).join("a")).unwrap() == bytes, "{kind}");
            assert!(fs::read(dir.path().join(job).join("s")).unwrap() == small, "{kind}");
        }
    }
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[tokio::test]
async fn a_sweep_takes_what_nobody_shares_and_leaves_the_young() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let (kept, lost) = (long(8), long(9));
    put_as(&store, "j", "kept", &kept).await;
    put_as(&store, "j", "lost", &lost).await;
    // Somebody deleted the job's file without Danube.
    fs::remove_file(dir.path().join("j/lost")).unwrap();
    fs::write(dir.path().join(".tmp/dead"), [0; 500]).unwrap();
    assert_eq!(store.sweep(Timestamp::UNIX_EPOCH).await.unwrap(), 0);
    assert_eq!((pooled(dir.path()).len(), names(&dir.path().join(".blobs/heads")).len()), (2, 2));
    assert_eq!(store.sweep(Timestamp::MAX).await.unwrap(), SIZE as u64 + 500);
    assert_eq!((pooled(dir.path()).len(), names(&dir.path().join(".blobs/heads")).len()), (1, 1));
    assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
    assert!(fs::read(dir.path().join("j/kept")).unwrap() == kept);
}

/// More names than a file may have: the next job gets a copy of its own.
#[tokio::test]
async fn when_a_file_has_all_the_names_it_can_have_the_next_is_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let bytes = vec![8; 8_192];
    put_as(&store, "j", "a", &bytes).await;
    let more = dir.path().join("more");
    fs::create_dir(&more).unwrap();
    let mut at = 0_u32;
    while fs::hard_link(dir.path().join("j/a"), more.join(at.to_string())).is_ok() {
        at += 1;
        assert!(at < 70_000, "this file system has no limit; choose another for this test");
    }
    put_as(&store, "k", "a", &bytes).await;
    assert_eq!(fs::read(dir.path().join("k/a")).unwrap(), bytes);
    assert_ne!(meta(dir.path().join("k/a")).ino(), meta(dir.path().join("j/a")).ino());
    assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_puts_and_deletes_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (vec![4; 12_000], long(10));
    let tasks = (0..4).map(|task| {
        // A store of its own each: as if they were processes.
        let store = FsBlobs::new(dir.path());
        let bytes = if task % 2 == 0 { small.clone() } else { large.clone() };
        let rounds = if task % 2 == 0 { 150 } else { 20 };
        tokio::spawn(async move {
            let job = format!("j{task}");
            for _ in 0..rounds {
                put_as(&store, &job, "a", &bytes).await;
                let path = store.root().join(&job).join("a");
                assert!(fs::read(path).unwrap() == bytes, "{job} has other bytes");
                store.delete(&key_of(&job, "a")).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(names(dir.path()), [".blobs", ".tmp"]);
    FsBlobs::new(dir.path()).sweep(Timestamp::MAX).await.unwrap();
    assert_eq!(pooled(dir.path()), [""; 0]);
}

#[tokio::test]
async fn what_was_deferred_by_one_is_synced_when_another_shares_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let deferred = PutOptions::default().with_durability(Durability::Deferred);
    let bytes = vec![6; 10_000];
    store.put(&key_of("j", "a"), bytes_stream(bytes.clone()), deferred).await.unwrap();
    put_as(&store, "k", "a", &bytes).await;
    store.sync().await.unwrap();
    assert_eq!(fs::read(dir.path().join("k/a")).unwrap(), bytes);
}

#[tokio::test]
async fn a_put_leaves_room_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let stat = rustix::fs::statvfs(dir.path()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let full = FsBlobs::new(dir.path()).with_keep_free_bytes(u64::MAX);
    let refused = full.put(&key("a"), bytes_stream("x"), PutOptions::default()).await.unwrap_err();
    assert!(matches!(refused, Error::NoSpace { available_bytes: 0, .. }), "{refused:?}");
    assert_eq!(refused.class(), ErrorClass::Exhausted);
    // Before a byte of it came.
    let store = FsBlobs::new(dir.path());
    let huge = PutOptions::default().with_size_bytes(free * 2).with_max_bytes(u64::MAX);
    let body: ByteStream = Box::pin(futures_util::stream::iter([Ok(Bytes::from(long(1)))]));
    let refused = store.put(&key("a"), body, huge).await.unwrap_err();
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused:?}");
    assert_eq!(names(dir.path()), [".tmp"]);
    assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
}
