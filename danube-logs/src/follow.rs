//! Following a log: an offset, and whatever lies beyond it.

use std::sync::Arc;

use bytes::Bytes;
use danube_core::{ByteRange, JobId};

use crate::{Error, LogPhase, LogStore};

/// The most that one event carries.
const CHUNK_BYTES: u64 = 256 * 1024;

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowEvent {
    /// The next bytes of the log.
    Bytes {
        /// Where they lie.
        range: ByteRange,
        /// What they are, never empty.
        bytes: Bytes,
    },
    /// What follows was left out, because the log reached its limit. Told once, after the bytes
    /// that were kept.
    Truncated,
    /// Everything was told, and nobody writes any more: [`Sealed`](LogPhase::Sealed), or
    /// [`Abandoned`](LogPhase::Abandoned) until somebody recovers the log.
    End(LogPhase),
}

/// Follows a log from an offset on. It holds no bytes: one that is slow is only behind.
#[derive(Debug)]
pub struct Follower {
    store: Arc<dyn LogStore>,
    log: JobId,
    at: u64,
    told_truncated: bool,
}

impl Follower {
    /// A follower that begins at an offset: 0, that of
    /// [`tail_offset`](crate::LogStoreExt::tail_offset), or where an earlier one stopped.
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>, log: JobId, from: u64) -> Self {
        Self { store, log, at: from, told_truncated: false }
    }

    /// The offset of the next byte it will tell.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The next event; waits while there is none. After an `End` it may be asked again: it goes on if
    /// somebody took the log over.
    ///
    /// Cancel safety: a dropped call loses nothing.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::changed`] and [`LogStore::read`].
    pub async fn next(&mut self) -> Result<FollowEvent, Error> {
        loop {
            let stat = self.store.changed(&self.log, self.at).await?;
            if stat.len > self.at {
                let range = ByteRange::with_len(self.at, CHUNK_BYTES).clamp_end(stat.len);
                let bytes = self.store.read(&self.log, range).await?;
                if bytes.is_empty() {
                    // A recovery cut a torn line off between the two calls.
                    continue;
                }
                let range = ByteRange::with_len(self.at, bytes.len() as u64);
                self.at = range.end;
                return Ok(FollowEvent::Bytes { range, bytes });
            }
            if stat.state.truncated && !self.told_truncated {
                self.told_truncated = true;
                return Ok(FollowEvent::Truncated);
            }
            if stat.phase != LogPhase::Open {
                return Ok(FollowEvent::End(stat.phase));
            }
        }
    }
}
