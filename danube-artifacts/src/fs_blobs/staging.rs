//! Where blobs wait until they are whole.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Change, entries};
use crate::PutMode;

/// Where uploads wait until they are whole. No job can be called so: ids begin with a letter or digit.
pub(super) const STAGING_DIR: &str = ".tmp";
/// How often a name is tried again that somebody removed at once.
const ATTEMPTS: usize = 64;

/// A name in the staging directory, removed on drop.
#[derive(Debug)]
pub(super) struct Staged {
    dir: Arc<OwnedFd>,
    name: String,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing under this name: the error says so, and that is fine.
        let _ = rustix::fs::unlinkat(&*self.dir, &self.name, AtFlags::empty());
    }
}

impl Staged {
    /// A new file, locked for as long as it is open: what nobody holds locked here is a leftover.
    pub(super) fn create(dir: &Arc<OwnedFd>) -> io::Result<(Self, File)> {
        for _ in 0..ATTEMPTS {
            let name = random_name()?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&**dir, &name, flags, Mode::RUSR | Mode::WUSR)?;
            let staged = Self { dir: Arc::clone(dir), name };
            // Between its creation and its lock, somebody may take it for a leftover and remove it.
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
                && rustix::fs::fstat(&fd)?.st_nlink > 0
            {
                return Ok((staged, File::from(fd)));
            }
        }
        Err(io::Error::other("every new file is removed at once by somebody else"))
    }

    /// One more name for a file that lies elsewhere and that the caller holds locked.
    pub(super) fn link(dir: &Arc<OwnedFd>, from: &OwnedFd, file: &str) -> io::Result<Self> {
        let name = random_name()?;
        rustix::fs::linkat(from, file, &**dir, &name, AtFlags::empty())?;
        Ok(Self { dir: Arc::clone(dir), name })
    }

    /// The inode behind the name.
    pub(super) fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::statat(&*self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
    }

    /// Gives the file one more name, which must be free.
    pub(super) fn link_to(&self, dir: &OwnedFd, name: &str) -> Result<(), Errno> {
        rustix::fs::linkat(&*self.dir, &self.name, dir, name, AtFlags::empty())
    }

    /// Puts the file where it belongs.
    pub(super) fn move_to(&self, dir: &OwnedFd, name: &str, mode: PutMode) -> Result<(), Errno> {
        match mode {
            // Where both are names of one file already, this does nothing, and the name goes on drop.
            PutMode::Replace => rustix::fs::renameat(&*self.dir, &self.name, dir, name),
            PutMode::CreateNew => {
                let flags = RenameFlags::NOREPLACE;
                match rustix::fs::renameat_with(&*self.dir, &self.name, dir, name, flags) {
                    // This file system cannot; a hard link refuses an existing name as well.
                    Err(Errno::INVAL | Errno::NOSYS) => self.link_to(dir, name),
                    other => other,
                }
            }
        }
    }
}

fn random_name() -> io::Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(random)))
}

/// Removes the staged files that nobody holds locked and nobody touched since `before`, and tells how
/// many bytes that freed.
pub(super) fn remove_leftovers(staging: &OwnedFd, before: Option<Change>) -> io::Result<u64> {
    let mut freed = 0;
    for (name, kind) in entries(staging)? {
        if kind != FileType::RegularFile {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::openat(staging, &name, flags, Mode::empty()) else { continue };
        if rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let stat = rustix::fs::fstat(&fd)?;
        if before.is_some_and(|before| Change::of(&stat) >= before) {
            continue;
        }
        rustix::fs::unlinkat(staging, &name, AtFlags::empty())?;
        if stat.st_nlink == 1 {
            freed += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }
    Ok(freed)
}
