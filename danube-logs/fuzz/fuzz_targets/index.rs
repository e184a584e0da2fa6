//! See `tests/fuzz/index.rs`.
#![no_main]

#[path = "../../tests/fuzz/index.rs"]
mod index;

libfuzzer_sys::fuzz_target!(|data: &[u8]| index::index(data));
