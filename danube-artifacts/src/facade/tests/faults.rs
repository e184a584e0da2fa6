//! A store and an index of which any call fails: what is done again ends well.

use super::*;
use crate::{Access, BlobCapabilities, BlobStat, FsBlobs, Link, LinkOptions, Tier};
use async_trait::async_trait;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fails the call with the number `fails_at`, before or after it was done.
#[derive(Debug)]
struct Fault {
    calls: AtomicUsize,
    fails_at: usize,
    after: bool,
}

impl Fault {
    async fn call<T>(&self, done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let fails = self.calls.fetch_add(1, Ordering::Relaxed) == self.fails_at;
        let fault = || Error::io(&"a wire", "hold".to_owned(), std::io::ErrorKind::TimedOut.into());
        if fails && !self.after {
            return Err(fault());
        }
        let done = done.await?;
        if fails { Err(fault()) } else { Ok(done) }
    }
}

#[derive(Debug, Clone)]
struct Faulty<T> {
    inner: T,
    fault: Arc<Fault>,
}

impl<T: fmt::Display> fmt::Display for Faulty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BlobStore> BlobStore for Faulty<T> {
    fn capabilities(&self) -> BlobCapabilities {
        self.inner.capabilities()
    }

    async fn put(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        self.fault.call(self.inner.put(key, body, options)).await
    }

    async fn get(&self, key: &BlobKey, range: Option<ByteRange>) -> Result<Blob, Error> {
        self.fault.call(self.inner.get(key, range)).await
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error> {
        self.fault.call(self.inner.stat(key)).await
    }

    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, Error> {
        self.fault.call(self.inner.list(job)).await
    }

    async fn jobs(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error> {
        self.fault.call(self.inner.jobs(after, limit)).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<u64, Error> {
        self.fault.call(self.inner.delete(key)).await
    }

    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), Error> {
        self.fault.call(self.inner.set_tier(key, tier)).await
    }

    async fn restore(&self, key: &BlobKey, keep_for: Duration) -> Result<Access, Error> {
        self.fault.call(self.inner.restore(key, keep_for)).await
    }

    async fn link(&self, key: &BlobKey, options: &LinkOptions) -> Result<Link, Error> {
        self.fault.call(self.inner.link(key, options)).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.fault.call(self.inner.sync()).await
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, Error> {
        self.fault.call(self.inner.sweep(before)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: ArtifactIndex> ArtifactIndex for Faulty<T> {
    async fn put(&self, record: &ArtifactRecord) -> Result<(), Error> {
        self.fault.call(self.inner.put(record)).await
    }

    async fn get(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        self.fault.call(self.inner.get(job, name)).await
    }

    async fn find(&self, id: &ArtifactId) -> Result<ArtifactRecord, Error> {
        self.fault.call(self.inner.find(id)).await
    }

    async fn list(
        &self,
        job: &JobId,
        after: Option<&ArtifactName>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        self.fault.call(self.inner.list(job, after, limit)).await
    }

    async fn all(
        &self,
        after: Option<(&JobId, &ArtifactName)>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        self.fault.call(self.inner.all(after, limit)).await
    }

    async fn change(
        &self,
        job: &JobId,
        name: &ArtifactName,
        change: &RecordChange,
    ) -> Result<ArtifactRecord, Error> {
        self.fault.call(self.inner.change(job, name, change)).await
    }

    async fn change_all(
        &self,
        job: &JobId,
        changes: &[(ArtifactName, RecordChange)],
    ) -> Result<Vec<ArtifactRecord>, Error> {
        self.fault.call(self.inner.change_all(job, changes)).await
    }

    async fn remove(&self, job: &JobId, name: &ArtifactName) -> Result<(), Error> {
        self.fault.call(self.inner.remove(job, name)).await
    }
}

fn never() -> Arc<Fault> {
    Arc::new(Fault { calls: AtomicUsize::new(0), fails_at: usize::MAX, after: false })
}

crate::blob_store_conformance!(faulty_blobs, {
    let dir = tempfile::tempdir().unwrap();
    (Faulty { inner: FsBlobs::new(dir.path().join("artifacts")), fault: never() }, dir)
});
crate::artifact_index_conformance!(faulty_index, {
    (Faulty { inner: MemoryIndex::new(), fault: never() }, ())
});

/// Keeps, signs, proves and deletes; what failed is done once more, as a client would.
#[tokio::test]
async fn whichever_call_fails_doing_it_again_ends_well() {
    let mut failed = 0;
    for (fails_at, after) in (0..60).flat_map(|at| [(at, false), (at, true)]) {
        let dir = tempfile::tempdir().unwrap();
        let fault = Arc::new(Fault { calls: AtomicUsize::new(0), fails_at, after });
        let (blobs, index) = (FsBlobs::new(dir.path()), MemoryIndex::new());
        let key = Arc::new(SigningKey::generate().unwrap());
        let artifacts = Artifacts::new(
            Arc::new(Faulty { inner: blobs.clone(), fault: Arc::clone(&fault) }),
            Arc::new(Faulty { inner: index.clone(), fault: Arc::clone(&fault) }),
            key,
            Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)),
        );
        let job: JobId = "j".parse().unwrap();
        let what = format!("call {fails_at} fails, after it was done: {after}");
        let mut signed = Vec::new();
        for named in ["a", "b/c"] {
            let named = name(named);
            let keep = |mode| {
                let options = KeepOptions::default().with_mode(mode);
                artifacts.keep(&job, &named, bytes_stream(vec![7; 9_000]), options)
            };
            let kept = match keep(PutMode::CreateNew).await {
                Ok(kept) => kept,
                Err(_) => keep(PutMode::Replace).await.expect(&what),
            };
            signed.push(match artifacts.sign(&kept).await {
                Ok(signed) => signed,
                Err(_) => artifacts.sign(&kept).await.expect(&what),
            });
        }
        let input = ProvenanceInput::new(job.clone(), "urn:test", "0", serde_json::json!({}));
        if artifacts.prove(&input, &signed, None).await.is_err() {
            artifacts.prove(&input, &signed, None).await.expect(&what);
        }
        assert_eq!(index.list(&job, None, 10).await.unwrap(), signed, "{what}");
        assert_eq!(blobs.list(&job).await.unwrap().len(), 7, "{what}");
        if artifacts.delete_job(&job).await.is_err() {
            artifacts.delete_job(&job).await.expect(&what);
            // The fault may have struck after the last record was gone and before the provenance was.
            let left = blobs.list(&job).await.unwrap();
            let is_proof = |key: &BlobKey| !matches!(key.part(), BlobPart::Artifact(_));
            assert!(left.iter().all(is_proof), "{what}: {left:?}");
        } else {
            assert!(blobs.list(&job).await.unwrap().is_empty(), "{what}");
        }
        assert!(index.list(&job, None, 10).await.unwrap().is_empty(), "{what}");
        failed += usize::from(fault.calls.load(Ordering::Relaxed) > fails_at);
    }
    assert!(failed > 50, "only {failed} faults struck");
}

/// Archives, restores, brings back, tags and deletes; what failed is done once more.
#[tokio::test]
async fn whichever_call_of_the_later_life_fails_doing_it_again_ends_well() {
    let mut failed = 0;
    for (fails_at, after) in (0..60).flat_map(|at| [(at, false), (at, true)]) {
        let fault = Arc::new(Fault { calls: AtomicUsize::new(0), fails_at, after });
        let clock = ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap());
        let blobs = crate::MemoryBlobs::new().with_clock(Arc::new(clock.clone()));
        let index = MemoryIndex::new();
        let key = Arc::new(SigningKey::generate().unwrap());
        let quiet = Artifacts::new(
            Arc::new(blobs.clone()),
            Arc::new(index.clone()),
            Arc::clone(&key) as _,
            Arc::new(clock.clone()),
        );
        let job: JobId = "j".parse().unwrap();
        for named in ["a", "b"] {
            let options = KeepOptions::default();
            let kept = quiet.keep(&job, &name(named), bytes_stream("12345"), options).await;
            quiet.sign(&kept.unwrap()).await.unwrap();
        }
        let artifacts = Artifacts::new(
            Arc::new(Faulty { inner: blobs.clone(), fault: Arc::clone(&fault) }),
            Arc::new(Faulty { inner: index.clone(), fault: Arc::clone(&fault) }),
            key,
            Arc::new(clock),
        );
        let what = format!("call {fails_at} fails, after it was done: {after}");
        let day = Duration::from_secs(86_400);
        let a = name("a");
        let kept = index.get(&job, &a).await.unwrap();
        for step in 0..6 {
            let again = async || {
                match step {
                    0 => drop(artifacts.archive(&job, &a).await?),
                    1 => drop(artifacts.restore(&job, &a, day).await?),
                    2 => drop(artifacts.open(&job, &a, None).await?),
                    3 => drop(artifacts.set_tier(&job, &a, Tier::Warm).await?),
                    4 => {
                        let change = RecordChange::default().with_tag("k", "v");
                        artifacts.change(&job, &a, &change).await?;
                    }
                    _ => drop(artifacts.delete(&job, &a).await?),
                }
                Ok::<(), Error>(())
            };
            if again().await.is_err() {
                again().await.expect(&what);
            }
            let record = match step {
                0..=4 => index.find(&kept.id).await.expect(&what),
                _ => index.get(&job, &name("b")).await.expect(&what),
            };
            let wanted = if step < 3 { ArtifactState::Archived } else { ArtifactState::Active };
            assert_eq!((record.state, record.archived_at.is_some()), (wanted, step < 3), "{what}");
            if step != 1 && step != 2 {
                let list = blobs.get(&BlobKey::records(&job), None).await.expect(&what);
                let list: serde_json::Value = serde_json::from_slice(&read(list).await).unwrap();
                let listed = &list["artifacts"][0];
                let state = record.state.as_str().to_uppercase();
                assert_eq!(
                    (&listed["id"], &listed["status"]),
                    (&serde_json::json!(record.id), &serde_json::json!(state)),
                    "{what}"
                );
                assert_eq!(listed.get("tags").is_some(), step == 4, "{what}");
            }
        }
        failed += usize::from(fault.calls.load(Ordering::Relaxed) > fails_at);
    }
    assert!(failed > 50, "only {failed} faults struck");
}
