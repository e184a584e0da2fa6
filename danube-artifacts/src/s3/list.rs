//! What is in the bucket: keys, jobs, and multipart uploads that nobody ended.

use std::collections::BTreeSet;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{MultipartUpload, Object};
use danube_core::{JobId, Timestamp};

use super::S3Blobs;
use super::fault::Fault;
use super::get::timestamp;
use super::layout::{blob_key, job_prefix};
use crate::{BlobKey, Error};

/// What S3 gives at once.
const PAGE: usize = 1000;

impl S3Blobs {
    /// A page of what begins with `prefix`, `token` telling where the page before ended.
    pub(super) async fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        start_after: Option<&str>,
        token: Option<String>,
        limit: usize,
    ) -> Result<ListObjectsV2Output, Fault> {
        let request = self.client.list_objects_v2().bucket(&self.config.bucket).prefix(prefix);
        let request = request.set_delimiter(delimiter.map(str::to_owned));
        let request = request.set_start_after(start_after.map(str::to_owned));
        let limit = i32::try_from(limit.clamp(1, PAGE)).expect("at most 1,000");
        let request = request.set_continuation_token(token).max_keys(limit);
        request.send().await.map_err(|e| self.fault(e))
    }

    /// Every object that begins with `prefix`.
    pub(super) async fn objects(&self, prefix: &str) -> Result<Vec<Object>, Fault> {
        let (mut objects, mut token) = (Vec::new(), None);
        loop {
            let page = self.page(prefix, None, None, token.take(), PAGE).await?;
            objects.extend(page.contents.unwrap_or_default());
            token = page.next_continuation_token.filter(|_| page.is_truncated == Some(true));
            if token.is_none() {
                return Ok(objects);
            }
        }
    }

    pub(super) async fn list_job(&self, job: &JobId) -> Result<Vec<BlobKey>, Error> {
        let prefix = job_prefix(&self.config.prefix, job);
        let listed = self.objects(&prefix).await;
        let listed = listed.map_err(|fault| self.failed(format!("list job {job}"), fault))?;
        let below = listed.iter().filter_map(|object| object.key()?.strip_prefix(&*prefix));
        let mut keys: Vec<BlobKey> = below.filter_map(|below| blob_key(job, below)).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// S3 lists `b-1/` before `b/`, because `-` and `.` come before `/`, and `b` comes before `b-1`. So a page of
    /// it may lack ids that belong before its last one; they are its beginnings, and are asked for one by one.
    pub(super) async fn jobs_after(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>, Error> {
        let failed = |fault| self.failed("list the jobs".to_owned(), fault);
        let prefix = &self.config.prefix;
        let start = after.map(|after| format!("{prefix}{after}"));
        let is_after = |job: &JobId| after.is_none_or(|after| job > after);
        let (mut jobs, mut last, mut token) = (BTreeSet::new(), None, None);
        while jobs.len() < limit {
            // Two more: what `after` itself begins, and the uploads.
            let want = limit.saturating_add(2);
            let page = self.page(prefix, Some("/"), start.as_deref(), token.take(), want).await;
            let page = page.map_err(failed)?;
            for found in page.common_prefixes() {
                let id =
                    found.prefix().and_then(|id| id.strip_prefix(&**prefix)?.strip_suffix('/'));
                // Job ids begin with a letter or digit: what Danube keeps for itself is none.
                let Some(job) = id.and_then(|id| id.parse::<JobId>().ok()) else { continue };
                last = Some(job.clone());
                if is_after(&job) {
                    jobs.insert(job);
                }
            }
            token = page.next_continuation_token.filter(|_| page.is_truncated == Some(true));
            if token.is_none() {
                last = None;
                break;
            }
        }
        for unseen in last.iter().flat_map(beginnings) {
            if is_after(&unseen) && !jobs.contains(&unseen) {
                let page = self.page(&job_prefix(prefix, &unseen), None, None, None, 1).await;
                if !page.map_err(failed)?.contents().is_empty() {
                    jobs.insert(unseen);
                }
            }
        }
        Ok(jobs.into_iter().take(limit).collect())
    }

    /// Ends the multipart uploads of puts that died before `before`, and tells how many bytes that freed.
    pub(super) async fn sweep_multipart(&self, before: Timestamp) -> Result<u64, Error> {
        let failed = |fault| self.failed("sweep".to_owned(), fault);
        let mut freed = 0;
        for upload in self.multipart_uploads().await.map_err(failed)? {
            let (Some(object), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
            let begun_at = upload.initiated().and_then(timestamp);
            let is_old = begun_at.is_some_and(|begun_at| begun_at < before);
            if !is_old || self.uploads_under_way().contains(id) {
                continue;
            }
            // Somebody's put may take long: as long as parts come it is under way.
            let parts = match self.multipart_parts(object, id).await {
                Ok(parts) => parts,
                Err(fault) if fault.is("NoSuchUpload") => continue,
                Err(fault) => return Err(failed(fault)),
            };
            if parts.newest.is_some_and(|newest| newest >= before) {
                continue;
            }
            match self.abort_multipart(object, id).await {
                Ok(()) => freed += parts.bytes,
                Err(fault) if fault.is("NoSuchUpload") => {}
                Err(fault) => return Err(failed(fault)),
            }
        }
        Ok(freed)
    }

    async fn multipart_uploads(&self) -> Result<Vec<MultipartUpload>, Fault> {
        let (mut uploads, mut key, mut id) = (Vec::new(), None, None);
        loop {
            let request = self.client.list_multipart_uploads().bucket(&self.config.bucket);
            let request = request.prefix(&self.config.prefix).set_key_marker(key.take());
            let page = request.set_upload_id_marker(id.take()).send().await;
            let page = page.map_err(|e| self.fault(e))?;
            uploads.extend(page.uploads.unwrap_or_default());
            if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                return Ok(uploads);
            }
            (key, id) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    async fn multipart_parts(&self, object: &str, id: &str) -> Result<Parts, Fault> {
        let (mut parts, mut marker) = (Parts::default(), None);
        loop {
            let request = self.client.list_parts().bucket(&self.config.bucket).key(object);
            let page = request.upload_id(id).set_part_number_marker(marker.take()).send().await;
            let page = page.map_err(|e| self.fault(e))?;
            for part in page.parts() {
                parts.bytes += part.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                parts.newest = parts.newest.max(part.last_modified().and_then(timestamp));
            }
            marker = page.next_part_number_marker.filter(|_| page.is_truncated == Some(true));
            if marker.is_none() {
                return Ok(parts);
            }
        }
    }

    pub(super) async fn abort_multipart(&self, object: &str, id: &str) -> Result<(), Fault> {
        let request = self.client.abort_multipart_upload().bucket(&self.config.bucket);
        let aborted = request.key(object).upload_id(id).send().await;
        aborted.map(|_| ()).map_err(|e| self.fault(e))
    }
}

/// The parts of a multipart upload, together.
#[derive(Default)]
struct Parts {
    bytes: u64,
    newest: Option<Timestamp>,
}

/// The shorter ids that S3 lists after this one, although they come before it.
fn beginnings(job: &JobId) -> Vec<JobId> {
    let ends = job.as_str().match_indices(['-', '.']);
    ends.filter_map(|(end, _)| job.as_str()[..end].parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_that_are_listed_too_late_are_beginnings() {
        let of = |id: &str| {
            let ids = beginnings(&id.parse().unwrap());
            ids.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("a"), [""; 0]);
        assert_eq!(of("a_b"), [""; 0]);
        assert_eq!(of("a-b.c-"), ["a", "a-b", "a-b.c"]);
    }
}
