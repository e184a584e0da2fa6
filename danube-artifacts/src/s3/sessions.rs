//! Uploads in parts: `.uploads/<id>.json` says what it is to become and what it became, and every part is an object
//! of its own, its number and SHA-256 in its name. Completing reads them, and stores what it read as any other blob.
//!
//! They are no parts of a multipart upload of S3, because S3 cannot hash a whole: what is complete would be visible
//! before anybody knows its SHA-256, or would be copied, and a copy is not always conditional. Parts also outlive a
//! server that does not tell their checksums.

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream as SdkStream;
use aws_sdk_s3::types::Object;
use bytes::Bytes;
use danube_core::{BoxError, Sha256Digest, Timestamp};
use futures_util::{StreamExt, TryStreamExt, future, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::S3Blobs;
use super::fault::Fault;
use super::get::timestamp;
use super::put::{checksum, token_of};
use crate::upload::{Written, check_begin, check_part, check_whole};
use crate::{
    BlobKey, ByteStream, Error, Part, PutMode, PutOptions, Stored, UploadId, UploadSessions,
    UploadState,
};

const UPLOADS: &str = ".uploads/";
const STATE: &str = ".json";
/// The longest state: names take most of it.
const MAX_STATE_BYTES: i64 = 64 * 1024;
/// How many small requests are on their way at once.
const AT_ONCE: usize = 8;

/// `.uploads/<id>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    #[serde(flatten)]
    begun: Written,
    /// What it became.
    stored: Option<Done>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {
    size_bytes: u64,
    digest: Sha256Digest,
}

/// A part as an object. Of several with one number the last turn counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    turn: u64,
    part: Part,
    object: String,
}

impl S3Blobs {
    fn uploads_prefix(&self) -> String {
        format!("{}{UPLOADS}", self.config.prefix)
    }

    pub(super) fn upload_object(&self, below: &str) -> String {
        format!("{}{UPLOADS}{below}", self.config.prefix)
    }

    fn upload_failed(&self, verb: &str, id: &UploadId, fault: Fault) -> Error {
        self.failed(format!("{verb} upload {id}"), fault)
    }

    async fn session(&self, id: &UploadId) -> Result<Session, Error> {
        let object = self.upload_object(&format!("{id}{STATE}"));
        let request = self.client.get_object().bucket(&self.config.bucket).key(&object);
        let got = match request.send().await.map_err(|e| self.fault(e)) {
            Ok(got) => got,
            Err(fault) if fault.is_absent() => return Err(Error::NoUpload { id: id.clone() }),
            Err(fault) => return Err(self.upload_failed("read", id, fault)),
        };
        let backend = |class, source: BoxError| Error::Backend {
            backend: self.to_string(),
            operation: format!("read upload {id}"),
            class,
            source,
        };
        let foreign = |e: BoxError| backend(danube_core::ErrorClass::Internal, e);
        if got.content_length().is_none_or(|len| len > MAX_STATE_BYTES) {
            return Err(foreign("it is longer than any that was written".into()));
        }
        let bytes = got.body.collect().await;
        let bytes = bytes.map_err(|e| backend(danube_core::ErrorClass::Unavailable, e.into()))?;
        serde_json::from_slice(&bytes.into_bytes()).map_err(|e| foreign(e.into()))
    }

    async fn write(&self, id: &UploadId, session: &Session) -> Result<(), Error> {
        let json = serde_json::to_vec(session).expect("names and numbers serialise");
        let object = self.upload_object(&format!("{id}{STATE}"));
        let request = self.client.put_object().bucket(&self.config.bucket).key(object);
        let written = request.body(SdkStream::from(json)).send().await;
        written.map(|_| ()).map_err(|e| self.upload_failed("write", id, self.fault(e)))
    }

    /// The parts whose names begin so, the last turn of every number, and those that were replaced.
    async fn parts(&self, below: &str) -> Result<(Vec<Kept>, Vec<String>), Fault> {
        let listed = self.objects(&self.upload_object(below)).await?;
        let mut kept: Vec<Kept> = listed.iter().filter_map(read_part).collect();
        kept.sort_by(|a, b| (a.part.number, b.turn).cmp(&(b.part.number, a.turn)));
        let mut replaced = Vec::new();
        kept.dedup_by(|later, first| {
            let again = later.part.number == first.part.number;
            if again {
                replaced.push(std::mem::take(&mut later.object));
            }
            again
        });
        Ok((kept, replaced))
    }

    async fn state(&self, id: &UploadId) -> Result<(UploadState, Session, Vec<Kept>), Error> {
        let session = self.session(id).await?;
        let parts = self.parts(&format!("{id}/")).await;
        let (kept, _) =
            parts.map_err(|fault| self.upload_failed("list the parts of", id, fault))?;
        let mut state = self.without_parts(id, &session)?;
        state.parts = kept.iter().map(|kept| kept.part).collect();
        Ok((state, session, kept))
    }

    fn without_parts(&self, id: &UploadId, session: &Session) -> Result<UploadState, Error> {
        let mut state = session.begun.state(id).ok_or_else(|| {
            self.strange(format!("read upload {id}"), "it is not of this version")
        })?;
        let stored = session.stored;
        state.stored =
            stored.map(|done| Stored { size_bytes: done.size_bytes, digest: done.digest });
        Ok(state)
    }

    pub(super) async fn delete_object(&self, object: &str) -> Result<(), Fault> {
        let request = self.client.delete_object().bucket(&self.config.bucket).key(object);
        request.send().await.map(|_| ()).map_err(|e| self.fault(e))
    }

    async fn delete_objects(&self, objects: Vec<String>) -> Result<(), Fault> {
        let store = self.clone();
        let mut deleting = stream::iter(objects)
            .map(move |object| {
                let store = store.clone();
                async move { store.delete_object(&object).await }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(deleted) = deleting.next().await {
            deleted?;
        }
        Ok(())
    }

    /// What the upload became, if whoever completed it died before he could say so.
    async fn completed_before(
        &self,
        id: &UploadId,
        key: &BlobKey,
    ) -> Result<Option<Stored>, Error> {
        let object = self.object(key)?;
        match self.head(&object).await {
            Ok(head) if token_of(&head) == Some(id.as_str()) => {}
            Ok(_) => return Ok(None),
            Err(fault) if fault.is_absent() => return Ok(None),
            Err(fault) => return Err(self.upload_failed("complete", id, fault)),
        }
        let mut blob = self.open(key, None).await?;
        let mut hasher = Sha256::new();
        while let Some(chunk) = blob.body.next().await {
            let chunk = chunk.map_err(|source| Error::Body { key: key.clone(), source })?;
            hasher.update(&chunk);
        }
        let digest = crate::intake::digest_of(hasher);
        Ok(Some(Stored { size_bytes: blob.size_bytes, digest }))
    }

    async fn complete_now(
        &self,
        id: &UploadId,
        state: &UploadState,
        kept: Vec<Kept>,
    ) -> Result<Stored, Error> {
        let (key, body) = (&state.key, self.whole(id, kept));
        match self.store(key, body, state.options.clone(), id.as_str()).await {
            Err(Error::Body { key, source }) => match source.downcast::<Error>() {
                Ok(part) => Err(*part),
                Err(source) => Err(Error::Body { key, source }),
            },
            // Perhaps somebody else completed it at the same time.
            Err(Error::Exists { key }) => {
                self.completed_before(id, &key).await?.ok_or(Error::Exists { key })
            }
            done => done,
        }
    }

    /// The parts one after another, each of them checked against its name.
    fn whole(&self, id: &UploadId, parts: Vec<Kept>) -> ByteStream {
        let (store, id) = (self.clone(), id.clone());
        let bodies = stream::iter(parts).then(move |kept| {
            let (store, id) = (store.clone(), id.clone());
            async move { store.part_stream(&id, kept).await }
        });
        Box::pin(bodies.try_flatten())
    }

    async fn part_stream(&self, id: &UploadId, kept: Kept) -> Result<ByteStream, BoxError> {
        let changed = |reason: &str| Error::Part {
            id: id.clone(),
            number: kept.part.number,
            reason: reason.to_owned(),
        };
        let request = self.client.get_object().bucket(&self.config.bucket).key(&kept.object);
        let got = match request.send().await.map_err(|e| self.fault(e)) {
            Ok(got) => got,
            Err(fault) if fault.is_absent() => {
                return Err(changed("was sent again, or is gone").into());
            }
            Err(fault) => return Err(self.upload_failed("complete", id, fault).into()),
        };
        let (mut hasher, mut size_bytes) = (Sha256::new(), 0);
        let wanted = kept.part;
        let mut body = got.body;
        let wrong = changed("is not what arrived; send it again");
        let mut wrong = Some(wrong);
        let chunks = stream::poll_fn(move |context| {
            use std::task::Poll;
            match std::pin::Pin::new(&mut body).poll_next(context) {
                Poll::Ready(Some(Ok(chunk))) => {
                    hasher.update(&chunk);
                    size_bytes += chunk.len() as u64;
                    Poll::Ready(Some(Ok(chunk)))
                }
                Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(BoxError::from(e)))),
                Poll::Ready(None) => {
                    let digest = crate::intake::digest_of(std::mem::take(&mut hasher));
                    let is_right = (size_bytes, digest) == (wanted.size_bytes, wanted.digest);
                    let wrong = wrong.take().filter(|_| !is_right);
                    Poll::Ready(wrong.map(|wrong| Err(BoxError::from(wrong))))
                }
                Poll::Pending => Poll::Pending,
            }
        });
        Ok(Box::pin(chunks))
    }
}

fn part_object(id: &UploadId, turn: u64, part: &Part) -> String {
    format!("{id}/{:05}-{turn:06}-{}", part.number, part.digest)
}

fn read_part(object: &Object) -> Option<Kept> {
    let key = object.key()?;
    let (_, name) = key.rsplit_once('/')?;
    let mut fields = name.splitn(3, '-');
    let (number, turn) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let digest = fields.next()?.parse().ok()?;
    let size_bytes = u64::try_from(object.size()?).ok()?;
    Some(Kept { turn, part: Part { number, size_bytes, digest }, object: key.to_owned() })
}

#[async_trait]
impl UploadSessions for S3Blobs {
    async fn begin(
        &self,
        key: &BlobKey,
        options: PutOptions,
        part_bytes: u64,
    ) -> Result<UploadId, Error> {
        check_begin(key, &options, part_bytes)?;
        let object = self.object(key)?;
        if options.mode == PutMode::CreateNew {
            match self.head(&object).await {
                Ok(_) => return Err(Error::Exists { key: key.clone() }),
                Err(fault) if fault.is_absent() => {}
                Err(fault) => {
                    return Err(self.failed(format!("begin an upload of {key}"), fault));
                }
            }
        }
        let id = UploadId::random();
        let id = id.map_err(|e| Error::io(self, format!("begin an upload of {key}"), e))?;
        let begun = Written::new(key, &options, part_bytes);
        self.write(&id, &Session { begun, stored: None }).await?;
        Ok(id)
    }

    async fn put_part(&self, id: &UploadId, number: u32, bytes: Bytes) -> Result<Part, Error> {
        let failed = |fault| self.upload_failed("put a part of", id, fault);
        let same_number = format!("{id}/{number:05}-");
        let (session, before) = future::join(self.session(id), self.parts(&same_number)).await;
        let (session, (before, replaced)) = (session?, before.map_err(failed)?);
        check_part(&self.without_parts(id, &session)?, number, bytes.len())?;
        let hashing = tokio::task::spawn_blocking(move || {
            let digest = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
            (digest, bytes)
        });
        let (digest, bytes) = hashing
            .await
            .map_err(|e| Error::io(self, format!("put a part of upload {id}"), e.into()))?;
        let part = Part { number, size_bytes: bytes.len() as u64, digest };
        // Later than all that were there: of two that come at once either may win.
        let turn = before.iter().map(|kept| kept.turn + 1).max().unwrap_or(0);
        let object = self.upload_object(&part_object(id, turn, &part));
        let request = self.client.put_object().bucket(&self.config.bucket).key(&object);
        let request = request.checksum_sha256(checksum(&digest)).body(SdkStream::from(bytes));
        request.send().await.map_err(|e| failed(self.fault(e)))?;
        let old = before.into_iter().map(|kept| kept.object).chain(replaced);
        self.delete_objects(old.collect()).await.map_err(failed)?;
        Ok(part)
    }

    async fn upload(&self, id: &UploadId) -> Result<UploadState, Error> {
        self.state(id).await.map(|(state, _, _)| state)
    }

    async fn uploads(&self) -> Result<Vec<UploadId>, Error> {
        let listed = self.objects(&self.uploads_prefix()).await;
        let listed = listed.map_err(|fault| self.failed("list the uploads".to_owned(), fault))?;
        let prefix = self.uploads_prefix();
        let ids = listed.iter().filter_map(|object| {
            object.key()?.strip_prefix(&*prefix)?.strip_suffix(STATE)?.parse().ok()
        });
        let mut ids: Vec<UploadId> = ids.collect();
        ids.sort_unstable();
        Ok(ids)
    }

    async fn complete(&self, id: &UploadId) -> Result<Stored, Error> {
        let (state, mut session, kept) = self.state(id).await?;
        if let Some(stored) = state.stored {
            return Ok(stored);
        }
        let objects: Vec<String> = kept.iter().map(|kept| kept.object.clone()).collect();
        let stored = match self.completed_before(id, &state.key).await? {
            Some(stored) => stored,
            None => {
                check_whole(&state)?;
                self.complete_now(id, &state, kept).await?
            }
        };
        let Stored { size_bytes, digest } = stored;
        session.stored = Some(Done { size_bytes, digest });
        self.write(id, &session).await?;
        // The blob is there: what is left of its parts is no reason to fail, and goes with the next sweep.
        if let Err(fault) = self.delete_objects(objects).await {
            tracing::warn!(%id, %fault, "the parts of a complete upload are left for the next sweep");
        }
        Ok(stored)
    }

    async fn abort(&self, id: &UploadId) -> Result<(), Error> {
        let failed = |fault| self.upload_failed("abort", id, fault);
        // First, so that nobody sends parts to it.
        let state = self.upload_object(&format!("{id}{STATE}"));
        self.delete_object(&state).await.map_err(failed)?;
        let parts = self.objects(&self.upload_object(&format!("{id}/"))).await.map_err(failed)?;
        let parts = parts.into_iter().filter_map(|part| part.key).collect();
        self.delete_objects(parts).await.map_err(failed)
    }

    async fn sweep_uploads(&self, before: Timestamp) -> Result<u64, Error> {
        let failed = |fault| self.failed("sweep the uploads".to_owned(), fault);
        let prefix = self.uploads_prefix();
        let mut objects = self.objects(&prefix).await.map_err(failed)?;
        let id_of = |object: &Object| {
            let below = object.key()?.strip_prefix(&*prefix)?;
            Some(below.get(..32)?.to_owned())
        };
        objects.sort_by_cached_key(id_of);
        let mut freed = 0;
        for upload in objects.chunk_by(|a, b| id_of(a) == id_of(b)) {
            let touched_at = upload.iter().filter_map(|o| timestamp(o.last_modified()?)).max();
            if touched_at.is_some_and(|touched_at| touched_at >= before) {
                continue;
            }
            let (states, parts): (Vec<&Object>, Vec<&Object>) =
                upload.iter().partition(|o| o.key().is_some_and(|key| key.ends_with(STATE)));
            for objects in [states, parts.clone()] {
                let keys = objects.iter().filter_map(|o| o.key().map(str::to_owned)).collect();
                self.delete_objects(keys).await.map_err(failed)?;
            }
            let sizes = parts.iter().filter_map(|part| u64::try_from(part.size()?).ok());
            freed += sizes.sum::<u64>();
        }
        Ok(freed)
    }
}
