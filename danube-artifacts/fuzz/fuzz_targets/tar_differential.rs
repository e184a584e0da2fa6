//! What we accept, GNU tar unpacks to the same tree.
//! `cargo +nightly fuzz run tar_differential -- -max_total_time=600 -max_len=8192`
#![no_main]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/differential/gnu_tar.rs"]
mod gnu_tar;

/// How often GNU tar was asked: an executed input that was refused proves little.
static AGREED: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|input: &[u8]| {
    // In memory: GNU tar is started for every input that we accept.
    if gnu_tar::check(input, Path::new("/dev/shm")) == gnu_tar::Outcome::Agreed {
        let agreed = AGREED.fetch_add(1, Ordering::Relaxed) + 1;
        if agreed.is_multiple_of(1000) {
            eprintln!("GNU tar agreed {agreed} times");
        }
    }
});
