//! Reading the files that evidence consists of.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use danube_core::Sha256Digest;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::{Failure, Part, VerifyError};

/// How much of a file is read at once.
const READ_BYTES: usize = 256 * 1024;

pub(super) fn absent(part: Part, path: &Path) -> VerifyError {
    VerifyError::new(part, Failure::Missing, format!("there is no {}", path.display()))
}

/// Opens a regular file. NONBLOCK: a FIFO must not wait for its writer.
pub(super) fn open_part(part: Part, path: &Path, flags: OFlags) -> Result<File, VerifyError> {
    let unreadable = |why: &dyn std::fmt::Display| {
        let reason = format!("cannot open {}: {why}", path.display());
        VerifyError::new(part, Failure::Unreadable, reason)
    };
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => absent(part, path),
        _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            unreadable(&"it is a symbolic link; give the file itself")
        }
        _ => unreadable(&e),
    })?;
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(_) => Err(unreadable(&"it is not a regular file")),
        Err(e) => Err(unreadable(&e)),
    }
}

pub(super) fn read_part(part: Part, path: &Path, limit: u64) -> Result<Vec<u8>, VerifyError> {
    let file = open_part(part, path, OFlags::empty())?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| {
        let reason = format!("cannot read {}: {e}", path.display());
        VerifyError::new(part, Failure::Unreadable, reason)
    })?;
    if bytes.is_empty() {
        let reason = format!("{} is empty", path.display());
        return Err(VerifyError::new(part, Failure::Missing, reason));
    }
    if bytes.len() as u64 > limit {
        let reason = format!("{} is longer than {limit} bytes", path.display());
        return Err(VerifyError::new(part, Failure::Malformed, reason));
    }
    Ok(bytes)
}

/// The length and the SHA-256 of everything that a reader gives; `path` is where it comes from.
pub(super) fn digest_of(
    path: &Path,
    mut bytes: impl Read,
) -> Result<(u64, Sha256Digest), VerifyError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut size_bytes = 0;
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size_bytes += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(unreadable(path, &e)),
        }
    }
    Ok((size_bytes, Sha256Digest::from_bytes(hasher.finalize().into())))
}

/// The file itself, or what it holds, cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> VerifyError {
    let reason = format!("cannot read {}: {error}", path.display());
    VerifyError::new(Part::Artifact, Failure::Unreadable, reason)
}
