//! Event streams as a browser reads them: byte for byte, across cuts, to the end.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::sync::Arc;

use bytes::Bytes;
use danube_core::JobId;
use danube_logs::sse::{
    self, Encoder, MAX_FRAME_BYTES, SseFormat, SseOptions, parse_last_event_id,
};
use danube_logs::{LogState, LogStore, MemoryLogs};
use futures_util::StreamExt;

#[path = "fuzz/event_source.rs"]
mod event_source;

use event_source::{Event, EventSource, Rebuilt};

#[test]
fn the_reader_reads_what_the_standard_says() {
    let stream = "\u{feff}: hello\r\nevent: a\rdata: 1\ndata:2\nid: 7\n\ndata\n\nevent: b\n\nid: x\0y\n\
                  id: 8\n\nretry: 1x\nretry: 20\ndata:  x\nnonsense: y\n\nid\n\ndata: \u{feff}\n\ndata: lost";
    let event = |name: &str, data: &str, id: &str| Event {
        name: name.into(),
        data: data.into(),
        last_id: id.into(),
    };
    let expected = [
        event("a", "1\n2", "7"),
        event("message", "", "7"),
        event("message", " x", "8"),
        event("message", "\u{feff}", ""),
    ];
    let mut whole = EventSource::default();
    assert_eq!(whole.push(stream.as_bytes()), expected);
    let mut bytewise = EventSource::default();
    let events: Vec<_> = stream.bytes().flat_map(|byte| bytewise.push(&[byte])).collect();
    assert_eq!((events.as_slice(), bytewise.comments), (&expected[..], 1));
    assert_eq!(bytewise.retry, Some(20));
}

/// Hard to carry: CR, NUL, what is not UTF-8, what looks like fields, separators that are not line ends, an
/// open line.
const HARD: &[u8] =
    b"plain\n\n\r\n a\rb \0 \xe2\x80\xa8 data: x\n\xff\xfe\n:\nid: 5\nevent: end\n\xef\xbb\xbfbom\n\x1b[31m\xc2\x85\n\xe2\x82\nopen";

fn encoded(log: &[u8], from: usize, piece: usize, format: SseFormat) -> Vec<u8> {
    let mut encoder = Encoder::new(format, from as u64);
    let mut out = Vec::new();
    log[from..].chunks(piece.max(1)).for_each(|piece| encoder.push(piece, &mut out));
    encoder.flush(&mut out);
    out
}

fn rebuilt(stream: &[u8], from: usize) -> Rebuilt {
    let mut rebuilt = Rebuilt::from(from as u64);
    EventSource::default().push(stream).iter().for_each(|event| rebuilt.take(event));
    rebuilt
}

#[test]
fn hard_lines_are_rebuilt_byte_for_byte_from_every_offset() {
    for from in 0..=HARD.len() {
        for piece in [1, 2, 7, HARD.len()] {
            let stream = encoded(HARD, from, piece, SseFormat::Json);
            assert_eq!(rebuilt(&stream, from).bytes, HARD[from..], "from {from} by {piece}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_goes_on_without_gap_or_overlap() {
    let stream = encoded(HARD, 0, 5, SseFormat::Json);
    for cut in 0..=stream.len() {
        let mut first = rebuilt(&stream[..cut], 0);
        let resume = first.at.unwrap_or(0) as usize;
        let rest = rebuilt(&encoded(HARD, resume, 3, SseFormat::Json), resume);
        first.bytes.extend(rest.bytes);
        assert_eq!(first.bytes, HARD, "cut at {cut}");
    }
}

#[test]
fn a_line_longer_than_a_frame_is_carried_in_pieces() {
    for byte in [b'x', b'\x01', b'"', 0xff, 0x80] {
        let mut log = vec![byte; 200_000];
        log.extend_from_slice(b"\nshort\n");
        log.extend(std::iter::repeat_n(b"line\n", 40_000).flatten());
        for format in [SseFormat::Json, SseFormat::Plain] {
            let stream = encoded(&log, 0, 65_536, format);
            let frames = stream.split_inclusive(|&b| b == b'\n').map(<[u8]>::len);
            assert!(frames.max().unwrap() <= MAX_FRAME_BYTES);
            if format == SseFormat::Json {
                assert_eq!(rebuilt(&stream, 0).bytes, log);
            }
        }
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
fn the_plain_form_cannot_be_made_to_forge_an_event_and_can_be_resumed() {
    let log = b"one\rdata: forged\r\rtwo\nid: 9\n\xffx\0\n\nopen";
    for piece in [1, 3, log.len()] {
        let events = EventSource::default().push(&encoded(log, 0, piece, SseFormat::Plain));
        let told: Vec<_> =
            events.iter().map(|e| (e.name.as_str(), e.data.as_str(), e.last_id.as_str())).collect();
        let message = |data, id| ("message", data, id);
        let expected = [
            message("one data: forged  two", "22"),
            message("id: 9", "28"),
            message("\u{fffd}x ", "32"),
            message("", "33"),
            message("open", "37"),
        ];
        assert_eq!(told, expected);
    }
}

#[test]
fn a_long_plain_line_is_not_cut_within_a_character() {
    let line = "x".to_owned() + &"\u{20ac}".repeat(30_000);
    let events =
        EventSource::default().push(&encoded(line.as_bytes(), 0, 1 << 20, SseFormat::Plain));
    assert!(events.len() > 1);
    assert_eq!(events.iter().map(|event| event.data.as_str()).collect::<String>(), line);
}

async fn open_log(bytes: &[u8]) -> (Arc<dyn LogStore>, JobId) {
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogs::new());
    let log: JobId = "job".parse().unwrap();
    store.open(&log).await.unwrap();
    if !bytes.is_empty() {
        store.append(&log, 0, Bytes::copy_from_slice(bytes)).await.unwrap();
    }
    (store, log)
}

#[tokio::test(start_paused = true)]
async fn a_stream_follows_to_the_end_lives_in_silence_and_ends_with_the_status() {
    let (store, log) = open_log(b"").await;
    let status = async { "succeeded".to_owned() };
    let frames = sse::stream(store.clone(), log.clone(), 0, SseOptions::default(), status);
    let mut frames = std::pin::pin!(frames);
    assert_eq!(frames.next().await.unwrap().unwrap(), ": alive\n\n");
    store.append(&log, 0, Bytes::from_static(b"hello\n")).await.unwrap();
    let mut rebuilt = Rebuilt::default();
    let mut source = EventSource::default();
    source.push(&frames.next().await.unwrap().unwrap()).iter().for_each(|e| rebuilt.take(e));
    assert_eq!(rebuilt.bytes, b"hello\n");
    let state = LogState { truncated: true, ..LogState::default() };
    store.seal(&log, &state).await.unwrap();
    let rest: Vec<_> = frames.map(|frame| frame.unwrap()).collect().await;
    source.push(&rest.concat()).iter().for_each(|event| rebuilt.take(event));
    assert!(rebuilt.truncated);
    assert_eq!(rebuilt.status.as_deref(), Some("succeeded"));
}

#[tokio::test(start_paused = true)]
async fn a_line_that_grows_without_end_is_a_silence_too() {
    let (store, log) = open_log(b"").await;
    let frames =
        sse::stream(store.clone(), log.clone(), 0, SseOptions::default(), async { String::new() });
    let mut frames = std::pin::pin!(frames);
    let slowly = async {
        for at in 0..10 {
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
            store.append(&log, at, Bytes::from_static(b".")).await.unwrap();
        }
    };
    let alive = async {
        for _ in 0..6 {
            assert_eq!(frames.next().await.unwrap().unwrap(), ": alive\n\n");
        }
    };
    tokio::join!(slowly, alive);
}

#[tokio::test]
async fn a_watcher_that_is_too_far_behind_is_told_what_it_missed() {
    let log_bytes: Vec<u8> = (0..1000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    let (store, log) = open_log(&log_bytes).await;
    store.seal(&log, &LogState::default()).await.unwrap();
    let run = |max_lag| {
        let options = SseOptions::default().with_max_lag(max_lag);
        let frames =
            sse::stream(store.clone(), log.clone(), 5, options, async { "failed".to_owned() });
        async move {
            let frames: Vec<_> = frames.map(|frame| frame.unwrap()).collect().await;
            rebuilt(&frames.concat(), 5)
        }
    };
    let len = log_bytes.len() as u64;
    for lag in [None, Some(len - 5), Some(u64::MAX)] {
        let all = run(lag).await;
        assert_eq!((all.bytes.as_slice(), all.gaps.len()), (&log_bytes[5..], 0), "{lag:?}");
    }
    let behind = run(Some(1000)).await;
    let [(from, to)] = behind.gaps[..] else { panic!("{:?}", behind.gaps) };
    assert!(from == 5 && len - 500 <= to && to < len - 480, "{from} {to}");
    assert_eq!(log_bytes[to as usize - 1], b'\n', "it goes on with a whole line");
    assert_eq!(behind.bytes, log_bytes[to as usize..]);
    assert_eq!(behind.status.as_deref(), Some("failed"));
    let nothing = run(Some(0)).await;
    assert_eq!((nothing.gaps.as_slice(), nothing.bytes.len()), (&[(5, len)][..], 0));
}
