#![doc = include_str!("../README.md")]

mod command;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod executor;
mod guardian;
mod local;
mod scripted;
mod session;

pub use command::{Command, Stdin};
pub use error::Error;
pub use executor::{Capabilities, ExecHandle, Executor};
pub use guardian::{Guardian, guardian};
pub use local::LocalProcesses;
pub use scripted::{Script, Scripted};
pub use session::{
    ExecControl, ExecEvent, ExecSession, ExitStatus, Position, SessionSource, Signal, SignalTarget,
    StdinWriter,
};
