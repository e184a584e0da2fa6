//! The contract of the records of jobs, and what is built on it.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use danube_core::{CandidateKind, JobId, JobState, LostReason, Timestamp};

use crate::{Error, JobRecord, StepRecord, Transition};

/// Jobs that one [`JobStore::list`] gives at most.
pub const MAX_JOBS_PER_LIST: usize = 1_000;
/// Characters of an id that people have to type at least.
pub const MIN_TYPED_CHARS: usize = 4;

// One page tells whether what was typed is unique and what else it could mean.
const MAX_AMBIGUOUS: usize = 10;

/// Which jobs to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobQuery {
    /// Only those that have not ended.
    pub unfinished_only: bool,
    /// Only those after this one in the order of the list, which are the older ones.
    pub before: Option<JobCursor>,
    /// How many at most: up to [`MAX_JOBS_PER_LIST`], which a larger number means too. 100 unless told.
    pub limit: usize,
}

impl Default for JobQuery {
    fn default() -> Self {
        Self { unfinished_only: false, before: None, limit: 100 }
    }
}

impl JobQuery {
    /// The same, of jobs that have not ended.
    #[must_use]
    pub fn with_unfinished_only(mut self, unfinished_only: bool) -> Self {
        self.unfinished_only = unfinished_only;
        self
    }

    /// The same, from the job after this one on.
    #[must_use]
    pub fn with_before(mut self, before: JobCursor) -> Self {
        self.before = Some(before);
        self
    }

    /// The same, with at most so many.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

/// A place in the list of jobs: after this job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCursor {
    /// When the job became known.
    pub created_at: Timestamp,
    /// Its id.
    pub id: JobId,
}

impl From<&JobRecord> for JobCursor {
    fn from(job: &JobRecord) -> Self {
        Self { created_at: job.created_at, id: job.id.clone() }
    }
}

/// How many jobs are in a state; of lost ones, for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTally {
    /// The state.
    pub state: JobState,
    /// Why they are lost; `None` for every other state.
    pub lost_reason: Option<LostReason>,
    /// How many.
    pub jobs: u64,
}

/// What [`JobStore::tally`] counts, by name.
#[derive(Default)]
pub(crate) struct Counts(BTreeMap<(&'static str, Option<&'static str>), JobTally>);

impl Counts {
    pub(crate) fn add(&mut self, state: JobState, lost_reason: Option<LostReason>) {
        let names = (state.as_str(), lost_reason.map(LostReason::as_str));
        let none = JobTally { state, lost_reason, jobs: 0 };
        self.0.entry(names).or_insert(none).jobs += 1;
    }

    pub(crate) fn into_tally(self) -> Vec<JobTally> {
        self.0.into_values().collect()
    }
}

/// Records of jobs and their steps.
///
/// * **Atomicity.** Each call happens whole or not at all; a job is read together with its steps as
///   they were at one moment. Calls on one store, from any number of tasks and processes that share
///   its data, have one order, and a call sees what every call that returned before it began did.
/// * **Durability.** What a call acknowledged survives what the backend survives, which it says.
/// * **States go forward**: pending, starting, running (any of them may be left out), and one terminal
///   state, which never changes again.
/// * **Fidelity.** A record comes back as it was created, but times are cut to the millisecond,
///   commands and messages to [`MAX_TEXT_BYTES`](crate::MAX_TEXT_BYTES), and steps stand in the order
///   of their positions.
/// * **Bounds.** [`MAX_STEPS`](crate::MAX_STEPS), [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES) and
///   [`MAX_WORK_DIR_BYTES`](crate::MAX_WORK_DIR_BYTES), sizes and offsets up to 2^63 - 1; what passes
///   one is refused with [`Error::Invalid`] and changes nothing.
/// * **Cancel safety.** A dropped call may or may not have happened, and happened whole or not at all.
///
/// Every call that names one job fails with [`Error::NotFound`] when there is none. Its laws as tests are
/// in `danube_store::conformance` (feature `conformance`).
#[async_trait]
pub trait JobStore: Debug + Display + Send + Sync + 'static {
    /// Records a new job. Of several that create one id at once, one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the id is recorded already; [`Error::Invalid`] when the record
    /// contradicts itself: two steps of one name or position, a `finished_at` without a terminal state
    /// or the other way round, a `lost_reason` without loss or the other way round.
    async fn create(&self, job: &JobRecord) -> Result<(), Error>;

    /// The job and its steps.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    async fn get(&self, id: &JobId) -> Result<JobRecord, Error>;

    /// Jobs, newest first: by `created_at`, then by the bytes of the id, both descending. At most
    /// `limit`, fewer only at the end. Paging with the cursor of the last one seen names every job that
    /// was there throughout exactly once.
    ///
    /// # Errors
    ///
    /// None of its own.
    async fn list(&self, query: &JobQuery) -> Result<Vec<JobRecord>, Error>;

    /// The ids that begin or end with `text`, byte for byte; newest job first, at most `limit` (and
    /// never more than [`MAX_JOBS_PER_LIST`]).
    ///
    /// # Errors
    ///
    /// None of its own.
    async fn matching(&self, text: &str, limit: usize) -> Result<Vec<JobId>, Error>;

    /// How many jobs there are in each state, and lost for each reason: those of which there are any, in the
    /// order of the names of states, then of reasons.
    ///
    /// # Errors
    ///
    /// None of its own.
    async fn tally(&self) -> Result<Vec<JobTally>, Error>;

    /// Moves a job on and returns the state that it left; the state it is in already is a legal aim
    /// while that is not terminal.
    ///
    /// The first step out of `pending` to a state that is not terminal sets `started_at`. A terminal
    /// state sets `finished_at` and ends the steps that have not ended: they take the job's state, and
    /// those that had begun take its `finished_at`. Of several that end one job at once, one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Finished`] when the job has ended, whatever is asked; [`Error::Backwards`];
    /// [`Error::StepUnfinished`] when the job is to succeed and a step has not ended;
    /// [`Error::Invalid`] when a reason of loss is given without loss or the other way round. Nothing is
    /// changed then.
    async fn transition(&self, id: &JobId, change: &Transition) -> Result<JobState, Error>;

    /// Records a step in place of the one at its position, or a new one.
    ///
    /// # Errors
    ///
    /// [`Error::Finished`] when the job has ended; [`Error::StepNameTaken`] when the step of another
    /// position has the name; [`Error::Invalid`] when it would be one step too many.
    async fn put_step(&self, id: &JobId, step: &StepRecord) -> Result<(), Error>;

    /// Notes that somebody wants the job to end, and returns the state it is in. The first request's time
    /// stays; a job that has ended is left as it is. Whoever runs the job does the ending.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    async fn request_cancel(&self, id: &JobId, at: Timestamp) -> Result<JobState, Error>;

    /// Notes that the log or artifacts of a job are gone. The first time stays.
    ///
    /// # Errors
    ///
    /// [`Error::Unfinished`] when the job has not ended, [`Error::Unsupported`] for a kind of data that
    /// records of jobs do not know.
    async fn mark_deleted(
        &self,
        id: &JobId,
        what: CandidateKind,
        at: Timestamp,
    ) -> Result<(), Error>;
}

/// Comfort on top of every [`JobStore`].
#[async_trait]
pub trait JobStoreExt: JobStore {
    /// The job that a person means: its whole id, `latest` for the newest, or at least
    /// [`MIN_TYPED_CHARS`] characters with which its id and no other begins or ends. In this order, so a
    /// job whose id is `latest` can be named.
    ///
    /// # Errors
    ///
    /// [`Error::NoMatch`], [`Error::NoJobs`], [`Error::TooShort`] or [`Error::Ambiguous`].
    async fn resolve(&self, typed: &str) -> Result<JobId, Error> {
        if let Ok(id) = typed.parse::<JobId>() {
            match self.get(&id).await {
                Ok(_) => return Ok(id),
                Err(Error::NotFound { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        if typed == "latest" {
            let newest = self.list(&JobQuery::default().with_limit(1)).await?;
            return newest.into_iter().next().map(|job| job.id).ok_or(Error::NoJobs);
        }
        // Whatever it is, the beginning tells which argument is meant.
        let shown = || typed.chars().take(80).collect();
        if typed.chars().count() < MIN_TYPED_CHARS {
            return Err(Error::TooShort { typed: shown() });
        }
        let mut matches = self.matching(typed, MAX_AMBIGUOUS).await?;
        match (matches.pop(), matches.is_empty()) {
            (None, _) => Err(Error::NoMatch { typed: shown() }),
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                matches.push(last);
                Err(Error::Ambiguous { typed: shown(), matches })
            }
        }
    }
}

impl<T: JobStore + ?Sized> JobStoreExt for T {}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: JobStore + ?Sized> JobStore for Arc<T> {
    async fn create(&self, job: &JobRecord) -> Result<(), Error> {
        (**self).create(job).await
    }

    async fn get(&self, id: &JobId) -> Result<JobRecord, Error> {
        (**self).get(id).await
    }

    async fn list(&self, query: &JobQuery) -> Result<Vec<JobRecord>, Error> {
        (**self).list(query).await
    }

    async fn matching(&self, text: &str, limit: usize) -> Result<Vec<JobId>, Error> {
        (**self).matching(text, limit).await
    }

    async fn tally(&self) -> Result<Vec<JobTally>, Error> {
        (**self).tally().await
    }

    async fn transition(&self, id: &JobId, change: &Transition) -> Result<JobState, Error> {
        (**self).transition(id, change).await
    }

    async fn put_step(&self, id: &JobId, step: &StepRecord) -> Result<(), Error> {
        (**self).put_step(id, step).await
    }

    async fn request_cancel(&self, id: &JobId, at: Timestamp) -> Result<JobState, Error> {
        (**self).request_cancel(id, at).await
    }

    async fn mark_deleted(
        &self,
        id: &JobId,
        what: CandidateKind,
        at: Timestamp,
    ) -> Result<(), Error> {
        (**self).mark_deleted(id, what, at).await
    }
}

#[cfg(test)]
mod tests;
