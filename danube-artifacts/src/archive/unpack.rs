//! Unpacking into a directory that appears whole or not at all.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::staging::Staging;
use super::{ArchiveError, Entries, EntryKind, Limits};
use crate::beneath;

const BUFFER_BYTES: usize = 64 * 1024;

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// How many entries.
    pub entries: u64,
    /// How many bytes the files have.
    pub content_bytes: u64,
    /// How many directories that killed unpackings had left beside were removed.
    pub leftovers: u64,
}

/// Unpacks a tar.gz into the new directory `into`, whose parent must exist.
///
/// It is unpacked beside (`.danube-unpack-*`, mode 0700) and renamed when everything was read and
/// nothing was refused. After an error that is removed; what a crash leaves, the next unpacking into the
/// same directory removes. Modes are 0755 and 0644 less the umask. Nothing is synced: what matters
/// beyond the machine's next crash is the archive.
///
/// # Errors
///
/// [`ArchiveError::Refused`] for an archive that is not to be trusted; [`ArchiveError::Exists`];
/// [`ArchiveError::Stream`] and [`ArchiveError::File`].
pub fn unpack(source: impl Read, into: &Path, limits: &Limits) -> Result<Unpacked, ArchiveError> {
    let exists = || ArchiveError::Exists { path: into.to_owned() };
    if fs::symlink_metadata(into).is_ok() {
        return Err(exists());
    }
    let staging = Staging::create_beside(into)?;
    // Before anything is written: they may be what fills the disk.
    let leftovers = staging.remove_leftovers();
    let tree = staging.tree();
    let failed = |operation, path: &Path, e: io::Error| ArchiveError::File {
        operation,
        path: path.to_owned(),
        source: e,
    };
    DirBuilder::new().mode(0o755).create(&tree).map_err(|e| failed("create", &tree, e))?;
    let root = beneath::open_root(&tree).map_err(|e| failed("open", &tree, e))?;
    let mut unpacked = Unpack { root, parent: None, into }.all(source, limits)?;
    unpacked.leftovers = leftovers;
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, &tree, cwd, into, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(unpacked),
        Err(Errno::EXIST) => Err(exists()),
        Err(e) => Err(failed("rename the unpacked tree to", into, e.into())),
    }
}

struct Unpack<'a> {
    root: OwnedFd,
    /// The directory of the last entry: archives go through a tree directory by directory.
    parent: Option<(String, OwnedFd)>,
    into: &'a Path,
}

impl Unpack<'_> {
    fn all(mut self, source: impl Read, limits: &Limits) -> Result<Unpacked, ArchiveError> {
        let mut entries = Entries::from_gzip(source, limits.clone());
        let mut unpacked = Unpacked { entries: 0, content_bytes: 0, leftovers: 0 };
        let mut buffer = vec![0; BUFFER_BYTES];
        // Links come last: while files are written there is no link to follow.
        let mut links = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            let path = entry.path;
            unpacked.entries += 1;
            match entry.kind {
                EntryKind::Directory => {
                    self.directory(&path).map_err(|e| self.failed("create", &path, e))?;
                }
                EntryKind::File { is_executable, .. } => {
                    let created = self.file(&path, is_executable);
                    let mut file = created.map_err(|e| self.failed("create", &path, e))?;
                    loop {
                        let read = entries.read_content(&mut buffer)?;
                        if read == 0 {
                            break;
                        }
                        let written = file.write_all(&buffer[..read]);
                        written.map_err(|e| self.failed("write", &path, e))?;
                        unpacked.content_bytes += read as u64;
                    }
                }
                EntryKind::HardLink { target } => {
                    self.hard_link(&path, &target).map_err(|e| self.failed("link", &path, e))?;
                }
                EntryKind::Symlink { target } => links.push((path, target)),
            }
        }
        for (path, target) in links {
            let linked = self
                .place(&path)
                .and_then(|(dir, name)| Ok(rustix::fs::symlinkat(target.as_str(), dir, name)?));
            linked.map_err(|e| self.failed("link", &path, e))?;
        }
        Ok(unpacked)
    }

    fn directory(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let (parent, name) = self.place(path)?;
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            // It follows from the path of something in it, and the archive named it later.
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    fn file(&mut self, path: &str, is_executable: bool) -> io::Result<File> {
        let (parent, name) = self.place(path)?;
        let mode = Mode::from_raw_mode(if is_executable { 0o755 } else { 0o644 });
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(parent, name, flags, mode)?.into())
    }

    fn hard_link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let (dir, name) = target.rsplit_once('/').unwrap_or(("", target));
        let from = beneath::open_dir(&self.root, dir)?;
        let (parent, new) = self.place(path)?;
        Ok(rustix::fs::linkat(&from, name, parent, new, AtFlags::empty())?)
    }

    /// The directory of a path, created where it is missing, and the name in it.
    fn place<'p>(&mut self, path: &'p str) -> io::Result<(impl AsFd, &'p str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if self.parent.as_ref().is_none_or(|(open, _)| open != dir) {
            let fd = match beneath::open_dir(&self.root, dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.create_all(dir)?,
                other => other?,
            };
            self.parent = Some((dir.to_owned(), fd));
        }
        let (_, fd) = self.parent.as_ref().expect("it was set above");
        Ok((fd, name))
    }

    fn create_all(&self, dir: &str) -> io::Result<OwnedFd> {
        let mut at = beneath::open_dir(&self.root, "")?;
        for component in dir.split('/') {
            match rustix::fs::mkdirat(&at, component, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            at = beneath::open_dir(&at, component)?;
        }
        Ok(at)
    }

    fn failed(&self, operation: &'static str, path: &str, source: io::Error) -> ArchiveError {
        ArchiveError::File { operation, path: self.into.join(path), source }
    }
}
