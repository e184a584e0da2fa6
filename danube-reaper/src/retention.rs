//! How long things are kept.

use std::time::Duration;

use danube_core::CandidateKind;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long each kind of thing is kept after it finished, unless its owner says otherwise
/// ([`Candidate::keep_for`](danube_core::Candidate::keep_for)). The default is 30 days for each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Logs of jobs.
    pub logs: Duration,
    /// Artifacts of jobs.
    pub artifacts: Duration,
    /// Bytes of all logs together, unfinished and pinned ones included; beyond it the logs that finished first go
    /// before their time, also those whose owner wants them kept longer. `None` for no limit, which is the default.
    pub log_bytes: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { logs: 30 * DAY, artifacts: 30 * DAY, log_bytes: None }
    }
}

impl Retention {
    /// Keeps logs this long.
    #[must_use]
    pub fn with_logs(mut self, logs: Duration) -> Self {
        self.logs = logs;
        self
    }

    /// Keeps artifacts this long.
    #[must_use]
    pub fn with_artifacts(mut self, artifacts: Duration) -> Self {
        self.artifacts = artifacts;
        self
    }

    /// Keeps at most so many bytes of logs, where what must stay leaves the choice.
    #[must_use]
    pub fn with_log_bytes(mut self, bytes: u64) -> Self {
        self.log_bytes = Some(bytes);
        self
    }

    /// How long this kind is kept. `None` for a kind that this version has no retention for: it is
    /// kept.
    #[must_use]
    pub fn of(&self, kind: CandidateKind) -> Option<Duration> {
        match kind {
            CandidateKind::Log => Some(self.logs),
            CandidateKind::Artifact => Some(self.artifacts),
            _ => None,
        }
    }
}
