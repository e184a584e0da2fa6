//! What can go wrong with a job before it has a verdict, by what a caller can do about it.

use std::error::Error as StdError;

use danube_core::{ErrorClass, JobId};

/// Why a job was not run, or why its end could not be written down.
///
/// What goes wrong within a job is no error: it is the job's verdict, in its [`Outcome`](crate::Outcome).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The job cannot be run as it was asked for.
    #[error("{what} {rule}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// The rule that it breaks, as a sentence about it.
        rule: String,
    },
    /// A job file cannot be read. The reason names path, line and column as far as they are known.
    #[error("not a valid job file: {reason}")]
    JobFile {
        /// What is wrong with it.
        reason: String,
    },
    /// A secret cannot be masked in the output, so the job is not begun.
    #[error("secret {name} cannot be used")]
    Secret {
        /// The name of its variable.
        name: String,
        /// Why.
        source: danube_secrets::Error,
    },
    /// The globs of artifacts are wrong.
    #[error(transparent)]
    Globs(danube_artifacts::Error),
    /// The record of the job could not be read or written.
    #[error("the record of job {job} could not be written")]
    Record {
        /// The job.
        job: JobId,
        /// Why.
        source: danube_store::Error,
    },
    /// The records of the jobs could not be listed.
    #[error("the jobs could not be listed")]
    List(#[source] danube_store::Error),
    /// The logs could not be listed.
    #[error("the logs could not be listed")]
    ListLogs(#[source] danube_logs::Error),
    /// The log could not be taken: another process owns it, or it was ended already.
    #[error("the log of job {job} cannot be taken")]
    Log {
        /// The job.
        job: JobId,
        /// Why.
        source: danube_logs::Error,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid { .. } | Self::JobFile { .. } => ErrorClass::Invalid,
            Self::Secret { source, .. } => source.class(),
            Self::Globs(source) => source.class(),
            Self::Record { source, .. } | Self::List(source) => source.class(),
            Self::Log { source, .. } | Self::ListLogs(source) => source.class(),
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), rule: rule.into() }
    }
}

/// An error with its causes, as one sentence.
pub(crate) fn told(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors print their cause and give it too; once is enough.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
