//! The record of who touched what: its contract, and one in memory.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use danube_core::{Audit, AuditError, AuditEvent, ErrorClass, MAX_AUDIT_OBJECT_BYTES, Timestamp};

use crate::Error;

/// Events that a record keeps; with each new one beyond them the oldest goes.
pub const MAX_AUDIT_EVENTS: u64 = 100_000;

/// Events in one list at most.
pub const MAX_EVENTS_PER_LIST: u32 = 1_000;

/// An event as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its place in the record: 1 for the first, and one more for each that follows.
    pub number: u64,
    /// What happened; its time is cut to the millisecond.
    pub event: AuditEvent,
}

/// Which events to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditQuery {
    /// Only those before this number: the last of the page before.
    pub before: Option<u64>,
    /// How many at most: 1 to [`MAX_EVENTS_PER_LIST`], 50 unless told.
    pub limit: u32,
}

impl Default for AuditQuery {
    fn default() -> Self {
        Self { before: None, limit: 50 }
    }
}

impl AuditQuery {
    /// The same, of the events before this number.
    #[must_use]
    pub fn with_before(mut self, number: u64) -> Self {
        self.before = Some(number);
        self
    }

    /// The same, with so many at most.
    #[must_use]
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit.clamp(1, MAX_EVENTS_PER_LIST);
        self
    }
}

/// An [`Audit`] that can be read: the newest [`MAX_AUDIT_EVENTS`] events in the order in which they were
/// recorded, each under its number, unchanged for ever.
#[async_trait]
pub trait AuditLog: Audit {
    /// The newest events first.
    ///
    /// # Errors
    ///
    /// What the backend says.
    async fn events(&self, query: &AuditQuery) -> Result<Vec<AuditRecord>, Error>;
}

#[async_trait]
impl<T: AuditLog + ?Sized> AuditLog for Arc<T> {
    async fn events(&self, query: &AuditQuery) -> Result<Vec<AuditRecord>, Error> {
        (**self).events(query).await
    }
}

/// What every backend checks and cuts before it records an event.
pub(crate) fn admit(event: &AuditEvent, log: &dyn fmt::Display) -> Result<AuditEvent, AuditError> {
    if event.object.len() > MAX_AUDIT_OBJECT_BYTES {
        let source = format!("its object is longer than {MAX_AUDIT_OBJECT_BYTES} bytes").into();
        return Err(AuditError { log: log.to_string(), class: ErrorClass::Invalid, source });
    }
    let at = Timestamp::from_millisecond(event.at.as_millisecond());
    Ok(AuditEvent { at: at.unwrap_or(event.at), ..event.clone() })
}

/// An [`AuditLog`] in memory. Clones share their events; nothing survives the process.
#[derive(Clone, Default)]
pub struct MemoryAudit(Arc<Mutex<VecDeque<AuditRecord>>>);

impl MemoryAudit {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<AuditRecord>> {
        // Nothing panics between two changes of one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryAudit").field("events", &self.kept().len()).finish()
    }
}

impl fmt::Display for MemoryAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record in memory")
    }
}

#[async_trait]
impl Audit for MemoryAudit {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        let event = admit(event, self)?;
        let mut events = self.kept();
        let number = events.back().map_or(1, |last| last.number + 1);
        if events.len() as u64 >= MAX_AUDIT_EVENTS {
            events.pop_front();
        }
        events.push_back(AuditRecord { number, event });
        Ok(())
    }
}

#[async_trait]
impl AuditLog for MemoryAudit {
    async fn events(&self, query: &AuditQuery) -> Result<Vec<AuditRecord>, Error> {
        let events = self.kept();
        let wanted = events.iter().rev().filter(|e| query.before.is_none_or(|b| e.number < b));
        Ok(wanted.take(query.limit.clamp(1, MAX_EVENTS_PER_LIST) as usize).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::audit_log_conformance!(memory_audit, (MemoryAudit::new(), ()));
}
