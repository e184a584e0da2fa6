//! Who touched what, as rows.

use async_trait::async_trait;
use danube_core::{Audit, AuditError, AuditEvent, BoxError, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Row, params};

use super::Store;
use super::jobs::parsed;
use crate::audit::{
    self, AuditLog, AuditQuery, AuditRecord, MAX_AUDIT_EVENTS, MAX_EVENTS_PER_LIST,
};
use crate::{Error, sql};

#[async_trait]
impl Audit for Store {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        let AuditEvent { at, actor, action, object, outcome } = audit::admit(event, self)?;
        self.write("record who touched what", move |transaction| {
            transaction.prepare_cached(sql::RECORD_EVENT)?.execute(params![
                at.as_millisecond(),
                actor.to_string(),
                action.as_str(),
                object,
                outcome.as_str(),
            ])?;
            let kept = MAX_AUDIT_EVENTS.cast_signed();
            transaction.prepare_cached(sql::DROP_OLD_EVENTS)?.execute([kept])?;
            Ok(())
        })
        .await
        .map_err(|error| AuditError {
            log: self.to_string(),
            class: error.class(),
            source: error.into(),
        })
    }
}

#[async_trait]
impl AuditLog for Store {
    async fn events(&self, query: &AuditQuery) -> Result<Vec<AuditRecord>, Error> {
        let before = query.before.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX));
        let limit = query.limit.clamp(1, MAX_EVENTS_PER_LIST);
        self.read("list who touched what", move |transaction| {
            let mut list = transaction.prepare_cached(sql::LIST_EVENTS)?;
            let events = list.query_map(params![before, limit], record_from_row)?;
            Ok(events.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn record_from_row(row: &Row<'_>) -> rusqlite::Result<AuditRecord> {
    let at = Timestamp::from_millisecond(row.get(1)?).map_err(|error| {
        let error: BoxError = error.into();
        rusqlite::Error::FromSqlConversionFailure(1, Type::Integer, error)
    })?;
    Ok(AuditRecord {
        number: row.get::<_, i64>(0)?.cast_unsigned(),
        event: AuditEvent {
            at,
            actor: parsed(row, 2)?,
            action: parsed(row, 3)?,
            object: row.get(4)?,
            outcome: parsed(row, 5)?,
        },
    })
}
