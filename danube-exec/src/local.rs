//! Commands as processes of this machine, with and without a guardian.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use danube_core::OutputStream;
use rustix::io::Errno;
use rustix::process::{Pid, kill_process_group};
use tokio::net::unix::pipe;
use tokio::time::Instant;

use crate::guardian::{Guarded, Guardian};
use crate::session::{SessionSource, Signal, SignalTarget, StdinWriter};
use crate::{
    Capabilities, Command, Error, ExecControl, ExecEvent, ExecHandle, ExecSession, Executor,
    ExitStatus, Position, Stdin,
};

/// The most that one output event carries, and that is read ahead of each stream.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long output that a background process still holds open is waited for after the command's
/// own end. Long enough for a `tee` to say its last words, short enough for somebody to wait.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the end of the pipes is waited for when everybody who could write is dead. Shorter than
/// any caller's own pause: a call that is dropped and made again begins anew.
const GLANCE: Duration = Duration::from_millis(50);

/// Runs commands as processes of this machine, each in a process group of its own. Linux only.
///
/// A command ends with everything it started: what it left in the background may write for two more
/// seconds, if it holds the command's output, and is then killed. With a [`Guardian`] that holds for every descendant, and also when the process that
/// started the command dies; without one it holds for the process group, while this process lives.
#[derive(Debug, Clone, Default)]
pub struct LocalProcesses {
    guardian: Option<Guardian>,
}

impl LocalProcesses {
    /// Direct children. A command does not die with its owner: nothing on Linux promises that to a
    /// process that may be killed by `SIGKILL`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Children of a guardian each, which end with this process, however it ends.
    #[must_use]
    pub fn with_guardian(guardian: Guardian) -> Self {
        Self { guardian: Some(guardian) }
    }
}

impl fmt::Display for LocalProcesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local processes")
    }
}

#[async_trait]
impl Executor for LocalProcesses {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_dies_with_owner(self.guardian.is_some())
    }

    async fn start(&self, command: Command) -> Result<ExecSession, Error> {
        command.check()?;
        let pipes = Pipes::new(&command).map_err(|e| not_started(&command, e))?;
        match &self.guardian {
            Some(guardian) => {
                let Pipes { stdout, stderr, stdin, theirs } = pipes;
                let guarded = Guarded::start(guardian, &command, theirs).await?;
                let target = guarded.target();
                let output = Output::new(stdout, stderr);
                let source = LocalSource::new(output, End::Guarded(guarded));
                Ok(ExecSession::new(Box::new(source), ExecControl::new(target)).with_stdin(stdin))
            }
            None => start_directly(&command, pipes),
        }
    }

    async fn attach(&self, _handle: &ExecHandle, _from: Position) -> Result<ExecSession, Error> {
        Err(Error::Unsupported {
            executor: self.to_string(),
            operation: "attach to a started command",
        })
    }
}

pub(crate) fn not_started(command: &Command, mut source: io::Error) -> Error {
    // The system has one error for both, and only one of them is about the program.
    if let Some(dir) = &command.current_dir
        && !dir.is_dir()
    {
        source = io::Error::new(source.kind(), format!("there is no directory {}", dir.display()));
    }
    Error::NotStarted { program: command.program.to_string_lossy().into_owned(), source }
}

/// The ends of the pipes that stay here, and those that go.
struct Pipes {
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    stdin: Option<StdinWriter>,
    theirs: TheirEnds,
}

/// The command's ends of its pipes.
pub(crate) struct TheirEnds {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Pipes {
    fn new(command: &Command) -> io::Result<Self> {
        let (stdout, their_stdout) = output_pipe()?;
        let (stderr, their_stderr) = output_pipe()?;
        let (stdin, their_stdin) = match command.stdin {
            Stdin::Null => (None, None),
            Stdin::Piped => {
                let (reader, writer) = io::pipe()?;
                let sender = pipe::Sender::from_owned_fd(OwnedFd::from(writer))?;
                (Some(StdinWriter::new(Box::new(sender))), Some(OwnedFd::from(reader)))
            }
        };
        let theirs = TheirEnds { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
        Ok(Self { stdout, stderr, stdin, theirs })
    }
}

fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?, OwnedFd::from(writer)))
}

fn start_directly(command: &Command, pipes: Pipes) -> Result<ExecSession, Error> {
    let Pipes { stdout, stderr, stdin, theirs } = pipes;
    let mut process = tokio::process::Command::from(command.to_std());
    process
        .process_group(0)
        .kill_on_drop(true)
        .stdin(theirs.stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(theirs.stdout)
        .stderr(theirs.stderr);
    let child = process.spawn().map_err(|e| not_started(command, e))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let group = Arc::new(Group(Mutex::new(pid)));
    let end = End::Direct { child, group: group.clone() };
    let source = LocalSource::new(Output::new(stdout, stderr), end);
    Ok(ExecSession::new(Box::new(source), ExecControl::new(group)).with_stdin(stdin))
}

/// A process group, until it has ended: after that its number may belong to somebody else.
struct Group(Mutex<Option<Pid>>);

impl Group {
    fn kill(&self, signal: rustix::process::Signal) -> Result<(), Error> {
        let group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        group.map_or(Ok(()), |pid| kill_group(pid, signal))
    }

    /// Kills what is left of it, and forgets its number.
    fn end(&self) -> Result<(), Error> {
        let mut group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        group.take().map_or(Ok(()), |pid| kill_group(pid, rustix::process::Signal::KILL))
    }
}

pub(crate) fn kill_group(pid: Pid, signal: rustix::process::Signal) -> Result<(), Error> {
    match kill_process_group(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(Error::Lost {
            reason: "its process group could not be signalled".into(),
            source: Some(Box::new(e)),
        }),
    }
}

#[async_trait]
impl SignalTarget for Group {
    async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.kill(signal.to_rustix())
    }
}

impl Signal {
    pub(crate) fn to_rustix(self) -> rustix::process::Signal {
        match self {
            Self::Interrupt => rustix::process::Signal::INT,
            Self::Terminate => rustix::process::Signal::TERM,
            Self::Kill => rustix::process::Signal::KILL,
        }
    }
}

/// Both output pipes, read as they fill. Nothing is read that nobody asked for: the command waits.
struct Output {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    buffer: BytesMut,
    position: Position,
    /// Which stream is looked at first, in turns, so that a chatty one cannot starve the other.
    stderr_first: bool,
}

impl Output {
    fn new(stdout: pipe::Receiver, stderr: pipe::Receiver) -> Self {
        Self {
            stdout: Some(stdout),
            stderr: Some(stderr),
            buffer: BytesMut::new(),
            position: Position::default(),
            // The first look is at stdout.
            stderr_first: true,
        }
    }

    /// The next output; `None` when both streams are closed. Cancel safe.
    async fn next(&mut self) -> Result<Option<ExecEvent>, Error> {
        loop {
            self.stderr_first = !self.stderr_first;
            let (out, err) = (readable(self.stdout.as_ref()), readable(self.stderr.as_ref()));
            let stream = match (&self.stdout, &self.stderr) {
                (None, None) => return Ok(None),
                _ if self.stderr_first => tokio::select! {
                    biased;
                    ready = err => ready.map(|()| OutputStream::Stderr),
                    ready = out => ready.map(|()| OutputStream::Stdout),
                },
                _ => tokio::select! {
                    biased;
                    ready = out => ready.map(|()| OutputStream::Stdout),
                    ready = err => ready.map(|()| OutputStream::Stderr),
                },
            };
            let stream = stream.map_err(lost_pipe)?;
            let pipe = match stream {
                OutputStream::Stdout => &mut self.stdout,
                OutputStream::Stderr => &mut self.stderr,
            };
            let Some(open) = pipe else { continue };
            self.buffer.reserve(CHUNK_BYTES);
            match open.try_read_buf(&mut self.buffer) {
                Ok(0) => *pipe = None,
                Ok(len) => {
                    let bytes = self.buffer.split().freeze();
                    self.position = self.position.after(stream, len);
                    return Ok(Some(ExecEvent::Output { stream, bytes, position: self.position }));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(lost_pipe(e)),
            }
        }
    }

    fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    fn close(&mut self) {
        self.stdout = None;
        self.stderr = None;
    }
}

async fn readable(pipe: Option<&pipe::Receiver>) -> io::Result<()> {
    match pipe {
        Some(pipe) => pipe.readable().await,
        // A closed stream is never ready; the other one decides.
        None => std::future::pending().await,
    }
}

fn lost_pipe(source: io::Error) -> Error {
    Error::Lost { reason: "its output could not be read".into(), source: Some(Box::new(source)) }
}

/// Who knows how the command ended.
enum End {
    Direct { child: tokio::process::Child, group: Arc<Group> },
    Guarded(Guarded),
}

impl End {
    /// How it ended. Cancel safe.
    async fn status(&mut self) -> Result<ExitStatus, Error> {
        match self {
            Self::Direct { child, .. } => exited(child.wait().await),
            Self::Guarded(guarded) => guarded.status().await,
        }
    }

    /// Kills what the command left behind. Cancel safe: called again, it goes on.
    async fn sweep(&mut self) -> Result<(), Error> {
        match self {
            Self::Direct { group, .. } => group.end(),
            Self::Guarded(guarded) => guarded.sweep().await,
        }
    }

    /// Whether a sweep leaves nobody who could hold the pipes.
    fn reaches_everybody(&self) -> bool {
        matches!(self, Self::Guarded(_))
    }
}

struct LocalSource {
    output: Output,
    end: End,
    status: Option<ExitStatus>,
    /// When the output of what is left in the background is given up.
    drain_until: Option<Instant>,
    /// Whether what was left in the background is dead.
    swept: bool,
    done: bool,
}

impl LocalSource {
    fn new(output: Output, end: End) -> Self {
        Self { output, end, status: None, drain_until: None, swept: false, done: false }
    }
}

#[async_trait]
impl SessionSource for LocalSource {
    async fn next(&mut self) -> Result<Option<ExecEvent>, Error> {
        if self.done {
            return Ok(None);
        }
        let status = loop {
            let Some(status) = self.status else {
                // Output and exit are awaited together: a background process may hold the pipes
                // open after the command's end, and a command may close them before it.
                tokio::select! {
                    biased;
                    event = self.output.next(), if self.output.is_open() => {
                        if let Some(event) = event? {
                            return Ok(Some(event));
                        }
                    }
                    status = self.end.status() => {
                        self.status = Some(status?);
                        self.drain_until = Some(Instant::now() + DRAIN);
                    }
                }
                continue;
            };
            let in_time = self.drain_until.filter(|until| Instant::now() < *until);
            let drained = match in_time {
                Some(until) => tokio::time::timeout_at(until, self.output.next()).await,
                // Everybody who could write is dead, and what is still in the pipes is read at once; but
                // for a process that could not be killed, which is not waited for.
                None if self.swept && self.end.reaches_everybody() => {
                    let next = tokio::time::timeout(GLANCE, self.output.next()).await;
                    Ok(next.unwrap_or(Ok(None)))
                }
                None => Ok(Ok(None)),
            };
            match drained {
                Ok(event) => {
                    if let Some(event) = event? {
                        return Ok(Some(event));
                    }
                }
                Err(_) => continue,
            }
            if self.swept {
                break status;
            }
            self.end.sweep().await?;
            self.swept = true;
            self.drain_until = None;
        };
        self.output.close();
        self.done = true;
        Ok(Some(ExecEvent::Exited(status)))
    }
}

impl Drop for LocalSource {
    fn drop(&mut self) {
        // A guardian sees its end of the socket close, and kills.
        if let End::Direct { group, .. } = &self.end {
            let _ = group.end();
        }
    }
}

fn exited(waited: io::Result<std::process::ExitStatus>) -> Result<ExitStatus, Error> {
    let status = waited.map_err(|e| Error::Lost {
        reason: "waiting for it failed".into(),
        source: Some(Box::new(e)),
    })?;
    to_status(status)
        .ok_or_else(|| Error::Lost { reason: format!("it ended as {status}"), source: None })
}

pub(crate) fn to_status(status: std::process::ExitStatus) -> Option<ExitStatus> {
    status.code().map(ExitStatus::Code).or_else(|| status.signal().map(ExitStatus::Signal))
}
