//! Bad input and a broken machine: one clear sentence, the documented exit code, nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::harness::{Danube, contains, said, stderr};

/// Exactly one sentence on stderr that contains `named`.
#[track_caller]
fn one_sentence(out: &Output, code: i32, named: &str) {
    assert_eq!(out.status.code(), Some(code), "{}", said(out));
    let text = stderr(out);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{}", said(out));
    assert!(lines[0].starts_with("danube: ") && lines[0].contains(named), "{}", said(out));
    assert!(!text.contains("panicked"), "{}", said(out));
}

#[test]
fn a_wrong_job_file_is_refused_with_its_place_before_anything_starts() {
    let table = [
        ("an unknown key", "name: x\nstep: []\n", "step"),
        (
            "an unknown key in a step",
            "name: x\nsteps:\n  - {name: a, run: 'true', comand: x}\n",
            "comand",
        ),
        ("no steps", "name: x\nsteps: []\n", "steps"),
        (
            "two steps of one name",
            "name: x\nsteps:\n  - {name: a, run: 'true'}\n  - {name: a, run: 'true'}\n",
            "\"a\"",
        ),
        ("a key twice", "name: x\nname: y\nsteps:\n  - {name: a, run: 'true'}\n", "name"),
        (
            "a glob outside",
            "name: x\nsteps:\n  - {name: a, run: 'true'}\nartifacts: ['../*']\n",
            "../*",
        ),
        (
            "an absolute glob",
            "name: x\nsteps:\n  - {name: a, run: 'true'}\nartifacts: ['/etc/*']\n",
            "/etc/*",
        ),
        ("a bad duration", "name: x\ntimeout: soon\nsteps:\n  - {name: a, run: 'true'}\n", "soon"),
        ("no YAML", "name: [x\n", "line"),
        ("a bracket in a step's name", "name: x\nsteps:\n  - {name: 'a]b', run: 'true'}\n", "a]b"),
        (
            "an alias bomb",
            "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n",
            "",
        ),
    ];
    for (what, text, named) in table {
        let danube = Danube::new();
        fs::write(danube.work().join("job.yaml"), text).unwrap();
        let out = danube.run(&["run", "job.yaml"]);
        assert_eq!(out.status.code(), Some(2), "{what}: {}", said(&out));
        assert!(
            stderr(&out).contains("job.yaml") && stderr(&out).contains(named),
            "{what}: {}",
            said(&out)
        );
        assert_eq!(danube.jobs().len(), 0, "{what}");
    }
    let danube = Danube::new();
    one_sentence(&danube.run(&["run", "no-such.yaml"]), 2, "no-such.yaml");
    one_sentence(&danube.run(&["run", "--artifact", "../x", "--", "true"]), 2, "../x");
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let danube = Danube::new();
    fs::write(danube.work().join("file"), "").unwrap();
    // A file where the directory should be: refused for root too.
    let path = danube.work().join("file/below");
    let out =
        danube.command(&["run", "--", "true"]).env("DANUBE_DATA_DIR", &path).output().unwrap();
    one_sentence(&out, 5, path.to_str().unwrap());
    for args in [&["run", "--", "true"][..], &["jobs"], &["serve", "--port", "0"]] {
        let out = danube.command(args).env("DANUBE_DATA_DIR", "/proc/danube").output().unwrap();
        one_sentence(&out, 5, "/proc/danube");
    }
}

#[test]
fn a_corrupt_database_is_left_as_it_is() {
    let danube = Danube::new();
    danube.expect(0, &["run", "--", "echo", "kept"]);
    let log = danube.log_path();
    let db = danube.data().join("danube.db");
    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(danube.data().join(format!("danube.db{ending}")));
    }
    let garbage = b"this is no database, whatever its name says. ".repeat(200);
    fs::write(&db, &garbage).unwrap();
    for args in [&["run", "--", "true"][..], &["jobs"], &["migrate"]] {
        one_sentence(&danube.run(args), 5, "danube.db");
    }
    assert_eq!(fs::read(&db).unwrap(), garbage);
    assert!(contains(&fs::read(log).unwrap(), b"kept"));
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let danube = Danube::new();
    danube.expect(0, &["run", "--", "true"]);
    let db = danube.data().join("danube.db");
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum) \
                 VALUES (9999, 'from_the_future', '2030-01-01T00:00:00Z', '0')";
    let sql = rusqlite::Connection::open(&db).unwrap();
    sql.execute(newer, []).unwrap();
    drop(sql);
    for args in [&["run", "--", "true"][..], &["jobs"], &["migrate"]] {
        one_sentence(&danube.run(args), 5, "newer");
    }
}

#[test]
fn a_signing_key_that_others_can_read_is_refused() {
    let danube = Danube::new();
    danube.expect(0, &["run", "--", "true"]);
    let key = danube.data().join("keys/signing.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    one_sentence(&danube.run(&["run", "--", "touch", "ran"]), 5, "0644");
    assert!(!danube.work().join("ran").exists());
    // Reading needs no signing key.
    danube.expect(0, &["jobs"]);
    danube.expect(0, &["logs", "latest"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    danube.expect(0, &["run", "--", "true"]);
}

/// A small file system of its own; needs root, as a container's build or a CI machine has it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_ends_the_job_honestly_and_keeps_what_was_written() {
    for size in ["640k", "1m", "3m"] {
        a_disk_of(size);
    }
}

fn a_disk_of(size: &str) {
    // Large writes leave room when the last of them does not fit; small ones fill the disk to its end.
    let script = match size {
        "3m" => "yes 0123456789 | head -c 20000000; sleep 60",
        _ => {
            "for i in $(seq 20000); do echo line-$i-0123456789-0123456789-0123456789; done; sleep 60"
        }
    };
    let danube = Danube::new();
    let disk = SmallDisk::new(size);
    let mut command = if let Some(disk) = &disk {
        let mut command = danube.command(&["run", "--", "sh", "-c", script]);
        command.env("DANUBE_DATA_DIR", disk.0.path());
        command
    } else {
        // Without root the same refusal comes from a limit on the size of files.
        let mut command = Command::new("prlimit");
        command.args([
            "--fsize=3000000",
            "--",
            env!("CARGO_BIN_EXE_danube"),
            "run",
            "--",
            "sh",
            "-c",
        ]);
        command.arg(script);
        command.current_dir(danube.work()).env("DANUBE_DATA_DIR", danube.data());
        command
    };
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", said(&out));
    let data = disk.as_ref().map_or(danube.data(), |disk| disk.0.path());
    let text = stderr(&out);
    // Either may be the first to find the disk full: the log, or the record of the step that writes it.
    let reason = ["log_write", "record"]
        .into_iter()
        .find(|reason| text.contains(&format!("lost ({reason})")))
        .unwrap_or_else(|| panic!("{}", said(&out)));
    let logs: Vec<_> =
        fs::read_dir(data.join("logs")).unwrap().flatten().map(|e| e.path()).collect();
    let log = logs.iter().find(|path| path.extension().is_some_and(|e| e == "log")).unwrap();
    let bytes = fs::read(log).unwrap();
    // A write is kept whole or not at all, so a very small disk may keep no output.
    assert!(bytes.ends_with(b"\n"), "{size}: {} bytes", bytes.len());
    if size == "3m" {
        assert!(bytes.len() > 1_000_000 && contains(&bytes, b"[stdout] 0123456789\n"));
    }
    // What can be read is read, also while the disk is full, and the record tells the truth.
    let ask = |args: &[&str]| danube.command(args).env("DANUBE_DATA_DIR", data).output().unwrap();
    let logs = ask(&["logs", "latest"]);
    assert_eq!(logs.status.code(), Some(0), "{}", said(&logs));
    for _ in 0..3 {
        let jobs = ask(&["jobs", "--output", "json"]);
        let told: serde_json::Value = serde_json::from_slice(&jobs.stdout).unwrap();
        let job = &told["jobs"][0];
        assert_eq!(job["lost_reason"], reason, "{size}: {}", said(&jobs));
    }
    assert_eq!(fs::read(log).unwrap(), bytes, "asking changes nothing");
}

#[test]
fn a_disk_that_is_full_from_the_start_is_one_sentence() {
    let danube = Danube::new();
    let disk = SmallDisk::new("64k");
    let (out, data) = match &disk {
        Some(disk) => {
            let mut command = danube.command(&["run", "--", "true"]);
            let out = command.env("DANUBE_DATA_DIR", disk.0.path()).output().unwrap();
            (out, disk.0.path())
        }
        // Without root: no file may have a single byte.
        None => {
            let mut command = Command::new("prlimit");
            command.args(["--fsize=0", "--", env!("CARGO_BIN_EXE_danube"), "run", "--", "true"]);
            let out = command.env("DANUBE_DATA_DIR", danube.data()).output().unwrap();
            (out, danube.data())
        }
    };
    one_sentence(&out, 5, data.to_str().unwrap());
}

#[test]
fn a_configuration_with_a_typo_is_named() {
    let danube = Danube::new();
    let path = danube.work().join("danube.toml");
    fs::write(&path, "[logs]\nmax_byte = 5\n").unwrap();
    let out = danube.command(&["jobs"]).env("DANUBE_CONFIG", &path).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    assert!(stderr(&out).contains("max_byte"), "{}", said(&out));
}
