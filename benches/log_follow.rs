//! Following a log: how late a line is told at 1,000 lines a second, in the same process and in another one; how
//! fast 1, 100 and 1,000 followers are served; and what 10,000 that have stopped reading cost the writer.
//! Run with `cargo bench --bench log_follow`.
#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use danube_core::{Clock, JobId, OutputStream, Passthrough, SystemClock, Timestamp};
use danube_logs::{
    FollowEvent, Follower, FsLogs, LogOptions, LogStore, LogWriter, StepWriter, parse_line,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};

const LINES: usize = 5000;
const CHUNK_BYTES: usize = 64 * 1024;
const MIB: f64 = 1024.0 * 1024.0;

fn job() -> JobId {
    "bench".parse().expect("an id")
}

async fn writer(store: &Arc<dyn LogStore>) -> (LogWriter, StepWriter) {
    let options = LogOptions::default().with_max_log_bytes(u64::MAX);
    let writer = LogWriter::create(store.clone(), job(), Arc::new(SystemClock), options).await;
    let writer = writer.expect("a new log");
    let step =
        writer.step("build".parse().expect("a name"), Box::new(Passthrough), Box::new(Passthrough));
    let step = step.await.expect("a step");
    (writer, step)
}

/// How late each line was told; a line's content is the time at which it was given to the writer.
async fn lateness(store: Arc<dyn LogStore>) -> Vec<Duration> {
    let mut follower = Follower::new(store, job(), 0);
    let mut late = Vec::new();
    while let FollowEvent::Bytes { bytes, .. } = follower.next().await.expect("followed") {
        let now = SystemClock.now();
        for line in bytes.split(|&b| b == b'\n') {
            let written = parse_line(line).and_then(|line| std::str::from_utf8(line.content).ok());
            let written = written.and_then(|text| text.parse::<Timestamp>().ok());
            late.extend(written.map(|written| now.duration_since(written).unsigned_abs()));
        }
    }
    late
}

fn show(what: &str, mut late: Vec<Duration>) {
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!(
        "{what:44} {:6} lines: p50 {p50:6.3} ms, p99 {p99:6.3} ms, max {max:6.3} ms",
        late.len()
    );
}

/// Writes a line each millisecond.
async fn write_slowly(store: &Arc<dyn LogStore>) {
    let (writer, step) = writer(store).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..LINES {
        ticks.tick().await;
        let line = format!("{:.9}\n", SystemClock.now());
        step.write(OutputStream::Stdout, line.as_bytes()).await.expect("written");
    }
    step.finish().await.expect("finished");
    writer.seal().await.expect("sealed");
}

async fn latency(dir: &Path) {
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir));
    // There before anybody follows.
    store.open(&job()).await.expect("opened");
    store.release(&job());
    let program = std::env::current_exe().expect("this program");
    let mut other = Command::new(program);
    other.arg("follow-elsewhere").arg(dir).stdout(Stdio::piped());
    let (writing, following) = tokio::join!(
        tokio::spawn({
            let store = store.clone();
            async move { write_slowly(&store).await }
        }),
        async {
            // Both begin when the writer has taken the log.
            while !store.stat(&job()).await.expect("there").owned {
                tokio::task::yield_now().await;
            }
            let other = other.spawn().expect("another process");
            (lateness(store.clone()).await, other.wait_with_output().expect("its end"))
        },
    );
    writing.expect("no panic");
    let (here, elsewhere) = following;
    show("latency at 1,000 lines/s, same process", here);
    let text = String::from_utf8(elsewhere.stdout).expect("text");
    let late: Vec<Duration> =
        text.lines().map(|nanos| Duration::from_nanos(nanos.parse().expect("a number"))).collect();
    // What was written before it had started is told late by no fault of its own.
    let late = late.into_iter().skip(LINES / 5).collect();
    show("latency at 1,000 lines/s, another process", late);
    store.delete(&job()).await.expect("deleted");
}

/// What another process of [`latency`] does.
async fn follow_elsewhere(dir: &Path) {
    for late in lateness(Arc::new(FsLogs::new(dir))).await {
        println!("{}", late.as_nanos());
    }
}

fn chunk() -> Vec<u8> {
    let mut line = b"   Compiling danube-logs v0.1.0 (src/writer.rs) warning: unused variable: `line`, see -W unused ...".to_vec();
    line.resize(99, b'.');
    line.push(b'\n');
    line.repeat(CHUNK_BYTES / line.len())
}

async fn write_fast(step: &StepWriter, chunk: &[u8], bytes: usize) -> f64 {
    let begun = Instant::now();
    for _ in 0..bytes / chunk.len() {
        step.write(OutputStream::Stdout, chunk).await.expect("written");
    }
    (bytes / chunk.len() * chunk.len()) as f64 / MIB / begun.elapsed().as_secs_f64()
}

async fn throughput(dir: &Path, followers: usize, bytes: usize) {
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir));
    let (writer, step) = writer(&store).await;
    let begun = Instant::now();
    let followers: Vec<_> = (0..followers)
        .map(|_| {
            let mut follower = Follower::new(store.clone(), job(), 0);
            tokio::spawn(async move {
                let mut told = 0;
                while let FollowEvent::Bytes { bytes, .. } = follower.next().await.expect("told") {
                    told += bytes.len();
                }
                told
            })
        })
        .collect();
    let count = followers.len();
    let written = write_fast(&step, &chunk(), bytes).await;
    step.finish().await.expect("finished");
    writer.seal().await.expect("sealed");
    let mut told = 0;
    for follower in followers {
        told += follower.await.expect("no panic");
    }
    let rate = told as f64 / MIB / begun.elapsed().as_secs_f64();
    println!(
        "{count:5} followers: written at {written:6.0} MiB/s, told {rate:8.0} MiB/s in all, {:7.1} MiB/s each",
        rate / count as f64
    );
    store.delete(&job()).await.expect("deleted");
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("a proc file system");
    let pages: f64 = statm.split(' ').nth(1).expect("a field").parse().expect("a number");
    pages * 4096.0 / MIB
}

/// Processor time of this process so far, in ticks of 10 ms.
fn ticks() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a proc file system");
    let fields = stat.rsplit(") ").next().expect("a name in front").split(' ');
    let times = fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number"));
    times.sum()
}

/// The writer's speed, and the processor time that it took, beside followers that were told something and then stopped reading.
async fn beside_stalled(dir: &Path, count: usize, bytes: usize) -> (f64, f64) {
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir));
    let (writer, step) = writer(&store).await;
    step.write(OutputStream::Stdout, b"a first line\n").await.expect("written");
    let before = resident_mib();
    let (told, ended) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    for _ in 0..count {
        let mut follower = Follower::new(store.clone(), job(), 0);
        let (told, ended) = (told.clone(), ended.clone());
        tokio::spawn(async move {
            follower.next().await.expect("told");
            told.add_permits(1);
            // Its client reads no more.
            ended.acquire().await.expect("open").forget();
            drop(follower);
        });
    }
    told.acquire_many(count as u32).await.expect("open").forget();
    if count > 0 && bytes < CHUNK_BYTES * 100 {
        let used = resident_mib() - before;
        let each = used * MIB / count as f64;
        println!(
            "{count:5} stalled followers: {used:.1} MiB in all, {each:.0} bytes each, their tasks included"
        );
    }
    let before = ticks();
    let rate = write_fast(&step, &chunk(), bytes).await;
    let took = ticks() - before;
    step.finish().await.expect("finished");
    writer.seal().await.expect("sealed");
    ended.add_permits(count);
    store.delete(&job()).await.expect("deleted");
    (rate, took)
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, which runs itself again")]
fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == "follow-elsewhere") {
        let dir = arguments.next().expect("a directory");
        return runtime.block_on(follow_elsewhere(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().expect("a directory");
    // First of all: later the memory of what was is used again.
    runtime.block_on(beside_stalled(dir.path(), 10_000, 1 << 20));
    runtime.block_on(latency(dir.path()));
    for (followers, mebibytes) in [(1, 256), (100, 64), (1000, 16)] {
        runtime.block_on(throughput(dir.path(), followers, mebibytes << 20));
    }
    // In short turns, the best speed of each and all of their processor time: the machine may have others to serve.
    let (mut alone, mut beside) = ((0_f64, 0.0), (0_f64, 0.0));
    for _ in 0..16 {
        for (count, sum) in [(0, &mut alone), (10_000, &mut beside)] {
            let (rate, took) = runtime.block_on(beside_stalled(dir.path(), count, 64 << 20));
            *sum = (sum.0.max(rate), sum.1 + took);
        }
    }
    let (speed, time) = (beside.0 / alone.0, alone.1 / beside.1);
    println!(
        "written alone at {:.0} MiB/s, beside 10,000 stalled followers at {:.0} MiB/s: {speed:.2}; by processor time {time:.2}",
        alone.0, beside.0
    );
}
