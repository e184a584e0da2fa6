//! The contract of the stores of bytes, and the keys of what they store.

use std::fmt::{self, Debug, Display};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::{ArtifactName, BoxError, ByteRange, JobId, Sha256Digest, Timestamp};
use futures_core::Stream;

use crate::{Access, Error, Link, LinkOptions, Tier};

/// The directory of a job that holds what Danube adds to its artifacts.
pub(crate) const METADATA_DIR: &str = ".danube";
/// The directory in it that holds the signatures, and nothing else: a signature is called like its
/// artifact, which may be called like anything.
pub(crate) const SIGNATURES_DIR: &str = "signatures";
pub(crate) const PROVENANCE_FILE: &str = "provenance.json";
pub(crate) const ENVELOPE_FILE: &str = "provenance.dsse.json";
const RECORDS_FILE: &str = "metadata.json";
const LOG_FILE: &str = "job.log";

/// The largest blob unless somebody says otherwise: 5 GB (5,000,000,000 bytes).
pub const DEFAULT_MAX_BYTES: u64 = 5_000_000_000;

/// Bytes on their way. An error in it ends it.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// What a blob of a job is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobPart {
    /// The bytes of an artifact.
    Artifact(ArtifactName),
    /// The signature of an artifact.
    Signature(ArtifactName),
    /// The job's provenance: the payload of its envelope.
    Provenance,
    /// The job's provenance in its signed envelope.
    Envelope,
    /// The records of the job's artifacts, for whoever reads the store without the index.
    Records,
    /// The job's sealed log, where it is kept beside the artifacts.
    Log,
}

/// The key of a blob: its job, and its path below the job.
///
/// An artifact's path is its name; what Danube adds lies in `.danube/`, which no artifact's name can
/// contain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey {
    job: JobId,
    part: BlobPart,
}

impl BlobKey {
    /// The key of an artifact's bytes: `<job>/<name>`.
    #[must_use]
    pub fn artifact(job: &JobId, name: &ArtifactName) -> Self {
        Self { job: job.clone(), part: BlobPart::Artifact(name.clone()) }
    }

    /// The key of an artifact's signature: `<job>/.danube/signatures/<name>.sig`.
    #[must_use]
    pub fn signature(job: &JobId, name: &ArtifactName) -> Self {
        Self { job: job.clone(), part: BlobPart::Signature(name.clone()) }
    }

    /// The key of a job's provenance: `<job>/.danube/provenance.json`.
    #[must_use]
    pub fn provenance(job: &JobId) -> Self {
        Self { job: job.clone(), part: BlobPart::Provenance }
    }

    /// The key of a job's envelope: `<job>/.danube/provenance.dsse.json`.
    #[must_use]
    pub fn envelope(job: &JobId) -> Self {
        Self { job: job.clone(), part: BlobPart::Envelope }
    }

    /// The key of the records of a job's artifacts: `<job>/.danube/metadata.json`.
    #[must_use]
    pub fn records(job: &JobId) -> Self {
        Self { job: job.clone(), part: BlobPart::Records }
    }

    /// The key of a job's log: `<job>/.danube/job.log`.
    #[must_use]
    pub fn log(job: &JobId) -> Self {
        Self { job: job.clone(), part: BlobPart::Log }
    }

    /// The keys of what Danube keeps once for a job, beside its artifacts.
    #[cfg(feature = "store")]
    pub(crate) fn of_job(job: &JobId) -> [Self; 4] {
        [Self::provenance(job), Self::envelope(job), Self::records(job), Self::log(job)]
    }

    /// The key with this path below its job; `None` where no key has it.
    #[must_use]
    pub fn from_path(job: &JobId, path: &str) -> Option<Self> {
        let part = match path.strip_prefix(".danube/") {
            None => BlobPart::Artifact(path.parse().ok()?),
            Some(PROVENANCE_FILE) => BlobPart::Provenance,
            Some(ENVELOPE_FILE) => BlobPart::Envelope,
            Some(RECORDS_FILE) => BlobPart::Records,
            Some(LOG_FILE) => BlobPart::Log,
            Some(other) => {
                let signed = other.strip_prefix(SIGNATURES_DIR)?.strip_prefix('/')?;
                BlobPart::Signature(signed.strip_suffix(".sig")?.parse().ok()?)
            }
        };
        Some(Self { job: job.clone(), part })
    }

    /// The job it belongs to.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// What it is.
    #[must_use]
    pub fn part(&self) -> &BlobPart {
        &self.part
    }

    /// Its path below the job, `/`-separated.
    #[must_use]
    pub fn path(&self) -> String {
        match &self.part {
            BlobPart::Artifact(name) => name.to_string(),
            BlobPart::Signature(name) => format!("{METADATA_DIR}/{SIGNATURES_DIR}/{name}.sig"),
            BlobPart::Provenance => format!("{METADATA_DIR}/{PROVENANCE_FILE}"),
            BlobPart::Envelope => format!("{METADATA_DIR}/{ENVELOPE_FILE}"),
            BlobPart::Records => format!("{METADATA_DIR}/{RECORDS_FILE}"),
            BlobPart::Log => format!("{METADATA_DIR}/{LOG_FILE}"),
        }
    }
}

impl Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.path())
    }
}

/// What [`BlobStore::put`] does when there is something under the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutMode {
    /// Fails with [`Error::Exists`].
    #[default]
    CreateNew,
    /// Replaces it.
    Replace,
}

/// What the return of [`BlobStore::put`] promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The blob survives the death of the machine.
    #[default]
    Synced,
    /// The blob survives the death of the process now, and that of the machine after the next
    /// [`BlobStore::sync`]: for many small blobs that count together or not at all.
    Deferred,
}

/// How [`BlobStore::put`] stores.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PutOptions {
    /// What to do with something that is there.
    pub mode: PutMode,
    /// The most bytes the body may have.
    pub max_bytes: u64,
    /// How many bytes the body must have, where the caller knows. A file backend then refuses it
    /// before the first byte when there is no room.
    pub size_bytes: Option<u64>,
    /// What the body must hash to, where the caller knows.
    pub expected: Option<Sha256Digest>,
    /// What the return promises.
    pub durability: Durability,
}

impl Default for PutOptions {
    /// Create new, at most [`DEFAULT_MAX_BYTES`], any size and digest, synced.
    fn default() -> Self {
        Self {
            mode: PutMode::CreateNew,
            max_bytes: DEFAULT_MAX_BYTES,
            size_bytes: None,
            expected: None,
            durability: Durability::Synced,
        }
    }
}

impl PutOptions {
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

    /// Only if the body has exactly this size.
    #[must_use]
    pub fn with_size_bytes(mut self, size_bytes: u64) -> Self {
        self.size_bytes = Some(size_bytes);
        self
    }

    /// Only if the body has this digest.
    #[must_use]
    pub fn with_expected(mut self, digest: Sha256Digest) -> Self {
        self.expected = Some(digest);
        self
    }

    /// With this promise.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// How many bytes arrived.
    pub size_bytes: u64,
    /// The SHA-256 of them.
    pub digest: Sha256Digest,
}

/// A blob being read.
pub struct Blob {
    /// The size of the whole blob.
    pub size_bytes: u64,
    /// The part of it that `body` gives.
    pub range: ByteRange,
    /// The bytes.
    pub body: ByteStream,
}

impl Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("size_bytes", &self.size_bytes)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// What is known about a blob without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobStat {
    /// How many bytes it has.
    pub size_bytes: u64,
    /// When it was stored, or a little later: a backend that shares equal bytes between keys may tell
    /// when they were shared last.
    pub modified_at: Timestamp,
    /// Where it is kept; `Hot` in a backend without tiers.
    pub tier: Tier,
    /// Whether it can be read.
    pub access: Access,
}

/// What a backend can do besides keeping bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BlobCapabilities {
    /// [`BlobStore::set_tier`] and [`BlobStore::restore`] know more than `Hot`.
    pub tiers: bool,
    /// [`BlobStore::link`] makes links.
    pub links: bool,
}

impl BlobCapabilities {
    /// With tiers.
    #[must_use]
    pub const fn with_tiers(mut self) -> Self {
        self.tiers = true;
        self
    }

    /// With links.
    #[must_use]
    pub const fn with_links(mut self) -> Self {
        self.links = true;
        self
    }
}

/// Bytes by key.
///
/// * **Atomicity.** A blob appears whole or not at all: no reader ever sees a part of one, whatever
///   fails. Of several puts under one key at once, one wins whole; with [`PutMode::CreateNew`]
///   exactly one succeeds.
/// * **Durability.** What `put` acknowledged survives the death of the machine, unless
///   [`Durability::Deferred`] was asked for (a memory backend excepted, which says so).
/// * **Digest.** The digest is computed from the bytes that arrived, whatever anybody claims.
/// * **Readers.** A blob being read stays what it was when `get` returned, to its end, also when it is
///   replaced or deleted meanwhile.
/// * **Order.** `list` goes by key, `jobs` by id; both compare bytes.
/// * **Cancel safety.** A `put` dropped while its body is still coming leaves nothing visible; dropped
///   later it leaves nothing or the whole blob. The other calls can be dropped and called again.
/// * **Memory.** No call holds a whole blob (a memory backend excepted).
///
/// A backend that keeps blobs as files refuses keys of which one is a directory of the other with
/// [`Error::InTheWay`]; a job's files cannot have such names in one tree either.
#[async_trait]
pub trait BlobStore: Debug + Display + Send + Sync + 'static {
    /// What it can do besides keeping bytes.
    fn capabilities(&self) -> BlobCapabilities;

    /// Stores what the body gives, to its end.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::TooLarge`], [`Error::SizeMismatch`], [`Error::DigestMismatch`],
    /// [`Error::Body`] when the body fails, [`Error::InTheWay`], [`Error::NoSpace`],
    /// [`Error::Backend`]; [`Error::Invalid`] for a name that is longer than this backend's keys, which no name of at
    /// most 600 bytes is. After every one of them the key holds what it held before.
    async fn put(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error>;

    /// Opens a blob to read it, or the range of it that exists: a range that ends beyond the end
    /// ends there.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::OutOfRange`] for a range that begins at or beyond the end;
    /// [`Error::Archived`] for a cold one that was not restored.
    async fn get(&self, key: &BlobKey, range: Option<ByteRange>) -> Result<Blob, Error>;

    /// What is known about a blob.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error>;

    /// The keys of a job; none for a job that is not known.
    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, Error>;

    /// At most `limit` jobs that have a blob, those after `after`.
    async fn jobs(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error>;

    /// Deletes a blob and tells how many bytes that freed. One that is not there is a success that
    /// freed nothing; so is one whose bytes another key shares.
    async fn delete(&self, key: &BlobKey) -> Result<u64, Error>;

    /// Moves a blob to a tier; one that is there already is a success. Its bytes stay what they are.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Archived`] for a cold one that was not restored;
    /// [`Error::Unsupported`] for another tier than `Hot` in a backend without tiers.
    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), Error>;

    /// Has a cold blob made readable for at least `keep_for`, counted in whole days, and tells how far that is.
    /// Asked again while it is readable, it stays so for longer; one that is not cold is readable already.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Invalid`] for more than a year.
    async fn restore(&self, key: &BlobKey, keep_for: Duration) -> Result<Access, Error>;

    /// Makes a link to one blob. What is put by it is there when the response has come, whole or not at all, and
    /// never replaces anything. Nobody looks whether there is a blob to get.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for options that [`LinkOptions::validate`] refuses; [`Error::Unsupported`] in a backend
    /// without links.
    async fn link(&self, key: &BlobKey, options: &LinkOptions) -> Result<Link, Error>;

    /// Makes durable what was put with [`Durability::Deferred`] and has returned.
    async fn sync(&self) -> Result<(), Error>;

    /// Removes what no blob needs any more and nobody touched since `before`, and tells how many bytes
    /// that freed: what puts left that died half way, and shared bytes that lost their last key. It
    /// never touches a blob or a put that is under way.
    async fn sweep(&self, before: Timestamp) -> Result<u64, Error>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BlobStore + ?Sized> BlobStore for Arc<T> {
    fn capabilities(&self) -> BlobCapabilities {
        (**self).capabilities()
    }

    async fn put(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        (**self).put(key, body, options).await
    }

    async fn get(&self, key: &BlobKey, range: Option<ByteRange>) -> Result<Blob, Error> {
        (**self).get(key, range).await
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error> {
        (**self).stat(key).await
    }

    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, Error> {
        (**self).list(job).await
    }

    async fn jobs(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error> {
        (**self).jobs(after, limit).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<u64, Error> {
        (**self).delete(key).await
    }

    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), Error> {
        (**self).set_tier(key, tier).await
    }

    async fn restore(&self, key: &BlobKey, keep_for: Duration) -> Result<Access, Error> {
        (**self).restore(key, keep_for).await
    }

    async fn link(&self, key: &BlobKey, options: &LinkOptions) -> Result<Link, Error> {
        (**self).link(key, options).await
    }

    async fn sync(&self) -> Result<(), Error> {
        (**self).sync().await
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, Error> {
        (**self).sweep(before).await
    }
}
