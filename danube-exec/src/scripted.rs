//! An executor whose commands do what a script says: for tests of whoever consumes sessions.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use danube_core::OutputStream;
use tokio::sync::{Notify, watch};

use crate::session::{SessionSource, Signal, SignalTarget};
use crate::{
    Capabilities, Command, Error, ExecControl, ExecEvent, ExecHandle, ExecSession, Executor,
    ExitStatus, Position,
};

/// What one command does.
#[derive(Debug, Clone, Default)]
pub struct Script {
    acts: Vec<Act>,
    end: ScriptEnd,
    deaf: bool,
}

#[derive(Debug, Clone)]
enum Act {
    Output(OutputStream, Bytes),
    Wait(Arc<Notify>),
    UntilSignalled,
}

#[derive(Debug, Clone)]
enum ScriptEnd {
    Exit(ExitStatus),
    Lost,
    NotStarted,
}

impl Default for ScriptEnd {
    fn default() -> Self {
        Self::Exit(ExitStatus::Code(0))
    }
}

impl Script {
    /// A command that exits with 0 at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes to standard output.
    #[must_use]
    pub fn stdout(self, bytes: impl Into<Bytes>) -> Self {
        self.act(Act::Output(OutputStream::Stdout, bytes.into()))
    }

    /// Writes to standard error.
    #[must_use]
    pub fn stderr(self, bytes: impl Into<Bytes>) -> Self {
        self.act(Act::Output(OutputStream::Stderr, bytes.into()))
    }

    /// Waits until somebody calls `notify_one` on the gate.
    #[must_use]
    pub fn wait_for(self, gate: Arc<Notify>) -> Self {
        self.act(Act::Wait(gate))
    }

    /// Runs until a signal ends it.
    #[must_use]
    pub fn until_signalled(self) -> Self {
        self.act(Act::UntilSignalled)
    }

    /// Ignores everything but [`Signal::Kill`].
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.deaf = true;
        self
    }

    /// Ends with this exit code.
    #[must_use]
    pub fn exit(mut self, code: i32) -> Self {
        self.end = ScriptEnd::Exit(ExitStatus::Code(code));
        self
    }

    /// Ends as if the connection broke: nobody knows how.
    #[must_use]
    pub fn lose(mut self) -> Self {
        self.end = ScriptEnd::Lost;
        self
    }

    /// Cannot be started.
    #[must_use]
    pub fn not_started(mut self) -> Self {
        self.end = ScriptEnd::NotStarted;
        self
    }

    fn act(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }
}

/// Runs scripts in the order they were given, one for each start, and remembers what was asked of
/// it. Clones share both. It can [`attach`](Executor::attach).
#[derive(Debug, Clone, Default)]
pub struct Scripted(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    scripts: VecDeque<Script>,
    started: Vec<(Command, Script, Arc<Heard>)>,
}

impl Scripted {
    /// An executor for these scripts; one start more is [`Error::NotStarted`].
    #[must_use]
    pub fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let scripts = scripts.into_iter().collect();
        Self(Arc::new(Mutex::new(State { scripts, started: Vec::new() })))
    }

    /// The commands started so far.
    #[must_use]
    pub fn started(&self) -> Vec<Command> {
        self.state(|state| state.started.iter().map(|(command, ..)| command.clone()).collect())
    }

    /// The signals sent so far, over all commands in the order of their start.
    #[must_use]
    pub fn signals(&self) -> Vec<Signal> {
        self.state(|state| {
            state.started.iter().flat_map(|(.., heard)| heard.0.borrow().clone()).collect()
        })
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn session(&self, number: usize, from: Position) -> Option<ExecSession> {
        self.state(|state| {
            let (_, script, heard) = state.started.get(number)?;
            let source = Player {
                script: script.clone(),
                heard: heard.clone(),
                next: 0,
                position: Position::default(),
                from,
                done: false,
            };
            let control = ExecControl::new(heard.clone());
            let handle = ExecHandle(number.to_string());
            Some(ExecSession::new(Box::new(source), control).with_handle(handle))
        })
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted commands")
    }
}

#[async_trait]
impl Executor for Scripted {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_attach(true)
    }

    async fn start(&self, command: Command) -> Result<ExecSession, Error> {
        command.check()?;
        let program = command.program.to_string_lossy().into_owned();
        let number = self.state(|state| {
            let script = state.scripts.pop_front()?;
            if matches!(script.end, ScriptEnd::NotStarted) {
                return None;
            }
            let heard = Arc::new(Heard(watch::Sender::new(Vec::new())));
            state.started.push((command, script, heard));
            let number = state.started.len() - 1;
            Some(number)
        });
        number.and_then(|number| self.session(number, Position::default())).ok_or_else(|| {
            Error::NotStarted { program, source: std::io::ErrorKind::NotFound.into() }
        })
    }

    async fn attach(&self, handle: &ExecHandle, from: Position) -> Result<ExecSession, Error> {
        let number = handle.0.parse().ok();
        number
            .and_then(|number| self.session(number, from))
            .ok_or_else(|| Error::NotFound { handle: handle.0.clone() })
    }
}

/// The signals one command was sent.
#[derive(Debug)]
struct Heard(watch::Sender<Vec<Signal>>);

#[async_trait]
impl SignalTarget for Heard {
    async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.0.send_modify(|heard| heard.push(signal));
        Ok(())
    }
}

struct Player {
    script: Script,
    heard: Arc<Heard>,
    next: usize,
    position: Position,
    from: Position,
    done: bool,
}

impl Player {
    /// The signal that ends it, if one has come.
    fn ended_by(&self) -> Option<Signal> {
        let ends = |signal: &Signal| !self.script.deaf || *signal == Signal::Kill;
        self.heard.0.borrow().iter().copied().find(ends)
    }

    async fn signalled(&self) -> Signal {
        let mut heard = self.heard.0.subscribe();
        loop {
            if let Some(signal) = self.ended_by() {
                return signal;
            }
            // The sender lives in `self`, so this only returns when something was sent.
            let _ = heard.changed().await;
        }
    }
}

#[async_trait]
impl SessionSource for Player {
    async fn next(&mut self) -> Result<Option<ExecEvent>, Error> {
        while !self.done {
            if let Some(signal) = self.ended_by() {
                self.done = true;
                let number = signal.to_rustix().as_raw();
                return Ok(Some(ExecEvent::Exited(ExitStatus::Signal(number))));
            }
            let Some(act) = self.script.acts.get(self.next).cloned() else {
                self.done = true;
                return match &self.script.end {
                    ScriptEnd::Exit(status) => Ok(Some(ExecEvent::Exited(*status))),
                    _ => Err(Error::Lost { reason: "the script says so".into(), source: None }),
                };
            };
            match act {
                Act::Output(stream, mut bytes) => {
                    self.next += 1;
                    let before = self.position;
                    self.position = before.after(stream, bytes.len());
                    let (start, from) = match stream {
                        OutputStream::Stdout => (before.stdout_bytes, self.from.stdout_bytes),
                        OutputStream::Stderr => (before.stderr_bytes, self.from.stderr_bytes),
                    };
                    // What an earlier session has told is not told again.
                    let skip = from.saturating_sub(start).min(bytes.len() as u64);
                    let bytes = bytes.split_off(usize::try_from(skip).unwrap_or(usize::MAX));
                    if !bytes.is_empty() {
                        return Ok(Some(ExecEvent::Output {
                            stream,
                            bytes,
                            position: self.position,
                        }));
                    }
                }
                Act::Wait(gate) => {
                    tokio::select! {
                        () = gate.notified() => self.next += 1,
                        _ = self.signalled() => {}
                    }
                }
                Act::UntilSignalled => {
                    self.signalled().await;
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
