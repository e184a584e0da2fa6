//! What can go wrong with a log, by what a caller can do about it.

use std::io;

use danube_core::{ErrorClass, JobId};

/// Why a log could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such log.
    #[error("there is no log of job {log}")]
    NotFound {
        /// The log.
        log: JobId,
    },
    /// Somebody alive writes it: another process, or this one already.
    #[error("the log of job {log} is being written by somebody else")]
    Owned {
        /// The log.
        log: JobId,
    },
    /// It was not opened for writing here, or somebody took it over.
    #[error("the log of job {log} is not open for writing here")]
    NotOwned {
        /// The log.
        log: JobId,
    },
    /// It is sealed: nothing is ever appended again.
    #[error("the log of job {log} is sealed")]
    Sealed {
        /// The log.
        log: JobId,
    },
    /// An append did not continue the log.
    #[error("the log of job {log} ends at byte {actual}, not at {expected}")]
    OffsetConflict {
        /// The log.
        log: JobId,
        /// Where the caller thought that it ends.
        expected: u64,
        /// Where it ends.
        actual: u64,
    },
    /// An option is out of its range.
    #[error("{reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The directory of the logs could not be read.
    #[error("cannot list the logs in {}: {source}", dir.display())]
    List {
        /// The directory.
        dir: std::path::PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The system refused: a full disk, a lost permission, something that is no file.
    #[error("cannot {operation} the log of job {log}: {source}")]
    Io {
        /// The log.
        log: JobId,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// The same once more, for several who wait for one thing.
    pub(crate) fn share(&self) -> Self {
        let again = |source: &io::Error| match source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(source.kind(), source.to_string()),
        };
        match self {
            Self::NotFound { log } => Self::NotFound { log: log.clone() },
            Self::Owned { log } => Self::Owned { log: log.clone() },
            Self::NotOwned { log } => Self::NotOwned { log: log.clone() },
            Self::Sealed { log } => Self::Sealed { log: log.clone() },
            Self::OffsetConflict { log, expected, actual } => {
                Self::OffsetConflict { log: log.clone(), expected: *expected, actual: *actual }
            }
            Self::Invalid { reason } => Self::Invalid { reason: reason.clone() },
            Self::List { dir, source } => Self::List { dir: dir.clone(), source: again(source) },
            Self::Io { log, operation, source } => {
                Self::Io { log: log.clone(), operation, source: again(source) }
            }
        }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Owned { .. }
            | Self::NotOwned { .. }
            | Self::Sealed { .. }
            | Self::OffsetConflict { .. } => ErrorClass::Conflict,
            Self::Invalid { .. } => ErrorClass::Invalid,
            Self::Io { source, .. } | Self::List { source, .. } => ErrorClass::of_io(source),
        }
    }
}
