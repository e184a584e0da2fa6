//! Libraries that are not ours, in Python, verify what we sign and refuse what we refuse.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::Command;

use danube_artifacts::attest::Envelope;

#[path = "support/python.rs"]
mod python;

use python::{python, run};

/// What is installed from the Python package index, with everything it needs.
const PACKAGES: &[&str] = &[
    "securesystemslib[crypto]==1.6.0",
    "in-toto-attestation==0.9.3",
    "jsonschema==4.26.0",
    "sigstore-models==0.0.6",
];

#[test]
fn other_libraries_agree_about_every_case_of_the_folder() {
    let python = python("python-dsse", PACKAGES);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = here.join("cases/verify");
    let bundles = tempfile::tempdir().unwrap();
    let envelope = "artifacts/j/.danube/provenance.dsse.json";
    for name in ["base", "good_v02/tree", "good_v01/tree"] {
        let bytes = fs::read(folder.join(name).join(envelope)).unwrap();
        let bundle = Envelope::parse(&bytes).unwrap().to_bundle();
        let file = format!("{}.json", name.replace('/', "-"));
        fs::write(bundles.path().join(file), bundle).unwrap();
    }
    let script = here.join("tests/other_libraries/check.py");
    let said = run(Command::new(python).arg(script).arg(&folder).arg(bundles.path()));
    let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
    for (what, least) in
        [("accepted", 10), ("forged", 11), ("signatures", 20), ("schemas", 10), ("bundles", 3)]
    {
        assert!(seen[what].as_u64().unwrap() >= least, "{what}: {seen}");
    }
}
