//! What the fuzz targets check, over the inputs in the tree: ordinary tests guard what fuzzing found.

#[path = "fuzz_bodies/index.rs"]
mod index;

#[test]
fn the_index_holds_over_its_corpus() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz_corpora/index");
    let mut inputs = 0;
    for input in std::fs::read_dir(corpus).unwrap() {
        index::index(&std::fs::read(input.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 10, "{inputs} inputs");
}
