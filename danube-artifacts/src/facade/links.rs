//! Links to artifacts, and recording what came by one.

use danube_core::{ArtifactName, JobId};

use super::{Artifacts, KeepOptions, SNIFFED_BYTES, measure, tell};
use crate::intake::Meter;
use crate::stream::peek;
use crate::{
    ArtifactRecord, ArtifactState, BlobKey, BlobPart, ByteStream, Error, Link, LinkGrant,
    LinkMethod, LinkOptions, PutOptions, Stored, Verified,
};

impl Artifacts {
    /// Makes a link to one artifact: to get one that can be read now, or to put one under a name that is free. What is put
    /// by it is an artifact once it was [adopted](Self::adopt); until then it is bytes without a record, which the
    /// sweep takes when their time has come.
    ///
    /// # Errors
    ///
    /// Those of [`BlobStore::link`](crate::BlobStore::link). To get: [`Error::NoRecord`], [`Error::NotActive`],
    /// [`Error::Archived`], [`Error::OutOfRange`]. To put: [`Error::Exists`].
    pub async fn link(
        &self,
        job: &JobId,
        name: &ArtifactName,
        options: &LinkOptions,
    ) -> Result<Link, Error> {
        options.validate()?;
        let key = BlobKey::artifact(job, name);
        match options.method {
            LinkMethod::Get => {
                let record = self.signed(job, name).await?;
                // Not by the record: a bucket moves what is old by rules of its own, and tells nobody.
                if !self.blobs.stat(&key).await?.access.is_readable() {
                    return Err(Error::Archived { key });
                }
                let size_bytes = record.size_bytes;
                if let Some(range) = options.range.filter(|range| range.start >= size_bytes) {
                    return Err(Error::OutOfRange { key, start: range.start, size_bytes });
                }
            }
            LinkMethod::Put => self.check_free(&key, job, name).await?,
        }
        self.blobs.link(&key, options).await
    }

    /// Whether something may be put under this name, which is asked again when it comes.
    async fn check_free(
        &self,
        key: &BlobKey,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<(), Error> {
        match self.index.get(job, name).await {
            Err(Error::NoRecord { .. }) => {}
            Ok(_) => return Err(Error::Exists { key: key.clone() }),
            Err(e) => return Err(e),
        }
        match self.blobs.stat(key).await {
            Err(Error::NotFound { .. }) => Ok(()),
            Ok(_) => Err(Error::Exists { key: key.clone() }),
            Err(e) => Err(e),
        }
    }

    /// Stores what comes by a link of ours to put, as the link says and at most `max_bytes` of it: new and synced.
    ///
    /// # Errors
    ///
    /// Those of [`BlobStore::put`](crate::BlobStore::put); [`Error::Exists`] also when there is a record of that
    /// name without bytes; [`Error::Invalid`] for a link to get.
    ///
    /// # Cancel safety
    ///
    /// That of [`BlobStore::put`](crate::BlobStore::put).
    pub async fn receive(
        &self,
        grant: &Verified<LinkGrant>,
        body: ByteStream,
        max_bytes: u64,
    ) -> Result<Stored, Error> {
        let LinkGrant { key, method, size_bytes, expected, .. } = &**grant;
        if *method != LinkMethod::Put {
            return Err(Error::invalid("link", &key.to_string(), "is not one to put"));
        }
        if let BlobPart::Artifact(name) = key.part() {
            self.check_free(key, key.job(), name).await?;
        }
        let mut options = PutOptions::default().with_max_bytes(max_bytes);
        (options.size_bytes, options.expected) = (*size_bytes, *expected);
        self.blobs.put(key, body, options).await
    }

    /// Records an artifact that was put by a link as `uploading`, as [`keep`](Self::keep) records one: it is to be
    /// [signed](Self::sign) then. Its digest is computed from the stored bytes. Doing it again gives the record
    /// that is there, with what it says about the artifact. Of `options` the size, the digest and the limit must
    /// hold either way; the mode, the durability and the progress mean nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when nothing was put; [`Error::TooLarge`], [`Error::SizeMismatch`],
    /// [`Error::DigestMismatch`]: the bytes then stay where they are, for [`delete`](Self::delete) or the sweep;
    /// [`Error::NotActive`] when it is being deleted; those of the store and the index.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has recorded the artifact or not; call it again.
    pub async fn adopt(
        &self,
        job: &JobId,
        name: &ArtifactName,
        options: KeepOptions,
    ) -> Result<ArtifactRecord, Error> {
        let key = BlobKey::artifact(job, name);
        let (put, kind) = (options.put(), options.kind);
        let mut record = Self::record_of(job, name, options)?;
        match self.index.get(job, name).await {
            Ok(known) if known.state == ArtifactState::Deleted => return Err(not_active(known)),
            Ok(known) => {
                let mut meter = Meter::new(key, put)?;
                meter.count(usize::try_from(known.size_bytes).unwrap_or(usize::MAX))?;
                meter.finish(known.digest)?;
                return Ok(known);
            }
            Err(Error::NoRecord { .. }) => {}
            Err(e) => return Err(e),
        }
        let body = self.blobs.get(&key, None).await?.body;
        let (head, body) = peek(body, SNIFFED_BYTES).await;
        tell(&mut record, kind, &head);
        self.record(record, measure(&key, body, put).await?).await
    }
}

pub(super) fn not_active(record: ArtifactRecord) -> Error {
    let ArtifactRecord { job, name, state, .. } = record;
    Error::NotActive { job, name, state }
}
