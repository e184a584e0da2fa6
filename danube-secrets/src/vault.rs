//! Where sealed values lie: the contract, and the names it uses.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use danube_core::checked_name;

use crate::Error;

/// Secrets that a vault keeps for one owner: as many as one job can have masked in its output.
pub const MAX_SECRETS_PER_OWNER: usize = 1_000;

/// Bytes of the longest sealed value that a vault keeps: the longest secret with what sealing adds.
pub const MAX_SEALED_BYTES: usize = crate::MAX_SECRET_BYTES + 64;

/// Bytes of the longest name of an owner.
pub(crate) const MAX_OWNER_BYTES: usize = 256;

/// Owners that one call of [`SecretVault::owners`] names at most.
pub const MAX_OWNERS_PER_LIST: usize = 1_000;

/// Whose secrets they are: 1 to 256 bytes without control characters and without white space at the
/// ends, for instance `pipeline/nightly`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretOwner(Box<str>);

/// The name of a secret, fit for an environment variable: `[A-Za-z_][A-Za-z0-9_]{0,127}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey(Box<str>);

checked_name!(SecretOwner, Error, check_owner, |name, rule| Error::InvalidOwner {
    name: beginning(name),
    rule,
});
checked_name!(SecretKey, Error, check_key, |name, rule| Error::InvalidKey {
    name: beginning(name),
    rule,
});

/// Enough of a name to tell which one is meant.
fn beginning(name: &str) -> String {
    name.chars().take(80).collect()
}

fn check_owner(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_OWNER_BYTES {
        Err("must be 1 to 256 bytes long")
    } else if name.chars().any(char::is_control) {
        Err("must not contain control characters")
    } else if name.trim() != name {
        Err("must not begin or end with white space")
    } else {
        Ok(())
    }
}

fn check_key(name: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first_is_right = name.bytes().next().is_some_and(|b| allowed(b) && !b.is_ascii_digit());
    if first_is_right && name.len() <= 128 && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err("must be 1 to 128 letters, digits or '_', and not begin with a digit")
    }
}

/// A value that is safe to store: the output of [`Keyring::seal`](crate::Keyring::seal). A vault keeps
/// its bytes and looks into none of them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SealedValue(Box<[u8]>);

impl SealedValue {
    /// Takes bytes that were read from a store. Whether they are what was sealed is found out when
    /// they are opened.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// The bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What every backend checks before it keeps one.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] beyond [`MAX_SEALED_BYTES`].
    pub fn check_len(&self) -> Result<(), Error> {
        if self.0.len() > MAX_SEALED_BYTES { Err(Error::TooLong) } else { Ok(()) }
    }
}

impl fmt::Debug for SealedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedValue({} bytes)", self.0.len())
    }
}

/// Sealed values by owner and key.
///
/// * Owners do not see each other: every call concerns the one owner it names.
/// * Each call is atomic: readers see the old value or the new one, whole. Calls on one vault, from
///   any number of tasks and processes that share its data, have one order.
/// * What a call that returned `Ok` did is there for every later call, and survives what the backend
///   survives.
/// * Values come back byte for byte. Names are compared byte for byte: `TOKEN` is not `token`.
/// * Cancel safety: a dropped call may or may not have happened, and happened whole or not at all.
///
/// A backend reports its own failures as [`Error::Backend`]. Its laws as tests are in
/// `danube_secrets::conformance` (feature `conformance`).
#[async_trait]
pub trait SecretVault: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Keeps a value under this name, in place of one that is there.
    ///
    /// # Errors
    ///
    /// [`Error::TooManySecrets`] when the name is new and the owner has [`MAX_SECRETS_PER_OWNER`];
    /// [`Error::TooLong`] beyond [`MAX_SEALED_BYTES`].
    async fn put(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SealedValue,
    ) -> Result<(), Error>;

    /// The value under this name.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none.
    async fn get(&self, owner: &SecretOwner, key: &SecretKey) -> Result<SealedValue, Error>;

    /// Removes a value; says whether there was one. Idempotent.
    ///
    /// # Errors
    ///
    /// None of its own: a missing value is `Ok(false)`.
    async fn delete(&self, owner: &SecretOwner, key: &SecretKey) -> Result<bool, Error>;

    /// The names of one owner's secrets, in the order of their bytes; none for an owner nobody heard of.
    ///
    /// # Errors
    ///
    /// None of its own.
    async fn list(&self, owner: &SecretOwner) -> Result<Vec<SecretKey>, Error>;

    /// Puts `new` where exactly `current` is; says whether it did. Of several that replace the same
    /// `current` at once, one succeeds. `false` when the value is another one or is gone, and then
    /// nothing changed.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] where `new` is longer than [`MAX_SEALED_BYTES`].
    async fn replace_if(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        current: &SealedValue,
        new: &SealedValue,
    ) -> Result<bool, Error>;

    /// Those who have secrets here, in the order of their bytes, the first [`MAX_OWNERS_PER_LIST`] of them
    /// that come after `after`. The next page begins after the last of this one; an empty one is the end.
    ///
    /// # Errors
    ///
    /// None of its own.
    async fn owners(&self, after: Option<&SecretOwner>) -> Result<Vec<SecretOwner>, Error>;
}

#[async_trait]
impl<T: SecretVault + ?Sized> SecretVault for Arc<T> {
    async fn put(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SealedValue,
    ) -> Result<(), Error> {
        (**self).put(owner, key, value).await
    }

    async fn get(&self, owner: &SecretOwner, key: &SecretKey) -> Result<SealedValue, Error> {
        (**self).get(owner, key).await
    }

    async fn delete(&self, owner: &SecretOwner, key: &SecretKey) -> Result<bool, Error> {
        (**self).delete(owner, key).await
    }

    async fn list(&self, owner: &SecretOwner) -> Result<Vec<SecretKey>, Error> {
        (**self).list(owner).await
    }

    async fn replace_if(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        current: &SealedValue,
        new: &SealedValue,
    ) -> Result<bool, Error> {
        (**self).replace_if(owner, key, current, new).await
    }

    async fn owners(&self, after: Option<&SecretOwner>) -> Result<Vec<SecretOwner>, Error> {
        (**self).owners(after).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_of_environment_variables() {
        let longest = "K".repeat(128);
        for good in ["K", "_", "api_token_2", longest.as_str()] {
            assert_eq!(good.parse::<SecretKey>().unwrap().as_str(), good);
        }
        let too_long = "K".repeat(129);
        for bad in ["", "2K", "A-B", "A=B", "A B", "Ä", "A\0", "A\n", too_long.as_str()] {
            assert!(bad.parse::<SecretKey>().is_err(), "{bad:?} was accepted");
        }
        let error = "not ok".parse::<SecretKey>().unwrap_err().to_string();
        assert!(error.starts_with("secret key \"not ok\" must be"), "{error}");
    }

    #[test]
    fn owners_are_printable_names() {
        let longest = "o".repeat(256);
        for good in ["a", "pipeline/nightly", "größe", longest.as_str()] {
            assert_eq!(good.parse::<SecretOwner>().unwrap().to_string(), good);
        }
        let too_long = "o".repeat(257);
        for bad in ["", " a", "a ", "a\nb", "a\0", too_long.as_str()] {
            assert!(bad.parse::<SecretOwner>().is_err(), "{bad:?} was accepted");
        }
    }
}
