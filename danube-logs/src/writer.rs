//! Writing a log: streams in any chunks become whole lines, within a limit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use danube_core::{ByteRange, Clock, JobId, OutputStream, StepName, StreamFilter};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::line::{MAX_LINE_BYTES, Prefix, Stamp, note};
use crate::{Error, LogState, LogStore, StepRange, parse_line};

/// What a log keeps by default: 50 MiB.
pub const DEFAULT_MAX_LOG_BYTES: u64 = 50 * 1024 * 1024;

/// A stream that is silent for so long has what its filter holds said; a line that is open for so
/// long is written as it is.
const SILENCE: Duration = Duration::from_secs(1);

/// Notes that may follow a truncation: enough to say how the job ended, too few to matter.
const NOTES_AFTER_TRUNCATION: u32 = 100;

/// When what was acknowledged also survives the death of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// At the end of each step, and at the seal.
    #[default]
    StepEnd,
    /// At the seal alone.
    Seal,
}

/// How a log is written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LogOptions {
    /// The most that is kept, in bytes of the stored log; at least 1. Default [`DEFAULT_MAX_LOG_BYTES`].
    pub max_log_bytes: u64,
    /// When it is made durable.
    pub durability: Durability,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { max_log_bytes: DEFAULT_MAX_LOG_BYTES, durability: Durability::default() }
    }
}

impl LogOptions {
    /// Sets [`max_log_bytes`](Self::max_log_bytes).
    #[must_use]
    pub fn with_max_log_bytes(mut self, bytes: u64) -> Self {
        self.max_log_bytes = bytes;
        self
    }

    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// The writing end of one log. Several steps may write at once; their lines never mix.
///
/// The writer owns the log: dropped without [`seal`](Self::seal), with its steps, it leaves the log to
/// whoever recovers it.
///
/// The log keeps whole lines up to its limit; then one line says that it was truncated, and what
/// comes after is counted and dropped, so that the command never waits for a log that is full.
#[derive(Debug)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    owned: Arc<Ownership>,
    clock: Arc<dyn Clock>,
    options: LogOptions,
    tail: Mutex<Tail>,
    /// The same as in `tail`, readable without waiting: what is dropped is not formatted either.
    truncated: AtomicBool,
}

#[derive(Debug)]
struct Tail {
    len: u64,
    state: LogState,
    notes_left: u32,
}

/// How a log ended. While this lives the log stays owned, so that others can tell that whoever sealed
/// it is still at work; dropping it releases the log.
#[derive(Debug)]
pub struct SealedLog {
    /// Bytes stored.
    pub len: u64,
    /// Whether something was left out.
    pub truncated: bool,
    /// Lines left out.
    pub omitted_lines: u64,
    /// Bytes of output left out.
    pub omitted_bytes: u64,
    /// Where each step's lines lie.
    pub steps: Vec<StepRange>,
    _ownership: Arc<Ownership>,
}

/// Releases the log when nobody writes or holds it any more.
#[derive(Debug)]
struct Ownership {
    store: Arc<dyn LogStore>,
    log: JobId,
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.store.release(&self.log);
    }
}

impl LogWriter {
    /// Opens a log for writing: a new one, or one whose owner died, which then goes on where it
    /// ends.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a limit of 0, and those of [`LogStore::open`].
    pub async fn create(
        store: Arc<dyn LogStore>,
        log: JobId,
        clock: Arc<dyn Clock>,
        options: LogOptions,
    ) -> Result<Self, Error> {
        if options.max_log_bytes == 0 {
            return Err(Error::Invalid {
                reason: "a log must be allowed at least one byte".into(),
            });
        }
        let stat = store.open(&log).await?;
        let state = LogState::clone(&stat.state);
        let truncated = AtomicBool::new(state.truncated);
        let tail = Mutex::new(Tail { len: stat.len, state, notes_left: NOTES_AFTER_TRUNCATION });
        let owned = Arc::new(Ownership { store, log });
        Ok(Self(Arc::new(Shared { owned, clock, options, tail, truncated })))
    }

    /// Begins a step. Each stream has a filter of its own.
    ///
    /// # Errors
    ///
    /// None today; a store may want to record the step.
    pub async fn step(
        &self,
        name: StepName,
        stdout: Box<dyn StreamFilter>,
        stderr: Box<dyn StreamFilter>,
    ) -> Result<StepWriter, Error> {
        let mut tail = self.0.tail.lock().await;
        let at = tail.len;
        tail.state.steps.push(StepRange { name: name.clone(), range: ByteRange::new(at, at) });
        let number = tail.state.steps.len() - 1;
        drop(tail);
        let stream = |stream, filter| Stream {
            filter,
            prefix: Prefix::new(&name, stream),
            partial: Vec::new(),
            continued: false,
            open_since: Instant::now(),
            last_input: Instant::now(),
            told_idle: false,
        };
        let streams = [stream(OutputStream::Stdout, stdout), stream(OutputStream::Stderr, stderr)];
        let shared = self.0.clone();
        Ok(StepWriter {
            shared,
            name,
            number,
            streams,
            filtered: Vec::new(),
            lines: BytesMut::new(),
        })
    }

    /// Writes a line of our own about the job: at most 4 KiB, controls made visible.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`].
    pub async fn note(&self, text: &str) -> Result<u64, Error> {
        self.0.note("danube", text).await
    }

    /// Whether the limit was reached.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.0.truncated.load(Ordering::Relaxed)
    }

    /// Ends the log. Steps still open cannot write any more.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::seal`]: the log is then not sealed, and may be recovered.
    pub async fn seal(self) -> Result<SealedLog, Error> {
        let mut tail = self.0.tail.lock().await;
        tail.state.sealed_at = Some(self.0.clock.now());
        self.0.owned.store.seal(&self.0.owned.log, &tail.state).await?;
        let LogState { truncated, omitted_lines, omitted_bytes, steps, sealed_at: _ } =
            tail.state.clone();
        let _ownership = self.0.owned.clone();
        Ok(SealedLog { len: tail.len, truncated, omitted_lines, omitted_bytes, steps, _ownership })
    }
}

impl Shared {
    async fn note(&self, step: &str, text: &str) -> Result<u64, Error> {
        let line = note(self.clock.now(), step, text);
        let mut tail = self.tail.lock().await;
        if tail.state.truncated {
            if tail.notes_left == 0 {
                return Ok(tail.len);
            }
            tail.notes_left -= 1;
        }
        self.put(&mut tail, line.into()).await?;
        Ok(tail.len)
    }

    /// Appends whole lines, whatever the limit says.
    async fn put(&self, tail: &mut Tail, lines: Bytes) -> Result<ByteRange, Error> {
        let mut start = tail.len;
        let mut end = self.owned.store.append(&self.owned.log, start, lines.clone()).await;
        if let Err(Error::OffsetConflict { actual, .. }) = end
            && actual > start
        {
            // A call that was dropped before it heard the answer has been carried out after all.
            start = actual;
            end = self.owned.store.append(&self.owned.log, start, lines).await;
        }
        tail.len = end?;
        Ok(ByteRange::new(start, tail.len))
    }

    /// Appends the whole lines of a step as far as the limit allows.
    async fn append(
        &self,
        step: &StepName,
        number: usize,
        lines: &mut BytesMut,
    ) -> Result<u64, Error> {
        let mut tail = self.tail.lock().await;
        if lines.is_empty() {
            return Ok(tail.len);
        }
        if tail.state.truncated {
            tail.leave_out(lines);
            lines.clear();
            return Ok(tail.len);
        }
        let room = usize::try_from(self.options.max_log_bytes.saturating_sub(tail.len))
            .unwrap_or(usize::MAX);
        let mut fitting = lines.split();
        let mut left_out = None;
        if fitting.len() > room {
            let end = memchr::memrchr(b'\n', &fitting[..room]).map_or(0, |at| at + 1);
            left_out = Some(fitting.split_off(end));
        }
        if !fitting.is_empty() {
            let lines = fitting.freeze();
            match self.put(&mut tail, lines.clone()).await {
                Ok(range) => tail.extend_step(number, range),
                Err(error) => {
                    tail.leave_out(&lines);
                    return Err(error);
                }
            }
        }
        if let Some(left_out) = left_out {
            tail.state.truncated = true;
            self.truncated.store(true, Ordering::Relaxed);
            tail.leave_out(&left_out);
            let mebibytes = self.options.max_log_bytes / (1024 * 1024);
            let text = format!("[TRUNCATED - log exceeded {mebibytes} MB limit]");
            let marker = note(self.clock.now(), step.as_str(), &text);
            let range = self.put(&mut tail, marker.into()).await?;
            tail.extend_step(number, range);
            // Followers are told, and a successor knows.
            self.owned.store.sync(&self.owned.log, &tail.state).await?;
        }
        Ok(tail.len)
    }
}

impl Tail {
    /// Counts lines that were formatted and are not kept.
    fn leave_out(&mut self, lines: &[u8]) {
        for line in lines.split_inclusive(|&b| b == b'\n') {
            self.state.omitted_lines += 1;
            self.state.omitted_bytes +=
                parse_line(line).map_or(line.len(), |line| line.content.len() + 1) as u64;
        }
    }

    fn extend_step(&mut self, number: usize, lines: ByteRange) {
        let range = &mut self.state.steps[number].range;
        if range.is_empty() {
            range.start = lines.start;
        }
        range.end = lines.end;
    }
}

/// The writing end of one step. Dropped without [`finish`](Self::finish), what its filters hold and what has no line
/// end is not written.
pub struct StepWriter {
    shared: Arc<Shared>,
    name: StepName,
    number: usize,
    streams: [Stream; 2],
    /// What a filter lets through, before it is cut into lines.
    filtered: Vec<u8>,
    /// Whole lines on their way to the store.
    lines: BytesMut,
}

struct Stream {
    filter: Box<dyn StreamFilter>,
    prefix: Prefix,
    /// The beginning of a line whose end has not come: at most [`MAX_LINE_BYTES`].
    partial: Vec<u8>,
    /// Whether the line being written continues one that was written already.
    continued: bool,
    /// When `partial` began; meaningless while it is empty.
    open_since: Instant,
    last_input: Instant,
    /// Whether the filter was told of the silence that lasts.
    told_idle: bool,
}

impl Stream {
    /// Cuts filtered bytes into lines.
    fn encode(&mut self, mut bytes: &[u8], time: &Stamp, lines: &mut BytesMut) {
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.partial.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            let (piece, rest, ends) = match memchr::memchr(b'\n', window) {
                Some(at) => (&bytes[..at], &bytes[at + 1..], true),
                None if bytes.len() > room => (&bytes[..room], &bytes[room..], false),
                None => {
                    if self.partial.is_empty() {
                        self.open_since = Instant::now();
                    }
                    self.partial.extend_from_slice(bytes);
                    return;
                }
            };
            bytes = rest;
            lines.reserve(self.prefix.max_len() + self.partial.len() + piece.len() + 1);
            self.prefix.put(time, self.continued, lines);
            lines.extend_from_slice(&self.partial);
            lines.extend_from_slice(piece);
            lines.put_u8(b'\n');
            self.partial.clear();
            self.continued = !ends;
        }
    }

    /// Gives up what is held and the open line: the log is full.
    fn discard(&mut self, dropped: &mut Vec<u8>) {
        dropped.clear();
        dropped.append(&mut self.partial);
        self.filter.finish(dropped);
    }

    /// Writes the open line as it is; what follows continues it.
    fn flush(&mut self, time: &Stamp, lines: &mut BytesMut) {
        if !self.partial.is_empty() {
            self.prefix.put(time, self.continued, lines);
            lines.extend_from_slice(&self.partial);
            lines.put_u8(b'\n');
            self.partial.clear();
            self.continued = true;
        }
    }
}

impl StepWriter {
    /// Takes what the command wrote to a stream, cut anywhere. Whole lines are in the store when this
    /// returns; the offset below which everything is acknowledged is the result.
    ///
    /// Cancel safety: a dropped call may have lost its bytes; do not drop it.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`], at the write that failed. Its lines are not stored then, and
    /// counted as left out.
    pub async fn write(&mut self, stream: OutputStream, bytes: &[u8]) -> Result<u64, Error> {
        let to = &mut self.streams[index(stream)];
        to.last_input = Instant::now();
        to.told_idle = false;
        if self.shared.truncated.load(Ordering::Relaxed) {
            let mut tail = self.shared.tail.lock().await;
            to.discard(&mut self.filtered);
            for dropped in [&self.filtered[..], bytes] {
                tail.state.omitted_lines += memchr::memchr_iter(b'\n', dropped).count() as u64;
                tail.state.omitted_bytes += dropped.len() as u64;
            }
            return Ok(tail.len);
        }
        let time = Stamp::new(self.shared.clock.now());
        self.filtered.clear();
        to.filter.push(bytes, &mut self.filtered);
        to.encode(&self.filtered, &time, &mut self.lines);
        self.append().await
    }

    /// Says that time has passed: call it about four times a second. A stream that has been silent
    /// for a second has what its filter holds said, and a line that has been open for a second, like
    /// a progress bar, is written as it is.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn idle(&mut self) -> Result<u64, Error> {
        let time = Stamp::new(self.shared.clock.now());
        for stream in &mut self.streams {
            if stream.filter.held() > 0
                && !stream.told_idle
                && stream.last_input.elapsed() >= SILENCE
            {
                stream.told_idle = true;
                self.filtered.clear();
                stream.filter.idle(&mut self.filtered);
                stream.encode(&self.filtered, &time, &mut self.lines);
                // It has waited with the rest of the line.
                stream.flush(&time, &mut self.lines);
            } else if !stream.partial.is_empty() && stream.open_since.elapsed() >= SILENCE {
                stream.flush(&time, &mut self.lines);
            }
        }
        self.append().await
    }

    /// Writes a line of our own about this step: at most 4 KiB, controls made visible.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`].
    pub async fn note(&mut self, text: &str) -> Result<u64, Error> {
        self.shared.note(self.name.as_str(), text).await
    }

    /// Ends the step: everything held is written, and made durable as the options say.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and those of [`LogStore::sync`].
    pub async fn finish(mut self) -> Result<ByteRange, Error> {
        let time = Stamp::new(self.shared.clock.now());
        for stream in &mut self.streams {
            self.filtered.clear();
            stream.filter.finish(&mut self.filtered);
            stream.encode(&self.filtered, &time, &mut self.lines);
            stream.flush(&time, &mut self.lines);
        }
        self.append().await?;
        let mut tail = self.shared.tail.lock().await;
        let len = tail.len;
        let range = &mut tail.state.steps[self.number].range;
        if range.is_empty() {
            *range = ByteRange::new(len, len);
        }
        let range = *range;
        if self.shared.options.durability == Durability::StepEnd {
            self.shared.owned.store.sync(&self.shared.owned.log, &tail.state).await?;
        }
        Ok(range)
    }

    async fn append(&mut self) -> Result<u64, Error> {
        self.shared.append(&self.name, self.number, &mut self.lines).await
    }
}

impl fmt::Debug for StepWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither what filters hold nor open lines: a secret may stand in them.
        f.debug_struct("StepWriter").field("step", &self.name).finish_non_exhaustive()
    }
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests;
