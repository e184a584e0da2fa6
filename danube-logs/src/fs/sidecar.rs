//! `<job>.idx`: the state of a log, JSON with a version, replaced whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use danube_core::JobId;
use danube_core::files::{Existing, write_atomic};
use serde::{Deserialize, Serialize};

use crate::LogState;

const VERSION: u32 = 1;

/// The longest state that is read: some ten thousand steps.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    sealed: bool,
    #[serde(flatten)]
    state: LogState,
}

fn path(dir: &Path, log: &JobId) -> PathBuf {
    dir.join(format!("{log}.idx"))
}

/// The state and whether it is sealed; `None` where there is none, or none that can be read: such a
/// log counts as not sealed and is recovered.
pub(super) fn read(dir: &Path, log: &JobId) -> io::Result<Option<(LogState, bool)>> {
    let path = path(dir, log);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_file() && meta.len() <= MAX_BYTES => {}
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    }
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match serde_json::from_slice::<Stored>(&bytes) {
        Ok(stored) if stored.version == VERSION => Ok(Some((stored.state, stored.sealed))),
        // A newer Danube wrote it: nothing may be said of this log, least of all that it is abandoned.
        Ok(stored) if stored.version > VERSION => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{} has version {}, newer than this program knows ({VERSION})",
                path.display(),
                stored.version
            ),
        )),
        _ => {
            tracing::warn!(path = %path.display(), "the state of a log cannot be read; it counts as not sealed");
            Ok(None)
        }
    }
}

pub(super) fn write(dir: &Path, log: &JobId, state: &LogState, sealed: bool) -> io::Result<()> {
    let stored = Stored { version: VERSION, sealed, state: state.clone() };
    let bytes = serde_json::to_vec(&stored).map_err(io::Error::other)?;
    write_atomic(&path(dir, log), &bytes, 0o600, Existing::Replace)
}

/// Removes it, and returns the bytes freed.
pub(super) fn remove(dir: &Path, log: &JobId) -> io::Result<u64> {
    let path = path(dir, log);
    let len = match fs::symlink_metadata(&path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(len),
    }
}
