#![doc = include_str!("../README.md")]

mod audit;
mod class;
mod clock;
mod digest;
pub mod files;
mod filter;
mod id;
mod range;
mod secret;
mod state;
mod sweep;

pub use audit::{
    Audit, AuditAction, AuditActor, AuditError, AuditEvent, AuditOutcome, MAX_AUDIT_OBJECT_BYTES,
    NoAudit, UnknownAudit,
};
pub use class::ErrorClass;
pub use clock::{Clock, ManualClock, SystemClock};
pub use digest::Sha256Digest;
pub use filter::{Passthrough, StreamFilter};
pub use id::{ArtifactName, InvalidName, JobId, StepName};
/// A point in time, as every crate of Danube records it.
pub use jiff::Timestamp;
pub use range::ByteRange;
pub use secret::SecretBytes;
pub use state::{JobState, LostReason, OutputStream, UnknownState};
pub use sweep::{Candidate, CandidateKind, Pin, Reaped, Sweep, SweepError};

/// An error of somebody else's, kept as a cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
