//! Logs as files: `<job>.log` as people read it, `<job>.idx` with its state and the index of its lines.

mod dir;
mod frames;
mod hot;
mod lines;
mod owned;
mod reserve;
mod ring;
mod sidecar;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::files::{Existing, TemporaryFile, create_private_dir, sync_dir};
use danube_core::{ByteRange, JobId};
use rustix::fs::{FlockOperation, flock};

pub use self::frames::LogText;

use self::dir::{Dir, Stored, io_error, lock_named};
use self::lines::Indexes;
use self::owned::Owned;
use self::reserve::Reserve;
use self::ring::Ring;
use self::watch::Watcher;
use crate::index::{Landmark, Sought};
use crate::{Error, LogPhase, LogStat, LogState, LogStore, LogTail, MAX_READ_BYTES};

/// How often `open` tries for the lock: whoever asks whether the owner lives holds it for a moment.
const LOCK_TRIES: u32 = 20;

/// A log up to this length takes one block of the disk, compressed or not.
const WORTH_COMPRESSING: u64 = 4096;

/// Logs as files in one directory. Clones are one owner.
///
/// The owner of a log holds an exclusive `flock` on it; a lock that is free on a log that is not
/// sealed means that its owner died. Other processes that read are unaffected. While a log is written
/// 256 KiB are reserved beside it. A write that finds the disk full gives some of them up, the seal the rest: the end of the
/// log, and whatever its owner has to record about that, still fit. A file size limit (`RLIMIT_FSIZE`)
/// gives an error only where the host handles `SIGXFSZ`; by default that signal ends the process.
///
/// Who follows a log that another process writes is woken by the system's notifications (inotify); one thread
/// serves all of them, and ends when nobody follows. Where there are no notifications it looks 20 times a second.
#[derive(Debug, Clone)]
pub struct FsLogs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: Arc<Dir>,
    /// Whether logs are compressed when they are sealed.
    compress: bool,
    /// Locked for moments only: runtime threads look in here.
    owned: Mutex<HashMap<JobId, Arc<Owned>>>,
    /// Held while a log is opened, so that two tasks of one owner open it once.
    opening: Mutex<()>,
    watcher: Arc<Watcher>,
    indexes: Indexes,
}

impl FsLogs {
    /// Logs in `dir`, which is created (0700) with the first one.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self::build(dir.into(), false, true)
    }

    /// Logs in `dir` that are compressed when they are sealed: `<job>.log.zst`, in the seekable format of
    /// zstd, takes the place of `<job>.log`. Readers see no difference; offsets and lengths stay those of the text.
    /// A log that cannot be compressed, for instance on a full disk, stays as it is.
    #[must_use]
    pub fn compressed(dir: impl Into<PathBuf>) -> Self {
        Self::build(dir.into(), true, true)
    }

    fn build(dir: PathBuf, compress: bool, notify: bool) -> Self {
        let dir = Arc::new(Dir(dir));
        Self(Arc::new(Inner {
            watcher: Watcher::new(dir.clone(), notify),
            dir,
            compress,
            owned: Mutex::default(),
            opening: Mutex::default(),
            indexes: Indexes::default(),
        }))
    }

    /// Compresses a sealed log that nobody owns, and returns the bytes freed: 0 where it is compressed already, or
    /// too short to gain. Readers of the moment are not disturbed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Owned`], [`Error::Invalid`] for a log that is not sealed, [`Error::Io`]: then it is
    /// as it was.
    pub async fn compress(&self, log: &JobId) -> Result<u64, Error> {
        self.blocking(log, Inner::compress).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        log: &JobId,
        work: impl FnOnce(&Inner, &JobId) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (inner, id) = (self.0.clone(), log.clone());
        let joined = tokio::task::spawn_blocking(move || work(&inner, &id)).await;
        join(joined).unwrap_or_else(|e| Err(io_error(log, "work on", e)))
    }

    fn find_owned(&self, log: &JobId) -> Result<Arc<Owned>, Error> {
        self.0.lock().get(log).cloned().ok_or_else(|| Error::NotOwned { log: log.clone() })
    }
}

/// What a blocking task says; an error where the runtime ends and did not run it.
fn join<T>(joined: Result<T, tokio::task::JoinError>) -> io::Result<T> {
    joined.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => io::Error::new(io::ErrorKind::Interrupted, cancelled),
    })
}

impl fmt::Display for FsLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "logs in {}", self.0.dir.0.display())
    }
}

#[async_trait]
impl LogStore for FsLogs {
    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        self.blocking(log, Inner::open).await
    }

    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        let owned = self.find_owned(log)?;
        self.blocking(log, move |_, log| owned.append(log, at, &bytes)).await
    }

    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        let range = ByteRange::with_len(range.start, range.len().min(MAX_READ_BYTES));
        let hot = match self.find_owned(log) {
            Ok(owned) => owned.read_hot(range),
            Err(_) => self.0.watcher.read_hot(log, range),
        };
        match hot {
            Some(bytes) => Ok(bytes),
            None => self.blocking(log, move |inner, log| inner.read(log, range)).await,
        }
    }

    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        if let Ok(owned) = self.find_owned(log) {
            return Ok(owned.stat());
        }
        self.blocking(log, Inner::stat).await
    }

    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        if let Ok(owned) = self.find_owned(log) {
            return Ok(owned.changed(beyond).await);
        }
        let is_news = |stat: &LogStat| stat.len > beyond || stat.phase != LogPhase::Open;
        let (watched, mut news) = match self.0.watcher.find(log) {
            Some(found) => found,
            None => {
                // Nobody is to be watched whose news are there already.
                let stat = self.stat(log).await?;
                if is_news(&stat) {
                    return Ok(stat);
                }
                self.blocking(log, |inner, log| inner.watcher.watch(log)).await?
            }
        };
        loop {
            news.mark_unchanged();
            let stat = match watched.stat() {
                Some(stat) if stat.phase != LogPhase::Abandoned => stat,
                // Somebody may have taken it over, or deleted it, since it was seen.
                _ => self.stat(log).await?,
            };
            if is_news(&stat) {
                return Ok(stat);
            }
            // The sender lives in `watched`.
            let _ = news.changed().await;
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
        self.blocking(log, move |inner, log| {
            owned.append_tail(&inner.dir, log, &lines, output, keep)
        })
        .await
    }

    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        let owned = self.find_owned(log)?;
        self.blocking(log, move |_, log| owned.read_tail(log)).await
    }

    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        let owned = self.find_owned(log)?;
        let state = state.clone();
        self.blocking(log, move |inner, log| {
            owned.save(&inner.dir, log, state, LogPhase::Open, false)
        })
        .await
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
        self.blocking(log, move |inner, log| {
            owned.save(&inner.dir, log, state, LogPhase::Sealed, inner.compress)
        })
        .await
    }

    fn release(&self, log: &JobId) {
        // The lock goes with the last user of the file.
        let released = self.0.lock().remove(log);
        if let Some(owned) = released {
            owned.release();
        }
    }

    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        self.blocking(log, Inner::delete).await
    }

    async fn landmark(&self, log: &JobId, sought: Sought) -> Result<Landmark, Error> {
        match self.find_owned(log) {
            Ok(owned) => Ok(owned.landmark(sought)),
            Err(_) => {
                self.blocking(log, move |inner, log| {
                    inner.indexes.landmark(&inner.dir, log, sought)
                })
                .await
            }
        }
    }

    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        let (inner, after) = (self.0.clone(), after.cloned());
        let list = move || inner.list(after.as_ref(), limit);
        let failed = |source| Error::List { dir: self.0.dir.0.clone(), source };
        join(tokio::task::spawn_blocking(list).await).map_err(failed)?
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watcher.close();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Owned>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = self.lock().get(log).map(|owned| owned.stat().phase);
        match ours {
            Some(LogPhase::Sealed) => return Err(Error::Sealed { log: log.clone() }),
            Some(_) => return Err(Error::Owned { log: log.clone() }),
            None => {}
        }
        let dir = &self.dir.0;
        create_private_dir(dir).map_err(|e| io_error(log, "make the directory of", e))?;
        for _ in 0..LOCK_TRIES {
            let (file, is_new) = match self.dir.open_text(log, true)? {
                Some(file) => (file, false),
                None => match self.create(log)? {
                    Some(file) => (file, true),
                    None => continue,
                },
            };
            if !is_new && !self.is_locked_for_us(log, &file, &self.dir.text_path(log))? {
                // Whoever only looks lets go at once; whoever writes does not.
                wait(Duration::from_millis(5));
                continue;
            }
            let state =
                sidecar::read(dir, log).map_err(|e| io_error(log, "read the state of", e))?;
            let (state, sealed) = state.unwrap_or_default();
            if sealed {
                return Err(Error::Sealed { log: log.clone() });
            }
            let reserve = match Reserve::create(dir, log) {
                Ok(reserve) => Some(reserve),
                // A dead owner's log is closed on a full disk too; a new one does not begin there.
                Err(_) if !is_new => None,
                Err(source) => {
                    let _ = fs::remove_file(self.dir.text_path(log));
                    return Err(io_error(log, "reserve room for", source));
                }
            };
            let recover = |e| io_error(log, "recover", e);
            let ring = match is_new {
                true => None,
                false => Ring::open(dir, log, state.format).map_err(recover)?,
            };
            let len = file.metadata().map_err(recover)?.len();
            let text = Stored::Text(file.try_clone().map_err(recover)?);
            let mut index = lines::load(&self.dir, log, &text, len).map_err(recover)?;
            lines::extend(&mut index, &text, len).map_err(recover)?;
            // The beginning of a line that a dead owner left stays.
            index.push(&text.read(ByteRange::new(index.len(), len)).map_err(recover)?);
            let new = Owned::new(file, len, state, index, reserve, ring);
            let stat = new.stat();
            self.lock().insert(log.clone(), Arc::new(new));
            return Ok(stat);
        }
        Err(Error::Owned { log: log.clone() })
    }

    /// Creates a log that is locked before anybody sees it; `None` when somebody else was faster.
    fn create(&self, log: &JobId) -> Result<Option<File>, Error> {
        let failed = |source| io_error(log, "create", source);
        let path = self.dir.text_path(log);
        let temporary = TemporaryFile::create_beside(&path, 0o600).map_err(failed)?;
        let file = temporary.file().try_clone().map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        let _names = self.dir.names_lock().map_err(failed)?;
        if fs::symlink_metadata(&path).is_ok() {
            return Ok(None);
        }
        if self.dir.open_frames(log, false)?.is_some() {
            return Err(Error::Sealed { log: log.clone() });
        }
        // What an earlier log of this id left must not be taken for this one's. Nobody else's can have come
        // meanwhile: names are made and removed one at a time.
        sidecar::remove(&self.dir.0, log).map_err(failed)?;
        ring::remove(&self.dir.0, log).map_err(failed)?;
        match temporary.commit(&path, Existing::Refuse) {
            Ok(()) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    fn is_locked_for_us(&self, log: &JobId, file: &File, path: &Path) -> Result<bool, Error> {
        lock_named(file, path).map_err(|e| io_error(log, "lock", e))
    }

    /// The same, with patience for those who only look.
    fn lock_to_change(&self, log: &JobId, file: &File, path: &Path) -> Result<(), Error> {
        for _ in 0..LOCK_TRIES {
            if self.is_locked_for_us(log, file, path)? {
                return Ok(());
            }
            wait(Duration::from_millis(2));
        }
        Err(Error::Owned { log: log.clone() })
    }

    fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        let failed = |source| io_error(log, "read", source);
        let owned = self.lock().get(log).cloned();
        if let Some(owned) = owned {
            return owned.read(range).map_err(failed);
        }
        self.dir.stored(log)?.read(range).map_err(failed)
    }

    fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        let owned = self.lock().get(log).cloned();
        owned.map_or_else(|| self.dir.stat(log), |owned| Ok(owned.stat()))
    }

    fn compress(&self, log: &JobId) -> Result<u64, Error> {
        let failed = |source| io_error(log, "compress", source);
        if self.lock().contains_key(log) {
            return Err(Error::Owned { log: log.clone() });
        }
        let Stored::Text(_) = self.dir.stored(log)? else { return Ok(0) };
        let Some(text) = self.dir.open_text(log, true)? else { return Ok(0) };
        self.lock_to_change(log, &text, &self.dir.text_path(log))?;
        let state = sidecar::read(&self.dir.0, log).map_err(failed)?;
        if !state.is_some_and(|(_, sealed)| sealed) {
            return Err(Error::Invalid { reason: format!("the log of job {log} is not sealed") });
        }
        let len = text.metadata().map_err(failed)?.len();
        if len <= WORTH_COMPRESSING {
            return Ok(0);
        }
        let frames = self.dir.compress(log, &text, len).map_err(failed)?;
        Ok(len.saturating_sub(frames.metadata().map_err(failed)?.len()))
    }

    fn delete(&self, log: &JobId) -> Result<u64, Error> {
        let failed = |source| io_error(log, "delete", source);
        if self.lock().contains_key(log) {
            return Err(Error::Owned { log: log.clone() });
        }
        let text = self.dir.open_text(log, true)?;
        let frames = self.dir.open_frames(log, true)?;
        let named = [(text, self.dir.text_path(log)), (frames, self.dir.frames_path(log))];
        // Before the names are locked: this may take a while.
        for (file, path) in &named {
            if let Some(file) = file {
                self.lock_to_change(log, file, path)?;
            }
        }
        let mut freed = 0;
        match self.dir.names_lock() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(failed(e)),
            Ok(_names) => {
                for (file, path) in &named {
                    if let Some(file) = file {
                        freed += file.metadata().map_err(failed)?.len();
                        fs::remove_file(path).map_err(failed)?;
                    }
                }
                if named.iter().all(|(file, _)| file.is_none())
                    && (fs::symlink_metadata(&named[0].1).is_ok()
                        || fs::symlink_metadata(&named[1].1).is_ok())
                {
                    // It has just come, and what lies beside it is its own.
                    return Err(Error::Owned { log: log.clone() });
                }
                freed += reserve::remove(&self.dir.0, log).map_err(failed)?;
                freed += ring::remove(&self.dir.0, log).map_err(failed)?;
                freed += remove(&self.dir.unfinished_path(log)).map_err(failed)?;
                // The state goes last: a log without one counts as not sealed, and is found again.
                freed += sidecar::remove(&self.dir.0, log).map_err(failed)?;
            }
        }
        if freed > 0 {
            self.watcher.forget(log);
            sync_dir(&self.dir.0).map_err(failed)?;
        }
        Ok(freed)
    }

    fn list(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<(JobId, LogStat)>, Error> {
        let mut listed = Vec::new();
        for id in self.dir.list(after, limit)? {
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

/// Removes a file that may be there, and returns the bytes freed.
fn remove(path: &Path) -> io::Result<u64> {
    let len = match fs::symlink_metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(len),
    }
}

/// A pause on a blocking thread.
fn wait(pause: Duration) {
    std::thread::park_timeout(pause);
}

#[cfg(test)]
mod tests;
