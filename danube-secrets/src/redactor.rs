//! The filter that masks secrets in one stream.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use danube_core::StreamFilter;
use zeroize::{Zeroize, Zeroizing};

use automaton::{Automaton, MAX_WHITE_RUN, Node, ROOT, WHITE, is_white};
use needles::Shared;

mod automaton;
mod filter;
mod forms;
mod needles;
#[cfg(test)]
mod tests;

pub use forms::Form;
pub use needles::{MASK, MAX_NEEDLES, MAX_NEEDLES_BYTES, MIN_SECRET_BYTES, Masked, Needles};

/// Bytes that are looked at in one go; what a `push` needs beside its input is bounded by it.
const PIECE: usize = 64 * 1024;

/// With fewer symbols open it is worth asking the filter: most beginnings that are so short are none.
const FEW: usize = 4;

/// Bytes that the filter must pass at once to be worth its time.
const WORTH_ASKING: usize = 32;

/// Bytes that pass at most until it is asked again.
const MAX_WAIT: usize = 1024;

/// Masks secrets in one stream, wherever it is cut.
///
/// What is written depends on the bytes and on where [`idle`](StreamFilter::idle) was called:
///
/// * A byte is masked when it lies in an occurrence of a secret (occurrences that overlap count
///   all), and each unbroken run of masked bytes is written as one [`MASK`]. Every other byte is
///   written as it is.
/// * `push` holds back the bytes at the end that a longer occurrence may still begin with, and no
///   others: at most [`Needles::max_held`].
/// * `idle` and [`finish`](StreamFilter::finish) do not wait for the rest: when the stream ends in
///   the beginning of a secret, counted from where that began, then [`MIN_SECRET_BYTES`] of it and
///   more are masked, fewer are shown. The rest of a secret that was begun before `idle` is masked
///   when it comes. So no secret is ever shown whole, and of one that came with pauses at most the
///   first five bytes are.
/// * A secret that was [added](Needles::add) is masked in what is pushed after that. If it was begun
///   before, what was held back then is masked too.
///
/// The time it takes is linear in the bytes, whatever the secrets are. Beside the shared tables it
/// keeps what it holds back, twice at most.
pub struct Redactor {
    shared: Arc<Shared>,
    /// Of which generation of the needles the automaton is.
    generation: u64,
    automaton: Option<Arc<Automaton>>,
    /// Where the automaton stands after everything taken.
    node: Node,
    /// The white space at the end of what was taken, while a beginning is open.
    white_run: usize,
    /// Where more than one byte was one symbol.
    gaps: Gaps,
    /// What was taken and may still matter: it reaches back to where the longest open beginning began.
    held: Held,
    /// Where in the stream the held bytes begin.
    held_at: u64,
    /// Up to here the stream was spoken of.
    base: u64,
    /// The parts of what was not spoken of that lie in occurrences: ascending, apart from each other.
    covered: VecDeque<Range<u64>>,
    /// Whether the byte before `base` was masked.
    in_mask: bool,
    /// What was masked since the shared count was told.
    masked: Masked,
}

impl Redactor {
    fn new(shared: Arc<Shared>) -> Self {
        let (generation, automaton) = shared.current();
        Self {
            shared,
            generation,
            automaton,
            node: ROOT,
            white_run: 0,
            gaps: Gaps::default(),
            held: Held::default(),
            held_at: 0,
            base: 0,
            covered: VecDeque::new(),
            in_mask: false,
            masked: Masked::default(),
        }
    }

    /// Takes up needles that were added.
    fn renew(&mut self) {
        if self.shared.generation() == self.generation {
            return;
        }
        (self.generation, self.automaton) = self.shared.current();
        let Some(automaton) = self.automaton.clone() else { return };
        // Every beginning of an old needle is one of the new ones, so what is held is all it takes.
        self.forget();
        let held = std::mem::take(&mut self.held);
        self.search(&automaton, self.held_at, held.bytes());
        self.held = held;
    }

    /// Stands where nothing was read.
    fn forget(&mut self) {
        self.node = ROOT;
        self.white_run = 0;
        self.gaps.clear();
        self.covered.clear();
    }

    fn take(&mut self, automaton: &Automaton, piece: &[u8], out: &mut Vec<u8>) {
        let start = self.held_at + self.held.len() as u64;
        self.search(automaton, start, piece);

        let end = start + piece.len() as u64;
        let open_at = self.gaps.start(end, automaton.open(self.node));
        let mut until = self.base.max(open_at);
        // What is covered is masked whatever follows: there is no need to wait with it.
        let reached = self.covered.partition_point(|range| range.start <= until);
        if let Some(range) = reached.checked_sub(1).and_then(|last| self.covered.get(last)) {
            until = until.max(range.end);
        }
        self.speak(until, start, piece, out);

        // What was held before the piece and is older than the beginning that is open now.
        let of_held = self.held.len().min((open_at - self.held_at) as usize);
        let of_piece = open_at.saturating_sub(start) as usize;
        self.held.drop_front(of_held);
        self.held.append(&piece[of_piece..]);
        self.held_at = open_at;
    }

    /// Moves the automaton over a piece and marks what occurrences cover.
    fn search(&mut self, automaton: &Automaton, start: u64, piece: &[u8]) {
        let mut node = self.node;
        let mut at = 0;
        // Before here, the filter is not asked.
        let mut ask_from = 0;
        let mut wait = 0;
        while at < piece.len() {
            let open = automaton.open(node);
            if open < FEW
                && at >= ask_from
                && let Some(filter) = automaton.filter()
                && let Some(from) = at.checked_sub(open)
                && (open == 0 || self.gaps.is_empty())
            {
                let skipped = filter.skip(piece, from);
                // Where it finds something at every turn, asking takes longer than going on.
                let gained = skipped.to - from >= WORTH_ASKING;
                wait = if gained { 0 } else { (2 * wait).clamp(WORTH_ASKING, MAX_WAIT) };
                ask_from = skipped.asked.saturating_add(wait);
                if skipped.to > at {
                    // What was open began before, so it was no needle.
                    (node, at) = (ROOT, skipped.to);
                    self.gaps.clear();
                    self.white_run = 0;
                    continue;
                }
            }
            let byte = piece[at];
            at += 1;
            if is_white(byte) {
                node = self.step_white(automaton, node, start + at as u64);
                continue;
            }
            self.white_run = 0;
            node = automaton.step(node, byte);
            let longest = automaton.longest(node);
            if longest > 0 {
                let end = start + at as u64;
                self.cover(self.gaps.start(end, longest), end);
            }
        }
        self.node = node;
    }

    /// The state after a byte of white space that ends at `end`. No needle ends in one.
    fn step_white(&mut self, automaton: &Automaton, node: Node, end: u64) -> Node {
        self.white_run += 1;
        if self.white_run == 1 {
            return automaton.step(node, WHITE);
        }
        if node == ROOT {
            return ROOT;
        }
        if self.white_run > MAX_WHITE_RUN {
            self.gaps.clear();
            return ROOT;
        }
        self.gaps.lengthen(end, self.white_run, automaton.longest_needle());
        node
    }

    /// Marks an occurrence. Each one ends beyond all that were marked before it.
    fn cover(&mut self, start: u64, end: u64) {
        // What was spoken of is past changing.
        let mut start = start.max(self.base);
        while let Some(last) = self.covered.pop_back_if(|last| last.end >= start) {
            start = start.min(last.start);
        }
        if start < end {
            self.covered.push_back(start..end);
        }
    }

    /// Writes what lies below `until`. It comes from the held bytes and, from `start` on, from
    /// `piece`. No covered range reaches across `until`.
    fn speak(&mut self, until: u64, start: u64, piece: &[u8], out: &mut Vec<u8>) {
        let mut at = self.base;
        while let Some(range) = self.covered.pop_front_if(|range| range.start < until) {
            self.show(at..range.start, start, piece, out);
            at = range.end;
            self.mask(range, out);
        }
        self.show(at..until, start, piece, out);
        self.base = until;
    }

    fn show(&mut self, range: Range<u64>, start: u64, piece: &[u8], out: &mut Vec<u8>) {
        if range.is_empty() {
            return;
        }
        self.in_mask = false;
        let in_held = |at: u64| (at.min(start) - self.held_at) as usize;
        let in_piece = |at: u64| at.saturating_sub(start) as usize;
        out.extend_from_slice(&self.held.bytes()[in_held(range.start)..in_held(range.end)]);
        out.extend_from_slice(&piece[in_piece(range.start)..in_piece(range.end)]);
    }

    fn mask(&mut self, range: Range<u64>, out: &mut Vec<u8>) {
        if range.is_empty() {
            return;
        }
        self.masked.bytes += range.end - range.start;
        if !self.in_mask {
            self.masked.masks += 1;
            out.extend_from_slice(MASK.as_bytes());
            self.in_mask = true;
        }
    }

    /// Speaks of all that is held, although more may follow.
    fn settle(&mut self, out: &mut Vec<u8>) {
        let end = self.held_at + self.held.len() as u64;
        let open = self.automaton.as_ref().map_or(0, |automaton| automaton.open(self.node));
        if open >= MIN_SECRET_BYTES {
            self.covered.clear();
            self.mask(self.base..end, out);
            self.base = end;
        } else {
            self.speak(end, end, &[], out);
        }
    }

    /// Tells the shared count.
    fn report(&mut self) {
        if self.masked.bytes > 0 {
            self.shared.count(std::mem::take(&mut self.masked));
        }
    }
}

impl StreamFilter for Redactor {
    fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.renew();
        let Some(automaton) = self.automaton.clone() else {
            out.extend_from_slice(input);
            return;
        };
        for piece in input.chunks(PIECE) {
            self.take(&automaton, piece, out);
        }
        self.report();
    }

    fn idle(&mut self, out: &mut Vec<u8>) {
        self.renew();
        // The automaton stays where it is: it still knows what the rest of a secret looks like. And
        // what is open stays held, for the needles that may be added.
        self.settle(out);
        self.report();
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.renew();
        self.settle(out);
        self.report();
        self.forget();
        self.held.clear();
        (self.held_at, self.base) = (0, 0);
        self.in_mask = false;
    }

    fn held(&self) -> usize {
        (self.held_at + self.held.len() as u64 - self.base) as usize
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("held", &self.held()).finish_non_exhaustive()
    }
}

/// Where runs of white space stand that are longer than the one symbol they are, as far back as an open
/// beginning may reach.
#[derive(Default)]
struct Gaps {
    runs: VecDeque<Gap>,
    /// Bytes beyond one per symbol in the runs that were forgotten.
    forgotten: u64,
}

#[derive(Clone, Copy)]
struct Gap {
    /// Which symbol of the stream the run is, counted in bytes less those of `extra`.
    symbol: u64,
    /// Bytes beyond one per symbol in this run and all before it.
    extra: u64,
}

impl Gaps {
    fn extra(&self) -> u64 {
        self.runs.back().map_or(self.forgotten, |gap| gap.extra)
    }

    /// Notes that the run of white space that ends at `end` has `len` bytes, two or more. What is more than
    /// `reach` symbols back is forgotten.
    fn lengthen(&mut self, end: u64, len: usize, reach: usize) {
        if len > 2
            && let Some(gap) = self.runs.back_mut()
        {
            gap.extra += 1;
            return;
        }
        let extra = self.extra() + 1;
        let symbol = end - extra - 1;
        while let Some(gap) = self.runs.pop_front_if(|gap| gap.symbol + (reach as u64) < symbol) {
            self.forgotten = gap.extra;
        }
        self.runs.push_back(Gap { symbol, extra });
    }

    /// Where the last `symbols` symbols of a stream begin that was read up to `end`.
    fn start(&self, end: u64, symbols: usize) -> u64 {
        let first = end - self.extra() - symbols as u64;
        let before = self.runs.partition_point(|gap| gap.symbol < first);
        first + before.checked_sub(1).map_or(self.forgotten, |last| self.runs[last].extra)
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Nothing is open: counting may begin anew.
    fn clear(&mut self) {
        self.forgotten = 0;
        self.runs.clear();
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
