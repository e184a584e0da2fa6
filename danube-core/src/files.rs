//! Files that are private, and files that are replaced whole or not at all.
//!
//! Everything here blocks: call it from `spawn_blocking` on a runtime. It uses `std::fs`, because an
//! asynchronous file hides a full disk until it is flushed, and `sync_all` does not flush it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Why a private file or directory was refused. The message names the path and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    /// Others can read or write it.
    #[error("{} has mode {mode:04o}, which lets others read it: run chmod 600 on it (and replace the key if they could have)", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns it.
    #[error("{} belongs to user {owner}, not to the user running this", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// It is a symbolic link, a directory or a device.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// It is longer than such a file can be.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit that it passes.
        limit: u64,
    },
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Creates a directory with mode 0700, and its parents. One that exists is left as it is.
///
/// # Errors
///
/// What `mkdir` says.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads a file that nobody else may read: regular, not through a symbolic link, owned by this user,
/// without permissions for group and others, at most `limit` bytes long.
///
/// # Errors
///
/// [`PrivateFileError`], which says which of these did not hold.
pub fn read_private(path: &Path, limit: u64) -> Result<Vec<u8>, PrivateFileError> {
    let io_error = |source| PrivateFileError::Io { path: path.to_owned(), source };
    // NONBLOCK: opening a FIFO that somebody put there must not wait for its writer.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(PrivateFileError::NotRegular { path: path.to_owned() });
        }
        other => other.map_err(io_error)?,
    };
    let meta = file.metadata().map_err(io_error)?;
    if !meta.is_file() {
        return Err(PrivateFileError::NotRegular { path: path.to_owned() });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(PrivateFileError::TooOpen {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
        });
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(PrivateFileError::Foreign { path: path.to_owned(), owner: meta.uid() });
    }
    // A buffer that never grows leaves no copy of a key behind; the 64 bytes are what `read_to_end`
    // wants free to look for the end, and without them it looks with a buffer of its own.
    let room = meta.len().min(limit) + 1 + 64;
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or_default());
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > limit {
        return Err(PrivateFileError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// What [`write_atomic`] does with a file that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Replaces it.
    Replace,
    /// Leaves it and fails with [`io::ErrorKind::AlreadyExists`].
    Refuse,
}

/// Writes a file whole or not at all, and durably: a temporary file beside it, fsync, rename (or a
/// hard link, which refuses an existing name), fsync of the directory. Whatever fails, no temporary
/// file is left and the old content stands.
///
/// # Errors
///
/// What the system says, for instance [`io::ErrorKind::StorageFull`].
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> io::Result<()> {
    let temporary = TemporaryFile::create_beside(path, mode)?;
    (&temporary.file).write_all(bytes)?;
    temporary.commit(path, existing)
}

/// A file being written beside its final place. Dropped without [`commit`](Self::commit), it is
/// removed.
#[derive(Debug)]
pub struct TemporaryFile {
    file: File,
    path: PathBuf,
}

impl TemporaryFile {
    /// Creates one in the directory of `path` under a name that begins with `.tmp-`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn create_beside(path: &Path, mode: u32) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut name = b".tmp-".to_vec();
        name.extend_from_slice(hex::encode(random).as_bytes());
        let temporary = parent_of(path).join(OsString::from_vec(name));
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        let this = Self { file, path: temporary };
        // The umask has had its say at creation; the mode asked for is the mode wanted.
        rustix::fs::fchmod(&this.file, rustix::fs::Mode::from_raw_mode(mode))?;
        Ok(this)
    }

    /// The open file, to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name: fsync, rename or link, fsync of the directory.
    ///
    /// # Errors
    ///
    /// What the system says; the temporary file is then removed and the old content stands.
    pub fn commit(self, path: &Path, existing: Existing) -> io::Result<()> {
        self.file.sync_all()?;
        match existing {
            Existing::Replace => fs::rename(&self.path, path)?,
            // The temporary name goes with `self`.
            Existing::Refuse => fs::hard_link(&self.path, path)?,
        }
        sync_dir(parent_of(path))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // After a rename there is nothing under this name: the error says so, and that is fine.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
///
/// What the system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"one", 0o600, Existing::Refuse).unwrap();
        let refused = write_atomic(&path, b"two", 0o600, Existing::Refuse).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write_atomic(&path, b"two", 0o644, Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        let onto_a_directory = dir.path().join("taken");
        assert!(write_atomic(&onto_a_directory, b"x", 0o600, Existing::Replace).is_err());
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[test]
    fn a_private_file_is_refused_when_others_could_see_or_swap_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"secret", 0o600, Existing::Refuse).unwrap();
        assert_eq!(read_private(&path, 6).unwrap(), b"secret");
        assert!(matches!(read_private(&path, 5), Err(PrivateFileError::TooLong { .. })));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_private(&path, 6).unwrap_err();
        assert!(matches!(error, PrivateFileError::TooOpen { mode: 0o644, .. }));
        assert!(error.to_string().contains("0644") && error.to_string().contains("chmod 600"));

        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read_private(&link, 6), Err(PrivateFileError::NotRegular { .. })));
        assert!(matches!(read_private(dir.path(), 6), Err(PrivateFileError::NotRegular { .. })));
        let fifo = dir.path().join("fifo");
        let fifo_mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, fifo_mode, 0)
            .unwrap();
        assert!(matches!(read_private(&fifo, 6), Err(PrivateFileError::NotRegular { .. })));
        assert!(matches!(
            read_private(&dir.path().join("no"), 6),
            Err(PrivateFileError::Io { .. })
        ));
    }
}
