//! The contract: start a command, stream what it writes, tell how it ended.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Command, Error, ExecSession, Position};

/// Something that runs commands.
///
/// Laws (each a test of [`conformance`](crate::conformance)):
///
/// * **Complete.** Every byte the command writes to a stream before it closes it arrives, in that
///   stream's order. Nothing is said about the order between the two streams beyond arrival.
/// * **Counted.** Every output event carries the running byte counts of both streams after it.
/// * **Honest.** A session ends with exactly one [`ExecEvent::Exited`](crate::ExecEvent), after all
///   output, or with an error. A lost connection is [`Error::Lost`], never an exit code.
/// * **Backpressure.** A session nobody reads from holds a bounded number of bytes; the command
///   then waits in `write`.
/// * **Ended by drop.** Dropping a session whose command still runs kills it, where the executor
///   is not `attach`able; see [`Capabilities`].
/// * **Signals reach the group.** [`ExecControl`](crate::ExecControl) addresses the command and what it started.
#[async_trait]
pub trait Executor: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// What this executor can do beyond starting a command.
    fn capabilities(&self) -> Capabilities;

    /// Starts a command. When this returns, the program runs (it was found and executed).
    ///
    /// Cancel safety: a dropped `start` leaves no command running.
    ///
    /// # Errors
    ///
    /// [`Error::NotStarted`], [`Error::Invalid`], [`Error::Lost`].
    async fn start(&self, command: Command) -> Result<ExecSession, Error>;

    /// Attaches to a command started earlier, by whomever, and goes on at a position that an
    /// earlier session's event carried: bytes before it do not come again.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] unless [`Capabilities::attach`]; [`Error::NotFound`]; [`Error::Lost`].
    async fn attach(&self, handle: &ExecHandle, from: Position) -> Result<ExecSession, Error>;
}

#[async_trait]
impl<T: Executor + ?Sized> Executor for Arc<T> {
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn start(&self, command: Command) -> Result<ExecSession, Error> {
        (**self).start(command).await
    }

    async fn attach(&self, handle: &ExecHandle, from: Position) -> Result<ExecSession, Error> {
        (**self).attach(handle, from).await
    }
}

/// What an executor can do. What is not declared here gives [`Error::Unsupported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Sessions have a durable handle, and [`Executor::attach`] works.
    pub attach: bool,
    /// When the process that started it dies, even by `kill -9`, the command dies with everything
    /// it started, double-forked processes included.
    pub dies_with_owner: bool,
}

impl Capabilities {
    /// Declares [`attach`](Self::attach).
    #[must_use]
    pub fn with_attach(mut self, attach: bool) -> Self {
        self.attach = attach;
        self
    }

    /// Declares [`dies_with_owner`](Self::dies_with_owner).
    #[must_use]
    pub fn with_dies_with_owner(mut self, dies: bool) -> Self {
        self.dies_with_owner = dies;
        self
    }
}

/// The durable name of a started command: what to store in order to [`attach`](Executor::attach)
/// later, from another process too. Its text is the executor's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExecHandle(pub String);
