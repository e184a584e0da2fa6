//! Half-open ranges of bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The bytes from `start` up to and without `end`. Offsets count bytes from the beginning of what is
/// stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte. A range whose end is not beyond its start is empty.
    pub end: u64,
}

impl ByteRange {
    /// The range `start..end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// `len` bytes from `start` on, as far as offsets reach.
    #[must_use]
    pub const fn with_len(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// How many bytes it spans.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it spans none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// The part of it that lies below `end`.
    #[must_use]
    pub fn clamp_end(self, end: u64) -> Self {
        Self { start: self.start.min(end), end: self.end.min(end) }
    }
}

impl From<std::ops::Range<u64>> for ByteRange {
    fn from(range: std::ops::Range<u64>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}
