#![doc = include_str!("../README.md")]

#[cfg(feature = "archive")]
pub mod archive;
#[cfg(feature = "attest")]
pub mod attest;
#[cfg(any(feature = "archive", feature = "store"))]
mod beneath;
#[cfg(feature = "attest")]
mod blob;
#[cfg(feature = "store")]
pub mod collect;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "attest")]
mod error;
#[cfg(feature = "store")]
mod facade;
#[cfg(feature = "store")]
mod fs_blobs;
#[cfg(feature = "attest")]
mod id;
#[cfg(feature = "store")]
mod index;
#[cfg(feature = "store")]
mod intake;
#[cfg(feature = "attest")]
mod keys;
#[cfg(feature = "attest")]
mod link;
#[cfg(feature = "store")]
mod links;
#[cfg(feature = "store")]
mod memory_blobs;
#[cfg(feature = "attest")]
mod record;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "store")]
mod send;
#[cfg(feature = "attest")]
mod sign;
#[cfg(feature = "store")]
mod stream;
#[cfg(feature = "store")]
mod sweep;
#[cfg(feature = "attest")]
mod tier;
#[cfg(feature = "attest")]
mod upload;
#[cfg(feature = "attest")]
pub mod verify;

#[cfg(feature = "attest")]
pub use blob::{
    Blob, BlobCapabilities, BlobKey, BlobPart, BlobStat, BlobStore, ByteStream, DEFAULT_MAX_BYTES,
    Durability, PutMode, PutOptions, Stored,
};
#[cfg(feature = "attest")]
pub use error::Error;
#[cfg(feature = "store")]
pub use facade::{Artifacts, Deleted, KeepOptions, MAX_RECORDS_BYTES, Progress};
#[cfg(feature = "store")]
pub use fs_blobs::{DEFAULT_KEEP_FREE_BYTES, FsBlobs};
#[cfg(feature = "attest")]
pub use id::ArtifactId;
#[cfg(feature = "store")]
pub use index::{ArtifactIndex, MemoryIndex};
#[cfg(feature = "attest")]
pub use keys::{KeyInfo, KeyRole, Opened, PublicKeys, SigningKey, SigningKeys};
#[cfg(feature = "attest")]
pub use link::{DEFAULT_LINK_LIFE, Link, LinkMethod, LinkOptions, MAX_LINK_LIFE};
#[cfg(feature = "store")]
pub use links::{LINKS_PATH, LinkGrant, LinkKey, LinkRefusal, Linked};
#[cfg(feature = "store")]
pub use memory_blobs::MemoryBlobs;
#[cfg(feature = "attest")]
pub use record::{
    ArtifactKind, ArtifactRecord, ArtifactState, MAX_CONTENT_TYPE_BYTES, MAX_TAG_KEY_BYTES,
    MAX_TAG_VALUE_BYTES, MAX_TAGS, RecordChange,
};
#[cfg(feature = "store")]
pub use send::{Sent, send_file};
#[cfg(feature = "attest")]
pub use sign::{KeyId, Signature, SignatureError, Signer, Verified, Verifier};
#[cfg(feature = "store")]
pub use stream::{bytes_stream, file_stream};
#[cfg(feature = "store")]
pub use sweep::ArtifactSweep;
#[cfg(feature = "attest")]
pub use tier::{Access, Tier};
#[cfg(feature = "attest")]
pub use upload::{
    DEFAULT_PART_BYTES, MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES, Part, UploadId, UploadSessions,
    UploadState,
};

#[cfg(test)]
mod tests;
