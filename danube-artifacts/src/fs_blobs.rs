//! Blobs as files that people can read without Danube.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::{ByteRange, ErrorClass, JobId, Timestamp, files};
use futures_util::StreamExt;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::intake::{Intake, clamp};
use crate::stream::{CHUNK_BYTES, range_stream};
use crate::{
    Blob, BlobKey, BlobStat, BlobStore, ByteStream, Error, PutMode, PutOptions, Stored, beneath,
};

#[cfg(test)]
mod tests;

/// Where uploads wait until they are whole. No job can be called so: ids begin with a letter or digit.
const STAGING_DIR: &str = ".tmp";
/// How often a commit begins again because somebody deleted the directory it had just made.
const COMMIT_ATTEMPTS: usize = 64;
/// Names a directory may have below a job: a name of 1,024 bytes has at most 512 components.
const MAX_DEPTH: usize = 600;

/// A [`BlobStore`] of files: `<root>/<job>/<path>`, mode 0444 in directories of mode 0700.
///
/// * A blob is written to `<root>/.tmp`, synced, and renamed into its place; then the directories are
///   synced. What a killed process left in `.tmp` is removed at the first `put` of the next one: a file
///   there belongs to somebody alive as long as it is locked.
/// * Nothing is opened through a symbolic link below the root, and nothing but regular files is read.
/// * Directories that a `delete` empties go with it.
/// * Blocking work happens on tokio's threads for it, in batches: a slow body holds no thread.
/// * Where the very last sync fails, a new blob is taken back; a replaced one cannot be, and holds the
///   new bytes although `put` failed.
///
/// Clones share everything. It is made for Linux.
#[derive(Clone)]
pub struct FsBlobs {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    swept: AtomicBool,
}

impl FsBlobs {
    /// Blobs below `root`, which is created by the first `put`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { inner: Arc::new(Inner { root: root.into(), swept: AtomicBool::new(false) }) }
    }

    /// The directory it keeps its blobs below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        flatten(tokio::task::spawn_blocking(move || work(&inner)).await)
    }
}

/// The end of blocking work; a runtime that shuts down ends it early.
fn flatten<T>(joined: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    joined.unwrap_or_else(|e| {
        Err(Error::Backend {
            backend: "blobs in files".to_owned(),
            operation: "finish its work".to_owned(),
            class: ErrorClass::Unavailable,
            source: e.into(),
        })
    })
}

impl fmt::Debug for FsBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsBlobs").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

impl fmt::Display for FsBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&*self.inner, f)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blobs in {}", self.root.display())
    }
}

#[async_trait]
impl BlobStore for FsBlobs {
    async fn put(
        &self,
        key: &BlobKey,
        mut body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        let mode = options.mode;
        let (begun, begun_options) = (key.clone(), options);
        let mut upload = self.blocking(move |inner| inner.begin(begun, begun_options)).await?;
        loop {
            let mut batch = Vec::new();
            let mut batched = 0;
            let mut ended = false;
            // Small chunks wait for each other: a thread per kilobyte would be slow.
            while batched < CHUNK_BYTES {
                match body.next().await {
                    Some(Ok(chunk)) => {
                        batched += chunk.len();
                        batch.push(chunk);
                    }
                    Some(Err(source)) => return Err(Error::Body { key: key.clone(), source }),
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            upload = self.blocking(move |inner| upload.write(inner, batch)).await?;
            if ended {
                break;
            }
        }
        self.blocking(move |inner| upload.commit(inner, mode)).await
    }

    async fn get(&self, key: &BlobKey, range: Option<ByteRange>) -> Result<Blob, Error> {
        let opened = key.clone();
        let (file, size_bytes) = self
            .blocking(move |inner| {
                let file = inner.open(&opened)?;
                let meta = file.metadata().map_err(|e| inner.io("read", &opened, e))?;
                Ok((file, meta.len()))
            })
            .await?;
        let range = clamp(key, range, size_bytes)?;
        Ok(Blob { size_bytes, range, body: range_stream(Arc::new(file), range) })
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error> {
        let key = key.clone();
        self.blocking(move |inner| {
            let meta = inner.open(&key)?.metadata();
            let meta = meta.map_err(|e| inner.io("look at", &key, e))?;
            let modified = meta.modified().map_err(|e| inner.io("look at", &key, e))?;
            // A file system can hold times that no calendar has; such a file is very old.
            let modified_at = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH);
            Ok(BlobStat { size_bytes: meta.len(), modified_at })
        })
        .await
    }

    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, Error> {
        let job = job.clone();
        self.blocking(move |inner| {
            let mut keys = Vec::new();
            inner.walk(&job, |key| {
                keys.push(key);
                true
            })?;
            keys.sort_unstable();
            Ok(keys)
        })
        .await
    }

    async fn jobs(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error> {
        let after = after.cloned();
        self.blocking(move |inner| {
            let entries = match beneath::open_root(&inner.root).and_then(|root| entries(&root)) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(Error::io(inner, "list the jobs".to_owned(), e)),
            };
            let mut jobs: Vec<JobId> =
                entries.into_iter().filter_map(|(name, _)| name.parse().ok()).collect();
            jobs.retain(|job| after.as_ref().is_none_or(|after| job > after));
            jobs.sort_unstable();
            let mut found = Vec::new();
            for job in jobs {
                if found.len() == limit {
                    break;
                }
                let mut has_a_blob = false;
                inner.walk(&job, |_| {
                    has_a_blob = true;
                    false
                })?;
                if has_a_blob {
                    found.push(job);
                }
            }
            Ok(found)
        })
        .await
    }

    async fn delete(&self, key: &BlobKey) -> Result<u64, Error> {
        let key = key.clone();
        self.blocking(move |inner| inner.delete(&key)).await
    }
}

impl Inner {
    fn io(&self, verb: &str, key: &BlobKey, error: impl Into<io::Error>) -> Error {
        Error::io(self, format!("{verb} {key}"), error.into())
    }

    fn begin(&self, key: BlobKey, options: PutOptions) -> Result<Upload, Error> {
        let failed = |e: io::Error| self.io("put", &key, e);
        let staging = self.root.join(STAGING_DIR);
        files::create_private_dir(&staging).map_err(failed)?;
        let staging = beneath::open_root(&self.root)
            .and_then(|root| beneath::open_dir(root, STAGING_DIR))
            .map_err(failed)?;
        if !self.swept.swap(true, Ordering::Relaxed)
            && let Err(e) = remove_leftovers(&staging)
        {
            // Others' leftovers cost room, nothing else.
            tracing::warn!(store = %self, error = %e, "cannot remove what a dead process left");
        }
        // Told before the body is read, which may be long; the commit decides.
        if options.mode == PutMode::CreateNew && self.open(&key).is_ok() {
            return Err(Error::Exists { key });
        }
        let (file, name) = stage(&staging).map_err(failed)?;
        let staged = Staged { staging, name };
        Ok(Upload { intake: Intake::new(key.clone(), options), key, file, staged })
    }

    fn open(&self, key: &BlobKey) -> Result<File, Error> {
        let opened = beneath::open_root(&self.root)
            .and_then(|root| beneath::open_file(root, &format!("{}/{}", key.job(), key.path())));
        opened.map_err(|e| match e.kind() {
            // A component that is a file has nothing of ours below it, and a directory is no blob.
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory => Error::NotFound { key: key.clone() },
            _ => self.io("open", key, e),
        })
    }

    /// Calls `seen` for every blob of the job in no order, until it says that it saw enough.
    fn walk(&self, job: &JobId, mut seen: impl FnMut(BlobKey) -> bool) -> Result<(), Error> {
        let failed = |e: io::Error| Error::io(self, format!("list the blobs of {job}"), e);
        let opened =
            beneath::open_root(&self.root).and_then(|root| beneath::open_dir(root, job.as_str()));
        let top = match opened {
            Ok(top) => top,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let mut dirs = vec![(String::new(), 0)];
        while let Some((dir, depth)) = dirs.pop() {
            let listed = beneath::open_dir(&top, &dir).and_then(|dir| entries(&dir));
            let listed = match listed {
                Ok(listed) => listed,
                // Deleted while we walk, or not ours.
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(failed(e)),
            };
            for (name, kind) in listed {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                match kind {
                    FileType::Directory if depth < MAX_DEPTH => dirs.push((path, depth + 1)),
                    FileType::RegularFile => {
                        if let Some(key) = BlobKey::from_path(job, &path)
                            && !seen(key)
                        {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn delete(&self, key: &BlobKey) -> Result<u64, Error> {
        let path = format!("{}/{}", key.job(), key.path());
        let components: Vec<&str> = path.split('/').collect();
        let (name, dirs) = components.split_last().expect("a split gives one part at least");
        let chain = match self.open_chain(dirs, false) {
            Ok(chain) => chain,
            Err(e) if is_absent(&e.into()) => return Ok(0),
            Err(e) => return Err(self.io("delete", key, e)),
        };
        let dir = chain.last().expect("the chain begins with the root");
        let freed = match rustix::fs::statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Ok(0);
            }
            // Another name of the same bytes keeps them on the disk.
            Ok(stat) if stat.st_nlink > 1 => 0,
            Ok(stat) => u64::try_from(stat.st_size).unwrap_or(0),
            Err(Errno::NOENT) => return Ok(0),
            Err(e) => return Err(self.io("delete", key, e)),
        };
        match rustix::fs::unlinkat(dir, *name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(0),
            Err(e) => return Err(self.io("delete", key, e)),
        }
        rustix::fs::fsync(dir).map_err(|e| self.io("delete", key, e))?;
        for (depth, dir) in dirs.iter().enumerate().rev() {
            // Not empty, or gone already: both end the climb.
            if rustix::fs::unlinkat(&chain[depth], *dir, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            rustix::fs::fsync(&chain[depth]).map_err(|e| self.io("delete", key, e))?;
        }
        Ok(freed)
    }

    fn is_dir(&self, path: &str) -> bool {
        beneath::open_root(&self.root).and_then(|root| beneath::open_dir(root, path)).is_ok()
    }

    /// The root and the directories below it, one inside the other; none is a symbolic link.
    fn open_chain(&self, dirs: &[&str], create: bool) -> Result<Vec<OwnedFd>, Errno> {
        let mut chain = Vec::with_capacity(dirs.len() + 1);
        let top = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        chain.push(rustix::fs::open(&self.root, top, Mode::empty())?);
        for dir in dirs {
            let parent = chain.last().expect("the chain begins with the root");
            if create {
                match rustix::fs::mkdirat(parent, *dir, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
            }
            let opened = rustix::fs::openat(parent, *dir, beneath::DIRECTORY, Mode::empty())?;
            chain.push(opened);
        }
        Ok(chain)
    }
}

fn is_absent(error: &io::Error) -> bool {
    let link = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
    link || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The names in a directory that are text, with what they are.
fn entries(dir: &OwnedFd) -> io::Result<Vec<(String, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if let Some((name, kind)) = named(dir, entry.file_name(), entry.file_type())? {
            found.push((name, kind));
        }
    }
    Ok(found)
}

fn named(dir: &OwnedFd, name: &CStr, kind: FileType) -> io::Result<Option<(String, FileType)>> {
    if name == c"." || name == c".." {
        return Ok(None);
    }
    let Ok(text) = name.to_str() else { return Ok(None) };
    let kind = match kind {
        // Some file systems do not tell in the listing.
        FileType::Unknown => match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        },
        known => known,
    };
    Ok(Some((text.to_owned(), kind)))
}

/// A new file in the staging directory, locked for as long as it is open.
fn stage(staging: &OwnedFd) -> io::Result<(File, String)> {
    for _ in 0..COMMIT_ATTEMPTS {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(staging, &name, flags, Mode::RUSR | Mode::WUSR)?;
        // Between its creation and its lock, somebody may take it for a leftover and remove it.
        if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
            && rustix::fs::fstat(&fd)?.st_nlink > 0
        {
            return Ok((File::from(fd), name));
        }
    }
    Err(io::Error::other("every new file is removed at once by somebody else"))
}

/// Removes the staged files that nobody holds locked.
fn remove_leftovers(staging: &OwnedFd) -> io::Result<()> {
    for (name, kind) in entries(staging)? {
        if kind != FileType::RegularFile {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::openat(staging, &name, flags, Mode::empty()) else { continue };
        if rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            rustix::fs::unlinkat(staging, &name, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// The name of a file in the staging directory, removed on drop.
struct Staged {
    staging: OwnedFd,
    name: String,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the commit there is nothing under this name: the error says so, and that is fine.
        let _ = rustix::fs::unlinkat(&self.staging, &self.name, AtFlags::empty());
    }
}

/// A blob on its way.
struct Upload {
    key: BlobKey,
    intake: Intake,
    staged: Staged,
    file: File,
}

impl Upload {
    fn write(mut self, inner: &Inner, batch: Vec<Bytes>) -> Result<Self, Error> {
        for chunk in batch {
            self.intake.take(&chunk)?;
            self.file.write_all(&chunk).map_err(|e| inner.io("put", &self.key, e))?;
        }
        Ok(self)
    }

    fn commit(self, inner: &Inner, mode: PutMode) -> Result<Stored, Error> {
        let Self { key, intake, staged, file } = self;
        let stored = intake.finish()?;
        let failed = |e: Errno| inner.io("put", &key, e);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444)).map_err(failed)?;
        file.sync_all().map_err(|e| inner.io("put", &key, e))?;

        let path = format!("{}/{}", key.job(), key.path());
        let components: Vec<&str> = path.split('/').collect();
        let (name, dirs) = components.split_last().expect("a split gives one part at least");
        let mut attempts = 0;
        let chain = loop {
            attempts += 1;
            let moved = inner.open_chain(dirs, true).and_then(|chain| {
                let dir = chain.last().expect("the chain begins with the root");
                staged.move_to(dir, name, mode).map(|()| chain)
            });
            match moved {
                Ok(chain) => break chain,
                // A delete removed the empty directory that we had just opened.
                Err(Errno::NOENT) if attempts < COMMIT_ATTEMPTS => {}
                Err(Errno::EXIST) if !inner.is_dir(&path) => return Err(Error::Exists { key }),
                Err(Errno::EXIST | Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY) => {
                    return Err(Error::InTheWay { key });
                }
                Err(e) => return Err(failed(e)),
            }
        };
        // Every directory, not only those made here: another put may have made one and not be done.
        let synced = chain.iter().rev().try_for_each(rustix::fs::fsync);
        if let Err(e) = synced {
            if mode == PutMode::CreateNew
                && let Some(dir) = chain.last()
            {
                let _ = rustix::fs::unlinkat(dir, *name, AtFlags::empty());
            }
            return Err(failed(e));
        }
        Ok(stored)
    }
}

impl Staged {
    fn move_to(&self, dir: &OwnedFd, name: &str, mode: PutMode) -> Result<(), Errno> {
        match mode {
            PutMode::Replace => rustix::fs::renameat(&self.staging, &self.name, dir, name),
            PutMode::CreateNew => {
                let flags = RenameFlags::NOREPLACE;
                match rustix::fs::renameat_with(&self.staging, &self.name, dir, name, flags) {
                    // This file system cannot; a hard link refuses an existing name as well.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        rustix::fs::linkat(&self.staging, &self.name, dir, name, AtFlags::empty())
                    }
                    other => other,
                }
            }
        }
    }
}
