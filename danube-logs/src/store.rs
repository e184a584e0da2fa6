//! The contract: bytes at offsets, one owner, and a seal.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::{ByteRange, JobId, StepName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::index::{Landmark, Sought, line_time};
use crate::{Error, Keep, LineFormat};

/// The most that one [`LogStore::read`] returns.
pub const MAX_READ_BYTES: u64 = 1024 * 1024;

/// Where logs are kept: for each job a sequence of bytes that only grows, has one owner while it
/// does, and is sealed at the end.
///
/// Laws (each a test of [`conformance`](crate::conformance)):
///
/// * **One owner.** `open` gives a log to this store until it is released or this store is gone. While
///   an owner lives nobody else can open, append to, seal or delete it. When the owner is gone
///   and the log is not sealed it is [`Abandoned`](LogPhase::Abandoned), and `open` gives it to whoever asks first.
///   A sealed log stays owned until then too: whoever signs it is known to be alive.
/// * **Appended at an offset.** `append` continues the log exactly at its end, or changes nothing.
///   All of the bytes are there or none: after an error the log ends where it did.
/// * **Acknowledged.** What an `append` that returned has stored, up to its last line feed, survives
///   the death of the process (an open line may be closed or dropped by whoever takes the log over);
///   what a `sync` or `seal` that returned covers survives the death of the machine, as far as the backend
///   reaches.
/// * **Readable.** Anybody reads, at any time, whatever an acknowledged append stored, at the same
///   offsets for ever.
/// * **Landmarks.** `landmark` names the beginning of a line at or before what is sought, however short the way from
///   there is.
/// * **Sealed once.** After `seal` the bytes and the state never change. Sealing again is `Ok`.
/// * **Deleted.** `delete` is idempotent; a deleted log is [`Error::NotFound`], and its id may be used
///   again.
/// * **Cancel safety.** `read`, `stat`, `changed` and `list` may be dropped at any time. A dropped `append`
///   may or may not have happened: ask `stat`.
///
/// Clones and `Arc`s of one store are one owner.
#[async_trait]
pub trait LogStore: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Takes ownership for appending: creates the log, or takes over one whose owner is gone. What was there
    /// stays as it is; a dying owner may have left the beginning of a last append, which ends anywhere.
    ///
    /// # Errors
    ///
    /// [`Error::Owned`], [`Error::Sealed`], [`Error::Io`].
    async fn open(&self, log: &JobId) -> Result<LogStat, Error>;

    /// Appends at the end, which must be `at`, and returns the new end.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwned`], [`Error::Sealed`], [`Error::OffsetConflict`], [`Error::Io`] (for instance a full disk).
    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error>;

    /// The bytes of a range, as far as they are stored and at most [`MAX_READ_BYTES`]: short at the
    /// end, empty past it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`].
    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error>;

    /// Where the log stands.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`].
    async fn stat(&self, log: &JobId) -> Result<LogStat, Error>;

    /// Waits until the log has grown beyond an offset or is not [`Open`](LogPhase::Open) any more.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also when it is deleted meanwhile; [`Error::Io`].
    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error>;

    /// Appends whole lines to the ring behind a log whose head is full: the newest `keep` bytes of all that
    /// it was given stay, and up to as many more. `output` is how many of them a command wrote; it is only counted. What
    /// an append that returned has stored survives the death of the process, as with [`append`](Self::append).
    /// The ring is no part of the log: readers do not see it, and sealing drops it.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwned`], [`Error::Sealed`], [`Error::Io`].
    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error>;

    /// What the ring behind a log that this store owns has, whole lines; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwned`], [`Error::Io`].
    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error>;

    /// Makes what was appended, and this state, durable.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwned`], [`Error::Io`].
    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error>;

    /// Makes the log and its last state durable and ends it. It stays owned until it is released.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwned`], [`Error::Io`]: then it is not sealed.
    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error>;

    /// Gives up ownership; what this store does not own it leaves alone. It may remove a small file, and
    /// waits for nobody.
    fn release(&self, log: &JobId);

    /// Deletes a log that nobody alive owns, and returns the bytes that it freed.
    ///
    /// # Errors
    ///
    /// [`Error::Owned`], [`Error::Io`].
    async fn delete(&self, log: &JobId) -> Result<u64, Error>;

    /// Where a scan for a line or a time may begin: the sooner it ends, the better, and the beginning of the
    /// log ([`Landmark::default`]) is always right. [`LineIndex`](crate::LineIndex) makes good ones.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`].
    async fn landmark(&self, log: &JobId, sought: Sought) -> Result<Landmark, Error>;

    /// Logs in the order of their ids, at most `limit`, those after `after`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error>;
}

#[async_trait]
impl<T: LogStore + ?Sized> LogStore for Arc<T> {
    async fn open(&self, log: &JobId) -> Result<LogStat, Error> {
        (**self).open(log).await
    }
    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, Error> {
        (**self).append(log, at, bytes).await
    }
    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, Error> {
        (**self).read(log, range).await
    }
    async fn stat(&self, log: &JobId) -> Result<LogStat, Error> {
        (**self).stat(log).await
    }
    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, Error> {
        (**self).changed(log, beyond).await
    }
    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), Error> {
        (**self).append_tail(log, lines, output, keep).await
    }
    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, Error> {
        (**self).tail(log).await
    }
    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        (**self).sync(log, state).await
    }
    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), Error> {
        (**self).seal(log, state).await
    }
    fn release(&self, log: &JobId) {
        (**self).release(log);
    }
    async fn delete(&self, log: &JobId) -> Result<u64, Error> {
        (**self).delete(log).await
    }
    async fn landmark(&self, log: &JobId, sought: Sought) -> Result<Landmark, Error> {
        (**self).landmark(log, sought).await
    }
    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, Error> {
        (**self).list(after, limit).await
    }
}

/// Where a log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStat {
    /// Bytes stored.
    pub len: u64,
    /// Whether more will come.
    pub phase: LogPhase,
    /// Whether somebody alive owns it.
    pub owned: bool,
    /// Its state as of the last `sync` or `seal`.
    pub state: Arc<LogState>,
}

/// Whether more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPhase {
    /// Somebody alive writes it.
    Open,
    /// It is not sealed, and nobody alive writes it.
    Abandoned,
    /// It will never change.
    Sealed,
}

/// What is known of a log beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogState {
    /// Whether something was left out.
    pub truncated: bool,
    /// Lines that were left out.
    pub omitted_lines: u64,
    /// Bytes of output that were left out.
    pub omitted_bytes: u64,
    /// The steps that wrote to it, in the order in which they began.
    pub steps: Vec<StepRange>,
    /// When it was sealed.
    pub sealed_at: Option<Timestamp>,
    /// How its lines look.
    #[serde(default)]
    pub format: LineFormat,
    /// What is kept of it when it is too long.
    #[serde(default)]
    pub keep: Keep,
    /// Where the ring behind a full head goes into the log, once that has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<Fold>,
}

/// How the end of a log that was too long came behind its head. Written down before the bytes are, so
/// that whoever takes over goes on where its predecessor died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// Where the head ends.
    pub at: u64,
    /// The line that stands between head and end, with its line feed; empty where nothing was left out.
    pub marker: String,
    /// Bytes of the log's end that come behind it.
    pub tail_bytes: u64,
}

/// What the ring behind a log has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogTail {
    /// Lines that it was given and has no more.
    pub dropped_lines: u64,
    /// How much of these lines a command wrote, in bytes.
    pub dropped_output: u64,
    /// The lines that it has.
    pub lines: Bytes,
}

/// Where a step's lines lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRange {
    /// The step.
    pub name: StepName,
    /// The smallest range with all of its lines; lines of other steps may lie between them.
    pub range: ByteRange,
}

/// What a scan reads at once.
const SCAN_BYTES: u64 = 64 * 1024;

/// Comfort over any [`LogStore`].
#[async_trait]
pub trait LogStoreExt: LogStore {
    /// The offset at which the last `lines` lines of what is stored begin; the beginning of the log
    /// where it has fewer. Reads backwards, and no more than it must.
    ///
    /// # Errors
    ///
    /// Those of [`stat`](LogStore::stat) and [`read`](LogStore::read).
    async fn tail_offset(&self, log: &JobId, lines: usize) -> Result<u64, Error> {
        let len = self.stat(log).await?.len;
        if lines == 0 {
            return Ok(len);
        }
        let mut end = len;
        let mut seen = 0;
        while end > 0 {
            let start = end.saturating_sub(SCAN_BYTES);
            let block = self.read(log, ByteRange::new(start, end)).await?;
            for at in memchr::memrchr_iter(b'\n', &block) {
                let after = start + at as u64 + 1;
                // The line feed that ends the log ends its last line; it begins none.
                if after == len {
                    continue;
                }
                seen += 1;
                if seen == lines {
                    return Ok(after);
                }
            }
            end = start;
        }
        Ok(0)
    }

    /// The offset at which a line begins, counted from 0; `None` where the log has fewer.
    ///
    /// # Errors
    ///
    /// Those of [`landmark`](LogStore::landmark) and [`read`](LogStore::read).
    async fn line_offset(&self, log: &JobId, line: u64) -> Result<Option<u64>, Error> {
        let from = self.landmark(log, Sought::Line(line)).await?;
        let (mut at, mut left) = (from.offset, line.saturating_sub(from.lines_before));
        loop {
            let block = self.read(log, ByteRange::with_len(at, SCAN_BYTES)).await?;
            if block.is_empty() {
                return Ok(None);
            }
            if left == 0 {
                return Ok(Some(at));
            }
            let nth = usize::try_from(left - 1).unwrap_or(usize::MAX);
            let mut feeds = memchr::memchr_iter(b'\n', &block);
            at += match feeds.nth(nth) {
                Some(feed) => {
                    left = 0;
                    feed + 1
                }
                None => {
                    left -= memchr::memchr_iter(b'\n', &block).count() as u64;
                    block.len()
                }
            } as u64;
        }
    }

    /// The offset of the first line whose time is `since` or later; `None` where there is none, or where lines carry
    /// no time with a date. Times are those that the lines begin with.
    ///
    /// What follows that line is all that was written since. Where the clock was set back meanwhile, lines with earlier times
    /// are among it, and a line that was ahead of its time for less than 64 KiB of log may be overlooked.
    ///
    /// # Errors
    ///
    /// Those of [`landmark`](LogStore::landmark) and [`read`](LogStore::read).
    async fn time_offset(&self, log: &JobId, since: Timestamp) -> Result<Option<u64>, Error> {
        let mut at = self.landmark(log, Sought::Time(since)).await?.offset;
        let mut inside_a_line = false;
        loop {
            let block = self.read(log, ByteRange::with_len(at, SCAN_BYTES)).await?;
            if block.is_empty() {
                return Ok(None);
            }
            let mut seen = 0;
            while seen < block.len() {
                let rest = &block[seen..];
                let feed = memchr::memchr(b'\n', rest);
                if !inside_a_line {
                    if feed.is_none() && seen > 0 {
                        // Its time may be cut: read on from its beginning.
                        break;
                    }
                    if line_time(rest).is_some_and(|time| time >= since) {
                        return Ok(Some(at + seen as u64));
                    }
                }
                inside_a_line = feed.is_none();
                seen += feed.map_or(rest.len(), |feed| feed + 1);
            }
            at += seen as u64;
        }
    }
}

impl<T: LogStore + ?Sized> LogStoreExt for T {}
