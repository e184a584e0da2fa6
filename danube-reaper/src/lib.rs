#![doc = include_str!("../README.md")]

mod error;
mod plan;
mod reaper;
mod report;
mod retention;

pub use error::Error;
pub use plan::{KeepReason, Plan, plan};
pub use reaper::{CLOCK_TOLERANCE, Reaper};
pub use report::{Report, Sweeps, execute};
pub use retention::Retention;
