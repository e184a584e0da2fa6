//! The laws of the stores on real servers of S3 that are not ours, and what happens when they fail.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "the fixtures belong to several tests")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use danube_artifacts::s3::{S3Blobs, S3Config};
use danube_artifacts::{BlobKey, BlobStore, PutOptions, bytes_stream};
use futures_util::TryStreamExt;

#[path = "s3_store/clients.rs"]
mod clients;
#[path = "s3_store/faults.rs"]
mod faults;
#[path = "support/moto.rs"]
mod moto;
#[path = "s3_store/proxy.rs"]
mod proxy;
#[path = "support/python.rs"]
mod python;
#[path = "support/s3s.rs"]
mod s3s;

const PART_BYTES: u64 = 64 * 1024;

/// One for all tests: it ends with the process.
fn server() -> &'static moto::Moto {
    static SERVER: OnceLock<moto::Moto> = OnceLock::new();
    SERVER.get_or_init(moto::Moto::start)
}

/// Another, that somebody else wrote and that keeps files.
fn s3s_server() -> &'static s3s::S3s {
    static SERVER: OnceLock<s3s::S3s> = OnceLock::new();
    SERVER.get_or_init(s3s::S3s::start)
}

fn client(url: &str) -> Client {
    static CLIENTS: AtomicU32 = AtomicU32::new(0);
    // Clients of one region share a budget of retries unless they are told apart.
    let partition = RetryPartition::new(CLIENTS.fetch_add(1, Ordering::Relaxed).to_string());
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(30));
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .credentials_provider(Credentials::new("danube", "danube-secret", None, None, "test"))
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(5)))
        .retry_partition(partition)
        .timeout_config(timeouts.build());
    Client::from_conf(config.build())
}

/// A store on an empty bucket of the server at `url`.
async fn fresh_at(url: &str) -> S3Blobs {
    static BUCKETS: AtomicU32 = AtomicU32::new(0);
    let bucket = format!("bucket-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
    let client = client(url);
    client.create_bucket().bucket(&bucket).send().await.unwrap();
    S3Blobs::with_client(S3Config::new(bucket).with_endpoint(url), client)
}

async fn fresh() -> S3Blobs {
    fresh_at(&server().url()).await
}

/// A store on a server that lets every third request fail, and the proxy that does it.
async fn faulty() -> (S3Blobs, proxy::Proxy) {
    let proxy = proxy::Proxy::before(&server().url()).await;
    proxy.fail_now_and_then();
    let store = S3Blobs::with_client(fresh().await.config().clone(), client(&proxy.url()));
    (store.with_part_bytes(PART_BYTES).unwrap(), proxy)
}

danube_artifacts::blob_store_conformance!(
    moto_blobs,
    (fresh().await.with_part_bytes(PART_BYTES).unwrap(), ())
);
danube_artifacts::upload_conformance!(
    moto_uploads,
    (fresh().await.with_part_bytes(PART_BYTES).unwrap(), ())
);

// A server that fails now and then changes no law: what is asked again is asked again.
danube_artifacts::blob_store_conformance!(faulty_blobs, faulty().await);
danube_artifacts::upload_conformance!(faulty_uploads, faulty().await);

#[tokio::test]
async fn the_faulty_server_fails_now_and_then() {
    let (store, proxy) = faulty().await;
    for _ in 0..3 {
        assert!(store.jobs(None, 10).await.unwrap().is_empty());
    }
    assert!(proxy.heal().is_some());
}

// What s3s-fs 0.14.1 cannot keep, with what it answers or does instead. An exception that is no longer needed fails.
danube_artifacts::blob_store_conformance!(
    s3s_blobs,
    (fresh_at(&s3s_server().url()).await, ()),
    except [
        // 501 NotImplemented to ListMultipartUploads: nobody can find uploads that were left behind.
        a_sweep_touches_no_blob: "ListMultipartUploads is not implemented yet",
        // `If-None-Match: *` is looked at before the body comes, and not again when the object is put in its place.
        of_many_creators_one_wins: "so many creators won",
        // CopyObject takes `x-amz-storage-class` and forgets it; HeadObject never tells one.
        a_blob_stays_what_it_is_in_every_tier: "left: (Hot, Now)",
        // Objects are files: a key that is the directory of another is 500 InternalError to GetObject and not 404…
        what_is_not_there_is_told: "status: Some(500)",
        // … and 500 to DeleteObject, which is not 204.
        deleting_twice_is_as_good_as_once: "operation: \"delete j/dir\"",
        // The file of an object's metadata is named by its whole key in base64; beyond 255 bytes PutObject stores the
        // object, answers 500, and 412 to the next attempt.
        names_of_every_kind_are_kept_apart: "Exists",
    ]
);
danube_artifacts::upload_conformance!(
    s3s_uploads,
    (fresh_at(&s3s_server().url()).await, ()),
    except [
        // As above.
        a_sweep_forgets_old_uploads: "ListMultipartUploads is not implemented yet",
    ]
);

/// s3s-fs keeps S3's own bounds: no part but the last may be smaller than 5 MiB.
#[tokio::test]
async fn s3s_fs_takes_blobs_in_parts() {
    let store = fresh_at(&s3s_server().url()).await.with_part_bytes(5 * 1024 * 1024).unwrap();
    let key = BlobKey::log(&"j".parse().unwrap());
    let bytes: Vec<u8> = (0..11_000_000_u32).map(|at| (at.wrapping_mul(at) >> 9) as u8).collect();
    let stored = store.put(&key, bytes_stream(bytes.clone()), PutOptions::default()).await.unwrap();
    assert_eq!(stored.size_bytes, bytes.len() as u64);
    let blob = store.get(&key, None).await.unwrap();
    let read = blob.body.try_collect::<Vec<_>>().await.unwrap().concat();
    assert!(read == bytes, "it reads something else");
    let taken = store.put(&key, bytes_stream(bytes), PutOptions::default()).await;
    assert!(matches!(taken, Err(danube_artifacts::Error::Exists { .. })), "{taken:?}");
}
