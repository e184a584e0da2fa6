//! Packing a directory: the same tree gives the same bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use rustix::fs::{AtFlags, Dir, FileType};

use super::header::{BLOCK_BYTES, Header, MAX_FILE_BYTES, NAME_BYTES, extended_record};
use super::path::{checked_path, checked_target};
use super::{ArchiveError, Limits, MAX_NAMES_BYTES, MAX_SKIPPED, Refusal};
use crate::beneath;

/// 1980-01-01T00:00:00Z, the earliest time that every tool takes: zip knows none before it.
const MTIME: u64 = 315_532_800;

const BUFFER_BYTES: usize = 64 * 1024;

/// How [`pack`] packs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PackOptions {
    /// The most that is packed. An archive within the same limits can be unpacked, but for the ratio.
    pub limits: Limits,
    /// How hard gzip tries, 0 to 9; 6 by default.
    pub level: u8,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), level: 6 }
    }
}

impl PackOptions {
    /// With these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With this level; more than 9 is 9.
    #[must_use]
    pub fn with_level(mut self, level: u8) -> Self {
        self.level = level.min(9);
        self
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// How many entries.
    pub entries: u64,
    /// How many bytes the files have.
    pub content_bytes: u64,
    /// What was left out: FIFOs, sockets, devices, links out of the tree; at most [`MAX_SKIPPED`].
    pub skipped: Vec<Skipped>,
    /// How many more were left out.
    pub more_skipped: u64,
}

/// Something that was not packed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Its path below the root.
    pub path: String,
    /// Why.
    pub refusal: Refusal,
}

/// Packs what is below `root` as a tar.gz.
///
/// Names stand in the order of their bytes, a directory before what is in it; owners, times and modes
/// do not depend on the machine. Links are packed as links; a file with several names is packed
/// under each of them. FIFOs, sockets, devices and links out of the tree are left out and named.
/// Nothing is read through a link. An archive that lies in the tree itself is [`ArchiveError::Changed`]
/// while it grows: write it elsewhere.
///
/// # Errors
///
/// [`ArchiveError::CannotPack`] for a name or a size that [`unpack`](super::unpack) would refuse;
/// [`ArchiveError::Changed`] when a file grows, shrinks, vanishes or becomes something else meanwhile;
/// [`ArchiveError::File`] and [`ArchiveError::Stream`]. What was written until then is no archive.
pub fn pack(
    root: &Path,
    output: impl Write,
    options: &PackOptions,
) -> Result<Packed, ArchiveError> {
    let opened = beneath::open_root(root);
    let dir = opened.map_err(|source| ArchiveError::File {
        operation: "open",
        path: root.to_owned(),
        source,
    })?;
    let level = Compression::new(options.level.into());
    // 255: of no particular system; no time and no name either.
    let gzip = GzBuilder::new().operating_system(255).write(output, level);
    let packed = Packed { entries: 0, content_bytes: 0, skipped: Vec::new(), more_skipped: 0 };
    let mut pack = Pack {
        root,
        limits: &options.limits,
        output: gzip,
        written: 0,
        names_bytes: 0,
        packed,
        buffer: vec![0; BUFFER_BYTES],
    };
    pack.directory(&dir, "")?;
    pack.write(&[0; 2 * BLOCK_BYTES])?;
    let mut output = pack
        .output
        .finish()
        .map_err(|source| ArchiveError::Stream { operation: "write", source })?;
    output.flush().map_err(|source| ArchiveError::Stream { operation: "write", source })?;
    Ok(pack.packed)
}

struct Pack<'a, W: Write> {
    root: &'a Path,
    limits: &'a Limits,
    output: flate2::write::GzEncoder<W>,
    written: u64,
    names_bytes: usize,
    packed: Packed,
    buffer: Vec<u8>,
}

impl<W: Write> Pack<'_, W> {
    /// Packs what is in a directory. It calls itself no deeper than a path may be.
    fn directory(&mut self, dir: &OwnedFd, path: &str) -> Result<(), ArchiveError> {
        for name in self.names(dir, path)? {
            let below = if path.is_empty() {
                String::from_utf8_lossy(&name).into_owned()
            } else {
                format!("{path}/{}", String::from_utf8_lossy(&name))
            };
            // A name that is not UTF-8 was replaced above: look at the real one.
            let checked = std::str::from_utf8(&name).map_err(|_| Refusal::NotUtf8);
            let checked = checked.and_then(|_| checked_path(below.as_bytes()));
            checked.map_err(|refusal| self.cannot(&below, refusal))?;
            self.one(dir, &name, &below)?;
        }
        Ok(())
    }

    fn one(&mut self, dir: &OwnedFd, name: &[u8], path: &str) -> Result<(), ArchiveError> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|e| self.lost(path, e.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = beneath::open_dir(dir, std::ffi::OsStr::from_bytes(name));
                let below = below.map_err(|e| self.lost(path, e))?;
                self.header(path, &[], b'5', 0, true)?;
                self.directory(&below, path)
            }
            FileType::RegularFile => {
                let name = std::str::from_utf8(name).expect("it was checked");
                let file = beneath::open_file(dir, name).map_err(|e| self.lost(path, e))?;
                self.file(file, path)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new());
                let target = target.map_err(|e| self.lost(path, e.into()))?;
                match checked_target(path, target.as_bytes()) {
                    Ok(target) => self.header(path, target.as_bytes(), b'2', 0, true),
                    Err(refusal) => self.skip(path, refusal),
                }
            }
            FileType::Fifo => self.skip(path, Refusal::Kind { kind: "FIFO" }),
            FileType::Socket => self.skip(path, Refusal::Kind { kind: "socket" }),
            _ => self.skip(path, Refusal::Kind { kind: "device" }),
        }
    }

    /// What is in a directory, in the order of bytes.
    fn names(&self, dir: &OwnedFd, path: &str) -> Result<Vec<Vec<u8>>, ArchiveError> {
        let failed = |e: rustix::io::Errno| self.failed("read", path, e.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            names.push(name);
            if names.len() as u64 > self.limits.max_entries {
                let limit = self.limits.max_entries;
                return Err(self.cannot(path, Refusal::TooManyEntries { limit }));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn file(&mut self, mut file: File, path: &str) -> Result<(), ArchiveError> {
        let meta = file.metadata().map_err(|e| self.failed("read", path, e))?;
        let size = meta.len();
        let limit = self.limits.max_file_bytes.min(MAX_FILE_BYTES);
        if size > limit {
            return Err(self.cannot(path, Refusal::FileTooLarge { limit }));
        }
        self.header(path, &[], b'0', size, meta.permissions().mode() & 0o100 != 0)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            match file.read(&mut buffer[..want]) {
                Ok(0) => return Err(self.changed(path)),
                Ok(read) => {
                    self.write(&buffer[..read])?;
                    left -= read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed("read", path, e)),
            }
        }
        // What grew was not packed whole.
        let grown = file.metadata().map_err(|e| self.failed("read", path, e))?;
        if grown.len() != size {
            return Err(self.changed(path));
        }
        self.buffer = buffer;
        self.packed.content_bytes += size;
        self.pad(size)
    }

    /// The header of an entry, with an extended one before it where it does not hold the names.
    fn header(
        &mut self,
        path: &str,
        target: &[u8],
        type_flag: u8,
        size: u64,
        is_executable: bool,
    ) -> Result<(), ArchiveError> {
        self.packed.entries += 1;
        if self.packed.entries > self.limits.max_entries {
            let limit = self.limits.max_entries;
            return Err(self.cannot(path, Refusal::TooManyEntries { limit }));
        }
        self.names_bytes += path.len() + target.len();
        if self.names_bytes > MAX_NAMES_BYTES {
            return Err(self.cannot(path, Refusal::NamesTooLong { limit: MAX_NAMES_BYTES }));
        }
        let mut name = path.as_bytes().to_vec();
        if type_flag == b'5' {
            name.push(b'/');
        }
        let mut link = target.to_vec();
        let mut records = Vec::new();
        for (keyword, value) in [("path", &mut name), ("linkpath", &mut link)] {
            // Characters beyond ASCII have an agreed encoding in extended headers only.
            if value.len() > NAME_BYTES || !value.is_ascii() {
                records.extend(extended_record(keyword, value));
                value.truncate(NAME_BYTES);
                value.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'_');
            }
        }
        if !records.is_empty() {
            let size = records.len() as u64;
            let name = b"PaxHeader".to_vec();
            let extended = Header { name, link: Vec::new(), size, type_flag: b'x', is_executable };
            self.write(&extended.to_block(0o644, MTIME))?;
            self.write(&records)?;
            self.pad(size)?;
        }
        let mode = if is_executable { 0o755 } else { 0o644 };
        let header = Header { name, link, size, type_flag, is_executable };
        self.write(&header.to_block(mode, MTIME))
    }

    fn pad(&mut self, size: u64) -> Result<(), ArchiveError> {
        let used = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default();
        if used == 0 { Ok(()) } else { self.write(&[0; BLOCK_BYTES][used..]) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.written += bytes.len() as u64;
        if self.written > self.limits.max_bytes {
            let limit = self.limits.max_bytes;
            return Err(self.cannot("", Refusal::TooLarge { limit }));
        }
        let written = self.output.write_all(bytes);
        written.map_err(|source| ArchiveError::Stream { operation: "write", source })
    }

    fn skip(&mut self, path: &str, refusal: Refusal) -> Result<(), ArchiveError> {
        if self.packed.skipped.len() < MAX_SKIPPED {
            self.packed.skipped.push(Skipped { path: path.to_owned(), refusal });
        } else {
            self.packed.more_skipped += 1;
        }
        Ok(())
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.to_owned() } else { self.root.join(path) }
    }

    fn cannot(&self, path: &str, refusal: Refusal) -> ArchiveError {
        ArchiveError::CannotPack { path: self.path(path), refusal }
    }

    fn changed(&self, path: &str) -> ArchiveError {
        ArchiveError::Changed { path: self.path(path) }
    }

    fn failed(&self, operation: &'static str, path: &str, source: io::Error) -> ArchiveError {
        ArchiveError::File { operation, path: self.path(path), source }
    }

    /// What was listed a moment ago cannot be opened as what it was.
    fn lost(&self, path: &str, source: io::Error) -> ArchiveError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => self.failed("open", path, source),
            _ => self.changed(path),
        }
    }
}
