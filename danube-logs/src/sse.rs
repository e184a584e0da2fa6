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
//! the log byte for byte. `event: truncated` says that the rest was left out, `event: gap` with `{from,to}` that the
//! stream skipped a range, which can be read again, and `event: end` with `{"status":…}` is the last. A comment
//! every 15 seconds of silence keeps the connection. A frame has at most 64 KiB.
//!
//! The plain form, `id: 1234` and `data: <line>`, is for people with curl and for clients that know no JSON: what
//! is not UTF-8 is U+FFFD in it, CR and NUL are spaces, and a line longer than 20 KiB comes as several.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use danube_core::{ByteRange, JobId};
use futures_core::Stream;
use futures_util::stream;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{Error, FollowEvent, Follower, LogStore, MAX_LINE_BYTES};

/// The longest frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// How often a silent stream says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// Raw bytes of a base64 frame: a third more as text, and the fields around it.
const MAX_RAW_BYTES: usize = 45 * 1024;

/// Bytes of a line in one plain frame: each of them may become U+FFFD, of three bytes.
const MAX_PLAIN_BYTES: usize = 20 * 1024;

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

/// How a log is streamed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SseOptions {
    /// How lines are framed. Default JSON.
    pub format: SseFormat,
    /// How many bytes a client may be behind the end of the log before the stream skips to its last lines, half as
    /// many, and says so with `gap`. `None`, the default: it never skips anything. For watching alone.
    pub max_lag: Option<u64>,
}

impl SseOptions {
    /// Sets [`format`](Self::format).
    #[must_use]
    pub fn with_format(mut self, format: SseFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets [`max_lag`](Self::max_lag).
    #[must_use]
    pub fn with_max_lag(mut self, bytes: Option<u64>) -> Self {
        self.max_lag = bytes;
        self
    }
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

/// A range without its bytes.
#[derive(Serialize)]
struct Span {
    from: u64,
    to: u64,
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
            if self.partial.len() > 2 * MAX_LINE_BYTES {
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

    /// Skips to an offset further on, and says so.
    pub fn skip(&mut self, to: u64, out: &mut Vec<u8>) {
        self.flush(out);
        let from = self.at;
        self.at = to;
        event("gap", Some(to), &Span { from, to }, out);
    }

    fn lines(&mut self, whole: &[u8], out: &mut Vec<u8>) {
        let mut batch: Vec<&str> = Vec::new();
        let mut size = FRAME_FIELDS;
        for line in whole.split_inclusive(|&b| b == b'\n') {
            if self.format == SseFormat::Plain {
                self.plain(line, out);
                continue;
            }
            let content = line.strip_suffix(b"\n").unwrap_or(line);
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

    fn plain(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut rest = line;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(plain_len(rest));
            rest = after;
            self.at += piece.len() as u64;
            out.extend_from_slice(format!("id: {}\ndata: ", self.at).as_bytes());
            let text = String::from_utf8_lossy(piece.strip_suffix(b"\n").unwrap_or(piece));
            // A CR ends a line of this format too, and NUL has no business in it.
            out.extend(text.bytes().map(|b| if matches!(b, b'\r' | 0) { b' ' } else { b }));
            out.extend_from_slice(b"\n\n");
        }
    }
}

/// How much of a line fits one plain frame, with its line feed, and not cut within a character.
fn plain_len(line: &[u8]) -> usize {
    if line.len() <= MAX_PLAIN_BYTES + 1 {
        return line.len();
    }
    // At most three bytes of a character follow its first; where more do, they are none.
    let begins = |at: &usize| line[*at] & 0xc0 != 0x80;
    (MAX_PLAIN_BYTES - 3..=MAX_PLAIN_BYTES).rev().find(begins).unwrap_or(MAX_PLAIN_BYTES)
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

/// The frames of a log from an offset on, to its end. `status` is awaited once, after the last byte: what
/// it gives stands in the `end` event.
///
/// Dropping the stream at any time costs nothing: a client resumes by offset. A client that does not read costs
/// an offset and the frames of 256 KiB of log at most.
pub fn stream<F>(
    store: Arc<dyn LogStore>,
    log: JobId,
    from: u64,
    options: SseOptions,
    status: F,
) -> impl Stream<Item = Result<Bytes, Error>> + Send
where
    F: Future<Output = String> + Send,
{
    let frames = Frames {
        follower: Follower::new(store.clone(), log.clone(), from),
        encoder: Encoder::new(options.format, from),
        store,
        log,
        max_lag: options.max_lag,
    };
    stream::unfold(Some((frames, status)), |state| async move {
        let (mut frames, status) = state?;
        let mut out = Vec::new();
        match frames.next(&mut out).await {
            Ok(true) => Some((Ok(Bytes::from(out)), Some((frames, status)))),
            Ok(false) => {
                event("end", None, &End { status: &status.await }, &mut out);
                Some((Ok(out.into()), None))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

struct Frames {
    store: Arc<dyn LogStore>,
    log: JobId,
    follower: Follower,
    encoder: Encoder,
    max_lag: Option<u64>,
}

impl Frames {
    /// Appends the next frames, one at least; `false` when the log ended with them.
    async fn next(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        // Also while a line grows that is not whole yet.
        let silent_until = Instant::now() + HEARTBEAT;
        while out.is_empty() {
            if let Some(max_lag) = self.max_lag {
                self.skip_if_behind(max_lag, out).await?;
            }
            match timeout_at(silent_until, self.follower.next()).await {
                Err(_) => out.extend_from_slice(b": alive\n\n"),
                Ok(told) => match told? {
                    FollowEvent::Bytes { bytes, .. } => self.encoder.push(&bytes, out),
                    FollowEvent::Truncated => {
                        self.encoder.flush(out);
                        let at = self.follower.offset();
                        event("truncated", Some(at), &Span { from: at, to: at }, out);
                    }
                    FollowEvent::End(_) => {
                        self.encoder.flush(out);
                        return Ok(false);
                    }
                },
            }
        }
        Ok(true)
    }

    /// Goes on with the last lines where the client is too far behind.
    async fn skip_if_behind(&mut self, max_lag: u64, out: &mut Vec<u8>) -> Result<(), Error> {
        let (at, end) = (self.follower.offset(), self.store.stat(&self.log).await?.len);
        if end.saturating_sub(at) <= max_lag {
            return Ok(());
        }
        let to = end - max_lag / 2;
        // To the beginning of a line, where one begins soon.
        let near = ByteRange::with_len(to, 2 * MAX_LINE_BYTES as u64).clamp_end(end);
        let bytes = self.store.read(&self.log, near).await?;
        let to = to + memchr::memchr(b'\n', &bytes).map_or(0, |end| end as u64 + 1);
        self.encoder.skip(to, out);
        self.follower = Follower::new(self.store.clone(), self.log.clone(), to);
        Ok(())
    }
}
