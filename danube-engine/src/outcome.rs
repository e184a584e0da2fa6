//! How a job ended.

use danube_artifacts::ArtifactRecord;
use danube_core::{JobState, Sha256Digest};
use danube_store::JobRecord;

/// How a job ended, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// Its record, as it was written last.
    pub job: JobRecord,
    /// What it kept, signed, by name; nothing of a job that did not succeed, unless its files are kept
    /// [`Always`](crate::CollectWhen::Always).
    pub artifacts: Vec<ArtifactRecord>,
    /// The SHA-256 of its sealed log; `None` when the log could not be sealed or read.
    pub log_digest: Option<Sha256Digest>,
}

impl Outcome {
    /// The verdict as an exit code: 0 passed, 1 failed, 3 cancelled, 4 timed out, 5 no honest verdict.
    /// (2 is wrong usage, and the command line's.)
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.job.state {
            JobState::Succeeded => 0,
            JobState::Failed => 1,
            JobState::Cancelled => 3,
            JobState::TimedOut => 4,
            JobState::Pending | JobState::Starting | JobState::Running | JobState::Lost => 5,
        }
    }
}
