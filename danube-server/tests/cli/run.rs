//! `danube run`: verdicts, exit codes, what is kept.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Danube, contains, said, stderr, wait_until};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o7777
}

#[test]
fn a_passing_job_exits_0_and_everything_lies_where_it_is_documented() {
    let danube = Danube::new();
    let script = "mkdir -p out; echo kept > out/a.txt; : > out/empty; echo said; echo erred >&2";
    let out = danube.run(&["run", "--artifact", "out/*", "--", "sh", "-c", script]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let summary = stderr(&out);
    assert!(summary.contains("succeeded") && summary.contains("out/a.txt"), "{summary}");
    assert!(contains(&out.stdout, b"[stdout] said\n"), "{}", said(&out));

    let job = danube.jobs()[0].clone();
    assert_eq!(job["state"], "succeeded");
    let id = job["id"].as_str().unwrap();
    let data = danube.data();
    let log = fs::read_to_string(data.join(format!("logs/{id}.log"))).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.iter().any(|l| l.ends_with("[run] [stdout] said")), "{log}");
    assert!(lines.iter().any(|l| l.ends_with("[run] [stderr] erred")), "{log}");
    assert!(data.join(format!("logs/{id}.idx")).exists());

    let artifacts = data.join("artifacts").join(id);
    assert_eq!(fs::read(artifacts.join("out/a.txt")).unwrap(), b"kept\n");
    assert_eq!(mode(&artifacts.join("out/a.txt")), 0o444);
    assert!(!artifacts.join("out/empty").exists(), "an empty file is no artifact");
    assert_eq!(fs::read(artifacts.join(".danube/signatures/out/a.txt.sig")).unwrap().len(), 64);
    let payload = fs::read_to_string(artifacts.join(".danube/provenance.json")).unwrap();
    assert!(
        payload.contains(id) && payload.contains("https://slsa.dev/provenance/v1"),
        "{payload}"
    );
    assert!(artifacts.join(".danube/provenance.dsse.json").exists());
    assert_eq!(mode(&data.join("danube.db")), 0o600);
    assert_eq!(mode(&data.join("keys/signing.key")), 0o600);
    assert_eq!(mode(&data.join("keys/signing.key.pub")), 0o644);
}

#[test]
fn the_exit_code_is_the_verdict() {
    let table: &[(&str, i32, &[&str], &str)] = &[
        ("passed", 0, &["run", "--", "true"], "succeeded"),
        ("failed", 1, &["run", "--", "sh", "-c", "exit 7"], "failed"),
        ("killed by a signal", 1, &["run", "--", "sh", "-c", "kill -9 $$"], "failed"),
        ("not found by the shell", 1, &["run", "--", "sh", "-c", "no-such-program-xyz"], "failed"),
        ("not started", 5, &["run", "--", "/no/such/program"], "lost"),
        ("timed out", 4, &["run", "--timeout", "300ms", "--", "sleep", "60"], "timed_out"),
        (
            "ignores SIGTERM",
            4,
            &[
                "run",
                "--timeout",
                "300ms",
                "--",
                "sh",
                "-c",
                "trap '' TERM; while :; do sleep 0.1; done",
            ],
            "timed_out",
        ),
    ];
    for (what, code, args, state) in table {
        let danube = Danube::new();
        let config = danube.work().join("danube.toml");
        fs::write(&config, "[run]\ngrace_seconds = 1\n").unwrap();
        let out = danube.command(args).env("DANUBE_CONFIG", &config).output().unwrap();
        assert_eq!(out.status.code(), Some(*code), "{what}: {}", said(&out));
        assert_eq!(danube.jobs()[0]["state"], *state, "{what}");
    }
}

#[test]
fn wrong_usage_exits_2_and_records_nothing() {
    let danube = Danube::new();
    for args in [
        &["run"][..],
        &["run", "--env", "novalue", "--", "true"],
        &["run", "--timeout", "soon", "--", "true"],
        &["run", "--step", "a]b", "--", "true"],
        &["nonsense"],
    ] {
        danube.expect(2, args);
    }
    assert_eq!(danube.jobs().len(), 0);
}

#[test]
fn an_interrupt_ends_the_job_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let danube = Danube::new();
        let script =
            "trap 'echo cleaning up; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
        let running = danube.start(&["run", "--", "sh", "-c", script]);
        danube.wait_for_log("ready");
        running.signal(signal);
        let out = running.wait();
        assert_eq!(out.status.code(), Some(3), "{}", said(&out));
        let job = danube.jobs()[0].clone();
        assert_eq!(job["state"], "cancelled");
        // What was written on the way out is in the log.
        assert!(contains(&danube.log(), b"[stdout] cleaning up\n"));
        danube.expect(0, &["logs", "latest", "--follow"]);
    }
}

#[test]
fn another_process_cancels_and_reads_while_the_job_runs() {
    let danube = Danube::new();
    let running =
        danube.start(&["run", "--step", "wait", "--", "sh", "-c", "echo begun; sleep 60"]);
    danube.wait_for_log("begun");
    let job = danube.jobs()[0].clone();
    assert_eq!(job["state"], "running");
    assert!(danube.expect(0, &["logs", "latest"]).contains("[wait] [stdout] begun"));
    let id = job["id"].as_str().unwrap();
    danube.expect(0, &["cancel", &id[id.len() - 6..]]);
    assert_eq!(running.wait().status.code(), Some(3));
    assert_eq!(danube.jobs()[0]["state"], "cancelled");
    // Cancelling what has ended changes nothing and says so.
    let again = danube.run(&["cancel", "latest"]);
    assert!(said(&again).contains("cancelled"), "{}", said(&again));
}

#[test]
fn a_detached_run_prints_its_id_alone_and_goes_on() {
    let danube = Danube::new();
    let gate = danube.work().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; echo through", gate.display());
    let printed = danube.expect(0, &["run", "--detach", "--", "sh", "-c", &script]);
    let id = printed.strip_suffix('\n').unwrap();
    assert!(!id.contains(char::is_whitespace), "{printed:?}");
    assert_eq!(danube.jobs()[0]["id"], id);
    assert_eq!(danube.jobs()[0]["state"], "running");
    let follower = danube.start(&["logs", "-f", id]);
    fs::write(gate, "").unwrap();
    let out = follower.wait();
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert_eq!(out.stdout, danube.log());
    wait_until("the job is recorded as passed", || danube.jobs()[0]["state"] == "succeeded");
}

#[test]
fn a_detached_run_that_cannot_begin_says_so_at_once() {
    let danube = Danube::new();
    let out = danube.run(&["run", "--detach", "--secret", "K=/no/such/file", "--", "true"]);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    assert!(
        out.stdout.is_empty() && stderr(&out).contains("secret K: no such file"),
        "{}",
        said(&out)
    );
}

#[test]
fn a_file_of_steps_runs_in_order_and_stops_at_the_first_that_fails() {
    let danube = Danube::new();
    let file = "\
name: two of three
env: {SHARED: from-job, OVER: job}
steps:
  - {name: first, run: 'echo $SHARED $OVER', env: {OVER: step}}
  - {name: second, run: 'echo second; exit 3'}
  - {name: third, run: 'echo third'}
artifacts: ['*.txt']
retention_days: 7
";
    fs::write(danube.work().join("job.yaml"), file).unwrap();
    fs::write(danube.work().join("left.txt"), "x").unwrap();
    let out = danube.run(&["run", "job.yaml"]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    let log = String::from_utf8(danube.log()).unwrap();
    assert!(
        log.contains("[first] [stdout] from-job step\n")
            && log.contains("[second] [stdout] second\n")
    );
    assert!(!log.contains("third]"), "{log}");
    let job = danube.jobs()[0].clone();
    assert_eq!(job["name"], "two of three");
    let states: Vec<_> =
        job["steps"].as_array().unwrap().iter().map(|s| s["state"].clone()).collect();
    assert_eq!(states[..2], ["succeeded", "failed"]);
    // Nothing is kept of a job that failed.
    assert_eq!(
        danube.json(&["artifacts", "list", "latest", "--output", "json"])["artifacts"],
        serde_json::json!([])
    );
    // A step's byte range is exactly its lines.
    let range = &job["steps"][1]["log_range"];
    let (start, end) =
        (range["start"].as_u64().unwrap() as usize, range["end"].as_u64().unwrap() as usize);
    assert!(log[start..end].lines().all(|l| l.contains("[second]")), "{}", &log[start..end]);
    assert_eq!(danube.expect(0, &["logs", "latest", "--step", "second"]), log[start..end]);
}

#[test]
fn a_flood_is_cut_at_the_limit_and_the_job_passes_in_small_memory() {
    let danube = Danube::new();
    let running = danube.start(&["run", "--", "sh", "-c", "yes | head -c 300000000"]);
    let status = format!("/proc/{}/status", running.pid());
    let mut peak_kib = 0;
    let peak = std::thread::spawn(move || {
        wait_until("the process ends", || match fs::read_to_string(&status) {
            Ok(text) => {
                let line = text.lines().find(|line| line.starts_with("VmHWM:"));
                let kib =
                    line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok());
                peak_kib = kib.unwrap_or(peak_kib);
                kib.is_none()
            }
            Err(_) => true,
        });
        peak_kib
    });
    let out = running.wait();
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let peak_kib: u64 = peak.join().unwrap();
    assert!(peak_kib > 0 && peak_kib < 64 * 1024, "peak memory {peak_kib} KiB");
    let log = danube.log();
    let marker = b"[run] [danube] [TRUNCATED - log exceeded 50 MB limit]\n";
    assert!(contains(&log[52_000_000..], marker));
    assert!(log.len() < 52_428_800 + 64 * 1024, "{}", log.len());
    assert_eq!(danube.jobs()[0]["log_truncated"], true);
}

#[test]
fn a_job_sees_its_environment_and_an_empty_stdin() {
    let danube = Danube::new();
    let script = "echo \"$GREETING $DANUBE_STEP ${#DANUBE_JOB_ID}\"; cat | wc -c";
    danube
        .expect(0, &["run", "--env", "GREETING=hello", "--step", "say", "--", "sh", "-c", script]);
    let log = String::from_utf8(danube.log()).unwrap();
    assert!(log.contains("[stdout] hello say 36\n") && log.contains("[stdout] 0\n"), "{log}");
}

#[test]
fn artifacts_are_listed_and_fetched_by_name() {
    let danube = Danube::new();
    let script = "mkdir -p out/deep; echo one > out/1.txt; echo two > out/deep/2.txt; ln -s /etc/passwd out/link; ln -s / out/root";
    danube.expect(0, &["run", "--artifact", "out/**", "--", "sh", "-c", script]);
    let list = danube.json(&["artifacts", "list", "latest", "--output", "json"]);
    let names: Vec<_> =
        list["artifacts"].as_array().unwrap().iter().map(|a| a["name"].clone()).collect();
    assert_eq!(names, ["out/1.txt", "out/deep/2.txt"], "no symbolic link is followed");
    assert_eq!(
        danube.expect(0, &["artifacts", "get", "latest", "out/deep/2.txt", "--to", "-"]),
        "two\n"
    );
    danube.expect(0, &["artifacts", "get", "latest", "out/1.txt"]);
    assert_eq!(fs::read(danube.work().join("1.txt")).unwrap(), b"one\n");
    let missing = danube.run(&["artifacts", "get", "latest", "out/no"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("out/no"));
    // What is there is not overwritten.
    let again = danube.run(&["artifacts", "get", "latest", "out/1.txt"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
}

#[test]
fn the_reaper_plans_and_then_does_exactly_that() {
    let danube = Danube::new();
    danube.expect(0, &["run", "--artifact", "a", "--", "sh", "-c", "echo x > a"]);
    let planned = danube.json(&["reaper", "--dry-run", "--output", "json"]);
    assert_eq!(planned["reaped"], serde_json::json!([]), "nothing is old yet");
    assert!(danube.log_path().exists());
    danube.expect(0, &["reaper"]);
    assert!(danube.log_path().exists());
}

#[test]
fn a_configuration_is_written_once_and_read() {
    let danube = Danube::new();
    let path = danube.work().join("conf/danube.toml");
    danube.expect(0, &["init-config", path.to_str().unwrap()]);
    danube.expect(1, &["init-config", path.to_str().unwrap()]);
    let text =
        fs::read_to_string(&path).unwrap().replace("#max_bytes = 52428800", "max_bytes = 1048576");
    fs::write(&path, text).unwrap();
    let out = danube
        .command(&["run", "--", "sh", "-c", "yes | head -c 3000000"])
        .env("DANUBE_CONFIG", &path)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    assert!(contains(&danube.log(), b"[TRUNCATED - log exceeded 1 MB limit]\n"));
}

#[test]
fn migrate_says_where_the_schema_stands() {
    let danube = Danube::new();
    let first = danube.expect(0, &["migrate"]);
    let second = danube.expect(0, &["migrate"]);
    assert!(first.contains("schema") && second.contains("schema"), "{first}{second}");
}

#[test]
fn the_data_directory_is_private() {
    let danube = Danube::new();
    let data = danube.data().join("new");
    let out = danube.command(&["jobs"]).env("DANUBE_DATA_DIR", &data).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert_eq!(mode(&data), 0o700);
    for below in ["logs", "artifacts", "keys"] {
        assert_eq!(mode(&data.join(below)), 0o700, "{below}");
    }
    assert_eq!(fs::Permissions::from_mode(mode(&data.join("danube.db"))).mode(), 0o600);
}
