//! Uploads in parts as files.
//!
//! `<root>/.uploads/<id>/` holds `upload.json` (what it is to become), `data` (the parts, each at its place)
//! and `parts` (a line for every acknowledged part, written when its bytes are on the disk); and when it
//! is complete `done.json` instead of `data`. Completing links `data` where it belongs: no byte is copied.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::files::{self, Existing};
use danube_core::{Sha256Digest, Timestamp};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::put::{BATCH_BYTES, Upload};
use super::staging::Staged;
use super::{Change, FsBlobs, Inner, entries, is_absent};
use crate::intake::{Meter, digest_of};
use crate::upload::{Written, check_begin, check_part, check_whole};
use crate::{
    BlobKey, Error, Part, PutMode, PutOptions, Stored, UploadId, UploadSessions, UploadState,
    beneath,
};

const UPLOADS_DIR: &str = ".uploads";
const UPLOAD_FILE: &str = "upload.json";
const DATA_FILE: &str = "data";
const PARTS_FILE: &str = "parts";
const DONE_FILE: &str = "done.json";
/// A line of a part has at most 88 bytes; one that was sent again and again has many.
const MAX_PARTS_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// The longest of the two JSON files.
const MAX_JSON_BYTES: u64 = 64 * 1024;
const VERSION: u32 = 1;

/// `done.json`.
#[derive(Serialize, Deserialize)]
struct Done {
    version: u32,
    size_bytes: u64,
    digest: Sha256Digest,
}

#[async_trait]
impl UploadSessions for FsBlobs {
    async fn begin(
        &self,
        key: &BlobKey,
        options: PutOptions,
        part_bytes: u64,
    ) -> Result<UploadId, Error> {
        check_begin(key, &options, part_bytes)?;
        let key = key.clone();
        self.blocking(move |inner| inner.begin_upload(key, options, part_bytes)).await
    }

    async fn put_part(&self, id: &UploadId, number: u32, bytes: Bytes) -> Result<Part, Error> {
        let id = id.clone();
        self.blocking(move |inner| {
            let session = Session::open(inner, &id, FlockOperation::NonBlockingLockShared)?;
            session.put_part(inner, number, &bytes)
        })
        .await
    }

    async fn upload(&self, id: &UploadId) -> Result<UploadState, Error> {
        let id = id.clone();
        self.blocking(move |inner| {
            let dir = Session::dir(inner, &id)?;
            Session::state(inner, &dir, &id)
        })
        .await
    }

    async fn uploads(&self) -> Result<Vec<UploadId>, Error> {
        self.blocking(move |inner| inner.upload_ids()).await
    }

    async fn complete(&self, id: &UploadId) -> Result<Stored, Error> {
        let id = id.clone();
        self.blocking(move |inner| {
            let session = Session::open(inner, &id, FlockOperation::NonBlockingLockExclusive)?;
            session.complete(inner)
        })
        .await
    }

    async fn abort(&self, id: &UploadId) -> Result<(), Error> {
        let id = id.clone();
        self.blocking(move |inner| {
            match Session::open(inner, &id, FlockOperation::NonBlockingLockExclusive) {
                Ok(session) => session.remove(inner).map(|_| ()),
                Err(Error::NoUpload { .. }) => Ok(()),
                Err(e) => Err(e),
            }
        })
        .await
    }

    async fn sweep_uploads(&self, before: Timestamp) -> Result<u64, Error> {
        self.blocking(move |inner| {
            let mut freed = 0;
            for id in inner.upload_ids()? {
                freed += inner.sweep_upload(&id, Change::at(before))?;
            }
            Ok(freed)
        })
        .await
    }
}

impl Inner {
    fn upload_path(&self, id: &UploadId) -> PathBuf {
        self.root.join(UPLOADS_DIR).join(id.as_str())
    }

    fn upload_error(&self, verb: &str, id: &UploadId, source: io::Error) -> Error {
        let class = super::put::class_of_put(&source);
        let operation = format!("{verb} upload {id}");
        Error::Backend { backend: self.to_string(), operation, class, source: source.into() }
    }

    fn begin_upload(
        &self,
        key: BlobKey,
        options: PutOptions,
        part_bytes: u64,
    ) -> Result<UploadId, Error> {
        let failed = |e: io::Error| self.io("begin an upload of", &key, e);
        let place = self.place().map_err(failed)?;
        if options.mode == PutMode::CreateNew && self.open(&key).is_ok() {
            return Err(Error::Exists { key });
        }
        self.check_room(&key, &place.root, options.size_bytes.unwrap_or(part_bytes))?;
        let id = UploadId::random().map_err(failed)?;
        let path = self.upload_path(&id);
        files::create_private_dir(&path).map_err(failed)?;
        let written = Written::new(&key, &options, part_bytes);
        let json = serde_json::to_vec(&written).expect("names and numbers serialise");
        let made = File::create_new(path.join(DATA_FILE))
            .and_then(|_| File::create_new(path.join(PARTS_FILE)))
            // Last: a directory with it is an upload that was begun.
            .and_then(|_| {
                files::write_atomic(&path.join(UPLOAD_FILE), &json, 0o600, Existing::Refuse)
            })
            .and_then(|()| files::sync_dir(&self.root.join(UPLOADS_DIR)));
        made.map_err(failed)?;
        Ok(id)
    }

    fn upload_ids(&self) -> Result<Vec<UploadId>, Error> {
        let failed = |e: io::Error| Error::io(self, "list the uploads".to_owned(), e);
        let opened = beneath::open_root(&self.root)
            .and_then(|root| beneath::open_dir(root, UPLOADS_DIR))
            .and_then(|dir| entries(&dir));
        let entries = match opened {
            Ok(entries) => entries,
            Err(e) if is_absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut ids: Vec<UploadId> =
            entries.into_iter().filter_map(|(name, _)| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn sweep_upload(&self, id: &UploadId, before: Change) -> Result<u64, Error> {
        let Ok(dir) = Session::dir(self, id) else { return Ok(0) };
        let failed = |e: io::Error| self.upload_error("sweep", id, e);
        let mut newest = Change::of(&rustix::fs::fstat(&dir).map_err(|e| failed(e.into()))?);
        for (name, _) in entries(&dir).map_err(failed)? {
            if let Ok(stat) = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                newest = newest.max(Change::of(&stat));
            }
        }
        if newest >= before {
            return Ok(0);
        }
        match Session::lock(dir, id.clone(), FlockOperation::NonBlockingLockExclusive) {
            Ok(session) => session.remove(self),
            Err(_) => Ok(0),
        }
    }
}

/// An upload that is open and locked: shared by whoever sends parts, alone by whoever ends it.
struct Session {
    id: UploadId,
    dir: OwnedFd,
}

impl Session {
    fn dir(inner: &Inner, id: &UploadId) -> Result<OwnedFd, Error> {
        let opened = beneath::open_root(&inner.root)
            .and_then(|root| beneath::open_dir(root, format!("{UPLOADS_DIR}/{id}")));
        opened.map_err(|e| match is_absent(&e) {
            true => Error::NoUpload { id: id.clone() },
            false => inner.upload_error("open", id, e),
        })
    }

    fn lock(dir: OwnedFd, id: UploadId, how: FlockOperation) -> Result<Self, Errno> {
        rustix::fs::flock(&dir, how)?;
        // Whoever had the lock may have removed what it locks.
        if rustix::fs::fstat(&dir)?.st_nlink == 0 {
            return Err(Errno::NOENT);
        }
        Ok(Self { id, dir })
    }

    fn open(inner: &Inner, id: &UploadId, how: FlockOperation) -> Result<Self, Error> {
        let dir = Self::dir(inner, id)?;
        Self::lock(dir, id.clone(), how).map_err(|e| match e {
            Errno::WOULDBLOCK => Error::UploadBusy { id: id.clone() },
            Errno::NOENT => Error::NoUpload { id: id.clone() },
            e => inner.upload_error("lock", id, e.into()),
        })
    }

    fn state(inner: &Inner, dir: &OwnedFd, id: &UploadId) -> Result<UploadState, Error> {
        let failed = |e: io::Error| inner.upload_error("read", id, e);
        let written: Option<Written> = read_json(dir, UPLOAD_FILE).map_err(failed)?;
        // Somebody died between the directory and this file, or removes it right now.
        let written = written.ok_or_else(|| Error::NoUpload { id: id.clone() })?;
        let foreign =
            || io::Error::new(io::ErrorKind::InvalidData, "upload.json is not of this version");
        let mut state = written.state(id).ok_or_else(foreign).map_err(failed)?;
        let done: Option<Done> = read_json(dir, DONE_FILE).map_err(failed)?;
        state.parts = read_parts(dir).map_err(failed)?;
        state.stored = done.map(|done| Stored { size_bytes: done.size_bytes, digest: done.digest });
        Ok(state)
    }

    fn put_part(&self, inner: &Inner, number: u32, bytes: &[u8]) -> Result<Part, Error> {
        let state = Self::state(inner, &self.dir, &self.id)?;
        check_part(&state, number, bytes.len())?;
        let failed = |e: io::Error| inner.upload_error("put a part of", &self.id, e);
        inner.check_room(&state.key, &self.dir, bytes.len() as u64)?;
        let data = open_in(&self.dir, DATA_FILE, OFlags::RDWR).map_err(failed)?;
        // Whoever completed it died after the data had become the blob, which nobody may write to.
        if rustix::fs::fstat(&data).map_err(|e| failed(e.into()))?.st_nlink != 1 {
            let reason = "comes after the upload was completed".to_owned();
            return Err(Error::Part { id: self.id.clone(), number, reason });
        }
        let at = u64::from(number) * state.part_bytes;
        data.write_all_at(bytes, at).and_then(|()| data.sync_data()).map_err(failed)?;
        let digest = Sha256Digest::from_bytes(Sha256::digest(bytes).into());
        let part = Part { number, size_bytes: bytes.len() as u64, digest };
        self.note(&format!("{number} {} {digest}", part.size_bytes)).map_err(failed)?;
        Ok(part)
    }

    /// Adds a line to the parts. It begins with a line feed: what a dying writer left of its own is a
    /// line of its own, and none that can be read.
    fn note(&self, line: &str) -> io::Result<()> {
        let mut parts = open_in(&self.dir, PARTS_FILE, OFlags::WRONLY | OFlags::APPEND)?;
        parts.write_all(format!("\n{line}\n").as_bytes())?;
        parts.sync_data()
    }

    fn complete(&self, inner: &Inner) -> Result<Stored, Error> {
        let state = Self::state(inner, &self.dir, &self.id)?;
        if let Some(stored) = state.stored {
            return Ok(stored);
        }
        let failed = |e: io::Error| inner.upload_error("complete", &self.id, e);
        let total = check_whole(&state)?;
        let data = open_in(&self.dir, DATA_FILE, OFlags::RDWR).map_err(failed)?;
        if data.metadata().map_err(failed)?.len() > total {
            // Bytes of a part that was never acknowledged.
            data.set_len(total).map_err(failed)?;
        }
        let mut meter = Meter::new(state.key.clone(), state.options.clone())?;
        let (digest, head) = self.digest(inner, &state, &data, &mut meter)?;
        let stored = meter.finish(digest)?;

        let place = inner.place().map_err(failed)?;
        // While it is locked, its name in the staging directory is no leftover.
        rustix::fs::flock(&data, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed(e.into()))?;
        let staged = Staged::link(&place.staging, &self.dir, DATA_FILE).map_err(failed)?;
        let caller = Arc::new(());
        let (key, caller_is_here) = (state.key.clone(), Arc::downgrade(&caller));
        let upload = Upload { key, options: state.options, caller: caller_is_here };
        match upload.commit_file(inner, &place, &staged, &data, stored, head) {
            Ok(_) => {}
            // Whoever completed it before died before he could say so.
            Err(Error::Exists { key }) => {
                let there = inner.open(&key)?;
                if !super::put::same_content(&data, &there).map_err(failed)? {
                    return Err(Error::Exists { key });
                }
            }
            Err(e) => return Err(e),
        }
        let done = Done { version: VERSION, size_bytes: stored.size_bytes, digest };
        let json = serde_json::to_vec(&done).expect("numbers serialise");
        let path = inner.upload_path(&self.id).join(DONE_FILE);
        files::write_atomic(&path, &json, 0o600, Existing::Replace).map_err(failed)?;
        unlink(&self.dir, DATA_FILE).map_err(failed)?;
        Ok(stored)
    }

    /// The digest of the whole and of its head, when every part is what arrived.
    fn digest(
        &self,
        inner: &Inner,
        state: &UploadState,
        data: &File,
        meter: &mut Meter,
    ) -> Result<(Sha256Digest, Option<Sha256Digest>), Error> {
        let failed = |e: io::Error| inner.upload_error("complete", &self.id, e);
        let (mut whole, mut head) = (Sha256::new(), None);
        let mut buffer = vec![0; BATCH_BYTES];
        let mut at = 0;
        for part in &state.parts {
            let (mut hasher, end) = (Sha256::new(), at + part.size_bytes);
            while at < end {
                // The head is hashed apart, so no piece may reach beyond its end.
                let to_head = (BATCH_BYTES as u64).checked_sub(at).filter(|left| *left > 0);
                let want = (end - at).min(to_head.unwrap_or(BATCH_BYTES as u64));
                let piece = &mut buffer[..usize::try_from(want).expect("at most a mebibyte")];
                match data.read_exact_at(piece, at) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err(self.lost(inner, part.number));
                    }
                    Err(e) => return Err(failed(e)),
                }
                meter.count(piece.len())?;
                hasher.update(&*piece);
                whole.update(&*piece);
                at += want;
                if at == BATCH_BYTES as u64 {
                    head = Some(digest_of(whole.clone()));
                }
            }
            if digest_of(hasher) != part.digest {
                return Err(self.lost(inner, part.number));
            }
        }
        Ok((digest_of(whole), head))
    }

    /// Takes an acknowledgement back: better late than a blob that is not what arrived.
    fn lost(&self, inner: &Inner, number: u32) -> Error {
        if let Err(e) = self.note(&format!("{number} lost")) {
            return inner.upload_error("complete", &self.id, e);
        }
        let reason = "is not on the disk as it arrived; send it again".to_owned();
        Error::Part { id: self.id.clone(), number, reason }
    }

    /// Removes the upload; what it became has names of its own.
    fn remove(self, inner: &Inner) -> Result<u64, Error> {
        let failed = |e: io::Error| inner.upload_error("remove", &self.id, e);
        // First: without it there is no upload, whatever else is still there.
        unlink(&self.dir, UPLOAD_FILE).map_err(failed)?;
        let mut freed = 0;
        for (name, _) in entries(&self.dir).map_err(failed)? {
            let stat = rustix::fs::statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW);
            if let Ok(stat) = stat
                && stat.st_nlink == 1
            {
                // What lies on the disk: parts may have come in any order.
                freed += (stat.st_blocks * 512).cast_unsigned();
            }
            unlink(&self.dir, &name).map_err(failed)?;
        }
        let uploads = beneath::open_root(&inner.root)
            .and_then(|root| beneath::open_dir(root, UPLOADS_DIR))
            .map_err(failed)?;
        match rustix::fs::unlinkat(&uploads, self.id.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(freed),
            Err(e) => Err(failed(e.into())),
        }
    }
}

fn open_in(dir: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

fn unlink(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn read_bounded(dir: &OwnedFd, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match beneath::open_file(dir, name) {
        Ok(file) => file,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is too long")));
    }
    Ok(Some(bytes))
}

fn read_json<T: serde::de::DeserializeOwned>(dir: &OwnedFd, name: &str) -> io::Result<Option<T>> {
    let Some(bytes) = read_bounded(dir, name, MAX_JSON_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from)
}

/// The parts by number; of several lines about one the last counts.
fn read_parts(dir: &OwnedFd) -> io::Result<Vec<Part>> {
    let bytes = read_bounded(dir, PARTS_FILE, MAX_PARTS_FILE_BYTES)?.unwrap_or_default();
    let mut parts = BTreeMap::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let mut words = line.split(' ');
        let (Some(number), Some(size), digest) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = number.parse::<u32>() else { continue };
        match (size, digest) {
            ("lost", None) => drop(parts.remove(&number)),
            (size, Some(digest)) => {
                if let (Ok(size_bytes), Ok(digest)) = (size.parse(), digest.parse()) {
                    parts.insert(number, Part { number, size_bytes, digest });
                }
            }
            _ => {}
        }
    }
    Ok(parts.into_values().collect())
}
