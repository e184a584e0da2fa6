//! Records in memory, gone with the process.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use danube_core::{ArtifactName, JobId};

use crate::{ArtifactIndex, ArtifactRecord, Error, RecordChange};

type Records = BTreeMap<(JobId, ArtifactName), ArtifactRecord>;

/// An [`ArtifactIndex`] in memory. Clones share their records; nothing survives the process.
#[derive(Debug, Clone, Default)]
pub struct MemoryIndex(Arc<Mutex<Records>>);

impl MemoryIndex {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // Each change is one call on the map: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for MemoryIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("artifact index in memory")
    }
}

#[async_trait]
impl ArtifactIndex for MemoryIndex {
    async fn put(&self, record: &ArtifactRecord) -> Result<(), Error> {
        record.validate()?;
        self.records().insert((record.job.clone(), record.name.clone()), record.clone());
        Ok(())
    }

    async fn get(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        let found = self.records().get(&(job.clone(), name.clone())).cloned();
        found.ok_or_else(|| Error::NoRecord { job: job.clone(), name: name.clone() })
    }

    async fn list(
        &self,
        job: &JobId,
        after: Option<&ArtifactName>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        let records = self.records();
        let of_the_job = records.values().skip_while(|record| record.job < *job);
        Ok(of_the_job
            .take_while(|record| record.job == *job)
            .filter(|record| after.is_none_or(|after| record.name > *after))
            .take(limit)
            .cloned()
            .collect())
    }

    async fn all(
        &self,
        after: Option<(&JobId, &ArtifactName)>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        let records = self.records();
        let start = match after {
            Some((job, name)) => Bound::Excluded((job.clone(), name.clone())),
            None => Bound::Unbounded,
        };
        Ok(records.range((start, Bound::Unbounded)).map(|(_, r)| r.clone()).take(limit).collect())
    }

    async fn change(
        &self,
        job: &JobId,
        name: &ArtifactName,
        change: &RecordChange,
    ) -> Result<ArtifactRecord, Error> {
        let mut records = self.records();
        let Some(record) = records.get_mut(&(job.clone(), name.clone())) else {
            return Err(Error::NoRecord { job: job.clone(), name: name.clone() });
        };
        *record = change.apply(record)?;
        Ok(record.clone())
    }

    async fn remove(&self, job: &JobId, name: &ArtifactName) -> Result<(), Error> {
        self.records().remove(&(job.clone(), name.clone()));
        Ok(())
    }
}
