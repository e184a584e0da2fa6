//! Lines made safe for a terminal.

/// Appends `bytes`, whole lines of a log, in a form that a terminal shows and obeys only in colour.
///
/// Kept: line feeds, tabs, printable UTF-8, and SGR sequences (`ESC [ … m`, ECMA-48 8.3.117). A CR in front of a
/// line feed is dropped. Every other control is shown in caret notation (`^G`), a byte that is not
/// UTF-8 as `\xNN`, and characters that reorder text (Unicode bidirectional controls) as U+FFFD. A
/// line that used SGR ends with a reset, so that it cannot hide or colour the next one.
pub fn terminal_safe(bytes: &[u8], out: &mut Vec<u8>) {
    let mut coloured = false;
    for chunk in bytes.utf8_chunks() {
        text(chunk.valid(), &mut coloured, out);
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    if coloured {
        out.extend_from_slice(RESET);
    }
}

const RESET: &[u8] = b"\x1b[0m";

fn text(text: &str, coloured: &mut bool, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (this, after) = rest.split_at(c.len_utf8());
        rest = after;
        match c {
            '\n' => {
                if std::mem::take(coloured) {
                    out.extend_from_slice(RESET);
                }
                out.push(b'\n');
            }
            '\t' => out.push(b'\t'),
            '\r' if rest.starts_with('\n') => {}
            '\x1b' => match sgr_len(rest) {
                Some(len) => {
                    *coloured = true;
                    out.push(0x1b);
                    out.extend_from_slice(&rest.as_bytes()[..len]);
                    rest = &rest[len..];
                }
                None => out.extend_from_slice(b"^["),
            },
            '\0'..='\x1f' => out.extend_from_slice(&[b'^', c as u8 + 0x40]),
            '\x7f' => out.extend_from_slice(b"^?"),
            '\u{80}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => out.extend_from_slice("\u{fffd}".as_bytes()),
            _ => out.extend_from_slice(this.as_bytes()),
        }
    }
}

/// The length of `[ digits and separators m` at the beginning, at most 32 bytes.
fn sgr_len(after_escape: &str) -> Option<usize> {
    let parameters = after_escape.strip_prefix('[')?;
    let end = parameters.bytes().take(32).position(|b| !matches!(b, b'0'..=b'9' | b';' | b':'))?;
    (parameters.as_bytes()[end] == b'm').then_some(end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_terminal_is_told_nothing_but_text_and_colour() {
        let table: &[(&[u8], &str)] = &[
            (b"plain\ttext\n", "plain\ttext\n"),
            (b"dos\r\n", "dos\n"),
            (b"10%\r20%\n", "10%^M20%\n"),
            (b"\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m\x1b[0m"),
            (b"\x1b[8mhidden\nnext\n", "\x1b[8mhidden\x1b[0m\nnext\n"),
            (b"\x1b[2Jcleared", "^[[2Jcleared"),
            (b"\x1b]0;title\x07", "^[]0;title^G"),
            (b"\x1b", "^["),
            (b"\x1b[", "^[["),
            (b"a\0b\x7f", "a^@b^?"),
            (b"\xff\xfe\xc3", "\\xff\\xfe\\xc3"),
            ("gr\u{f6}\u{df}e \u{1f600}".as_bytes(), "gr\u{f6}\u{df}e \u{1f600}"),
            ("\u{9b}31m \u{202e}evil".as_bytes(), "\u{fffd}31m \u{fffd}evil"),
        ];
        for (input, shown) in table {
            let mut out = Vec::new();
            terminal_safe(input, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), *shown, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_gets_a_control_through(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            terminal_safe(&input, &mut out);
            let text = String::from_utf8(out).unwrap();
            let mut rest = text.as_str();
            while let Some(at) = rest.find(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
                prop_assert_eq!(&rest[at..=at], "\x1b");
                let len = sgr_len(&rest[at + 1..]);
                prop_assert!(len.is_some());
                rest = &rest[at + 1 + len.unwrap_or(0)..];
            }
        }
    }
}
