//! The filter that masks secrets in one stream.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use danube_core::StreamFilter;
use zeroize::{Zeroize, Zeroizing};

use crate::automaton::{Automaton, Node, PREFIX, ROOT};
use crate::{MASK, MIN_SECRET_BYTES};

#[cfg(test)]
mod tests;

/// Bytes that are looked at in one go; what a `push` needs beside its input is bounded by it.
const PIECE: usize = 64 * 1024;

/// Masks secrets in one stream, wherever it is cut.
///
/// What is written depends on the bytes and on where [`idle`](StreamFilter::idle) was called:
///
/// * A byte is masked when it lies in an occurrence of a secret (occurrences that overlap count
///   all), and each unbroken run of masked bytes is written as one [`MASK`]. Every other byte is
///   written as it is.
/// * `push` holds back the bytes at the end that a longer occurrence may still begin with, and no
///   others: at most [`Needles::max_held`](crate::Needles::max_held).
/// * `idle` and [`finish`](StreamFilter::finish) do not wait for the rest: when the stream ends in
///   the beginning of a secret, counted from where that began, then [`MIN_SECRET_BYTES`] of it and
///   more are masked, fewer are shown. The rest of a secret that was begun before `idle` is masked
///   when it comes. So no secret is ever shown whole, and of one that came with pauses at most the
///   first five bytes are.
///
/// The time it takes is linear in the bytes, whatever the secrets are.
pub struct Redactor {
    automaton: Option<Arc<Automaton>>,
    /// Where the automaton stands after everything taken.
    node: Node,
    /// What was taken and not yet spoken of.
    held: Held,
    /// Where in the stream the held bytes begin.
    base: u64,
    /// The parts of the held bytes that lie in occurrences: ascending, apart from each other.
    covered: VecDeque<Range<u64>>,
    /// Whether the byte before the held ones was masked.
    in_mask: bool,
}

impl Redactor {
    pub(crate) fn new(automaton: Option<Arc<Automaton>>) -> Self {
        Self {
            automaton,
            node: ROOT,
            held: Held::default(),
            base: 0,
            covered: VecDeque::new(),
            in_mask: false,
        }
    }

    fn take(&mut self, automaton: &Automaton, piece: &[u8], out: &mut Vec<u8>) {
        let start = self.base + self.held.len() as u64;
        self.search(automaton, start, piece);

        let end = start + piece.len() as u64;
        let mut until = self.base.max(end - automaton.open(self.node) as u64);
        // What is covered is masked whatever follows: there is no need to hold it.
        let reached = self.covered.partition_point(|range| range.start <= until);
        if let Some(range) = reached.checked_sub(1).and_then(|last| self.covered.get(last)) {
            until = until.max(range.end);
        }
        self.speak(until, start, piece, out);

        let of_held = self.held.len().min((until - self.base) as usize);
        let of_piece = until.saturating_sub(start) as usize;
        self.held.drop_front(of_held);
        self.held.append(&piece[of_piece..]);
        self.base = until;
    }

    /// Moves the automaton over a piece and marks what occurrences cover.
    fn search(&mut self, automaton: &Automaton, start: u64, piece: &[u8]) {
        let mut node = self.node;
        let mut at = 0;
        // Before here, no beginning needs to be asked about (again).
        let mut unasked = 0;
        while at < piece.len() {
            // With so little open the next needle is found faster by looking for beginnings than by
            // going on byte by byte: most that are open for a byte or two are none. Going back over
            // what is open finds nothing twice, because no needle is so short.
            let open = automaton.open(node);
            if open < PREFIX
                && let Some(from) = at.checked_sub(open)
                && from >= unasked
            {
                let skipped = automaton.skip(&piece[from..]);
                unasked = from + skipped + 1;
                if skipped > 0 {
                    (node, at) = (ROOT, from + skipped);
                }
            }
            node = automaton.step(node, piece[at]);
            at += 1;
            let longest = automaton.longest(node) as u64;
            if longest > 0 {
                let end = start + at as u64;
                self.cover(end - longest, end);
            }
        }
        self.node = node;
    }

    /// Marks an occurrence. Each one ends beyond all that were marked before it.
    fn cover(&mut self, start: u64, end: u64) {
        // What was spoken of is past changing.
        let mut start = start.max(self.base);
        while let Some(last) = self.covered.pop_back_if(|last| last.end >= start) {
            start = start.min(last.start);
        }
        self.covered.push_back(start..end);
    }

    /// Writes what lies below `until`. It comes from the held bytes and, from `start` on, from
    /// `piece`. No covered range reaches across `until`.
    fn speak(&mut self, until: u64, start: u64, piece: &[u8], out: &mut Vec<u8>) {
        let mut at = self.base;
        while let Some(range) = self.covered.pop_front_if(|range| range.start < until) {
            self.show(at..range.start, start, piece, out);
            self.mask(out);
            at = range.end;
        }
        self.show(at..until, start, piece, out);
    }

    fn show(&mut self, range: Range<u64>, start: u64, piece: &[u8], out: &mut Vec<u8>) {
        if range.is_empty() {
            return;
        }
        self.in_mask = false;
        let in_held = |at: u64| (at.min(start) - self.base) as usize;
        let in_piece = |at: u64| at.saturating_sub(start) as usize;
        out.extend_from_slice(&self.held.bytes()[in_held(range.start)..in_held(range.end)]);
        out.extend_from_slice(&piece[in_piece(range.start)..in_piece(range.end)]);
    }

    fn mask(&mut self, out: &mut Vec<u8>) {
        if !self.in_mask {
            out.extend_from_slice(MASK.as_bytes());
            self.in_mask = true;
        }
    }
}

impl StreamFilter for Redactor {
    fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let Some(automaton) = self.automaton.clone() else {
            out.extend_from_slice(input);
            return;
        };
        for piece in input.chunks(PIECE) {
            self.take(&automaton, piece, out);
        }
    }

    fn idle(&mut self, out: &mut Vec<u8>) {
        let (Some(automaton), false) = (&self.automaton, self.held.is_empty()) else { return };
        let end = self.base + self.held.len() as u64;
        if automaton.open(self.node) >= MIN_SECRET_BYTES {
            self.mask(out);
        } else {
            self.speak(end, end, &[], out);
        }
        self.covered.clear();
        self.held.clear();
        // The automaton stays where it is: it still knows what the rest of a secret looks like.
        self.base = end;
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.idle(out);
        self.node = ROOT;
        self.base = 0;
        self.in_mask = false;
    }

    fn held(&self) -> usize {
        self.held.len()
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

/// Bytes that are taken from the front and added at the end, and leave no copies in freed memory.
#[derive(Default)]
struct Held {
    buffer: Zeroizing<Vec<u8>>,
    /// Where in the buffer they begin. Moving them for each byte that leaves would make a long
    /// needle quadratic.
    front: usize,
}

impl Held {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.front..]
    }

    fn len(&self) -> usize {
        self.buffer.len() - self.front
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn clear(&mut self) {
        // Zeroising clears what lies beyond the length too, so it is done when there was something.
        if !self.buffer.is_empty() {
            self.buffer.zeroize();
        }
        self.front = 0;
    }

    fn drop_front(&mut self, bytes: usize) {
        self.front += bytes;
        if self.is_empty() {
            self.buffer.clear();
            self.front = 0;
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > self.buffer.capacity() {
            let needed = self.len() + bytes.len();
            if self.front >= self.buffer.len() / 2 && needed <= self.buffer.capacity() {
                self.buffer.copy_within(self.front.., 0);
                let len = self.len();
                self.buffer.truncate(len);
            } else {
                // A vector that grows by itself would free its old buffer as it is.
                let mut larger = Zeroizing::new(Vec::with_capacity((2 * needed).max(64)));
                larger.extend_from_slice(self.bytes());
                self.buffer = larger;
            }
            self.front = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }
}
