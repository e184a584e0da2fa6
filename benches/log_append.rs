//! Writing a log: lines of one step or eight, with and without redaction, default format, files; beside it, in turns, a raw
//! `write(2)` of the same output bytes in blocks of 64 KiB. The share is the raw time by ours: once up to the last
//! acknowledgement, and once with the fsync of both.
//!
//! `cargo bench --bench log_append`; `cargo xtask bench --peers --bench log_append` also holds it against `s6-log` and
//! `multilog`; `cargo bench --bench log_append -- --gigabytes 10` says how much memory that much output takes.
#![expect(clippy::print_stdout, reason = "it prints its figures")]
#![expect(clippy::disallowed_methods, reason = "it is a program, and measures time")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use danube_core::{JobId, OutputStream, Passthrough, SecretBytes, StreamFilter, SystemClock};
use danube_logs::{Durability, FsLogs, LogOptions, LogStore, LogWriter, StepWriter};
use danube_secrets::Needles;

/// Output of one round.
const INPUT_BYTES: usize = 64 * 1024 * 1024;
/// What a pipe gives at once.
const CHUNK_BYTES: usize = 64 * 1024;
const ROUNDS: usize = 9;
/// What the peers are given: short lines, as builds write them.
const PEER_BYTES: usize = 1_000_000_000;

fn job() -> JobId {
    "bench".parse().expect("an id")
}

fn lines(len: usize, bytes: usize) -> Vec<u8> {
    let mut line: Vec<u8> = b"   Compiling danube-logs v0.1.0 (src/writer.rs) warning: unused "
        .iter()
        .copied()
        .cycle()
        .take(len - 1)
        .collect();
    line.push(b'\n');
    line.repeat(bytes / len)
}

/// What a compiler says of a file with much to say about, over and over: short lines.
fn build_output(len: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("lib.rs");
    let mut text = String::new();
    for n in 0..400 {
        text.push_str(&format!(
            "fn step_{n}(count_{n}: usize) {{\n    let unused_{n} = {n};\n}}\n"
        ));
    }
    std::fs::write(&source, text).expect("a source");
    let mut compiler = Command::new("rustc");
    compiler.args(["--crate-type", "lib", "--emit", "metadata", "--out-dir"]).arg(dir.path());
    let said = compiler.arg(&source).output().expect("rustc runs").stderr;
    let lines = memchr::memchr_iter(b'\n', &said).count();
    assert!(lines > 1000, "the compiler has much to say");
    let mut all = Vec::with_capacity(len + said.len());
    while all.len() < len {
        all.extend_from_slice(&said);
    }
    all
}

fn needles() -> Needles {
    let secret = |n: u32| SecretBytes::from(format!("ghp_{n:04}x7Qw92LmZp").as_str());
    Needles::new((0..20).map(secret)).expect("long enough")
}

fn filter(needles: Option<&Needles>) -> Box<dyn StreamFilter> {
    match needles {
        Some(needles) => Box::new(needles.redactor()),
        None => Box::new(Passthrough),
    }
}

async fn begin(dir: &Path, durability: Durability) -> (Arc<dyn LogStore>, LogWriter) {
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir));
    let options = LogOptions::default().with_max_log_bytes(u64::MAX).with_durability(durability);
    let writer = LogWriter::create(store.clone(), job(), Arc::new(SystemClock), options);
    (store, writer.await.expect("a new log"))
}

async fn step(writer: &LogWriter, name: &str, needles: Option<&Needles>) -> StepWriter {
    let step = writer.step(name.parse().expect("a name"), filter(needles), filter(needles));
    step.await.expect("a step")
}

/// Writes the input, shared out to some steps, and returns how long it took to the last acknowledgement, how long with the
/// fsync, and what the log is.
async fn write(
    dir: &Path,
    input: &Arc<Vec<u8>>,
    steps: usize,
    needles: Option<&Needles>,
) -> (Duration, Duration, Vec<u8>) {
    let (store, writer) = begin(dir, Durability::Seal).await;
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..steps {
        let step = step(&writer, &format!("build{number}"), needles).await;
        let input = input.clone();
        tasks.push(tokio::spawn(async move {
            let share = input.len() / steps;
            for chunk in input[number * share..(number + 1) * share].chunks(CHUNK_BYTES) {
                step.feed(OutputStream::Stdout, chunk).await.expect("written");
            }
            step.finish().await.expect("finished");
        }));
    }
    for task in tasks {
        task.await.expect("written");
    }
    let acknowledged = begun.elapsed();
    writer.seal().await.expect("sealed");
    let sealed = begun.elapsed();
    let log = std::fs::read(dir.join("bench.log")).expect("readable");
    store.delete(&job()).await.expect("deleted");
    (acknowledged, sealed, log)
}

fn write_raw(dir: &Path, log: &[u8]) -> (Duration, Duration) {
    let path = dir.join("raw");
    let mut file = File::create(&path).expect("a file");
    let begun = Instant::now();
    for block in log.chunks(CHUNK_BYTES) {
        file.write_all(block).expect("written");
    }
    let written = begun.elapsed();
    file.sync_data().expect("synced");
    let synced = begun.elapsed();
    std::fs::remove_file(path).expect("removed");
    (written, synced)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn shares(runtime: &tokio::runtime::Runtime, dir: &Path) {
    println!(
        "{:<36} {:>10} {:>10} {:>7} {:>10} {:>10} {:>7}",
        "MB/s of input, median of 9", "ours", "raw write", "share", "+fsync", "raw+fsync", "share"
    );
    let needles = needles();
    for (what, len, steps, needles) in [
        ("100-byte lines, 20 secrets", 100, 1, Some(&needles)),
        ("100-byte lines, no redaction", 100, 1, None),
        ("100-byte lines, 20 secrets, 8 steps", 100, 8, Some(&needles)),
        ("10-byte lines, 20 secrets", 10, 1, Some(&needles)),
        ("10-byte lines, no redaction", 10, 1, None),
        ("2000-byte lines, 20 secrets", 2000, 1, Some(&needles)),
        ("2000-byte lines, no redaction", 2000, 1, None),
    ] {
        let input = Arc::new(lines(len, INPUT_BYTES));
        let mut figures: [Vec<f64>; 6] = Default::default();
        for round in 0..=ROUNDS {
            let (acknowledged, sealed, out) = runtime.block_on(write(dir, &input, steps, needles));
            let (written, synced) = write_raw(dir, &out);
            if round == 0 {
                continue;
            }
            let rate = |time: Duration| input.len() as f64 / time.as_secs_f64() / 1e6;
            let row = [
                rate(acknowledged),
                rate(written),
                written.as_secs_f64() / acknowledged.as_secs_f64(),
                rate(sealed),
                rate(synced),
                synced.as_secs_f64() / sealed.as_secs_f64(),
            ];
            figures.iter_mut().zip(row).for_each(|(all, one)| all.push(one));
        }
        let [ours, raw, share, ours_synced, raw_synced, share_synced] = figures.map(median);
        println!(
            "{what:<36} {ours:>10.0} {raw:>10.0} {share:>7.2} {ours_synced:>10.0} {raw_synced:>10.0} {share_synced:>7.2}"
        );
    }
}

/// Everything through a pipe from `cat`, as a supervisor gets it.
fn through_a_pipe(input: &Path, take: impl FnOnce(std::process::ChildStdout)) -> f64 {
    let begun = Instant::now();
    let mut cat = Command::new("cat").arg(input).stdout(Stdio::piped()).spawn().expect("cat runs");
    take(cat.stdout.take().expect("a pipe"));
    cat.wait().expect("it ends");
    PEER_BYTES as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn peers(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let input = dir.join("input");
    let text = build_output(PEER_BYTES);
    let mean = text.len() / memchr::memchr_iter(b'\n', &text).count();
    std::fs::write(&input, &text[..PEER_BYTES]).expect("written");
    drop(text);
    println!("\n1 GB of what rustc says, {mean} bytes a line, through a pipe, MB/s");
    let ours = through_a_pipe(&input, |mut pipe| {
        runtime.block_on(async {
            let (store, writer) = begin(dir, Durability::Seal).await;
            let step = step(&writer, "build", None).await;
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                let len = pipe.read(&mut chunk).expect("read");
                if len == 0 {
                    break;
                }
                step.feed(OutputStream::Stdout, &chunk[..len]).await.expect("written");
            }
            step.finish().await.expect("finished");
            writer.seal().await.expect("sealed");
            store.delete(&job()).await.expect("deleted");
        });
    });
    println!("{:<36} {ours:>10.0}", "danube-logs, sealed and synced");
    for (name, args) in
        [("s6-log", ["T", "s268435455", "n20"]), ("multilog", ["t", "s16777215", "n100"])]
    {
        let logs = dir.join(name);
        std::fs::create_dir(&logs).expect("a directory");
        let mut command = Command::new(name);
        command.args(args).arg(&logs).stdout(Stdio::null()).stderr(Stdio::null());
        let theirs = through_a_pipe(&input, |pipe| {
            assert!(command.stdin(pipe).status().expect("installed").success(), "{name} failed");
        });
        println!("{name:<36} {theirs:>10.0} {:>9.1} times slower", ours / theirs);
        std::fs::remove_dir_all(&logs).expect("removed");
    }
}

fn resident_kib(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

fn memory(runtime: &tokio::runtime::Runtime, dir: &Path, gigabytes: usize) {
    let chunk = lines(100, CHUNK_BYTES);
    let before = resident_kib("VmRSS:");
    let needles = needles();
    runtime.block_on(async {
        let (store, writer) = begin(dir, Durability::Seal).await;
        let step = step(&writer, "build", Some(&needles)).await;
        for _ in 0..gigabytes * 1_000_000_000 / chunk.len() {
            step.feed(OutputStream::Stdout, &chunk).await.expect("written");
        }
        step.finish().await.expect("finished");
        writer.seal().await.expect("sealed");
        store.delete(&job()).await.expect("deleted");
    });
    let most = resident_kib("VmHWM:");
    println!(
        "\n{gigabytes} GB through one writer: at most {:.1} MiB above the {:.1} MiB before",
        (most - before) / 1024.0,
        before / 1024.0
    );
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    if let Some(at) = args.iter().position(|arg| arg == "--gigabytes") {
        let gigabytes = args.get(at + 1).and_then(|n| n.parse().ok()).expect("--gigabytes N");
        return memory(&runtime, dir.path(), gigabytes);
    }
    shares(&runtime, dir.path());
    let installed = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    if installed("s6-log") && installed("multilog") {
        peers(&runtime, dir.path());
    }
}
