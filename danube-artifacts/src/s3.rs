//! Blobs in a bucket of S3, or of a server that speaks its protocol (feature `s3`).

mod config;
mod policy;
mod setup;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use danube_core::{Clock, SystemClock};

pub use config::{DEFAULT_PREFIX, S3Config};
pub use policy::{DEFAULT_ROLE, Principal, policy, setup_policy};
pub use setup::{BucketRules, BucketSetup, PlannedRule, RuleAction, RuleKind, SetupPlan};

use crate::Error;

/// What a server that is not AWS is told unless somebody says otherwise; most of them ignore it.
const DEFAULT_REGION: &str = "us-east-1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one attempt up to the response's head: 8 MiB at 70 KB/s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(2);
const MAX_ATTEMPTS: u32 = 4;

/// A bucket as [`BlobStore`](crate::BlobStore). Clones share their connections.
#[derive(Clone)]
pub struct S3Blobs {
    config: Arc<S3Config>,
    client: Client,
    clock: Arc<dyn Clock>,
}

impl S3Blobs {
    /// A client with the credentials that are found where every tool of AWS looks: the environment, the profile, the
    /// token of a web identity (a Kubernetes service account), or the machine's metadata service. No bucket is asked
    /// for anything yet.
    ///
    /// It connects within 5 seconds, gives an attempt 2 minutes up to the response's head, and makes at most 4.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a configuration that [`S3Config::validate`] refuses, and where nobody says which
    /// region the bucket is in.
    pub async fn connect(config: S3Config) -> Result<Self, Error> {
        config.validate()?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS));
        if let Some(region) = &config.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let shared = loader.load().await;
        // What we check we send ourselves, and what we read is checked against the artifact's record; other
        // servers refuse, or answer without, the checksums that the client would add.
        let mut client = aws_sdk_s3::config::Builder::from(&shared)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(config.path_style);
        if let Some(endpoint) = &config.endpoint {
            client = client.endpoint_url(endpoint);
        }
        if shared.region().is_none() {
            if config.endpoint.is_none() {
                let rule = "lies in a region that nobody names: set the region, or AWS_REGION";
                return Err(Error::invalid("S3 bucket", &config.bucket, rule));
            }
            client = client.region(Region::new(DEFAULT_REGION));
        }
        Ok(Self::with_client(config, Client::from_conf(client.build())))
    }

    /// With a client that somebody else made, and its timeouts and retries.
    #[must_use]
    pub fn with_client(config: S3Config, client: Client) -> Self {
        Self { config: Arc::new(config), client, clock: Arc::new(SystemClock) }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &S3Config {
        &self.config
    }
}

impl fmt::Display for S3Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.config.bucket, self.config.prefix)
    }
}

impl fmt::Debug for S3Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Blobs").field("config", &self.config).finish_non_exhaustive()
    }
}
