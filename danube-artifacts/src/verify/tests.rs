//! A case for every way in which evidence can be wrong; each names its part.

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;

use crate::attest::{Envelope, LogSubject, ProvenanceInput, Source};
use crate::{
    ArtifactRecord, Artifacts, FsBlobs, KeepOptions, MemoryIndex, Opened, Signer, SigningKey,
    SigningKeys, bytes_stream,
};
use danube_core::SystemClock;
use sha2::{Digest as _, Sha256};

const FILE: &[u8] = b"the bytes of a report";
const NAME: &str = "out/report.txt";

/// A job's directory as Danube writes it, with two artifacts, and its keys.
struct Tree {
    dir: tempfile::TempDir,
    keys: PublicKeys,
    key: Arc<SigningKey>,
}

impl Tree {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, opened) = SigningKeys::open_or_create(&dir.path().join("keys")).unwrap();
        assert_eq!(opened, Opened::Created);
        let tree = Self { keys: key.public_keys(), key: Arc::new(key), dir };
        tree.job("j", &[(NAME, FILE), ("other", b"other bytes"), ("dir/report.txt", b"a third")])
            .await;
        tree
    }

    async fn job(&self, id: &str, files: &[(&str, &[u8])]) {
        let job: JobId = id.parse().unwrap();
        let artifacts = Artifacts::new(
            Arc::new(FsBlobs::new(self.dir.path().join("artifacts"))),
            Arc::new(MemoryIndex::new()),
            Arc::clone(&self.key) as Arc<dyn Signer>,
            Arc::new(SystemClock),
        );
        let mut records: Vec<ArtifactRecord> = Vec::new();
        for (name, bytes) in files {
            let (name, body) = (name.parse().unwrap(), bytes_stream(bytes.to_vec()));
            let kept = artifacts.keep(&job, &name, body, KeepOptions::default()).await.unwrap();
            records.push(artifacts.sign(&kept).await.unwrap());
        }
        let parameters = serde_json::json!({"command": ["make"]});
        let input = ProvenanceInput::new(job.clone(), "urn:test", "0", parameters);
        let log = LogSubject::new(&job, 3, Sha256Digest::from_bytes([1; 32]));
        artifacts.prove(&input, &records, Some(&log)).await.unwrap();
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("artifacts/j").join(below)
    }

    fn signature(&self) -> PathBuf {
        self.path(&format!(".danube/signatures/{NAME}.sig"))
    }

    fn envelope(&self) -> PathBuf {
        self.path(".danube/provenance.dsse.json")
    }

    fn provenance(&self) -> PathBuf {
        self.path(".danube/provenance.json")
    }

    fn options(&self) -> VerifyOptions {
        VerifyOptions::new(self.keys.clone())
    }

    fn verify(&self) -> Result<Verified<Evidence>, VerifyError> {
        verify_file(&self.path(NAME), &self.options())
    }
}

/// Writes over a file whatever its mode, as somebody would who means harm.
fn overwrite(path: &Path, bytes: impl AsRef<[u8]>) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_danube_kept_verifies_in_place_and_says_what_was_checked() {
    let tree = Tree::new().await;
    let evidence = tree.verify().unwrap();
    assert_eq!(evidence.size_bytes, FILE.len() as u64);
    assert_eq!(evidence.name.as_deref(), Some(NAME));
    assert_eq!(evidence.job.as_ref().map(JobId::as_str), Some("j"));
    assert_eq!(evidence.key_id, tree.key.key_id());
    assert_eq!(evidence.checks.len(), 5);
    for (check, word) in evidence.checks.iter().zip([
        "read 21 bytes",
        "envelope",
        "byte for byte",
        "job j",
        "signature",
    ]) {
        assert!(check.contains(word), "{check}");
    }
    let all = tree
        .options()
        .with_expected_job("j".parse().unwrap())
        .with_expected_name(NAME.parse().unwrap());
    verify_file(&tree.path(NAME), &all).unwrap();
    let only = verify_file(&tree.path(NAME), &tree.options().with_signature_only()).unwrap();
    assert_eq!((only.job.as_ref(), only.checks.len()), (None, 2));
    verify_file(&tree.path("dir/../out/report.txt"), &tree.options()).unwrap();
}

#[tokio::test]
async fn a_file_taken_out_of_its_tree_verifies_with_its_evidence_beside_it() {
    let tree = Tree::new().await;
    let away = tempfile::tempdir().unwrap();
    let at = |name: &str| away.path().join(name);
    fs::copy(tree.path(NAME), at("report.txt")).unwrap();
    let none = verify_file(&at("report.txt"), &tree.options()).unwrap_err();
    assert_eq!((none.part, none.failure), (Part::Signature, Failure::Missing));
    fs::copy(tree.signature(), at("report.txt.sig")).unwrap();
    verify_file(&at("report.txt"), &tree.options().with_signature_only()).unwrap();
    let none = verify_file(&at("report.txt"), &tree.options()).unwrap_err();
    assert_eq!((none.part, none.failure), (Part::Envelope, Failure::Missing));
    fs::copy(tree.envelope(), at("provenance.dsse.json")).unwrap();
    let none = verify_file(&at("report.txt"), &tree.options()).unwrap_err();
    assert_eq!((none.part, none.failure), (Part::Provenance, Failure::Missing));
    fs::copy(tree.provenance(), at("provenance.json")).unwrap();
    // Two artifacts of the job end in this name: the digest tells which it is.
    let evidence = verify_file(&at("report.txt"), &tree.options()).unwrap();
    assert_eq!(evidence.name.as_deref(), Some(NAME));

    let expected = tree.options().with_expected_name("dir/report.txt".parse().unwrap());
    let other = verify_file(&at("report.txt"), &expected).unwrap_err();
    assert_eq!((other.part, other.failure), (Part::Artifact, Failure::Mismatch));
    fs::rename(at("report.txt"), at("renamed")).unwrap();
    let given = tree.options().with_signature(at("report.txt.sig"));
    let renamed = verify_file(&at("renamed"), &given).unwrap_err();
    assert_eq!((renamed.part, renamed.failure), (Part::Envelope, Failure::Mismatch));
    let named = given.with_expected_name(NAME.parse().unwrap());
    verify_file(&at("renamed"), &named).unwrap();
    for file in [tree.envelope(), tree.provenance()] {
        verify_file(&at("renamed"), &named.clone().with_provenance(file)).unwrap();
    }
    let stranger = named.with_provenance(at("report.txt.sig"));
    assert_eq!(verify_file(&at("renamed"), &stranger).unwrap_err().failure, Failure::Unanswerable);
}

#[tokio::test]
async fn every_flipped_byte_is_refused_and_its_part_named() {
    let tree = Tree::new().await;
    let parts = [
        (tree.path(NAME), Part::Artifact),
        (tree.signature(), Part::Signature),
        (tree.envelope(), Part::Envelope),
        (tree.provenance(), Part::Provenance),
    ];
    for (path, part) in parts {
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            overwrite(&path, &bad);
            let error = tree.verify().unwrap_err();
            assert_eq!(error.part, part, "byte {at} of {}: {error}", path.display());
            assert!(error.to_string().starts_with(&part.to_string()), "{error}");
        }
        overwrite(&path, &good);
        tree.verify().unwrap();
    }
}

#[tokio::test]
async fn every_case_is_refused_with_its_part_and_reason() {
    type Spoil = fn(&Tree);
    use Failure::{Malformed, Mismatch, Missing, Unreadable};
    use Part::{Artifact, Envelope, Provenance, Signature};
    let cases: &[(&str, Spoil, Part, Failure)] = &[
        ("no file", |t| fs::remove_file(t.path(NAME)).unwrap(), Artifact, Missing),
        ("no signature", |t| fs::remove_file(t.signature()).unwrap(), Signature, Missing),
        ("no envelope", |t| fs::remove_file(t.envelope()).unwrap(), Envelope, Missing),
        ("no provenance", |t| fs::remove_file(t.provenance()).unwrap(), Provenance, Missing),
        ("empty file", |t| overwrite(&t.path(NAME), b""), Artifact, Mismatch),
        ("empty signature", |t| overwrite(&t.signature(), b""), Signature, Missing),
        ("empty envelope", |t| overwrite(&t.envelope(), b""), Envelope, Missing),
        ("empty provenance", |t| overwrite(&t.provenance(), b""), Provenance, Missing),
        ("a byte more", |t| overwrite(&t.path(NAME), [FILE, b"\n"].concat()), Artifact, Mismatch),
        ("a byte less", |t| overwrite(&t.path(NAME), &FILE[1..]), Artifact, Mismatch),
        (
            "another artifact's bytes",
            |t| {
                overwrite(&t.path(NAME), fs::read(t.path("other")).unwrap());
            },
            Artifact,
            Mismatch,
        ),
        (
            "a directory for a file",
            |t| {
                fs::remove_file(t.path(NAME)).unwrap();
                fs::create_dir(t.path(NAME)).unwrap();
            },
            Artifact,
            Unreadable,
        ),
        (
            "a link for a file",
            |t| {
                fs::rename(t.path(NAME), t.path("moved")).unwrap();
                symlink(t.path("moved"), t.path(NAME)).unwrap();
            },
            Artifact,
            Unreadable,
        ),
        (
            "a pipe for a file",
            |t| {
                fs::remove_file(t.path(NAME)).unwrap();
                fifo(&t.path(NAME));
            },
            Artifact,
            Unreadable,
        ),
        (
            "a directory for a signature",
            |t| {
                fs::remove_file(t.signature()).unwrap();
                fs::create_dir(t.signature()).unwrap();
            },
            Signature,
            Unreadable,
        ),
        (
            "a pipe for a signature",
            |t| {
                fs::remove_file(t.signature()).unwrap();
                fifo(&t.signature());
            },
            Signature,
            Unreadable,
        ),
        (
            "a pipe for an envelope",
            |t| {
                fs::remove_file(t.envelope()).unwrap();
                fifo(&t.envelope());
            },
            Envelope,
            Unreadable,
        ),
        (
            "a directory for the provenance",
            |t| {
                fs::remove_file(t.provenance()).unwrap();
                fs::create_dir(t.provenance()).unwrap();
            },
            Provenance,
            Unreadable,
        ),
        (
            "63 bytes",
            |t| {
                let good = fs::read(t.signature()).unwrap();
                overwrite(&t.signature(), &good[..63]);
            },
            Signature,
            Malformed,
        ),
        (
            "65 bytes",
            |t| {
                let good = fs::read(t.signature()).unwrap();
                overwrite(&t.signature(), [&good[..], b"\n"].concat());
            },
            Signature,
            Malformed,
        ),
        (
            "128 bytes",
            |t| {
                let good = fs::read(t.signature()).unwrap();
                overwrite(&t.signature(), good.repeat(2));
            },
            Signature,
            Malformed,
        ),
        (
            "a very long signature",
            |t| {
                overwrite(&t.signature(), vec![0; 100_000]);
            },
            Signature,
            Malformed,
        ),
        ("zeros", |t| overwrite(&t.signature(), [0; 64]), Signature, Mismatch),
        (
            "another artifact's signature",
            |t| {
                overwrite(
                    &t.signature(),
                    fs::read(t.path(".danube/signatures/other.sig")).unwrap(),
                );
            },
            Signature,
            Mismatch,
        ),
        (
            "the signature in hexadecimal",
            |t| {
                let hex: String =
                    fs::read(t.signature()).unwrap().iter().map(|b| format!("{b:02x}")).collect();
                overwrite(&t.signature(), hex);
            },
            Signature,
            Malformed,
        ),
        (
            "the same signature with S + L",
            |t| {
                overwrite(&t.signature(), malleable(&fs::read(t.signature()).unwrap()));
            },
            Signature,
            Mismatch,
        ),
        (
            "the envelope's signature over the file",
            |t| {
                let envelope =
                    crate::attest::Envelope::parse(&fs::read(t.envelope()).unwrap()).unwrap();
                let wire: serde_json::Value = serde_json::from_slice(&envelope.to_bytes()).unwrap();
                let sig = wire["signatures"][0]["sig"].as_str().unwrap();
                let sig = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, sig)
                    .unwrap();
                overwrite(&t.signature(), sig);
            },
            Signature,
            Mismatch,
        ),
        (
            "envelope and provenance swapped",
            |t| {
                let swap = t.path("swap");
                fs::rename(t.envelope(), &swap).unwrap();
                fs::rename(t.provenance(), t.envelope()).unwrap();
                fs::rename(swap, t.provenance()).unwrap();
            },
            Envelope,
            Malformed,
        ),
        (
            "the payload for the envelope",
            |t| {
                overwrite(&t.envelope(), fs::read(t.provenance()).unwrap());
            },
            Envelope,
            Malformed,
        ),
        (
            "a line end behind the envelope",
            |t| {
                let good = fs::read(t.envelope()).unwrap();
                overwrite(&t.envelope(), [&good[..], b"\n"].concat());
            },
            Envelope,
            Malformed,
        ),
        (
            "no signatures in the envelope",
            |t| {
                edit(&t.envelope(), |json| json["signatures"] = serde_json::json!([]));
            },
            Envelope,
            Malformed,
        ),
        (
            "a signature twice in the envelope",
            |t| {
                edit(&t.envelope(), |json| {
                    let one = json["signatures"][0].clone();
                    json["signatures"] = serde_json::json!([one, one]);
                });
            },
            Envelope,
            Malformed,
        ),
        (
            "the provenance without its line end",
            |t| {
                let good = fs::read(t.provenance()).unwrap();
                overwrite(&t.provenance(), &good[..good.len() - 1]);
            },
            Provenance,
            Mismatch,
        ),
        (
            "the provenance respelled",
            |t| {
                edit(&t.provenance(), |_| ());
            },
            Provenance,
            Mismatch,
        ),
        (
            "file and name swapped within the job",
            |t| {
                let (one, other) =
                    (fs::read(t.path(NAME)).unwrap(), fs::read(t.path("other")).unwrap());
                overwrite(&t.path(NAME), other);
                overwrite(&t.path("other"), one);
                fs::copy(t.path(".danube/signatures/other.sig"), t.path("out/report.txt.sig"))
                    .unwrap();
            },
            Artifact,
            Mismatch,
        ),
        (
            "a file that the provenance does not know",
            |t| {
                fs::rename(t.path(NAME), t.path("out/new")).unwrap();
                fs::rename(t.signature(), t.path(".danube/signatures/out/new.sig")).unwrap();
                fs::create_dir(t.path("keep")).unwrap();
                fs::copy(t.path("out/new"), t.path(NAME)).unwrap();
                fs::copy(t.path(".danube/signatures/out/new.sig"), t.signature()).unwrap();
                // Under its own name it still verifies; under the new one it must not.
                t.verify().unwrap();
                let error = verify_file(&t.path("out/new"), &t.options()).unwrap_err();
                assert_eq!((error.part, error.failure), (Envelope, Mismatch));
                fs::remove_file(t.envelope()).unwrap();
            },
            Envelope,
            Missing,
        ),
    ];
    for (desc, spoil, part, failure) in cases {
        let tree = Tree::new().await;
        tree.verify().unwrap();
        spoil(&tree);
        let error = tree.verify().expect_err(desc);
        assert_eq!((error.part, error.failure), (*part, *failure), "{desc}: {error}");
        assert!(!error.reason.contains('\n') && error.reason.len() > 10, "{desc}: {error}");
    }
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    overwrite(path, serde_json::to_vec(&json).unwrap());
}

/// Adds the order of the group to S: the same equation holds, and another signature it is not.
pub(super) fn malleable(signature: &[u8]) -> Vec<u8> {
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10_u8,
    ];
    let mut bytes = signature.to_vec();
    let mut carry = 0;
    for (byte, add) in bytes[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    bytes
}

#[tokio::test]
async fn the_evidence_of_another_job_or_key_does_not_hold() {
    let tree = Tree::new().await;
    // The same bytes under the same name, of another job.
    tree.job("k", &[(NAME, FILE)]).await;
    let k = tree.dir.path().join("artifacts/k");
    for file in ["provenance.dsse.json", "provenance.json"] {
        overwrite(
            &tree.path(".danube").join(file),
            fs::read(k.join(".danube").join(file)).unwrap(),
        );
    }
    let job = |id: &str| tree.options().with_expected_job(id.parse().unwrap());
    assert_eq!(tree.verify().unwrap().job.as_ref().map(JobId::as_str), Some("k"));
    let error = verify_file(&tree.path(NAME), &job("j")).unwrap_err();
    assert_eq!((error.part, error.failure), (Part::Envelope, Failure::Mismatch));
    assert!(error.reason.contains("of job k, not of j"), "{error}");
    // An artifact of the first job that the second never made.
    let error = verify_file(&tree.path("other"), &tree.options()).unwrap_err();
    assert_eq!((error.part, error.failure), (Part::Envelope, Failure::Mismatch));

    let stranger = SigningKey::generate().unwrap().public_keys();
    let path = k.join(NAME);
    let error = verify_file(&path, &VerifyOptions::new(stranger.clone())).unwrap_err();
    assert_eq!((error.part, error.failure), (Part::Envelope, Failure::UnknownKey));
    assert!(error.reason.contains(tree.key.key_id().as_str()), "{error}");
    let only = VerifyOptions::new(stranger.clone()).with_signature_only();
    let error = verify_file(&path, &only).unwrap_err();
    assert_eq!((error.part, error.failure), (Part::Signature, Failure::Mismatch));
    verify_file(&path, &VerifyOptions::new(stranger.and(tree.keys.clone()))).unwrap();
}

#[tokio::test]
async fn a_forger_with_a_key_of_their_own_gets_nowhere() {
    let tree = Tree::new().await;
    let forger = SigningKey::generate().unwrap();
    let good = fs::read(tree.envelope()).unwrap();
    // The forger signs the true payload and claims the trusted key's id.
    let parsed = Envelope::parse(&good).unwrap();
    let sig = forger
        .sign(&crate::attest::pae(crate::attest::PAYLOAD_TYPE, parsed.payload()))
        .await
        .unwrap();
    let encoded =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, sig.as_bytes());
    let text = String::from_utf8(good).unwrap();
    let start = text.rfind(":\"").unwrap() + 2;
    overwrite(&tree.envelope(), format!("{}{encoded}\"}}]}}", &text[..start]));
    let error = tree.verify().unwrap_err();
    assert_eq!((error.part, error.failure), (Part::Envelope, Failure::Mismatch));
    // And under the forger's own id.
    let own = text.replace(tree.key.key_id().as_str(), forger.key_id().as_str());
    overwrite(&tree.envelope(), own);
    assert_eq!(tree.verify().unwrap_err().failure, Failure::UnknownKey);
}

#[tokio::test]
async fn in_its_tree_a_file_counts_under_its_whole_name_only() {
    let tree = Tree::new().await;
    // The bytes and the last component are known, the directory is not.
    let signature = fs::read(tree.signature()).unwrap();
    for elsewhere in ["elsewhere/report.txt", "report.txt"] {
        overwrite(&tree.path(elsewhere), FILE);
        overwrite(&tree.path(&format!(".danube/signatures/{elsewhere}.sig")), &signature);
        let error = verify_file(&tree.path(elsewhere), &tree.options()).unwrap_err();
        assert_eq!((error.part, error.failure), (Part::Envelope, Failure::Mismatch));
    }
}

#[tokio::test]
async fn a_size_that_is_not_that_of_the_bytes_is_refused() {
    let tree = Tree::new().await;
    let artifact = ArtifactRecord {
        id: crate::ArtifactId::mint(danube_core::Timestamp::UNIX_EPOCH),
        job: "j".parse().unwrap(),
        name: NAME.parse().unwrap(),
        size_bytes: FILE.len() as u64 + 1,
        digest: Sha256Digest::from_bytes(Sha256::digest(FILE).into()),
        content_type: "text/plain".to_owned(),
        kind: crate::ArtifactKind::Other,
        state: crate::ArtifactState::Active,
        created_at: danube_core::Timestamp::UNIX_EPOCH,
        archived_at: None,
        keep_for: None,
        keep_forever: false,
        tags: std::collections::BTreeMap::new(),
    };
    let parameters = serde_json::json!({});
    let input = ProvenanceInput::new(artifact.job.clone(), "urn:test", "0", parameters);
    let statement = crate::attest::statement(&input, &[artifact], None).unwrap();
    let envelope = Envelope::seal(&statement, &*tree.key).await.unwrap();
    overwrite(&tree.envelope(), envelope.to_bytes());
    overwrite(&tree.provenance(), envelope.payload());
    let error = tree.verify().unwrap_err();
    assert_eq!((error.part, error.failure), (Part::Envelope, Failure::Mismatch));
    assert!(error.reason.contains("22 bytes"), "{error}");
}

#[tokio::test]
async fn an_artifact_that_is_called_like_a_signature_is_in_nobodys_way() {
    let tree = Tree::new().await;
    tree.job(
        "j2",
        &[("a", b"x"), ("a.sig", &[7; 64]), ("provenance.json", b"{}"), ("b.sig", b"short")],
    )
    .await;
    let dir = tree.dir.path().join("artifacts/j2");
    for name in ["a", "a.sig", "provenance.json", "b.sig"] {
        let evidence = verify_file(&dir.join(name), &tree.options()).unwrap();
        assert_eq!(evidence.name.as_deref(), Some(name));
    }
    let names = ["provenance.json/x", "provenance.dsse.json/x/y", "signatures", "metadata.json/x"];
    tree.job("j3", &names.map(|name| (name, name.as_bytes()))).await;
    for name in names {
        let path = tree.dir.path().join("artifacts/j3").join(name);
        let evidence = verify_file(&path, &tree.options()).unwrap();
        assert_eq!(evidence.name.as_deref(), Some(name));
    }
    assert!(verify_file(&dir.join(".danube/signatures/a.sig"), &tree.options()).is_err());
}

#[tokio::test]
async fn what_the_signature_alone_cannot_tell_is_not_promised() {
    let tree = Tree::new().await;
    let only = tree.options().with_signature_only();
    for asks in [
        only.clone().with_expected_job("j".parse().unwrap()),
        only.with_expected_name(NAME.parse().unwrap()),
    ] {
        let error = verify_file(&tree.path(NAME), &asks).unwrap_err();
        assert_eq!(error.failure, Failure::Unanswerable);
        assert_eq!(error.class(), ErrorClass::Invalid);
    }
}

/// A log as Danube keeps it, beside the artifacts of its job.
async fn log(tree: &Tree) -> PathBuf {
    let bytes = b"[2026-11-21T10:00:00.000Z] [run] [stdout] hello\n";
    let job: JobId = "j".parse().unwrap();
    let subject = LogSubject::new(
        &job,
        bytes.len() as u64,
        Sha256Digest::from_bytes(Sha256::digest(bytes).into()),
    );
    let artifacts = Artifacts::new(
        Arc::new(FsBlobs::new(tree.dir.path().join("artifacts"))),
        Arc::new(MemoryIndex::new()),
        Arc::clone(&tree.key) as Arc<dyn Signer>,
        Arc::new(SystemClock),
    );
    let source = Source::new("git+https://git.example.com/a", "a".repeat(40));
    let input = ProvenanceInput::new(job, "urn:test", "0", serde_json::json!({}));
    artifacts.prove(&input.with_source(source), &[], Some(&subject)).await.unwrap();
    let path = tree.dir.path().join("logs/j.log");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn a_log_is_verified_by_the_provenance_of_its_job() {
    let tree = Tree::new().await;
    let path = log(&tree).await;
    let evidence = verify_log(&path, &tree.options()).unwrap();
    assert_eq!(evidence.name.as_deref(), Some("logs/j.log"));
    assert_eq!(evidence.job.as_ref().map(JobId::as_str), Some("j"));
    assert_eq!((evidence.key_id.clone(), evidence.checks.len()), (tree.key.key_id(), 4));

    // Taken elsewhere under another name, with the provenance beside it.
    let away = tempfile::tempdir().unwrap();
    let copy = away.path().join("build.txt");
    fs::copy(&path, &copy).unwrap();
    fs::copy(tree.envelope(), away.path().join("provenance.dsse.json")).unwrap();
    fs::copy(tree.provenance(), away.path().join("provenance.json")).unwrap();
    verify_log(&copy, &tree.options()).unwrap();

    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        let error = verify_log(&path, &tree.options()).unwrap_err();
        assert_eq!((error.part, error.failure), (Part::Artifact, Failure::Mismatch), "byte {at}");
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(verify_log(&path, &tree.options()).unwrap_err().part, Part::Artifact);
    // An artifact is no log, and a log no artifact.
    let tree = Tree::new().await;
    assert_eq!(verify_log(&tree.path(NAME), &tree.options()).unwrap_err().part, Part::Envelope);
    let only = tree.options().with_signature_only();
    assert_eq!(verify_log(&path, &only).unwrap_err().failure, Failure::Unanswerable);
}

#[tokio::test]
async fn a_log_in_another_form_is_verified_by_its_text() {
    let tree = Tree::new().await;
    let path = log(&tree).await;
    let text = fs::read(&path).unwrap();
    let reversed: Vec<u8> = text.iter().rev().copied().collect();
    let packed = path.with_extension("log.zst");
    fs::write(&packed, reversed).unwrap();
    let unpack = |mut file: File| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        bytes.reverse();
        Ok(io::Cursor::new(bytes))
    };
    let evidence = verify_log_in(&packed, &tree.options(), unpack).unwrap();
    assert_eq!(evidence.size_bytes, text.len() as u64);
    assert_eq!(evidence.job.as_ref().map(JobId::as_str), Some("j"));
    // What the file itself holds is not the log.
    assert_eq!(verify_log(&packed, &tree.options()).unwrap_err().failure, Failure::Mismatch);

    /// A reader that fails behind so many good bytes.
    struct Fails<'a>(&'a [u8]);
    impl Read for Fails<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is damaged"));
            }
            self.0.read(buffer)
        }
    }
    // Also behind all of them: what cannot be read to its end is not verified.
    for good in [0, 7, text.len()] {
        let fails = |_| Ok(Fails(&text[..good]));
        let error = verify_log_in(&packed, &tree.options(), fails).unwrap_err();
        assert_eq!((error.part, error.failure), (Part::Artifact, Failure::Unreadable));
        assert!(error.reason.contains("j.log.zst: a frame is damaged"), "{error}");
    }
    let refuses = |_| Err::<io::Empty, _>(io::Error::other("no frames"));
    let error = verify_log_in(&packed, &tree.options(), refuses).unwrap_err();
    assert!(error.reason.contains("no frames"), "{error}");
}

#[tokio::test]
async fn what_is_expected_of_the_source_is_checked() {
    let tree = Tree::new().await;
    let path = log(&tree).await;
    let good = tree
        .options()
        .with_expected_job("j".parse().unwrap())
        .with_expected_repository("git+https://git.example.com/a")
        .with_expected_commit("a".repeat(40));
    let evidence = verify_log(&path, &good).unwrap();
    assert_eq!(evidence.checks.len(), 7, "{:?}", evidence.checks);
    for bad in [
        good.clone().with_expected_job("k".parse().unwrap()),
        good.clone().with_expected_repository("git+https://git.example.com/b"),
        good.clone().with_expected_repository(""),
        good.clone().with_expected_commit("a".repeat(39)),
        good.clone().with_expected_commit("b".repeat(40)),
    ] {
        let error = verify_log(&path, &bad).unwrap_err();
        assert_eq!((error.part, error.failure), (Part::Envelope, Failure::Mismatch), "{error}");
    }
    // A provenance that names no source answers no question about it.
    let tree = Tree::new().await;
    for bad in [
        tree.options().with_expected_commit("a".repeat(40)),
        tree.options().with_expected_repository("git+https://git.example.com/a"),
    ] {
        let error = verify_file(&tree.path(NAME), &bad).unwrap_err();
        assert!(error.reason.contains("none that it names"), "{error}");
        let only = verify_file(&tree.path(NAME), &bad.with_signature_only()).unwrap_err();
        assert_eq!(only.failure, Failure::Unanswerable);
    }
}

#[tokio::test]
async fn openssl_verifies_the_signature_over_the_digest_of_the_file() {
    let tree = Tree::new().await;
    // The line of the README. The digest goes through a file: OpenSSL 3.0 asks for the size of what
    // it verifies, and a pipe has none.
    let line = "openssl dgst -sha256 -binary -out FILE.sha256 FILE && openssl pkeyutl -verify -rawin -pubin -inkey signing.key.pub -sigfile FILE.sig -in FILE.sha256";
    assert!(include_str!("../../README.md").contains(&line.replace(" && ", " &&\n  ")));
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let verify = |file: &Path, signature: &Path| {
        fs::copy(tree.dir.path().join("keys/signing.key.pub"), at("signing.key.pub")).unwrap();
        overwrite(&at("FILE"), fs::read(file).unwrap());
        overwrite(&at("FILE.sig"), fs::read(signature).unwrap());
        let sh = Command::new("sh").args(["-c", line]).current_dir(place.path()).output();
        sh.expect("a shell and openssl are installed")
    };
    let good = verify(&tree.path(NAME), &tree.signature());
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    let complained = String::from_utf8_lossy(&good.stderr).into_owned();
    assert!(good.status.success() && said.contains("Verified Successfully"), "{said}{complained}");
    assert!(!verify(&tree.path("other"), &tree.signature()).status.success());

    // The envelope, by the same tool: its signature is over the pre-authentication encoding.
    let envelope = Envelope::parse(&fs::read(tree.envelope()).unwrap()).unwrap();
    let wire: serde_json::Value = serde_json::from_slice(&envelope.to_bytes()).unwrap();
    let sig = wire["signatures"][0]["sig"].as_str().unwrap();
    let sig = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, sig).unwrap();
    let (message, sig_file) = (tree.dir.path().join("pae"), tree.dir.path().join("pae.sig"));
    fs::write(&message, crate::attest::pae(crate::attest::PAYLOAD_TYPE, envelope.payload()))
        .unwrap();
    fs::write(&sig_file, sig).unwrap();
    let output = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"])
        .arg(tree.dir.path().join("keys/signing.key.pub"))
        .arg("-sigfile")
        .arg(&sig_file)
        .arg("-in")
        .arg(&message)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
