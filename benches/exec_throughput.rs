//! Reading a command's output through a session, against a bare pipe read in 64 KiB blocks.
//! Run with `cargo bench --bench exec_throughput`.

use std::io::Read;
use std::process::Stdio;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_exec::{Command, ExecEvent, Executor, LocalProcesses};

const OUTPUT_BYTES: u64 = 256 * 1024 * 1024;

fn exec_throughput(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let bytes = OUTPUT_BYTES.to_string();
    let args = ["-c", bytes.as_str(), "/dev/zero"];
    let mut group = criterion.benchmark_group("exec_throughput");
    group.sample_size(10).throughput(Throughput::Bytes(OUTPUT_BYTES));
    group.bench_function("session", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let command = Command::new("/usr/bin/head").with_args(args);
                let mut session = LocalProcesses::new().start(command).await.expect("started");
                let mut seen = 0;
                while let Some(event) = session.next().await.expect("an end") {
                    if let ExecEvent::Output { bytes, .. } = event {
                        seen += bytes.len() as u64;
                    }
                }
                assert_eq!(seen, OUTPUT_BYTES);
            });
        });
    });
    group.bench_function("limit: a bare pipe", |b| {
        b.iter(|| {
            let mut child = std::process::Command::new("/usr/bin/head")
                .args(args)
                .stdout(Stdio::piped())
                .spawn()
                .expect("started");
            let mut pipe = child.stdout.take().expect("piped");
            let (mut block, mut seen) = (vec![0; 64 * 1024], 0);
            loop {
                match pipe.read(&mut block).expect("readable") {
                    0 => break,
                    len => seen += len as u64,
                }
            }
            assert_eq!(seen, OUTPUT_BYTES);
            child.wait().expect("an end");
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("exec_start");
    group.sample_size(50);
    group.bench_function("true", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut session =
                    LocalProcesses::new().start(Command::new("/bin/true")).await.expect("started");
                while session.next().await.expect("an end").is_some() {}
            });
        });
    });
    group.finish();
}

criterion_group!(benches, exec_throughput);
criterion_main!(benches);
