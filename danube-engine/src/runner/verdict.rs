//! What is said of a job in the end.

use danube_core::{JobState, LostReason, Timestamp};
use danube_secrets::Needles;
use danube_store::Transition;

/// How a step or a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: JobState,
    pub(super) lost: Option<LostReason>,
    /// For people, secrets not yet masked.
    pub(super) message: Option<String>,
}

impl Verdict {
    pub(super) fn success() -> Self {
        Self { state: JobState::Succeeded, lost: None, message: None }
    }

    /// An end that has a verdict, but no good one.
    pub(super) fn of(state: JobState, message: impl Into<String>) -> Self {
        Self { state, lost: None, message: Some(message.into()) }
    }

    pub(super) fn lost(reason: LostReason, message: impl Into<String>) -> Self {
        Self { lost: Some(reason), ..Self::of(JobState::Lost, message) }
    }

    pub(super) fn is_success(&self) -> bool {
        self.state == JobState::Succeeded
    }

    /// A later mishap takes the verdict away; the first one is kept as the reason.
    pub(super) fn overruled(self, reason: LostReason, message: String) -> Self {
        let message = match self.message {
            Some(before) => format!("{before}; then {message}"),
            None => message,
        };
        Self::lost(self.lost.unwrap_or(reason), message)
    }

    pub(super) fn transition(&self, at: Timestamp, needles: &Needles) -> Transition {
        let mut change = Transition::new(self.state, at);
        change.lost_reason = self.lost;
        change.message = self.message.as_ref().map(|message| needles.redact_str(message));
        change
    }
}
