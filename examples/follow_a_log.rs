//! Follows a log while somebody writes it, and ends when it is sealed, with exactly its bytes.
//!
//! `cargo run --example follow_a_log`
#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::sync::Arc;

use danube_core::{ByteRange, JobId, OutputStream, Passthrough, SystemClock};
use danube_logs::{FollowEvent, Follower, FsLogs, LogOptions, LogStore, LogWriter};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir.path().join("logs")));
    let job: JobId = "example".parse()?;
    let clock = Arc::new(SystemClock);
    let writer =
        LogWriter::create(store.clone(), job.clone(), clock, LogOptions::default()).await?;

    let write = async {
        let (out, err) = (Box::new(Passthrough), Box::new(Passthrough));
        let step = writer.step("count".parse()?, out, err).await?;
        for n in 1..=5 {
            step.write(OutputStream::Stdout, format!("line {n}\n").as_bytes()).await?;
            tokio::task::yield_now().await;
        }
        step.finish().await?;
        writer.seal().await?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };

    // A follower holds an offset, no queue: it may be as slow as it likes, and begin anywhere.
    let follow = async {
        let mut follower = Follower::new(store.clone(), job.clone(), 0);
        let mut seen = Vec::new();
        loop {
            match follower.next().await? {
                FollowEvent::Bytes { range, bytes } => {
                    println!("bytes {range}");
                    seen.extend_from_slice(&bytes);
                }
                FollowEvent::End(phase) => {
                    println!("the log is {phase:?}");
                    return Ok::<_, Box<dyn std::error::Error>>(seen);
                }
                _ => {}
            }
        }
    };

    let (written, seen) = tokio::join!(write, follow);
    written?;
    let seen = seen?;
    let stored = store.read(&job, ByteRange::new(0, u64::MAX)).await?;
    assert_eq!(seen, stored);
    assert_eq!(stored.iter().filter(|&&b| b == b'\n').count(), 5);
    Ok(())
}
