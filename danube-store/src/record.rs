//! What is recorded about a job, and how it changes.

use danube_core::{ByteRange, JobId, JobState, LostReason, StepName, Timestamp};
use serde::{Deserialize, Serialize};

/// Steps that one job may have.
pub const MAX_STEPS: usize = 1_000;
/// Bytes of a job's name.
pub const MAX_NAME_BYTES: usize = 1_024;
/// Bytes of a work directory: four times the longest path of Linux.
pub const MAX_WORK_DIR_BYTES: usize = 16_384;
/// Bytes that are kept of a command or a message. They are there to be looked at: a longer one is cut
/// and ends with `…`.
pub const MAX_TEXT_BYTES: usize = 16_384;

/// What is recorded about one job.
///
/// A job has a `finished_at` exactly when its state is terminal, and a `lost_reason` exactly when it
/// is lost. Times are kept to the millisecond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// What people call it; several jobs may have one name.
    pub name: String,
    /// Where it stands.
    pub state: JobState,
    /// Why it has no verdict; only of a lost job.
    pub lost_reason: Option<LostReason>,
    /// What there is to say about its state, for people.
    pub message: Option<String>,
    /// When it became known.
    pub created_at: Timestamp,
    /// When it left `pending` for a state that is not terminal.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When somebody first asked for its end.
    pub cancel_requested_at: Option<Timestamp>,
    /// For how many days its log and artifacts are kept; `None` leaves it to the policy.
    pub retention_days: Option<u32>,
    /// The directory it runs in, as text.
    pub work_dir: String,
    /// How many bytes its log has.
    pub log_bytes: u64,
    /// Whether its log was cut at its limit.
    pub log_truncated: bool,
    /// When its log was deleted.
    pub log_deleted_at: Option<Timestamp>,
    /// When the first of its artifacts was deleted by retention.
    pub artifacts_deleted_at: Option<Timestamp>,
    /// Its steps, by position.
    pub steps: Vec<StepRecord>,
}

impl JobRecord {
    /// A job of which nothing has begun.
    #[must_use]
    pub fn pending(id: JobId, name: impl Into<String>, created_at: Timestamp) -> Self {
        Self {
            id,
            name: name.into(),
            state: JobState::Pending,
            lost_reason: None,
            message: None,
            created_at,
            started_at: None,
            finished_at: None,
            cancel_requested_at: None,
            retention_days: None,
            work_dir: String::new(),
            log_bytes: 0,
            log_truncated: false,
            log_deleted_at: None,
            artifacts_deleted_at: None,
            steps: Vec::new(),
        }
    }
}

/// What is recorded about one step of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name, unique within the job.
    pub name: StepName,
    /// Its place in the job.
    pub position: u32,
    /// What it runs, for people. Whoever records it takes the secrets out first.
    pub command: String,
    /// Where it stands.
    pub state: JobState,
    /// The exit code, if it ended with one.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When it began; a step that never did has none.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Where its output lies in the log of the job.
    pub log_range: Option<ByteRange>,
}

impl StepRecord {
    /// A step that has not begun.
    #[must_use]
    pub fn pending(position: u32, name: StepName, command: impl Into<String>) -> Self {
        Self {
            name,
            position,
            command: command.into(),
            state: JobState::Pending,
            exit_code: None,
            signal: None,
            started_at: None,
            finished_at: None,
            log_range: None,
        }
    }
}

/// A change of a job's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Where the job goes.
    pub to: JobState,
    /// Why it is lost: given exactly when `to` is [`JobState::Lost`].
    pub lost_reason: Option<LostReason>,
    /// What there is to say; `None` leaves the message that is there.
    pub message: Option<String>,
    /// When this happens.
    pub at: Timestamp,
    /// What is known of the log; `None` leaves what is there.
    pub log: Option<LogFacts>,
}

/// What a job's record keeps about its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFacts {
    /// How many bytes it has.
    pub bytes: u64,
    /// Whether it was cut at its limit.
    pub truncated: bool,
}

impl Transition {
    /// A change to `to`, which is any state but lost.
    #[must_use]
    pub fn new(to: JobState, at: Timestamp) -> Self {
        Self { to, lost_reason: None, message: None, at, log: None }
    }

    /// The loss of a job.
    #[must_use]
    pub fn lost(reason: LostReason, at: Timestamp) -> Self {
        Self { lost_reason: Some(reason), ..Self::new(JobState::Lost, at) }
    }

    /// The same, with something to say.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// The same, with the length of the log and whether it was cut.
    #[must_use]
    pub fn with_log(mut self, bytes: u64, truncated: bool) -> Self {
        self.log = Some(LogFacts { bytes, truncated });
        self
    }
}
