//! An independent parser of the event stream format rebuilds the log, whatever is in it.

use std::sync::Arc;

use danube_core::JobId;
use futures_util::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::{LogState, LogStore, MemoryLogs};

#[derive(Debug, Default, Clone, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: String,
}

/// The algorithm of WHATWG HTML 9.2.6, over the whole stream: lines end with CR LF, LF or CR.
fn parse(stream: &[u8]) -> Vec<Event> {
    let text = std::str::from_utf8(stream).expect("an event stream is UTF-8");
    let text =
        text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut event, mut has_data) = (Vec::new(), Event::default(), false);
    for line in text.split('\n') {
        if line.is_empty() {
            if has_data {
                event.data.pop();
                events.push(event.clone());
            }
            // The last id stays.
            event = Event { id: event.id, ..Event::default() };
            has_data = false;
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.name = value.to_owned(),
            "id" if !value.contains('\0') => event.id = value.to_owned(),
            "data" => {
                event.data.push_str(value);
                event.data.push('\n');
                has_data = true;
            }
            _ => {}
        }
    }
    events
}

/// The bytes that an event of ours carries, and where they lie.
fn carried(event: &Event) -> (u64, Vec<u8>) {
    let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
    let bytes = match (&data["lines"], &data["base64"]) {
        (serde_json::Value::Array(lines), _) => lines
            .iter()
            .flat_map(|line| [line.as_str().unwrap().as_bytes(), b"\n"].concat())
            .collect(),
        (_, serde_json::Value::String(text)) => STANDARD.decode(text).unwrap(),
        _ => panic!("{data}"),
    };
    assert_eq!(data["to"].as_u64().unwrap() - data["from"].as_u64().unwrap(), bytes.len() as u64);
    assert_eq!(event.id, data["to"].to_string());
    (data["from"].as_u64().unwrap(), bytes)
}

fn encoded(log: &[u8], from: usize, piece: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(SseFormat::Json, from as u64);
    let mut out = Vec::new();
    for piece in log[from..].chunks(piece.max(1)) {
        encoder.push(piece, &mut out);
    }
    encoder.flush(&mut out);
    out
}

fn rebuilds(log: &[u8], from: usize, piece: usize) {
    let out = encoded(log, from, piece);
    let mut rebuilt = Vec::new();
    for event in parse(&out) {
        assert_eq!(event.name, "log");
        let (at, bytes) = carried(&event);
        assert_eq!(at as usize, from + rebuilt.len());
        rebuilt.extend_from_slice(&bytes);
    }
    assert_eq!(rebuilt, log[from..]);
    for frame in out.split_inclusive(|&b| b == b'\n') {
        assert!(frame.len() <= MAX_FRAME_BYTES, "a line of {} bytes", frame.len());
    }
}

#[test]
fn hard_lines_are_rebuilt_byte_for_byte_from_every_offset() {
    let log = b"plain\n\n\r\n a\rb \0 \xe2\x80\xa8 data: x\n\xff\xfe\n:\nid: 5\nevent: end\n\xef\xbb\xbfbom\nopen";
    for from in 0..=log.len() {
        for piece in [1, 2, 7, log.len()] {
            rebuilds(log, from, piece);
        }
    }
}

#[test]
fn a_line_longer_than_a_frame_is_carried_in_pieces() {
    for byte in [b'x', b'\x01', b'"', 0xff] {
        let mut log = vec![byte; 200_000];
        log.extend_from_slice(b"\nshort\n");
        log.extend(std::iter::repeat_n(b"line\n", 40_000).flatten());
        rebuilds(&log, 0, 65_536);
    }
}

#[test]
fn a_last_event_id_is_an_offset_or_nothing() {
    for (header, offset) in [
        ("0", Some(0)),
        (" 42 ", Some(42)),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(parse_last_event_id(header), offset, "{header:?}");
    }
}

#[test]
fn the_plain_form_cannot_be_made_to_forge_an_event() {
    let mut encoder = Encoder::new(SseFormat::Plain, 0);
    let mut out = Vec::new();
    encoder.push(b"one\rdata: forged\r\rtwo\nevent: end\n", &mut out);
    let events = parse(&out);
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.name.is_empty()));
    assert_eq!(events[0].data, "one data: forged  two");
}

#[tokio::test(start_paused = true)]
async fn a_stream_follows_to_the_end_lives_in_silence_and_ends_with_the_status() {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let log: JobId = "job".parse().unwrap();
    store.open(&log).await.unwrap();
    let follower = Follower::new(store.clone(), log.clone(), 0);
    let frames = super::stream(follower, SseFormat::Json, async { "succeeded".to_owned() });
    let mut frames = std::pin::pin!(frames);
    assert_eq!(frames.next().await.unwrap().unwrap(), ": alive\n\n");
    store.append(&log, 0, Bytes::from_static(b"hello\n")).await.unwrap();
    let first = frames.next().await.unwrap().unwrap();
    assert_eq!(carried(&parse(&first)[0]), (0, b"hello\n".to_vec()));
    let state = LogState { truncated: true, ..LogState::default() };
    store.seal(&log, &state).await.unwrap();
    let rest: Vec<_> = frames.map(|frame| frame.unwrap()).collect().await;
    let events = parse(&rest.concat());
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["truncated", "end"]);
    assert_eq!(events[1].data, r#"{"status":"succeeded"}"#);
}

proptest! {
    #[test]
    fn any_log_from_any_offset_in_any_pieces_is_rebuilt(
        log in prop::collection::vec(prop_oneof![2 => Just(b'\n'), 1 => Just(b'\r'), 6 => any::<u8>()], 0..400),
        from in 0_usize..400,
        piece in 1_usize..100,
    ) {
        rebuilds(&log, from.min(log.len()), piece);
    }
}
