//! Temporary files that killed writers of keys left. Some of them hold private keys.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use danube_core::files;
use zeroize::Zeroizing;

use super::{BY_ID_DIR, MAX_KEY_FILE_BYTES, PUBLIC_FILE, SigningKey, file_error};
use crate::{Error, KeyId, Signer as _};

/// Writing a key takes moments, and an hour on the slowest disk.
const WRITTEN_WITHIN: Duration = Duration::from_hours(1);

/// Removes those that nobody has touched for an hour, by the clock of the file system: `signing.key.pub` was
/// written just now. What cannot be removed waits for the next time.
pub(super) fn sweep_old(keys_dir: &Path) {
    let now = fs::metadata(keys_dir.join(PUBLIC_FILE)).and_then(|meta| meta.modified());
    let before = now.ok().and_then(|now| now.checked_sub(WRITTEN_WITHIN));
    if let Some(before) = before
        && let Err(error) = sweep(keys_dir, before)
    {
        tracing::warn!(%error, "cannot remove what killed writers of keys left");
    }
}

/// Removes those that nobody has touched since, and tells how many there were.
pub(super) fn sweep(keys_dir: &Path, before: SystemTime) -> Result<u64, Error> {
    remove(keys_dir, |_, meta| Ok(meta.modified()? < before))
}

/// Removes those that hold this private key, however young: nobody is to have it any more.
pub(super) fn remove_copies_of(keys_dir: &Path, id: &KeyId) -> Result<u64, Error> {
    remove(keys_dir, |path, _| {
        let held = files::read_private(path, MAX_KEY_FILE_BYTES).map(Zeroizing::new);
        Ok(held.is_ok_and(|held| SigningKey::from_pem(&held).is_ok_and(|key| key.key_id() == *id)))
    })
}

fn remove(
    keys_dir: &Path,
    goes: impl Fn(&Path, &Metadata) -> io::Result<bool>,
) -> Result<u64, Error> {
    let mut removed = 0;
    for dir in [keys_dir.join(BY_ID_DIR), keys_dir.to_owned()] {
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| file_error("read", &dir, e))?,
        };
        let owner = fs::metadata(&dir).map_err(|e| file_error("read", &dir, e))?.uid();
        for entry in entries {
            let entry = entry.map_err(|e| file_error("read", &dir, e))?;
            let path = entry.path();
            let done = entry.metadata().and_then(|meta| {
                let is_left = is_temporary(&entry.file_name()) && meta.is_file();
                if !is_left || meta.uid() != owner || !goes(&path, &meta)? {
                    return Ok(0);
                }
                // Not overwritten: it may be a second name of a key that is in use.
                fs::remove_file(&path).map(|()| 1)
            });
            removed += match done {
                // Its writer is done with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
                other => other.map_err(|e| file_error("remove", &path, e))?,
            };
        }
    }
    Ok(removed)
}

/// The names that [`files::TemporaryFile`] gives.
fn is_temporary(name: &std::ffi::OsStr) -> bool {
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let random = name.to_str().and_then(|name| name.strip_prefix(".tmp-"));
    random.is_some_and(|random| random.len() == 16 && random.bytes().all(is_hex))
}
