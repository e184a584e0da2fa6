//! The last bytes of a log in memory, shared by all who follow it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use danube_core::ByteRange;

/// What is kept of each log that is followed. A follower that is further behind reads the file.
pub(super) const HOT_BYTES: usize = 512 * 1024;

/// Smaller pieces are copied: one line must not keep the whole buffer that it was cut from.
const SHARE_FROM: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(super) struct Hot {
    /// Contiguous, each with its offset.
    pieces: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Hot {
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn end(&self) -> Option<u64> {
        self.pieces.back().map(|(at, piece)| at + piece.len() as u64)
    }

    /// Takes what was stored at an offset; what does not follow begins anew.
    pub(super) fn push(&mut self, at: u64, bytes: &Bytes) {
        if self.end().is_some_and(|end| end != at) {
            self.clear();
        }
        if bytes.is_empty() {
            return;
        }
        let share = bytes.len() >= SHARE_FROM;
        self.bytes += bytes.len();
        let piece = if share { bytes.clone() } else { Bytes::copy_from_slice(bytes) };
        self.pieces.push_back((at, piece));
        while self.bytes > HOT_BYTES {
            let Some((_, oldest)) = self.pieces.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// The bytes of a range as far as they reach, if its beginning is here.
    pub(super) fn read(&self, range: ByteRange) -> Option<Bytes> {
        let (first, end) = (self.pieces.front()?.0, self.end()?);
        if range.is_empty() || range.start < first || range.start >= end {
            return None;
        }
        let range = range.clamp_end(end);
        let index = self.pieces.partition_point(|(at, _)| *at <= range.start) - 1;
        let cut = |(at, piece): &(u64, Bytes)| {
            let from = usize::try_from(range.start.saturating_sub(*at)).unwrap_or(usize::MAX);
            let to = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(piece.len());
            piece.slice(from..to)
        };
        let mut whole = cut(&self.pieces[index]);
        if (whole.len() as u64) < range.len() {
            let mut joined = BytesMut::with_capacity(usize::try_from(range.len()).unwrap_or(0));
            joined.extend_from_slice(&whole);
            for piece in self.pieces.range(index + 1..).take_while(|(at, _)| *at < range.end) {
                joined.extend_from_slice(&cut(piece));
            }
            whole = joined.freeze();
        }
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_stored(
            pieces in proptest::collection::vec(0_usize..40_000, 1..60),
            skip in any::<usize>(),
            reads in proptest::collection::vec((any::<u64>(), 0_u64..70_000), 1..20),
        ) {
            let (mut hot, mut model, mut kept_from) = (Hot::default(), Vec::new(), 0);
            for (index, len) in pieces.iter().enumerate() {
                let piece: Vec<u8> = (0..*len).map(|n| (n * 31 + model.len()) as u8).collect();
                let at = model.len() as u64;
                model.extend_from_slice(&piece);
                if index == skip % 70 {
                    // A gap: what lies before it is given up with the next piece.
                    kept_from = model.len() as u64;
                    continue;
                }
                hot.push(at, &piece.into());
                for (start, len) in &reads {
                    let start = start % (model.len() as u64 + 1);
                    let range = ByteRange::with_len(start, *len);
                    if let Some(bytes) = hot.read(range) {
                        let from = usize::try_from(start).unwrap();
                        prop_assert!(!bytes.is_empty());
                        prop_assert_eq!(&bytes[..], &model[from..from + bytes.len()]);
                        prop_assert!(start >= kept_from);
                        let all = range.clamp_end(model.len() as u64).len();
                        prop_assert_eq!(bytes.len() as u64, all);
                    }
                }
                prop_assert!(hot.bytes <= HOT_BYTES);
            }
        }
    }
}
