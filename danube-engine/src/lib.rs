#![doc = include_str!("../README.md")]

mod address;
mod collect;
mod duration;
mod error;
#[cfg(test)]
mod fixture;
mod job_file;
mod outcome;
mod recover;
mod retry;
mod runner;
mod source;
mod spec;
mod sweep;
mod yaml;

pub use collect::{Collect, CollectWhen};
pub use duration::parse_duration;
pub use error::Error;
pub use job_file::JobFile;
pub use outcome::Outcome;
pub use recover::{recover, seal_abandoned};
pub use runner::{Cancel, JobRunner, Parts, Progress, RunnerOptions};
pub use source::{Checkout, SourceError};
pub use spec::{
    JOB_ID_VARIABLE, JobSpec, MAX_NAME_CHARS, MAX_RETENTION_DAYS, STEP_VARIABLE, StepCommand,
    StepSpec,
};
pub use sweep::JobSweep;
