//! The contract of signatures: who signs, who vouches for a signature, and the proof that it was done.

use std::fmt::{self, Debug, Display};
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::Error;

/// The id of a key: the first 16 hexadecimal digits of the SHA-256 of the public key's
/// `SubjectPublicKeyInfo` in DER.
///
/// ```sh
/// openssl pkey -pubin -in signing.key.pub -outform DER | sha256sum | cut -c 1-16
/// ```
///
/// It tells which key to try and proves nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<str>);

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 16 && text.bytes().all(hex) {
            Ok(Self(text.into()))
        } else {
            Err(Error::invalid("key id", text, "must be 16 lower-case hexadecimal digits"))
        }
    }
}

impl Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&*self.0, f)
    }
}

/// The bytes of a signature, as the algorithm of its key writes them. Nothing is known about them
/// until a [`Verifier`] has looked.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(Box<[u8]>);

impl Signature {
    /// A signature with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({} bytes)", self.0.len())
    }
}

/// Something that was verified. Only a verifier makes one; that it exists is the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Vouches for `value`. Only an implementation of [`Verifier`] and the verification of files and
    /// links call this, after they checked: search for this word to find every place where trust begins.
    #[must_use]
    pub fn vouch(value: T) -> Self {
        Self(value)
    }

    /// What was verified.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Why a signature does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// No trusted key has this id.
    #[error("it was made with the key {key_id:?}, which is not among the trusted ones")]
    UnknownKey {
        /// The id it claims.
        key_id: String,
    },
    /// It cannot be a signature of this algorithm.
    #[error("it has {len} bytes, not {expected}")]
    WrongLength {
        /// How many it has.
        len: usize,
        /// How many it should have.
        expected: usize,
    },
    /// It is not a signature of this message by any of the keys.
    #[error("it does not match")]
    Mismatch,
}

/// Something that signs with one key.
///
/// * `key_id` never changes, and is the id of the public key that verifies.
/// * `sign` may ask another machine; nothing is promised about its time. Two signatures of one message
///   may differ; both hold.
/// * A dropped `sign` may have been done; that harms nobody.
#[async_trait]
pub trait Signer: Debug + Display + Send + Sync + 'static {
    /// The id of its key.
    fn key_id(&self) -> KeyId;

    /// Signs `message`, whole.
    ///
    /// # Errors
    ///
    /// [`Error::Sign`].
    async fn sign(&self, message: &[u8]) -> Result<Signature, Error>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Signer + ?Sized> Signer for Arc<T> {
    fn key_id(&self) -> KeyId {
        (**self).key_id()
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, Error> {
        (**self).sign(message).await
    }
}

/// Something that knows trusted public keys.
///
/// * With a key id only the key of that id counts; without one, any trusted key may have signed.
/// * It never says yes to a signature of another message, of another key, shortened, lengthened or
///   with another encoding of the same numbers.
/// * It is pure: no I/O, the same answer each time.
pub trait Verifier: Debug + Display + Send + Sync + 'static {
    /// Whether `signature` is one of `message`; gives the id of the key that made it.
    ///
    /// # Errors
    ///
    /// [`SignatureError`].
    fn verify(
        &self,
        key: Option<&KeyId>,
        message: &[u8],
        signature: &Signature,
    ) -> Result<Verified<KeyId>, SignatureError>;
}

#[deny(clippy::missing_trait_methods)]
impl<T: Verifier + ?Sized> Verifier for Arc<T> {
    fn verify(
        &self,
        key: Option<&KeyId>,
        message: &[u8],
        signature: &Signature,
    ) -> Result<Verified<KeyId>, SignatureError> {
        (**self).verify(key, message, signature)
    }
}
