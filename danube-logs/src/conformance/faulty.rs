//! A store under which everything goes wrong that may, for whoever keeps the contract.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::{ByteRange, JobId};

use crate::{Error, Landmark, LogStat, LogState, LogStore, LogTail, Sought};

/// A store over another one, in which calls are delayed, dropped in the middle, and refused, and then made
/// again as the contract says: what a caller sees must obey every law all the same.
///
/// Its plan is a count of calls, so that a failure comes again.
#[derive(Debug)]
pub struct Faulty<T> {
    inner: T,
    calls: AtomicU64,
}

impl<T: LogStore> Faulty<T> {
    /// Faults over `inner`.
    pub fn new(inner: T) -> Self {
        Self { inner, calls: AtomicU64::new(0) }
    }

    /// A number that decides what happens to this call.
    fn turn(&self) -> u64 {
        // An odd step through 16 bits: neighbours in time meet different fates.
        self.calls.fetch_add(1, Ordering::Relaxed).wrapping_mul(40_503) >> 3
    }

    async fn delay(&self, turn: u64) {
        for _ in 0..turn % 4 {
            tokio::task::yield_now().await;
        }
    }

    /// For what may be dropped at any time: begins it, drops it after some polls, and does it again.
    async fn interrupted<F: Future>(&self, call: impl Fn() -> F) -> F::Output {
        let turn = self.turn();
        self.delay(turn).await;
        for _ in 0..turn % 3 {
            tokio::select! {
                biased;
                result = call() => return result,
                () = self.delay(1 + turn) => {}
            }
        }
        call().await
    }
}

impl<T: fmt::Display> fmt::Display for Faulty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with faults", self.inner)
    }
}

/// Polls a call once or twice, and drops it.
async fn drop_in_the_middle(call: impl Future) {
    tokio::select! {
        biased;
        _ = call => {}
        () = tokio::task::yield_now() => {}
    }
}

#[async_trait]
impl<T: LogStore> LogStore for Faulty<T> {
    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        self.delay(self.turn()).await;
        self.inner.open(log).await
    }

    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        let turn = self.turn();
        self.delay(turn).await;
        if turn.is_multiple_of(5) {
            // An append that is refused leaves nothing behind: neither is this one there before it is made.
            let elsewhere = self.inner.append(log, at.wrapping_add(1), bytes.clone()).await;
            debug_assert!(elsewhere.is_err(), "{elsewhere:?}");
        }
        if turn.is_multiple_of(3) {
            drop_in_the_middle(self.inner.append(log, at, bytes.clone())).await;
        }
        let end = at.wrapping_add(bytes.len() as u64);
        match self.inner.append(log, at, bytes).await {
            // The one that was dropped has been carried out after all, or the caller is wrong by itself.
            Err(Error::OffsetConflict { actual, .. })
                if actual == end && turn.is_multiple_of(3) =>
            {
                Ok(end)
            }
            other => other,
        }
    }

    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        // Nothing tells whether one that was dropped has been carried out: it is made once.
        self.delay(self.turn()).await;
        self.inner.append_tail(log, lines, output, keep).await
    }

    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        self.interrupted(|| self.inner.tail(log)).await
    }

    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        self.interrupted(|| self.inner.read(log, range)).await
    }

    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        self.interrupted(|| self.inner.stat(log)).await
    }

    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        self.interrupted(|| self.inner.changed(log, beyond)).await
    }

    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.interrupted(|| self.inner.sync(log, state)).await
    }

    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        let turn = self.turn();
        self.delay(turn).await;
        if turn.is_multiple_of(2) {
            drop_in_the_middle(self.inner.seal(log, state)).await;
        }
        self.inner.seal(log, state).await
    }

    fn release(&self, log: &JobId) {
        self.inner.release(log);
    }

    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        self.delay(self.turn()).await;
        self.inner.delete(log).await
    }

    async fn landmark(&self, log: &JobId, sought: Sought) -> Result<Landmark, Error> {
        self.interrupted(|| self.inner.landmark(log, sought)).await
    }

    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        self.interrupted(|| self.inner.list(after, limit)).await
    }
}
