//! [`BlobStore`] on a bucket.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::types::{GlacierJobParameters, MetadataDirective, RestoreRequest};
use danube_core::{ByteRange, JobId, Timestamp};

use super::S3Blobs;
use super::get::{STORED_AT, class_of, header};
use super::put::checksum;
use crate::tier::restore_days;
use crate::{
    Access, Blob, BlobCapabilities, BlobKey, BlobStat, BlobStore, ByteStream, Error, Link,
    LinkMethod, LinkOptions, PutOptions, Stored, Tier,
};

/// What S3 copies in one request: 5 GiB.
const MAX_COPY_BYTES: u64 = 5 * 1024 * 1024 * 1024;

#[async_trait]
impl BlobStore for S3Blobs {
    fn capabilities(&self) -> BlobCapabilities {
        BlobCapabilities::default().with_tiers().with_links()
    }

    async fn put(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        self.store(key, body, options, &self.random_token()?).await
    }

    async fn get(&self, key: &BlobKey, range: Option<ByteRange>) -> Result<Blob, Error> {
        self.open(key, range).await
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error> {
        let (_, head) = self.head_of(key, "look at").await?;
        self.stat_of(key, &head)
    }

    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, Error> {
        self.list_job(job).await
    }

    async fn jobs(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error> {
        self.jobs_after(after, limit).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<u64, Error> {
        let (object, head) = match self.head_of(key, "delete").await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(0),
            Err(e) => return Err(e),
        };
        let size_bytes = self.stat_of(key, &head)?.size_bytes;
        let deleted = self.delete_object(&object).await;
        deleted.map_err(|fault| self.failed(format!("delete {key}"), fault))?;
        Ok(size_bytes)
    }

    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), Error> {
        let (object, head) = self.head_of(key, "move").await?;
        let stat = self.stat_of(key, &head)?;
        if stat.tier == tier {
            return Ok(());
        }
        if !stat.access.is_readable() {
            return Err(Error::Archived { key: key.clone() });
        }
        if stat.size_bytes > MAX_COPY_BYTES {
            return Err(Error::unsupported(self, "moves nothing that is longer than 5 GiB"));
        }
        self.copy_onto_itself(key, &object, head, tier, stat.modified_at).await
    }

    async fn restore(&self, key: &BlobKey, keep_for: Duration) -> Result<Access, Error> {
        let days = restore_days(keep_for)?;
        let (object, head) = self.head_of(key, "restore").await?;
        let access = self.stat_of(key, &head)?.access;
        let end = self.clock.now().checked_add(Duration::from_hours(24 * u64::from(days))).ok();
        match access {
            Access::Now | Access::Restoring => return Ok(access),
            // Asking again counts the days from now on, and so could shorten them.
            Access::Until(until) if end.is_some_and(|end| until >= end) => return Ok(access),
            Access::Until(_) | Access::Archived => {}
        }
        let days = i32::try_from(days).expect("at most 366");
        let quick = GlacierJobParameters::builder().tier(aws_sdk_s3::types::Tier::Standard).build();
        let failed = |fault| self.failed(format!("restore {key}"), fault);
        let quick = quick
            .map_err(|e| Error::io(self, format!("restore {key}"), std::io::Error::other(e)))?;
        let wanted = RestoreRequest::builder().days(days).glacier_job_parameters(quick).build();
        let request = self.client.restore_object().bucket(&self.config.bucket).key(&object);
        match request.restore_request(wanted).send().await.map_err(|e| self.fault(e)) {
            Ok(_) => {}
            Err(fault) if fault.is("RestoreAlreadyInProgress") => return Ok(Access::Restoring),
            Err(fault) => return Err(failed(fault)),
        }
        match self.stat(key).await?.access {
            // It was accepted, and the head does not say so yet.
            Access::Archived => Ok(Access::Restoring),
            access => Ok(access),
        }
    }

    async fn link(&self, key: &BlobKey, options: &LinkOptions) -> Result<Link, Error> {
        options.validate()?;
        let object = self.object(key)?;
        let life = Duration::from_secs(options.expires_in.as_secs());
        let failed = |e: &(dyn std::error::Error + Send + Sync)| {
            let source = std::io::Error::other(e.to_string());
            Error::io(self, format!("make a link to {key}"), source)
        };
        let signing = PresigningConfig::expires_in(life).map_err(|e| failed(&e))?;
        let expires_at = self.clock.now().checked_add(life).unwrap_or(Timestamp::MAX);
        let bucket = &self.config.bucket;
        let signed: PresignedRequest = match options.method {
            LinkMethod::Get => {
                let request = self.client.get_object().bucket(bucket).key(object);
                let request = request.set_range(options.range.map(header)).presigned(signing);
                request
                    .await
                    .map_err(|e| self.failed(format!("make a link to {key}"), self.fault(e)))?
            }
            LinkMethod::Put => {
                let request =
                    self.client.put_object().bucket(bucket).key(object).if_none_match("*");
                let size = options.size_bytes.map(i64::try_from).transpose();
                let limit_bytes = i64::MAX.unsigned_abs();
                let size = size.map_err(|_| Error::TooLarge { key: key.clone(), limit_bytes })?;
                let request = request.set_content_length(size);
                let digest = options.expected.as_ref().map(checksum);
                let request = request.set_checksum_sha256(digest).presigned(signing);
                request
                    .await
                    .map_err(|e| self.failed(format!("make a link to {key}"), self.fault(e)))?
            }
        };
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let headers = signed.headers().map(own).collect();
        let (method, url) = (options.method, signed.uri().to_owned());
        Ok(Link { method, url, headers, expires_at })
    }

    async fn sync(&self) -> Result<(), Error> {
        // What S3 has answered is durable.
        Ok(())
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, Error> {
        self.sweep_multipart(before).await
    }
}

impl S3Blobs {
    /// S3 has no other way to move an object to another class.
    async fn copy_onto_itself(
        &self,
        key: &BlobKey,
        object: &str,
        head: HeadObjectOutput,
        tier: Tier,
        stored_at: Timestamp,
    ) -> Result<(), Error> {
        let mut known: HashMap<String, String> = head.metadata.unwrap_or_default();
        known.insert(STORED_AT.to_owned(), stored_at.to_string());
        let bucket = &self.config.bucket;
        let request = self.client.copy_object().bucket(bucket).key(object);
        let request = request.copy_source(format!("{bucket}/{}", percent_encoded(object)));
        // Somebody may have replaced it meanwhile: neither is the new version moved, nor the old one brought back.
        let request = request.set_copy_source_if_match(head.e_tag.clone()).set_if_match(head.e_tag);
        let request = request.metadata_directive(MetadataDirective::Replace);
        let request = request
            .set_metadata(Some(known))
            .set_content_type(head.content_type)
            .set_content_encoding(head.content_encoding)
            .set_content_disposition(head.content_disposition)
            .set_content_language(head.content_language)
            .set_cache_control(head.cache_control);
        match request.storage_class(class_of(tier)).send().await.map_err(|e| self.fault(e)) {
            Ok(_) => Ok(()),
            Err(fault) if fault.is("InvalidObjectState") => {
                Err(Error::Archived { key: key.clone() })
            }
            Err(fault) => Err(self.absent_or(key, "move", fault)),
        }
    }
}

/// As `x-amz-copy-source` wants a key: everything but RFC 3986's unreserved characters and `/`.
fn percent_encoded(key: &str) -> String {
    let mut encoded = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
