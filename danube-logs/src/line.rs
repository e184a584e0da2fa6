//! The line formats: `[2024-01-06T12:00:00.123Z] [step] [stdout] content` and its plainer kin.

use danube_core::{OutputStream, StepName, Timestamp};
use serde::{Deserialize, Serialize};

/// The most content that one line carries; a longer line is cut, and goes on in a line marked as a
/// continuation.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The longest note of ours, in bytes.
pub(crate) const MAX_NOTE_BYTES: usize = 4 * 1024;

/// How the lines of a log look. Times are UTC; a line ends with one line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LineFormat {
    /// `[2024-01-06T12:00:00.123Z] [step] [stdout] content`: RFC 3339 with milliseconds. What is ours has
    /// the third bracket `danube`, so a job cannot forge it.
    #[default]
    Milliseconds,
    /// `[2024-01-06T12:00:00Z] [step] [stdout] content`: the same with whole seconds.
    Seconds,
    /// `[12:00:00.123] content`: the time of day alone. Neither step nor stream nor whose line it is can be
    /// told from it, and a continuation looks like a line of its own.
    TimeOfDay,
    /// `content`: what the command wrote, both streams as they came. A job can write lines that look like
    /// ours.
    Raw,
}

/// Who a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineSource {
    /// The command's standard output.
    Stdout,
    /// The command's standard error.
    Stderr,
    /// Danube itself: truncation, recovery, warnings. A job cannot forge it.
    Danube,
    /// The format does not say.
    Unknown,
}

/// A line of a log, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written, as the line says it; empty where the format does not.
    pub timestamp: &'a str,
    /// The step that it belongs to; empty where the format does not say.
    pub step: &'a str,
    /// Who it comes from.
    pub source: LineSource,
    /// Whether it continues the previous line of that stream.
    pub continued: bool,
    /// What was written, byte for byte.
    pub content: &'a [u8],
}

/// What was left out of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Omitted {
    pub(crate) lines: u64,
    /// Bytes that a command wrote, with the line feeds.
    pub(crate) output: u64,
}

impl std::ops::AddAssign for Omitted {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.output += other.output;
    }
}

impl LineFormat {
    /// Takes a line apart; the line feed at its end may be there or not. `None` for what is no line of
    /// this format.
    #[must_use]
    pub fn parse(self, line: &[u8]) -> Option<Line<'_>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match self {
            Self::Milliseconds | Self::Seconds => bracketed(line),
            Self::TimeOfDay => {
                let (timestamp, content) = bracket(line)?;
                let form = b"00:00:00.000";
                let looks_like_one = timestamp.len() == form.len()
                    && timestamp.bytes().zip(form).all(|(b, form)| match form {
                        b'0' => b.is_ascii_digit(),
                        mark => b == *mark,
                    });
                looks_like_one.then_some(Line { timestamp, content, ..Line::of_nobody(content) })
            }
            Self::Raw => Some(Line::of_nobody(line)),
        }
    }

    /// Whether a line says which step it belongs to.
    #[must_use]
    pub fn names_steps(self) -> bool {
        matches!(self, Self::Milliseconds | Self::Seconds)
    }

    /// How many lines these are, and how many bytes of them, with the line feeds, a command wrote.
    pub(crate) fn count(self, lines: &[u8]) -> Omitted {
        let mut count = Omitted::default();
        for line in lines.split_inclusive(|&b| b == b'\n') {
            count.lines += 1;
            count.output += match self.parse(line) {
                Some(Line { source: LineSource::Danube, .. }) => 0,
                Some(line) => line.content.len() as u64 + 1,
                None => line.len() as u64,
            };
        }
        count
    }

    /// A time as the lines of this format show it.
    fn stamp(self, time: Timestamp) -> String {
        match self {
            Self::Milliseconds => format!("[{time:.3}] "),
            Self::Seconds => format!("[{time:.0}] "),
            Self::TimeOfDay => {
                let text = format!("{time:.3}");
                // `2024-01-06T12:00:00.123Z`; years beyond 9999 do not exist in a `Timestamp`.
                let time_of_day = text.split_once('T').map_or(text.as_str(), |(_, time)| time);
                format!("[{}] ", time_of_day.trim_end_matches('Z'))
            }
            Self::Raw => String::new(),
        }
    }

    /// A line of Danube's own. Controls are made visible, so that it stays one line whatever it quotes.
    pub(crate) fn note(self, time: Timestamp, step: &str, text: &str) -> Vec<u8> {
        let mut line = self.stamp(time);
        if self.names_steps() {
            line.push_str(&format!("[{step}] [danube] "));
        }
        let most = line.len() + MAX_NOTE_BYTES;
        for c in text.chars() {
            if line.len() + c.len_utf8() + '…'.len_utf8() > most {
                line.push('…');
                break;
            }
            line.push(if c.is_control() { '\u{fffd}' } else { c });
        }
        line.push('\n');
        line.into_bytes()
    }
}

/// Takes a line of [`LineFormat::Milliseconds`] or [`LineFormat::Seconds`] apart; the line feed at its end
/// may be there or not. `None` for what is no line of these formats.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    LineFormat::Milliseconds.parse(line)
}

fn bracketed(line: &[u8]) -> Option<Line<'_>> {
    let (timestamp, rest) = bracket(line)?;
    let (step, rest) = bracket(rest)?;
    let (source, content) = bracket(rest)?;
    let (source, continued) = match source {
        "stdout" => (LineSource::Stdout, false),
        "stdout+" => (LineSource::Stdout, true),
        "stderr" => (LineSource::Stderr, false),
        "stderr+" => (LineSource::Stderr, true),
        "danube" => (LineSource::Danube, false),
        _ => return None,
    };
    Some(Line { timestamp, step, source, continued, content })
}

impl<'a> Line<'a> {
    fn of_nobody(content: &'a [u8]) -> Self {
        Self { timestamp: "", step: "", source: LineSource::Unknown, continued: false, content }
    }
}

/// `[text] ` in front, and what follows. No bracket of ours contains another.
fn bracket(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let inner = bytes.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', inner)?;
    let rest = inner[end + 1..].strip_prefix(b" ")?;
    Some((std::str::from_utf8(&inner[..end]).ok()?, rest))
}

/// What stands in front of each line of one stream, but for the time.
#[derive(Debug, Clone)]
pub(crate) struct Prefix {
    format: LineFormat,
    first: String,
    more: String,
}

impl Prefix {
    pub(crate) fn new(format: LineFormat, step: &StepName, stream: OutputStream) -> Self {
        let text = |mark: &str| match format.names_steps() {
            true => format!("[{step}] [{stream}{mark}] "),
            false => String::new(),
        };
        Self { format, first: text(""), more: text("+") }
    }

    /// The whole prefixes of lines that are written at a time.
    pub(crate) fn at(&self, time: Timestamp) -> Stamped {
        let stamp = self.format.stamp(time);
        let whole = |text: &str| Start::new(format!("{stamp}{text}").into_bytes());
        Stamped { first: whole(&self.first), more: whole(&self.more) }
    }
}

/// What stands in front of the lines of one write.
#[derive(Debug)]
pub(crate) struct Stamped {
    first: Start,
    more: Start,
}

impl Stamped {
    /// Appends the prefix of a line, or of a continuation.
    #[inline]
    pub(crate) fn put(&self, continued: bool, out: &mut Vec<u8>) {
        if continued { &self.more } else { &self.first }.put(out);
    }
}

/// Bytes in front of a line, padded: a copy whose length the compiler knows costs a third of one
/// whose length it does not, and short lines are mostly prefix.
#[derive(Debug)]
struct Start {
    bytes: Vec<u8>,
    padded: [u8; 64],
}

impl Start {
    fn new(bytes: Vec<u8>) -> Self {
        let mut padded = [0; 64];
        let len = bytes.len().min(padded.len());
        padded[..len].copy_from_slice(&bytes[..len]);
        Self { bytes, padded }
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        if self.bytes.len() <= self.padded.len() {
            let end = out.len() + self.bytes.len();
            out.extend_from_slice(&self.padded);
            out.truncate(end);
        } else {
            out.extend_from_slice(&self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn a_line_is_taken_apart_as_it_was_put_together() {
        let line = b"[2024-01-06T12:00:00.123Z] [unit tests (x)] [stderr+] a [b] \xff\r\n";
        let parsed = parse_line(line).unwrap();
        assert_eq!((parsed.timestamp, parsed.step), ("2024-01-06T12:00:00.123Z", "unit tests (x)"));
        assert_eq!((parsed.source, parsed.continued), (LineSource::Stderr, true));
        assert_eq!(parsed.content, b"a [b] \xff\r");
        for bad in
            ["", "x", "[a] [b] c", "[t] [s] [stdout]", "[t] [s] [other] x", "[t [s] [stdout] x"]
        {
            assert_eq!(parse_line(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse_line(b"[t] [s] [stdout] ").unwrap().content, b"");
    }

    #[test]
    fn each_format_writes_what_it_reads() {
        let long =
            "a step whose name is so long that the prefix does not fit into the padding".parse();
        for step in ["build".parse().unwrap(), long.unwrap()] {
            for (format, timestamp, names) in [
                (LineFormat::Milliseconds, "2024-01-06T12:00:00.123Z", true),
                (LineFormat::Seconds, "2024-01-06T12:00:00Z", true),
                (LineFormat::TimeOfDay, "12:00:00.123", false),
                (LineFormat::Raw, "", false),
            ] {
                for continued in [false, true] {
                    let mut line = Vec::new();
                    let prefix = Prefix::new(format, &step, OutputStream::Stderr);
                    prefix.at(time(1_704_542_400_123)).put(continued, &mut line);
                    line.extend_from_slice(b"[x] y\r\n");
                    let parsed = format.parse(&line).unwrap();
                    assert_eq!((parsed.timestamp, parsed.content), (timestamp, &b"[x] y\r"[..]));
                    let expected = if names {
                        (step.as_str(), LineSource::Stderr, continued)
                    } else {
                        ("", LineSource::Unknown, false)
                    };
                    assert_eq!((parsed.step, parsed.source, parsed.continued), expected);
                }
            }
        }
        assert_eq!(LineFormat::TimeOfDay.parse(b"[INFO] started"), None);
    }

    #[test]
    fn a_note_is_one_bounded_line_whatever_it_quotes() {
        let text = format!("cannot keep a\nb\x1b[2J {}", "ä".repeat(10_000));
        for format in
            [LineFormat::Milliseconds, LineFormat::Seconds, LineFormat::TimeOfDay, LineFormat::Raw]
        {
            let note = format.note(time(1_704_542_400_123), "build", &text);
            assert!(note.len() < MAX_NOTE_BYTES + 64 && note.ends_with("…\n".as_bytes()));
            assert_eq!(note.iter().filter(|&&b| b == b'\n').count(), 1);
            let line = format.parse(&note).unwrap();
            assert!(line.content.starts_with("cannot keep a\u{fffd}b\u{fffd}[2J ä".as_bytes()));
            if format.names_steps() {
                assert_eq!((line.step, line.source), ("build", LineSource::Danube));
            }
        }
        let marker = LineFormat::TimeOfDay.note(time(38_100_000), "x", "[TRUNCATED]");
        assert_eq!(marker, b"[10:35:00.000] [TRUNCATED]\n");
    }

    #[test]
    fn a_stamp_has_exactly_milliseconds() {
        for (millis, text) in
            [(0, "[1970-01-01T00:00:00.000Z] "), (1_704_542_400_999, "[2024-01-06T12:00:00.999Z] ")]
        {
            assert_eq!(LineFormat::Milliseconds.stamp(time(millis)), text);
        }
    }
}
