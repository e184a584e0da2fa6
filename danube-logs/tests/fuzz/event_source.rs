//! An event stream as a browser reads it, written from WHATWG HTML, sections 9.2.5 and 9.2.6, and a log put
//! together from what it says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its type: `message` where the stream names none.
    pub(crate) name: String,
    /// Its data.
    pub(crate) data: String,
    /// The last event id when it was dispatched.
    pub(crate) last_id: String,
}

/// Takes the bytes of a stream in any pieces.
#[derive(Debug, Default)]
pub(crate) struct EventSource {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    name: String,
    data: String,
    id: String,
    last_id: String,
    /// How many comments came.
    pub(crate) comments: usize,
    /// What the stream says of reconnecting, in milliseconds.
    pub(crate) retry: Option<u64>,
}

impl EventSource {
    /// The events that these bytes complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
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
        // CR and LF are never within a character, so decoding by lines is decoding the stream.
        let line = String::from_utf8_lossy(line);
        let mut line = &*line;
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.last_id.clone_from(&self.id);
        let (name, mut data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        if data.is_empty() {
            return None;
        }
        data.pop();
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { name, data, last_id: self.last_id.clone() })
    }
}

/// A log put together from events, which must fit each other without gap or overlap.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rebuilt {
    /// Where it begins.
    pub(crate) from: u64,
    /// Its bytes; those of a gap are missing.
    pub(crate) bytes: Vec<u8>,
    /// The ranges that were skipped.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// What the last id says: where to resume.
    pub(crate) at: Option<u64>,
    /// Whether something was left out at the end.
    pub(crate) truncated: bool,
    /// How it ended.
    pub(crate) status: Option<String>,
}

impl Rebuilt {
    /// One that begins at an offset.
    pub(crate) fn from(from: u64) -> Self {
        Self { from, ..Self::default() }
    }

    /// Takes the next event.
    pub(crate) fn take(&mut self, event: &Event) {
        assert_eq!(self.status, None, "nothing comes after the end");
        let data: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
        let range = || (data["from"].as_u64().unwrap(), data["to"].as_u64().unwrap());
        let at = self.at.unwrap_or(self.from);
        match event.name.as_str() {
            "log" => {
                let bytes: Vec<u8> = match (&data["lines"], &data["base64"]) {
                    (serde_json::Value::Array(lines), serde_json::Value::Null) => lines
                        .iter()
                        .flat_map(|line| [line.as_str().unwrap().as_bytes(), b"\n"].concat())
                        .collect(),
                    (serde_json::Value::Null, serde_json::Value::String(text)) => {
                        STANDARD.decode(text).unwrap()
                    }
                    _ => panic!("neither lines nor base64: {data}"),
                };
                assert_eq!(range(), (at, at + bytes.len() as u64), "no gap, no overlap");
                assert!(!bytes.is_empty());
                self.bytes.extend(bytes);
            }
            "gap" => {
                assert_eq!(range().0, at);
                assert!(range().1 >= at);
                self.gaps.push(range());
            }
            "truncated" => self.truncated = true,
            "end" => return self.status = Some(data["status"].as_str().unwrap().to_owned()),
            other => panic!("an event called {other}"),
        }
        assert_eq!(event.last_id, range().1.to_string());
        self.at = Some(range().1);
    }
}
