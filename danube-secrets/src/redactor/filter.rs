//! Finds the few places of a stream where a needle may be, without looking at most of its bytes.
//!
//! Of each needle one region without white space is chosen, and every window of [`WINDOW`] bytes in
//! it is noted in a bitmap under its hash. A region of `stride + WINDOW - 1` bytes has `stride`
//! windows side by side, so looking at every `stride`-th window of the stream meets one of them
//! wherever the needle lies. What the bitmap does not know is no needle; what it knows may be one,
//! and the automaton decides.

use zeroize::Zeroizing;

use super::automaton::{MAX_WHITE_RUN, WHITE, is_white};

/// Bytes that are hashed at once: four make one load, and few of them stand in a log by chance.
const WINDOW: usize = 4;
/// More would make regions longer without making anything faster: memory is the limit by then.
const MAX_STRIDE: usize = 8;
/// Symbols before a region at most.
const MAX_OFFSET: usize = 32;
/// Symbols before a region where one can be had so near: the automaton starts that far back at each false
/// alarm and at the end of each write.
const NEAR_OFFSET: usize = 8;
/// Bits per noted window: about one window in so many is a false alarm.
const BITS_PER_WINDOW: usize = 128;
/// 8 KiB stay in the first-level cache, 512 KiB in the second.
const MIN_BITS: usize = 1 << 16;
const MAX_BITS: usize = 1 << 22;

pub(crate) struct Filter {
    /// Bits by hash.
    bits: Zeroizing<Vec<u64>>,
    /// How far a hash is shifted to be a place in them.
    shift: u32,
    stride: usize,
    /// Symbols that lie at most between the beginning of a needle and its region.
    offset: usize,
}

/// What a filter says of a stretch of bytes.
pub(crate) struct Skipped {
    /// No needle begins in the stretch before here.
    pub(crate) to: usize,
    /// Asking again is worth it only from here on.
    pub(crate) asked: usize,
}

impl Filter {
    /// `None` when some needle has no region of at least one window.
    pub(crate) fn new(needles: &[&[u8]]) -> Option<Self> {
        let longest = needles.iter().map(|needle| longest_region(needle)).min()?;
        let stride = longest.checked_sub(WINDOW - 1).filter(|stride| *stride > 0)?;
        let bits = (needles.len() * stride * BITS_PER_WINDOW)
            .next_power_of_two()
            .clamp(MIN_BITS, MAX_BITS);
        let mut this = Self {
            bits: Zeroizing::new(vec![0; bits / 64]),
            shift: 32 - bits.trailing_zeros(),
            stride,
            offset: 0,
        };
        for needle in needles {
            let offset = rarest_region(needle, stride + WINDOW - 1)?;
            this.offset = this.offset.max(offset);
            for window in needle[offset..][..stride + WINDOW - 1].windows(WINDOW) {
                let hash = this.hash(window);
                this.bits[hash / 64] |= 1 << (hash % 64);
            }
        }
        Some(this)
    }

    /// Looks for the first place from `from` on where a needle may begin.
    #[inline]
    pub(crate) fn skip(&self, input: &[u8], from: usize) -> Skipped {
        // The first window that must be looked at: one of a region that began at `from`.
        let first = from + self.stride - 1;
        let hit = match self.stride {
            1 => self.find::<1>(input, first),
            2 => self.find::<2>(input, first),
            3 => self.find::<3>(input, first),
            4 => self.find::<4>(input, first),
            5 => self.find::<5>(input, first),
            6 => self.find::<6>(input, first),
            7 => self.find::<7>(input, first),
            _ => self.find::<MAX_STRIDE>(input, first),
        };
        // Regions that begin further back were met by the window before.
        let region = (hit + 1 - self.stride).min(input.len());
        let to = from + back(&input[from..region.max(from)], self.offset);
        let asked = if hit + WINDOW <= input.len() { hit + 1 } else { usize::MAX };
        Skipped { to, asked }
    }

    /// The first noted window at `at`, `at + STRIDE`, …; if there is none, the first of these places
    /// that has no whole window.
    fn find<const STRIDE: usize>(&self, input: &[u8], mut at: usize) -> usize {
        // One branch for eight windows: their loads do not wait for each other.
        const BATCH: usize = 8;
        while let Some(block) = input.get(at..at + (BATCH - 1) * STRIDE + WINDOW) {
            let mut known = 0;
            for window in 0..BATCH {
                known |= self.knows(&block[window * STRIDE..window * STRIDE + WINDOW]);
            }
            if known & 1 != 0 {
                break;
            }
            at += BATCH * STRIDE;
        }
        while let Some(window) = input.get(at..at + WINDOW) {
            if self.knows(window) & 1 != 0 {
                break;
            }
            at += STRIDE;
        }
        at
    }

    /// Whether a window is noted, in the lowest bit.
    #[inline(always)]
    fn knows(&self, window: &[u8]) -> u64 {
        let hash = self.hash(window);
        self.bits[hash / 64] >> (hash % 64)
    }

    #[inline(always)]
    fn hash(&self, window: &[u8]) -> usize {
        let window = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
        // Fibonacci hashing: the golden ratio spreads what differs in any byte over the upper bits.
        (window.wrapping_mul(0x9E37_79B1) >> self.shift) as usize
    }
}

/// How many bytes remain before the last `symbols` symbols.
fn back(bytes: &[u8], symbols: usize) -> usize {
    let mut at = bytes.len();
    for _ in 0..symbols {
        let white = bytes[..at].iter().rev().take(MAX_WHITE_RUN).take_while(|b| is_white(**b));
        at = at.saturating_sub(white.count().max(1));
    }
    at
}

/// Bytes of the longest region that is worth having.
fn longest_region(needle: &[u8]) -> usize {
    let within = &needle[..needle.len().min(MAX_OFFSET + MAX_STRIDE + WINDOW - 1)];
    let longest = within.split(|symbol| *symbol == WHITE).map(<[u8]>::len).max().unwrap_or(0);
    longest.min(MAX_STRIDE + WINDOW - 1)
}

/// Where the region of this length begins that a log is least likely to hold by chance.
fn rarest_region(needle: &[u8], length: usize) -> Option<usize> {
    // What words, rulers and numbers are made of.
    let common = |byte: u8| byte.is_ascii_lowercase() || b"-=_./:*#0".contains(&byte);
    let weight = |region: &[u8]| {
        let repeated = region.windows(2).filter(|pair| pair[0] == pair[1]).count();
        region.iter().filter(|byte| common(**byte)).count() + 2 * repeated
    };
    needle
        .windows(length)
        .take(MAX_OFFSET + MAX_STRIDE)
        .enumerate()
        .filter(|(_, region)| !region.contains(&WHITE))
        .min_by_key(|(offset, region)| (*offset > NEAR_OFFSET, weight(region), *offset))
        .map(|(offset, _)| offset)
}
