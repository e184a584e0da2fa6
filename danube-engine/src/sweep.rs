//! What jobs know about the data that may be deleted.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use danube_core::{Candidate, CandidateKind, Clock, JobId, Reaped, Sweep, SweepError};
use danube_store::{Error, JobRecord, JobStore};

use crate::retry::retrying;

/// A sweep with the facts of the jobs laid over it.
///
/// * What belongs to a job came to rest when the job ended; as long as it has not, never. An artifact that was added
///   later did when it was stored. A log must be sealed too: [`seal_abandoned`](crate::seal_abandoned) does that where
///   the owner could not.
/// * The `retention_days` of a job hold for whatever does not say itself how long it is kept.
/// * What belongs to no known job keeps its own facts.
/// * What is deleted is marked in the job's record, after it is gone.
///
/// [`reap`](Sweep::reap) looks at the job again: what belongs to a job that runs is refused as changed.
#[derive(Debug, Clone)]
pub struct JobSweep {
    inner: Arc<dyn Sweep>,
    jobs: Arc<dyn JobStore>,
    clock: Arc<dyn Clock>,
}

impl JobSweep {
    /// Lays the facts of `jobs` over a sweep, for instance a
    /// [`LogSweep`](danube_logs::LogSweep) or an [`ArtifactSweep`](danube_artifacts::ArtifactSweep).
    #[must_use]
    pub fn new(inner: Arc<dyn Sweep>, jobs: Arc<dyn JobStore>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, jobs, clock }
    }

    /// The job that owns something, if it is known.
    async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, SweepError> {
        match retrying(|| self.jobs.get(id)).await {
            Ok(job) => Ok(Some(job)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(format!("reading the record of job {id}"), error)),
        }
    }
}

impl fmt::Display for JobSweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, by {}", self.inner, self.jobs)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Sweep for JobSweep {
    async fn candidates(&self) -> Result<Vec<Candidate>, SweepError> {
        let mut candidates = self.inner.candidates().await?;
        let mut jobs: HashMap<JobId, Option<Facts>> = HashMap::new();
        for candidate in &mut candidates {
            let facts = match jobs.get(&candidate.owner) {
                Some(facts) => facts.clone(),
                None => {
                    let facts = self.job(&candidate.owner).await?.as_ref().map(Facts::of);
                    jobs.insert(candidate.owner.clone(), facts.clone());
                    facts
                }
            };
            if let Some(Facts { finished_at, keep_for }) = facts {
                candidate.finished_at = match (candidate.kind, candidate.finished_at) {
                    // A log that nobody sealed does not rest, whatever its job says: see `seal_abandoned`.
                    (CandidateKind::Log, None) => None,
                    (CandidateKind::Artifact, Some(own)) => finished_at.map(|ended| ended.max(own)),
                    _ => finished_at,
                };
                candidate.keep_for = candidate.keep_for.or(keep_for);
            }
        }
        Ok(candidates)
    }

    async fn reap(&self, candidate: &Candidate) -> Result<Reaped, SweepError> {
        let job = self.job(&candidate.owner).await?;
        if job.as_ref().is_some_and(|job| !job.state.is_terminal()) {
            return Err(SweepError::Changed { id: candidate.id.clone() });
        }
        let reaped = self.inner.reap(candidate).await?;
        if let Some(job) = job {
            let (kind, now) = (candidate.kind, self.clock.now());
            match retrying(|| self.jobs.mark_deleted(&job.id, kind, now)).await {
                // The record itself may have been deleted meanwhile.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    let operation = format!("noting that {kind} {} is deleted", candidate.id);
                    return Err(failed(operation, error));
                }
            }
        }
        Ok(reaped)
    }
}

/// What a job says about its data.
#[derive(Clone)]
struct Facts {
    finished_at: Option<danube_core::Timestamp>,
    keep_for: Option<Duration>,
}

impl Facts {
    fn of(job: &JobRecord) -> Self {
        let days = |days: u32| Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        Self { finished_at: job.finished_at, keep_for: job.retention_days.map(days) }
    }
}

fn failed(operation: String, error: Error) -> SweepError {
    SweepError::Backend { operation, class: error.class(), source: error.into() }
}

#[cfg(test)]
mod tests;
