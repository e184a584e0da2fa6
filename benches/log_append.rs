//! Writing a log: 100-byte lines of one step, 20 secrets, default format, files. The limit is a raw
//! `write` of the same output bytes in 64 KiB blocks; the share of it is the two throughputs' ratio.
//! Run with `cargo bench --bench log_append`.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_core::{JobId, OutputStream, Passthrough, SecretBytes, StreamFilter, SystemClock};
use danube_logs::{FsLogs, LogOptions, LogStore, LogWriter};
use danube_secrets::Needles;

/// Output of one round: below the default limit with its brackets.
const INPUT_BYTES: usize = 16 * 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

fn lines(len: usize) -> Vec<u8> {
    let mut line: Vec<u8> = b"   Compiling danube-logs v0.1.0 (src/writer.rs) warning: unused "
        .iter()
        .copied()
        .cycle()
        .take(len - 1)
        .collect();
    line.push(b'\n');
    line.repeat(INPUT_BYTES / len)
}

fn needles() -> Needles {
    let secret = |n: u32| SecretBytes::from(format!("ghp_{n:04}x7Qw92LmZp").as_str());
    Needles::new((0..20).map(secret)).expect("long enough")
}

async fn write(
    dir: &std::path::Path,
    input: &[u8],
    filter: impl Fn() -> Box<dyn StreamFilter>,
) -> u64 {
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir));
    let job: JobId = "bench".parse().expect("an id");
    let writer =
        LogWriter::create(store.clone(), job.clone(), Arc::new(SystemClock), LogOptions::default());
    let writer = writer.await.expect("a new log");
    let step = writer.step("build".parse().expect("a name"), filter(), filter());
    let step = step.await.expect("a step");
    for chunk in input.chunks(CHUNK_BYTES) {
        step.feed(OutputStream::Stdout, chunk).await.expect("written");
    }
    step.finish().await.expect("finished");
    let len = writer.seal().await.expect("sealed").len;
    store.delete(&job).await.expect("deleted");
    len
}

fn log_append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    for len in [10, 100, 2000] {
        let input = lines(len);
        let mut group = criterion.benchmark_group(format!("log_append/{len}-byte lines"));
        group.sample_size(10).throughput(Throughput::Bytes(input.len() as u64));
        let needles = needles();
        let redacted = || -> Box<dyn StreamFilter> { Box::new(needles.redactor()) };
        let plain = || -> Box<dyn StreamFilter> { Box::new(Passthrough) };
        let output = runtime.block_on(write(dir.path(), &input, plain));
        group.bench_function("20 secrets", |b| {
            b.iter(|| runtime.block_on(write(dir.path(), &input, redacted)))
        });
        group.bench_function("no redaction", |b| {
            b.iter(|| runtime.block_on(write(dir.path(), &input, plain)))
        });
        // The same bytes as the log has, and the same fsync at the end.
        let block = vec![b'x'; CHUNK_BYTES];
        group.bench_function("limit: raw write of the output", |b| {
            b.iter(|| {
                let mut file = File::create(dir.path().join("raw")).expect("a file");
                let mut left = usize::try_from(output).expect("fits");
                while left > 0 {
                    let len = left.min(CHUNK_BYTES);
                    file.write_all(&block[..len]).expect("written");
                    left -= len;
                }
                file.sync_data().expect("synced");
            });
        });
        group.finish();
    }
}

criterion_group!(benches, log_append);
criterion_main!(benches);
