//! An Aho–Corasick automaton that knows how much of what it read may still become a match.
//!
//! It is our own because the masking of a stream asks two things that a search library keeps to itself:
//! how long the open beginning of a match is, and that the bytes of the needles are zeroised on drop.
//!
//! It works on symbols: a byte is one, and so is a run of white space, whose symbol is [`WHITE`].

use std::collections::VecDeque;

use zeroize::{Zeroize, Zeroizing};

use super::filter::Filter;

/// A state: what was read last, as far as it is the beginning of a needle.
pub(crate) type Node = u32;

/// The state in which nothing that was read matters any more.
pub(crate) const ROOT: Node = 0;

/// The symbol of a run of white space.
pub(crate) const WHITE: u8 = b' ';

/// The longest run of white space that may stand where a needle has some: a line end and deep
/// indentation. A longer one ends every beginning, because what is held must be bounded.
pub(crate) const MAX_WHITE_RUN: usize = 64;

/// Whether a byte is white space: HT, LF, VT, FF, CR, SP.
#[inline]
pub(crate) fn is_white(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

pub(crate) struct Automaton {
    /// Depth first, so that what is alone below its parent stands right behind it: reading on in a needle
    /// is reading on in memory. The children of one node are neighbours.
    nodes: Zeroizing<Vec<Facts>>,
    /// The byte that leads into each node.
    labels: Zeroizing<Vec<u8>>,
    /// The states after the root and each of its children, by symbol: most of what is read begins no needle
    /// and goes to and fro between these.
    shallow: Zeroizing<Vec<[Node; 256]>>,
    /// Where a needle may begin; `None` when one is too short to tell.
    filter: Option<Filter>,
    /// Symbols of the longest needle.
    longest_needle: usize,
    /// Bytes that an occurrence has at most.
    longest_occurrence: usize,
}

/// What there is to a node, in one load.
#[derive(Clone, Copy, Default, Zeroize)]
struct Facts {
    first_child: Node,
    /// The node of the longest proper suffix that begins a needle and does not surely fail on the same bytes.
    fail: Node,
    /// Above the lowest nine bits: symbols of the longest needle that ends here; 0 for none. In them: the byte
    /// that leads to the only child, [`NO_BYTE`] if there is no only child.
    longest_and_byte: u32,
    /// Above the lowest nine bits: symbols of the longest suffix that a longer needle begins with. In them: how
    /// many children there are.
    open_and_children: u32,
}

const SMALL_BITS: u32 = 9;
const SMALL: u32 = (1 << SMALL_BITS) - 1;
const NO_BYTE: u32 = 256;

impl Facts {
    fn only_byte(&self) -> u32 {
        self.longest_and_byte & SMALL
    }

    fn longest(&self) -> u32 {
        self.longest_and_byte >> SMALL_BITS
    }

    fn open(&self) -> u32 {
        self.open_and_children >> SMALL_BITS
    }

    fn children(&self) -> std::ops::Range<usize> {
        let first = self.first_child as usize;
        first..first + (self.open_and_children & SMALL) as usize
    }
}

impl Automaton {
    /// Of needles in symbols that are sorted, each there once, none empty, none with white space at an
    /// end.
    pub(crate) fn new(needles: &[&[u8]]) -> Self {
        debug_assert!(needles.is_sorted_by(|a, b| a < b) && !needles.contains(&&b""[..]));
        let bytes_at_most = |needle: &&[u8]| {
            let runs = needle.iter().filter(|symbol| **symbol == WHITE).count();
            needle.len() + runs * (MAX_WHITE_RUN - 1)
        };
        let mut this = Self {
            nodes: Zeroizing::default(),
            labels: Zeroizing::default(),
            shallow: Zeroizing::default(),
            filter: Filter::new(needles),
            longest_needle: needles.iter().map(|needle| needle.len()).max().unwrap_or(0),
            longest_occurrence: needles.iter().map(bytes_at_most).max().unwrap_or(0),
        };
        this.plant(needles);
        let from_root = this.nodes[0].children();
        this.shallow.reserve_exact(from_root.end);
        this.shallow.push([ROOT; 256]);
        for child in from_root.clone() {
            this.shallow[0][usize::from(this.labels[child])] = number(child);
        }
        this.link();
        for child in from_root {
            let node = number(child);
            let row = std::array::from_fn(|symbol| this.step(node, symbol as u8));
            this.shallow.push(row);
        }
        this
    }

    /// Makes the nodes and the ways down.
    fn plant(&mut self, needles: &[&[u8]]) {
        // Tables that never grow leave no copies behind.
        let most = needles.iter().map(|needle| needle.len()).sum::<usize>() + 1;
        self.nodes.reserve_exact(most);
        self.labels.reserve_exact(most);
        self.nodes.push(Facts::default());
        self.labels.push(0);
        // Each node is a run of sorted needles that agree on `depth` bytes.
        let mut runs = vec![(0, 0..needles.len(), 0)];
        while let Some((node, mut run, depth)) = runs.pop() {
            let ends_here = needles[run.clone()].first().is_some_and(|n| n.len() == depth);
            let longest = if ends_here { depth } else { 0 };
            run.start += usize::from(ends_here);
            let first_child = self.nodes.len();
            while !run.is_empty() {
                let byte = needles[run.start][depth];
                let agree = needles[run.clone()].iter().take_while(|n| n[depth] == byte).count();
                runs.push((self.nodes.len(), run.start..run.start + agree, depth + 1));
                self.nodes.push(Facts::default());
                self.labels.push(byte);
                run.start += agree;
            }
            let children = self.nodes.len() - first_child;
            let only = if children == 1 { u32::from(self.labels[first_child]) } else { NO_BYTE };
            self.nodes[node] = Facts {
                first_child: number(first_child),
                fail: ROOT,
                longest_and_byte: number(longest) << SMALL_BITS | only,
                // Until it is linked, how deep it lies.
                open_and_children: number(depth) << SMALL_BITS | number(children),
            };
        }
    }

    /// Makes the ways on where the way down ends.
    fn link(&mut self) {
        // Of each node that of the longest proper suffix, whatever it fails on.
        let mut suffixes = vec![ROOT; self.nodes.len()];
        // Breadth first: the node of a suffix is less deep, and done before.
        let mut queue = VecDeque::from([ROOT]);
        while let Some(node) = queue.pop_front() {
            let suffix = self.nodes[suffixes[node as usize] as usize];
            let facts = self.nodes[node as usize];
            let has_children = !facts.children().is_empty();
            let depth = facts.open();
            let open = if has_children { depth } else { suffix.open() };
            let longest = if facts.longest() > 0 { facts.longest() } else { suffix.longest() };
            let mut fail = suffixes[node as usize];
            while fail != ROOT
                && facts.only_byte() != NO_BYTE
                && self.nodes[fail as usize].only_byte() == facts.only_byte()
            {
                fail = self.nodes[fail as usize].fail;
            }
            for child in facts.children() {
                if node != ROOT {
                    suffixes[child] = self.step(suffixes[node as usize], self.labels[child]);
                }
                queue.push_back(number(child));
            }
            let facts = &mut self.nodes[node as usize];
            facts.fail = fail;
            facts.longest_and_byte = longest << SMALL_BITS | facts.longest_and_byte & SMALL;
            facts.open_and_children = open << SMALL_BITS | facts.open_and_children & SMALL;
        }
    }

    /// The state after one more symbol.
    #[inline]
    pub(crate) fn step(&self, mut node: Node, symbol: u8) -> Node {
        loop {
            if let Some(row) = self.shallow.get(node as usize) {
                return row[usize::from(symbol)];
            }
            let facts = &self.nodes[node as usize];
            // Below its first bytes a needle is alone.
            if facts.only_byte() == u32::from(symbol) {
                return facts.first_child;
            }
            if facts.only_byte() == NO_BYTE
                && let Ok(at) = self.labels[facts.children()].binary_search(&symbol)
            {
                return facts.first_child + number(at);
            }
            node = facts.fail;
        }
    }

    /// Symbols of the longest needle that ends in this state; 0 for none. Shorter ones that end here
    /// too lie within it.
    #[inline]
    pub(crate) fn longest(&self, node: Node) -> usize {
        self.nodes[node as usize].longest() as usize
    }

    /// How many of the symbols read last may, with what follows, become a needle.
    #[inline]
    pub(crate) fn open(&self, node: Node) -> usize {
        self.nodes[node as usize].open() as usize
    }

    /// Where a needle may begin; `None` when every place must be looked at.
    #[inline]
    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// Symbols of the longest needle.
    pub(crate) fn longest_needle(&self) -> usize {
        self.longest_needle
    }

    /// Bytes that the longest occurrence of a needle has at most.
    pub(crate) fn longest_occurrence(&self) -> usize {
        self.longest_occurrence
    }
}

fn number(index: usize) -> Node {
    Node::try_from(index).expect("needles have less than 4 GiB in all")
}
