//! A secret stands nowhere but in the step's environment.

use std::fs;

use crate::harness::{Danube, contains, said};

const SECRET: &str = "s3cr3t-Value/with+chars=9981";

/// Prints the secret once whole and once in ten pieces with pauses, on both streams.
const LEAK: &str = r#"
for fd in 1 2; do
  echo "whole $TOKEN." >&$fd
  printf 'pieces ' >&$fd
  rest=$TOKEN
  while [ -n "$rest" ]; do
    head=$(printf %.3s "$rest"); rest=${rest#"$head"}
    printf %s "$head" >&$fd
    sleep 0.03
  done
  echo . >&$fd
done
"#;

fn with_secret(danube: &Danube) -> String {
    let path = danube.work().join("token");
    // One trailing line feed belongs to the file, not to the secret.
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    format!("TOKEN={}", path.display())
}

#[test]
fn a_secret_printed_whole_or_in_pieces_on_either_stream_is_nowhere_to_be_found() {
    let danube = Danube::new();
    let pair = with_secret(&danube);
    let out = danube.run(&["run", "--secret", &pair, "--output", "json", "--", "sh", "-c", LEAK]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let log = String::from_utf8(danube.log()).unwrap();
    for stream in ["stdout", "stderr"] {
        assert!(log.contains(&format!("[{stream}] whole ***.\n")), "{log}");
        assert!(log.contains(&format!("[{stream}] pieces ***.\n")), "{log}");
    }
    for printed in [&out.stdout, &out.stderr] {
        assert!(!contains(printed, SECRET.as_bytes()), "{}", said(&out));
    }
    assert_eq!(danube.files_with(SECRET.as_bytes()), Vec::<std::path::PathBuf>::new());
    for args in [
        &["jobs", "--output", "json"][..],
        &["jobs"],
        &["logs", "latest"],
        &["logs", "latest", "--raw"],
    ] {
        assert!(!danube.expect(0, args).contains(SECRET), "{args:?}");
    }
}

#[test]
fn a_secret_in_a_command_line_or_a_failed_start_is_masked_in_the_records() {
    let danube = Danube::new();
    let pair = with_secret(&danube);
    let argument = format!("echo {SECRET}; exit 9");
    let out =
        danube.run(&["run", "--secret", &pair, "--output", "json", "--", "sh", "-c", &argument]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    let program = format!("/no/such/{SECRET}");
    let not_started = danube.run(&["run", "--secret", &pair, "--", &program]);
    assert_eq!(not_started.status.code(), Some(5), "{}", said(&not_started));
    for out in [&out, &not_started] {
        assert!(!said(out).contains(SECRET), "{}", said(out));
    }
    assert_eq!(danube.files_with(SECRET.as_bytes()), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_idle_stream_does_not_give_away_what_it_holds() {
    let danube = Danube::new();
    let pair = with_secret(&danube);
    // Longer silences than the second after which held bytes are spoken of.
    let script = r#"printf %.9s "$TOKEN"; sleep 1.6; printf %s "${TOKEN#?????????}"; echo " end""#;
    danube.expect(0, &["run", "--secret", &pair, "--", "sh", "-c", script]);
    let log = String::from_utf8(danube.log()).unwrap();
    let tail = &SECRET[9..];
    assert!(!log.contains(tail) && !log.contains(&SECRET[..9]), "{log}");
    assert!(log.contains(" end\n"), "{log}");
}

#[test]
fn a_weak_or_missing_secret_is_refused_before_anything_starts() {
    let danube = Danube::new();
    let short = danube.work().join("short");
    fs::write(&short, "12345\n").unwrap();
    for path in [short.to_str().unwrap(), "/no/such/file"] {
        let out = danube.run(&["run", "--secret", &format!("TOKEN={path}"), "--", "touch", "ran"]);
        assert_eq!(out.status.code(), Some(2), "{}", said(&out));
        assert!(said(&out).contains("secret TOKEN"), "{}", said(&out));
    }
    // A value that was typed where a path belongs is not repeated, whatever the system says of such a path.
    let job = danube.work().join("job.yaml");
    let job = job.to_str().unwrap();
    for value in ["hunter2-hunter2".to_owned(), "short/hunter2".to_owned(), "hunter2".repeat(50)] {
        let typed =
            danube.run(&["run", "--secret", &format!("TOKEN={value}"), "--", "touch", "ran"]);
        fs::write(job, format!("steps: [touch ran]\nsecrets: {{TOKEN: {value:?}}}\n")).unwrap();
        for out in [typed, danube.run(&["run", job])] {
            assert_eq!(out.status.code(), Some(2), "{}", said(&out));
            assert!(!said(&out).contains("hunter2"), "{}", said(&out));
        }
        fs::remove_file(job).unwrap();
    }
    assert!(!danube.work().join("ran").exists());
    assert_eq!(danube.jobs().len(), 0);
}
