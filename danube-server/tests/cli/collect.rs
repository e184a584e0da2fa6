//! What is collected, after which end, and what can be proved of it.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::harness::{Danube, said, stderr};

/// The names of the newest job's artifacts.
fn names(danube: &Danube) -> Vec<String> {
    let listed = danube.json(&["artifacts", "list", "latest", "--output", "json"]);
    let artifacts = listed["artifacts"].as_array().unwrap().clone();
    artifacts.iter().map(|a| a["name"].as_str().unwrap().to_owned()).collect()
}

fn kept(danube: &Danube, name: &str) -> PathBuf {
    let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    danube.data().join("artifacts").join(id).join(name)
}

#[test]
fn of_a_job_that_failed_the_files_stay_signed_and_unproved() {
    let danube = Danube::new();
    let job = "\
name: nightly
steps:
  - {name: test, run: 'mkdir -p out/cache; echo core > out/core; echo x > out/cache/x; exit 7'}
artifacts: {paths: ['out/**', log.txt], exclude: [out/cache], when: always}
";
    fs::write(danube.work().join("job.yaml"), job).unwrap();
    let out = danube.run(&["run", "job.yaml"]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert_eq!(names(&danube), ["out/core"]);
    let core = kept(&danube, "out/core");
    let told = format!("danube verify-artifact --signature-only {}\n", core.display());
    assert!(stderr(&out).contains(&told) && !stderr(&out).contains("proof"), "{}", said(&out));
    assert_eq!(
        danube.expect(0, &["artifacts", "get", "latest", "out/core", "--to", "-"]),
        "core\n"
    );

    let core = core.to_str().unwrap();
    let out = danube.run(&["verify-artifact", core]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    let why = stderr(&out);
    for part in ["envelope: there is no ", "when a job has passed", "--signature-only"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let told = danube.expect(0, &["verify-artifact", "--signature-only", core]);
    assert!(told.contains("is verified"), "{told}");
    let log = danube.log_path();
    let out = danube.run(&["verify-artifact", "--log", log.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(stderr(&out).contains("written when the job has passed"), "{}", said(&out));
    danube.expect(1, &["artifacts", "provenance", "latest"]);

    // What is typed wins over what is written.
    danube.expect(1, &["run", "--collect", "success", "job.yaml"]);
    assert_eq!(names(&danube), [""; 0]);
}

#[test]
fn a_job_that_is_ended_keeps_its_files_if_that_is_asked_for() {
    let danube = Danube::new();
    let script = "echo x > a; echo ready; sleep 600";
    let always = ["run", "--collect", "always", "--artifact", "a", "--"];
    let running = danube.start(&[&always[..], &["sh", "-c", script]].concat());
    danube.wait_for_log("ready");
    running.signal(Signal::INT);
    let out = running.wait();
    assert_eq!(out.status.code(), Some(3), "{}", said(&out));
    assert_eq!(names(&danube), ["a"]);

    let late = [&["run", "--timeout", "1s"], &always[1..], &["sh", "-c", script]].concat();
    danube.expect(4, &late);
    assert_eq!(names(&danube), ["a"]);
    // Nothing that lies there is of a job that never began.
    danube.expect(5, &[&always[..], &["no-such-program"]].concat());
    assert_eq!(names(&danube), [""; 0]);
    danube.expect(2, &["run", "--collect", "always", "--", "true"]);
    danube.expect(2, &["run", "--collect", "failure", "--artifact", "a", "--", "true"]);
}

#[test]
fn the_preset_of_data_takes_what_tools_leave() {
    let danube = Danube::new();
    for name in ["run.csv", "plot.png", "the_report", "notes.txt", "secret.csv"] {
        fs::write(danube.work().join(name), name).unwrap();
    }
    let preset = ["--artifact-preset", "data", "--artifact-exclude", "secret*"];
    danube.expect(0, &[&["run"], &preset[..], &["--", "true"]].concat());
    assert_eq!(names(&danube), ["plot.png", "run.csv", "the_report"]);
    let said = danube.expect(0, &["artifacts", "provenance", "latest"]);
    assert!(said.contains("\"artifact_preset\": \"data\"") && said.contains("secret*"), "{said}");
    danube.expect(2, &["run", "--artifact-preset", "date", "--", "true"]);
}

#[test]
fn the_limits_of_the_configuration_hold() {
    let danube = Danube::new();
    let config = danube.work().join("danube.toml");
    fs::write(&config, "[artifacts]\nmax_total_bytes = 5\n").unwrap();
    fs::write(danube.work().join("a"), "abc").unwrap();
    fs::write(danube.work().join("b"), "abc").unwrap();
    let run = ["--config", config.to_str().unwrap(), "run", "--artifact", "?"];
    let out = danube.run(&[&run[..], &["--", "true"]].concat());
    assert_eq!(out.status.code(), Some(5), "{}", said(&out));
    assert!(
        stderr(&out).contains("more than 5 bytes are in the files that match"),
        "{}",
        said(&out)
    );
    danube.expect(1, &[&run[..], &["--collect", "always", "--", "false"]].concat());
    assert_eq!(names(&danube), ["a"]);
    let log = String::from_utf8(danube.log()).unwrap();
    assert!(log.contains("b is beyond the limit of 5 bytes for all files"), "{log}");
}
