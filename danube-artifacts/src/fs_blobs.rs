//! Blobs as files that people can read without Danube.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use danube_core::{ByteRange, ErrorClass, JobId, Timestamp};
use rustix::fs::{AtFlags, Dir, FileType, Mode, Stat};
use rustix::io::Errno;

use crate::intake::clamp;
use crate::stream::range_stream;
use crate::tier::restore_days;
use crate::{
    Access, Blob, BlobCapabilities, BlobKey, BlobStat, BlobStore, ByteStream, Error, Link,
    LinkOptions, PutOptions, Stored, Tier, beneath,
};

mod pool;
mod put;
mod sessions;
mod staging;

#[cfg(test)]
mod tests;

/// How often a commit begins again because somebody deleted the directory it had just made.
const COMMIT_ATTEMPTS: usize = 64;
/// Names a directory may have below a job: a name of 1,024 bytes has at most 512 components.
const MAX_DEPTH: usize = 600;
/// What a put leaves free on the disk by default: 16 MiB, for the logs and the database beside it.
pub const DEFAULT_KEEP_FREE_BYTES: u64 = 16 * 1024 * 1024;

/// A [`BlobStore`] of files: `<root>/<job>/<path>`, mode 0444 in directories of mode 0700.
///
/// * A blob is written to `<root>/.tmp`, synced, and renamed into its place; then the directories are
///   synced. What a killed process left in `.tmp` is removed at the first `put` of the next one: a file
///   there belongs to somebody alive as long as it is locked.
/// * Equal artifacts of 4 KiB or more are one file with several names, one of them in
///   `<root>/.blobs`: the same bytes in a thousand jobs cost once, and a duplicate whose first mebibyte
///   or whose digest is known is compared instead of written. `.blobs` may be deleted without loss.
///   Who changes a file by hand changes it in every job that shares it; its signature tells.
/// * Hashing and writing go on side by side; a `put` holds at most about 20 MiB.
/// * A `put` leaves [`DEFAULT_KEEP_FREE_BYTES`] free on the disk.
/// * Nothing is opened through a symbolic link below the root, and nothing but regular files is read.
/// * Directories that a `delete` empties go with it.
/// * Blocking work happens on tokio's threads for it, in batches: a slow body holds no thread. Of a `put` that is
///   dropped it goes on to its end, and gives nothing a name that had none when it was dropped.
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
    keep_free_bytes: u64,
    swept: AtomicBool,
}

impl FsBlobs {
    /// Blobs below `root`, which is created by the first `put`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::of(root.into(), DEFAULT_KEEP_FREE_BYTES)
    }

    /// One that leaves so many bytes of the disk free.
    #[must_use]
    pub fn with_keep_free_bytes(self, keep_free_bytes: u64) -> Self {
        Self::of(self.inner.root.clone(), keep_free_bytes)
    }

    fn of(root: PathBuf, keep_free_bytes: u64) -> Self {
        Self { inner: Arc::new(Inner { root, keep_free_bytes, swept: AtomicBool::new(false) }) }
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
    fn capabilities(&self) -> BlobCapabilities {
        BlobCapabilities::default()
    }

    async fn put(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        put::put(self, key, body, options).await
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
            let stat = rustix::fs::fstat(inner.open(&key)?);
            let stat = stat.map_err(|e| inner.io("look at", &key, e))?;
            let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
            // Not when its bytes were written, which may have been for another job long ago: a name
            // that comes or goes changes this time.
            let modified_at = Change::of(&stat).time();
            Ok(BlobStat { size_bytes, modified_at, tier: Tier::Hot, access: Access::Now })
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

    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), Error> {
        self.stat(key).await?;
        if tier == Tier::Hot { Ok(()) } else { Err(Error::unsupported(self, "have no tiers")) }
    }

    async fn restore(&self, key: &BlobKey, keep_for: Duration) -> Result<Access, Error> {
        restore_days(keep_for)?;
        Ok(self.stat(key).await?.access)
    }

    async fn link(&self, _key: &BlobKey, options: &LinkOptions) -> Result<Link, Error> {
        options.validate()?;
        Err(Error::unsupported(self, "have no links"))
    }

    async fn sync(&self) -> Result<(), Error> {
        self.blocking(move |inner| {
            let failed = |e: io::Error| Error::io(inner, "sync".to_owned(), e);
            match beneath::open_root(&inner.root) {
                // The file system as a whole: one call for any number of files.
                Ok(root) => rustix::fs::syncfs(root).map_err(|e| failed(e.into())),
                Err(e) if is_absent(&e) => Ok(()),
                Err(e) => Err(failed(e)),
            }
        })
        .await
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, Error> {
        self.blocking(move |inner| {
            let failed = |e: io::Error| Error::io(inner, "sweep".to_owned(), e);
            let root = match beneath::open_root(&inner.root) {
                Ok(root) => root,
                Err(e) if is_absent(&e) => return Ok(0),
                Err(e) => return Err(failed(e)),
            };
            let before = Change::at(before);
            let mut freed = match beneath::open_dir(&root, staging::STAGING_DIR) {
                Ok(staging) => staging::remove_leftovers(&staging, Some(before)).map_err(failed)?,
                Err(e) if is_absent(&e) => 0,
                Err(e) => return Err(failed(e)),
            };
            freed += pool::sweep(&root, before).map_err(failed)?;
            Ok(freed)
        })
        .await
    }
}

impl Inner {
    fn io(&self, verb: &str, key: &BlobKey, error: impl Into<io::Error>) -> Error {
        let source = error.into();
        let class = put::class_of_put(&source);
        let operation = format!("{verb} {key}");
        Error::Backend { backend: self.to_string(), operation, class, source: source.into() }
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
        let root = match beneath::open_root(&self.root) {
            Ok(root) => root,
            Err(e) if is_absent(&e) => return Ok(0),
            Err(e) => return Err(self.io("delete", key, e)),
        };
        let chain = match open_chain(&root, dirs, false) {
            Ok(chain) => chain,
            Err(e) if is_absent(&e.into()) => return Ok(0),
            Err(e) => return Err(self.io("delete", key, e)),
        };
        let dir = chain.last().expect("the chain begins with the root");
        match rustix::fs::statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Ok(0);
            }
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(0),
            Err(e) => return Err(self.io("delete", key, e)),
        }
        // What cannot be opened (a link, a pipe) frees nothing that counts.
        let file = beneath::open_file(dir, name).ok();
        match rustix::fs::unlinkat(dir, *name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(0),
            Err(e) => return Err(self.io("delete", key, e)),
        }
        let freed = file.map_or(0, |file| pool::let_go(&root, &file));
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
}

/// The root and the directories below it, one inside the other; none is a symbolic link.
fn open_chain(root: &OwnedFd, dirs: &[&str], create: bool) -> Result<Vec<OwnedFd>, Errno> {
    let mut chain = Vec::with_capacity(dirs.len() + 1);
    chain.push(rustix::fs::openat(root, c".", beneath::DIRECTORY, Mode::empty())?);
    for dir in dirs {
        let parent = chain.last().expect("the chain begins with the root");
        let opened = match rustix::fs::openat(parent, *dir, beneath::DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) if create => {
                match rustix::fs::mkdirat(parent, *dir, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                rustix::fs::openat(parent, *dir, beneath::DIRECTORY, Mode::empty())?
            }
            other => other?,
        };
        chain.push(opened);
    }
    Ok(chain)
}

/// When a file, or the number of its names, was changed last: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Change(i64, i64);

impl Change {
    fn of(stat: &Stat) -> Self {
        Self(stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0))
    }

    fn at(time: Timestamp) -> Self {
        Self(time.as_second(), i64::from(time.subsec_nanosecond()))
    }

    fn time(self) -> Timestamp {
        let nanoseconds = i128::from(self.0) * 1_000_000_000 + i128::from(self.1);
        // A file system can hold times that no calendar has; such a file is very old.
        Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
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
