//! `danube logs --grep`: the lines that match, with what is around them.

use danube_logs::LineFormat;
use danube_logs::search::{FoundLine, Pattern, PatternOptions, Scanner, SearchOptions};

use crate::cli::LogsArgs;
use crate::failure::Failure;
use crate::view::{Shape, put};
use crate::wire;

/// How found lines are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrepStyle {
    /// Control characters are made visible or dropped.
    pub(crate) safe: bool,
    /// Matches are shown in colour.
    pub(crate) colour: bool,
}

/// Searches a log and prints what it finds.
#[derive(Debug)]
pub(crate) struct Grep {
    scanner: Scanner,
    style: GrepStyle,
    form: Form,
    strip: bool,
    numbers: bool,
    context: bool,
    /// The number of the line that was printed last.
    last: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Count,
}

impl Grep {
    /// The search that was asked for. A person sees words, not the colours within them, so these do not
    /// count.
    pub(crate) fn new(
        pattern: &str,
        args: &LogsArgs,
        style: GrepStyle,
        format: LineFormat,
    ) -> Result<Self, Failure> {
        let options = PatternOptions::default()
            .with_literal(args.fixed)
            .with_ignore_case(args.ignore_case)
            .with_ignore_ansi(true);
        let pattern = Pattern::new(pattern, options)?;
        let form = match (args.count, args.json) {
            (true, _) => Form::Count,
            (false, true) => Form::Json,
            (false, false) => Form::Text,
        };
        let context = usize::from(args.context);
        // Lines are printed as they are found, and none is kept.
        let options = SearchOptions::default()
            .with_step(args.step.clone())
            .with_context(context, context)
            .with_max_matches(if form == Form::Count { 0 } else { usize::MAX })
            .with_max_bytes(usize::MAX);
        Ok(Self {
            scanner: Scanner::new(pattern, options).with_format(format),
            style,
            form,
            strip: args.strip,
            numbers: args.line_number,
            context: context > 0,
            last: 0,
        })
    }

    /// Whether something was found.
    pub(crate) fn found_any(&self) -> bool {
        self.scanner.matching_lines() > 0
    }

    fn print(&mut self, out: &mut Vec<u8>) {
        for line in self.scanner.take_lines() {
            match self.form {
                Form::Text => self.text(&line, out),
                Form::Json => {
                    serde_json::to_writer(&mut *out, &wire::FoundLine::from(line))
                        .expect("numbers and strings serialise into memory");
                    out.push(b'\n');
                }
                Form::Count => {}
            }
        }
    }

    fn text(&mut self, line: &FoundLine, out: &mut Vec<u8>) {
        if self.context && self.last > 0 && line.number > self.last + 1 {
            out.extend_from_slice(b"--\n");
        }
        self.last = line.number;
        if self.numbers {
            let mark = if line.is_match { ':' } else { '-' };
            out.extend_from_slice(format!("{}{mark}", line.number).as_bytes());
        }
        let mut done = 0;
        // Places in the stored line; where sequences are left out they are others.
        for span in line.spans.iter().filter(|_| self.style.colour && !self.strip) {
            let at = |offset: u64| (offset - line.range.start) as usize;
            put(&line.bytes[done..at(span.start)], self.style.safe, false, out);
            out.extend_from_slice(b"\x1b[1;31m");
            put(&line.bytes[at(span.start)..at(span.end)], self.style.safe, true, out);
            out.extend_from_slice(b"\x1b[0m");
            done = at(span.end);
        }
        put(&line.bytes[done..], self.style.safe, self.strip, out);
        out.push(b'\n');
    }
}

impl Shape for Grep {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.scanner.push(bytes);
        self.print(out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.scanner.finish();
        self.print(out);
        if self.form == Form::Count {
            out.extend_from_slice(format!("{}\n", self.scanner.matching_lines()).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"[t] [a] [stdout] one\n[t] [b] [stderr] two \x1b[31mr\x1b[1med\x1b[0m\n\
        [t] [a] [stdout] th\x07ree\n[t] [a] [stdout] four\n[t] [a] [stdout] five red\n";

    fn args() -> LogsArgs {
        LogsArgs {
            job: "latest".into(),
            follow: false,
            tail: None,
            line: None,
            since: None,
            step: None,
            raw: false,
            strip: false,
            json: false,
            grep: None,
            fixed: false,
            ignore_case: false,
            context: 0,
            count: false,
            line_number: false,
        }
    }

    fn printed(pattern: &str, args: &LogsArgs, colour: bool) -> String {
        let style = GrepStyle { safe: colour, colour };
        let of = |pieces: usize| {
            let mut grep = Grep::new(pattern, args, style, LineFormat::default()).unwrap();
            let mut out = Vec::new();
            LOG.chunks(pieces).for_each(|piece| grep.push(piece, &mut out));
            grep.finish(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(of(1), of(LOG.len()));
        of(7)
    }

    #[test]
    fn lines_are_printed_as_they_are_stored() {
        let red = "[t] [b] [stderr] two \x1b[31mr\x1b[1med\x1b[0m\n[t] [a] [stdout] five red\n";
        assert_eq!(printed("red", &args(), false), red);
        assert_eq!(printed("^RED|e r.d", &args(), false), "[t] [a] [stdout] five red\n");
        assert_eq!(printed("stdout", &args(), false), "");
        let step = LogsArgs { step: Some("a".parse().unwrap()), ..args() };
        assert_eq!(printed("red", &step, false), "[t] [a] [stdout] five red\n");
    }

    #[test]
    fn numbers_context_and_counts() {
        let around = LogsArgs { context: 1, line_number: true, strip: true, ..args() };
        let text = printed("one|five", &around, false);
        let expected = "1:[t] [a] [stdout] one\n2-[t] [b] [stderr] two red\n--\n\
                        4-[t] [a] [stdout] four\n5:[t] [a] [stdout] five red\n";
        assert_eq!(text, expected);
        let count = LogsArgs { count: true, ..args() };
        assert_eq!(printed("o", &count, false), "3\n");
        assert_eq!(printed("nothing", &count, false), "0\n");
    }

    #[test]
    fn a_terminal_gets_matches_in_colour_and_no_control() {
        let text = printed("red|three|th", &args(), true);
        let expected = "[t] [b] [stderr] two \x1b[31m\x1b[0m\x1b[1;31mred\x1b[0m\x1b[0m\x1b[0m\n\
                        [t] [a] [stdout] \x1b[1;31mth\x1b[0m^Gree\n\
                        [t] [a] [stdout] five \x1b[1;31mred\x1b[0m\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_has_a_line_for_each_that_matches() {
        let json = LogsArgs { json: true, ..args() };
        let text = printed("four", &json, false);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "line": 4, "from": 83, "to": 105, "match": true, "spans": [[100, 104]], "text": "[t] [a] [stdout] four"
        });
        assert_eq!(value, expected);
    }
}
