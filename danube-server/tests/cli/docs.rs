//! The documents: every command that they show is run as it stands, and every field that they name is looked up.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Danube, said};

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)).unwrap()
}

/// The blocks of a document in this language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fenced = document.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// Runs all shell blocks of a document, one after the other in one shell, in the work directory; the first command
/// that fails ends it. Says which block that was.
fn run_all(danube: &Danube, document: &str) -> Output {
    let mut script =
        "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n".to_owned();
    for (at, block) in blocks(document, "sh").iter().enumerate() {
        script += &format!("echo 'block {}' >&2\n{block}\n", at + 1);
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_danube")).parent().unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "the other programs are found where the tester has them"
    )]
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(danube.work()).env("PATH", path);
    // What comes from the Python package index is fetched once.
    bash.env("PIP_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("pip"));
    for (name, value) in danube.command(&[]).get_envs() {
        match value {
            Some(value) => bash.env(name, value),
            None => bash.env_remove(name),
        };
    }
    bash.output().unwrap()
}

#[test]
fn the_way_to_verify_an_artifact_is_walked_as_documented() {
    let (danube, document) = (Danube::new(), document("artifact-verification.md"));
    assert!(blocks(&document, "sh").len() >= 10);
    let out = run_all(&danube, &document);
    assert!(out.status.success(), "{}", said(&out));
    let printed = String::from_utf8(out.stdout).unwrap();
    assert_eq!(printed.matches(" is verified\n").count(), 5, "{printed}");
    assert_eq!(printed.matches("\nverified\n").count(), 1, "{printed}");
    assert_eq!(printed.matches("refused\n").count(), 3, "{printed}");
    assert_eq!(printed.matches("Signature Verified Successfully").count(), 2, "{printed}");

    // The output that the document shows, with its words for what differs each time.
    let job = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let file = danube.data().join("artifacts").join(&job).join("out/app");
    let mut shown = danube.expect(0, &["verify-artifact", file.to_str().unwrap()]);
    let statement = danube.json(&["artifacts", "provenance", "latest"]);
    let text = |pointer: &str| statement.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let key = danube.expect(0, &["keys", "list"]);
    let key = key.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    for (value, word) in [
        (danube.data().to_str().unwrap().to_owned(), "$DATA"),
        (job, "$JOB"),
        (key, "$KEY"),
        (text("/subject/0/digest/sha256"), "$SHA256"),
        (text("/predicate/buildDefinition/resolvedDependencies/1/digest/sha256"), "$ENTRYSHA256"),
        (text("/predicate/runDetails/metadata/finishedOn"), "$TIME"),
        (env!("CARGO_PKG_VERSION").to_owned(), "$VERSION"),
    ] {
        assert!(shown.contains(&value), "{value} for {word}: {shown}");
        shown = shown.replace(&value, word);
    }
    assert_eq!(blocks(&document, "text"), [shown]);
}

#[test]
fn the_commands_of_the_security_document_do_what_it_says() {
    let (danube, document) = (Danube::new(), document("security.md"));
    let first = blocks(&document, "sh")[0];
    assert!(first.contains("find "));
    let out = run_all(&danube, &document);
    assert!(out.status.success(), "{}", said(&out));
    // What was restored is what is there.
    let restored = danube.work().join("restored/keys/signing.key");
    assert!(
        fs::read(restored).unwrap() == fs::read(danube.data().join("keys/signing.key")).unwrap()
    );
    // Where something is open to others, the first block prints it.
    let quiet = run_all(&danube, &format!("```sh\n{first}```"));
    assert!(quiet.stdout.is_empty(), "{}", said(&quiet));
    let open = danube.data().join("keys/sealing.key");
    fs::write(&open, "").unwrap();
    let told = run_all(&danube, &format!("```sh\n{first}```"));
    assert!(String::from_utf8_lossy(&told.stdout).contains("sealing.key"), "{}", said(&told));
}

/// The values that a path of the document (`subject[].name`) leads to.
fn at<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    path.split('.').fold(vec![value], |found, step| {
        let (name, is_list) = step.strip_suffix("[]").map_or((step, false), |name| (name, true));
        let below = found.into_iter().filter_map(|value| value.get(name));
        match is_list {
            true => below.filter_map(Value::as_array).flatten().collect(),
            false => below.collect(),
        }
    })
}

#[test]
fn every_field_that_the_slsa_document_names_is_in_the_provenance() {
    let (danube, document) = (Danube::new(), document("slsa-compliance.md"));
    let job = "name: release\nsteps: [{name: build, run: mkdir out && echo x > out/app}]\nartifacts: [out/*]\n";
    fs::write(danube.work().join("job.yaml"), job).unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let source = ["--repository", "https://git.example.com/app", "--commit", commit];
    danube.expect(0, &[&["run"][..], &source, &["--branch", "main", "job.yaml"]].concat());
    let whole = danube.json(&["artifacts", "provenance", "latest"]);
    danube.expect(0, &["run", "--", "true"]);
    let least = danube.json(&["artifacts", "provenance", "latest"]);

    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let mut seen = 0;
    for row in rows {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        for path in columns[1].split('`').skip(1).step_by(2) {
            assert!(!at(&whole, path).is_empty(), "{path} is not in {whole:#}");
            let is_promised = columns[3].starts_with("yes") && !path.ends_with("artifacts[]");
            assert!(!is_promised || !at(&least, path).is_empty(), "{path} is not in {least:#}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}
