//! The laws of [`BlobStore`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use danube_core::{ArtifactName, BoxError, ByteRange, ErrorClass, JobId, Sha256Digest, Timestamp};
use futures_util::{StreamExt, future, stream};
use sha2::{Digest as _, Sha256};

use super::Numbers;
use crate::{
    Access, Blob, BlobKey, BlobStore, ByteStream, Durability, Error, LinkOptions, PutMode,
    PutOptions, Stored, Tier, bytes_stream,
};

const DAY: Duration = Duration::from_hours(24);
/// Longer names a backend may refuse, if it says so.
const MAX_SURE_NAME_BYTES: usize = 600;

fn job(id: &str) -> JobId {
    id.parse().expect("a valid job id")
}

fn name(name: &str) -> ArtifactName {
    name.parse().expect("a valid artifact name")
}

pub(super) fn key(of_job: &str, named: &str) -> BlobKey {
    BlobKey::artifact(&job(of_job), &name(named))
}

pub(super) fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Bytes that differ from place to place, so that a shift shows.
pub(super) fn bytes_of(len: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&numbers.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

async fn read(blob: Blob) -> Vec<u8> {
    let mut all = Vec::new();
    let mut body = blob.body;
    while let Some(chunk) = body.next().await {
        all.extend_from_slice(&chunk.expect("the body does not fail"));
    }
    assert_eq!(all.len() as u64, blob.range.len(), "the body is as long as its range");
    all
}

async fn put(store: &impl BlobStore, key: &BlobKey, bytes: &[u8]) -> Stored {
    let replace = PutOptions::default().with_mode(PutMode::Replace);
    store.put(key, bytes_stream(bytes.to_vec()), replace).await.expect("put")
}

async fn content(store: &impl BlobStore, key: &BlobKey) -> Option<Vec<u8>> {
    match store.get(key, None).await {
        Ok(blob) => Some(read(blob).await),
        Err(Error::NotFound { .. }) => None,
        Err(e) => panic!("get {key}: {e:?}"),
    }
}

async fn assert_absent(store: &impl BlobStore, key: &BlobKey) {
    assert_eq!(content(store, key).await, None);
    assert!(matches!(store.stat(key).await, Err(Error::NotFound { .. })));
    assert!(!store.list(key.job()).await.expect("list").contains(key));
}

/// Any length, with the size and the SHA-256 of what arrived.
pub async fn what_was_put_is_got_back_with_its_digest(store: impl BlobStore) {
    let chunk = 256 * 1024;
    for len in [0, 1, 32, chunk - 1, chunk, chunk + 1, 3 * chunk + 7] {
        let (key, bytes) = (key("j", &format!("of {len} bytes")), bytes_of(len, len as u64));
        let stored =
            store.put(&key, bytes_stream(bytes.clone()), PutOptions::default()).await.expect("put");
        assert_eq!(stored, Stored { size_bytes: len as u64, digest: sha256(&bytes) });
        let blob = store.get(&key, None).await.expect("get");
        assert_eq!(blob.size_bytes, len as u64);
        assert_eq!(blob.range, ByteRange::new(0, len as u64));
        assert!(read(blob).await == bytes, "{len} bytes came back changed");
    }
    let empty = sha256(b"").to_string();
    assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

/// One write, byte by byte, or with empty chunks between: the same blob.
pub async fn the_cut_of_the_body_does_not_matter(store: impl BlobStore) {
    let bytes = bytes_of(5_000, 5);
    for (at, size) in [1, 7, 4_096, 5_000].into_iter().enumerate() {
        let chunks: Vec<Result<Bytes, BoxError>> = bytes
            .chunks(size)
            .flat_map(|chunk| [Ok(Bytes::new()), Ok(Bytes::copy_from_slice(chunk))])
            .collect();
        let key = key("j", &at.to_string());
        let body: ByteStream = Box::pin(stream::iter(chunks));
        let stored = store.put(&key, body, PutOptions::default()).await.expect("put");
        assert_eq!(stored.digest, sha256(&bytes));
        assert!(content(&store, &key).await.as_deref() == Some(&bytes));
    }
}

/// [`PutMode::CreateNew`] never touches what is there.
pub async fn create_new_refuses_what_exists_and_leaves_it(store: impl BlobStore) {
    let key = key("j", "a");
    put(&store, &key, b"first").await;
    let again = store.put(&key, bytes_stream(&b"second"[..]), PutOptions::default()).await;
    let again = again.expect_err("it exists");
    assert!(matches!(again, Error::Exists { .. }), "{again:?}");
    assert_eq!(again.class(), ErrorClass::Conflict);
    assert_eq!(content(&store, &key).await.as_deref(), Some(&b"first"[..]));
    store.delete(&key).await.expect("delete");
    store
        .put(&key, bytes_stream(&b"third"[..]), PutOptions::default())
        .await
        .expect("a name that is free again");
}

/// [`PutMode::Replace`] replaces longer by shorter and the other way round.
pub async fn replace_swaps_whole(store: impl BlobStore) {
    let key = key("j", "a");
    for bytes in [&b"long, long, long"[..], b"short", b"", b"a little longer"] {
        put(&store, &key, bytes).await;
        assert_eq!(content(&store, &key).await.as_deref(), Some(bytes));
        assert_eq!(store.stat(&key).await.expect("stat").size_bytes, bytes.len() as u64);
    }
    assert_eq!(store.list(&job("j")).await.expect("list"), [key]);
}

/// The announced digest is checked against what arrived.
pub async fn a_digest_that_was_announced_wrongly_leaves_nothing(store: impl BlobStore) {
    let (fresh, taken) = (key("j", "fresh"), key("j", "taken"));
    put(&store, &taken, b"old").await;
    let wrong = PutOptions::default().with_mode(PutMode::Replace).with_expected(sha256(b"other"));
    for key in [&fresh, &taken] {
        let refused =
            store.put(key, bytes_stream(&b"new"[..]), wrong.clone()).await.expect_err("a lie");
        match refused {
            Error::DigestMismatch { expected, actual, .. } => {
                assert_eq!((expected, actual), (sha256(b"other"), sha256(b"new")));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_absent(&store, &fresh).await;
    assert_eq!(content(&store, &taken).await.as_deref(), Some(&b"old"[..]));
    let right = PutOptions::default().with_expected(sha256(b"new"));
    store.put(&fresh, bytes_stream(&b"new"[..]), right).await.expect("the truth");
}

/// The announced size is checked against what arrived, in both directions.
pub async fn a_size_that_was_announced_wrongly_leaves_nothing(store: impl BlobStore) {
    let (fresh, taken) = (key("j", "fresh"), key("j", "taken"));
    put(&store, &taken, b"old").await;
    let bytes = bytes_of(2_500_000, 9);
    for announced in [0, 1, 2_499_999, 2_500_001, 4_000_000] {
        for key in [&fresh, &taken] {
            let options =
                PutOptions::default().with_mode(PutMode::Replace).with_size_bytes(announced);
            let refused = store.put(key, bytes_stream(bytes.clone()), options).await;
            match refused.expect_err("a lie") {
                Error::SizeMismatch { expected, .. } => assert_eq!(expected, announced),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_absent(&store, &fresh).await;
    assert_eq!(content(&store, &taken).await.as_deref(), Some(&b"old"[..]));
    let beyond = PutOptions::default().with_size_bytes(1_001).with_max_bytes(1_000);
    let refused = store.put(&fresh, Box::pin(stream::pending()), beyond).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "before a byte came: {refused:?}");
    let right = PutOptions::default().with_size_bytes(2_500_000);
    store.put(&fresh, bytes_stream(bytes), right).await.expect("the truth");
}

/// Whatever a backend shares between equal blobs, nobody sees it: neither their deletion, nor their
/// replacement, nor a body that begins or ends like another one.
pub async fn equal_bytes_stay_independent(store: impl BlobStore) {
    let long = bytes_of(3_000_000, 21);
    let mut other_end = long.clone();
    other_end[2_999_999] ^= 1;
    let versions: [&[u8]; 6] =
        [&long, &other_end, &long[..2_000_000], &long[..5_000], &long[..100], &long];
    for (at, version) in versions.iter().enumerate() {
        for of_job in ["j", "k"] {
            let key = key(of_job, &at.to_string());
            let options = PutOptions::default().with_expected(sha256(version));
            let options = if of_job == "k" { options } else { PutOptions::default() };
            let chunks: Vec<_> =
                version.chunks(300_001).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            let body: ByteStream = Box::pin(stream::iter(chunks));
            let stored = store.put(&key, body, options).await.expect("put");
            let size_bytes = version.len() as u64;
            assert_eq!(stored, Stored { size_bytes, digest: sha256(version) }, "{key}");
        }
    }
    store.delete(&key("j", "0")).await.expect("delete");
    put(&store, &key("k", "0"), b"something else").await;
    put(&store, &key("k", "5"), &long).await;
    assert_absent(&store, &key("j", "0")).await;
    for (at, version) in versions.iter().enumerate().skip(1) {
        for of_job in ["j", "k"] {
            let key = key(of_job, &at.to_string());
            assert!(content(&store, &key).await.as_deref() == Some(*version), "{key}");
        }
    }
    // The last one out frees the bytes.
    let mut freed = 0;
    for at in 0..versions.len() {
        for of_job in ["j", "k"] {
            freed += store.delete(&key(of_job, &at.to_string())).await.expect("delete");
        }
    }
    assert!(freed >= 3_000_000, "{freed}");
    put(&store, &key("j", "0"), &long).await;
    assert!(content(&store, &key("j", "0")).await.as_deref() == Some(&long));
}

/// A deferred blob is like any other, before and after the sync.
pub async fn what_is_deferred_is_there_and_can_be_synced(store: impl BlobStore) {
    store.sync().await.expect("nothing to sync");
    let deferred = PutOptions::default().with_durability(Durability::Deferred);
    for (at, len) in [0, 100, 5_000, 2_000_000].into_iter().enumerate() {
        let (key, bytes) = (key("j", &format!("d/{at}")), bytes_of(len, at as u64));
        store.put(&key, bytes_stream(bytes.clone()), deferred.clone()).await.expect("put");
        assert!(content(&store, &key).await.as_deref() == Some(&bytes));
        let again = store.put(&key, bytes_stream(""), deferred.clone()).await;
        assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    }
    store.sync().await.expect("sync");
    assert_eq!(store.list(&job("j")).await.expect("list").len(), 4);
}

/// However young `before` is, a blob is no leftover; nor is a put that is under way.
pub async fn a_sweep_touches_no_blob(store: impl BlobStore) {
    let (end_of_time, bytes) = (Timestamp::MAX, bytes_of(2_000_000, 4));
    assert_eq!(store.sweep(end_of_time).await.expect("an empty store"), 0);
    put(&store, &key("j", "a"), &bytes).await;
    put(&store, &key("k", "b"), b"small").await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let first = stream::iter([Ok(Bytes::from(bytes_of(3_000_000, 5)))]);
    let rest = stream::once(async move {
        let _ = tell.send(());
        let _ = gone.await;
        Ok(Bytes::from_static(b"the end"))
    });
    let slow = key("j", "slow");
    let putting = store.put(&slow, Box::pin(first.chain(rest)), PutOptions::default());
    let sweeping = async {
        told.await.expect("the body is asked for its end");
        store.sweep(end_of_time).await.expect("sweep");
        let _ = go.send(());
    };
    let (stored, ()) = futures_util::future::join(putting, sweeping).await;
    assert_eq!(stored.expect("put").size_bytes, 3_000_007);
    assert_eq!(content(&store, &slow).await.expect("it is there").len(), 3_000_007);
    assert!(content(&store, &key("j", "a")).await.as_deref() == Some(&bytes));
    assert_eq!(content(&store, &key("k", "b")).await.as_deref(), Some(&b"small"[..]));
}

/// Exactly the limit is allowed, one byte more is not, and an endless body ends.
pub async fn a_body_over_its_limit_leaves_nothing(store: impl BlobStore) {
    let (exact, over, endless) = (key("j", "exact"), key("j", "over"), key("j", "endless"));
    let limit = PutOptions::default().with_max_bytes(1_000);
    store.put(&exact, bytes_stream(bytes_of(1_000, 1)), limit.clone()).await.expect("the limit");
    let refused = store.put(&over, bytes_stream(bytes_of(1_001, 1)), limit.clone()).await;
    let refused = refused.expect_err("over the limit");
    assert!(matches!(refused, Error::TooLarge { limit_bytes: 1_000, .. }), "{refused:?}");
    assert_eq!(refused.class(), ErrorClass::Exhausted);
    let body: ByteStream = Box::pin(stream::repeat_with(|| Ok(Bytes::from_static(&[0; 64]))));
    assert!(matches!(store.put(&endless, body, limit).await, Err(Error::TooLarge { .. })));
    let nothing = PutOptions::default().with_max_bytes(0);
    store.put(&key("j", "empty"), bytes_stream(""), nothing).await.expect("nothing is allowed");
    assert_absent(&store, &over).await;
    assert_absent(&store, &endless).await;
}

/// An error of the body is the caller's again, with its cause.
pub async fn a_body_that_fails_leaves_nothing(store: impl BlobStore) {
    let (fresh, taken) = (key("j", "fresh"), key("j", "taken"));
    put(&store, &taken, b"old").await;
    for key in [&fresh, &taken] {
        for good_chunks in [0, 1, 3] {
            let chunks = (0..good_chunks)
                .map(|_| Ok(Bytes::from(vec![1; 200_000])))
                .chain([Err("the network is gone".into()), Ok(Bytes::from_static(b"never"))]);
            let replace = PutOptions::default().with_mode(PutMode::Replace);
            let failed =
                store.put(key, Box::pin(stream::iter(chunks.collect::<Vec<_>>())), replace);
            match failed.await {
                Err(Error::Body { source, .. }) => {
                    assert_eq!(source.to_string(), "the network is gone");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_absent(&store, &fresh).await;
    assert_eq!(content(&store, &taken).await.as_deref(), Some(&b"old"[..]));
}

/// Wherever a body fails or is given up, also one that begins like something that is stored: the key
/// holds what it held, and so does every other.
pub async fn a_body_that_fails_anywhere_changes_nothing(store: impl BlobStore) {
    let mut numbers = Numbers::new(23);
    let long = bytes_of(2_500_000, 31);
    put(&store, &key("j", "like it"), &long).await;
    put(&store, &key("j", "taken"), b"old").await;
    for round in 0..24 {
        let named = if round % 2 == 0 { "fresh" } else { "taken" };
        let key = key("j", named);
        let len = numbers.below(long.len());
        let chunk = 1 + numbers.below(400_000);
        let chunks: Vec<Result<Bytes, BoxError>> =
            long[..len].chunks(chunk).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let replace = PutOptions::default().with_mode(PutMode::Replace);
        if round % 3 == 0 {
            let (tell, told) = tokio::sync::oneshot::channel();
            let silence = stream::once(async move {
                let _ = tell.send(());
                future::pending().await
            });
            let body: ByteStream = Box::pin(stream::iter(chunks).chain(silence));
            tokio::select! {
                done = store.put(&key, body, replace) => panic!("it never ended: {done:?}"),
                _ = told => {}
            }
        } else {
            let failure = stream::iter([Err(BoxError::from("cut off"))]);
            let body: ByteStream = Box::pin(stream::iter(chunks).chain(failure));
            let failed = store.put(&key, body, replace).await;
            assert!(matches!(failed, Err(Error::Body { .. })), "{failed:?}");
        }
        assert_absent(&store, &super::blobs::key("j", "fresh")).await;
        let taken = content(&store, &super::blobs::key("j", "taken")).await;
        assert_eq!(taken.as_deref(), Some(&b"old"[..]));
    }
    let like_it = content(&store, &key("j", "like it")).await;
    assert!(like_it.as_deref() == Some(&long));
}

/// Dropping the future is giving up.
pub async fn a_put_dropped_before_its_body_ends_leaves_nothing(store: impl BlobStore) {
    let (fresh, taken) = (key("j", "fresh"), key("j", "taken"));
    put(&store, &taken, b"old").await;
    for key in [&fresh, &taken] {
        let (tell, told) = tokio::sync::oneshot::channel();
        let chunks = stream::iter([Ok(Bytes::from(vec![1; 600_000]))]);
        let silence = stream::once(async move {
            let _ = tell.send(());
            future::pending().await
        });
        let body: ByteStream = Box::pin(chunks.chain(silence));
        let replace = PutOptions::default().with_mode(PutMode::Replace);
        tokio::select! {
            done = store.put(key, body, replace) => panic!("the body never ended: {done:?}"),
            _ = told => {}
        }
    }
    assert_absent(&store, &fresh).await;
    assert_eq!(content(&store, &taken).await.as_deref(), Some(&b"old"[..]));
    put(&store, &fresh, b"after all").await;
}

/// `get` and `stat` say `NotFound`.
pub async fn what_is_not_there_is_told(store: impl BlobStore) {
    assert!(store.list(&job("j")).await.expect("list").is_empty());
    assert!(store.jobs(None, 10).await.expect("jobs").is_empty());
    assert_absent(&store, &key("j", "a")).await;
    put(&store, &key("j", "a/b"), b"x").await;
    for other in [key("j", "a"), key("j", "a/b/c"), key("j", "a/c"), key("J", "a/b"), key("k", "b")]
    {
        let missing = store.get(&other, None).await.expect_err("it is not there");
        assert_eq!(missing.class(), ErrorClass::NotFound, "{missing:?}");
        assert_absent(&store, &other).await;
    }
}

/// Half-open, clamped at the end, refused beyond it.
pub async fn a_range_is_what_lies_in_it(store: impl BlobStore) {
    let len = 600_000_u64;
    let (key, bytes) = (key("j", "a"), bytes_of(len as usize, 3));
    put(&store, &key, &bytes).await;
    let cases = [
        (0, len),
        (0, 1),
        (len - 1, len),
        (262_143, 262_145),
        (100, 500_000),
        (5, u64::MAX),
        (len - 1, len + 5),
        (7, 7),
    ];
    for (start, end) in cases {
        let blob = store.get(&key, Some(ByteRange::new(start, end))).await.expect("get");
        assert_eq!(blob.size_bytes, len);
        assert_eq!(blob.range, ByteRange::new(start, end.min(len)));
        let wanted = &bytes[start as usize..end.min(len) as usize];
        assert!(read(blob).await == wanted, "{start}..{end}");
    }
    for (start, end) in [(len, len + 1), (len + 1, len + 2), (u64::MAX, u64::MAX)] {
        let beyond = store.get(&key, Some(ByteRange::new(start, end))).await.expect_err("beyond");
        assert!(matches!(beyond, Error::OutOfRange { size_bytes, .. } if size_bytes == len));
        assert_eq!(beyond.class(), ErrorClass::Invalid);
    }
    let empty = super::blobs::key("j", "empty");
    put(&store, &empty, b"").await;
    assert!(store.get(&empty, Some(ByteRange::new(0, 1))).await.is_err());
    assert!(read(store.get(&empty, None).await.expect("get")).await.is_empty());
}

/// `stat` needs no reading, and a later blob is not older.
pub async fn a_blob_knows_its_size_and_time(store: impl BlobStore) {
    put(&store, &key("j", "a"), &[0; 1_234]).await;
    let first = store.stat(&key("j", "a")).await.expect("stat");
    assert_eq!(first.size_bytes, 1_234);
    put(&store, &key("j", "b"), b"").await;
    let second = store.stat(&key("j", "b")).await.expect("stat");
    assert!(second.modified_at >= first.modified_at);
    assert_eq!(store.stat(&key("j", "a")).await.expect("stat"), first);
}

/// `list` names what is there, metadata too, and of no other job.
pub async fn a_list_is_one_job_by_key(store: impl BlobStore) {
    let (j, a) = (job("j"), name("dir/a"));
    let mut mine = vec![
        BlobKey::provenance(&j),
        BlobKey::envelope(&j),
        BlobKey::signature(&j, &a),
        BlobKey::artifact(&j, &a),
        key("j", "z"),
        key("j", "dir/b"),
        key("j", "dir.d/a"),
    ];
    for key in &mine {
        put(&store, key, b"x").await;
    }
    put(&store, &key("j2", "a"), b"x").await;
    put(&store, &key("i", "a"), b"x").await;
    mine.sort_unstable();
    assert_eq!(store.list(&j).await.expect("list"), mine);
}

/// `jobs` pages by id; a job whose last blob went is none any more.
pub async fn jobs_page_by_id_and_have_blobs(store: impl BlobStore) {
    let mut ids = ["b", "a", "B", "b-1", "b.1", "10", "9"];
    for id in ids {
        put(&store, &key(id, "dir/file"), b"x").await;
    }
    ids.sort_unstable();
    for limit in [1, 3, 7, 100] {
        let mut seen: Vec<JobId> = Vec::new();
        loop {
            let page = store.jobs(seen.last(), limit).await.expect("jobs");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(seen.iter().map(JobId::as_str).collect::<Vec<_>>(), ids);
    }
    assert!(store.jobs(None, 0).await.expect("jobs").is_empty());
    store.delete(&key("b", "dir/file")).await.expect("delete");
    let left = store.jobs(None, 100).await.expect("jobs");
    assert!(!left.contains(&job("b")) && left.len() == ids.len() - 1);
    put(&store, &BlobKey::provenance(&job("b")), b"x").await;
    assert!(store.jobs(None, 100).await.expect("jobs").contains(&job("b")));
}

/// `delete` tells what it freed, and touches nothing else.
pub async fn deleting_twice_is_as_good_as_once(store: impl BlobStore) {
    let (gone, stays) = (key("j", "dir/gone"), key("j", "dir/stays"));
    put(&store, &gone, &[1; 1_000]).await;
    put(&store, &stays, b"x").await;
    assert_eq!(store.delete(&gone).await.expect("delete"), 1_000);
    for _ in 0..2 {
        assert_eq!(store.delete(&gone).await.expect("delete again"), 0);
        assert_absent(&store, &gone).await;
    }
    for never in [key("j", "dir"), key("j", "dir/stays/x"), key("k", "a"), key("j", "other/x")] {
        assert_eq!(store.delete(&never).await.expect("delete of what never was"), 0);
    }
    assert_eq!(content(&store, &stays).await.as_deref(), Some(&b"x"[..]));
    put(&store, &gone, b"back").await;
    assert_eq!(content(&store, &gone).await.as_deref(), Some(&b"back"[..]));
}

/// What `get` opened is read to its end, whatever happens to the key.
pub async fn a_reader_keeps_the_version_it_opened(store: impl BlobStore) {
    let key = key("j", "a");
    let old = bytes_of(700_000, 1);
    put(&store, &key, &old).await;
    let mut to_be_replaced = store.get(&key, None).await.expect("get");
    let first = to_be_replaced.body.next().await.expect("a chunk").expect("no error");
    put(&store, &key, &bytes_of(700_000, 2)).await;
    let to_be_deleted = store.get(&key, None).await.expect("get");
    store.delete(&key).await.expect("delete");

    let mut seen = first.to_vec();
    while let Some(chunk) = to_be_replaced.body.next().await {
        seen.extend_from_slice(&chunk.expect("no error"));
    }
    assert!(seen == old, "the reader of the first version saw something else");
    assert!(read(to_be_deleted).await == bytes_of(700_000, 2));
}

/// Exactly one of many [`PutMode::CreateNew`] succeeds, and its bytes are what is stored.
pub async fn of_many_creators_one_wins(store: impl BlobStore) {
    let store = Arc::new(store);
    for round in 0..10 {
        let key = key("j", &format!("dir{round}/a"));
        let putting = (0..8_u64).map(|at| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let body = bytes_stream(bytes_of(2_000, at));
                store.put(&key, body, PutOptions::default()).await
            })
        });
        let putting: Vec<_> = putting.collect();
        let mut won = Vec::new();
        for put in putting {
            match put.await.expect("no panic") {
                Ok(stored) => won.push(stored),
                Err(Error::Exists { .. }) => {}
                Err(e) => panic!("{e:?}"),
            }
        }
        assert_eq!(won.len(), 1, "so many creators won");
        let stored = content(&store, &key).await.expect("it is there");
        assert_eq!(sha256(&stored), won[0].digest);
    }
}

/// Replacing, deleting and reading one key at once: a reader sees one version, whole, or none.
pub async fn replacers_never_mix(store: impl BlobStore) {
    let store = Arc::new(store);
    let key = key("j", "dir/a");
    let versions: Vec<Vec<u8>> = (0..4).map(|at| bytes_of(300_000 + at, at as u64)).collect();
    let digests: BTreeSet<Sha256Digest> = versions.iter().map(|v| sha256(v)).collect();
    let writers = versions.into_iter().map(|version| {
        let (store, key) = (Arc::clone(&store), key.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                put(&store, &key, &version).await;
                store.delete(&key).await.expect("delete");
                put(&store, &key, &version).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for _ in 0..60 {
        if let Some(bytes) = content(&store, &key).await {
            assert!(digests.contains(&sha256(&bytes)), "a mixture of {} bytes", bytes.len());
        }
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    let last = content(&store, &key).await.expect("the last put stands");
    assert!(digests.contains(&sha256(&last)));
}

/// Every name that an [`ArtifactName`] can be is one blob of its own; a long one may be refused.
pub async fn names_of_every_kind_are_kept_apart(store: impl BlobStore) {
    let longest = "x".repeat(251);
    let sure = vec!["s"; MAX_SURE_NAME_BYTES / 2].join("/");
    let deep = vec!["d"; 512].join("/");
    let names = [
        "a",
        "A",
        "build#42",
        "a b",
        " ",
        "-rf",
        "--",
        "*",
        "?",
        "[a]",
        "{a}",
        "~",
        "$HOME",
        "%2e%2e",
        "%00",
        "a\\b",
        "a:b",
        "CON",
        "nul.txt",
        "trailing.",
        "trailing ",
        "...",
        "..a",
        "a..",
        ".hidden",
        "x.sig",
        ".danube.",
        "danube",
        "provenance.json",
        "provenance.dsse.json",
        ".tmp",
        ".tmp-1",
        "\u{e9}",
        "e\u{301}",
        "\u{202e}gpj.exe",
        "日本語",
        "🦀",
        "\"quoted\"",
        "it's",
        "<b>",
        "a&b",
        "a;b",
        "|",
        "dir/a",
        "dir/b.sig",
        "dir/deeper/a",
        "tmp/.tmp/x",
        &longest,
        &sure,
        &deep,
    ];
    let mut kept = Vec::new();
    for named in names {
        for key in [key("j", named), BlobKey::signature(&job("j"), &name(named))] {
            let body = bytes_stream(key.path());
            match store.put(&key, body, PutOptions::default()).await {
                Ok(_) => kept.push(key),
                Err(Error::Invalid { .. }) if named.len() > MAX_SURE_NAME_BYTES => {
                    let refused = store.get(&key, None).await;
                    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
                }
                Err(e) => panic!("{key}: {e:?}"),
            }
        }
    }
    for key in &kept {
        assert_eq!(content(&store, key).await, Some(key.path().into_bytes()), "{key}");
    }
    assert_eq!(store.list(&job("j")).await.expect("list").len(), kept.len());
    assert_eq!(store.jobs(None, 10).await.expect("jobs"), [job("j")]);
}

/// An artifact called like a signature or a provenance is not one.
pub async fn metadata_is_kept_apart_from_artifacts(store: impl BlobStore) {
    let j = job("j");
    let keys = [
        key("j", "provenance.json"),
        BlobKey::provenance(&j),
        BlobKey::signature(&j, &name("provenance.json")),
        key("j", "provenance.dsse.json"),
        BlobKey::envelope(&j),
        key("j", "metadata.json"),
        BlobKey::records(&j),
        key("j", "job.log"),
        BlobKey::log(&j),
        key("j", "a"),
        key("j", "a.sig"),
        BlobKey::signature(&j, &name("a")),
        BlobKey::signature(&j, &name("a.sig")),
    ];
    for key in &keys {
        put(&store, key, key.to_string().as_bytes()).await;
    }
    for key in &keys {
        assert_eq!(content(&store, key).await, Some(key.to_string().into_bytes()));
        assert_eq!(BlobKey::from_path(&j, &key.path()).as_ref(), Some(key));
    }
    // Nor does the name of a directory take what Danube adds to another artifact.
    let k = job("k");
    let directories = [
        BlobKey::provenance(&k),
        BlobKey::envelope(&k),
        BlobKey::records(&k),
        BlobKey::log(&k),
        key("k", "metadata.json/a"),
        BlobKey::signature(&k, &name("metadata.json/a")),
        key("k", "job.log/a"),
        BlobKey::signature(&k, &name("job.log/a")),
        key("k", "provenance.json/a"),
        BlobKey::signature(&k, &name("provenance.json/a")),
        key("k", "provenance.dsse.json/a/b"),
        BlobKey::signature(&k, &name("provenance.dsse.json/a/b")),
        key("k", "signatures/a"),
        BlobKey::signature(&k, &name("signatures/a")),
    ];
    for key in &directories {
        put(&store, key, key.to_string().as_bytes()).await;
        assert_eq!(BlobKey::from_path(&k, &key.path()).as_ref(), Some(key));
    }
    for key in &directories {
        assert_eq!(content(&store, key).await, Some(key.to_string().into_bytes()));
    }
    store.delete(&key("j", "a")).await.expect("delete");
    let left = keys.iter().filter(|k| **k != key("j", "a")).cloned().collect::<BTreeSet<_>>();
    let listed = store.list(&j).await.expect("list").into_iter().collect::<BTreeSet<_>>();
    assert_eq!(listed, left);
}

/// Of a backend with tiers: what is cold is not read before it is restored, and comes back unchanged.
pub async fn a_blob_stays_what_it_is_in_every_tier(store: impl BlobStore) {
    let (key, absent, bytes) = (key("j", "a"), key("j", "absent"), bytes_of(70_000, 3));
    put(&store, &key, &bytes).await;
    let fresh = store.stat(&key).await.expect("stat");
    assert_eq!((fresh.tier, fresh.access), (Tier::Hot, Access::Now));
    store.set_tier(&key, Tier::Hot).await.expect("where it is already");
    assert_eq!(store.restore(&key, DAY).await.expect("restore"), Access::Now);
    let missing = store.set_tier(&absent, Tier::Hot).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let missing = store.restore(&absent, DAY).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let for_ever = store.restore(&key, DAY * 1_000).await;
    assert!(matches!(for_ever, Err(Error::Invalid { .. })), "{for_ever:?}");
    if !store.capabilities().tiers {
        return;
    }
    store.set_tier(&key, Tier::Warm).await.expect("warm");
    let stat = store.stat(&key).await.expect("stat");
    assert_eq!((stat.tier, stat.access), (Tier::Warm, Access::Now));
    assert_eq!(stat.size_bytes, bytes.len() as u64);
    assert!(content(&store, &key).await.as_deref() == Some(&bytes));

    store.set_tier(&key, Tier::Cold).await.expect("cold");
    let stat = store.stat(&key).await.expect("stat");
    assert_eq!((stat.tier, stat.access), (Tier::Cold, Access::Archived));
    assert!(store.list(&job("j")).await.expect("list").contains(&key), "it is listed as before");
    let unreadable = store.get(&key, None).await.expect_err("cold");
    assert!(matches!(unreadable, Error::Archived { .. }), "{unreadable:?}");
    assert_eq!(unreadable.class(), ErrorClass::Conflict);
    let stuck = store.set_tier(&key, Tier::Hot).await;
    assert!(matches!(stuck, Err(Error::Archived { .. })), "{stuck:?}");

    let mut access = store.restore(&key, DAY).await.expect("restore");
    for _ in 0..600 {
        if access.is_readable() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        access = store.stat(&key).await.expect("stat").access;
    }
    assert!(matches!(access, Access::Until(_)), "{access:?}");
    assert!(content(&store, &key).await.as_deref() == Some(&bytes));
    store.set_tier(&key, Tier::Hot).await.expect("hot again");
    let stat = store.stat(&key).await.expect("stat");
    assert_eq!((stat.tier, stat.access), (Tier::Hot, Access::Now));
    assert!(content(&store, &key).await.as_deref() == Some(&bytes));
    // A new version begins where every blob does.
    store.set_tier(&key, Tier::Cold).await.expect("cold");
    put(&store, &key, b"new").await;
    assert_eq!(store.stat(&key).await.expect("stat").access, Access::Now);
    store.set_tier(&key, Tier::Cold).await.expect("cold");
    assert_eq!(store.delete(&key).await.expect("delete"), 3, "what is cold can be deleted");
}

/// What a backend cannot do it refuses, and its capabilities say so.
pub async fn a_backend_without_tiers_or_links_says_so(store: impl BlobStore) {
    let key = key("j", "a");
    put(&store, &key, b"1").await;
    match store.set_tier(&key, Tier::Warm).await {
        Ok(()) => assert!(store.capabilities().tiers),
        Err(Error::Unsupported { .. }) => assert!(!store.capabilities().tiers),
        Err(e) => panic!("{e:?}"),
    }
    for options in [LinkOptions::get(), LinkOptions::put()] {
        match store.link(&key, &options).await {
            Ok(link) => {
                assert!(store.capabilities().links);
                assert_eq!(link.method, options.method);
                assert!(link.url.contains("://"), "{}", link.url);
            }
            Err(Error::Unsupported { .. }) => assert!(!store.capabilities().links),
            Err(e) => panic!("{e:?}"),
        }
    }
    let too_long = LinkOptions::get().with_expires_in(DAY * 8);
    let refused = store.link(&key, &too_long).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
}

/// Any sequence of operations gives what a map would.
pub async fn random_operations_agree_with_a_map(store: impl BlobStore) {
    let mut model: BTreeMap<BlobKey, Vec<u8>> = BTreeMap::new();
    let mut numbers = Numbers::new(11);
    for _ in 0..300 {
        let named = ["a", "b/c", "b/d", "b/e/f"][numbers.below(4)];
        let of_job = ["j", "k"][numbers.below(2)];
        let key = match numbers.below(4) {
            0 => BlobKey::signature(&job(of_job), &name(named)),
            1 => BlobKey::provenance(&job(of_job)),
            _ => key(of_job, named),
        };
        let bytes = bytes_of(numbers.below(2_000), numbers.next());
        match numbers.below(5) {
            0 => {
                put(&store, &key, &bytes).await;
                model.insert(key, bytes);
            }
            1 => {
                let done =
                    store.put(&key, bytes_stream(bytes.clone()), PutOptions::default()).await;
                match (done, model.contains_key(&key)) {
                    (Ok(_), false) => drop(model.insert(key, bytes)),
                    (Err(Error::Exists { .. }), true) => {}
                    (done, there) => panic!("{done:?}, and the model says {there}"),
                }
            }
            2 => {
                let freed = store.delete(&key).await.expect("delete");
                assert_eq!(freed, model.remove(&key).map_or(0, |bytes| bytes.len() as u64));
            }
            3 => assert_eq!(content(&store, &key).await.as_ref(), model.get(&key)),
            _ => {
                let listed = store.list(key.job()).await.expect("list");
                let wanted: Vec<_> =
                    model.keys().filter(|k| k.job() == key.job()).cloned().collect();
                assert_eq!(listed, wanted);
            }
        }
    }
}
