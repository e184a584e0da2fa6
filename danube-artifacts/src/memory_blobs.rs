//! Blobs in memory, gone with the process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use danube_core::{ByteRange, Clock, JobId, Sha256Digest, SystemClock, Timestamp};
use futures_util::{StreamExt, stream};
use sha2::{Digest as _, Sha256};

use crate::intake::{Intake, clamp};
use crate::tier::restore_days;
use crate::upload::{check_begin, check_part, check_whole};
use crate::{
    Access, Blob, BlobCapabilities, BlobKey, BlobStat, BlobStore, ByteStream, Error, Link,
    LinkOptions, Part, PutMode, PutOptions, Stored, Tier, UploadId, UploadSessions, UploadState,
    bytes_stream,
};

type Blobs = BTreeMap<BlobKey, Held>;

/// A blob that is held.
#[derive(Debug, Clone)]
struct Held {
    bytes: Bytes,
    modified_at: Timestamp,
    tier: Tier,
    /// How long a cold one can be read, if it was restored.
    restored_until: Option<Timestamp>,
}

impl Held {
    fn access(&self, now: Timestamp) -> Access {
        match (self.tier, self.restored_until) {
            (Tier::Hot | Tier::Warm, _) => Access::Now,
            (Tier::Cold, Some(end)) if end > now => Access::Until(end),
            (Tier::Cold, _) => Access::Archived,
        }
    }
}

/// A [`BlobStore`] in memory, for tests and small things: it holds every blob whole. Clones share
/// their blobs; nothing survives the process. Its tiers are names: what is cold has to be restored as anywhere else,
/// which takes no time, and nothing is slower or cheaper.
#[derive(Debug, Clone)]
pub struct MemoryBlobs {
    blobs: Arc<Mutex<Blobs>>,
    uploads: Arc<Mutex<BTreeMap<UploadId, Upload>>>,
    clock: Arc<dyn Clock>,
}

impl MemoryBlobs {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { blobs: Arc::default(), uploads: Arc::default(), clock: Arc::new(SystemClock) }
    }

    /// One that takes the time of its blobs from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn uploads_by_id(&self) -> MutexGuard<'_, BTreeMap<UploadId, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, key: &BlobKey) -> Result<Held, Error> {
        self.blobs().get(key).cloned().ok_or_else(|| Error::NotFound { key: key.clone() })
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
    fn capabilities(&self) -> BlobCapabilities {
        BlobCapabilities::default().with_tiers()
    }

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
        let (bytes, modified_at) = (whole.freeze(), self.clock.now());
        let new = Held { bytes, modified_at, tier: Tier::Hot, restored_until: None };
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
        let held = self.held(key)?;
        if !held.access(self.clock.now()).is_readable() {
            return Err(Error::Archived { key: key.clone() });
        }
        let bytes = held.bytes;
        let size_bytes = bytes.len() as u64;
        let range = clamp(key, range, size_bytes)?;
        // The range lies within bytes that are in memory: it fits a `usize`.
        let body = bytes_stream(bytes.slice(range.start as usize..range.end as usize));
        Ok(Blob { size_bytes, range, body })
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error> {
        let held = self.held(key)?;
        let access = held.access(self.clock.now());
        let Held { bytes, modified_at, tier, .. } = held;
        Ok(BlobStat { size_bytes: bytes.len() as u64, modified_at, tier, access })
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
        Ok(self.blobs().remove(key).map_or(0, |held| held.bytes.len() as u64))
    }

    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), Error> {
        let now = self.clock.now();
        let mut blobs = self.blobs();
        let held = blobs.get_mut(key).ok_or_else(|| Error::NotFound { key: key.clone() })?;
        if held.tier == tier {
            return Ok(());
        }
        if !held.access(now).is_readable() {
            return Err(Error::Archived { key: key.clone() });
        }
        held.tier = tier;
        held.restored_until = None;
        Ok(())
    }

    async fn restore(&self, key: &BlobKey, keep_for: Duration) -> Result<Access, Error> {
        let days = restore_days(keep_for)?;
        let now = self.clock.now();
        let mut blobs = self.blobs();
        let held = blobs.get_mut(key).ok_or_else(|| Error::NotFound { key: key.clone() })?;
        if held.tier == Tier::Cold {
            let end = now.checked_add(Duration::from_hours(24 * u64::from(days))).ok();
            held.restored_until = held.restored_until.max(end);
        }
        Ok(held.access(now))
    }

    async fn link(&self, _key: &BlobKey, options: &LinkOptions) -> Result<Link, Error> {
        options.validate()?;
        Err(Error::unsupported(self, "have no links"))
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn sweep(&self, _before: Timestamp) -> Result<u64, Error> {
        Ok(0)
    }
}

#[async_trait]
impl UploadSessions for MemoryBlobs {
    async fn begin(
        &self,
        key: &BlobKey,
        options: PutOptions,
        part_bytes: u64,
    ) -> Result<UploadId, Error> {
        check_begin(key, &options, part_bytes)?;
        if options.mode == PutMode::CreateNew && self.blobs().contains_key(key) {
            return Err(Error::Exists { key: key.clone() });
        }
        let failed = |e| Error::io(self, format!("begin an upload of {key}"), e);
        let id = UploadId::random().map_err(failed)?;
        let (key, parts) = (key.clone(), Vec::new());
        let state = UploadState { id: id.clone(), key, options, part_bytes, parts, stored: None };
        let upload = Upload { state, bytes: BTreeMap::new(), touched_at: self.clock.now() };
        self.uploads_by_id().insert(id.clone(), upload);
        Ok(id)
    }

    async fn put_part(&self, id: &UploadId, number: u32, bytes: Bytes) -> Result<Part, Error> {
        let mut uploads = self.uploads_by_id();
        let upload = found(uploads.get_mut(id), id)?;
        check_part(&upload.state, number, bytes.len())?;
        let digest = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
        let part = Part { number, size_bytes: bytes.len() as u64, digest };
        upload.bytes.insert(number, (part, bytes));
        upload.touched_at = self.clock.now();
        Ok(part)
    }

    async fn upload(&self, id: &UploadId) -> Result<UploadState, Error> {
        found(self.uploads_by_id().get_mut(id), id).map(|upload| upload.state())
    }

    async fn uploads(&self) -> Result<Vec<UploadId>, Error> {
        Ok(self.uploads_by_id().keys().cloned().collect())
    }

    async fn complete(&self, id: &UploadId) -> Result<Stored, Error> {
        let (state, chunks) = {
            let mut uploads = self.uploads_by_id();
            let upload = found(uploads.get_mut(id), id)?;
            let chunks: Vec<_> =
                upload.bytes.values().map(|(_, bytes)| Ok(bytes.clone())).collect();
            (upload.state(), chunks)
        };
        if let Some(stored) = state.stored {
            return Ok(stored);
        }
        check_whole(&state)?;
        let body: ByteStream = Box::pin(stream::iter(chunks));
        let stored = self.put(&state.key, body, state.options).await?;
        if let Some(upload) = self.uploads_by_id().get_mut(id) {
            upload.state.stored = Some(stored);
        }
        Ok(stored)
    }

    async fn abort(&self, id: &UploadId) -> Result<(), Error> {
        self.uploads_by_id().remove(id);
        Ok(())
    }

    async fn sweep_uploads(&self, before: Timestamp) -> Result<u64, Error> {
        let mut freed = 0;
        self.uploads_by_id().retain(|_, upload| {
            let stays = upload.touched_at >= before;
            if !stays {
                freed += upload.bytes.values().map(|(part, _)| part.size_bytes).sum::<u64>();
            }
            stays
        });
        Ok(freed)
    }
}

/// An upload that was begun.
#[derive(Debug)]
struct Upload {
    /// Without its parts.
    state: UploadState,
    bytes: BTreeMap<u32, (Part, Bytes)>,
    touched_at: Timestamp,
}

impl Upload {
    fn state(&self) -> UploadState {
        let parts = self.bytes.values().map(|(part, _)| *part).collect();
        UploadState { parts, ..self.state.clone() }
    }
}

fn found<'a>(upload: Option<&'a mut Upload>, id: &UploadId) -> Result<&'a mut Upload, Error> {
    upload.ok_or_else(|| Error::NoUpload { id: id.clone() })
}
