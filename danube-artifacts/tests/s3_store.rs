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

const PART_BYTES: u64 = 64 * 1024;

/// One for all tests: it ends with the process.
fn server() -> &'static moto::Moto {
    static SERVER: OnceLock<moto::Moto> = OnceLock::new();
    SERVER.get_or_init(moto::Moto::start)
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

danube_artifacts::blob_store_conformance!(
    moto_blobs,
    (fresh().await.with_part_bytes(PART_BYTES).unwrap(), ())
);
danube_artifacts::upload_conformance!(
    moto_uploads,
    (fresh().await.with_part_bytes(PART_BYTES).unwrap(), ())
);
