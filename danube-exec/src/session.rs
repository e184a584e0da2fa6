//! A running command, as the one who started it sees it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::OutputStream;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::{Error, ExecHandle};

/// How many bytes of each stream have been seen: one resume position over both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Bytes of standard output.
    pub stdout_bytes: u64,
    /// Bytes of standard error.
    pub stderr_bytes: u64,
}

impl Position {
    /// The position after `len` more bytes of `stream`.
    #[must_use]
    pub fn after(mut self, stream: OutputStream, len: usize) -> Self {
        match stream {
            OutputStream::Stdout => self.stdout_bytes += len as u64,
            OutputStream::Stderr => self.stderr_bytes += len as u64,
        }
        self
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// What a session tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// The command wrote something.
    Output {
        /// To which stream.
        stream: OutputStream,
        /// What, never empty, at most 64 KiB.
        bytes: Bytes,
        /// Where both streams stand after it.
        position: Position,
    },
    /// It ended, and all its output has been told.
    Exited(ExitStatus),
}

/// A signal to a running command and what it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Signal {
    /// `SIGINT` to the process group.
    Interrupt,
    /// `SIGTERM` to the process group.
    Terminate,
    /// `SIGKILL` to the process group, and to every descendant where the executor
    /// [`dies_with_owner`](crate::Capabilities::dies_with_owner).
    Kill,
}

/// What a backend implements to make a session: the events in order.
#[async_trait]
pub trait SessionSource: Send {
    /// The next event; `None` after the exit was told.
    ///
    /// Cancel safety: a dropped call loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] when nobody will ever know how the command ended.
    async fn next(&mut self) -> Result<Option<ExecEvent>, Error>;
}

/// What a backend implements to be signalled.
#[async_trait]
pub trait SignalTarget: Send + Sync {
    /// Sends a signal; after the command's end it does nothing and is `Ok`.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] when the signal could not be delivered.
    async fn signal(&self, signal: Signal) -> Result<(), Error>;
}

/// A running command. What dropping it means its backend says: see the laws of
/// [`Executor`](crate::Executor).
pub struct ExecSession {
    source: Box<dyn SessionSource>,
    end: End,
    control: ExecControl,
    stdin: Option<StdinWriter>,
    handle: Option<ExecHandle>,
}

impl ExecSession {
    /// A session over a backend's parts.
    #[must_use]
    pub fn new(source: Box<dyn SessionSource>, control: ExecControl) -> Self {
        Self { source, end: End::NotYet, control, stdin: None, handle: None }
    }

    /// Adds the writing end of the command's standard input.
    #[must_use]
    pub fn with_stdin(mut self, stdin: Option<StdinWriter>) -> Self {
        self.stdin = stdin;
        self
    }

    /// Adds the durable handle to attach by.
    #[must_use]
    pub fn with_handle(mut self, handle: ExecHandle) -> Self {
        self.handle = Some(handle);
        self
    }

    /// The next event: output as it comes, then the exit once, then `None`.
    ///
    /// Cancel safety: a dropped call loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`]: there is no exit status, and there will be none.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, Error> {
        match self.end {
            End::NotYet => {}
            End::Exited => return Ok(None),
            End::Lost => return Err(lost("it was lost before")),
        }
        let event = self.source.next().await;
        match &event {
            Ok(Some(ExecEvent::Output { .. })) => {}
            Ok(Some(ExecEvent::Exited(_))) => self.end = End::Exited,
            // However a backend is broken, silence is no success.
            Ok(None) => {
                self.end = End::Lost;
                return Err(lost("its output ended without an exit status"));
            }
            Err(_) => self.end = End::Lost,
        }
        event
    }

    /// A way to signal the command while somebody else awaits its events.
    #[must_use]
    pub fn control(&self) -> ExecControl {
        self.control.clone()
    }

    /// The writing end of its standard input, once, where [`Stdin::Piped`](crate::Stdin::Piped) was asked for.
    pub fn take_stdin(&mut self) -> Option<StdinWriter> {
        self.stdin.take()
    }

    /// Its durable name, where the executor can [`attach`](crate::Executor::attach).
    #[must_use]
    pub fn handle(&self) -> Option<&ExecHandle> {
        self.handle.as_ref()
    }
}

/// What a session has told of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Exited,
    Lost,
}

fn lost(reason: &str) -> Error {
    Error::Lost { reason: reason.into(), source: None }
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// Signals a running command. Clones address the same command.
#[derive(Clone)]
pub struct ExecControl(Arc<dyn SignalTarget>);

impl ExecControl {
    /// A control over a backend's target.
    #[must_use]
    pub fn new(target: Arc<dyn SignalTarget>) -> Self {
        Self(target)
    }

    /// Sends a signal to the command and what it started.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`] when it could not be delivered.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.0.signal(signal).await
    }
}

impl fmt::Debug for ExecControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecControl")
    }
}

/// The writing end of a command's standard input. Dropping it closes it.
pub struct StdinWriter(Box<dyn AsyncWrite + Send + Unpin>);

impl StdinWriter {
    /// Writes to whatever a backend's command reads from.
    #[must_use]
    pub fn new(writer: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self(writer)
    }

    /// Writes all of `bytes`, waiting while the command does not read.
    ///
    /// Cancel safety: a dropped call may have written a part.
    ///
    /// # Errors
    ///
    /// [`std::io::ErrorKind::BrokenPipe`] when the command closed its end.
    pub async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }
}

impl fmt::Debug for StdinWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StdinWriter")
    }
}
