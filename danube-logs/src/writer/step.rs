//! One step's streams: what its command writes, in any chunks, as lines.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use danube_core::{ByteRange, OutputStream, StepName, StreamFilter};
use tokio::time::Instant;

use super::{Durability, Shared};
use crate::Error;
use crate::line::{MAX_LINE_BYTES, Prefix, Stamped};

/// A stream that is silent for so long has what its filter holds said; a line that is open for so
/// long is written as it is.
const SILENCE: Duration = Duration::from_secs(1);

/// How much is put into lines at once: the lock of a stream is held meanwhile, and memory stays bounded
/// whatever a caller brings.
const PIECE_BYTES: usize = 64 * 1024;

/// A piece with more lines than this is cut shorter: what stands in front of a line can be a hundred times as long as
/// the line.
const PIECE_LINES: usize = 8 * 1024;

/// How much of these bytes is put into lines at once.
fn piece(bytes: &[u8]) -> usize {
    let most = bytes.len().min(PIECE_BYTES);
    match memchr::memchr_iter(b'\n', &bytes[..most]).count() {
        0..=PIECE_LINES => most,
        _ => most.min(PIECE_LINES),
    }
}

/// The writing end of one step. Clones write the same step, each stream in the order of their calls.
/// When the last one is dropped without [`finish`](Self::finish), what the filters hold and what has no line end is
/// not written.
#[derive(Clone)]
pub struct StepWriter(Arc<Step>);

struct Step {
    shared: Arc<Shared>,
    name: StepName,
    number: usize,
    streams: [Mutex<Stream>; 2],
    finished: AtomicBool,
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
    /// What the filter lets through, before it is cut into lines.
    filtered: Vec<u8>,
    /// Whole lines on their way to the queue.
    lines: Vec<u8>,
}

impl Stream {
    /// Cuts filtered bytes into lines.
    fn encode(&mut self, prefix: &Stamped) {
        let Self { partial, continued, filtered, lines, .. } = self;
        let mut bytes = &filtered[..];
        // Most lines are longer than what stands in front of them.
        lines.reserve(2 * bytes.len());
        while !bytes.is_empty() {
            if partial.is_empty() && !*continued {
                while let Some(at) =
                    memchr::memchr(b'\n', &bytes[..bytes.len().min(MAX_LINE_BYTES + 1)])
                {
                    prefix.put(false, lines);
                    lines.extend_from_slice(&bytes[..=at]);
                    bytes = &bytes[at + 1..];
                }
            }
            bytes = &bytes[Self::end_line(partial, continued, bytes, prefix, lines)..];
        }
        filtered.clear();
    }

    /// Takes one line's rest, or as much of it as a line may carry, or everything where neither is there.
    /// Returns how much it took.
    fn end_line(
        partial: &mut Vec<u8>,
        continued: &mut bool,
        bytes: &[u8],
        prefix: &Stamped,
        lines: &mut Vec<u8>,
    ) -> usize {
        let room = MAX_LINE_BYTES - partial.len();
        let (piece, taken, ends) = match memchr::memchr(b'\n', &bytes[..bytes.len().min(room + 1)])
        {
            Some(at) => (&bytes[..at], at + 1, true),
            None if bytes.len() > room => (&bytes[..room], room, false),
            None => {
                partial.extend_from_slice(bytes);
                return bytes.len();
            }
        };
        prefix.put(*continued, lines);
        lines.extend_from_slice(partial);
        lines.extend_from_slice(piece);
        lines.push(b'\n');
        partial.clear();
        *continued = !ends;
        taken
    }

    /// Writes the open line as it is; what follows continues it.
    fn flush(&mut self, prefix: &Stamped) {
        if !self.partial.is_empty() {
            prefix.put(self.continued, &mut self.lines);
            self.lines.append(&mut self.partial);
            self.lines.push(b'\n');
            self.continued = true;
        }
    }

    fn push(&mut self, bytes: &[u8], prefix: &Stamped) {
        self.last_input = Instant::now();
        self.told_idle = false;
        if self.partial.is_empty() {
            self.open_since = self.last_input;
        }
        let lines = self.lines.len();
        self.filter.push(bytes, &mut self.filtered);
        self.encode(prefix);
        if self.lines.len() > lines {
            self.open_since = self.last_input;
        }
    }

    /// Time has passed.
    fn idle(&mut self, prefix: &Stamped) {
        if self.filter.held() > 0 && !self.told_idle && self.last_input.elapsed() >= SILENCE {
            self.told_idle = true;
            self.filter.idle(&mut self.filtered);
            self.encode(prefix);
            // It has waited with the rest of the line.
            self.flush(prefix);
        } else if !self.partial.is_empty() && self.open_since.elapsed() >= SILENCE {
            self.flush(prefix);
        }
    }

    fn finish(&mut self, prefix: &Stamped) {
        self.filter.finish(&mut self.filtered);
        self.encode(prefix);
        self.flush(prefix);
    }

    /// Gives up what is held and the open line: the log is full.
    fn discard(&mut self) -> Vec<u8> {
        let mut dropped = std::mem::take(&mut self.partial);
        self.filter.finish(&mut dropped);
        dropped
    }
}

impl StepWriter {
    pub(super) fn new(
        shared: Arc<Shared>,
        name: StepName,
        number: usize,
        filters: [Box<dyn StreamFilter>; 2],
    ) -> Self {
        let mut outputs = [OutputStream::Stdout, OutputStream::Stderr].into_iter();
        let streams = filters.map(|filter| {
            let output = outputs.next().unwrap_or(OutputStream::Stderr);
            Mutex::new(Stream {
                filter,
                prefix: Prefix::new(shared.options.format, &name, output),
                partial: Vec::new(),
                continued: false,
                open_since: Instant::now(),
                last_input: Instant::now(),
                told_idle: false,
                filtered: Vec::new(),
                lines: Vec::new(),
            })
        });
        Self(Arc::new(Step { shared, name, number, streams, finished: AtomicBool::new(false) }))
    }

    /// Takes what the command wrote to a stream, cut anywhere, and waits until its whole lines are in the
    /// store. Returns the offset below which everything is acknowledged.
    ///
    /// Cancel safety: what a dropped call has taken is written all the same; of more than 64 KiB it may have taken
    /// a part.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`](crate::LogStore::append), at the write that failed. Its lines are not stored then,
    /// and counted as left out. [`Error::Sealed`] when the log has ended, [`Error::Invalid`] when the step has.
    pub async fn write(&self, stream: OutputStream, bytes: &[u8]) -> Result<u64, Error> {
        self.feed(stream, bytes).await?;
        self.flush().await
    }

    /// Takes what the command wrote, as [`write`](Self::write) does, and does not wait for the store but where it is
    /// behind by 768 KiB: so the next chunk is read, redacted and cut into lines while the one before is being
    /// written. No timer is involved; the lines are on their way when this returns.
    ///
    /// The offset that it returns is what is acknowledged so far. [`flush`](Self::flush) waits for the rest.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), but at the next call of this step: the lines of an earlier one were not stored.
    pub async fn feed(&self, stream: OutputStream, bytes: &[u8]) -> Result<u64, Error> {
        let Step { shared, number, .. } = &*self.0;
        self.check_open()?;
        let mut told = Ok(());
        let mut acknowledged = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece(rest));
            rest = after;
            shared.room().await;
            let mut to = self.stream(stream);
            // Under the lock: what is taken now is still ended by `finish`.
            self.check_open()?;
            let fed = if shared.queue.drops() {
                to.last_input = Instant::now();
                to.told_idle = false;
                shared.queue.leave_out(&to.discard());
                Ok(shared.queue.leave_out(piece))
            } else {
                let prefix = to.prefix.at(shared.clock.now());
                to.push(piece, &prefix);
                shared.feed(*number, &mut to.lines)
            };
            match fed {
                Ok(len) => acknowledged = len,
                Err(error) => told = Err(error),
            }
        }
        if bytes.is_empty() {
            acknowledged = shared.queue.acknowledged();
        }
        told.map(|()| acknowledged)
    }

    /// Waits until everything that was fed is stored. Returns the offset below which everything is acknowledged.
    ///
    /// Cancel safety: may be dropped at any time.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`](crate::LogStore::append): some lines of this step were not stored.
    pub async fn flush(&self) -> Result<u64, Error> {
        self.0.shared.flush(self.0.number).await
    }

    /// Says that time has passed: call it about four times a second. A stream that has been silent
    /// for a second has what its filter holds said, and a line that has been open for a second, like
    /// a progress bar, is written as it is.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn idle(&self) -> Result<u64, Error> {
        self.each_stream(Stream::idle)?;
        self.flush().await
    }

    /// Writes a line of our own about this step: at most 4 KiB, controls made visible.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`](crate::LogStore::append).
    pub async fn note(&self, text: &str) -> Result<u64, Error> {
        self.0.shared.note(Some(self.0.number), self.0.name.as_str(), text).await
    }

    /// Ends the step: everything held is written, and made durable as the options say. Other clones cannot
    /// write any more.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and those of [`LogStore::sync`](crate::LogStore::sync).
    pub async fn finish(self) -> Result<ByteRange, Error> {
        let Step { shared, number, .. } = &*self.0;
        self.0.finished.store(true, Ordering::Relaxed);
        let told = self.each_stream(Stream::finish);
        let flushed = self.flush().await;
        told.and(flushed.map(drop))?;
        let (state, range) = shared.queue.end_step(*number);
        if shared.options.durability != Durability::Seal {
            shared.owned.store.sync(&shared.owned.log, &state).await?;
        }
        Ok(range)
    }

    fn each_stream(&self, change: fn(&mut Stream, &Stamped)) -> Result<(), Error> {
        let Step { shared, number, streams, .. } = &*self.0;
        let mut told = Ok(());
        for stream in streams {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            let prefix = stream.prefix.at(shared.clock.now());
            change(&mut stream, &prefix);
            // What is said of one stream's past does not keep the other's lines back.
            told = told.and(shared.feed(*number, &mut stream.lines).map(drop));
        }
        told
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.0.finished.load(Ordering::Relaxed) {
            return Err(Error::Invalid {
                reason: format!("step {} has finished: nothing can be written to it", self.0.name),
            });
        }
        Ok(())
    }

    fn stream(&self, stream: OutputStream) -> MutexGuard<'_, Stream> {
        let [stdout, stderr] = &self.0.streams;
        let found = match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        };
        found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StepWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither what filters hold nor open lines: a secret may stand in them.
        f.debug_struct("StepWriter").field("step", &self.0.name).finish_non_exhaustive()
    }
}
