//! Records in memory, gone with the process.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use danube_core::{ArtifactName, JobId};

use crate::{ArtifactId, ArtifactIndex, ArtifactRecord, Error, RecordChange};

#[derive(Debug, Default)]
struct Records {
    by_name: BTreeMap<(JobId, ArtifactName), ArtifactRecord>,
    by_id: BTreeMap<ArtifactId, (JobId, ArtifactName)>,
}

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
        // Nothing between two calls on the maps panics: a panic elsewhere leaves nothing half done.
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
        let key = (record.job.clone(), record.name.clone());
        let mut records = self.records();
        if records.by_id.get(&record.id).is_some_and(|taken| *taken != key) {
            return Err(Error::id_taken(&record.id));
        }
        if let Some(old) = records.by_name.insert(key.clone(), record.clone()) {
            records.by_id.remove(&old.id);
        }
        records.by_id.insert(record.id, key);
        Ok(())
    }

    async fn get(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        let found = self.records().by_name.get(&(job.clone(), name.clone())).cloned();
        found.ok_or_else(|| Error::NoRecord { job: job.clone(), name: name.clone() })
    }

    async fn find(&self, id: &ArtifactId) -> Result<ArtifactRecord, Error> {
        let records = self.records();
        let found = records.by_id.get(id).and_then(|key| records.by_name.get(key));
        found.cloned().ok_or(Error::NoArtifact { id: *id })
    }

    async fn list(
        &self,
        job: &JobId,
        after: Option<&ArtifactName>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        let records = self.records();
        let of_the_job = records.by_name.values().skip_while(|record| record.job < *job);
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
        let rest = records.by_name.range((start, Bound::Unbounded));
        Ok(rest.map(|(_, record)| record.clone()).take(limit).collect())
    }

    async fn change(
        &self,
        job: &JobId,
        name: &ArtifactName,
        change: &RecordChange,
    ) -> Result<ArtifactRecord, Error> {
        let mut records = self.records();
        let Some(record) = records.by_name.get_mut(&(job.clone(), name.clone())) else {
            return Err(Error::NoRecord { job: job.clone(), name: name.clone() });
        };
        *record = change.apply(record)?;
        Ok(record.clone())
    }

    async fn change_all(
        &self,
        job: &JobId,
        changes: &[(ArtifactName, RecordChange)],
    ) -> Result<Vec<ArtifactRecord>, Error> {
        let mut records = self.records();
        let changed = changes.iter().map(|(name, change)| {
            let found = records.by_name.get(&(job.clone(), name.clone()));
            let missing = || Error::NoRecord { job: job.clone(), name: name.clone() };
            change.apply(found.ok_or_else(missing)?)
        });
        let changed = changed.collect::<Result<Vec<_>, _>>()?;
        for record in &changed {
            records.by_name.insert((job.clone(), record.name.clone()), record.clone());
        }
        Ok(changed)
    }

    async fn remove(&self, job: &JobId, name: &ArtifactName) -> Result<(), Error> {
        let mut records = self.records();
        if let Some(removed) = records.by_name.remove(&(job.clone(), name.clone())) {
            records.by_id.remove(&removed.id);
        }
        Ok(())
    }
}
