//! A body becomes a file: hashed and written side by side, compared instead of written where the pool
//! has it.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use danube_core::{ErrorClass, Sha256Digest, files};
use futures_util::StreamExt;
use futures_util::future::try_join3;
use rustix::fs::{Advice, AtFlags, FallocateFlags, Mode};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::pool::{self, Pinned};
use super::staging::{STAGING_DIR, Staged, remove_leftovers};
use super::{COMMIT_ATTEMPTS, FsBlobs, Inner, open_chain};
use crate::intake::{Meter, digest_of};
use crate::{
    BlobKey, BlobPart, ByteStream, Durability, Error, PutMode, PutOptions, Stored, beneath,
};

/// Bytes that go to a thread at once. A body that ends within them is hashed before anything is
/// written; of a longer one they are the head by which the pool guesses.
pub(super) const BATCH_BYTES: usize = 1024 * 1024;
/// Batches that wait for the slower of hashing and writing.
const DEPTH: usize = 8;
/// After so many bytes the system begins to bring them to the disk, and is asked how much room is left there:
/// the sync at the end has then little to wait for.
const STEP_BYTES: u64 = 8 * 1024 * 1024;
/// Room that is taken ahead at once: cheaper than finding a place for every page, and in one piece.
const RESERVED_BYTES: u64 = 64 * 1024 * 1024;

type Batch = Vec<Bytes>;

pub(super) async fn put(
    store: &FsBlobs,
    key: &BlobKey,
    body: ByteStream,
    options: PutOptions,
) -> Result<Stored, Error> {
    let meter = Meter::new(key.clone(), options.clone())?;
    let mut body = Batches { key: key.clone(), meter, body };
    let (head, ended) = body.next().await?;
    let caller = Arc::new(());
    let upload = Upload { key: key.clone(), options, caller: Arc::downgrade(&caller) };
    if ended {
        let meter = body.meter;
        return store.blocking(move |inner| upload.small(inner, meter, &head)).await;
    }
    let begun = store.blocking(move |inner| upload.begin(inner, head)).await?;
    let Begun { upload, place, hasher, head, sink } = begun;
    let (meter, hasher, sink) = pump(store, body, hasher, sink).await?;
    store
        .blocking(move |inner| {
            let stored = meter.finish(digest_of(hasher))?;
            upload.commit(inner, &place, sink, stored, Some(head))
        })
        .await
}

/// Hashes and writes at the same time: three lanes of one task, of which two wait for threads.
async fn pump(
    store: &FsBlobs,
    mut body: Batches,
    mut hasher: Sha256,
    mut sink: Sink,
) -> Result<(Meter, Sha256, Sink), Error> {
    let (to_hash, mut hash_in) = mpsc::channel::<Batch>(DEPTH);
    let (to_write, mut write_in) = mpsc::channel::<Batch>(DEPTH);
    let read = async move {
        loop {
            let (batch, ended) = body.next().await?;
            // A lane that is gone has an error to tell, which ends all three.
            if !batch.is_empty() {
                let _ = to_hash.send(batch.clone()).await;
                let _ = to_write.send(batch).await;
            }
            if ended {
                return Ok(body.meter);
            }
        }
    };
    let hash = async {
        let mut batches = Vec::with_capacity(DEPTH);
        while hash_in.recv_many(&mut batches, DEPTH).await > 0 {
            let taken = std::mem::take(&mut batches);
            let work = move |_: &Inner| {
                taken.iter().flatten().for_each(|chunk| hasher.update(chunk));
                Ok(hasher)
            };
            hasher = store.blocking(work).await?;
        }
        Ok(hasher)
    };
    let write = async {
        let mut batches = Vec::with_capacity(DEPTH);
        while write_in.recv_many(&mut batches, DEPTH).await > 0 {
            let taken = std::mem::take(&mut batches);
            let work = move |inner: &Inner| {
                for chunk in taken.iter().flatten() {
                    sink.take(inner, chunk)?;
                }
                Ok(sink)
            };
            sink = store.blocking(work).await?;
        }
        Ok(sink)
    };
    try_join3(read, hash, write).await
}

/// A body in batches, counted.
struct Batches {
    key: BlobKey,
    meter: Meter,
    body: ByteStream,
}

impl Batches {
    /// The next one, and whether it is the last.
    async fn next(&mut self) -> Result<(Batch, bool), Error> {
        let mut batch = Vec::new();
        let mut batched = 0;
        // Small chunks wait for each other: a thread per kilobyte would be slow.
        while batched < BATCH_BYTES {
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.meter.count(chunk.len())?;
                    batched += chunk.len();
                    if !chunk.is_empty() {
                        batch.push(chunk);
                    }
                }
                Some(Err(source)) => return Err(Error::Body { key: self.key.clone(), source }),
                None => return Ok((batch, true)),
            }
        }
        Ok((batch, false))
    }
}

/// What is being put.
pub(super) struct Upload {
    pub(super) key: BlobKey,
    pub(super) options: PutOptions,
    /// Lives as long as somebody waits for it. Work on a thread goes on when the call was dropped.
    pub(super) caller: Weak<()>,
}

/// The directories that an upload needs, open: they cannot be exchanged behind its back.
pub(super) struct Place {
    pub(super) root: OwnedFd,
    pub(super) staging: Arc<OwnedFd>,
}

struct Begun {
    upload: Upload,
    place: Place,
    hasher: Sha256,
    head: Sha256Digest,
    sink: Sink,
}

/// Where the bytes go.
enum Sink {
    /// Into a staged file.
    File(Writing),
    /// Nowhere, as long as they are those of a blob that is there.
    Pool { key: BlobKey, pinned: Pinned, same_bytes: u64, staging: Arc<OwnedFd>, wanted: u64 },
}

struct Writing {
    key: BlobKey,
    staged: Staged,
    file: File,
    /// What was announced, as far as it is known.
    wanted: u64,
    written: u64,
    /// How much was written at the last step, and up to where the file has room.
    stepped: u64,
    reserved: u64,
}

impl Writing {
    fn begin(
        inner: &Inner,
        key: BlobKey,
        staging: &Arc<OwnedFd>,
        wanted: u64,
    ) -> Result<Self, Error> {
        inner.check_room(&key, staging, wanted)?;
        let (staged, file) = Staged::create(staging).map_err(|e| inner.io("put", &key, e))?;
        Ok(Self { key, staged, file, wanted, written: 0, stepped: 0, reserved: 0 })
    }

    fn take(&mut self, inner: &Inner, chunk: &[u8]) -> Result<(), Error> {
        self.file.write_all(chunk).map_err(|e| inner.io("put", &self.key, e))?;
        self.written += chunk.len() as u64;
        if self.written - self.stepped >= STEP_BYTES { self.step(inner) } else { Ok(()) }
    }

    fn step(&mut self, inner: &Inner) -> Result<(), Error> {
        // Of pages that are not on the disk yet, this advice begins to write them, and waits for nothing. An error
        // of the disk is told by the sync at the end.
        let since = NonZeroU64::new(self.written - self.stepped);
        let _ = rustix::fs::fadvise(&self.file, self.stepped, since, Advice::DontNeed);
        self.stepped = self.written;
        let left = self.wanted.saturating_sub(self.written);
        let available = inner.check_room(&self.key, &self.file, left)?;
        if self.reserved <= self.written {
            let len = if left > 0 { left.min(RESERVED_BYTES) } else { RESERVED_BYTES };
            let len = len.min(available);
            // Where the file system cannot, it finds a place for every page.
            let keep_size = FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&self.file, keep_size, self.written, len);
            self.reserved = self.written + len;
        }
        Ok(())
    }

    /// Gives back what was reserved and is not needed.
    fn trim(&self, inner: &Inner) -> Result<(), Error> {
        if self.reserved <= self.written {
            return Ok(());
        }
        self.file.set_len(self.written).map_err(|e| inner.io("put", &self.key, e))
    }
}

impl Sink {
    fn take(&mut self, inner: &Inner, chunk: &[u8]) -> Result<(), Error> {
        match self {
            Self::File(writing) => writing.take(inner, chunk),
            Self::Pool { pinned, same_bytes, .. } => {
                if holds(&pinned.file, *same_bytes, chunk) {
                    *same_bytes += chunk.len() as u64;
                    return Ok(());
                }
                self.part_ways(inner)?;
                self.take(inner, chunk)
            }
        }
    }

    /// Writes after all what was only compared so far.
    fn part_ways(&mut self, inner: &Inner) -> Result<(), Error> {
        let Self::Pool { key, pinned, same_bytes, staging, wanted } = self else { return Ok(()) };
        let wanted = (*wanted).max(*same_bytes);
        let mut writing = Writing::begin(inner, key.clone(), staging, wanted)?;
        let mut at = 0;
        let mut buffer = vec![0; BATCH_BYTES];
        while at < *same_bytes {
            let len = buffer.len().min(usize::try_from(*same_bytes - at).unwrap_or(usize::MAX));
            let copied = pinned.file.read_exact_at(&mut buffer[..len], at);
            copied.map_err(|e| inner.io("put", key, e))?;
            writing.take(inner, &buffer[..len])?;
            at += len as u64;
        }
        *self = Self::File(writing);
        Ok(())
    }
}

/// Whether a file holds exactly these bytes at this place.
fn holds(file: &File, mut at: u64, mut bytes: &[u8]) -> bool {
    let mut buffer = vec![0; bytes.len().min(256 * 1024)];
    while !bytes.is_empty() {
        let (now, rest) = bytes.split_at(bytes.len().min(buffer.len()));
        let read = &mut buffer[..now.len()];
        if file.read_exact_at(read, at).is_err() || read != now {
            return false;
        }
        at += now.len() as u64;
        bytes = rest;
    }
    true
}

impl Upload {
    fn open_place(&self, inner: &Inner) -> Result<Place, Error> {
        let place = inner.place().map_err(|e| inner.io("put", &self.key, e))?;
        // Told before the body is read, which may be long; the commit decides.
        if self.options.mode == PutMode::CreateNew && inner.open(&self.key).is_ok() {
            return Err(Error::Exists { key: self.key.clone() });
        }
        Ok(place)
    }

    /// Signatures and the like are one job's own.
    fn is_shared(&self, size_bytes: u64) -> bool {
        matches!(self.key.part(), BlobPart::Artifact(_)) && pool::takes(size_bytes)
    }

    /// A body that is whole in memory: its digest is known before anything is written.
    fn small(self, inner: &Inner, meter: Meter, body: &Batch) -> Result<Stored, Error> {
        let mut hasher = Sha256::new();
        body.iter().for_each(|chunk| hasher.update(chunk));
        let stored = meter.finish(digest_of(hasher))?;
        let place = self.open_place(inner)?;
        let shared = self.is_shared(stored.size_bytes);
        let candidate =
            shared.then(|| pool::find(&place.root, &place.staging, stored.digest)).flatten();
        let mut sink = self.sink(inner, &place, candidate, stored.size_bytes)?;
        for chunk in body {
            sink.take(inner, chunk)?;
        }
        self.commit(inner, &place, sink, stored, None)
    }

    /// The first bytes of a long body.
    fn begin(self, inner: &Inner, head: Batch) -> Result<Begun, Error> {
        let place = self.open_place(inner)?;
        let mut hasher = Sha256::new();
        head.iter().for_each(|chunk| hasher.update(chunk));
        let head_digest = digest_of(hasher.clone());
        let candidate = match self.options.expected {
            _ if !self.is_shared(u64::MAX) => None,
            Some(expected) => pool::find(&place.root, &place.staging, expected),
            None => pool::find_by_head(&place.root, &place.staging, &head_digest),
        };
        let wanted = self.options.size_bytes.unwrap_or(BATCH_BYTES as u64);
        let mut sink = self.sink(inner, &place, candidate, wanted)?;
        for chunk in &head {
            sink.take(inner, chunk)?;
        }
        Ok(Begun { upload: self, place, hasher, head: head_digest, sink })
    }

    fn sink(
        &self,
        inner: &Inner,
        place: &Place,
        candidate: Option<Pinned>,
        wanted: u64,
    ) -> Result<Sink, Error> {
        let key = self.key.clone();
        Ok(match candidate {
            Some(pinned) => {
                let staging = Arc::clone(&place.staging);
                Sink::Pool { key, pinned, same_bytes: 0, staging, wanted }
            }
            None => Sink::File(Writing::begin(inner, key, &place.staging, wanted)?),
        })
    }

    fn commit(
        &self,
        inner: &Inner,
        place: &Place,
        mut sink: Sink,
        stored: Stored,
        head: Option<Sha256Digest>,
    ) -> Result<Stored, Error> {
        // A blob that only begins like the body, or is not what its name in the pool says.
        if let Sink::Pool { pinned, same_bytes, .. } = &sink {
            if pinned.digest != stored.digest && pinned.size_bytes == *same_bytes {
                let _ = pool::discard(&place.root, &pinned.digest);
            }
            if pinned.size_bytes != *same_bytes || pinned.digest != stored.digest {
                sink.part_ways(inner)?;
            }
        }
        match sink {
            Sink::Pool { pinned, .. } => self.share(inner, place, &pinned, stored),
            Sink::File(writing) => {
                writing.trim(inner)?;
                self.commit_file(inner, place, &writing.staged, &writing.file, stored, head)
            }
        }
    }

    /// Gives a blob of the pool one more name.
    fn share(
        &self,
        inner: &Inner,
        place: &Place,
        pinned: &Pinned,
        stored: Stored,
    ) -> Result<Stored, Error> {
        // Whoever wrote it first may not have synced it yet.
        if self.options.durability == Durability::Synced {
            pinned.file.sync_all().map_err(|e| inner.io("put", &self.key, e))?;
        }
        self.give_name(inner, &place.root, &pinned.staged)?;
        Ok(stored)
    }

    /// Names a staged file that is whole. The caller has it open and locked: until it has its name, nobody
    /// takes it for a leftover, and nobody shares it.
    pub(super) fn commit_file(
        &self,
        inner: &Inner,
        place: &Place,
        staged: &Staged,
        file: &File,
        stored: Stored,
        head: Option<Sha256Digest>,
    ) -> Result<Stored, Error> {
        let failed = |e: io::Error| inner.io("put", &self.key, e);
        let shared = self.is_shared(stored.size_bytes);
        if shared {
            pool::mark(file, &stored.digest);
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(0o444)).map_err(|e| failed(e.into()))?;
        if self.options.durability == Durability::Synced {
            file.sync_all().map_err(failed)?;
        }
        let mut pooled = false;
        if shared {
            match pool::add(&place.root, staged, &stored.digest, head.as_ref()) {
                Ok(()) => pooled = true,
                Err(e) if e.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
                    match self.converge(inner, place, file, stored)? {
                        Some(stored) => return Ok(stored),
                        None => {
                            let add = pool::add(&place.root, staged, &stored.digest, head.as_ref());
                            pooled = add.is_ok();
                        }
                    }
                }
                // No hard links here, too many, no room for one more name: the job has its own copy.
                Err(e) => tracing::debug!(store = %inner, error = %e, "a blob is not shared"),
            }
        }
        let named = self.give_name(inner, &place.root, staged);
        if named.is_err() && pooled {
            let _ = pool::discard(&place.root, &stored.digest);
        }
        named.map(|()| stored)
    }

    /// The pool has a blob of this digest that nobody guessed: takes it, where it is what it says.
    fn converge(
        &self,
        inner: &Inner,
        place: &Place,
        file: &File,
        stored: Stored,
    ) -> Result<Option<Stored>, Error> {
        let Some(pinned) = pool::find(&place.root, &place.staging, stored.digest) else {
            return Ok(None);
        };
        if same_content(file, &pinned.file).map_err(|e| inner.io("put", &self.key, e))? {
            return self.share(inner, place, &pinned, stored).map(Some);
        }
        tracing::warn!(store = %inner, digest = %stored.digest, "a shared blob was damaged; it is replaced");
        pool::discard(&place.root, &stored.digest).map_err(|e| inner.io("put", &self.key, e))?;
        Ok(None)
    }

    /// Moves a staged name to where it belongs, and syncs what that changed.
    fn give_name(&self, inner: &Inner, root: &OwnedFd, staged: &Staged) -> Result<(), Error> {
        let (key, mode) = (&self.key, self.options.mode);
        // Whoever gave up may have deleted what he did not want, and must not find it here later.
        if self.caller.strong_count() == 0 {
            return Err(inner.io("put", key, io::Error::other("nobody waits for it any more")));
        }
        let path = format!("{}/{}", key.job(), key.path());
        let components: Vec<&str> = path.split('/').collect();
        let (name, dirs) = components.split_last().expect("a split gives one part at least");
        let (mut attempts, mut replaced) = (0, None);
        let chain = loop {
            attempts += 1;
            let moved = open_chain(root, dirs, true).and_then(|chain| {
                let dir = chain.last().expect("the chain begins with the root");
                replaced = match mode {
                    PutMode::Replace => beneath::open_file(dir, name).ok(),
                    PutMode::CreateNew => None,
                };
                staged.move_to(dir, name, mode).map(|()| chain)
            });
            match moved {
                Ok(chain) => break chain,
                // A delete removed the empty directory that we had just opened.
                Err(Errno::NOENT) if attempts < COMMIT_ATTEMPTS => {}
                Err(Errno::EXIST) if !inner.is_dir(&path) => {
                    return Err(Error::Exists { key: key.clone() });
                }
                Err(Errno::EXIST | Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY) => {
                    return Err(Error::InTheWay { key: key.clone() });
                }
                Err(e) => return Err(inner.io("put", key, e)),
            }
        };
        if let Some(replaced) = replaced {
            pool::let_go(root, &replaced);
        }
        if self.options.durability == Durability::Deferred {
            return Ok(());
        }
        // Every directory, not only those made here: another put may have made one and not be done.
        let synced = chain.iter().rev().try_for_each(rustix::fs::fsync);
        if let Err(e) = synced {
            if mode == PutMode::CreateNew
                && let Some(dir) = chain.last()
            {
                let _ = rustix::fs::unlinkat(dir, *name, AtFlags::empty());
            }
            return Err(inner.io("put", key, e));
        }
        Ok(())
    }
}

pub(super) fn same_content(one: &File, other: &File) -> io::Result<bool> {
    let len = one.metadata()?.len();
    if len != other.metadata()?.len() {
        return Ok(false);
    }
    let mut buffer = vec![0; BATCH_BYTES];
    let mut at = 0;
    while at < len {
        let want = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        one.read_exact_at(&mut buffer[..want], at)?;
        if !holds(other, at, &buffer[..want]) {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}

impl Inner {
    /// The directories of an upload, made where they are missing.
    pub(super) fn place(&self) -> io::Result<Place> {
        let open = || -> io::Result<Place> {
            let root = beneath::open_root(&self.root)?;
            let staging = beneath::open_dir(&root, STAGING_DIR)?;
            Ok(Place { root, staging: Arc::new(staging) })
        };
        let place = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files::create_private_dir(&self.root.join(STAGING_DIR))?;
                open()
            }
            other => other,
        }?;
        if !self.swept.swap(true, std::sync::atomic::Ordering::Relaxed)
            && let Err(e) = remove_leftovers(&place.staging, None)
        {
            // Others' leftovers cost room, nothing else.
            tracing::warn!(store = %self, error = %e, "cannot remove what a dead process left");
        }
        Ok(place)
    }

    /// How many bytes an artifact may still have, unless it would fill the disk. What Danube adds may use the
    /// rest: a signature that did not fit would spoil what was kept.
    pub(super) fn check_room(
        &self,
        key: &BlobKey,
        on: impl std::os::fd::AsFd,
        needed_bytes: u64,
    ) -> Result<u64, Error> {
        if !matches!(key.part(), BlobPart::Artifact(_)) {
            return Ok(u64::MAX);
        }
        let stat = rustix::fs::fstatvfs(on).map_err(|e| self.io("put", key, e))?;
        // Some file systems have no size of their own, and tell none.
        if stat.f_blocks == 0 {
            return Ok(u64::MAX);
        }
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let available_bytes = free.saturating_sub(self.keep_free_bytes);
        if needed_bytes > available_bytes || available_bytes == 0 {
            let backend = self.to_string();
            return Err(Error::NoSpace {
                key: key.clone(),
                backend,
                needed_bytes,
                available_bytes,
            });
        }
        Ok(available_bytes)
    }
}

/// A store whose directory vanished is broken; that is not the absence of a blob.
pub(super) fn class_of_put(error: &io::Error) -> ErrorClass {
    match ErrorClass::of_io(error) {
        ErrorClass::NotFound => ErrorClass::Internal,
        other => other,
    }
}
