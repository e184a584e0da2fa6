//! Reading a log of 1 GB and 10 million lines: the last 10,000 lines, line 9,000,000, a time; as text, compressed,
//! and with its index lost. Every figure is that of a store that was just made, over a warm page cache.
//! Run with `cargo bench --bench log_read`.
#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use danube_core::{ByteRange, JobId, Timestamp};
use danube_logs::{FsLogs, LogState, LogStore, LogStoreExt};
use tokio::time::Instant;

const LINES: u64 = 10_000_000;
const LINE_BYTES: u64 = 100;
const ROUNDS: usize = 25;

fn job() -> JobId {
    "bench".parse().expect("an id")
}

/// A millisecond every ten lines.
fn time(line: u64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + line.cast_signed() / 10).expect("a time")
}

async fn write(dir: &Path) {
    let store = FsLogs::new(dir);
    store.open(&job()).await.expect("opened");
    let (mut at, mut block) = (0, String::new());
    for line in 0..LINES {
        let begins = block.len();
        write!(block, "[{:.3}] [build] [stdout] line {line} ", time(line)).expect("in memory");
        let fill = LINE_BYTES as usize - 1 - (block.len() - begins);
        block.extend(std::iter::repeat_n('x', fill));
        block.push('\n');
        if block.len() >= 1 << 20 || line + 1 == LINES {
            let bytes = Bytes::from(std::mem::take(&mut block));
            at = store.append(&job(), at, bytes).await.expect("written");
        }
    }
    let state = LogState { sealed_at: Some(time(LINES)), ..LogState::default() };
    store.seal(&job(), &state).await.expect("sealed");
    store.release(&job());
    assert_eq!(at, LINES * LINE_BYTES);
}

async fn measure(dir: &Path, what: &str, read: impl AsyncFn(Arc<dyn LogStore>)) {
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let store = Arc::new(FsLogs::new(dir));
        let begun = Instant::now();
        read(store).await;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_unstable_by(f64::total_cmp);
    println!("{what:48} median {:7.3} ms, worst {:7.3} ms", took[ROUNDS / 2], took[ROUNDS - 1]);
}

async fn lookups(dir: &Path, how: &str) {
    measure(dir, &format!("{how}: tail(10,000), read"), async |store| {
        let mut at = store.tail_offset(&job(), 10_000).await.expect("found");
        assert_eq!(at, (LINES - 10_000) * LINE_BYTES);
        while at < LINES * LINE_BYTES {
            let bytes = store.read(&job(), ByteRange::new(at, u64::MAX)).await.expect("read");
            at += bytes.len() as u64;
        }
    })
    .await;
    measure(dir, &format!("{how}: line 9,000,000, read"), async |store| {
        let at = store.line_offset(&job(), 9_000_000).await.expect("found").expect("a line");
        let line = store.read(&job(), ByteRange::with_len(at, LINE_BYTES)).await.expect("read");
        assert!(line.windows(13).any(|text| text == b" line 9000000"));
    })
    .await;
    measure(dir, &format!("{how}: since a time"), async |store| {
        let at = store.time_offset(&job(), time(7_500_000)).await.expect("found");
        assert_eq!(at, Some(7_500_000 * LINE_BYTES));
    })
    .await;
}

async fn run(dir: &Path) {
    let begun = Instant::now();
    write(dir).await;
    let rate = (LINES * LINE_BYTES) as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("1 GB in 10,000,000 lines appended at {rate:.0} MB/s, formatting included");
    lookups(dir, "text").await;

    let sidecar = dir.join("bench.idx");
    let whole = std::fs::read(&sidecar).expect("a sidecar");
    let state = whole.split_inclusive(|&b| b == b'\n').next().expect("a state");
    std::fs::write(&sidecar, state).expect("written");
    let store = FsLogs::new(dir);
    for what in ["index lost: line 9,000,000, first", "index lost: line 9,000,000, again"] {
        let begun = Instant::now();
        let at = store.line_offset(&job(), 9_000_000).await.expect("found");
        println!("{what:48} {:14.3} ms", begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(at, Some(9_000_000 * LINE_BYTES));
    }
    std::fs::write(&sidecar, &whole).expect("written");

    let begun = Instant::now();
    let freed = store.compress(&job()).await.expect("compressed");
    let ratio = (LINES * LINE_BYTES) as f64 / (LINES * LINE_BYTES - freed) as f64;
    let rate = (LINES * LINE_BYTES) as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("compressed and read back at {rate:.0} MB/s, {ratio:.1} times smaller");
    lookups(dir, "compressed").await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    runtime.block_on(run(dir.path()));
}
