//! Logs in memory: for tests, and for hosts that keep nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::{ByteRange, JobId};
use tokio::sync::watch;

use crate::index::{Landmark, LineIndex, Sought};
use crate::line::Omitted;
use crate::{Error, LogPhase, LogStat, LogState, LogStore, LogTail, MAX_READ_BYTES};

/// Logs in memory. Clones are one owner; [`other_owner`](Self::other_owner) is another over the same
/// logs.
#[derive(Debug, Clone, Default)]
pub struct MemoryLogs(Arc<Owner>);

#[derive(Debug, Default)]
struct Owner {
    shared: Arc<Shared>,
    /// What tells this owner from the others: its address would do, but is not `Debug`-stable.
    id: u64,
}

#[derive(Debug, Default)]
struct Shared {
    logs: Mutex<Logs>,
}

#[derive(Debug, Default)]
struct Logs {
    logs: BTreeMap<JobId, Log>,
    owners: u64,
}

#[derive(Debug, Default)]
struct Log {
    bytes: Vec<u8>,
    state: Arc<LogState>,
    sealed: bool,
    owner: Option<u64>,
    ring: Option<Ring>,
    index: LineIndex,
    /// Ticks whenever this log changes; gone with it.
    changes: watch::Sender<()>,
}

/// The newest lines of a log whose head is full, as they were appended.
#[derive(Debug, Default)]
struct Ring {
    dropped: Omitted,
    lines: VecDeque<(Bytes, Omitted)>,
    bytes: u64,
}

impl MemoryLogs {
    /// No logs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another owner over the same logs, as another process would be.
    #[must_use]
    pub fn other_owner(&self) -> Self {
        let shared = self.0.shared.clone();
        let id = {
            let mut logs = shared.lock();
            logs.owners += 1;
            logs.owners
        };
        Self(Arc::new(Owner { shared, id }))
    }

    fn with<T>(
        &self,
        log: &JobId,
        use_it: impl FnOnce(&mut Log) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.0.shared.lock().logs.get_mut(log) {
            Some(found) => use_it(found),
            None => Err(Error::NotFound { log: log.clone() }),
        }
    }

    /// Runs `change` on a log that this owner writes.
    fn owned<T>(
        &self,
        log: &JobId,
        change: impl FnOnce(&mut Log) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let changed = self.with(log, |found| {
            if found.sealed {
                return Err(Error::Sealed { log: log.clone() });
            }
            if found.owner != Some(self.0.id) {
                return Err(Error::NotOwned { log: log.clone() });
            }
            let changed = change(found);
            found.changes.send_replace(());
            changed
        });
        match changed {
            Err(Error::NotFound { log }) => Err(Error::NotOwned { log }),
            other => other,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        for log in self.shared.lock().logs.values_mut() {
            log.release(self.id);
        }
    }
}

impl Log {
    fn release(&mut self, owner: u64) {
        if self.owner == Some(owner) {
            self.owner = None;
            self.changes.send_replace(());
        }
    }

    fn stat(&self) -> LogStat {
        let phase = match (self.sealed, self.owner) {
            (true, _) => LogPhase::Sealed,
            (false, Some(_)) => LogPhase::Open,
            (false, None) => LogPhase::Abandoned,
        };
        let owned = self.owner.is_some();
        LogStat { len: self.bytes.len() as u64, phase, owned, state: self.state.clone() }
    }
}

impl fmt::Display for MemoryLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("logs in memory")
    }
}

#[async_trait]
impl LogStore for MemoryLogs {
    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        let mut logs = self.0.shared.lock();
        let found = logs.logs.entry(log.clone()).or_default();
        if found.sealed {
            return Err(Error::Sealed { log: log.clone() });
        }
        if found.owner.is_some() {
            return Err(Error::Owned { log: log.clone() });
        }
        found.owner = Some(self.0.id);
        Ok(found.stat())
    }

    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        self.owned(log, |found| {
            let actual = found.bytes.len() as u64;
            if actual != at {
                return Err(Error::OffsetConflict { log: log.clone(), expected: at, actual });
            }
            found.bytes.extend_from_slice(&bytes);
            found.index.push(&bytes);
            Ok(found.bytes.len() as u64)
        })
    }

    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        self.with(log, |found| {
            let range = ByteRange::with_len(range.start, range.len().min(MAX_READ_BYTES));
            let range = range.clamp_end(found.bytes.len() as u64);
            let index = |at| usize::try_from(at).unwrap_or(usize::MAX);
            Ok(Bytes::copy_from_slice(&found.bytes[index(range.start)..index(range.end)]))
        })
    }

    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        self.with(log, |found| Ok(found.stat()))
    }

    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        loop {
            let (stat, mut changes) =
                self.with(log, |found| Ok((found.stat(), found.changes.subscribe())))?;
            if stat.len > beyond || stat.phase != LogPhase::Open {
                return Ok(stat);
            }
            // An error says that the log was deleted: so does the next look.
            let _ = changes.changed().await;
        }
    }

    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        self.owned(log, |found| {
            let ring = found.ring.get_or_insert_default();
            let count = memchr::memchr_iter(b'\n', &lines).count() as u64;
            ring.bytes += lines.len() as u64;
            ring.lines.push_back((lines, Omitted { lines: count, output }));
            while let Some((oldest, omitted)) = ring.lines.front()
                && ring.bytes - oldest.len() as u64 >= keep
            {
                ring.dropped += *omitted;
                ring.bytes -= oldest.len() as u64;
                ring.lines.pop_front();
            }
            Ok(())
        })
    }

    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        self.owned(log, |found| {
            Ok(found.ring.as_ref().map(|ring| {
                let lines: Vec<&[u8]> = ring.lines.iter().map(|(lines, _)| &lines[..]).collect();
                LogTail {
                    dropped_lines: ring.dropped.lines,
                    dropped_output: ring.dropped.output,
                    lines: lines.concat().into(),
                }
            }))
        })
    }

    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.owned(log, |found| {
            found.state = Arc::new(state.clone());
            Ok(())
        })
    }

    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        let sealed = self.owned(log, |found| {
            found.state = Arc::new(state.clone());
            found.sealed = true;
            found.ring = None;
            Ok(())
        });
        match sealed {
            Err(Error::Sealed { .. }) => Ok(()),
            other => other,
        }
    }

    fn release(&self, log: &JobId) {
        if let Some(found) = self.0.shared.lock().logs.get_mut(log) {
            found.release(self.0.id);
        }
    }

    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        let mut logs = self.0.shared.lock();
        let freed = match logs.logs.get(log) {
            None => 0,
            Some(found) if found.owner.is_some() => return Err(Error::Owned { log: log.clone() }),
            Some(found) => found.bytes.len() as u64,
        };
        logs.logs.remove(log);
        Ok(freed)
    }

    async fn landmark(&self, log: &JobId, sought: Sought) -> Result<Landmark, Error> {
        self.with(log, |found| Ok(found.index.landmark(sought)))
    }

    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        let logs = self.0.shared.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = logs.logs.range((from, Bound::Unbounded));
        Ok(range.take(limit).map(|(id, log)| (id.clone(), log.stat())).collect())
    }
}
