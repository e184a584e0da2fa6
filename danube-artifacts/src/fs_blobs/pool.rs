//! Equal bytes once: the pool that job files are hard links to.
//!
//! `.blobs/sha256/ab/<digest>` is one more name of every file of some size; the file system counts the
//! names, so there is no count that could be wrong. The pool is a help and no truth: nothing is
//! ever read through it, a blob that it gives was compared byte by byte with what arrived, and it may be
//! deleted at any time without loss.
//!
//! A body tells its digest at its end, when it has been written. So that a duplicate is not written at
//! all, `.blobs/heads/<digest of the first bytes>` names the blob that began like this last time
//! (a symbolic link that nobody follows, only its text counts).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use danube_core::Sha256Digest;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::staging::Staged;
use super::{Change, entries, is_absent, open_chain};
use crate::beneath;

const BLOBS: [&str; 2] = [".blobs", "sha256"];
const HEADS: [&str; 2] = [".blobs", "heads"];

/// Smaller files are not shared: a link saves them less than a block of the disk.
const MIN_BYTES: u64 = 4096;

/// Where a file carries the 32 bytes of its digest, so that its blob is found when its last job lets go of it.
/// As text they would not fit into an inode of ext4, and cost a block of their own. Where the file system has no
/// such attributes, the sweep finds the blob.
const DIGEST_ATTRIBUTE: &str = "user.danube.sha256";

/// A blob of the pool with a name in the staging directory, and locked: whatever becomes of the pool,
/// its bytes stay.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) file: File,
    pub(super) size_bytes: u64,
    pub(super) digest: Sha256Digest,
    pub(super) staged: Staged,
}

/// Whether a file of this size is shared.
pub(super) fn takes(size_bytes: u64) -> bool {
    size_bytes >= MIN_BYTES
}

fn place_of(digest: &Sha256Digest) -> (String, String) {
    let name = digest.to_string();
    (name[..2].to_owned(), name)
}

/// The directory that a blob of this digest lies in.
fn shelf(root: &OwnedFd, digest: &Sha256Digest, create: bool) -> io::Result<(OwnedFd, String)> {
    let (shelf, name) = place_of(digest);
    let mut chain = open_chain(root, &[BLOBS[0], BLOBS[1], &shelf], create)?;
    Ok((chain.pop().expect("the chain has the shelf"), name))
}

/// The blob of this digest, pinned; `None` where there is none, or it cannot be had right now.
pub(super) fn find(root: &OwnedFd, staging: &Arc<OwnedFd>, digest: Sha256Digest) -> Option<Pinned> {
    let (shelf, name) = shelf(root, &digest, false).ok()?;
    let file = beneath::open_file(&shelf, &name).ok()?;
    // From here on nobody takes a name of it in the staging directory for a leftover.
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
    let staged = Staged::link(staging, &shelf, &name).ok()?;
    let meta = rustix::fs::fstat(&file).ok()?;
    // Somebody may have replaced the blob between its opening and its link.
    let is_the_same = staged.inode().ok()? == meta.st_ino;
    let size_bytes = u64::try_from(meta.st_size).ok()?;
    is_the_same.then_some(Pinned { file, size_bytes, digest, staged })
}

/// The blob that began with these bytes last time, pinned.
pub(super) fn find_by_head(
    root: &OwnedFd,
    staging: &Arc<OwnedFd>,
    head: &Sha256Digest,
) -> Option<Pinned> {
    let heads = open_chain(root, &HEADS, false).ok()?;
    let target = rustix::fs::readlinkat(heads.last()?, head.to_string(), Vec::new()).ok()?;
    find(root, staging, target.to_str().ok()?.parse().ok()?)
}

/// Remembers on a file what it holds. To be called while it can be written to.
pub(super) fn mark(file: &File, digest: &Sha256Digest) {
    let flags = XattrFlags::empty();
    let _ = rustix::fs::fsetxattr(file, DIGEST_ATTRIBUTE, digest.as_bytes(), flags);
}

fn marked(file: &File) -> Option<Sha256Digest> {
    let mut value = [0; 32];
    let len = rustix::fs::fgetxattr(file, DIGEST_ATTRIBUTE, &mut value[..]).ok()?;
    (len == value.len()).then(|| Sha256Digest::from_bytes(value))
}

/// Takes a whole, locked file into the pool. Fails with [`Errno::EXIST`] where there is a blob of that
/// digest already.
pub(super) fn add(
    root: &OwnedFd,
    staged: &Staged,
    digest: &Sha256Digest,
    head: Option<&Sha256Digest>,
) -> io::Result<()> {
    let (shelf, name) = shelf(root, digest, true)?;
    staged.link_to(&shelf, &name)?;
    if let Some(head) = head {
        let heads = open_chain(root, &HEADS, true)?;
        let heads = heads.last().expect("the chain has the heads");
        let (target, name) = (digest.to_string(), head.to_string());
        // The newest one counts: what is built again resembles what was built last.
        if rustix::fs::symlinkat(&target, heads, &name) == Err(Errno::EXIST) {
            rustix::fs::unlinkat(heads, &name, AtFlags::empty())?;
            rustix::fs::symlinkat(&target, heads, &name)?;
        }
    }
    Ok(())
}

/// Removes a blob from the pool that is not what its name says.
pub(super) fn discard(root: &OwnedFd, digest: &Sha256Digest) -> io::Result<()> {
    let (shelf, name) = shelf(root, digest, false)?;
    Ok(rustix::fs::unlinkat(&shelf, &name, AtFlags::empty())?)
}

/// Lets go of the blob that a deleted file shared, if nobody else shares it. Tells how many bytes were
/// freed.
pub(super) fn let_go(root: &OwnedFd, file: &File) -> u64 {
    let last = || -> Option<u64> {
        let stat = rustix::fs::fstat(file).ok()?;
        if stat.st_nlink != 1 {
            return Some(if stat.st_nlink == 0 { stat.st_size } else { 0 }.cast_unsigned());
        }
        let (shelf, name) = shelf(root, &marked(file)?, false).ok()?;
        let pooled = rustix::fs::statat(&shelf, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if pooled.st_ino != stat.st_ino {
            return None;
        }
        // Who pins it between these two lines has it under a name of its own and loses nothing.
        rustix::fs::unlinkat(&shelf, &name, AtFlags::empty()).ok()?;
        Some(stat.st_size.cast_unsigned())
    };
    last().unwrap_or(0)
}

/// Removes the blobs that have no other name and were not touched since `before`, and the heads that
/// name nothing.
pub(super) fn sweep(root: &OwnedFd, before: Change) -> io::Result<u64> {
    let Some(shelves) = absent_is_none(open_chain(root, &BLOBS, false))? else { return Ok(0) };
    let shelves = shelves.last().expect("the chain has the shelves");
    let mut freed = 0;
    for (shelf, _) in entries(shelves)? {
        let Ok(shelf) = beneath::open_dir(shelves, &shelf) else { continue };
        for (name, _) in entries(&shelf)? {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::openat(&shelf, &name, flags, Mode::empty()) else { continue };
            let stat = rustix::fs::fstat(&fd)?;
            if stat.st_nlink == 1 && Change::of(&stat) < before {
                rustix::fs::unlinkat(&shelf, &name, AtFlags::empty())?;
                freed += stat.st_size.cast_unsigned();
            }
        }
    }
    let Some(heads) = absent_is_none(open_chain(root, &HEADS, false))? else { return Ok(freed) };
    let heads = heads.last().expect("the chain has the heads");
    for (head, _) in entries(heads)? {
        let target = rustix::fs::readlinkat(heads, &head, Vec::new());
        let digest = target.ok().and_then(|target| target.to_str().ok()?.parse().ok());
        let stands = digest.is_some_and(|digest| {
            shelf(root, &digest, false).is_ok_and(|(shelf, name)| {
                rustix::fs::statat(&shelf, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
            })
        });
        if !stands {
            let _ = rustix::fs::unlinkat(heads, &head, AtFlags::empty());
        }
    }
    Ok(freed)
}

fn absent_is_none<T>(result: Result<T, Errno>) -> io::Result<Option<T>> {
    match result.map_err(io::Error::from) {
        Ok(found) => Ok(Some(found)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
