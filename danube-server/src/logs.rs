//! `danube logs`: from the beginning, from the last lines, one step, what matches, live.

use std::collections::VecDeque;
use std::sync::Arc;

use danube_core::{ErrorClass, JobId, Timestamp};
use danube_logs::views::{Ansi, EntryOptions, LogEntry, entries};
use danube_logs::{Follower, LogPhase, LogStat, LogStore, LogStoreExt};
use danube_store::{JobRecord, JobStore};

use crate::Environment;
use crate::app::App;
use crate::cli::{LogsArgs, Since};
use crate::failure::Failure;
use crate::grep::{Grep, GrepStyle};
use crate::terminal::Sink;
use crate::view::{Shape, Shown, View, ViewOptions, count_lines, show, show_range, write};

pub(crate) async fn logs(
    app: &App,
    args: LogsArgs,
    environment: &Environment,
) -> Result<u8, Failure> {
    let id = app.job(&args.job).await?;
    let job = app.store.get(&id).await?;
    let stat = stat(app, &job).await?;
    if let Some(step) = &args.step
        && !job.steps.iter().any(|known| known.name == *step)
    {
        let known: Vec<&str> = job.steps.iter().map(|step| step.name.as_str()).collect();
        let message = format!("job {id} has no step {step:?}; it has {}", known.join(", "));
        return Err(Failure::new(ErrorClass::NotFound, message));
    }
    let format = stat.state.format;
    let unsaid = match (&args.step, &args.since) {
        _ if format.names_steps() => None,
        (Some(_), _) => Some("do not say which step they belong to"),
        (_, Some(_)) => Some("do not say on which day they were written"),
        (None, None) => None,
    };
    if let Some(unsaid) = unsaid {
        return Err(Failure::invalid(format!("the lines of the log of job {id} {unsaid}")));
    }
    let safe = !args.raw && Sink::Stdout.is_terminal();
    let colour = !args.raw && environment.colour(Sink::Stdout);
    if let Some(pattern) = &args.grep {
        let grep = Grep::new(pattern, &args, GrepStyle { safe, colour }, format)?;
        let grep = print(app, &id, 0, &stat, args.follow, grep).await?;
        return Ok(u8::from(!grep.found_any()));
    }
    let start = start(app, &id, &args, &stat).await?;
    if args.json {
        return print_entries(app, &id, start, &args).await.map(|()| 0);
    }
    let mut options =
        ViewOptions { safe, dim: colour, strip: args.strip, format, ..ViewOptions::default() };
    if let (Some(lines), Some(step)) = (args.tail, &args.step) {
        let all = count_lines(&app.logs, &id, stat.len, step, format).await?;
        options.skip_lines = all.saturating_sub(lines as u64);
    }
    options.step = args.step;
    print(app, &id, start, &stat, args.follow, View::new(options)).await?;
    Ok(0)
}

/// Where to begin. The last lines of one step are only known when all of it was read.
async fn start(app: &App, id: &JobId, args: &LogsArgs, stat: &LogStat) -> Result<u64, Failure> {
    // Past the end there is nothing yet; who follows gets what comes.
    let found = if let (Some(lines), None) = (args.tail, &args.step) {
        Some(app.logs.tail_offset(id, lines).await?)
    } else if let Some(line) = args.line {
        app.logs.line_offset(id, line.get() - 1).await?
    } else if let Some(since) = &args.since {
        let since = match *since {
            Since::Time(time) => time,
            // Longer ago than time goes back: from the beginning.
            Since::Ago(ago) => app.clock.now().checked_sub(ago).unwrap_or(Timestamp::MIN),
        };
        app.logs.time_offset(id, since).await?
    } else {
        Some(0)
    };
    Ok(found.unwrap_or(stat.len))
}

/// Prints what is stored from an offset on, or follows it to the end.
async fn print<S: Shape>(
    app: &App,
    id: &JobId,
    from: u64,
    stat: &LogStat,
    follow: bool,
    view: S,
) -> Result<S, Failure> {
    if follow {
        follow_to_the_end(app, id, from, view).await
    } else {
        show_range(&app.logs, id, from, stat.len, view, Sink::Stdout).await
    }
}

/// Prints entries, one JSON object per line, as `…/logs/entries` gives them.
async fn print_entries(app: &App, id: &JobId, from: u64, args: &LogsArgs) -> Result<(), Failure> {
    let ansi = if args.strip { Ansi::Strip } else { Ansi::Keep };
    let mut options = EntryOptions::default()
        .with_limit(ENTRIES_AT_ONCE)
        .with_step(args.step.clone())
        .with_ansi(ansi);
    options.from = from;
    // The last ones of a step are only known when all of it was read.
    let mut last = match (args.tail, &args.step) {
        (Some(lines), Some(_)) => Some((lines, VecDeque::new())),
        (Some(_), None) | (None, _) => None,
    };
    loop {
        let stat = app.logs.stat(id).await?;
        let page = entries(&app.logs, id, &options).await?;
        options.from = page.next;
        let mut out = Vec::new();
        for entry in page.entries {
            let Some((lines, kept)) = &mut last else {
                json_line(&entry, &mut out);
                continue;
            };
            kept.push_back(entry);
            if kept.len() > *lines {
                kept.pop_front();
            }
        }
        if !page.has_more {
            let kept = last.take().map(|(_, kept)| kept).unwrap_or_default();
            kept.iter().for_each(|entry| json_line(entry, &mut out));
        }
        if !write(Sink::Stdout, out).await? {
            return Ok(());
        }
        if page.has_more {
            continue;
        }
        match stat.phase {
            _ if !args.follow => return Ok(()),
            LogPhase::Sealed => return Ok(()),
            LogPhase::Open => drop(app.logs.changed(id, stat.len).await?),
            LogPhase::Abandoned => take_over(app, id).await?,
        }
    }
}

/// Entries that are read and printed at once.
const ENTRIES_AT_ONCE: usize = 1000;

fn json_line(entry: &LogEntry, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, entry).expect("numbers and strings serialise into memory");
    out.push(b'\n');
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
async fn follow_to_the_end<S: Shape>(
    app: &App,
    id: &JobId,
    from: u64,
    mut view: S,
) -> Result<S, Failure> {
    let mut follower = Follower::new(app.logs.clone(), id.clone(), from);
    loop {
        let (shown, back) = show(&mut follower, view, Sink::Stdout).await?;
        view = back;
        match shown {
            Shown::ToTheEnd | Shown::Closed => return Ok(view),
            Shown::Abandoned => take_over(app, id).await?,
        }
    }
}

/// Closes a log that lost its owner.
async fn take_over(app: &App, id: &JobId) -> Result<(), Failure> {
    app.recover().await?;
    // Somebody else may be closing it at this moment, or just has.
    wait_while_abandoned(&app.logs, id).await
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
