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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_spans_less_than_nothing_or_beyond_the_last_offset() {
        let table = [
            (ByteRange::new(3, 10), 7, false),
            (ByteRange::new(3, 3), 0, true),
            (ByteRange::new(10, 3), 0, true),
            (ByteRange::with_len(u64::MAX - 1, 100), 1, false),
            (ByteRange::new(5, 20).clamp_end(12), 7, false),
            (ByteRange::new(5, 20).clamp_end(2), 0, true),
        ];
        for (range, len, is_empty) in table {
            assert_eq!((range.len(), range.is_empty()), (len, is_empty), "{range}");
        }
        assert_eq!(ByteRange::from(1..4).to_string(), "1..4");
    }
}
