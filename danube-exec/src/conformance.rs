//! The laws of [`Executor`], one test each, for anybody's backend that runs real commands.
//!
//! [`executor_conformance!`](crate::executor_conformance) stamps them as tests of a backend whose
//! commands see a POSIX shell at `/bin/sh`.

use std::time::Duration;

use danube_core::OutputStream;

use crate::session::Signal;
use crate::{
    Command, Error, ExecEvent, ExecHandle, ExecSession, Executor, ExitStatus, Position, Stdin,
};

/// How long a law may take before it counts as broken: a hang is a failure too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell command with a usual path.
fn sh(script: &str) -> Command {
    Command::new("/bin/sh")
        .with_args(["-c", script])
        .with_env("PATH", "/usr/local/bin:/usr/bin:/bin")
}

/// Everything a session told.
struct Told {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: ExitStatus,
}

async fn start(executor: &dyn Executor, command: Command) -> ExecSession {
    executor.start(command).await.expect("the command starts")
}

async fn all(session: &mut ExecSession) -> Told {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let collect = async {
        loop {
            match session.next().await.expect("nothing is lost").expect("the exit comes first") {
                ExecEvent::Output { stream, bytes, position } => {
                    assert!(!bytes.is_empty(), "an output event carries something");
                    match stream {
                        OutputStream::Stdout => stdout.extend_from_slice(&bytes),
                        OutputStream::Stderr => stderr.extend_from_slice(&bytes),
                    }
                    let counted = Position {
                        stdout_bytes: stdout.len() as u64,
                        stderr_bytes: stderr.len() as u64,
                    };
                    assert_eq!(position, counted, "an event carries the running counts");
                }
                ExecEvent::Exited(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, collect).await.expect("the session ends");
    assert_eq!(session.next().await.expect("after the end"), None, "the exit comes once and last");
    Told { stdout, stderr, status }
}

/// What both streams got arrives, each in its order, and the exit comes last.
pub async fn both_streams_arrive_complete_and_the_exit_comes_last(executor: &dyn Executor) {
    let script = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; printf end; exit 7";
    let told = all(&mut start(executor, sh(script)).await).await;
    let lines = |word: &str| (0..500).map(|i| format!("{word} {i}\n")).collect::<String>();
    assert_eq!(String::from_utf8(told.stdout).expect("text"), lines("out") + "end");
    assert_eq!(String::from_utf8(told.stderr).expect("text"), lines("err"));
    assert_eq!(told.status, ExitStatus::Code(7));
}

/// Many megabytes on both streams at once arrive byte for byte.
pub async fn a_flood_on_both_streams_arrives_byte_for_byte(executor: &dyn Executor) {
    let script = "head -c 20000000 /dev/zero | tr '\\0' e >&2 & head -c 20000000 /dev/zero | tr '\\0' o; wait";
    let told = all(&mut start(executor, sh(script)).await).await;
    assert!(told.stdout.len() == 20_000_000 && told.stdout.iter().all(|&b| b == b'o'));
    assert!(told.stderr.len() == 20_000_000 && told.stderr.iter().all(|&b| b == b'e'));
    assert_eq!(told.status, ExitStatus::Code(0));
}

/// Exit codes and signals are told as they were.
pub async fn an_end_is_told_as_it_was(executor: &dyn Executor) {
    let table = [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 1", ExitStatus::Code(1)),
        ("exit 255", ExitStatus::Code(255)),
        ("kill -TERM $$", ExitStatus::Signal(15)),
        ("kill -KILL $$", ExitStatus::Signal(9)),
        ("no-such-program-here", ExitStatus::Code(127)),
        ("yes | head -n 1", ExitStatus::Code(0)),
        ("exec >&- 2>&-; exit 3", ExitStatus::Code(3)),
    ];
    for (script, status) in table {
        assert_eq!(all(&mut start(executor, sh(script)).await).await.status, status, "{script}");
    }
}

/// A command that cannot run is an error of starting, and names the program.
pub async fn what_cannot_run_is_not_started(executor: &dyn Executor) {
    for program in ["/no/such/program", "no-such-program-on-the-path", "/etc/hostname", "/"] {
        let command = Command::new(program).with_env("PATH", "/usr/bin:/bin");
        let error = executor.start(command).await.expect_err(program);
        assert!(matches!(error, Error::NotStarted { .. }), "{program}: {error:?}");
        assert!(error.to_string().contains(program), "{error}");
    }
    let nowhere = executor.start(sh("true").with_current_dir("/no/such/directory")).await;
    assert!(matches!(nowhere, Err(Error::NotStarted { .. })), "{nowhere:?}");
    for malformed in [
        Command::new(""),
        Command::new("a\0b"),
        sh("true").with_args(["a\0"]),
        sh("true").with_env("A=B", "x"),
        sh("true").with_env("", "x"),
        sh("true").with_env("A", "x\0"),
    ] {
        let refused = executor.start(malformed).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
}

/// A command sees exactly the environment it was given, and its directory.
pub async fn the_environment_is_what_was_given(executor: &dyn Executor) {
    let command = Command::new("/usr/bin/env")
        .with_env("ONE", "1")
        .with_env("TWO", "a=b c")
        .with_env("ONE", "last");
    let told = all(&mut start(executor, command).await).await;
    let text = String::from_utf8(told.stdout).expect("text");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["ONE=last", "TWO=a=b c"]);
    let told = all(&mut start(executor, sh("pwd").with_current_dir("/usr")).await).await;
    assert_eq!(told.stdout, b"/usr\n");
}

/// Standard input is empty unless asked for, and what is written to it arrives.
pub async fn standard_input_is_null_or_what_is_written(executor: &dyn Executor) {
    let mut session = start(executor, sh("cat; echo end")).await;
    assert!(session.take_stdin().is_none());
    assert_eq!(all(&mut session).await.stdout, b"end\n");

    let mut session = start(executor, sh("cat; echo end").with_stdin(Stdin::Piped)).await;
    let mut stdin = session.take_stdin().expect("a pipe was asked for");
    assert!(session.take_stdin().is_none(), "it is handed over once");
    let body = vec![b'x'; 300_000];
    let write = async {
        stdin.write_all(&body).await.expect("the command reads");
        drop(stdin);
    };
    let ((), told) = tokio::join!(write, all(&mut session));
    assert_eq!(told.stdout.len(), body.len() + 4);
    assert!(told.stdout.ends_with(b"xend\n"));
}

/// A signal reaches the command and what it started; after the end it does nothing.
pub async fn a_signal_reaches_the_group(executor: &dyn Executor) {
    // Were a sleep to survive, it would hold the pipe open for a minute and more. SIGINT is asked of
    // a plain program: shells have their own ideas about it.
    let family = sh("sleep 100 & echo up; sleep 100");
    let plain = Command::new("/bin/sleep").with_args(["100"]);
    let table = [
        (plain, Signal::Interrupt, 2),
        (family.clone(), Signal::Terminate, 15),
        (family, Signal::Kill, 9),
    ];
    for (command, signal, number) in table {
        // A test run in the background inherits an ignored SIGINT, and so does every command.
        if signal == Signal::Interrupt && interrupts_are_ignored() {
            continue;
        }
        let says_up = command.args.len() == 2;
        let mut session = start(executor, command).await;
        if says_up {
            let first = session.next().await.expect("up").expect("up");
            assert!(matches!(first, ExecEvent::Output { .. }));
        }
        let control = session.control();
        control.signal(signal).await.expect("it is alive");
        let end = tokio::time::timeout(Duration::from_secs(20), session.next()).await;
        let end = end.expect("it ends").expect("nothing is lost");
        assert_eq!(end, Some(ExecEvent::Exited(ExitStatus::Signal(number))));
        control.signal(signal).await.expect("after the end a signal does nothing");
    }
}

/// Whether this process, and with it what it starts, ignores SIGINT.
fn interrupts_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << 1) != 0)
}

/// A command that handles a signal says its last words, and they arrive.
pub async fn last_words_after_a_signal_arrive(executor: &dyn Executor) {
    let script = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.05; done";
    let mut session = start(executor, sh(script)).await;
    let first = session.next().await.expect("up").expect("up");
    let ExecEvent::Output { bytes, .. } = first else { panic!("{first:?}") };
    session.control().signal(Signal::Terminate).await.expect("it is alive");
    let mut rest = bytes.to_vec();
    let status = loop {
        match session.next().await.expect("an end").expect("an end") {
            // A shell may have words of its own about the signal, on the other stream.
            ExecEvent::Output { stream: OutputStream::Stderr, .. } => {}
            ExecEvent::Output { bytes, .. } => rest.extend_from_slice(&bytes),
            ExecEvent::Exited(status) => break status,
        }
    };
    assert!(rest.ends_with(b"bye\n"), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(status, ExitStatus::Code(4));
}

/// A background process that holds the streams open does not hold the session open.
pub async fn what_is_left_in_the_background_does_not_hold_the_session(executor: &dyn Executor) {
    let mut session = start(executor, sh("sleep 100 & echo done")).await;
    let told = tokio::time::timeout(Duration::from_secs(20), all(&mut session)).await;
    let told = told.expect("the session ends soon after its command");
    assert_eq!((told.stdout.as_slice(), told.status), (&b"done\n"[..], ExitStatus::Code(0)));
}

/// What is still writing when the command ends is heard, for a moment: a `tee` at the end of a pipe.
pub async fn last_words_from_the_background_arrive(executor: &dyn Executor) {
    let told = all(&mut start(executor, sh("(sleep 0.3; echo late) & echo now")).await).await;
    assert_eq!(String::from_utf8(told.stdout).expect("text"), "now\nlate\n");
    // It is a moment, however much is said.
    let mut session = start(executor, sh("yes & echo $!; exit 6")).await;
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let Some(ExecEvent::Exited(status)) = session.next().await.expect("an end") {
                return status;
            }
        }
    });
    assert_eq!(told.await.expect("the session ends"), ExitStatus::Code(6));
}

/// Dropping `next` again and again loses nothing, and the end still comes.
pub async fn a_dropped_next_loses_nothing_and_delays_nothing(executor: &dyn Executor) {
    let script = "sleep 100 & i=0; while [ $i -lt 50 ]; do echo $i; sleep 0.01; i=$((i+1)); done";
    let mut session = start(executor, sh(script)).await;
    let collect = async {
        let mut text = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_millis(7), session.next()).await {
                Err(_) => {}
                Ok(event) => match event.expect("nothing is lost").expect("the exit comes first") {
                    ExecEvent::Output { bytes, .. } => text.extend_from_slice(&bytes),
                    ExecEvent::Exited(status) => return (text, status),
                },
            }
        }
    };
    let (text, status) = tokio::time::timeout(PATIENCE, collect).await.expect("it ends");
    let expected: String = (0..50).map(|n| format!("{n}\n")).collect();
    assert_eq!((String::from_utf8(text).expect("text"), status), (expected, ExitStatus::Code(0)));
}

/// A session that nobody reads holds the command, not the bytes.
pub async fn a_session_that_nobody_reads_makes_the_command_wait(executor: &dyn Executor) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("count");
    // Each round appends a byte to the file after 64 KiB were taken from it.
    let script =
        format!("while :; do head -c 65536 /dev/zero; printf x >> {}; done", path.display());
    let mut session = start(executor, sh(&script)).await;
    let written = || std::fs::metadata(&path).map_or(0, |meta| meta.len());
    let mut last = 0;
    let mut still = 0;
    while still < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = written();
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    assert!(last < 64, "{last} rounds of 64 KiB went somewhere while nobody read");
    for _ in 0..100 {
        session.next().await.expect("output").expect("output");
    }
    assert!(written() > last, "it goes on when somebody reads");
}

/// Dropping a session kills its command, where the executor cannot attach to it again.
pub async fn a_dropped_session_kills_its_command(executor: &dyn Executor) {
    if executor.capabilities().attach {
        return;
    }
    let mut session = start(executor, sh("echo $$; exec sleep 100")).await;
    let first = session.next().await.expect("output");
    let Some(ExecEvent::Output { bytes, .. }) = first else { panic!("{first:?}") };
    let pid = String::from_utf8(bytes.to_vec()).expect("a number").trim().to_owned();
    drop(session);
    let gone = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.contains(") Z "))
    };
    tokio::time::timeout(PATIENCE, async {
        while !gone() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the command dies with its session");
}

/// What is not declared is refused by name.
pub async fn what_is_not_declared_is_unsupported(executor: &dyn Executor) {
    let attached = executor.attach(&ExecHandle("nothing".into()), Position::default()).await;
    match attached.expect_err("there is no such command") {
        Error::NotFound { .. } => assert!(executor.capabilities().attach),
        Error::Unsupported { .. } => assert!(!executor.capabilities().attach),
        other => panic!("{other:?}"),
    }
}

/// The one list of the laws, handed to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! executor_laws {
    ($($then:ident)::+ ! $($more:tt)*) => {
        $($then)::+! { $($more)*
            both_streams_arrive_complete_and_the_exit_comes_last,
            a_flood_on_both_streams_arrives_byte_for_byte,
            an_end_is_told_as_it_was,
            what_cannot_run_is_not_started,
            the_environment_is_what_was_given,
            standard_input_is_null_or_what_is_written,
            a_signal_reaches_the_group,
            last_words_after_a_signal_arrive,
            what_is_left_in_the_background_does_not_hold_the_session,
            last_words_from_the_background_arrive,
            a_dropped_next_loses_nothing_and_delays_nothing,
            a_session_that_nobody_reads_makes_the_command_wait,
            a_dropped_session_kills_its_command,
            what_is_not_declared_is_unsupported,
        }
    };
}

/// Stamps every law as a test of one backend: `executor_conformance!(local, LocalProcesses::new());`
/// makes a module `local`. The laws run through `Arc<dyn Executor>`.
#[macro_export]
macro_rules! executor_conformance {
    ($module:ident, $executor:expr) => {
        $crate::executor_laws! { $crate::executor_conformance ! @laws $module, $executor, }
    };
    (@laws $module:ident, $executor:expr, $($law:ident,)+) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    let executor: std::sync::Arc<dyn $crate::Executor> = std::sync::Arc::new($executor);
                    $crate::conformance::$law(&executor).await;
                }
            )+
        }
    };
}

macro_rules! run_each {
    ($executor:ident $told:ident $($law:ident,)+) => {
        $($law($executor).await; $told(stringify!($law));)+
    };
}

/// Runs every law in turn, for a backend that needs a `main` of its own; `told` hears each name.
pub async fn all_laws(executor: &dyn Executor, mut told: impl FnMut(&str)) {
    crate::executor_laws! { run_each ! executor told }
}
