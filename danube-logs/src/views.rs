//! A log as programs ask for it: the last lines with their figures, entries, text without escape
//! sequences or with spans of style, groups.

mod ansi;
mod groups;

use danube_core::{ByteRange, JobId, StepName};
use serde::Serialize;

pub use ansi::{Colour, MAX_STYLE_SPANS, Stripped, Style, StyleSpan, ansi_spans, strip_ansi};
pub use groups::{Group, GroupKind, Groups, MAX_GROUP_DEPTH, MAX_GROUPS, groups};

use crate::blocks::{Lines, Work, work_through};
use crate::{Error, LineFormat, LineSource, LogPhase, LogStore, LogStoreExt};

/// The lines that [`tail_output`] is to return where nobody says.
pub const DEFAULT_TAIL_LINES: usize = 100;

/// The most lines that [`tail_output`] returns.
pub const MAX_TAIL_LINES: usize = 10_000;

/// The entries that [`entries`] is to return where nobody says.
pub const DEFAULT_ENTRIES: usize = 100;

/// The most entries that [`entries`] returns.
pub const MAX_ENTRIES: usize = 10_000;

/// The most bytes of log that one view returns, whatever the number of its lines.
pub const MAX_VIEW_BYTES: u64 = 8 * 1024 * 1024;

/// The last lines of a log, and what is to be known of all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TailOutput {
    /// The lines as they are stored, each with its line feed. What is not UTF-8 is U+FFFD.
    pub output: String,
    /// How many they are.
    pub lines: usize,
    /// Whether the log reached its limit and something was left out of it.
    pub truncated: bool,
    /// Bytes stored, of the whole log.
    pub total_bytes: u64,
}

/// The last `lines` lines of what is stored, at most [`MAX_TAIL_LINES`]; fewer where they have more
/// than [`MAX_VIEW_BYTES`].
///
/// # Errors
///
/// [`Error::Invalid`] for more lines than that; [`Error::NotFound`], [`Error::Io`].
pub async fn tail_output(
    store: &(impl LogStore + ?Sized),
    log: &JobId,
    lines: usize,
) -> Result<TailOutput, Error> {
    if lines > MAX_TAIL_LINES {
        let reason = format!("at most the last {MAX_TAIL_LINES} lines are given, not {lines}");
        return Err(Error::Invalid { reason });
    }
    let start = store.tail_offset(log, lines).await?;
    let stat = store.stat(log).await?;
    // One byte more tells whether a line begins there.
    let earliest = stat.len.saturating_sub(MAX_VIEW_BYTES + 1);
    let range = ByteRange::new(start.max(earliest).min(stat.len), stat.len);
    let mut bytes = work_through(store, log, range, Collect(Vec::new())).await?.0;
    if start < earliest {
        // It begins in the middle of a line.
        let first = memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |end| end + 1);
        bytes.drain(..first);
    }
    let open = usize::from(!bytes.is_empty() && !bytes.ends_with(b"\n"));
    let stored = memchr::memchr_iter(b'\n', &bytes).count() + open;
    if let Some(too_many @ 1..) = stored.checked_sub(lines) {
        // They were written between the two questions.
        let first = memchr::memchr_iter(b'\n', &bytes).nth(too_many - 1);
        bytes.drain(..first.map_or(bytes.len(), |end| end + 1));
    }
    let lines = lines.min(stored);
    let output = String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Ok(TailOutput { output, lines, truncated: stat.state.truncated, total_bytes: stat.len })
}

struct Collect(Vec<u8>);

impl Work for Collect {
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.0.extend_from_slice(bytes);
        true
    }
}

/// What becomes of escape sequences in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ansi {
    /// They stay.
    #[default]
    Keep,
    /// They are left out.
    Strip,
    /// They are left out, and told as spans of style.
    Spans,
}

/// A line of a log as an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// When it was written, as the line says it (RFC 3339, or the time of day alone); that of the line before it
    /// where it has none.
    pub timestamp: Option<String>,
    /// `INFO` for standard output, `ERROR` for standard error, `WARNING` for what Danube says.
    pub level: &'static str,
    /// The content. What is not UTF-8 is U+FFFD.
    pub message: String,
    /// `tool` for what the command wrote, `danube` for what Danube says.
    pub source: &'static str,
    /// The step, where the line names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Whether it continues the entry before it of the same stream.
    #[serde(skip_serializing_if = "is_not")]
    pub continued: bool,
    /// The offset of its line in the log.
    pub offset: u64,
    /// The parts of the message that look other than usual, with [`Ansi::Spans`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<StyleSpan>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_not(yes: &bool) -> bool {
    !yes
}

/// Which entries are asked for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EntryOptions {
    /// Where to begin: 0, or the [`next`](Entries::next) of an earlier answer. Default 0.
    pub from: u64,
    /// How many, at most [`MAX_ENTRIES`]. Default [`DEFAULT_ENTRIES`].
    pub limit: usize,
    /// Only those of this step. Default all.
    pub step: Option<StepName>,
    /// What becomes of escape sequences. Default: they stay.
    pub ansi: Ansi,
}

impl Default for EntryOptions {
    fn default() -> Self {
        Self { from: 0, limit: DEFAULT_ENTRIES, step: None, ansi: Ansi::default() }
    }
}

impl EntryOptions {
    /// Sets [`from`](Self::from).
    #[must_use]
    pub fn with_from(mut self, offset: u64) -> Self {
        self.from = offset;
        self
    }

    /// Sets [`limit`](Self::limit).
    #[must_use]
    pub fn with_limit(mut self, entries: usize) -> Self {
        self.limit = entries;
        self
    }

    /// Sets [`step`](Self::step).
    #[must_use]
    pub fn with_step(mut self, step: Option<StepName>) -> Self {
        self.step = step;
        self
    }

    /// Sets [`ansi`](Self::ansi).
    #[must_use]
    pub fn with_ansi(mut self, ansi: Ansi) -> Self {
        self.ansi = ansi;
        self
    }
}

/// Entries of a log, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// They themselves.
    pub entries: Vec<LogEntry>,
    /// Whether the log has more of them already.
    pub has_more: bool,
    /// Where the next ones begin: those that are there, or those that will be written.
    pub next: u64,
}

/// Entries from an offset on. A line that is still being written is none yet.
///
/// Cancel safety: may be dropped at any time.
///
/// # Errors
///
/// [`Error::Invalid`] for a limit of 0 or above [`MAX_ENTRIES`], and for an offset beyond the end;
/// [`Error::NotFound`], [`Error::Io`].
pub async fn entries(
    store: &(impl LogStore + ?Sized),
    log: &JobId,
    options: &EntryOptions,
) -> Result<Entries, Error> {
    if !(1..=MAX_ENTRIES).contains(&options.limit) {
        return Err(Error::Invalid { reason: format!("the limit must be 1 to {MAX_ENTRIES}") });
    }
    let stat = store.stat(log).await?;
    let from = options.from;
    if from > stat.len {
        let reason = format!("the log has {} bytes, {from} lies beyond its end", stat.len);
        return Err(Error::Invalid { reason });
    }
    let list = EntryList::new(options.clone(), stat.state.format);
    let mut list = work_through(store, log, ByteRange::new(from, stat.len), list).await?;
    if stat.phase != LogPhase::Open {
        list.finish();
    }
    Ok(list.answer)
}

/// Collects entries from the bytes of a log.
struct EntryList {
    options: EntryOptions,
    format: LineFormat,
    lines: Lines,
    answer: Entries,
    bytes: u64,
    timestamp: Option<String>,
    /// The style that each stream is in: by step and source. Bounded, because a log may be anybody's.
    styles: Vec<(Option<String>, &'static str, Style)>,
}

/// Streams whose style is remembered from line to line.
const MAX_STYLES: usize = 64;

impl EntryList {
    fn new(options: EntryOptions, format: LineFormat) -> Self {
        let answer = Entries { entries: Vec::new(), has_more: false, next: options.from };
        let lines = Lines::new(options.from);
        Self { options, format, lines, answer, bytes: 0, timestamp: None, styles: Vec::new() }
    }

    fn finish(&mut self) {
        if !self.answer.has_more {
            self.with_lines(|lines, list| lines.finish(|at, line| list.take(at, line)));
        }
    }

    fn with_lines(&mut self, give: impl FnOnce(&mut Lines, &mut Self) -> bool) -> bool {
        let mut lines = std::mem::replace(&mut self.lines, Lines::new(0));
        let wants_more = give(&mut lines, self);
        self.lines = lines;
        wants_more
    }

    fn take(&mut self, at: u64, line: &[u8]) -> bool {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let parsed = self.format.parse(text);
        let step = parsed.as_ref().map(|line| line.step).filter(|step| !step.is_empty());
        if self.options.step.as_ref().is_some_and(|wanted| step != Some(wanted.as_str())) {
            self.answer.next = at + line.len() as u64;
            return true;
        }
        let full = self.answer.entries.len() == self.options.limit || self.bytes >= MAX_VIEW_BYTES;
        if full {
            self.answer.has_more = true;
            self.answer.next = at;
            return false;
        }
        self.answer.next = at + line.len() as u64;
        self.bytes += line.len() as u64;
        let source = parsed.as_ref().map_or(LineSource::Stdout, |line| line.source);
        let (level, source) = match source {
            LineSource::Stdout | LineSource::Unknown => ("INFO", "tool"),
            LineSource::Stderr => ("ERROR", "tool"),
            LineSource::Danube => ("WARNING", "danube"),
        };
        let content = parsed.as_ref().map_or(text, |line| line.content);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        let step = step.map(str::to_owned);
        let (message, spans) = self.shown(content, &step, level);
        if let Some(line) = parsed.as_ref().filter(|line| !line.timestamp.is_empty()) {
            self.timestamp = Some(line.timestamp.to_owned());
        }
        self.answer.entries.push(LogEntry {
            timestamp: self.timestamp.clone(),
            level,
            message,
            source,
            continued: parsed.is_some_and(|line| line.continued),
            step,
            offset: at,
            spans,
        });
        true
    }

    /// A content as it is asked for. Spans count the bytes of the message, so that what is not UTF-8 is
    /// replaced before.
    fn shown(
        &mut self,
        content: &[u8],
        step: &Option<String>,
        level: &'static str,
    ) -> (String, Vec<StyleSpan>) {
        let content = String::from_utf8_lossy(content);
        match self.options.ansi {
            Ansi::Keep => (content.into_owned(), Vec::new()),
            Ansi::Strip => (text(strip_ansi(content.as_bytes())), Vec::new()),
            Ansi::Spans => {
                let known = self.styles.iter().position(|(of, at, _)| of == step && *at == level);
                let known = known.unwrap_or_else(|| {
                    if self.styles.len() == MAX_STYLES {
                        self.styles.remove(0);
                    }
                    self.styles.push((step.clone(), level, Style::default()));
                    self.styles.len() - 1
                });
                let (stripped, spans) = ansi_spans(content.as_bytes(), &mut self.styles[known].2);
                (text(stripped), spans)
            }
        }
    }
}

/// Sequences are ASCII or swallow whole characters, so what is left of UTF-8 is UTF-8.
fn text(stripped: Stripped) -> String {
    String::from_utf8(stripped.text)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

impl Work for EntryList {
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.with_lines(|lines, list| lines.push(bytes, |at, line| list.take(at, line)))
    }
}

#[cfg(test)]
mod tests;
