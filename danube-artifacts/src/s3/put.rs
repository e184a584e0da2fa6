//! Storing: one request for what fits into a part, a multipart upload for what is longer.

use std::sync::Arc;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream as SdkStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use danube_core::Sha256Digest;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest as _, Sha256};

use super::S3Blobs;
use super::fault::Fault;
use crate::intake::{Meter, digest_of};
use crate::{BlobKey, ByteStream, Error, PutMode, PutOptions, Stored};

/// What goes to the server at once. S3 takes parts of 5 MiB to 5 GiB.
pub(super) const PART_BYTES: usize = 8 * 1024 * 1024;
/// How many parts are on their way at once. With the one that is being filled, a put holds 5 parts: 40 MiB.
const PARTS_AT_ONCE: usize = 4;
/// What S3 takes in one upload.
const MAX_PARTS: u64 = 10_000;
/// Tells whose put an object is: whoever is not told how his own ended finds it by this.
const TOKEN: &str = "danube-put";

/// As the checksum headers of S3 have it.
pub(super) fn checksum(digest: &Sha256Digest) -> String {
    BASE64_STANDARD.encode(digest.as_bytes())
}

pub(super) fn token_of(head: &HeadObjectOutput) -> Option<&str> {
    head.metadata()?.get(TOKEN).map(String::as_str)
}

/// A part of the body, or its end.
enum Piece {
    Part { number: i32, bytes: Bytes, digest: Sha256Digest },
    End(Stored),
}

/// A piece that arrived.
enum Sent {
    Part(Box<CompletedPart>),
    End(Stored),
}

impl S3Blobs {
    /// Stores a body. `token` tells this put from every other.
    pub(super) async fn store(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
        token: &str,
    ) -> Result<Stored, Error> {
        let object = self.object(key)?;
        let mode = options.mode;
        let mut pieces = Pieces::new(self, key, body, options)?;
        let first = pieces.next().await?;
        let target = Target { store: self, key, object: &object, mode, token };
        match first {
            Piece::Part { bytes, digest, .. } if pieces.is_at_end() => {
                let Piece::End(stored) = pieces.next().await? else {
                    unreachable!("it is at its end")
                };
                target.put(bytes, digest).await?;
                Ok(stored)
            }
            Piece::End(stored) => {
                target.put(Bytes::new(), stored.digest).await?;
                Ok(stored)
            }
            first => target.put_parts(first, pieces).await,
        }
    }
}

/// Where a put goes to.
struct Target<'a> {
    store: &'a S3Blobs,
    key: &'a BlobKey,
    object: &'a str,
    mode: PutMode,
    token: &'a str,
}

impl Target<'_> {
    fn condition(&self) -> Option<String> {
        (self.mode == PutMode::CreateNew).then(|| "*".to_owned())
    }

    fn operation(&self) -> String {
        format!("put {}", self.key)
    }

    async fn put(&self, bytes: Bytes, digest: Sha256Digest) -> Result<(), Error> {
        let request = self.store.client.put_object().bucket(&self.store.config.bucket);
        let request = request.key(self.object).set_if_none_match(self.condition());
        let request = request.metadata(TOKEN, self.token).checksum_sha256(checksum(&digest));
        match request.body(SdkStream::from(bytes)).send().await {
            Ok(_) => Ok(()),
            Err(e) => self.settle(self.store.fault(e)).await,
        }
    }

    /// What became of a put whose answer is an error: it may have been answered before, and that answer lost.
    async fn settle(&self, fault: Fault) -> Result<(), Error> {
        let refused = matches!(fault.status(), Some(409 | 412)) && self.mode == PutMode::CreateNew;
        if refused || fault.in_doubt || fault.is("NoSuchUpload") {
            match self.store.head(self.object).await {
                Ok(head) if self.wrote(&head) => return Ok(()),
                Ok(_) if refused => return Err(Error::Exists { key: self.key.clone() }),
                // Nobody can tell whose it is.
                Err(unknown) if refused && !unknown.is_absent() => {
                    return Err(self.store.failed(self.operation(), unknown));
                }
                _ => {}
            }
        }
        Err(self.store.failed(self.operation(), fault))
    }

    async fn is_ours(&self) -> bool {
        self.store.head(self.object).await.is_ok_and(|head| self.wrote(&head))
    }

    /// Whether it was this put that wrote the object.
    fn wrote(&self, head: &HeadObjectOutput) -> bool {
        token_of(head) == Some(self.token)
    }

    async fn put_parts(&self, first: Piece, pieces: Pieces) -> Result<Stored, Error> {
        let failed = |fault| self.store.failed(self.operation(), fault);
        // Not what decides, but nobody wants to send gigabytes first.
        if self.mode == PutMode::CreateNew {
            match self.store.head(self.object).await {
                Ok(_) => return Err(Error::Exists { key: self.key.clone() }),
                Err(fault) if fault.is_absent() => {}
                Err(fault) => return Err(failed(fault)),
            }
        }
        let request = self.store.client.create_multipart_upload();
        let request = request.bucket(&self.store.config.bucket).key(self.object);
        let request = request.metadata(TOKEN, self.token);
        let begun = request.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await;
        let begun = begun.map_err(|e| failed(self.store.fault(e)))?;
        let Some(id) = begun.upload_id else {
            return Err(self.store.strange(self.operation(), "the upload was given no id"));
        };
        let upload = UnderWay::new(self.store, self.object, id);
        let (parts, stored) = match self.send_parts(&upload.id, first, pieces).await {
            Ok(sent) => sent,
            Err(e) => {
                upload.abort().await;
                return Err(e);
            }
        };
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.store.client.complete_multipart_upload();
        let request = request.bucket(&self.store.config.bucket).key(self.object);
        let request = request.upload_id(&upload.id).multipart_upload(parts);
        let Err(e) = request.set_if_none_match(self.condition()).send().await else {
            upload.finish();
            return Ok(stored);
        };
        match self.settle(self.store.fault(e)).await {
            Ok(()) => {
                upload.finish();
                Ok(stored)
            }
            // What could not be aborted may have been completed after all, just now.
            Err(e) => match upload.abort().await {
                Ended::NotThere if self.is_ours().await => Ok(stored),
                _ => Err(e),
            },
        }
    }

    /// Sends every part, some at once, and tells what they make.
    async fn send_parts(
        &self,
        id: &str,
        first: Piece,
        pieces: Pieces,
    ) -> Result<(Vec<CompletedPart>, Stored), Error> {
        let (key, object, id) = (self.key.clone(), self.object.to_owned(), id.to_owned());
        let sender = Sender { store: self.store.clone(), key, object, id };
        let mut sent = sender.send_all(first, pieces);
        let (mut parts, mut stored) = (Vec::new(), None);
        while let Some(sent) = sent.try_next().await? {
            match sent {
                Sent::Part(part) => parts.push(*part),
                Sent::End(end) => stored = Some(end),
            }
        }
        parts.sort_unstable_by_key(|part| part.part_number);
        Ok((parts, stored.expect("the last piece is the end")))
    }
}

/// Sends parts of one upload.
struct Sender {
    store: S3Blobs,
    key: BlobKey,
    object: String,
    id: String,
}

impl Sender {
    /// Boxed, because the compiler cannot tell that such a stream is `Send` within another future.
    fn send_all(self, first: Piece, pieces: Pieces) -> BoxStream<'static, Result<Sent, Error>> {
        let rest = stream::try_unfold(Some(pieces), |pieces| async {
            let Some(mut pieces) = pieces else { return Ok(None) };
            let piece = pieces.next().await?;
            let more = matches!(piece, Piece::Part { .. }).then_some(pieces);
            Ok(Some((piece, more)))
        });
        let sender = Arc::new(self);
        let sending = stream::iter([Ok(first)]).chain(rest).map_ok(move |piece| {
            let sender = Arc::clone(&sender);
            async move { sender.send(piece).await }
        });
        sending.try_buffer_unordered(PARTS_AT_ONCE).boxed()
    }

    async fn send(&self, piece: Piece) -> Result<Sent, Error> {
        let (number, bytes, digest) = match piece {
            Piece::Part { number, bytes, digest } => (number, bytes, digest),
            Piece::End(stored) => return Ok(Sent::End(stored)),
        };
        let request = self.store.client.upload_part().bucket(&self.store.config.bucket);
        let request = request.key(&self.object).upload_id(&self.id).part_number(number);
        let request = request.checksum_sha256(checksum(&digest)).body(SdkStream::from(bytes));
        let failed = |fault| self.store.failed(format!("put {}", self.key), fault);
        let sent = request.send().await.map_err(|e| failed(self.store.fault(e)))?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
        // Of a server that knows no checksums nobody may ask for them at the end.
        Ok(Sent::Part(Box::new(part.set_checksum_sha256(sent.checksum_sha256).build())))
    }
}

/// A multipart upload that somebody has to end.
struct UnderWay {
    store: S3Blobs,
    object: String,
    id: String,
    over: bool,
}

impl UnderWay {
    fn new(store: &S3Blobs, object: &str, id: String) -> Self {
        store.uploads_under_way().insert(id.clone());
        Self { store: store.clone(), object: object.to_owned(), id, over: false }
    }

    fn finish(mut self) {
        self.over = true;
    }

    /// Has the server forget the parts. Where that fails a sweep does it.
    async fn abort(mut self) -> Ended {
        let ended = match self.store.abort_multipart(&self.object, &self.id).await {
            Ok(()) => Ended::Aborted,
            Err(fault) if fault.is("NoSuchUpload") => Ended::NotThere,
            Err(fault) => {
                let object = &self.object;
                tracing::warn!(object, %fault, "the parts of a put are left for the next sweep");
                Ended::Unknown
            }
        };
        self.over = true;
        ended
    }
}

/// What an attempt to abort an upload found.
#[derive(PartialEq, Eq)]
enum Ended {
    Aborted,
    /// It was aborted or completed before.
    NotThere,
    Unknown,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.store.uploads_under_way().remove(&self.id);
        if self.over {
            return;
        }
        // The put was dropped. Without a runtime, as at the end of the process, a sweep does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (store, object, id) = (self.store.clone(), self.object.clone(), self.id.clone());
            runtime.spawn(async move { store.abort_multipart(&object, &id).await.ok() });
        }
    }
}

/// A body cut into parts, counted and hashed.
struct Pieces {
    key: BlobKey,
    body: ByteStream,
    /// What came and belongs to the next part.
    rest: Bytes,
    ended: bool,
    number: u64,
    part_bytes: usize,
    meter: Option<Meter>,
    hasher: Sha256,
    store: S3Blobs,
}

impl Pieces {
    fn new(
        store: &S3Blobs,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Self, Error> {
        let limit_bytes = MAX_PARTS * store.part_bytes as u64;
        if options.size_bytes.is_some_and(|size| size > limit_bytes) {
            return Err(Error::TooLarge { key: key.clone(), limit_bytes });
        }
        let meter = Some(Meter::new(key.clone(), options)?);
        Ok(Self {
            key: key.clone(),
            body,
            rest: Bytes::new(),
            ended: false,
            number: 0,
            part_bytes: store.part_bytes,
            meter,
            hasher: Sha256::new(),
            store: store.clone(),
        })
    }

    /// Whether every byte of the body was in the parts that were given.
    fn is_at_end(&self) -> bool {
        self.ended && self.rest.is_empty()
    }

    /// Has something in `rest`, unless the body is at its end.
    async fn pull(&mut self) -> Result<(), Error> {
        while self.rest.is_empty() && !self.ended {
            match self.body.next().await {
                None => self.ended = true,
                Some(Ok(chunk)) => {
                    self.meter.as_mut().expect("the body goes on").count(chunk.len())?;
                    self.rest = chunk;
                }
                Some(Err(source)) => return Err(Error::Body { key: self.key.clone(), source }),
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Piece, Error> {
        let mut part = BytesMut::new();
        // Also looks beyond the last byte of the part: whether it is the only one decides how it is stored.
        loop {
            self.pull().await?;
            if self.is_at_end() || part.len() == self.part_bytes {
                break;
            }
            let piece = self.rest.split_to(self.rest.len().min(self.part_bytes - part.len()));
            part.extend_from_slice(&piece);
        }
        if part.is_empty() {
            let digest = digest_of(std::mem::take(&mut self.hasher));
            return self.meter.take().expect("there is one end").finish(digest).map(Piece::End);
        }
        self.number += 1;
        if self.number > MAX_PARTS {
            let limit_bytes = MAX_PARTS * self.part_bytes as u64;
            return Err(Error::TooLarge { key: self.key.clone(), limit_bytes });
        }
        let number = i32::try_from(self.number).expect("at most 10,000");
        let mut hasher = std::mem::take(&mut self.hasher);
        let bytes = part.freeze();
        let only = self.number == 1 && self.is_at_end();
        let hashed = tokio::task::spawn_blocking(move || {
            hasher.update(&bytes);
            let digest = if only { hasher.clone().finalize() } else { Sha256::digest(&bytes) };
            (hasher, bytes, Sha256Digest::from_bytes(digest.into()))
        });
        let failed = |e: tokio::task::JoinError| {
            Error::io(&self.store, format!("put {}", self.key), e.into())
        };
        let (hasher, bytes, digest) = hashed.await.map_err(failed)?;
        self.hasher = hasher;
        Ok(Piece::Part { number, bytes, digest })
    }
}
