//! What can go wrong with an exec, by what a caller can do about it.

use danube_core::{BoxError, ErrorClass};

/// Why a command could not be started, or why nobody knows how it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command never ran: no such program, no such directory, no permission.
    #[error("cannot start {program:?}: {source}")]
    NotStarted {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The command is malformed: a NUL byte in an argument, `=` in a variable's name.
    #[error("cannot run this command: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The executor cannot do this; [`Capabilities`](crate::Capabilities) say so.
    #[error("{executor} cannot {operation}")]
    Unsupported {
        /// Which executor.
        executor: String,
        /// What was asked of it.
        operation: &'static str,
    },
    /// No command is known by this handle.
    #[error("no command is known by the handle {handle:?}")]
    NotFound {
        /// The handle.
        handle: String,
    },
    /// The connection to the command was lost, and with it how it ended. This is never a success.
    #[error("lost the command: {reason}")]
    Lost {
        /// How.
        reason: String,
        /// The cause, where there is one.
        source: Option<BoxError>,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotStarted { source, .. } => ErrorClass::of_io(source),
            Self::Invalid { .. } => ErrorClass::Invalid,
            Self::Unsupported { .. } => ErrorClass::Unsupported,
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Lost { .. } => ErrorClass::Unavailable,
        }
    }
}
