//! One sentence for the person at the terminal, and the exit code that goes with it.

use std::error::Error as StdError;
use std::fmt;

use danube_core::ErrorClass;

/// Why a command ended without doing what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    class: ErrorClass,
    message: String,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Invalid, message)
    }

    /// The error with its causes, as one sentence.
    pub(crate) fn of(class: ErrorClass, error: &dyn StdError) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors print their cause and expose it too; once is enough.
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self { class, message }
    }

    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(ErrorClass::of_io(error), format!("{what}: {error}"))
    }

    pub(crate) fn class(&self) -> ErrorClass {
        self.class
    }

    /// The exit code of every command but `run`: 1 for an honest no, 2 for wrong usage, 5 for the rest.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.class {
            ErrorClass::Invalid => 2,
            ErrorClass::NotFound | ErrorClass::Gone | ErrorClass::Conflict => 1,
            _ => 5,
        }
    }

    /// The exit code of `run`, where 1 is a job's verdict: whatever kept it from running is 5.
    pub(crate) fn exit_code_of_run(&self) -> u8 {
        match self.class {
            ErrorClass::Invalid => 2,
            _ => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

macro_rules! from_error {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(error.class(), &error)
            }
        }
    )+};
}

from_error!(
    danube_artifacts::Error,
    danube_engine::Error,
    danube_logs::Error,
    danube_reaper::Error,
    danube_secrets::Error,
    danube_store::Error,
);
