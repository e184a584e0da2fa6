//! Long puts and uploads that are killed at any moment. Ordinarily a few and small; for the figures that
//! the crate promises:
//!
//! ```sh
//! DANUBE_TEST_KILLS=500 DANUBE_TEST_BYTES=1000000000 DANUBE_TEST_UPLOAD_BYTES=2000000000 \
//!     cargo test -p danube-artifacts --lib kills:: -- --nocapture
//! ```
//!
//! It needs room for four files of the larger size where temporary files lie.

use super::*;
use crate::{DEFAULT_PART_BYTES, Part, UploadId, UploadSessions, UploadState, send_file};
use async_trait::async_trait;
use bytes::Bytes;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;
use tokio::time::Instant;

const KILLS: u64 = 8;
const BYTES: u64 = 24_000_000;
const UPLOAD_BYTES: u64 = 50_000_000;
const CHUNK_BYTES: usize = 250_000;

#[expect(clippy::disallowed_methods, reason = "whoever runs the test says how much of it")]
fn told(what: &str, ordinarily: u64) -> u64 {
    std::env::var(what).map_or(ordinarily, |told| told.parse().unwrap())
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes) % below.max(1)
}

/// The content of a version: no chunk is one of another version, or another one of its own.
fn chunks_of(version: u64, len: u64) -> impl Iterator<Item = Vec<u8>> + Send {
    let pattern: Vec<u8> = (0..CHUNK_BYTES as u64).map(|at| ((at * at) >> 5) as u8).collect();
    (0..len.div_ceil(CHUNK_BYTES as u64)).map(move |at| {
        let left = usize::try_from(len - at * CHUNK_BYTES as u64).unwrap_or(usize::MAX);
        let mut chunk = pattern[..left.min(CHUNK_BYTES)].to_vec();
        chunk[..8].copy_from_slice(&version.to_le_bytes());
        chunk[8..16].copy_from_slice(&at.to_le_bytes());
        chunk
    })
}

fn is_whole(path: &Path, version: u64, len: u64) -> bool {
    let mut file = File::open(path).unwrap();
    let mut found = vec![0; CHUNK_BYTES];
    let same = chunks_of(version, len).all(|chunk| {
        let found = &mut found[..chunk.len()];
        file.read_exact(found).is_ok() && *found == chunk
    });
    same && file.read(&mut [0]).unwrap() == 0
}

/// A process that says what it does, line by line.
struct Talking {
    child: Child,
    lines: mpsc::Receiver<String>,
    reader: std::thread::JoinHandle<()>,
}

impl Talking {
    fn start(test: &str, dir: &Path, case: &str) -> Self {
        let mut command = another_process(test, dir, None);
        let mut child = command.env("DANUBE_TEST_CASE", case).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { child, lines, reader }
    }

    fn wait_for(&self, begin: &str) -> Option<String> {
        self.lines.iter().find(|line| line.starts_with(begin))
    }

    /// Kills it after a while, which need not be exact, and tells what it said since.
    fn kill_after(mut self, while_: Duration) -> Vec<String> {
        let deadline = Instant::now() + while_;
        let mut said = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) => said.push(line),
                Err(_) => break,
            }
        }
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        said.extend(self.lines.iter());
        said
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn case() -> String {
    #[expect(clippy::disallowed_methods, reason = "the test that starts it says which case it is")]
    std::env::var("DANUBE_TEST_CASE").unwrap()
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{line}").and_then(|()| stdout.flush()).unwrap();
}

/// Puts one version after the other until it is killed; at most four, should nobody kill it.
#[test]
#[ignore = "long_puts_killed_at_any_moment_are_whole_or_not_there runs it and kills it"]
fn put_versions() {
    let len: u64 = case().parse().unwrap();
    let store = FsBlobs::new(".");
    say("begun");
    for version in 0..4_u64 {
        let chunks = chunks_of(version, len).map(|chunk| Ok(Bytes::from(chunk)));
        let body: crate::ByteStream = Box::pin(futures_util::stream::iter(chunks));
        let name = key(&format!("v{version}"));
        runtime().block_on(store.put(&name, body, PutOptions::default())).unwrap();
        say(&format!("stored {version}"));
    }
}

#[test]
fn long_puts_killed_at_any_moment_are_whole_or_not_there() {
    let (kills, len) = (told("DANUBE_TEST_KILLS", KILLS), told("DANUBE_TEST_BYTES", BYTES));
    let dir = tempfile::tempdir().unwrap();
    let start = || Talking::start("kills::put_versions", dir.path(), &len.to_string());
    let runtime = runtime();
    let clean = || {
        runtime.block_on(async {
            let store = FsBlobs::new(dir.path());
            put(&store, "next", &[1; 10_000]).await.unwrap();
            assert_eq!(names(&dir.path().join(".tmp")), [""; 0], "what a dead one left");
            store.sweep(Timestamp::MAX).await.unwrap();
            for blob in store.list(&"j".parse().unwrap()).await.unwrap() {
                store.delete(&blob).await.unwrap();
            }
            store.sweep(Timestamp::MAX).await.unwrap();
        });
        let left = Command::new("find").arg(dir.path()).args(["!", "-type", "d"]).output();
        assert_eq!(String::from_utf8_lossy(&left.unwrap().stdout), "", "something is left");
    };
    // As long as one put takes here, so that moments are as likely in its end as in its middle.
    let first = start();
    first.wait_for("begun").unwrap();
    let begun = Instant::now();
    first.wait_for("stored 0").unwrap();
    let one_put = begun.elapsed();
    first.kill_after(Duration::ZERO);
    clean();

    let (mut half_written, mut acknowledged, mut unheard) = (0, 0, 0);
    for kill in 0..kills {
        let child = start();
        child.wait_for("begun").unwrap();
        let while_ = one_put.mul_f64(random(1500) as f64 / 1000.0);
        let said = child.kill_after(while_);
        let stored: Vec<u64> =
            said.iter().filter_map(|line| line.strip_prefix("stored ")?.parse().ok()).collect();
        half_written += u64::from(!names(&dir.path().join(".tmp")).is_empty());
        for version in 0..4 {
            let path = dir.path().join(format!("j/v{version}"));
            let is_there = path.exists();
            assert!(is_there || !stored.contains(&version), "kill {kill}: {version} is lost");
            assert!(
                !is_there || is_whole(&path, version, len),
                "kill {kill}: {version} is partial"
            );
            unheard += u64::from(is_there && !stored.contains(&version));
        }
        acknowledged += stored.len();
        clean();
    }
    println!(
        "{kills} kills of puts of {len} bytes: {half_written} left a file half written, \
         {acknowledged} puts were acknowledged and there, {unheard} there and not acknowledged"
    );
}

/// Says what goes through.
#[derive(Debug)]
struct Told(FsBlobs);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl UploadSessions for Told {
    async fn begin(&self, key: &BlobKey, put: PutOptions, part: u64) -> Result<UploadId, Error> {
        self.0.begin(key, put, part).await
    }
    async fn put_part(&self, id: &UploadId, number: u32, bytes: Bytes) -> Result<Part, Error> {
        say(&format!("sending {number} {}", bytes.len()));
        let part = self.0.put_part(id, number, bytes).await?;
        say(&format!("acknowledged {number}"));
        Ok(part)
    }
    async fn upload(&self, id: &UploadId) -> Result<UploadState, Error> {
        self.0.upload(id).await
    }
    async fn uploads(&self) -> Result<Vec<UploadId>, Error> {
        self.0.uploads().await
    }
    async fn complete(&self, id: &UploadId) -> Result<Stored, Error> {
        self.0.complete(id).await
    }
    async fn abort(&self, id: &UploadId) -> Result<(), Error> {
        self.0.abort(id).await
    }
    async fn sweep_uploads(&self, before: Timestamp) -> Result<u64, Error> {
        self.0.sweep_uploads(before).await
    }
}

/// Client and store in one process: both die.
#[test]
#[ignore = "a_killed_upload_sends_again_only_what_was_on_its_way runs it and kills it"]
fn send_and_complete() {
    let id: UploadId = case().parse().unwrap();
    let store = Told(FsBlobs::new("."));
    runtime().block_on(async {
        let file = File::open("source").unwrap();
        send_file(&store, &id, file, |_| {}).await.unwrap();
        store.complete(&id).await.unwrap();
    });
    say("complete");
}

#[test]
fn a_killed_upload_sends_again_only_what_was_on_its_way() {
    let len = told("DANUBE_TEST_UPLOAD_BYTES", UPLOAD_BYTES);
    let dir = tempfile::tempdir().unwrap();
    let mut source = File::create(dir.path().join("source")).unwrap();
    chunks_of(7, len).for_each(|chunk| source.write_all(&chunk).unwrap());
    let store = FsBlobs::new(dir.path());
    let part_bytes = DEFAULT_PART_BYTES.min(len / 20);
    let key = key("a");
    let begun = store.begin(&key, PutOptions::default(), part_bytes);
    let id = runtime().block_on(begun).unwrap();

    let mut acknowledged = std::collections::BTreeSet::new();
    let (mut kills, mut sent_bytes, mut complete) = (0_u64, 0, false);
    while !complete {
        let child = Talking::start("kills::send_and_complete", dir.path(), id.as_str());
        // Killed after some parts more: while the next one is sent, or noted, or all are made one.
        let mut said = Vec::new();
        let mut parts = 1 + random(len / part_bytes / 5);
        for line in &child.lines {
            parts -= u64::from(line.starts_with("sending"));
            said.push(line);
            if parts == 0 {
                break;
            }
        }
        said.extend(child.kill_after(Duration::from_micros(random(30_000))));
        kills += 1;
        for line in &said {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["sending", number, bytes] => {
                    assert!(!acknowledged.contains(number), "part {number} was sent again");
                    sent_bytes += bytes.parse::<u64>().unwrap();
                }
                ["acknowledged", number] => drop(acknowledged.insert(number.to_owned())),
                ["complete"] => complete = true,
                _ => {}
            }
        }
        assert!(kills < 10_000, "it does not get on");
    }
    let again = sent_bytes - len;
    assert!(again <= kills * part_bytes, "{again} bytes were sent again after {kills} kills");
    assert!(is_whole(&dir.path().join("j/a"), 7, len));
    println!(
        "an upload of {len} bytes in parts of {part_bytes}, killed {kills} times: {again} bytes \
         were sent again, of parts that were not acknowledged"
    );
}
