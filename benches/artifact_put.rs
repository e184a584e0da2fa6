//! Keeping files in the files backend, against limits measured in the same run:
//!
//! * 1 GB as a stream against SHA-256 alone and write with fsync alone; the slower of them is the limit;
//! * the same GB a second time, which is compared and not written;
//! * 10,000 files of 4 KiB, synced together at the end, against `cp -r` and `sha256sum`.
//!
//! Run with `cargo bench --bench artifact_put`.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_artifacts::{
    BlobKey, BlobStore, ByteStream, Durability, FsBlobs, PutMode, PutOptions, file_stream,
};
use futures_util::stream;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

const FILE_BYTES: usize = 1_000_000_000;
const CHUNK_BYTES: usize = 250_000;
const CHUNKS: usize = FILE_BYTES / CHUNK_BYTES;
const SMALL_FILES: usize = 10_000;
const SMALL_BYTES: usize = 4096;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn key(named: &str) -> BlobKey {
    BlobKey::artifact(&"bench".parse().expect("an id"), &named.parse().expect("a name"))
}

fn chunk() -> Bytes {
    Bytes::from((0..CHUNK_BYTES).map(|n| (n % 251) as u8).collect::<Vec<u8>>())
}

/// A body that begins like no other, so that it is written.
fn body(chunk: &Bytes, version: u64) -> ByteStream {
    let first = std::iter::once(Bytes::copy_from_slice(&version.to_le_bytes()));
    let rest = std::iter::repeat_n(chunk.clone(), CHUNKS);
    Box::pin(stream::iter(first.chain(rest).map(Ok)))
}

fn one_large_file(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().expect("a directory");
    let store = FsBlobs::new(dir.path().join("artifacts"));
    let chunk = chunk();
    let (large, again) = (key("large"), key("again"));
    let replace = PutOptions::default().with_mode(PutMode::Replace);
    let mut group = criterion.benchmark_group("artifact_put");
    group.sample_size(10).throughput(Throughput::Bytes(FILE_BYTES as u64));
    let mut version = 0;
    group.bench_function("files", |b| {
        b.iter(|| {
            version += 1;
            let put = store.put(&large, body(&chunk, version), replace.clone());
            runtime.block_on(put).expect("kept")
        });
        runtime.block_on(store.delete(&large)).expect("deleted");
    });
    group.bench_function("limit: SHA-256", |b| {
        b.iter(|| {
            let mut digest = Sha256::new();
            for _ in 0..CHUNKS {
                digest.update(&chunk);
            }
            digest.finalize()
        });
    });
    group.bench_function("limit: write and fsync", |b| {
        let path = dir.path().join("raw");
        b.iter(|| {
            // Replaced as the store replaces: the old bytes go when the new ones are there.
            let fresh = dir.path().join("fresh");
            let mut file = File::create(&fresh).expect("a file");
            for _ in 0..CHUNKS {
                file.write_all(&chunk).expect("written");
            }
            file.sync_all().expect("synced");
            fs::rename(&fresh, &path).expect("renamed");
        });
        fs::remove_file(&path).expect("removed");
    });
    runtime.block_on(store.put(&key("first"), body(&chunk, 0), replace.clone())).expect("kept");
    group.bench_function("the same again", |b| {
        b.iter(|| {
            let put = store.put(&again, body(&chunk, 0), replace.clone());
            runtime.block_on(put).expect("kept")
        });
    });
    group.finish();
}

fn many_small_files(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    fs::create_dir(&source).expect("a directory");
    for at in 0..SMALL_FILES {
        let mut bytes = vec![7; SMALL_BYTES];
        bytes[..8].copy_from_slice(&(at as u64).to_le_bytes());
        fs::write(source.join(at.to_string()), bytes).expect("written");
    }
    let mut group = criterion.benchmark_group("artifact_put_small");
    group.sample_size(10).throughput(Throughput::Elements(SMALL_FILES as u64));
    let deferred = PutOptions::default().with_durability(Durability::Deferred);
    group.bench_function("files", |b| {
        b.iter_with_large_drop(|| {
            let target = tempfile::tempdir_in(dir.path()).expect("a directory");
            let store = FsBlobs::new(target.path());
            runtime.block_on(async {
                for at in 0..SMALL_FILES {
                    let named = at.to_string();
                    let body = file_stream(File::open(source.join(&named)).expect("a file"));
                    store.put(&key(&named), body, deferred.clone()).await.expect("kept");
                }
                store.sync().await.expect("synced");
            });
            target
        });
    });
    group.bench_function("limit: cp -r, sha256sum, sync", |b| {
        b.iter_with_large_drop(|| {
            let target = tempfile::tempdir_in(dir.path()).expect("a directory");
            copy_and_hash(&source, target.path());
            target
        });
    });
    group.finish();
}

fn copy_and_hash(from: &Path, to: &Path) {
    let script = "cp -r \"$0\" \"$1/copy\" && cd \"$1/copy\" && \
                  find . -type f -print0 | xargs -0 sha256sum > \"$1/sums\" && sync -f \"$1\"";
    let done = Command::new("sh").args(["-c", script]).arg(from).arg(to).status();
    assert!(done.expect("sh runs").success());
}

criterion_group!(benches, one_large_file, many_small_files);
criterion_main!(benches);
