//! An artifact that is archived and comes back, against a small model.

use super::*;
use crate::{Access, Tier};
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn what_is_archived_is_read_again_after_a_restore_and_comes_back() {
    let house = house();
    let (artifacts, job) = (&house.artifacts, &house.job);
    let kept = house.keep("a", b"bytes").await;
    let early = artifacts.archive(job, &kept.name).await.unwrap_err();
    assert_eq!(early.class(), ErrorClass::Unavailable, "not signed yet: {early}");
    let kept = artifacts.sign(&kept).await.unwrap();
    house.clock.advance(Duration::from_secs(1));
    let archived = artifacts.archive(job, &kept.name).await.unwrap();
    assert_eq!(archived.state, ArtifactState::Archived);
    assert_eq!(archived.archived_at.unwrap(), whole_milliseconds(house.clock.now()));
    house.clock.advance(Duration::from_secs(1));
    assert_eq!(artifacts.archive(job, &kept.name).await.unwrap(), archived, "the first time stays");
    assert_eq!(artifacts.list(job).await.unwrap(), std::slice::from_ref(&archived));

    let closed = artifacts.open(job, &kept.name, None).await.unwrap_err();
    assert!(matches!(closed, Error::Archived { .. }), "{closed:?}");
    let signature = BlobKey::signature(job, &kept.name);
    assert!(house.blob(&signature).await.is_some(), "the signature stays readable");
    assert_eq!(artifacts.sign(&archived).await.unwrap(), archived, "and can be made anew");
    let closed = artifacts.set_tier(job, &kept.name, Tier::Hot).await.unwrap_err();
    assert!(matches!(closed, Error::Archived { .. }), "{closed:?}");

    let end = house.clock.now().checked_add(DAY).unwrap();
    let access = artifacts.restore(job, &kept.name, Duration::from_secs(60)).await.unwrap();
    assert_eq!(access, Access::Until(end));
    let (record, blob) = artifacts.open(job, &kept.name, None).await.unwrap();
    assert_eq!((record, read(blob).await), (archived.clone(), b"bytes".to_vec()));
    house.clock.advance(DAY);
    assert!(artifacts.open(job, &kept.name, None).await.is_err(), "the time is over");
    artifacts.restore(job, &kept.name, DAY).await.unwrap();
    assert_eq!(artifacts.set_tier(job, &kept.name, Tier::Hot).await.unwrap(), kept);
    assert_eq!(artifacts.restore(job, &kept.name, DAY).await.unwrap(), Access::Now);

    let archived = artifacts.archive(job, &kept.name).await.unwrap();
    // The file, its signature, and with the last artifact the list of the records.
    assert!(artifacts.delete(job, &archived.name).await.unwrap() > 5 + 64);
    assert!(artifacts.blobs().list(job).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_backend_without_tiers_says_so_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let house = house();
    let artifacts = Artifacts::new(
        Arc::new(crate::FsBlobs::new(dir.path().join("artifacts"))),
        Arc::new(MemoryIndex::new()),
        Arc::clone(&house.key) as _,
        Arc::new(house.clock.clone()),
    );
    let (job, named) = (&house.job, name("a"));
    let kept = artifacts.keep(job, &named, bytes_stream("x"), KeepOptions::default()).await;
    let kept = artifacts.sign(&kept.unwrap()).await.unwrap();
    let refused = artifacts.archive(job, &named).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Unsupported);
    assert!(refused.to_string().contains("have no tiers: nothing can be archived"), "{refused}");
    assert_eq!(artifacts.get(job, &named).await.unwrap(), kept);
    assert_eq!(artifacts.restore(job, &named, DAY).await.unwrap(), Access::Now);
}

#[tokio::test]
async fn bytes_that_the_backend_moved_by_itself_are_archived_for_readers() {
    let house = house();
    let (artifacts, job) = (&house.artifacts, &house.job);
    let kept = artifacts.sign(&house.keep("a", b"bytes").await).await.unwrap();
    let key = BlobKey::artifact(job, &kept.name);
    artifacts.blobs().set_tier(&key, Tier::Cold).await.unwrap();
    let closed = artifacts.open(job, &kept.name, None).await.unwrap_err();
    assert!(matches!(closed, Error::Archived { .. }), "{closed:?}");
    artifacts.restore(job, &kept.name, DAY).await.unwrap();
    artifacts.open(job, &kept.name, None).await.unwrap();
    let archived = artifacts.archive(job, &kept.name).await.unwrap();
    assert_eq!(archived.state, ArtifactState::Archived, "the record follows");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Keep,
    Sign,
    Tier(Tier),
    Restore,
    Wait,
    Delete,
}

/// What the model knows: the record's state, the tier, and until when a cold one is readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Model {
    signed: bool,
    archived: bool,
    tier: Tier,
    until: i64,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Keep),
        2 => Just(Step::Sign),
        1 => Just(Step::Tier(Tier::Hot)),
        1 => Just(Step::Tier(Tier::Warm)),
        3 => Just(Step::Tier(Tier::Cold)),
        2 => Just(Step::Restore),
        1 => Just(Step::Wait),
        1 => Just(Step::Delete),
    ]
}

proptest! {
    #[test]
    fn every_life_goes_as_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(live(steps));
    }
}

async fn live(steps: Vec<Step>) {
    let house = house();
    let (artifacts, job, named) = (&house.artifacts, &house.job, name("a"));
    let mut model: Option<Model> = None;
    for step in steps {
        let now = house.clock.now().as_second();
        let readable = |m: &Model| m.tier != Tier::Cold || m.until > now;
        let got = match step {
            Step::Keep => {
                let replace = KeepOptions::default().with_mode(PutMode::Replace);
                let kept = artifacts.keep(job, &named, bytes_stream("bytes"), replace).await;
                model = Some(Model { signed: false, archived: false, tier: Tier::Hot, until: 0 });
                kept.map(|_| ())
            }
            Step::Sign => match artifacts.get(job, &named).await {
                Ok(record) => artifacts.sign(&record).await.map(|_| ()),
                Err(e) => Err(e),
            },
            Step::Tier(tier) => artifacts.set_tier(job, &named, tier).await.map(|_| ()),
            Step::Restore => artifacts.restore(job, &named, DAY).await.map(|_| ()),
            Step::Wait => {
                house.clock.advance(DAY / 2);
                continue;
            }
            Step::Delete => artifacts.delete(job, &named).await.map(|_| ()),
        };
        let wanted = match (&mut model, step) {
            (_, Step::Keep) => None,
            (model, Step::Delete) => {
                *model = None;
                None
            }
            (None, _) => Some(ErrorClass::NotFound),
            (Some(model), Step::Sign) => {
                model.signed = true;
                None
            }
            (Some(Model { signed: false, .. }), _) => Some(ErrorClass::Unavailable),
            (Some(model), Step::Tier(tier)) => {
                if tier != model.tier && !readable(model) {
                    Some(ErrorClass::Conflict)
                } else {
                    model.until = if tier == model.tier { model.until } else { 0 };
                    (model.tier, model.archived) = (tier, tier == Tier::Cold);
                    None
                }
            }
            (Some(model), _) => {
                if model.tier == Tier::Cold {
                    model.until = now + 86_400;
                }
                None
            }
        };
        assert_eq!(got.as_ref().err().map(Error::class), wanted, "{step:?}: {got:?}");
        let state = artifacts.get(job, &named).await.ok().map(|record| record.state);
        let wanted = model.map(|model| match model {
            Model { signed: false, .. } => ArtifactState::Uploading,
            Model { archived: true, .. } => ArtifactState::Archived,
            _ => ArtifactState::Active,
        });
        assert_eq!(state, wanted, "{step:?}");
        let opened = artifacts.open(job, &named, None).await.is_ok();
        assert_eq!(opened, model.is_some_and(|m| m.signed && readable(&m)), "{step:?}: {model:?}");
    }
}
