//! What was written and is not stored yet: taken at once, carried to the store by one task, in order.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use danube_core::{ByteRange, StepName};
use tokio::sync::{Notify, oneshot};

use super::{Durability, Keep, Shared, TRUNCATED, extend};
use crate::line::Omitted;
use crate::{Error, LogState, StepRange};

/// How much may wait while the store is busy; whoever writes more waits, too. Many chunks share the way to the disk and
/// back, which costs as much as writing 100 KiB. With what is on its way and what is being put into lines this bounds
/// the memory of one log to some megabytes.
const MAX_QUEUED_BYTES: usize = 768 * 1024;

/// A buffer that a flood of short lines made larger than this is not used again.
const MAX_SPARE_BYTES: usize = 2 * 1024 * 1024;

/// What is told of a batch that nobody knows the fate of.
const DROPPED: &str =
    "its runtime was shut down, or the store panicked, while it was being written";

/// Notes that may follow a truncation: enough to say how the job ended, too few to matter.
pub(super) const NOTES_AFTER_TRUNCATION: u32 = 100;

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Told whenever the store has taken a batch, or refused it.
    taken: Notify,
    /// The same as in `inner`, readable without waiting: what is dropped is not formatted either.
    full: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    /// Where the stored log ends.
    len: u64,
    state: LogState,
    /// Whether the head has reached its limit.
    full: bool,
    /// Whether lines go into the ring behind it.
    in_tail: bool,
    notes_left: u32,
    ended: bool,
    next: Batch,
    /// Whether a task carries batches, and how many bytes of head it has.
    carrying: Option<usize>,
    /// Who waits for the batch on its way.
    waiting: Vec<Waiter>,
    /// Lines that the store refused and that no line in the log tells of yet.
    gap: Option<Gap>,
    /// The end of the head, where the store refused it: said before what comes next.
    closing: Option<Closing>,
    /// What each step's next caller is to be told, where nobody waited when it happened.
    untold: Vec<Option<Error>>,
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Gap {
    omitted: Omitted,
    why: String,
}

/// The head has reached its limit: followers are to be told, and a line says so unless more comes behind it.
#[derive(Debug)]
struct Closing {
    /// Whose line was the first that did not fit, until that step was told that this could not be stored.
    step: Option<usize>,
    /// Empty where the end is kept.
    marker: Vec<u8>,
}

/// Who waits for a batch; a step's own caller, or whoever wrote about the job.
#[derive(Debug)]
struct Waiter {
    step: Option<usize>,
    tell: oneshot::Sender<Result<u64, Error>>,
}

type Answer = oneshot::Receiver<Result<u64, Error>>;

/// What goes to the store at once.
#[derive(Debug, Default)]
struct Batch {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Whose bytes these are, in order.
    parts: Vec<Part>,
    closing: Option<Closing>,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Part {
    step: Option<usize>,
    bytes: u64,
    in_tail: bool,
    /// Whether it counts as left out where the store refuses it. What will be said again does not.
    counts: bool,
}

/// What became of a batch.
struct Stored {
    /// The head's range, as far as it came.
    head: Option<ByteRange>,
    /// Whether its tail is stored.
    tail: bool,
    result: Result<(), Error>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.head.is_empty()
            && self.tail.is_empty()
            && self.closing.is_none()
            && self.waiters.is_empty()
    }

    fn add(&mut self, step: Option<usize>, lines: &[u8], in_tail: bool) {
        if lines.is_empty() {
            return;
        }
        if in_tail { &mut self.tail } else { &mut self.head }.extend_from_slice(lines);
        self.account(step, lines.len(), in_tail);
    }

    fn account(&mut self, step: Option<usize>, bytes: usize, in_tail: bool) {
        let bytes = bytes as u64;
        match self.parts.last_mut() {
            Some(last) if (last.step, last.in_tail, last.counts) == (step, in_tail, true) => {
                last.bytes += bytes;
            }
            _ => self.parts.push(Part { step, bytes, in_tail, counts: step.is_some() }),
        }
    }
}

impl Queue {
    pub(super) fn new(len: u64, state: LogState, in_tail: bool) -> Self {
        let full = state.truncated || in_tail;
        let untold = state.steps.iter().map(|_| None).collect();
        Self {
            inner: Mutex::new(Inner {
                len,
                full,
                in_tail: in_tail || (full && state.keep != Keep::Head && state.fold.is_none()),
                state,
                notes_left: NOTES_AFTER_TRUNCATION,
                ended: false,
                next: Batch::default(),
                carrying: None,
                waiting: Vec::new(),
                gap: None,
                closing: None,
                untold,
                spare: Vec::new(),
            }),
            taken: Notify::new(),
            full: AtomicBool::new(full),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin_step(&self, name: &StepName) -> usize {
        let mut inner = self.lock();
        let at = inner.len;
        inner.state.steps.push(StepRange { name: name.clone(), range: ByteRange::new(at, at) });
        inner.untold.push(None);
        inner.untold.len() - 1
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Whether lines need not be made any more: they are counted and dropped.
    pub(super) fn drops(&self) -> bool {
        let inner = self.is_truncated().then(|| self.lock());
        inner.is_some_and(|inner| !inner.in_tail && !inner.ended)
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.lock().len
    }

    /// Counts output that was never put into lines.
    pub(super) fn leave_out(&self, output: &[u8]) -> u64 {
        let mut inner = self.lock();
        inner.state.omitted_lines += memchr::memchr_iter(b'\n', output).count() as u64;
        inner.state.omitted_bytes += output.len() as u64;
        inner.len
    }

    /// Nothing is taken any more.
    pub(super) fn close(&self) {
        self.lock().ended = true;
    }

    /// Where the log ends, and its state.
    pub(super) fn end(&self) -> (u64, LogState) {
        let inner = self.lock();
        let mut state = inner.state.clone();
        state.truncated |= state.omitted_lines > 0;
        (inner.len, state)
    }

    /// The state and a step's range, whose lines are all stored.
    pub(super) fn end_step(&self, number: usize) -> (LogState, ByteRange) {
        let mut inner = self.lock();
        let len = inner.len;
        let range = &mut inner.state.steps[number].range;
        if range.is_empty() {
            *range = ByteRange::new(len, len);
        }
        let range = *range;
        (inner.state.clone(), range)
    }
}

impl Shared {
    /// Waits until there is room.
    pub(super) async fn room(self: &Arc<Self>) {
        loop {
            let taken = self.queue.taken.notified();
            {
                let inner = self.queue.lock();
                if inner.next.head.len() + inner.next.tail.len() < MAX_QUEUED_BYTES {
                    return;
                }
                self.carry(inner);
            }
            taken.await;
        }
    }

    /// Takes whole lines of a step, as far as the limit allows; `lines` is empty afterwards. Returns what is
    /// acknowledged so far. An error is that of an earlier call that did not wait.
    pub(super) fn feed(self: &Arc<Self>, number: usize, lines: &mut Vec<u8>) -> Result<u64, Error> {
        let mut inner = self.queue.lock();
        self.take(&mut inner, number, lines);
        lines.clear();
        let untold = match inner.ended {
            true => Some(Error::Sealed { log: self.owned.log.clone() }),
            false => inner.untold[number].take(),
        };
        let len = inner.len;
        self.carry(inner);
        untold.map_or(Ok(len), Err)
    }

    fn take(&self, inner: &mut Inner, number: usize, lines: &mut Vec<u8>) {
        if lines.is_empty() || inner.ended {
            return;
        }
        let format = self.options.format;
        if !inner.full {
            let predicted =
                inner.len + (inner.carrying.unwrap_or(0) + inner.next.head.len()) as u64;
            let most = match inner.state.fold {
                None => self.options.head_bytes(),
                Some(_) => self.options.max_log_bytes,
            };
            let room = usize::try_from(most.saturating_sub(predicted)).unwrap_or(usize::MAX);
            if lines.len() <= room {
                if inner.next.head.is_empty() {
                    std::mem::swap(&mut inner.next.head, lines);
                    let bytes = inner.next.head.len();
                    inner.next.account(Some(number), bytes, false);
                } else {
                    inner.next.add(Some(number), lines, false);
                }
                return;
            }
            let end = memchr::memrchr(b'\n', &lines[..room]).map_or(0, |at| at + 1);
            inner.next.add(Some(number), &lines[..end], false);
            lines.drain(..end);
            inner.full = true;
            inner.state.truncated = true;
            self.queue.full.store(true, Ordering::Relaxed);
            // An end that was put behind the head once stays the end.
            inner.in_tail = self.options.keep != Keep::Head && inner.state.fold.is_none();
            let mut closing = Closing { step: Some(number), marker: Vec::new() };
            if !inner.in_tail {
                let mebibytes = self.options.max_log_bytes / (1024 * 1024);
                let text = format!("{TRUNCATED}{mebibytes} MB limit]");
                let step = inner.state.steps[number].name.clone();
                closing.marker = format.note(self.clock.now(), step.as_str(), &text);
                inner.next.head.extend_from_slice(&closing.marker);
                inner.next.parts.push(closing.part());
            }
            inner.next.closing = Some(closing);
        }
        if inner.in_tail {
            inner.next.add(Some(number), lines, true);
        } else {
            inner.leave_out(format.count(lines));
        }
    }

    /// Writes a line of ours, whatever the limit says.
    pub(super) async fn note(
        self: &Arc<Self>,
        step: Option<usize>,
        name: &str,
        text: &str,
    ) -> Result<u64, Error> {
        let line = self.options.format.note(self.clock.now(), name, text);
        let answer = {
            let mut inner = self.queue.lock();
            if inner.ended {
                return Err(Error::Sealed { log: self.owned.log.clone() });
            }
            let in_tail = inner.in_tail;
            if inner.full && !in_tail {
                if inner.notes_left == 0 {
                    return Ok(inner.len);
                }
                inner.notes_left -= 1;
            }
            inner.next.add(step, &line, in_tail);
            let answer = inner.wait_for_next(step);
            self.carry(inner);
            answer
        };
        self.told(answer).await
    }

    /// Waits until what a step wrote is stored.
    pub(super) async fn flush(self: &Arc<Self>, number: usize) -> Result<u64, Error> {
        let answer = {
            let mut inner = self.queue.lock();
            if let Some(error) = inner.untold[number].take() {
                return Err(error);
            }
            match inner.wait(Some(number)) {
                Some(answer) => {
                    self.carry(inner);
                    answer
                }
                None => return Ok(inner.len),
            }
        };
        let len = self.told(answer).await?;
        // What was on its way before it may have failed.
        self.queue.lock().untold[number].take().map_or(Ok(len), Err)
    }

    /// Waits until everything was carried, and tries once more to say what could not be.
    pub(super) async fn end_queue(self: &Arc<Self>) {
        let mut tried = false;
        loop {
            let answer = {
                let mut inner = self.queue.lock();
                let answer = match inner.wait(None) {
                    Some(answer) => answer,
                    None if (inner.gap.is_some() || inner.closing.is_some()) && !tried => {
                        tried = true;
                        inner.wait_for_next(None)
                    }
                    None => return,
                };
                self.carry(inner);
                answer
            };
            let _ = self.told(answer).await;
        }
    }

    async fn told(&self, answer: Answer) -> Result<u64, Error> {
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.refused(io::Error::other(DROPPED))),
        }
    }

    fn refused(&self, source: io::Error) -> Error {
        Error::Io { log: self.owned.log.clone(), operation: "write", source }
    }

    /// Starts the task that carries batches, where none runs.
    fn carry(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        if inner.carrying.is_none() && !inner.next.is_empty() {
            inner.carrying = Some(0);
            // A runtime that shuts down drops the task here and now, and that looks into the queue.
            drop(inner);
            tokio::spawn(Carrier { shared: self.clone(), is_done: false, steps: Vec::new() }.run());
        }
    }
}

/// The task that carries batches to the store, one after the other, until there is none.
struct Carrier {
    shared: Arc<Shared>,
    /// Whether it has ended by itself. What the queue says of a carrier is then of the next one.
    is_done: bool,
    /// Whose lines are in the batch on its way.
    steps: Vec<usize>,
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // A runtime that shuts down drops it on its way, or the store has panicked: whoever waits is told, who did
        // not wait hears of it at the next call, and the next one to wait starts another.
        if !self.is_done {
            let mut inner = self.shared.queue.lock();
            inner.carrying = None;
            for step in std::mem::take(&mut self.steps) {
                if inner.waiting.iter().all(|waiter| waiter.step != Some(step)) {
                    inner.untold[step] = Some(self.shared.refused(io::Error::other(DROPPED)));
                }
            }
            inner.waiting.clear();
            inner.next.waiters.clear();
            drop(inner);
            self.shared.queue.taken.notify_waiters();
        }
    }
}

impl Carrier {
    async fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            let (batch, at) = {
                let mut inner = shared.queue.lock();
                let spare = std::mem::take(&mut inner.spare);
                let next = Batch { head: spare, ..Batch::default() };
                let mut batch = std::mem::replace(&mut inner.next, next);
                inner.waiting = std::mem::take(&mut batch.waiters);
                if let Some(closing) = inner.closing.take() {
                    batch.say_first(&closing.marker, closing.part());
                    batch.closing = Some(closing);
                }
                if let Some(gap) = &inner.gap {
                    let line = shared.options.format.note(shared.clock.now(), "danube", &gap.say());
                    let in_tail = inner.in_tail && batch.head.is_empty();
                    let bytes = line.len() as u64;
                    batch.say_first(&line, Part { step: None, bytes, in_tail, counts: false });
                }
                inner.carrying = Some(batch.head.len());
                (batch, inner.len)
            };
            self.steps = batch.parts.iter().filter_map(|part| part.step).collect();
            // There is room from now on, not only when the store is done with this.
            shared.queue.taken.notify_waiters();
            let Batch { head, tail, parts, closing, .. } = batch;
            let (head, tail) = (Bytes::from(head), Bytes::from(tail));
            let stored = self.store(at, &head, &tail, closing.is_some()).await;
            let mut inner = shared.queue.lock();
            inner.closing = closing.filter(|_| stored.result.is_err()).map(|closing| {
                let marker = if stored.head.is_some() { Vec::new() } else { closing.marker };
                Closing { step: None, marker }
            });
            inner.settle(stored, &parts, &head, &tail, &shared);
            // Decided in the same moment as the answers are given: who asks later finds a task that
            // will answer, or none.
            self.is_done = inner.next.is_empty();
            inner.carrying = (!self.is_done).then_some(0);
            if inner.spare.capacity() == 0
                && let Ok(used) = head.try_into_mut()
                && used.capacity() <= MAX_SPARE_BYTES
            {
                inner.spare = used.into();
                inner.spare.clear();
            }
            if self.is_done {
                return;
            }
        }
    }

    /// Stores a batch.
    async fn store(&self, at: u64, head: &Bytes, tail: &Bytes, closes_head: bool) -> Stored {
        let shared = &self.shared;
        let (store, log) = (&shared.owned.store, &shared.owned.log);
        let mut range = ByteRange::new(at, at);
        if !head.is_empty() {
            range = match self.append(at, head).await {
                Ok(range) => range,
                Err(error) => return Stored { head: None, tail: false, result: Err(error) },
            };
        }
        let mut tail_stored = false;
        let rest = async {
            if closes_head {
                // Followers are told, and a successor knows.
                let state = shared.queue.lock().state.clone();
                store.sync(log, &state).await?;
            }
            if !tail.is_empty()
                && let Keep::HeadAndTail { tail_bytes } = shared.options.keep
            {
                let output = shared.options.format.count(tail).output;
                store.append_tail(log, tail.clone(), output, tail_bytes).await?;
            }
            tail_stored = true;
            if shared.options.durability == Durability::Write {
                let state = shared.queue.lock().state.clone();
                store.sync(log, &state).await?;
            }
            Ok(())
        };
        let result = rest.await;
        Stored { head: Some(range), tail: tail_stored, result }
    }

    async fn append(&self, at: u64, lines: &Bytes) -> Result<ByteRange, Error> {
        let (store, log) = (&self.shared.owned.store, &self.shared.owned.log);
        let mut start = at;
        let mut end = store.append(log, at, lines.clone()).await;
        if let Err(Error::OffsetConflict { actual, .. }) = end
            && actual > at
        {
            // An append whose answer was lost with its runtime has been carried out after all.
            start = actual;
            end = store.append(log, start, lines.clone()).await;
        }
        Ok(ByteRange::new(start, end?))
    }
}

impl Gap {
    fn say(&self) -> String {
        let Omitted { lines, output } = self.omitted;
        format!("[… {lines} lines, {output} bytes are missing here: {} …]", self.why)
    }
}

impl Batch {
    fn say_first(&mut self, line: &[u8], part: Part) {
        if part.in_tail { &mut self.tail } else { &mut self.head }
            .splice(..0, line.iter().copied());
        self.parts.insert(0, part);
    }
}

impl Closing {
    /// Not to be counted: it is said again where it could not be stored.
    fn part(&self) -> Part {
        let bytes = self.marker.len() as u64;
        Part { step: self.step, bytes, in_tail: false, counts: false }
    }
}

impl Inner {
    fn leave_out(&mut self, omitted: Omitted) {
        self.state.omitted_lines += omitted.lines;
        self.state.omitted_bytes += omitted.output;
    }

    /// The answer for everything that was taken until now; `None` when all of it is stored.
    fn wait(&mut self, step: Option<usize>) -> Option<Answer> {
        if !self.next.is_empty() {
            return Some(self.wait_for_next(step));
        }
        self.carrying?;
        let (tell, answer) = oneshot::channel();
        self.waiting.push(Waiter { step, tell });
        Some(answer)
    }

    fn wait_for_next(&mut self, step: Option<usize>) -> Answer {
        let (tell, answer) = oneshot::channel();
        self.next.waiters.push(Waiter { step, tell });
        answer
    }

    /// What became of a batch.
    fn settle(
        &mut self,
        Stored { head: head_range, tail: tail_stored, result }: Stored,
        parts: &[Part],
        head: &[u8],
        tail: &[u8],
        shared: &Shared,
    ) {
        if let Some(range) = head_range {
            self.len = range.end;
            let mut at = range.start;
            for part in parts.iter().filter(|part| !part.in_tail && part.bytes > 0) {
                let range = ByteRange::with_len(at, part.bytes);
                at = range.end;
                if let Some(step) = part.step {
                    extend(&mut self.state.steps[step].range, range);
                }
            }
        }
        if head_range.is_some() && (!head.is_empty() || tail_stored) {
            self.gap = None;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let Err(error) = result else {
            for waiter in waiting {
                let _ = waiter.tell.send(Ok(self.len));
            }
            return;
        };
        let mut lost = Omitted::default();
        let (mut head, mut tail) = (head, tail);
        for part in parts {
            let from = if part.in_tail { &mut tail } else { &mut head };
            let (lines, rest) = from.split_at(usize::try_from(part.bytes).unwrap_or(0));
            *from = rest;
            let is_stored = if part.in_tail { tail_stored } else { head_range.is_some() };
            if part.counts && !is_stored {
                lost += shared.options.format.count(lines);
            }
        }
        if lost.lines > 0 {
            self.leave_out(lost);
            let gap = self
                .gap
                .get_or_insert_with(|| Gap { omitted: Omitted::default(), why: String::new() });
            gap.omitted += lost;
            gap.why = match &error {
                Error::Io { source, .. } => source.to_string(),
                other => other.to_string(),
            };
        }
        let mut told = Vec::new();
        for Waiter { step, tell } in waiting {
            // A step that has nothing in it has lost nothing.
            if step.is_some() && parts.iter().all(|part| part.step != step) {
                let _ = tell.send(Ok(self.len));
            } else if tell.send(Err(error.share())).is_ok() {
                told.push(step);
            }
        }
        // Who wrote and did not wait hears of it at the next call.
        for step in parts.iter().filter_map(|part| part.step) {
            if !told.contains(&Some(step)) {
                self.untold[step] = Some(error.share());
            }
        }
    }
}
