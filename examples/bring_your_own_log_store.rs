//! A backend of your own: logs as rows of a table, as a database would keep them. It implements
//! `LogStore`, and the conformance suite says whether it keeps the contract.
//!
//! `cargo run --example bring_your_own_log_store` writes a log through it;
//! `cargo test --example bring_your_own_log_store` runs the laws.
#![cfg_attr(not(test), expect(clippy::print_stdout, reason = "an example shows something"))]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::{ByteRange, JobId};
use danube_logs::{
    Error, Landmark, LogPhase, LogStat, LogState, LogStore, LogTail, MAX_READ_BYTES, Sought,
};
use tokio::sync::watch;

/// The table: one row for each append, in order.
#[derive(Debug, Default)]
struct Table {
    logs: BTreeMap<JobId, Rows>,
    sessions: u64,
}

#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Bytes>,
    /// The end of a log whose head is full, as `LogWriter` brought it, and what went before that.
    ring: Option<(Vec<(Bytes, u64)>, LogTail)>,
    state: Arc<LogState>,
    sealed: bool,
    /// The session that writes it. A real database would hold an advisory lock.
    session: Option<u64>,
}

/// One session with the database: what it owns ends with it.
#[derive(Debug)]
struct TableLogs {
    table: Arc<Mutex<Table>>,
    changes: watch::Sender<()>,
    session: u64,
}

impl TableLogs {
    fn connect(table: &Arc<Mutex<Table>>, changes: &watch::Sender<()>) -> Self {
        let mut locked = table.lock().unwrap_or_else(PoisonError::into_inner);
        locked.sessions += 1;
        Self { table: table.clone(), changes: changes.clone(), session: locked.sessions }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on a log that this session writes.
    fn owned<T>(
        &self,
        log: &JobId,
        change: impl FnOnce(&mut Rows) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut table = self.table();
        let rows = table.logs.get_mut(log).filter(|rows| rows.session == Some(self.session));
        let rows = rows.ok_or_else(|| Error::NotOwned { log: log.clone() })?;
        if rows.sealed {
            return Err(Error::Sealed { log: log.clone() });
        }
        let changed = change(rows);
        drop(table);
        self.changes.send_replace(());
        changed
    }
}

impl Rows {
    fn bytes(&self) -> Vec<u8> {
        self.rows.concat()
    }

    fn stat(&self) -> LogStat {
        let phase = match (self.sealed, self.session) {
            (true, _) => LogPhase::Sealed,
            (false, Some(_)) => LogPhase::Open,
            (false, None) => LogPhase::Abandoned,
        };
        let len = self.rows.iter().map(|row| row.len() as u64).sum();
        LogStat { len, phase, owned: self.session.is_some(), state: self.state.clone() }
    }
}

impl Drop for TableLogs {
    fn drop(&mut self) {
        for rows in self.table().logs.values_mut() {
            rows.session = rows.session.filter(|session| *session != self.session);
        }
        self.changes.send_replace(());
    }
}

impl fmt::Display for TableLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("logs in a table")
    }
}

#[async_trait]
impl LogStore for TableLogs {
    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        let mut table = self.table();
        let rows = table.logs.entry(log.clone()).or_default();
        if rows.sealed {
            return Err(Error::Sealed { log: log.clone() });
        }
        if rows.session.is_some() {
            return Err(Error::Owned { log: log.clone() });
        }
        rows.session = Some(self.session);
        Ok(rows.stat())
    }

    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        self.owned(log, |rows| {
            let actual = rows.stat().len;
            if actual != at {
                return Err(Error::OffsetConflict { log: log.clone(), expected: at, actual });
            }
            let end = at + bytes.len() as u64;
            rows.rows.push(bytes);
            Ok(end)
        })
    }

    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        self.owned(log, |rows| {
            let (ring, dropped) = rows.ring.get_or_insert_default();
            ring.push((lines, output));
            let len =
                |rows: &[(Bytes, u64)]| rows.iter().map(|(row, _)| row.len() as u64).sum::<u64>();
            while len(&ring[1..]) >= keep {
                let (lines, output) = ring.remove(0);
                dropped.dropped_lines += lines.iter().filter(|&&b| b == b'\n').count() as u64;
                dropped.dropped_output += output;
            }
            Ok(())
        })
    }

    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        self.owned(log, |rows| {
            Ok(rows.ring.as_ref().map(|(ring, dropped)| {
                let lines: Vec<&[u8]> = ring.iter().map(|(lines, _)| &lines[..]).collect();
                LogTail { lines: lines.concat().into(), ..dropped.clone() }
            }))
        })
    }

    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        let table = self.table();
        let rows = table.logs.get(log).ok_or_else(|| Error::NotFound { log: log.clone() })?;
        let bytes = rows.bytes();
        let range = ByteRange::with_len(range.start, range.len().min(MAX_READ_BYTES));
        let range = range.clamp_end(bytes.len() as u64);
        let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        Ok(Bytes::copy_from_slice(&bytes[index(range.start)..index(range.end)]))
    }

    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        let table = self.table();
        table.logs.get(log).map(Rows::stat).ok_or_else(|| Error::NotFound { log: log.clone() })
    }

    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let stat = self.stat(log).await?;
            if stat.len > beyond || stat.phase != LogPhase::Open {
                return Ok(stat);
            }
            // The sender lives as long as this session.
            let _ = changes.changed().await;
        }
    }

    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        self.owned(log, |rows| {
            rows.state = Arc::new(state.clone());
            Ok(())
        })
    }

    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        let sealed = self.owned(log, |rows| {
            rows.state = Arc::new(state.clone());
            rows.sealed = true;
            rows.ring = None;
            Ok(())
        });
        match sealed {
            Err(Error::Sealed { .. }) => Ok(()),
            other => other,
        }
    }

    fn release(&self, log: &JobId) {
        if let Some(rows) = self.table().logs.get_mut(log) {
            rows.session = rows.session.filter(|session| *session != self.session);
        }
        self.changes.send_replace(());
    }

    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        let mut table = self.table();
        match table.logs.get(log).map(Rows::stat) {
            None => Ok(0),
            Some(stat) if stat.owned => Err(Error::Owned { log: log.clone() }),
            Some(stat) => {
                table.logs.remove(log);
                Ok(stat.len)
            }
        }
    }

    async fn landmark(&self, log: &JobId, _sought: Sought) -> Result<Landmark, Error> {
        // The beginning is always right; a table of many large logs would keep a `LineIndex` for each.
        self.stat(log).await.map(|_| Landmark::default())
    }

    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        let table = self.table();
        let later = table.logs.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        Ok(later.take(limit).map(|(id, rows)| (id.clone(), rows.stat())).collect())
    }
}

#[cfg(not(test))]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use danube_core::{OutputStream, Passthrough, SystemClock};
    use danube_logs::{LogOptions, LogWriter};

    let logs = TableLogs::connect(&Arc::default(), &watch::Sender::new(()));
    let store: Arc<dyn LogStore> = Arc::new(logs);
    let job: JobId = "example".parse()?;
    let clock = Arc::new(SystemClock);
    let writer =
        LogWriter::create(store.clone(), job.clone(), clock, LogOptions::default()).await?;
    let (out, err) = (Box::new(Passthrough), Box::new(Passthrough));
    let step = writer.step("greet".parse()?, out, err).await?;
    step.write(OutputStream::Stdout, b"kept in rows\n").await?;
    step.finish().await?;
    let sealed = writer.seal().await?;
    let text = store.read(&job, ByteRange::new(0, sealed.len)).await?;
    print!("{}", String::from_utf8(text.to_vec())?);
    assert!(text.ends_with(b"[greet] [stdout] kept in rows\n"));
    Ok(())
}

#[cfg(test)]
danube_logs::log_store_conformance!(table, {
    let (table, changes) = (Arc::default(), watch::Sender::new(()));
    move || TableLogs::connect(&table, &changes)
});
