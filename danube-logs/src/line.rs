//! The line format: `[2024-01-06T12:00:00.123Z] [step] [stdout] content`.

use danube_core::{OutputStream, StepName, Timestamp};

/// The most content that one line carries; a longer line is cut, and goes on in a line marked as a
/// continuation.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The longest note of ours, in bytes.
pub(crate) const MAX_NOTE_BYTES: usize = 4 * 1024;

/// Who a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineSource {
    /// The command's standard output.
    Stdout,
    /// The command's standard error.
    Stderr,
    /// Danube itself: truncation, recovery, warnings. A job cannot forge it.
    Danube,
}

/// A line of a log, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written: RFC 3339 with milliseconds, UTC.
    pub timestamp: &'a str,
    /// The step that it belongs to.
    pub step: &'a str,
    /// Who it comes from.
    pub source: LineSource,
    /// Whether it continues the previous line of that stream.
    pub continued: bool,
    /// What was written, byte for byte.
    pub content: &'a [u8],
}

/// Takes a line apart; the line feed at its end may be there or not. `None` for what is no line of
/// this format.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
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
    first: Vec<u8>,
    more: Vec<u8>,
}

impl Prefix {
    pub(crate) fn new(step: &StepName, stream: OutputStream) -> Self {
        let text = |mark: &str| format!("] [{step}] [{stream}{mark}] ").into_bytes();
        Self { first: text(""), more: text("+") }
    }

    /// Appends the whole prefix.
    pub(crate) fn put(&self, time: &Stamp, continued: bool, out: &mut bytes::BytesMut) {
        out.extend_from_slice(b"[");
        out.extend_from_slice(&time.0);
        out.extend_from_slice(if continued { &self.more } else { &self.first });
    }

    /// The most that a prefix adds to a line.
    pub(crate) fn max_len(&self) -> usize {
        self.more.len() + 32
    }
}

/// A time as text, made once for all lines of one write.
#[derive(Debug)]
pub(crate) struct Stamp(Vec<u8>);

impl Stamp {
    pub(crate) fn new(time: Timestamp) -> Self {
        Self(format!("{time:.3}").into_bytes())
    }
}

/// A line of Danube's own. Controls are made visible, so that it stays one line whatever it quotes.
pub(crate) fn note(time: Timestamp, step: &str, text: &str) -> Vec<u8> {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if safe.len() + c.len_utf8() > MAX_NOTE_BYTES - '…'.len_utf8() {
            safe.push('…');
            break;
        }
        safe.push(if c.is_control() { '\u{fffd}' } else { c });
    }
    format!("[{time:.3}] [{step}] [danube] {safe}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_note_is_one_bounded_line_whatever_it_quotes() {
        let time = Timestamp::from_millisecond(1_704_542_400_123).unwrap();
        let text = format!("cannot keep a\nb\x1b[2J {}", "ä".repeat(10_000));
        let note = note(time, "build", &text);
        assert!(note.len() < MAX_NOTE_BYTES + 64 && note.ends_with("…\n".as_bytes()));
        assert_eq!(note.iter().filter(|&&b| b == b'\n').count(), 1);
        let line = parse_line(&note).unwrap();
        assert_eq!((line.timestamp, line.source), ("2024-01-06T12:00:00.123Z", LineSource::Danube));
    }

    #[test]
    fn a_stamp_has_exactly_milliseconds() {
        for (millis, text) in
            [(0, "1970-01-01T00:00:00.000Z"), (1_704_542_400_999, "2024-01-06T12:00:00.999Z")]
        {
            let time = Timestamp::from_millisecond(millis).unwrap();
            assert_eq!(Stamp::new(time).0, text.as_bytes());
        }
    }
}
