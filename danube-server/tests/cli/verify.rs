//! `danube verify-artifact`, and what a stranger checks with openssl alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Danube, said, stderr};
use crate::serve::Server;

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
        (dir.join(".danube/signatures/out/a.txt.sig"), "signature"),
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
        (".danube/signatures/out/a.txt.sig", "a.txt.sig"),
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
fn artifacts_called_like_what_danube_adds_are_artifacts_like_others() {
    let danube = Danube::new();
    let script = "mkdir provenance.json metadata.json; echo one > provenance.json/x; echo two > metadata.json/y; echo three > signatures";
    let globs = ["--artifact", "*.json/*", "--artifact", "signatures"];
    let run = [&["run"][..], &globs, &["--", "sh", "-c", script]].concat();
    danube.expect(0, &run);
    let listed = danube.expect(0, &["artifacts", "list", "latest"]);
    let job = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let dir = danube.data().join("artifacts").join(&job);
    let server = Server::start(&danube);
    let names = ["metadata.json/y", "provenance.json/x", "signatures"];
    for name in names {
        assert!(listed.contains(name), "{listed}");
        danube.expect(0, &["verify-artifact", dir.join(name).to_str().unwrap()]);
        let signature = fs::read(dir.join(format!(".danube/signatures/{name}.sig"))).unwrap();
        assert_eq!(signature.len(), 64);
        let statement = danube.json(&["artifacts", "provenance", "latest"]);
        let subjects = statement["subject"].as_array().unwrap();
        let said = subjects.iter().find(|subject| subject["name"] == name).unwrap();
        let mut decoded = Command::new("base64");
        decoded.arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut decoded = decoded.spawn().unwrap();
        let text = said["annotations"]["signature"].as_str().unwrap();
        std::io::Write::write_all(&mut decoded.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(decoded.wait_with_output().unwrap().stdout == signature, "{statement:#}");
        let of_job = format!("/api/v1/jobs/{job}/artifacts");
        for path in [format!("{of_job}/{name}.sig"), format!("{of_job}/{name}?part=signature")] {
            assert!(server.get(&path, &[]) == signature, "{path}");
        }
        assert_eq!(server.get(&format!("{of_job}/{name}"), &[]), fs::read(dir.join(name)).unwrap());
        let from = ["verify-artifact", "--server", server.base(), "--job", &job, name];
        danube.expect(0, &from);
    }
    for name in names {
        danube.expect(0, &["artifacts", "delete", "latest", name]);
    }
    assert!(!dir.exists(), "nothing is left of the job's artifacts");
}

#[test]
fn a_compressed_log_is_verified_offline_by_its_text() {
    let danube = Danube::new();
    let config = danube.work().join("danube.toml");
    fs::write(&config, "[logs]\ncompress = true\n").unwrap();
    let compressing = ["--config", config.to_str().unwrap()];
    // More than one frame of text.
    danube.expect(0, &[&compressing[..], &["run", "--", "seq", "1", "20000"]].concat());
    let job = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let text = danube.expect(0, &["logs", "latest"]);
    let frames = danube.data().join(format!("logs/{job}.log.zst"));
    let path = frames.to_str().unwrap();
    let out = danube.expect(0, &["verify-artifact", "--log", path, "--job", &job]);
    assert!(out.contains(&format!("read {} bytes of log", text.len())), "{out}");
    // Elsewhere, beside the provenance alone.
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("build.zst");
    fs::copy(&frames, &copy).unwrap();
    let of_job = danube.data().join("artifacts").join(&job).join(".danube");
    for name in ["provenance.json", "provenance.dsse.json"] {
        fs::copy(of_job.join(name), elsewhere.path().join(name)).unwrap();
    }
    danube.expect(0, &["verify-artifact", "--log", copy.to_str().unwrap()]);
    // The same text as a plain file.
    let plain = elsewhere.path().join("build.log");
    fs::write(&plain, &text).unwrap();
    danube.expect(0, &["verify-artifact", "--log", plain.to_str().unwrap()]);

    let whole = fs::read(&frames).unwrap();
    flip(&frames, whole.len() / 2);
    let out = danube.run(&["verify-artifact", "--log", path]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    let damaged = format!("artifact: cannot read {path}: the compressed log is damaged: ");
    assert!(stderr(&out).contains(&damaged), "{}", said(&out));
    assert!(out.stdout.is_empty(), "{}", said(&out));
    fs::write(&frames, &whole[..whole.len() - 1]).unwrap();
    let out = danube.run(&["verify-artifact", "--log", path]);
    assert!(out.status.code() == Some(1) && stderr(&out).contains(&damaged), "{}", said(&out));
    // Another log, whole as it is, is not this one.
    danube.expect(0, &[&compressing[..], &["run", "--", "seq", "1", "20000"]].concat());
    let other = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    fs::copy(danube.data().join(format!("logs/{other}.log.zst")), &frames).unwrap();
    let out = danube.run(&["verify-artifact", "--log", path]);
    assert!(out.status.code() == Some(1) && stderr(&out).contains("SHA-256"), "{}", said(&out));
}

#[test]
fn another_artifact_of_the_same_job_is_not_taken_for_this_one() {
    let danube = Danube::new();
    let dir = kept(&danube);
    let (a, b) = (dir.join("out/a.txt"), dir.join("out/b.txt"));
    let (sig_a, sig_b) = (
        dir.join(".danube/signatures/out/a.txt.sig"),
        dir.join(".danube/signatures/out/b.txt.sig"),
    );
    for (from, to) in [(&b, &a), (&sig_b, &sig_a)] {
        fs::set_permissions(to, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(to, fs::read(from).unwrap()).unwrap();
    }
    // The signature over the bytes holds; the name does not.
    let out = danube.run(&["verify-artifact", a.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
}

#[test]
fn a_log_is_verified_and_the_source_is_told_and_expected() {
    let danube = Danube::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = "git+https://git.example.com/a/b";
    fs::write(
        danube.work().join("job.yaml"),
        "name: release\nsteps:\n  - run: echo hi; echo x > a\n    name: one\nartifacts: [a]\n",
    )
    .unwrap();
    let source = ["--repository", repository, "--commit", commit, "--branch", "main", "job.yaml"];
    danube.expect(0, &[&["run"], &source[..]].concat());
    let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let log = danube.data().join("logs").join(format!("{id}.log"));
    let log = log.to_str().unwrap();
    let expected = ["--job", &id, "--repository", repository, "--commit", commit];
    let told = danube.expect(0, &[&["verify-artifact", "--log", log], &expected[..]].concat());
    for part in [
        "is of commit 0123",
        "builder: urn:danube:builder",
        "pipeline: release",
        "branch: main",
        "entry point: job.yaml",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    danube.expect(1, &["verify-artifact", "--log", log, "--commit", &commit.replace('0', "1")]);
    danube.expect(2, &["run", "--commit", commit, "--", "true"]);
    danube.expect(2, &["run", "--commit", "main", "--repository", "x", "--", "true"]);

    let mut bytes = fs::read(log).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(log, bytes).unwrap();
    let out = danube.run(&["verify-artifact", "--log", log]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(stderr(&out).contains("artifact: "), "{}", said(&out));
}

#[test]
fn provenance_is_printed_in_every_format_and_written_in_every_form() {
    let danube = Danube::new();
    for (form, statement) in [("v1", "v1"), ("v0.2", "v0.1"), ("v0.1", "v0.1")] {
        let config = danube.work().join("danube.toml");
        fs::write(&config, format!("[provenance]\nform = \"{form}\"\nbuilder_id = \"urn:us\"\n"))
            .unwrap();
        let config = config.to_str().unwrap();
        danube.expect(
            0,
            &["--config", config, "run", "--artifact", "a", "--", "sh", "-c", "echo x > a"],
        );
        let print = |format: &str| {
            danube.expect(0, &["artifacts", "provenance", "latest", "--format", format])
        };
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let said = json(&print("statement"));
        assert_eq!(said["_type"], format!("https://in-toto.io/Statement/{statement}"));
        assert_eq!(said["predicateType"], format!("https://slsa.dev/provenance/{form}"));
        assert!(said.to_string().contains("urn:us"));
        let (envelope, bundle) = (json(&print("envelope")), json(&print("bundle")));
        assert_eq!(bundle["dsseEnvelope"], envelope);
        let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
        let dir = danube.data().join("artifacts").join(id);
        assert_eq!(
            print("envelope").into_bytes(),
            fs::read(dir.join(".danube/provenance.dsse.json")).unwrap()
        );
        danube.expect(0, &["verify-artifact", dir.join("a").to_str().unwrap()]);
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The folder is the library's; here the same cases go through the command line and its exit code.
#[test]
fn every_case_of_the_case_folder_exits_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../danube-artifacts/cases/verify");
    let danube = Danube::new();
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(entry.join("case.json")) else { continue };
        let case: serde_json::Value = serde_json::from_str(&text).unwrap();
        let root = tempfile::tempdir().unwrap();
        copy_all(&folder.join("base"), root.path());
        if entry.join("tree").exists() {
            copy_all(&entry.join("tree"), root.path());
        }
        let words = |key: &str| -> Vec<String> {
            let list = case[key].as_array().unwrap().iter();
            list.map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        for removed in words("removed") {
            fs::remove_file(root.path().join(removed)).unwrap();
        }
        let mut args = vec!["--data-dir".to_owned(), ".".to_owned(), "verify-artifact".to_owned()];
        args.push(case["path"].as_str().unwrap().to_owned());
        args.extend(words("options"));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = danube.command(&args).current_dir(root.path()).output().unwrap();
        let expect = &case["expect"];
        let (code, part) = match expect["verified"].as_bool().unwrap() {
            true => (0, ""),
            // What cannot be answered names no part: the reason is in the question.
            false if expect["failure"] == "unanswerable" => (1, "the signature alone"),
            false if expect["part"] == "key" => (1, "key"),
            false => (1, expect["part"].as_str().unwrap()),
        };
        assert_eq!(out.status.code(), Some(code), "{}: {}", entry.display(), said(&out));
        assert!(stderr(&out).contains(part), "{}: {}", entry.display(), said(&out));
        seen += 1;
    }
    assert!(seen >= 50, "{seen}");
}
