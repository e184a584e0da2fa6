//! What a cipher leaves on the stack.

use zeroize::Zeroize;

/// 16 KiB: several times what the ciphers here use.
const WORDS: usize = 1024;

/// Runs `work` and overwrites the stack that it used. A key schedule is zeroised where it is dropped; on its
/// way there it was moved, and a move leaves a copy.
pub(crate) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let done = below(work);
    wipe();
    done
}

/// A frame of its own, where `wipe` will have its.
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe() {
    let mut stack = [0_u128; WORDS];
    stack.zeroize();
    std::hint::black_box(&mut stack);
}
