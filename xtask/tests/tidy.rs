//! What the compiler cannot see: the floors of the house, the size of files, their first lines.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The floors of ARCHITECTURE.md. A crate depends only on crates of lower floors.
const FLOORS: &[(&str, u32)] = &[
    ("danube-core", 0),
    ("danube-exec", 1),
    ("danube-logs", 1),
    ("danube-artifacts", 1),
    ("danube-secrets", 1),
    ("danube-reaper", 1),
    ("danube-store", 2),
    ("danube-engine", 3),
    ("danube-server", 4),
];

/// Members that are no part of the house: they may use every crate, and no crate may use them.
const OUTBUILDINGS: &[&str] = &["danube-examples", "danube-benches", "xtask"];

const MAX_LINES: usize = 900;

/// One arrow between two members: `from` depends on `to`.
struct Arrow {
    from: String,
    to: String,
    is_dev: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> serde_json::Value {
    let out = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn arrows(metadata: &serde_json::Value) -> Vec<Arrow> {
    let packages = metadata["packages"].as_array().unwrap();
    let members: Vec<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let mut arrows = Vec::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            if members.contains(&to) {
                arrows.push(Arrow {
                    from: package["name"].as_str().unwrap().to_owned(),
                    to: to.to_owned(),
                    is_dev: dependency["kind"] == "dev",
                });
            }
        }
    }
    arrows
}

fn forbidden(arrows: &[Arrow]) -> Vec<String> {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let mut faults = Vec::new();
    for Arrow { from, to, is_dev } in arrows {
        if OUTBUILDINGS.contains(&to.as_str()) {
            faults.push(format!("{from} depends on {to}, which is not part of the house"));
            continue;
        }
        if OUTBUILDINGS.contains(&from.as_str()) {
            continue;
        }
        // A crate's tests may switch on a feature of the crate itself.
        if *is_dev && from == to {
            continue;
        }
        match (floors.get(from.as_str()), floors.get(to.as_str())) {
            (Some(above), Some(below)) if below < above => {}
            (Some(above), Some(below)) => faults.push(format!(
                "{from} (floor {above}) depends on {to} (floor {below}): only lower floors are allowed"
            )),
            (None, _) => faults.push(format!("{from} has no floor: add it here and to ARCHITECTURE.md")),
            (_, None) => faults.push(format!("{to} has no floor: add it here and to ARCHITECTURE.md")),
        }
    }
    faults
}

fn sources() -> Vec<PathBuf> {
    let out = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .output()
        .unwrap();
    let listed = String::from_utf8(out.stdout).unwrap();
    let files: Vec<_> =
        listed.lines().map(|line| root().join(line)).filter(|p| p.exists()).collect();
    assert!(files.len() > 20, "only {} source files found: is git there?", files.len());
    files
}

#[test]
fn every_arrow_points_to_a_lower_floor() {
    let arrows = arrows(&metadata());
    assert!(arrows.len() > 15, "only {} arrows found", arrows.len());
    let faults = forbidden(&arrows);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_arrow_to_a_neighbour_upwards_or_to_an_outbuilding_is_found() {
    let arrow = |from: &str, to: &str, is_dev| Arrow { from: from.into(), to: to.into(), is_dev };
    let table = [
        ("to a neighbour", arrow("danube-logs", "danube-secrets", false)),
        ("to a neighbour, in tests only", arrow("danube-logs", "danube-secrets", true)),
        ("upwards", arrow("danube-exec", "danube-engine", false)),
        ("to itself outside of tests", arrow("danube-exec", "danube-exec", false)),
        ("to an outbuilding", arrow("danube-engine", "xtask", false)),
        ("from a crate without a floor", arrow("danube-new", "danube-core", false)),
    ];
    for (what, arrow) in table {
        assert_eq!(forbidden(&[arrow]).len(), 1, "an arrow {what} was not found");
    }
    let allowed =
        [arrow("danube-engine", "danube-core", false), arrow("danube-exec", "danube-exec", true)];
    assert_eq!(forbidden(&allowed), Vec::<String>::new());
}

/// The crates that a package is built from, by name.
fn built_from(args: &[&str]) -> Vec<String> {
    let out = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .args(args)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn provenance_alone_needs_neither_a_runtime_nor_http() {
    let package = ["--package", "danube-artifacts", "--no-default-features"];
    for feature in ["attest", "archive"] {
        let names = built_from(&[&package[..], &["--features", feature]].concat());
        assert!(names.iter().any(|name| name == "danube-core"), "{names:?}");
        for banned in ["tokio", "hyper", "futures-util"] {
            assert!(!names.iter().any(|name| name == banned), "{feature} builds {banned}");
        }
    }
    // The other way round, so that the test is known to see it.
    let names = built_from(&[&package[..], &["--features", "store"]].concat());
    assert!(names.iter().any(|name| name == "tokio"), "{names:?}");
}

#[test]
fn every_crate_has_a_floor_or_is_an_outbuilding() {
    for package in metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let known = OUTBUILDINGS.contains(&name) || FLOORS.iter().any(|(floor, _)| *floor == name);
        assert!(known, "{name} has no floor");
    }
}

#[test]
fn architecture_md_names_every_member_and_no_crate_that_is_not_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (map, _) =
        text.split_once("## What is not there yet").expect("the section names what is absent");
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let members: Vec<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    for member in &members {
        let name = match *member {
            "danube-examples" => "examples/",
            "danube-benches" => "benches/",
            "xtask" => "xtask/",
            name => name,
        };
        assert!(map.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name `{name}`");
    }
    let named = map.split('`').skip(1).step_by(2).filter(|word| {
        word.starts_with("danube-") && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
    });
    for name in named {
        assert!(members.contains(&name), "ARCHITECTURE.md names `{name}`, which is not there");
    }
}

#[test]
fn every_source_file_opens_with_its_purpose_and_stays_readable() {
    let mut faults = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let first = text.lines().next().unwrap_or_default();
        let has_purpose =
            first.starts_with("//! ") || first == "#![doc = include_str!(\"../README.md\")]";
        if !has_purpose {
            faults
                .push(format!("{shown} does not open with a `//!` line that says what it is for"));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!(
                "{shown} has {lines} lines; {MAX_LINES} are allowed: split it by purpose"
            ));
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if ["utils.rs", "util.rs", "common.rs", "helpers.rs", "misc.rs", "imp.rs"]
            .contains(&name.as_str())
        {
            faults.push(format!("{shown} is named for nothing: name it for what it does"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn yaml_is_read_in_one_module_only() {
    let module = root().join("danube-engine/src/yaml");
    let is_allowed =
        |path: &PathBuf| path.starts_with(&module) || *path == module.with_extension("rs");
    let users: Vec<_> = sources()
        .into_iter()
        .filter(|path| !path.ends_with("xtask/tests/tidy.rs") && !is_allowed(path))
        .filter(|path| fs::read_to_string(path).unwrap().contains("serde_yaml::"))
        .collect();
    assert!(users.is_empty(), "serde_yaml is used in {users:?}");
}

#[test]
fn every_crate_has_a_readme_that_is_its_crate_doc() {
    for (name, _) in FLOORS {
        let dir = root().join(name);
        assert!(dir.join("README.md").exists(), "{name} has no README.md");
        let lib = dir.join("src/lib.rs");
        let entry = if lib.exists() { lib } else { dir.join("src/main.rs") };
        let text = fs::read_to_string(entry).unwrap();
        assert!(
            text.contains("include_str!(\"../README.md\")"),
            "{name} does not include its README"
        );
    }
}
