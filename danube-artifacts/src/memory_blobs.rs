//! Blobs in memory, gone with the process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use danube_core::{ByteRange, Clock, JobId, SystemClock, Timestamp};
use futures_util::StreamExt;

use crate::intake::{Intake, clamp};
use crate::{
    Blob, BlobKey, BlobStat, BlobStore, ByteStream, Error, PutMode, PutOptions, Stored,
    bytes_stream,
};

type Blobs = BTreeMap<BlobKey, (Bytes, Timestamp)>;

/// A [`BlobStore`] in memory, for tests and small things: it holds every blob whole. Clones share
/// their blobs; nothing survives the process.
#[derive(Debug, Clone)]
pub struct MemoryBlobs {
    blobs: Arc<Mutex<Blobs>>,
    clock: Arc<dyn Clock>,
}

impl MemoryBlobs {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { blobs: Arc::default(), clock: Arc::new(SystemClock) }
    }

    /// One that takes the time of its blobs from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        // Each change is one call on the map: a panic elsewhere leaves nothing half done.
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryBlobs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for MemoryBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("blobs in memory")
    }
}

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn put(
        &self,
        key: &BlobKey,
        mut body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        let mode = options.mode;
        let mut intake = Intake::new(key.clone(), options)?;
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| Error::Body { key: key.clone(), source })?;
            intake.take(&chunk)?;
            whole.extend_from_slice(&chunk);
        }
        let stored = intake.finish()?;
        let new = (whole.freeze(), self.clock.now());
        match (self.blobs().entry(key.clone()), mode) {
            (Entry::Occupied(_), PutMode::CreateNew) => {
                return Err(Error::Exists { key: key.clone() });
            }
            (Entry::Occupied(mut old), PutMode::Replace) => {
                old.insert(new);
            }
            (Entry::Vacant(vacant), _) => {
                vacant.insert(new);
            }
        }
        Ok(stored)
    }

    async fn get(&self, key: &BlobKey, range: Option<ByteRange>) -> Result<Blob, Error> {
        let found = self.blobs().get(key).map(|(bytes, _)| bytes.clone());
        let bytes = found.ok_or_else(|| Error::NotFound { key: key.clone() })?;
        let size_bytes = bytes.len() as u64;
        let range = clamp(key, range, size_bytes)?;
        // The range lies within bytes that are in memory: it fits a `usize`.
        let body = bytes_stream(bytes.slice(range.start as usize..range.end as usize));
        Ok(Blob { size_bytes, range, body })
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error> {
        match self.blobs().get(key) {
            Some((bytes, modified_at)) => {
                Ok(BlobStat { size_bytes: bytes.len() as u64, modified_at: *modified_at })
            }
            None => Err(Error::NotFound { key: key.clone() }),
        }
    }

    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, Error> {
        Ok(self.blobs().keys().filter(|key| key.job() == job).cloned().collect())
    }

    async fn jobs(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error> {
        let blobs = self.blobs();
        let mut jobs: Vec<JobId> = blobs.keys().map(|key| key.job().clone()).collect();
        jobs.dedup();
        jobs.retain(|job| after.is_none_or(|after| job > after));
        jobs.truncate(limit);
        Ok(jobs)
    }

    async fn delete(&self, key: &BlobKey) -> Result<u64, Error> {
        Ok(self.blobs().remove(key).map_or(0, |(bytes, _)| bytes.len() as u64))
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn sweep(&self, _before: Timestamp) -> Result<u64, Error> {
        Ok(0)
    }
}
