//! `<job>.idx`: the state of a log, one line of JSON with a version; behind it the index of its lines.
//! Replaced whole. The state is only here; the index is made anew where it is lost.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use danube_core::JobId;
use danube_core::files::{Existing, write_atomic};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::LogState;
use crate::index::{LineIndex, MAX_ENCODED_BYTES};

/// Version 1 was the state alone.
const VERSION: u32 = 2;

/// The longest state: a hundred thousand steps with the longest names.
const MAX_STATE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    sealed: bool,
    #[serde(flatten)]
    state: LogState,
}

/// What every version says of itself, whatever else it says.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn path(dir: &Path, log: &JobId) -> PathBuf {
    dir.join(format!("{log}.idx"))
}

/// The sidecar, positioned behind its state; `None` where there is none, or none that can be read.
fn open(dir: &Path, log: &JobId) -> io::Result<Option<(BufReader<File>, Stored)>> {
    let path = path(dir, log);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A symbolic link is not ours: as if it were not there.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut file = BufReader::new(file);
    let mut state = Vec::new();
    (&mut file).take(MAX_STATE_BYTES + 1).read_until(b'\n', &mut state)?;
    if state.len() as u64 > MAX_STATE_BYTES {
        // It may say that the log is sealed: nothing may be said of it.
        return Err(too_long(&path));
    }
    if let Ok(Version { version }) = serde_json::from_slice(&state)
        && version > VERSION
    {
        // A newer Danube wrote it: nothing may be said of this log, least of all that it is abandoned.
        let path = path.display();
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{path} has version {version}, newer than this program knows ({VERSION})"),
        ));
    }
    match serde_json::from_slice::<Stored>(&state) {
        Ok(stored) if stored.version > 0 => Ok(Some((file, stored))),
        _ => {
            tracing::warn!(path = %path.display(), "the state of a log cannot be read; it counts as not sealed");
            Ok(None)
        }
    }
}

fn too_long(path: &Path) -> io::Error {
    let path = path.display();
    let text = format!("the state in {path} is longer than {MAX_STATE_BYTES} bytes");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The state and whether it is sealed; `None` where there is none, or none that can be read: such a
/// log counts as not sealed and is recovered.
pub(super) fn read(dir: &Path, log: &JobId) -> io::Result<Option<(LogState, bool)>> {
    Ok(open(dir, log)?.map(|(_, stored)| (stored.state, stored.sealed)))
}

/// The index of a log that has `log_len` bytes; one of an empty log where there is none, or none that can be
/// believed.
pub(super) fn read_index(dir: &Path, log: &JobId, log_len: u64) -> io::Result<LineIndex> {
    let Some((file, _)) = open(dir, log)? else { return Ok(LineIndex::new()) };
    let mut bytes = Vec::new();
    file.take(MAX_ENCODED_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(LineIndex::decode(&bytes, log_len).unwrap_or_default())
}

pub(super) fn write(
    dir: &Path,
    log: &JobId,
    state: &LogState,
    sealed: bool,
    index: &LineIndex,
) -> io::Result<()> {
    let path = path(dir, log);
    let stored = Stored { version: VERSION, sealed, state: state.clone() };
    let mut bytes = serde_json::to_vec(&stored).map_err(io::Error::other)?;
    bytes.push(b'\n');
    if bytes.len() as u64 > MAX_STATE_BYTES {
        return Err(too_long(&path));
    }
    bytes.extend_from_slice(&index.encode());
    write_atomic(&path, &bytes, 0o600, Existing::Replace)
}

/// Removes it, and returns the bytes freed.
pub(super) fn remove(dir: &Path, log: &JobId) -> io::Result<u64> {
    super::remove(&path(dir, log))
}
