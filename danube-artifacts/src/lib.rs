#![doc = include_str!("../README.md")]

pub mod attest;
mod beneath;
mod blob;
pub mod collect;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod facade;
mod fs_blobs;
mod index;
mod intake;
mod keys;
mod memory_blobs;
mod record;
mod send;
mod sign;
mod stream;
mod sweep;
mod upload;
pub mod verify;

pub use blob::{
    Blob, BlobKey, BlobPart, BlobStat, BlobStore, ByteStream, DEFAULT_MAX_BYTES, Durability,
    PutMode, PutOptions, Stored,
};
pub use error::Error;
pub use facade::{Artifacts, Deleted, KeepOptions};
pub use fs_blobs::{DEFAULT_KEEP_FREE_BYTES, FsBlobs};
pub use index::{ArtifactIndex, MemoryIndex};
pub use keys::{Opened, PublicKeys, SigningKey, SigningKeys};
pub use memory_blobs::MemoryBlobs;
pub use record::{
    ArtifactKind, ArtifactRecord, ArtifactState, MAX_CONTENT_TYPE_BYTES, MAX_TAG_KEY_BYTES,
    MAX_TAG_VALUE_BYTES, MAX_TAGS, RecordChange,
};
pub use send::{Sent, send_file};
pub use sign::{KeyId, Signature, SignatureError, Signer, Verified, Verifier};
pub use stream::{bytes_stream, counted_stream, file_stream};
pub use sweep::ArtifactSweep;
pub use upload::{
    DEFAULT_PART_BYTES, MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES, Part, UploadId, UploadSessions,
    UploadState,
};

#[cfg(test)]
mod tests;
