//! What can go wrong with artifacts, by what a caller can do about it.

use std::io;
use std::path::PathBuf;

use danube_core::{
    ArtifactName, BoxError, ErrorClass, InvalidName, JobId, Sha256Digest, files::PrivateFileError,
};

use crate::{ArtifactId, ArtifactState, BlobKey, UploadId};

/// An error of this crate. Its message names the thing; where there is a cause, `source()` has it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing under this key.
    #[error("there is no {key}")]
    NotFound {
        /// The key.
        key: BlobKey,
    },
    /// The index has no such artifact.
    #[error("job {job} has no artifact {name}")]
    NoRecord {
        /// The job.
        job: JobId,
        /// The artifact.
        name: ArtifactName,
    },
    /// No artifact has this id: it never was, was replaced, or was deleted.
    #[error("there is no artifact {id}")]
    NoArtifact {
        /// The id.
        id: ArtifactId,
    },
    /// Another artifact of that name took its place meanwhile.
    #[error("artifact {name} of job {job} was replaced meanwhile: look at it again")]
    Replaced {
        /// The job.
        job: JobId,
        /// The artifact.
        name: ArtifactName,
    },
    /// The artifact cannot be read in the state it is in.
    #[error("artifact {name} of job {job} is {state}")]
    NotActive {
        /// The job.
        job: JobId,
        /// The artifact.
        name: ArtifactName,
        /// Its state.
        state: ArtifactState,
    },
    /// Something is stored there already, and it was not to be replaced.
    #[error("{key} exists already")]
    Exists {
        /// The key.
        key: BlobKey,
    },
    /// One of the key's directories is a file, or the key itself is a directory.
    #[error(
        "{key} cannot be stored: a file stands where it needs a directory, or the other way round"
    )]
    InTheWay {
        /// The key.
        key: BlobKey,
    },
    /// It is kept where nobody can read it at once.
    #[error("{key} is archived: have it restored first")]
    Archived {
        /// The key.
        key: BlobKey,
    },
    /// This backend cannot do that; its capabilities say so.
    #[error("{backend} {what}")]
    Unsupported {
        /// The backend, as its `Display` names it.
        backend: String,
        /// What it has not, as a sentence about it: `have no tiers`.
        what: &'static str,
    },
    /// The body is longer than allowed.
    #[error("{key} is longer than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The key.
        key: BlobKey,
        /// The limit.
        limit_bytes: u64,
    },
    /// More or fewer bytes arrived than were announced.
    #[error("{key} has {actual} bytes, not {expected} as announced")]
    SizeMismatch {
        /// The key.
        key: BlobKey,
        /// What was announced.
        expected: u64,
        /// What arrived; of a body that is too long, what had arrived when it was refused.
        actual: u64,
    },
    /// There is no room for it.
    #[error(
        "{key} needs {needed_bytes} bytes, and {backend} has room for {available_bytes}: \
         delete artifacts, shorten their retention, or enlarge the disk"
    )]
    NoSpace {
        /// The key.
        key: BlobKey,
        /// The backend, as its `Display` names it.
        backend: String,
        /// How many bytes are still to be written, as far as it is known.
        needed_bytes: u64,
        /// How many may be.
        available_bytes: u64,
    },
    /// What arrived is not what was announced.
    #[error("{key} has the SHA-256 {actual}, not {expected} as announced")]
    DigestMismatch {
        /// The key.
        key: BlobKey,
        /// What was announced.
        expected: Sha256Digest,
        /// What the bytes have.
        actual: Sha256Digest,
    },
    /// There is no such upload: it never was, was aborted, or was swept.
    #[error("there is no upload {id}: begin a new one")]
    NoUpload {
        /// The upload.
        id: UploadId,
    },
    /// Somebody else completes or aborts the upload right now, or sends parts of what was to be completed.
    #[error("upload {id} is in use: try again when its other calls have returned")]
    UploadBusy {
        /// The upload.
        id: UploadId,
    },
    /// A part is missing, wrong, or comes too late.
    #[error("part {number} of upload {id} {reason}")]
    Part {
        /// The upload.
        id: UploadId,
        /// Which part, from 0 on.
        number: u32,
        /// What is wrong, as a sentence about it.
        reason: String,
    },
    /// The range begins beyond the end.
    #[error("{key} has {size_bytes} bytes: nothing can be read from {start} on")]
    OutOfRange {
        /// The key.
        key: BlobKey,
        /// Where the range begins.
        start: u64,
        /// How long the blob is.
        size_bytes: u64,
    },
    /// The stream that gives the body failed.
    #[error("the bytes of {key} stopped coming")]
    Body {
        /// The key.
        key: BlobKey,
        /// Why.
        source: BoxError,
    },
    /// A name breaks the rules of its kind.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A request that stays wrong: a bad glob, too many tags.
    #[error("{what} {value:?} {rule}")]
    Invalid {
        /// What it is, for instance `glob`.
        what: &'static str,
        /// Its value, shortened.
        value: String,
        /// The rule that it breaks, as a sentence about it.
        rule: String,
    },
    /// A limit of collecting was passed.
    #[error("more than {limit} {what}: narrow the globs")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A key file is not private enough, or cannot be read.
    #[error(transparent)]
    PrivateKey(PrivateFileError),
    /// A key file holds something else than it should.
    #[error("{}: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A directory could not be packed.
    #[cfg(feature = "archive")]
    #[error(transparent)]
    Directory(#[from] crate::archive::ArchiveError),
    /// The signer could not sign.
    #[error("{signer} could not sign")]
    Sign {
        /// The signer.
        signer: String,
        /// Why.
        source: BoxError,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The backend failed.
    #[error("{backend} could not {operation}")]
    Backend {
        /// The backend, as its `Display` names it.
        backend: String,
        /// What was tried, as a verb: `put a/b`.
        operation: String,
        /// What a caller can do about it.
        class: ErrorClass,
        /// Why.
        source: BoxError,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. }
            | Self::NoRecord { .. }
            | Self::NoArtifact { .. }
            | Self::NoUpload { .. } => ErrorClass::NotFound,
            Self::UploadBusy { .. } => ErrorClass::Unavailable,
            Self::Unsupported { .. } => ErrorClass::Unsupported,
            Self::Part { .. } => ErrorClass::Conflict,
            Self::NotActive { state: ArtifactState::Deleted, .. } => ErrorClass::Gone,
            Self::NotActive { .. } => ErrorClass::Unavailable,
            Self::Exists { .. }
            | Self::InTheWay { .. }
            | Self::Archived { .. }
            | Self::Replaced { .. } => ErrorClass::Conflict,
            Self::TooLarge { .. } | Self::TooMany { .. } | Self::NoSpace { .. } => {
                ErrorClass::Exhausted
            }
            Self::SizeMismatch { .. }
            | Self::DigestMismatch { .. }
            | Self::OutOfRange { .. }
            | Self::Name(_)
            | Self::Invalid { .. } => ErrorClass::Invalid,
            // The body stopped, not the store: sending it again is right.
            Self::Body { .. } => ErrorClass::Unavailable,
            Self::PrivateKey(PrivateFileError::Io { source, .. }) => ErrorClass::of_io(source),
            Self::PrivateKey(_) | Self::Key { .. } => ErrorClass::Denied,
            #[cfg(feature = "archive")]
            Self::Directory(error) => error.class(),
            Self::Sign { .. } => ErrorClass::Internal,
            Self::File { source, .. } => ErrorClass::of_io(source),
            Self::Backend { class, .. } => *class,
        }
    }

    /// An I/O error of a backend.
    #[must_use]
    pub fn io(backend: &dyn std::fmt::Display, operation: String, source: io::Error) -> Self {
        let class = ErrorClass::of_io(&source);
        Self::Backend { backend: backend.to_string(), operation, class, source: source.into() }
    }

    /// What [`ArtifactIndex::put`](crate::ArtifactIndex::put) says of an id that another artifact has.
    #[must_use]
    pub fn id_taken(id: &ArtifactId) -> Self {
        Self::invalid("artifact id", &id.to_string(), "is that of another artifact")
    }

    #[cfg(feature = "store")]
    pub(crate) fn unsupported(backend: &dyn std::fmt::Display, what: &'static str) -> Self {
        Self::Unsupported { backend: backend.to_string(), what }
    }

    pub(crate) fn invalid(what: &'static str, value: &str, rule: impl Into<String>) -> Self {
        Self::Invalid { what, value: value.chars().take(80).collect(), rule: rule.into() }
    }
}
