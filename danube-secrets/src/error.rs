//! What can go wrong with secrets. No message holds a byte of one.

use std::io;
use std::path::PathBuf;

use danube_core::files::PrivateFileError;
use danube_core::{AuditError, BoxError, ErrorClass, JobId};

use crate::{
    MAX_ENCRYPTION_KEYS, MAX_LOADED_BYTES, MAX_NEEDLES, MAX_NEEDLES_BYTES, MAX_SECRET_BYTES,
    MAX_SECRETS_PER_OWNER, MIN_SECRET_BYTES, PUBLIC_KEY_PREFIX, SecretKey, SecretOwner,
};

/// An error of this crate. Its messages name keys, owners and files, never values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of an owner breaks its rule.
    #[error("secret owner {name:?} {rule}")]
    InvalidOwner {
        /// The beginning of the name.
        name: String,
        /// What it must be.
        rule: &'static str,
    },
    /// The name of a key breaks its rule.
    #[error("secret key {name:?} {rule}")]
    InvalidKey {
        /// The beginning of the name.
        name: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A secret is too short to be masked without blanking ordinary words.
    #[error(
        "a secret of {bytes} bytes is too short to mask in output: use at least {MIN_SECRET_BYTES}"
    )]
    TooShort {
        /// How long it is.
        bytes: usize,
    },
    /// A secret is one byte repeated, or white space: masking it would blank ordinary output.
    #[error(
        "a secret that is white space or one character repeated cannot be masked: use another value"
    )]
    TooPlain,
    /// A secret is longer than this crate takes.
    #[error("a secret is longer than {MAX_SECRET_BYTES} bytes")]
    TooLong,
    /// A file holds more than the longest secret.
    #[error("{} is longer than a secret may be ({MAX_SECRET_BYTES} bytes)", path.display())]
    SecretFileTooLong {
        /// The file.
        path: PathBuf,
    },
    /// One secret has more bytes in all its encoded forms than can be masked.
    #[error(
        "a secret cannot be masked that has more than {MAX_NEEDLES_BYTES} bytes in all its encoded forms: encode a long one in base64, or encrypt it to a short one"
    )]
    TooManyForms,
    /// More secrets, or more bytes of them in all their forms, than one set of needles takes.
    #[error(
        "too many secrets to mask at once: at most {MAX_NEEDLES}, and {MAX_NEEDLES_BYTES} bytes with all their encoded forms"
    )]
    TooManyNeedles,
    /// An owner has as many secrets as a vault keeps for one.
    #[error("{owner} has {MAX_SECRETS_PER_OWNER} secrets, the most one owner may have: delete one")]
    TooManySecrets {
        /// Whose secrets they are.
        owner: SecretOwner,
    },
    /// There is no such secret.
    #[error("{owner} has no secret {key}")]
    NotFound {
        /// Whose secret was asked for.
        owner: SecretOwner,
        /// Under which name.
        key: SecretKey,
    },
    /// A job asks for a secret that was not loaded for it, or not any more.
    #[error("job {job} has no secret {key}: none of this name is loaded for it")]
    NotLoaded {
        /// The job that asks.
        job: JobId,
        /// The name it asks for.
        key: SecretKey,
    },
    /// The secrets of a job are loaded already.
    #[error("the secrets of job {job} are loaded already: clear them first")]
    AlreadyLoaded {
        /// The job.
        job: JobId,
    },
    /// The job ended while its secrets were being loaded.
    #[error("the secrets of job {job} were cleared while they were being loaded")]
    Cleared {
        /// The job.
        job: JobId,
    },
    /// The secrets in memory would pass their limit.
    #[error(
        "the secrets loaded for jobs would take more than {MAX_LOADED_BYTES} bytes: wait until a job ends"
    )]
    TooManyLoaded,
    /// An access could not be recorded, so it did not happen.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A sealed value does not open: it was changed, cut, moved to another owner or name, or sealed
    /// with a key that is not here. Which of these is not told.
    #[error(
        "secret {key} of {owner} cannot be opened: it was altered, sealed for another name or owner, or with a key that is not in the key directory"
    )]
    CannotOpen {
        /// Whose secret it is.
        owner: SecretOwner,
        /// Its name.
        key: SecretKey,
    },
    /// The key directory has no current encryption key.
    #[error("{} does not exist: {advice}", path.display())]
    NoEncryptionKey {
        /// Where it should be.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// There is no sealing key.
    #[error("{} does not exist, so nothing was sealed for this server: `danube secrets public-key` makes a key", path.display())]
    NoSealingKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// A key file is not what its place says.
    #[error("{} is damaged: {rule}", path.display())]
    DamagedKey {
        /// The file.
        path: PathBuf,
        /// What it must be.
        rule: &'static str,
    },
    /// More key files than a key directory may hold.
    #[error("{} holds more than {MAX_ENCRYPTION_KEYS} keys", path.display())]
    TooManyKeys {
        /// The directory.
        path: PathBuf,
    },
    /// Another process is sealing everything with a new key.
    #[error("the encryption key is being rotated by another process ({} is locked)", path.display())]
    RotationRunning {
        /// The lock.
        path: PathBuf,
    },
    /// Text that should be a public key is none.
    #[error(
        "{text:?} is not a public key of Danube: it looks like {PUBLIC_KEY_PREFIX}… and is printed by `danube secrets public-key`"
    )]
    InvalidPublicKey {
        /// The beginning of the text.
        text: String,
    },
    /// A key file was refused.
    #[error(transparent)]
    KeyFile(PrivateFileError),
    /// A file or directory cannot be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system has no randomness to give.
    #[error("the system gave no random bytes")]
    Random {
        /// Why.
        source: BoxError,
    },
    /// The backend of a vault failed.
    #[error("{vault} could not {operation}")]
    Backend {
        /// The vault, as it displays itself.
        vault: String,
        /// What was tried, as a verb.
        operation: &'static str,
        /// What a caller can do about it.
        class: ErrorClass,
        /// The cause.
        source: BoxError,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidOwner { .. }
            | Self::InvalidKey { .. }
            | Self::InvalidPublicKey { .. }
            | Self::TooShort { .. }
            | Self::TooPlain
            | Self::TooLong
            | Self::TooManyForms
            | Self::SecretFileTooLong { .. } => ErrorClass::Invalid,
            Self::TooManyNeedles
            | Self::TooManySecrets { .. }
            | Self::TooManyKeys { .. }
            | Self::TooManyLoaded => ErrorClass::Exhausted,
            Self::AlreadyLoaded { .. } | Self::Cleared { .. } | Self::RotationRunning { .. } => {
                ErrorClass::Conflict
            }
            Self::Audit(error) => error.class,
            Self::NotFound { .. } | Self::NoEncryptionKey { .. } | Self::NoSealingKey { .. } => {
                ErrorClass::NotFound
            }
            Self::CannotOpen { .. } | Self::NotLoaded { .. } => ErrorClass::Denied,
            Self::KeyFile(PrivateFileError::Io { source, .. }) | Self::Io { source, .. } => {
                ErrorClass::of_io(source)
            }
            Self::KeyFile(_) => ErrorClass::Denied,
            Self::DamagedKey { .. } | Self::Random { .. } => ErrorClass::Internal,
            Self::Backend { class, .. } => *class,
        }
    }
}
