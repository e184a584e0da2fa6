//! `metadata.json`: the records of a job's artifacts beside them, for whoever reads the store without the index.

use std::collections::BTreeMap;

use danube_core::{JobId, Sha256Digest, Timestamp};
use serde::Serialize;

use super::{Artifacts, PAGE};
use crate::{
    ArtifactId, ArtifactIndex, ArtifactKind, ArtifactRecord, ArtifactState, BlobKey, BlobStore,
    Error, PutMode, PutOptions, bytes_stream,
};

/// The most bytes that the list of a job's records takes; those that do not fit into it are counted.
pub const MAX_RECORDS_BYTES: usize = 16 << 20;

/// How often the list is written anew when the records change meanwhile.
const ROUNDS: u32 = 8;

/// One record, by the names that CI systems and object stores use for such things.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    id: ArtifactId,
    execution_id: &'a JobId,
    file_name: &'a str,
    file_path: &'a str,
    file_size: u64,
    mime_type: &'a str,
    checksum: Sha256Digest,
    r#type: ArtifactKind,
    status: String,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    keep_forever: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
}

impl<'a> Entry<'a> {
    fn of(record: &'a ArtifactRecord) -> Self {
        let expires_at = record.expires_at();
        let ArtifactRecord {
            id,
            job,
            name,
            size_bytes,
            digest,
            content_type,
            kind,
            state,
            created_at,
            archived_at,
            keep_for: _,
            keep_forever,
            tags,
        } = record;
        Self {
            id: *id,
            execution_id: job,
            file_name: name.file_name(),
            file_path: name.as_str(),
            file_size: *size_bytes,
            mime_type: content_type,
            checksum: *digest,
            r#type: *kind,
            status: state.as_str().to_ascii_uppercase(),
            created_at: *created_at,
            archived_at: *archived_at,
            expires_at,
            keep_forever: *keep_forever,
            tags,
        }
    }
}

impl Artifacts {
    /// Writes the records of a job's artifacts as `<job>/.danube/metadata.json`, by name and without deleted ones; a job
    /// without artifacts has no such file. [`prove`](Self::prove), [`change`](Self::change), [`set_tier`](Self::set_tier),
    /// [`delete`](Self::delete) and [`delete_job`](Self::delete_job) do this last; whoever keeps and signs something for a
    /// job that was proved calls it.
    ///
    /// The index is the truth and this a copy of it. Of several that write at once, the last one writes what the index says
    /// then. What dies between a change and this leaves the list as it was before; the next call of any of these writes it
    /// right. It has at most [`MAX_RECORDS_BYTES`] and says how many records it leaves out.
    ///
    /// # Errors
    ///
    /// Those of the index and of the store; calling it again is right.
    pub async fn write_records(&self, job: &JobId) -> Result<(), Error> {
        write_records(&*self.blobs, &*self.index, job).await
    }
}

async fn write_records(
    blobs: &dyn BlobStore,
    index: &dyn ArtifactIndex,
    job: &JobId,
) -> Result<(), Error> {
    let key = BlobKey::records(job);
    let mut list = list(index, job, MAX_RECORDS_BYTES).await?;
    for _ in 0..ROUNDS {
        match &list {
            Some(bytes) => {
                let replace = PutOptions::default().with_mode(PutMode::Replace);
                blobs.put(&key, bytes_stream(bytes.clone()), replace).await?;
            }
            None => drop(blobs.delete(&key).await?),
        }
        // Somebody who changed a record meanwhile may have written before us: then ours is the older list.
        let now = self::list(index, job, MAX_RECORDS_BYTES).await?;
        if now == list {
            break;
        }
        list = now;
    }
    Ok(())
}

/// What the reaper leaves of the list: nothing while there are many artifacts still, of which it deletes one after the
/// other, and the list of the rest.
pub(crate) async fn tidy_records(
    blobs: &dyn BlobStore,
    index: &dyn ArtifactIndex,
    job: &JobId,
) -> Result<(), Error> {
    if index.list(job, None, PAGE).await?.len() == PAGE {
        return Ok(());
    }
    write_records(blobs, index, job).await
}

/// The list, one record in a line; `None` when there is nothing to be listed.
async fn list(
    index: &dyn ArtifactIndex,
    job: &JobId,
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, Error> {
    let (mut lines, mut count, mut omitted) = (Vec::new(), 0_u64, 0_u64);
    let mut after = None;
    loop {
        let page = index.list(job, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for record in page.iter().filter(|record| record.state != ArtifactState::Deleted) {
            let line = serde_json::to_vec(&Entry::of(record)).expect("a record serialises");
            // Once one did not fit, none is listed: the list is the first so many by name.
            if omitted > 0 || lines.len() + line.len() > max_bytes {
                omitted += 1;
                continue;
            }
            if count > 0 {
                lines.push(b',');
            }
            lines.push(b'\n');
            lines.extend(line);
            count += 1;
        }
    }
    if count + omitted == 0 {
        return Ok(None);
    }
    // A job's id needs no escaping.
    let mut bytes =
        format!("{{\"version\":1,\"executionId\":\"{job}\",\"artifacts\":[").into_bytes();
    bytes.append(&mut lines);
    bytes.extend(format!("\n],\"omitted\":{omitted}}}\n").into_bytes());
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facade::tests::{House, house, name, read};
    use crate::{KeepOptions, RecordChange};
    use std::time::Duration;

    async fn read_list(house: &House) -> Option<serde_json::Value> {
        let bytes = house.blob(&BlobKey::records(&house.job)).await?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn what_stays_is_listed_when_several_are_deleted() {
        let house = house();
        let (artifacts, job) = (&house.artifacts, &house.job);
        for at in ["a", "b", "c"] {
            artifacts.sign(&house.keep(at, b"1").await).await.unwrap();
        }
        let delete = |names: &[&str]| names.iter().map(|at| name(at)).collect::<Vec<_>>();
        artifacts.delete_each(job, &delete(&["a", "never", "c"])).await.unwrap();
        let list = read_list(&house).await.unwrap();
        let names: Vec<_> = list["artifacts"].as_array().unwrap().iter().collect();
        assert_eq!((names.len(), &names[0]["filePath"]), (1, &"b".into()));
        // Without anything to delete it is still written.
        house.artifacts.blobs().delete(&BlobKey::records(job)).await.unwrap();
        artifacts.delete_each(job, &[]).await.unwrap();
        assert_eq!(read_list(&house).await.unwrap(), list);
        artifacts.delete_each(job, &delete(&["b"])).await.unwrap();
        assert_eq!(artifacts.blobs().list(job).await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_list_says_what_the_index_says_after_every_change() {
        let house = house();
        let (artifacts, job) = (&house.artifacts, &house.job);
        let kept = artifacts.sign(&house.keep("out/a.json", b"{}").await).await.unwrap();
        assert_eq!(read_list(&house).await, None, "nothing is proved yet");
        house.prove().await;
        let wanted = serde_json::json!({
            "version": 1, "executionId": "j", "omitted": 0, "artifacts": [{
                "id": kept.id, "executionId": "j", "fileName": "a.json", "filePath": "out/a.json",
                "fileSize": 2, "mimeType": "application/json", "checksum": kept.digest.to_string(),
                "type": "data", "status": "ACTIVE", "createdAt": "2023-11-14T22:13:20.123Z",
            }],
        });
        assert_eq!(read_list(&house).await.unwrap(), wanted);

        let change = RecordChange::default()
            .with_tag("k", "v \"quoted\"")
            .with_keep_for(Some(Duration::from_secs(80)));
        artifacts.change(job, &kept.name, &change).await.unwrap();
        let tagged = read_list(&house).await.unwrap();
        assert_eq!(tagged["artifacts"][0]["tags"], serde_json::json!({"k": "v \"quoted\""}));
        assert_eq!(tagged["artifacts"][0]["expiresAt"], "2023-11-14T22:14:40.123Z");

        artifacts.archive(job, &kept.name).await.unwrap();
        let archived = read_list(&house).await.unwrap();
        assert_eq!(archived["artifacts"][0]["status"], "ARCHIVED");
        assert_eq!(archived["artifacts"][0]["archivedAt"], "2023-11-14T22:13:20.123Z");

        house.keep("b", b"later").await;
        artifacts.write_records(job).await.unwrap();
        let two = read_list(&house).await.unwrap();
        assert_eq!(two["artifacts"].as_array().unwrap().len(), 2);
        assert_eq!(two["artifacts"][0]["fileName"], "b");
        assert_eq!(two["artifacts"][0]["status"], "UPLOADING");

        artifacts.delete(job, &kept.name).await.unwrap();
        assert_eq!(read_list(&house).await.unwrap()["artifacts"].as_array().unwrap().len(), 1);
        artifacts.delete_job(job).await.unwrap();
        assert_eq!(read_list(&house).await, None);
    }

    #[tokio::test]
    async fn a_list_that_would_be_too_long_says_how_much_it_leaves_out() {
        let house = house();
        for at in 0..PAGE + 9 {
            house.keep(&format!("f{at:04}"), b"x").await;
        }
        let whole = list(&**house.artifacts.index(), &house.job, MAX_RECORDS_BYTES).await;
        let whole = whole.unwrap().unwrap();
        let parsed: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(parsed["artifacts"].as_array().unwrap().len(), PAGE + 9);
        for max_bytes in [0, 1, 1000, 100_000, whole.len()] {
            let cut = list(&**house.artifacts.index(), &house.job, max_bytes).await;
            let cut = cut.unwrap().unwrap();
            assert!(cut.len() < max_bytes + 100);
            let cut: serde_json::Value = serde_json::from_slice(&cut).unwrap();
            let listed = cut["artifacts"].as_array().unwrap();
            assert_eq!(listed[..], parsed["artifacts"].as_array().unwrap()[..listed.len()]);
            assert_eq!(cut["omitted"], PAGE + 9 - listed.len());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_changes_at_once_the_list_misses_none() {
        // Files: their calls take long enough to overtake each other.
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let mut house = house();
            let blobs = crate::FsBlobs::new(dir.path().join(round.to_string()));
            house.artifacts.blobs = std::sync::Arc::new(blobs);
            let house = std::sync::Arc::new(house);
            let kept = house.keep("a", b"x").await;
            let changing = (0..8).map(|at| {
                let (house, named) = (house.clone(), kept.name.clone());
                tokio::spawn(async move {
                    let change = RecordChange::default().with_tag(format!("tag{at}"), "");
                    house.artifacts.change(&house.job, &named, &change).await.unwrap();
                })
            });
            for change in changing.collect::<Vec<_>>() {
                change.await.unwrap();
            }
            let tags = read_list(&house).await.unwrap()["artifacts"][0]["tags"].clone();
            assert_eq!(tags.as_object().unwrap().len(), 8, "{tags}");
        }
    }

    #[tokio::test]
    async fn a_reaper_leaves_the_list_of_the_rest() {
        let house = house();
        let (blobs, index) = (house.artifacts.blobs(), house.artifacts.index());
        for at in 0..PAGE {
            house.keep(&format!("f{at:04}"), b"x").await;
        }
        tidy_records(&**blobs, &**index, &house.job).await.unwrap();
        assert_eq!(read_list(&house).await, None, "not while there are many");
        index.remove(&house.job, &name("f0000")).await.unwrap();
        tidy_records(&**blobs, &**index, &house.job).await.unwrap();
        let listed = read_list(&house).await.unwrap();
        assert_eq!(listed["artifacts"].as_array().unwrap().len(), PAGE - 1);
        let options = KeepOptions::default();
        let open = house.artifacts.keep(&house.job, &name("z"), bytes_stream("z"), options).await;
        house.artifacts.sign(&open.unwrap()).await.unwrap();
        let (_, blob) = house.artifacts.open(&house.job, &name("z"), None).await.unwrap();
        assert_eq!(read(blob).await, b"z");
    }
}
