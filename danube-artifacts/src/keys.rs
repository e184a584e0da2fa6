//! Ed25519 keys (RFC 8032) in files, and the keys that are trusted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use async_trait::async_trait;
use danube_core::Timestamp;
use danube_core::files::{self, Existing, PrivateFileError};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes,
};
use ed25519_dalek::{SIGNATURE_LENGTH, Signer as _, VerifyingKey};
use rustix::fs::{FlockOperation, OFlags};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{Error, KeyId, Signature, SignatureError, Signer, Verified, Verifier};

mod leftovers;
#[cfg(test)]
mod tests;

const PRIVATE_FILE: &str = "signing.key";
const PUBLIC_FILE: &str = "signing.key.pub";
const BY_ID_DIR: &str = "signing";
/// A key in PEM has under 200 bytes; the rest is room for comments before it.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;
/// Rotating every day fills this in three years; more are a mistake, or somebody's flood.
const MAX_PUBLIC_KEYS: usize = 1_000;

/// The signing keys of a directory. These functions block.
///
/// ```text
/// signing.key         the current private key: PKCS#8 in PEM, mode 0600
/// signing.key.pub     its public key: SubjectPublicKeyInfo in PEM, mode 0644
/// signing/<id>.key    every key by its id, the current one too
/// signing/<id>.pub
/// signing/<id>.revoked   the public key of one that is trusted no more
/// ```
#[derive(Debug)]
pub struct SigningKeys(());

/// Whether a key was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It was there.
    Found,
    /// It was made now.
    Created,
}

/// A key of a directory, as [`SigningKeys::list`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// Its id.
    pub id: KeyId,
    /// What is done with it.
    pub role: KeyRole,
}

/// What is done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyRole {
    /// It signs.
    Current,
    /// It signs no more; what it signed verifies.
    Old,
    /// It was revoked: what it signed verifies no more.
    Revoked,
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Current => "current",
            Self::Old => "old",
            Self::Revoked => "revoked",
        })
    }
}

impl SigningKeys {
    /// Makes a new key the current one. The old one stays for verifying; processes that have it open go
    /// on signing with it. Killed in the middle, either the old or the new key is the current one, and
    /// [`open`](Self::open) finishes what was begun.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open): there must be a key.
    pub fn rotate(keys_dir: &Path) -> Result<SigningKey, Error> {
        // What was begun before is finished first; then nobody else rotates.
        Self::open(keys_dir)?;
        let _lock = lock(keys_dir)?;
        let key = SigningKey::generate()?;
        complete_by_id(keys_dir, &key)?;
        let path = keys_dir.join(PRIVATE_FILE);
        files::write_atomic(&path, key.to_pem().as_bytes(), 0o600, Existing::Replace)
            .map_err(|e| file_error("write", &path, e))?;
        replace_public(keys_dir, &key)?;
        leftovers::sweep_old(keys_dir);
        Ok(key)
    }

    /// Removes the temporary files that killed writers of keys left in the directory and nobody touched since
    /// `before`, and tells how many there were. Some of them hold private keys, most of which never signed.
    ///
    /// # Errors
    ///
    /// [`Error::File`]. A directory that is not there holds none.
    pub fn sweep(keys_dir: &Path, before: Timestamp) -> Result<u64, Error> {
        leftovers::sweep(keys_dir, before.into())
    }

    /// Trusts a key no more: its private part is deleted, also where a killed writer left it, and its
    /// public part is set aside. What it signed
    /// does not verify any longer with the keys of this directory.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for the current key, which is to be rotated first, and for a key that is not
    /// there; [`Error::File`].
    pub fn revoke(keys_dir: &Path, id: &KeyId) -> Result<(), Error> {
        let _lock = lock(keys_dir)?;
        if read_current(keys_dir)?.key_id() == *id {
            let rule = "is the key that signs: rotate first";
            return Err(Error::invalid("key", id.as_str(), rule));
        }
        let by_id = keys_dir.join(BY_ID_DIR);
        let (public, private) = (by_id.join(format!("{id}.pub")), by_id.join(format!("{id}.key")));
        // The private part first: with the public one gone, nobody would look for it.
        match fs::remove_file(&private) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", &private, e));
            }
            _ => {}
        }
        leftovers::remove_copies_of(keys_dir, id)?;
        match fs::rename(&public, by_id.join(format!("{id}.revoked"))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::invalid("key", id.as_str(), "is not among the trusted ones"))
            }
            other => other
                .and_then(|()| files::sync_dir(&by_id))
                .map_err(|e| file_error("set aside", &public, e)),
        }
    }

    /// The keys of the directory, by id.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open) and of [`PublicKeys::from_keys_dir`].
    pub fn list(keys_dir: &Path) -> Result<Vec<KeyInfo>, Error> {
        let current = Self::open(keys_dir)?.key_id();
        let mut all: BTreeMap<KeyId, KeyRole> = PublicKeys::from_keys_dir(keys_dir)?
            .ids()
            .map(|id| (id.clone(), if *id == current { KeyRole::Current } else { KeyRole::Old }))
            .collect();
        let by_id = keys_dir.join(BY_ID_DIR);
        for entry in fs::read_dir(&by_id).map_err(|e| file_error("read", &by_id, e))? {
            let name = entry.map_err(|e| file_error("read", &by_id, e))?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".revoked"));
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                all.insert(id, KeyRole::Revoked);
            }
        }
        Ok(all.into_iter().map(|(id, role)| KeyInfo { id, role }).collect())
    }

    /// The current key; where there is none, the directory (0700) and a new key are made. Of several
    /// processes that do so at once one makes the key and all get it. Missing copies are written:
    /// the public key and the files by id.
    ///
    /// # Errors
    ///
    /// [`Error::PrivateKey`] when the file is not private: other mode, owner or kind of file;
    /// [`Error::Key`] when it holds something else, or `signing.key.pub` another key;
    /// [`Error::File`] when something cannot be written.
    pub fn open_or_create(keys_dir: &Path) -> Result<(SigningKey, Opened), Error> {
        match Self::open(keys_dir) {
            Err(Error::PrivateKey(PrivateFileError::Io { source, .. }))
                if source.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(|key| (key, Opened::Found)),
        }
        let key = SigningKey::generate()?;
        let path = keys_dir.join(PRIVATE_FILE);
        files::create_private_dir(keys_dir).map_err(|e| file_error("create", keys_dir, e))?;
        match files::write_atomic(&path, key.to_pem().as_bytes(), 0o600, Existing::Refuse) {
            Ok(()) => {}
            // Somebody else was faster: that key is the one.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Self::open(keys_dir).map(|key| (key, Opened::Found));
            }
            Err(e) => return Err(file_error("write", &path, e)),
        }
        complete(keys_dir, &key)?;
        Ok((key, Opened::Created))
    }

    /// The current key, which must be there.
    ///
    /// # Errors
    ///
    /// Those of [`open_or_create`](Self::open_or_create).
    pub fn open(keys_dir: &Path) -> Result<SigningKey, Error> {
        let key = read_current(keys_dir)?;
        let completed = match complete(keys_dir, &key) {
            Ok(Copies::Complete) => Ok(()),
            Ok(Copies::OfAnotherKey) => return Self::finish_rotation(keys_dir),
            Err(e) => Err(e),
        };
        match completed {
            // Signing needs no copies; a directory that cannot be written is somebody's choice.
            Err(Error::File { source, path, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                tracing::warn!(path = %path.display(), error = %source, "cannot write a copy of the key");
            }
            other => other?,
        }
        Ok(key)
    }

    /// After a rotation that was killed, or beside one that is going on: `signing.key.pub` holds another
    /// key of ours.
    fn finish_rotation(keys_dir: &Path) -> Result<SigningKey, Error> {
        let _lock = lock(keys_dir)?;
        // Nobody rotates now; whichever private key is there is the one.
        let key = read_current(keys_dir)?;
        replace_public(keys_dir, &key)?;
        complete_by_id(keys_dir, &key)?;
        Ok(key)
    }
}

/// Whether the copies beside the private key are there.
#[derive(Debug, PartialEq, Eq)]
enum Copies {
    Complete,
    /// The public key is another one of this directory.
    OfAnotherKey,
}

fn read_current(keys_dir: &Path) -> Result<SigningKey, Error> {
    let path = keys_dir.join(PRIVATE_FILE);
    let bytes = files::read_private(&path, MAX_KEY_FILE_BYTES).map_err(Error::PrivateKey)?;
    SigningKey::from_pem(&Zeroizing::new(bytes)).map_err(|reason| Error::Key { path, reason })
}

/// Held by whoever changes which key is the current one.
fn lock(keys_dir: &Path) -> Result<fs::File, Error> {
    let dir = fs::File::open(keys_dir).map_err(|e| file_error("open", keys_dir, e))?;
    rustix::fs::flock(&dir, FlockOperation::LockExclusive)
        .map_err(|e| file_error("lock", keys_dir, e.into()))?;
    Ok(dir)
}

fn replace_public(keys_dir: &Path, key: &SigningKey) -> Result<(), Error> {
    let path = keys_dir.join(PUBLIC_FILE);
    files::write_atomic(&path, key.public_pem().as_bytes(), 0o644, Existing::Replace)
        .map_err(|e| file_error("write", &path, e))
}

/// Whether the private part of this public key lies by its id in the directory: then it is ours.
fn is_ours(keys_dir: &Path, public: &VerifyingKey) -> bool {
    let path = keys_dir.join(BY_ID_DIR).join(format!("{}.key", key_id(public)));
    let Ok(bytes) = files::read_private(&path, MAX_KEY_FILE_BYTES).map(Zeroizing::new) else {
        return false;
    };
    SigningKey::from_pem(&bytes).is_ok_and(|key| key.0.verifying_key() == *public)
}

/// Writes what is missing beside the private key.
fn complete(keys_dir: &Path, key: &SigningKey) -> Result<Copies, Error> {
    let public = key.0.verifying_key();
    let public_path = keys_dir.join(PUBLIC_FILE);
    match read_public(&public_path, Trust::KeysDir) {
        Ok(found) if found == public => {}
        Ok(found) if is_ours(keys_dir, &found) => return Ok(Copies::OfAnotherKey),
        Ok(_) => {
            return Err(Error::Key {
                path: public_path,
                reason: format!(
                    "holds another key than {PRIVATE_FILE}: find out who changed it, then remove it and it is written again"
                ),
            });
        }
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            write_new(&public_path, &to_public_pem(&public), 0o644)?;
        }
        Err(e) => return Err(e),
    }
    complete_by_id(keys_dir, key)?;
    Ok(Copies::Complete)
}

fn complete_by_id(keys_dir: &Path, key: &SigningKey) -> Result<(), Error> {
    let public = key.0.verifying_key();
    let by_id = keys_dir.join(BY_ID_DIR);
    let id = key.key_id();
    let (private_copy, public_copy) =
        (by_id.join(format!("{id}.key")), by_id.join(format!("{id}.pub")));
    if fs::symlink_metadata(&private_copy).is_ok() && fs::symlink_metadata(&public_copy).is_ok() {
        return Ok(());
    }
    files::create_private_dir(&by_id).map_err(|e| file_error("create", &by_id, e))?;
    write_new(&private_copy, &key.to_pem(), 0o600)?;
    write_new(&public_copy, &to_public_pem(&public), 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    match files::write_atomic(path, text.as_bytes(), mode, Existing::Refuse) {
        // Another process completes the same key.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| file_error("write", path, e)),
    }
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { operation, path: path.to_owned(), source }
}

/// A private Ed25519 key. It cannot be printed, and is zeroised on drop.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key from the system's random bytes, in memory alone.
    ///
    /// # Errors
    ///
    /// [`Error::Sign`] when the system gives no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)
            .map_err(|e| Error::Sign { signer: "a new key".to_owned(), source: e.into() })?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// Its public key, as the only trusted one.
    #[must_use]
    pub fn public_keys(&self) -> PublicKeys {
        PublicKeys::one(self.0.verifying_key())
    }

    /// Its public key in PEM, as `openssl` reads it.
    #[must_use]
    pub fn public_pem(&self) -> String {
        to_public_pem(&self.0.verifying_key())
    }

    /// A key that is the same each time, for evidence that is the same each time.
    #[cfg(test)]
    pub(crate) fn from_seed(seed: u8) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]))
    }

    fn from_pem(bytes: &[u8]) -> Result<Self, String> {
        let not_a_key = || {
            "is not an Ed25519 private key (PKCS#8 in PEM): restore it from a backup, or move it away to have a new one made".to_owned()
        };
        let text = std::str::from_utf8(bytes).map_err(|_| not_a_key())?;
        let key =
            ed25519_dalek::SigningKey::from_pkcs8_pem(text.trim()).map_err(|_| not_a_key())?;
        Ok(Self(key))
    }

    fn to_pem(&self) -> Zeroizing<String> {
        // Without the public key in it: the version of PKCS#8 that every tool reads.
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes are a PKCS#8 document")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ed25519 key {}", self.key_id())
    }
}

#[async_trait]
impl Signer for SigningKey {
    fn key_id(&self) -> KeyId {
        key_id(&self.0.verifying_key())
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, Error> {
        Ok(Signature::from_bytes(self.0.sign(message).to_bytes()))
    }
}

/// Trusted Ed25519 public keys, by id. Clones are copies.
#[derive(Clone)]
pub struct PublicKeys(BTreeMap<KeyId, VerifyingKey>);

impl PublicKeys {
    /// The one key in this text (SubjectPublicKeyInfo in PEM).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for anything else, and for keys that would accept signatures of nobody.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let key = parse_public(text).map_err(|rule| Error::invalid("public key", "", rule))?;
        Ok(Self::one(key))
    }

    /// The one key in this file. It blocks.
    ///
    /// # Errors
    ///
    /// [`Error::File`], and [`Error::Key`] when it holds something else.
    pub fn from_pem_file(path: &Path) -> Result<Self, Error> {
        read_public(path, Trust::Caller).map(Self::one)
    }

    /// The keys of a directory of keys: `signing.key.pub` and `signing/<id>.pub`. It blocks.
    ///
    /// # Errors
    ///
    /// [`Error::File`]; [`Error::Key`] when a file holds something else, others can write it, its name
    /// is not the id of its key, or there is no key at all.
    pub fn from_keys_dir(keys_dir: &Path) -> Result<Self, Error> {
        let mut keys = BTreeMap::new();
        let absent = |e: &Error| matches!(e, Error::File { source, .. } if source.kind() == io::ErrorKind::NotFound);
        match read_public(&keys_dir.join(PUBLIC_FILE), Trust::KeysDir) {
            Ok(key) => drop(keys.insert(key_id(&key), key)),
            Err(e) if absent(&e) => {}
            Err(e) => return Err(e),
        }
        let by_id = keys_dir.join(BY_ID_DIR);
        let entries = match fs::read_dir(&by_id) {
            Ok(entries) => Some(entries),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(file_error("read", &by_id, e)),
        };
        for entry in entries.into_iter().flatten() {
            let path = entry.map_err(|e| file_error("read", &by_id, e))?.path();
            if path.extension().is_none_or(|extension| extension != "pub") {
                continue;
            }
            let key = read_public(&path, Trust::KeysDir)?;
            let id = key_id(&key);
            if path.file_stem().is_none_or(|stem| stem != id.as_str()) {
                let reason = format!("holds the key {id}, which is not what it is called");
                return Err(Error::Key { path, reason });
            }
            keys.insert(id, key);
            if keys.len() > MAX_PUBLIC_KEYS {
                let reason = format!("holds more than {MAX_PUBLIC_KEYS} public keys");
                return Err(Error::Key { path: by_id, reason });
            }
        }
        if keys.is_empty() {
            let reason = format!("holds no public key ({PUBLIC_FILE})");
            return Err(Error::Key { path: keys_dir.to_owned(), reason });
        }
        Ok(Self(keys))
    }

    /// These keys and those.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The ids of the keys, in order.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.0.keys()
    }

    fn one(key: VerifyingKey) -> Self {
        Self(BTreeMap::from([(key_id(&key), key)]))
    }
}

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKeys").field(&self.0.keys().collect::<Vec<_>>()).finish()
    }
}

impl fmt::Display for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519 keys")?;
        self.ids().try_for_each(|id| write!(f, " {id}"))
    }
}

impl Verifier for PublicKeys {
    fn verify(
        &self,
        key: Option<&KeyId>,
        message: &[u8],
        signature: &Signature,
    ) -> Result<Verified<KeyId>, SignatureError> {
        let bytes: &[u8; SIGNATURE_LENGTH] = signature.as_bytes().try_into().map_err(|_| {
            let len = signature.as_bytes().len();
            SignatureError::WrongLength { len, expected: SIGNATURE_LENGTH }
        })?;
        let signature = ed25519_dalek::Signature::from_bytes(bytes);
        // Strict: no small-order keys or points, one encoding for each signature.
        let holds = |key: &VerifyingKey| key.verify_strict(message, &signature).is_ok();
        let signed_by = match key {
            Some(id) => {
                let unknown = || SignatureError::UnknownKey { key_id: id.to_string() };
                let key = self.0.get(id).ok_or_else(unknown)?;
                holds(key).then_some(id)
            }
            None => self.0.iter().find(|(_, key)| holds(key)).map(|(id, _)| id),
        };
        signed_by.map(|id| Verified::vouch(id.clone())).ok_or(SignatureError::Mismatch)
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of the key's SubjectPublicKeyInfo in DER.
fn key_id(key: &VerifyingKey) -> KeyId {
    let der = key.to_public_key_der().expect("32 bytes are a SubjectPublicKeyInfo");
    let digest = Sha256::digest(der.as_bytes());
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    hex.parse().expect("eight bytes are 16 hexadecimal digits")
}

fn to_public_pem(key: &VerifyingKey) -> String {
    key.to_public_key_pem(LineEnding::LF).expect("32 bytes are a SubjectPublicKeyInfo")
}

fn parse_public(text: &str) -> Result<VerifyingKey, String> {
    if text.contains("PRIVATE KEY") {
        return Err(
            "is a private key: give the public one (signing.key.pub), and never show this one"
                .to_owned(),
        );
    }
    let key = VerifyingKey::from_public_key_pem(text.trim())
        .map_err(|_| "is not an Ed25519 public key (BEGIN PUBLIC KEY, in PEM)".to_owned())?;
    if key.is_weak() {
        return Err("is a key of small order, for which anybody can sign".to_owned());
    }
    Ok(key)
}

/// Whose choice a public key is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// The caller named this very file.
    Caller,
    /// It lies in a directory of keys: whoever can write it decides what verifies.
    KeysDir,
}

fn read_public(path: &Path, trust: Trust) -> Result<VerifyingKey, Error> {
    let failed = |e: io::Error| file_error("read", path, e);
    let refused = |reason: String| Error::Key { path: path.to_owned(), reason };
    let mut flags = OFlags::NONBLOCK;
    if trust == Trust::KeysDir {
        flags |= OFlags::NOFOLLOW;
    }
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match opened {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(refused("is a symbolic link".to_owned()));
        }
        other => other.map_err(failed)?,
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(refused("is not a regular file".to_owned()));
    }
    if trust == Trust::KeysDir && meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(refused(format!(
            "has mode {mode:04o}, which lets others replace it: check it and run chmod 644 on it"
        )));
    }
    let mut text = String::new();
    match file.take(MAX_KEY_FILE_BYTES + 1).read_to_string(&mut text) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::InvalidData => text.clear(),
        Err(e) => return Err(failed(e)),
    }
    if text.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(refused(format!("is longer than {MAX_KEY_FILE_BYTES} bytes")));
    }
    parse_public(&text).map_err(refused)
}
