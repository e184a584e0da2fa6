//! Libraries that are not ours, in Python, verify what we sign and refuse what we refuse.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use danube_artifacts::attest::Envelope;

/// What is installed from the Python package index, with everything it needs.
const PACKAGES: &[&str] = &[
    "securesystemslib[crypto]==1.6.0",
    "in-toto-attestation==0.9.3",
    "jsonschema==4.26.0",
    "sigstore-models==0.0.6",
];

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {said}");
    String::from_utf8(out.stdout).unwrap()
}

/// A Python with these packages, made once in the target directory.
fn python() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-dsse");
    let (python, done) = (dir.join("bin/python"), dir.join("installed"));
    let wanted = PACKAGES.join(" ");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    // Debian has `venv` in the package python3-venv.
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(&python).args(pip).args(PACKAGES));
    fs::write(done, wanted).unwrap();
    python
}

#[test]
fn other_libraries_agree_about_every_case_of_the_folder() {
    let python = python();
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
