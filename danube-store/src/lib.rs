#![doc = include_str!("../README.md")]

mod audit;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod fault;
mod jobs;
mod memory;
mod open;
mod record;
mod rules;
mod schema;
mod sql;
mod store;

pub use audit::{
    AuditLog, AuditQuery, AuditRecord, MAX_AUDIT_EVENTS, MAX_EVENTS_PER_LIST, MemoryAudit,
};
pub use error::Error;
pub use jobs::{
    JobCursor, JobQuery, JobStore, JobStoreExt, JobTally, MAX_JOBS_PER_LIST, MIN_TYPED_CHARS,
};
pub use memory::MemoryJobs;
pub use record::{
    JobRecord, LogFacts, MAX_NAME_BYTES, MAX_STEPS, MAX_TEXT_BYTES, MAX_WORK_DIR_BYTES, StepRecord,
    Transition,
};
pub use schema::Migrated;
pub use store::{Store, StoreOptions};
