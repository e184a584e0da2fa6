//! Writing a log: streams in any chunks become whole lines, within a limit.

mod fold;
mod queue;
mod step;

use std::sync::Arc;

use danube_core::{ByteRange, Clock, JobId, StepName, StreamFilter};
use serde::{Deserialize, Serialize};

use self::queue::Queue;
pub use self::step::StepWriter;
use crate::{Error, LineFormat, LineSource, LogState, LogStore, MAX_LINE_BYTES, StepRange};

/// What a log keeps by default: 50 MiB.
pub const DEFAULT_MAX_LOG_BYTES: u64 = 50 * 1024 * 1024;

/// The most of a log's end that [`Keep::HeadAndTail`] can keep: when the log is sealed up to three times as much is held in
/// memory for a moment.
pub const MAX_TAIL_BYTES: u64 = 16 * 1024 * 1024;

/// How the line begins that ends a log which reached its limit.
const TRUNCATED: &str = "[TRUNCATED - log exceeded ";

/// When what was acknowledged also survives the death of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// At the end of each step, and at the seal.
    #[default]
    StepEnd,
    /// At the seal alone.
    Seal,
    /// At each acknowledgement. What is written meanwhile shares the next one, so many small writes cost
    /// few of them; a single writer still waits for the disk each time.
    Write,
}

/// What is kept of a log that is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Keep {
    /// Its beginning: whole lines up to the limit, then a line that says so. What follows is counted and
    /// dropped.
    #[default]
    Head,
    /// Its beginning and its end. What is written beyond the head goes into a ring beside the log, and when the
    /// log is sealed (or recovered) its newest whole lines, at most `tail_bytes`, follow a line that says how many
    /// lines and bytes are missing. Until then readers see the head alone, and
    /// [`FollowEvent::Truncated`](crate::FollowEvent::Truncated). The limit holds for both together. The range of a
    /// step reaches into the end where the lines name their steps ([`LineFormat::names_steps`]).
    HeadAndTail {
        /// Bytes of the end: at least 1, less than the limit, at most [`MAX_TAIL_BYTES`].
        tail_bytes: u64,
    },
}

/// How a log is written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LogOptions {
    /// The most that is kept, in bytes of the stored log; at least 1. Default [`DEFAULT_MAX_LOG_BYTES`]. Lines of
    /// our own (a truncation, a gap, at most 100 notes behind a truncation) may stand beyond it.
    pub max_log_bytes: u64,
    /// What of a longer log.
    pub keep: Keep,
    /// How its lines look.
    pub format: LineFormat,
    /// When it is made durable.
    pub durability: Durability,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            max_log_bytes: DEFAULT_MAX_LOG_BYTES,
            keep: Keep::default(),
            format: LineFormat::default(),
            durability: Durability::default(),
        }
    }
}

impl LogOptions {
    /// Sets [`max_log_bytes`](Self::max_log_bytes).
    #[must_use]
    pub fn with_max_log_bytes(mut self, bytes: u64) -> Self {
        self.max_log_bytes = bytes;
        self
    }

    /// Sets [`keep`](Self::keep).
    #[must_use]
    pub fn with_keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Sets [`format`](Self::format).
    #[must_use]
    pub fn with_format(mut self, format: LineFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Whether these limits make sense, as [`LogWriter::create`] asks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what does not.
    pub fn check(&self) -> Result<(), Error> {
        let reason = match self.keep {
            _ if self.max_log_bytes == 0 => "a log must be allowed at least one byte".into(),
            Keep::HeadAndTail { tail_bytes }
                if !(1..=MAX_TAIL_BYTES).contains(&tail_bytes)
                    || tail_bytes >= self.max_log_bytes =>
            {
                format!(
                    "the end of a log must be allowed at least 1 byte, at most {MAX_TAIL_BYTES}, and less than the \
                     whole ({}); it is {tail_bytes}",
                    self.max_log_bytes
                )
            }
            Keep::Head | Keep::HeadAndTail { .. } => return Ok(()),
        };
        Err(Error::Invalid { reason })
    }

    /// The most that stands before the marker.
    fn head_bytes(&self) -> u64 {
        match self.keep {
            Keep::Head => self.max_log_bytes,
            Keep::HeadAndTail { tail_bytes } => self.max_log_bytes.saturating_sub(tail_bytes),
        }
    }
}

/// The writing end of one log. Several steps may write at once; their lines never mix.
///
/// The writer owns the log: dropped without [`seal`](Self::seal), with its steps, it leaves the log to
/// whoever recovers it. What was written is carried to the store by a task of its own, so it needs a Tokio
/// runtime, and a caller that goes away loses nothing that it wrote.
///
/// A command never waits for a log that is full: what is beyond its limit is kept as
/// [`LogOptions::keep`] says, or counted and dropped. After a write that the store refused the log goes on, and a
/// line says how many lines are missing where they would stand.
#[derive(Debug)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    owned: Arc<Ownership>,
    clock: Arc<dyn Clock>,
    options: LogOptions,
    queue: Queue,
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
    /// Opens a log for writing: a new one, or one whose owner died. That one goes on where it ends, in the
    /// format in which it began: a line that was cut off is closed and a line behind it says so, an end that was
    /// kept beside it is folded in first where its owner had begun to.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for limits that make no sense, and those of [`LogStore::open`], [`LogStore::read`] and
    /// [`LogStore::append`].
    pub async fn create(
        store: Arc<dyn LogStore>,
        log: JobId,
        clock: Arc<dyn Clock>,
        mut options: LogOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        let stat = store.open(&log).await?;
        let owned = Arc::new(Ownership { store, log });
        let (mut state, mut len, mut in_tail) = (LogState::clone(&stat.state), stat.len, false);
        // One whose first line was too long for its head has all of it in the ring.
        if stat.len > 0 || state != LogState::default() {
            (options.format, options.keep) = (state.format, state.keep);
            if let Some(tail) = owned.store.tail(&owned.log).await? {
                match &state.fold {
                    // Its owner died while it put the end behind the head.
                    Some(fold) => len = owned.fold(len, fold, &tail).await?,
                    None => in_tail = true,
                }
            }
            len = owned.close_torn_line(len, &options, clock.as_ref()).await?;
            // Its owner may have died between the marker and the state.
            state.truncated |=
                options.keep == Keep::Head && owned.ends_truncated(len, &state).await?;
            if options.format.names_steps() {
                owned.find_steps(len, &mut state).await?;
            }
        } else {
            (state.format, state.keep) = (options.format, options.keep);
            if (state.format, state.keep) != Default::default() {
                // Readers and successors are told; what they take for granted needs no word.
                owned.store.sync(&owned.log, &state).await?;
            }
        }
        let queue = Queue::new(len, state, in_tail);
        Ok(Self(Arc::new(Shared { owned, clock, options, queue })))
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
        let number = self.0.queue.begin_step(&name);
        Ok(StepWriter::new(self.0.clone(), name, number, [stdout, stderr]))
    }

    /// Writes a line of our own about the job: at most 4 KiB, controls made visible. Returns the offset below
    /// which everything is acknowledged.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`].
    pub async fn note(&self, text: &str) -> Result<u64, Error> {
        self.0.note(None, "danube", text).await
    }

    /// Whether the limit was reached.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.0.queue.is_truncated()
    }

    /// Where the stored log ends: everything below it is acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.0.queue.acknowledged()
    }

    /// Ends the log: what was written is stored, an end that was kept beside it put behind its head. Steps
    /// still open cannot write any more.
    ///
    /// # Errors
    ///
    /// Those of [`LogStore::append`], [`LogStore::sync`] and [`LogStore::seal`]: the log is then not sealed, and may
    /// be recovered. A write that failed before was told to its writer, and does not keep the log from being
    /// sealed.
    pub async fn seal(self) -> Result<SealedLog, Error> {
        let shared = &self.0;
        shared.queue.close();
        shared.end_queue().await;
        let (mut len, mut state) = shared.queue.end();
        let Ownership { store, log } = &*shared.owned;
        if state.fold.is_none()
            && let Some(tail) = store.tail(log).await?
        {
            len = shared.fold_in(len, &mut state, &tail).await?;
        }
        state.sealed_at = Some(shared.clock.now());
        store.seal(log, &state).await?;
        let LogState { truncated, omitted_lines, omitted_bytes, steps, .. } = state;
        let _ownership = shared.owned.clone();
        Ok(SealedLog { len, truncated, omitted_lines, omitted_bytes, steps, _ownership })
    }
}

impl Ownership {
    /// Closes a line that a dying owner began, and says so.
    async fn close_torn_line(
        &self,
        len: u64,
        options: &LogOptions,
        clock: &dyn Clock,
    ) -> Result<u64, Error> {
        let last = ByteRange::new(len.saturating_sub(1), len);
        if len == 0 || self.store.read(&self.log, last).await?.first() == Some(&b'\n') {
            return Ok(len);
        }
        let mut end = vec![b'\n'];
        let text = "[the line above was cut off: whoever wrote this log died]";
        end.extend_from_slice(&options.format.note(clock.now(), "danube", text));
        self.store.append(&self.log, len, end.into()).await
    }

    /// Whether the last line is the marker of a log that reached its limit.
    async fn ends_truncated(&self, len: u64, state: &LogState) -> Result<bool, Error> {
        // Longer than a marker with the longest step name.
        const MOST: u64 = 1024;
        let end = self.store.read(&self.log, ByteRange::new(len.saturating_sub(MOST), len)).await?;
        let last = end.split_inclusive(|&b| b == b'\n').next_back().unwrap_or_default();
        Ok(state.format.parse(last).is_some_and(|line| {
            matches!(line.source, LineSource::Danube | LineSource::Unknown)
                && line.content.starts_with(TRUNCATED.as_bytes())
                && line.content.ends_with(b" MB limit]")
        }))
    }

    /// The ranges of the steps as the lines tell them: a dead owner wrote them down at the last
    /// [`sync`](LogStore::sync) at best.
    async fn find_steps(&self, len: u64, state: &mut LogState) -> Result<(), Error> {
        // Longer than a line with its brackets can be.
        const MOST: usize = MAX_LINE_BYTES + 4096;
        let mut at = state.steps.iter().map(|step| step.range.end).max().unwrap_or(0);
        let mut rest = Vec::new();
        while at + (rest.len() as u64) < len {
            let from = at + rest.len() as u64;
            let block = self.store.read(&self.log, ByteRange::new(from, len)).await?;
            if block.is_empty() {
                break;
            }
            rest.extend_from_slice(&block);
            let whole = memchr::memrchr(b'\n', &rest).map_or(0, |at| at + 1);
            attribute(&rest[..whole], at, state);
            at += whole as u64;
            rest.drain(..whole);
            if rest.len() > MOST {
                // Somebody else's line: it belongs to no step.
                at += rest.len() as u64;
                rest.clear();
            }
        }
        Ok(())
    }
}

/// Extends the steps that these lines name; the last one of a name, where there are several.
fn attribute(lines: &[u8], mut at: u64, state: &mut LogState) {
    for line in lines.split_inclusive(|&b| b == b'\n') {
        let range = ByteRange::with_len(at, line.len() as u64);
        at = range.end;
        let Some(parsed) = state.format.parse(line) else { continue };
        if parsed.source == LineSource::Danube && parsed.step == "danube" {
            continue;
        }
        let known = state.steps.iter().rposition(|step| step.name.as_str() == parsed.step);
        let number = match (known, parsed.step.parse()) {
            (Some(number), _) => number,
            (None, Ok(name)) => {
                state
                    .steps
                    .push(StepRange { name, range: ByteRange::new(range.start, range.start) });
                state.steps.len() - 1
            }
            (None, Err(_)) => continue,
        };
        extend(&mut state.steps[number].range, range);
    }
}

fn extend(step: &mut ByteRange, lines: ByteRange) {
    if step.is_empty() {
        step.start = lines.start;
    }
    step.end = lines.end;
}

#[cfg(test)]
mod tests;
