//! Masking: clean build-log text with 1, 20 and 160 secrets, against `memcpy`.
//! Run with `cargo bench --bench redact`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_core::{SecretBytes, StreamFilter};
use danube_secrets::Needles;

const CHUNK_BYTES: usize = 64 * 1024;

fn redact(criterion: &mut Criterion) {
    let line =
        b"   Compiling serde v1.0.229 (registry+index) warning: field is never read: `count`\n";
    let text = line.repeat(8 * 1024 * 1024 / line.len());
    let mut group = criterion.benchmark_group("redact");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    for secrets in [1_u32, 20, 160] {
        let secret = |n: u32| {
            SecretBytes::from(format!("{:x}-token-{n:05}", n.wrapping_mul(2_654_435_761)).as_str())
        };
        let needles = Needles::new((0..secrets).map(secret)).expect("long enough");
        group.bench_function(format!("{secrets} secrets"), |b| {
            let mut out = Vec::with_capacity(2 * CHUNK_BYTES);
            b.iter(|| {
                let mut redactor = needles.redactor();
                for chunk in text.chunks(CHUNK_BYTES) {
                    out.clear();
                    redactor.push(chunk, &mut out);
                }
                redactor.finish(&mut out);
            });
        });
    }
    group.bench_function("limit: memcpy", |b| {
        let mut out = Vec::with_capacity(2 * CHUNK_BYTES);
        b.iter(|| {
            for chunk in text.chunks(CHUNK_BYTES) {
                out.clear();
                out.extend_from_slice(std::hint::black_box(chunk));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, redact);
criterion_main!(benches);
