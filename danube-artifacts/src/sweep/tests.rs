//! What the reaper sees, and deletions that were interrupted.

use super::*;
use crate::RecordChange;
use crate::{
    Artifacts, KeepOptions, MemoryBlobs, MemoryIndex, PutOptions, SigningKey, bytes_stream,
};
use danube_core::{Clock, ManualClock};

struct House {
    artifacts: Artifacts,
    sweep: ArtifactSweep,
    clock: ManualClock,
}

fn job(id: &str) -> JobId {
    id.parse().unwrap()
}

fn name(name: &str) -> ArtifactName {
    name.parse().unwrap()
}

fn house() -> House {
    let clock = ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap());
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let blobs: Arc<dyn BlobStore> = Arc::new(MemoryBlobs::new().with_clock(Arc::clone(&shared)));
    let index: Arc<dyn ArtifactIndex> = Arc::new(MemoryIndex::new());
    let key = Arc::new(SigningKey::generate().unwrap());
    let sweep = ArtifactSweep::new(Arc::clone(&blobs), Arc::clone(&index));
    House { artifacts: Artifacts::new(blobs, index, key, shared), sweep, clock }
}

impl House {
    async fn keep(&self, of_job: &str, named: &str, options: KeepOptions) -> ArtifactRecord {
        let body = bytes_stream("12345");
        let kept = self.artifacts.keep(&job(of_job), &name(named), body, options).await.unwrap();
        self.artifacts.sign(&kept).await.unwrap()
    }

    async fn prove(&self, of_job: &str) {
        let parameters = serde_json::json!({});
        let input = crate::attest::ProvenanceInput::new(job(of_job), "urn:x", "0", parameters);
        self.artifacts.prove(&input, &[], None).await.unwrap();
    }

    async fn put(&self, key: &BlobKey) {
        let body = bytes_stream("orphan");
        self.artifacts.blobs().put(key, body, PutOptions::default()).await.unwrap();
    }

    async fn candidates(&self) -> Vec<Candidate> {
        self.sweep.candidates().await.unwrap()
    }

    async fn is_empty(&self) -> bool {
        self.artifacts.blobs().jobs(None, 10).await.unwrap().is_empty()
            && self.artifacts.index().all(None, 10).await.unwrap().is_empty()
    }
}

#[tokio::test]
async fn candidates_tell_what_decides() {
    let house = house();
    let now = house.clock.now();
    let week = Duration::from_secs(7 * 86_400);
    house.keep("j", "active", KeepOptions::default().with_keep_for(Some(week))).await;
    house.keep("j", "archived", KeepOptions::default().with_keep_for(Some(week))).await;
    house.artifacts.archive(&job("j"), &name("archived")).await.unwrap();
    house.keep("j", "pinned", KeepOptions::default().with_keep_forever()).await;
    house.keep("j", "deleted", KeepOptions::default().with_keep_forever()).await;
    let index = house.artifacts.index();
    index
        .change(&job("j"), &name("deleted"), &RecordChange::state(ArtifactState::Deleted))
        .await
        .unwrap();
    let options = KeepOptions::default();
    let (k, uploading) = (job("k"), name("uploading"));
    house.artifacts.keep(&k, &uploading, bytes_stream("1"), options).await.unwrap();
    house.prove("j").await;
    house.clock.advance(Duration::from_secs(60));
    house.put(&BlobKey::artifact(&job("k"), &name("orphan"))).await;
    house.put(&BlobKey::signature(&job("k"), &name("orphan"))).await;
    house.prove("only-a-log").await;

    let seen: Vec<_> = house
        .candidates()
        .await
        .into_iter()
        .map(|c| (c.owner.to_string(), c.id, c.bytes, c.finished_at, c.keep_for, c.pins.len()))
        .collect();
    let later = Some(now + Duration::from_secs(60));
    let proof = seen.last().unwrap().2;
    let s = str::to_owned;
    assert_eq!(
        seen,
        [
            (s("j"), s("active"), 5, Some(now), Some(week), 0),
            (s("j"), s("archived"), 5, Some(now), Some(week), 0),
            (s("j"), s("deleted"), 5, Some(now), Some(Duration::ZERO), 0),
            (s("j"), s("pinned"), 5, Some(now), None, 1),
            (s("k"), s("uploading"), 1, None, None, 0),
            (s("k"), s("orphan"), 12, later, None, 0),
            (s("only-a-log"), s(".danube"), proof, later, None, 0),
        ]
    );
}

#[tokio::test]
async fn reaping_everything_leaves_nothing_and_can_be_done_twice() {
    let house = house();
    house.keep("j", "a", KeepOptions::default()).await;
    house.keep("j", "dir/b", KeepOptions::default()).await;
    house.artifacts.archive(&job("j"), &name("dir/b")).await.unwrap();
    house.prove("j").await;
    house.put(&BlobKey::artifact(&job("k"), &name("orphan"))).await;
    house.prove("only-a-log").await;
    let candidates = house.candidates().await;
    assert_eq!(candidates.len(), 4);
    let mut freed = Vec::new();
    for candidate in &candidates {
        freed.push(house.sweep.reap(candidate).await.unwrap().bytes_freed);
    }
    // The file and its signature; the second of the two takes the provenance along.
    assert_eq!(freed[0], 5 + 64);
    assert!(freed[1] > 5 + 64 + 500);
    assert_eq!(freed[2], 6);
    assert!(house.is_empty().await);
    for candidate in &candidates {
        assert_eq!(house.sweep.reap(candidate).await.unwrap(), Reaped::default());
    }
    assert_eq!(house.candidates().await, []);
}

#[tokio::test]
async fn what_is_gone_is_told_so_where_the_list_of_the_rest_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let blobs: Arc<dyn BlobStore> = Arc::new(crate::FsBlobs::new(dir.path()));
    let index: Arc<dyn ArtifactIndex> = Arc::new(MemoryIndex::new());
    let House { clock, .. } = house();
    let key = Arc::new(SigningKey::generate().unwrap());
    let sweep = ArtifactSweep::new(Arc::clone(&blobs), Arc::clone(&index));
    let artifacts = Artifacts::new(blobs, index, key, Arc::new(clock.clone()));
    let house = House { artifacts, sweep, clock };
    let gone = house.keep("j", "a", KeepOptions::default()).await;
    let stays = house.keep("j", "b", KeepOptions::default()).await;
    // Somebody's directory lies where the list is to be.
    let list = dir.path().join("j").join(BlobKey::records(&gone.job).path());
    std::fs::create_dir_all(list.join("x")).unwrap();
    let candidates = house.candidates().await;
    let [candidate, _] = &candidates[..] else { panic!("{candidates:?}") };
    assert_eq!(house.sweep.reap(candidate).await.unwrap().bytes_freed, 5 + 64);
    assert_eq!(house.artifacts.list(&gone.job).await.unwrap(), [stays]);
}

#[tokio::test]
async fn what_changed_since_the_plan_is_refused() {
    let house = house();
    let record = house.keep("j", "a", KeepOptions::default()).await;
    house.prove("only-a-log").await;
    house.put(&BlobKey::artifact(&job("k"), &name("orphan"))).await;
    let plan = house.candidates().await;

    let pinned = ArtifactRecord { keep_forever: true, ..record.clone() };
    house.artifacts.index().put(&pinned).await.unwrap();
    house.keep("only-a-log", "late", KeepOptions::default()).await;
    house.clock.advance(Duration::from_secs(1));
    house.artifacts.blobs().delete(&BlobKey::artifact(&job("k"), &name("orphan"))).await.unwrap();
    house.put(&BlobKey::artifact(&job("k"), &name("orphan"))).await;
    for candidate in &plan {
        let refused = house.sweep.reap(candidate).await;
        assert!(matches!(refused, Err(SweepError::Changed { .. })), "{candidate:?}: {refused:?}");
    }
    let (_, blob) = house.artifacts.open(&job("j"), &record.name, None).await.unwrap();
    assert_eq!(blob.size_bytes, 5);
}

#[tokio::test]
async fn a_deletion_interrupted_anywhere_is_finished_by_the_next_sweep() {
    for steps_done in 0..=5 {
        let house = house();
        let record = house.keep("j", "a", KeepOptions::default()).await;
        house.prove("j").await;
        let (blobs, index) = (house.artifacts.blobs(), house.artifacts.index());
        let (job, name) = (&record.job, &record.name);
        for step in 0..steps_done {
            match step {
                0 => drop(
                    index
                        .change(job, name, &RecordChange::state(ArtifactState::Deleted))
                        .await
                        .unwrap(),
                ),
                1 => drop(blobs.delete(&BlobKey::artifact(job, name)).await.unwrap()),
                2 => drop(blobs.delete(&BlobKey::signature(job, name)).await.unwrap()),
                3 => index.remove(job, name).await.unwrap(),
                _ => drop(blobs.delete(&BlobKey::provenance(job)).await.unwrap()),
            }
        }
        for candidate in house.candidates().await {
            house.sweep.reap(&candidate).await.unwrap();
        }
        assert!(house.is_empty().await, "after {steps_done} steps");
    }
}
