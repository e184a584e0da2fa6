//! The database: who may write when, and what comes back when it cannot.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::Semaphore;

use crate::fault::Fault;
use crate::open::{self, Place};
use crate::schema::{KNOWN, Migrated};
use crate::{Error, sql};

mod artifacts;
mod audit;
mod jobs;
mod secrets;

// SQLite folds the log back at 4 MiB. This much says that something keeps it from doing so.
const WAL_WARNING_BYTES: u64 = 64 << 20;

// How long to wait before trying again where SQLite does not wait by itself.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How to open a database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreOptions {
    /// How long a call waits for other processes before it fails with [`Error::Busy`]. 5 s unless told.
    pub busy_timeout: Duration,
    /// How many calls may read at once, each on a connection of its own that is opened when it is first
    /// needed: 1 to 64, 4 unless told.
    pub readers: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { busy_timeout: Duration::from_secs(5), readers: 4 }
    }
}

impl StoreOptions {
    /// The same, waiting so long for other processes.
    #[must_use]
    pub fn with_busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    /// The same, with so many readers at once.
    #[must_use]
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers.clamp(1, 64);
        self
    }
}

/// Records in one SQLite file: a [`JobStore`](crate::JobStore), an
/// [`ArtifactIndex`](danube_artifacts::ArtifactIndex), a [`SecretVault`](danube_secrets::SecretVault) and
/// an [`AuditLog`](crate::AuditLog). Clones share their connections.
///
/// * **Processes.** Any number of processes of one machine may use one file. In each there is one
///   writer; whoever writes waits for the others, at most for
///   [`busy_timeout`](StoreOptions::busy_timeout). Readers wait for nobody. No transaction outlives the
///   call that began it.
/// * **Durability.** What a call acknowledged survives the death of the machine: every transaction is
///   synced to the disk before it is acknowledged.
/// * **Files.** The file is private (0600), in a directory that is made private (0700) when it does not
///   exist. `-wal` and `-shm` beside it belong to it: nothing here ever deletes them, and SQLite does
///   when the last process closes the database in good order. Whoever copies the file takes them along.
/// * **Cancel safety.** A call that is dropped goes on in the background and happens whole or not at all.
///
/// Dropping the last clone closes the database, which may write to it: the changes of the log go into
/// the file.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    place: Place,
    options: StoreOptions,
    migrated: Migrated,
    writer: Arc<tokio::sync::Mutex<Connection>>,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    next_wal_warning: AtomicU64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database {}", self.path().display())
    }
}

impl Store {
    /// Opens the database at `path`, makes it when there is none, and brings its schema up to date:
    /// whole or not at all, also when several processes do so at once.
    ///
    /// It needs a tokio runtime with its timer.
    ///
    /// # Errors
    ///
    /// [`Error::NewerSchema`], [`Error::Foreign`] and [`Error::OrphanedWal`] before anything is written;
    /// [`Error::Corrupt`], [`Error::Unwritable`], [`Error::Full`], [`Error::NoWal`], [`Error::Busy`].
    pub async fn open(path: &Path, options: StoreOptions) -> Result<Self, Error> {
        // A later change of the work directory must not change which file this is.
        let path = std::path::absolute(path)
            .map_err(|source| Error::Unwritable { path: path.to_owned(), source: source.into() })?;
        let options = StoreOptions { readers: options.readers.clamp(1, 64), ..options };
        let deadline = tokio::time::Instant::now() + options.busy_timeout;
        let (place, writer, migrated) = loop {
            let (path, options) = (path.clone(), options.clone());
            match blocking(move || open::open(&path, &options)).await {
                // SQLite does not wait where two processes turn on the log at once.
                Err(Error::Busy { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                other => break other?,
            }
        };
        Ok(Self(Arc::new(Inner {
            place,
            migrated,
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            slots: Arc::new(Semaphore::new(options.readers)),
            idle: Mutex::default(),
            next_wal_warning: AtomicU64::new(WAL_WARNING_BYTES),
            options,
        })))
    }

    /// What opening did to the schema.
    #[must_use]
    pub fn migrated(&self) -> Migrated {
        self.0.migrated
    }

    /// Where the database lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.place.path
    }

    /// Runs `work` on what the database holds at one moment.
    async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let inner = self.0.clone();
        let permit = inner.slots.clone().acquire_owned().await.expect("it is never closed");
        blocking(move || {
            let _permit = permit;
            inner.place.check()?;
            let idle = inner.idle().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => open::open_reader(&inner.place, &inner.options)
                    .map_err(|error| inner.explain(error.into(), operation))?,
            };
            let result = connection
                .transaction()
                .map_err(Fault::from)
                .and_then(|transaction| work(&transaction))
                .map_err(|fault| inner.explain(fault, operation));
            inner.idle().push(connection);
            result
        })
        .await
    }

    /// Runs `work` as the one writer, and commits what it did unless it fails.
    async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.write_as(Synchronous::Full, operation, work).await
    }

    async fn write_as<T, F>(
        &self,
        synchronous: Synchronous,
        operation: &'static str,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let inner = self.0.clone();
        let mut writer = inner.writer.clone().lock_owned().await;
        blocking(move || {
            inner.place.check()?;
            let result = inner
                .write_once(&mut writer, synchronous, work)
                .map_err(|fault| inner.explain(fault, operation))?;
            inner.watch_the_log();
            Ok(result)
        })
        .await
    }
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy)]
enum Synchronous {
    /// The disk: what is acknowledged survives the death of the machine.
    Full,
    /// The system: it survives the death of the process now, and that of the machine with the next commit that is
    /// full, which syncs the same log.
    Normal,
}

impl Synchronous {
    const fn pragma(self) -> &'static str {
        match self {
            Self::Full => "PRAGMA synchronous = FULL",
            Self::Normal => "PRAGMA synchronous = NORMAL",
        }
    }
}

impl Inner {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // Push and pop leave a vector whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explain(&self, fault: Fault, operation: &'static str) -> Error {
        fault.explain(&self.place.path, self.options.busy_timeout, operation)
    }

    fn write_once<T>(
        &self,
        writer: &mut Connection,
        synchronous: Synchronous,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if !writer.is_autocommit() {
            // The rollback of a call before failed with the disk.
            writer.execute_batch("ROLLBACK")?;
        }
        writer.execute_batch(synchronous.pragma())?;
        // IMMEDIATE: a transaction that begins as a reader cannot wait for its turn to write.
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: u32 =
            transaction.prepare_cached(sql::SCHEMA_VERSION)?.query_row([], |row| row.get(0))?;
        if version > KNOWN {
            // A newer version of this program migrated it since it was opened here.
            return Err(Fault::Known(Error::NewerSchema {
                path: self.place.path.clone(),
                found: version,
                known: KNOWN,
            }));
        }
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    fn watch_the_log(&self) {
        let bytes = self.place.wal_bytes();
        if bytes < self.next_wal_warning.load(Ordering::Relaxed) {
            return;
        }
        self.next_wal_warning.store(bytes.saturating_mul(2), Ordering::Relaxed);
        let path = self.place.path.display();
        tracing::warn!(
            %path, wal_bytes = bytes,
            "the database's log grows: some process keeps a read transaction open"
        );
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and the work never began.
            Err(error) => Err(Error::Stopped { source: error.into() }),
        },
    }
}

#[cfg(test)]
mod tests;
