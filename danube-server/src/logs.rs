//! `danube logs`: from the beginning, from the last lines, one step, live.

use std::sync::Arc;

use danube_core::{ErrorClass, JobId};
use danube_logs::{Follower, LogPhase, LogStat, LogStore, LogStoreExt};
use danube_store::{JobRecord, JobStore};

use crate::Environment;
use crate::app::App;
use crate::cli::LogsArgs;
use crate::failure::Failure;
use crate::terminal::Sink;
use crate::view::{Shown, View, ViewOptions, count_lines, show, show_range};

pub(crate) async fn logs(
    app: &App,
    args: LogsArgs,
    environment: &Environment,
) -> Result<u8, Failure> {
    let LogsArgs { job: typed, follow, tail, step, raw } = args;
    let id = app.job(&typed).await?;
    let job = app.store.get(&id).await?;
    let stat = stat(app, &job).await?;
    if let Some(step) = &step
        && !job.steps.iter().any(|known| known.name == *step)
    {
        let known: Vec<&str> = job.steps.iter().map(|step| step.name.as_str()).collect();
        let message = format!("job {id} has no step {step:?}; it has {}", known.join(", "));
        return Err(Failure::new(ErrorClass::NotFound, message));
    }
    let mut start = 0;
    let mut options = ViewOptions {
        safe: !raw && Sink::Stdout.is_terminal(),
        dim: !raw && environment.colour(Sink::Stdout),
        ..ViewOptions::default()
    };
    match (tail, &step) {
        (Some(lines), None) => start = app.logs.tail_offset(&id, lines).await?,
        (Some(lines), Some(step)) => {
            let all = count_lines(&app.logs, &id, stat.len, step).await?;
            options.skip_lines = all.saturating_sub(lines as u64);
        }
        (None, _) => {}
    }
    options.step = step;
    let view = View::new(options);
    if follow {
        follow_to_the_end(app, &id, start, view).await?;
    } else {
        show_range(&app.logs, &id, start, stat.len, view, Sink::Stdout).await?;
    }
    Ok(0)
}

/// The state of a job's log, or why there is none.
async fn stat(app: &App, job: &JobRecord) -> Result<LogStat, Failure> {
    let why = match app.logs.stat(&job.id).await {
        Ok(stat) => return Ok(stat),
        Err(error) if error.class() != ErrorClass::NotFound => return Err(error.into()),
        Err(_) if job.log_deleted_at.is_some() => {
            (ErrorClass::Gone, "was deleted when its time had come")
        }
        Err(_) if !job.state.is_terminal() => (ErrorClass::NotFound, "has not begun"),
        Err(_) => (ErrorClass::NotFound, "is not there"),
    };
    Err(Failure::new(why.0, format!("the log of job {} {}", job.id, why.1)))
}

/// Follows until the log is sealed; one that lost its owner is closed first, so that the follower
/// ends with exactly the bytes of the file.
async fn follow_to_the_end(
    app: &App,
    id: &JobId,
    from: u64,
    mut view: View,
) -> Result<(), Failure> {
    let mut follower = Follower::new(app.logs.clone(), id.clone(), from);
    loop {
        let (shown, back) = show(&mut follower, view, Sink::Stdout).await?;
        view = back;
        match shown {
            Shown::ToTheEnd | Shown::Closed => return Ok(()),
            Shown::Abandoned => {
                app.recover().await?;
                // Somebody else may be closing it at this moment, or just has.
                wait_while_abandoned(&app.logs, id).await?;
            }
        }
    }
}

async fn wait_while_abandoned(logs: &Arc<dyn LogStore>, id: &JobId) -> Result<(), Failure> {
    // Bounded: whoever takes such a log over seals it at once.
    for _ in 0..50 {
        if logs.stat(id).await?.phase != LogPhase::Abandoned {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(Failure::new(
        ErrorClass::Unavailable,
        format!("the log of job {id} lost its owner and could not be closed; see: danube jobs"),
    ))
}
