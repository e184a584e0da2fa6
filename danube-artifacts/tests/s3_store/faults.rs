//! Every request fails in every way: what was put is there whole or not at all, and nothing stays behind.

use bytes::Bytes;
use danube_artifacts::s3::S3Blobs;
use danube_artifacts::{
    BlobKey, BlobStore, ByteStream, Error, PutMode, PutOptions, UploadSessions, bytes_stream,
};
use danube_core::{ErrorClass, Timestamp};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::proxy::{FAULTS, Fault, Proxy, STUBBORNNESS, Stubbornness};
use crate::{PART_BYTES, client, fresh};

fn key(named: &str) -> BlobKey {
    BlobKey::artifact(&"j".parse().unwrap(), &named.parse().unwrap())
}

fn bytes_of(len: u64, seed: u64) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(at + seed) >> 5) as u8).collect()
}

fn body(bytes: &[u8]) -> ByteStream {
    let chunks = bytes.chunks(50_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
    Box::pin(stream::iter(chunks.collect::<Vec<_>>()))
}

async fn content(store: &S3Blobs, key: &BlobKey) -> Option<Vec<u8>> {
    match store.get(key, None).await {
        Ok(blob) => Some(blob.body.try_collect::<Vec<_>>().await.unwrap().concat()),
        Err(Error::NotFound { .. }) => None,
        Err(e) => panic!("{e:?}"),
    }
}

/// The same bucket through a proxy, with parts so small that there are some.
async fn through_proxy(direct: &S3Blobs) -> (S3Blobs, Proxy) {
    let proxy = Proxy::before(&crate::server().url()).await;
    let store = S3Blobs::with_client(direct.config().clone(), client(&proxy.url()));
    (store.with_part_bytes(PART_BYTES).unwrap(), proxy)
}

/// How many multipart uploads the server knows.
async fn left(store: &S3Blobs) -> usize {
    let request = store.client().list_multipart_uploads().bucket(&store.config().bucket);
    request.send().await.unwrap().uploads().len()
}

/// Puts `new` with every request failing in every way; `old` is there before.
async fn put_under_faults(old: Option<&[u8]>, new: &[u8], requests: usize) {
    let direct = fresh().await;
    let (store, proxy) = through_proxy(&direct).await;
    let mode = if old.is_some() { PutMode::Replace } else { PutMode::CreateNew };
    let key = key("a b/c");
    let mut swept = 0;
    for &fault in FAULTS {
        for &stubbornness in STUBBORNNESS {
            let mut failed_at = Vec::new();
            // One request more than are needed, so that the last round fails nothing.
            for at in 0..=requests {
                let desc = format!("request {at} fails with {fault:?} {stubbornness:?}");
                direct.delete(&key).await.unwrap();
                if let Some(old) = old {
                    direct
                        .put(&key, bytes_stream(old.to_vec()), PutOptions::default())
                        .await
                        .unwrap();
                }
                proxy.fail(at, fault, stubbornness);
                let put = store.put(&key, body(new), PutOptions::default().with_mode(mode)).await;
                let failed = proxy.heal();
                // The server began an upload, and nobody heard of its name.
                let lost = failed.as_ref().is_some_and(|failed| failed.contains("?uploads"));
                failed_at.extend(failed);
                let there = content(&direct, &key).await;
                match &put {
                    Ok(_) => assert!(there.as_deref() == Some(new), "{desc}"),
                    // What nobody could look after may have been stored, whole.
                    Err(_) if stubbornness == Stubbornness::FromThenOn => assert!(
                        there.as_deref() == old || there.as_deref() == Some(new),
                        "{desc}: {put:?}"
                    ),
                    Err(_) => assert!(there.as_deref() == old, "{desc}: {put:?}"),
                }
                if let Err(e) = &put {
                    let typed = matches!(e, Error::Backend { .. });
                    assert!(typed && !format!("{e:?}").contains("danube-secret"), "{desc}: {e:?}");
                    if fault != Fault::WrongEtag {
                        assert_eq!(e.class(), ErrorClass::Unavailable, "{desc}: {e:?}");
                        assert_ne!(stubbornness, Stubbornness::Once, "{desc}: {e:?}");
                    }
                }
                // Nobody but a server that is away keeps a put from clearing up.
                let before = left(&direct).await;
                let away = stubbornness == Stubbornness::FromThenOn;
                assert!(before == 0 || away || lost, "{desc}");
                swept += before;
                direct.sweep(Timestamp::MAX).await.unwrap();
                assert_eq!(left(&direct).await, 0, "{desc}");
            }
            // Only completing has such an answer.
            let late = fault == Fault::ErrorIn200;
            let reached = if late { usize::from(requests > 1) } else { requests };
            assert!(failed_at.len() >= reached, "{fault:?} {stubbornness:?}: {failed_at:?}");
        }
    }
    assert!(requests == 1 || swept > 0, "the sweep was never needed");
}

#[tokio::test]
async fn a_small_put_is_whole_or_not_there_whatever_fails() {
    put_under_faults(None, &bytes_of(3_000, 1), 1).await;
    put_under_faults(Some(b"old"), &bytes_of(3_000, 1), 1).await;
}

#[tokio::test]
async fn a_put_in_parts_is_whole_or_not_there_whatever_fails() {
    // Looking, beginning, four parts, completing.
    put_under_faults(None, &bytes_of(3 * PART_BYTES + 9, 2), 7).await;
}

#[tokio::test]
async fn a_replacement_in_parts_is_whole_or_not_there_whatever_fails() {
    put_under_faults(Some(b"old"), &bytes_of(3 * PART_BYTES + 9, 2), 6).await;
}

#[tokio::test]
async fn an_upload_survives_whatever_fails() {
    let direct = fresh().await;
    let (store, proxy) = through_proxy(&direct).await;
    let (key, bytes) = (key("a"), bytes_of(PART_BYTES + 9, 3));
    let parts: Vec<&[u8]> = bytes.chunks(PART_BYTES as usize).collect();
    for (fault, stubbornness) in [
        (Fault::Internal, Stubbornness::Always),
        (Fault::ErrorIn200, Stubbornness::Always),
        (Fault::CutBefore, Stubbornness::FromThenOn),
        (Fault::CutAfter, Stubbornness::Once),
        (Fault::CutAfter, Stubbornness::FromThenOn),
        (Fault::CutWithin, Stubbornness::Always),
    ] {
        for at in 0.. {
            let desc = format!("request {at} fails with {fault:?} {stubbornness:?}");
            direct.delete(&key).await.unwrap();
            let id = direct.begin(&key, PutOptions::default(), PART_BYTES).await.unwrap();
            proxy.fail(at, fault, stubbornness);
            let sent = async {
                for (number, part) in parts.iter().enumerate() {
                    let part = Bytes::copy_from_slice(part);
                    store.put_part(&id, u32::try_from(number).unwrap(), part).await?;
                }
                store.complete(&id).await
            };
            let sent = sent.await;
            let done = proxy.heal().is_none();
            match &sent {
                Ok(_) => {
                    assert!(content(&direct, &key).await.as_deref() == Some(&bytes), "{desc}")
                }
                Err(e) => {
                    assert_eq!(e.class(), ErrorClass::Unavailable, "{desc}: {e:?}");
                    let there = content(&direct, &key).await;
                    assert!(there.is_none_or(|there| there == bytes), "{desc}");
                }
            }
            // Whoever comes later sends what is missing, and it is there.
            let state = direct.upload(&id).await.unwrap();
            if state.stored.is_none() {
                for (number, part) in parts.iter().enumerate() {
                    let number = u32::try_from(number).unwrap();
                    if state.parts.iter().all(|known| known.number != number) {
                        let part = Bytes::copy_from_slice(part);
                        direct.put_part(&id, number, part).await.unwrap();
                    }
                }
            }
            let stored = direct.complete(&id).await.unwrap();
            assert_eq!(stored.size_bytes, bytes.len() as u64, "{desc}");
            assert!(content(&direct, &key).await.as_deref() == Some(&bytes), "{desc}");
            direct.sweep_uploads(Timestamp::MAX).await.unwrap();
            direct.sweep(Timestamp::MAX).await.unwrap();
            assert_eq!(left(&direct).await, 0, "{desc}");
            if done {
                break;
            }
            assert!(at < 200, "it never comes to its end");
        }
    }
    let request = direct.client().list_objects_v2().bucket(&direct.config().bucket);
    let listed = request.send().await.unwrap();
    assert_eq!(listed.contents().len(), 1, "the blob, and nothing of the uploads");
}

#[tokio::test]
async fn a_reader_whose_connection_breaks_reads_on_or_is_told() {
    let direct = fresh().await;
    let (store, proxy) = through_proxy(&direct).await;
    let (key, bytes) = (key("a"), bytes_of(900_000, 4));
    direct.put(&key, body(&bytes), PutOptions::default()).await.unwrap();
    for &fault in FAULTS.iter().filter(|fault| **fault != Fault::WrongEtag) {
        for &stubbornness in STUBBORNNESS {
            proxy.fail(0, fault, stubbornness);
            let read = match store.get(&key, None).await {
                Ok(blob) => blob.body.try_collect::<Vec<_>>().await.map(|all| all.concat()),
                Err(e) => Err(e.into()),
            };
            proxy.heal();
            match read {
                Ok(read) => assert!(read == bytes, "{fault:?} {stubbornness:?}"),
                Err(e) => assert_ne!(stubbornness, Stubbornness::Once, "{fault:?}: {e:?}"),
            }
        }
    }
    // What was opened is gone when it is asked for again: an error, and never the bytes of another version.
    proxy.fail(0, Fault::CutWithin, Stubbornness::Once);
    let mut opened = store.get(&key, None).await.unwrap().body;
    let mut read = opened.next().await.unwrap().unwrap().to_vec();
    let replace = PutOptions::default().with_mode(PutMode::Replace);
    direct.put(&key, body(&bytes_of(900_000, 5)), replace).await.unwrap();
    let ended = loop {
        match opened.next().await {
            Some(Ok(chunk)) => read.extend_from_slice(&chunk),
            Some(Err(e)) => break e,
            None => panic!("the half of it was all of it"),
        }
    };
    assert!(bytes.starts_with(&read), "a mixture of versions");
    assert!(ended.to_string().contains("412"), "{ended}");
}

#[tokio::test]
async fn a_put_that_is_dropped_is_aborted() {
    let store = fresh().await.with_part_bytes(PART_BYTES).unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let chunks = stream::iter([Ok(Bytes::from(bytes_of(3 * PART_BYTES, 6)))]);
    let silence = stream::once(async move {
        tell.send(()).unwrap();
        std::future::pending().await
    });
    let (key, body): (_, ByteStream) = (key("a"), Box::pin(chunks.chain(silence)));
    tokio::select! {
        done = store.put(&key, body, PutOptions::default()) => panic!("{done:?}"),
        _ = told => {}
    }
    for _ in 0..1_000 {
        if left(&store).await == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(left(&store).await, 0);
    assert_eq!(content(&store, &key).await, None);
}

#[tokio::test]
async fn an_upload_that_was_completed_by_somebody_who_died_stays_what_it_became() {
    let store = fresh().await.with_part_bytes(PART_BYTES).unwrap();
    let (key, bytes) = (key("a"), bytes_of(PART_BYTES, 7));
    let id = store.begin(&key, PutOptions::default(), PART_BYTES).await.unwrap();
    store.put_part(&id, 0, Bytes::from(bytes.clone())).await.unwrap();
    let stored = store.complete(&id).await.unwrap();
    // He put the blob, and never wrote down that he did.
    let (bucket, state) = (&store.config().bucket, format!("artifacts/.uploads/{id}.json"));
    let got = store.client().get_object().bucket(bucket).key(&state).send().await.unwrap();
    let written = got.body.collect().await.unwrap().into_bytes();
    let mut written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert!(written["stored"].take().is_object());
    let put = store.client().put_object().bucket(bucket).key(&state);
    put.body(written.to_string().into_bytes().into()).send().await.unwrap();

    store.put_part(&id, 0, Bytes::from(bytes_of(PART_BYTES, 8))).await.unwrap();
    assert_eq!(store.complete(&id).await.unwrap(), stored);
    assert!(content(&store, &key).await.as_deref() == Some(&bytes));
}

#[tokio::test]
async fn a_bucket_is_checked_before_the_first_blob() {
    let store = fresh().await;
    store.check().await.unwrap();
    let listed = store.client().list_objects_v2().bucket(&store.config().bucket).send().await;
    assert_eq!(listed.unwrap().contents().len(), 0, "the check leaves something behind");
    let config = danube_artifacts::s3::S3Config::new("no-such-bucket");
    let absent = S3Blobs::with_client(config, store.client().clone());
    let refused = absent.check().await.unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("no bucket no-such-bucket: create it"), "{why}");
    // Nothing passes for deleted, or for not there, because the whole bucket is not there.
    for refused in
        [absent.delete(&key("a")).await.map(|_| ()), absent.stat(&key("a")).await.map(|_| ())]
    {
        let refused = refused.unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.contains("no bucket no-such-bucket: create it"), "{why}");
    }
}
