//! What a stream follows: a log in small pieces, beyond the death of its writer.
//!
//! A log whose owner died is abandoned until somebody takes it over: closes its last line, says in it
//! what happened, and seals it. Followers are to get those lines too, so they must not see the moment
//! in between.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::{ByteRange, JobId};
use danube_logs::{Error, Landmark, LogPhase, LogStat, LogState, LogStore, LogTail, Sought};
use tokio::time::{Instant, sleep};

/// Bytes that a stream reads at once. A follower alone would read more, which is quicker; here
/// thousands may be stalled, each with what it has read.
const PIECE_BYTES: u64 = 32 * 1024;

/// How often an abandoned log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A store in which an abandoned log looks open for a while: `changed` waits for whoever takes it over,
/// and `read` gives small pieces. One per follower, since it remembers since when the log is abandoned.
#[derive(Debug)]
pub(super) struct AwaitTakeover {
    inner: Arc<dyn LogStore>,
    patience: Duration,
    abandoned_since: Mutex<Option<Instant>>,
}

impl AwaitTakeover {
    pub(super) fn new(inner: Arc<dyn LogStore>, patience: Duration) -> Self {
        Self { inner, patience, abandoned_since: Mutex::new(None) }
    }

    /// Whether a takeover may still come. The clock runs from the first look on, however often the
    /// waiting is broken off in between.
    fn may_come(&self, phase: LogPhase) -> bool {
        let mut since = self.abandoned_since.lock().unwrap_or_else(PoisonError::into_inner);
        if phase != LogPhase::Abandoned {
            *since = None;
            return true;
        }
        since.get_or_insert_with(Instant::now).elapsed() < self.patience
    }
}

impl fmt::Display for AwaitTakeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn as_open(stat: LogStat) -> LogStat {
    match stat.phase {
        LogPhase::Abandoned => LogStat { phase: LogPhase::Open, ..stat },
        LogPhase::Open | LogPhase::Sealed => stat,
    }
}

#[async_trait]
impl LogStore for AwaitTakeover {
    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        self.inner.stat(log).await.map(as_open)
    }

    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        loop {
            let stat = self.inner.changed(log, beyond).await?;
            let may_come = self.may_come(stat.phase);
            if stat.len > beyond {
                return Ok(as_open(stat));
            }
            if stat.phase != LogPhase::Abandoned || !may_come {
                return Ok(stat);
            }
            sleep(LOOK).await;
        }
    }

    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        self.inner.open(log).await
    }

    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        self.inner.append(log, at, bytes).await
    }

    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        let range = ByteRange::with_len(range.start, PIECE_BYTES).clamp_end(range.end);
        self.inner.read(log, range).await
    }

    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        self.inner.append_tail(log, lines, output, keep).await
    }

    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        self.inner.tail(log).await
    }

    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.inner.sync(log, state).await
    }

    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.inner.seal(log, state).await
    }

    fn release(&self, log: &JobId) {
        self.inner.release(log);
    }

    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        self.inner.delete(log).await
    }

    async fn landmark(&self, log: &JobId, sought: Sought) -> Result<Landmark, Error> {
        self.inner.landmark(log, sought).await
    }

    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        self.inner.list(after, limit).await
    }
}
