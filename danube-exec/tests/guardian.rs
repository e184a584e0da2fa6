//! A host as users write it: the laws of the contract behind a guardian, and what is left of a
//! command when its owner is killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "this is its own test harness")]
#![expect(clippy::disallowed_methods, reason = "a main reads its arguments, and a wait polls")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use danube_exec::{Command, Error, ExecEvent, Executor, Guardian, LocalProcesses, conformance};

fn main() {
    let guardian = danube_exec::guardian(std::env::args_os());
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("owner") => return own(guardian, &args[1]),
        // What a test runner asks for before it runs the one test this is.
        Some("--list") if args.iter().any(|arg| arg == "--ignored") => return,
        Some("--list") => return println!("guardian: test"),
        _ => {}
    }
    let mut passed = 0;
    let mut told = |name: &str| {
        passed += 1;
        println!("test {name} ... ok");
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let executor = LocalProcesses::with_guardian(guardian);
    assert!(executor.capabilities().dies_with_owner);
    runtime.block_on(conformance::all_laws(&executor, &mut told));
    runtime.block_on(a_guardian_that_is_killed_is_a_loss(&executor));
    told("a_guardian_that_is_killed_is_a_loss");
    runtime.block_on(nothing_secret_stands_in_the_guardians_own_files(&executor));
    told("nothing_secret_stands_in_the_guardians_own_files");
    a_killed_owner_leaves_nothing_behind();
    told("a_killed_owner_leaves_nothing_behind");
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

fn sh(script: &str) -> Command {
    Command::new("/bin/sh").with_args(["-c", script]).with_env("PATH", "/usr/bin:/bin")
}

/// The role of the process that is going to be killed: starts the script and passes on what it says.
fn own(guardian: Guardian, script: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut session = LocalProcesses::with_guardian(guardian).start(sh(script)).await.unwrap();
        while let Some(event) = session.next().await.unwrap() {
            if let ExecEvent::Output { bytes, .. } = event {
                print!("{}", String::from_utf8_lossy(&bytes));
            }
        }
    });
}

/// The processes with this text in their command line or environment.
fn alive(marker: &str) -> Vec<String> {
    let has = |dir: &fs::DirEntry| {
        let name = dir.file_name().into_string().ok()?;
        name.parse::<u32>().ok()?;
        let line = fs::read(dir.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(marker).then_some(line)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(|dir| has(&dir)).collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}

fn a_killed_owner_leaves_nothing_behind() {
    for round in 0..5 {
        let marker = format!("8{}{round}.", std::process::id());
        // A plain child, one in the background, one in its own session, a daemon that forked twice,
        // and one that ignores what can be ignored.
        let family = format!(
            "sleep {marker}1 & setsid sleep {marker}2 & \
             (setsid sh -c '(trap \"\" TERM HUP INT QUIT; exec sleep {marker}3) & exec sleep {marker}4' &) ; \
             (trap '' TERM HUP; sleep {marker}5) & echo ready; sleep {marker}6"
        );
        let mut owner: Child = Process::new(std::env::current_exe().unwrap())
            .args(["owner", &family])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap_or(0);
        wait_until("all of the family live", || {
            (1..=6).all(|n| {
                alive(&format!("{marker}{n}")).iter().any(|line| line.starts_with("sleep"))
            })
        });
        owner.kill().unwrap();
        owner.wait().unwrap();
        wait_until("nothing of the family is left", || alive(&marker).is_empty());
    }
}

async fn a_guardian_that_is_killed_is_a_loss(executor: &LocalProcesses) {
    let mut session = executor.start(sh("echo $PPID; exec sleep 1000")).await.unwrap();
    let first = session.next().await.unwrap();
    let Some(ExecEvent::Output { bytes, .. }) = first else { panic!("{first:?}") };
    let guardian: i32 = String::from_utf8_lossy(&bytes).trim().parse().unwrap();
    let guardian = rustix::process::Pid::from_raw(guardian).unwrap();
    rustix::process::kill_process(guardian, rustix::process::Signal::KILL).unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), session.next()).await.unwrap();
    assert!(matches!(end, Err(Error::Lost { .. })), "{end:?}");
}

async fn nothing_secret_stands_in_the_guardians_own_files(executor: &LocalProcesses) {
    let command = sh("echo $PPID; exec sleep 1000").with_env("TOKEN", "canary-4711-value");
    let mut session = executor.start(command).await.unwrap();
    let first = session.next().await.unwrap();
    let Some(ExecEvent::Output { bytes, .. }) = first else { panic!("{first:?}") };
    let guardian = String::from_utf8_lossy(&bytes).trim().to_owned();
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{guardian}/{file}")).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("canary"), "{file}");
    }
}
