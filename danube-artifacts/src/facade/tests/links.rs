//! Links to artifacts, and adopting what came by one.

use super::*;
use crate::{ArtifactSweep, Link, LinkGrant, LinkKey, LinkMethod, LinkOptions, Linked, Verified};
use danube_core::Sweep;

const BASE: &str = "http://h";

struct Linking {
    house: House,
    key: LinkKey,
}

fn linking() -> Linking {
    let (mut house, key) = (house(), LinkKey::generate().unwrap());
    let clock: Arc<dyn Clock> = Arc::new(house.clock.clone());
    let blobs = MemoryBlobs::new().with_clock(Arc::clone(&clock));
    house.artifacts = Artifacts::new(
        Arc::new(Linked::new(blobs, BASE, key.clone(), Arc::clone(&clock))),
        Arc::new(MemoryIndex::new()),
        Arc::clone(&house.key) as _,
        clock,
    );
    Linking { house, key }
}

impl Linking {
    async fn link(&self, named: &str, options: &LinkOptions) -> Result<Link, Error> {
        self.house.artifacts.link(&self.house.job, &name(named), options).await
    }

    /// What the server makes of a link.
    fn grant(&self, link: &Link) -> Verified<LinkGrant> {
        let target = link.url.strip_prefix(BASE).unwrap();
        self.key.verify(link.method, target, self.house.clock.now()).unwrap()
    }

    async fn put(&self, link: &Link, bytes: &[u8]) -> Result<Stored, Error> {
        let body = bytes_stream(bytes.to_vec());
        self.house.artifacts.receive(&self.grant(link), body, 1000).await
    }

    async fn adopt(&self, named: &str, options: KeepOptions) -> Result<ArtifactRecord, Error> {
        self.house.artifacts.adopt(&self.house.job, &name(named), options).await
    }
}

#[tokio::test]
async fn only_what_is_active_is_got_and_only_what_is_free_is_put() {
    let it = linking();
    let (get, put) = (LinkOptions::get(), LinkOptions::put());
    assert!(matches!(it.link("a", &get).await, Err(Error::NoRecord { .. })));
    let kept = it.house.keep("a", b"12345").await;
    assert!(matches!(it.link("a", &get).await, Err(Error::NotActive { .. })));
    it.house.artifacts.sign(&kept).await.unwrap();
    let link = it.link("a", &get).await.unwrap();
    assert_eq!(it.grant(&link).key, BlobKey::artifact(&it.house.job, &kept.name));
    let from = |start| LinkOptions::get().with_range(ByteRange::with_len(start, 5));
    assert!(it.link("a", &from(4)).await.is_ok());
    assert!(matches!(it.link("a", &from(5)).await, Err(Error::OutOfRange { .. })));

    assert!(matches!(it.link("a", &put).await, Err(Error::Exists { .. })));
    let free = it.link("b", &put).await.unwrap();
    it.put(&free, b"1").await.unwrap();
    assert!(matches!(it.link("b", &put).await, Err(Error::Exists { .. })), "without a record");
    // While it is being deleted, it is neither.
    let deleted = RecordChange::state(ArtifactState::Deleted);
    it.house.artifacts.index().change(&it.house.job, &kept.name, &deleted).await.unwrap();
    assert_eq!(it.link("a", &get).await.unwrap_err().class(), ErrorClass::Gone);
    assert!(matches!(it.link("a", &put).await, Err(Error::Exists { .. })));
}

#[tokio::test]
async fn what_is_archived_is_got_when_it_was_restored() {
    let it = linking();
    let (artifacts, job) = (&it.house.artifacts, &it.house.job);
    let kept = it.house.keep("a", b"12345").await;
    artifacts.sign(&kept).await.unwrap();
    artifacts.archive(job, &kept.name).await.unwrap();
    let closed = it.link("a", &LinkOptions::get()).await;
    assert!(matches!(closed, Err(Error::Archived { .. })), "{closed:?}");
    artifacts.restore(job, &kept.name, Duration::from_secs(1)).await.unwrap();
    it.link("a", &LinkOptions::get()).await.unwrap();
    assert!(matches!(it.link("a", &LinkOptions::put()).await, Err(Error::Exists { .. })));

    // What a bucket's own rules archive is archived without a word to the record.
    let moved = it.house.keep("b", b"12345").await;
    artifacts.sign(&moved).await.unwrap();
    let key = BlobKey::artifact(job, &moved.name);
    artifacts.blobs().set_tier(&key, crate::Tier::Cold).await.unwrap();
    let closed = it.link("b", &LinkOptions::get()).await;
    assert!(matches!(closed, Err(Error::Archived { .. })), "{closed:?}");
}

#[tokio::test]
async fn what_was_put_by_a_link_is_adopted_signed_and_as_good_as_kept() {
    let it = linking();
    assert!(matches!(
        it.adopt("a.html", KeepOptions::default()).await,
        Err(Error::NotFound { .. })
    ));
    let link = it.link("a.html", &LinkOptions::put()).await.unwrap();
    it.put(&link, b"<p>hello").await.unwrap();
    let options = || KeepOptions::default().with_tag("by", "link").with_size_bytes(8);
    let adopted = it.adopt("a.html", options()).await.unwrap();
    assert_eq!((adopted.state, adopted.size_bytes), (ArtifactState::Uploading, 8));
    assert_eq!((&*adopted.content_type, &*adopted.tags["by"]), ("text/html", "link"));
    // Again, before and after it is signed: the same, and no tag comes or goes.
    assert_eq!(it.adopt("a.html", KeepOptions::default()).await.unwrap(), adopted);
    let signed = it.house.artifacts.sign(&adopted).await.unwrap();
    assert_eq!(it.adopt("a.html", options()).await.unwrap(), signed);

    let kept = it.house.keep("b.html", b"<p>hello").await;
    assert_ne!(kept.id, adopted.id);
    let (id, name) = (kept.id, kept.name.clone());
    let as_kept = ArtifactRecord { id, name, tags: BTreeMap::new(), ..adopted };
    assert_eq!(kept, as_kept);
    let link = it.link("a.html", &LinkOptions::get()).await.unwrap();
    assert_eq!(it.grant(&link).method, LinkMethod::Get);
    let refused = it.put(&link, b"x").await.unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
}

#[tokio::test]
async fn what_is_adopted_is_what_was_announced() {
    let it = linking();
    let link = it.link("a", &LinkOptions::put()).await.unwrap();
    it.put(&link, b"12345").await.unwrap();
    let digest = |byte| Sha256Digest::from_bytes([byte; 32]);
    let options = KeepOptions::default;
    for adopted in [false, true] {
        let size = it.adopt("a", options().with_size_bytes(4)).await;
        assert!(matches!(size, Err(Error::SizeMismatch { .. })), "{size:?}");
        let other = it.adopt("a", options().with_expected(digest(1))).await;
        assert!(matches!(other, Err(Error::DigestMismatch { .. })), "{other:?}");
        let large = it.adopt("a", options().with_max_bytes(4)).await;
        assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
        if !adopted {
            assert!(it.house.artifacts.list(&it.house.job).await.unwrap().is_empty());
            it.adopt("a", options().with_size_bytes(5)).await.unwrap();
        }
    }
    // What nobody wants to adopt is deleted as anything else, and its name is free again.
    let link = it.link("b", &LinkOptions::put()).await.unwrap();
    it.put(&link, b"12").await.unwrap();
    assert_eq!(it.house.artifacts.delete(&it.house.job, &name("b")).await.unwrap(), 2);
    it.put(&link, b"12").await.unwrap();
}

#[tokio::test]
async fn what_is_never_adopted_is_a_candidate_of_the_sweep() {
    let it = linking();
    let artifacts = &it.house.artifacts;
    let link = it.link("a", &LinkOptions::put()).await.unwrap();
    it.put(&link, b"12345").await.unwrap();
    let sweep = ArtifactSweep::new(Arc::clone(artifacts.blobs()), Arc::clone(artifacts.index()));
    let candidates = sweep.candidates().await.unwrap();
    assert_eq!((candidates.len(), &*candidates[0].id, candidates[0].bytes), (1, "a", 5));
    it.adopt("a", KeepOptions::default()).await.unwrap();
    assert!(sweep.reap(&candidates[0]).await.is_err(), "adopted meanwhile");
    assert!(it.house.blob(&BlobKey::artifact(&it.house.job, &name("a"))).await.is_some());
}
