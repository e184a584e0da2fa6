//! Masking: build-log text and near misses with 1 to 2,000 secrets, against `memcpy` and against one
//! find-and-replace per secret. Run with `cargo bench --bench redact`; the table at the end holds the
//! best rates of this run, in processor time, and their ratios.

use std::process::Command;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use danube_core::{SecretBytes, StreamFilter};
use danube_secrets::{Form, MASK, Needles};
use memchr::memmem;
use rustix::time::{ClockId, clock_gettime};

/// What a pipe gives in one read.
const CHUNK_BYTES: usize = 64 * 1024;
const TEXT_BYTES: usize = 4 * 1024 * 1024;
/// Replacing 2,000 secrets one by one is slow.
const NAIVE_TEXT_BYTES: usize = 256 * 1024;

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn word(&mut self, letters: &[u8], len: usize) -> String {
        (0..len).map(|_| char::from(letters[self.below(letters.len())])).collect()
    }
}

/// Tokens as services hand them out, and passwords.
fn secrets(count: usize) -> Vec<String> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = Random(7);
    let secret = |n| match n % 4 {
        0 => format!("ghp_{}", random.word(LETTERS, 36)),
        1 => format!("sk-live-{}", random.word(LETTERS, 24)),
        2 => random.word(&LETTERS[52..], 12) + &random.word(b"abcdef", 20),
        _ => format!("{}/+{}=!", random.word(LETTERS, 7), random.word(LETTERS, 6)),
    };
    (0..count).map(secret).collect()
}

/// What a compiler says of a program with many mistakes in it, again and again.
fn log_text() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let program = (0..300).fold(String::new(), |program, n| {
        program
            + &format!(
                "fn step_{n}(count_{n}: usize) -> Result<u32, String> {{\n    let unused_{n} = {n};\n    \
                 let mut total = \"{n}\".parse::<u64>();\n    total.push_str(count_{n}, missing_{n});\n    \
                 Ok(count_{n})\n}}\n"
            )
    });
    let source = dir.path().join("main.rs");
    std::fs::write(&source, program).expect("written");
    let said = Command::new("rustc").arg(&source).output().expect("rustc runs").stderr;
    assert!(said.len() > 64 * 1024, "{}", String::from_utf8_lossy(&said));
    let mut text = Vec::with_capacity(TEXT_BYTES + said.len());
    for n in 0.. {
        for line in said.split_inclusive(|byte| *byte == b'\n') {
            if text.len() >= TEXT_BYTES {
                text.truncate(TEXT_BYTES);
                return text;
            }
            text.extend_from_slice(line);
        }
        text.extend_from_slice(format!("   Compiling crate-{n} v0.{}.{n}\n", n * 7).as_bytes());
    }
    text
}

/// Beginnings of the secrets, each with a wrong byte behind.
fn near_misses(secrets: &[String]) -> Vec<u8> {
    let mut random = Random(11);
    let mut text = Vec::with_capacity(TEXT_BYTES + 64);
    while text.len() < TEXT_BYTES {
        let secret = secrets[random.below(secrets.len())].as_bytes();
        text.extend_from_slice(&secret[..secret.len() - 1 - random.below(secret.len() - 4)]);
        text.push(b'~');
    }
    text.truncate(TEXT_BYTES);
    text
}

fn mask<'a>(needles: &Needles, chunks: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    let mut redactor = needles.redactor();
    for chunk in chunks {
        out.clear();
        redactor.push(chunk, out);
    }
    redactor.finish(out);
}

/// One search through everything for each secret, and a copy where it is found.
fn replace_one_by_one(secrets: &[String], text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    for secret in secrets {
        let finder = memmem::Finder::new(secret);
        if finder.find(&text).is_some() {
            let (mut replaced, mut from) = (Vec::with_capacity(text.len()), 0);
            for at in finder.find_iter(&text) {
                replaced.extend_from_slice(&text[from..at]);
                replaced.extend_from_slice(MASK.as_bytes());
                from = at + secret.len();
            }
            replaced.extend_from_slice(&text[from..]);
            text = replaced;
        }
    }
    text
}

/// The result, and the seconds of processor time it took: on a busy machine they differ from those of the clock.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let start = now();
    let result = work();
    (result, now() - start)
}

/// Runs `work` under criterion; gives the best rate seen in GB/s, not a number if it was not asked for.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    bytes: usize,
    mut work: impl FnMut(),
) -> f64 {
    let mut best = f64::NAN;
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let mut all = Duration::ZERO;
            for _ in 0..iterations {
                let ((), seconds) = timed(&mut work);
                best = best.min(seconds);
                all += Duration::from_secs_f64(seconds);
            }
            all
        });
    });
    bytes as f64 / best / 1e9
}

#[expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]
fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200))
        .configure_from_args();
    let mut group = criterion.benchmark_group("redact");
    let log = log_text();
    let mut out = Vec::with_capacity(2 * CHUNK_BYTES);

    let memcpy = measure(&mut group, "limit: memcpy", TEXT_BYTES, || {
        for chunk in log.chunks(CHUNK_BYTES) {
            out.clear();
            out.extend_from_slice(std::hint::black_box(chunk));
        }
    });
    let mut rows = Vec::new();
    for (count, encoded) in
        [(1, false), (20, false), (160, false), (2_000, false), (1, true), (20, true), (160, true)]
    {
        let secrets = secrets(count);
        let values = secrets.iter().map(|secret| SecretBytes::from(secret.as_str()));
        let forms = if encoded { Form::ALL } else { &[] };
        let (needles, made) = timed(|| Needles::with_forms(values, forms).expect("good secrets"));
        let title = format!("{count} secrets{}", if encoded { ", all forms" } else { "" });
        let clean = measure(&mut group, &format!("{title}, log"), TEXT_BYTES, || {
            mask(&needles, log.chunks(CHUNK_BYTES), &mut out);
        });
        let by_line = measure(&mut group, &format!("{title}, log by the line"), TEXT_BYTES, || {
            mask(&needles, log.split_inclusive(|byte| *byte == b'\n'), &mut out);
        });
        assert_eq!(needles.masked().masks, 0, "the log holds no secret");
        let text = near_misses(&secrets);
        let near = measure(&mut group, &format!("{title}, near misses"), TEXT_BYTES, || {
            mask(&needles, text.chunks(CHUNK_BYTES), &mut out);
        });
        if encoded {
            // One by one knows no forms: the rate is that of the plain secrets.
            rows.push((title, made, clean, by_line, near, f64::NAN));
            continue;
        }
        let naive = measure(&mut group, &format!("{title}, one by one"), NAIVE_TEXT_BYTES, || {
            std::hint::black_box(replace_one_by_one(&secrets, &log[..NAIVE_TEXT_BYTES]));
        });
        rows.push((title, made, clean, by_line, near, naive));
    }
    group.finish();
    criterion.final_summary();

    let cell = |value: f64, digits: usize| match value {
        value if value.is_nan() => "-".to_owned(),
        value => format!("{value:.digits$}"),
    };
    println!("best rates in GB/s; memcpy: {}", cell(memcpy, 2));
    println!(
        "{:24}{:>10}{:>8}{:>11}{:>9}{:>13}{:>12}{:>12}",
        "", "made, ms", "log", "of memcpy", "by line", "near misses", "one by one", "log, times"
    );
    for (title, made, clean, by_line, near, naive) in rows {
        println!(
            "{title:24}{:>10}{:>8}{:>11}{:>9}{:>13}{:>12}{:>12}",
            cell(made * 1e3, 1),
            cell(clean, 2),
            cell(clean / memcpy, 2),
            cell(by_line, 2),
            cell(near, 2),
            cell(naive, 3),
            cell(clean / naive, 1),
        );
    }
}
