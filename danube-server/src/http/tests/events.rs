//! An event stream as a browser reads it (WHATWG HTML, section 9.2.6), written from the standard.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
    pub(super) last_id: String,
}

/// Takes the bytes of a stream in any pieces.
#[derive(Debug, Default)]
pub(super) struct EventSource {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    name: String,
    data: String,
    last_id: String,
    pub(super) comments: usize,
}

impl EventSource {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            let lf_of_crlf = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            match byte {
                _ if lf_of_crlf => {}
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.take(&line));
                }
                other => self.line.push(other),
            }
        }
        events
    }

    fn take(&mut self, line: &[u8]) -> Option<Event> {
        let mut line = String::from_utf8_lossy(line).into_owned();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.trim_start_matches('\u{feff}').to_owned();
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.last_id = value.to_owned(),
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let (name, mut data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        if data.is_empty() {
            return None;
        }
        data.pop();
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { name, data, last_id: self.last_id.clone() })
    }
}

impl Event {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap()
    }

    /// The bytes of a `log` event and the range that they claim.
    pub(super) fn log_bytes(&self) -> (u64, u64, Vec<u8>) {
        let data = self.json();
        let bytes = match (&data["lines"], &data["base64"]) {
            (serde_json::Value::Array(lines), serde_json::Value::Null) => lines
                .iter()
                .flat_map(|line| [line.as_str().unwrap().as_bytes(), b"\n"].concat())
                .collect(),
            (serde_json::Value::Null, serde_json::Value::String(text)) => {
                STANDARD.decode(text).unwrap()
            }
            _ => panic!("neither lines nor base64: {data}"),
        };
        (data["from"].as_u64().unwrap(), data["to"].as_u64().unwrap(), bytes)
    }
}

/// A log put together from events, which must fit each other without gap or overlap.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    pub(super) from: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) truncated: bool,
    pub(super) status: Option<String>,
}

impl Rebuilt {
    pub(super) fn take(&mut self, event: &Event) {
        assert_eq!(self.status, None, "nothing comes after the end");
        match event.name.as_str() {
            "log" => {
                let (from, to, bytes) = event.log_bytes();
                assert_eq!(from, self.from + self.bytes.len() as u64, "no gap, no overlap");
                assert_eq!(to, from + bytes.len() as u64);
                assert_eq!(event.last_id, to.to_string());
                self.bytes.extend(bytes);
            }
            "truncated" => self.truncated = true,
            "end" => self.status = Some(event.json()["status"].as_str().unwrap().to_owned()),
            other => panic!("an event called {other}"),
        }
    }
}

#[test]
fn the_parser_reads_what_the_standard_says() {
    let stream = "\u{feff}: hello\r\nevent: a\rdata: 1\ndata:2\nid: 7\n\ndata\n\nevent: b\n\n\
                  id: 8\ndata:  x\nnonsense: y\nretry: 1\n\ndata: lost";
    let event = |name: &str, data: &str, id: &str| Event {
        name: name.into(),
        data: data.into(),
        last_id: id.into(),
    };
    let expected =
        [event("a", "1\n2", "7"), event("message", "", "7"), event("message", " x", "8")];
    let mut whole = EventSource::default();
    assert_eq!(whole.push(stream.as_bytes()), expected);
    let mut bytewise = EventSource::default();
    let events: Vec<_> = stream.bytes().flat_map(|byte| bytewise.push(&[byte])).collect();
    assert_eq!((events.as_slice(), bytewise.comments), (&expected[..], 1));
}
