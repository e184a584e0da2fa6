//! Jobs and steps as rows.

use std::str::FromStr;

use async_trait::async_trait;
use danube_core::{BoxError, ByteRange, CandidateKind, JobId, JobState, Timestamp};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::Store;
use crate::fault::Fault;
use crate::jobs::Counts;
use crate::{
    Error, JobQuery, JobRecord, JobStore, JobTally, MAX_JOBS_PER_LIST, StepRecord, Transition,
    rules, sql,
};

// `~` sorts behind every character of an id.
const BEYOND_EVERY_ID: &str = "~";

#[async_trait]
impl JobStore for Store {
    async fn create(&self, job: &JobRecord) -> Result<(), Error> {
        let job = rules::admit(job)?;
        self.write("record a job", move |transaction| {
            let inserted = transaction.prepare_cached(sql::CREATE_JOB)?.execute(params![
                job.id.as_str(),
                job.name,
                job.state.as_str(),
                job.lost_reason.map(|reason| reason.as_str()),
                job.message,
                job.created_at.as_millisecond(),
                job.started_at.map(Timestamp::as_millisecond),
                job.finished_at.map(Timestamp::as_millisecond),
                job.cancel_requested_at.map(Timestamp::as_millisecond),
                job.retention_days,
                job.work_dir,
                job.log_bytes.cast_signed(),
                job.log_truncated,
                job.log_deleted_at.map(Timestamp::as_millisecond),
                job.artifacts_deleted_at.map(Timestamp::as_millisecond),
            ])?;
            if inserted == 0 {
                return Err(Error::Conflict { job: job.id }.into());
            }
            job.steps.iter().try_for_each(|step| write_step(transaction, &job.id, step))
        })
        .await
    }

    async fn get(&self, id: &JobId) -> Result<JobRecord, Error> {
        let id = id.clone();
        self.read("read a job", move |transaction| read_job(transaction, &id)).await
    }

    async fn list(&self, query: &JobQuery) -> Result<Vec<JobRecord>, Error> {
        let text = if query.unfinished_only { sql::LIST_UNFINISHED_JOBS } else { sql::LIST_JOBS };
        let (time, id) = match &query.before {
            Some(cursor) => (cursor.created_at.as_millisecond(), cursor.id.to_string()),
            None => (i64::MAX, BEYOND_EVERY_ID.to_owned()),
        };
        let limit = query.limit.min(MAX_JOBS_PER_LIST) as i64;
        self.read("list jobs", move |transaction| {
            let mut list = transaction.prepare_cached(text)?;
            let rows = list.query_map(params![time, id, limit], job_from_row)?;
            let mut jobs = rows.collect::<Result<Vec<_>, _>>()?;
            for job in &mut jobs {
                job.steps = read_steps(transaction, &job.id)?;
            }
            Ok(jobs)
        })
        .await
    }

    async fn matching(&self, text: &str, limit: usize) -> Result<Vec<JobId>, Error> {
        let (text, limit) = (text.to_owned(), limit.min(MAX_JOBS_PER_LIST) as i64);
        let chars = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        self.read("look for jobs", move |transaction| {
            let mut matching = transaction.prepare_cached(sql::MATCHING_JOBS)?;
            let ids = matching.query_map(params![text, chars, limit], |row| parsed(row, 0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn tally(&self) -> Result<Vec<JobTally>, Error> {
        self.read("count jobs", |transaction| {
            let mut states = transaction.prepare_cached(sql::TALLY_JOBS)?;
            let (mut rows, mut counts) = (states.query([])?, Counts::default());
            while let Some(row) = rows.next()? {
                counts.add(parsed(row, 0)?, parsed_if_any(row, 1)?);
            }
            Ok(counts.into_tally())
        })
        .await
    }

    async fn transition(&self, id: &JobId, change: &Transition) -> Result<JobState, Error> {
        let change = change.clone();
        self.change(id, "change the state of a job", move |job| rules::transition(job, &change))
            .await
    }

    async fn put_step(&self, id: &JobId, step: &StepRecord) -> Result<(), Error> {
        let step = step.clone();
        self.change(id, "record a step", move |job| rules::put_step(job, &step).map(|_| ())).await
    }

    async fn request_cancel(&self, id: &JobId, at: Timestamp) -> Result<JobState, Error> {
        self.change(id, "record a request to cancel", move |job| Ok(rules::request_cancel(job, at)))
            .await
    }

    async fn mark_deleted(
        &self,
        id: &JobId,
        what: CandidateKind,
        at: Timestamp,
    ) -> Result<(), Error> {
        self.change(id, "record a deletion", move |job| rules::mark_deleted(job, what, at)).await
    }
}

impl Store {
    /// Reads the job, changes it by a rule, and writes what the rule changed: one transaction.
    async fn change<T: Send + 'static>(
        &self,
        id: &JobId,
        operation: &'static str,
        rule: impl FnOnce(&mut JobRecord) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let id = id.clone();
        self.write(operation, move |transaction| {
            let before = read_job(transaction, &id)?;
            let mut job = before.clone();
            let result = rule(&mut job)?;
            let steps = std::mem::take(&mut job.steps);
            for step in &steps {
                let old = before.steps.binary_search_by_key(&step.position, |old| old.position);
                if old.is_ok_and(|at| before.steps[at] == *step) {
                    continue;
                }
                write_step(transaction, &id, step)?;
            }
            if job != (JobRecord { steps: Vec::new(), ..before }) {
                update_job(transaction, &job)?;
            }
            Ok(result)
        })
        .await
    }
}

fn read_job(transaction: &Transaction<'_>, id: &JobId) -> Result<JobRecord, Fault> {
    let mut get = transaction.prepare_cached(sql::GET_JOB)?;
    let found = get.query_row([id.as_str()], job_from_row).optional()?;
    let mut job = found.ok_or_else(|| Error::NotFound { job: id.clone() })?;
    job.steps = read_steps(transaction, id)?;
    Ok(job)
}

fn read_steps(transaction: &Transaction<'_>, id: &JobId) -> Result<Vec<StepRecord>, Fault> {
    let mut get = transaction.prepare_cached(sql::GET_STEPS)?;
    let rows = get.query_map([id.as_str()], step_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn update_job(transaction: &Transaction<'_>, job: &JobRecord) -> Result<(), Fault> {
    transaction.prepare_cached(sql::UPDATE_JOB)?.execute(params![
        job.id.as_str(),
        job.state.as_str(),
        job.lost_reason.map(|reason| reason.as_str()),
        job.message,
        job.started_at.map(Timestamp::as_millisecond),
        job.finished_at.map(Timestamp::as_millisecond),
        job.cancel_requested_at.map(Timestamp::as_millisecond),
        job.log_bytes.cast_signed(),
        job.log_truncated,
        job.log_deleted_at.map(Timestamp::as_millisecond),
        job.artifacts_deleted_at.map(Timestamp::as_millisecond),
    ])?;
    Ok(())
}

fn write_step(transaction: &Transaction<'_>, id: &JobId, step: &StepRecord) -> Result<(), Fault> {
    transaction.prepare_cached(sql::PUT_STEP)?.execute(params![
        id.as_str(),
        step.position,
        step.name.as_str(),
        step.command,
        step.state.as_str(),
        step.exit_code,
        step.signal,
        step.started_at.map(Timestamp::as_millisecond),
        step.finished_at.map(Timestamp::as_millisecond),
        step.log_range.map(|range| range.start.cast_signed()),
        step.log_range.map(|range| range.end.cast_signed()),
    ])?;
    Ok(())
}

fn job_from_row(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    Ok(JobRecord {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        state: parsed(row, 2)?,
        lost_reason: parsed_if_any(row, 3)?,
        message: row.get(4)?,
        created_at: time(row, 5)?,
        started_at: time_if_any(row, 6)?,
        finished_at: time_if_any(row, 7)?,
        cancel_requested_at: time_if_any(row, 8)?,
        retention_days: row.get(9)?,
        work_dir: row.get(10)?,
        log_bytes: number(row, 11)?,
        log_truncated: row.get(12)?,
        log_deleted_at: time_if_any(row, 13)?,
        artifacts_deleted_at: time_if_any(row, 14)?,
        steps: Vec::new(),
    })
}

fn step_from_row(row: &Row<'_>) -> rusqlite::Result<StepRecord> {
    let log_start: Option<i64> = row.get(8)?;
    Ok(StepRecord {
        position: row.get(0)?,
        name: parsed(row, 1)?,
        command: row.get(2)?,
        state: parsed(row, 3)?,
        exit_code: row.get(4)?,
        signal: row.get(5)?,
        started_at: time_if_any(row, 6)?,
        finished_at: time_if_any(row, 7)?,
        log_range: match log_start {
            Some(_) => Some(ByteRange::new(number(row, 8)?, number(row, 9)?)),
            None => None,
        },
    })
}

/// A column whose text was checked before it was written.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<BoxError>>,
{
    parse(row.get_ref(column)?.as_str()?, column)
}

fn parsed_if_any<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: FromStr<Err: Into<BoxError>>,
{
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(|text| parse(text, column)).transpose()
}

fn parse<T>(text: &str, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<BoxError>>,
{
    text.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    to_time(row.get(column)?, column)
}

pub(super) fn time_if_any(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    let number: Option<i64> = row.get(column)?;
    number.map(|number| to_time(number, column)).transpose()
}

fn to_time(millisecond: i64, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(millisecond)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, millisecond))
}
