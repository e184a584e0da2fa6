//! Keeping files in the files backend, against limits measured in turns with it:
//!
//! * 1 GB as a stream against SHA-256 alone and write with fsync alone; the slower of them is the limit;
//! * the same GB a second time, which is compared and not written: how many bytes the process writes;
//! * 10,000 files of 4 KiB, kept as a job's are and synced together, against `cp -r` and `sha256sum`;
//!   and what signing them takes.
//!
//! `cargo bench --bench artifact_put`; `-- --large` and `-- --small` do one half; `-- --gigabytes 5` says how
//! much memory a file of that size takes.
#![expect(clippy::print_stdout, reason = "it prints its figures")]
#![expect(clippy::disallowed_methods, reason = "it is a program, and measures time")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use danube_artifacts::{
    ArtifactIndex, Artifacts, BlobKey, BlobStore, ByteStream, Durability, FsBlobs, KeepOptions,
    MemoryIndex, PutMode, PutOptions, SigningKey, file_stream,
};
use danube_core::{ArtifactName, JobId, SystemClock};
use danube_store::{Store, StoreOptions};
use futures_util::stream;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

const FILE_BYTES: usize = 1_000_000_000;
/// What a body's chunk has: as `file_stream` gives it.
const CHUNK_BYTES: usize = 256 * 1024;
/// Random bytes that a body goes round in: more than the processor's caches hold.
const ROUND_BYTES: usize = 64 * 1024 * 1024;
const LARGE_ROUNDS: u64 = 7;
/// Unless `--files` says otherwise.
const SMALL_FILES: usize = 10_000;
const SMALL_BYTES: usize = 4096;
const SMALL_ROUNDS: usize = 3;

fn job() -> JobId {
    "bench".parse().expect("an id")
}

fn key(named: &str) -> BlobKey {
    BlobKey::artifact(&job(), &named.parse().expect("a name"))
}

/// Bytes that no file system can pack.
fn random(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The chunks of a body that begins like no other, so that it is written.
fn chunks(round: &Bytes, version: u64, len: usize) -> impl Iterator<Item = Bytes> + Send + 'static {
    let round = round.clone();
    let first = Bytes::copy_from_slice(&version.to_le_bytes());
    let rest = (0..len / CHUNK_BYTES).map(move |at| {
        let start = at * CHUNK_BYTES % round.len();
        round.slice(start..start + CHUNK_BYTES)
    });
    std::iter::once(first).chain(rest)
}

fn body(round: &Bytes, version: u64, len: usize) -> ByteStream {
    Box::pin(stream::iter(chunks(round, version, len).map(Ok)))
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let done = work();
    (begun.elapsed(), done)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What this process has written, or will have to, by the kernel's count.
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("the kernel counts");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.expect("a line").parse().expect("a number")
}

fn one_large_file(runtime: &Runtime, dir: &Path) {
    let store = FsBlobs::new(dir.join("artifacts"));
    let round = Bytes::from(random(ROUND_BYTES));
    let replace = PutOptions::default().with_mode(PutMode::Replace);
    let put = |named: &str, version| {
        let key = key(named);
        let put = store.put(&key, body(&round, version, FILE_BYTES), replace.clone());
        timed(|| runtime.block_on(put).expect("kept")).0
    };
    let mut figures: [Vec<f64>; 6] = Default::default();
    for version in 0..=LARGE_ROUNDS {
        let hashed = timed(|| {
            let mut digest = Sha256::new();
            chunks(&round, version, FILE_BYTES).for_each(|chunk| digest.update(&chunk));
            digest.finalize()
        });
        let written = timed(|| {
            // Replaced as the store replaces: the old bytes go when the new ones are there.
            let fresh = dir.join("fresh");
            let mut file = File::create(&fresh).expect("a file");
            for chunk in chunks(&round, version, FILE_BYTES) {
                file.write_all(&chunk).expect("written");
            }
            file.sync_all().expect("synced");
            fs::rename(&fresh, dir.join("raw")).expect("renamed");
        });
        let stored = put("large", version);
        let before = written_bytes();
        let again = put("again", version);
        let wrote = (written_bytes() - before) as f64 / FILE_BYTES as f64;
        // The first round finds no file to replace.
        if version == 0 {
            continue;
        }
        let rate = |time: Duration| FILE_BYTES as f64 / time.as_secs_f64() / 1e6;
        let limit = hashed.0.max(written.0);
        let share = limit.as_secs_f64() / stored.as_secs_f64();
        let row = [rate(hashed.0), rate(written.0), rate(stored), share, rate(again), wrote];
        figures.iter_mut().zip(row).for_each(|(all, one)| all.push(one));
    }
    let shares = figures[3].clone();
    let [hashed, written, stored, share, again, wrote] = figures.map(median);
    println!("1 GB as a stream, MB/s, median of {LARGE_ROUNDS}");
    println!("{:<44} {hashed:>8.0}", "SHA-256 alone");
    println!("{:<44} {written:>8.0}", "write and fsync alone");
    println!("{:<44} {stored:>8.0}", "put, hashed, written and synced");
    println!("{:<44} {share:>8.2} {shares:.2?}", "its share of the slower one");
    println!("{:<44} {again:>8.0}", "the same again, compared");
    println!("{:<44} {:>7.3}%", "and bytes written of it", wrote * 100.0);
    fs::remove_file(dir.join("raw")).expect("removed");
}

fn many_small_files(runtime: &Runtime, dir: &Path, files: usize) {
    let source = dir.join("source");
    fs::create_dir(&source).expect("a directory");
    let mut bytes = random(SMALL_BYTES);
    for at in 0..files {
        bytes[..8].copy_from_slice(&(at as u64).to_le_bytes());
        fs::write(source.join(format!("{at:05}")), &bytes).expect("written");
    }
    let mut figures: [Vec<f64>; 7] = Default::default();
    for round in 0..SMALL_ROUNDS {
        let limit = timed(|| copy_and_hash(&source, &dir.join(format!("copy{round}")))).0;
        let in_memory = Arc::new(MemoryIndex::new());
        let (kept, signed) =
            keep_and_sign(runtime, files, &source, &dir.join(format!("memory{round}")), in_memory);
        let target = dir.join(format!("sqlite{round}"));
        fs::create_dir(&target).expect("a directory");
        let database = target.join("danube.db");
        let opened = runtime.block_on(Store::open(&database, StoreOptions::default()));
        let index = Arc::new(opened.expect("a database"));
        let (kept_sqlite, signed_sqlite) =
            keep_and_sign(runtime, files, &source, &target.join("artifacts"), index);
        let row = [
            limit.as_secs_f64(),
            kept.as_secs_f64(),
            kept.as_secs_f64() / limit.as_secs_f64(),
            kept_sqlite.as_secs_f64(),
            kept_sqlite.as_secs_f64() / limit.as_secs_f64(),
            signed.as_secs_f64(),
            signed_sqlite.as_secs_f64(),
        ];
        figures.iter_mut().zip(row).for_each(|(all, one)| all.push(one));
    }
    let [limit, kept, times, kept_sqlite, times_sqlite, signed, signed_sqlite] =
        figures.map(median);
    println!("\n{files} files of {SMALL_BYTES} bytes, seconds, median of {SMALL_ROUNDS}");
    println!("{:<44} {limit:>8.2}", "cp -r, sha256sum, sync");
    println!("{:<44} {kept:>8.2} {times:>8.2} times", "kept and synced, records in memory");
    let what = "kept and synced, records in SQLite";
    println!("{what:<44} {kept_sqlite:>8.2} {times_sqlite:>8.2} times");
    println!("{:<44} {signed:>8.2}", "signed, records in memory");
    println!("{:<44} {signed_sqlite:>8.2}", "signed, records in SQLite");
}

/// How long it takes to keep and sync them all, and how long to sign them.
fn keep_and_sign(
    runtime: &Runtime,
    files: usize,
    source: &Path,
    target: &Path,
    index: Arc<dyn ArtifactIndex>,
) -> (Duration, Duration) {
    let blobs = Arc::new(FsBlobs::new(target));
    let signer = Arc::new(SigningKey::generate().expect("a key"));
    let artifacts = Artifacts::new(blobs, index, signer, Arc::new(SystemClock));
    let job = job();
    let options = KeepOptions::default().with_durability(Durability::Deferred);
    let keep = async {
        let mut records = Vec::with_capacity(files);
        for at in 0..files {
            let name: ArtifactName = format!("{at:05}").parse().expect("a name");
            let file = File::open(source.join(name.as_str())).expect("a file");
            let record = artifacts.keep(&job, &name, file_stream(file), options.clone()).await;
            records.push(record.expect("kept"));
        }
        artifacts.sync().await.expect("synced");
        records
    };
    let (kept, records) = timed(|| runtime.block_on(keep));
    let sign = async { artifacts.sign_all(&records).await.expect("signed") };
    (kept, timed(|| runtime.block_on(sign)).0)
}

fn copy_and_hash(from: &Path, to: &Path) {
    let script = "cp -r \"$0\" \"$1\" && cd \"$1\" && \
                  find . -type f -print0 | xargs -0 sha256sum > sums && sync -f .";
    let done = Command::new("sh").args(["-c", script]).arg(from).arg(to).status();
    assert!(done.expect("sh runs").success());
}

fn resident_kib(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

fn memory(runtime: &Runtime, dir: &Path, gigabytes: usize) {
    let round = Bytes::from(random(ROUND_BYTES));
    let store = FsBlobs::new(dir);
    let put = |named: &str, len| {
        let options = PutOptions::default().with_max_bytes(u64::MAX);
        // Every chunk has memory of its own, as those of a file or a socket do.
        let fresh = chunks(&round, 0, len).map(|chunk| Ok(Bytes::copy_from_slice(&chunk)));
        let body: ByteStream = Box::pin(stream::iter(fresh));
        runtime.block_on(store.put(&key(named), body, options)).expect("kept");
    };
    let before = resident_kib("VmRSS:");
    put("large", gigabytes * 1_000_000_000);
    let most = resident_kib("VmHWM:");
    println!(
        "{gigabytes} GB in one put: at most {:.1} MiB above the {:.1} MiB before",
        (most - before) / 1024.0,
        before / 1024.0
    );
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let has = |arg: &str| args.iter().any(|has| has == arg);
    let number = |arg: &str| {
        let at = args.iter().position(|has| has == arg)?;
        Some(args.get(at + 1).and_then(|n| n.parse().ok()).expect("a number after it"))
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    if let Some(gigabytes) = number("--gigabytes") {
        return memory(&runtime, dir.path(), gigabytes);
    }
    if !has("--small") {
        one_large_file(&runtime, dir.path());
    }
    if !has("--large") {
        many_small_files(&runtime, dir.path(), number("--files").unwrap_or(SMALL_FILES));
    }
}
