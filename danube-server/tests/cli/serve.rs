//! `danube serve`, asked by curl as a person would.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Danube, said, wait_until};

pub(crate) struct Server {
    child: Child,
    pub(crate) base: String,
}

impl Server {
    pub(crate) fn start(danube: &Danube) -> Self {
        Self::spawn(&mut danube.command(&["serve", "--port", "0"]))
    }

    /// From a command that serves.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base = line.split_whitespace().find(|word| word.starts_with("http://127.0.0.1:"));
        Self {
            base: base.unwrap_or_else(|| panic!("{line:?}")).trim_end_matches('/').to_owned(),
            child,
        }
    }

    pub(crate) fn get(&self, path: &str, more: &[&str]) -> Vec<u8> {
        let out = Command::new("curl")
            .args(["-sS", "--max-time", "30"])
            .args(more)
            .arg(format!("{}{path}", self.base))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", said(&out));
        out.stdout
    }

    fn text(&self, path: &str, more: &[&str]) -> String {
        String::from_utf8(self.get(path, more)).unwrap()
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let mut status = None;
        wait_until("the server ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn jobs_logs_and_artifacts_are_served_as_they_lie_on_disk() {
    let danube = Danube::new();
    danube.expect(
        0,
        &["run", "--artifact", "a.txt", "--", "sh", "-c", "echo said; echo kept > a.txt"],
    );
    let server = Server::start(&danube);
    assert!(server.text("/health", &[]).contains("ok"));
    let proved = "danube_provenance_generated_total{status=\"ok\"} 1\n";
    assert!(server.text("/metrics", &[]).contains(proved));
    // The command line prints the same body.
    let listed: serde_json::Value =
        serde_json::from_slice(&server.get("/api/v1/jobs?limit=50", &[])).unwrap();
    assert_eq!(listed, danube.json(&["jobs", "--output", "json"]));
    let artifacts: serde_json::Value =
        serde_json::from_slice(&server.get("/api/v1/jobs/latest/artifacts", &[])).unwrap();
    assert_eq!(artifacts, danube.json(&["artifacts", "list", "latest", "--output", "json"]));

    let log = danube.log();
    assert_eq!(server.get("/api/v1/jobs/latest/logs", &[]), log);
    assert_eq!(server.get("/api/v1/jobs/latest/logs", &["-r", "5-14"]), &log[5..15]);
    assert_eq!(server.get("/api/v1/jobs/latest/artifacts/a.txt", &[]), b"kept\n");
    assert_eq!(server.get("/api/v1/jobs/latest/artifacts/a.txt?part=signature", &[]).len(), 64);
    let missing = server.text("/api/v1/jobs/nope/logs", &["-i"]);
    assert!(
        missing.contains("404")
            && missing.contains("application/problem+json")
            && missing.contains("job_not_found"),
        "{missing}"
    );
    let foreign = server.text("/api/v1/jobs", &["-i", "-H", "Host: evil.example"]);
    assert!(!foreign.starts_with("HTTP/1.1 200"), "{foreign}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_live_stream_rebuilds_the_log_and_ends_with_the_job() {
    let danube = Danube::new();
    let gate = danube.work().join("gate");
    let script = format!(
        "for i in $(seq 1 500); do echo line $i; done; while [ ! -e {} ]; do sleep 0.05; done; echo last",
        gate.display()
    );
    let running = danube.start(&["run", "--", "sh", "-c", &script]);
    danube.wait_for_log("line 500");
    let server = Server::start(&danube);
    let url = format!("{}/api/v1/jobs/latest/logs/stream", server.base);
    let stream = Command::new("curl")
        .args(["-sSN", "--max-time", "30", &url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(gate, "").unwrap();
    let streamed = String::from_utf8(stream.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(running.wait().status.code(), Some(0));

    let mut rebuilt = String::new();
    let mut end = String::new();
    for event in streamed.split("\n\n").filter(|event| !event.is_empty()) {
        let field = |name: &str| {
            event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
        };
        match field("event:") {
            "log" => {
                let data: serde_json::Value = serde_json::from_str(field("data:")).unwrap();
                for line in data["lines"].as_array().unwrap() {
                    rebuilt.push_str(line.as_str().unwrap());
                    rebuilt.push('\n');
                }
            }
            "end" => end = field("data:").to_owned(),
            _ => {}
        }
    }
    assert!(
        rebuilt.as_bytes() == danube.log(),
        "{} bytes rebuilt of {}",
        rebuilt.len(),
        danube.log().len()
    );
    assert!(end.contains("succeeded"), "{end:?}");
    // With a stream open, the server still ends.
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_a_server_has_is_verified_with_a_key_of_ones_own() {
    let danube = Danube::new();
    let script = "mkdir 'o ut'; echo content > 'o ut/ä.txt'; echo hello";
    danube.expect(0, &["run", "--artifact", "o ut/*", "--", "sh", "-c", script]);
    let id = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let server = Server::start(&danube);
    // Somebody else, who has the public key and nothing more.
    let stranger = Danube::new();
    let key = stranger.work().join("key.pub");
    fs::copy(danube.data().join("keys/signing.key.pub"), &key).unwrap();
    let base = ["verify-artifact", "--server", &server.base, "--job", &id];
    let with_key = [&base[..], &["--public-key", "key.pub"]].concat();
    let artifact = [&with_key[..], &["o ut/ä.txt"]].concat();
    let log = [&with_key[..], &["--log"]].concat();
    let told = stranger.expect(0, &artifact);
    assert!(
        told.contains("fetched 8 bytes") && told.contains("o%20ut/%C3%A4.txt is verified"),
        "{told}"
    );
    let told = stranger.expect(0, &log);
    assert!(told.contains("the name logs/"), "{told}");
    assert!(fs::read_dir(stranger.data()).unwrap().next().is_none(), "nothing was written");

    // Without a key of one's own nothing is believed, and what is not there is not verified.
    stranger.expect(1, &[&base[..], &["o ut/ä.txt"]].concat());
    stranger.expect(1, &[&with_key[..], &["other"]].concat());
    stranger.expect(2, &["verify-artifact", "--server", &server.base, "a"]);
    let elsewhere = ["verify-artifact", "--server", "http://127.0.0.1:1", "--job", &id, "a"];
    stranger.expect(1, &elsewhere);

    // The server is not believed either: what it has was changed.
    use std::os::unix::fs::PermissionsExt;
    for (path, args) in [
        (danube.data().join("artifacts").join(&id).join("o ut/ä.txt"), &artifact),
        (danube.data().join("logs").join(format!("{id}.log")), &log),
    ] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, bytes).unwrap();
        let out = stranger.run(args);
        assert_eq!(out.status.code(), Some(1), "{}", said(&out));
        assert!(said(&out).contains("artifact: http://"), "{}", said(&out));
    }
    server.stop();
}
