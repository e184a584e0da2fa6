//! Envelopes, their one spelling, and what a statement says.

use super::*;
use crate::{ArtifactState, SigningKey};

fn record(name: &str) -> ArtifactRecord {
    ArtifactRecord {
        id: crate::ArtifactId::mint(danube_core::Timestamp::UNIX_EPOCH),
        job: "j".parse().unwrap(),
        name: name.parse().unwrap(),
        size_bytes: 5,
        digest: Sha256Digest::from_bytes([0xab; 32]),
        content_type: "text/plain".to_owned(),
        kind: crate::ArtifactKind::Other,
        state: ArtifactState::Active,
        created_at: Timestamp::UNIX_EPOCH,
        archived_at: None,
        keep_for: None,
        keep_forever: false,
        tags: std::collections::BTreeMap::new(),
    }
}

fn input() -> ProvenanceInput {
    let job: JobId = "j".parse().unwrap();
    let parameters = serde_json::json!({"steps": [{"name": "build", "run": "make \"x\" && ü"}]});
    ProvenanceInput::new(job, "https://ci.example.com/danube", "0.1.0", parameters)
        .with_times(
            "2026-11-21T10:00:00Z".parse().unwrap(),
            "2026-11-21T10:05:00Z".parse().unwrap(),
        )
        .with_source(Source::new(
            "git+https://git.example.com/a/b",
            "0123456789abcdef0123456789abcdef01234567",
        ))
}

async fn envelope(key: &SigningKey) -> Envelope {
    let log = LogSubject::new(&"j".parse().unwrap(), 9, Sha256Digest::from_bytes([0xcd; 32]));
    let statement = statement(&input(), &[record("out/b"), record("a")], Some(&log)).unwrap();
    Envelope::seal(&statement, key).await.unwrap()
}

#[test]
fn the_encoding_that_is_signed_is_that_of_the_dsse_specification() {
    let encoded = pae("http://example.com/HelloWorld", b"hello world");
    assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
    assert_eq!(pae("t\u{e9}", b"\n"), "DSSEv1 3 t\u{e9} 1 \n".as_bytes());
}

#[tokio::test]
async fn a_statement_is_in_toto_v1_with_slsa_provenance_v1_and_claims_no_level() {
    let envelope = envelope(&SigningKey::generate().unwrap()).await;
    let text = std::str::from_utf8(envelope.payload()).unwrap();
    assert!(text.ends_with("}\n") && !text.to_lowercase().contains("level"));
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let wanted = serde_json::json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "a", "digest": {"sha256": "ab".repeat(32)}, "annotations": {"kind": "artifact", "size": 5}},
            {"name": "out/b", "digest": {"sha256": "ab".repeat(32)}, "annotations": {"kind": "artifact", "size": 5}},
            {"name": "logs/j.log", "digest": {"sha256": "cd".repeat(32)}, "annotations": {"kind": "log", "size": 9}},
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:danube:job:v1",
                "externalParameters": {"steps": [{"name": "build", "run": "make \"x\" && ü"}]},
                "resolvedDependencies": [{
                    "uri": "git+https://git.example.com/a/b",
                    "digest": {"gitCommit": "0123456789abcdef0123456789abcdef01234567"},
                }],
            },
            "runDetails": {
                "builder": {"id": "https://ci.example.com/danube", "version": {"danube": "0.1.0"}},
                "metadata": {
                    "invocationId": "j",
                    "startedOn": "2026-11-21T10:00:00Z",
                    "finishedOn": "2026-11-21T10:05:00Z",
                },
            },
        },
    });
    assert_eq!(json, wanted);
    let parsed = Statement::parse(envelope.payload()).unwrap();
    assert_eq!((parsed.job().as_str(), parsed.subjects().len()), ("j", 3));
    assert_eq!(parsed.to_payload(), envelope.payload());
}

fn full() -> ProvenanceInput {
    let source = Source::new("git+https://git.example.com/a/b", "a".repeat(64));
    let digest = Sha256Digest::from_bytes([0xef; 32]);
    input()
        .with_pipeline("release")
        .with_source(source.with_branch("main"))
        .with_entry_point(EntryPoint { path: "ci/danube.yaml".to_owned(), digest })
}

#[test]
fn every_form_comes_back_as_it_was_written() {
    let log = LogSubject::new(&"j".parse().unwrap(), 9, Sha256Digest::from_bytes([0xcd; 32]));
    let bare = ProvenanceInput::new("j".parse().unwrap(), "urn:x", "0", serde_json::json!({}));
    let no_source = ProvenanceInput { source: None, ..full() };
    let no_entry_point = ProvenanceInput { entry_point: None, ..full() };
    for form in ProvenanceForm::ALL {
        assert_eq!(form.to_string().parse::<ProvenanceForm>().unwrap(), form);
        for about in [&bare, &input(), &full(), &no_source, &no_entry_point] {
            let about = about.clone().with_form(form);
            let made = statement(&about, &[record("a"), record("logs/j.log")], Some(&log)).unwrap();
            let payload = made.to_payload();
            let text = String::from_utf8(payload.clone()).unwrap();
            assert!(!text.contains("null") && !text.to_lowercase().contains("level"), "{text}");
            assert_eq!(Statement::parse(&payload).unwrap(), made, "{text}");
        }
    }
    assert!("v2".parse::<ProvenanceForm>().is_err());
}

#[test]
fn a_recipe_stands_in_v0_1_alone() {
    let json = |form| -> serde_json::Value {
        let made = statement(&full().with_form(form), &[record("a")], None).unwrap();
        serde_json::from_slice(&made.to_payload()).unwrap()
    };
    let old = json(ProvenanceForm::V01);
    assert_eq!(old["predicateType"], "https://slsa.dev/provenance/v0.1");
    assert_eq!(old["predicate"]["recipe"]["entryPoint"], "ci/danube.yaml");
    assert_eq!(old["predicate"]["recipe"]["definedInMaterial"], 0);
    let newer = json(ProvenanceForm::V02);
    assert_eq!(newer["_type"], "https://in-toto.io/Statement/v0.1");
    assert!(newer["predicate"].get("recipe").is_none());
    assert_eq!(newer["predicate"]["invocation"]["configSource"]["entryPoint"], "ci/danube.yaml");
    assert_eq!(newer["predicate"]["materials"][1]["digest"]["sha256"], "ef".repeat(32));
}

#[test]
fn a_commit_is_a_digest() {
    for commit in ["", "main", "HEAD", &"A".repeat(40), &"a".repeat(41)] {
        let source = Source::new("https://git.example.com/a", commit);
        let error = statement(&input().with_source(source), &[], None).unwrap_err();
        assert!(error.to_string().contains("hexadecimal"), "{error}");
    }
}

#[tokio::test]
async fn a_bundle_is_a_sigstore_bundle_v0_3_with_the_key_by_its_id() {
    let key = SigningKey::generate().unwrap();
    let envelope = envelope(&key).await;
    let bundle: serde_json::Value = serde_json::from_slice(&envelope.to_bundle()).unwrap();
    assert_eq!(bundle["mediaType"], "application/vnd.dev.sigstore.bundle.v0.3+json");
    let id = key.key_id().to_string();
    let material = serde_json::json!({"publicKey": {"hint": id}, "tlogEntries": []});
    assert_eq!(bundle["verificationMaterial"], material);
    let ours: serde_json::Value = serde_json::from_slice(&envelope.to_bytes()).unwrap();
    assert_eq!(bundle["dsseEnvelope"], ours);
}

#[test]
fn what_is_not_known_is_left_out() {
    let bare = ProvenanceInput::new("j".parse().unwrap(), "urn:x", "0", serde_json::json!({}));
    let payload = statement(&bare, &[], None).unwrap().to_payload();
    let text = String::from_utf8(payload).unwrap();
    for absent in ["resolvedDependencies", "startedOn", "finishedOn", "null"] {
        assert!(!text.contains(absent), "{text}");
    }
    Statement::parse(text.as_bytes()).unwrap();
}

#[test]
fn artifacts_of_other_jobs_and_names_that_stand_twice_are_refused() {
    let foreign = ArtifactRecord { job: "k".parse().unwrap(), ..record("a") };
    assert!(statement(&input(), &[foreign], None).is_err());
    let twice = statement(&input(), &[record("a"), record("b"), record("a")], None).unwrap_err();
    assert!(twice.to_string().contains("\"a\" stands twice"), "{twice}");
    // An artifact that is called like the log is told from it.
    let log = LogSubject::new(&"j".parse().unwrap(), 1, Sha256Digest::from_bytes([0; 32]));
    let both = statement(&input(), &[record("logs/j.log")], Some(&log)).unwrap();
    let kinds: Vec<_> = both.subjects().iter().map(|s| s.annotations.kind).collect();
    assert_eq!(kinds, [SubjectKind::Artifact, SubjectKind::Log]);
}

#[tokio::test]
async fn an_envelope_comes_back_and_holds() {
    let key = SigningKey::generate().unwrap();
    let envelope = envelope(&key).await;
    let bytes = envelope.to_bytes();
    assert!(bytes.starts_with(b"{\"payloadType\":\"application/vnd.in-toto+json\",\"payload\":\""));
    let parsed = Envelope::parse(&bytes).unwrap();
    assert_eq!(parsed, envelope);
    assert_eq!(*parsed.verify(&key.public_keys()).unwrap(), key.key_id());
    let stranger = SigningKey::generate().unwrap().public_keys();
    assert!(matches!(parsed.verify(&stranger), Err(SignatureError::UnknownKey { .. })));
}

#[tokio::test]
async fn an_envelope_has_one_spelling() {
    let key = SigningKey::generate().unwrap();
    let good = String::from_utf8(envelope(&key).await.to_bytes()).unwrap();
    let signature = &good[good.find("{\"keyid\"").unwrap()..good.len() - 2];
    let payload = good.split('"').nth(7).unwrap();
    let respelled = payload.replace('+', "-").replace('/', "_");
    let cases = [
        ("nothing", String::new()),
        ("null", "null".to_owned()),
        ("no object", "[]".to_owned()),
        ("a line end behind", format!("{good}\n")),
        ("a space in front", format!(" {good}")),
        ("white space inside", good.replacen(':', ": ", 1)),
        ("cut", good[..good.len() - 1].to_owned()),
        ("twice", format!("{good}{good}")),
        ("no signature", good.replace(signature, "")),
        ("two signatures", good.replace(signature, &format!("{signature},{signature}"))),
        ("another type", good.replacen("in-toto", "other", 1)),
        ("a field more", good.replacen('{', "{\"x\":1,", 1)),
        ("a field twice", good.replacen('{', "{\"payload\":\"\",", 1)),
        ("an escape for a letter", good.replacen("payloadType", "p\\u0061yloadType", 1)),
        ("url-safe base64", good.replace(payload, &format!("{respelled}_-"))),
        ("no padding", good.replace("==\"", "\"")),
        ("more padding", good.replace("==\"", "===\"")),
        (
            "a line break in base64",
            good.replace(payload, &format!("{}\\n{}", &payload[..76], &payload[76..])),
        ),
        ("payload is no string", good.replace(&format!("\"{payload}\""), "7")),
    ];
    for (desc, bad) in cases {
        assert_ne!(bad, good, "{desc}");
        let error = Envelope::parse(bad.as_bytes()).expect_err(desc);
        assert_eq!(error.class(), danube_core::ErrorClass::Invalid, "{desc}");
    }
    // Base64 has bits that say nothing in its last letter; they are no second spelling either.
    let last_letter = good.rfind("==").unwrap() - 1;
    let mut tail = good.clone().into_bytes();
    tail[last_letter] = if tail[last_letter] == b'A' { b'B' } else { tail[last_letter] + 1 };
    assert!(Envelope::parse(&tail).map_or(true, |e| e.verify(&key.public_keys()).is_err()));
}

#[tokio::test]
async fn every_flipped_bit_of_an_envelope_is_noticed() {
    let key = SigningKey::generate().unwrap();
    let good = envelope(&key).await.to_bytes();
    let keys = key.public_keys();
    for at in 0..good.len() {
        for bit in [0, 1, 5] {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let accepted = Envelope::parse(&bad).is_ok_and(|e| e.verify(&keys).is_ok());
            assert!(!accepted, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn statements_of_other_types_are_refused() {
    let good = String::from_utf8(statement(&input(), &[], None).unwrap().to_payload()).unwrap();
    for (from, to) in [
        ("in-toto.io/Statement/v1", "in-toto.io/Statement/v0.1"),
        ("slsa.dev/provenance/v1", "slsa.dev/provenance/v0.2"),
        ("urn:danube:job:v1", "urn:other"),
        ("\"invocationId\": \"j\"", "\"invocationId\": \"../j\""),
        ("\"subject\"", "\"subjects\""),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good);
        assert!(Statement::parse(bad.as_bytes()).is_err(), "{to}");
    }
    assert!(Statement::parse(b"").is_err());
    let deep = "[".repeat(400_000);
    assert!(Statement::parse(deep.as_bytes()).is_err());
}
