//! Why nothing was swept at all.

use danube_core::{CandidateKind, ErrorClass, JobId, Timestamp};

/// A reason to delete nothing. What goes wrong with one thing stands in the
/// [`Report`](crate::Report) instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The clock is far behind what was recorded: one of the two is wrong, and so may be every age.
    #[error(
        "the clock says {now}, but {kind} {id} of {owner} finished at {finished_at}: nothing is deleted until the clock is right"
    )]
    ClockBehind {
        /// What the clock says.
        now: Timestamp,
        /// The kind of the thing that finished last.
        kind: CandidateKind,
        /// Its id.
        id: String,
        /// The job it belongs to.
        owner: JobId,
        /// When it finished.
        finished_at: Timestamp,
    },
    /// A retention of zero, which might mean nothing or everything.
    #[error("the retention of {kind}s is zero: give a time, or use a very long one to keep all")]
    ZeroRetention {
        /// Whose retention it is.
        kind: CandidateKind,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            // Somebody has to set the clock; trying again does not.
            Self::ClockBehind { .. } => ErrorClass::Internal,
            Self::ZeroRetention { .. } => ErrorClass::Invalid,
        }
    }
}
