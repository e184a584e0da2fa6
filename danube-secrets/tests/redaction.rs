//! Masking against an oracle on what fuzzing found worth keeping, and encoded secrets against encoders of others.

#[path = "redaction/differential.rs"]
mod differential;
#[path = "redaction/oracle.rs"]
mod oracle;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use danube_core::SecretBytes;
use danube_secrets::Needles;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn redactor_and_oracle_agree_on_the_corpus_over_all_cuts() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/redactor");
    let files: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 20, "the corpus is gone");
    for file in files {
        differential::differential(&std::fs::read(file).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn redactor_and_oracle_agree_on_anything(data in vec(any::<u8>(), 0..300)) {
        differential::differential(&data);
    }

    /// What stands before and behind a secret moves and mixes its characters; what is left shows no byte of it.
    #[test]
    fn base64_of_a_text_around_a_secret_shows_none_of_its_bytes(
        before in vec(any::<u8>(), 0..40),
        secret in vec(1_u8..=255, 6..90),
        behind in vec(any::<u8>(), 0..40),
    ) {
        let value = SecretBytes::from(secret.clone());
        prop_assume!(Needles::check(&value).is_ok() && secret.trim_ascii() == secret);
        let needles = Needles::new([value]).unwrap();
        let text = [&before[..], &secret, &behind].concat();
        for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&text);
            let shown = needles.redact_str(&encoded);
            let (left, right) = shown.split_once("***").unwrap();
            // Six bits a character: those beside the mask hold less than a byte of the secret.
            prop_assert!(left.len() * 6 < before.len() * 8 + 6, "{} of {}", shown, encoded);
            let right = right.trim_end_matches('=');
            prop_assert!(right.len() * 6 < behind.len() * 8 + 12, "{} of {}", shown, encoded);
            prop_assert!(!behind.is_empty() || right.is_empty());
        }
    }

    #[test]
    fn base64_of_a_secret_alone_is_masked_when_it_is_wrapped(
        secret in vec(1_u8..=255, 60..300),
        columns in prop::sample::select(vec![64_usize, 76]),
        line_feed in any::<bool>(),
    ) {
        let value = SecretBytes::from(secret.clone());
        prop_assume!(secret.trim_ascii() == secret);
        let needles = Needles::new([value]).unwrap();
        let end: &[u8] = if line_feed { b"\n" } else { b"" };
        let encoded = STANDARD.encode([&secret[..], end].concat());
        let lines: Vec<_> = encoded.as_bytes().chunks(columns).map(String::from_utf8_lossy).collect();
        let shown = needles.redact_str(&lines.join("\n"));
        // A short last line is too short to be told from a word.
        let shown: Vec<_> = shown.lines().filter(|line| line.len() > 9).collect();
        prop_assert!(shown.is_empty(), "{:?}", shown);
    }
}
