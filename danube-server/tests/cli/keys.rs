//! `danube keys`, and that no instant of a rotation loses a key.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::harness::{Danube, files_below, killed_at_every_call, said, stderr};

/// A data directory with one artifact, and its path.
fn kept(danube: &Danube) -> PathBuf {
    danube.expect(0, &["run", "--artifact", "a", "--", "sh", "-c", "echo content > a"]);
    let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    danube.data().join("artifacts").join(id).join("a")
}

/// The ids of the keys that the list shows, by role.
fn keys(danube: &Danube, role: &str) -> Vec<String> {
    let list = danube.expect(0, &["keys", "list"]);
    let rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == role).map(|row| row[0].to_owned()).collect()
}

#[test]
fn an_old_key_verifies_until_it_is_revoked() {
    let danube = Danube::new();
    assert_eq!(danube.run(&["keys", "list"]).status.code(), Some(1), "there is none yet");
    let begun = danube.run(&["run", "--", "true"]);
    let old = keys(&danube, "current");
    let public = fs::read_to_string(danube.data().join("keys/signing.key.pub")).unwrap();
    let told = format!(
        "made signing key {}; give its public part to whoever verifies: {} (",
        old[0],
        public.lines().nth(1).unwrap()
    );
    assert!(stderr(&begun).contains(&told), "{}", said(&begun));
    let again = danube.run(&["run", "--", "true"]);
    assert!(!stderr(&again).contains("made signing key"), "{}", said(&again));
    let first = kept(&danube);
    let out = danube.run(&["keys", "rotate"]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let second = kept(&danube);
    assert_eq!(keys(&danube, "old"), old);
    let new = keys(&danube, "current");
    for (path, key) in [(&first, &old), (&second, &new)] {
        let checks = danube.expect(0, &["verify-artifact", path.to_str().unwrap()]);
        assert!(checks.contains(&key[0]), "{checks}");
    }
    let out = danube.run(&["keys", "revoke", &new[0]]);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    assert!(stderr(&out).contains("rotate first"), "{}", said(&out));
    danube.expect(0, &["keys", "revoke", &old[0]]);
    assert_eq!(keys(&danube, "revoked"), old);
    danube.expect(1, &["verify-artifact", first.to_str().unwrap()]);
    danube.expect(0, &["verify-artifact", second.to_str().unwrap()]);
    danube.expect(2, &["keys", "revoke", "nonsense"]);
}

/// Where the calls of a rotation are that change something, or read what it decides by.
const CALLS: &[&str] =
    &["openat", "write", "fsync", "rename,renameat,renameat2,link,linkat", "flock"];

#[test]
fn a_rotation_killed_at_any_system_call_leaves_a_key_and_loses_none() {
    let danube = Danube::new();
    let first = kept(&danube);
    let killed = killed_at_every_call(&danube, &["keys", "rotate"], CALLS, || {
        assert_eq!(keys(&danube, "current").len(), 1);
        danube.expect(0, &["verify-artifact", first.to_str().unwrap()]);
    });
    assert!(killed > 20, "only {killed} rotations were killed");
    // And the key that came out signs.
    let last = kept(&danube);
    danube.expect(0, &["verify-artifact", last.to_str().unwrap()]);

    // Killed writers left temporary files with private keys in them. Those of now may be somebody's.
    let keys_dir = danube.data().join("keys");
    let left = || {
        let all = files_below(&keys_dir);
        all.into_iter().filter(|path| path.to_str().unwrap().contains("/.tmp-")).collect::<Vec<_>>()
    };
    let before = left();
    assert!(before.len() > 2, "{before:?}");
    danube.expect(0, &["keys", "rotate"]);
    assert_eq!(left(), before, "they are too young");
    // Of the private keys in them some are old ones by now. Nothing is left of one that is revoked.
    let old = keys(&danube, "old");
    let held = || left().iter().filter_map(|path| key_in(path)).collect::<Vec<_>>();
    assert!(held().iter().any(|id| old.contains(id)), "{before:?}");
    for id in &old {
        danube.expect(0, &["keys", "revoke", id]);
    }
    assert!(held().iter().all(|id| !old.contains(id)));
    // The others died before they had a name.
    assert!(!left().is_empty());
    for (at, path) in left().iter().enumerate() {
        let file = fs::File::open(path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let age = Duration::from_hours(if at % 2 == 0 { 2 } else { 49 });
        file.set_modified(modified - age).unwrap();
    }
    let before = left().len();
    danube.expect(0, &["reaper"]);
    assert_eq!(left().len(), before.div_ceil(2), "what is older than two days is gone");
    danube.expect(0, &["keys", "rotate"]);
    assert_eq!(left(), [""; 0].map(PathBuf::from), "and what is older than an hour");
    let last = kept(&danube);
    danube.expect(0, &["verify-artifact", last.to_str().unwrap()]);
}

/// The id of the private key in a file, as a stranger computes it; `None` where it holds none.
fn key_in(path: &Path) -> Option<String> {
    if !fs::read_to_string(path).unwrap().contains("PRIVATE KEY-----\n") {
        return None;
    }
    let public = ["pkey", "-pubout", "-outform", "DER", "-in", path.to_str().unwrap()];
    let out = Command::new("openssl").args(public).output().unwrap();
    let digest = Sha256::digest(&out.stdout);
    out.status.success().then(|| digest[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}
