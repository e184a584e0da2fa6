//! `danube logs`: exact bytes, tails, steps, following.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use crate::harness::{Danube, contains, said, stderr};

#[test]
fn a_log_is_printed_to_a_pipe_byte_for_byte_whatever_is_in_it() {
    let danube = Danube::new();
    let script = r"printf 'nul \000 bell \007 esc \033[2J cr a\rb bad \377\376 end\nno newline'";
    assert_eq!(danube.run(&["run", "--", "sh", "-c", script]).status.code(), Some(0));
    let log = danube.log();
    assert!(contains(&log, b"nul \0 bell \x07 esc \x1b[2J cr a\rb bad \xff\xfe end\n"));
    for args in [&["logs", "latest"][..], &["logs", "latest", "--raw"], &["logs", "latest", "-f"]] {
        let out = danube.run(args);
        assert_eq!(out.stdout, log, "{args:?}: {}", said(&out));
    }
}

#[test]
fn a_tail_is_the_last_lines_with_and_without_a_step() {
    let danube = Danube::new();
    let file = "\
name: t
steps:
  - {name: a, run: 'seq 1 30'}
  - {name: b, run: 'seq 31 60'}
";
    fs::write(danube.work().join("job.yaml"), file).unwrap();
    danube.expect(0, &["run", "job.yaml"]);
    let log = String::from_utf8(danube.log()).unwrap();
    let all: Vec<&str> = log.lines().collect();
    for n in [0, 1, 7, 10_000] {
        let tail = danube.expect(0, &["logs", "latest", "--tail", &n.to_string()]);
        assert_eq!(
            tail.lines().collect::<Vec<_>>(),
            all[all.len().saturating_sub(n)..],
            "--tail {n}"
        );
    }
    let of_a: Vec<&str> = all.iter().copied().filter(|line| line.contains(" [a] ")).collect();
    assert_eq!(
        danube.expect(0, &["logs", "latest", "--step", "a"]).lines().collect::<Vec<_>>(),
        of_a
    );
    let last = danube.expect(0, &["logs", "latest", "--step", "a", "--tail", "2"]);
    assert_eq!(last.lines().collect::<Vec<_>>(), of_a[of_a.len() - 2..]);
    for n in [1, 2, 31, all.len(), all.len() + 1] {
        let from = danube.expect(0, &["logs", "latest", "--line", &n.to_string()]);
        assert_eq!(from.lines().collect::<Vec<_>>(), all[n - 1..], "--line {n}");
    }
    for n in [0, 30, all.len() - 1] {
        let time = all[n].strip_prefix('[').unwrap().split(']').next().unwrap();
        let first = all.iter().position(|line| line.contains(time)).unwrap();
        let since = danube.expect(0, &["logs", "latest", "--since", time]);
        assert_eq!(since.lines().collect::<Vec<_>>(), all[first..], "--since {time}");
    }
    assert_eq!(danube.expect(0, &["logs", "latest", "--since", "1h"]).lines().count(), all.len());
    assert_eq!(danube.expect(0, &["logs", "latest", "--since", "2999-01-01T00:00:00Z"]), "");
    for wrong in [&["--line", "0"][..], &["--since", "noon"], &["--line", "1", "--tail", "1"]] {
        let wrong = danube.run(&[&["logs", "latest"], wrong].concat());
        assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
    }
    let missing = danube.run(&["logs", "latest", "--step", "nope"]);
    assert_eq!(missing.status.code(), Some(1), "{}", said(&missing));
}

#[test]
fn a_log_with_the_time_of_day_alone_is_read_as_it_was_written() {
    let danube = Danube::new();
    let config = danube.work().join("danube.toml");
    fs::write(&config, "[logs]\nformat = \"time-of-day\"\n").unwrap();
    let script = "echo '[INFO] [stderr] two brackets'; echo plain";
    danube.expect(0, &["--config", config.to_str().unwrap(), "run", "--", "sh", "-c", script]);
    let log = String::from_utf8(danube.log()).unwrap();
    let line = log.lines().next().unwrap();
    assert_eq!(&line[14..], " [INFO] [stderr] two brackets", "{log}");
    let found = danube.expect(0, &["logs", "latest", "--grep", r"^\[INFO\]"]);
    assert_eq!(found.lines().collect::<Vec<_>>(), [line]);
    let entry = danube.expect(0, &["logs", "latest", "--json"]);
    assert!(
        entry.contains(r#""message":"[INFO] [stderr] two brackets","source":"tool""#),
        "{entry}"
    );
    for (args, why) in [
        (["--since", "1h"], "do not say on which day they were written"),
        (["--step", "run"], "do not say which step they belong to"),
    ] {
        let refused = danube.run(&[&["logs", "latest"][..], &args].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(stderr(&refused).contains(why), "{}", said(&refused));
    }
}

#[test]
fn a_compressed_log_reads_as_before_and_the_reaper_compresses_the_others() {
    let danube = Danube::new();
    let config = danube.work().join("danube.toml");
    fs::write(&config, "[logs]\ncompress = true\n").unwrap();
    let compressing = ["--config", config.to_str().unwrap()];
    let job = ["run", "--", "seq", "1", "1000"];
    danube.expect(0, &job);
    let text = danube.log();
    danube.expect(0, &[&compressing[..], &["reaper", "--dry-run"]].concat());
    assert!(danube.log_path().exists());
    danube.expect(0, &[&compressing[..], &["reaper"]].concat());
    let frames = danube.log_path().with_added_extension("zst");
    assert!(!danube.log_path().exists() && frames.metadata().unwrap().len() < 20_000);
    assert_eq!(danube.expect(0, &["logs", "latest"]).as_bytes(), text);
    assert_eq!(danube.expect(0, &["logs", "latest", "-f"]).as_bytes(), text);
    let tail = danube.expect(0, &["logs", "latest", "--tail", "2"]);
    assert!(tail.contains("] 999\n") && tail.ends_with("] 1000\n") && tail.lines().count() == 2);

    let run = danube.run(&[&compressing[..], &job].concat());
    assert_eq!(run.status.code(), Some(0), "{}", said(&run));
    assert!(said(&run).contains(".log.zst ("), "{}", said(&run));
    let frames = danube.log_path().with_added_extension("zst");
    assert!(!danube.log_path().exists() && frames.exists());
    assert!(danube.expect(0, &["logs", "latest", "--line", "1000"]).ends_with("] 1000\n"));
}

#[test]
fn a_follower_that_starts_before_the_end_gets_exactly_the_file() {
    let danube = Danube::new();
    let running = danube.start(&[
        "run",
        "--",
        "sh",
        "-c",
        "for i in $(seq 1 200); do echo line $i; echo err $i >&2; sleep 0.005; done",
    ]);
    danube.wait_for_log("line 10");
    let followers: Vec<_> = (0..3).map(|_| danube.start(&["logs", "-f", "latest"])).collect();
    let run = running.wait();
    assert_eq!(run.status.code(), Some(0), "{}", said(&run));
    let log = danube.log();
    for follower in followers {
        assert_eq!(follower.wait().stdout, log);
    }
    // The live view of `run` itself is a follower too.
    assert_eq!(run.stdout, log);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let danube = Danube::new();
    danube.expect(0, &["run", "--", "seq", "1", "200000"]);
    let mut child = danube
        .command(&["logs", "latest"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut few = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut few).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.code().is_some() && out.stderr.is_empty(), "{}", said(&out));
}

#[test]
fn a_live_view_that_nobody_reads_does_not_stop_the_job() {
    let danube = Danube::new();
    let mut child = danube
        .command(&["run", "--", "seq", "1", "300000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The pipe is full long before the job ends, and nobody reads it.
    danube.wait_for_log("] 300000\n");
    crate::harness::wait_until("the job is over", || danube.jobs()[0]["state"] == "succeeded");
    let mut shown = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut shown).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(shown, danube.log());
}

#[test]
fn names_are_found_by_beginning_and_end_and_ambiguity_is_said() {
    let danube = Danube::new();
    danube.expect(0, &["run", "--", "echo", "first"]);
    danube.expect(0, &["run", "--", "echo", "second"]);
    let jobs = danube.jobs();
    let (newest, oldest) = (jobs[0]["id"].as_str().unwrap(), jobs[1]["id"].as_str().unwrap());
    assert!(danube.expect(0, &["logs", "latest"]).contains("second"));
    assert!(danube.expect(0, &["logs", oldest]).contains("first"));
    assert!(danube.expect(0, &["logs", &oldest[oldest.len() - 8..]]).contains("first"));
    // Ids minted within the same minute share their beginning.
    let ambiguous = danube.run(&["logs", &newest[..5]]);
    assert_ne!(ambiguous.status.code(), Some(0));
    assert!(
        stderr(&ambiguous).contains(newest) && stderr(&ambiguous).contains(oldest),
        "{}",
        said(&ambiguous)
    );
    let unknown = danube.run(&["logs", "no-such-job"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("no-such-job"), "{}", said(&unknown));
}

#[test]
fn what_matches_is_found_and_nothing_is_an_honest_no() {
    let danube = Danube::new();
    let script = r"seq 1 5; printf 'an \033[31merr\033[1mor\033[0m here\n' >&2; seq 6 9";
    assert_eq!(danube.run(&["run", "--", "sh", "-c", script]).status.code(), Some(0));
    let log = String::from_utf8(danube.log()).unwrap();
    let all: Vec<&str> = log.split_inclusive('\n').collect();
    let error = all.iter().position(|line| line.contains("err")).unwrap();
    let found = danube.expect(0, &["logs", "latest", "--grep", "ERROR", "-i"]);
    assert_eq!(found, all[error]);
    let text = danube.expect(0, &["logs", "latest", "--grep", "error", "--strip", "-n"]);
    let stripped = all[error].replace("\x1b[31m", "").replace("\x1b[1m", "").replace("\x1b[0m", "");
    assert_eq!(text, format!("{}:{stripped}", error + 1));
    assert_eq!(danube.expect(0, &["logs", "latest", "--grep", "^[0-9]$", "--count"]), "9\n");
    assert_eq!(danube.expect(0, &["logs", "latest", "-f", "--grep", "^5$"]), all[index(&all, "5")]);
    for none in
        [&["--grep", "stdout"][..], &["--grep", "^.$", "-F"], &["--grep", "x", "--step", "run"]]
    {
        let out = danube.run(&[&["logs", "latest"], none].concat());
        assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{none:?}: {}", said(&out));
    }
    for wrong in [&["--grep", "("][..], &["--grep", ""], &["-F"], &["--grep", "x", "--tail", "1"]] {
        let out = danube.run(&[&["logs", "latest"], wrong].concat());
        assert_eq!(out.status.code(), Some(2), "{wrong:?}: {}", said(&out));
    }
}

fn index(lines: &[&str], content: &str) -> usize {
    lines.iter().position(|line| line.trim_end().ends_with(&format!("] {content}"))).unwrap()
}

#[test]
fn entries_are_json_lines_also_of_a_log_that_grows() {
    let danube = Danube::new();
    let running = danube.start(&[
        "run",
        "--",
        "sh",
        "-c",
        "for i in $(seq 1 100); do echo line $i; sleep 0.005; done; echo end >&2",
    ]);
    danube.wait_for_log("line 10");
    let follower = danube.start(&["logs", "-f", "latest", "--json"]);
    let finder =
        danube.start(&["logs", "-f", "latest", "--grep", "line (5|50|100)$|^end", "-C", "1", "-n"]);
    assert_eq!(running.wait().status.code(), Some(0));
    let followed = follower.wait();
    let found = String::from_utf8(finder.wait().stdout).unwrap();
    let numbers: Vec<&str> =
        found.lines().map(|line| line.split_once('[').map_or(line, |(n, _)| n)).collect();
    assert_eq!(numbers, ["4-", "5:", "6-", "--", "49-", "50:", "51-", "--", "99-", "100:", "101:"]);
    let told = danube.expect(0, &["logs", "latest", "--json"]);
    assert_eq!(String::from_utf8(followed.stdout).unwrap(), told);
    let messages: Vec<(String, String)> = told
        .lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |field: &str| entry[field].as_str().unwrap().to_owned();
            (text("level"), text("message"))
        })
        .collect();
    let mut expected: Vec<_> =
        (1..=100).map(|n| ("INFO".to_owned(), format!("line {n}"))).collect();
    expected.push(("ERROR".into(), "end".into()));
    assert_eq!(messages, expected);
    for tail in [&["--tail", "2"][..], &["--tail", "2", "--step", "run"]] {
        let last = danube.expect(0, &[&["logs", "latest", "--json"], tail].concat());
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(last.lines().collect::<Vec<_>>(), lines[lines.len() - 2..], "{tail:?}");
    }
}
