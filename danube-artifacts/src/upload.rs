//! The contract of uploads in parts, which outlive the client and the server.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
#[cfg(feature = "store")]
use danube_core::JobId;
use danube_core::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{BlobKey, Error, PutOptions, Stored};
#[cfg(feature = "store")]
use crate::{Durability, PutMode};

/// The bytes of a part unless somebody says otherwise: 8 MiB.
pub const DEFAULT_PART_BYTES: u64 = 8 * 1024 * 1024;
/// The smallest part: 64 KiB. What is smaller is a [`put`](crate::BlobStore::put).
pub const MIN_PART_BYTES: u64 = 64 * 1024;
/// The largest part: 64 MiB, because a part is held in memory.
pub const MAX_PART_BYTES: u64 = 64 * 1024 * 1024;
/// The most parts of an upload, which is what S3 allows.
pub const MAX_PARTS: u32 = 10_000;

/// The id of an upload: 32 hexadecimal digits, chosen at random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UploadId(String);

impl UploadId {
    #[cfg(feature = "store")]
    pub(crate) fn random() -> std::io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        Ok(Self(format!("{:032x}", u128::from_ne_bytes(random))))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for UploadId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self, Error> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if id.len() == 32 && id.bytes().all(is_digit) {
            Ok(Self(id.to_owned()))
        } else {
            Err(Error::invalid("upload id", id, "must be 32 hexadecimal digits"))
        }
    }
}

impl TryFrom<String> for UploadId {
    type Error = Error;

    fn try_from(id: String) -> Result<Self, Error> {
        id.parse()
    }
}

impl From<UploadId> for String {
    fn from(id: UploadId) -> Self {
        id.0
    }
}

/// A part that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its place, from 0 on: it begins at `number * part_bytes`.
    pub number: u32,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// The SHA-256 of what arrived.
    pub digest: Sha256Digest,
}

/// An upload that was begun.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UploadState {
    /// Its id.
    pub id: UploadId,
    /// What it becomes when it is complete.
    pub key: BlobKey,
    /// How it is stored then.
    pub options: PutOptions,
    /// How many bytes every part but the last one has.
    pub part_bytes: u64,
    /// The parts that were acknowledged, by number.
    pub parts: Vec<Part>,
    /// What it became, if it is complete.
    pub stored: Option<Stored>,
}

/// Uploads in parts. A part that was acknowledged need not be sent again, whoever died meanwhile.
///
/// * **Visibility.** Nothing is under the key before [`complete`](Self::complete), and then all of it.
/// * **Durability.** An acknowledged part survives the death of the machine (a memory backend excepted).
/// * **Parts** come in any order and several at once; one that is sent again replaces what was there.
///   All but the last have exactly `part_bytes` bytes.
/// * **Idempotence.** Completing again gives what it gave before, until the upload is swept; also when
///   whoever completed it died before he knew. Aborting again is a success.
/// * **Digest.** The digest of the whole is computed from the parts as they are stored, and each of them
///   is checked against what arrived.
/// * **Cancel safety.** Every call can be dropped and called again.
/// * **Memory.** One part for each call.
#[async_trait]
pub trait UploadSessions: Debug + Display + Send + Sync + 'static {
    /// Begins an upload. `options` are checked when it is complete, and refused now where they cannot
    /// come true any more; it is always synced.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::TooLarge`], [`Error::NoSpace`]; [`Error::Invalid`] for `part_bytes`
    /// outside of [`MIN_PART_BYTES`]..=[`MAX_PART_BYTES`]; [`Error::Backend`].
    async fn begin(
        &self,
        key: &BlobKey,
        options: PutOptions,
        part_bytes: u64,
    ) -> Result<UploadId, Error>;

    /// Stores a part; its return is the acknowledgement.
    ///
    /// # Errors
    ///
    /// [`Error::NoUpload`]; [`Error::Part`] for a part that cannot be one, or an upload that is complete;
    /// [`Error::TooLarge`], [`Error::NoSpace`], [`Error::Backend`].
    async fn put_part(&self, id: &UploadId, number: u32, bytes: Bytes) -> Result<Part, Error>;

    /// What is known of an upload.
    ///
    /// # Errors
    ///
    /// [`Error::NoUpload`].
    async fn upload(&self, id: &UploadId) -> Result<UploadState, Error>;

    /// The uploads that were begun and neither aborted nor swept, by id; complete ones too.
    async fn uploads(&self) -> Result<Vec<UploadId>, Error>;

    /// Makes the parts one blob under its key.
    ///
    /// # Errors
    ///
    /// [`Error::NoUpload`]; [`Error::Part`] where one is missing, too short, or not what arrived: send
    /// it again; those of [`BlobStore::put`](crate::BlobStore::put). The parts stay then.
    async fn complete(&self, id: &UploadId) -> Result<Stored, Error>;

    /// Forgets an upload and its parts. What it became stays.
    async fn abort(&self, id: &UploadId) -> Result<(), Error>;

    /// Forgets the uploads that nobody touched since `before`, complete ones too, and tells how many bytes that
    /// freed.
    async fn sweep_uploads(&self, before: Timestamp) -> Result<u64, Error>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: UploadSessions + ?Sized> UploadSessions for Arc<T> {
    async fn begin(
        &self,
        key: &BlobKey,
        options: PutOptions,
        part_bytes: u64,
    ) -> Result<UploadId, Error> {
        (**self).begin(key, options, part_bytes).await
    }

    async fn put_part(&self, id: &UploadId, number: u32, bytes: Bytes) -> Result<Part, Error> {
        (**self).put_part(id, number, bytes).await
    }

    async fn upload(&self, id: &UploadId) -> Result<UploadState, Error> {
        (**self).upload(id).await
    }

    async fn uploads(&self) -> Result<Vec<UploadId>, Error> {
        (**self).uploads().await
    }

    async fn complete(&self, id: &UploadId) -> Result<Stored, Error> {
        (**self).complete(id).await
    }

    async fn abort(&self, id: &UploadId) -> Result<(), Error> {
        (**self).abort(id).await
    }

    async fn sweep_uploads(&self, before: Timestamp) -> Result<u64, Error> {
        (**self).sweep_uploads(before).await
    }
}

/// What an upload was begun with, as backends write it down.
#[cfg(feature = "store")]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Written {
    version: u32,
    job: JobId,
    path: String,
    replace: bool,
    max_bytes: u64,
    size_bytes: Option<u64>,
    expected: Option<Sha256Digest>,
    part_bytes: u64,
}

#[cfg(feature = "store")]
impl Written {
    const VERSION: u32 = 1;

    pub(crate) fn new(key: &BlobKey, options: &PutOptions, part_bytes: u64) -> Self {
        // It is always synced.
        let PutOptions { mode, max_bytes, size_bytes, expected, durability: _ } = *options;
        Self {
            version: Self::VERSION,
            job: key.job().clone(),
            path: key.path(),
            replace: mode == PutMode::Replace,
            max_bytes,
            size_bytes,
            expected,
            part_bytes,
        }
    }

    /// The upload, without what became of it; `None` where this is of another version.
    pub(crate) fn state(&self, id: &UploadId) -> Option<UploadState> {
        let key = BlobKey::from_path(&self.job, &self.path);
        let key = key.filter(|_| self.version == Self::VERSION)?;
        let options = PutOptions {
            mode: if self.replace { PutMode::Replace } else { PutMode::CreateNew },
            max_bytes: self.max_bytes,
            size_bytes: self.size_bytes,
            expected: self.expected,
            durability: Durability::Synced,
        };
        let (id, part_bytes) = (id.clone(), self.part_bytes);
        Some(UploadState { id, key, options, part_bytes, parts: Vec::new(), stored: None })
    }
}

/// What every backend refuses in the same way.
#[cfg(feature = "store")]
pub(crate) fn check_begin(
    key: &BlobKey,
    options: &PutOptions,
    part_bytes: u64,
) -> Result<(), Error> {
    if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&part_bytes) {
        let rule = format!("must be {MIN_PART_BYTES} to {MAX_PART_BYTES} bytes");
        return Err(Error::invalid("size of parts", &part_bytes.to_string(), rule));
    }
    crate::intake::Meter::new(key.clone(), options.clone()).map(|_| ())
}

/// What every backend refuses in the same way.
#[cfg(feature = "store")]
pub(crate) fn check_part(state: &UploadState, number: u32, len: usize) -> Result<(), Error> {
    let refused = |reason: String| Error::Part { id: state.id.clone(), number, reason };
    if state.stored.is_some() {
        return Err(refused("comes after the upload was completed".to_owned()));
    }
    if number >= MAX_PARTS {
        return Err(refused(format!("is beyond the limit of {MAX_PARTS} parts")));
    }
    let len = len as u64;
    if len == 0 || len > state.part_bytes {
        let most = state.part_bytes;
        return Err(refused(format!("has {len} bytes, and a part has 1 to {most}")));
    }
    let end = u64::from(number) * state.part_bytes + len;
    if end > state.options.max_bytes {
        let limit_bytes = state.options.max_bytes;
        return Err(Error::TooLarge { key: state.key.clone(), limit_bytes });
    }
    Ok(())
}

/// How many bytes the parts make, unless one is missing or too short.
#[cfg(feature = "store")]
pub(crate) fn check_whole(state: &UploadState) -> Result<u64, Error> {
    let refused =
        |number: u32, reason: String| Error::Part { id: state.id.clone(), number, reason };
    let mut total = 0;
    for (at, part) in state.parts.iter().enumerate() {
        let number = u32::try_from(at).unwrap_or(u32::MAX);
        if part.number != number {
            return Err(refused(number, "was never acknowledged".to_owned()));
        }
        if at + 1 < state.parts.len() && part.size_bytes != state.part_bytes {
            let (has, full) = (part.size_bytes, state.part_bytes);
            return Err(refused(number, format!("has {has} of {full} bytes and is not the last")));
        }
        total += part.size_bytes;
    }
    Ok(total)
}
