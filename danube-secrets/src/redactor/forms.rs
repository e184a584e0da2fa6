//! The encoded forms in which programs print a value.

use zeroize::Zeroizing;

/// An encoding in which a secret is masked too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// Base64 in the usual and in the URL alphabet, with and without padding, wherever in a longer
    /// encoded text the secret begins. Of its first and last characters those that other bytes have a
    /// part in are shown: at most four bits of the secret at each end. A long secret encoded alone is
    /// masked when it is wrapped at 64 or 76 columns, as `openssl` and `base64` do.
    Base64,
    /// Percent encoding: of all but unreserved characters, of what JavaScript and Python encode, of
    /// form values (`+` for a space); hexadecimal digits in either case.
    Url,
    /// The inside of a JSON string: as most write it, with `\/`, with `<`, `>`, `&` escaped (Go), in
    /// ASCII only (Python).
    Json,
    /// XML and HTML text and attributes, with the names and numbers that common libraries use.
    Xml,
    /// POSIX shell quoting in single quotes, double quotes, backslashes, and bash's `$'…'`;
    /// PowerShell's single quotes, and the two parts it prints of a value that it cuts at an `&`.
    Shell,
    /// The inside of a quoted Go string (`%q`), with and without non-ASCII characters escaped.
    Go,
    /// Hexadecimal digits in either case; of a secret encoded alone also when it is wrapped at 60 columns, as
    /// `xxd -p` does.
    Hex,
}

impl Form {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Base64, Self::Url, Self::Json, Self::Xml, Self::Shell, Self::Go, Self::Hex];
}

type Text = Zeroizing<Vec<u8>>;

/// The encoded forms of a text, and of what it is with LF and with CR LF at its line ends.
pub(super) fn forms_of(text: &[u8], forms: &[Form]) -> Vec<Text> {
    let mut all = Vec::new();
    of_one(text, forms, &mut all);
    if text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        for line_end in [&b"\n"[..], b"\r\n"] {
            let other = with_line_ends(text, line_end);
            if *other != text {
                of_one(&other, forms, &mut all);
            }
        }
    }
    all
}

fn of_one(text: &[u8], forms: &[Form], all: &mut Vec<Text>) {
    for form in forms {
        match form {
            Form::Base64 => base64(text, all),
            Form::Url => url(text, all),
            Form::Json => json(text, all),
            Form::Xml => xml(text, all),
            Form::Shell => shell(text, all),
            Form::Go => go(text, all),
            Form::Hex => {
                for digits in [LOWER, UPPER] {
                    let whole = each_byte(text, |byte, out| hex(byte, digits, out));
                    wrapped(&whole, &HEX_WRAPS, all);
                    all.push(whole);
                }
            }
        }
    }
}

/// No form makes more bytes of one; a buffer that never grows leaves no copies behind.
const MOST_BYTES_FOR_ONE: usize = 6;

fn buffer(text: &[u8]) -> Text {
    Zeroizing::new(Vec::with_capacity(text.len() * MOST_BYTES_FOR_ONE))
}

fn each_byte(text: &[u8], mut encode: impl FnMut(u8, &mut Vec<u8>)) -> Text {
    let mut out = buffer(text);
    for byte in text {
        encode(*byte, &mut out);
    }
    out
}

/// For forms that treat a character beyond ASCII as one: `Ok` for a character, `Err` for a byte that is in none.
fn each_char(text: &[u8], mut encode: impl FnMut(Result<char, u8>, &mut Vec<u8>)) -> Text {
    let mut out = buffer(text);
    for chunk in text.utf8_chunks() {
        chunk.valid().chars().for_each(|char| encode(Ok(char), &mut out));
        chunk.invalid().iter().for_each(|byte| encode(Err(*byte), &mut out));
    }
    out
}

fn push_char(char: char, out: &mut Vec<u8>) {
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

fn hex(byte: u8, digits: &[u8; 16], out: &mut Vec<u8>) {
    out.extend([digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
}

/// `\uXXXX`, of each half where a character has two.
fn utf16_escape(char: char, out: &mut Vec<u8>) {
    for unit in char.encode_utf16(&mut [0; 2]) {
        out.extend_from_slice(b"\\u");
        unit.to_be_bytes().iter().for_each(|byte| hex(*byte, LOWER, out));
    }
}

fn with_line_ends(text: &[u8], line_end: &[u8]) -> Text {
    let mut out = buffer(text);
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\r' if rest.first() == Some(&b'\n') => {}
            b'\r' | b'\n' => out.extend_from_slice(line_end),
            _ => out.push(*byte),
        }
    }
    out
}

/// Columns at which encoders wrap lines of base64: PEM and `openssl`; MIME and `base64`.
const BASE64_WRAPS: [usize; 2] = [64, 76];

/// Those at which `xxd -p` wraps lines of hexadecimal digits.
const HEX_WRAPS: [usize; 1] = [60];

/// The lines of an encoded text that is wrapped.
fn wrapped(encoded: &[u8], columns: &[usize], all: &mut Vec<Text>) {
    for columns in columns.iter().filter(|columns| encoded.len() > **columns) {
        all.extend(encoded.chunks(*columns).map(|line| Zeroizing::new(line.to_vec())));
    }
}

fn base64(text: &[u8], all: &mut Vec<Text>) {
    for last in [b"+/", b"-_"] {
        for shift in 0..3 {
            let whole = base64_chars(text, shift, last);
            // Characters that no bit of a byte before or behind has a part in.
            let stable = (8 * shift).div_ceil(6)..8 * (shift + text.len()) / 6;
            let unpadded = stable.start..(8 * (shift + text.len())).div_ceil(6);
            let padded = stable.start..whole.len();
            // Where the secret ends the text, its last character and the padding are known too.
            for range in [&stable, &unpadded, &padded] {
                let chars = &whole[range.clone()];
                all.push(Zeroizing::new(chars.to_vec()));
                if shift == 0 {
                    wrapped(chars, &BASE64_WRAPS, all);
                }
            }
        }
    }
}

/// Base64 of so many zero bytes and the text, padded.
fn base64_chars(text: &[u8], shift: usize, last: &[u8; 2]) -> Text {
    let char = |sextet: u32| match (sextet & 63) as u8 {
        n @ 0..26 => b'A' + n,
        n @ 26..52 => b'a' + (n - 26),
        n @ 52..62 => b'0' + (n - 52),
        n => last[usize::from(n - 62)],
    };
    let mut out = Zeroizing::new(Vec::with_capacity((text.len() + shift).div_ceil(3) * 4));
    let len = shift + text.len();
    let byte =
        |at: usize| at.checked_sub(shift).and_then(|at| text.get(at)).map_or(0, |b| u32::from(*b));
    for at in (0..len).step_by(3) {
        let group = byte(at) << 16 | byte(at + 1) << 8 | byte(at + 2);
        for sextet in 0..4 {
            let beyond = at + sextet > len;
            out.push(if beyond { b'=' } else { char(group >> (18 - 6 * sextet)) });
        }
    }
    out
}

fn url(text: &[u8], all: &mut Vec<Text>) {
    // RFC 3986; encodeURIComponent; Python's quote; encodeURI. Then the two of forms: WHATWG, Go and Python.
    let kept: [(&[u8], bool); 6] = [
        (b"-._~", false),
        (b"-._~!'()*", false),
        (b"-._~/", false),
        (b"-._~!'()*;/?:@&=+$,#", false),
        (b"-._*", true),
        (b"-._~", true),
    ];
    for (kept, plus_for_space) in kept {
        for digits in [UPPER, LOWER] {
            all.push(each_byte(text, |byte, out| match byte {
                b' ' if plus_for_space => out.push(b'+'),
                _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => out.push(byte),
                _ => {
                    out.push(b'%');
                    hex(byte, digits, out);
                }
            }));
        }
    }
}

/// Escapes that JSON and Go share.
fn c_escape(char: char) -> Option<&'static [u8]> {
    Some(match char {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        '\x08' => b"\\b",
        '\x0c' => b"\\f",
        _ => return None,
    })
}

fn json(text: &[u8], all: &mut Vec<Text>) {
    for (also, ascii) in
        [("", false), ("", true), ("/", false), ("/", true), ("<>&\u{2028}\u{2029}", false)]
    {
        all.push(each_char(text, |char, out| match char {
            // Encoders that take bytes at all put the replacement character.
            Err(_) => push_char(char::REPLACEMENT_CHARACTER, out),
            Ok('/') if also == "/" => out.extend_from_slice(b"\\/"),
            Ok(char) => match c_escape(char) {
                Some(escape) => out.extend_from_slice(escape),
                None if char < ' ' || also.contains(char) || ascii && !char.is_ascii() => {
                    utf16_escape(char, out);
                }
                None => push_char(char, out),
            },
        }));
    }
}

fn xml(text: &[u8], all: &mut Vec<Text>) {
    // In text; in attributes by most; Go; Python; .NET and libxml.
    let quotes: [(&[u8], &[u8]); 6] = [
        (b"\"", b"'"),
        (b"&quot;", b"'"),
        (b"&#34;", b"&#39;"),
        (b"&quot;", b"&#x27;"),
        (b"&quot;", b"&apos;"),
        (b"&quot;", b"&#39;"),
    ];
    for (double, single) in quotes {
        all.push(each_byte(text, |byte, out| match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(double),
            b'\'' => out.extend_from_slice(single),
            _ => out.push(byte),
        }));
    }
}

fn shell(text: &[u8], all: &mut Vec<Text>) {
    // Within single quotes: sh and bash; Python's shlex; PowerShell, SQL and YAML.
    for quote in [&b"'\\''"[..], b"'\"'\"'", b"''"] {
        all.push(each_byte(text, |byte, out| match byte {
            b'\'' => out.extend_from_slice(quote),
            _ => out.push(byte),
        }));
    }
    // Within double quotes; and with nothing around, as `printf %q` and `set -x` have it.
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"@%+=:,./-_".contains(&byte) || byte >= 0x80;
    let escaped: [&dyn Fn(u8) -> bool; 3] =
        [&|byte| b"\"$`\\".contains(&byte), &|byte| b"\"$`\\!".contains(&byte), &|byte| {
            !plain(byte)
        }];
    for escaped in escaped {
        all.push(each_byte(text, |byte, out| {
            if escaped(byte) {
                out.push(b'\\');
            }
            out.push(byte);
        }));
    }
    // `$'…'`
    all.push(each_byte(text, |byte, out| match (byte, c_escape(char::from(byte))) {
        (b'"', _) => out.push(byte),
        (b'\'', _) => out.extend_from_slice(b"\\'"),
        (_, Some(escape)) => out.extend_from_slice(escape),
        (0x07, _) => out.extend_from_slice(b"\\a"),
        (0x0b, _) => out.extend_from_slice(b"\\v"),
        (0x1b, _) => out.extend_from_slice(b"\\E"),
        (0x20..=0x7e | 0x80.., _) => out.push(byte),
        _ => out.extend([b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]),
    }));
    // PowerShell colours what it could not run: one byte behind the first `&+`, else all behind the last `&`.
    let (cut, coloured) = match text.windows(2).position(|pair| pair == b"&+") {
        Some(at) => (at + 2, 1),
        None => match text.iter().rposition(|byte| *byte == b'&') {
            Some(at) => (at + 1, 0),
            None => return,
        },
    };
    for part in [&text[..cut], text.get(cut + coloured..).unwrap_or_default()] {
        all.push(Zeroizing::new(part.to_vec()));
    }
}

fn go(text: &[u8], all: &mut Vec<Text>) {
    for ascii in [false, true] {
        all.push(each_char(text, |char, out| match char {
            Err(byte) => {
                out.extend_from_slice(b"\\x");
                hex(byte, LOWER, out);
            }
            Ok('\x07') => out.extend_from_slice(b"\\a"),
            Ok('\x0b') => out.extend_from_slice(b"\\v"),
            Ok(char) => match c_escape(char) {
                Some(escape) => out.extend_from_slice(escape),
                None if char < ' ' || char == '\x7f' => {
                    out.extend_from_slice(b"\\x");
                    hex(char as u8, LOWER, out);
                }
                None if char.is_ascii() || !ascii && is_printable(char) => push_char(char, out),
                None if char <= '\u{ffff}' => utf16_escape(char, out),
                None => {
                    out.extend_from_slice(b"\\U");
                    u32::from(char).to_be_bytes().iter().for_each(|byte| hex(*byte, LOWER, out));
                }
            },
        }));
    }
}

/// Whether a character beyond ASCII is printed as it is, as Rust's tables have it; Go's differ in rare ones.
fn is_printable(char: char) -> bool {
    char.escape_debug().count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, form: Form, expected: &[&str]) {
        let forms = forms_of(text.as_bytes(), &[form]);
        for expected in expected {
            assert!(
                forms.iter().any(|form| form[..] == *expected.as_bytes()),
                "{form:?}: {expected}"
            );
        }
    }

    #[test]
    fn quoting_and_escaping_are_those_of_the_tools() {
        has(
            "a b/c?d=é~(x)",
            Form::Url,
            &[
                "a%20b%2Fc%3Fd%3D%C3%A9~%28x%29",
                "a%20b%2fc%3fd%3d%c3%a9~%28x%29",
                "a+b%2Fc%3Fd%3D%C3%A9~%28x%29",
                "a%20b%2Fc%3Fd%3D%C3%A9~(x)",
                "a%20b/c%3Fd%3D%C3%A9~%28x%29",
                "a%20b/c?d=%C3%A9~(x)",
            ],
        );
        has(
            "a\"b\\c/\n<\u{1}é\u{1f600}",
            Form::Json,
            &[
                "a\\\"b\\\\c/\\n<\\u0001é\u{1f600}",
                "a\\\"b\\\\c\\/\\n<\\u0001é\u{1f600}",
                "a\\\"b\\\\c/\\n<\\u0001\\u00e9\\ud83d\\ude00",
                "a\\\"b\\\\c/\\n\\u003c\\u0001é\u{1f600}",
            ],
        );
        has(
            "<a href=\"x\">'&",
            Form::Xml,
            &[
                "&lt;a href=\"x\"&gt;'&amp;",
                "&lt;a href=&quot;x&quot;&gt;&apos;&amp;",
                "&lt;a href=&#34;x&#34;&gt;&#39;&amp;",
                "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;",
            ],
        );
        has(
            "it's $5\n\x1b!",
            Form::Shell,
            &[
                "it'\\''s $5\n\x1b!",
                "it'\"'\"'s $5\n\x1b!",
                "it''s $5\n\x1b!",
                "it's \\$5\n\x1b!",
                "it\\'s $5\\n\\E!",
            ],
        );
        has("it's $5!", Form::Shell, &["it\\'s\\ \\$5\\!"]);
        has(
            "a\"\t\x07\x7fé\u{a0}",
            Form::Go,
            &["a\\\"\\t\\a\\x7fé\\u00a0", "a\\\"\\t\\a\\x7f\\u00e9\\u00a0"],
        );
        has("Az\n", Form::Hex, &["417a0a", "417A0A"]);
        let line = "5a".repeat(30);
        has(&"Z".repeat(35), Form::Hex, &[&format!("{line}5a5a5a5a5a"), &line, "5a5a5a5a5a"]);
        let forms = forms_of(b"ab\xffcd", &[Form::Go]);
        assert_eq!(forms[0][..], *b"ab\\xffcd");
    }

    #[test]
    fn a_text_of_lines_is_encoded_with_either_line_end() {
        let of_lines = ["one\\ntwo", "one\\r\\ntwo"];
        for text in ["one\ntwo", "one\r\ntwo", "one\rtwo"] {
            has(text, Form::Json, &of_lines);
        }
    }

    #[test]
    fn no_buffer_grows() {
        // With line ends there would be forms of longer texts.
        let bytes = (0..=255).filter(|byte| !b"\r\n".contains(byte));
        let text: Vec<u8> = bytes.chain(*b"\xf4\x8f\xbf\xbf'\"").collect();
        for form in forms_of(&text, Form::ALL) {
            assert!(form.capacity() <= text.len() * MOST_BYTES_FOR_ONE);
        }
    }
}
