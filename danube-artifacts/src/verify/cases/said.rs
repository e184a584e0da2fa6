//! The cases in which what is signed is not what was meant: statements, expectations, keys, logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Tree;
use super::made::{
    Cases, FILES, LOG, LOG_BYTES, PAYLOAD, REPORT, REPORT_BYTES, about, base, changed, good,
    good_payload, mismatch, payload, proved, without,
};
use crate::attest::{ProvenanceForm, ProvenanceInput};
use crate::{Signer, SigningKey};

fn edited(edit: &dyn Fn(&mut Value)) -> Tree {
    let mut value: Value = serde_json::from_slice(&good_payload()).unwrap();
    edit(&mut value);
    proved(serde_json::to_vec_pretty(&value).unwrap())
}

/// The cases in which the signatures hold.
pub(super) fn add_meaning(cases: &mut Cases) {
    let (one, two, three) =
        (SigningKey::from_seed(1), SigningKey::from_seed(2), SigningKey::from_seed(3));
    let v1 = ProvenanceForm::V1;
    let malformed = Some(("envelope", "malformed"));

    // --- what it says ---
    cases.add(
        "statement_of_another_job",
        "a good provenance of a job that made nothing of that name",
        REPORT,
        &[],
        mismatch("envelope"),
        proved(payload(&about("k", v1), &[("other", b"x")], None)),
    );
    cases.add(
        "statement_without_subjects",
        "nothing is bound at all",
        REPORT,
        &[],
        mismatch("envelope"),
        proved(payload(&about("j", v1), &[], None)),
    );
    cases.add(
        "statement_other_digest",
        "the name is bound to other bytes",
        REPORT,
        &[],
        mismatch("artifact"),
        proved(payload(&about("j", v1), &[("out/report.txt", b"another")], None)),
    );
    cases.add(
        "statement_other_size",
        "the SHA-256 is right and the size is not",
        REPORT,
        &[],
        mismatch("envelope"),
        edited(&|v| {
            for s in v["subject"].as_array_mut().unwrap() {
                s["annotations"]["size"] = json!(7);
            }
        }),
    );
    cases.add(
        "statement_binds_another_name",
        "the bytes are bound, under another name",
        REPORT,
        &[],
        mismatch("envelope"),
        proved(payload(&about("j", v1), &[("out/other.txt", REPORT_BYTES)], None)),
    );
    cases.add(
        "statement_says_it_is_a_log",
        "the subject of that name is a log",
        REPORT,
        &[],
        mismatch("envelope"),
        edited(&|v| {
            for s in v["subject"].as_array_mut().unwrap() {
                s["annotations"]["kind"] = json!("log");
            }
        }),
    );
    cases.add(
        "statement_other_predicate",
        "a trusted key signed a statement of another kind",
        REPORT,
        &[],
        malformed,
        edited(&|v| v["predicateType"] = json!("https://cyclonedx.org/bom")),
    );
    cases.add(
        "statement_other_version",
        "the predicate is v0.2 and the statement is v1",
        REPORT,
        &[],
        malformed,
        edited(&|v| v["predicateType"] = json!("https://slsa.dev/provenance/v0.2")),
    );
    cases.add(
        "statement_other_build",
        "a build of another kind",
        REPORT,
        &[],
        malformed,
        edited(&|v| {
            v["predicate"]["buildDefinition"]["buildType"] = json!("https://example.com/build")
        }),
    );
    cases.add(
        "statement_no_json",
        "signed is no JSON",
        REPORT,
        &[],
        malformed,
        proved(b"in toto".to_vec()),
    );
    cases.add(
        "statement_key_twice",
        "a field stands twice, and programs read it differently",
        REPORT,
        &[],
        malformed,
        {
            let text = String::from_utf8(good_payload()).unwrap();
            proved(text.replacen("\"subject\"", "\"subject\": [], \"subject\"", 1).into_bytes())
        },
    );
    cases.add(
        "statement_v02_without_sizes",
        "v0.2 of another builder, which says nothing of sizes",
        REPORT,
        &[],
        malformed,
        {
            let mut value: Value =
                serde_json::from_slice(&payload(&about("j", ProvenanceForm::V02), &FILES, None))
                    .unwrap();
            value["predicate"].as_object_mut().unwrap().remove("urn:danube:provenance:v1").unwrap();
            proved(serde_json::to_vec_pretty(&value).unwrap())
        },
    );

    // --- provenance.json ---
    cases.add(
        "payload_missing",
        "there is no provenance.json",
        REPORT,
        &[],
        Some(("provenance.json", "missing")),
        without(PAYLOAD),
    );
    cases.add(
        "payload_changed",
        "provenance.json has another letter",
        REPORT,
        &[],
        mismatch("provenance.json"),
        changed(PAYLOAD, &|b| b[40] ^= 1),
    );
    cases.add(
        "payload_longer",
        "provenance.json has a space more",
        REPORT,
        &[],
        mismatch("provenance.json"),
        changed(PAYLOAD, &|b| b.push(b' ')),
    );
    cases.add(
        "payload_of_another_job",
        "provenance.json is that of another job",
        REPORT,
        &[],
        mismatch("provenance.json"),
        changed(PAYLOAD, &|b| *b = payload(&about("k", v1), &FILES, None)),
    );

    // --- what is expected ---
    cases.add(
        "expected_other_job",
        "it is of another job than expected",
        REPORT,
        &["--job", "k"],
        mismatch("envelope"),
        base(),
    );
    cases.add(
        "expected_other_name",
        "it was kept under another name than expected",
        REPORT,
        &["--name", "report.txt"],
        mismatch("envelope"),
        base(),
    );
    cases.add(
        "expected_other_repository",
        "it is of another repository than expected",
        REPORT,
        &["--repository", "git+https://git.example.com/a/c"],
        mismatch("envelope"),
        base(),
    );
    cases.add(
        "expected_other_commit",
        "it is of another commit than expected",
        REPORT,
        &["--commit", "0000000000000000000000000000000000000000"],
        mismatch("envelope"),
        base(),
    );
    cases.add(
        "expected_commit_of_nothing",
        "a commit is expected and the provenance names none",
        REPORT,
        &["--commit", "c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff"],
        mismatch("envelope"),
        {
            let about = ProvenanceInput { source: None, ..about("j", v1) };
            proved(payload(&about, &FILES, None))
        },
    );

    // --- the key ---
    cases.add(
        "key_of_a_stranger",
        "another key is trusted than the one that signed",
        REPORT,
        &["--public-key", "stranger.pub"],
        Some(("envelope", "unknown-key")),
        base(),
    );
    cases.add(
        "key_revoked",
        "the key that signed was revoked",
        REPORT,
        &[],
        Some(("envelope", "unknown-key")),
        {
            let mut tree = good(&two, v1);
            let name = format!("keys/signing/{}", two.key_id());
            let public = tree.remove(&format!("{name}.pub")).unwrap();
            tree.insert(format!("{name}.revoked"), public);
            tree
        },
    );
    cases.add(
        "key_of_small_order",
        "a key for which anybody can sign",
        REPORT,
        &["--public-key", "small.pub"],
        Some(("key", "malformed")),
        {
            let mut der =
                vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 0x01];
            der.extend([0; 31]);
            let pem = format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                STANDARD.encode(der)
            );
            let mut tree = base();
            tree.insert("small.pub".to_owned(), pem.into_bytes());
            tree
        },
    );
    cases.add(
        "key_under_another_name",
        "a key in the directory that is not what it is called",
        REPORT,
        &[],
        Some(("key", "malformed")),
        {
            let mut tree = base();
            tree.insert(
                "keys/signing/0123456789abcdef.pub".to_owned(),
                three.public_pem().into_bytes(),
            );
            tree
        },
    );

    // --- the log ---
    cases.add(
        "log_changed",
        "a letter of the log is another",
        LOG,
        &["--log"],
        mismatch("artifact"),
        changed(LOG, &|b| b[30] ^= 1),
    );
    cases.add(
        "log_longer",
        "the log has a line more",
        LOG,
        &["--log"],
        mismatch("artifact"),
        changed(LOG, &|b| b.extend_from_slice(b"[forged]\n")),
    );
    cases.add(
        "log_emptied",
        "the log is empty now",
        LOG,
        &["--log"],
        mismatch("artifact"),
        changed(LOG, &Vec::clear),
    );
    cases.add(
        "log_not_bound",
        "the provenance has no log",
        LOG,
        &["--log"],
        mismatch("envelope"),
        proved(payload(&about("j", v1), &FILES, None)),
    );
    cases.add(
        "log_is_an_artifact",
        "an artifact that is called like the log",
        LOG,
        &["--log"],
        mismatch("envelope"),
        proved(payload(&about("j", v1), &[("logs/j.log", LOG_BYTES)], None)),
    );
    cases.add(
        "log_of_another_job",
        "the log is that of another job than expected",
        LOG,
        &["--log", "--job", "k"],
        mismatch("envelope"),
        base(),
    );
    cases.add(
        "log_v02_changed",
        "a letter of the log is another, SLSA provenance v0.2",
        LOG,
        &["--log"],
        mismatch("artifact"),
        {
            let mut tree = good(&one, ProvenanceForm::V02);
            tree.get_mut(LOG).unwrap()[30] ^= 1;
            tree
        },
    );
}
