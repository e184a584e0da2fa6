//! A log that this process writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use danube_core::{ByteRange, ErrorClass, JobId};
use tokio::sync::watch;

use super::dir::{Dir, io_error, read_range};
use super::hot::Hot;
use super::reserve::Reserve;
use super::ring::{self, Ring};
use super::sidecar;
use crate::index::{Landmark, LineIndex, Sought};
use crate::{Error, LogPhase, LogStat, LogState, LogTail};

/// So many appends after somebody waited, the last bytes are still kept in memory.
const INTEREST: u32 = 64;

#[derive(Debug)]
pub(super) struct Owned {
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
    /// Locked for moments only.
    index: Mutex<LineIndex>,
    /// Holds the lock of the compressed log, which has none of its own text any more.
    frames: Mutex<Option<File>>,
}

#[derive(Debug)]
struct Tail {
    len: u64,
    state: Arc<LogState>,
    phase: LogPhase,
    /// Until it is released; somebody may still be looking through a handle from before.
    owned: bool,
    hot: Hot,
    interest: u32,
}

impl Owned {
    pub(super) fn new(
        file: File,
        len: u64,
        state: LogState,
        index: LineIndex,
        reserve: Option<Reserve>,
        ring: Option<Ring>,
    ) -> Self {
        let tail = Tail {
            len,
            state: Arc::new(state),
            phase: LogPhase::Open,
            owned: true,
            hot: Hot::default(),
            interest: 0,
        };
        Self {
            file,
            writing: Mutex::new(ring),
            tail: Mutex::new(tail),
            growth: watch::Sender::new(()),
            reserve: Mutex::new(reserve),
            index: Mutex::new(index),
            frames: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stat(&self) -> LogStat {
        let tail = self.lock();
        LogStat { len: tail.len, phase: tail.phase, owned: tail.owned, state: tail.state.clone() }
    }

    pub(super) fn landmark(&self, sought: Sought) -> Landmark {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).landmark(sought)
    }

    /// The last bytes, if the range begins among them.
    pub(super) fn read_hot(&self, range: ByteRange) -> Option<Bytes> {
        self.lock().hot.read(range)
    }

    /// The bytes of a range as far as they are stored: what an append in progress has written is not. Compressed
    /// meanwhile, the text is still behind our handle.
    pub(super) fn read(&self, range: ByteRange) -> io::Result<Bytes> {
        read_range(&self.file, range.clamp_end(self.stat().len))
    }

    /// Waits until the log is longer or not open any more.
    pub(super) async fn changed(&self, beyond: u64) -> LogStat {
        let mut growth = self.growth.subscribe();
        loop {
            growth.mark_unchanged();
            self.lock().interest = INTEREST;
            let stat = self.stat();
            if stat.len > beyond || stat.phase != LogPhase::Open {
                return stat;
            }
            // The sender is ours.
            let _ = growth.changed().await;
        }
    }

    pub(super) fn release(&self) {
        {
            let mut tail = self.lock();
            tail.owned = false;
            if tail.phase == LogPhase::Open {
                tail.phase = LogPhase::Abandoned;
            }
        }
        self.growth.send_replace(());
    }

    fn reserve(&self) -> MutexGuard<'_, Option<Reserve>> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for what is to be said about a write that found none.
    fn use_reserve(&self, refused: &io::Error) {
        if ErrorClass::of_io(refused) == ErrorClass::Exhausted
            && let Some(reserve) = &mut *self.reserve()
        {
            reserve.give_some();
        }
    }

    pub(super) fn append(&self, log: &JobId, at: u64, bytes: &Bytes) -> Result<u64, Error> {
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
            self.use_reserve(&source);
            return Err(io_error(log, "write", source));
        }
        self.index.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        let end = at + bytes.len() as u64;
        {
            let mut tail = self.lock();
            tail.len = end;
            if tail.interest > 0 {
                tail.interest -= 1;
                tail.hot.push(at, bytes);
            } else if !tail.hot.is_empty() {
                tail.hot.clear();
            }
        }
        self.growth.send_replace(());
        Ok(end)
    }

    pub(super) fn append_tail(
        &self,
        dir: &Dir,
        log: &JobId,
        lines: &[u8],
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        let mut ring = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stat().phase != LogPhase::Open {
            return Err(Error::Sealed { log: log.clone() });
        }
        let append = |ring: &mut Option<Ring>| {
            let ring = match ring {
                Some(ring) => ring,
                none => none.insert(Ring::create(&dir.0, log)?),
            };
            ring.append(lines, output, keep)
        };
        append(&mut ring).map_err(|source| {
            self.use_reserve(&source);
            io_error(log, "write", source)
        })
    }

    pub(super) fn read_tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        let ring = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |e| io_error(log, "read the end of", e);
        ring.as_ref().map(Ring::read).transpose().map_err(failed)
    }

    /// Makes bytes and state durable, and ends the log where that is the phase.
    pub(super) fn save(
        &self,
        dir: &Dir,
        log: &JobId,
        state: LogState,
        phase: LogPhase,
        compress: bool,
    ) -> Result<(), Error> {
        // A slow disk makes the next write wait, and nobody who reads.
        let mut ring = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.stat();
        if before.phase != LogPhase::Open {
            return if phase == LogPhase::Sealed {
                Ok(())
            } else {
                Err(Error::Sealed { log: log.clone() })
            };
        }
        let sealed = phase == LogPhase::Sealed;
        if sealed {
            self.reserve().take();
        }
        // What a refused append could not take back is not the log's.
        let sync = |e| io_error(log, "sync", e);
        if self.file.metadata().map_err(sync)?.len() > before.len {
            self.file.set_len(before.len).map_err(sync)?;
        }
        // The bytes first: a state that says more than the file would be a lie after a crash.
        self.file.sync_data().map_err(sync)?;
        if let Some(ring) = ring.as_ref().filter(|_| !sealed) {
            ring.sync().map_err(sync)?;
        }
        // Nobody else pushes while we write; a copy lets others look lines up meanwhile.
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sidecar::write(&dir.0, log, &state, sealed, &index)
            .map_err(|e| io_error(log, "write the state of", e))?;
        {
            let mut tail = self.lock();
            tail.state = Arc::new(state);
            tail.phase = phase;
            tail.hot.clear();
        }
        self.growth.send_replace(());
        if sealed
            && ring.take().is_some()
            && let Err(error) = ring::remove(&dir.0, log)
        {
            tracing::warn!(%log, %error, "what was folded into a log could not be deleted beside it");
        }
        if sealed && compress && before.len > super::WORTH_COMPRESSING {
            match dir.compress(log, &self.file, before.len) {
                Ok(frames) => {
                    *self.frames.lock().unwrap_or_else(PoisonError::into_inner) = Some(frames);
                }
                // It is sealed and whole, only longer than it might be.
                Err(error) => tracing::warn!(%log, %error, "a sealed log is not compressed"),
            }
        }
        Ok(())
    }
}
