//! Reading an artifact of 1 GB back from the files backend, against reading the file alone in the same
//! run. Run with `cargo bench --bench artifact_get`.

use std::fs::File;
use std::io::Read;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_artifacts::{BlobKey, BlobStore, ByteStream, FsBlobs, PutOptions};
use futures_util::{StreamExt, stream};

const FILE_BYTES: usize = 1_000_000_000;
const CHUNK_BYTES: usize = 250_000;

fn artifact_get(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let store = FsBlobs::new(dir.path());
    let key =
        BlobKey::artifact(&"bench".parse().expect("an id"), &"a.bin".parse().expect("a name"));
    let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
    let pieces = std::iter::repeat_n(chunk, FILE_BYTES / CHUNK_BYTES).map(Ok);
    let body: ByteStream = Box::pin(stream::iter(pieces));
    runtime.block_on(store.put(&key, body, PutOptions::default())).expect("kept");

    let mut group = criterion.benchmark_group("artifact_get");
    group.sample_size(10).throughput(Throughput::Bytes(FILE_BYTES as u64));
    group.bench_function("files", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut blob = store.get(&key, None).await.expect("there");
                let mut read = 0;
                while let Some(chunk) = blob.body.next().await {
                    read += chunk.expect("read").len();
                }
                assert_eq!(read, FILE_BYTES);
            });
        });
    });
    group.bench_function("limit: read", |b| {
        let path = dir.path().join("bench/a.bin");
        let mut buffer = vec![0; CHUNK_BYTES];
        b.iter(|| {
            let mut file = File::open(&path).expect("a file");
            while file.read(&mut buffer).expect("read") > 0 {}
        });
    });
    group.finish();
}

criterion_group!(benches, artifact_get);
criterion_main!(benches);
