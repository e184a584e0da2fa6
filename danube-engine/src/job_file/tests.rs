//! What a job file means, and what is refused in it.

use super::*;
use crate::CollectWhen;
use danube_artifacts::collect::Preset;
use danube_core::ErrorClass;

fn refused(text: &str) -> String {
    let error = JobFile::parse(text).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid, "{text}");
    error.to_string()
}

#[test]
fn a_whole_file_is_read_as_it_is_written() {
    let file = JobFile::parse(
        "name: nightly\n\
         timeout: 1h30m\n\
         env: {A: 1.10, B: no, C: 017, D: , E: 'x y', F: ~}\n\
         secrets:\n  TOKEN: /etc/token\n\
         steps:\n\
         - name: build it\n  run: make\n\
         - name: test\n  run: |\n    set -e\n    [[ a ]] && echo {\n  env:\n    P: release\n  timeout: 90s\n\
         artifacts:\n- out/**\n- '*.log'\n\
         retention_days: 14\n",
    )
    .unwrap();
    assert_eq!(file.name, "nightly");
    assert_eq!(file.timeout, Some(Duration::from_secs(5400)));
    let env: Vec<_> = file.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        env,
        [("A", "1.10"), ("B", "no"), ("C", "017"), ("D", ""), ("E", "x y"), ("F", "~")]
    );
    assert_eq!(file.secrets["TOKEN"], "/etc/token");
    assert_eq!(file.steps.len(), 2);
    assert_eq!(file.steps[0].name.as_str(), "build it");
    assert_eq!(file.steps[0].command, StepCommand::Shell("make".into()));
    let script = StepCommand::Shell("set -e\n[[ a ]] && echo {\n".into());
    assert_eq!(file.steps[1].command, script);
    assert_eq!(file.steps[1].env["P"], "release");
    assert_eq!(file.steps[1].timeout, Some(Duration::from_secs(90)));
    assert_eq!(file.artifacts.paths, ["out/**", "*.log"]);
    assert_eq!(file.retention_days, Some(14));

    let id: JobId = "j".parse().unwrap();
    let spec = file.clone().into_spec(id, "/w".into());
    assert_eq!((&spec.steps, &spec.artifacts), (&file.steps, &file.artifacts));
    assert_eq!((spec.timeout, spec.retention_days), (file.timeout, file.retention_days));
    assert!(spec.secrets.is_empty() && spec.env == file.env);
    spec.validate().unwrap();
}

#[test]
fn name_and_steps_are_enough() {
    let file =
        JobFile::parse("name: x\nsteps: [{name: a, run: 'true'}]\nenv:\ntimeout:\n").unwrap();
    assert_eq!((file.steps.len(), file.timeout, file.env.len()), (1, None, 0));
}

#[test]
fn artifacts_are_a_list_of_globs_or_say_more() {
    let parse = |artifacts: &str| {
        let file = JobFile::parse(&format!(
            "name: x\nsteps: [{{name: a, run: b}}]\nartifacts: {artifacts}\n"
        ));
        file.unwrap().artifacts
    };
    let (plain, none) = (parse("[out/**, 1.10]"), Collect::default());
    assert_eq!(plain.paths, ["out/**", "1.10"]);
    assert_eq!(Collect { paths: Vec::new(), ..plain }, none);
    assert_eq!(parse(""), none);
    assert_eq!(parse("[]"), none);
    let full = "{paths: [a], preset: data, exclude: [b, c/**], when: always, max_file_bytes: 1, \
                max_total_bytes: 50000000000, max_files: 3}";
    let full = parse(full);
    assert_eq!(
        (&full.paths[..], &full.exclude[..]),
        (&["a".into()][..], &["b".into(), "c/**".into()][..])
    );
    assert_eq!((full.preset, full.when), (Some(Preset::Data), CollectWhen::Always));
    let limits = (full.max_file_bytes, full.max_total_bytes, full.max_files);
    assert_eq!(limits, (Some(1), Some(50_000_000_000), Some(3)));
    assert_eq!(parse("{preset: data, when: success}").when, CollectWhen::Success);
}

#[test]
fn merge_keys_fill_in_what_is_not_written() {
    let file = JobFile::parse(
        "name: x\n\
         env: &base {A: 1.10, B: b}\n\
         steps:\n\
         - &first\n  name: one\n  run: make one\n  timeout: 5m\n  env: {<<: *base, B: mine}\n\
         - <<: *first\n  name: two\n\
         - name: three\n  <<: [{run: make three}, *first]\n  env: {<<: [{B: x}, *base]}\n",
    )
    .unwrap();
    let step = |i: usize| &file.steps[i];
    assert_eq!(step(0).env["A"], "1.10");
    assert_eq!(step(0).env["B"], "mine");
    assert_eq!(step(1).command, StepCommand::Shell("make one".into()));
    assert_eq!((step(1).timeout, &step(1).env), (Some(Duration::from_secs(300)), &step(0).env));
    assert_eq!(step(2).command, StepCommand::Shell("make three".into()));
    assert_eq!((step(2).env["A"].as_str(), step(2).env["B"].as_str()), ("1.10", "x"));
}

#[test]
fn whatever_is_wrong_is_named_with_its_place() {
    let step = "steps: [{name: a, run: x}]\n";
    let cases: Vec<(&str, String, &[&str])> = vec![
        ("nothing", String::new(), &["it is empty"]),
        ("text", "hello".into(), &["invalid type"]),
        ("no name", step.into(), &["missing field `name`"]),
        ("no steps", "name: x\n".into(), &["missing field `steps`"]),
        ("empty steps", "name: x\nsteps: []\n".into(), &["steps: there must be at least one"]),
        (
            "unknown key",
            format!("name: x\n{step}stesp: 1\n"),
            &["unknown field `stesp`", "line 3 column 1"],
        ),
        (
            "unknown step key",
            "name: x\nsteps:\n- name: a\n  run: b\n  shell: c\n".into(),
            &["steps[0]", "unknown field `shell`", "line 5 column 3"],
        ),
        (
            "twice",
            format!("name: x\nname: y\n{step}"),
            &["the key \"name\" stands twice", "line 2 column 1"],
        ),
        (
            "step without run",
            "name: x\nsteps: [{name: a}]\n".into(),
            &["steps[0]: missing field `run`"],
        ),
        (
            "step without name",
            "name: x\nsteps: [{run: a}]\n".into(),
            &["steps[0]: missing field `name`"],
        ),
        (
            "same name",
            "name: x\nsteps: [{name: a, run: b}, {name: a, run: c}]\n".into(),
            &["steps[1]", "\"a\""],
        ),
        (
            "bad step name",
            "name: x\nsteps:\n- name: a]b\n  run: b\n".into(),
            &["steps[0].name", "step name", "line 3 column 9"],
        ),
        (
            "bad timeout",
            format!("name: x\n{step}timeout: 90\n"),
            &["timeout", "must be written like 90s", "line 3"],
        ),
        (
            "zero timeout",
            format!("name: x\n{step}timeout: 0s\n"),
            &["longer than nothing", "line 3"],
        ),
        (
            "bad variable",
            format!("name: x\n{step}env:\n  A-B: 1\n"),
            &["env", "\"A-B\"", "line 4 column 3"],
        ),
        (
            "our variable",
            format!("name: x\n{step}env: {{DANUBE_STEP: 1}}\n"),
            &["is set by Danube", "line 3"],
        ),
        (
            "env is a list",
            format!("name: x\n{step}env: [A]\n"),
            &["env", "expected a mapping of variables", "line 3"],
        ),
        (
            "value is a list",
            format!("name: x\n{step}env: {{A: [1]}}\n"),
            &["env.A", "expected a string", "line 3"],
        ),
        (
            "retention",
            format!("name: x\n{step}retention_days: 0\n"),
            &["retention_days", "1 to 36500", "line 3"],
        ),
        (
            "negative retention",
            format!("name: x\n{step}retention_days: -1\n"),
            &["whole number of days"],
        ),
        (
            "artifacts are text",
            format!("name: x\n{step}artifacts: out\n"),
            &["artifacts", "expected a list of globs, or a mapping", "line 3"],
        ),
        (
            "artifacts with a typo",
            format!("name: x\n{step}artifacts:\n  path: [a]\n"),
            &["artifacts", "unknown field `path`", "line 4"],
        ),
        (
            "another end",
            format!("name: x\n{step}artifacts:\n  paths: [a]\n  when: failure\n"),
            &["artifacts.when", "must be success or always, not \"failure\"", "line 5"],
        ),
        (
            "another preset",
            format!("name: x\n{step}artifacts: {{preset: date}}\n"),
            &["artifacts.preset", "is not known: there is data", "line 3"],
        ),
        (
            "a limit of nothing",
            format!("name: x\n{step}artifacts: {{paths: [a], max_files: 0}}\n"),
            &["artifacts.max_files", "a whole number, at least 1", "line 3"],
        ),
        (
            "a limit with a unit",
            format!("name: x\n{step}artifacts: {{paths: [a], max_total_bytes: 5 GB}}\n"),
            &["artifacts.max_total_bytes", "a whole number, at least 1"],
        ),
        (
            "empty script",
            "name: x\nsteps: [{name: a, run: ' '}]\n".into(),
            &["steps[0].run", "something to run"],
        ),
        (
            "merge of text",
            "name: x\nsteps: [{<<: a, name: a, run: b}]\n".into(),
            &["expected a mapping to merge"],
        ),
    ];
    for (desc, text, expected) in cases {
        let said = refused(&text);
        assert!(said.starts_with("not a valid job file: "), "{desc}: {said}");
        for part in expected {
            assert!(said.contains(part), "{desc}: {said:?} does not name {part:?}");
        }
    }
}
