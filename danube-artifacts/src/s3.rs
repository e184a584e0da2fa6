//! Blobs in a bucket of S3, or of a server that speaks its protocol (feature `s3`).

mod config;
mod fault;
mod get;
mod layout;
mod list;
mod policy;
mod put;
mod sessions;
mod setup;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use danube_core::{Clock, ErrorClass, SystemClock};

pub use config::{DEFAULT_PREFIX, S3Config};
use fault::Fault;
pub use policy::{DEFAULT_ROLE, Principal, policy, setup_policy};
pub use setup::{BucketRules, BucketSetup, PlannedRule, RuleAction, RuleKind, SetupPlan};

use crate::{BlobKey, Error, MAX_PART_BYTES, MIN_PART_BYTES};

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
    /// The multipart uploads of puts that are under way here, which no sweep may end.
    under_way: Arc<Mutex<BTreeSet<String>>>,
    /// What goes to the server at once, and the most that is held of it for every put.
    part_bytes: usize,
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
        let (config, clock) = (Arc::new(config), Arc::new(SystemClock));
        Self { config, client, clock, under_way: Arc::default(), part_bytes: put::PART_BYTES }
    }

    /// With parts of this size. A put holds five of them at once, and takes 10,000; S3 itself refuses parts under
    /// 5 MiB, other servers may take smaller ones. 8 MiB unless somebody says otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] outside of [`MIN_PART_BYTES`]..=[`MAX_PART_BYTES`].
    pub fn with_part_bytes(mut self, part_bytes: u64) -> Result<Self, Error> {
        let fits = (MIN_PART_BYTES..=MAX_PART_BYTES).contains(&part_bytes);
        self.part_bytes = usize::try_from(part_bytes).ok().filter(|_| fits).ok_or_else(|| {
            let rule = format!("must be {MIN_PART_BYTES} to {MAX_PART_BYTES} bytes");
            Error::invalid("size of parts", &part_bytes.to_string(), rule)
        })?;
        Ok(self)
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

    /// Whether the bucket is there, may be written to, and belongs to a server that keeps the promises of
    /// [`BlobStore`](crate::BlobStore): one that does not know `If-None-Match: *` would replace what it must not.
    /// To be asked once, before the first blob. It writes and deletes one small object below `.uploads/`.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] when the bucket is not there, not ours, or cannot be reached; [`Error::Unsupported`] for
    /// a server without conditional writes.
    pub async fn check(&self) -> Result<(), Error> {
        let failed = |fault| self.failed("be checked".to_owned(), fault);
        let key = self.upload_object(&self.random_token()?);
        let write = || {
            let request = self.client.put_object().bucket(&self.config.bucket).key(&key);
            request.if_none_match("*").send()
        };
        match write().await.map_err(|e| self.fault(e)) {
            // 412: written before, and the answer was lost.
            Err(fault) if fault.status() != Some(412) => return Err(failed(fault)),
            _ => {}
        }
        let again = write().await.map_err(|e| self.fault(e));
        self.delete_object(&key).await.map_err(failed)?;
        match again {
            Err(fault) if fault.status() == Some(412) => Ok(()),
            Err(fault) if !fault.is_unsupported() => Err(failed(fault)),
            _ => Err(Error::unsupported(
                self,
                "does not know If-None-Match, so it could replace what must stay: update the server",
            )),
        }
    }

    fn fault<E>(&self, error: SdkError<E, HttpResponse>) -> Fault
    where
        E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
    {
        Fault::of(&error, &self.config.bucket)
    }

    fn failed(&self, operation: String, fault: Fault) -> Error {
        let class = fault.class;
        Error::Backend { backend: self.to_string(), operation, class, source: fault.into() }
    }

    /// An answer that no server of S3 gives.
    fn strange(&self, operation: String, what: &'static str) -> Error {
        let (backend, class) = (self.to_string(), ErrorClass::Internal);
        Error::Backend { backend, operation, class, source: what.into() }
    }

    fn object(&self, key: &BlobKey) -> Result<String, Error> {
        layout::object_key(&self.config.prefix, key)
    }

    /// What tells one put from every other.
    fn random_token(&self) -> Result<String, Error> {
        let token = crate::UploadId::random();
        token.map(String::from).map_err(|e| Error::io(self, "make a random name".to_owned(), e))
    }

    fn uploads_under_way(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
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
