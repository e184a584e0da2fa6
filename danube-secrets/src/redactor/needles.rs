//! What is masked: the needles of a job, shared by all its streams.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use danube_core::{SecretBytes, StreamFilter};
use zeroize::Zeroizing;

use super::Redactor;
use super::automaton::{Automaton, WHITE, is_white};
use super::forms::{Form, forms_of};
use crate::{Error, MAX_SECRET_BYTES};

/// Bytes of the shortest secret that can be masked. Six: shorter ones would blank ordinary words. A run of
/// white space counts as one, and at the ends as none.
pub const MIN_SECRET_BYTES: usize = 6;

/// Different secrets that one [`Needles`] takes.
pub const MAX_NEEDLES: usize = 4_000;

/// Bytes that the secrets of one [`Needles`] have in all their forms: a token of 40 bytes takes about 500
/// of them, a key file of 3 KiB about 40 KiB. The tables take 17 bytes of memory for each, and less than
/// 1 MiB beside.
pub const MAX_NEEDLES_BYTES: usize = 4 * 1024 * 1024;

/// What stands in the output where a secret was.
pub const MASK: &str = "***";

/// The secrets to mask. Clones share them; the bytes are zeroised when the last one is dropped.
///
/// A secret is masked as it is, without the white space at its ends, in the encoded [`Form`]s chosen, and
/// line by line:
///
/// * A run of white space in a secret is met by any run of up to 64 bytes of it (spaces, tabs, LF,
///   CR, VT, FF). So a key file is masked with other line ends, indented, or on one line.
/// * The lines of a secret of several lines are masked by themselves too, where they have at least
///   [`MIN_SECRET_BYTES`] with a letter or digit (or a byte beyond ASCII) in them. A line `{` masks
///   nothing, and neither do the lines `-----BEGIN …` and `-----END …`, which every key has.
/// * A secret in double quotes of more than eight bytes is masked without them too.
#[derive(Clone, Default)]
pub struct Needles {
    shared: Arc<Shared>,
}

/// What was masked in all streams so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Masked {
    /// How many times [`MASK`] was written.
    pub masks: u64,
    /// How many bytes of input are not in the output because of that.
    pub bytes: u64,
}

/// What the clones of one [`Needles`] and their streams have in common.
pub(super) struct Shared {
    forms: Vec<Form>,
    /// Counts the additions, so that a stream needs no lock to see that there was none.
    generation: AtomicU64,
    current: Mutex<Current>,
    masks: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Current {
    /// Sorted, each there once.
    secrets: Vec<SecretBytes>,
    automaton: Option<Arc<Automaton>>,
}

impl Needles {
    /// Needles for these secrets in all their forms. One that is given twice counts once.
    ///
    /// # Errors
    ///
    /// Those of [`add`](Self::add).
    pub fn new(secrets: impl IntoIterator<Item = SecretBytes>) -> Result<Self, Error> {
        Self::with_forms(secrets, Form::ALL)
    }

    /// Needles for these secrets as they are and in these encoded forms.
    ///
    /// # Errors
    ///
    /// Those of [`add`](Self::add).
    pub fn with_forms(
        secrets: impl IntoIterator<Item = SecretBytes>,
        forms: &[Form],
    ) -> Result<Self, Error> {
        let this = Self { shared: Arc::new(Shared::new(forms)) };
        this.add(secrets)?;
        Ok(this)
    }

    /// Adds secrets, all or none of them. What is pushed into any stream after this returned is searched
    /// for them too. It takes time for all secrets that there are, so add many at once.
    ///
    /// # Errors
    ///
    /// What [`check`](Self::check) says of one of them, in the forms chosen here, and
    /// [`Error::TooManyNeedles`] beyond [`MAX_NEEDLES`] or [`MAX_NEEDLES_BYTES`].
    pub fn add(&self, secrets: impl IntoIterator<Item = SecretBytes>) -> Result<(), Error> {
        let mut added = Vec::new();
        for secret in secrets {
            check_kind(&secret)?;
            added.push(secret);
        }
        let mut current = self.shared.lock();
        added.extend(current.secrets.iter().cloned());
        added.sort_unstable_by(|a, b| a.expose().cmp(b.expose()));
        added.dedup_by(|a, b| a.expose() == b.expose());
        if added.len() == current.secrets.len() {
            return Ok(());
        }
        if added.len() > MAX_NEEDLES {
            return Err(Error::TooManyNeedles);
        }
        let (mut needles, mut bytes) = (Vec::new(), 0);
        for secret in &added {
            let forms = needles_of(secret.expose(), &self.shared.forms);
            bytes += check_forms(&forms)?;
            if bytes > MAX_NEEDLES_BYTES {
                return Err(Error::TooManyNeedles);
            }
            needles.extend(forms);
        }
        current.automaton = automaton_of(needles);
        current.secrets = added;
        self.shared.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Whether a secret can be masked. Asking for one at a time lets the caller name the one that
    /// cannot.
    ///
    /// # Errors
    ///
    /// [`Error::TooShort`] below [`MIN_SECRET_BYTES`] (`a`, `{`, `true`), [`Error::TooLong`] beyond
    /// [`MAX_SECRET_BYTES`], [`Error::TooPlain`] for white space and for one byte repeated, which
    /// would blank rulers and gaps, [`Error::TooManyForms`] where one secret has more than
    /// [`MAX_NEEDLES_BYTES`] in all its forms.
    pub fn check(secret: &SecretBytes) -> Result<(), Error> {
        check_kind(secret)?;
        if secret.len() > SURE_TO_FIT {
            check_forms(&needles_of(secret.expose(), Form::ALL))?;
        }
        Ok(())
    }

    /// Needles of these bytes as they are, however short; those without a symbol are left out.
    #[cfg(test)]
    pub(super) fn of(needles: &[&[u8]]) -> Self {
        let this = Self { shared: Arc::new(Shared::new(&[])) };
        let mut current = this.shared.lock();
        current.secrets = needles.iter().map(|n| SecretBytes::new(n.to_vec())).collect();
        current.automaton = automaton_of(needles.iter().map(|n| symbols(n)).collect());
        drop(current);
        this
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.lock().automaton.is_none()
    }

    /// How many bytes a [`Redactor`] of these needles holds back at most: one less than the longest
    /// occurrence of a secret may have, with its white space drawn out.
    #[must_use]
    pub fn max_held(&self) -> usize {
        self.shared.lock().automaton.as_ref().map_or(0, |a| a.longest_occurrence() - 1)
    }

    /// What was masked so far in all streams of these needles.
    #[must_use]
    pub fn masked(&self) -> Masked {
        Masked {
            masks: self.shared.masks.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
        }
    }

    /// A filter for one stream.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        Redactor::new(self.shared.clone())
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
        let secrets = self.shared.lock().secrets.len();
        f.debug_struct("Needles").field("secrets", &secrets).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(forms: &[Form]) -> Self {
        Self {
            forms: forms.to_vec(),
            generation: AtomicU64::new(0),
            current: Mutex::default(),
            masks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // What is in it is replaced whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn current(&self) -> (u64, Option<Arc<Automaton>>) {
        let current = self.lock();
        (self.generation(), current.automaton.clone())
    }

    pub(super) fn count(&self, masked: Masked) {
        self.masks.fetch_add(masked.masks, Ordering::Relaxed);
        self.bytes.fetch_add(masked.bytes, Ordering::Relaxed);
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new(Form::ALL)
    }
}

/// A secret of no more bytes need not be encoded to see that its forms fit: they are some hundred, and few of
/// them are longer than twice the secret.
const SURE_TO_FIT: usize = 2 * 1024;

/// What can be said of a secret without its forms.
fn check_kind(secret: &SecretBytes) -> Result<(), Error> {
    if secret.len() > MAX_SECRET_BYTES {
        return Err(Error::TooLong);
    }
    let symbols = symbols(secret.expose());
    if secret.len() >= MIN_SECRET_BYTES && is_plain(&symbols) {
        Err(Error::TooPlain)
    } else if symbols.len() < MIN_SECRET_BYTES {
        Err(Error::TooShort { bytes: symbols.len() })
    } else {
        Ok(())
    }
}

/// The bytes of all needles of one secret, if they are not too many.
fn check_forms(needles: &[Zeroizing<Vec<u8>>]) -> Result<usize, Error> {
    let bytes = needles.iter().map(|needle| needle.len()).sum();
    if bytes > MAX_NEEDLES_BYTES { Err(Error::TooManyForms) } else { Ok(bytes) }
}

/// Nothing, or one symbol repeated: it would blank rulers and gaps.
fn is_plain(symbols: &[u8]) -> bool {
    symbols.iter().all(|symbol| *symbol == symbols[0])
}

fn automaton_of(mut needles: Vec<Zeroizing<Vec<u8>>>) -> Option<Arc<Automaton>> {
    needles.retain(|needle| !needle.is_empty());
    sort(&mut needles);
    let needles: Vec<&[u8]> = needles.iter().map(|needle| &needle[..]).collect();
    (!needles.is_empty()).then(|| Arc::new(Automaton::new(&needles)))
}

fn sort(needles: &mut Vec<Zeroizing<Vec<u8>>>) {
    needles.sort_unstable_by(|a, b| a[..].cmp(&b[..]));
    needles.dedup_by(|a, b| a[..] == b[..]);
}

/// All needles of one secret, in symbols.
fn needles_of(secret: &[u8], forms: &[Form]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut texts = vec![secret.trim_ascii()];
    if let [b'"', within @ .., b'"'] = texts[0]
        && texts[0].len() > 8
    {
        texts.push(within.trim_ascii());
    }
    let mut needles: Vec<_> = texts.iter().copied().chain(lines(secret)).map(symbols).collect();
    for text in texts {
        needles.extend(forms_of(text, forms).iter().map(|form| symbols(form)));
    }
    // A part of a secret may be plain where all of it is not: what is in the quotes, a wrapped line.
    needles.retain(|needle| needle.len() >= MIN_SECRET_BYTES && !is_plain(needle));
    sort(&mut needles);
    needles
}

/// A text as the automaton reads it: each run of white space is one symbol, and there is none at the ends.
fn symbols(text: &[u8]) -> Zeroizing<Vec<u8>> {
    // It never grows, so it leaves no copies behind.
    let mut symbols = Zeroizing::new(Vec::with_capacity(text.len()));
    for word in text.split(|byte| is_white(*byte)).filter(|word| !word.is_empty()) {
        if !symbols.is_empty() {
            symbols.push(WHITE);
        }
        symbols.extend_from_slice(word);
    }
    symbols
}

/// The lines of a secret that are needles of their own. The one line of a secret without white space
/// around it is the secret.
fn lines(secret: &[u8]) -> impl Iterator<Item = &[u8]> {
    let tells_something = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
    secret.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii).filter(move |line| {
        line.iter().any(tells_something)
            && line.iter().any(|byte| *byte != line[0])
            && !line.starts_with(b"-----BEGIN ")
            && !line.starts_with(b"-----END ")
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
        for short in ["", "a", "{", "true", "12345", "  12345\n"] {
            let len = short.trim().len();
            assert!(matches!(refused(short), Error::TooShort { bytes } if bytes == len), "{short}");
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
    fn a_secret_that_is_told_to_fit_fits() {
        // Every byte of it grows in most forms, and its line ends double them.
        let of = |len: usize| {
            let bytes = b"{\"a b\": \"x/y<z>&'q'\",\n".iter().chain(b"\x01\xff\r");
            SecretBytes::new(bytes.cycle().take(len).copied().collect())
        };
        let (mut fits, mut refused) = (0, 0);
        for len in (0..=16).map(|n| SURE_TO_FIT + n * (MAX_SECRET_BYTES - SURE_TO_FIT) / 16) {
            let new = Needles::new([of(len)]).map(drop).map_err(|e| e.to_string());
            assert_eq!(Needles::check(&of(len)).map_err(|e| e.to_string()), new, "{len}");
            if new.is_ok() {
                fits += 1;
            } else {
                assert!(matches!(Needles::check(&of(len)), Err(Error::TooManyForms)));
                refused += 1;
            }
            assert!(Needles::with_forms([of(len)], &[]).is_ok());
        }
        assert!(fits > 1 && refused > 1, "{fits} {refused}");
    }

    #[test]
    fn a_plain_part_of_a_secret_blanks_nothing() {
        // Within quotes; and a whole wrapped line of base64.
        let quoted = needles(&["\"--------\""]);
        assert_eq!(quoted.redact_str("-------- \"--------\""), "-------- ***");
        let zeros = Needles::new([SecretBytes::new([&[0; 48][..], b"hunter2"].concat())]).unwrap();
        let ruler = "A".repeat(64);
        assert_eq!(zeros.redact_str(&format!("{ruler} ")), format!("{ruler} "));
        assert_eq!(zeros.redact_str(&format!("<{ruler}aHVudGVyMg==>")), "<***>");
    }

    #[test]
    fn one_secret_twice_counts_once_and_their_number_and_size_are_bounded() {
        let many = |n: usize| (0..n).map(|i| SecretBytes::from(format!("secret-{i}").as_str()));
        let at_the_limit = Needles::new(many(MAX_NEEDLES).chain(many(MAX_NEEDLES))).unwrap();
        assert_eq!(format!("{at_the_limit:?}"), "Needles { secrets: 4000, .. }");
        assert!(matches!(Needles::new(many(MAX_NEEDLES + 1)), Err(Error::TooManyNeedles)));

        assert!(matches!(
            at_the_limit.add([SecretBytes::from("one more")]),
            Err(Error::TooManyNeedles)
        ));
        assert_eq!(at_the_limit.redact_str("one more secret-3999"), "one more ***");

        let large = |n: usize| {
            let digits = "0123456789abcdef".repeat(MAX_SECRET_BYTES / 16 - 1);
            (0..n).map(move |i| SecretBytes::from(format!("{i:016}{digits}").as_str()))
        };
        let limit = MAX_NEEDLES_BYTES / MAX_SECRET_BYTES;
        assert!(Needles::with_forms(large(limit), &[]).is_ok());
        assert!(matches!(Needles::with_forms(large(limit + 1), &[]), Err(Error::TooManyNeedles)));
        // A secret of the greatest length fits in all its forms.
        assert!(Needles::new(large(2)).is_ok());
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
        assert_eq!(needles.redact_str(&format!("<{secret}>")), "<***\n>");
        assert_eq!(
            needles.redact_str("{ [] ------\r\n\"token\": \"hunter2\",\r\nsecond line\r\n}"),
            "{ [] ------\r\n***\r\n***\r\n}"
        );
        assert_eq!(needles.redact_str("second\nline\nsecondline"), "***\nsecondline");
    }

    #[test]
    fn white_space_around_a_secret_does_not_hide_it() {
        assert_eq!(
            needles(&["  hunter2\n"]).redact_str("[hunter2] [  hunter2\n]"),
            "[***] [  ***\n]"
        );
    }

    #[test]
    fn text_stays_text_when_a_secret_ends_within_a_character() {
        let needles = Needles::new([SecretBytes::new(b"abcdef\xc3".to_vec())]).unwrap();
        assert_eq!(needles.redact_str("<abcdefü>"), "<***\u{fffd}>");
    }

    #[test]
    fn a_run_of_white_space_in_a_secret_is_any_other_up_to_a_limit() {
        let needles = needles(&["correct horse"]);
        let with = |run: &str| needles.redact_str(&format!("<correct{run}horse>"));
        for run in [" ", "\n", "\r\r\n", "\t\x0b\x0c ", &" ".repeat(64)] {
            assert_eq!(with(run), "<***>", "{run:?}");
        }
        let too_long = " ".repeat(65);
        assert_eq!(with(&too_long), format!("<correct{too_long}horse>"));
        assert_eq!(with(""), "<correcthorse>");
        let plain = Needles::with_forms([SecretBytes::from("correct horse")], &[]).unwrap();
        assert_eq!(plain.max_held(), 12 + 63);
    }

    #[test]
    fn a_key_is_masked_in_each_form_a_tool_prints_it() {
        let body = "MIIEpAIBAAKCAQEA7hF2yP8cN3uZ1oK9xQ4vB6mJ0sT5wR+dLgYzXeCaVbUiOpAs\n";
        let key = format!(
            "-----BEGIN RSA PRIVATE KEY-----\n{}-----END RSA PRIVATE KEY-----\n",
            body.repeat(3)
        );
        let needles = needles(&[&key]);
        let masked =
            |text: &str| assert_eq!(needles.redact_str(&format!("<{text}>")), "<***>", "{text}");
        masked(key.trim());
        masked(&key.trim().replace('\n', "\r\n"));
        masked(&key.trim().replace('\n', " "));
        masked(&key.trim().replace('\n', "\n      "));
        masked(&key.trim().replace('\n', "\\n"));
        masked(&key.trim().replace('\n', "\\r\\n"));
        masked(&key.trim().replace('\n', "%0A").replace('+', "%2B").replace(' ', "%20"));
        masked(&hex::encode(key.trim()));
        // Line by line, behind what a tool puts in front; and the lines that every key has are no secret.
        let prefixed = key.replace('\n', "\n12:00:01 | ");
        let expected = "-----BEGIN RSA PRIVATE KEY-----\n12:00:01 | ***\n12:00:01 | ***\n12:00:01 | \
                        ***\n12:00:01 | -----END RSA PRIVATE KEY-----\n12:00:01 | ";
        assert_eq!(needles.redact_str(&prefixed), expected);
    }

    #[test]
    fn forms_are_chosen() {
        let secret = || [SecretBytes::from("hunter2/hunter2")];
        let encoded = "aHVudGVyMi9odW50ZXIy hunter2%2Fhunter2 68756e746572322f68756e74657232";
        assert_eq!(Needles::new(secret()).unwrap().redact_str(encoded), "*** *** ***");
        let url = Needles::with_forms(secret(), &[Form::Url]).unwrap();
        assert_eq!(url.redact_str(encoded), encoded.replace("hunter2%2Fhunter2", "***"));
        let none = Needles::with_forms(secret(), &[]).unwrap();
        assert_eq!(
            none.redact_str(&format!("{encoded} hunter2/hunter2")),
            format!("{encoded} ***")
        );
    }

    #[test]
    fn what_was_masked_is_counted_for_all_streams() {
        let needles = needles(&["hunter2-hunter2"]);
        assert_eq!(needles.masked(), Masked::default());
        let mut redactor = needles.clone().redactor();
        redactor.push(b"hunter2-hunter2hunter2-hunter2 hunter2-hun", &mut Vec::new());
        assert_eq!(needles.masked(), Masked { masks: 1, bytes: 30 });
        redactor.finish(&mut Vec::new());
        assert_eq!(needles.masked(), Masked { masks: 2, bytes: 41 });
        assert_eq!(needles.redact(b"hunter2-hunter2"), b"***");
        assert_eq!(needles.masked(), Masked { masks: 3, bytes: 56 });
    }

    #[test]
    fn a_secret_added_by_a_clone_is_masked_in_streams_that_run() {
        let needles = Needles::default();
        let (mut redactor, mut out) = (needles.redactor(), Vec::new());
        redactor.push(b"hunter2 ", &mut out);
        needles.clone().add([SecretBytes::from("hunter2")]).unwrap();
        redactor.push(b"hunter2 hunter", &mut out);
        // What is held may be the beginning of what comes now.
        needles.add([SecretBytes::from("hunter3")]).unwrap();
        redactor.push(b"3", &mut out);
        redactor.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "hunter2 *** ***");
        assert!(needles.add([SecretBytes::from("good secret"), SecretBytes::from("bad")]).is_err());
        assert_eq!(needles.redact_str("good secret"), "good secret");
    }

    #[test]
    fn needles_do_not_print_their_secrets() {
        let needles = needles(&["hunter2-hunter2"]);
        assert!(!format!("{needles:?} {:?}", needles.redactor()).contains("hunter"));
    }
}
