//! Reading: one request, and another one where the connection breaks in the middle.

use std::io;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream as SdkStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::StorageClass;
use danube_core::{BoxError, ByteRange, Timestamp};
use futures_util::stream;

use super::S3Blobs;
use super::fault::Fault;
use crate::intake::clamp;
use crate::{Access, Blob, BlobKey, BlobStat, ByteStream, Error, Tier};

/// How often one reader may go on after a broken connection.
const MAX_RESUMES: u32 = 3;
/// When a blob was stored that was copied onto itself since, to have it in another tier.
pub(super) const STORED_AT: &str = "danube-stored-at";

impl S3Blobs {
    pub(super) async fn head(&self, object: &str) -> Result<HeadObjectOutput, Fault> {
        let request = self.client.head_object().bucket(&self.config.bucket).key(object);
        request.send().await.map_err(|e| self.fault(e))
    }

    /// The head of a blob that must be there.
    pub(super) async fn head_of(
        &self,
        key: &BlobKey,
        verb: &str,
    ) -> Result<(String, HeadObjectOutput), Error> {
        let object = self.object(key)?;
        let fault = match self.head(&object).await {
            Ok(head) => return Ok((object, head)),
            Err(fault) => fault,
        };
        if fault.is_absent() {
            // The answer to a HEAD has no words: it is the same where the whole bucket is not there, and then nothing
            // may pass for deleted.
            let listed = self.page(&object, None, None, None, 1).await;
            listed.map_err(|fault| self.failed(format!("{verb} {key}"), fault))?;
        }
        Err(self.absent_or(key, verb, fault))
    }

    pub(super) fn absent_or(&self, key: &BlobKey, verb: &str, fault: Fault) -> Error {
        if fault.is_absent() {
            return Error::NotFound { key: key.clone() };
        }
        self.failed(format!("{verb} {key}"), fault)
    }

    pub(super) async fn open(
        &self,
        key: &BlobKey,
        range: Option<ByteRange>,
    ) -> Result<Blob, Error> {
        // HTTP has no empty ranges.
        if range.is_some_and(|range| range.is_empty()) {
            let (_, head) = self.head_of(key, "get").await?;
            let stat = self.stat_of(key, &head)?;
            let range = clamp(key, range, stat.size_bytes)?;
            return Ok(Blob { size_bytes: stat.size_bytes, range, body: crate::bytes_stream("") });
        }
        let object = self.object(key)?;
        let request = self.client.get_object().bucket(&self.config.bucket).key(&object);
        let got = match request.set_range(range.map(header)).send().await {
            Ok(got) => got,
            Err(e) => return Err(self.unreadable(key, range, self.fault(e)).await),
        };
        let strange = |what| self.strange(format!("get {key}"), what);
        let (size_bytes, given) =
            extent(&got).ok_or_else(|| strange("the answer tells no length"))?;
        let wanted = clamp(key, range, size_bytes)?;
        if given != wanted {
            return Err(strange("another range came than was asked for"));
        }
        let reading = Reading {
            store: self.clone(),
            key: key.clone(),
            object,
            etag: got.e_tag,
            body: got.body,
            left: given,
            resumes: 0,
        };
        Ok(Blob { size_bytes, range: given, body: reading.into_stream() })
    }

    async fn unreadable(&self, key: &BlobKey, range: Option<ByteRange>, fault: Fault) -> Error {
        if fault.is("InvalidObjectState") {
            return Error::Archived { key: key.clone() };
        }
        let beyond = fault.status() == Some(416) || fault.is("InvalidRange");
        if let (true, Some(range)) = (beyond, range) {
            return match self.head_of(key, "get").await {
                Ok((_, head)) => {
                    let size_bytes = length(head.content_length);
                    Error::OutOfRange { key: key.clone(), start: range.start, size_bytes }
                }
                Err(e) => e,
            };
        }
        self.absent_or(key, "get", fault)
    }

    pub(super) fn stat_of(
        &self,
        key: &BlobKey,
        head: &HeadObjectOutput,
    ) -> Result<BlobStat, Error> {
        let stored_at = head.metadata().and_then(|known| known.get(STORED_AT)?.parse().ok());
        let modified_at = stored_at.or_else(|| timestamp(head.last_modified.as_ref()?));
        let Some(modified_at) = modified_at else {
            return Err(self.strange(format!("look at {key}"), "the answer tells no time"));
        };
        let tier = tier_of(head.storage_class.as_ref());
        let access = access_of(tier, head.archive_status.is_some(), head.restore.as_deref());
        Ok(BlobStat { size_bytes: length(head.content_length), modified_at, tier, access })
    }
}

/// Absent in answers of some servers to what is empty.
fn length(told: Option<i64>) -> u64 {
    told.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

pub(super) fn timestamp(at: &DateTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

/// RFC 9110, section 14.1.2. Both ends are included there.
pub(super) fn header(range: ByteRange) -> String {
    match range.end {
        u64::MAX => format!("bytes={}-", range.start),
        end => format!("bytes={}-{}", range.start, end - 1),
    }
}

/// The size of the whole, and which part of it came.
fn extent(got: &GetObjectOutput) -> Option<(u64, ByteRange)> {
    let Some(range) = got.content_range() else {
        let size_bytes = u64::try_from(got.content_length?).ok()?;
        return Some((size_bytes, ByteRange::new(0, size_bytes)));
    };
    // RFC 9110, section 14.4: `bytes 0-9/100`.
    let (range, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    Some((whole.parse().ok()?, ByteRange::new(first, last.checked_add(1)?)))
}

fn tier_of(class: Option<&StorageClass>) -> Tier {
    match class.map(StorageClass::as_str) {
        Some("STANDARD_IA" | "ONEZONE_IA" | "GLACIER_IR") => Tier::Warm,
        Some("GLACIER" | "DEEP_ARCHIVE") => Tier::Cold,
        // S3 names none for STANDARD.
        _ => Tier::Hot,
    }
}

pub(super) fn class_of(tier: Tier) -> StorageClass {
    match tier {
        Tier::Hot => StorageClass::Standard,
        Tier::Warm => StorageClass::StandardIa,
        Tier::Cold => StorageClass::Glacier,
    }
}

/// From `x-amz-restore`: `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
fn access_of(tier: Tier, archived: bool, restore: Option<&str>) -> Access {
    if tier != Tier::Cold && !archived {
        return Access::Now;
    }
    let Some(restore) = restore else { return Access::Archived };
    if restore.contains("ongoing-request=\"true\"") {
        return Access::Restoring;
    }
    let until = restore.split_once("expiry-date=\"").and_then(|(_, rest)| rest.split_once('"'));
    let until = until
        .and_then(|(date, _)| timestamp(&DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?));
    until.map_or(Access::Archived, Access::Until)
}

/// An object on its way.
struct Reading {
    store: S3Blobs,
    key: BlobKey,
    object: String,
    etag: Option<String>,
    body: SdkStream,
    /// What is still to come.
    left: ByteRange,
    resumes: u32,
}

impl Reading {
    fn into_stream(self) -> ByteStream {
        Box::pin(stream::try_unfold(self, |mut reading| async {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        }))
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, BoxError> {
        while !self.left.is_empty() {
            let broken: BoxError = match self.body.next().await {
                Some(Ok(chunk)) if chunk.len() as u64 <= self.left.len() => {
                    self.left.start += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Some(Ok(_)) => return Err("more bytes came than were asked for".into()),
                Some(Err(e)) => e.into(),
                None => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            };
            self.resume(broken).await?;
        }
        Ok(None)
    }

    /// Asks for the rest of the same version.
    async fn resume(&mut self, broken: BoxError) -> Result<(), BoxError> {
        let Some(etag) = self.etag.as_ref().filter(|_| self.resumes < MAX_RESUMES) else {
            return Err(broken);
        };
        self.resumes += 1;
        tracing::debug!(key = %self.key, at = self.left.start, %broken, "reading goes on");
        let request = self.store.client.get_object().bucket(&self.store.config.bucket);
        let request = request.key(&self.object).if_match(etag).range(header(self.left));
        // Gone or replaced: what was opened cannot be read to its end.
        let got = request.send().await.map_err(|e| self.store.fault(e))?;
        if extent(&got).is_none_or(|(_, given)| given != self.left) {
            return Err(broken);
        }
        self.body = got.body;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_copy_can_be_read_until_it_expires() {
        let until = "2012-12-21T00:00:00Z".parse().unwrap();
        for (tier, restore, wanted) in [
            (Tier::Hot, None, Access::Now),
            (Tier::Warm, None, Access::Now),
            (Tier::Cold, None, Access::Archived),
            (Tier::Cold, Some("ongoing-request=\"true\""), Access::Restoring),
            (
                Tier::Cold,
                Some("ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\""),
                Access::Until(until),
            ),
            (Tier::Cold, Some("ongoing-request=\"false\", expiry-date=\"soon\""), Access::Archived),
        ] {
            assert_eq!(access_of(tier, false, restore), wanted, "{restore:?}");
        }
        // Intelligent-Tiering has archives of its own.
        assert_eq!(access_of(Tier::Hot, true, None), Access::Archived);
    }

    #[test]
    fn every_class_of_storage_has_a_tier() {
        for tier in Tier::ALL {
            assert_eq!(tier_of(Some(&class_of(*tier))), *tier);
        }
        let tier = |name: &str| tier_of(Some(&StorageClass::from(name)));
        assert_eq!(tier_of(None), Tier::Hot);
        assert_eq!(
            ["DEEP_ARCHIVE", "GLACIER_IR", "NEW"].map(tier),
            [Tier::Cold, Tier::Warm, Tier::Hot]
        );
    }
}
