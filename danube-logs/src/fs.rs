//! Logs as files: `<job>.log` as people read it, `<job>.idx` with its state.

mod reserve;
mod ring;
mod sidecar;

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::files::{Existing, TemporaryFile, create_private_dir, sync_dir};
use danube_core::{ByteRange, ErrorClass, JobId};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tokio::sync::watch;

use self::reserve::Reserve;
use self::ring::Ring;
use crate::{Error, LogPhase, LogStat, LogState, LogStore, LogTail, MAX_READ_BYTES};

/// How often a log that another process writes is looked at. Far below what a reader notices, and
/// two system calls each.
const POLL: Duration = Duration::from_millis(50);

/// Every so many looks the owner's life is asked for too, which costs an open and a lock.
const LOOKS_PER_OWNER_CHECK: u32 = 4;

/// How often `open` tries for the lock: whoever asks whether the owner lives holds it for a moment.
const LOCK_TRIES: u32 = 20;

/// Logs as files in one directory. Clones are one owner.
///
/// The owner of a log holds an exclusive `flock` on it; a lock that is free on a log that is not
/// sealed means that its owner died. Other processes that read are unaffected. While a log is written
/// 256 KiB are reserved beside it; they are given up when the disk is full, so that the end of the
/// log, and whatever its owner has to record about that, still fit. A file size limit (`RLIMIT_FSIZE`)
/// gives an error only where the host handles `SIGXFSZ`; by default that signal ends the process.
#[derive(Debug, Clone)]
pub struct FsLogs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Locked for moments only: runtime threads look in here.
    owned: Mutex<HashMap<JobId, Arc<Owned>>>,
    /// Held while a log is opened, so that two tasks of one owner open it once.
    opening: Mutex<()>,
}

/// A log that this store writes.
#[derive(Debug)]
struct Owned {
    /// Holds the lock.
    file: File,
    /// Held while the file or the ring behind it is written or synced: one at a time, and only on
    /// blocking threads.
    writing: Mutex<Option<Ring>>,
    /// Locked for moments only: runtime threads look in here.
    tail: Mutex<Tail>,
    growth: watch::Sender<()>,
    /// Given up when the disk is full, and at the seal.
    reserve: Mutex<Option<Reserve>>,
}

#[derive(Debug)]
struct Tail {
    len: u64,
    state: Arc<LogState>,
    phase: LogPhase,
    /// Until it is released; somebody may still be looking through a handle from before.
    owned: bool,
}

impl FsLogs {
    /// Logs in `dir`, which is created (0700) with the first one.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            dir: dir.into(),
            owned: Mutex::default(),
            opening: Mutex::default(),
        }))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        log: &JobId,
        work: impl FnOnce(&Inner, &JobId) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (inner, log) = (self.0.clone(), log.clone());
        join(tokio::task::spawn_blocking(move || work(&inner, &log)).await)
    }

    fn find_owned(&self, log: &JobId) -> Result<Arc<Owned>, Error> {
        self.0.lock().get(log).cloned().ok_or_else(|| Error::NotOwned { log: log.clone() })
    }
}

fn join<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl fmt::Display for FsLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "logs in {}", self.0.dir.display())
    }
}

#[async_trait]
impl LogStore for FsLogs {
    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        self.blocking(log, Inner::open).await
    }

    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        let owned = self.find_owned(log)?;
        let id = log.clone();
        join(tokio::task::spawn_blocking(move || owned.append(&id, at, &bytes)).await)
    }

    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        self.blocking(log, move |inner, log| inner.read(log, range)).await
    }

    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        if let Ok(owned) = self.find_owned(log) {
            return Ok(owned.stat());
        }
        self.blocking(log, Inner::stat).await
    }

    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        let is_news = |stat: &LogStat| stat.len > beyond || stat.phase != LogPhase::Open;
        if let Ok(owned) = self.find_owned(log) {
            let mut growth = owned.growth.subscribe();
            loop {
                growth.mark_unchanged();
                let stat = owned.stat();
                if is_news(&stat) {
                    return Ok(stat);
                }
                // The sender lives in `owned`.
                let _ = growth.changed().await;
            }
        }
        let mut looks = 0;
        loop {
            let full = looks % LOOKS_PER_OWNER_CHECK == 0;
            let grown = move |inner: &Inner, log: &JobId| {
                let len = inner.len(log)?;
                if full || len > beyond { inner.stat(log).map(Some) } else { Ok(None) }
            };
            if let Some(stat) = self.blocking(log, grown).await?.filter(is_news) {
                return Ok(stat);
            }
            looks += 1;
            tokio::time::sleep(POLL).await;
        }
    }

    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        let owned = self.find_owned(log)?;
        self.blocking(log, move |inner, log| inner.append_tail(log, &owned, &lines, output, keep))
            .await
    }

    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        let owned = self.find_owned(log)?;
        self.blocking(log, move |_, log| {
            let ring = owned.writing.lock().unwrap_or_else(PoisonError::into_inner);
            ring.as_ref()
                .map(Ring::read)
                .transpose()
                .map_err(|e| io_error(log, "read the end of", e))
        })
        .await
    }

    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        let owned = self.find_owned(log)?;
        let state = state.clone();
        self.blocking(log, move |inner, log| inner.save(log, &owned, state, LogPhase::Open)).await
    }

    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        let owned = match self.find_owned(log) {
            Ok(owned) => owned,
            Err(not_owned) => {
                let sealed = self.stat(log).await.is_ok_and(|stat| stat.phase == LogPhase::Sealed);
                return if sealed { Ok(()) } else { Err(not_owned) };
            }
        };
        let state = state.clone();
        self.blocking(log, move |inner, log| inner.save(log, &owned, state, LogPhase::Sealed)).await
    }

    fn release(&self, log: &JobId) {
        // The lock goes with the last user of the file.
        let released = self.0.lock().remove(log);
        if let Some(owned) = released {
            let mut tail = owned.lock();
            tail.owned = false;
            if tail.phase == LogPhase::Open {
                tail.phase = LogPhase::Abandoned;
            }
            drop(tail);
            owned.growth.send_replace(());
        }
    }

    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        self.blocking(log, Inner::delete).await
    }

    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        let (inner, after) = (self.0.clone(), after.cloned());
        join(tokio::task::spawn_blocking(move || inner.list(after.as_ref(), limit)).await)
    }
}

impl Owned {
    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stat(&self) -> LogStat {
        let tail = self.lock();
        LogStat { len: tail.len, phase: tail.phase, owned: tail.owned, state: tail.state.clone() }
    }

    fn give_up_reserve(&self) {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn append(&self, log: &JobId, at: u64, bytes: &[u8]) -> Result<u64, Error> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let LogStat { len, phase, .. } = self.stat();
        if phase != LogPhase::Open {
            return Err(Error::Sealed { log: log.clone() });
        }
        if len != at {
            return Err(Error::OffsetConflict { log: log.clone(), expected: at, actual: len });
        }
        if let Err(source) = self.file.write_all_at(bytes, at) {
            // All or nothing. Where even this fails, the next append writes over it.
            let _ = self.file.set_len(at);
            if ErrorClass::of_io(&source) == ErrorClass::Exhausted {
                self.give_up_reserve();
            }
            return Err(Error::Io { log: log.clone(), operation: "write", source });
        }
        let end = at + bytes.len() as u64;
        self.lock().len = end;
        self.growth.send_replace(());
        Ok(end)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Owned>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, log: &JobId) -> PathBuf {
        self.dir.join(format!("{log}.log"))
    }

    /// Opens an existing log: a regular file, through no symbolic link, never waiting for a FIFO.
    fn open_file(&self, log: &JobId, write: bool) -> Result<File, Error> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened =
            OpenOptions::new().read(true).write(write).custom_flags(flags).open(self.path(log));
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { log: log.clone() },
            _ => Error::Io { log: log.clone(), operation: "open", source },
        })?;
        let meta = file.metadata().map_err(|source| io_error(log, "look at", source))?;
        if !meta.is_file() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
            return Err(io_error(log, "open", source));
        }
        Ok(file)
    }

    fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = self.lock().get(log).map(|owned| owned.stat().phase);
        match ours {
            Some(LogPhase::Sealed) => return Err(Error::Sealed { log: log.clone() }),
            Some(_) => return Err(Error::Owned { log: log.clone() }),
            None => {}
        }
        create_private_dir(&self.dir).map_err(|e| io_error(log, "make the directory of", e))?;
        for _ in 0..LOCK_TRIES {
            let (file, is_new) = match self.open_file(log, true) {
                Ok(file) => (file, false),
                Err(Error::NotFound { .. }) => match self.create(log)? {
                    Some(file) => (file, true),
                    None => continue,
                },
                Err(error) => return Err(error),
            };
            if !is_new && !self.is_locked_for_us(log, &file)? {
                let pause = Duration::from_millis(5);
                // Whoever only looks lets go at once; whoever writes does not.
                wait(pause);
                continue;
            }
            let state =
                sidecar::read(&self.dir, log).map_err(|e| io_error(log, "read the state of", e))?;
            let (state, sealed) = state.unwrap_or_default();
            if sealed {
                return Err(Error::Sealed { log: log.clone() });
            }
            let reserve = match Reserve::create(&self.dir, log) {
                Ok(reserve) => Some(reserve),
                // A dead owner's log is closed on a full disk too; a new one does not begin there.
                Err(_) if !is_new => None,
                Err(source) => {
                    let _ = fs::remove_file(self.path(log));
                    return Err(io_error(log, "reserve room for", source));
                }
            };
            let recover = |e| io_error(log, "recover", e);
            let ring = match is_new {
                true => None,
                false => Ring::open(&self.dir, log, state.format).map_err(recover)?,
            };
            let len = file.metadata().map_err(recover)?.len();
            let tail = Tail { len, state: Arc::new(state), phase: LogPhase::Open, owned: true };
            let new = Owned {
                file,
                writing: Mutex::new(ring),
                tail: Mutex::new(tail),
                growth: watch::Sender::new(()),
                reserve: Mutex::new(reserve),
            };
            let stat = new.stat();
            self.lock().insert(log.clone(), Arc::new(new));
            return Ok(stat);
        }
        Err(Error::Owned { log: log.clone() })
    }

    /// Creates a log that is locked before anybody sees it; `None` when somebody else was faster.
    fn create(&self, log: &JobId) -> Result<Option<File>, Error> {
        let failed = |source| io_error(log, "create", source);
        // What an earlier log of this id left must not be taken for this one's.
        sidecar::remove(&self.dir, log).map_err(failed)?;
        ring::remove(&self.dir, log).map_err(failed)?;
        let path = self.path(log);
        let temporary = TemporaryFile::create_beside(&path, 0o600).map_err(failed)?;
        let file = temporary.file().try_clone().map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        match temporary.commit(&path, Existing::Refuse) {
            Ok(()) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Takes the lock if it is free, and makes sure that it is the lock of what lies under the name.
    fn is_locked_for_us(&self, log: &JobId, file: &File) -> Result<bool, Error> {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(e) => return Err(io_error(log, "lock", e.into())),
        }
        let held = file.metadata().map_err(|e| io_error(log, "look at", e))?;
        Ok(fs::symlink_metadata(self.path(log))
            .is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())))
    }

    fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        let file = self.open_file(log, false)?;
        let failed = |source| io_error(log, "read", source);
        let owned = self.lock().get(log).cloned();
        let stored = match owned {
            // What an append in progress has written is not stored yet.
            Some(owned) => owned.lock().len,
            None => file.metadata().map_err(failed)?.len(),
        };
        let range =
            ByteRange::with_len(range.start, range.len().min(MAX_READ_BYTES)).clamp_end(stored);
        let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], range.start + read as u64) {
                Ok(0) => break,
                Ok(len) => read += len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        bytes.truncate(read);
        Ok(bytes.into())
    }

    fn len(&self, log: &JobId) -> Result<u64, Error> {
        match fs::symlink_metadata(self.path(log)) {
            Ok(meta) => Ok(meta.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { log: log.clone() })
            }
            Err(e) => Err(io_error(log, "look at", e)),
        }
    }

    fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        if let Some(owned) = self.lock().get(log).cloned() {
            return Ok(owned.stat());
        }
        let read =
            || sidecar::read(&self.dir, log).map_err(|e| io_error(log, "read the state of", e));
        let (mut state, mut sealed) = read()?.unwrap_or_default();
        let file = self.open_file(log, false)?;
        let owned = match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => true,
            Err(e) => return Err(io_error(log, "lock", e.into())),
            Ok(()) => false,
        };
        if !sealed && !owned {
            // An owner seals first and unlocks then: only now is the state the last word.
            (state, sealed) = read()?.unwrap_or_default();
        }
        let phase = match (sealed, owned) {
            (true, _) => LogPhase::Sealed,
            (false, true) => LogPhase::Open,
            (false, false) => LogPhase::Abandoned,
        };
        let len = file.metadata().map_err(|e| io_error(log, "look at", e))?.len();
        Ok(LogStat { len, phase, owned, state: Arc::new(state) })
    }

    fn append_tail(
        &self,
        log: &JobId,
        owned: &Owned,
        lines: &[u8],
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        let mut ring = owned.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if owned.stat().phase != LogPhase::Open {
            return Err(Error::Sealed { log: log.clone() });
        }
        let append = |ring: &mut Option<Ring>| {
            let ring = match ring {
                Some(ring) => ring,
                none => none.insert(Ring::create(&self.dir, log)?),
            };
            ring.append(lines, output, keep)
        };
        append(&mut ring).map_err(|source| {
            if ErrorClass::of_io(&source) == ErrorClass::Exhausted {
                owned.give_up_reserve();
            }
            io_error(log, "write", source)
        })
    }

    fn save(
        &self,
        log: &JobId,
        owned: &Owned,
        state: LogState,
        phase: LogPhase,
    ) -> Result<(), Error> {
        // A slow disk makes the next write wait, and nobody who reads.
        let mut ring = owned.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if owned.stat().phase != LogPhase::Open {
            return if phase == LogPhase::Sealed {
                Ok(())
            } else {
                Err(Error::Sealed { log: log.clone() })
            };
        }
        if phase == LogPhase::Sealed {
            owned.give_up_reserve();
        }
        // The bytes first: a state that says more than the file would be a lie after a crash.
        owned.file.sync_data().map_err(|e| io_error(log, "sync", e))?;
        if let Some(ring) = ring.as_ref().filter(|_| phase == LogPhase::Open) {
            ring.sync().map_err(|e| io_error(log, "sync", e))?;
        }
        sidecar::write(&self.dir, log, &state, phase == LogPhase::Sealed)
            .map_err(|e| io_error(log, "write the state of", e))?;
        {
            let mut tail = owned.lock();
            tail.state = Arc::new(state);
            tail.phase = phase;
        }
        if phase == LogPhase::Sealed
            && ring.take().is_some()
            && let Err(error) = ring::remove(&self.dir, log)
        {
            tracing::warn!(%log, %error, "what was folded into a log could not be deleted beside it");
        }
        owned.growth.send_replace(());
        Ok(())
    }

    fn delete(&self, log: &JobId) -> Result<u64, Error> {
        let failed = |source| io_error(log, "delete", source);
        if self.lock().contains_key(log) {
            return Err(Error::Owned { log: log.clone() });
        }
        let mut freed = 0;
        match self.open_file(log, true) {
            Ok(file) => {
                let tried = (0..LOCK_TRIES).find_map(|_| match self.is_locked_for_us(log, &file) {
                    Ok(false) => {
                        wait(Duration::from_millis(2));
                        None
                    }
                    other => Some(other),
                });
                if !tried.transpose()?.unwrap_or(false) {
                    return Err(Error::Owned { log: log.clone() });
                }
                freed += file.metadata().map_err(failed)?.len();
                fs::remove_file(self.path(log)).map_err(failed)?;
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        freed += reserve::remove(&self.dir, log).map_err(failed)?;
        freed += ring::remove(&self.dir, log).map_err(failed)?;
        // The state goes last: a log without one counts as not sealed, and is found again.
        freed += sidecar::remove(&self.dir, log).map_err(failed)?;
        if freed > 0 {
            sync_dir(&self.dir).map_err(failed)?;
        }
        Ok(freed)
    }

    fn list(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<(JobId, LogStat)>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(list_error(&self.dir, source)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| list_error(&self.dir, e))?.file_name();
            let id =
                name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<JobId>().ok());
            ids.extend(id.filter(|id| after.is_none_or(|after| id > after)));
        }
        ids.sort_unstable();
        ids.truncate(limit);
        let mut listed = Vec::with_capacity(ids.len());
        for id in ids {
            match self.stat(&id) {
                Ok(stat) => listed.push((id, stat)),
                // Deleted since the directory was read.
                Err(Error::NotFound { .. }) => {}
                // One that cannot be read does not hide the others.
                Err(error) => tracing::warn!(log = %id, %error, "a log is left out of the list"),
            }
        }
        Ok(listed)
    }
}

fn io_error(log: &JobId, operation: &'static str, source: io::Error) -> Error {
    Error::Io { log: log.clone(), operation, source }
}

fn list_error(dir: &Path, source: io::Error) -> Error {
    Error::List { dir: dir.to_owned(), source }
}

/// A pause on a blocking thread.
fn wait(pause: Duration) {
    std::thread::park_timeout(pause);
}

#[cfg(test)]
mod tests;
