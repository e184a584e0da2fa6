//! See `tests/fuzz/sse.rs`.
#![no_main]

#[path = "../../tests/fuzz/event_source.rs"]
mod event_source;
#[path = "../../tests/fuzz/sse.rs"]
mod sse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse::encoder_and_reader_agree(data));
