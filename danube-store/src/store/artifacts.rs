//! Records of artifacts as rows.

use std::time::Duration;

use async_trait::async_trait;
use danube_artifacts::{
    ArtifactId, ArtifactIndex, ArtifactKind, ArtifactRecord, ArtifactState, Error, RecordChange,
};
use danube_core::{ArtifactName, JobId};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::jobs::{number, parsed, time, time_if_any};
use super::{Store, Synchronous};
use crate::sql;

#[async_trait]
impl ArtifactIndex for Store {
    async fn put(&self, record: &ArtifactRecord) -> Result<(), Error> {
        record.validate()?;
        let values = Values::of(record)?;
        let operation = format!("put {}/{}", record.job, record.name);
        // What is uploading counts only when its signature is recorded, and that commit syncs this one, too. What it
        // replaces may count already: that must not come back with bytes that are others'.
        let is_new = record.state == ArtifactState::Uploading
            && matches!(self.get(&record.job, &record.name).await, Err(Error::NoRecord { .. }));
        let synchronous = if is_new { Synchronous::Normal } else { Synchronous::Full };
        let put = self.write_as(synchronous, "record an artifact", move |transaction| {
            let record = &values.record;
            let mut other = transaction.prepare_cached(sql::OTHER_ARTIFACT_OF_ID)?;
            let key = [&record.id.to_string(), record.job.as_str(), record.name.as_str()];
            if other.exists(key)? {
                return Ok(Err(Error::id_taken(&record.id)));
            }
            Ok(Ok(values.put(transaction)?))
        });
        put.await.map_err(|error| self.artifact_error(operation, error))?
    }

    async fn get(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        let (of, named) = (job.clone(), name.clone());
        let found = self.read("read the record of an artifact", move |transaction| {
            let mut get = transaction.prepare_cached(sql::GET_ARTIFACT)?;
            Ok(get.query_row([of.as_str(), named.as_str()], record_from_row).optional()?)
        });
        let found = found.await.map_err(|e| self.artifact_error(format!("get {job}/{name}"), e))?;
        found.ok_or_else(|| Error::NoRecord { job: job.clone(), name: name.clone() })
    }

    async fn find(&self, id: &ArtifactId) -> Result<ArtifactRecord, Error> {
        let wanted = id.to_string();
        let found = self.read("find the record of an artifact", move |transaction| {
            let mut find = transaction.prepare_cached(sql::FIND_ARTIFACT)?;
            Ok(find.query_row([wanted], record_from_row).optional()?)
        });
        let found = found.await.map_err(|e| self.artifact_error(format!("find {id}"), e))?;
        found.ok_or(Error::NoArtifact { id: *id })
    }

    async fn list(
        &self,
        job: &JobId,
        after: Option<&ArtifactName>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        let (of, after) = (job.to_string(), after.map(ToString::to_string).unwrap_or_default());
        let operation = format!("list the artifacts of {job}");
        self.page(sql::LIST_ARTIFACTS, of, after, limit)
            .await
            .map_err(|error| self.artifact_error(operation, error))
    }

    async fn all(
        &self,
        after: Option<(&JobId, &ArtifactName)>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        // No id and no name is empty.
        let (job, name) =
            after.map(|(job, name)| (job.to_string(), name.to_string())).unwrap_or_default();
        self.page(sql::ALL_ARTIFACTS, job, name, limit)
            .await
            .map_err(|error| self.artifact_error("list the artifacts".to_owned(), error))
    }

    async fn change(
        &self,
        job: &JobId,
        name: &ArtifactName,
        change: &RecordChange,
    ) -> Result<ArtifactRecord, Error> {
        let changed = self.change_each(job, &[(name.clone(), change.clone())]).await;
        let changed =
            changed.map_err(|e| self.artifact_error(format!("change {job}/{name}"), e))??;
        Ok(changed.into_iter().next().expect("one name, one record"))
    }

    async fn change_all(
        &self,
        job: &JobId,
        changes: &[(ArtifactName, RecordChange)],
    ) -> Result<Vec<ArtifactRecord>, Error> {
        let operation = format!("change {} artifacts of {job}", changes.len());
        let changed = self.change_each(job, changes).await;
        changed.map_err(|e| self.artifact_error(operation, e))?
    }

    async fn remove(&self, job: &JobId, name: &ArtifactName) -> Result<(), Error> {
        let (of, named) = (job.clone(), name.clone());
        self.write("remove the record of an artifact", move |transaction| {
            let mut remove = transaction.prepare_cached(sql::REMOVE_ARTIFACT)?;
            remove.execute([of.as_str(), named.as_str()])?;
            Ok(())
        })
        .await
        .map_err(|error| self.artifact_error(format!("remove {job}/{name}"), error))
    }
}

impl Store {
    /// Changes all of them or none.
    async fn change_each(
        &self,
        job: &JobId,
        changes: &[(ArtifactName, RecordChange)],
    ) -> Result<Result<Vec<ArtifactRecord>, Error>, crate::Error> {
        let (of, changes) = (job.clone(), changes.to_vec());
        self.write("change the records of artifacts", move |transaction| {
            let mut get = transaction.prepare_cached(sql::GET_ARTIFACT)?;
            let mut changed = Vec::with_capacity(changes.len());
            for (name, change) in changes {
                let found =
                    get.query_row([of.as_str(), name.as_str()], record_from_row).optional()?;
                let Some(record) = found else {
                    return Ok(Err(Error::NoRecord { job: of, name }));
                };
                match change.apply(&record).and_then(|changed| Values::of(&changed)) {
                    Ok(values) => changed.push(values),
                    Err(refused) => return Ok(Err(refused)),
                }
            }
            // Only now: a refusal commits as well, and must have changed nothing.
            for values in &changed {
                values.put(transaction)?;
            }
            Ok(Ok(changed.into_iter().map(|values| values.record).collect()))
        })
        .await
    }

    async fn page(
        &self,
        text: &'static str,
        job: String,
        after: String,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, crate::Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("list artifacts", move |transaction| {
            let mut page = transaction.prepare_cached(text)?;
            let rows = page.query_map(params![job, after, limit], record_from_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    fn artifact_error(&self, operation: String, error: crate::Error) -> Error {
        Error::Backend {
            backend: self.to_string(),
            operation,
            class: error.class(),
            source: error.into(),
        }
    }
}

/// A record as SQL has it.
struct Values {
    record: ArtifactRecord,
    size_bytes: i64,
    keep_for_seconds: Option<i64>,
    tags: String,
}

impl Values {
    fn of(record: &ArtifactRecord) -> Result<Self, Error> {
        let size_bytes = signed(record, "size in bytes", record.size_bytes)?;
        let seconds = record.keep_for.map(|keep_for| keep_for.as_secs());
        let keep_for = seconds.map(|s| signed(record, "time to be kept in seconds", s));
        let tags = serde_json::to_string(&record.tags).expect("text by text serialises");
        let keep_for_seconds = keep_for.transpose()?;
        Ok(Self { record: record.clone(), size_bytes, keep_for_seconds, tags })
    }

    fn put(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let Self { record, size_bytes, keep_for_seconds, tags } = self;
        transaction.prepare_cached(sql::PUT_ARTIFACT)?.execute(params![
            record.job.as_str(),
            record.name.as_str(),
            record.id.to_string(),
            size_bytes,
            record.digest.to_string(),
            record.content_type,
            record.kind.as_str(),
            record.state.as_str(),
            record.created_at.as_millisecond(),
            record.archived_at.map(|time| time.as_millisecond()),
            keep_for_seconds,
            record.keep_forever,
            tags,
        ])?;
        Ok(())
    }
}

fn signed(record: &ArtifactRecord, what: &'static str, number: u64) -> Result<i64, Error> {
    i64::try_from(number).map_err(|_| Error::Invalid {
        what: "artifact",
        value: record.name.to_string(),
        rule: format!("has a {what} of {number}, and the most is {}", i64::MAX),
    })
}

fn record_from_row(row: &Row<'_>) -> rusqlite::Result<ArtifactRecord> {
    let keep_for: Option<i64> = row.get(10)?;
    let tags = serde_json::from_str(row.get_ref(12)?.as_str()?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(12, Type::Text, e.into()))?;
    let (name, content_type): (_, String) = (parsed(row, 1)?, row.get(5)?);
    let told: Option<String> = row.get(6)?;
    Ok(ArtifactRecord {
        job: parsed(row, 0)?,
        id: parsed(row, 2)?,
        size_bytes: number(row, 3)?,
        digest: parsed(row, 4)?,
        kind: match told {
            Some(_) => parsed(row, 6)?,
            None => ArtifactKind::of(&name, &content_type),
        },
        state: parsed(row, 7)?,
        created_at: time(row, 8)?,
        archived_at: time_if_any(row, 9)?,
        keep_for: match keep_for {
            Some(_) => Some(Duration::from_secs(number(row, 10)?)),
            None => None,
        },
        keep_forever: row.get(11)?,
        tags,
        name,
        content_type,
    })
}
