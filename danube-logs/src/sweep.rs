//! Logs as candidates for the reaper.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use danube_core::{Candidate, CandidateKind, JobId, Reaped, Sweep, SweepError};

use crate::{Error, LogPhase, LogStat, LogStore};

/// Logs asked for at once.
const PAGE: usize = 1000;

/// Every log of a store as a [`Sweep`]: at rest since it was sealed. One that somebody alive owns, or
/// that is abandoned and not yet recovered, has no `finished_at` and is never deleted.
#[derive(Debug, Clone)]
pub struct LogSweep(Arc<dyn LogStore>);

impl LogSweep {
    /// The logs of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>) -> Self {
        Self(store)
    }
}

impl fmt::Display for LogSweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn candidate(log: JobId, stat: &LogStat) -> Candidate {
    let at_rest = stat.phase == LogPhase::Sealed && !stat.owned;
    let sealed_at = stat.state.sealed_at.filter(|_| at_rest);
    Candidate {
        kind: CandidateKind::Log,
        id: log.to_string(),
        owner: log,
        bytes: stat.len,
        shared: false,
        finished_at: sealed_at,
        keep_for: None,
        pins: Vec::new(),
        version: format!(
            "{}@{}",
            stat.len,
            sealed_at.map_or_else(|| "open".into(), |at| at.to_string())
        ),
    }
}

fn backend(operation: String) -> impl FnOnce(Error) -> SweepError {
    |error| SweepError::Backend { operation, class: error.class(), source: Box::new(error) }
}

#[async_trait]
impl Sweep for LogSweep {
    async fn candidates(&self) -> Result<Vec<Candidate>, SweepError> {
        let mut all: Vec<Candidate> = Vec::new();
        loop {
            let after = all.last().map(|last| last.owner.clone());
            let page =
                self.0.list(after.as_ref(), PAGE).await.map_err(backend("listing logs".into()))?;
            let is_last = page.len() < PAGE;
            all.extend(page.into_iter().map(|(log, stat)| candidate(log, &stat)));
            if is_last {
                return Ok(all);
            }
        }
    }

    async fn reap(&self, planned: &Candidate) -> Result<Reaped, SweepError> {
        let log = &planned.owner;
        let stat = match self.0.stat(log).await {
            Ok(stat) => stat,
            Err(Error::NotFound { .. }) => return Ok(Reaped::default()),
            Err(error) => return Err(backend(format!("looking at log {log}"))(error)),
        };
        let now = candidate(log.clone(), &stat);
        // Whether one that was never sealed may go is for whoever planned it; one with an owner may not.
        if now.version != planned.version || stat.owned {
            return Err(SweepError::Changed { id: planned.id.clone() });
        }
        let freed = self.0.delete(log).await.map_err(backend(format!("deleting log {log}")))?;
        Ok(Reaped { bytes_freed: freed })
    }
}
