//! What is to be run.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use danube_core::SecretBytes;

use crate::Error;

/// A command: program, arguments, environment, work directory, standard input.
///
/// The environment is exactly what is given here; nothing is inherited. `PATH` in it is where
/// `program` is looked for. Values are treated as secrets: `Debug` shows names only.
#[derive(Clone)]
#[non_exhaustive]
pub struct Command {
    /// The program: a path, or a name to be looked for along `PATH`.
    pub program: OsString,
    /// Its arguments, without the program itself.
    pub args: Vec<OsString>,
    /// Environment variables in order; the last of one name holds.
    pub env: Vec<(String, SecretBytes)>,
    /// Where it runs; `None` leaves that to the executor.
    pub current_dir: Option<PathBuf>,
    /// What it reads.
    pub stdin: Stdin,
}

/// What a command reads from its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe, whose writing end is [`ExecSession::take_stdin`](crate::ExecSession::take_stdin).
    Piped,
}

impl Command {
    /// `program` with no arguments, an empty environment and no input.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
            stdin: Stdin::Null,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn with_args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<SecretBytes>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the work directory.
    #[must_use]
    pub fn with_current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Sets what it reads.
    #[must_use]
    pub fn with_stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }
}

impl Command {
    /// What the system would refuse in words that tell nobody anything.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let invalid = |reason: String| Err(Error::Invalid { reason });
        if self.program.is_empty() {
            return invalid("the program has no name".into());
        }
        let has_nul = |bytes: &[u8]| bytes.contains(&0);
        if has_nul(self.program.as_bytes()) {
            return invalid("the program's name contains a NUL byte".into());
        }
        if let Some(at) = self.args.iter().position(|arg| has_nul(arg.as_bytes())) {
            return invalid(format!("argument {} contains a NUL byte", at + 1));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return invalid(format!("{name:?} is no name for an environment variable"));
            }
            if has_nul(value.expose()) {
                return invalid(format!("the environment variable {name} contains a NUL byte"));
            }
        }
        Ok(())
    }

    /// The standard library's form of it, without its streams.
    pub(crate) fn to_std(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).env_clear();
        for (name, value) in &self.env {
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        if let Some(dir) = &self.current_dir {
            command.current_dir(dir);
        }
        command
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &names)
            .field("current_dir", &self.current_dir)
            .field("stdin", &self.stdin)
            .finish()
    }
}
