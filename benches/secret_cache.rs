//! Secrets of running jobs: giving one, with 1 and 16 threads (median and 99th percentile beside criterion's
//! mean), and sealing and opening values of 32 B and 64 KiB. The limit is a copy of the same bytes.
//! Run with `cargo bench --bench secret_cache`.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![expect(clippy::print_stdout, reason = "criterion has no percentiles")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_core::{JobId, NoAudit, SecretBytes, SystemClock};
use danube_secrets::{
    Keyring, MemoryVault, SecretKey, SecretOwner, SecretService, SecretServiceOptions, SecretVault,
};
use tokio::runtime::{Builder, Runtime};

const GETS: usize = 20_000;

struct House {
    runtime: Runtime,
    service: SecretService,
    keyring: Arc<Keyring>,
    owner: SecretOwner,
    key: SecretKey,
}

impl House {
    fn new() -> Self {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (vault, keyring) = (MemoryVault::new(), Arc::new(Keyring::in_memory().expect("a key")));
        let (owner, key): (SecretOwner, SecretKey) =
            ("pipeline/bench".parse().expect("a name"), "TOKEN".parse().expect("a name"));
        let sealed = keyring.seal(&owner, &key, &secret(32)).expect("sealed");
        runtime.block_on(vault.put(&owner, &key, &sealed)).expect("kept");
        let service = SecretService::new(
            Arc::new(vault),
            keyring.clone(),
            Arc::new(NoAudit),
            Arc::new(SystemClock),
            SecretServiceOptions::default(),
        );
        Self { runtime, service, keyring, owner, key }
    }

    /// The times of many gets by each of some threads, each of a job of its own among a hundred.
    fn times(&self, threads: usize) -> Vec<Duration> {
        let jobs: Vec<JobId> =
            (0..100).map(|n| format!("job-{n}").parse().expect("an id")).collect();
        let keys = [self.key.clone()];
        let loaded: Vec<_> = jobs
            .iter()
            .map(|job| {
                self.runtime.block_on(self.service.load(job, &self.owner, &keys)).expect("loaded")
            })
            .collect();
        let mut times: Vec<Duration> = std::thread::scope(|scope| {
            let handle = self.runtime.handle();
            let one = |job| {
                move || {
                    let get = || {
                        let before = Instant::now();
                        black_box(
                            handle.block_on(self.service.get(job, &self.key)).expect("there"),
                        );
                        before.elapsed()
                    };
                    (0..GETS).map(|_| get()).collect::<Vec<_>>()
                }
            };
            let running: Vec<_> = jobs[..threads].iter().map(|job| scope.spawn(one(job))).collect();
            running.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        drop(loaded);
        times.sort_unstable();
        times
    }
}

fn secret(len: usize) -> SecretBytes {
    SecretBytes::new((0..len).map(|n| (n % 251) as u8).collect())
}

fn secret_cache(criterion: &mut Criterion) {
    let house = House::new();
    let mut group = criterion.benchmark_group("secret_cache/get");
    for threads in [1, 16] {
        let times = house.times(threads);
        let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
        println!(
            "secret_cache/get, {threads} threads, {} gets: p50 {:?}, p99 {:?}",
            times.len(),
            at(500),
            at(990)
        );
    }
    let job: JobId = "job".parse().expect("an id");
    let keys = [house.key.clone()];
    let loaded = house.runtime.block_on(house.service.load(&job, &house.owner, &keys));
    group.bench_function("get, 1 thread", |b| {
        b.iter(|| house.runtime.block_on(house.service.get(&job, &house.key)).expect("there"))
    });
    drop(loaded);
    group.finish();

    for len in [32, 64 * 1024] {
        let mut group = criterion.benchmark_group(format!("secret_cache/{len} B"));
        group.throughput(Throughput::Bytes(len as u64));
        let value = secret(len);
        let House { keyring, owner, key, .. } = &house;
        let sealed = keyring.seal(owner, key, &value).expect("sealed");
        group.bench_function("seal", |b| {
            b.iter(|| keyring.seal(owner, key, &value).expect("sealed"))
        });
        group.bench_function("open", |b| {
            b.iter(|| keyring.open_value(owner, key, &sealed).expect("opened"))
        });
        group.bench_function("limit: a copy", |b| b.iter(|| black_box(value.clone())));
        group.finish();
    }
}

criterion_group!(benches, secret_cache);
criterion_main!(benches);
