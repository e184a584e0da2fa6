//! What the provenance says of the source, without anybody having typed it.

use std::fs;
use std::process::Command;

use crate::harness::{Danube, said, stderr};

const ORIGIN: &str = "https://ci:ghp_0123456789@git.example.com/a/b.git";
const TOLD: &str = "git+https://git.example.com/a/b.git";

/// Makes the work directory a repository with one commit, and returns the commit.
fn commit(danube: &Danube) -> String {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(args);
        git.current_dir(danube.work()).env("HOME", danube.work());
        let out = git.output().unwrap();
        assert!(out.status.success(), "{}", said(&out));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet", "--initial-branch=trunk"]);
    git(&["remote", "add", "origin", ORIGIN]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "x"]);
    git(&["rev-parse", "HEAD"])
}

fn provenance(danube: &Danube) -> String {
    danube.expect(0, &["artifacts", "provenance", "latest"])
}

#[test]
fn a_clean_work_tree_is_named_and_one_with_changes_is_not() {
    let danube = Danube::new();
    fs::create_dir(danube.work().join("ci")).unwrap();
    fs::write(danube.work().join(".gitignore"), "out\n").unwrap();
    fs::write(
        danube.work().join("ci/job.yaml"),
        "name: release\nsteps: [{name: one, run: 'mkdir -p out; echo x > out/a'}]\nartifacts: [out/*]\n",
    )
    .unwrap();
    let commit = commit(&danube);
    let file = danube.work().join("ci/job.yaml");
    // However the file is typed, the provenance has its place in the source.
    for typed in ["ci/job.yaml", "./ci/../ci/job.yaml", file.to_str().unwrap()] {
        let out = danube.run(&["run", typed]);
        assert_eq!(out.status.code(), Some(0), "{}", said(&out));
        let said = provenance(&danube);
        for part in [TOLD, &commit, "\"trunk\"", "\"ci/job.yaml\""] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("ghp_"), "{said}");
    }
    assert_eq!(danube.files_with(b"ghp_0123456789"), [""; 0].map(std::path::PathBuf::from));
    let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let artifact = danube.data().join("artifacts").join(id).join("out/a");
    let expected = ["--repository", TOLD, "--commit", &commit, artifact.to_str().unwrap()];
    danube.expect(0, &[&["verify-artifact"], &expected[..]].concat());

    // Not where it is not wanted; what is typed wins.
    danube.expect(0, &["run", "--no-source", "ci/job.yaml"]);
    assert!(!provenance(&danube).contains("git.example.com"));
    let other = "f".repeat(40);
    danube.expect(0, &["run", "--repository", "urn:other", "--commit", &other, "ci/job.yaml"]);
    let said_of_other = provenance(&danube);
    assert!(said_of_other.contains("urn:other") && !said_of_other.contains(TOLD));
    danube
        .expect(2, &["run", "--no-source", "--repository", "x", "--commit", &other, "--", "true"]);

    fs::write(danube.work().join("new"), "x").unwrap();
    let out = danube.run(&["run", "ci/job.yaml"]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let why = "danube: the provenance will name no source: the work tree has changes that are not committed\n";
    assert!(stderr(&out).contains(why), "{}", said(&out));
    assert!(!provenance(&danube).contains("git.example.com"));
    // Nobody is told who keeps no files.
    let out = danube.run(&["run", "--", "true"]);
    assert!(!stderr(&out).contains("source"), "{}", said(&out));
}

#[test]
fn a_detached_job_names_its_source_too_and_without_git_there_is_none() {
    let danube = Danube::new();
    fs::write(danube.work().join("a"), "x").unwrap();
    let commit = commit(&danube);
    danube.expect(0, &["run", "--detach", "--artifact", "a", "--", "true"]);
    crate::harness::wait_until("the job has ended", || danube.jobs()[0]["state"] == "succeeded");
    assert!(provenance(&danube).contains(&commit));

    let mut command = danube.command(&["run", "--artifact", "a", "--", "/bin/true"]);
    let out = command.env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(stderr(&out).contains("no source: there is no git along the PATH"), "{}", said(&out));
    assert!(!provenance(&danube).contains(&commit));
}
