//! An Aho–Corasick automaton that knows how much of what it read may still become a match.
//!
//! It is our own because the masking of a stream asks two things that a search library keeps to itself:
//! how long the open beginning of a match is, and that the bytes of the needles are zeroised on drop.

use std::collections::VecDeque;

use zeroize::Zeroizing;

/// A state: what was read last, as far as it is the beginning of a needle.
pub(crate) type Node = u32;

/// The state in which nothing that was read matters any more.
pub(crate) const ROOT: Node = 0;

/// Bytes of a needle that the filter looks at: the shortest needle has six.
pub(crate) const PREFIX: usize = 4;
/// Bits of the filter: 8 KiB stay in the first-level cache, and the beginnings of 1,000 needles set
/// at most one bit in 65.
const FILTER_BITS: u32 = 16;

pub(crate) struct Automaton {
    /// The byte that leads into each node. Nodes are numbered breadth first, so the children of one
    /// node are neighbours, and lie before those of the next.
    labels: Zeroizing<Vec<u8>>,
    /// What else there is to a node. One more stands at the end: its first child bounds those of the
    /// last node.
    nodes: Vec<Facts>,
    /// The children of the root by their byte.
    from_root: Zeroizing<Vec<Node>>,
    /// Which hashes the first `PREFIX` bytes of the needles have. `None` when one is too short for it.
    filter: Option<Zeroizing<Vec<u64>>>,
    /// Bytes of the longest needle.
    longest_needle: usize,
}

#[derive(Clone, Copy, Default)]
struct Facts {
    /// Its first child; its last is before the first child of the next node.
    first_child: Node,
    /// The node of the longest proper suffix that begins a needle.
    fail: Node,
    /// Bytes of the longest needle that ends here; 0 for none.
    longest: u32,
    /// Bytes of the longest suffix that a longer needle begins with.
    open: u32,
}

impl Automaton {
    /// Of needles that are sorted, each there once, none empty.
    pub(crate) fn new(needles: &[&[u8]]) -> Self {
        debug_assert!(needles.is_sorted_by(|a, b| a < b) && !needles.contains(&&b""[..]));
        let bytes = needles.iter().map(|needle| needle.len()).sum::<usize>();
        let mut labels = Zeroizing::new(Vec::with_capacity(bytes + 1));
        let mut nodes = Vec::with_capacity(bytes + 2);
        let mut depths = Vec::new();

        // Breadth first: each node is a run of sorted needles that agree on `depth` bytes.
        labels.push(0);
        let mut runs = VecDeque::from([(0..needles.len(), 0_u32)]);
        while let Some((mut run, depth)) = runs.pop_front() {
            let at = depth as usize;
            let ends_here = needles[run.clone()].first().is_some_and(|n| n.len() == at);
            let longest = if ends_here { depth } else { 0 };
            depths.push(depth);
            nodes.push(Facts { first_child: number(labels.len()), longest, ..Facts::default() });
            run.start += usize::from(ends_here);
            while !run.is_empty() {
                let byte = needles[run.start][at];
                let agree = needles[run.clone()].iter().take_while(|n| n[at] == byte).count();
                labels.push(byte);
                runs.push_back((run.start..run.start + agree, depth + 1));
                run.start += agree;
            }
        }
        nodes.push(Facts { first_child: number(labels.len()), ..Facts::default() });

        let mut from_root = Zeroizing::new(vec![ROOT; 256]);
        for child in nodes[0].first_child..nodes[1].first_child {
            from_root[usize::from(labels[child as usize])] = child;
        }
        let mut this = Self {
            labels,
            nodes,
            from_root,
            filter: filter(needles),
            longest_needle: needles.iter().map(|needle| needle.len()).max().unwrap_or(0),
        };
        // Breadth first again: where a node fails to is less deep, and done before it.
        for node in 0..number(this.labels.len()) {
            for child in this.children(node) {
                let at = child as usize;
                if node != ROOT {
                    let fail = this.nodes[node as usize].fail;
                    this.nodes[at].fail = this.step(fail, this.labels[at]);
                }
                let fail = this.nodes[this.nodes[at].fail as usize];
                let goes_on = !this.children(child).is_empty();
                let facts = &mut this.nodes[at];
                facts.open = if goes_on { depths[at] } else { fail.open };
                if facts.longest == 0 {
                    facts.longest = fail.longest;
                }
            }
        }
        this
    }

    /// The state after one more byte.
    #[inline]
    pub(crate) fn step(&self, mut node: Node, byte: u8) -> Node {
        loop {
            if node == ROOT {
                return self.from_root[usize::from(byte)];
            }
            if let Some(child) = self.child(node, byte) {
                return child;
            }
            node = self.nodes[node as usize].fail;
        }
    }

    /// Bytes of the longest needle that ends in this state; 0 for none. Shorter ones that end here
    /// too lie within it.
    #[inline]
    pub(crate) fn longest(&self, node: Node) -> usize {
        self.nodes[node as usize].longest as usize
    }

    /// How many of the bytes read last may, with what follows, become a needle.
    #[inline]
    pub(crate) fn open(&self, node: Node) -> usize {
        self.nodes[node as usize].open as usize
    }

    /// At how many of the first bytes of `input` no needle begins, looking at `PREFIX` bytes each. It
    /// may say fewer, never more.
    #[inline]
    pub(crate) fn skip(&self, input: &[u8]) -> usize {
        let Some(filter) = &self.filter else { return 0 };
        let may_begin = |window: &[u8]| {
            let hash = hash([window[0], window[1], window[2], window[3]]);
            filter[(hash >> 6) as usize] & (1 << (hash & 63)) != 0
        };
        let windows = input.len().saturating_sub(PREFIX - 1);
        input.windows(PREFIX).position(may_begin).unwrap_or(windows)
    }

    /// Bytes of the longest needle.
    pub(crate) fn longest_needle(&self) -> usize {
        self.longest_needle
    }

    #[inline]
    fn children(&self, node: Node) -> std::ops::Range<Node> {
        self.nodes[node as usize].first_child..self.nodes[node as usize + 1].first_child
    }

    #[inline]
    fn child(&self, node: Node, byte: u8) -> Option<Node> {
        let children = self.children(node);
        let labels = &self.labels[children.start as usize..children.end as usize];
        let at = match labels {
            [] => return None,
            // Below its first bytes a needle is alone.
            [only] => (*only == byte).then_some(0),
            more => more.binary_search(&byte).ok(),
        };
        at.map(|at| children.start + number(at))
    }
}

fn filter(needles: &[&[u8]]) -> Option<Zeroizing<Vec<u64>>> {
    let mut filter = Zeroizing::new(vec![0_u64; 1 << (FILTER_BITS - 6)]);
    for needle in needles {
        let hash = hash(*needle.first_chunk::<PREFIX>()?);
        filter[(hash >> 6) as usize] |= 1 << (hash & 63);
    }
    Some(filter)
}

#[inline]
fn hash(prefix: [u8; PREFIX]) -> u32 {
    // Fibonacci hashing: the golden ratio spreads what differs in any byte over the upper bits.
    u32::from_le_bytes(prefix).wrapping_mul(0x9E37_79B1) >> (32 - FILTER_BITS)
}

fn number(index: usize) -> Node {
    Node::try_from(index).expect("needles have less than 4 GiB in all")
}
