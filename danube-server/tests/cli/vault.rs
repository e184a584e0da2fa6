//! `danube secrets`: what is stored, who may use it, and what a rotation survives.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use danube_secrets::{Keyring, SecretVault};
use danube_store::{Store, StoreOptions};

use crate::harness::{Danube, contains, said, stderr};

pub(crate) fn with_stdin(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
pub(crate) fn set(danube: &Danube, args: &[&str], value: &[u8]) {
    let out = with_stdin(danube.command(&[&["secrets", "set"], args].concat()), value);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(out.stdout.is_empty(), "{}", said(&out));
}

/// What a job sees of a secret, without the masks that stand in its way.
#[track_caller]
fn seen_by_a_job(danube: &Danube, args: &[&str]) -> String {
    let script = "printf %s \"$TOKEN\" > seen";
    danube.expect(0, &[&["run"], args, &["--", "sh", "-c", script]].concat());
    fs::read_to_string(danube.work().join("seen")).unwrap()
}

#[test]
fn a_stored_secret_reaches_the_jobs_of_its_owner_and_is_masked() {
    let danube = Danube::new();
    set(&danube, &["TOKEN"], b"hunter2-hunter2\n");
    set(&danube, &["DEPLOY", "--owner", "pipeline/nightly"], b"hunter3-hunter3");
    assert_eq!(seen_by_a_job(&danube, &["--secret", "TOKEN"]), "hunter2-hunter2");
    let nightly = ["--owner", "pipeline/nightly", "--secret", "TOKEN=vault:DEPLOY"];
    assert_eq!(seen_by_a_job(&danube, &nightly), "hunter3-hunter3");
    danube.expect(0, &["run", "--secret", "TOKEN", "--", "sh", "-c", "echo said $TOKEN"]);
    let log = String::from_utf8(danube.log()).unwrap();
    assert!(log.contains("[stdout] said ***\n"), "{log}");
    assert_eq!(danube.files_with(b"hunter2"), Vec::<std::path::PathBuf>::new());

    // Somebody else's is refused before anything starts, and so is one that nobody has.
    let before = danube.jobs().len();
    for secret in ["DEPLOY", "NOBODYS", "TOKEN=vault:", "TOKEN=vault:a b"] {
        let out = danube.run(&["run", "--secret", secret, "--", "touch", "ran"]);
        assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    }
    let out = danube.run(&["run", "--secret", "NOBODYS", "--", "true"]);
    let told = "default has no secret NOBODYS; store it with: danube secrets set NOBODYS";
    assert!(stderr(&out).contains(told), "{}", said(&out));
    assert_eq!(danube.jobs().len(), before);
    assert!(!danube.work().join("ran").exists());
}

#[test]
fn a_detached_job_gets_its_stored_secret_too() {
    let danube = Danube::new();
    set(&danube, &["TOKEN"], b"hunter2-hunter2");
    danube
        .expect(0, &["run", "--detach", "--secret", "TOKEN", "--", "sh", "-c", "echo got $TOKEN"]);
    danube.wait_for_log("got ***");
}

#[test]
fn secrets_are_listed_replaced_and_deleted_by_name() {
    let danube = Danube::new();
    assert_eq!(danube.expect(0, &["secrets", "list"]), "");
    for args in [&["B"][..], &["A"], &["A", "--owner", "pipeline/x"]] {
        set(&danube, args, b"hunter2-hunter2");
    }
    set(&danube, &["A"], b"hunter3-hunter3");
    let names = |args: &[&str]| -> Vec<String> {
        let listed = danube.json(&[&["secrets", "list", "--output", "json"], args].concat());
        let secrets = listed["secrets"].as_array().unwrap();
        secrets
            .iter()
            .map(|s| format!("{} {}", s["owner"].as_str().unwrap(), s["key"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(names(&[]), ["default A", "default B", "pipeline/x A"]);
    assert_eq!(names(&["--owner", "pipeline/x"]), ["pipeline/x A"]);
    assert!(names(&["--owner", "pipeline"]).is_empty());
    assert_eq!(
        danube.expect(0, &["secrets", "list"]),
        "OWNER       NAME\ndefault     A\ndefault     B\npipeline/x  A\n"
    );
    assert_eq!(seen_by_a_job(&danube, &["--secret", "TOKEN=vault:A"]), "hunter3-hunter3");
    danube.expect(0, &["secrets", "delete", "A"]);
    let again = danube.run(&["secrets", "delete", "A"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(stderr(&again).contains("default has no secret A"), "{}", said(&again));
    assert_eq!(names(&[]), ["default B", "pipeline/x A"]);
}

#[test]
fn a_value_comes_from_a_file_or_standard_input_and_a_weak_one_is_refused() {
    let danube = Danube::new();
    let file = danube.work().join("token");
    fs::write(&file, "hunter2-hunter2\n").unwrap();
    danube.expect(0, &["secrets", "set", "TOKEN", "--file", file.to_str().unwrap()]);
    assert_eq!(seen_by_a_job(&danube, &["--secret", "TOKEN"]), "hunter2-hunter2");
    for weak in [&b""[..], b"\n", b"12345\n", b"aaaaaaaaaa", b"        "] {
        let out = with_stdin(danube.command(&["secrets", "set", "WEAK"]), weak);
        assert_eq!(out.status.code(), Some(2), "{weak:?}: {}", said(&out));
    }
    for wrong in [
        &["secrets", "set", "A-B"][..],
        &["secrets", "set", "T", "--file", "/no/such"],
        &["secrets", "set", "T", "--owner", ""],
    ] {
        let out = danube.run(wrong);
        assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    }
    assert_eq!(
        danube.json(&["secrets", "list", "--output", "json"])["secrets"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn what_is_typed_at_a_terminal_is_not_shown_and_can_be_given_up() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let danube = Danube::new();
    for (typed, code) in [(&b"hunter2-typed\n"[..], 0), (b"hunter2-ty\x03\n", 2), (b"\x04", 2)] {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal = fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap());
        let terminal = terminal.unwrap();
        let mut command = danube.command(&["secrets", "set", "TOKEN"]);
        command.stdin(terminal.try_clone().unwrap()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut told = child.stderr.take().unwrap();
        let mut prompt = Vec::new();
        while !prompt.ends_with(b"Enter: ") {
            let mut byte = [0];
            told.read_exact(&mut byte).unwrap();
            prompt.extend(byte);
        }
        let mut keyboard = fs::File::from(keyboard);
        keyboard.write_all(typed).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{typed:?}");
        // The terminal is as it was: what is typed now is shown, and what was typed before was not.
        keyboard.write_all(b"shown\n").unwrap();
        let mut shown = Vec::new();
        while !contains(&shown, b"shown") {
            let mut byte = [0];
            keyboard.read_exact(&mut byte).unwrap();
            shown.extend(byte);
        }
        assert!(!contains(&shown, b"hunter2"), "{}", String::from_utf8_lossy(&shown));
    }
    assert_eq!(seen_by_a_job(&danube, &["--secret", "TOKEN"]), "hunter2-typed");
}

#[test]
fn a_sealed_value_in_a_job_file_opens_here_for_its_owner_and_name_alone() {
    let danube = Danube::new();
    let public = danube.expect(0, &["secrets", "public-key"]);
    assert_eq!(public, danube.expect(0, &["secrets", "public-key"]));
    // Sealed by somebody who has the public key and nothing else.
    let elsewhere = Danube::new();
    fs::write(elsewhere.work().join("danube.pub"), &public).unwrap();
    let mut sealed = Vec::new();
    for key in [public.trim(), "danube.pub"] {
        let args = ["secrets", "seal", "TOKEN", "--owner", "pipeline/x", "--public-key", key];
        let out = with_stdin(elsewhere.command(&args), b"hunter2-hunter2\n");
        assert_eq!(out.status.code(), Some(0), "{}", said(&out));
        sealed.push(String::from_utf8(out.stdout).unwrap().trim().to_owned());
    }
    assert_eq!(fs::read_dir(elsewhere.data()).unwrap().count(), 0);
    for (variable, sealed) in ["TOKEN", "OTHER"].iter().zip([&sealed[0], &sealed[1]]) {
        let file = danube.work().join(format!("{variable}.yaml"));
        let job = format!(
            "name: x\nsecrets: {{{variable}: {sealed}}}\nsteps:\n  - name: a\n    run: printf %s \"$TOKEN\" > seen\n"
        );
        fs::write(file, job).unwrap();
    }
    danube.expect(0, &["run", "--owner", "pipeline/x", "TOKEN.yaml"]);
    assert_eq!(fs::read_to_string(danube.work().join("seen")).unwrap(), "hunter2-hunter2");

    // Copied to another pipeline, to another variable, to another server.
    let told: Vec<String> = [
        danube.run(&["run", "TOKEN.yaml"]),
        danube.run(&["run", "--owner", "pipeline/x", "OTHER.yaml"]),
        {
            elsewhere.expect(0, &["secrets", "public-key"]);
            fs::copy(danube.work().join("TOKEN.yaml"), elsewhere.work().join("TOKEN.yaml"))
                .unwrap();
            elsewhere.run(&["run", "--owner", "pipeline/x", "TOKEN.yaml"])
        },
    ]
    .iter()
    .map(|out| {
        assert_eq!(out.status.code(), Some(2), "{}", said(out));
        assert!(stderr(out).contains("cannot be opened"), "{}", said(out));
        stderr(out)
    })
    .collect();
    assert_eq!(told.len(), 3);
    let out = danube.run(&["run", "--secret", &format!("TOKEN={}", sealed[0]), "--", "true"]);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    let wrong = with_stdin(
        danube.command(&["secrets", "seal", "T", "--public-key", "danube-public-key:AAAA"]),
        b"x",
    );
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
}

#[test]
fn who_touched_which_secret_is_recorded_and_the_value_is_not() {
    let danube = Danube::new();
    set(&danube, &["TOKEN"], b"hunter2-hunter2");
    danube.expect(0, &["run", "--secret", "TOKEN", "--", "true"]);
    danube.expect(2, &["run", "--secret", "OTHER", "--", "true"]);
    danube.expect(0, &["secrets", "rotate"]);
    danube.expect(0, &["secrets", "delete", "TOKEN"]);
    danube.expect(1, &["secrets", "delete", "TOKEN"]);
    let body = danube.json(&["secrets", "audit", "--output", "json"]);
    let job = format!("job/{}", danube.jobs()[0]["id"].as_str().unwrap());
    let me = format!("user/{}", rustix::process::getuid().as_raw());
    let events: Vec<String> = body["events"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            let who = text("actor");
            let who = if who == job {
                "job"
            } else if who == me {
                "me"
            } else {
                "another job"
            };
            format!("{who} {} {} {}", text("action"), text("object"), text("outcome"))
        })
        .collect();
    assert_eq!(
        events,
        [
            "me secret.set default/TOKEN done",
            "job secret.loaded default/TOKEN done",
            "job secret.read default/TOKEN done",
            "another job secret.loaded default/OTHER done",
            "another job secret.loaded default/OTHER refused",
            "me secrets.rotated encryption.key done",
            "me secret.deleted default/TOKEN done",
            "me secret.deleted default/TOKEN done",
            "me secret.deleted default/TOKEN refused",
        ]
    );
    assert!(!body.to_string().contains("hunter2"));
    let text = danube.expect(0, &["secrets", "audit", "--limit", "2"]);
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn without_the_key_that_sealed_them_nothing_is_overwritten_and_nothing_made_up() {
    let danube = Danube::new();
    set(&danube, &["TOKEN"], b"hunter2-hunter2");
    let keys = danube.data().join("keys");
    let key = keys.join("encryption.key");
    let by_id = fs::read_dir(keys.join("encryption")).unwrap().next().unwrap().unwrap().path();
    for path in [&key, &by_id] {
        fs::remove_file(path).unwrap();
    }
    let refused = |what: &str| {
        let set = with_stdin(danube.command(&["secrets", "set", "OTHER"]), b"hunter3-hunter3");
        let run = danube.run(&["run", "--secret", "TOKEN", "--", "true"]);
        for out in [set, run, danube.run(&["secrets", "rotate"])] {
            assert!(!out.status.success(), "{what}: {}", said(&out));
            assert!(stderr(&out).contains(key.to_str().unwrap()), "{what}: {}", said(&out));
        }
    };
    refused("missing");
    assert!(!key.exists());
    fs::write(&key, [7; 31]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    refused("short");
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused("readable by everybody");
}

/// Opens every secret as another process would.
fn values(data: &Path) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&data.join("danube.db"), StoreOptions::default()).await.unwrap();
        let keyring = Keyring::open(&data.join("keys")).unwrap();
        let mut values = BTreeMap::new();
        for owner in store.owners(None).await.unwrap() {
            for key in SecretVault::list(&store, &owner).await.unwrap() {
                let sealed = SecretVault::get(&store, &owner, &key).await.unwrap();
                let value = keyring.open_value(&owner, &key, &sealed).unwrap();
                let value = String::from_utf8(value.expose().to_vec()).unwrap();
                values.insert(format!("{owner}/{key}"), value);
            }
        }
        values
    })
}

#[test]
fn a_rotation_killed_at_any_step_leaves_every_secret_readable() {
    let danube = Danube::new();
    for (args, value) in [
        (&["A"][..], &b"hunter1-hunter1"[..]),
        (&["B"], b"hunter2-hunter2"),
        (&["A", "--owner", "pipeline/x"], b"hunter3-hunter3"),
    ] {
        set(&danube, args, value);
    }
    let before = values(danube.data());
    assert_eq!(before.len(), 3);
    let mut kills = 0;
    // Everything that changes a file or a lock, one after another, until there is no such step any more.
    for call in [
        "openat",
        "write",
        "pwrite64",
        "fsync",
        "fdatasync",
        "rename",
        "linkat",
        "link",
        "unlink",
        "flock",
        "fchmod",
        "ftruncate",
    ] {
        for step in 1.. {
            assert!(step < 500, "{call} has no end");
            let inject = format!("inject={call}:signal=SIGKILL:when={step}");
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, "--"]);
            let danube_itself = danube.command(&["secrets", "rotate"]);
            command.arg(danube_itself.get_program()).args(danube_itself.get_args());
            command.envs(danube_itself.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let out = command.current_dir(danube.work()).stdin(Stdio::null()).output().unwrap();
            if out.status.success() {
                break;
            }
            assert_eq!(out.status.signal(), Some(9), "{call} {step}: {}", said(&out));
            kills += 1;
            assert_eq!(values(danube.data()), before, "killed at {call} {step}");
        }
    }
    println!("{kills} kills");
    assert!(kills > 50, "only {kills} steps found");

    // What was begun is finished by the next one: no older key is needed any more.
    danube.expect(0, &["secrets", "rotate"]);
    let current = fs::read(danube.data().join("keys/encryption.key")).unwrap();
    for entry in fs::read_dir(danube.data().join("keys/encryption")).unwrap() {
        let path = entry.unwrap().path();
        if fs::read(&path).unwrap() != current {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(values(danube.data()), before);
    assert!(!contains(&fs::read(danube.data().join("danube.db")).unwrap(), b"hunter"));
}
