//! An artifact's life through the facade.

use super::*;
use crate::{MemoryBlobs, MemoryIndex, SigningKey, Verifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use danube_core::{ErrorClass, ManualClock};
use futures_util::StreamExt;

mod faults;
mod links;
mod lives;

pub(super) struct House {
    pub(super) artifacts: Artifacts,
    key: Arc<SigningKey>,
    clock: ManualClock,
    pub(super) job: JobId,
}

pub(super) fn house() -> House {
    let clock = House::clock();
    let blobs = MemoryBlobs::new().with_clock(Arc::new(clock.clone()));
    House::of(Arc::new(blobs), clock)
}

pub(super) fn name(name: &str) -> ArtifactName {
    name.parse().unwrap()
}

pub(super) async fn read(mut blob: Blob) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = blob.body.next().await {
        all.extend_from_slice(&chunk.unwrap());
    }
    all
}

impl House {
    fn clock() -> ManualClock {
        ManualClock::new(Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap())
    }

    fn over(blobs: Arc<dyn crate::BlobStore>) -> Self {
        Self::of(blobs, Self::clock())
    }

    fn of(blobs: Arc<dyn crate::BlobStore>, clock: ManualClock) -> Self {
        let key = Arc::new(SigningKey::generate().unwrap());
        let artifacts = Artifacts::new(
            blobs,
            Arc::new(MemoryIndex::new()),
            Arc::clone(&key) as _,
            Arc::new(clock.clone()),
        );
        Self { artifacts, key, clock, job: "j".parse().unwrap() }
    }

    pub(super) async fn prove(&self) {
        let input = ProvenanceInput::new(self.job.clone(), "urn:test", "0", serde_json::json!({}));
        let signed = self.artifacts.list(&self.job).await.unwrap();
        self.artifacts.prove(&input, &signed, None).await.unwrap();
    }

    pub(super) async fn keep(&self, named: &str, bytes: &[u8]) -> ArtifactRecord {
        let body = bytes_stream(bytes.to_vec());
        let options = KeepOptions::default();
        self.artifacts.keep(&self.job, &name(named), body, options).await.unwrap()
    }

    pub(super) async fn blob(&self, key: &BlobKey) -> Option<Vec<u8>> {
        match self.artifacts.blobs().get(key, None).await {
            Ok(blob) => Some(read(blob).await),
            Err(e) => {
                assert_eq!(e.class(), ErrorClass::NotFound);
                None
            }
        }
    }
}

#[tokio::test]
async fn an_artifact_is_kept_signed_proved_opened_and_deleted() {
    let house = house();
    let (artifacts, job) = (&house.artifacts, &house.job);
    let kept = house.keep("out/report.html", b"<p>").await;
    assert_eq!((kept.state, kept.size_bytes), (ArtifactState::Uploading, 3));
    assert_eq!(kept.content_type, "text/html");
    assert_eq!(kept.created_at.as_nanosecond(), 1_700_000_000_123_000_000);
    let early = artifacts.open(job, &kept.name, None).await.unwrap_err();
    assert_eq!(early.class(), ErrorClass::Unavailable);

    house.clock.advance(Duration::from_secs(5));
    let signed = artifacts.sign(&kept).await.unwrap();
    assert_eq!(signed, ArtifactRecord { state: ArtifactState::Active, ..kept });
    assert_eq!(artifacts.get(job, &signed.name).await.unwrap(), signed);
    let signature = house.blob(&BlobKey::signature(job, &signed.name)).await.unwrap();
    let signature = crate::Signature::from_bytes(signature);
    let keys = house.key.public_keys();
    keys.verify(None, signed.digest.as_bytes(), &signature).unwrap();

    let input = ProvenanceInput::new(job.clone(), "urn:test", "0", serde_json::json!({}));
    for _ in 0..2 {
        artifacts.prove(&input, std::slice::from_ref(&signed), None).await.unwrap();
    }
    let envelope = house.blob(&BlobKey::envelope(job)).await.unwrap();
    let envelope = Envelope::parse(&envelope).unwrap();
    envelope.verify(&keys).unwrap();
    let statement = attest::Statement::parse(envelope.payload()).unwrap();
    let [subject] = statement.subjects() else { panic!("one artifact: {statement:?}") };
    let in_it = STANDARD.decode(subject.annotations.signature.as_ref().unwrap()).unwrap();
    assert_eq!(in_it, signature.as_bytes());
    assert_eq!(house.blob(&BlobKey::provenance(job)).await.unwrap(), envelope.payload());

    let (record, blob) =
        artifacts.open(job, &signed.name, Some(ByteRange::new(1, 9))).await.unwrap();
    assert_eq!((record, read(blob).await), (signed.clone(), b"p>".to_vec()));
    assert_eq!(artifacts.list(job).await.unwrap(), std::slice::from_ref(&signed));

    assert!(artifacts.delete(job, &signed.name).await.unwrap() > 3);
    assert_eq!(artifacts.delete(job, &signed.name).await.unwrap(), 0);
    assert_eq!(artifacts.list(job).await.unwrap(), []);
    assert!(artifacts.blobs().list(job).await.unwrap().is_empty(), "provenance went with the last");
    let gone = artifacts.open(job, &signed.name, None).await.unwrap_err();
    assert_eq!(gone.class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn many_are_signed_like_each() {
    let house = house();
    let mut kept = Vec::new();
    for at in 0..SYNCED_APART + 3 {
        kept.push(house.keep(&format!("out/{at}"), &[at as u8; 100]).await);
    }
    kept.swap(0, 5);
    let few = house.artifacts.sign_all(&kept[..2]).await.unwrap();
    let signed = house.artifacts.sign_all(&kept).await.unwrap();
    assert_eq!(few, signed[..2]);
    for (kept, signed) in kept.iter().zip(signed) {
        assert_eq!(signed, ArtifactRecord { state: ArtifactState::Active, ..kept.clone() });
        assert_eq!(house.artifacts.get(&house.job, &kept.name).await.unwrap(), signed);
        let signature = house.blob(&BlobKey::signature(&house.job, &kept.name)).await.unwrap();
        let signature = crate::Signature::from_bytes(signature);
        house.key.public_keys().verify(None, kept.digest.as_bytes(), &signature).unwrap();
    }
    // One that is gone: none of them becomes active that was not.
    let fresh = house.keep("fresh", b"1").await;
    house.artifacts.delete(&house.job, &kept[7].name).await.unwrap();
    let with_a_gone_one = [fresh.clone(), kept[7].clone()];
    let refused = house.artifacts.sign_all(&with_a_gone_one).await.unwrap_err();
    assert!(matches!(refused, Error::NoRecord { .. }), "{refused:?}");
    assert_eq!(house.artifacts.get(&house.job, &fresh.name).await.unwrap(), fresh);
}

#[tokio::test]
async fn what_is_being_deleted_is_gone_for_readers() {
    let house = house();
    let kept = house.artifacts.sign(&house.keep("a", b"x").await).await.unwrap();
    let deleted = ArtifactState::Deleted;
    house
        .artifacts
        .index()
        .change(&house.job, &kept.name, &RecordChange::state(deleted))
        .await
        .unwrap();
    let error = house.artifacts.open(&house.job, &kept.name, None).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Gone);
    assert_eq!(house.artifacts.list(&house.job).await.unwrap(), []);
}

#[tokio::test]
async fn a_refused_body_leaves_no_record() {
    let house = house();
    let (artifacts, job, named) = (&house.artifacts, &house.job, name("a"));
    let long_tag = KeepOptions::default().with_tag("k", "v".repeat(2_000));
    let cases = [
        (KeepOptions::default().with_max_bytes(2), ErrorClass::Exhausted),
        (
            KeepOptions::default().with_expected(Sha256Digest::from_bytes([1; 32])),
            ErrorClass::Invalid,
        ),
        (long_tag, ErrorClass::Invalid),
        (KeepOptions::default().with_content_type("a\nb"), ErrorClass::Invalid),
    ];
    for (options, class) in cases {
        let error = artifacts.keep(job, &named, bytes_stream("abc"), options).await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert_eq!(artifacts.list(job).await.unwrap(), []);
        assert!(artifacts.blobs().list(job).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn names_of_what_danube_adds_are_names_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let in_files = House::over(Arc::new(crate::FsBlobs::new(dir.path())));
    for (desc, house) in [("memory", house()), ("files", in_files)] {
        let (artifacts, job) = (&house.artifacts, &house.job);
        let names = [
            "metadata.json/a",
            "provenance.dsse.json/a/b",
            "provenance.json/a",
            "signatures",
            "signatures.sig",
        ];
        let mut records = Vec::new();
        for named in names {
            let kept = house.keep(named, named.as_bytes()).await;
            records.push(artifacts.sign(&kept).await.unwrap());
        }
        let input = ProvenanceInput::new(job.clone(), "urn:test", "0", serde_json::json!({}));
        artifacts.prove(&input, &records, None).await.unwrap();
        assert_eq!(artifacts.list(job).await.unwrap(), records, "{desc}");
        for record in &records {
            let (_, blob) = artifacts.open(job, &record.name, None).await.unwrap();
            assert_eq!(read(blob).await, record.name.as_str().as_bytes(), "{desc}");
            let signature = house.blob(&BlobKey::signature(job, &record.name)).await.unwrap();
            let signature = crate::Signature::from_bytes(signature);
            let keys = house.key.public_keys();
            keys.verify(None, record.digest.as_bytes(), &signature).unwrap();
        }
        let envelope = house.blob(&BlobKey::envelope(job)).await.unwrap();
        Envelope::parse(&envelope).unwrap();
        for record in &records {
            artifacts.delete(job, &record.name).await.unwrap();
        }
        assert!(artifacts.blobs().list(job).await.unwrap().is_empty(), "{desc}");
    }
}

#[tokio::test]
async fn keeping_twice_is_refused_unless_it_replaces() {
    let house = house();
    let (artifacts, job, named) = (&house.artifacts, &house.job, name("a"));
    artifacts.sign(&house.keep("a", b"one").await).await.unwrap();
    let again = artifacts.keep(job, &named, bytes_stream("two"), KeepOptions::default()).await;
    assert_eq!(again.unwrap_err().class(), ErrorClass::Conflict);
    let replace = KeepOptions::default()
        .with_mode(PutMode::Replace)
        .with_keep_for(Some(Duration::from_millis(9_500)))
        .with_keep_forever()
        .with_tag("branch", "main");
    let first = artifacts.get(job, &named).await.unwrap();
    let record = artifacts.keep(job, &named, bytes_stream("two!"), replace).await.unwrap();
    assert_ne!(record.id, first.id);
    let missing = artifacts.find(&first.id).await.unwrap_err();
    assert_eq!(missing.class(), ErrorClass::NotFound);
    assert_eq!(artifacts.find(&record.id).await.unwrap(), record);
    assert_eq!((record.state, record.size_bytes), (ArtifactState::Uploading, 4));
    assert_eq!(record.keep_for, Some(Duration::from_secs(9)));
    assert_eq!(artifacts.get(job, &named).await.unwrap(), record);
    assert!(record.keep_forever && record.tags["branch"] == "main");
}

#[tokio::test]
async fn only_what_is_stored_is_signed() {
    let house = house();
    let (artifacts, job, named) = (&house.artifacts, &house.job, name("a"));
    let old = house.keep("a", b"old").await;
    let replace = KeepOptions::default().with_mode(PutMode::Replace);
    let new = artifacts.keep(job, &named, bytes_stream("new"), replace).await.unwrap();
    assert!(matches!(artifacts.sign(&old).await, Err(Error::DigestMismatch { .. })));
    assert_eq!(house.blob(&BlobKey::signature(job, &named)).await, None);
    artifacts
        .index()
        .change(job, &named, &RecordChange::state(ArtifactState::Deleted))
        .await
        .unwrap();
    assert_eq!(artifacts.sign(&new).await.unwrap_err().class(), ErrorClass::Gone);
    artifacts.delete(job, &named).await.unwrap();
    assert_eq!(artifacts.sign(&new).await.unwrap_err().class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn more_artifacts_than_a_page_are_listed() {
    let house = house();
    for at in 0..PAGE * 2 + 1 {
        house.keep(&format!("f{at:05}"), b"x").await;
    }
    let listed = house.artifacts.list(&house.job).await.unwrap();
    assert_eq!(listed.len(), PAGE * 2 + 1);
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
}

#[tokio::test]
async fn all_of_a_job_is_deleted_but_what_is_kept_for_ever() {
    let house = house();
    let (artifacts, job) = (&house.artifacts, &house.job);
    for at in 0..PAGE + 3 {
        house.keep(&format!("f{at:05}"), b"xy").await;
    }
    let pinned = RecordChange::default().with_keep_forever(true).with_tag("release", "1.0");
    let pinned = artifacts.change(job, &name("f00007"), &pinned).await.unwrap();
    assert!(pinned.keep_forever && pinned.expires_at().is_none());
    let deleted = artifacts.delete_job(job).await.unwrap();
    let gone = PAGE as u64 + 2;
    assert_eq!(deleted, Deleted { artifacts: gone, kept: 1, bytes_freed: gone * 2 });
    assert_eq!(artifacts.list(job).await.unwrap(), std::slice::from_ref(&pinned));
    let let_go = RecordChange::default()
        .with_keep_forever(false)
        .with_keep_for(Some(Duration::from_secs(60)))
        .without_tag("release");
    let record = artifacts.change(job, &pinned.name, &let_go).await.unwrap();
    let expires_at = record.created_at.as_second() + 60;
    assert_eq!(record.expires_at().map(|time| time.as_second()), Some(expires_at));
    assert!(record.tags.is_empty());
    assert_eq!(artifacts.delete_job(job).await.unwrap().artifacts, 1);
    assert_eq!(artifacts.delete_job(job).await.unwrap(), Deleted::default());
    let state = RecordChange::state(ArtifactState::Active);
    assert_eq!(
        artifacts.change(job, &name("a"), &state).await.unwrap_err().class(),
        ErrorClass::Invalid
    );
    let none = artifacts.change(job, &name("a"), &RecordChange::default()).await.unwrap_err();
    assert_eq!(none.class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn an_upload_in_parts_becomes_an_artifact_like_any_other() {
    let house = house();
    let blobs = MemoryBlobs::new();
    let artifacts = Artifacts::new(
        Arc::new(blobs.clone()),
        Arc::new(MemoryIndex::new()),
        Arc::clone(&house.key) as _,
        Arc::new(house.clock.clone()),
    );
    let (named, options) = (name("picture"), KeepOptions::default().with_tag("k", "v"));
    let key = BlobKey::artifact(&house.job, &named);
    let id = blobs.begin(&key, options.put(), crate::MIN_PART_BYTES).await.unwrap();
    let png = bytes::Bytes::from_static(b"\x89PNG\r\n\x1a\n and so on");
    blobs.put_part(&id, 0, png.clone()).await.unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let kept = artifacts.keep_upload(&blobs, &id, options.clone()).await.unwrap();
        ids.insert(kept.id);
        assert_eq!((kept.content_type.as_str(), kept.size_bytes), ("image/png", png.len() as u64));
        assert_eq!(kept.tags["k"], "v");
        artifacts.sign(&kept).await.unwrap();
    }
    assert_eq!(ids.len(), 1, "completed twice, it is one artifact");
    let (_, blob) = artifacts.open(&house.job, &named, None).await.unwrap();
    assert_eq!(read(blob).await, png);
    let metadata = BlobKey::provenance(&house.job);
    let id = blobs.begin(&metadata, PutOptions::default(), crate::MIN_PART_BYTES).await.unwrap();
    let refused = artifacts.keep_upload(&blobs, &id, KeepOptions::default()).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Invalid);
}

#[tokio::test]
async fn an_upload_completed_again_later_changes_nothing() {
    let house = house();
    let blobs = MemoryBlobs::new();
    let index = MemoryIndex::new();
    let artifacts = Artifacts::new(
        Arc::new(blobs.clone()),
        Arc::new(index.clone()),
        Arc::clone(&house.key) as _,
        Arc::new(house.clock.clone()),
    );
    let (job, named) = (&house.job, name("a"));
    let key = BlobKey::artifact(job, &named);
    let replace = KeepOptions::default().with_mode(PutMode::Replace).with_content_type("a/b");
    let upload = async |bytes: &'static str| {
        let id = blobs.begin(&key, replace.put(), crate::MIN_PART_BYTES).await.unwrap();
        blobs.put_part(&id, 0, bytes.into()).await.unwrap();
        id
    };
    let again = async |id| artifacts.keep_upload(&blobs, id, replace.clone()).await;

    let first = upload("first").await;
    let kept = again(&first).await.unwrap();
    artifacts.sign(&kept).await.unwrap();
    let pinned = RecordChange::default().with_keep_forever(true).with_tag("k", "v");
    artifacts.change(job, &named, &pinned).await.unwrap();
    house.clock.advance(Duration::from_secs(9));
    let archived = artifacts.archive(job, &named).await.unwrap();
    assert_eq!(again(&first).await.unwrap(), archived, "it is as it was, and not only its id");

    // Another one took its place, and whoever completed that died before it was recorded.
    let second = upload("second").await;
    blobs.complete(&second).await.unwrap();
    let kept = again(&second).await.unwrap();
    assert_eq!((kept.id, kept.size_bytes), (ArtifactId::of_upload(&second), 6));
    assert!(matches!(again(&first).await.unwrap_err(), Error::Replaced { .. }));
    assert_eq!(artifacts.get(job, &named).await.unwrap(), kept);

    let deleted = RecordChange::state(ArtifactState::Deleted);
    index.change(job, &named, &deleted).await.unwrap();
    assert_eq!(again(&second).await.unwrap_err().class(), ErrorClass::Gone);
    artifacts.delete(job, &named).await.unwrap();
    for id in [&first, &second] {
        assert_eq!(again(id).await.unwrap_err().class(), ErrorClass::NotFound);
    }
    assert_eq!(artifacts.list(job).await.unwrap(), [], "no record of bytes that are gone");
}

#[tokio::test]
async fn a_body_that_ended_is_not_asked_again() {
    let house = house();
    // Such a stream panics when it is.
    let once =
        futures_util::stream::unfold(true, async |more| more.then(|| (Ok("x".into()), false)));
    let options = KeepOptions::default();
    let kept = house.artifacts.keep(&house.job, &name("a"), Box::pin(once), options).await;
    assert_eq!(kept.unwrap().size_bytes, 1);
}

#[tokio::test]
async fn the_first_bytes_are_looked_at_and_arrive() {
    let house = house();
    let png: Vec<u8> = [&b"\x89PNG\r\n\x1a\n"[..], &[0; 20_000]].concat();
    for cut in [1, 7, 9_000, 20_008] {
        let chunks: Vec<_> =
            png.chunks(cut).map(|c| Ok(bytes::Bytes::copy_from_slice(c))).collect();
        let body: ByteStream = Box::pin(futures_util::stream::iter(chunks));
        let named = name(&format!("picture{cut}"));
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let options = KeepOptions::default()
            .with_size_bytes(png.len() as u64)
            .with_progress(move |bytes, whole| tell.lock().unwrap().push((bytes, whole)));
        let kept = house.artifacts.keep(&house.job, &named, body, options).await.unwrap();
        assert_eq!((kept.content_type.as_str(), kept.kind), ("image/png", ArtifactKind::Image));
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told.len(), png.len().div_ceil(cut), "once for each piece");
        assert!(told.is_sorted() && told.iter().all(|(_, whole)| *whole == Some(kept.size_bytes)));
        assert_eq!(told.last().unwrap().0, kept.size_bytes);
        assert!(house.blob(&BlobKey::artifact(&house.job, &named)).await.unwrap() == png);
    }
    let told = KeepOptions::default().with_kind(ArtifactKind::Log);
    let body = bytes_stream(png.clone());
    let kept = house.artifacts.keep(&house.job, &name("told"), body, told).await.unwrap();
    assert_eq!(kept.kind, ArtifactKind::Log);
    let failing: ByteStream =
        Box::pin(futures_util::stream::iter([Ok("abc".into()), Err("gone".into())]));
    let options = KeepOptions::default();
    let failed = house.artifacts.keep(&house.job, &name("a"), failing, options).await;
    assert!(matches!(failed, Err(Error::Body { .. })), "{failed:?}");
}

#[tokio::test]
async fn whoever_shows_the_progress_and_panics_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let in_files = House::over(Arc::new(crate::FsBlobs::new(dir.path())));
    for house in [house(), in_files] {
        let (artifacts, job) = (house.artifacts.clone(), house.job.clone());
        let keeping = tokio::spawn(async move {
            let pieces = (0..40).map(|_| Ok(bytes::Bytes::from(vec![7; 100_000])));
            let body = Box::pin(futures_util::stream::iter(pieces.collect::<Vec<_>>()));
            let options =
                KeepOptions::default().with_progress(|bytes, _| assert!(bytes < 3_000_000));
            artifacts.keep(&job, &name("a"), body, options).await
        });
        assert!(keeping.await.unwrap_err().is_panic());
        assert!(house.artifacts.blobs().list(&house.job).await.unwrap().is_empty());
        house.keep("a", b"again").await;
    }
    assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
}

#[test]
fn first_bytes_and_names_tell_media_types() {
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    let zip = b"PK\x03\x04\x14\0\0\0";
    let cases: [(&str, &[u8], &str); 14] = [
        ("a.txt", b"", "text/plain"),
        ("dir.html/x", b"", "application/octet-stream"),
        ("a.tar.gz", b"\x1f\x8b\x08\0", "application/gzip"),
        ("a.JSON", b"{}", "application/json"),
        ("report", b"", "application/octet-stream"),
        ("report", b"all good", "text/plain"),
        ("report", "half a character: \u{e9}".as_bytes().split_last().unwrap().1, "text/plain"),
        ("report", b"\xff\xfe\xfd words", "application/octet-stream"),
        ("report", b"zero \0 inside", "application/octet-stream"),
        ("picture", png, "image/png"),
        ("lies.txt", png, "image/png"),
        ("page.xhtml", b"<html><body>", "application/xhtml+xml"),
        ("lib.jar", zip, "application/java-archive"),
        ("a.unknown", zip, "application/zip"),
    ];
    for (named, head, told) in cases {
        assert_eq!(content_type_of(&name(named), head), told, "{named}");
    }
}
