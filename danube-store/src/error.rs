//! What can go wrong with records, by what a caller can do about it.

use std::path::PathBuf;
use std::time::Duration;

use danube_core::{BoxError, ErrorClass, JobId, JobState, StepName};

use crate::MIN_TYPED_CHARS;

/// An error of this crate. Its message names the job or the database; where there is a cause,
/// `source()` has it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no job of this id.
    #[error("there is no job {job}")]
    NotFound {
        /// The id that was asked for.
        job: JobId,
    },
    /// Nothing that was typed fits.
    #[error("there is no job whose id is, begins or ends with {typed:?}")]
    NoMatch {
        /// What was typed, shortened.
        typed: String,
    },
    /// There is no job at all.
    #[error("there is no job yet")]
    NoJobs,
    /// Too little of an id to look for.
    #[error("{typed:?} is too short: type at least {MIN_TYPED_CHARS} characters of the job's id")]
    TooShort {
        /// What was typed.
        typed: String,
    },
    /// What was typed fits more than one job.
    #[error("{typed:?} fits {}: type more of the id", several(matches))]
    Ambiguous {
        /// What was typed.
        typed: String,
        /// Jobs that it fits, newest first; not always all of them.
        matches: Vec<JobId>,
    },
    /// A job of this id is recorded already.
    #[error("there is a job {job} already")]
    Conflict {
        /// The id.
        job: JobId,
    },
    /// The job has ended, and what ended stays as it is.
    #[error("job {job} has ended already: it is {state}")]
    Finished {
        /// The job.
        job: JobId,
        /// How it ended.
        state: JobState,
    },
    /// The job has not ended.
    #[error("job {job} has not ended: it is {state}")]
    Unfinished {
        /// The job.
        job: JobId,
        /// Where it stands.
        state: JobState,
    },
    /// A job's states go forward only.
    #[error("job {job} is {from} and cannot become {to} again")]
    Backwards {
        /// The job.
        job: JobId,
        /// Where it stands.
        from: JobState,
        /// Where it was to go.
        to: JobState,
    },
    /// A job cannot succeed before its steps have ended.
    #[error("job {job} cannot succeed while its step {step} is {state}")]
    StepUnfinished {
        /// The job.
        job: JobId,
        /// The first step that has not ended.
        step: StepName,
        /// Where that step stands.
        state: JobState,
    },
    /// Another step of the job has this name.
    #[error("job {job} has a step {step} already, at position {position}")]
    StepNameTaken {
        /// The job.
        job: JobId,
        /// The name.
        step: StepName,
        /// Where the step stands that has it.
        position: u32,
    },
    /// A record or a change that contradicts itself or passes a bound.
    #[error("job {job}: {rule}")]
    Invalid {
        /// The job.
        job: JobId,
        /// The rule that is broken, as a sentence.
        rule: String,
    },
    /// The store does not know this kind of data.
    #[error("records of jobs do not keep when a {what} was deleted")]
    Unsupported {
        /// The kind.
        what: String,
    },
    /// A later version of Danube made the database. Nothing was changed.
    #[error(
        "{} has schema version {found}, and this version of danube knows only up to {known}: use the newer danube, or another data directory", path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// The version it has.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The file is a database, but none of Danube's, or its history is not the one known here.
    /// Nothing was changed.
    #[error("{} is not a database of this program: {reason}", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
        /// How that was told.
        reason: String,
    },
    /// The file is no database, or a damaged one. It is left as it is.
    #[error(
        "{} is damaged or no database: keep a copy of it and its -wal file, then restore a backup or move them away", path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was seen.
        source: BoxError,
    },
    /// The disk, or a quota, is full. What was to be written is not; reading goes on.
    #[error("cannot write {}: the disk is full; make room and try again", path.display())]
    Full {
        /// The database.
        path: PathBuf,
        /// What the database said.
        source: BoxError,
    },
    /// The directory or the file cannot be created, opened or written.
    #[error("cannot write {}: check that the directory and the file belong to this user and are writable", path.display())]
    Unwritable {
        /// The database.
        path: PathBuf,
        /// Why.
        source: BoxError,
    },
    /// Other processes kept the database locked for longer than this one was to wait.
    #[error("{} was locked by another process for more than {waited:?}: try again", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The database cannot be used by several processes where it lies.
    #[error(
        "{} cannot use write-ahead logging (its journal mode stays {mode}): put the data directory on a local disk", path.display()
    )]
    NoWal {
        /// The database.
        path: PathBuf,
        /// The journal mode that it has.
        mode: String,
    },
    /// A file of the database was removed or replaced while it was open.
    #[error(
        "{} was removed or replaced while it was in use: put it back, or start this program again", path.display()
    )]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// The database file is gone, but its write-ahead log is there and would be lost.
    #[error(
        "{} is missing or empty, but {} beside it holds changes: put the database back, or move that file away", path.display(), wal.display()
    )]
    OrphanedWal {
        /// The database.
        path: PathBuf,
        /// Its write-ahead log.
        wal: PathBuf,
    },
    /// The SQLite library linked in can corrupt databases in WAL mode.
    #[error("SQLite {found} has a bug that can damage databases: link at least 3.51.3")]
    OldSqlite {
        /// The version linked in.
        found: String,
    },
    /// The runtime shut down before the call began.
    #[error("the program is shutting down")]
    Stopped {
        /// What the runtime said.
        source: BoxError,
    },
    /// The database failed in another way.
    #[error("cannot {operation} in {}", path.display())]
    Backend {
        /// The database.
        path: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// Why.
        source: BoxError,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::NoMatch { .. } | Self::NoJobs => ErrorClass::NotFound,
            Self::TooShort { .. } | Self::Ambiguous { .. } | Self::Invalid { .. } => {
                ErrorClass::Invalid
            }
            Self::Conflict { .. }
            | Self::Finished { .. }
            | Self::Unfinished { .. }
            | Self::Backwards { .. }
            | Self::StepUnfinished { .. }
            | Self::StepNameTaken { .. } => ErrorClass::Conflict,
            Self::Unsupported { .. }
            | Self::NewerSchema { .. }
            | Self::Foreign { .. }
            | Self::NoWal { .. }
            | Self::OldSqlite { .. } => ErrorClass::Unsupported,
            Self::Full { .. } => ErrorClass::Exhausted,
            Self::Unwritable { .. } => ErrorClass::Denied,
            Self::Busy { .. } | Self::Replaced { .. } | Self::Stopped { .. } => {
                ErrorClass::Unavailable
            }
            Self::Corrupt { .. } | Self::OrphanedWal { .. } | Self::Backend { .. } => {
                ErrorClass::Internal
            }
        }
    }
}

fn several(matches: &[JobId]) -> String {
    // A terminal's width of ids helps; a screen of them does not.
    let shown: Vec<_> = matches.iter().take(3).map(JobId::as_str).collect();
    let rest = if matches.len() > shown.len() { " and others" } else { "" };
    format!("several jobs, {}{rest}", shown.join(", "))
}
