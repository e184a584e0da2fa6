//! The seam between everything that keeps data and the reaper.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BoxError, ErrorClass, JobId};

/// What kind of data a candidate is; each kind has its own retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CandidateKind {
    /// The log of a job.
    Log,
    /// One artifact of a job.
    Artifact,
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Log => "log",
            Self::Artifact => "artifact",
        })
    }
}

/// A reason why something is kept whatever its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pin {
    /// Somebody said: keep for ever.
    KeepForever,
    /// It belongs to the last job of its name that succeeded.
    LastSuccess,
}

/// Something that may be deleted one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// What it is.
    pub kind: CandidateKind,
    /// Its name within its kind and owner, for people and for [`Sweep::reap`].
    pub id: String,
    /// The job it belongs to.
    pub owner: JobId,
    /// Its logical size in bytes: what budgets count.
    pub bytes: u64,
    /// Whether other things share its bytes, so that deleting it frees less than `bytes`.
    pub shared: bool,
    /// When it came to rest. `None`: still in use or unknown, never deleted.
    pub finished_at: Option<Timestamp>,
    /// How long its owner wants it kept, counted from `finished_at`; `None` leaves it to the policy.
    pub keep_for: Option<Duration>,
    /// What holds it whatever its age.
    pub pins: Vec<Pin>,
    /// Changes whenever the thing changes; [`Sweep::reap`] refuses one that is not what was planned.
    pub version: String,
}

/// What a deletion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reaped {
    /// Bytes really given back to the disk; 0 where it was gone already or others share it.
    pub bytes_freed: u64,
}

/// Why a candidate could not be listed or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// It is not what it was when the plan was made.
    #[error("{id} changed since the plan was made")]
    Changed {
        /// The candidate's id.
        id: String,
    },
    /// The backend failed.
    #[error("{operation} failed")]
    Backend {
        /// What was tried.
        operation: String,
        /// What a caller can do about it.
        class: ErrorClass,
        /// The cause.
        source: BoxError,
    },
}

impl SweepError {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Changed { .. } => ErrorClass::Conflict,
            Self::Backend { class, .. } => *class,
        }
    }
}

/// Something that keeps data and can let go of it.
///
/// * `candidates` names everything that is kept, what must not be deleted included (its
///   `finished_at` is `None`, or it is pinned): the decision is the reaper's.
/// * `reap` deletes one candidate if its version is still the planned one. It is idempotent: a
///   candidate that is gone is a success that freed nothing. A crash in the middle leaves
///   something that the next `candidates` names again.
/// * Cancel safety: a dropped `reap` may or may not have happened; calling it again is right.
#[async_trait]
pub trait Sweep: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Everything kept here.
    async fn candidates(&self) -> Result<Vec<Candidate>, SweepError>;

    /// Deletes one.
    async fn reap(&self, candidate: &Candidate) -> Result<Reaped, SweepError>;
}
