//! `danube keys`, and that no instant of a rotation loses a key.

use std::path::PathBuf;

use crate::harness::{Danube, said, stderr};

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
    let first = kept(&danube);
    let old = keys(&danube, "current");
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

#[test]
fn a_rotation_killed_at_any_system_call_leaves_a_key_and_loses_none() {
    let danube = Danube::new();
    let first = kept(&danube);
    let mut killed = 0;
    for call in ["openat", "write", "fsync", "rename,renameat,renameat2,link,linkat", "flock"] {
        // Every call of that kind, until a rotation comes through.
        for n in 1.. {
            let inject = format!("inject={call}:signal=KILL:when={n}");
            let danube_itself = danube.command(&["keys", "rotate"]);
            let mut strace = std::process::Command::new("strace");
            strace.args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={call}"),
                "-e",
                &inject,
            ]);
            strace.arg(danube_itself.get_program()).args(danube_itself.get_args());
            strace.current_dir(danube.work());
            for (name, value) in danube_itself.get_envs() {
                match value {
                    Some(value) => strace.env(name, value),
                    None => strace.env_remove(name),
                };
            }
            let out = strace.output().expect("strace is installed");
            assert_eq!(keys(&danube, "current").len(), 1, "{call} {n}");
            danube.expect(0, &["verify-artifact", first.to_str().unwrap()]);
            if out.status.success() {
                break;
            }
            killed += 1;
            assert!(n < 500, "{call} never comes through: {}", said(&out));
        }
    }
    assert!(killed > 20, "only {killed} rotations were killed");
    // And the key that came out signs.
    let last = kept(&danube);
    danube.expect(0, &["verify-artifact", last.to_str().unwrap()]);
}
