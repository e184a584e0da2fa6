//! `Content-Disposition`: a file's name that can be no more than a file's name (RFC 6266, RFC 8187).

use std::fmt::Write;

use axum::http::HeaderValue;

/// `attachment` under this name: an ASCII form for old readers, and the exact one. Of a name with
/// directories only the last component is told, since that is what a browser saves.
pub(super) fn attachment(name: &str) -> HeaderValue {
    with_type("attachment", name)
}

/// `inline` under this name: shown where the reader can, and saved as this.
pub(super) fn inline(name: &str) -> HeaderValue {
    with_type("inline", name)
}

fn with_type(disposition: &str, name: &str) -> HeaderValue {
    let name = name.rsplit('/').next().unwrap_or(name);
    let fallback: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut value = format!("{disposition}; filename=\"{fallback}\"");
    if fallback != name {
        value.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            if is_attr_char(byte) {
                value.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    // Every byte of it is printable ASCII by now.
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("attachment"))
}

/// Printable ASCII that means the same to every reader of a quoted string. `%` is left out: some
/// readers decode it.
fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%' | ';' | '/')
}

/// `attr-char` of RFC 8187.
fn is_attr_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str) -> String {
        attachment(name).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_plain_name_is_told_once() {
        assert_eq!(told("out/app-1.0.tar.gz"), "attachment; filename=\"app-1.0.tar.gz\"");
        assert_eq!(told("two words"), "attachment; filename=\"two words\"");
        assert_eq!(inline("job.log").to_str().unwrap(), "inline; filename=\"job.log\"");
    }

    #[test]
    fn whatever_is_in_a_name_stays_in_the_name() {
        for (name, expected) in [
            ("größe", "attachment; filename=\"gr__e\"; filename*=UTF-8''gr%C3%B6%C3%9Fe"),
            ("a\"b", "attachment; filename=\"a_b\"; filename*=UTF-8''a%22b"),
            ("a\\b", "attachment; filename=\"a_b\"; filename*=UTF-8''a%5Cb"),
            ("a;b=c", "attachment; filename=\"a_b=c\"; filename*=UTF-8''a%3Bb%3Dc"),
            ("a%41", "attachment; filename=\"a_41\"; filename*=UTF-8''a%2541"),
            (
                "a\r\nSet-Cookie: x",
                "attachment; filename=\"a__Set-Cookie: x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x",
            ),
            ("../../etc/passwd", "attachment; filename=\"passwd\""),
            ("a\0", "attachment; filename=\"a_\"; filename*=UTF-8''a%00"),
        ] {
            assert_eq!(told(name), expected);
        }
    }
}
