//! The versions of the schema: what a database has, and how it gets to what is known here.

use std::path::Path;

use danube_core::Timestamp;
use refinery::{Migration, Runner};
use rusqlite::{Connection, TransactionBehavior};

use crate::fault::Kind;
use crate::{Error, StoreOptions, sql};

/// The steps of the schema in their order. A step that was released is never changed: the checksum of
/// what was applied is recorded in the database and compared.
pub(crate) const STEPS: [(&str, &str); 5] = [
    ("V1__jobs", include_str!("../migrations/V1__jobs.sql")),
    ("V2__artifacts", include_str!("../migrations/V2__artifacts.sql")),
    ("V3__secrets", include_str!("../migrations/V3__secrets.sql")),
    ("V4__audit", include_str!("../migrations/V4__audit.sql")),
    ("V5__artifact_ids", include_str!("../migrations/V5__artifact_ids.sql")),
];

/// The newest version of the schema that is known here.
pub(crate) const KNOWN: u32 = STEPS.len() as u32;

/// What opening a database did to its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// The version that was found; 0 is a new database.
    pub from: u32,
    /// The version it has now.
    pub to: u32,
}

pub(crate) fn migrations() -> Vec<Migration> {
    STEPS
        .iter()
        .map(|(name, text)| Migration::unapplied(name, text).expect("the names of steps are legal"))
        .collect()
}

/// The version that the database has, 0 for a new one. Writes nothing.
pub(crate) fn inspect(
    connection: &Connection,
    path: &Path,
    options: &StoreOptions,
) -> Result<u32, Error> {
    let failed = |error: rusqlite::Error| {
        let kind = Kind::of(&error);
        kind.explain(path, options.busy_timeout, "read the schema version", error.into())
    };
    let foreign = |reason: String| Error::Foreign { path: path.to_owned(), reason };

    // One transaction: another process may be migrating between two statements.
    let snapshot = connection.unchecked_transaction().map_err(failed)?;
    let tables: Vec<String> = snapshot
        .prepare(sql::TABLES)
        .and_then(|mut query| query.query_map([], |row| row.get(0))?.collect())
        .map_err(failed)?;
    if !tables.iter().any(|table| table == "refinery_schema_history") {
        return match tables.first() {
            None => Ok(0),
            Some(table) => Err(foreign(format!("it has a table {table:?} and no schema history"))),
        };
    }
    // A history without the columns of ours fails as a statement, not as a file.
    let unread = |error: rusqlite::Error| match Kind::of(&error) {
        Kind::Other => foreign(format!("its schema history cannot be read ({error})")),
        _ => failed(error),
    };
    type Row = (i64, String, String, String);
    let history: Vec<Row> = snapshot
        .prepare(sql::SCHEMA_HISTORY)
        .and_then(|mut query| {
            let rows = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?;
            rows.collect()
        })
        .map_err(unread)?;

    let newest = history.iter().map(|(version, ..)| *version).max().unwrap_or(0);
    if newest > i64::from(KNOWN) {
        let found = u32::try_from(newest).unwrap_or(u32::MAX);
        return Err(Error::NewerSchema { path: path.to_owned(), found, known: KNOWN });
    }
    for ((version, name, applied_on, checksum), known) in history.iter().zip(migrations()) {
        let is_ours = *version == i64::from(known.version())
            && name == known.name()
            && *checksum == known.checksum().to_string()
            // The runner of the steps panics on a time that it cannot read.
            && applied_on.parse::<Timestamp>().is_ok();
        if !is_ours {
            return Err(foreign(format!(
                "step {version} of its schema is {name:?} and not the one known here"
            )));
        }
    }
    if i64::try_from(history.len()).ok() != Some(newest) {
        return Err(foreign("its schema history has a gap".to_owned()));
    }
    u32::try_from(newest).map_err(|_| foreign("its schema history has a gap".to_owned()))
}

/// Brings the database to [`KNOWN`], whole or not at all.
pub(crate) fn upgrade(
    connection: &mut Connection,
    path: &Path,
    options: &StoreOptions,
) -> Result<Migrated, Error> {
    let from = inspect(connection, path, options)?;
    let mut seen = from;
    while seen < KNOWN {
        // All steps and their records in one transaction that begins as a writer: whoever is killed
        // leaves the old schema, and of two processes the second finds the first one's work done,
        // because a version can be recorded only once.
        connection.set_transaction_behavior(TransactionBehavior::Immediate);
        let run = Runner::new(&migrations()).set_grouped(true).run(connection);
        connection.set_transaction_behavior(TransactionBehavior::Deferred);
        let now = inspect(connection, path, options)?;
        if let Err(error) = run
            && now == seen
        {
            let cause = std::error::Error::source(&error).and_then(|e| e.downcast_ref());
            let kind = cause.map_or(Kind::Other, Kind::of);
            let operation = "bring the schema up to date";
            return Err(kind.explain(path, options.busy_timeout, operation, error.into()));
        }
        seen = now;
    }
    Ok(Migrated { from, to: seen })
}
