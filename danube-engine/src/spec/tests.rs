//! What a job may look like, and what of it is written down.

use std::os::unix::ffi::OsStringExt;

use danube_core::ErrorClass;

use super::*;

fn argv(words: &[&str]) -> StepCommand {
    StepCommand::Argv(words.iter().map(Into::into).collect())
}

fn job() -> JobSpec {
    let step = StepSpec::new("build".parse().unwrap(), argv(&["true"]));
    JobSpec::new("job-1".parse().unwrap(), "a job", vec![step], "/srv/job".into())
}

#[test]
fn a_plain_job_is_right() {
    let mut job = job();
    job.env.insert("A".into(), String::new());
    job.base_env.push(("BASH_FUNC_x%%".into(), "() { :; }".into()));
    job.secrets.push(("TOKEN".into(), "hunter2".into()));
    job.secrets.push(("TOKEN".into(), "hunter3".into()));
    job.artifacts.paths.push("out/**".into());
    job.timeout = Some(Duration::from_millis(1));
    job.retention_days = Some(1);
    job.validate().unwrap();
}

#[test]
fn whatever_is_wrong_is_refused_before_anything_starts() {
    type Change = fn(&mut JobSpec);
    let cases: &[(&str, Change)] = &[
        ("has no steps", |job| job.steps.clear()),
        ("more than 1000 steps", |job| {
            job.steps = (0..1001)
                .map(|i| StepSpec::new(format!("s{i}").parse().unwrap(), argv(&["true"])))
                .collect();
        }),
        ("step \"build\" stands twice", |job| job.steps.push(job.steps[0].clone())),
        ("must have a name", |job| job.name = " ".into()),
        ("must have a name", |job| job.name = "a\nb".into()),
        ("must have a name", |job| job.name = "a".repeat(201)),
        ("must be an absolute path", |job| job.work_dir = "work".into()),
        ("must have something to run", |job| job.steps[0].command = argv(&[])),
        ("must name its program", |job| job.steps[0].command = argv(&["", "a"])),
        ("NUL byte in its command", |job| job.steps[0].command = argv(&["a", "b\0"])),
        ("must have something to run", |job| {
            job.steps[0].command = StepCommand::Shell("\n".into())
        }),
        ("NUL byte in its script", |job| job.steps[0].command = StepCommand::Shell("a\0".into())),
        ("the variable \"1A\"", |job| drop(job.env.insert("1A".into(), String::new()))),
        ("the variable \"\"", |job| drop(job.env.insert(String::new(), String::new()))),
        ("step \"build\" is wrong: the variable \"A=\"", |job| {
            drop(job.steps[0].env.insert("A=".into(), String::new()));
        }),
        ("DANUBE_JOB_ID is set by Danube", |job| {
            drop(job.env.insert("DANUBE_JOB_ID".into(), "x".into()));
        }),
        ("NUL byte in its variable A", |job| drop(job.env.insert("A".into(), "\0".into()))),
        ("base variable \"A=\"", |job| job.base_env.push(("A=".into(), "x".into()))),
        ("base variable \"A\"", |job| job.base_env.push(("A".into(), "\0".into()))),
        ("secret \"A B\"", |job| job.secrets.push(("A B".into(), "hunter2".into()))),
        ("secret A holds a NUL", |job| job.secrets.push(("A".into(), "hunter\0".into()))),
        ("secret A cannot be used", |job| job.secrets.push(("A".into(), "12345".into()))),
        ("secret A cannot be used", |job| job.secrets.push(("A".into(), "      ".into()))),
        ("the name of a step holds the value of a secret", |job| {
            job.steps[0].name = "use hunter2".parse().unwrap();
            job.secrets.push(("A".into(), "hunter2".into()));
        }),
        ("longer than nothing", |job| job.timeout = Some(Duration::ZERO)),
        ("longer than nothing", |job| job.steps[0].timeout = Some(Duration::ZERO)),
        ("retention_days must be", |job| job.retention_days = Some(0)),
        ("retention_days must be", |job| job.retention_days = Some(36_501)),
        ("artifacts name no files", |job| job.artifacts.when = crate::CollectWhen::Always),
        ("artifacts name no files", |job| job.artifacts.exclude.push("x".into())),
        ("artifacts must not be limited to nothing", |job| job.artifacts.max_files = Some(0)),
        ("\"../x\"", |job| job.artifacts.paths.push("../x".into())),
        ("\"/etc/passwd\"", |job| job.artifacts.paths.push("/etc/passwd".into())),
    ];
    for (expected, change) in cases {
        let mut job = job();
        change(&mut job);
        let error = job.validate().unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid, "{expected}: {error}");
        let said = error.to_string();
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        assert!(!said.contains("hunter"), "{said}");
    }
}

#[test]
fn the_environment_of_a_step_is_built_from_general_to_special() {
    let mut job = job();
    let every = ["A", "B", "C", "D", "DANUBE_STEP"];
    job.base_env = every.iter().map(|name| ((*name).to_owned(), "base".into())).collect();
    job.env = every[1..4].iter().map(|name| ((*name).to_owned(), "job".to_owned())).collect();
    job.steps[0].env = every[2..4].iter().map(|n| ((*n).to_owned(), "step".to_owned())).collect();
    job.secrets = vec![("D".into(), "first-secret".into()), ("D".into(), "secret".into())];
    let command = job.command(&job.steps[0]);
    let env: Vec<_> = command
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), std::str::from_utf8(value.expose()).unwrap()))
        .collect();
    assert_eq!(
        env,
        [
            ("A", "base"),
            ("B", "job"),
            ("C", "step"),
            ("D", "secret"),
            ("DANUBE_JOB_ID", "job-1"),
            ("DANUBE_STEP", "build"),
        ]
    );
    assert_eq!(command.current_dir.as_deref(), Some(std::path::Path::new("/srv/job")));
    assert_eq!((command.program.to_str(), command.args.len()), (Some("true"), 0));
    job.steps[0].command = StepCommand::Shell("a; b".into());
    let command = job.command(&job.steps[0]);
    assert_eq!(command.program, "/bin/sh");
    assert_eq!(command.args, ["-c", "a; b"]);
}

#[test]
fn a_recorded_command_reads_as_typed_and_holds_no_secret() {
    let secrets = ["hunter2", "it's a secret", "two words"].map(SecretBytes::from);
    let needles = Needles::new(secrets).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["make", "-j2", "A=b"], "make -j2 A=b"),
        (&["sh", "-c", "echo 'x'; y"], r"sh -c 'echo '\''x'\''; y'"),
        (&["echo", ""], "echo ''"),
        (&["curl", "--token=hunter2"], "curl --token=***"),
        (&["say", "it's a secret"], "say ***"),
        (&["say", "two", "words"], "say ***"),
    ];
    for (words, expected) in cases {
        assert_eq!(argv(words).recorded(&needles), *expected);
    }
    let shell = StepCommand::Shell("curl hunter2\n".into());
    assert_eq!(shell.recorded(&needles), "curl ***\n");
    let bytes = StepCommand::Argv(vec![OsString::from_vec(b"a\xffb".to_vec())]);
    assert_eq!(bytes.recorded(&needles), "'a\u{fffd}b'");
}

#[test]
fn a_recorded_command_is_masked_before_it_is_cut() {
    let needles = Needles::new([SecretBytes::from("hunter2-hunter2")]).unwrap();
    let script = format!("{}hunter2-hunter2", "a".repeat(MAX_TEXT_BYTES - 8));
    let recorded = StepCommand::Shell(script).recorded(&needles);
    assert!(recorded.ends_with("aa***"), "{}", &recorded[recorded.len() - 20..]);
    let script = format!("{}hunter2-hunter2 bb", "a".repeat(MAX_TEXT_BYTES - 4));
    let recorded = StepCommand::Shell(script).recorded(&needles);
    assert!(recorded.ends_with("a*…"), "{}", &recorded[recorded.len() - 20..]);
    let long = StepCommand::Shell("ü".repeat(MAX_TEXT_BYTES)).recorded(&needles);
    assert!(long.len() <= MAX_TEXT_BYTES);
}

#[test]
fn a_job_prints_no_secret_and_no_base_value() {
    let mut job = job();
    job.base_env.push(("HOME".into(), "planted-base".into()));
    job.secrets.push(("TOKEN".into(), "planted-secret".into()));
    let printed = format!("{job:?} {:?}", job.command(&job.steps[0]));
    assert!(printed.contains("TOKEN") && printed.contains("HOME"));
    assert!(!printed.contains("planted"), "{printed}");
}
