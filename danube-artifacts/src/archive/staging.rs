//! The directory that an archive is unpacked in, and those that killed unpackings left.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Stat};
use rustix::io::Errno;

use super::ArchiveError;
use crate::beneath;

const PREFIX: &str = ".danube-unpack-";
/// What is unpacked lies in it under this name, and nothing else does.
const TREE: &str = "tree";
const MODE: u32 = 0o700;
/// How often somebody who looks for leftovers may be faster than our lock.
const TRIES: u32 = 16;

/// A directory beside the one that is to appear. It is locked (`flock`) as long as it is used, so that
/// one that nobody holds was left by an unpacking that was killed. Dropped, it is removed with all that is
/// in it.
pub(super) struct Staging {
    path: PathBuf,
    dir: OwnedFd,
}

impl Staging {
    pub(super) fn create_beside(into: &Path) -> Result<Self, ArchiveError> {
        let created = (0..TRIES).find_map(|_| Self::create_and_lock(into).transpose());
        let busy = || Err(io::Error::from(io::ErrorKind::ResourceBusy));
        created.unwrap_or_else(busy).map_err(|source| ArchiveError::File {
            operation: "create a directory beside",
            path: into.to_owned(),
            source,
        })
    }

    /// `None` where somebody took it for a leftover, before it was locked.
    fn create_and_lock(into: &Path) -> io::Result<Option<Self>> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("{PREFIX}{:016x}", u64::from_le_bytes(random));
        let path = into.with_file_name(OsString::from(name));
        DirBuilder::new().mode(MODE).create(&path)?;
        match lock(&path) {
            Ok(Lock::Held(dir) | Lock::Impossible(dir)) => Ok(Some(Self { path, dir })),
            Ok(Lock::Lost) => Ok(None),
            Err(e) => {
                let _ = fs::remove_dir(&path);
                Err(e)
            }
        }
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.path.join(TREE)
    }

    /// Removes what killed unpackings left beside this one, and tells how many directories that were: those of
    /// our name, owner and mode, with nothing but a tree in them, that nobody holds.
    pub(super) fn remove_leftovers(&self) -> u64 {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut removed = 0;
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.to_str().is_some_and(is_our_name) {
                continue;
            }
            let path = self.path.with_file_name(name);
            match self.remove_leftover(&path) {
                Ok(true) => removed += 1,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove what a killed unpacking left");
                }
            }
        }
        removed
    }

    fn remove_leftover(&self, path: &Path) -> io::Result<bool> {
        let Lock::Held(dir) = lock(path)? else { return Ok(false) };
        let (ours, left) = (rustix::fs::fstat(&self.dir)?, rustix::fs::fstat(&dir)?);
        let is_alike = |stat: &Stat| (stat.st_uid, stat.st_mode, stat.st_dev);
        if is_alike(&ours) != is_alike(&left) {
            return Ok(false);
        }
        if entries(&dir)?.iter().any(|(name, _)| name != TREE) {
            return Ok(false);
        }
        remove_all(&dir)?;
        fs::remove_dir(path)?;
        Ok(true)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let removed = remove_all(&self.dir).and_then(|()| fs::remove_dir(&self.path));
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove what was unpacked");
        }
    }
}

fn is_our_name(name: &str) -> bool {
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    name.strip_prefix(PREFIX).is_some_and(|random| random.len() == 16 && random.bytes().all(is_hex))
}

enum Lock {
    /// Nobody else has it, until this is dropped.
    Held(OwnedFd),
    /// Somebody has it, or it is gone.
    Lost,
    /// Nobody can have it: the file system has no locks for directories.
    Impossible(OwnedFd),
}

fn lock(path: &Path) -> io::Result<Lock> {
    let opened = rustix::fs::open(path, beneath::DIRECTORY, rustix::fs::Mode::empty());
    let dir = match opened {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Lock::Lost),
        other => other?,
    };
    match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Lock::Lost),
        Err(_) => return Ok(Lock::Impossible(dir)),
    }
    // It may have been removed by whoever held it until now.
    let held = rustix::fs::fstat(&dir)?;
    let is_it = |named: &Stat| (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino);
    Ok(match rustix::fs::lstat(path).as_ref().is_ok_and(is_it) {
        true => Lock::Held(dir),
        false => Lock::Lost,
    })
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<(OsString, FileType)>> {
    use std::os::unix::ffi::OsStringExt;
    let mut all = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        all.push((OsString::from_vec(name.to_vec()), kind));
    }
    Ok(all)
}

/// Removes what is in a directory; follows no link. It goes as deep as an archive may be.
fn remove_all(dir: &OwnedFd) -> io::Result<()> {
    for (name, kind) in entries(dir)? {
        if kind == FileType::Directory {
            remove_all(&beneath::open_dir(dir, &name)?)?;
            rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
        } else {
            rustix::fs::unlinkat(dir, &name, AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn left(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.join("tree/deep/er")).unwrap();
        fs::write(path.join("tree/deep/file"), b"x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn only_what_is_ours_and_nobodys_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("canary"), b"alive").unwrap();
        let dir = dir.path();
        let ours = left(dir, ".danube-unpack-0123456789abcdef", 0o700);
        symlink(outside.path(), ours.join("tree/link")).unwrap();
        let empty = dir.join(".danube-unpack-00000000000000ff");
        DirBuilder::new().mode(0o700).create(&empty).unwrap();

        let running = Staging::create_beside(&dir.join("running")).unwrap();
        fs::create_dir(running.tree()).unwrap();
        let kept = [
            left(dir, ".danube-unpack-0123456789abcde", 0o700),
            left(dir, ".danube-unpack-0123456789ABCDEF", 0o700),
            left(dir, ".danube-unpack-1111111111111111", 0o755),
            left(dir, "danube-unpack-2222222222222222", 0o700),
            left(dir, ".danube-unpack-3333333333333333", 0o700),
            dir.join(".danube-unpack-4444444444444444"),
            dir.join(".danube-unpack-5555555555555555"),
            running.tree(),
        ];
        fs::write(kept[4].join("somebody's"), b"x").unwrap();
        fs::write(&kept[5], b"a file").unwrap();
        symlink(outside.path(), &kept[6]).unwrap();

        let mine = Staging::create_beside(&dir.join("mine")).unwrap();
        assert_eq!(mine.remove_leftovers(), 2);
        assert!(!ours.exists() && !empty.exists());
        for kept in &kept {
            assert!(fs::symlink_metadata(kept).is_ok(), "{} is gone", kept.display());
        }
        assert_eq!(fs::read(outside.path().join("canary")).unwrap(), b"alive");
        assert_eq!(mine.remove_leftovers(), 0);
        let path = running.path.clone();
        drop(running);
        assert!(!path.exists() && mine.path.exists());
    }

    #[test]
    fn many_who_begin_and_look_at_once_are_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for at in 0..4 {
                let into = dir.path().join(at.to_string());
                scope.spawn(move || {
                    for _ in 0..200 {
                        let staging = Staging::create_beside(&into).unwrap();
                        fs::create_dir(staging.tree()).unwrap();
                        // One that is not locked yet may go: whoever made it makes another.
                        staging.remove_leftovers();
                        fs::write(staging.tree().join("file"), b"x").unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
