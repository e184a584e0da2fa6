//! Runs a command, masks a secret in its output, and keeps the output as a log with exact offsets.
//!
//! `cargo run --example capture_a_command`
#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::sync::Arc;
use std::time::Duration;

use danube_core::{JobId, SecretBytes, SystemClock};
use danube_exec::{Command, ExecEvent, Executor, ExitStatus, LocalProcesses};
use danube_logs::{FsLogs, LogOptions, LogStore, LogWriter};
use danube_secrets::Needles;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store: Arc<dyn LogStore> = Arc::new(FsLogs::new(dir.path().join("logs")));
    let clock = Arc::new(SystemClock);
    let job: JobId = "example".parse()?;

    // What must not be seen. One redactor serves one stream: stdout and stderr never join.
    let needles = Needles::new([SecretBytes::from("hunter2-hunter2")])?;
    let writer =
        LogWriter::create(store.clone(), job.clone(), clock, LogOptions::default()).await?;
    let (out, err) = (Box::new(needles.redactor()), Box::new(needles.redactor()));
    let step = writer.step("greet".parse()?, out, err).await?;

    let script = "echo hello; echo the password is $PASSWORD >&2; printf 'no line end'; exit 3";
    let command = Command::new("/bin/sh")
        .with_args(["-c", script])
        .with_env("PATH", "/usr/bin:/bin")
        .with_env("PASSWORD", "hunter2-hunter2");
    let mut session = LocalProcesses::new().start(command).await?;

    // The events are read as they come; between them the step is told that time passes, so that a
    // prompt without a line end is seen.
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let status = loop {
        tokio::select! {
            event = session.next() => match event? {
                Some(ExecEvent::Output { stream, bytes, .. }) => {
                    step.write(stream, &bytes).await?;
                }
                Some(ExecEvent::Exited(status)) => break status,
                None => unreachable!("the exit comes first"),
            },
            _ = tick.tick() => { step.idle().await?; }
        }
    };
    let range = step.finish().await?;
    let sealed = writer.seal().await?;
    assert_eq!(status, ExitStatus::Code(3));
    assert_eq!(range.end, sealed.len);

    let log = store.read(&job, range).await?;
    let text = String::from_utf8(log.to_vec())?;
    print!("{text}");
    assert!(text.contains("[greet] [stdout] hello\n"));
    assert!(text.contains("[greet] [stderr] the password is ***\n"));
    assert!(text.contains("[greet] [stdout] no line end\n"));
    println!("{status}; the step is bytes {range} of the log");
    Ok(())
}
