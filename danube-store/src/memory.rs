//! Records of jobs in memory, gone with the process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use danube_core::{CandidateKind, JobId, JobState, Timestamp};

use crate::jobs::Counts;
use crate::{
    Error, JobCursor, JobQuery, JobRecord, JobStore, JobTally, MAX_JOBS_PER_LIST, StepRecord,
    Transition, rules,
};

/// A [`JobStore`] in memory. Clones share their records; nothing survives the process.
#[derive(Clone, Default)]
pub struct MemoryJobs(Arc<Mutex<BTreeMap<JobId, JobRecord>>>);

impl MemoryJobs {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<JobId, JobRecord>> {
        // The rules check before they change: what a poisoned lock guards is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(
        &self,
        id: &JobId,
        rule: impl FnOnce(&mut JobRecord) -> Result<T, Error>,
    ) -> Result<T, Error> {
        rule(self.jobs().get_mut(id).ok_or_else(|| Error::NotFound { job: id.clone() })?)
    }

    fn newest_first(&self) -> Vec<JobRecord> {
        let mut jobs: Vec<_> = self.jobs().values().cloned().collect();
        jobs.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        jobs
    }
}

impl fmt::Debug for MemoryJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJobs").field("jobs", &self.jobs().len()).finish()
    }
}

impl fmt::Display for MemoryJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the records in memory")
    }
}

#[async_trait]
impl JobStore for MemoryJobs {
    async fn create(&self, job: &JobRecord) -> Result<(), Error> {
        let kept = rules::admit(job)?;
        match self.jobs().entry(job.id.clone()) {
            Entry::Occupied(_) => Err(Error::Conflict { job: job.id.clone() }),
            Entry::Vacant(place) => {
                place.insert(kept);
                Ok(())
            }
        }
    }

    async fn get(&self, id: &JobId) -> Result<JobRecord, Error> {
        self.change(id, |job| Ok(job.clone()))
    }

    async fn list(&self, query: &JobQuery) -> Result<Vec<JobRecord>, Error> {
        let is_after = |job: &JobRecord, cursor: &JobCursor| {
            (job.created_at, &job.id) < (rules::to_millisecond(cursor.created_at), &cursor.id)
        };
        let jobs = self.newest_first().into_iter();
        Ok(jobs
            .filter(|job| !query.unfinished_only || !job.state.is_terminal())
            .filter(|job| query.before.as_ref().is_none_or(|cursor| is_after(job, cursor)))
            .take(query.limit.min(MAX_JOBS_PER_LIST))
            .collect())
    }

    async fn matching(&self, text: &str, limit: usize) -> Result<Vec<JobId>, Error> {
        let fits = |id: &JobId| id.as_str().starts_with(text) || id.as_str().ends_with(text);
        let ids = self.newest_first().into_iter().map(|job| job.id);
        Ok(ids.filter(fits).take(limit.min(MAX_JOBS_PER_LIST)).collect())
    }

    async fn tally(&self) -> Result<Vec<JobTally>, Error> {
        let mut counts = Counts::default();
        self.jobs().values().for_each(|job| counts.add(job.state, job.lost_reason));
        Ok(counts.into_tally())
    }

    async fn transition(&self, id: &JobId, change: &Transition) -> Result<JobState, Error> {
        self.change(id, |job| rules::transition(job, change))
    }

    async fn put_step(&self, id: &JobId, step: &StepRecord) -> Result<(), Error> {
        self.change(id, |job| rules::put_step(job, step).map(|_| ()))
    }

    async fn request_cancel(&self, id: &JobId, at: Timestamp) -> Result<JobState, Error> {
        self.change(id, |job| Ok(rules::request_cancel(job, at)))
    }

    async fn mark_deleted(
        &self,
        id: &JobId,
        what: CandidateKind,
        at: Timestamp,
    ) -> Result<(), Error> {
        self.change(id, |job| rules::mark_deleted(job, what, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::job_store_conformance!(memory_jobs, (MemoryJobs::new(), ()));
}
