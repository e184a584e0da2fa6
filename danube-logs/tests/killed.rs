//! A process that writes a log is killed at any moment, again and again: nothing that was acknowledged is missing,
//! and no line that was cut off is left without a word.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use danube_core::{ByteRange, JobId, OutputStream, Passthrough, SystemClock};
use danube_logs::{
    FsLogs, Keep, LineSource, LogOptions, LogPhase, LogStore, LogWriter, StepWriter, parse_line,
};

/// Ordinarily; `DANUBE_TEST_KILLS` says another number.
const KILLS: usize = 60;

const STEPS: [&str; 5] = ["a", "b", "c", "d", "build"];

fn id() -> JobId {
    "job".parse().expect("a good id")
}

/// So small that heads fill up and ends are folded in while processes die.
fn options(round: usize) -> LogOptions {
    match round % 3 {
        0 => LogOptions::default(),
        1 => LogOptions::default().with_max_log_bytes(200_000),
        _ => LogOptions::default()
            .with_max_log_bytes(200_000)
            .with_keep(Keep::HeadAndTail { tail_bytes: 60_000 }),
    }
}

/// Mostly short, and now and then so long that a killed write leaves a part.
fn length_of(number: usize) -> usize {
    if number % 97 == 96 { 50_000 } else { (number * 7919) % 400 }
}

async fn begin(writer: &LogWriter, name: &str) -> StepWriter {
    let (out, err) = (Box::new(Passthrough), Box::new(Passthrough));
    writer.step(name.parse().unwrap(), out, err).await.unwrap()
}

/// Not a test: what the killed process runs. It says on its standard output what was acknowledged, and seals after a
/// while, so that it also dies there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by what_was_acknowledged_survives_the_death_of_the_process"]
#[expect(clippy::disallowed_methods, reason = "how a test tells its other process what to do")]
async fn the_writing_process() {
    let Some(dir) = std::env::var_os("DANUBE_TEST_LOGS") else { return };
    let round = std::env::var("DANUBE_TEST_ROUND").unwrap().parse().unwrap();
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(Path::new(&dir)));
    let clock = Arc::new(SystemClock);
    let writer = LogWriter::create(store, id(), clock, options(round)).await.unwrap();
    let mut tasks = Vec::new();
    for name in &STEPS[..4] {
        let name = *name;
        let step = begin(&writer, name).await;
        tasks.push(tokio::spawn(async move {
            for number in 0..1500 {
                let length = length_of(number);
                let line = format!("{number} {}\n", "x".repeat(length));
                // Cut anywhere, as pipes do.
                let (front, back) = line.as_bytes().split_at(length / 2);
                step.feed(OutputStream::Stdout, front).await.unwrap();
                step.write(OutputStream::Stdout, back).await.unwrap();
                let told = format!("ack {} {number}\n", name);
                std::io::stdout().write_all(told.as_bytes()).unwrap();
            }
            step.finish().await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    writer.seal().await.unwrap();
    std::io::stdout().write_all(b"sealed\n").unwrap();
}

async fn text(store: &dyn LogStore) -> Vec<u8> {
    let mut text = Vec::new();
    loop {
        let range = ByteRange::new(text.len() as u64, u64::MAX);
        let more = store.read(&id(), range).await.unwrap();
        if more.is_empty() {
            return text;
        }
        text.extend_from_slice(&more);
    }
}

/// Each step's numbers, in the order in which they stand; how many lines the log says are missing; how many were cut off.
fn read(text: &[u8]) -> ([Vec<usize>; 5], u64, usize) {
    let (mut numbers, mut omitted, mut cut) = ([const { Vec::new() }; 5], 0, 0);
    let lines: Vec<&[u8]> = text.split_inclusive(|&b| b == b'\n').collect();
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).and_then(|line| parse_line(line));
        let is_marked =
            next.is_some_and(|next| next.content.starts_with(b"[the line above was cut off"));
        match parse_line(line) {
            Some(line) if line.source == LineSource::Danube => {
                let words = String::from_utf8_lossy(line.content).into_owned();
                if let Some(rest) = words.strip_prefix("[… ") {
                    omitted += rest.split(' ').next().unwrap().parse::<u64>().unwrap();
                }
            }
            _ if is_marked => cut += 1,
            Some(line) => {
                let words = String::from_utf8_lossy(line.content);
                let number: usize = words.split(' ').next().unwrap().parse().unwrap();
                let length = length_of(number);
                assert_eq!(words.len(), number.to_string().len() + 1 + length, "a whole line");
                let step = STEPS.iter().position(|name| *name == line.step).unwrap();
                numbers[step].push(number);
            }
            None => panic!("neither a line nor marked as cut off: {:?}", line.escape_ascii()),
        }
    }
    (numbers, omitted, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the number of kills is the caller's")]
async fn what_was_acknowledged_survives_the_death_of_the_process() {
    let kills = std::env::var("DANUBE_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let (mut torn, mut sealed, mut acknowledged) = (0, 0, 0);
    for round in 0..kills {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "the_writing_process"])
            .env("DANUBE_TEST_LOGS", dir.path())
            .env("DANUBE_TEST_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        // Killed after so many acknowledgements: at another moment each time, the first ones and the seal included.
        let after = (round * 104_729) % 6_500;
        let mut acks: [Option<usize>; 5] = [None; 5];
        let mut was_sealed = false;
        let (mut seen, mut last_ack) = (0, None);
        for line in out.lines() {
            let line = line.unwrap();
            was_sealed |= line.contains("sealed");
            // The harness may put its own words in front.
            if let Some((_, ack)) = line.split_once("ack ") {
                let (name, number) = ack.split_once(' ').unwrap();
                let step = STEPS.iter().position(|step| *step == name).unwrap();
                let number = number.parse().unwrap();
                acks[step] = Some(number);
                last_ack = Some((step, number));
                seen += 1;
                if seen == after {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let store = Arc::new(FsLogs::new(dir.path()));
        let Ok(stat) = store.stat(&id()).await else {
            assert_eq!(acks, [None; 5], "killed before there was a log");
            continue;
        };
        if stat.phase == LogPhase::Sealed {
            sealed += 1;
        } else {
            assert!(!was_sealed && stat.phase == LogPhase::Abandoned, "{stat:?}");
            let writer = LogWriter::create(
                store.clone(),
                id(),
                Arc::new(SystemClock),
                LogOptions::default(),
            );
            writer.await.unwrap().seal().await.unwrap();
        }
        let stat = store.stat(&id()).await.unwrap();
        assert_eq!(stat.phase, LogPhase::Sealed);
        let (numbers, omitted, cut) = read(&text(&*store).await);
        torn += cut;
        for (step, numbers) in numbers.iter().enumerate() {
            assert!(numbers.is_sorted_by(|a, b| a < b), "in order, and none twice");
            let Some(last) = acks[step] else { continue };
            acknowledged += last + 1;
            if round % 3 == 0 {
                assert_eq!(
                    numbers[..=last],
                    (0..=last).collect::<Vec<_>>(),
                    "round {round}, step {step}"
                );
            }
        }
        if round % 3 == 2 {
            // What was acknowledged is in the head, or in the end, or counted between them.
            let there: usize = numbers.iter().map(Vec::len).sum();
            let told: usize = acks.iter().flatten().map(|last| last + 1).sum();
            assert!(there as u64 + omitted >= told as u64, "{there} + {omitted} < {told}");
            if let Some((step, number)) = last_ack {
                assert!(
                    numbers[step].last() >= Some(&number),
                    "the newest lines are kept: {number} of step {step} is not"
                );
            }
            assert_eq!(stat.state.omitted_lines, omitted);
        }
    }
    eprintln!(
        "{kills} kills: {acknowledged} acknowledged lines, {torn} cut off, {sealed} sealed in time"
    );
    assert!(acknowledged > 0);
}

/// Every seventh byte at which a file may not grow any more, within a line, in the state, and in the ring behind a full
/// head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_size_limit_is_a_typed_error_at_every_position() {
    for (keep, limits) in [("head", 0..600), ("head and tail", 0..900)] {
        for limit in limits.step_by(7) {
            let dir = tempfile::tempdir().unwrap();
            // `prlimit` sets what a shell cannot: bytes. SIGXFSZ is ignored, as the documentation asks of a host.
            let done = Command::new("sh")
                .arg("-c")
                .arg(format!(
                    "trap '' XFSZ; exec prlimit --fsize={limit} \"$0\" --ignored --exact the_limited_process"
                ))
                .arg(std::env::current_exe().unwrap())
                .env("DANUBE_TEST_LOGS", dir.path())
                .env("DANUBE_TEST_KEEP", keep)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(done.success(), "{keep}, limit {limit}");
            let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir.path()));
            if let Ok(stat) = store.stat(&id()).await {
                assert!(stat.len <= limit, "{keep}, limit {limit}: {stat:?}");
            }
        }
    }
}

/// A disk that is full at every page of a log.
#[test]
fn a_full_disk_is_a_typed_error_at_every_page() {
    for pages in 56..96 {
        let dir = tempfile::tempdir().unwrap();
        // A mount of our own, as root or as the root of a user namespace.
        let script = format!(
            "mount -t tmpfs -o size={}k tmpfs \"$1\" && exec \"$0\" --ignored --exact the_limited_process",
            4 * pages + 4
        );
        let is_root = rustix::process::geteuid().is_root();
        let namespaces: &[&str] =
            if is_root { &["--mount"] } else { &["--mount", "--user", "--map-root-user"] };
        let done = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", &script])
            .arg(std::env::current_exe().unwrap())
            .arg(dir.path())
            .env("DANUBE_TEST_LOGS", dir.path())
            .env("DANUBE_TEST_KEEP", if pages % 2 == 0 { "head" } else { "head and tail" })
            .output()
            .unwrap();
        assert!(done.status.success(), "{pages} pages: {done:?}");
    }
}

/// Not a test: writes until it is refused, says how, and reads what is there.
#[tokio::test]
#[ignore = "run by a_file_size_limit and a_full_disk"]
#[expect(clippy::disallowed_methods, reason = "how a test tells its other process what to do")]
async fn the_limited_process() {
    let Some(dir) = std::env::var_os("DANUBE_TEST_LOGS") else { return };
    let mut options = LogOptions::default();
    if std::env::var("DANUBE_TEST_KEEP").unwrap() == "head and tail" {
        let keep = Keep::HeadAndTail { tail_bytes: 400 };
        options = options.with_max_log_bytes(700).with_keep(keep);
    }
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(Path::new(&dir)));
    let is_refusal = |error: &danube_logs::Error| {
        assert_eq!(error.class(), danube_core::ErrorClass::Exhausted, "{error}");
        assert!(error.to_string().contains("log of job job"), "{error}");
    };
    let clock = Arc::new(SystemClock);
    let writer = match LogWriter::create(store.clone(), id(), clock, options).await {
        Ok(writer) => writer,
        // No room even for what is reserved.
        Err(error) => return is_refusal(&error),
    };
    let step = begin(&writer, "build").await;
    let (mut refused, mut acknowledged) = (0, 0);
    for number in 0..3000 {
        let line = format!("{number} {}\n", "x".repeat(length_of(number)));
        match step.write(OutputStream::Stdout, line.as_bytes()).await {
            Ok(len) => acknowledged = len,
            Err(error) => {
                is_refusal(&error);
                refused += 1;
            }
        }
        assert_eq!(store.stat(&id()).await.unwrap().len, acknowledged);
        if refused == 5 {
            break;
        }
    }
    if let Err(error) = step.finish().await {
        is_refusal(&error);
    }
    match tokio::time::timeout(Duration::from_secs(20), writer.seal()).await.unwrap() {
        Ok(sealed) => assert_eq!(sealed.truncated, sealed.omitted_lines > 0),
        Err(error) => is_refusal(&error),
    }
    let text = text(&*store).await;
    assert!(text.is_empty() || text.ends_with(b"\n"), "{:?}", text.escape_ascii());
    // Whole lines, in order.
    let (numbers, ..) = read(&text);
    assert!(numbers.iter().all(|numbers| numbers.is_sorted_by(|a, b| a < b)));
}
