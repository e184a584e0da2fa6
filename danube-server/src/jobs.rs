//! `danube jobs`, `cancel`, `reaper`, `migrate`: the records.

use std::sync::Arc;
use std::time::Duration;

use danube_artifacts::SigningKeys;
use danube_core::{ErrorClass, JobId, Timestamp};
use danube_logs::{LogPhase, LogStore};
use danube_store::{JobQuery, JobRecord, JobStore, Store, StoreOptions};

use crate::app::App;
use crate::cli::{JobsArgs, Output, ReaperArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::terminal::{self, Sink};
use crate::wire;

/// How often a cancelled job is looked at, and how long at most: its grace period and a bit.
const LOOK: Duration = Duration::from_millis(200);

/// How long an upload can be resumed, and what died is left alone: the next day, after the failure of a
/// night was seen, it still can.
const LEFTOVERS_STAY: Duration = Duration::from_hours(48);

pub(crate) async fn list(app: &App, args: &JobsArgs) -> Result<u8, Failure> {
    let jobs = app.store.list(&JobQuery::default().with_limit(args.limit.into())).await?;
    match args.output {
        Output::Json => print_json(&wire::Jobs::from_records(jobs)),
        Output::Text if jobs.is_empty() => {
            Sink::Stderr.line("danube: no jobs yet; run one with: danube run -- COMMAND");
        }
        Output::Text => {
            let now = app.clock.now();
            let rows: Vec<Vec<String>> = jobs.iter().map(|job| row(job, now)).collect();
            let head = ["JOB", "NAME", "STATE", "STARTED", "TOOK", "LOG"];
            Sink::Stdout.text(&terminal::table(&head, &rows));
        }
    }
    Ok(0)
}

fn row(job: &JobRecord, now: Timestamp) -> Vec<String> {
    let state = match job.lost_reason {
        Some(reason) => format!("{} ({reason})", job.state),
        None => job.state.to_string(),
    };
    let started = job.started_at.unwrap_or(job.created_at);
    let took = job.finished_at.unwrap_or(now).duration_since(started);
    let log = match job.log_deleted_at {
        Some(_) => "deleted".to_owned(),
        None if job.log_truncated => format!("{} truncated", terminal::size(job.log_bytes)),
        None => terminal::size(job.log_bytes),
    };
    vec![
        job.id.to_string(),
        terminal::safe(&job.name),
        state,
        format!("{started:.0}"),
        terminal::duration(Duration::try_from(took).unwrap_or_default()),
        log,
    ]
}

pub(crate) async fn cancel(app: &App, typed: &str) -> Result<u8, Failure> {
    let id = app.job(typed).await?;
    let state = app.store.request_cancel(&id, app.clock.now()).await?;
    if state.is_terminal() {
        Sink::Stdout.line(&format!("{id} has already ended: {state}"));
        return Ok(0);
    }
    Sink::Stderr.line(&format!("danube: asked {id} to end"));
    // Its owner sees the request, or is dead; either way the record tells in a moment.
    let patience = app.config.grace + Duration::from_secs(10);
    let ended = tokio::time::timeout(patience, async {
        loop {
            let job = app.store.get(&id).await?;
            if job.state.is_terminal() {
                return Ok::<_, Failure>(job.state);
            }
            app.recover().await?;
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
    match ended {
        Ok(state) => Sink::Stdout.line(&format!("{id} has ended: {}", state?)),
        Err(_) => Sink::Stdout.line(&format!("{id} is still ending; see: danube jobs")),
    }
    Ok(0)
}

/// Compresses the sealed logs that were kept as text: those from before the setting, and those that found the
/// disk full.
async fn compress_logs(app: &App) -> Result<(), Failure> {
    let mut last: Option<JobId> = None;
    loop {
        let page = app.logs.list(last.as_ref(), 1000).await?;
        let Some((id, _)) = page.last() else { return Ok(()) };
        last = Some(id.clone());
        for (id, stat) in page {
            if stat.phase != LogPhase::Sealed || stat.owned {
                continue;
            }
            match app.log_files.compress(&id).await {
                Ok(_) => {}
                // Somebody was faster.
                Err(error)
                    if matches!(error.class(), ErrorClass::NotFound | ErrorClass::Conflict) => {}
                Err(error) => {
                    Sink::Stderr.line(&format!("danube: log {id} stays as it is: {error}"))
                }
            }
        }
    }
}

/// What puts and writers of keys that died left, bytes that no artifact has any more, and uploads that nobody
/// goes on with.
async fn sweep_leftovers(app: &App) -> Result<u64, Failure> {
    let before = app.clock.now() - LEFTOVERS_STAY;
    let keys_dir = app.keys_dir();
    let swept = tokio::task::spawn_blocking(move || SigningKeys::sweep(&keys_dir, before)).await;
    swept.expect("looking at keys does not panic")?;
    Ok(app.blobs.sweep(before).await? + app.uploads.sweep_uploads(before).await?)
}

pub(crate) async fn reap(app: &App, args: &ReaperArgs) -> Result<u8, Failure> {
    let reaper = app.reaper();
    if !args.dry_run {
        // What its owner could not seal, on a full disk for instance, would otherwise stay for ever.
        let jobs: Arc<dyn JobStore> = app.store.clone();
        danube_engine::seal_abandoned(&jobs, &app.logs, &app.clock).await?;
    }
    let (done, unlisted) = if args.dry_run {
        let plan = reaper.plan().await?;
        (wire::Reaped::planned(&plan), plan.unlisted)
    } else {
        let report = reaper.run().await?;
        let swept = sweep_leftovers(app).await?;
        if swept > 0 {
            let swept = terminal::size(swept);
            Sink::Stderr
                .line(&format!("danube: {swept} of leftovers and abandoned uploads are gone"));
        }
        (wire::Reaped::done(&report), report.unlisted)
    };
    for (sweep, error) in &unlisted {
        let failure = Failure::of(error.class(), error);
        Sink::Stderr.line(&format!("danube: left out {sweep}: {failure}"));
    }
    for left in &done.failed {
        let wire::NotDeleted { kind, id, error, .. } = left;
        Sink::Stderr.line(&format!(
            "danube: kept {kind} {}: {}",
            terminal::safe(id),
            terminal::safe(error)
        ));
    }
    if app.config.compress_logs && !args.dry_run {
        compress_logs(app).await?;
    }
    match args.output {
        Output::Json => print_json(&done),
        Output::Text => {
            for item in &done.reaped {
                Sink::Stdout.line(&format!(
                    "{} {} of {} ({})",
                    item.kind,
                    terminal::safe(&item.id),
                    item.job,
                    terminal::size(item.bytes)
                ));
            }
            let verb = if args.dry_run { "would delete" } else { "deleted" };
            let freed = if args.dry_run {
                String::new()
            } else {
                format!(", {} freed", terminal::size(done.bytes_freed))
            };
            Sink::Stderr.line(&format!(
                "danube: {verb} {}{freed}; kept {}",
                done.reaped.len(),
                done.kept
            ));
        }
    }
    Ok(if done.failed.is_empty() && unlisted.is_empty() { 0 } else { 5 })
}

pub(crate) async fn migrate(config: &Config) -> Result<u8, Failure> {
    App::create_dirs(config)?;
    let store = Store::open(&config.data_dir.join("danube.db"), StoreOptions::default()).await?;
    let migrated = store.migrated();
    Sink::Stdout.line(&if migrated.from == migrated.to {
        format!("the schema is at version {}: nothing to do", migrated.to)
    } else {
        format!("the schema went from version {} to {}", migrated.from, migrated.to)
    });
    Ok(0)
}

pub(crate) fn print_json(body: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(body).expect("a body of ours serialises");
    Sink::Stdout.line(&text);
}
