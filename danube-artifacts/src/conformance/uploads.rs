//! The laws of [`UploadSessions`] on a [`BlobStore`].

use std::sync::Arc;

use bytes::Bytes;
use danube_core::{ErrorClass, Timestamp};
use futures_util::StreamExt;

use super::blobs::{bytes_of, key, sha256};
use crate::{
    BlobKey, BlobStore, Error, MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES, PutMode, PutOptions,
    Stored, UploadId, UploadSessions, bytes_stream,
};

const PART: usize = MIN_PART_BYTES as usize;

async fn begin(store: &impl UploadSessions, key: &BlobKey) -> UploadId {
    store.begin(key, PutOptions::default(), MIN_PART_BYTES).await.expect("begin")
}

async fn put(store: &impl UploadSessions, id: &UploadId, number: u32, bytes: &[u8]) {
    let at = number as usize * PART;
    let part = &bytes[at..bytes.len().min(at + PART)];
    let put = store.put_part(id, number, Bytes::copy_from_slice(part)).await.expect("put_part");
    assert_eq!((put.number, put.size_bytes), (number, part.len() as u64));
    assert_eq!(put.digest, sha256(part));
}

async fn content(store: &impl BlobStore, key: &BlobKey) -> Option<Vec<u8>> {
    match store.get(key, None).await {
        Ok(mut blob) => {
            let mut all = Vec::new();
            while let Some(chunk) = blob.body.next().await {
                all.extend_from_slice(&chunk.expect("the body does not fail"));
            }
            Some(all)
        }
        Err(Error::NotFound { .. }) => None,
        Err(e) => panic!("get {key}: {e:?}"),
    }
}

/// In any order, several at once, one of them twice: the blob is the parts in their order, visible when
/// it is complete and not before.
pub async fn parts_in_any_order_become_one_blob(store: impl BlobStore + UploadSessions) {
    let store = Arc::new(store);
    for len in [1, PART - 1, PART, PART + 1, 40 * PART + 7] {
        let (key, bytes) = (key("j", &format!("of {len}")), bytes_of(len, len as u64));
        let id = begin(&store, &key).await;
        let parts = u32::try_from(len.div_ceil(PART)).expect("a few");
        put(&store, &id, parts - 1, &bytes).await;
        let sending = (0..parts).rev().map(|number| {
            let (store, id, bytes) = (Arc::clone(&store), id.clone(), bytes.clone());
            tokio::spawn(async move { put(&store, &id, number, &bytes).await })
        });
        for sent in sending.collect::<Vec<_>>() {
            sent.await.expect("no panic");
        }
        assert_eq!(content(&*store, &key).await, None, "before it is complete");
        assert!(store.list(key.job()).await.expect("list").iter().all(|listed| *listed != key));
        let state = store.upload(&id).await.expect("upload");
        assert_eq!((state.key, state.part_bytes, state.stored), (key.clone(), PART as u64, None));
        assert_eq!(state.parts.len(), parts as usize);
        let stored = Stored { size_bytes: len as u64, digest: sha256(&bytes) };
        for _ in 0..3 {
            assert_eq!(store.complete(&id).await.expect("complete"), stored, "again and again");
        }
        assert!(content(&*store, &key).await.as_deref() == Some(&bytes));
        assert_eq!(store.upload(&id).await.expect("upload").stored, Some(stored));
        let late = store.put_part(&id, 0, Bytes::from_static(b"late")).await;
        assert!(matches!(late, Err(Error::Part { number: 0, .. })), "{late:?}");
        assert!(content(&*store, &key).await.as_deref() == Some(&bytes), "what is complete stays");
    }
}

/// A part sent again replaces the one that was there.
pub async fn a_part_that_is_sent_again_replaces(store: impl BlobStore + UploadSessions) {
    let (key, id) = (key("j", "a"), begin(&store, &key("j", "a")).await);
    let bytes = bytes_of(2 * PART, 3);
    put(&store, &id, 0, &bytes_of(PART, 99)).await;
    put(&store, &id, 1, &bytes).await;
    put(&store, &id, 0, &bytes).await;
    assert_eq!(store.upload(&id).await.expect("upload").parts[0].digest, sha256(&bytes[..PART]));
    store.complete(&id).await.expect("complete");
    assert!(content(&store, &key).await.as_deref() == Some(&bytes));
}

/// A hole, or a short part that is not the last, is named; sent, the upload can be completed.
pub async fn what_is_missing_is_named(store: impl BlobStore + UploadSessions) {
    let (key, id) = (key("j", "a"), begin(&store, &key("j", "a")).await);
    let bytes = bytes_of(3 * PART, 4);
    put(&store, &id, 2, &bytes).await;
    store.put_part(&id, 0, Bytes::from_static(b"short")).await.expect("it may be the last");
    for wanted in [0, 1] {
        match store.complete(&id).await.expect_err("a hole") {
            Error::Part { number, .. } if wanted == 0 => assert!(number <= 1),
            Error::Part { number, .. } => assert_eq!(number, 1),
            other => panic!("{other:?}"),
        }
        put(&store, &id, 0, &bytes).await;
    }
    assert_eq!(content(&store, &key).await, None);
    put(&store, &id, 1, &bytes).await;
    store.complete(&id).await.expect("complete");
    assert!(content(&store, &key).await.as_deref() == Some(&bytes));
    // Nothing at all is an upload, too.
    let empty = super::blobs::key("j", "empty");
    let id = begin(&store, &empty).await;
    assert_eq!(store.complete(&id).await.expect("complete").size_bytes, 0);
    assert_eq!(content(&store, &empty).await.as_deref(), Some(&b""[..]));
}

/// What cannot become right is refused at once, and what was announced is checked at the end.
pub async fn what_was_announced_is_checked(store: impl BlobStore + UploadSessions) {
    let (key, bytes) = (key("j", "a"), bytes_of(PART + 9, 5));
    for part_bytes in [0, MIN_PART_BYTES - 1, MAX_PART_BYTES + 1, u64::MAX] {
        let refused = store.begin(&key, PutOptions::default(), part_bytes).await;
        assert_eq!(refused.expect_err("size of parts").class(), ErrorClass::Invalid);
    }
    let beyond = PutOptions::default().with_size_bytes(11).with_max_bytes(10);
    let refused = store.begin(&key, beyond, MIN_PART_BYTES).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");

    let limited = PutOptions::default().with_max_bytes(PART as u64 + 9);
    let id = store.begin(&key, limited, MIN_PART_BYTES).await.expect("begin");
    for (number, len) in [(0, 0), (0, PART + 1), (MAX_PARTS, 1), (u32::MAX, 1)] {
        let refused = store.put_part(&id, number, vec![0; len].into()).await;
        assert!(matches!(refused, Err(Error::Part { .. })), "{number} {len}: {refused:?}");
    }
    let over = store.put_part(&id, 1, vec![0; 10].into()).await;
    assert!(matches!(over, Err(Error::TooLarge { .. })), "{over:?}");

    let lies = [
        PutOptions::default().with_expected(sha256(b"other")),
        PutOptions::default().with_size_bytes(PART as u64 + 8),
        PutOptions::default().with_size_bytes(PART as u64 + 10),
    ];
    for lie in lies {
        let id = store.begin(&key, lie, MIN_PART_BYTES).await.expect("begin");
        for number in 0..2 {
            put(&store, &id, number, &bytes).await;
        }
        for _ in 0..2 {
            let refused = store.complete(&id).await.expect_err("a lie");
            assert_eq!(refused.class(), ErrorClass::Invalid, "{refused:?}");
        }
        assert_eq!(content(&store, &key).await, None);
        store.abort(&id).await.expect("abort");
    }
    let truth =
        PutOptions::default().with_expected(sha256(&bytes)).with_size_bytes(bytes.len() as u64);
    let id = store.begin(&key, truth, MIN_PART_BYTES).await.expect("begin");
    for number in 0..2 {
        put(&store, &id, number, &bytes).await;
    }
    store.complete(&id).await.expect("the truth");
}

/// [`PutMode`] holds for uploads.
pub async fn modes_hold_for_uploads(store: impl BlobStore + UploadSessions) {
    let (key, bytes) = (key("j", "a"), bytes_of(PART, 6));
    let id = begin(&store, &key).await;
    put(&store, &id, 0, &bytes).await;
    // Somebody is faster.
    store.put(&key, bytes_stream("fast"), PutOptions::default()).await.expect("put");
    let refused = store.complete(&id).await;
    assert!(matches!(refused, Err(Error::Exists { .. })), "{refused:?}");
    assert_eq!(content(&store, &key).await.as_deref(), Some(&b"fast"[..]));
    let early = store.begin(&key, PutOptions::default(), MIN_PART_BYTES).await;
    assert!(matches!(early, Err(Error::Exists { .. })), "{early:?}");
    let replace = PutOptions::default().with_mode(PutMode::Replace);
    let id = store.begin(&key, replace, MIN_PART_BYTES).await.expect("begin");
    put(&store, &id, 0, &bytes).await;
    assert_eq!(content(&store, &key).await.as_deref(), Some(&b"fast"[..]), "until it is complete");
    store.complete(&id).await.expect("complete");
    assert!(content(&store, &key).await.as_deref() == Some(&bytes));
}

/// `abort` is idempotent, leaves nothing, and touches nothing else.
pub async fn an_aborted_upload_is_gone(store: impl BlobStore + UploadSessions) {
    let (keep, gone) = (begin(&store, &key("j", "a")).await, begin(&store, &key("j", "b")).await);
    assert_ne!(keep, gone);
    let bytes = bytes_of(PART, 7);
    put(&store, &keep, 0, &bytes).await;
    put(&store, &gone, 0, &bytes).await;
    let mut both = [keep.clone(), gone.clone()];
    both.sort_unstable();
    assert_eq!(store.uploads().await.expect("uploads"), both);
    for _ in 0..2 {
        store.abort(&gone).await.expect("abort");
        assert_eq!(store.uploads().await.expect("uploads"), std::slice::from_ref(&keep));
        let none = store.put_part(&gone, 0, Bytes::from_static(b"x")).await;
        assert!(matches!(none, Err(Error::NoUpload { .. })), "{none:?}");
        assert_eq!(none.expect_err("gone").class(), ErrorClass::NotFound);
        assert!(matches!(store.upload(&gone).await, Err(Error::NoUpload { .. })));
        assert!(matches!(store.complete(&gone).await, Err(Error::NoUpload { .. })));
    }
    store.complete(&keep).await.expect("complete");
    store.abort(&keep).await.expect("abort of what is complete");
    assert!(content(&store, &key("j", "a")).await.as_deref() == Some(&bytes), "it stays");
}

/// A sweep forgets what is old, complete or not, and no blob.
pub async fn a_sweep_forgets_old_uploads(store: impl BlobStore + UploadSessions) {
    assert_eq!(store.sweep_uploads(Timestamp::MAX).await.expect("an empty store"), 0);
    let (done, left) = (begin(&store, &key("j", "a")).await, begin(&store, &key("j", "b")).await);
    let bytes = bytes_of(PART, 8);
    for id in [&done, &left] {
        put(&store, id, 0, &bytes).await;
    }
    store.complete(&done).await.expect("complete");
    assert_eq!(store.sweep_uploads(Timestamp::UNIX_EPOCH).await.expect("nothing is old"), 0);
    assert_eq!(store.uploads().await.expect("uploads").len(), 2);
    store.sweep(Timestamp::MAX).await.expect("a sweep of blobs leaves uploads alone");
    assert_eq!(store.upload(&left).await.expect("upload").parts.len(), 1);
    let freed = store.sweep_uploads(Timestamp::MAX).await.expect("sweep");
    assert!(freed >= PART as u64, "{freed}");
    assert!(store.uploads().await.expect("uploads").is_empty());
    assert!(content(&store, &key("j", "a")).await.as_deref() == Some(&bytes));
    assert_eq!(content(&store, &key("j", "b")).await, None);
}
