//! The encoder of event streams against a browser's reader: whatever a log holds and however it is cut, it is
//! rebuilt byte for byte, and nothing in it makes an event of its own.

use danube_logs::sse::{Encoder, MAX_FRAME_BYTES, SseFormat, parse_last_event_id};

use crate::event_source::{EventSource, Rebuilt};

/// `[cut of the log, pieces in, pieces out, cut of the stream, log…]`.
pub(crate) fn encoder_and_reader_agree(data: &[u8]) {
    let Some((&[from, pieces, read, cut], log)) = data.split_first_chunk() else {
        return events_do_not_depend_on_the_pieces(data);
    };
    let from = usize::from(from).min(log.len());
    let stream = encoded(log, from, usize::from(pieces), SseFormat::Json);
    let mut rebuilt = Rebuilt::from(from as u64);
    let mut source = EventSource::default();
    for piece in stream.chunks(usize::from(read) + 1) {
        source.push(piece).iter().for_each(|event| rebuilt.take(event));
    }
    assert_eq!(rebuilt.bytes, log[from..]);

    // Cut off anywhere, and gone on with the last id that was heard.
    let cut = stream.len() * usize::from(cut) / 255;
    let mut rebuilt = Rebuilt::from(from as u64);
    let mut last_id = String::new();
    for event in EventSource::default().push(&stream[..cut]) {
        rebuilt.take(&event);
        last_id = event.last_id;
    }
    let again = parse_last_event_id(&last_id).map_or(from, |at| at as usize);
    for event in EventSource::default().push(&encoded(log, again, 255, SseFormat::Json)) {
        rebuilt.take(&event);
    }
    assert_eq!(rebuilt.bytes, log[from..]);

    the_plain_form_is_lines(log, usize::from(pieces));
    events_do_not_depend_on_the_pieces(log);
}

/// The frames of a log from an offset on, given in pieces.
fn encoded(log: &[u8], from: usize, pieces: usize, format: SseFormat) -> Vec<u8> {
    let mut encoder = Encoder::new(format, from as u64);
    let mut out = Vec::new();
    for piece in log[from..].chunks(pieces + 1) {
        encoder.push(piece, &mut out);
    }
    encoder.flush(&mut out);
    let frames = out.split_inclusive(|&b| b == b'\n').map(<[u8]>::len);
    assert!(frames.max().unwrap_or(0) <= MAX_FRAME_BYTES);
    out
}

/// The plain form tells each line once, where the next begins, and nothing else.
fn the_plain_form_is_lines(log: &[u8], pieces: usize) {
    let events = EventSource::default().push(&encoded(log, 0, pieces, SseFormat::Plain));
    let mut at = 0;
    let mut shown = String::new();
    for event in &events {
        assert_eq!(event.name, "message");
        let next = parse_last_event_id(&event.last_id).expect("an id") as usize;
        assert!(next > at && next <= log.len());
        shown.push_str(&event.data);
        if log[next - 1] == b'\n' {
            shown.push('\n');
        }
        at = next;
    }
    assert_eq!(at, log.len());
    let safe = |c: char| if matches!(c, '\r' | '\0') { ' ' } else { c };
    // A line that is cut within bytes that are no character shows one more U+FFFD at the cut.
    if log.len() < 20 * 1024 {
        let expected: String = log
            .split_inclusive(|&b| b == b'\n')
            .flat_map(|line| String::from_utf8_lossy(line).chars().collect::<Vec<_>>())
            .map(safe)
            .collect();
        assert_eq!(shown, expected);
    }
}

/// A reader that is given anything gives the same events in one piece and byte by byte.
fn events_do_not_depend_on_the_pieces(stream: &[u8]) {
    let whole = EventSource::default().push(stream);
    let mut source = EventSource::default();
    let bytewise: Vec<_> = stream.chunks(1).flat_map(|byte| source.push(byte)).collect();
    assert_eq!(whole, bytewise);
}
