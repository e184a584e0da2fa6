//! Doing what was planned, one thing after the other, whatever happens to one of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use danube_core::{Candidate, CandidateKind, ErrorClass, Reaped, Sweep, SweepError};

use crate::Plan;

/// Who deletes what.
pub type Sweeps = BTreeMap<CandidateKind, Arc<dyn Sweep>>;

/// What became of a plan.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// What is gone, and what that did.
    pub reaped: Vec<(Candidate, Reaped)>,
    /// What could not be deleted. What is still there is a candidate again the next time.
    pub failed: Vec<(Candidate, SweepError)>,
    /// Sweeps that could not say what they keep, by their names.
    pub unlisted: Vec<(String, SweepError)>,
    /// How many things stayed as planned.
    pub kept: usize,
    /// Bytes really given back to the disk.
    pub bytes_freed: u64,
}

impl Report {
    /// Whether everything that was planned was done, and every sweep was heard.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.unlisted.is_empty()
    }
}

/// Deletes what the plan says, in its order, and goes on after a failure. A candidate that changed
/// since the plan was made is not deleted: its sweep refuses it.
///
/// # Cancel safety
///
/// When it is dropped, some of the plan is done. Planning again and executing that is right.
pub async fn execute(plan: Plan, sweeps: &Sweeps) -> Report {
    let mut report = Report { kept: plan.keep.len(), unlisted: plan.unlisted, ..Report::default() };
    for candidate in plan.reap {
        let done = match sweeps.get(&candidate.kind) {
            Some(sweep) => sweep.reap(&candidate).await,
            None => Err(SweepError::Backend {
                operation: format!("deleting {} {}", candidate.kind, candidate.id),
                class: ErrorClass::Unsupported,
                source: "nobody was given who deletes this kind".into(),
            }),
        };
        let (kind, owner, id) = (candidate.kind, &candidate.owner, &candidate.id);
        match done {
            Ok(reaped) => {
                tracing::info!(%kind, %owner, %id, bytes_freed = reaped.bytes_freed, "deleted");
                report.bytes_freed = report.bytes_freed.saturating_add(reaped.bytes_freed);
                report.reaped.push((candidate, reaped));
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%kind, %owner, %id, %error, cause, "not deleted");
                report.failed.push((candidate, error));
            }
        }
    }
    report
}
