//! Asking everybody, deciding, doing.

use std::sync::Arc;
use std::time::Duration;

use danube_core::{CandidateKind, Clock, Sweep, Timestamp};

use crate::report::{Report, Sweeps, execute};
use crate::{Error, KeepReason, Plan, Retention, plan};

#[cfg(test)]
mod tests;

/// How far the clock may be behind what was recorded. A day: clocks of machines that share a disk
/// differ by seconds, and a clock that lost its time is off by years.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

/// One pass of retention over everything that keeps data.
///
/// It keeps nothing between two passes, so any number of processes may make them at once: deleting
/// is idempotent.
#[derive(Debug, Clone)]
pub struct Reaper {
    clock: Arc<dyn Clock>,
    retention: Retention,
    sweeps: Sweeps,
}

impl Reaper {
    /// A reaper that knows nobody yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, retention: Retention) -> Self {
        Self { clock, retention, sweeps: Sweeps::new() }
    }

    /// Makes it ask this one for things of this kind, in place of whom it asked before.
    #[must_use]
    pub fn with_sweep(mut self, kind: CandidateKind, sweep: Arc<dyn Sweep>) -> Self {
        self.sweeps.insert(kind, sweep);
        self
    }

    /// Asks what there is and decides; deletes nothing. This is what a dry run shows.
    ///
    /// A sweep that cannot answer stands in [`Plan::unlisted`], and the others go on.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroRetention`]; [`Error::ClockBehind`] when anything finished more than
    /// [`CLOCK_TOLERANCE`] after now. (A clock that is ahead cannot be told from time that passed:
    /// nothing guards against it.)
    pub async fn plan(&self) -> Result<Plan, Error> {
        for kind in self.sweeps.keys().copied() {
            if self.retention.of(kind).is_some_and(|keep| keep.is_zero()) {
                return Err(Error::ZeroRetention { kind });
            }
        }
        let (mut seen, mut foreign, mut unlisted) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, sweep) in &self.sweeps {
            match sweep.candidates().await {
                Ok(candidates) => {
                    let (own, others): (Vec<_>, Vec<_>) =
                        candidates.into_iter().partition(|candidate| candidate.kind == *kind);
                    seen.extend(own);
                    foreign.extend(others);
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%sweep, %error, cause, "not swept");
                    unlisted.push((sweep.to_string(), error));
                }
            }
        }
        // Read after the lists: nothing in them finished later than this by a clock that works.
        let now = self.clock.now();
        let newest = seen.iter().max_by_key(|candidate| candidate.finished_at);
        if let Some((newest, finished_at)) = newest.and_then(|c| Some((c, c.finished_at?)))
            && finished_at > now.checked_add(CLOCK_TOLERANCE).unwrap_or(Timestamp::MAX)
        {
            return Err(Error::ClockBehind {
                now,
                kind: newest.kind,
                id: newest.id.clone(),
                owner: newest.owner.clone(),
                finished_at,
            });
        }
        let mut plan = plan(now, &self.retention, seen);
        plan.keep.extend(foreign.into_iter().map(|c| (c, KeepReason::ForeignKind)));
        plan.unlisted = unlisted;
        Ok(plan)
    }

    /// Makes a plan and executes it.
    ///
    /// # Errors
    ///
    /// As [`plan`](Self::plan), and then nothing was deleted. What went wrong with one thing stands
    /// in the report.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, some things are deleted; the next pass deletes the others.
    pub async fn run(&self) -> Result<Report, Error> {
        Ok(execute(self.plan().await?, &self.sweeps).await)
    }
}
