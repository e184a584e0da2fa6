//! `danube verify-artifact`, and what a stranger checks with openssl alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Danube, said, stderr};

fn kept(danube: &Danube) -> PathBuf {
    danube.expect(
        0,
        &[
            "run",
            "--artifact",
            "out/*",
            "--",
            "sh",
            "-c",
            "mkdir out; echo content > out/a.txt; echo other > out/b.txt",
        ],
    );
    let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    danube.data().join("artifacts").join(id)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn openssl_accepts_the_signature_with_the_documented_line() {
    let danube = Danube::new();
    let dir = kept(&danube);
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let line = readme.split("```").find(|block| block.contains("openssl pkeyutl")).unwrap();
    let job = dir.file_name().unwrap().to_str().unwrap();
    let line = line.trim_start_matches("sh").trim().replace("JOB", job).replace("report.", "a.");
    let run = |script: &str| {
        Command::new("bash").args(["-c", script]).current_dir(danube.data()).output().unwrap()
    };
    let out = run(&line);
    assert!(out.status.success(), "{line}: {}", said(&out));
    flip(&dir.join("out/a.txt"), 0);
    assert!(!run(&line).status.success());
}

#[test]
fn one_flipped_byte_anywhere_exits_1_and_names_what_failed() {
    let danube = Danube::new();
    let dir = kept(&danube);
    let file = dir.join("out/a.txt");
    let path = file.to_str().unwrap();
    let good = danube.run(&["verify-artifact", path]);
    assert_eq!(good.status.code(), Some(0), "{}", said(&good));
    assert!(!said(&good).to_lowercase().contains("level"), "{}", said(&good));

    let parts = [
        (file.clone(), "artifact: "),
        (dir.join(".danube/out/a.txt.sig"), "signature"),
        (dir.join(".danube/provenance.json"), "provenance.json"),
        (dir.join(".danube/provenance.dsse.json"), "provenance.dsse.json"),
    ];
    for (part, named) in parts {
        let whole = fs::read(&part).unwrap();
        for at in [0, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            flip(&part, at);
            let out = danube.run(&["verify-artifact", path]);
            assert_eq!(out.status.code(), Some(1), "{} at {at}: {}", part.display(), said(&out));
            assert!(stderr(&out).contains(named), "{} at {at}: {}", part.display(), said(&out));
            fs::write(&part, &whole).unwrap();
        }
        // A part that is missing is no proof either.
        fs::remove_file(&part).unwrap();
        let out = danube.run(&["verify-artifact", path]);
        assert_eq!(out.status.code(), Some(1), "{} missing: {}", part.display(), said(&out));
        fs::write(&part, &whole).unwrap();
    }
    danube.expect(0, &["verify-artifact", path]);
}

#[test]
fn a_file_is_verified_elsewhere_with_the_public_key_alone() {
    let danube = Danube::new();
    let dir = kept(&danube);
    let elsewhere = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("out/a.txt", "a.txt"),
        (".danube/out/a.txt.sig", "a.txt.sig"),
        (".danube/provenance.json", "provenance.json"),
        (".danube/provenance.dsse.json", "provenance.dsse.json"),
    ] {
        fs::copy(dir.join(from), elsewhere.path().join(to)).unwrap();
    }
    let key = elsewhere.path().join("key.pub");
    fs::copy(danube.data().join("keys/signing.key.pub"), &key).unwrap();
    let stranger = Danube::new();
    let file = elsewhere.path().join("a.txt");
    let provenance = elsewhere.path().join("provenance.dsse.json");
    let args = [
        "verify-artifact",
        file.to_str().unwrap(),
        "--public-key",
        key.to_str().unwrap(),
        "--provenance",
        provenance.to_str().unwrap(),
    ];
    let out = stranger.run(&args);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(!stranger.data().join("danube.db").exists(), "verifying opens no database");
    // Another key does not vouch for it.
    stranger.expect(0, &["run", "--artifact", "x", "--", "sh", "-c", "echo x > x"]);
    let foreign = stranger.data().join("keys/signing.key.pub");
    let out = stranger.run(&[
        "verify-artifact",
        file.to_str().unwrap(),
        "--public-key",
        foreign.to_str().unwrap(),
        "--provenance",
        provenance.to_str().unwrap(),
    ]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
}

#[test]
fn another_artifact_of_the_same_job_is_not_taken_for_this_one() {
    let danube = Danube::new();
    let dir = kept(&danube);
    let (a, b) = (dir.join("out/a.txt"), dir.join("out/b.txt"));
    let (sig_a, sig_b) = (dir.join(".danube/out/a.txt.sig"), dir.join(".danube/out/b.txt.sig"));
    for (from, to) in [(&b, &a), (&sig_b, &sig_a)] {
        fs::set_permissions(to, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(to, fs::read(from).unwrap()).unwrap();
    }
    // The signature over the bytes holds; the name does not.
    let out = danube.run(&["verify-artifact", a.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
}
