//! The search itself: the bytes of a log in any pieces, and the lines that match.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use danube_core::{ByteRange, StepName};

use super::{FoundLine, MAX_CONTEXT_BYTES, Pattern, Position, SearchOptions};
use crate::LineFormat;
use crate::blocks::MAX_PIECE;

/// Searches the bytes of a log as they come, cut anywhere. Pure: it knows no store and no time. What
/// it found so far is taken with [`take_lines`](Self::take_lines).
#[derive(Debug)]
pub struct Scanner {
    pattern: Pattern,
    options: SearchOptions,
    /// Where `partial` begins, and the number of its line.
    format: LineFormat,
    at: Position,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// Whether `partial` continues a line of which a piece was searched.
    in_line: bool,
    max_piece: usize,
    found: Collected,
}

/// The lines that are returned, and what is remembered to choose them.
#[derive(Debug)]
struct Collected {
    lines: Vec<FoundLine>,
    /// Matching lines, returned or not.
    matching: u64,
    returned: usize,
    returned_bytes: usize,
    /// The first matching line that is not returned.
    more: Option<Position>,
    /// The last lines that were not returned: the context of a match that may come.
    recent: VecDeque<FoundLine>,
    recent_bytes: usize,
    /// How many more lines after the last match are its context.
    after_left: usize,
}

/// Whole lines, and where they lie.
#[derive(Clone, Copy)]
struct Block<'a> {
    bytes: &'a [u8],
    at: u64,
    /// Not the beginning of a line: there are no brackets here.
    in_line: bool,
    format: LineFormat,
}

impl Scanner {
    /// A search that begins at [`SearchOptions::from`].
    #[must_use]
    pub fn new(pattern: Pattern, options: SearchOptions) -> Self {
        let at = options.from;
        let found = Collected {
            lines: Vec::new(),
            matching: 0,
            returned: 0,
            returned_bytes: 0,
            more: None,
            recent: VecDeque::new(),
            recent_bytes: 0,
            after_left: 0,
        };
        Self {
            pattern,
            options,
            format: LineFormat::default(),
            at,
            partial: Vec::new(),
            in_line: false,
            max_piece: MAX_PIECE,
            found,
        }
    }

    /// Says how the log's lines look ([`LogState::format`](crate::LogState::format)); the default format otherwise.
    #[must_use]
    pub fn with_format(mut self, format: LineFormat) -> Self {
        self.format = format;
        self
    }

    #[cfg(test)]
    pub(super) fn with_max_piece(mut self, bytes: usize) -> Self {
        self.max_piece = bytes;
        self
    }

    /// Takes the next bytes of the log.
    pub fn push(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(self.max_piece) {
            self.push_some(bytes);
        }
    }

    fn push_some(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() || self.in_line {
            let end = memchr::memchr(b'\n', bytes);
            let room = self.max_piece - self.partial.len();
            if end.unwrap_or(bytes.len()) >= room {
                self.partial.extend_from_slice(&bytes[..room]);
                let piece = std::mem::take(&mut self.partial);
                self.scan(&piece);
                self.in_line = true;
                return self.push_some(&bytes[room..]);
            }
            let Some(end) = end else {
                return self.partial.extend_from_slice(bytes);
            };
            self.partial.extend_from_slice(&bytes[..=end]);
            let line = std::mem::take(&mut self.partial);
            if self.in_line && line.len() == 1 {
                // Everything of it was searched.
                self.at.offset += 1;
                self.at.line += 1;
            } else {
                self.scan(&line);
            }
            self.in_line = false;
            bytes = &bytes[end + 1..];
        }
        let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        if whole > 0 {
            self.scan(&bytes[..whole]);
        }
        self.partial.extend_from_slice(&bytes[whole..]);
        if self.partial.len() == self.max_piece {
            self.push_some(&[]);
        }
    }

    /// The log ended: a last line without a line feed is a line too.
    pub fn finish(&mut self) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            self.scan(&rest);
            self.in_line = true;
        }
    }

    /// The lines that were found since this was last asked: matches and their context, in order, none
    /// twice.
    pub fn take_lines(&mut self) -> Vec<FoundLine> {
        std::mem::take(&mut self.found.lines)
    }

    /// How many lines matched so far, also those that are not returned.
    #[must_use]
    pub fn matching_lines(&self) -> u64 {
        self.found.matching
    }

    /// The first matching line that was not returned because of the limits.
    #[must_use]
    pub fn more(&self) -> Option<Position> {
        self.found.more
    }

    /// Up to where it was searched: the beginning of the first line that was not.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    /// Tells what stands directly before the position at which the search begins, so that its first
    /// matches have lines before them.
    pub(super) fn look_back(&mut self, before: &[u8]) {
        let before = before.strip_suffix(b"\n").map_or(&[][..], |_| before);
        let at = self.at.offset.saturating_sub(before.len() as u64);
        let block = Block { bytes: before, at, in_line: at > 0, format: self.format };
        let step = self.options.step.as_ref();
        // The first line of it may be the end of one.
        let first = memchr::memchr(b'\n', before).map_or(before.len(), |end| end + 1);
        let first = if block.at == 0 { 0 } else { first };
        let lines = block.lines_back(first..before.len(), self.at.line, self.options.before, step);
        self.found.remember(lines);
    }

    /// Searches whole lines, or a piece of one.
    fn scan(&mut self, bytes: &[u8]) {
        let Self { format, in_line, .. } = *self;
        let block = Block { bytes, at: self.at.offset, in_line, format };
        let step = self.options.step.as_ref();
        let mut candidates = Candidates::new(&self.pattern, bytes);
        // Lines before `told` are returned, or will not be. `number` is that of the line at `counted`.
        let (mut told, mut look) = (0, 0);
        let (mut counted, mut number) = (0, self.at.line);
        while let Some(line) = candidates.next(look) {
            look = line.end;
            if !block.matches(&line, &self.pattern, step) {
                continue;
            }
            self.found.matching += 1;
            if self.found.more.is_some() {
                continue;
            }
            number += count_lines(&bytes[counted..line.start]);
            counted = line.start;
            let here = Position { offset: block.at + line.start as u64, line: number };
            told = self.found.after(&block, told..line.start, number, &self.options);
            if !self.found.has_room(&self.options) {
                self.found.stop(here);
                continue;
            }
            let before = block.lines_back(told..line.start, number, self.options.before, step);
            self.found.before(before, told > 0, self.options.before);
            self.found.hit(block.found(&line, number, Some(&self.pattern)), &self.options);
            told = line.end;
        }
        number += count_lines(&bytes[counted..]);
        if self.found.more.is_none() {
            told = self.found.after(&block, told..bytes.len(), number, &self.options);
            let left = block.lines_back(told..bytes.len(), number, self.options.before, step);
            if told > 0 {
                self.found.forget();
            }
            self.found.remember(left);
            self.found.keep_recent(self.options.before);
        }
        self.at = Position { offset: block.at + bytes.len() as u64, line: number };
    }
}

impl Collected {
    fn has_room(&self, options: &SearchOptions) -> bool {
        self.returned < options.max_matches && self.returned_bytes < options.max_bytes
    }

    /// Nothing more is returned; matches are still counted.
    fn stop(&mut self, at: Position) {
        self.more = Some(at);
        self.after_left = 0;
        self.forget();
    }

    fn hit(&mut self, line: FoundLine, options: &SearchOptions) {
        self.returned += 1;
        self.after_left = options.after;
        self.emit(line);
    }

    fn emit(&mut self, line: FoundLine) {
        self.returned_bytes += line.bytes.len();
        self.lines.push(line);
    }

    /// Returns what is left of the context after the last match; `range` are lines that do not
    /// match, the last of which is followed by line `next`. Says up to where they are told.
    fn after(
        &mut self,
        block: &Block<'_>,
        range: Range<usize>,
        next: u64,
        options: &SearchOptions,
    ) -> usize {
        if self.after_left == 0 || range.is_empty() {
            return range.start;
        }
        let mut number = next - count_lines(&block.bytes[range.clone()]);
        let mut told = range.start;
        while self.after_left > 0 && told < range.end {
            if self.returned_bytes >= options.max_bytes {
                self.after_left = 0;
                break;
            }
            let line = block.line_at(told);
            if block.is_of(&line, options.step.as_ref()) {
                self.after_left -= 1;
                self.emit(block.found(&line, number, None));
            }
            number += 1;
            told = line.end;
        }
        told
    }

    /// Returns the context before a match: `here` from its own block, and before these what is
    /// remembered, unless some of the block was told since.
    fn before(&mut self, here: Vec<FoundLine>, told: bool, before: usize) {
        if told {
            self.forget();
        }
        self.remember(here);
        self.keep_recent(before);
        for line in std::mem::take(&mut self.recent) {
            self.emit(line);
        }
        self.recent_bytes = 0;
    }

    fn remember(&mut self, lines: Vec<FoundLine>) {
        self.recent_bytes += lines.iter().map(|line| line.bytes.len()).sum::<usize>();
        self.recent.extend(lines);
    }

    fn keep_recent(&mut self, before: usize) {
        while self.recent.len() > before || self.recent_bytes > MAX_CONTEXT_BYTES {
            match self.recent.pop_front() {
                Some(line) => self.recent_bytes -= line.bytes.len(),
                None => return,
            }
        }
    }

    fn forget(&mut self) {
        self.recent.clear();
        self.recent_bytes = 0;
    }
}

impl Block<'_> {
    /// The line at an offset, its line feed included.
    fn line_at(&self, start: usize) -> Range<usize> {
        let end = memchr::memchr(b'\n', &self.bytes[start..]);
        start..end.map_or(self.bytes.len(), |end| start + end + 1)
    }

    fn text(&self, line: &Range<usize>) -> &[u8] {
        let text = &self.bytes[line.clone()];
        text.strip_suffix(b"\n").unwrap_or(text)
    }

    /// Where the content of a line begins, if it is of the step that is asked for.
    fn content(&self, line: &Range<usize>, step: Option<&StepName>) -> Option<usize> {
        let text = self.text(line);
        let is_piece = self.in_line && line.start == 0;
        let parsed = if is_piece { None } else { self.format.parse(text) };
        match (parsed, step) {
            (Some(parsed), Some(step)) if parsed.step != step.as_str() => None,
            (None, Some(_)) => None,
            (Some(parsed), _) => Some(text.len() - parsed.content.len()),
            (None, None) => Some(0),
        }
    }

    fn is_of(&self, line: &Range<usize>, step: Option<&StepName>) -> bool {
        step.is_none() || self.content(line, step).is_some()
    }

    fn matches(&self, line: &Range<usize>, pattern: &Pattern, step: Option<&StepName>) -> bool {
        let content = self.content(line, step);
        content.is_some_and(|content| pattern.is_match(self.text(line), content))
    }

    fn found(&self, line: &Range<usize>, number: u64, pattern: Option<&Pattern>) -> FoundLine {
        let text = self.text(line);
        let start = self.at + line.start as u64;
        let spans = pattern.map(|pattern| {
            let spans = pattern.spans(text, self.content(line, None).unwrap_or(0));
            let absolute = |span: Range<usize>| {
                ByteRange::new(start + span.start as u64, start + span.end as u64)
            };
            spans.into_iter().map(absolute).collect()
        });
        FoundLine {
            number,
            range: ByteRange::with_len(start, line.len() as u64),
            bytes: Bytes::copy_from_slice(text),
            is_match: pattern.is_some(),
            spans: spans.unwrap_or_default(),
        }
    }

    /// The last `count` lines of a range of lines, of a step, in order. `next` is the number of the line
    /// behind them.
    fn lines_back(
        &self,
        range: Range<usize>,
        next: u64,
        count: usize,
        step: Option<&StepName>,
    ) -> Vec<FoundLine> {
        let (mut lines, mut end, mut number, mut bytes) = (Vec::new(), range.end, next, 0);
        while lines.len() < count && end > range.start && bytes <= MAX_CONTEXT_BYTES {
            let start = memchr::memrchr(b'\n', &self.bytes[range.start..end - 1])
                .map_or(range.start, |lf| range.start + lf + 1);
            let line = start..end;
            number = number.saturating_sub(count_lines(&self.bytes[line.clone()]));
            if self.is_of(&line, step) {
                bytes += line.len();
                lines.push(self.found(&line, number, None));
            }
            end = start;
        }
        lines.reverse();
        lines
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// The lines of a block that may match, in order. What lies ahead is remembered: each byte is looked
/// at once by each of the two searches.
struct Candidates<'a> {
    pattern: &'a Pattern,
    bytes: &'a [u8],
    matched: Ahead,
    escaped: Ahead,
}

/// Where the next candidate is: not known, at an offset, nowhere.
#[derive(Clone, Copy)]
enum Ahead {
    Unknown,
    At(usize),
    Nowhere,
}

impl Ahead {
    /// Looks again only when what was seen lies behind.
    fn from(&mut self, look: usize, find: impl FnOnce() -> Option<usize>) -> Option<usize> {
        match *self {
            Self::Nowhere => return None,
            Self::At(at) if at >= look => return Some(at),
            Self::Unknown | Self::At(_) => {}
        }
        let found = find();
        *self = found.map_or(Self::Nowhere, |at| Self::At(look + at));
        found.map(|at| look + at)
    }
}

impl<'a> Candidates<'a> {
    fn new(pattern: &'a Pattern, bytes: &'a [u8]) -> Self {
        let escaped = if pattern.ignores_ansi() { Ahead::Unknown } else { Ahead::Nowhere };
        Self { pattern, bytes, matched: Ahead::Unknown, escaped }
    }

    /// The next one that begins at or behind `look`, the beginning of a line.
    fn next(&mut self, look: usize) -> Option<Range<usize>> {
        let rest = &self.bytes[look..];
        if rest.is_empty() {
            return None;
        }
        let matched = self.matched.from(look, || self.pattern.candidate(rest));
        let escaped = self.escaped.from(look, || memchr::memchr(0x1b, rest));
        let at = match (matched, escaped) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => one.or(other)?,
        };
        let start = memchr::memrchr(b'\n', &self.bytes[look..at]).map_or(look, |lf| look + lf + 1);
        if start == self.bytes.len() {
            // A match of nothing behind the last line feed.
            return None;
        }
        let end = memchr::memchr(b'\n', &self.bytes[at..]);
        Some(start..end.map_or(self.bytes.len(), |end| at + end + 1))
    }
}
