//! Keeping a file: 64 MiB into the files backend, against SHA-256 alone and write with fsync alone. The
//! limit is the slower of the two. Run with `cargo bench --bench artifact_put`.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_artifacts::{BlobKey, BlobStore, ByteStream, FsBlobs, PutMode, PutOptions};
use futures_util::stream;
use sha2::{Digest, Sha256};

const FILE_BYTES: usize = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 256 * 1024;

fn artifact_put(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let store = FsBlobs::new(dir.path().join("artifacts"));
    let key =
        BlobKey::artifact(&"bench".parse().expect("an id"), &"a.bin".parse().expect("a name"));
    let chunk = Bytes::from((0..CHUNK_BYTES).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    let chunks = FILE_BYTES / CHUNK_BYTES;
    let mut group = criterion.benchmark_group("artifact_put");
    group.sample_size(10).throughput(Throughput::Bytes(FILE_BYTES as u64));
    group.bench_function("files", |b| {
        b.iter(|| {
            let pieces = std::iter::repeat_n(chunk.clone(), chunks).map(Ok);
            let body: ByteStream = Box::pin(stream::iter(pieces));
            let options = PutOptions::default().with_mode(PutMode::Replace);
            runtime.block_on(store.put(&key, body, options)).expect("kept");
        });
    });
    group.bench_function("limit: SHA-256", |b| {
        b.iter(|| {
            let mut digest = Sha256::new();
            for _ in 0..chunks {
                digest.update(&chunk);
            }
            digest.finalize()
        });
    });
    group.bench_function("limit: write and fsync", |b| {
        b.iter(|| {
            let mut file = File::create(dir.path().join("raw")).expect("a file");
            for _ in 0..chunks {
                file.write_all(&chunk).expect("written");
            }
            file.sync_all().expect("synced");
        });
    });
    group.finish();
}

criterion_group!(benches, artifact_put);
criterion_main!(benches);
