//! What is kept of a job that did not pass, for whoever has to find out why.

use std::sync::atomic::Ordering;

use danube_artifacts::collect::Beyond;
use danube_artifacts::{ArtifactRecord, ArtifactState};
use danube_core::LostReason;
use danube_logs::LogWriter;
use tokio::time::{sleep, timeout};

use super::keep::Kept;
use super::verdict::Verdict;
use super::{Progress, Run, SIGN_LIMIT};
use crate::CollectWhen;
use crate::duration::spoken;
use crate::error::told;

#[cfg(test)]
mod tests;

impl Run<'_> {
    /// Whether files stay whatever the verdict.
    pub(super) fn keeps_always(&self) -> bool {
        self.spec.artifacts.when == CollectWhen::Always
    }

    /// Whether files are looked for after steps that ended like this.
    pub(super) fn collects_after(&self, verdict: &Verdict) -> bool {
        let is_worth_it = match verdict.lost {
            // The disk is full, as a rule: copies would fail too, and nobody could be told what is missing.
            Some(LostReason::LogWrite | LostReason::Record) => false,
            // What the steps made until then is there. After a lost connection one may be writing still: a
            // copy then is what could be read of it, signed as such.
            Some(LostReason::NotStarted | LostReason::Connection) | None => true,
            // Nobody says so of steps.
            Some(LostReason::OwnerDied | LostReason::Collect | LostReason::Sign) => false,
        };
        // Where no command was started nothing in the work directory is of this job.
        self.keeps_always() && is_worth_it && self.began.load(Ordering::Relaxed)
    }

    /// Copies and signs what there is, until it is done, takes too long, or somebody asks for its end: once, or
    /// where asking ended the steps already, once more. The verdict stands.
    pub(super) async fn keep_of_broken(
        &self,
        log: &LogWriter,
        kept: &mut Kept,
        progress: Progress<'_>,
    ) {
        let Some(patterns) = self.patterns.clone() else { return };
        let limit = self.options.collect_limit;
        let trouble = tokio::select! {
            biased;
            () = self.asked.more_often_than(self.asked.times().min(1)) => {
                Some("it was to end".to_owned())
            }
            () = sleep(limit) => Some(format!("it took longer than {}", spoken(limit))),
            done = self.keep_all(patterns, Beyond::LeaveOut, log, kept, progress) => {
                done.err().map(|trouble| trouble.told())
            }
        };
        if let Some(why) = trouble {
            let copied = kept.records.len();
            self.tell(
                log,
                format!("not all artifacts were collected: {why}; files copied: {copied}"),
            )
            .await;
        }
        self.settle(log, kept).await;
    }

    /// Signs what was copied, so that it can stay; what cannot be signed is told, and goes with
    /// [`discard`](Self::discard).
    pub(super) async fn settle(&self, log: &LogWriter, kept: &mut Kept) {
        kept.settled = true;
        if let Err(why) = self.sign_each(kept).await {
            self.tell(log, format!("not all artifacts could be signed and kept: {why}")).await;
        }
    }

    /// Signs what is not signed yet: all of it, or as much as goes.
    pub(super) async fn sign_each(&self, kept: &mut Kept) -> Result<(), String> {
        let artifacts = &self.parts.artifacts;
        let is_unsigned = |record: &ArtifactRecord| record.state != ArtifactState::Active;
        let unsigned: Vec<_> = kept.records.iter().filter(|r| is_unsigned(r)).cloned().collect();
        if unsigned.is_empty() {
            return Ok(());
        }
        let signing = async {
            // A signature says that the bytes are there.
            if kept.unsynced {
                artifacts.sync().await.map_err(|error| told(&error))?;
                kept.unsynced = false;
            }
            // Together is many times faster, and all or nothing.
            let together = timeout(SIGN_LIMIT / 2, artifacts.sign_all(&unsigned)).await;
            if let Ok(Ok(signed)) = together {
                let places = kept.records.iter_mut().filter(|r| is_unsigned(r));
                places.zip(signed).for_each(|(record, signed)| *record = signed);
                return Ok(());
            }
            let mut failed = Ok(());
            for record in kept.records.iter_mut().filter(|r| is_unsigned(r)) {
                match artifacts.sign(record).await {
                    Ok(signed) => *record = signed,
                    // The others may be luckier.
                    Err(error) if failed.is_ok() => {
                        failed = Err(format!("{}: {}", record.name, told(&error)));
                    }
                    Err(_) => {}
                }
            }
            failed
        };
        let late = |_| Err(format!("it took longer than {}", spoken(SIGN_LIMIT)));
        timeout(SIGN_LIMIT, signing).await.unwrap_or_else(late)
    }

    /// Says it in the log, or where that cannot be written to whoever reads what Danube itself says.
    async fn tell(&self, log: &LogWriter, text: String) {
        let text = self.needles.redact_str(&text);
        if let Err(error) = log.note(&text).await {
            let (job, error) = (&self.spec.id, told(&error));
            tracing::warn!(%job, error, "cannot say in the log: {text}");
        }
    }
}
