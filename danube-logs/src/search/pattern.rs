//! What is searched for: a regular expression or a text, and the part of a line that it is held
//! against.

use std::ops::Range;

use grep_matcher::{LineMatchKind, Matcher, NoError};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use regex_syntax::hir::{Hir, HirKind};

use super::MAX_SPANS;
use crate::Error;
use crate::views::{self, strip_ansi};

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 4096;

/// The most memory that one compiled pattern takes; the table that is built while it searches may take
/// as much again. A class such as `\w{1000}` is what needs more.
const MAX_COMPILED_BYTES: usize = 10 * 1024 * 1024;

/// How deep groups may be nested.
const MAX_NESTING: u32 = 100;

/// What part of a line a pattern is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Within {
    /// What was written, without the brackets in front of it: `^` is where the content begins.
    #[default]
    Content,
    /// The stored line, brackets included.
    Line,
}

/// How a pattern is read.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PatternOptions {
    /// It is a text, not a regular expression.
    pub literal: bool,
    /// Upper and lower case are the same, by Unicode's simple folding.
    pub ignore_case: bool,
    /// What it is held against.
    pub within: Within,
    /// Colours and other escape sequences of a terminal are left out first, so that a word is found
    /// that changes its colour in the middle.
    pub ignore_ansi: bool,
}

impl PatternOptions {
    /// Sets [`literal`](Self::literal).
    #[must_use]
    pub fn with_literal(mut self, yes: bool) -> Self {
        self.literal = yes;
        self
    }

    /// Sets [`ignore_case`](Self::ignore_case).
    #[must_use]
    pub fn with_ignore_case(mut self, yes: bool) -> Self {
        self.ignore_case = yes;
        self
    }

    /// Sets [`within`](Self::within).
    #[must_use]
    pub fn with_within(mut self, within: Within) -> Self {
        self.within = within;
        self
    }

    /// Sets [`ignore_ansi`](Self::ignore_ansi).
    #[must_use]
    pub fn with_ignore_ansi(mut self, yes: bool) -> Self {
        self.ignore_ansi = yes;
        self
    }
}

/// A compiled pattern: syntax of the `regex` crate, time linear in what is searched. Cheap to clone.
///
/// A pattern is held against one line at a time, without its line feed and the CR in front of that. It
/// never matches across lines, nor across the cut of a line longer than
/// [`MAX_LINE_BYTES`](crate::MAX_LINE_BYTES).
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Decides, on the part of one line that counts.
    exact: RegexMatcher,
    /// The same without anchors and word boundaries: it matches somewhere in every line that `exact`
    /// matches in part of, so it may run over many whole lines at once, at the speed of ripgrep.
    loose: RegexMatcher,
    options: PatternOptions,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for one that is empty, longer than [`MAX_PATTERN_BYTES`], no regular
    /// expression, contains a line feed, or takes more than 10 MiB compiled.
    pub fn new(pattern: &str, options: PatternOptions) -> Result<Self, Error> {
        if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES {
            return Err(invalid(format!("a pattern has 1 to {MAX_PATTERN_BYTES} bytes")));
        }
        let pattern = match options.literal {
            true => regex_syntax::escape(pattern),
            false => pattern.to_owned(),
        };
        let hir = regex_syntax::ParserBuilder::new()
            .utf8(false)
            .case_insensitive(options.ignore_case)
            .nest_limit(MAX_NESTING)
            .build()
            .parse(&pattern)
            .map_err(|e| invalid(format!("the pattern is no regular expression: {e}")))?;
        let exact = compile(&pattern, options.ignore_case)?;
        // The case is in the parsed form already.
        let loose = compile(&without_assertions(hir).to_string(), false)?;
        Ok(Self { exact, loose, options })
    }

    /// Where the first line that may match is: an offset within it. `lines` are whole lines.
    pub(super) fn candidate(&self, lines: &[u8]) -> Option<usize> {
        let found = sure(self.loose.find_candidate_line(lines));
        found.map(|(LineMatchKind::Confirmed(at) | LineMatchKind::Candidate(at))| at)
    }

    /// Whether lines with escape sequences may match where their bytes do not.
    pub(super) fn ignores_ansi(&self) -> bool {
        self.options.ignore_ansi
    }

    /// Whether a line matches; it has no line feed any more. `content` is where its content begins.
    pub(super) fn is_match(&self, line: &[u8], content: usize) -> bool {
        let part = &line[self.part(line, content)];
        sure(match self.stripped(part) {
            Some(stripped) => self.exact.is_match(&stripped.text),
            None => self.exact.is_match(part),
        })
    }

    /// Where in such a line it matches, at most [`MAX_SPANS`] times. A match of nothing is none.
    pub(super) fn spans(&self, line: &[u8], content: usize) -> Vec<Range<usize>> {
        let part = self.part(line, content);
        let stripped = self.stripped(&line[part.clone()]);
        let text = stripped.as_ref().map_or(&line[part.clone()], |stripped| &stripped.text);
        let mut spans = Vec::new();
        sure(self.exact.find_iter(text, |found| {
            if !found.is_empty() {
                let range = match &stripped {
                    Some(stripped) => stripped.in_line(found.start()..found.end()),
                    None => found.start()..found.end(),
                };
                spans.push(part.start + range.start..part.start + range.end);
            }
            spans.len() < MAX_SPANS
        }));
        spans
    }

    fn part(&self, line: &[u8], content: usize) -> Range<usize> {
        let end = line.len() - usize::from(line.ends_with(b"\r"));
        match self.options.within {
            Within::Content => content.min(end)..end,
            Within::Line => 0..end,
        }
    }

    fn stripped(&self, part: &[u8]) -> Option<views::Stripped> {
        let has_escapes = self.options.ignore_ansi && memchr::memchr(0x1b, part).is_some();
        has_escapes.then(|| strip_ansi(part))
    }
}

/// This engine cannot fail; its error type only cannot say so.
fn sure<T>(found: Result<T, NoError>) -> T {
    found.expect("searching cannot fail")
}

fn compile(pattern: &str, ignore_case: bool) -> Result<RegexMatcher, Error> {
    RegexMatcherBuilder::new()
        .case_insensitive(ignore_case)
        .line_terminator(Some(b'\n'))
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .nest_limit(MAX_NESTING + 50)
        .build(pattern)
        .map_err(|e| invalid(format!("this pattern cannot be searched for: {e}")))
}

fn invalid(reason: String) -> Error {
    Error::Invalid { reason }
}

/// The pattern with every assertion about its surroundings taken for granted.
fn without_assertions(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Look(_) => Hir::empty(),
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(without_assertions(*repetition.sub));
            Hir::repetition(repetition)
        }
        HirKind::Capture(capture) => without_assertions(*capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(without_assertions).collect()),
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.into_iter().map(without_assertions).collect())
        }
    }
}
