//! What the reaper sees of artifacts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use danube_core::{
    ArtifactName, Candidate, CandidateKind, JobId, Pin, Reaped, Sweep, SweepError, Timestamp,
};

use crate::blob::METADATA_DIR;
use crate::facade::{delete_artifact, delete_provenance, tidy_records};
use crate::{ArtifactIndex, ArtifactRecord, ArtifactState, BlobKey, BlobPart, BlobStore, Error};

#[cfg(test)]
mod tests;

/// Records that one question asks for.
const PAGE: usize = 500;
/// Jobs that one question asks for: a file backend reads its directory for each.
const JOBS_PAGE: usize = 10_000;

/// Artifacts as candidates of the reaper, without knowing anything about jobs.
///
/// * A candidate's `id` is the artifact's name. An active or archived artifact came to rest when it was stored; one
///   that is `uploading` is in use; one that is half deleted may go at once.
/// * Bytes without a record (their `keep` was interrupted) are candidates too, since the time they were
///   stored. Whoever knows the jobs overlays their facts, so that nothing of a running job is listed
///   as at rest.
/// * The provenance of a job goes with its last artifact. Where a job has provenance and no artifacts
///   (only its log was proved), the provenance is a candidate of its own with the id `.danube`.
/// * `reap` deletes in the order mark, bytes, signature, record, provenance: interrupted anywhere, it
///   leaves something that `candidates` names again.
#[derive(Debug, Clone)]
pub struct ArtifactSweep {
    blobs: Arc<dyn BlobStore>,
    index: Arc<dyn ArtifactIndex>,
}

impl ArtifactSweep {
    /// Over this store and index.
    #[must_use]
    pub fn new(blobs: Arc<dyn BlobStore>, index: Arc<dyn ArtifactIndex>) -> Self {
        Self { blobs, index }
    }

    async fn records(&self) -> Result<Vec<ArtifactRecord>, Error> {
        let mut records: Vec<ArtifactRecord> = Vec::new();
        loop {
            let after = records.last().map(|record| (&record.job, &record.name));
            let page = self.index.all(after, PAGE).await?;
            if page.is_empty() {
                return Ok(records);
            }
            records.extend(page);
        }
    }

    /// The candidates of one job that the index does not know.
    async fn unrecorded(
        &self,
        job: &JobId,
        recorded: &BTreeMap<JobId, BTreeSet<ArtifactName>>,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), Error> {
        let keys = self.blobs.list(job).await?;
        let recorded = recorded.get(job);
        let mut names: BTreeSet<ArtifactName> = BTreeSet::new();
        let mut has_artifacts = false;
        for key in &keys {
            if let BlobPart::Artifact(name) | BlobPart::Signature(name) = key.part() {
                has_artifacts = true;
                if recorded.is_none_or(|recorded| !recorded.contains(name)) {
                    names.insert(name.clone());
                }
            }
        }
        for name in names {
            if let Some(facts) = self.unrecorded_facts(job, &name).await? {
                candidates.push(facts.candidate(job, name.as_str()));
            }
        }
        if !has_artifacts
            && recorded.is_none()
            && let Some(facts) = self.provenance_facts(job).await?
        {
            candidates.push(facts.candidate(job, METADATA_DIR));
        }
        Ok(())
    }

    async fn unrecorded_facts(
        &self,
        job: &JobId,
        name: &ArtifactName,
    ) -> Result<Option<Facts>, Error> {
        self.facts(&[BlobKey::artifact(job, name), BlobKey::signature(job, name)]).await
    }

    async fn provenance_facts(&self, job: &JobId) -> Result<Option<Facts>, Error> {
        self.facts(&BlobKey::of_job(job)).await
    }

    async fn facts(&self, keys: &[BlobKey]) -> Result<Option<Facts>, Error> {
        let mut facts: Option<Facts> = None;
        for key in keys {
            match self.blobs.stat(key).await {
                Ok(stat) => {
                    let known = facts.get_or_insert(Facts { bytes: 0, since: stat.modified_at });
                    known.bytes += stat.size_bytes;
                    known.since = known.since.max(stat.modified_at);
                }
                Err(Error::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(facts)
    }

    async fn reap_checked(&self, candidate: &Candidate) -> Result<Result<u64, Changed>, Error> {
        let job = &candidate.owner;
        let unchanged = |facts: Option<Facts>| match facts {
            None => true,
            Some(facts) => facts.version() == candidate.version,
        };
        if candidate.id == METADATA_DIR {
            let has_artifacts = !self.index.list(job, None, 1).await?.is_empty();
            if has_artifacts || !unchanged(self.provenance_facts(job).await?) {
                return Ok(Err(Changed));
            }
            return delete_provenance(&*self.blobs, job).await.map(Ok);
        }
        let name: ArtifactName = candidate.id.parse()?;
        let same = match self.index.get(job, &name).await {
            Ok(record) => version_of(&record) == candidate.version,
            Err(Error::NoRecord { .. }) => unchanged(self.unrecorded_facts(job, &name).await?),
            Err(e) => return Err(e),
        };
        if !same {
            return Ok(Err(Changed));
        }
        // Absent, the list of the records says nothing wrong, wherever this ends.
        self.blobs.delete(&BlobKey::records(job)).await?;
        let freed = delete_artifact(&*self.blobs, &*self.index, job, &name).await?;
        // The artifact is gone whatever becomes of this.
        if let Err(error) = tidy_records(&*self.blobs, &*self.index, job).await {
            tracing::warn!(%job, %error, "the list of the artifacts that are left is not written");
        }
        Ok(Ok(freed))
    }
}

struct Changed;

/// What blobs without a record tell.
struct Facts {
    bytes: u64,
    since: Timestamp,
}

impl Facts {
    fn version(&self) -> String {
        format!("unrecorded {} {}", self.bytes, self.since)
    }

    fn candidate(self, job: &JobId, id: &str) -> Candidate {
        Candidate {
            kind: CandidateKind::Artifact,
            id: id.to_owned(),
            owner: job.clone(),
            bytes: self.bytes,
            shared: false,
            finished_at: Some(self.since),
            keep_for: None,
            pins: Vec::new(),
            version: self.version(),
        }
    }
}

/// Everything that decides about keeping, so that a pin set after the plan saves the artifact.
fn version_of(record: &ArtifactRecord) -> String {
    let ArtifactRecord {
        id, digest, size_bytes, state, created_at, keep_for, keep_forever, ..
    } = record;
    let keep_for = keep_for.map_or(-1, |duration| i128::from(duration.as_secs()));
    format!("{id} {digest} {size_bytes} {state} {created_at} {keep_for} {keep_forever}")
}

fn candidate_of(record: &ArtifactRecord) -> Candidate {
    let (finished_at, keep_for, pinned) = match record.state {
        ArtifactState::Uploading => (None, record.keep_for, record.keep_forever),
        ArtifactState::Active | ArtifactState::Archived => {
            (Some(record.created_at), record.keep_for, record.keep_forever)
        }
        // Somebody decided already; only the rest of the deletion is left.
        ArtifactState::Deleted => (Some(record.created_at), Some(Duration::ZERO), false),
    };
    Candidate {
        kind: CandidateKind::Artifact,
        id: record.name.to_string(),
        owner: record.job.clone(),
        bytes: record.size_bytes,
        shared: false,
        finished_at,
        keep_for,
        pins: if pinned { vec![Pin::KeepForever] } else { Vec::new() },
        version: version_of(record),
    }
}

fn sweep_error(operation: String, error: Error) -> SweepError {
    SweepError::Backend { operation, class: error.class(), source: error.into() }
}

impl fmt::Display for ArtifactSweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "artifacts in {} and {}", self.blobs, self.index)
    }
}

#[async_trait]
impl Sweep for ArtifactSweep {
    async fn candidates(&self) -> Result<Vec<Candidate>, SweepError> {
        let failed = |e| sweep_error("listing artifacts".to_owned(), e);
        // The blobs first: what is recorded meanwhile is then seen as recorded.
        let mut jobs: Vec<JobId> = Vec::new();
        loop {
            let page = self.blobs.jobs(jobs.last(), JOBS_PAGE).await.map_err(failed)?;
            if page.is_empty() {
                break;
            }
            jobs.extend(page);
        }
        let mut candidates = Vec::new();
        let mut recorded = BTreeMap::<JobId, BTreeSet<ArtifactName>>::new();
        for record in self.records().await.map_err(failed)? {
            candidates.push(candidate_of(&record));
            recorded.entry(record.job).or_default().insert(record.name);
        }
        for job in jobs {
            self.unrecorded(&job, &recorded, &mut candidates).await.map_err(failed)?;
        }
        Ok(candidates)
    }

    async fn reap(&self, candidate: &Candidate) -> Result<Reaped, SweepError> {
        let failed = |e| {
            sweep_error(format!("deleting artifact {} of job {}", candidate.id, candidate.owner), e)
        };
        match self.reap_checked(candidate).await.map_err(failed)? {
            Ok(bytes_freed) => Ok(Reaped { bytes_freed }),
            Err(Changed) => Err(SweepError::Changed { id: candidate.id.clone() }),
        }
    }
}
