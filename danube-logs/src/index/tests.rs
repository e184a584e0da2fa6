//! The index against a model: every line, its offset and its time, kept in full.

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Model {
    /// Of every line: offset, time. The last one may be open.
    lines: Vec<(u64, Option<Timestamp>)>,
}

impl Model {
    fn of(text: &[u8]) -> Self {
        let (mut lines, mut at) = (Vec::new(), 0);
        for line in text.split_inclusive(|&b| b == b'\n') {
            lines.push((at, line_time(line)));
            at += line.len() as u64;
        }
        Self { lines }
    }

    fn check(&self, index: &LineIndex, spacing: u64) {
        let by_number = |landmark: Landmark| {
            let line = usize::try_from(landmark.lines_before).unwrap();
            assert_eq!(self.lines.get(line).map_or(0, |(at, _)| *at), landmark.offset);
            line
        };
        for (number, (offset, _)) in self.lines.iter().enumerate() {
            let landmark = index.landmark(Sought::Line(number as u64));
            assert!(by_number(landmark) <= number);
            // Near: no further than the spacing and the line that it falls into.
            let next =
                self.lines.iter().map(|(at, _)| *at).find(|at| *at >= landmark.offset + spacing);
            assert!(next.is_none_or(|next| *offset <= next), "{landmark:?} for {number}");
        }
        let mut latest = None;
        let is_forward = self.lines.iter().filter_map(|(_, time)| *time).is_sorted();
        for (number, (_, time)) in self.lines.iter().enumerate() {
            let Some(time) = *time else { continue };
            let found = by_number(index.landmark(Sought::Time(time)));
            if latest.replace(time).is_none_or(|latest| time > latest) && is_forward {
                // It is the first line of its time.
                assert!(found <= number);
            }
            // Whatever the clock did: no landmark before it is of that time or later.
            let millis = time.as_millisecond();
            let before = index.marks.iter().take_while(|m| m.lines_before < found as u64);
            assert!(before.into_iter().all(|m| m.millis == NO_TIME || m.millis < millis));
        }
    }
}

fn line(kind: u8, second: u32, len: usize) -> Vec<u8> {
    let time = Timestamp::from_second(i64::from(second) * 10).unwrap();
    let mut line = match kind {
        0 => format!("[{time:.3}] [step] [stdout] "),
        1 => format!("[{time}] "),
        2 => "[12:00:00.123] ".to_owned(),
        _ => String::new(),
    };
    line.push_str(&"x".repeat(len));
    line.push('\n');
    line.into_bytes()
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let lines = proptest::collection::vec((0_u8..5, 0_u32..50, 0_usize..120), 0..80);
    (lines, any::<bool>(), any::<bool>()).prop_map(|(lines, sorted, open)| {
        let mut second = 0;
        let mut text: Vec<u8> = Vec::new();
        for (kind, step, len) in lines {
            second = if sorted { second + step } else { step };
            text.extend(line(kind, second, len));
        }
        if open {
            text.pop();
        }
        text
    })
}

fn pushed(spacing: u64, text: &[u8], pieces: &[usize]) -> LineIndex {
    let mut index = LineIndex::with_spacing(spacing);
    let (mut at, mut sizes) = (0, pieces.iter().cycle());
    while at < text.len() {
        let end = text.len().min(at + 1 + sizes.next().unwrap());
        index.push(&text[at..end]);
        at = end;
    }
    index
}

fn same(a: &LineIndex, b: &LineIndex) {
    assert_eq!((&a.marks, a.len, a.lines, a.whole), (&b.marks, b.len, b.lines, b.whole));
}

proptest! {
    #[test]
    fn lines_and_times_are_found_however_the_log_was_cut(
        text in text(),
        pieces in proptest::collection::vec(0_usize..200, 1..8),
        spacing in (0_u32..10).prop_map(|n| 1_u64 << n),
    ) {
        let whole = pushed(spacing, &text, &[text.len()]);
        let model = Model::of(&text);
        model.check(&whole, spacing);
        for pieces in [&pieces[..], &[0]] {
            same(&pushed(spacing, &text, pieces), &whole);
        }
        // Saved and read back anywhere, it goes on as if nothing had been.
        let cut = text.len() / 2;
        let first = pushed(spacing, &text[..cut], &pieces);
        let mut back = LineIndex::decode(&first.encode(), cut as u64).unwrap();
        back.push(&text[usize::try_from(back.len()).unwrap()..]);
        same(&back, &whole);
    }

    #[test]
    fn what_is_damaged_is_not_believed(
        text in text(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let encoded = pushed(64, &text, &[50]).encode();
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at as u64 + 1);
        prop_assert!(LineIndex::decode(&encoded, whole).is_some());
        if whole > 0 {
            prop_assert!(LineIndex::decode(&encoded, whole - 1).is_none(), "more than the log");
        }
        prop_assert!(LineIndex::decode(&encoded[..cut.index(encoded.len())], u64::MAX).is_none());
        let mut damaged = encoded;
        let at = at.index(damaged.len());
        damaged[at] ^= 1 << bit;
        prop_assert!(LineIndex::decode(&damaged, u64::MAX).is_none());
    }
}

#[test]
fn an_index_is_bounded_and_thins_out() {
    let mut index = LineIndex::with_spacing(1);
    let mut text = Vec::new();
    for n in 0..3 * MAX_MARKS {
        text.extend_from_slice(if n % 3 == 0 { b"ab\n" } else { b"\n" });
    }
    index.push(&text);
    assert!(index.marks.len() <= MAX_MARKS && index.marks.len() >= MAX_MARKS / 4);
    assert!(index.encode().len() <= MAX_ENCODED_BYTES);
    let back = LineIndex::decode(&index.encode(), text.len() as u64).unwrap();
    same(&back, &index);
    assert_eq!(index.lines(), 3 * MAX_MARKS as u64);
    for line in [0, 1, 1000, MAX_MARKS as u64, 3 * MAX_MARKS as u64 - 1] {
        let landmark = index.landmark(Sought::Line(line));
        let at = usize::try_from(landmark.offset).unwrap();
        let before = memchr::memchr_iter(b'\n', &text[..at]).count() as u64;
        assert_eq!(before, landmark.lines_before);
        assert!(line - before <= index.spacing);
    }
}

#[test]
fn an_index_of_another_version_is_made_anew() {
    let mut encoded = pushed(64, b"one\ntwo\n", &[8]).encode();
    let body = encoded.len() - CRC_BYTES;
    encoded[4] = 2;
    let crc = crc32fast::hash(&encoded[..body]).to_le_bytes();
    encoded[body..].copy_from_slice(&crc);
    assert!(LineIndex::decode(&encoded, 8).is_none());
}

#[test]
fn the_time_of_a_line_is_what_its_first_bracket_says() {
    let noon = "2024-01-06T12:00:00.123Z".parse().unwrap();
    assert_eq!(line_time(b"[2024-01-06T12:00:00.123Z] [s] [stdout] x"), Some(noon));
    assert_eq!(line_time(b"[2024-01-06T12:00:00.123Z"), None);
    assert_eq!(line_time(b"[12:00:00.123] x"), None);
    assert_eq!(line_time(b"12:00"), None);
    assert_eq!(line_time(b""), None);
}
