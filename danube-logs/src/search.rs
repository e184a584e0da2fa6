//! Searching a log, finished or growing, on the libraries behind ripgrep.
//!
//! [`search`] reads a log through its store, a MiB at a time, and searches each block off the
//! runtime's threads while the next one is read. [`Scanner`] is the search without a store: it takes
//! bytes in any pieces, for instance those of a [`Follower`](crate::Follower).

mod pattern;
mod scan;

use bytes::Bytes;
use danube_core::{ByteRange, JobId, StepName};
use serde::Serialize;

pub use pattern::{MAX_PATTERN_BYTES, Pattern, PatternOptions, Within};
pub use scan::Scanner;

use crate::blocks::{Work, work_through};
use crate::{Error, LogPhase, LogStore};

/// The most lines of context on either side of a match.
pub const MAX_CONTEXT_LINES: usize = 1000;

/// The most places that are told of one matching line.
pub const MAX_SPANS: usize = 100;

/// The most bytes of context before one match: what is beyond is left out.
const MAX_CONTEXT_BYTES: usize = 4 * 1024 * 1024;

/// How far a search that does not begin at the beginning looks back for the context of its first
/// match.
const LOOK_BACK_BYTES: u64 = 256 * 1024;

/// A place in a log: where a line begins, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The offset of the line's first byte.
    pub offset: u64,
    /// The line's number; the first is 1.
    pub line: u64,
}

impl Default for Position {
    /// The beginning.
    fn default() -> Self {
        Self { offset: 0, line: 1 }
    }
}

/// What of a log is searched, and how much is returned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SearchOptions {
    /// Where to begin: the beginning, or a position that an earlier search gave. Default the
    /// beginning.
    pub from: Position,
    /// Only lines of this step match, and only they are context. Default all.
    pub step: Option<StepName>,
    /// Lines returned before each match, at most [`MAX_CONTEXT_LINES`] and 4 MiB. Default 0.
    pub before: usize,
    /// Lines returned after each match, at most [`MAX_CONTEXT_LINES`]. Default 0.
    pub after: usize,
    /// Matching lines that are returned; the others are counted. Default 1,000.
    pub max_matches: usize,
    /// After so many bytes of returned lines nothing more is returned, only counted; the last match and
    /// its context may go beyond. Default 4 MiB.
    pub max_bytes: usize,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            from: Position::default(),
            step: None,
            before: 0,
            after: 0,
            max_matches: 1000,
            max_bytes: 4 * 1024 * 1024,
        }
    }
}

impl SearchOptions {
    /// Sets [`from`](Self::from).
    #[must_use]
    pub fn with_from(mut self, from: Position) -> Self {
        self.from = from;
        self
    }

    /// Sets [`step`](Self::step).
    #[must_use]
    pub fn with_step(mut self, step: Option<StepName>) -> Self {
        self.step = step;
        self
    }

    /// Sets [`before`](Self::before) and [`after`](Self::after); more than [`MAX_CONTEXT_LINES`] is that.
    #[must_use]
    pub fn with_context(mut self, before: usize, after: usize) -> Self {
        self.before = before.min(MAX_CONTEXT_LINES);
        self.after = after.min(MAX_CONTEXT_LINES);
        self
    }

    /// Sets [`max_matches`](Self::max_matches).
    #[must_use]
    pub fn with_max_matches(mut self, lines: usize) -> Self {
        self.max_matches = lines;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }
}

/// A line that a search returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLine {
    /// Its number; the first line of a log is 1.
    pub number: u64,
    /// Where it lies in the log, its line feed included.
    pub range: ByteRange,
    /// The line as it is stored, without its line feed.
    pub bytes: Bytes,
    /// Whether it matches; otherwise it is context.
    pub is_match: bool,
    /// Where it matches, as offsets in the log; at most [`MAX_SPANS`], none for a match of nothing.
    pub spans: Vec<ByteRange>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Matches and their context, in order, no line twice.
    pub lines: Vec<FoundLine>,
    /// How many lines match, returned or not.
    pub matching_lines: u64,
    /// The first match that was not returned because of the limits: search from here for the next ones.
    pub more: Option<Position>,
    /// Up to where the log was searched. A log that was growing is searched on from here.
    pub end: Position,
    /// Whether more of the log will come.
    pub phase: LogPhase,
}

/// Searches what is stored of a log at this moment. A line that is still being written is left to the
/// next search.
///
/// Takes time linear in the bytes from [`SearchOptions::from`] on, whatever the pattern, and constant
/// memory beside what it returns.
///
/// Cancel safety: may be dropped at any time; at most the block being searched, 1 MiB, is searched to
/// its end.
///
/// # Errors
///
/// [`Error::NotFound`], [`Error::Io`]; [`Error::Invalid`] when the log ends before the position.
pub async fn search(
    store: &(impl LogStore + ?Sized),
    log: &JobId,
    pattern: &Pattern,
    options: &SearchOptions,
) -> Result<Found, Error> {
    let stat = store.stat(log).await?;
    let from = options.from.offset;
    if from > stat.len {
        let reason = format!("the log has {} bytes, {from} lies beyond its end", stat.len);
        return Err(Error::Invalid { reason });
    }
    let mut options = options.clone();
    options.before = options.before.min(MAX_CONTEXT_LINES);
    options.after = options.after.min(MAX_CONTEXT_LINES);
    let has_context = options.before > 0 && from > 0;
    let mut scanner = Scanner::new(pattern.clone(), options).with_format(stat.state.format);
    if has_context {
        let range = ByteRange::new(from.saturating_sub(LOOK_BACK_BYTES), from);
        scanner.look_back(&store.read(log, range).await?);
    }
    let mut scanner = work_through(store, log, ByteRange::new(from, stat.len), scanner).await?;
    if stat.phase != LogPhase::Open {
        scanner.finish();
    }
    Ok(Found {
        lines: scanner.take_lines(),
        matching_lines: scanner.matching_lines(),
        more: scanner.more(),
        end: scanner.position(),
        phase: stat.phase,
    })
}

impl Work for Scanner {
    fn push(&mut self, bytes: &[u8]) -> bool {
        Scanner::push(self, bytes);
        true
    }
}

#[cfg(test)]
mod tests;
