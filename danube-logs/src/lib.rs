#![doc = include_str!("../README.md")]

mod blocks;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod follow;
mod fs;
mod index;
mod line;
mod memory;
pub mod search;
pub mod sse;
mod store;
mod sweep;
mod terminal;
pub mod views;
mod writer;

pub use error::Error;
pub use follow::{FollowEvent, Follower};
pub use fs::{FsLogs, LogText};
pub use index::{Landmark, LineIndex, Sought};
pub use line::{Line, LineFormat, LineSource, MAX_LINE_BYTES, parse_line};
pub use memory::MemoryLogs;
pub use search::search;
pub use store::{
    Fold, LogPhase, LogStat, LogState, LogStore, LogStoreExt, LogTail, MAX_READ_BYTES, StepRange,
};
pub use sweep::LogSweep;
pub use terminal::terminal_safe;
pub use writer::{
    DEFAULT_MAX_LOG_BYTES, Durability, Keep, LogOptions, LogWriter, MAX_TAIL_BYTES, SealedLog,
    StepWriter,
};
