//! What is masked: the needles of a job, made once and shared by all its streams.

use std::fmt;
use std::sync::Arc;

use danube_core::{SecretBytes, StreamFilter};

use crate::automaton::Automaton;
use crate::{Error, MAX_SECRET_BYTES, Redactor};

/// Bytes of the shortest secret that can be masked. Six: shorter ones would blank ordinary words.
pub const MIN_SECRET_BYTES: usize = 6;

/// Different secrets that one [`Needles`] takes.
pub const MAX_NEEDLES: usize = 1_000;

/// Bytes that the secrets of one [`Needles`] have in all. Its tables take about 17 bytes of memory for
/// each of them, and as much again for secrets of several lines.
pub const MAX_NEEDLES_BYTES: usize = 1024 * 1024;

/// What stands in the output where a secret was.
pub const MASK: &str = "***";

/// The secrets to mask. Clones share them; the bytes are zeroised when the last one is dropped.
///
/// A secret is masked as it is, and so are its lines: white space is trimmed from both ends of each,
/// and those of at least [`MIN_SECRET_BYTES`] with a letter or digit (or a byte beyond ASCII) in them
/// are needles of their own. So a key file printed with other line ends or indented is masked line by
/// line, and a line `{` masks nothing.
#[derive(Clone, Default)]
pub struct Needles {
    automaton: Option<Arc<Automaton>>,
    secrets: usize,
}

impl Needles {
    /// Needles for these secrets. One that is given twice counts once.
    ///
    /// # Errors
    ///
    /// What [`check`](Self::check) says of one of them, and [`Error::TooManyNeedles`] beyond
    /// [`MAX_NEEDLES`] or [`MAX_NEEDLES_BYTES`].
    pub fn new(secrets: impl IntoIterator<Item = SecretBytes>) -> Result<Self, Error> {
        let mut all = Vec::new();
        for secret in secrets {
            Self::check(&secret)?;
            all.push(secret);
        }
        all.sort_unstable_by(|a, b| a.expose().cmp(b.expose()));
        all.dedup_by(|a, b| a.expose() == b.expose());
        let bytes: usize = all.iter().map(SecretBytes::len).sum();
        if all.len() > MAX_NEEDLES || bytes > MAX_NEEDLES_BYTES {
            return Err(Error::TooManyNeedles);
        }
        let lines = all.iter().flat_map(|secret| lines(secret.expose()));
        let needles = all.iter().map(SecretBytes::expose).chain(lines).collect();
        Ok(Self { secrets: all.len(), ..Self::of(needles) })
    }

    /// Whether a secret can be masked. Asking for one at a time lets the caller name the one that
    /// cannot.
    ///
    /// # Errors
    ///
    /// [`Error::TooShort`] below [`MIN_SECRET_BYTES`], [`Error::TooLong`] beyond
    /// [`MAX_SECRET_BYTES`], [`Error::TooPlain`] for white space and for one byte repeated, which
    /// would blank rulers and gaps.
    pub fn check(secret: &SecretBytes) -> Result<(), Error> {
        let bytes = secret.expose();
        if bytes.len() < MIN_SECRET_BYTES {
            Err(Error::TooShort { bytes: bytes.len() })
        } else if bytes.len() > MAX_SECRET_BYTES {
            Err(Error::TooLong)
        } else if bytes.iter().all(|byte| *byte == bytes[0]) || bytes.trim_ascii().is_empty() {
            Err(Error::TooPlain)
        } else {
            Ok(())
        }
    }

    /// Needles of these bytes as they are, however short; empty ones are left out.
    pub(crate) fn of(mut needles: Vec<&[u8]>) -> Self {
        needles.retain(|needle| !needle.is_empty());
        needles.sort_unstable();
        needles.dedup();
        let automaton = (!needles.is_empty()).then(|| Arc::new(Automaton::new(&needles)));
        Self { automaton, secrets: needles.len() }
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.automaton.is_none()
    }

    /// How many bytes a [`Redactor`] of these needles holds back at most: one less than the longest
    /// secret has.
    #[must_use]
    pub fn max_held(&self) -> usize {
        self.automaton.as_ref().map_or(0, |automaton| automaton.longest_needle() - 1)
    }

    /// A filter for one stream.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        Redactor::new(self.automaton.clone())
    }

    /// The bytes with every secret masked, as one stream that ends with them.
    #[must_use]
    pub fn redact(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut redactor = self.redactor();
        redactor.push(bytes, &mut out);
        redactor.finish(&mut out);
        out
    }

    /// The text with every secret masked: for recorded commands, messages and parameters. Where a
    /// secret that is not text ended within a character, the replacement character stands.
    #[must_use]
    pub fn redact_str(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redact(text.as_bytes())).into_owned()
    }
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Needles").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// The lines of a secret that are needles of their own. The one line of a secret without white space
/// around it is the secret.
fn lines(secret: &[u8]) -> impl Iterator<Item = &[u8]> {
    let tells_something = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    secret.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii).filter(move |line| {
        line.len() >= MIN_SECRET_BYTES
            && line.iter().any(tells_something)
            && line.iter().any(|byte| *byte != line[0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles(secrets: &[&str]) -> Needles {
        Needles::new(secrets.iter().map(|secret| SecretBytes::from(*secret))).unwrap()
    }

    #[test]
    fn a_secret_that_would_blank_ordinary_output_is_refused() {
        let refused = |secret: &str| Needles::new([SecretBytes::from(secret)]).unwrap_err();
        for short in ["", "a", "12345"] {
            assert!(matches!(refused(short), Error::TooShort { bytes } if bytes == short.len()));
        }
        for plain in ["      ", "\n\r\n\t  ", "------", "aaaaaaaaaa"] {
            assert!(matches!(refused(plain), Error::TooPlain), "{plain:?}");
        }
        assert!(matches!(refused(&"ab".repeat(MAX_SECRET_BYTES)), Error::TooLong));
        assert_eq!(
            refused("12345").to_string(),
            "a secret of 5 bytes is too short to mask in output: use at least 6"
        );
        assert_eq!(needles(&["123456"]).redact_str("<123456>"), "<***>");
    }

    #[test]
    fn one_secret_twice_counts_once_and_their_number_and_size_are_bounded() {
        let many = |n: usize| (0..n).map(|i| SecretBytes::from(format!("secret-{i}").as_str()));
        let at_the_limit = Needles::new(many(MAX_NEEDLES).chain(many(MAX_NEEDLES))).unwrap();
        assert_eq!(format!("{at_the_limit:?}"), "Needles { secrets: 1000, .. }");
        assert!(matches!(Needles::new(many(MAX_NEEDLES + 1)), Err(Error::TooManyNeedles)));

        let long = |i: usize| format!("{i:04}").repeat(MAX_SECRET_BYTES / 4);
        let large =
            |n: usize| (0..n).map(|i| SecretBytes::from(format!("#{}", &long(i)[1..]).as_str()));
        let limit = MAX_NEEDLES_BYTES / MAX_SECRET_BYTES;
        assert!(Needles::new(large(limit)).is_ok());
        assert!(matches!(Needles::new(large(limit + 1)), Err(Error::TooManyNeedles)));
    }

    #[test]
    fn without_needles_everything_passes_at_once() {
        let none = Needles::default();
        assert!(none.is_empty() && Needles::new([]).unwrap().is_empty());
        let (mut redactor, mut out) = (none.redactor(), Vec::new());
        redactor.push(b"\xff\0 anything", &mut out);
        assert_eq!(
            (out.as_slice(), redactor.held(), none.max_held()),
            (&b"\xff\0 anything"[..], 0, 0)
        );
    }

    #[test]
    fn lines_of_a_secret_are_masked_one_by_one_and_braces_are_not() {
        let secret = "{\n  \"token\": \"hunter2\",\n------\n  ]  \n\tsecond line \r\n}\n";
        let needles = needles(&[secret]);
        assert_eq!(needles.redact_str(&format!("<{secret}>")), "<***>");
        assert_eq!(
            needles.redact_str("{ [] ------\r\n\"token\": \"hunter2\",\r\nsecond line\r\n}"),
            "{ [] ------\r\n***\r\n***\r\n}"
        );
        assert_eq!(needles.redact_str("second\nline"), "second\nline");
    }

    #[test]
    fn white_space_around_a_secret_does_not_hide_it() {
        assert_eq!(needles(&["  hunter2\n"]).redact_str("[hunter2] [  hunter2\n]"), "[***] [***]");
    }

    #[test]
    fn text_stays_text_when_a_secret_ends_within_a_character() {
        let needles = Needles::new([SecretBytes::new(b"abcdef\xc3".to_vec())]).unwrap();
        assert_eq!(needles.redact_str("<abcdefü>"), "<***\u{fffd}>");
    }

    #[test]
    fn needles_do_not_print_their_secrets() {
        let needles = needles(&["hunter2-hunter2"]);
        assert!(!format!("{needles:?} {:?}", needles.redactor()).contains("hunter"));
    }
}
