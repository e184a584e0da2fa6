//! What the fuzz targets check, over the corpus in the tree and a few thousand random inputs: see
//! `danube-logs/fuzz`.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::path::Path;

use proptest::prelude::*;

#[path = "fuzz/event_source.rs"]
mod event_source;
#[path = "fuzz/line.rs"]
mod line;
#[path = "fuzz/sse.rs"]
mod sse;

/// Every file of a target's corpus.
fn over_the_corpus(target: &str, check: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seen = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&input)));
        assert!(checked.is_ok(), "{}", path.display());
        seen += 1;
    }
    assert!(seen > 0, "no corpus in {}", dir.display());
}

#[test]
fn the_corpus_of_the_event_stream_holds() {
    over_the_corpus("sse", sse::encoder_and_reader_agree);
}

#[test]
fn the_corpus_of_the_line_format_holds() {
    over_the_corpus("line", line::what_was_written_is_read);
}

fn some_output(len: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        2 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(0), 1 => Just(b':'), 1 => Just(b'['), 1 => Just(b' '), 6 => any::<u8>()
    ];
    prop::collection::vec(byte, 0..len)
}

proptest! {
    #[test]
    fn any_log_is_rebuilt_from_its_events(data in some_output(400)) {
        sse::encoder_and_reader_agree(&data);
    }

    #[test]
    fn anything_that_is_written_is_read(
        limit in any::<u8>(),
        writes in prop::collection::vec((any::<u8>(), some_output(60)), 0..12),
    ) {
        let mut data = vec![limit];
        for (operation, bytes) in writes {
            let len = bytes.len().min(255);
            data.extend([operation, len as u8]);
            data.extend(&bytes[..len]);
        }
        line::what_was_written_is_read(&data);
    }
}
