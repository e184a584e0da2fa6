//! What a job keeps: files copied, signed and proved, or none of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use danube_artifacts::attest::{LogSubject, ProvenanceInput};
use danube_artifacts::collect::{self, Beyond, CollectLimits, Found, FoundFile, Patterns};
use danube_artifacts::{ArtifactRecord, ArtifactState, Durability, KeepOptions, file_stream};
use danube_core::{ArtifactName, LostReason, Sha256Digest};
use danube_logs::LogWriter;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::verdict::Verdict;
use super::{Progress, Run, Times};
use crate::address::without_credentials;
use crate::duration::spoken;
use crate::error::told;
use crate::recover::delete_proof;

/// How often progress is told.
const PROGRESS_TICK: Duration = Duration::from_millis(100);

/// How many files that are left out are named in the log, one line each; of more their number is told.
const MAX_WARNINGS: usize = 20;

/// More files than this are synced together at the end: a sync for each of ten thousand takes minutes. Fewer are
/// synced one by one, because syncing together waits for what others write to the same disk.
const SYNCED_APART: usize = 16;

/// What has been kept so far.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Every artifact that was begun, so that all of it can be deleted again.
    begun: Vec<ArtifactName>,
    /// Those that are stored.
    pub(super) records: Vec<ArtifactRecord>,
    /// Whether it was tried to sign what stays of a job that did not pass.
    pub(super) settled: bool,
    /// Whether they may not be on the disk yet.
    pub(super) unsynced: bool,
    /// Whether anything of a proof may be written.
    proving: bool,
    /// Whether what stays of a job that did not succeed is listed beside it.
    listed: bool,
}

/// Why not everything could be kept.
pub(super) enum Trouble {
    Log(danube_logs::Error),
    Artifact(ArtifactName, danube_artifacts::Error),
    Other(danube_artifacts::Error),
}

impl From<danube_logs::Error> for Trouble {
    fn from(error: danube_logs::Error) -> Self {
        Self::Log(error)
    }
}

impl Trouble {
    pub(super) fn told(&self) -> String {
        match self {
            Self::Log(error) => format!("the log could not be written: {}", told(error)),
            Self::Artifact(name, error) => {
                format!("artifact {name} could not be kept: {}", told(error))
            }
            Self::Other(error) => {
                format!("the artifacts could not be collected: {}", told(error))
            }
        }
    }

    fn reason(&self) -> LostReason {
        match self {
            Self::Log(_) => LostReason::LogWrite,
            Self::Artifact(..) | Self::Other(_) => LostReason::Collect,
        }
    }
}

impl Run<'_> {
    /// Copies the files that the globs name.
    pub(super) async fn keep(
        &self,
        log: &LogWriter,
        kept: &mut Kept,
        progress: Progress<'_>,
    ) -> Verdict {
        let Some(patterns) = self.patterns.clone() else { return Verdict::success() };
        match self.keep_all(patterns, Beyond::Refuse, log, kept, progress).await {
            Ok(()) => Verdict::success(),
            Err(trouble) => Verdict::lost(trouble.reason(), trouble.told()),
        }
    }

    /// Copies all of them or says why not; where more may be left out than the limits ask for, a file that
    /// cannot be copied is too.
    pub(super) async fn keep_all(
        &self,
        patterns: Patterns,
        beyond: Beyond,
        log: &LogWriter,
        kept: &mut Kept,
        progress: Progress<'_>,
    ) -> Result<(), Trouble> {
        let (root, exclude) = (self.spec.work_dir.clone(), self.spec.exclude.clone());
        let allowed = CollectLimits::default()
            .with_max_files(self.options.max_artifacts)
            .with_max_file_bytes(self.options.max_artifact_bytes)
            .with_max_total_bytes(self.options.max_total_artifact_bytes)
            .with_beyond(beyond);
        let limits = self.spec.artifacts.limits(allowed);
        let (max_bytes, mut left_bytes) = (limits.max_file_bytes, limits.max_total_bytes);
        let found =
            spawn_blocking(move || collect::find(&root, &patterns, &limits, &exclude)).await;
        let mut found = found.map_err(|e| self.unreadable(e.into()))?.map_err(Trouble::Other)?;
        let files = std::mem::take(&mut found.files);
        // The name of a file is printed wherever the artifact is.
        let is_clean = |file: &FoundFile| {
            let name = file.name.as_str();
            self.needles.redact_str(name) == name
        };
        let (clean, tainted): (Vec<_>, Vec<_>) = files.into_iter().partition(is_clean);
        self.warn(log, &found, &tainted).await?;
        let durability =
            if clean.len() > SYNCED_APART { Durability::Deferred } else { Durability::Synced };
        kept.unsynced = durability == Durability::Deferred;
        let (mut vanished, mut failed) = (0, 0);
        for FoundFile { name, size_bytes } in clean {
            // Copies of small files may never wait; a cancel is to be seen between them.
            tokio::task::yield_now().await;
            let kept_it = match self.open(&name).await {
                Ok(Some(file)) => {
                    kept.begun.push(name.clone());
                    // It may have grown since it was found.
                    let options = KeepOptions::default()
                        .with_max_bytes(max_bytes.min(left_bytes))
                        .with_durability(durability);
                    self.copy(&name, file, size_bytes, options, progress).await
                }
                Ok(None) => {
                    vanished += 1;
                    if vanished <= MAX_WARNINGS {
                        log.note(&format!("not kept as an artifact: {name} vanished")).await?;
                    }
                    continue;
                }
                Err(error) => Err(error),
            };
            match kept_it {
                Ok(record) => {
                    left_bytes = left_bytes.saturating_sub(record.size_bytes);
                    kept.records.push(record);
                }
                // With so many of them it is hardly the files.
                Err(error) if beyond == Beyond::LeaveOut && failed < MAX_WARNINGS => {
                    failed += 1;
                    let why = format!("not kept as an artifact: {name}: {}", told(&error));
                    log.note(&self.needles.redact_str(&why)).await?;
                }
                Err(error) => return Err(Trouble::Artifact(name, error)),
            }
        }
        if vanished > MAX_WARNINGS {
            let more = vanished - MAX_WARNINGS;
            log.note(&format!("not kept as artifacts: {more} more vanished")).await?;
        }
        // Where whatever was copied stays, it is synced when it is signed.
        if kept.unsynced && beyond == Beyond::Refuse {
            self.parts.artifacts.sync().await.map_err(Trouble::Other)?;
            kept.unsynced = false;
        }
        Ok(())
    }

    /// Opens a file that was found, unless something that the job left behind took it away since.
    async fn open(&self, name: &ArtifactName) -> Result<Option<File>, danube_artifacts::Error> {
        let (root, path) = (self.spec.work_dir.clone(), name.clone());
        let opened = spawn_blocking(move || collect::open_if_still_there(&root, &path)).await;
        opened.map_err(io::Error::from).flatten().map_err(|source| {
            let path = self.spec.work_dir.join(name.as_str());
            danube_artifacts::Error::File { operation: "open", path, source }
        })
    }

    async fn copy(
        &self,
        name: &ArtifactName,
        file: File,
        size_bytes: u64,
        options: KeepOptions,
        progress: Progress<'_>,
    ) -> Result<ArtifactRecord, danube_artifacts::Error> {
        let copied = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&copied);
        let options = options.with_progress(move |bytes, _| count.store(bytes, Ordering::Relaxed));
        let body = file_stream(file);
        let keeping = self.parts.artifacts.keep(&self.spec.id, name, body, options);
        tokio::pin!(keeping);
        let mut tick = interval(PROGRESS_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is due at once, and there is nothing to tell yet.
        tick.tick().await;
        let record = loop {
            tokio::select! {
                biased;
                record = &mut keeping => break record?,
                _ = tick.tick() => progress(name, copied.load(Ordering::Relaxed), size_bytes),
            }
        };
        progress(name, record.size_bytes, record.size_bytes);
        Ok(record)
    }

    /// Says in the log what was left out.
    async fn warn(
        &self,
        log: &LogWriter,
        found: &Found,
        tainted: &[FoundFile],
    ) -> Result<(), danube_logs::Error> {
        let unmatched = found.unmatched.iter().map(|glob| format!("no file matches {glob:?}"));
        let presets = found.unmatched_presets.iter();
        let idle = presets.map(|preset| format!("no file matches the preset {preset}"));
        let skipped = found
            .skipped
            .iter()
            .map(|skipped| format!("not kept as an artifact: {} {}", skipped.path, skipped.reason));
        let tainted = tainted
            .iter()
            .map(|file| format!("not kept as an artifact: {} has a secret in its name", file.name));
        let mut warnings = unmatched.chain(idle).chain(tainted).chain(skipped);
        for warning in warnings.by_ref().take(MAX_WARNINGS) {
            log.note(&self.needles.redact_str(&warning)).await?;
        }
        let more = warnings.count() as u64 + found.more_skipped;
        if more > 0 {
            log.note(&format!("not kept as artifacts: {more} more")).await?;
        }
        Ok(())
    }

    /// Signs what was kept and writes the provenance of it and of the log.
    pub(super) async fn prove(
        &self,
        log_bytes: u64,
        log_digest: Option<Sha256Digest>,
        kept: &mut Kept,
        times: &Times,
    ) -> Result<(), danube_artifacts::Error> {
        let artifacts = &self.parts.artifacts;
        kept.records = artifacts.sign_all(&kept.records).await?;
        let version = env!("CARGO_PKG_VERSION");
        let builder_id = self.options.builder_id.clone();
        let id = self.spec.id.clone();
        let mut input = ProvenanceInput::new(id, builder_id, version, self.parameters())
            .with_times(times.started_at, times.finished_at)
            .with_form(self.options.provenance_form);
        // Everybody who gets an artifact can read this.
        let masked = |text: &String| self.needles.redact_str(text);
        input.pipeline = self.spec.pipeline.as_ref().map(masked);
        input.source = self.spec.source.clone().map(|mut source| {
            source.repository = without_credentials(&masked(&source.repository));
            source.branch = source.branch.as_ref().map(masked);
            source
        });
        input.entry_point = self.spec.entry_point.clone().map(|mut entry| {
            entry.path = masked(&entry.path);
            entry
        });
        let log = log_digest.map(|digest| LogSubject::new(&self.spec.id, log_bytes, digest));
        kept.proving = true;
        artifacts.prove(&input, &kept.records, log.as_ref()).await
    }

    /// What was asked for, as everybody may read it.
    fn parameters(&self) -> serde_json::Value {
        let Self { spec, needles, .. } = self;
        let steps: Vec<_> = spec
            .steps
            .iter()
            .map(|step| {
                let mut written = json!({
                    "name": step.name.as_str(),
                    "command": step.command.recorded(needles),
                });
                if let Some(timeout) = step.timeout {
                    written["timeout"] = spoken(timeout).into();
                }
                written
            })
            .collect();
        let masked = |globs: &[String]| -> Vec<_> {
            globs.iter().map(|glob| needles.redact_str(glob)).collect()
        };
        let (artifacts, name) = (&spec.artifacts, needles.redact_str(&spec.name));
        let globs = masked(&artifacts.paths);
        let mut written = json!({ "name": name, "steps": steps, "artifacts": globs });
        if let Some(preset) = artifacts.preset {
            written["artifact_preset"] = preset.as_str().into();
        }
        if !artifacts.exclude.is_empty() {
            written["artifacts_excluded"] = masked(&artifacts.exclude).into();
        }
        written
    }

    /// Deletes what was kept of a job that did not succeed: the proof, and unless they are kept always the
    /// files; of those that are, what is not signed. What cannot be deleted is left to the sweep, which finds it.
    pub(super) async fn discard(&self, kept: &mut Kept) {
        let (artifacts, job) = (&self.parts.artifacts, &self.spec.id);
        if std::mem::take(&mut kept.proving)
            && let Err(error) = delete_proof(&**artifacts.blobs(), job).await
        {
            tracing::warn!(%job, error = told(&error), "its proof could not be deleted");
        }
        let always = self.keeps_always();
        kept.records.retain(|record| always && record.state == ArtifactState::Active);
        let stay: BTreeSet<_> = kept.records.iter().map(|record| &record.name).collect();
        let go: Vec<_> = std::mem::take(&mut kept.begun)
            .into_iter()
            .filter(|name| !stay.contains(name))
            .collect();
        let is_listed = kept.records.is_empty() || std::mem::replace(&mut kept.listed, true);
        if go.is_empty() && is_listed {
            return;
        }
        // That lists what stays, too.
        if let Err(error) = artifacts.delete_each(job, &go).await {
            let error = told(&error);
            tracing::warn!(%job, error, "what was kept of it could not all be deleted and listed");
        }
    }

    fn unreadable(&self, source: io::Error) -> Trouble {
        let path = self.spec.work_dir.clone();
        Trouble::Other(danube_artifacts::Error::File { operation: "read", path, source })
    }
}
