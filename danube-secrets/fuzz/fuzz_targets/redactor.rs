//! The streaming redactor against the oracle over all cuts: `cargo +nightly fuzz run redactor` in
//! `danube-secrets`. `tests/redaction.rs` runs the same over the corpus.

#![no_main]

#[path = "../../tests/redaction/differential.rs"]
mod differential;
#[path = "../../tests/redaction/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|data: &[u8]| differential::differential(data));
