//! See `tests/fuzz/line.rs`.
#![no_main]

#[path = "../../tests/fuzz/line.rs"]
mod line;

libfuzzer_sys::fuzz_target!(|data: &[u8]| line::what_was_written_is_read(data));
