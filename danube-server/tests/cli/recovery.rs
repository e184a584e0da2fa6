//! What is left when `danube run` is killed in the middle.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Danube, contains, processes_with, said, wait_until};

/// Leaves a plain child, one in the background, one in its own session, a double-forked daemon and
/// one that ignores every signal it can, all recognisable by `marker`.
fn family(marker: &str) -> String {
    format!(
        "sleep {marker}1 & setsid sleep {marker}2 & \
         (setsid sh -c '(trap \"\" TERM HUP INT; sleep {marker}3) & sleep {marker}4 &' &) ; \
         i=0; while :; do i=$((i+1)); echo line $i; [ $i = 20 ] && echo all-there; sleep 0.01; done"
    )
}

#[test]
fn kill_9_leaves_no_process_no_torn_line_and_no_lie() {
    let danube = Danube::new();
    let marker = format!("7{}.", std::process::id());
    let running = danube.start(&["run", "--artifact", "*", "--", "sh", "-c", &family(&marker)]);
    danube.wait_for_log("all-there");
    wait_until("the whole family lives", || {
        (1..=4).all(|n| {
            processes_with(&format!("sleep {marker}{n}"))
                .iter()
                .any(|line| line.starts_with("sleep"))
        })
    });
    let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let follower = danube.start(&["logs", "--follow", &id]);
    running.signal(Signal::KILL);
    assert_eq!(running.wait().status.code(), None);

    // The follower ends by itself, with exactly the bytes of the file.
    let followed = follower.wait();
    assert_eq!(followed.status.code(), Some(0), "{}", said(&followed));
    assert_eq!(String::from_utf8_lossy(&followed.stdout), String::from_utf8_lossy(&danube.log()));

    let job = danube.jobs()[0].clone();
    assert_eq!(
        (job["state"].as_str(), job["lost_reason"].as_str()),
        (Some("lost"), Some("owner_died"))
    );
    let log = danube.log();
    assert!(log.ends_with(b"\n"));
    for line in log.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        assert!(
            line.starts_with(b"[20") && contains(line, b"] ["),
            "torn: {:?}",
            String::from_utf8_lossy(line)
        );
    }
    assert!(contains(&log, b"[danube]"), "the log says what happened");
    wait_until("no process of the job is left", || {
        (1..=4).all(|n| processes_with(&format!("sleep {marker}{n}")).is_empty())
    });
}

#[test]
fn a_detached_job_whose_owner_dies_is_lost_too() {
    let danube = Danube::new();
    let marker = format!("6{}.", std::process::id());
    let id = danube
        .expect(0, &["run", "--detach", "--", "sh", "-c", &format!("echo up; sleep {marker}1")]);
    danube.wait_for_log("up");
    let owner = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()))
        .find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            contains(&line, id.trim().as_bytes())
        })
        .expect("the detached process carries its job's id");
    rustix::process::kill_process(rustix::process::Pid::from_raw(owner).unwrap(), Signal::KILL)
        .unwrap();
    wait_until("its end is told", || danube.jobs()[0]["state"] == "lost");
    wait_until("no process of the job is left", || {
        processes_with(&format!("sleep {marker}1")).is_empty()
    });
}

#[test]
fn a_step_ends_with_everything_it_started() {
    let danube = Danube::new();
    let marker = format!("5{}.", std::process::id());
    let script = format!("setsid sleep {marker}1 >/dev/null 2>&1 & sleep {marker}2 & echo done");
    danube.expect(0, &["run", "--", "sh", "-c", &script]);
    wait_until("no process of the job is left", || {
        processes_with(&format!("sleep {marker}")).is_empty()
    });
}

#[test]
fn repeated_kills_at_any_moment_leave_a_readable_directory() {
    let danube = Danube::new();
    for round in 0..12_u64 {
        let running = danube.start(&[
            "run",
            "--artifact",
            "o",
            "--",
            "sh",
            "-c",
            "echo a; echo b > o; echo c",
        ]);
        // From before the database is open to after the artifacts are signed.
        let mut looks = 0;
        wait_until("the moment to kill has come", || {
            looks += 1;
            looks > round
        });
        running.signal(Signal::KILL);
        running.wait();
    }
    let jobs = danube.jobs();
    for job in &jobs {
        let state = job["state"].as_str().unwrap();
        // Killed before its log existed: for a minute it may still be somebody's who is slow.
        assert!(["pending", "lost", "succeeded"].contains(&state), "{job}");
        let id = job["id"].as_str().unwrap();
        if state == "succeeded" {
            let kept = danube.data().join("artifacts").join(id).join("o");
            danube.expect(0, &["verify-artifact", kept.to_str().unwrap()]);
        }
    }
    danube.expect(0, &["run", "--", "true"]);
}
