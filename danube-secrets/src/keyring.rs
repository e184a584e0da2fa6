//! Sealing secrets for storage, and the keys that do it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, Key, KeyInit, Nonce, Tag};
use danube_core::SecretBytes;
use danube_core::files::{
    Existing, PrivateFileError, create_private_dir, read_private, write_atomic,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::wipe::wiped;
use crate::{Error, MAX_SECRET_BYTES, SealedValue, SecretKey, SecretOwner, SecretVault};

#[cfg(test)]
mod rfc8452;
mod rotate;
#[cfg(test)]
mod tests;

pub use rotate::{MAX_UNOPENED_NAMES, Rotated};

/// Keys that one directory may hold: with a new one every week, twenty years of them.
pub const MAX_ENCRYPTION_KEYS: usize = 1_000;

/// The version of the sealed form that is written.
const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + ID_BYTES;
const OVERHEAD: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

type KeyId = [u8; ID_BYTES];

/// The keys that seal secrets, out of a key directory:
///
/// | file | what it is |
/// |---|---|
/// | `encryption.key` | the current key: 32 random bytes, mode 0600 |
/// | `encryption/<id>.key` | every key by its id, the current one among them |
///
/// A sealed value is `version (1) | key id (8) | nonce (12) | ciphertext and tag`, AES-256-GCM-SIV
/// (RFC 8452) with a random nonce. Its associated data are the header (version and key id), the
/// owner and the key name, each behind its length in four bytes, so a value opens only under the
/// owner and the name it was sealed for. The id of a key is the beginning of a SHA-256 over it, so a
/// key file that was damaged or renamed is noticed.
///
/// It may be shared. Another process may rotate the key: what was sealed with a key that is not known
/// yet makes [`open_value`](Self::open_value) read the directory again.
///
/// The methods that read or write the directory block.
pub struct Keyring {
    /// `None`: the keys are in memory only.
    dir: Option<PathBuf>,
    keys: RwLock<Keys>,
}

/// Keys lie on the heap, where moving them leaves no copies.
struct Keys {
    current: KeyId,
    by_id: BTreeMap<KeyId, SecretBytes>,
}

impl Keyring {
    /// One random key that is written nowhere: what it sealed can be opened as long as this lives.
    ///
    /// # Errors
    ///
    /// [`Error::Random`].
    pub fn in_memory() -> Result<Self, Error> {
        Ok(Self { dir: None, keys: RwLock::new(Keys::of(new_key()?)) })
    }

    /// The keys for the values of this vault: makes a first key only where the vault holds nothing, because
    /// a new key would open none of what it holds.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`open_or_create`](Self::open_or_create), and what the vault says.
    pub async fn open_for(keys_dir: &Path, vault: &dyn SecretVault) -> Result<Self, Error> {
        let is_empty = vault.owners(None).await?.is_empty();
        let dir = keys_dir.to_owned();
        let open = move || if is_empty { Self::open_or_create(&dir) } else { Self::open(&dir) };
        crate::blocking(open).await
    }

    /// Reads the keys of a directory that has some. Use this one, and not
    /// [`open_or_create`](Self::open_or_create), when sealed values exist: a new key would not open
    /// them.
    ///
    /// # Errors
    ///
    /// [`Error::NoEncryptionKey`] without a current key, [`Error::KeyFile`] for a key file that is a
    /// link, somebody else's or readable by others, [`Error::DamagedKey`] for one that is not what
    /// its place says, [`Error::TooManyKeys`] beyond [`MAX_ENCRYPTION_KEYS`], [`Error::Io`].
    pub fn open(keys_dir: &Path) -> Result<Self, Error> {
        let keys = RwLock::new(Keys::read(keys_dir)?);
        Ok(Self { dir: Some(keys_dir.to_owned()), keys })
    }

    /// Reads the keys of a directory, and makes the directory and a first key when there is none.
    /// Several processes may do this at once: they end with the same key.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open). A directory that has keys by id but no current one gets no new one:
    /// that is [`Error::NoEncryptionKey`].
    pub fn open_or_create(keys_dir: &Path) -> Result<Self, Error> {
        let path = keys_dir.join("encryption.key");
        let by_id = keys_dir.join("encryption");
        create_private_dir(&by_id).map_err(|source| Error::Io {
            operation: "create",
            path: by_id.clone(),
            source,
        })?;
        if read_key(&path)?.is_none() {
            if key_files(&by_id)?.is_empty() {
                write_new(&path, new_key()?.expose())?;
            } else if read_key(&path)?.is_none() {
                // Not even now: nobody else was just making the first one.
                let advice = "there was one, so no new one is made: copy it from encryption/";
                return Err(Error::NoEncryptionKey { path, advice });
            }
        }
        let this = Self::open(keys_dir)?;
        // After the current one: a crash between the two is mended here the next time.
        let keys = this.keys();
        let copy = by_id.join(file_name(&keys.current));
        if !copy.exists() {
            write_new(&copy, keys.current_key().expose())?;
        }
        drop(keys);
        Ok(this)
    }

    /// Seals a value with the current key, for this owner and name only.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] beyond [`MAX_SECRET_BYTES`]; [`Error::Random`].
    pub fn seal(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SecretBytes,
    ) -> Result<SealedValue, Error> {
        self.seal_with(owner, key, value, &random_nonce()?)
    }

    fn seal_with(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SecretBytes,
        nonce: &[u8; NONCE_BYTES],
    ) -> Result<SealedValue, Error> {
        if value.len() > MAX_SECRET_BYTES {
            return Err(Error::TooLong);
        }
        let keys = self.keys();
        let mut header = [VERSION; HEADER_BYTES];
        header[1..].copy_from_slice(&keys.current);
        let mut sealed = Vec::with_capacity(OVERHEAD + value.len());
        sealed.extend_from_slice(&header);
        sealed.extend_from_slice(nonce);
        let text = sealed.len();
        sealed.extend_from_slice(value.expose());
        let associated = associated_data(&header, owner, key);
        let tag = encrypt(keys.current_key(), nonce, &associated, &mut sealed[text..]);
        sealed.extend_from_slice(&tag);
        Ok(SealedValue::from_bytes(sealed))
    }

    /// Opens what was sealed for this owner and name, with whichever of the keys sealed it. A key that is
    /// not known here is looked for in the directory.
    ///
    /// # Errors
    ///
    /// [`Error::CannotOpen`], one and the same for whatever is wrong with the value. As
    /// [`open`](Self::open) where the directory had to be read and could not be.
    pub fn open_value(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SealedValue,
    ) -> Result<SecretBytes, Error> {
        if let (Some(id), Some(dir)) = (key_id_of(value), &self.dir)
            && !self.keys().by_id.contains_key(&id)
        {
            // Locked while it is read: what a rotation in this process makes meanwhile must not be undone.
            let mut keys = self.keys_mut();
            *keys = Keys::read(dir)?;
        }
        self.keys()
            .try_open(owner, key, value.as_bytes())
            .ok_or_else(|| Error::CannotOpen { owner: owner.clone(), key: key.clone() })
    }

    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        // They are replaced whole.
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys_mut(&self) -> RwLockWriteGuard<'_, Keys> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn of(key: SecretBytes) -> Self {
        let current = key_id(&key);
        Self { current, by_id: BTreeMap::from([(current, key)]) }
    }

    fn read(keys_dir: &Path) -> Result<Self, Error> {
        let path = keys_dir.join("encryption.key");
        let Some(current) = read_key(&path)? else {
            let advice = "put the key back that sealed the stored secrets";
            return Err(Error::NoEncryptionKey { path, advice });
        };
        let mut keys = Self::of(current);
        for path in key_files(&keys_dir.join("encryption"))? {
            // Gone since it was listed: then it is not there.
            let Some(key) = read_key(&path)? else { continue };
            let id = key_id(&key);
            if path.file_name() != Some(file_name(&id).as_ref()) {
                let rule = "the key in it is not the one that its name says";
                return Err(Error::DamagedKey { path, rule });
            }
            keys.by_id.insert(id, key);
        }
        Ok(keys)
    }

    fn current_key(&self) -> &SecretBytes {
        &self.by_id[&self.current]
    }

    fn try_open(&self, owner: &SecretOwner, key: &SecretKey, sealed: &[u8]) -> Option<SecretBytes> {
        if sealed.len() > OVERHEAD + MAX_SECRET_BYTES {
            return None;
        }
        let (header, rest) = sealed.split_first_chunk::<HEADER_BYTES>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let (text, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        let (version, id) = header.split_first()?;
        if *version != VERSION {
            return None;
        }
        let with = self.by_id.get(id)?;
        let mut text = Zeroizing::new(text.to_vec());
        let associated = associated_data(header, owner, key);
        decrypt(with, nonce, &associated, &mut text, tag)
            .then(|| SecretBytes::new(std::mem::take(&mut *text)))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys();
        f.debug_struct("Keyring")
            .field("current", &hex::encode(keys.current))
            .field("keys", &keys.by_id.len())
            .finish()
    }
}

/// The id of the key that sealed a value, as far as that is a sealed value of this version.
fn key_id_of(value: &SealedValue) -> Option<KeyId> {
    let (header, _) = value.as_bytes().split_first_chunk::<HEADER_BYTES>()?;
    let (version, id) = header.split_first_chunk::<1>()?;
    (version[0] == VERSION).then(|| id.try_into().ok()).flatten()
}

pub(crate) fn new_key() -> Result<SecretBytes, Error> {
    let mut key = vec![0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| Error::Random { source: error.into() })?;
    Ok(SecretBytes::new(key))
}

fn key_id(key: &SecretBytes) -> KeyId {
    // What is hashed begins with its purpose: the id of a key says nothing about another use of it.
    let digest = wiped(|| {
        Sha256::new().chain_update(b"danube encryption key\0").chain_update(key.expose()).finalize()
    });
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&digest[..ID_BYTES]);
    id
}

fn file_name(id: &KeyId) -> String {
    format!("{}.key", hex::encode(id))
}

/// The key in a file; `None` when there is no file.
pub(crate) fn read_key(path: &Path) -> Result<Option<SecretBytes>, Error> {
    let key = match read_private(path, KEY_BYTES as u64) {
        Ok(bytes) => SecretBytes::new(bytes),
        Err(PrivateFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(refused) => return Err(Error::KeyFile(refused)),
    };
    let damaged = |rule| Error::DamagedKey { path: path.to_owned(), rule };
    if key.len() != KEY_BYTES {
        return Err(damaged("such a key has 32 bytes"));
    }
    // What a file system may leave after a power failure is not a key.
    if key.expose().iter().all(|byte| *byte == 0) {
        return Err(damaged("it holds nothing but zeros"));
    }
    Ok(Some(key))
}

/// The files in a directory whose names end in `.key`; none when there is no directory.
fn key_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let io_error = |source| Error::Io { operation: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error)?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            files.push(path);
        }
        if files.len() > MAX_ENCRYPTION_KEYS {
            return Err(Error::TooManyKeys { path: dir.to_owned() });
        }
    }
    Ok(files)
}

/// Writes a key where none is; one that somebody else wrote meanwhile stands.
pub(crate) fn write_new(path: &Path, key: &[u8]) -> Result<(), Error> {
    match write_atomic(path, key, 0o600, Existing::Refuse) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => {
            other.map_err(|source| Error::Io { operation: "write", path: path.to_owned(), source })
        }
    }
}

fn random_nonce() -> Result<[u8; NONCE_BYTES], Error> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|error| Error::Random { source: error.into() })?;
    Ok(nonce)
}

/// Header, owner and name, each behind its length: no two of them read the same in one word.
pub(crate) fn associated_data(header: &[u8], owner: &SecretOwner, key: &SecretKey) -> Vec<u8> {
    let parts = [header, owner.as_str().as_bytes(), key.as_str().as_bytes()];
    let mut data = Vec::new();
    for part in parts {
        let len = u32::try_from(part.len()).expect("names are shorter than 4 GiB");
        data.extend_from_slice(&len.to_be_bytes());
        data.extend_from_slice(part);
    }
    data
}

fn cipher(key: &SecretBytes) -> Aes256GcmSiv {
    // By reference: an array that is passed on would leave the key on the stack.
    let key = <&Key<Aes256GcmSiv>>::try_from(key.expose()).expect("keys have 32 bytes");
    Aes256GcmSiv::new(key)
}

/// Encrypts `text` where it is and gives its tag.
fn encrypt(
    key: &SecretBytes,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    text: &mut [u8],
) -> [u8; TAG_BYTES] {
    let nonce = <&Nonce>::from(nonce);
    wiped(|| cipher(key).encrypt_inout_detached(nonce, associated, text.into()))
        .expect("a secret is shorter than 64 GiB")
        .into()
}

/// Decrypts `text` where it is; says whether key, nonce, associated data and tag belong to it.
fn decrypt(
    key: &SecretBytes,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> bool {
    let (nonce, tag) = (<&Nonce>::from(nonce), <&Tag>::from(tag));
    wiped(|| cipher(key).decrypt_inout_detached(nonce, associated, text.into(), tag)).is_ok()
}
