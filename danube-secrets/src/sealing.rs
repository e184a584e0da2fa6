//! Sealing for a public repository: to the server's public key, by whoever has it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use danube_core::SecretBytes;
use danube_core::files::create_private_dir;
use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::keyring::{associated_data, new_key, read_key, write_new};
use crate::wipe::wiped;
use crate::{Error, MAX_SECRET_BYTES, SecretKey, SecretOwner};

/// How a public key begins as text.
pub const PUBLIC_KEY_PREFIX: &str = "danube-public-key:";
/// How a sealed value begins as text.
pub const SEALED_PREFIX: &str = "sealed:";

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;
type Tag = AeadTag<ChaCha20Poly1305>;

/// The version of public keys and of sealed text.
const VERSION: u8 = 1;
const ID_BYTES: usize = 8;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + ID_BYTES;
const OVERHEAD: usize = HEADER_BYTES + KEY_BYTES + TAG_BYTES;

/// What the key agreement is for: nothing that another protocol sealed to this key opens here.
const PURPOSE: &[u8] = b"danube sealed value v1";

/// The public half of a [`SealingKey`]: whoever has it can seal values that only the server opens.
///
/// As text it is `danube-public-key:` and, in base64url without padding, version (1 byte), key id (8),
/// X25519 public key (32). The id is the beginning of a SHA-256 over the key, so a mistyped key is noticed.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingPublicKey {
    id: [u8; ID_BYTES],
    key: [u8; KEY_BYTES],
}

impl SealingPublicKey {
    fn of(key: &PublicKey) -> Self {
        let key: [u8; KEY_BYTES] = key.to_bytes().into();
        let digest =
            Sha256::new().chain_update(b"danube sealing key\0").chain_update(key).finalize();
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&digest[..ID_BYTES]);
        Self { id, key }
    }

    /// Seals a value for this owner and this name: text that is safe in a public place and that only the
    /// server opens, for nobody else and under no other name. How long the value is can be told from it, and
    /// who sealed it cannot: everybody who has the public key can seal.
    ///
    /// It is [`SEALED_PREFIX`] and, in base64url without padding, version (1 byte), key id (8), encapsulated
    /// key (32), ciphertext and tag of HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256),
    /// HKDF-SHA256 and ChaCha20-Poly1305. The info is `danube sealed value v1`; the associated data are the
    /// header (version and key id), the owner and the name, each behind its length in four bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] beyond [`MAX_SECRET_BYTES`].
    ///
    /// # Panics
    ///
    /// When the system has no randomness to give.
    pub fn seal(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SecretBytes,
    ) -> Result<String, Error> {
        if value.len() > MAX_SECRET_BYTES {
            return Err(Error::TooLong);
        }
        let to = PublicKey::from_bytes(&self.key).expect("it was checked when it was read");
        let mut header = [VERSION; HEADER_BYTES];
        header[1..].copy_from_slice(&self.id);
        let mut text = Zeroizing::new(value.expose().to_vec());
        let associated = associated_data(&header, owner, key);
        let (encapped, tag) = wiped(|| {
            hpke::single_shot_seal_inout_detached::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &to,
                PURPOSE,
                text.as_mut_slice().into(),
                &associated,
            )
        })
        .expect("a checked key and less than 64 GiB can be sealed to");
        let sealed = [&header[..], &encapped.to_bytes(), &text, &tag.to_bytes()].concat();
        Ok(format!("{SEALED_PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed)))
    }
}

impl FromStr for SealingPublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PUBLIC_KEY_PREFIX)?).ok()?;
            let (header, key) = bytes.split_first_chunk::<HEADER_BYTES>()?;
            let this = Self::of(&PublicKey::from_bytes(key).ok()?);
            (header[0] == VERSION && header[1..] == this.id).then_some(this)
        };
        read().ok_or_else(|| Error::InvalidPublicKey { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for SealingPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[VERSION][..], &self.id, &self.key].concat();
        write!(f, "{PUBLIC_KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for SealingPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The server's own key: opens what was sealed to its [public half](Self::public_key).
///
/// It lies as 32 bytes in `sealing.key` of the key directory. There is one; what was sealed to a key that is
/// gone stays sealed.
pub struct SealingKey {
    /// On the heap, where moving it leaves no copies.
    private: Box<PrivateKey>,
    public: SealingPublicKey,
}

impl SealingKey {
    /// Reads the key of this directory. It blocks.
    ///
    /// # Errors
    ///
    /// [`Error::NoSealingKey`] where there is none, [`Error::KeyFile`] for a file that is a link, somebody
    /// else's or readable by others, [`Error::DamagedKey`].
    pub fn open(keys_dir: &Path) -> Result<Self, Error> {
        let path = sealing_path(keys_dir);
        let Some(key) = read_key(&path)? else { return Err(Error::NoSealingKey { path }) };
        Ok(wiped(|| {
            let private = PrivateKey::from_bytes(key.expose());
            let private = Box::new(private.expect("any 32 bytes are such a key"));
            let public = SealingPublicKey::of(&X25519HkdfSha256::sk_to_pk(&private));
            Self { private, public }
        }))
    }

    /// Reads the key of this directory, and makes the directory and a key when there is none. Several
    /// processes may do this at once: they end with the same key. It blocks.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); [`Error::Random`], [`Error::Io`].
    pub fn open_or_create(keys_dir: &Path) -> Result<Self, Error> {
        let path = sealing_path(keys_dir);
        if read_key(&path)?.is_none() {
            create_private_dir(keys_dir).map_err(|source| Error::Io {
                operation: "create",
                path: keys_dir.to_owned(),
                source,
            })?;
            // Any 32 random bytes are an X25519 key (RFC 7748, section 5).
            write_new(&path, new_key()?.expose())?;
        }
        Self::open(keys_dir)
    }

    /// What others seal with; it may be shown to everybody.
    #[must_use]
    pub fn public_key(&self) -> &SealingPublicKey {
        &self.public
    }

    /// Opens what was sealed for this owner and this name.
    ///
    /// # Errors
    ///
    /// [`Error::CannotOpen`], one and the same for whatever is wrong with the text.
    pub fn open_value(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        sealed: &str,
    ) -> Result<SecretBytes, Error> {
        self.try_open(owner, key, sealed)
            .ok_or_else(|| Error::CannotOpen { owner: owner.clone(), key: key.clone() })
    }

    fn try_open(&self, owner: &SecretOwner, key: &SecretKey, sealed: &str) -> Option<SecretBytes> {
        let sealed = sealed.strip_prefix(SEALED_PREFIX)?;
        if sealed.len() > (OVERHEAD + MAX_SECRET_BYTES).div_ceil(3) * 4 {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (header, rest) = sealed.split_first_chunk::<HEADER_BYTES>()?;
        let (encapped, rest) = rest.split_first_chunk::<KEY_BYTES>()?;
        let (text, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        if header[0] != VERSION || header[1..] != self.public.id || text.len() > MAX_SECRET_BYTES {
            return None;
        }
        let mut text = Zeroizing::new(text.to_vec());
        let associated = associated_data(header, owner, key);
        let (encapped, tag) = (EncappedKey::from_bytes(encapped).ok()?, Tag::from_bytes(tag).ok()?);
        wiped(|| {
            hpke::single_shot_open_inout_detached::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &self.private,
                &encapped,
                PURPOSE,
                text.as_mut_slice().into(),
                &associated,
                &tag,
            )
        })
        .ok()?;
        Some(SecretBytes::new(std::mem::take(&mut *text)))
    }
}

fn sealing_path(keys_dir: &Path) -> PathBuf {
    keys_dir.join("sealing.key")
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("public_key", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
