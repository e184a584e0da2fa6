//! Finding the files that a job leaves behind, in a tree that the job controls.
//!
//! Everything here blocks. No symbolic link below the root is followed, whatever a process of the job
//! does meanwhile: what [`find`] names is opened again by [`open_beneath`], which refuses what has
//! become something else.

use std::collections::{BTreeSet, BinaryHeap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use danube_core::ArtifactName;
use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use crate::{Error, beneath};

mod patterns;
#[cfg(test)]
mod tests;

pub use patterns::{MAX_PATTERN_BYTES, MAX_PATTERNS, Patterns, Preset};

/// The most bytes that the files of one job have together by default: 50 GB, ten of the longest.
pub const DEFAULT_MAX_TOTAL_BYTES: u64 = 10 * crate::DEFAULT_MAX_BYTES;
/// The most entries [`find`] looks at: a tree of a million files is read in seconds.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// The most things [`find`] names as skipped; more are only counted.
pub const MAX_SKIPPED: usize = 1_000;

/// The bounds of [`find`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CollectLimits {
    /// The most files.
    pub max_files: usize,
    /// The longest file; longer ones are skipped.
    pub max_file_bytes: u64,
    /// The most bytes of all files together.
    pub max_total_bytes: u64,
    /// What becomes of files beyond `max_files` and `max_total_bytes`.
    pub beyond: Beyond,
    /// How many directories may lie inside each other; deeper ones are skipped.
    pub max_depth: usize,
}

/// What [`find`] does about files beyond the limits of a job as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Beyond {
    /// Nothing is found, and the error says why: what a job succeeds with is whole.
    #[default]
    Refuse,
    /// They are skipped, the last by name first: for who wants to see what there is of a job that broke.
    LeaveOut,
}

impl Default for CollectLimits {
    /// 10,000 files of at most [`DEFAULT_MAX_BYTES`](crate::DEFAULT_MAX_BYTES) each and
    /// [`DEFAULT_MAX_TOTAL_BYTES`] together, 64 directories deep, and nothing where there is more.
    fn default() -> Self {
        Self {
            max_files: 10_000,
            max_file_bytes: crate::DEFAULT_MAX_BYTES,
            max_total_bytes: DEFAULT_MAX_TOTAL_BYTES,
            beyond: Beyond::Refuse,
            max_depth: 64,
        }
    }
}

impl CollectLimits {
    /// With this many files.
    #[must_use]
    pub fn with_max_files(mut self, max_files: usize) -> Self {
        self.max_files = max_files;
        self
    }

    /// With files of this length.
    #[must_use]
    pub fn with_max_file_bytes(mut self, max_file_bytes: u64) -> Self {
        self.max_file_bytes = max_file_bytes;
        self
    }

    /// With so many bytes in all.
    #[must_use]
    pub fn with_max_total_bytes(mut self, max_total_bytes: u64) -> Self {
        self.max_total_bytes = max_total_bytes;
        self
    }

    /// With this done about what is beyond.
    #[must_use]
    pub fn with_beyond(mut self, beyond: Beyond) -> Self {
        self.beyond = beyond;
        self
    }

    /// With this depth.
    #[must_use]
    pub fn with_max_depth(mut self, max_depth: usize) -> Self {
        self.max_depth = max_depth;
        self
    }
}

/// A file that matches. They are ordered by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundFile {
    /// Its name.
    pub name: ArtifactName,
    /// Its size when it was seen.
    pub size_bytes: u64,
}

/// Something that matches and is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path below the root, controls escaped.
    pub path: String,
    /// Why, as a sentence about it: `is empty`.
    pub reason: String,
}

/// What [`find`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The files, by name.
    pub files: Vec<FoundFile>,
    /// What matches and is not kept, by path; at most [`MAX_SKIPPED`] of them.
    pub skipped: Vec<Skipped>,
    /// How many more were skipped.
    pub more_skipped: u64,
    /// The globs that match nothing at all.
    pub unmatched: Vec<String>,
    /// The presets of which no glob matches anything.
    pub unmatched_presets: Vec<Preset>,
}

/// Finds the regular, non-empty files below `root` that match, without following a symbolic link and
/// without going into `exclude` (files or directories, recognised whatever path leads to them). Only
/// directories that a glob can lead into are read. The same tree gives the same answer, in the same order.
///
/// # Errors
///
/// [`Error::File`] when the root cannot be read; [`Error::TooMany`] beyond [`MAX_ENTRIES`] and, unless
/// they are to be left out, for files beyond the limits.
pub fn find(
    root: &Path,
    patterns: &Patterns,
    limits: &CollectLimits,
    exclude: &[PathBuf],
) -> Result<Found, Error> {
    let failed = |source| Error::File { operation: "read", path: root.to_owned(), source };
    let excluded = exclude.iter().filter_map(|path| fs::metadata(path).ok());
    let mut walk = Walk {
        root: beneath::open_root(root).map_err(failed)?,
        patterns,
        limits,
        exclude: excluded.map(|meta| (meta.dev(), meta.ino())).collect(),
        matched: vec![false; patterns.len()],
        entries: 0,
        dirs: vec![(Vec::new(), 0)],
        files: BinaryHeap::new(),
        found: Found::default(),
    };
    if patterns.is_empty() {
        return Ok(walk.found);
    }
    while let Some((dir, depth)) = walk.dirs.pop() {
        match walk.read(&dir, depth) {
            Ok(()) => {}
            Err(Stop::Limit(error)) => return Err(error),
            Err(Stop::Unreadable(e)) if dir.is_empty() => return Err(failed(e)),
            // Gone since its parent was read: nothing is there to keep.
            Err(Stop::Unreadable(e)) if e.kind() == io::ErrorKind::NotFound => {}
            Err(Stop::Unreadable(e)) => walk.skip(&dir, format!("cannot be read: {e}")),
        }
    }
    walk.fit()?;
    let Walk { mut found, matched, .. } = walk;
    found.skipped.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    (found.unmatched, found.unmatched_presets) = patterns.unmatched(&matched);
    Ok(found)
}

/// Opens what [`find`] found: a regular file below `root`, by a path without symbolic links.
///
/// # Errors
///
/// What the system says, and [`io::ErrorKind::InvalidInput`] or [`io::ErrorKind::IsADirectory`] when
/// it is not a regular file (any more).
pub fn open_beneath(root: &Path, name: &ArtifactName) -> io::Result<File> {
    beneath::open_file(beneath::open_root(root)?, name.as_str())
}

/// Like [`open_beneath`], and `None` where what was found is gone or has become something that is not
/// kept: a directory, a link, a pipe. A process that a job left in its tree may do that at any time.
///
/// # Errors
///
/// What the system says when the file is there and cannot be opened.
pub fn open_if_still_there(root: &Path, name: &ArtifactName) -> io::Result<Option<File>> {
    match open_beneath(root, name) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
        Err(e) => match e.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidInput => Ok(None),
            _ => Err(e),
        },
    }
}

struct Walk<'a> {
    root: OwnedFd,
    patterns: &'a Patterns,
    limits: &'a CollectLimits,
    exclude: BTreeSet<(u64, u64)>,
    matched: Vec<bool>,
    entries: u64,
    /// Directories to read, with their depth. Paths, not open directories: their number is not
    /// bounded by that of open files.
    dirs: Vec<(Vec<u8>, usize)>,
    /// The files, the last by name on top.
    files: BinaryHeap<FoundFile>,
    found: Found,
}

enum Stop {
    Limit(Error),
    Unreadable(io::Error),
}

impl<E: Into<io::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Unreadable(error.into())
    }
}

impl Walk<'_> {
    fn read(&mut self, dir: &[u8], depth: usize) -> Result<(), Stop> {
        let fd = beneath::open_dir(&self.root, OsStr::from_bytes(dir))?;
        if self.is_excluded(&rustix::fs::fstat(&fd)?) {
            return Ok(());
        }
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let what = "files and directories are in the way";
                return Err(Stop::Limit(Error::TooMany { what, limit: MAX_ENTRIES }));
            }
            let mut path = dir.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            self.see(&fd, entry.file_name(), path, depth, entry.file_type())?;
        }
        Ok(())
    }

    fn see(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: Vec<u8>,
        depth: usize,
        kind: FileType,
    ) -> Result<(), Stop> {
        if self.patterns.excludes(&path) {
            return Ok(());
        }
        let matching = self.patterns.matching(&path);
        let leads_on = self.patterns.lead_below(&path);
        if matching.is_empty() && !leads_on {
            return Ok(());
        }
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => {
                self.skip(&path, format!("cannot be looked at: {}", io::Error::from(e)));
                return Ok(());
            }
        };
        let kind = match kind {
            FileType::Unknown => FileType::from_raw_mode(stat.st_mode),
            known => known,
        };
        let is_literal =
            |walk: &Self| matching.iter().any(|at| walk.patterns.is_literally(*at, &path));
        match kind {
            FileType::Directory => {
                if leads_on {
                    self.descend(name.to_bytes(), path, depth, &stat);
                } else if is_literal(self) {
                    self.note(&matching);
                    self.skip(
                        &path,
                        "is a directory: write /** behind it for all that is below".to_owned(),
                    );
                }
                return Ok(());
            }
            FileType::Symlink => {
                // Whether it leads to a directory decides only whether it is worth a word.
                let to_dir = || {
                    rustix::fs::statat(dir, name, AtFlags::empty()).is_ok_and(|target| {
                        FileType::from_raw_mode(target.st_mode) == FileType::Directory
                    })
                };
                if !matching.is_empty() || to_dir() {
                    self.note(&matching);
                    self.skip(&path, "is a symbolic link, which is not followed".to_owned());
                }
                return Ok(());
            }
            _ if matching.is_empty() => return Ok(()),
            FileType::RegularFile => {}
            _ => {
                self.note(&matching);
                self.skip(&path, "is not a regular file".to_owned());
                return Ok(());
            }
        }
        self.note(&matching);
        match self.acceptable(&path, &stat) {
            Ok(file) => return self.take(file),
            Err(reason) => self.skip(&path, reason),
        }
        Ok(())
    }

    /// Takes a file in. Of too many the first by name are the ones that stay, whatever order they come in.
    fn take(&mut self, file: FoundFile) -> Result<(), Stop> {
        self.files.push(file);
        let most = self.limits.max_files;
        if self.files.len() <= most {
            return Ok(());
        }
        if self.limits.beyond == Beyond::Refuse {
            let limit = most as u64;
            return Err(Stop::Limit(Error::TooMany { what: "files match", limit }));
        }
        if let Some(last) = self.files.pop() {
            self.skip(
                last.name.as_str().as_bytes(),
                format!("is beyond the limit of {most} files"),
            );
        }
        Ok(())
    }

    /// Puts the files in order and holds them against the limit of all together.
    fn fit(&mut self) -> Result<(), Error> {
        let most = self.limits.max_total_bytes;
        let mut total: u64 = 0;
        for file in std::mem::take(&mut self.files).into_sorted_vec() {
            let with_it = total.saturating_add(file.size_bytes);
            if with_it <= most {
                total = with_it;
                self.found.files.push(file);
            } else if self.limits.beyond == Beyond::Refuse {
                return Err(Error::TooMany {
                    what: "bytes are in the files that match",
                    limit: most,
                });
            } else {
                let reason = format!("is beyond the limit of {most} bytes for all files");
                self.skip(file.name.as_str().as_bytes(), reason);
            }
        }
        Ok(())
    }

    fn descend(&mut self, name: &[u8], path: Vec<u8>, depth: usize, stat: &Stat) {
        if self.is_excluded(stat) {
            return;
        }
        if name == crate::blob::METADATA_DIR.as_bytes() {
            self.skip(&path, "is reserved for signatures".to_owned());
        } else if depth >= self.limits.max_depth {
            let reason = format!("lies deeper than {} directories", self.limits.max_depth);
            self.skip(&path, reason);
        } else {
            self.dirs.push((path, depth + 1));
        }
    }

    /// A regular file that matches, or why it is not kept.
    fn acceptable(&self, path: &[u8], stat: &Stat) -> Result<FoundFile, String> {
        let name =
            std::str::from_utf8(path).map_err(|_| "has a name that is not UTF-8".to_owned())?;
        let name: ArtifactName =
            name.parse().map_err(|e: danube_core::InvalidName| e.rule().to_owned())?;
        let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if self.is_excluded(stat) {
            Err("is excluded".to_owned())
        } else if size_bytes == 0 {
            Err("is empty".to_owned())
        } else if size_bytes > self.limits.max_file_bytes {
            let limit = self.limits.max_file_bytes;
            Err(format!("has {size_bytes} bytes, which is over the limit of {limit}"))
        } else {
            Ok(FoundFile { name, size_bytes })
        }
    }

    fn is_excluded(&self, stat: &Stat) -> bool {
        self.exclude.contains(&(stat.st_dev, stat.st_ino))
    }

    fn note(&mut self, matching: &[usize]) {
        for at in matching {
            self.matched[*at] = true;
        }
    }

    fn skip(&mut self, path: &[u8], reason: String) {
        if self.found.skipped.len() == MAX_SKIPPED {
            self.found.more_skipped += 1;
            return;
        }
        let mut shown = String::new();
        for c in String::from_utf8_lossy(path).chars() {
            // A name may hold a line break or a terminal's escape.
            if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
        }
        self.found.skipped.push(Skipped { path: shown, reason });
    }
}
