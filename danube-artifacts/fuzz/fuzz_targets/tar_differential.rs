//! What we accept, GNU tar unpacks to the same tree.
//! `cargo +nightly fuzz run tar_differential -- -max_total_time=600 -max_len=8192`
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/differential/gnu_tar.rs"]
mod gnu_tar;

fuzz_target!(|input: &[u8]| {
    // In memory: GNU tar is started for every input that we accept.
    gnu_tar::check(input, Path::new("/dev/shm"));
});
