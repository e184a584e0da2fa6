//! Room that is set aside while a log is written: on a full disk the last words must fit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use danube_core::JobId;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

/// Enough for a state, some notes, and the few pages that a database writes for a verdict.
const RESERVE_BYTES: u64 = 256 * 1024;
/// Given up for each write that found no room, so that notes about it fit.
const STEP_BYTES: u64 = 64 * 1024;
/// Kept whatever is refused: the lines that go on coming would take it, and the verdict comes last.
const KEPT_BYTES: u64 = 128 * 1024;

/// A file that only takes room. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    file: File,
    bytes: u64,
}

fn path(dir: &Path, log: &JobId) -> PathBuf {
    dir.join(format!(".reserve-{log}"))
}

impl Reserve {
    pub(super) fn create(dir: &Path, log: &JobId) -> io::Result<Self> {
        let path = path(dir, log);
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags);
        let file = options.open(&path)?;
        let mut reserve = Self { path, file, bytes: RESERVE_BYTES };
        match fallocate(&reserve.file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
            Ok(()) => {}
            // A file system that cannot set room aside has it taken.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = vec![0; usize::try_from(RESERVE_BYTES).unwrap_or(0)];
                reserve.file.write_all(&zeros)?;
            }
            Err(e) => return Err(e.into()),
        }
        Ok(reserve)
    }

    /// Gives some of the room back, unless little is left.
    pub(super) fn give_some(&mut self) {
        let bytes = self.bytes.saturating_sub(STEP_BYTES).max(KEPT_BYTES);
        if bytes < self.bytes && self.file.set_len(bytes).is_ok() {
            self.bytes = bytes;
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what a killed owner left, and returns the bytes freed.
pub(super) fn remove(dir: &Path, log: &JobId) -> io::Result<u64> {
    match fs::remove_file(path(dir, log)) {
        Ok(()) => Ok(RESERVE_BYTES),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}
