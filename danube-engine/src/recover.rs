//! The jobs whose owner died: whoever comes next tells the truth about them.

use std::sync::Arc;
use std::time::Duration;

use danube_artifacts::{BlobKey, BlobStore};
use danube_core::{ByteRange, Clock, ErrorClass, JobId, LostReason, Timestamp};
use danube_logs::{LogOptions, LogPhase, LogStat, LogStore, LogWriter, SealedLog};
use danube_store::{JobCursor, JobQuery, JobRecord, JobStore, MAX_JOBS_PER_LIST, Transition};

use crate::Error;
use crate::error::told;
use crate::retry::retrying;

/// How old a job without a log must be: its owner creates the log right after the record.
const BEGINNING: Duration = Duration::from_secs(60);

/// How many logs are listed at once.
const LOGS_PER_PAGE: usize = 500;

/// What is said in the log and in the record.
const WHY: &str = "the process that ran this job died";

/// Ends the jobs whose owner died as `lost` with the reason `owner_died`, and returns those that this
/// call ended, newest first. Call it before jobs are listed, and in a server now and then.
///
/// A job that has not ended is taken over in one of three cases:
///
/// * Its log is not sealed, and nobody alive owns it. The log is recovered, says what happened, and is
///   sealed.
/// * It has no log, and was recorded over a minute ago.
/// * Its log is sealed, and nobody alive owns it: its owner died while it signed. A proof that it had written already is
///   deleted: provenance stands for a job that succeeded.
///
/// Any number of processes may do this at once: one ends the job, and the others say nothing about it.
/// A job that cannot be taken over now, because its log or proof cannot be read, written or deleted, is left for the
/// next call; the reason goes to `tracing`.
///
/// # Errors
///
/// [`Error::List`] when the jobs cannot be listed.
///
/// # Cancel safety
///
/// Dropped anywhere, the rest is done by the next call.
pub async fn recover(
    jobs: &Arc<dyn JobStore>,
    logs: &Arc<dyn LogStore>,
    blobs: &Arc<dyn BlobStore>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<JobRecord>, Error> {
    let mut ended = Vec::new();
    let mut query = JobQuery::default().with_unfinished_only(true).with_limit(MAX_JOBS_PER_LIST);
    loop {
        let page = retrying(|| jobs.list(&query)).await.map_err(Error::List)?;
        let Some(last) = page.last() else { return Ok(ended) };
        query = query.with_before(JobCursor::from(last));
        for job in page {
            match end_if_dead(jobs, logs, blobs, clock, &job).await {
                Ok(Some(job)) => ended.push(job),
                Ok(None) => {}
                Err(why) => tracing::warn!(job = %job.id, why, "a job cannot be recovered now"),
            }
        }
    }
}

/// Seals the logs that nobody alive owns although their job has ended or is not known any more, and
/// returns how many; such a log is left where the disk was full when it was to be sealed. Call it before
/// a reaper's pass: a log that is not sealed is never deleted. The logs of jobs that have not ended
/// are [`recover`]'s.
///
/// # Errors
///
/// [`Error::ListLogs`] when the logs cannot be listed. A log that cannot be sealed now is left for the
/// next call; the reason goes to `tracing`.
///
/// # Cancel safety
///
/// Dropped anywhere, the rest is done by the next call.
pub async fn seal_abandoned(
    jobs: &Arc<dyn JobStore>,
    logs: &Arc<dyn LogStore>,
    clock: &Arc<dyn Clock>,
) -> Result<u64, Error> {
    let mut sealed = 0;
    let mut after: Option<JobId> = None;
    loop {
        let page = logs.list(after.as_ref(), LOGS_PER_PAGE).await.map_err(Error::ListLogs)?;
        let Some((last, _)) = page.last() else { return Ok(sealed) };
        after = Some(last.clone());
        for (id, _) in page.into_iter().filter(|(_, stat)| stat.phase == LogPhase::Abandoned) {
            match seal_if_over(jobs, logs, clock, &id).await {
                Ok(done) => sealed += u64::from(done),
                Err(why) => tracing::warn!(job = %id, why, "a log cannot be sealed now"),
            }
        }
    }
}

async fn seal_if_over(
    jobs: &Arc<dyn JobStore>,
    logs: &Arc<dyn LogStore>,
    clock: &Arc<dyn Clock>,
    id: &JobId,
) -> Result<bool, String> {
    match retrying(|| jobs.get(id)).await {
        Ok(job) if !job.state.is_terminal() => return Ok(false),
        Ok(_) | Err(danube_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(told(&error)),
    }
    let options = LogOptions::default();
    match LogWriter::create(logs.clone(), id.clone(), clock.clone(), options).await {
        Ok(log) => log.seal().await.map(|_| true).map_err(|e| told(&e)),
        Err(error) if error.class() == ErrorClass::Conflict => Ok(false),
        Err(error) => Err(told(&error)),
    }
}

/// Ends one job, if it is dead and this call is the one that ends it.
async fn end_if_dead(
    jobs: &Arc<dyn JobStore>,
    logs: &Arc<dyn LogStore>,
    blobs: &Arc<dyn BlobStore>,
    clock: &Arc<dyn Clock>,
    job: &JobRecord,
) -> Result<Option<JobRecord>, String> {
    let now = clock.now();
    let stat = match logs.stat(&job.id).await {
        Ok(stat) => Some(stat),
        Err(error) if error.class() == ErrorClass::NotFound => None,
        Err(error) => return Err(told(&error)),
    };
    // What is taken over stays ours until the verdict is written.
    let taken;
    let (bytes, truncated) = match stat {
        // Its owner runs its steps, or signs what they made.
        Some(LogStat { owned: true, .. }) => return Ok(None),
        Some(LogStat { phase: LogPhase::Sealed, len, state, .. }) => {
            // Its owner lets go of the log after the verdict: what stands now is the end, or nobody writes one.
            let now = retrying(|| jobs.get(&job.id)).await.map_err(|e| told(&e))?;
            if now.state.is_terminal() {
                return Ok(None);
            }
            delete_proof(&**blobs, &job.id).await.map_err(|e| told(&e))?;
            (len, state.truncated)
        }
        None if !is_older(job.created_at, BEGINNING, now) => return Ok(None),
        Some(_) | None => {
            taken = take_over(jobs, logs, clock, job).await?;
            match &taken {
                Taken::Not => return Ok(None),
                Taken::Sealed(log) => (log.len, log.truncated),
                Taken::Unsealed(stat) => (stat.len, stat.state.truncated),
            }
        }
    };
    let change = Transition::lost(LostReason::OwnerDied, clock.now())
        .with_message(WHY)
        .with_log(bytes, truncated);
    match retrying(|| jobs.transition(&job.id, &change)).await {
        Ok(_) => retrying(|| jobs.get(&job.id)).await.map(Some).map_err(|e| told(&e)),
        // Somebody else was quicker, or the job was deleted meanwhile.
        Err(error) if matches!(error.class(), ErrorClass::Conflict | ErrorClass::NotFound) => {
            Ok(None)
        }
        Err(error) => Err(told(&error)),
    }
}

/// Takes back that a job succeeded: the envelope that signs it, and its payload.
pub(crate) async fn delete_proof(
    blobs: &dyn BlobStore,
    job: &JobId,
) -> Result<(), danube_artifacts::Error> {
    let envelope = blobs.delete(&BlobKey::envelope(job)).await;
    let payload = blobs.delete(&BlobKey::provenance(job)).await;
    envelope.and(payload).map(drop)
}

/// What became of a log that nobody alive owned.
enum Taken {
    /// The job is not ours to end.
    Not,
    /// It is sealed and ours.
    Sealed(SealedLog),
    /// It could not be sealed.
    Unsealed(LogStat),
}

/// Takes the log over, says why in it, and seals it.
async fn take_over(
    jobs: &Arc<dyn JobStore>,
    logs: &Arc<dyn LogStore>,
    clock: &Arc<dyn Clock>,
    job: &JobRecord,
) -> Result<Taken, String> {
    let options = LogOptions::default();
    let log = match LogWriter::create(logs.clone(), job.id.clone(), clock.clone(), options).await {
        Ok(log) => log,
        // Somebody alive has it after all: its owner, or another who recovers.
        Err(error) if error.class() == ErrorClass::Conflict => return Ok(Taken::Not),
        Err(error) => return Err(told(&error)),
    };
    // Between the look and the taking the job may have ended; its log is sealed all the same.
    let ended = matches!(jobs.get(&job.id).await, Ok(job) if job.state.is_terminal());
    // Where an earlier attempt could not seal it, the log says so already.
    if !ended
        && !is_said(logs, job).await
        && let Err(error) = log.note(WHY).await
    {
        // A full disk: the seal may fit still, and the verdict counts more than this line.
        tracing::warn!(job = %job.id, error = told(&error), "cannot say in the log that its owner died");
    }
    match log.seal().await {
        _ if ended => Ok(Taken::Not),
        Ok(sealed) => Ok(Taken::Sealed(sealed)),
        Err(error) => {
            tracing::warn!(job = %job.id, error = told(&error), "cannot seal the log of a dead job");
            logs.stat(&job.id).await.map(Taken::Unsealed).map_err(|e| told(&e))
        }
    }
}

/// Whether the log ends with the line that says why.
async fn is_said(logs: &Arc<dyn LogStore>, job: &JobRecord) -> bool {
    let end = format!("[danube] [danube] {WHY}\n");
    let Ok(stat) = logs.stat(&job.id).await else { return false };
    let range = ByteRange::new(stat.len.saturating_sub(end.len() as u64), stat.len);
    logs.read(&job.id, range).await.is_ok_and(|read| read == end.as_bytes())
}

/// Whether `then` lies further back than `age`. A time in the future is a clock that was set: not old.
fn is_older(then: Timestamp, age: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(then)).is_ok_and(|passed| passed > age)
}

#[cfg(test)]
mod tests;
