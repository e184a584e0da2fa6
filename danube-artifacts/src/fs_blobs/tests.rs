//! What files add to the laws: the layout, the modes, dead and living processes, full disks.

use super::*;
use crate::{PutMode, bytes_stream};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use danube_core::{Sha256Digest, files};
use futures_util::{FutureExt, StreamExt};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

mod crash;
mod kills;
mod pool;
mod sessions;

fn key(path: &str) -> BlobKey {
    BlobKey::from_path(&"j".parse().unwrap(), path).unwrap()
}

async fn put(store: &FsBlobs, path: &str, bytes: &[u8]) -> Result<Stored, Error> {
    store.put(&key(path), bytes_stream(bytes.to_vec()), PutOptions::default()).await
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_put_that_was_dropped_gives_nothing_a_name_later() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("artifacts");
    let store = FsBlobs::new(&root);
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        put(&store, "a", b"there before").await.unwrap();
        for mode in [PutMode::CreateNew, PutMode::Replace] {
            // The only thread for such work is busy, as with a disk that hangs.
            let (end, busy) = std::sync::mpsc::channel::<()>();
            let hangs = tokio::task::spawn_blocking(move || busy.recv());
            let options = PutOptions::default().with_mode(mode);
            for path in ["a", "b", ".danube/provenance.json"] {
                let key = key(path);
                let mut putting = store.put(&key, bytes_stream("late"), options.clone());
                assert!((&mut putting).now_or_never().is_none());
            }
            end.send(()).unwrap();
            hangs.await.unwrap().unwrap();
            // It stands behind what is left of them.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert_eq!(store.list(key("a").job()).await.unwrap(), [key("a")], "{mode:?}");
        }
    });
    assert_eq!(fs::read(root.join("j/a")).unwrap(), b"there before");
    assert_eq!(names(&root.join(".tmp")), [""; 0]);
}

#[tokio::test]
async fn files_lie_where_people_look_and_can_be_read_without_danube() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data/artifacts");
    let store = FsBlobs::new(&root);
    assert!(!root.exists(), "a constructor touches nothing");
    put(&store, "out/a.bin", b"bytes").await.unwrap();
    put(&store, ".danube/signatures/out/a.bin.sig", b"signature").await.unwrap();
    assert_eq!(fs::read(root.join("j/out/a.bin")).unwrap(), b"bytes");
    assert_eq!(mode(&root.join("j/out/a.bin")), 0o444);
    assert_eq!(fs::read(root.join("j/.danube/signatures/out/a.bin.sig")).unwrap(), b"signature");
    for made in ["", "j", "j/out", "j/.danube", "j/.danube/signatures/out", ".tmp"] {
        assert_eq!(mode(&root.join(made)), 0o700, "{made}");
    }
    assert_eq!(names(&root.join(".tmp")), [""; 0]);
    assert_eq!(format!("{store}"), format!("blobs in {}", root.display()));

    store.delete(&key("out/a.bin")).await.unwrap();
    assert_eq!(names(&root.join("j")), [".danube"]);
    store.delete(&key(".danube/signatures/out/a.bin.sig")).await.unwrap();
    assert_eq!(names(&root), [".tmp"], "empty directories went along");
}

#[tokio::test]
async fn a_file_where_a_directory_is_needed_is_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    put(&store, "a", b"file").await.unwrap();
    put(&store, "d/e", b"file").await.unwrap();
    for path in ["a/b", "d", "d/e/f/g"] {
        for mode in [PutMode::CreateNew, PutMode::Replace] {
            let options = PutOptions::default().with_mode(mode);
            let error = store.put(&key(path), bytes_stream("x"), options).await.unwrap_err();
            assert!(matches!(error, Error::InTheWay { .. }), "{path}: {error:?}");
        }
    }
    assert_eq!(store.list(&"j".parse().unwrap()).await.unwrap().len(), 2);
    assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
    store.delete(&key("a")).await.unwrap();
    put(&store, "a/b", b"now").await.unwrap();
}

#[tokio::test]
async fn no_link_below_the_root_is_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a"), b"secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    put(&store, "kept", b"x").await.unwrap();
    symlink(outside.path(), dir.path().join("j/dir")).unwrap();
    symlink(outside.path().join("a"), dir.path().join("j/file")).unwrap();
    symlink(outside.path(), dir.path().join("whole-job")).unwrap();
    for path in ["dir/a", "file"] {
        assert!(store.get(&key(path), None).await.is_err(), "{path} was opened");
        assert!(store.stat(&key(path)).await.is_err());
    }
    assert!(put(&store, "dir/new", b"x").await.is_err());
    assert_eq!(store.delete(&key("dir/a")).await.unwrap(), 0);
    let replace = PutOptions::default().with_mode(PutMode::Replace);
    store.put(&key("file"), bytes_stream("mine"), replace).await.unwrap();
    assert_eq!(store.list(&"j".parse().unwrap()).await.unwrap(), [key("file"), key("kept")]);
    let whole_job = "whole-job".parse().unwrap();
    assert!(store.list(&whole_job).await.unwrap().is_empty());
    assert_eq!(store.jobs(None, 10).await.unwrap(), ["j".parse().unwrap()]);
    let through = BlobKey::from_path(&whole_job, "a").unwrap();
    assert!(store.get(&through, None).await.is_err());
    assert_eq!(store.delete(&through).await.unwrap(), 0);
    assert_eq!(names(outside.path()), ["a"]);
    assert_eq!(fs::read(outside.path().join("a")).unwrap(), b"secret");
}

#[tokio::test]
async fn a_pipe_in_the_store_does_not_hang_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    put(&store, "kept", b"x").await.unwrap();
    let mode = Mode::from_raw_mode(0o600);
    let fifo = dir.path().join("j/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
    let error = store.get(&key("fifo"), None).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert_eq!(store.list(&"j".parse().unwrap()).await.unwrap(), [key("kept")]);
}

#[tokio::test]
async fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
    let dir = tempfile::tempdir().unwrap();
    let staging = dir.path().join(".tmp");
    files::create_private_dir(&staging).unwrap();
    fs::write(staging.join("dead"), b"half").unwrap();
    let alive = File::create(staging.join("alive")).unwrap();
    rustix::fs::flock(&alive, FlockOperation::LockExclusive).unwrap();
    put(&FsBlobs::new(dir.path()), "a", b"x").await.unwrap();
    assert_eq!(names(&staging), ["alive"]);
    drop(alive);
    put(&FsBlobs::new(dir.path()), "b", b"x").await.unwrap();
    assert_eq!(names(&staging), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_gets_along_with_deletes_that_empty_its_directories() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = ["a/b/c/d/one", "a/b/c/d/two", "a/b/three"].map(|path| {
        let store = FsBlobs::new(dir.path());
        tokio::spawn(async move {
            for _ in 0..200 {
                put(&store, path, b"x").await.unwrap();
                assert_eq!(store.delete(&key(path)).await.unwrap(), 1);
            }
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(names(dir.path()), [".tmp"]);
}

#[tokio::test]
async fn an_unwritable_root_is_told_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let store = FsBlobs::new(dir.path().join("file/artifacts"));
    let error = put(&store, "a", b"x").await.unwrap_err();
    assert!(error.to_string().contains("file/artifacts could not put j/a"), "{error}");
    assert!(store.jobs(None, 1).await.is_err());
}

#[tokio::test]
async fn a_blob_that_was_cut_behind_our_back_is_an_error_and_not_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    put(&store, "a", &[1; 600_000]).await.unwrap();
    let path = dir.path().join("j/a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut blob = store.get(&key("a"), None).await.unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(300_000).unwrap();
    let mut last = None;
    while let Some(chunk) = blob.body.next().await {
        last = Some(chunk);
    }
    assert!(last.unwrap().is_err());
}

/// Runs a test of this file that is ignored, in a process of its own, with `limit` bytes of the
/// largest file.
fn another_process(test: &str, dir: &Path, limit_blocks: Option<u32>) -> Command {
    let limit = limit_blocks.map_or_else(String::new, |blocks| format!("ulimit -f {blocks};"));
    // Without the trap, the signal of the limit would kill the process; with it the write fails.
    let script = format!(
        "trap '' XFSZ; {limit} exec \"$0\" --exact fs_blobs::tests::{test} --ignored --nocapture"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap()).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_write_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Half a mebibyte, in blocks of 512 bytes: the file of a mebibyte fails in its middle.
    let mut command =
        another_process("put_a_mebibyte_into_the_current_directory", dir.path(), Some(1024));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Exhausted"), "{said}");
    assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
    assert!(!dir.path().join("j/a").exists());
}

#[tokio::test]
#[ignore = "a_write_that_fails_leaves_nothing runs it under a limit"]
async fn put_a_mebibyte_into_the_current_directory() {
    let error = put(&FsBlobs::new("."), "a", &[1; 1 << 20]).await.unwrap_err();
    println!("{:?}", error.class());
}

#[test]
fn a_process_killed_at_any_time_leaves_whole_blobs_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobs::new(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 0..25_u64 {
        let mut command =
            another_process("put_until_killed_into_the_current_directory", dir.path(), None);
        let mut child = command.spawn().unwrap();
        // Killed after so many blobs: a condition, not a time.
        let (tell, told) = std::sync::mpsc::channel();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            let mut blobs = 0;
            while std::io::BufRead::read_line(&mut stdout, &mut line).is_ok_and(|read| read > 0) {
                blobs += usize::from(line.contains("blob "));
                line.clear();
                if blobs == 1 + (round as usize % 7) {
                    let _ = tell.send(());
                }
            }
        });
        told.recv_timeout(std::time::Duration::from_secs(20)).expect("the child puts blobs");
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();

        runtime.block_on(async {
            for key in store.list(&"j".parse().unwrap()).await.unwrap() {
                let path = dir.path().join("j").join(key.path());
                let bytes = fs::read(&path).unwrap();
                let digest = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
                // The first ten digits of its digest are its name.
                assert!(digest.to_string().starts_with(&key.path()), "{key} is not whole");
                assert_eq!(mode(&path), 0o444);
                store.delete(&key).await.unwrap();
            }
            put(&FsBlobs::new(dir.path()), "after", b"x").await.unwrap();
            store.delete(&key("after")).await.unwrap();
        });
        assert_eq!(names(dir.path()), [".blobs", ".tmp"]);
        assert_eq!(names(&dir.path().join(".tmp")), [""; 0]);
    }
}

#[tokio::test]
#[ignore = "a_process_killed_at_any_time_leaves_whole_blobs_or_none runs it and kills it"]
async fn put_until_killed_into_the_current_directory() {
    let store = FsBlobs::new(".");
    // An end, should nobody kill it.
    for at in 0_u64..500 {
        let bytes = (0..60_000_u64).flat_map(|i| (at * i).to_le_bytes()).collect::<Vec<_>>();
        let digest = Sha256Digest::from_bytes(Sha256::digest(&bytes).into()).to_string();
        put(&store, &digest[..10], &bytes).await.unwrap();
        println!("blob {at}");
    }
}
