//! The case folder `cases/verify/`: good and bad evidence, for this verifier and anybody else's.
//!
//! The folder is made by the code here from fixed keys, so that it can be made again:
//! `cargo test -p danube-artifacts write_the_case_folder -- --ignored`. What verifies it reads nothing
//! but the folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
mod made;
mod said;

type Tree = BTreeMap<String, Vec<u8>>;

/// What is changed in the good tree, how it is verified, and what is to come of it.
struct Case {
    name: &'static str,
    description: &'static str,
    path: &'static str,
    options: Vec<&'static str>,
    tree: Tree,
    /// `None`: it is verified.
    refused: Option<(&'static str, &'static str)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/verify")
}

fn cases() -> Vec<Case> {
    let mut cases = made::Cases(Vec::new());
    made::add_evidence(&mut cases);
    said::add_meaning(&mut cases);
    cases.0
}

/// The files of the folder: the good tree whole, and of each case what differs from it.
fn files() -> Tree {
    let base = made::base();
    let mut files = Tree::new();
    files.extend(base.iter().map(|(path, bytes)| (format!("base/{path}"), bytes.clone())));
    for Case { name, description, path, options, tree, refused } in cases() {
        let removed: Vec<_> = base.keys().filter(|path| !tree.contains_key(*path)).collect();
        let expect = match refused {
            None => json!({"verified": true}),
            Some((part, failure)) => json!({"verified": false, "part": part, "failure": failure}),
        };
        let case = json!({
            "description": description,
            "path": path,
            "options": options,
            "removed": removed,
            "expect": expect,
        });
        let mut text = serde_json::to_vec_pretty(&case).unwrap();
        text.push(b'\n');
        assert!(files.insert(format!("{name}/case.json"), text).is_none(), "{name} stands twice");
        for (path, bytes) in tree.iter().filter(|(path, bytes)| base.get(*path) != Some(bytes)) {
            files.insert(format!("{name}/tree/{path}"), bytes.clone());
        }
    }
    files
}

fn read_folder(dir: &Path) -> Tree {
    let mut all = Tree::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                all.insert(name, fs::read(path).unwrap());
            }
        }
    }
    all
}

#[test]
#[ignore = "writes the case folder anew"]
fn write_the_case_folder() {
    for (path, bytes) in files() {
        let path = folder().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn the_case_folder_is_what_the_code_makes() {
    let (made, found) = (files(), read_folder(&folder()));
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&found));
    for (name, bytes) in made {
        assert!(found[&name] == bytes, "{name} differs");
    }
}

/// The options as `danube verify-artifact` has them.
fn options_of(root: &Path, words: &[Value]) -> Result<(VerifyOptions, bool), crate::Error> {
    let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
    let mut keys = PublicKeys::from_keys_dir(&root.join("keys"));
    let mut is_log = false;
    let mut changes: Vec<Box<dyn FnOnce(VerifyOptions) -> VerifyOptions>> = Vec::new();
    let mut words = words.into_iter().map(str::to_owned);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        match word.as_str() {
            "--log" => is_log = true,
            "--signature-only" => changes.push(Box::new(VerifyOptions::with_signature_only)),
            "--public-key" => keys = PublicKeys::from_pem_file(&root.join(value())),
            "--job" => {
                let job = value().parse().unwrap();
                changes.push(Box::new(|options| options.with_expected_job(job)));
            }
            "--name" => {
                let name = value().parse().unwrap();
                changes.push(Box::new(|options| options.with_expected_name(name)));
            }
            "--repository" => {
                let repository = value();
                changes.push(Box::new(|options| options.with_expected_repository(repository)));
            }
            "--commit" => {
                let commit = value();
                changes.push(Box::new(|options| options.with_expected_commit(commit)));
            }
            other => panic!("{other} is no option"),
        }
    }
    let options = changes.into_iter().fold(VerifyOptions::new(keys?), |all, change| change(all));
    Ok((options, is_log))
}

#[test]
fn every_case_of_the_folder_ends_as_it_says() {
    let files = read_folder(&folder());
    let (mut good, mut bad) = (0, 0);
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with("/case.json")) {
        let name = path.strip_suffix("/case.json").unwrap();
        let case: Value = serde_json::from_slice(text).unwrap();
        let root = tempfile::tempdir().unwrap();
        let (base, own) = ("base/".to_owned(), format!("{name}/tree/"));
        for prefix in [base, own] {
            for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with(&prefix)) {
                let path = root.path().join(&path[prefix.len()..]);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
        for path in case["removed"].as_array().unwrap() {
            fs::remove_file(root.path().join(path.as_str().unwrap())).unwrap();
        }
        let path = root.path().join(case["path"].as_str().unwrap());
        let found = match options_of(root.path(), case["options"].as_array().unwrap()) {
            Err(error) => Err(("key".to_owned(), "malformed", error.to_string())),
            Ok((options, is_log)) => {
                let verify = if is_log { verify_log } else { verify_file };
                verify(&path, &options).map(drop).map_err(|error| {
                    let failure = match error.failure {
                        Failure::Missing => "missing",
                        Failure::Unreadable => "unreadable",
                        Failure::Malformed => "malformed",
                        Failure::UnknownKey => "unknown-key",
                        Failure::Mismatch => "mismatch",
                        Failure::Unanswerable => "unanswerable",
                    };
                    (error.part.to_string(), failure, error.reason)
                })
            }
        };
        let expect = &case["expect"];
        match found {
            Ok(()) => {
                good += 1;
                assert_eq!(expect["verified"], json!(true), "{name} was accepted");
            }
            Err((part, failure, reason)) => {
                bad += 1;
                let found = json!({"verified": false, "part": part, "failure": failure});
                assert_eq!(*expect, found, "{name}: {reason}");
            }
        }
    }
    assert!(good >= 10 && bad >= 40, "{good} good, {bad} bad");
}
