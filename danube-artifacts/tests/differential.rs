//! The corpus of the fuzz targets, on a compiler that needs no fuzzer.
#![expect(unreachable_pub, reason = "the fuzz target uses the same module")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[path = "differential/gnu_tar.rs"]
mod gnu_tar;

#[test]
fn gnu_tar_makes_the_same_of_what_we_accept_in_the_corpus() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tar_differential");
    let mut outcomes = BTreeMap::<_, usize>::new();
    for entry in fs::read_dir(corpus).unwrap() {
        let input = fs::read(entry.unwrap().path()).unwrap();
        *outcomes.entry(gnu_tar::check(&input, scratch.path())).or_default() += 1;
    }
    let count = |outcome| outcomes.get(&outcome).copied().unwrap_or_default();
    assert!(count(gnu_tar::Outcome::Agreed) >= 20, "{outcomes:?}");
    assert!(count(gnu_tar::Outcome::Refused) >= 5, "{outcomes:?}");
}
