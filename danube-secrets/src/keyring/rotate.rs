//! Sealing everything with a new key, while others go on reading and writing.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use danube_core::files::{Existing, create_private_dir, write_atomic};

use super::{
    KeyId, Keyring, Keys, MAX_ENCRYPTION_KEYS, file_name, key_files, key_id, key_id_of, new_key,
    write_new,
};
use crate::{Error, SecretKey, SecretOwner, SecretVault};

/// Names of values that could not be opened which a [`Rotated`] holds at most.
pub const MAX_UNOPENED_NAMES: usize = 1_000;

/// How often one value is tried again that somebody else changes all the time. What they put is sealed
/// with the new key, unless they opened their keyring before it was made.
const TRIES: usize = 16;

/// How old a temporary file is that nobody is going to give its name any more: writing a key takes
/// milliseconds. Whoever was stopped for longer gets an error and nothing is lost.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotated {
    /// The id of the new key.
    pub key_id: String,
    /// Values that are sealed with the new key now and were not before.
    pub resealed: u64,
    /// Values that were left as they are because they do not open.
    pub left: u64,
    /// Their names, the first [`MAX_UNOPENED_NAMES`] of them.
    pub left_names: Vec<(SecretOwner, SecretKey)>,
}

impl Keyring {
    /// Makes a new key, seals with it from then on, and seals every value of the vault again with it.
    ///
    /// Readers and writers may go on, in this process and in others: a value is replaced only if it is still
    /// the one that was read, and whoever meets the new key's id without knowing it reads the directory
    /// again. Wherever this is interrupted, every value opens, with the old key or with the new one;
    /// rotating once more finishes it. Older keys stay in the directory: copies of the database that were
    /// made before need them, and so does a value that a process puts which opened its keyring before.
    /// Temporary files that killed writers left in it more than a minute ago are removed: keys are in them.
    ///
    /// # Errors
    ///
    /// [`Error::RotationRunning`] while another process rotates, [`Error::TooManyKeys`], [`Error::Random`],
    /// [`Error::Io`], and what the vault says. A value that does not open is no error: it is left, counted
    /// and named.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it stops between two values, as if it had been interrupted.
    pub async fn rotate(self: &Arc<Self>, vault: &dyn SecretVault) -> Result<Rotated, Error> {
        let this = self.clone();
        let (id, _lock) = crate::blocking(move || this.new_current()).await?;
        let mut done =
            Rotated { key_id: hex::encode(id), resealed: 0, left: 0, left_names: Vec::new() };
        let mut after = None;
        loop {
            let owners = vault.owners(after.as_ref()).await?;
            let Some(last) = owners.last().cloned() else { return Ok(done) };
            for owner in owners {
                for key in vault.list(&owner).await? {
                    match self.reseal(vault, &owner, &key).await {
                        Ok(resealed) => done.resealed += u64::from(resealed),
                        // Deleted meanwhile.
                        Err(Error::NotFound { .. }) => {}
                        Err(Error::CannotOpen { .. }) => {
                            done.left += 1;
                            if done.left_names.len() < MAX_UNOPENED_NAMES {
                                done.left_names.push((owner.clone(), key));
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            after = Some(last);
        }
    }

    /// Seals one value with the current key; says whether it was not yet.
    async fn reseal(
        self: &Arc<Self>,
        vault: &dyn SecretVault,
        owner: &SecretOwner,
        key: &SecretKey,
    ) -> Result<bool, Error> {
        for _ in 0..TRIES {
            let old = vault.get(owner, key).await?;
            if key_id_of(&old) == Some(self.keys().current) {
                return Ok(false);
            }
            let (this, of, named, sealed) = (self.clone(), owner.clone(), key.clone(), old.clone());
            let new = crate::blocking(move || {
                this.seal(&of, &named, &this.open_value(&of, &named, &sealed)?)
            })
            .await?;
            if vault.replace_if(owner, key, &old, &new).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a new key the current one, first on disk and then here. The lock holds off other rotations.
    fn new_current(&self) -> Result<(KeyId, Option<File>), Error> {
        let key = new_key()?;
        let id = key_id(&key);
        let mut keys = self.keys_mut();
        let lock = match &self.dir {
            Some(dir) => {
                let lock = lock(dir)?;
                // Others may have rotated before.
                *keys = Keys::read(dir)?;
                let by_id = dir.join("encryption");
                if key_files(&by_id)?.len() >= MAX_ENCRYPTION_KEYS {
                    return Err(Error::TooManyKeys { path: by_id });
                }
                // The old key may have no other place yet, if its making was interrupted.
                write_new(&by_id.join(file_name(&keys.current)), keys.current_key().expose())?;
                // By its id first: whoever meets a value of this key must find it, whatever happens here.
                write_new(&by_id.join(file_name(&id)), key.expose())?;
                let path = dir.join("encryption.key");
                write_atomic(&path, key.expose(), 0o600, Existing::Replace)
                    .map_err(|source| Error::Io { operation: "write", path, source })?;
                // What cannot be removed now waits for the next rotation.
                let _ = sweep(dir);
                Some(lock)
            }
            None => None,
        };
        keys.by_id.insert(id, key);
        keys.current = id;
        Ok((id, lock))
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let by_id = dir.join("encryption");
    let path = by_id.join("rotation.lock");
    let io_error = |source| Error::Io { operation: "lock", path: path.clone(), source };
    create_private_dir(&by_id).map_err(io_error)?;
    let file = File::options().create(true).append(true).open(&path).map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::RotationRunning { path }),
        Err(TryLockError::Error(source)) => Err(io_error(source)),
    }
}

/// Removes what killed writers of keys left behind.
fn sweep(dir: &Path) -> io::Result<()> {
    // Just written: what it says is the time by the clock of the file system.
    let now = fs::metadata(dir.join("encryption.key"))?.modified()?;
    for dir in [dir.join("encryption"), dir.to_owned()] {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let is_temporary = entry.file_name().as_encoded_bytes().starts_with(b".tmp-");
            let written =
                entry.metadata().and_then(|meta| meta.modified()).map(|at| now.duration_since(at));
            if is_temporary && matches!(written, Ok(Ok(age)) if age > LEFT_BEHIND) {
                // Not overwritten: it may be a second name of a key that is in use.
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}
