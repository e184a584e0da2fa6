//! The seam between what is touched and who keeps the record of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{BoxError, ErrorClass, JobId};

/// Bytes of the longest [`AuditEvent::object`].
pub const MAX_AUDIT_OBJECT_BYTES: usize = 512;

/// Who did something. As text `job/<id>`, `user/<number>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditActor {
    /// A job, while it ran.
    Job(JobId),
    /// A user of this machine, by number: names can be given to somebody else.
    User(u32),
}

impl fmt::Display for AuditActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(id) => f.pad(&format!("job/{id}")),
            Self::User(number) => f.pad(&format!("user/{number}")),
        }
    }
}

/// Text that names no actor, action or outcome that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what} of an audit event that is known here")]
pub struct UnknownAudit {
    what: &'static str,
    text: String,
}

impl UnknownAudit {
    fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.chars().take(80).collect() }
    }
}

impl FromStr for AuditActor {
    type Err = UnknownAudit;

    fn from_str(text: &str) -> Result<Self, UnknownAudit> {
        let actor = match text.split_once('/') {
            Some(("job", id)) => id.parse().ok().map(Self::Job),
            Some(("user", number)) => number.parse().ok().map(Self::User),
            _ => None,
        };
        actor.ok_or_else(|| UnknownAudit::new("actor", text))
    }
}

macro_rules! audit_words {
    ($(#[$doc:meta])+ $type:ident, $what:literal: $($(#[$of:meta])+ $variant:ident = $text:literal,)+) => {
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $type {
            $($(#[$of])+ $variant,)+
        }

        impl $type {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in records.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownAudit;

            fn from_str(text: &str) -> Result<Self, UnknownAudit> {
                let known = Self::ALL.iter().find(|word| word.as_str() == text).copied();
                known.ok_or_else(|| UnknownAudit::new($what, text))
            }
        }
    };
}

audit_words! {
    /// What was done.
    AuditAction, "action":
    /// A secret was opened for a job.
    SecretLoaded = "secret.loaded",
    /// A job was given a secret that had been opened for it.
    SecretRead = "secret.read",
    /// A secret was stored, or replaced.
    SecretSet = "secret.set",
    /// A secret was deleted.
    SecretDeleted = "secret.deleted",
    /// Every secret was sealed again, with a new key.
    SecretsRotated = "secrets.rotated",
}

audit_words! {
    /// Whether it was done.
    AuditOutcome, "outcome":
    /// It was let happen.
    Done = "done",
    /// It was tried and did not happen: there is no such thing, it is somebody else's, it failed.
    Refused = "refused",
}

/// One thing that somebody did, or tried to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: AuditActor,
    /// What.
    pub action: AuditAction,
    /// To what: a name such as `pipeline/nightly/API_TOKEN`, never a value. At most
    /// [`MAX_AUDIT_OBJECT_BYTES`].
    pub object: String,
    /// Whether it was done.
    pub outcome: AuditOutcome,
}

/// An event could not be recorded.
#[derive(Debug, thiserror::Error)]
#[error("{log} could not record who touched what")]
pub struct AuditError {
    /// The record, as it displays itself.
    pub log: String,
    /// What a caller can do about it.
    pub class: ErrorClass,
    /// The cause.
    pub source: BoxError,
}

/// Something that records who touched what.
///
/// * An event that was recorded is there for whoever reads the record later, in the order in which the
///   calls returned, and nothing changes it again.
/// * An event is recorded before the thing is done, and whoever is told that recording failed does not do
///   it. If the thing then fails, a second event says that it was refused.
/// * Cancel safety: a dropped `record` may or may not have happened, whole.
#[async_trait]
pub trait Audit: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Records one event.
    ///
    /// # Errors
    ///
    /// [`AuditError`], also for an object that is longer than [`MAX_AUDIT_OBJECT_BYTES`]
    /// ([`ErrorClass::Invalid`]).
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError>;
}

#[async_trait]
impl<T: Audit + ?Sized> Audit for Arc<T> {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        (**self).record(event).await
    }
}

/// Records nothing: for tools that answer to nobody, and for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAudit;

impl fmt::Display for NoAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no record")
    }
}

#[async_trait]
impl Audit for NoAudit {
    async fn record(&self, _: &AuditEvent) -> Result<(), AuditError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_and_actions_are_read_back_from_their_text() {
        for actor in [AuditActor::Job("nightly-1".parse().unwrap()), AuditActor::User(1000)] {
            assert_eq!(actor.to_string().parse::<AuditActor>().unwrap(), actor);
        }
        for action in AuditAction::ALL {
            assert_eq!(action.as_str().parse::<AuditAction>().unwrap(), *action);
        }
        for outcome in AuditOutcome::ALL {
            assert_eq!(outcome.as_str().parse::<AuditOutcome>().unwrap(), *outcome);
        }
        for unknown in ["", "job", "job/", "job/a b", "user/x", "user/-1", "root"] {
            assert!(unknown.parse::<AuditActor>().is_err(), "{unknown:?}");
        }
        let error = "secret.eaten".parse::<AuditAction>().unwrap_err();
        assert!(error.to_string().starts_with("\"secret.eaten\" is no action"), "{error}");
    }
}
