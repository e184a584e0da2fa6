//! Searching a log: 256 MiB of build output on files, against `grep -c` and ripgrep on the same file, each
//! counting the lines that match. Run with `cargo xtask bench --peers --bench log_search`, which installs ripgrep;
//! without it the share is that of grep. The table at the end shows the best of each, and our share of ripgrep's speed.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_core::JobId;
use danube_logs::search::{Pattern, PatternOptions, SearchOptions, search};
use danube_logs::{FsLogs, LogStore};

const LOG_BYTES: u64 = 256 * 1024 * 1024;

/// What is searched for: a name, the pattern, whether case is ignored.
const CASES: &[(&str, &str, bool)] = &[
    ("rare text", "cannot find value", false),
    ("no match", "segmentation fault", false),
    ("one line in a hundred", "deprecated function", false),
    ("every line", "src", false),
    ("regular expression", r"error\[E[0-9]{4}\]: \w+", false),
    ("alternatives", "panicked|SIGKILL|out of memory", false),
    ("ignoring case", "CANNOT FIND VALUE", true),
];

/// Lines of 100 bytes and brackets in front, as a build writes them.
fn write_log(path: &Path) -> u64 {
    let mut out = BufWriter::new(File::create(path).expect("a file"));
    let (mut written, mut n) = (0, 0_u64);
    while written < LOG_BYTES {
        let (stream, text) = match n {
            _ if n % 250_007 == 5 => {
                ("stderr", "error[E0425]: cannot find value `x` in this scope")
            }
            _ if n % 100 == 7 => {
                ("stderr", "warning: use of a deprecated function `f`, see the notes")
            }
            _ => ("stdout", "Compiling a crate with some features and a longer name in"),
        };
        let (second, milli) = (n / 1000 % 60, n % 1000);
        let line = format!(
            "[2024-01-06T12:00:{second:02}.{milli:03}Z] [build] [{stream}] {text} (src/module_{:04}/file_{:04}.rs:{})\n",
            n % 977,
            n % 9973,
            n % 400,
        );
        out.write_all(line.as_bytes()).expect("written");
        written += line.len() as u64;
        n += 1;
    }
    out.flush().expect("written");
    written
}

/// What a program of the same purpose counts.
fn count_with(program: &str, pattern: &str, ignore_case: bool, file: &Path) -> u64 {
    let mut command = Command::new(program);
    match program {
        "grep" => command.args(["-a", "-c", "-E"]),
        _ => command.args(["--no-config", "-a", "-c", "--include-zero"]),
    };
    if ignore_case {
        command.arg("-i");
    }
    let out = command.args(["-e", pattern]).arg(file).stderr(Stdio::inherit()).output();
    let count = String::from_utf8(out.expect("it runs").stdout).expect("text");
    count.trim().parse().expect("a count")
}

fn log_search(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bench.log");
    let len = write_log(&file);
    let job: JobId = "bench".parse().expect("an id");
    let store = FsLogs::new(dir.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let len_seen = runtime.block_on(store.stat(&job)).expect("a log").len;
    assert_eq!(len_seen, len);
    let best: RefCell<BTreeMap<(usize, &str), Duration>> = RefCell::default();
    let mut peers = vec!["grep"];
    if Command::new("rg").arg("--version").stdout(Stdio::null()).status().is_ok() {
        peers.push("rg");
    }
    for (nth, (name, text, ignore_case)) in CASES.iter().enumerate() {
        let mut group = criterion.benchmark_group(format!("log_search/{name}"));
        group.sample_size(10).throughput(Throughput::Bytes(len));
        let mut measure = |who: &'static str, run: &dyn Fn() -> u64| {
            let expected = count_with(peers[peers.len() - 1], text, *ignore_case, &file);
            group.bench_function(who, |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        let begun = now();
                        assert_eq!(run(), expected, "{who}: {name}");
                        let took = begun.elapsed();
                        total += took;
                        let mut best = best.borrow_mut();
                        let least = best.entry((nth, who)).or_insert(took);
                        *least = took.min(*least);
                    }
                    total
                });
            });
        };
        let options = PatternOptions::default().with_ignore_case(*ignore_case);
        let pattern = Pattern::new(text, options).expect("a pattern");
        let counting = SearchOptions::default();
        measure("danube", &|| {
            let found = runtime.block_on(search(&store, &job, &pattern, &counting));
            found.expect("searched").matching_lines
        });
        for peer in &peers {
            measure(peer, &|| count_with(peer, text, *ignore_case, &file));
        }
        group.finish();
    }
    let best = best.into_inner();
    println!(
        "\n{:<24} {:>12} {:>12} {:>12} {:>14}",
        "MB/s", "danube", "grep -c", "rg -c", "danube / rg"
    );
    for (nth, (name, ..)) in CASES.iter().enumerate() {
        let speed = |who| best.get(&(nth, who)).map(|took| len as f64 / took.as_secs_f64() / 1e6);
        let shown =
            |speed: Option<f64>| speed.map_or("-".to_owned(), |speed| format!("{speed:.0}"));
        let (ours, grep, rg) = (speed("danube"), speed("grep"), speed("rg"));
        let share = ours.zip(rg).map_or("-".to_owned(), |(ours, rg)| format!("{:.2}", ours / rg));
        println!(
            "{name:<24} {:>12} {:>12} {:>12} {share:>14}",
            shown(ours),
            shown(grep),
            shown(rg)
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where time is measured")]
fn now() -> Instant {
    Instant::now()
}

criterion_group!(benches, log_search);
criterion_main!(benches);
