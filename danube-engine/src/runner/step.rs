//! One step: from its command to what is recorded of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use danube_core::{JobState, LostReason};
use danube_exec::{ExecControl, ExecEvent, ExecSession, ExitStatus, Signal};
use danube_logs::{LogWriter, StepWriter};
use danube_store::StepRecord;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::Run;
use super::stop::StopReason;
use super::verdict::Verdict;
use crate::StepSpec;
use crate::duration::spoken;
use crate::error::told;
use crate::retry::retrying;

/// How often the log is told that time passes, so that prompts and progress bars are seen.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// How long a signal may take to be sent, and a note about it to be written: neither must keep the
/// next signal from coming.
const SIGNAL_WAIT: Duration = Duration::from_secs(1);

/// How long the end of a step is waited for after `SIGKILL`. A process that is still there then hangs
/// in the kernel, or the connection to it does.
const KILL_WAIT: Duration = Duration::from_secs(30);

/// What is known when nothing more comes from a command.
struct Seen {
    /// How it ended, or why nobody knows.
    end: Result<ExitStatus, Verdict>,
    /// What kept its output from being written, if something did.
    unwritten: Option<danube_logs::Error>,
}

impl Run<'_> {
    /// Runs one step and records it. An error is one of the record.
    pub(super) async fn step(
        &self,
        log: &LogWriter,
        position: u32,
        step: &StepSpec,
    ) -> Result<Verdict, danube_store::Error> {
        let (jobs, clock) = (&self.parts.jobs, &self.parts.clock);
        let command = step.command.recorded(&self.needles);
        let mut record = StepRecord::pending(position, step.name.clone(), command);
        record.state = JobState::Running;
        record.started_at = Some(clock.now());
        retrying(|| jobs.put_step(&self.spec.id, &record)).await?;
        let verdict = tokio::select! {
            biased;
            never = self.time(step.timeout, StopReason::StepTimeout) => match never {},
            verdict = self.attend(log, step, &mut record) => verdict,
        };
        record.state = verdict.state;
        record.finished_at = Some(clock.now());
        retrying(|| jobs.put_step(&self.spec.id, &record)).await?;
        Ok(verdict)
    }

    async fn attend(&self, log: &LogWriter, step: &StepSpec, record: &mut StepRecord) -> Verdict {
        let filter = || Box::new(self.needles.redactor());
        let writer = match log.step(step.name.clone(), filter(), filter()).await {
            Ok(writer) => writer,
            Err(error) => return unwritten(&error),
        };
        let Seen { end, unwritten: mut failure } = self.observe(log, step, &writer).await;
        // After a failure the log has a hole: nothing is put behind it.
        if failure.is_none() {
            match writer.finish().await {
                Ok(range) => record.log_range = Some(range),
                Err(error) => failure = Some(error),
            }
        }
        match end {
            Ok(ExitStatus::Code(code)) => record.exit_code = Some(code),
            Ok(ExitStatus::Signal(signal)) => record.signal = Some(signal),
            Err(_) => {}
        }
        match (failure, end, self.stop.reason()) {
            (Some(error), _, _) => unwritten(&error),
            (None, Err(unknown), _) => unknown,
            (None, Ok(_), Some(reason)) => self.stopped(reason, Some(step)),
            (None, Ok(ExitStatus::Code(0)), None) => Verdict::success(),
            (None, Ok(ExitStatus::Code(code)), None) => {
                let message = format!("step {:?} failed with exit code {code}", step.name);
                Verdict::of(JobState::Failed, message)
            }
            (None, Ok(ExitStatus::Signal(signal)), None) => {
                let message = format!("step {:?} was killed by signal {signal}", step.name);
                Verdict::of(JobState::Failed, message)
            }
        }
    }

    /// Starts the command and listens to it until it ends, or is given up.
    async fn observe(&self, log: &LogWriter, step: &StepSpec, writer: &StepWriter) -> Seen {
        let unknown = |verdict| Seen { end: Err(verdict), unwritten: None };
        let started = tokio::select! {
            biased;
            reason = self.stop.asked() => return unknown(self.stopped(reason, Some(step))),
            started = self.parts.executor.start(self.spec.command(step)) => started,
        };
        let session = match started {
            Ok(session) => session,
            Err(error) => return unknown(not_started(step, &error)),
        };
        self.began.store(true, Ordering::Relaxed);
        let control = session.control();
        // Whoever watches comes first: behind a command that never pauses nothing of the task's budget
        // would be left for them, and they would never be asked.
        tokio::select! {
            biased;
            () = self.end_when_asked(log, &control) => {
                let name = &step.name;
                let message =
                    format!("step {name:?} was still there {} after SIGKILL", spoken(KILL_WAIT));
                unknown(Verdict::lost(LostReason::Connection, message))
            }
            seen = self.listen(session, step, writer) => seen,
        }
    }

    /// Writes what the command writes, until it ends.
    async fn listen(&self, mut session: ExecSession, step: &StepSpec, writer: &StepWriter) -> Seen {
        let mut unwritten: Option<danube_logs::Error> = None;
        let mut tick = interval(IDLE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            // A command that always has something to say must not keep its end from being asked for.
            tokio::task::consume_budget().await;
            let event = tokio::select! {
                biased;
                _ = tick.tick() => None,
                event = session.next() => Some(event),
            };
            let written = match event {
                None if unwritten.is_some() => continue,
                None => writer.idle().await,
                Some(Ok(Some(ExecEvent::Output { .. }))) if unwritten.is_some() => continue,
                Some(Ok(Some(ExecEvent::Output { stream, bytes, .. }))) => {
                    // The next chunk is read while this one is on its way to the store.
                    writer.feed(stream, &bytes).await
                }
                Some(Ok(Some(ExecEvent::Exited(status)))) => break Ok(status),
                Some(Ok(None)) => break Err("its end was not told".to_owned()),
                Some(Err(error)) => break Err(told(&error)),
            };
            if let Err(error) = written {
                self.stop.ask(StopReason::LogWrite);
                unwritten = Some(error);
            }
        };
        let lost =
            |why| Verdict::lost(LostReason::Connection, format!("step {:?}: {why}", step.name));
        Seen { end: end.map_err(lost), unwritten }
    }

    /// Waits until the step is to end, and ends it: `SIGTERM`, grace, `SIGKILL`. Returns when even that
    /// did not help.
    async fn end_when_asked(&self, log: &LogWriter, control: &ExecControl) {
        let reason = self.stop.asked().await;
        let asked_at = Instant::now();
        self.send(control, Signal::Terminate).await;
        let grace = self.options.grace;
        if reason != StopReason::LogWrite {
            let why = self.why(reason, None);
            let text = format!("{why}: SIGTERM sent, SIGKILL follows after {}", spoken(grace));
            let _ = timeout(SIGNAL_WAIT, log.note(&text)).await;
        }
        sleep_until(asked_at + grace).await;
        self.send(control, Signal::Kill).await;
        sleep(KILL_WAIT).await;
    }

    async fn send(&self, control: &ExecControl, signal: Signal) {
        let job = &self.spec.id;
        match timeout(SIGNAL_WAIT, control.signal(signal)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = told(&error);
                tracing::warn!(%job, ?signal, error, "a signal could not be sent");
            }
            Err(_) => tracing::warn!(%job, ?signal, "sending a signal takes long"),
        }
    }

    /// The verdict of a job that was to end before its time, in this step or between steps.
    pub(super) fn stopped(&self, reason: StopReason, step: Option<&StepSpec>) -> Verdict {
        let message = self.why(reason, step);
        match reason {
            StopReason::Cancelled => Verdict::of(JobState::Cancelled, message),
            StopReason::JobTimeout | StopReason::StepTimeout => {
                Verdict::of(JobState::TimedOut, message)
            }
            StopReason::LogWrite => Verdict::lost(LostReason::LogWrite, message),
        }
    }

    fn why(&self, reason: StopReason, step: Option<&StepSpec>) -> String {
        let limit = |timeout: Option<Duration>| {
            timeout.map_or_else(String::new, |timeout| format!(" of {}", spoken(timeout)))
        };
        match (reason, step) {
            (StopReason::Cancelled, Some(step)) => format!("cancelled in step {:?}", step.name),
            (StopReason::Cancelled, None) => "cancelled".to_owned(),
            (StopReason::JobTimeout, _) => {
                format!("the job's timeout{} is over", limit(self.spec.timeout))
            }
            (StopReason::StepTimeout, Some(step)) => {
                format!("the timeout of step {:?}{} is over", step.name, limit(step.timeout))
            }
            (StopReason::StepTimeout, None) => "the timeout of the step is over".to_owned(),
            (StopReason::LogWrite, _) => "the log could not be written".to_owned(),
        }
    }
}

fn unwritten(error: &danube_logs::Error) -> Verdict {
    Verdict::lost(LostReason::LogWrite, format!("the log could not be written: {}", told(error)))
}

/// The words are ours: an error may quote the program, with a secret in it spelled so that it would
/// not be found.
fn not_started(step: &StepSpec, error: &danube_exec::Error) -> Verdict {
    let (reason, why) = match error {
        danube_exec::Error::NotStarted { source, .. } => {
            (LostReason::NotStarted, source.to_string())
        }
        danube_exec::Error::Lost { .. } => (LostReason::Connection, told(error)),
        other => (LostReason::NotStarted, told(other)),
    };
    Verdict::lost(reason, format!("step {:?} could not be started: {why}", step.name))
}
