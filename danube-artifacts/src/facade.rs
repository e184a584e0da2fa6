//! Blobs, index, signer and clock as one thing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use danube_core::{ArtifactName, ByteRange, Clock, JobId, Sha256Digest, Timestamp};
use futures_util::StreamExt;

use crate::attest::{self, Envelope, LogSubject, ProvenanceInput};
use crate::intake::Intake;
use crate::stream::peek;
use crate::{
    ArtifactId, ArtifactIndex, ArtifactKind, ArtifactRecord, ArtifactState, Blob, BlobKey,
    BlobPart, BlobStore, ByteStream, DEFAULT_MAX_BYTES, Durability, Error, PutMode, PutOptions,
    RecordChange, Signer, Stored, UploadId, UploadSessions, bytes_stream,
};

mod archive;
#[cfg(feature = "archive")]
mod directory;
mod links;
mod progress;
mod records;

pub use progress::Progress;
pub use records::MAX_RECORDS_BYTES;
pub(crate) use records::tidy_records;

#[cfg(test)]
mod tests;

/// Records that a page of [`Artifacts::list`] asks for, and that [`Artifacts::sign_all`] changes at once.
const PAGE: usize = 500;
/// More signatures than this are synced together: fewer would wait for what others write to the same disk.
const SYNCED_APART: usize = 16;
/// What is looked at to tell a media type: the furthest magic number lies 32 KiB deep, the usual ones
/// within the first 512 bytes.
const SNIFFED_BYTES: usize = 8 * 1024;

/// How [`Artifacts::keep`] keeps.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeepOptions {
    /// What to do with an artifact of that name that is there.
    pub mode: PutMode,
    /// The most bytes it may have.
    pub max_bytes: u64,
    /// How many bytes it must have, where the caller knows.
    pub size_bytes: Option<u64>,
    /// What it must hash to, where the caller knows.
    pub expected: Option<Sha256Digest>,
    /// What the return promises.
    pub durability: Durability,
    /// Its media type; by default its first bytes and its name tell.
    pub content_type: Option<String>,
    /// What sort of thing it is; by default its name and media type tell.
    pub kind: Option<ArtifactKind>,
    /// Who wants to know how far it is.
    pub progress: Option<Progress>,
    /// How long its owner wants it kept.
    pub keep_for: Option<Duration>,
    /// Whether retention never applies to it.
    pub keep_forever: bool,
    /// What its owner says about it.
    pub tags: BTreeMap<String, String>,
}

impl Default for KeepOptions {
    /// A new artifact of at most [`DEFAULT_MAX_BYTES`], kept as long as the policy says.
    fn default() -> Self {
        Self {
            mode: PutMode::CreateNew,
            max_bytes: DEFAULT_MAX_BYTES,
            size_bytes: None,
            expected: None,
            durability: Durability::Synced,
            content_type: None,
            kind: None,
            progress: None,
            keep_for: None,
            keep_forever: false,
            tags: BTreeMap::new(),
        }
    }
}

impl KeepOptions {
    /// What of it the store of the bytes has to know.
    #[must_use]
    pub fn put(&self) -> PutOptions {
        PutOptions {
            mode: self.mode,
            max_bytes: self.max_bytes,
            size_bytes: self.size_bytes,
            expected: self.expected,
            durability: self.durability,
        }
    }

    /// With this mode.
    #[must_use]
    pub fn with_mode(mut self, mode: PutMode) -> Self {
        self.mode = mode;
        self
    }

    /// With this limit.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Only if it has this digest.
    #[must_use]
    pub fn with_expected(mut self, digest: Sha256Digest) -> Self {
        self.expected = Some(digest);
        self
    }

    /// Only if it has exactly this size.
    #[must_use]
    pub fn with_size_bytes(mut self, size_bytes: u64) -> Self {
        self.size_bytes = Some(size_bytes);
        self
    }

    /// With this promise; [`Artifacts::sync`] keeps a deferred one.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// With this media type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Of this kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ArtifactKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Telling `progress` how many bytes the store has taken so far, and how many there are, where
    /// [`size_bytes`](Self::size_bytes) says so. It is called for every piece of the body (256 KiB of a file), on the
    /// runtime's thread: it must not block, and whoever shows it shows as often as eyes can follow. An upload in parts
    /// has a progress of its own ([`send_file`](crate::send_file)).
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Progress::new(progress));
        self
    }

    /// Kept that long, counted in whole seconds; `None` leaves it to the policy.
    #[must_use]
    pub fn with_keep_for(mut self, keep_for: Option<Duration>) -> Self {
        self.keep_for = keep_for;
        self
    }

    /// Kept for ever.
    #[must_use]
    pub fn with_keep_forever(mut self) -> Self {
        self.keep_forever = true;
        self
    }

    /// With one more tag.
    #[must_use]
    pub fn with_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// The artifacts of jobs: their bytes, their records, their signatures. Clones share everything.
///
/// The order of a life: [`keep`](Self::keep) (`uploading`), [`sign`](Self::sign) (`active`), and once
/// per job [`prove`](Self::prove). Every step can be done again after a crash; what a crash leaves
/// behind is a candidate of [`ArtifactSweep`](crate::ArtifactSweep). Where the backend has tiers, an active artifact can be
/// [archived](Self::archive) and brought back.
///
/// Beside a job's artifacts lies `metadata.json`, the list of their records ([`write_records`](Self::write_records)):
/// [`prove`](Self::prove) and every later change write it.
#[derive(Debug, Clone)]
pub struct Artifacts {
    blobs: Arc<dyn BlobStore>,
    index: Arc<dyn ArtifactIndex>,
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
}

impl fmt::Display for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "artifacts in {} and {}", self.blobs, self.index)
    }
}

impl Artifacts {
    /// From its parts.
    #[must_use]
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        index: Arc<dyn ArtifactIndex>,
        signer: Arc<dyn Signer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { blobs, index, signer, clock }
    }

    /// The store of the bytes.
    #[must_use]
    pub fn blobs(&self) -> &Arc<dyn BlobStore> {
        &self.blobs
    }

    /// The records.
    #[must_use]
    pub fn index(&self) -> &Arc<dyn ArtifactIndex> {
        &self.index
    }

    /// Stores an artifact's bytes and records it as `uploading`.
    ///
    /// # Errors
    ///
    /// Those of [`BlobStore::put`] and [`ArtifactIndex::put`]; [`Error::Invalid`] when the record
    /// breaks its bounds, before anything is stored.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may leave bytes without a record: keep it again with [`PutMode::Replace`], or leave
    /// them to the sweep.
    pub async fn keep(
        &self,
        job: &JobId,
        name: &ArtifactName,
        body: ByteStream,
        options: KeepOptions,
    ) -> Result<ArtifactRecord, Error> {
        let put = options.put();
        let (kind, progress) = (options.kind, options.progress.clone());
        let mut record = Self::record_of(job, name, options)?;
        let (head, mut body) = peek(body, SNIFFED_BYTES).await;
        tell(&mut record, kind, &head);
        if let Some(progress) = progress {
            body = progress.watch(body, put.size_bytes);
        }
        let stored = self.blobs.put(&BlobKey::artifact(job, name), body, put).await?;
        self.record(record, stored).await
    }

    /// Completes an upload in parts and records what it became as `uploading`. Doing it again gives the record that is
    /// there, whatever became of it since: signed, tagged, archived. Of `options` counts what [`KeepOptions::put`] does not
    /// give: that was said when the upload began.
    ///
    /// # Errors
    ///
    /// Those of [`UploadSessions::complete`], of [`BlobStore::get`] and [`ArtifactIndex::put`];
    /// [`Error::Invalid`] for an upload that is no artifact. Of an upload that was complete before: [`Error::NotFound`] when
    /// what it became is gone, [`Error::Replaced`] when another artifact took its place, [`Error::NotActive`] when it is
    /// being deleted.
    pub async fn keep_upload(
        &self,
        uploads: &dyn UploadSessions,
        id: &UploadId,
        options: KeepOptions,
    ) -> Result<ArtifactRecord, Error> {
        let state = uploads.upload(id).await?;
        let key = state.key;
        let BlobPart::Artifact(name) = key.part() else {
            return Err(Error::invalid("upload", &key.to_string(), "is no artifact"));
        };
        let kind = options.kind;
        let mut record = Self::record_of(key.job(), name, options)?;
        record.id = ArtifactId::of_upload(id);
        let stored = uploads.complete(id).await?;
        match self.index.get(key.job(), name).await {
            Ok(known) if known.id == record.id => {
                return match known.state {
                    ArtifactState::Deleted => Err(links::not_active(known)),
                    _ => Ok(known),
                };
            }
            // Whoever completed it may have died before it was recorded; or it was, and that is long ago.
            Ok(_) | Err(Error::NoRecord { .. }) if state.stored.is_some() => {
                let body = self.blobs.get(&key, None).await?.body;
                let any = PutOptions::default().with_max_bytes(u64::MAX);
                if measure(&key, body, any).await?.digest != stored.digest {
                    return Err(Error::Replaced { job: key.job().clone(), name: name.clone() });
                }
            }
            Ok(_) | Err(Error::NoRecord { .. }) => {}
            Err(error) => return Err(error),
        }
        if record.content_type.is_empty() {
            let head = (stored.size_bytes > 0).then(|| ByteRange::new(0, SNIFFED_BYTES as u64));
            let (head, _) = peek(self.blobs.get(&key, head).await?.body, SNIFFED_BYTES).await;
            tell(&mut record, kind, &head);
        }
        self.record(record, stored).await
    }

    /// The record as far as it is known before the bytes are; without a media type where they tell it.
    fn record_of(
        job: &JobId,
        name: &ArtifactName,
        options: KeepOptions,
    ) -> Result<ArtifactRecord, Error> {
        let KeepOptions { content_type, kind, keep_for, keep_forever, tags, .. } = options;
        let told = content_type.is_some();
        let content_type = content_type.unwrap_or_else(|| content_type_of(name, &[]));
        let mut record = ArtifactRecord {
            id: ArtifactId::NONE,
            job: job.clone(),
            name: name.clone(),
            size_bytes: 0,
            digest: Sha256Digest::from_bytes([0; 32]),
            kind: kind.unwrap_or_else(|| ArtifactKind::of(name, &content_type)),
            content_type,
            state: ArtifactState::Uploading,
            created_at: Timestamp::UNIX_EPOCH,
            archived_at: None,
            keep_for: keep_for.map(|duration| Duration::from_secs(duration.as_secs())),
            keep_forever,
            tags,
        };
        record.validate()?;
        if !told {
            record.content_type.clear();
        }
        Ok(record)
    }

    async fn record(
        &self,
        mut record: ArtifactRecord,
        stored: Stored,
    ) -> Result<ArtifactRecord, Error> {
        record.size_bytes = stored.size_bytes;
        record.digest = stored.digest;
        record.created_at = whole_milliseconds(self.clock.now());
        if record.id == ArtifactId::NONE {
            record.id = ArtifactId::mint(record.created_at);
        }
        self.index.put(&record).await?;
        Ok(record)
    }

    /// Signs an artifact that was kept: stores the signature of its digest, and then records it as
    /// `active`: what was kept with [`Durability::Deferred`] is to be [synced](Self::sync) before. Signing again replaces
    /// the signature; an archived one stays archived. Whoever adds to a job that was
    /// proved has its [records written](Self::write_records) afterwards; a job signs many, and `prove` writes them once.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecord`]; [`Error::NotActive`] when it is being deleted; [`Error::DigestMismatch`] when
    /// it was replaced since `record` was made, [`Error::Replaced`] when that happens meanwhile; those of the signer, the store and the index. The
    /// artifact then is `uploading` still.
    pub async fn sign(&self, record: &ArtifactRecord) -> Result<ArtifactRecord, Error> {
        let change = self.put_signature(record, Durability::Synced).await?;
        self.index.change(&record.job, &record.name, &change).await
    }

    /// Signs many artifacts, and gives them in the same order. Their signatures are synced together, and those
    /// of one job that stand side by side are recorded as `active` together: for thousands of small files this is
    /// many times faster than [`sign`](Self::sign) for each.
    ///
    /// # Errors
    ///
    /// Those of [`sign`](Self::sign) and of [`BlobStore::sync`]. Some may be `active` then, and signing all of them
    /// again is right.
    pub async fn sign_all(&self, records: &[ArtifactRecord]) -> Result<Vec<ArtifactRecord>, Error> {
        let mut signed = Vec::with_capacity(records.len());
        for some in records.chunks(PAGE) {
            let synced_apart = some.len() <= SYNCED_APART;
            let durability = if synced_apart { Durability::Synced } else { Durability::Deferred };
            let mut changes = Vec::with_capacity(some.len());
            for record in some {
                let change = self.put_signature(record, durability).await?;
                changes.push((record.name.clone(), change));
            }
            if !synced_apart {
                self.blobs.sync().await?;
            }
            let mut rest = &changes[..];
            for of_one_job in some.chunk_by(|one, next| one.job == next.job) {
                let (changes, later) = rest.split_at(of_one_job.len());
                signed.extend(self.index.change_all(&of_one_job[0].job, changes).await?);
                rest = later;
            }
        }
        Ok(signed)
    }

    /// Stores a signature, and tells what is to be recorded of that.
    async fn put_signature(
        &self,
        record: &ArtifactRecord,
        durability: Durability,
    ) -> Result<RecordChange, Error> {
        let (job, name) = (&record.job, &record.name);
        let current = self.index.get(job, name).await?;
        if current.state == ArtifactState::Deleted {
            let (job, name) = (job.clone(), name.clone());
            return Err(Error::NotActive { job, name, state: current.state });
        }
        if current.digest != record.digest {
            let (expected, actual) = (record.digest, current.digest);
            return Err(Error::DigestMismatch {
                key: BlobKey::artifact(job, name),
                expected,
                actual,
            });
        }
        let signature = self.signer.sign(record.digest.as_bytes()).await?;
        let bytes = signature.as_bytes().to_vec();
        let replace = PutOptions::default().with_mode(PutMode::Replace).with_durability(durability);
        self.blobs.put(&BlobKey::signature(job, name), bytes_stream(bytes), replace).await?;
        let mut change = RecordChange::default().only(current.id);
        if current.state == ArtifactState::Uploading {
            change.state = Some(ArtifactState::Active);
        }
        Ok(change)
    }

    /// Makes durable what was kept with [`Durability::Deferred`].
    ///
    /// # Errors
    ///
    /// Those of [`BlobStore::sync`].
    pub async fn sync(&self) -> Result<(), Error> {
        self.blobs.sync().await
    }

    /// Changes what is known about an artifact: its tags, how long it is kept; and writes the records of its job anew.
    ///
    /// # Errors
    ///
    /// Those of [`ArtifactIndex::change`]; [`Error::Invalid`] for a change of its state, which follows from
    /// what happens to it; [`Error::NotActive`] when it is being deleted; those of
    /// [`write_records`](Self::write_records), and the same change once more is right then.
    pub async fn change(
        &self,
        job: &JobId,
        name: &ArtifactName,
        change: &RecordChange,
    ) -> Result<ArtifactRecord, Error> {
        if change.state.is_some() || change.archived_at.is_some() {
            return Err(Error::invalid("artifact", name.as_str(), "has a state of its own"));
        }
        let current = self.index.get(job, name).await?;
        if current.state == ArtifactState::Deleted {
            let (job, name) = (job.clone(), name.clone());
            return Err(Error::NotActive { job, name, state: current.state });
        }
        let changed = self.index.change(job, name, change).await?;
        self.write_records(job).await?;
        Ok(changed)
    }

    /// Writes the provenance of a job: the signed envelope, then its payload; then the records of its artifacts. Doing it
    /// again replaces all three.
    ///
    /// # Errors
    ///
    /// Those of [`attest::statement`], of the signer and of the store.
    pub async fn prove(
        &self,
        input: &ProvenanceInput,
        artifacts: &[ArtifactRecord],
        log: Option<&LogSubject>,
    ) -> Result<(), Error> {
        let mut statement = attest::statement(input, artifacts, log)?;
        statement.sign_subjects(&*self.signer).await?;
        let envelope = Envelope::seal(&statement, &*self.signer).await?;
        let replace = PutOptions::default().with_mode(PutMode::Replace);
        for (key, bytes) in [
            (BlobKey::envelope(&input.job), envelope.to_bytes()),
            (BlobKey::provenance(&input.job), envelope.payload().to_vec()),
        ] {
            self.blobs.put(&key, bytes_stream(bytes), replace.clone()).await?;
        }
        self.write_records(&input.job).await
    }

    /// The record of an artifact, whatever its state.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecord`], and those of the index.
    pub async fn get(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        self.index.get(job, name).await
    }

    /// The record of the artifact with this id, whatever its state.
    ///
    /// # Errors
    ///
    /// [`Error::NoArtifact`], and those of the index.
    pub async fn find(&self, id: &ArtifactId) -> Result<ArtifactRecord, Error> {
        self.index.find(id).await
    }

    /// The artifacts of a job by name, without deleted ones; none for a job that is not known.
    ///
    /// # Errors
    ///
    /// Those of the index.
    pub async fn list(&self, job: &JobId) -> Result<Vec<ArtifactRecord>, Error> {
        let mut all = Vec::new();
        let mut after: Option<ArtifactName> = None;
        loop {
            let page = self.index.list(job, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(all) };
            after = Some(last.name.clone());
            all.extend(page.into_iter().filter(|r| r.state != ArtifactState::Deleted));
        }
    }

    /// Opens an artifact to read it, or a range of it: an active one, or an archived one that was
    /// [restored](Self::restore). Read whole, it ends with an error where its bytes are not those that were stored.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecord`], [`Error::NotActive`], and those of [`BlobStore::get`]: [`Error::Archived`] for one that was not
    /// restored, or not for long enough.
    pub async fn open(
        &self,
        job: &JobId,
        name: &ArtifactName,
        range: Option<ByteRange>,
    ) -> Result<(ArtifactRecord, Blob), Error> {
        let record = self.signed(job, name).await?;
        let mut blob = self.blobs.get(&BlobKey::artifact(job, name), range).await?;
        if range.is_none() {
            blob.body = record.checked(blob.body);
        }
        Ok((record, blob))
    }

    /// The record of an artifact that is signed and not being deleted.
    async fn signed(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        let record = self.index.get(job, name).await?;
        if record.state.is_kept() {
            return Ok(record);
        }
        let ArtifactRecord { job, name, state, .. } = record;
        Err(Error::NotActive { job, name, state })
    }

    /// Deletes an artifact, archived or not: nobody can open it from the first moment on, then its bytes and its
    /// signature go, then its record; the records of its job are written anew. One that is not there is a success. The
    /// provenance of the job stays as long as the job has artifacts.
    ///
    /// # Errors
    ///
    /// Those of the index and the store; calling it again goes on where it stopped.
    pub async fn delete(&self, job: &JobId, name: &ArtifactName) -> Result<u64, Error> {
        let freed = delete_artifact(&*self.blobs, &*self.index, job, name).await?;
        self.write_records(job).await?;
        Ok(freed)
    }

    /// [Deletes](Self::delete) several artifacts of a job, and writes its records once. It goes on after one that cannot
    /// be deleted. The provenance of the job and the copy of its log stay, also where it has no other artifacts.
    ///
    /// # Errors
    ///
    /// The first of those of [`delete`](Self::delete); calling it again goes on where it stopped.
    pub async fn delete_each(&self, job: &JobId, names: &[ArtifactName]) -> Result<u64, Error> {
        let (mut freed, mut failed) = (0, None);
        for name in names {
            match delete_alone(&*self.blobs, &*self.index, job, name).await {
                Ok(bytes) => freed += bytes,
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        self.write_records(job).await?;
        failed.map_or(Ok(freed), Err)
    }

    /// Deletes every artifact of a job that is not kept for ever, and tells how many those were and what
    /// that freed. A job that is not known has none.
    ///
    /// # Errors
    ///
    /// Those of [`delete`](Self::delete); calling it again goes on where it stopped.
    pub async fn delete_job(&self, job: &JobId) -> Result<Deleted, Error> {
        let mut deleted = Deleted::default();
        let mut after: Option<ArtifactName> = None;
        loop {
            let page = self.index.list(job, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            for record in page {
                if record.keep_forever && record.state != ArtifactState::Deleted {
                    deleted.kept += 1;
                    continue;
                }
                let (blobs, index) = (&*self.blobs, &*self.index);
                deleted.bytes_freed += delete_artifact(blobs, index, job, &record.name).await?;
                deleted.artifacts += 1;
            }
        }
        self.write_records(job).await?;
        Ok(deleted)
    }
}

/// What [`Artifacts::delete_job`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// How many artifacts are gone.
    pub artifacts: u64,
    /// How many stay because they are kept for ever.
    pub kept: u64,
    /// How many bytes were freed; shared ones count when their last artifact goes.
    pub bytes_freed: u64,
}

/// Deletes an artifact, and with the last one of a job what is kept once for it.
pub(crate) async fn delete_artifact(
    blobs: &dyn BlobStore,
    index: &dyn ArtifactIndex,
    job: &JobId,
    name: &ArtifactName,
) -> Result<u64, Error> {
    let mut freed = delete_alone(blobs, index, job, name).await?;
    if index.list(job, None, 1).await?.is_empty() {
        freed += delete_provenance(blobs, job).await?;
    }
    Ok(freed)
}

/// Deletes in the order that a crash cannot spoil: mark, bytes, signature, record.
async fn delete_alone(
    blobs: &dyn BlobStore,
    index: &dyn ArtifactIndex,
    job: &JobId,
    name: &ArtifactName,
) -> Result<u64, Error> {
    match index.change(job, name, &RecordChange::state(ArtifactState::Deleted)).await {
        Ok(_) | Err(Error::NoRecord { .. }) => {}
        Err(e) => return Err(e),
    }
    let mut freed = blobs.delete(&BlobKey::artifact(job, name)).await?;
    freed += blobs.delete(&BlobKey::signature(job, name)).await?;
    index.remove(job, name).await?;
    Ok(freed)
}

/// Deletes what is kept once for a job, beside its artifacts.
pub(crate) async fn delete_provenance(blobs: &dyn BlobStore, job: &JobId) -> Result<u64, Error> {
    let mut freed = 0;
    for key in BlobKey::of_job(job) {
        freed += blobs.delete(&key).await?;
    }
    Ok(freed)
}

/// Completes a record whose media type nobody told: with what its first bytes tell, and what that makes of its kind.
fn tell(record: &mut ArtifactRecord, kind: Option<ArtifactKind>, head: &[u8]) {
    if record.content_type.is_empty() {
        record.content_type = content_type_of(&record.name, head);
        record.kind = kind.unwrap_or_else(|| ArtifactKind::of(&record.name, &record.content_type));
    }
}

/// Reads a body to its end, and tells what it was.
async fn measure(
    key: &BlobKey,
    mut body: ByteStream,
    options: PutOptions,
) -> Result<Stored, Error> {
    let mut intake = Intake::new(key.clone(), options)?;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|source| Error::Body { key: key.clone(), source })?;
        intake.take(&chunk)?;
    }
    intake.finish()
}

/// What the first bytes say beyond doubt, then what the name says, then whether it looks like text.
fn content_type_of(name: &ArtifactName, head: &[u8]) -> String {
    let told = mime_guess::from_path(name.file_name()).first();
    let seen = infer::get(head).map(|kind| kind.mime_type());
    match (seen, told) {
        // A name knows more about text, and about what is packed in a ZIP: pages, documents, programs.
        (
            None | Some("text/html" | "text/xml" | "text/x-shellscript" | "application/zip"),
            Some(told),
        ) => told.to_string(),
        (Some(seen), _) => seen.to_owned(),
        (None, None) => {
            // The head may end within a character.
            let is_text = !head.is_empty()
                && !head.contains(&0)
                && std::str::from_utf8(head).map_or_else(|e| e.error_len().is_none(), |_| true);
            let told = if is_text { "text/plain" } else { "application/octet-stream" };
            told.to_owned()
        }
    }
}

/// Every backend keeps milliseconds; what is returned now must equal what is read later.
fn whole_milliseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}
