//! Uploads whose client, server or disk fails.

use super::crash::{
    bytes_of, calls_of, of_the_put, quick_dir, runtime, test_under_strace, warm_up,
};
use super::*;
use crate::{MIN_PART_BYTES, UploadId, UploadSessions};
use bytes::Bytes;

const PART: usize = MIN_PART_BYTES as usize;
/// More than a mebibyte, so that the upload has a head, and a last part that is short.
const LEN: usize = 17 * PART + 100;

fn part_of(bytes: &[u8], number: u32) -> Bytes {
    let at = number as usize * PART;
    Bytes::copy_from_slice(&bytes[at..bytes.len().min(at + PART)])
}

async fn send(store: &FsBlobs, id: &UploadId, bytes: &[u8], numbers: impl Iterator<Item = u32>) {
    for number in numbers {
        store.put_part(id, number, part_of(bytes, number)).await.unwrap();
    }
}

async fn begin(store: &FsBlobs) -> UploadId {
    store.begin(&key("dir/a"), PutOptions::default(), MIN_PART_BYTES).await.unwrap()
}

/// Everything that the client has to know is the id; everything the server, what lies on the disk.
#[tokio::test]
async fn what_was_acknowledged_is_not_sent_again_whoever_died() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = bytes_of(3, LEN);
    let id = begin(&FsBlobs::new(dir.path())).await;
    let mut sent = 0;
    // A server for every few parts.
    for round in 0..6 {
        let store = FsBlobs::new(dir.path());
        let id: UploadId = id.to_string().parse().unwrap();
        let known = store.upload(&id).await.unwrap().parts;
        assert_eq!(known.len(), round * 3);
        let missing = (0..18).filter(|n| known.iter().all(|part| part.number != *n));
        let missing: Vec<u32> = missing.take(3).collect();
        sent += missing.len();
        send(&store, &id, &bytes, missing.into_iter()).await;
        // One more is on its way when everything dies: its bytes are there, and nobody was told.
        let data =
            fs::OpenOptions::new().write(true).open(dir.path().join(format!(".uploads/{id}/data")));
        std::os::unix::fs::FileExt::write_all_at(&data.unwrap(), b"half", (LEN + 50_000) as u64)
            .unwrap();
        put(&store, &format!("other{round}"), b"x").await.unwrap();
    }
    assert_eq!(sent, 18, "each part once");
    let store = FsBlobs::new(dir.path());
    let stored = store.complete(&id).await.unwrap();
    assert_eq!(stored.size_bytes, LEN as u64);
    assert!(fs::read(dir.path().join("j/dir/a")).unwrap() == bytes);
    assert_eq!(mode(&dir.path().join("j/dir/a")), 0o444);
    assert_eq!(
        names(&dir.path().join(".uploads").join(id.as_str())),
        ["done.json", "parts", "upload.json"]
    );
    // The bytes were linked and not copied, and are shared like those of a put.
    let options = PutOptions::default();
    store.put(&key("again"), bytes_stream(bytes.clone()), options).await.unwrap();
    let inode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().ino();
    assert_eq!(inode("j/again"), inode("j/dir/a"));
}

#[tokio::test]
async fn a_part_that_the_disk_lost_is_named_and_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let bytes = bytes_of(4, LEN);
    let id = begin(&store).await;
    send(&store, &id, &bytes, 0..18).await;
    let session = dir.path().join(".uploads").join(id.as_str());
    let data = fs::OpenOptions::new().write(true).open(session.join("data")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &data,
        &[bytes[5 * PART + 9] ^ 1],
        (5 * PART + 9) as u64,
    )
    .unwrap();
    data.set_len((17 * PART) as u64).unwrap();
    for lost in [5, 17] {
        match store.complete(&id).await.unwrap_err() {
            Error::Part { number, reason, .. } => {
                assert_eq!(number, lost);
                assert!(reason.contains("send it again"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert!(!dir.path().join("j/dir/a").exists());
        assert!(store.upload(&id).await.unwrap().parts.iter().all(|part| part.number != lost));
        send(&store, &id, &bytes, std::iter::once(lost)).await;
    }
    store.complete(&id).await.unwrap();
    assert!(fs::read(dir.path().join("j/dir/a")).unwrap() == bytes);
}

#[tokio::test]
async fn half_a_line_of_a_dying_writer_is_no_part() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let bytes = bytes_of(5, LEN);
    let id = begin(&store).await;
    send(&store, &id, &bytes, 0..2).await;
    let parts = dir.path().join(".uploads").join(id.as_str()).join("parts");
    let whole = fs::read_to_string(&parts).unwrap();
    let line = whole.lines().last().unwrap().to_owned();
    for cut in 0..line.len() {
        let torn = format!("{whole}\n{}", line[..cut].replacen('1', "2", 1));
        fs::write(&parts, torn).unwrap();
        let known = store.upload(&id).await.unwrap().parts;
        assert_eq!(known.len(), 2, "cut at {cut}: {known:?}");
        send(&store, &id, &bytes, std::iter::once(3)).await;
        assert_eq!(store.upload(&id).await.unwrap().parts.len(), 3, "cut at {cut}");
        fs::write(&parts, &whole).unwrap();
    }
}

#[tokio::test]
async fn whoever_ends_an_upload_does_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let id = begin(&store).await;
    let path = dir.path().join(".uploads").join(id.as_str());
    let held = File::open(&path).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockShared).unwrap();
    store.put_part(&id, 0, Bytes::from_static(b"beside another part")).await.unwrap();
    let busy = store.complete(&id).await.unwrap_err();
    assert!(matches!(busy, Error::UploadBusy { .. }), "{busy:?}");
    assert!(busy.class().is_retryable());
    assert!(matches!(store.abort(&id).await, Err(Error::UploadBusy { .. })));
    assert_eq!(store.sweep_uploads(Timestamp::MAX).await.unwrap(), 0);
    drop(held);
    store.complete(&id).await.unwrap();
}

#[tokio::test]
async fn hostile_things_in_an_upload_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let id = begin(&store).await;
    let path = dir.path().join(".uploads").join(id.as_str());
    fs::remove_file(path.join("data")).unwrap();
    symlink(outside.path().join("secret"), path.join("data")).unwrap();
    assert!(store.put_part(&id, 0, Bytes::from_static(b"x")).await.is_err());
    assert!(store.complete(&id).await.is_err());
    store.abort(&id).await.unwrap();
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    let linked: UploadId = "0".repeat(32).parse().unwrap();
    symlink(outside.path(), dir.path().join(".uploads").join(linked.as_str())).unwrap();
    assert!(matches!(store.upload(&linked).await, Err(Error::NoUpload { .. })));
    store.abort(&linked).await.unwrap();
    assert_eq!(names(outside.path()), ["secret"]);
}

/// Completes the one upload in the current directory.
#[test]
#[ignore = "completing_can_die_at_every_call runs it under strace"]
fn complete_the_upload() {
    let runtime = runtime();
    warm_up(&runtime);
    let store = FsBlobs::new(".").with_keep_free_bytes(0);
    let stored = runtime.block_on(async {
        let id = store.uploads().await.unwrap().remove(0);
        store.complete(&id).await
    });
    println!("{}", if stored.is_ok() { "\nstored" } else { "\nrefused" });
}

#[test]
fn completing_can_die_at_every_call() {
    let bytes = bytes_of(6, LEN);
    let prepared = || {
        let dir = quick_dir();
        let id = runtime().block_on(async {
            let store = FsBlobs::new(dir.path()).with_keep_free_bytes(0);
            let id = begin(&store).await;
            send(&store, &id, &bytes, 0..18).await;
            id
        });
        (dir, id)
    };
    let test = "sessions::complete_the_upload";
    let (whole, _) = prepared();
    let ran = test_under_strace(test, 0, whole.path(), None);
    assert!(ran.stored(), "{}", ran.said);
    let mut kills = 0;
    for (call, times) in calls_of(&ran.trace) {
        for n in of_the_put(&call, times) {
            let (dir, id) = prepared();
            let inject = format!("{call}:signal=SIGKILL:when={n}");
            let ran = test_under_strace(test, 0, dir.path(), Some(&inject));
            let what = format!("killed at {call} {n} of {times}");
            assert!(ran.trace.contains("killed by SIGKILL"), "{what}: {}", ran.said);
            if let Ok(content) = fs::read(dir.path().join("j/dir/a")) {
                assert!(content == bytes, "{what}: something partial is visible");
            }
            runtime().block_on(async {
                let store = FsBlobs::new(dir.path()).with_keep_free_bytes(0);
                let late = store.put_part(&id, 0, Bytes::from_static(b"late")).await;
                if dir.path().join("j/dir/a").exists() {
                    assert!(matches!(late, Err(Error::Part { .. })), "{what}: {late:?}");
                } else if late.is_ok() {
                    send(&store, &id, &bytes, 0..1).await;
                }
                let stored = store.complete(&id).await;
                assert_eq!(stored.expect(&what).size_bytes, LEN as u64, "{what}");
                assert!(fs::read(dir.path().join("j/dir/a")).unwrap() == bytes, "{what}");
                store.delete(&key("dir/a")).await.unwrap();
                store.sweep_uploads(Timestamp::MAX).await.unwrap();
                store.sweep(Timestamp::MAX).await.unwrap();
            });
            let left = Command::new("find").arg(dir.path()).args(["!", "-type", "d"]).output();
            let left = left.unwrap().stdout;
            assert_eq!(String::from_utf8_lossy(&left), "", "{what}: something is left");
            kills += 1;
        }
    }
    assert!(kills > 15, "only {kills}");
}
