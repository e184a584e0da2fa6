//! Running a job: its steps, its verdict, what it leaves behind.

mod broken;
mod cancel;
mod keep;
mod sealed;
mod step;
mod stop;
mod verdict;

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use danube_artifacts::attest::ProvenanceForm;
use danube_artifacts::collect::{CollectLimits, Patterns};
use danube_artifacts::{Artifacts, DEFAULT_MAX_BYTES};
use danube_core::{ArtifactName, Clock, JobState, LostReason, Sha256Digest, Timestamp};
use danube_exec::Executor;
use danube_logs::{LogOptions, LogStore, LogWriter, SealedLog};
use danube_secrets::Needles;
use danube_store::{JobRecord, JobStore, StepRecord, Transition};

use crate::duration::spoken;
use crate::error::told;
use crate::retry::retrying;
use crate::{Error, JobSpec, Outcome};
use cancel::Asked;
pub use cancel::Cancel;
use keep::Kept;
use stop::{Stop, StopReason};
use verdict::Verdict;

/// How often the record is asked whether somebody wants the job to end.
const CANCEL_POLL: Duration = Duration::from_millis(500);

/// How long signing and proving may take, once the log is sealed: nothing can interrupt it but this.
pub(crate) const SIGN_LIMIT: Duration = Duration::from_secs(5 * 60);

/// What jobs are run with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where the steps run.
    pub executor: Arc<dyn Executor>,
    /// Where their output goes.
    pub logs: Arc<dyn LogStore>,
    /// Where the files go that a job keeps, and who signs them.
    pub artifacts: Artifacts,
    /// Where it is recorded.
    pub jobs: Arc<dyn JobStore>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// How jobs are run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunnerOptions {
    /// How long a step that is to end has between `SIGTERM` and `SIGKILL`: 10 s.
    pub grace: Duration,
    /// How logs are written.
    pub log: LogOptions,
    /// The longest file that is kept; a longer one is left out, with a warning in the log.
    pub max_artifact_bytes: u64,
    /// The most files that one job keeps; one that matches more has no verdict.
    pub max_artifacts: usize,
    /// The most bytes of all files of one job together; one that matches more has no verdict.
    pub max_total_artifact_bytes: u64,
    /// How long files are collected of a job that did not pass: 10 minutes.
    pub collect_limit: Duration,
    /// Who is named as the builder in provenance: a URI that the operator chose.
    pub builder_id: String,
    /// In which form provenance is written.
    pub provenance_form: ProvenanceForm,
    /// Whether the sealed log of every job is copied to where the artifacts are, under
    /// [`BlobKey::log`](danube_artifacts::BlobKey::log): for artifacts that outlive this machine.
    pub keep_log_with_artifacts: bool,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            log: LogOptions::default(),
            max_artifact_bytes: DEFAULT_MAX_BYTES,
            max_artifacts: CollectLimits::default().max_files,
            max_total_artifact_bytes: CollectLimits::default().max_total_bytes,
            collect_limit: Duration::from_secs(10 * 60),
            builder_id: "urn:danube:builder".to_owned(),
            provenance_form: ProvenanceForm::default(),
            keep_log_with_artifacts: false,
        }
    }
}

impl RunnerOptions {
    /// With this time between `SIGTERM` and `SIGKILL`.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// With logs written like this.
    #[must_use]
    pub fn with_log(mut self, log: LogOptions) -> Self {
        self.log = log;
        self
    }

    /// With files of at most this length.
    #[must_use]
    pub fn with_max_artifact_bytes(mut self, max_artifact_bytes: u64) -> Self {
        self.max_artifact_bytes = max_artifact_bytes;
        self
    }

    /// With at most so many files.
    #[must_use]
    pub fn with_max_artifacts(mut self, max_artifacts: usize) -> Self {
        self.max_artifacts = max_artifacts;
        self
    }

    /// With files of at most so many bytes in all.
    #[must_use]
    pub fn with_max_total_artifact_bytes(mut self, max_total_artifact_bytes: u64) -> Self {
        self.max_total_artifact_bytes = max_total_artifact_bytes;
        self
    }

    /// With this long for the files of a job that did not pass.
    #[must_use]
    pub fn with_collect_limit(mut self, collect_limit: Duration) -> Self {
        self.collect_limit = collect_limit;
        self
    }

    /// With this builder in provenance.
    #[must_use]
    pub fn with_builder_id(mut self, builder_id: impl Into<String>) -> Self {
        self.builder_id = builder_id.into();
        self
    }

    /// With provenance in this form.
    #[must_use]
    pub fn with_provenance_form(mut self, provenance_form: ProvenanceForm) -> Self {
        self.provenance_form = provenance_form;
        self
    }

    /// With the sealed log copied to where the artifacts are.
    #[must_use]
    pub fn with_log_kept_with_artifacts(mut self) -> Self {
        self.keep_log_with_artifacts = true;
        self
    }
}

/// Told while files are copied, about ten times a second: which file, how many of its bytes are
/// copied, how many it had when it was found.
pub type Progress<'a> = &'a (dyn Fn(&ArtifactName, u64, u64) + Send + Sync);

/// Runs jobs, one for each call of [`run`](Self::run), any number of them at once.
#[derive(Debug, Clone)]
pub struct JobRunner {
    parts: Parts,
    options: RunnerOptions,
}

impl JobRunner {
    /// A runner over these parts. It starts nothing.
    #[must_use]
    pub fn new(parts: Parts, options: RunnerOptions) -> Self {
        Self { parts, options }
    }

    /// Runs a job to its end and returns how it ended. Every end of the job itself, loss included, is
    /// an [`Outcome`].
    ///
    /// The order: the job is recorded as `pending`; its log is created, which is the ownership of the
    /// job; steps run one after another until one does not pass; where all passed, the files that the
    /// globs name are copied; the log is sealed, and copied to where the artifacts are if that was asked for;
    /// artifacts are signed and the provenance of artifacts and log is written; and last comes the terminal
    /// state, so whoever sees it finds everything in its place. What a job kept that did not succeed in the
    /// end is deleted again, but for the copy of its log.
    ///
    /// A log that cannot be copied loses a job that passed, as artifacts that cannot be signed do. The verdict of
    /// any other job stands, with a warning to `tracing`: its log is still where logs are.
    ///
    /// Of a job whose files are kept [`Always`](crate::CollectWhen::Always) they are also copied when its steps did not
    /// pass, and each is signed, before the log is sealed; nothing is proved. It takes at most
    /// [`RunnerOptions::collect_limit`], and whatever goes wrong with it is told in the log and changes no
    /// verdict. It is left out where no step began, and where log or record cannot be written. What was
    /// copied of a job that passed its steps, and could not be kept whole, stays too if it can be signed.
    ///
    /// The job is ended early by `cancel` (a token, or a [`Cancel`] that can end the collecting too), by
    /// [`JobStore::request_cancel`](danube_store::JobStore::request_cancel) from anywhere, and by
    /// timeouts: `SIGTERM` to the step's process group, `SIGKILL` after the grace period, and its
    /// output is read to the end. Sealing and signing are not interrupted.
    ///
    /// # Errors
    ///
    /// Before anything is recorded those of [`JobSpec::validate`]. [`Error::Record`] when the record of
    /// the job cannot be written, its end included: the job is then left to [`recover`](crate::recover).
    /// [`Error::Log`] when another process owns the log, which it does when it took this one for dead.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the running step is killed as its executor does it, nothing else is written, and the log
    /// is let go: the next [`recover`](crate::recover) ends the job as lost. Cancel with `cancel`
    /// instead.
    pub async fn run(
        &self,
        spec: JobSpec,
        cancel: impl Into<Cancel>,
        progress: Progress<'_>,
    ) -> Result<Outcome, Error> {
        let cancel = cancel.into();
        spec.validate()?;
        let needles = spec.needles()?;
        let patterns = spec.patterns()?;
        let (parts, options) = (&self.parts, &self.options);
        let (stop, asked, began) = Default::default();
        let run = Run { parts, options, spec, needles, patterns, stop, asked, began };
        run.run_to_its_end(&cancel, progress).await
    }
}

impl fmt::Display for JobRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jobs on {}", self.parts.executor)
    }
}

/// One job on its way.
struct Run<'a> {
    parts: &'a Parts,
    options: &'a RunnerOptions,
    spec: JobSpec,
    needles: Needles,
    patterns: Option<Patterns>,
    stop: Stop,
    asked: Asked,
    /// Whether any command was started.
    began: AtomicBool,
}

/// When the steps ran.
struct Times {
    started_at: Timestamp,
    finished_at: Timestamp,
}

impl Run<'_> {
    /// From nothing to the terminal state.
    async fn run_to_its_end(
        &self,
        cancel: &Cancel,
        progress: Progress<'_>,
    ) -> Result<Outcome, Error> {
        let Parts { logs, jobs, clock, .. } = self.parts;
        jobs.create(&self.record()).await.map_err(|e| self.record_error(e))?;
        let options = self.options.log.clone();
        let log = LogWriter::create(logs.clone(), self.spec.id.clone(), clock.clone(), options);
        let log = match log.await {
            Ok(log) => log,
            // Somebody took this process for dead, and ends the job.
            Err(source) if source.class() == danube_core::ErrorClass::Conflict => {
                return Err(Error::Log { job: self.spec.id.clone(), source });
            }
            Err(error) => {
                let why = format!("the log could not be created: {}", told(&error));
                return self.conclude(Verdict::lost(LostReason::LogWrite, why), None, None).await;
            }
        };
        let started_at = clock.now();
        let mut kept = Kept::default();
        let worked = tokio::select! {
            biased;
            never = self.watch(cancel) => match never {},
            worked = self.work(&log, &mut kept, progress) => worked,
        };
        match worked {
            Ok(verdict) => {
                let times = Times { started_at, finished_at: clock.now() };
                self.finish(log, verdict, kept, &times).await
            }
            Err(error) => self.give_up(log, kept, error).await,
        }
    }

    /// Runs the steps and keeps the files. An error is one of the job's record.
    async fn work(
        &self,
        log: &LogWriter,
        kept: &mut Kept,
        progress: Progress<'_>,
    ) -> Result<Verdict, danube_store::Error> {
        self.move_to(JobState::Starting).await?;
        let verdict = tokio::select! {
            biased;
            never = self.time(self.spec.timeout, StopReason::JobTimeout) => match never {},
            verdict = self.steps(log) => verdict?,
        };
        if !verdict.is_success() {
            if self.collects_after(&verdict) {
                self.keep_of_broken(log, kept, progress).await;
            }
            return Ok(verdict);
        }
        let verdict = tokio::select! {
            biased;
            reason = self.stop.asked() => self.stopped(reason, None),
            verdict = self.keep(log, kept, progress) => verdict,
        };
        if !verdict.is_success() && self.keeps_always() {
            self.settle(log, kept).await;
        }
        Ok(verdict)
    }

    async fn steps(&self, log: &LogWriter) -> Result<Verdict, danube_store::Error> {
        for (position, step) in (0..).zip(&self.spec.steps) {
            if let Some(reason) = self.stop.reason() {
                return Ok(self.stopped(reason, None));
            }
            if position == 0 {
                self.move_to(JobState::Running).await?;
            }
            let verdict = self.step(log, position, step).await?;
            if !verdict.is_success() {
                return Ok(verdict);
            }
        }
        Ok(self.stop.reason().map_or_else(Verdict::success, |reason| self.stopped(reason, None)))
    }

    /// Looks for whoever wants the job to end.
    async fn watch(&self, cancel: &Cancel) -> Infallible {
        tokio::select! {
            () = cancel.job.cancelled() => {}
            () = cancel.collecting.cancelled() => {}
            () = self.cancel_requested() => {}
        }
        self.stop.ask(StopReason::Cancelled);
        self.asked.set(1);
        cancel.collecting.cancelled().await;
        self.asked.set(2);
        pending().await
    }

    async fn cancel_requested(&self) {
        loop {
            tokio::time::sleep(CANCEL_POLL).await;
            match self.parts.jobs.get(&self.spec.id).await {
                // One that others ended is to end here too.
                Ok(job) if job.cancel_requested_at.is_some() || job.state.is_terminal() => return,
                Ok(_) => {}
                Err(error) => {
                    let error = told(&error);
                    tracing::warn!(job = %self.spec.id, error, "cannot look for a cancel request");
                }
            }
        }
    }

    /// Asks for the end when the time is over.
    async fn time(&self, timeout: Option<Duration>, reason: StopReason) -> Infallible {
        if let Some(timeout) = timeout {
            tokio::time::sleep(timeout).await;
            self.stop.ask(reason);
        }
        pending().await
    }

    /// Seals, signs, proves, and writes the verdict.
    async fn finish(
        &self,
        log: LogWriter,
        mut verdict: Verdict,
        mut kept: Kept,
        times: &Times,
    ) -> Result<Outcome, Error> {
        if let Some(message) = &verdict.message {
            // If it cannot be written the seal will hardly succeed, and that is told below.
            let _ = log.note(&self.needles.redact_str(message)).await;
        }
        let mut digest = None;
        let sealed = match log.seal().await {
            Ok(sealed) => Some(sealed),
            Err(error) => {
                verdict = verdict.overruled(
                    LostReason::LogWrite,
                    format!("the log could not be sealed: {}", told(&error)),
                );
                None
            }
        };
        if let Some(sealed) = &sealed {
            let finishing = self.sign(sealed, &mut digest, &verdict, &mut kept, times);
            let signed = match tokio::time::timeout(SIGN_LIMIT, finishing).await {
                Ok(signed) => signed,
                Err(_) => Err(format!("signing took longer than {}", spoken(SIGN_LIMIT))),
            };
            match signed {
                Ok(()) => {}
                Err(why) if verdict.is_success() => {
                    verdict = verdict.overruled(LostReason::Sign, why);
                }
                // Of a job that did not pass nothing is signed: its verdict is as honest as before.
                Err(why) => tracing::warn!(job = %self.spec.id, why, "cannot finish the log"),
            }
        }
        if !verdict.is_success() {
            // What was copied whole of a job that passed its steps, and then could not seal or sign.
            if !kept.settled
                && self.keeps_always()
                && let Err(why) = self.sign_each(&mut kept).await
            {
                tracing::warn!(job = %self.spec.id, why, "not all artifacts could be signed and kept");
            }
            self.discard(&mut kept).await;
        }
        let masked = self.needles.masked();
        // With those in recorded commands and messages.
        tracing::debug!(job = %self.spec.id, masks = masked.masks, bytes = masked.bytes, "secrets masked");
        let mut outcome = self.conclude(verdict, sealed.as_ref(), digest).await?;
        // Only now may others take this process for gone.
        drop(sealed);
        if outcome.job.state != JobState::Succeeded {
            self.discard(&mut kept).await;
        }
        outcome.artifacts = kept.records;
        Ok(outcome)
    }

    /// Digests the log and copies it; of a job that succeeded, signs the artifacts and proves both.
    async fn sign(
        &self,
        sealed: &SealedLog,
        digest: &mut Option<Sha256Digest>,
        verdict: &Verdict,
        kept: &mut Kept,
        times: &Times,
    ) -> Result<(), String> {
        match self.log_digest(sealed.len).await {
            Ok(found) => *digest = Some(found),
            Err(why) if verdict.is_success() => {
                return Err(format!("the log could not be read again: {why}"));
            }
            Err(why) => tracing::warn!(job = %self.spec.id, why, "cannot digest the log"),
        }
        if let Some(digest) = digest.filter(|_| self.options.keep_log_with_artifacts) {
            match self.keep_log(sealed.len, digest).await {
                Ok(()) => {}
                Err(why) if verdict.is_success() => {
                    return Err(format!("the log could not be kept with the artifacts: {why}"));
                }
                Err(why) => tracing::warn!(job = %self.spec.id, why, "cannot copy the log"),
            }
        }
        if !verdict.is_success() {
            return Ok(());
        }
        self.prove(sealed.len, *digest, kept, times)
            .await
            .map_err(|error| format!("the artifacts could not be signed: {}", told(&error)))
    }

    /// Writes the terminal state and reads the record back.
    async fn conclude(
        &self,
        verdict: Verdict,
        sealed: Option<&SealedLog>,
        log_digest: Option<Sha256Digest>,
    ) -> Result<Outcome, Error> {
        let Parts { jobs, clock, logs, .. } = self.parts;
        let id = &self.spec.id;
        let mut change = verdict.transition(clock.now(), &self.needles);
        if let Some(sealed) = sealed {
            change = change.with_log(sealed.len, sealed.truncated);
        } else if let Ok(stat) = logs.stat(id).await {
            change = change.with_log(stat.len, stat.state.truncated);
        }
        match retrying(|| jobs.transition(id, &change)).await {
            // What somebody else wrote stands.
            Ok(_) | Err(danube_store::Error::Finished { .. }) => {}
            Err(error) => return Err(self.record_error(error)),
        }
        let job = retrying(|| jobs.get(id)).await.map_err(|e| self.record_error(e))?;
        Ok(Outcome { job, artifacts: Vec::new(), log_digest })
    }

    /// The record of the job could not be written: ends it with a log that says so. The seal gives up the
    /// room that was set aside for the log, and on a full disk the terminal state needs just that; where it
    /// cannot be written either the job is left as it is.
    async fn give_up(
        &self,
        log: LogWriter,
        mut kept: Kept,
        error: danube_store::Error,
    ) -> Result<Outcome, Error> {
        let why = format!("the record of the job could not be written: {}", told(&error));
        let _ = log.note(&self.needles.redact_str(&why)).await;
        let sealed = log.seal().await.ok();
        self.discard(&mut kept).await;
        let digest = match &sealed {
            Some(sealed) => self.log_digest(sealed.len).await.ok(),
            None => None,
        };
        let lost = Verdict::lost(LostReason::Record, why);
        let outcome = self.conclude(lost, sealed.as_ref(), digest).await;
        // The first refusal says what is wrong, the second only that it still is.
        outcome.map_err(|_| self.record_error(error))
    }

    async fn move_to(&self, state: JobState) -> Result<(), danube_store::Error> {
        let change = Transition::new(state, self.parts.clock.now());
        retrying(|| self.parts.jobs.transition(&self.spec.id, &change)).await.map(drop)
    }

    fn record(&self) -> JobRecord {
        let Self { parts, spec, needles, .. } = self;
        let steps = (0..).zip(&spec.steps).map(|(position, step)| {
            StepRecord::pending(position, step.name.clone(), step.command.recorded(needles))
        });
        let name = needles.redact_str(&spec.name);
        JobRecord {
            retention_days: spec.retention_days,
            work_dir: needles.redact_str(&spec.work_dir.to_string_lossy()),
            steps: steps.collect(),
            ..JobRecord::pending(spec.id.clone(), name, parts.clock.now())
        }
    }

    fn record_error(&self, source: danube_store::Error) -> Error {
        Error::Record { job: self.spec.id.clone(), source }
    }
}

#[cfg(test)]
mod tests;
