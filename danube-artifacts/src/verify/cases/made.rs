//! The cases themselves: a good tree, and everything that can be wrong in one.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::tests::malleable;
use super::*;
use crate::attest::{
    EntryPoint, Envelope, LogSubject, PAYLOAD_TYPE, ProvenanceForm, ProvenanceInput, Source, pae,
    statement,
};
use crate::{ArtifactRecord, ArtifactState, Signer, SigningKey};

pub(super) const REPORT: &str = "artifacts/j/out/report.txt";
const SIGNATURE: &str = "artifacts/j/.danube/signatures/out/report.txt.sig";
const ENVELOPE: &str = "artifacts/j/.danube/provenance.dsse.json";
pub(super) const PAYLOAD: &str = "artifacts/j/.danube/provenance.json";
pub(super) const LOG: &str = "logs/j.log";
pub(super) const REPOSITORY: &str = "git+https://git.example.com/a/b";

/// A signer needs no runtime here: it never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a key in memory never waits"),
    }
}

pub(super) fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    now(key.sign(message)).unwrap().as_bytes().to_vec()
}

pub(super) fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

pub(super) fn about(job: &str, form: ProvenanceForm) -> ProvenanceInput {
    let parameters = json!({"name": "release", "steps": [{"name": "build", "command": "make"}]});
    ProvenanceInput::new(job.parse().unwrap(), "urn:example:ci", "0.1.0", parameters)
        .with_times(
            "2026-11-21T10:00:00Z".parse().unwrap(),
            "2026-11-21T10:05:00Z".parse().unwrap(),
        )
        .with_pipeline("release")
        .with_source(
            Source::new(REPOSITORY, "c0ffee".repeat(7)[..40].to_owned()).with_branch("main"),
        )
        .with_entry_point(EntryPoint::of("danube.yaml", b"name: release\n"))
        .with_form(form)
}

fn record(job: &str, name: &str, bytes: &[u8]) -> ArtifactRecord {
    ArtifactRecord {
        id: crate::ArtifactId::mint(danube_core::Timestamp::UNIX_EPOCH),
        job: job.parse().unwrap(),
        name: name.parse().unwrap(),
        size_bytes: bytes.len() as u64,
        digest: digest(bytes),
        content_type: "text/plain".to_owned(),
        kind: crate::ArtifactKind::Other,
        state: ArtifactState::Active,
        created_at: danube_core::Timestamp::UNIX_EPOCH,
        archived_at: None,
        keep_for: None,
        keep_forever: false,
        tags: BTreeMap::new(),
    }
}

/// The payload as the wire has it, through the envelope: nothing else writes one.
pub(super) fn payload(
    about: &ProvenanceInput,
    files: &[(&str, &[u8])],
    log: Option<&[u8]>,
) -> Vec<u8> {
    let job = about.job.as_str();
    let records: Vec<_> = files.iter().map(|(name, bytes)| record(job, name, bytes)).collect();
    let log = log.map(|bytes| LogSubject::new(&about.job, bytes.len() as u64, digest(bytes)));
    let statement = statement(about, &records, log.as_ref()).unwrap();
    now(Envelope::seal(&statement, &SigningKey::from_seed(1))).unwrap().payload().to_vec()
}

/// An envelope around any payload, in our spelling.
fn seal(key: &SigningKey, payload: &[u8]) -> Vec<u8> {
    envelope(&key.key_id().to_string(), &sign(key, &pae(PAYLOAD_TYPE, payload)), payload)
}

fn envelope(key_id: &str, signature: &[u8], payload: &[u8]) -> Vec<u8> {
    format!(
        "{{\"payloadType\":\"{PAYLOAD_TYPE}\",\"payload\":\"{}\",\"signatures\":[{{\"keyid\":\"{key_id}\",\"sig\":\"{}\"}}]}}",
        STANDARD.encode(payload),
        STANDARD.encode(signature)
    )
    .into_bytes()
}

pub(super) const REPORT_BYTES: &[u8] = b"all tests passed\n";
pub(super) const LOG_BYTES: &[u8] =
    b"[2026-11-21T10:00:01.000Z] [build] [stdout] all tests passed\n";
pub(super) const FILES: [(&str, &[u8]); 3] =
    [("out/report.txt", REPORT_BYTES), ("empty", b""), ("notes.sig", b"not a signature\n")];

/// The tree that the others are changes of.
pub(super) fn base() -> Tree {
    good(&SigningKey::from_seed(1), ProvenanceForm::V1)
}

/// A data directory in which everything is as it should be.
pub(super) fn good(key: &SigningKey, form: ProvenanceForm) -> Tree {
    let mut tree = Tree::new();
    for (name, bytes) in FILES {
        tree.insert(format!("artifacts/j/{name}"), bytes.to_vec());
        let signature = sign(key, digest(bytes).as_bytes());
        tree.insert(format!("artifacts/j/.danube/signatures/{name}.sig"), signature);
    }
    prove(&mut tree, key, payload(&about("j", form), &FILES, Some(LOG_BYTES)));
    tree.insert(LOG.to_owned(), LOG_BYTES.to_vec());
    // 1 signs, 2 signed before, 3 is a stranger.
    let (one, two, three) =
        (SigningKey::from_seed(1), SigningKey::from_seed(2), SigningKey::from_seed(3));
    tree.insert("keys/signing.key.pub".to_owned(), one.public_pem().into_bytes());
    for key in [&one, &two] {
        let name = format!("keys/signing/{}.pub", key.key_id());
        tree.insert(name, key.public_pem().into_bytes());
    }
    tree.insert("stranger.pub".to_owned(), three.public_pem().into_bytes());
    tree
}

/// Puts this payload into the tree, with its envelope.
pub(super) fn prove(tree: &mut Tree, key: &SigningKey, payload: Vec<u8>) {
    tree.insert(ENVELOPE.to_owned(), seal(key, &payload));
    tree.insert(PAYLOAD.to_owned(), payload);
}

/// Where a case goes.
pub(super) struct Cases(pub(super) Vec<Case>);

impl Cases {
    pub(super) fn add(
        &mut self,
        name: &'static str,
        description: &'static str,
        path: &'static str,
        options: &[&'static str],
        refused: Option<(&'static str, &'static str)>,
        tree: Tree,
    ) {
        self.0.push(Case { name, description, path, options: options.to_vec(), tree, refused });
    }
}

pub(super) fn changed(path: &str, change: &dyn Fn(&mut Vec<u8>)) -> Tree {
    let mut tree = base();
    change(tree.get_mut(path).unwrap());
    tree
}

pub(super) fn without(path: &str) -> Tree {
    let mut tree = base();
    tree.remove(path).unwrap();
    tree
}

pub(super) fn proved(payload: Vec<u8>) -> Tree {
    let mut tree = base();
    prove(&mut tree, &SigningKey::from_seed(1), payload);
    tree
}

pub(super) fn good_payload() -> Vec<u8> {
    payload(&about("j", ProvenanceForm::V1), &FILES, Some(LOG_BYTES))
}

pub(super) fn mismatch(part: &'static str) -> Option<(&'static str, &'static str)> {
    Some((part, "mismatch"))
}

/// The cases in which the file, its signature or the envelope is wrong, and the good ones.
pub(super) fn add_evidence(cases: &mut Cases) {
    let (one, two, three) =
        (SigningKey::from_seed(1), SigningKey::from_seed(2), SigningKey::from_seed(3));
    let v1 = ProvenanceForm::V1;

    // --- good ---
    cases.add("good", "everything is as it should be", REPORT, &[], None, base());
    cases.add(
        "good_all_expected",
        "job, name, repository and commit are as expected",
        REPORT,
        &[
            "--job",
            "j",
            "--name",
            "out/report.txt",
            "--repository",
            REPOSITORY,
            "--commit",
            "c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff",
        ],
        None,
        base(),
    );
    cases.add(
        "good_empty_file",
        "an artifact without bytes",
        "artifacts/j/empty",
        &[],
        None,
        base(),
    );
    cases.add(
        "good_called_like_a_signature",
        "an artifact whose name ends in .sig",
        "artifacts/j/notes.sig",
        &[],
        None,
        base(),
    );
    cases.add(
        "good_below_the_provenances_name",
        "an artifact in a directory called like the provenance",
        "artifacts/j/provenance.json/x",
        &[],
        None,
        {
            let more: (&str, &[u8]) = ("provenance.json/x", b"{}");
            let files = [&FILES[..], &[more]].concat();
            let mut t = proved(payload(&about("j", v1), &files, Some(LOG_BYTES)));
            t.insert("artifacts/j/provenance.json/x".to_owned(), more.1.to_vec());
            let signature = sign(&one, digest(more.1).as_bytes());
            t.insert("artifacts/j/.danube/signatures/provenance.json/x.sig".to_owned(), signature);
            t
        },
    );
    cases.add("good_log", "the log, which the provenance binds", LOG, &["--log"], None, base());
    cases.add(
        "good_v02",
        "SLSA provenance v0.2",
        REPORT,
        &[],
        None,
        good(&one, ProvenanceForm::V02),
    );
    cases.add(
        "good_v01",
        "SLSA provenance v0.1",
        REPORT,
        &["--repository", REPOSITORY],
        None,
        good(&one, ProvenanceForm::V01),
    );
    cases.add(
        "good_v02_log",
        "the log by SLSA provenance v0.2",
        LOG,
        &["--log"],
        None,
        good(&one, ProvenanceForm::V02),
    );
    cases.add(
        "good_old_key",
        "signed with a key that was rotated away",
        REPORT,
        &[],
        None,
        good(&two, v1),
    );
    cases.add(
        "good_given_key",
        "the key is given as a file",
        REPORT,
        &["--public-key", "keys/signing.key.pub"],
        None,
        base(),
    );
    cases.add(
        "good_signature_only",
        "nothing but the signature is asked for, and there is nothing else",
        REPORT,
        &["--signature-only"],
        None,
        {
            let mut t = base();
            t.remove(ENVELOPE);
            t.remove(PAYLOAD);
            t
        },
    );
    cases.add(
        "good_beside",
        "taken out of its tree, with the evidence beside it",
        "away/report.txt",
        &[],
        None,
        {
            let tree = base();
            let mut away = tree.clone();
            for (to, from) in [
                ("report.txt", REPORT),
                ("report.txt.sig", SIGNATURE),
                ("provenance.json", PAYLOAD),
                ("provenance.dsse.json", ENVELOPE),
            ] {
                away.insert(format!("away/{to}"), tree[from].clone());
            }
            away
        },
    );

    // --- the file ---
    cases.add(
        "file_first_byte",
        "the first byte of the file is another",
        REPORT,
        &[],
        mismatch("artifact"),
        changed(REPORT, &|b| b[0] ^= 1),
    );
    cases.add(
        "file_last_byte",
        "the last byte of the file is another",
        REPORT,
        &[],
        mismatch("artifact"),
        changed(REPORT, &|b| *b.last_mut().unwrap() ^= 1),
    );
    cases.add(
        "file_longer",
        "the file has a byte more",
        REPORT,
        &[],
        mismatch("artifact"),
        changed(REPORT, &|b| b.push(b'x')),
    );
    cases.add(
        "file_shorter",
        "the file has a byte less",
        REPORT,
        &[],
        mismatch("artifact"),
        changed(REPORT, &|b| b.truncate(b.len() - 1)),
    );
    cases.add(
        "file_emptied",
        "the file is empty now",
        REPORT,
        &[],
        mismatch("artifact"),
        changed(REPORT, &Vec::clear),
    );
    cases.add(
        "file_swapped",
        "another artifact of the same job with its own signature in its place",
        REPORT,
        &[],
        mismatch("artifact"),
        {
            let mut t = base();
            t.insert(REPORT.to_owned(), t["artifacts/j/notes.sig"].clone());
            t.insert(
                SIGNATURE.to_owned(),
                t["artifacts/j/.danube/signatures/notes.sig.sig"].clone(),
            );
            t
        },
    );
    cases.add(
        "file_missing",
        "there is no file",
        REPORT,
        &[],
        Some(("artifact", "missing")),
        without(REPORT),
    );

    // --- its signature ---
    let bad_signature = |change: &dyn Fn(&mut Vec<u8>)| changed(SIGNATURE, change);
    cases.add(
        "signature_missing",
        "there is no signature",
        REPORT,
        &[],
        Some(("signature", "missing")),
        without(SIGNATURE),
    );
    cases.add(
        "signature_empty",
        "the signature has no bytes",
        REPORT,
        &[],
        Some(("signature", "missing")),
        bad_signature(&Vec::clear),
    );
    cases.add(
        "signature_63_bytes",
        "the signature is short",
        REPORT,
        &[],
        Some(("signature", "malformed")),
        bad_signature(&|b| b.truncate(b.len() - 1)),
    );
    cases.add(
        "signature_65_bytes",
        "the signature is long",
        REPORT,
        &[],
        Some(("signature", "malformed")),
        bad_signature(&|b| b.push(0)),
    );
    cases.add(
        "signature_hex",
        "the signature is written in hexadecimal",
        REPORT,
        &[],
        Some(("signature", "malformed")),
        bad_signature(&|b| {
            *b = b.iter().map(|x| format!("{x:02x}")).collect::<String>().into_bytes()
        }),
    );
    cases.add(
        "signature_first_byte",
        "a bit of R is another",
        REPORT,
        &[],
        mismatch("signature"),
        bad_signature(&|b| b[0] ^= 1),
    );
    cases.add(
        "signature_last_byte",
        "a bit of S is another",
        REPORT,
        &[],
        mismatch("signature"),
        bad_signature(&|b| b[63] ^= 0x10),
    );
    cases.add(
        "signature_malleable",
        "the same signature with S + L: the equation holds",
        REPORT,
        &[],
        mismatch("signature"),
        bad_signature(&|b| *b = malleable(b)),
    );
    cases.add(
        "signature_zeros",
        "64 zeros, which a small-order key would accept",
        REPORT,
        &[],
        mismatch("signature"),
        bad_signature(&|b| b.fill(0)),
    );
    cases.add(
        "signature_of_another_file",
        "the signature of another artifact",
        REPORT,
        &[],
        mismatch("signature"),
        changed(SIGNATURE, &|b| *b = sign(&one, digest(b"").as_bytes())),
    );
    cases.add(
        "signature_by_a_stranger",
        "signed with a key that is not trusted",
        REPORT,
        &[],
        mismatch("signature"),
        changed(SIGNATURE, &|b| *b = sign(&three, digest(REPORT_BYTES).as_bytes())),
    );
    cases.add(
        "signature_over_the_bytes",
        "signed are the bytes instead of their SHA-256",
        REPORT,
        &[],
        mismatch("signature"),
        changed(SIGNATURE, &|b| *b = sign(&one, REPORT_BYTES)),
    );
    cases.add(
        "signature_only_file_changed",
        "only the signature is asked for, and the file is another",
        REPORT,
        &["--signature-only"],
        mismatch("signature"),
        changed(REPORT, &|b| b[0] ^= 1),
    );
    cases.add(
        "signature_only_with_a_job",
        "the signature alone says nothing about a job",
        REPORT,
        &["--signature-only", "--job", "j"],
        Some(("envelope", "unanswerable")),
        base(),
    );

    // --- the envelope ---
    let malformed = Some(("envelope", "malformed"));
    cases.add(
        "envelope_missing",
        "there is no envelope: a signature alone is no provenance",
        REPORT,
        &[],
        Some(("envelope", "missing")),
        without(ENVELOPE),
    );
    cases.add(
        "envelope_empty",
        "the envelope has no bytes",
        REPORT,
        &[],
        Some(("envelope", "missing")),
        changed(ENVELOPE, &Vec::clear),
    );
    cases.add(
        "envelope_no_json",
        "the envelope is no JSON",
        REPORT,
        &[],
        malformed,
        changed(ENVELOPE, &|b| *b = b"provenance".to_vec()),
    );
    cases.add(
        "envelope_is_a_bundle",
        "a Sigstore bundle where the envelope should be",
        REPORT,
        &[],
        malformed,
        changed(ENVELOPE, &|b| *b = Envelope::parse(b).unwrap().to_bundle()),
    );
    cases.add(
        "envelope_no_signatures",
        "DSSE with an empty list of signatures",
        REPORT,
        &[],
        malformed,
        changed(ENVELOPE, &|b| {
            let text = String::from_utf8(b.clone()).unwrap();
            let at = text.find("[{").unwrap();
            *b = format!("{}[]}}", &text[..at]).into_bytes();
        }),
    );
    cases.add(
        "envelope_keyid_twice",
        "the same signature twice",
        REPORT,
        &[],
        malformed,
        changed(ENVELOPE, &|b| {
            let text = String::from_utf8(b.clone()).unwrap();
            let at = text.find("[{").unwrap();
            let signature = &text[at + 1..text.len() - 2];
            *b = format!("{}[{signature},{signature}]}}", &text[..at]).into_bytes();
        }),
    );
    cases.add(
        "envelope_url_safe",
        "url-safe base64, which DSSE allows and Danube never writes",
        REPORT,
        &[],
        malformed,
        {
            // A payload whose base64 has both letters that differ.
            let mut value: Value = serde_json::from_slice(&good_payload()).unwrap();
            value["predicate"]["buildDefinition"]["externalParameters"]["name"] =
                json!("~~~???>>>ÿÿÿ");
            let payload = serde_json::to_vec_pretty(&value).unwrap();
            let mut tree = proved(payload.clone());
            let text = String::from_utf8(tree[ENVELOPE].clone()).unwrap();
            let respelled = text.replace(&STANDARD.encode(&payload), &URL_SAFE.encode(&payload));
            assert_ne!(respelled, text);
            tree.insert(ENVELOPE.to_owned(), respelled.into_bytes());
            tree
        },
    );
    cases.add(
        "envelope_line_end",
        "a line feed behind the envelope",
        REPORT,
        &[],
        malformed,
        changed(ENVELOPE, &|b| b.push(b'\n')),
    );
    cases.add(
        "envelope_other_type",
        "the payload is said to be something else",
        REPORT,
        &[],
        malformed,
        changed(ENVELOPE, &|b| {
            *b = String::from_utf8(b.clone())
                .unwrap()
                .replacen("in-toto+json", "other+json", 1)
                .into_bytes();
        }),
    );
    cases.add(
        "envelope_by_a_stranger",
        "signed with a key that is not trusted",
        REPORT,
        &[],
        Some(("envelope", "unknown-key")),
        changed(ENVELOPE, &|b| *b = seal(&three, &good_payload())),
    );
    cases.add(
        "envelope_with_a_trusted_keyid",
        "a stranger's signature under the id of a trusted key",
        REPORT,
        &[],
        mismatch("envelope"),
        changed(ENVELOPE, &|b| {
            *b = envelope(
                one.key_id().as_str(),
                &sign(&three, &pae(PAYLOAD_TYPE, &good_payload())),
                &good_payload(),
            )
        }),
    );
    cases.add(
        "envelope_without_keyid",
        "no id of a key",
        REPORT,
        &[],
        Some(("envelope", "unknown-key")),
        changed(ENVELOPE, &|b| {
            *b = envelope("", &sign(&one, &pae(PAYLOAD_TYPE, &good_payload())), &good_payload())
        }),
    );
    cases.add(
        "envelope_keyid_of_another_trusted_key",
        "the id is that of the other trusted key",
        REPORT,
        &[],
        mismatch("envelope"),
        changed(ENVELOPE, &|b| {
            *b = envelope(
                two.key_id().as_str(),
                &sign(&one, &pae(PAYLOAD_TYPE, &good_payload())),
                &good_payload(),
            )
        }),
    );
    cases.add(
        "envelope_payload_changed",
        "the payload was changed after it was signed, in both files",
        REPORT,
        &[],
        mismatch("envelope"),
        {
            let mut tree = base();
            let payload = String::from_utf8(good_payload())
                .unwrap()
                .replace("\"release\"", "\"forgery\"")
                .into_bytes();
            let signature = sign(&one, &pae(PAYLOAD_TYPE, &good_payload()));
            tree.insert(ENVELOPE.to_owned(), envelope(one.key_id().as_str(), &signature, &payload));
            tree.insert(PAYLOAD.to_owned(), payload);
            tree
        },
    );
    cases.add(
        "envelope_signature_without_pae",
        "signed is the payload without its type",
        REPORT,
        &[],
        mismatch("envelope"),
        changed(ENVELOPE, &|b| {
            *b = envelope(one.key_id().as_str(), &sign(&one, &good_payload()), &good_payload())
        }),
    );
    cases.add(
        "envelope_signature_of_another_type",
        "signed is the payload as another type",
        REPORT,
        &[],
        mismatch("envelope"),
        changed(ENVELOPE, &|b| {
            *b = envelope(
                one.key_id().as_str(),
                &sign(&one, &pae("text/plain", &good_payload())),
                &good_payload(),
            )
        }),
    );
    cases.add(
        "envelope_signature_is_the_files",
        "the file's signature as the envelope's",
        REPORT,
        &[],
        mismatch("envelope"),
        changed(ENVELOPE, &|b| {
            *b = envelope(
                one.key_id().as_str(),
                &sign(&one, digest(REPORT_BYTES).as_bytes()),
                &good_payload(),
            )
        }),
    );
}
