//! Working through a stored log: a block at a time, off the runtime, while the next one is read.

use bytes::Bytes;
use danube_core::{ByteRange, JobId};
use futures_util::future;

use crate::{Error, LogStore, MAX_READ_BYTES};

/// What is worked on at once on the runtime's own thread: some ten microseconds.
const INLINE_BYTES: usize = 16 * 1024;

/// A line that is longer, which only the raw format has, is worked on in pieces of this size.
pub(crate) const MAX_PIECE: usize = 1024 * 1024;

/// Something that takes the bytes of a log in pieces.
pub(crate) trait Work: Send + 'static {
    /// Takes the next bytes; says whether it wants more.
    fn push(&mut self, bytes: &[u8]) -> bool;
}

/// Gives `work` what is stored of a range, and returns it.
///
/// Cancel safety: may be dropped at any time; at most one block is worked on to its end.
pub(crate) async fn work_through<W: Work>(
    store: &(impl LogStore + ?Sized),
    log: &JobId,
    range: ByteRange,
    mut work: W,
) -> Result<W, Error> {
    let next = |at: u64| {
        let range = ByteRange::with_len(at, MAX_READ_BYTES).clamp_end(range.end);
        async move { if range.is_empty() { Ok(Bytes::new()) } else { store.read(log, range).await } }
    };
    let mut at = range.start;
    let mut block = next(at).await?;
    // Short at the end, empty past it: a log may be shorter by now, when a torn line was cut off.
    while !block.is_empty() {
        at += block.len() as u64;
        let (worked, read) = future::join(push(work, block), next(at)).await;
        let wants_more;
        (work, wants_more) = worked;
        block = if wants_more { read? } else { break };
    }
    Ok(work)
}

async fn push<W: Work>(mut work: W, block: Bytes) -> (W, bool) {
    if block.len() <= INLINE_BYTES {
        let wants_more = work.push(&block);
        return (work, wants_more);
    }
    let worked = tokio::task::spawn_blocking(move || {
        let wants_more = work.push(&block);
        (work, wants_more)
    });
    match worked.await {
        Ok(worked) => worked,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Cuts bytes, in any pieces, into lines; knows where each begins.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Where `partial` begins.
    at: u64,
    partial: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(at: u64) -> Self {
        Self { at, partial: Vec::new() }
    }

    /// Gives each line that is complete, with its offset and its line feed, until one is refused.
    pub(crate) fn push(&mut self, bytes: &[u8], mut take: impl FnMut(u64, &[u8]) -> bool) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = MAX_PIECE - self.partial.len();
            let end = memchr::memchr(b'\n', &rest[..room.min(rest.len())]).map(|end| end + 1);
            let Some(end) = end.or((rest.len() >= room).then_some(room)) else {
                self.partial.extend_from_slice(rest);
                return true;
            };
            let (line, after) = rest.split_at(end);
            rest = after;
            if !self.give(line, &mut take) {
                return false;
            }
        }
        true
    }

    /// Gives a last line that nothing ended.
    pub(crate) fn finish(&mut self, mut take: impl FnMut(u64, &[u8]) -> bool) -> bool {
        self.partial.is_empty() || self.give(&[], &mut take)
    }

    fn give(&mut self, line: &[u8], take: &mut impl FnMut(u64, &[u8]) -> bool) -> bool {
        let at = self.at;
        if self.partial.is_empty() {
            self.at += line.len() as u64;
            return take(at, line);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(line);
        self.at += whole.len() as u64;
        take(at, &whole)
    }
}
