//! Starting `danube`, and waiting for what it does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// A data directory and a work directory, both gone at the end.
pub(crate) struct Danube {
    data: TempDir,
    work: TempDir,
}

impl Danube {
    pub(crate) fn new() -> Self {
        Self { data: TempDir::new().unwrap(), work: TempDir::new().unwrap() }
    }

    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    /// `danube ARGS`, not started yet, without anything of the tester's own environment that would
    /// change what it does.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_danube"));
        command
            .args(args)
            .current_dir(self.work())
            .env("DANUBE_DATA_DIR", self.data())
            .env("HOME", self.work())
            .env("DANUBE_CONFIG", "/dev/null")
            .env_remove("NO_COLOR")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null());
        command
    }

    /// Runs `danube ARGS` to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it, expects this exit code, and returns what it printed on stdout.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(code), "danube {args:?}: {}", said(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.expect(0, args)).unwrap()
    }

    /// Starts `danube ARGS` with its output kept.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        Running(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// The jobs, newest first.
    #[track_caller]
    pub(crate) fn jobs(&self) -> Vec<Value> {
        self.json(&["jobs", "--output", "json"])["jobs"].as_array().unwrap().clone()
    }

    /// The log of the newest job, as it is on disk.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<u8> {
        fs::read(self.log_path()).unwrap()
    }

    #[track_caller]
    pub(crate) fn log_path(&self) -> PathBuf {
        let id = self.jobs()[0]["id"].as_str().unwrap().to_owned();
        self.data().join("logs").join(format!("{id}.log"))
    }

    /// Waits until some log below the data directory contains `text`.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(&format!("a log says {text:?}"), || {
            fs::read_dir(self.data().join("logs")).is_ok_and(|dir| {
                dir.flatten()
                    .filter(|entry| entry.path().extension().is_some_and(|e| e == "log"))
                    .any(|entry| {
                        contains(&fs::read(entry.path()).unwrap_or_default(), text.as_bytes())
                    })
            })
        });
    }

    /// Every file below the data directory that contains these bytes.
    pub(crate) fn files_with(&self, needle: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.data().to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if contains(&fs::read(&path).unwrap_or_default(), needle) {
                    found.push(path);
                }
            }
        }
        found
    }
}

/// A started process, killed if the test ends before it.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.as_ref().unwrap().id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end, and fails the test when that takes a minute.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Output {
        let mut child = self.0.take().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let read = |from: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).unwrap();
            bytes
        };
        let err = std::thread::spawn(move || read(&mut stderr));
        let out = std::thread::spawn(move || read(&mut stdout));
        let mut status = None;
        wait_until("the process ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        Output { status: status.unwrap(), stdout: out.join().unwrap(), stderr: err.join().unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a condition, at most a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause between two looks at a condition"
        )]
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited a minute in vain until {what}");
}

/// Runs `danube ARGS` again and again under strace, killed at the first call of a kind, the second and so on,
/// until it comes through; looks at what is there after each run. Returns how many were killed.
#[track_caller]
pub(crate) fn killed_at_every_call(
    danube: &Danube,
    args: &[&str],
    calls: &[&str],
    mut look: impl FnMut(),
) -> usize {
    let mut killed = 0;
    for call in calls {
        for n in 1.. {
            let itself = danube.command(args);
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null"]);
            strace.args(["-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:signal=KILL:when={n}")]);
            strace.arg(itself.get_program()).args(itself.get_args()).current_dir(danube.work());
            for (name, value) in itself.get_envs() {
                match value {
                    Some(value) => strace.env(name, value),
                    None => strace.env_remove(name),
                };
            }
            let out = strace.output().expect("strace is installed");
            look();
            if out.status.success() {
                break;
            }
            killed += 1;
            assert!(n < 500, "{call} never comes through: {}", said(&out));
        }
    }
    killed
}

/// Every file below a directory, in order.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// What a process printed, for a message.
pub(crate) fn said(out: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

pub(crate) fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The processes whose command line contains `text`.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}
