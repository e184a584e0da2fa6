//! The states a job goes through, and the two streams a command writes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name of a state, a reason or a stream that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {name:?}")]
pub struct UnknownState {
    kind: &'static str,
    name: String,
}

macro_rules! names {
    ($type:ident, $kind:literal, $($variant:ident => $name:literal),+ $(,)?) => {
        impl $type {
            /// Every one of them, in the order of a life.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name, as it is stored and printed.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownState;

            fn from_str(name: &str) -> Result<Self, UnknownState> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(UnknownState { kind: $kind, name: name.chars().take(64).collect() }),
                }
            }
        }
    };
}

/// Where a job stands. The last five are terminal: a job never leaves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Known, and nothing of it has begun.
    Pending,
    /// Being made ready: its log exists.
    Starting,
    /// A step of it runs, or its artifacts are being kept.
    Running,
    /// Every step passed, and what it produced is kept.
    Succeeded,
    /// A step ended with something else than 0.
    Failed,
    /// A step or the job outlived its timeout and was ended.
    TimedOut,
    /// Somebody asked for its end.
    Cancelled,
    /// There is no honest verdict; a [`LostReason`] says why.
    Lost,
}

names!(JobState, "job state",
    Pending => "pending", Starting => "starting", Running => "running", Succeeded => "succeeded",
    Failed => "failed", TimedOut => "timed_out", Cancelled => "cancelled", Lost => "lost");

impl JobState {
    /// Whether a job in this state stays in it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Starting | Self::Running)
    }
}

/// Why a job has no honest verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostReason {
    /// The process that ran it died.
    OwnerDied,
    /// The connection to where it ran was lost, and with it the exit status.
    Connection,
    /// Its log could not be written.
    LogWrite,
    /// A step could not be started.
    NotStarted,
    /// Its artifacts could not be kept.
    Collect,
    /// Its artifacts could not be signed.
    Sign,
    /// How it went on could not be recorded.
    Record,
}

names!(LostReason, "lost reason",
    OwnerDied => "owner_died", Connection => "connection", LogWrite => "log_write",
    NotStarted => "not_started", Collect => "collect", Sign => "sign",
    Record => "record");

/// One of the two streams a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

names!(OutputStream, "stream", Stdout => "stdout", Stderr => "stderr");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_equals_its_json() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse::<JobState>().as_ref(), Ok(state));
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        for reason in LostReason::ALL {
            assert_eq!(reason.as_str().parse::<LostReason>().as_ref(), Ok(reason));
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
        }
        assert_eq!(
            "cleaned".parse::<JobState>().unwrap_err().to_string(),
            "unknown job state \"cleaned\""
        );
    }
}
