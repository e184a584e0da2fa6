//! Canaries: secrets that go through everything a job can do, and are looked for everywhere afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::harness::{Danube, contains, said};
use crate::serve::Server;
use crate::vault::{set, with_stdin};

/// Twenty values of the kinds that people have: tokens, passwords with every sign, a key of several lines.
fn canaries() -> Vec<String> {
    let mut values: Vec<String> = (0..14)
        .map(|n| format!("c4nary-{:08x}-{n:02}", 0x9e37_79b9_u32.wrapping_mul(n + 1)))
        .collect();
    values.extend(
        [
            "pa\"ss'wo<rd>&4711",
            "sp ace/sl\\ash+plus=%20",
            "größe-ñ-€-4712",
            "$(echo no) `no` $HOME 4713",
            "-----BEGIN KEY-----\nMIIBVgIBADANBgkq4714\nhkiG9w0BAQEFAASC4715\n-----END KEY-----",
            "{\"user\": \"ci\", \"pass\": \"4716-4717-4718\"}",
        ]
        .map(str::to_owned),
    );
    values
}

/// What a value may look like where it should not be.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    let mut forms = vec![bytes.to_vec()];
    // The lines of a key, but not its frame, which everybody has.
    forms.extend(
        value.lines().filter(|line| line.len() > 12 && !line.starts_with('-')).map(|l| l.into()),
    );
    for shift in 0..3 {
        let shifted = [&b"\0\0"[..shift], bytes].concat();
        for engine in [&STANDARD, &URL_SAFE] {
            // What is before it and after it changes the characters at the ends.
            let text = engine.encode(&shifted).replace('=', "");
            forms.push(text.as_bytes()[if shift == 0 { 0 } else { 4 }..text.len() - 2].to_vec());
        }
    }
    let hex = |upper| {
        bytes
            .iter()
            .map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") })
            .collect::<String>()
    };
    let percent = |upper| -> String {
        let kept = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~".contains(b);
        let one = |b: &u8| match (kept(b), upper) {
            (true, _) => char::from(*b).to_string(),
            (_, true) => format!("%{b:02X}"),
            (_, false) => format!("%{b:02x}"),
        };
        bytes.iter().map(one).collect()
    };
    let json = serde_json::to_string(value).unwrap();
    let xml = value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    for text in [
        hex(false),
        hex(true),
        percent(false),
        percent(true),
        percent(true).replace("%20", "+"),
        json[1..json.len() - 1].to_owned(),
        value.replace('\'', "'\\''"),
        xml.replace('\'', "&apos;"),
        xml.replace('\'', "&#39;"),
        format!("{bytes:?}")[1..].trim_end_matches(']').to_owned(),
    ] {
        forms.push(text.into_bytes());
    }
    forms.sort();
    forms.dedup();
    forms
}

/// Everything a job can do to a value without encoding it: on both streams, whole, in pieces, in a line without
/// an end, at a pause, in the message of a program that fails.
const LEAK: &str = r#"
for name in $NAMES; do
  eval "value=\$$name"
  for fd in 1 2; do
    printf '%s\n' "whole $value." >&$fd
    printf '%s' "$value$value" | dd bs=5 2>/dev/null >&$fd
    printf '\n' >&$fd
  done
  # Of a stranger name this program would make an encoding of its own.
  case $value in c4nary*) cat "/no/such/$value" || true;; esac
done
printf %s "$C00"; sleep 1.3; printf '%s\n' "$C01"
echo plain-marker
"#;

struct Sinks {
    danube: Danube,
    /// By their first bytes, so that one pass looks for all.
    needles: HashMap<[u8; 4], Vec<(usize, Vec<u8>)>>,
    seen: BTreeMap<String, usize>,
}

impl Sinks {
    fn new(danube: Danube, needles: Vec<(usize, Vec<u8>)>) -> Self {
        let mut by_start: HashMap<_, Vec<_>> = HashMap::new();
        for (canary, needle) in needles {
            by_start.entry(needle[..4].try_into().unwrap()).or_default().push((canary, needle));
        }
        Self { danube, needles: by_start, seen: BTreeMap::new() }
    }

    fn found(&self, bytes: &[u8]) -> Option<(usize, String)> {
        bytes.windows(4).enumerate().find_map(|(at, start)| {
            let needles = self.needles.get(start)?.iter();
            let mut here = needles.filter(|(_, needle)| bytes[at..].starts_with(needle));
            here.next()
                .map(|(canary, needle)| (*canary, String::from_utf8_lossy(needle).into_owned()))
        })
    }

    fn look(&mut self, sink: &str, bytes: &[u8]) {
        *self.seen.entry(sink.to_owned()).or_default() += bytes.len();
        if let Some((canary, form)) = self.found(bytes) {
            panic!("canary {canary} stands in {sink} as {form:?}");
        }
    }

    fn look_at(&mut self, sink: &str, out: &Output) {
        self.look(&format!("{sink}, stdout"), &out.stdout);
        self.look(&format!("{sink}, stderr"), &out.stderr);
    }

    fn look_at_files(&mut self, when: &str) {
        let mut open = vec![self.danube.data().to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path: PathBuf = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if let Ok(bytes) = fs::read(&path) {
                    let below = path.strip_prefix(self.danube.data()).unwrap();
                    self.look(&format!("{} {when}", below.display()), &bytes);
                    self.look("file names", below.to_string_lossy().as_bytes());
                }
            }
        }
    }
}

#[test]
fn no_canary_stands_in_any_sink_in_any_form() {
    let danube = Danube::new();
    let values = canaries();
    assert_eq!(values.len(), 20);
    let needles: Vec<(usize, Vec<u8>)> = values
        .iter()
        .enumerate()
        .flat_map(|(n, value)| forms(value).into_iter().map(move |f| (n, f)))
        .collect();
    let mut sinks = Sinks::new(danube, needles);
    let work = sinks.danube.work().to_owned();

    // Ten are stored, five are sealed, five are files.
    let mut secrets = String::new();
    let mut names = Vec::new();
    for (n, value) in values.iter().enumerate() {
        let name = format!("C{n:02}");
        let source = match n % 4 {
            0 | 1 => {
                set(&sinks.danube, &[&name], value.as_bytes());
                format!("vault:{name}")
            }
            2 => {
                let out =
                    with_stdin(sinks.danube.command(&["secrets", "seal", &name]), value.as_bytes());
                sinks.look_at("secrets seal", &out);
                String::from_utf8(out.stdout).unwrap().trim().to_owned()
            }
            _ => {
                let file = work.join(&name);
                fs::write(&file, value).unwrap();
                file.display().to_string()
            }
        };
        secrets.push_str(&format!("  {name}: {source:?}\n"));
        names.push(name);
    }
    fs::write(work.join("leak.sh"), LEAK).unwrap();
    let job = format!(
        "name: canaries\nenv: {{NAMES: {}}}\nsecrets:\n{secrets}steps:\n  \
         - {{name: leak, run: sh leak.sh}}\n  \
         - {{name: keep, run: 'mkdir out; echo kept > out/a.txt'}}\n  \
         - {{name: fails, run: 'echo \"$C02\" >&2; exit 3'}}\n",
        names.join(" ")
    );
    fs::write(work.join("job.yaml"), &job).unwrap();
    fs::write(
        work.join("passes.yaml"),
        job.replace("exit 3", "exit 0")
            .replace("name: canaries", "artifacts: [out/**]\nname: passes")
            .replace("mkdir out", "mkdir -p out"),
    )
    .unwrap();

    // Every argument of every process is in the trace, and the program tells all of its doings.
    let execs = work.join("execs");
    for (file, code) in [("job.yaml", 1), ("passes.yaml", 0)] {
        let traced = sinks.danube.command(&["run", file]);
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-s", "1000000", "-e", "trace=execve,execveat,prctl", "-o"])
            .arg(&execs)
            .arg("--");
        command.arg(traced.get_program()).args(traced.get_args());
        command.envs(traced.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let out = command.current_dir(&work).env("DANUBE_LOG", "trace").output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{}", said(&out));
        sinks.look_at(&format!("run {file}"), &out);
        assert!(said(&out).contains("secrets masked"), "the trace tells how much was masked");
        let trace = fs::read_to_string(&execs).unwrap();
        assert!(trace.contains("leak.sh") && trace.contains("execve"), "{trace}");
        // The process that runs the job and the guardian of each step: all have values in their memory.
        let guardians =
            trace.lines().filter(|line| line.contains("[\"danube-exec-guardian\"")).count();
        let undumpable = trace
            .lines()
            .filter(|line| line.contains("PR_SET_DUMPABLE, SUID_DUMP_DISABLE"))
            .count();
        assert_eq!((guardians, undumpable), (3, 4), "{trace}");
        // The step's own `cat` of a file of that name is what a job does to itself.
        let ours: String = trace.lines().filter(|line| !line.contains("/cat\"")).collect();
        sinks.look("arguments of processes", ours.as_bytes());
    }
    let log = String::from_utf8(sinks.danube.log()).unwrap();
    assert!(log.contains("whole ***.") && log.contains("plain-marker"), "{log}");

    for args in [
        &["jobs"][..],
        &["jobs", "--output", "json"],
        &["logs", "latest"],
        &["logs", "latest", "--raw"],
        &["logs", "latest", "-f"],
        &["logs", "latest", "--json"],
        &["logs", "latest", "--strip"],
        &["logs", "latest", "--grep", "."],
        &["logs", "latest", "--grep", "whole", "--json"],
        &["artifacts", "provenance", "latest"],
        &["artifacts", "list", "latest", "--output", "json"],
        &["secrets", "list"],
        &["secrets", "audit", "--limit", "1000"],
        &["secrets", "rotate"],
        &["run", "--secret", "C00", "--secret", "X=vault:MISSING", "--", "true"],
        &["run", "--secret", "C00", "--", "/no/such/program"],
        &["run", "--secret", "C00", "--timeout", "1s", "--", "sleep", "30"],
        &["run", "--secret", "C00", "--output", "json", "--", "sh", "-c", "echo $C00; kill -9 $$"],
    ] {
        let mut command = sinks.danube.command(args);
        let out = command.env("DANUBE_LOG", "trace").output().unwrap();
        sinks.look_at(&args.join(" "), &out);
    }

    let server = Server::start(&sinks.danube);
    let listed = sinks.danube.jobs();
    let passed = listed.iter().find(|job| job["name"] == "passes").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for path in [
        "/health".to_owned(),
        "/api/v1/jobs".to_owned(),
        format!("/api/v1/jobs/{passed}"),
        format!("/api/v1/jobs/{passed}/logs"),
        format!("/api/v1/jobs/{passed}/logs/stream"),
        format!("/api/v1/jobs/{passed}/logs/stream?format=plain"),
        format!("/api/v1/jobs/{passed}/logs/search?q=whole"),
        format!("/api/v1/jobs/{passed}/logs/entries"),
        format!("/api/v1/jobs/{passed}/logs/groups"),
        format!("/api/v1/jobs/{passed}/output"),
        format!("/v1/runs/{passed}/logs"),
        format!("/api/v1/jobs/{passed}/artifacts"),
        format!("/api/v1/jobs/{passed}/artifacts/out/a.txt"),
        format!("/api/v1/jobs/{passed}/provenance"),
        format!("/api/v1/jobs/{passed}/provenance.dsse"),
        "/api/v1/jobs/no-such-job/logs".to_owned(),
        "/metrics".to_owned(),
    ] {
        let body = server.get(&path, &["-i"]);
        let status = if path.contains("no-such-job") { "404" } else { "200" };
        assert!(body.starts_with(format!("HTTP/1.1 {status}").as_bytes()), "{path}");
        sinks.look(&format!("HTTP {}", path.replace(&passed, "JOB")), &body);
    }
    sinks.look_at_files("while it is served");
    server.stop();
    sinks.look_at_files("at rest");

    let bytes: usize = sinks.seen.values().sum();
    let count: usize = sinks.needles.values().map(Vec::len).sum();
    println!(
        "0 of 20 canaries in {count} forms found in {} sinks, {bytes} bytes",
        sinks.seen.len()
    );
    assert!(sinks.seen.len() > 50, "{:?}", sinks.seen.keys());
    // The search finds what is there: the marker beside the secrets, and a canary in a file of the job's own.
    assert!(!sinks.danube.files_with(b"plain-marker").is_empty());
    for (canary, value) in values.iter().enumerate() {
        for form in forms(value) {
            let found = sinks.found(&[b"before ", &form[..], b" after"].concat());
            assert_eq!(found.map(|(canary, _)| canary), Some(canary), "{form:?}");
        }
    }
}

/// A job may print a value in an encoding of its own.
#[test]
fn no_canary_that_a_job_encodes_stands_in_its_log() {
    let danube = Danube::new();
    let value = "pa\"ss'wo<rd>&4711 ~!";
    set(&danube, &["TOKEN"], value.as_bytes());
    let script = r#"
        printf %s "$TOKEN" | base64
        printf 'x%s' "$TOKEN" | base64
        printf 'xx%s' "$TOKEN" | base64
        printf %s "$TOKEN" | base64 | tr '+/' '-_'
        printf %s "$TOKEN" | od -An -v -tx1 | tr -d ' \n'; echo
        printf %s "$TOKEN" | od -An -v -tx1 | tr -d ' \n' | tr a-f A-F; echo
        printf %s "$TOKEN" | od -An -v -tx1 | sed 's/ /%/g' | tr -d '\n'; echo
        printf %s "$TOKEN" | sed 's/"/\\"/g'; echo
        printf %s "$TOKEN" | sed "s/'/'\\\\''/g"; echo
        echo the-end"#;
    danube.expect(0, &["run", "--secret", "TOKEN", "--", "sh", "-c", script]);
    let log = danube.log();
    assert!(contains(&log, b"the-end"));
    for form in forms(value) {
        assert!(!contains(&log, &form), "{}", String::from_utf8_lossy(&form));
    }
}
