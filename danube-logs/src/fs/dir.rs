//! The directory: what lies in it under which name, and what that says of a log.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use danube_core::files::sync_dir;
use danube_core::{ByteRange, JobId};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::{frames, sidecar};
use crate::{Error, LogPhase, LogStat};

#[derive(Debug)]
pub(super) struct Dir(pub(super) PathBuf);

/// A log as it lies there. Where both files are, the text is meant: a compression was cut short.
#[derive(Debug)]
pub(super) enum Stored {
    /// `<job>.log`.
    Text(File),
    /// `<job>.log.zst`: sealed, and compressed.
    Frames(File),
}

impl Stored {
    pub(super) fn file(&self) -> &File {
        match self {
            Self::Text(file) | Self::Frames(file) => file,
        }
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Text(file) => Ok(file.metadata()?.len()),
            Self::Frames(file) => frames::len(file),
        }
    }

    /// The bytes of a range; short at the end.
    pub(super) fn read(&self, range: ByteRange) -> io::Result<Bytes> {
        match self {
            // Memory is taken for the range: no more than there are bytes.
            Self::Text(file) => read_range(file, range.clamp_end(file.metadata()?.len())),
            Self::Frames(file) => frames::read(file, range),
        }
    }
}

pub(super) fn read_range(file: &File, range: ByteRange) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
    let mut read = 0;
    while read < bytes.len() {
        match rustix::io::pread(file, &mut bytes[read..], range.start + read as u64) {
            Ok(0) => break,
            Ok(len) => read += len,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bytes.truncate(read);
    Ok(bytes.into())
}

/// Whether it is somebody's: a lock held by whoever writes, signs or compresses.
pub(super) fn is_locked(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(false),
    }
}

/// Takes the lock if it is free, and makes sure that it is the lock of what lies under the name.
pub(super) fn lock_named(file: &File, path: &Path) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(e) => return Err(e.into()),
    }
    let held = file.metadata()?;
    Ok(fs::symlink_metadata(path)
        .is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())))
}

/// Opens a regular file, through no symbolic link, never waiting for a FIFO.
fn open_regular(path: &Path, write: bool) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).write(write).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(Some(file))
}

impl Dir {
    pub(super) fn text_path(&self, log: &JobId) -> PathBuf {
        self.0.join(format!("{log}.log"))
    }

    pub(super) fn frames_path(&self, log: &JobId) -> PathBuf {
        self.0.join(format!("{log}.log.zst"))
    }

    /// Frames that are being written. A name of its own for each log: what a killed process left is written over, or
    /// goes with the log.
    pub(super) fn unfinished_path(&self, log: &JobId) -> PathBuf {
        self.0.join(format!(".compress-{log}"))
    }

    pub(super) fn open_text(&self, log: &JobId, write: bool) -> Result<Option<File>, Error> {
        open_regular(&self.text_path(log), write).map_err(|e| io_error(log, "open", e))
    }

    pub(super) fn open_frames(&self, log: &JobId, write: bool) -> Result<Option<File>, Error> {
        open_regular(&self.frames_path(log), write).map_err(|e| io_error(log, "open", e))
    }

    /// A log to read.
    pub(super) fn stored(&self, log: &JobId) -> Result<Stored, Error> {
        // The frames have their name before the text loses its own: one of the two is there.
        if let Some(file) = self.open_text(log, false)? {
            return Ok(Stored::Text(file));
        }
        match self.open_frames(log, false)? {
            Some(file) => Ok(Stored::Frames(file)),
            None => Err(Error::NotFound { log: log.clone() }),
        }
    }

    /// One creation or deletion at a time, in all processes, until the file is dropped.
    pub(super) fn names_lock(&self) -> io::Result<File> {
        let dir = File::open(&self.0)?;
        loop {
            match flock(&dir, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => return Ok(other.map(|()| dir)?),
            }
        }
    }

    pub(super) fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        let read =
            || sidecar::read(&self.0, log).map_err(|e| io_error(log, "read the state of", e));
        let (mut state, mut sealed) = read()?.unwrap_or_default();
        let stored = self.stored(log)?;
        let owned = is_locked(stored.file()).map_err(|e| io_error(log, "lock", e))?;
        if !sealed && !owned {
            // An owner seals first and unlocks then: only now is the state the last word.
            (state, sealed) = read()?.unwrap_or_default();
        }
        // Only what is sealed is ever compressed, whatever became of its state.
        let phase = match (sealed || matches!(stored, Stored::Frames(_)), owned) {
            (true, _) => LogPhase::Sealed,
            (false, true) => LogPhase::Open,
            (false, false) => LogPhase::Abandoned,
        };
        let len = stored.len().map_err(|e| io_error(log, "look at", e))?;
        Ok(LogStat { len, phase, owned, state: Arc::new(state) })
    }

    /// Puts frames in the place of a sealed log's text, which its caller has locked. The frames are locked before
    /// anybody sees them, and until the file is dropped. What is cut short leaves the text, or both.
    pub(super) fn compress(&self, log: &JobId, text: &File, len: u64) -> io::Result<File> {
        let unfinished = self.unfinished_path(log);
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(flags);
        let frames = options.open(&unfinished)?;
        let named = || {
            flock(&frames, FlockOperation::NonBlockingLockExclusive)?;
            frames::write(text, len, &frames)?;
            frames.sync_all()?;
            fs::rename(&unfinished, self.frames_path(log))
        };
        if let Err(error) = named() {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        sync_dir(&self.0)?;
        fs::remove_file(self.text_path(log))?;
        sync_dir(&self.0)?;
        Ok(frames)
    }

    pub(super) fn list(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error> {
        let failed = |source| Error::List { dir: self.0.clone(), source };
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(log_of);
            ids.extend(id.filter(|id| after.is_none_or(|after| id > after)));
        }
        ids.sort_unstable();
        ids.dedup();
        ids.truncate(limit);
        Ok(ids)
    }
}

/// The log that a file name belongs to, if it is that of its bytes.
fn log_of(name: &str) -> Option<JobId> {
    name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.zst"))?.parse().ok()
}

pub(super) fn io_error(log: &JobId, operation: &'static str, source: io::Error) -> Error {
    Error::Io { log: log.clone(), operation, source }
}
