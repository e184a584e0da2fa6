//! Logs as server-sent events (WHATWG HTML, section 9.2), without any HTTP type.
//!
//! ```text
//! event: log
//! id: 1234
//! data: {"from":1200,"to":1234,"lines":["…"]}
//! ```
//!
//! The id is the offset to resume from. `lines` are whole lines without their line feeds; where the range is not
//! UTF-8, or is part of a line, `base64` (RFC 4648, section 4) stands instead, so the events of a stream rebuild
//! the log byte for byte. `event: truncated` says that the rest was left out, `event: end` with `{"status":…}` is the last. A
//! comment every 15 seconds keeps the connection. A frame has at most 64 KiB.

use std::future::Future;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use danube_core::ByteRange;
use futures_core::Stream;
use futures_util::stream;
use serde::Serialize;

use crate::{Error, FollowEvent, Follower};

/// The longest frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// How often a silent stream says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// Raw bytes of a base64 frame: a third more as text, and the fields around it.
const MAX_RAW_BYTES: usize = 45 * 1024;

/// What a frame has beside its lines, at most.
const FRAME_FIELDS: usize = 160;

/// How log lines are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SseFormat {
    /// JSON with offsets: lossless.
    #[default]
    Json,
    /// `data: <line>`: lossy, for people with curl.
    Plain,
}

/// The offset in a `Last-Event-ID` header; `None` for what is none, which begins at the beginning.
#[must_use]
pub fn parse_last_event_id(header: &str) -> Option<u64> {
    let digits = header.trim();
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[derive(Serialize)]
struct Lines<'a> {
    from: u64,
    to: u64,
    lines: &'a [&'a str],
}

#[derive(Serialize)]
struct Raw {
    from: u64,
    to: u64,
    base64: String,
}

#[derive(Serialize)]
struct End<'a> {
    status: &'a str,
}

/// Turns the bytes of a log, cut anywhere, into frames. Pure: it knows no time and no connection.
#[derive(Debug)]
pub struct Encoder {
    format: SseFormat,
    /// Where `partial` begins.
    at: u64,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
}

impl Encoder {
    /// An encoder for a stream that begins at an offset, also in the middle of a line.
    #[must_use]
    pub fn new(format: SseFormat, from: u64) -> Self {
        Self { format, at: from, partial: Vec::new() }
    }

    /// Takes the next bytes of the log and appends the frames that they complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.partial.extend_from_slice(bytes);
        let Some(end) = memchr::memrchr(b'\n', &self.partial) else {
            // A line is bounded, and so is this, whoever wrote the log.
            if self.partial.len() > 2 * crate::MAX_LINE_BYTES {
                self.flush(out);
            }
            return;
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        self.lines(&whole, out);
    }

    /// Frames what is left of a line that will not be completed.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            match self.format {
                SseFormat::Json => self.raw(&rest, out),
                SseFormat::Plain => self.plain(&rest, out),
            }
        }
    }

    fn lines(&mut self, whole: &[u8], out: &mut Vec<u8>) {
        let mut batch: Vec<&str> = Vec::new();
        let mut size = FRAME_FIELDS;
        for line in whole.split_inclusive(|&b| b == b'\n') {
            let content = line.strip_suffix(b"\n").unwrap_or(line);
            if self.format == SseFormat::Plain {
                self.plain(content, out);
                self.at += line.len() as u64 - content.len() as u64;
                continue;
            }
            match std::str::from_utf8(content).ok().map(|text| (text, json_len(text))) {
                Some((text, len)) if len + FRAME_FIELDS <= MAX_FRAME_BYTES => {
                    if size + len > MAX_FRAME_BYTES {
                        self.frame(&batch, out);
                        batch.clear();
                        size = FRAME_FIELDS;
                    }
                    batch.push(text);
                    size += len;
                }
                // Not UTF-8, or too long for one frame.
                _ => {
                    self.frame(&batch, out);
                    batch.clear();
                    size = FRAME_FIELDS;
                    self.raw(line, out);
                }
            }
        }
        self.frame(&batch, out);
    }

    fn frame(&mut self, lines: &[&str], out: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let from = self.at;
        self.at += lines.iter().map(|line| line.len() as u64 + 1).sum::<u64>();
        event("log", Some(self.at), &Lines { from, to: self.at, lines }, out);
    }

    fn raw(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for piece in bytes.chunks(MAX_RAW_BYTES) {
            let from = self.at;
            self.at += piece.len() as u64;
            event(
                "log",
                Some(self.at),
                &Raw { from, to: self.at, base64: STANDARD.encode(piece) },
                out,
            );
        }
    }

    fn plain(&mut self, content: &[u8], out: &mut Vec<u8>) {
        for piece in content.chunks(MAX_RAW_BYTES).chain(content.is_empty().then_some(&[][..])) {
            self.at += piece.len() as u64;
            out.extend_from_slice(b"data: ");
            // A CR ends a line of this format too, and NUL has no business in it.
            let text = String::from_utf8_lossy(piece);
            out.extend(text.bytes().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { b }));
            out.extend_from_slice(b"\n\n");
        }
    }
}

/// How long a text is as a JSON string, its quotes and comma included.
fn json_len(text: &str) -> usize {
    let escaped = |b: u8| match b {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 3
}

/// One event. JSON has no bare CR or LF, so nothing in it can end a field.
fn event(name: &str, id: Option<u64>, data: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("event: {name}\n").as_bytes());
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    out.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *out, data).expect("numbers and strings serialise into memory");
    out.extend_from_slice(b"\n\n");
}

/// The frames of a followed log, to its end. `status` is awaited once, after the last byte: what
/// it gives stands in the `end` event.
///
/// Dropping the stream at any time costs nothing: a client resumes by offset.
pub fn stream<F>(
    follower: Follower,
    format: SseFormat,
    status: F,
) -> impl Stream<Item = Result<Bytes, Error>> + Send
where
    F: Future<Output = String> + Send,
{
    let encoder = Encoder::new(format, follower.offset());
    stream::unfold(Some((follower, encoder, status)), |state| async move {
        let (mut follower, mut encoder, status) = state?;
        let mut out = Vec::new();
        while out.is_empty() {
            match tokio::time::timeout(HEARTBEAT, follower.next()).await {
                Err(_) => out.extend_from_slice(b": alive\n\n"),
                Ok(Ok(FollowEvent::Bytes { bytes, .. })) => encoder.push(&bytes, &mut out),
                Ok(Ok(FollowEvent::Truncated)) => {
                    encoder.flush(&mut out);
                    let at = follower.offset();
                    event("truncated", Some(at), &ByteRange::new(at, at), &mut out);
                }
                Ok(Ok(FollowEvent::End(_))) => {
                    encoder.flush(&mut out);
                    let status = status.await;
                    event("end", None, &End { status: &status }, &mut out);
                    return Some((Ok(out.into()), None));
                }
                Ok(Err(error)) => return Some((Err(error), None)),
            }
        }
        Some((Ok(Bytes::from(out)), Some((follower, encoder, status))))
    })
}

#[cfg(test)]
mod tests;
