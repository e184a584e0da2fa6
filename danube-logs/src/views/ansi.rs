//! Escape sequences of a terminal: left out, or turned into spans of a style. The file keeps them.

use std::ops::Range;

use serde::Serialize;
use vte::{Params, Parser, Perform};

const ESC: u8 = 0x1b;

/// The most spans that one line is cut into; what follows has the style of the last.
pub const MAX_STYLE_SPANS: usize = 1000;

/// A line without its escape sequences.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stripped {
    /// What is left, byte for byte; other controls stay.
    pub text: Vec<u8>,
    /// Where the pieces of `text` came from: (offset in the text, offset in the line), ascending.
    pieces: Vec<(usize, usize)>,
}

impl Stripped {
    /// Where a range of the text, not empty, lies in the line that it came from; sequences within it
    /// are within it there too.
    #[must_use]
    pub fn in_line(&self, range: Range<usize>) -> Range<usize> {
        let origin = |at: usize| {
            let behind = self.pieces.partition_point(|(text, _)| *text <= at);
            let (text, line) = self.pieces[behind.max(1) - 1];
            line + at - text
        };
        match range.is_empty() || self.pieces.is_empty() {
            true => range,
            false => origin(range.start)..origin(range.end - 1) + 1,
        }
    }
}

/// Leaves escape sequences (ECMA-48, and what xterm adds) out of one line.
///
/// What lies between them stays byte for byte, also what is not UTF-8. A sequence that the line does not
/// complete ends with it.
#[must_use]
pub fn strip_ansi(line: &[u8]) -> Stripped {
    let mut stripped = Stripped::default();
    walk(line, |piece| {
        if let Piece::Text(range) = piece {
            stripped.pieces.push((stripped.text.len(), range.start));
            stripped.text.extend_from_slice(&line[range]);
        }
    });
    stripped
}

/// A colour as a job asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// One of the 256: 0 to 7 plain, 8 to 15 bright, then the cube and the greys.
    Indexed(u8),
    /// Red, green, blue.
    Rgb(u8, u8, u8),
}

/// How text looks (SGR, ECMA-48 8.3.117).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Style {
    /// The colour of the text, if not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreground: Option<Colour>,
    /// The colour behind it, if not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<Colour>,
    /// Bold.
    #[serde(skip_serializing_if = "is_not")]
    pub bold: bool,
    /// Faint.
    #[serde(skip_serializing_if = "is_not")]
    pub dim: bool,
    /// Italic.
    #[serde(skip_serializing_if = "is_not")]
    pub italic: bool,
    /// Underlined, in whatever way.
    #[serde(skip_serializing_if = "is_not")]
    pub underline: bool,
    /// Foreground and background exchanged.
    #[serde(skip_serializing_if = "is_not")]
    pub inverse: bool,
    /// Not to be seen; a viewer should show it all the same, dimmed for instance.
    #[serde(skip_serializing_if = "is_not")]
    pub hidden: bool,
    /// Struck through.
    #[serde(skip_serializing_if = "is_not")]
    pub strike: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_not(yes: &bool) -> bool {
    !yes
}

/// A part of a line's text that looks other than usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StyleSpan {
    /// Where it begins, in bytes of the text.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// How it looks.
    #[serde(flatten)]
    pub style: Style,
}

/// Leaves the escape sequences out of one line and tells the styles that they ask for.
///
/// `style` is what the line begins with and, afterwards, what the next line of the same stream begins with: a
/// colour lasts until it is reset. Parts in the usual style have no span.
#[must_use]
pub fn ansi_spans(line: &[u8], style: &mut Style) -> (Stripped, Vec<StyleSpan>) {
    let mut stripped = Stripped::default();
    let mut spans: Vec<StyleSpan> = Vec::new();
    walk(line, |piece| match piece {
        Piece::Text(range) => {
            let start = stripped.text.len();
            stripped.pieces.push((start, range.start));
            stripped.text.extend_from_slice(&line[range]);
            let end = stripped.text.len();
            let full = spans.len() == MAX_STYLE_SPANS;
            match spans.last_mut() {
                Some(last) if last.end == start && last.style == *style => last.end = end,
                Some(last) if full => last.end = end,
                _ if *style == Style::default() => {}
                _ => spans.push(StyleSpan { start, end, style: *style }),
            }
        }
        Piece::Sgr(params) => style.apply(&params),
    });
    (stripped, spans)
}

impl Style {
    /// Obeys the parameters of one SGR sequence; what is not known is ignored.
    fn apply(&mut self, params: &[Vec<u16>]) {
        let mut rest = params.iter();
        while let Some(param) = rest.next() {
            let code = param.first().copied().unwrap_or(0);
            match code {
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                3 => self.italic = true,
                // 4:0 is how some write "not underlined".
                4 => self.underline = param.get(1) != Some(&0),
                7 => self.inverse = true,
                8 => self.hidden = true,
                9 => self.strike = true,
                21 => self.underline = true,
                22 => (self.bold, self.dim) = (false, false),
                23 => self.italic = false,
                24 => self.underline = false,
                27 => self.inverse = false,
                28 => self.hidden = false,
                29 => self.strike = false,
                30..=37 => self.foreground = Some(Colour::Indexed((code - 30) as u8)),
                38 => self.foreground = extended(param, &mut rest).or(self.foreground),
                39 => self.foreground = None,
                40..=47 => self.background = Some(Colour::Indexed((code - 40) as u8)),
                48 => self.background = extended(param, &mut rest).or(self.background),
                49 => self.background = None,
                90..=97 => self.foreground = Some(Colour::Indexed((code - 90 + 8) as u8)),
                100..=107 => self.background = Some(Colour::Indexed((code - 100 + 8) as u8)),
                // The colour of an underline has parameters of its own that must not be taken for others.
                58 => drop(extended(param, &mut rest)),
                _ => {}
            }
        }
    }
}

/// `38;5;N`, `38;2;R;G;B`, or the same with colons, where an empty field may name the colour space.
fn extended<'a>(param: &[u16], rest: &mut impl Iterator<Item = &'a Vec<u16>>) -> Option<Colour> {
    let mut next = || rest.next().and_then(|param| param.first().copied());
    let byte = |value: Option<u16>| value.and_then(|value| u8::try_from(value).ok());
    match param {
        [_] => match next()? {
            5 => byte(next()).map(Colour::Indexed),
            2 => {
                let (red, green, blue) = (next(), next(), next());
                Some(Colour::Rgb(byte(red)?, byte(green)?, byte(blue)?))
            }
            _ => None,
        },
        [_, 5, index, ..] => byte(Some(*index)).map(Colour::Indexed),
        [_, 2, red, green, blue] | [_, 2, _, red, green, blue, ..] => {
            Some(Colour::Rgb(byte(Some(*red))?, byte(Some(*green))?, byte(Some(*blue))?))
        }
        _ => None,
    }
}

enum Piece {
    /// Text as it stands at a range of the line.
    Text(Range<usize>),
    /// An SGR sequence: parameters and their subparameters.
    Sgr(Vec<Vec<u16>>),
}

/// What the terminal parser said of one byte.
#[derive(Default)]
struct Heard {
    /// A character was drawn: no sequence is open.
    drawn: Option<char>,
    /// A control that a terminal obeys also within a sequence.
    executed: bool,
    /// A sequence ended.
    ended: bool,
    sgr: Option<Vec<Vec<u16>>>,
}

impl Perform for Heard {
    fn print(&mut self, c: char) {
        self.drawn = Some(c);
    }
    fn execute(&mut self, _byte: u8) {
        self.executed = true;
    }
    fn unhook(&mut self) {
        self.ended = true;
    }
    fn osc_dispatch(&mut self, _params: &[&[u8]], _bell_terminated: bool) {
        self.ended = true;
    }
    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        self.ended = true;
        if action == 'm' && intermediates.is_empty() && !ignore {
            self.sgr = Some(params.iter().map(<[u16]>::to_vec).collect());
        }
    }
    fn esc_dispatch(&mut self, _intermediates: &[u8], _ignore: bool, _byte: u8) {
        self.ended = true;
    }
}

/// Goes through a line: text from one ESC to the next in one piece, the rest through the parser, a byte
/// at a time.
fn walk(line: &[u8], mut piece: impl FnMut(Piece)) {
    let mut at = 0;
    while at < line.len() {
        let escape = memchr::memchr(ESC, &line[at..]).map_or(line.len(), |escape| at + escape);
        if escape > at {
            piece(Piece::Text(at..escape));
        }
        at = sequence(line, escape, &mut piece);
    }
}

/// Reads what begins with an ESC, and returns where ordinary text goes on.
fn sequence(line: &[u8], escape: usize, piece: &mut impl FnMut(Piece)) -> usize {
    let mut parser = Parser::new();
    for at in escape..line.len() {
        let byte = line[at];
        let mut heard = Heard::default();
        parser.advance(&mut heard, &[byte]);
        if let Some(c) = heard.drawn {
            // A sequence that was wrong ended without a word; this is the first character behind it.
            let first = (at + 1).saturating_sub(c.len_utf8()).max(escape);
            let is_it = line[first..=at] == *c.encode_utf8(&mut [0; 4]).as_bytes();
            piece(Piece::Text(if is_it { first } else { at }..at + 1));
            return at + 1;
        }
        if heard.executed {
            piece(Piece::Text(at..at + 1));
            // CAN and SUB end a sequence.
            if matches!(byte, 0x18 | 0x1a) {
                return at + 1;
            }
        }
        if let Some(params) = heard.sgr {
            piece(Piece::Sgr(params));
        }
        // A string that ends with ESC \ is told at its ESC.
        if heard.ended && byte != ESC {
            return at + 1;
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strip(line: &[u8]) -> String {
        String::from_utf8_lossy(&strip_ansi(line).text).into_owned()
    }

    #[test]
    fn sequences_go_and_everything_else_stays() {
        let table: &[(&str, &str)] = &[
            ("plain\t\u{e9} text", "plain\t\u{e9} text"),
            ("\x1b[1;31mred\x1b[0m end", "red end"),
            ("\x1b[2K\x1b[1Gprogress", "progress"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\.", "link."),
            ("\x1bP1$r0m\x1b\\dcs", "dcs"),
            ("\x1b(Bcharset", "charset"),
            ("\x1b_apc\x1b\\x", "x"),
            ("\x1b[38;5;1\x18can", "\x18can"),
            ("10%\r20%", "10%\r20%"),
            ("cut\x1b[3", "cut"),
            ("\x1b[1<2mwrong\u{e9}", "wrong\u{e9}"),
            ("\x1b[1<2m\u{e9}", "\u{e9}"),
            ("\x1b\x1b[1mtwice", "twice"),
        ];
        for (line, text) in table {
            assert_eq!(strip(line.as_bytes()), *text, "{line:?}");
        }
        assert_eq!(strip_ansi(b"\xff\x1b[m\xfe").text, b"\xff\xfe");
    }

    #[test]
    fn a_range_of_the_text_is_found_in_the_line() {
        let line = b"ab\x1b[31mcd\x1b[0mef";
        let stripped = strip_ansi(line);
        let found = |range: Range<usize>| &line[stripped.in_line(range)];
        assert_eq!(found(0..2), b"ab");
        assert_eq!(found(2..4), b"cd");
        assert_eq!(found(1..3), b"b\x1b[31mc");
        assert_eq!(found(4..6), b"ef");
        assert_eq!(found(0..6), line);
    }

    #[test]
    fn styles_become_spans_and_last_until_they_are_reset() {
        let mut style = Style::default();
        let (stripped, spans) = ansi_spans(b"a\x1b[1;31mb\x1b[39mc\x1b[0md\x1b[4me", &mut style);
        assert_eq!(stripped.text, b"abcde");
        let red = Style { bold: true, foreground: Some(Colour::Indexed(1)), ..Style::default() };
        let bold = Style { bold: true, ..Style::default() };
        let underline = Style { underline: true, ..Style::default() };
        let span = |start, end, style| StyleSpan { start, end, style };
        assert_eq!(spans, [span(1, 2, red), span(2, 3, bold), span(4, 5, underline)]);
        let (_, spans) = ansi_spans(b"next\x1b[m", &mut style);
        assert_eq!(spans, [span(0, 4, underline)]);
        assert_eq!(style, Style::default());
    }

    #[test]
    fn colours_are_read_in_every_spelling() {
        use Colour::{Indexed, Rgb};
        for (sgr, foreground, background) in [
            ("38;5;200", Some(Indexed(200)), None),
            ("38:5:200", Some(Indexed(200)), None),
            ("38;2;1;2;3", Some(Rgb(1, 2, 3)), None),
            ("38:2:1:2:3", Some(Rgb(1, 2, 3)), None),
            ("38:2::1:2:3", Some(Rgb(1, 2, 3)), None),
            ("38;5;999", None, None),
            ("38;7;1", None, None),
            ("38", None, None),
            ("58;5;31", None, None),
            ("97;104", Some(Indexed(15)), Some(Indexed(12))),
            ("48;5;1;31", Some(Indexed(1)), Some(Indexed(1))),
        ] {
            let mut style = Style::default();
            let _ = ansi_spans(format!("\x1b[{sgr}m").as_bytes(), &mut style);
            let plain = Style { foreground, background, bold: style.bold, ..Style::default() };
            assert_eq!(style, plain, "{sgr}");
        }
    }

    /// What a terminal draws and obeys, by the parser alone.
    #[derive(Default)]
    struct Drawn(String);

    impl Perform for Drawn {
        fn print(&mut self, c: char) {
            self.0.push(c);
        }
        fn execute(&mut self, byte: u8) {
            self.0.push(char::from(byte));
        }
    }

    proptest! {
        #[test]
        fn what_stays_is_what_a_terminal_draws(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "\x1b", "[", "]", "P", "X", "\\", "\x07", "\x18", "m", "1", ";", ":", "<", "?", "(", "a", "\u{e9}", "\u{1f600}",
                "\r", "\x1b[31m", "\x1b]0;t\x1b\\",
            ]), 0..40),
        ) {
            let line = pieces.concat();
            let mut drawn = Drawn::default();
            Parser::new().advance(&mut drawn, line.as_bytes());
            prop_assert_eq!(strip(line.as_bytes()), drawn.0);
        }

        #[test]
        fn no_line_is_too_strange(line in prop::collection::vec(any::<u8>(), 0..300), start in 0_usize..300, len in 1_usize..50) {
            let mut style = Style::default();
            let (stripped, spans) = ansi_spans(&line, &mut style);
            prop_assert_eq!(&strip_ansi(&line), &stripped);
            prop_assert!(!stripped.text.contains(&ESC));
            prop_assert!(spans.iter().all(|span| span.start < span.end && span.end <= stripped.text.len()));
            let range = start.min(stripped.text.len())..(start + len).min(stripped.text.len());
            if !range.is_empty() {
                let found = stripped.in_line(range.clone());
                prop_assert_eq!(line[found.start], stripped.text[range.start]);
                prop_assert_eq!(line[found.end - 1], stripped.text[range.end - 1]);
            }
        }
    }
}
