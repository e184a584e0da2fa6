//! The index of lines, fed with anything.

use danube_logs::{Landmark, LineIndex, Sought};

/// Decodes what may be an index, and makes one of what may be a log; checks both against a plain model.
pub(crate) fn index(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    if kind % 2 == 0 { decoded(data) } else { grown(data) }
}

/// Bytes of an index, with the checksum that they need to be looked at.
fn decoded(data: &[u8]) {
    let Some((log_len, body)) = data.split_first_chunk() else { return };
    let log_len = u64::from_le_bytes(*log_len);
    // As they are, for what is behind the checksum; then for what is before it.
    let _ = LineIndex::decode(body, log_len);
    let whole = [body, &crc32fast::hash(body).to_le_bytes()].concat();
    let Some(mut index) = LineIndex::decode(&whole, log_len) else { return };
    assert!(index.len() <= log_len, "more than the log");
    assert_eq!(index.encode(), whole, "what is believed says the same again");
    for line in [0, 1, index.lines() / 2, index.lines(), u64::MAX] {
        let landmark = index.landmark(Sought::Line(line));
        assert!(landmark.lines_before <= line && landmark.offset <= index.len());
    }
    // It goes on, unless the numbers are larger than any log.
    if index.len() < u64::MAX / 4 {
        let before = index.lines();
        index.push(b"one\ntwo");
        assert_eq!(index.lines(), before + 1);
    }
}

/// A log of lines as long as the bytes say, so that there is more than one landmark.
fn grown(data: &[u8]) {
    let (mut text, mut begins) = (Vec::new(), vec![0_u64]);
    for piece in data.chunks(4).take(300) {
        let [length, kind, second, cut] =
            [0, 1, 2, 3].map(|at| piece.get(at).copied().unwrap_or(0));
        match kind % 4 {
            0 => text
                .extend_from_slice(format!("[2024-01-06T12:00:{:02}Z] ", second % 70).as_bytes()),
            1 => text.extend_from_slice(piece),
            _ => {}
        }
        text.resize(text.len() + usize::from(length) * 32, cut | 0x20);
        text.push(b'\n');
    }
    begins.extend(memchr::memchr_iter(b'\n', &text).map(|at| at as u64 + 1));
    let mut whole = LineIndex::new();
    whole.push(&text);
    let mut cut = LineIndex::new();
    let mut rest = &text[..];
    for size in data.iter().cycle().map(|&byte| usize::from(byte) * 97 + 1) {
        let (now, later) = rest.split_at(size.min(rest.len()));
        cut.push(now);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let encoded = whole.encode();
    assert_eq!(encoded, cut.encode(), "however it was cut");
    assert_eq!(whole.lines() + 1, begins.len() as u64);
    for line in 0..whole.lines() {
        let Landmark { offset, lines_before } = whole.landmark(Sought::Line(line));
        assert!(lines_before <= line);
        assert_eq!(begins[usize::try_from(lines_before).expect("few")], offset);
        let far = begins[usize::try_from(line).expect("few")] - offset;
        // A landmark each 64 KiB, and the longest line here.
        assert!(far < 64 * 1024 + 10_000, "{far} bytes to line {line}");
    }
    let whole_lines = *begins.last().expect("the first");
    assert!(LineIndex::decode(&encoded, whole_lines).is_some());
    let at = data.iter().map(|&byte| usize::from(byte)).sum::<usize>();
    let mut damaged = encoded;
    let at = at % damaged.len();
    damaged[at] ^= 1 << (at % 8);
    assert!(LineIndex::decode(&damaged, whole_lines).is_none(), "damaged at {at}");
}
