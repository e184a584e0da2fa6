//! A log as programs ask for it: the lines that match, entries, groups, the last lines.

use axum::Json;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::{IntoResponse, Response};
use danube_core::StepName;
use danube_logs::search::{self, Pattern, PatternOptions, Position, SearchOptions, Within};
use danube_logs::views::{self, Ansi, EntryOptions};
use serde::Deserialize;
use tokio::sync::SemaphorePermit;

use super::Api;
use super::job::{Job, Params};
use super::logs::{self, of_log};
use super::problem::Problem;
use crate::wire;

/// The most matches on a page.
const MAX_MATCHES: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchParams {
    q: String,
    #[serde(default)]
    literal: bool,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    within: Part,
    #[serde(default = "yes")]
    ignore_ansi: bool,
    step: Option<StepName>,
    before: Option<usize>,
    after: Option<usize>,
    #[serde(default)]
    context: usize,
    limit: Option<usize>,
    #[serde(default)]
    offset: u64,
    line: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    #[default]
    Content,
    Line,
}

fn yes() -> bool {
    true
}

/// `GET …/logs/search`: what is stored at this moment. Dropped with its connection, it stops.
pub(super) async fn search(
    State(api): State<Api>,
    Job(job): Job,
    Params(params): Params<SearchParams>,
) -> Result<Json<wire::Search>, Problem> {
    let limit = params.limit.unwrap_or(SearchOptions::default().max_matches);
    if limit > MAX_MATCHES {
        return Err(Problem::invalid(format!("limit must be at most {MAX_MATCHES}")));
    }
    let (before, after) =
        (params.before.unwrap_or(params.context), params.after.unwrap_or(params.context));
    if before.max(after) > search::MAX_CONTEXT_LINES {
        let detail = format!("context is at most {} lines", search::MAX_CONTEXT_LINES);
        return Err(Problem::invalid(detail));
    }
    let line = match (params.offset, params.line) {
        (0, None) => 1,
        (_, Some(line)) if line > 0 => line,
        _ => return Err(Problem::invalid("offset and line are those of an earlier answer")),
    };
    let options = PatternOptions::default()
        .with_literal(params.literal)
        .with_ignore_case(params.ignore_case)
        .with_ignore_ansi(params.ignore_ansi)
        .with_within(match params.within {
            Part::Content => Within::Content,
            Part::Line => Within::Line,
        });
    let pattern = Pattern::new(&params.q, options).map_err(|e| of_log(&e))?;
    let options = SearchOptions::default()
        .with_from(Position { offset: params.offset, line })
        .with_step(params.step)
        .with_context(before, after)
        .with_max_matches(limit);
    logs::stat(&api, &job).await?;
    let _turn = turn(&api).await;
    let found = search::search(&api.state.logs, &job.id, &pattern, &options).await;
    Ok(Json(found.map_err(|e| of_log(&e))?.into()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryParams {
    #[serde(default)]
    offset: u64,
    limit: Option<usize>,
    step: Option<StepName>,
    #[serde(default)]
    ansi: AnsiParam,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnsiParam {
    #[default]
    Keep,
    Strip,
    Spans,
}

/// `GET …/logs/entries`.
pub(super) async fn entries(
    State(api): State<Api>,
    Job(job): Job,
    Params(params): Params<EntryParams>,
) -> Result<Json<wire::LogEntries>, Problem> {
    logs::stat(&api, &job).await?;
    let options = EntryOptions::default()
        .with_from(params.offset)
        .with_limit(params.limit.unwrap_or(views::DEFAULT_ENTRIES))
        .with_step(params.step)
        .with_ansi(match params.ansi {
            AnsiParam::Keep => Ansi::Keep,
            AnsiParam::Strip => Ansi::Strip,
            AnsiParam::Spans => Ansi::Spans,
        });
    let _turn = turn(&api).await;
    let entries = views::entries(&api.state.logs, &job.id, &options).await;
    let entries = entries.map_err(|e| of_log(&e))?;
    Ok(Json(wire::LogEntries::new(job.id, entries)))
}

/// `GET /v1/runs/{id}/logs`: entries, or events for who accepts nothing else.
pub(super) async fn entries_or_events(
    State(api): State<Api>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let kind = accepts.map(|accept| accept.split(';').next().unwrap_or_default().trim());
    match kind {
        Some("text/event-stream") => logs::stream.call(request, api).await.into_response(),
        _ => entries.call(request, api).await.into_response(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupParams {
    step: Option<StepName>,
}

/// `GET …/logs/groups`.
pub(super) async fn groups(
    State(api): State<Api>,
    Job(job): Job,
    Params(params): Params<GroupParams>,
) -> Result<Json<views::Groups>, Problem> {
    logs::stat(&api, &job).await?;
    let _turn = turn(&api).await;
    let groups = views::groups(&api.state.logs, &job.id, params.step.as_ref()).await;
    Ok(Json(groups.map_err(|e| of_log(&e))?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputParams {
    tail: Option<usize>,
}

/// `GET …/output`: the last lines, as Flashpods gives them.
pub(super) async fn output(
    State(api): State<Api>,
    Job(job): Job,
    Params(params): Params<OutputParams>,
) -> Result<Json<views::TailOutput>, Problem> {
    logs::stat(&api, &job).await?;
    let lines = params.tail.unwrap_or(views::DEFAULT_TAIL_LINES);
    let output = views::tail_output(&api.state.logs, &job.id, lines).await;
    Ok(Json(output.map_err(|e| of_log(&e))?))
}

/// Waits until few enough logs are read from end to end.
async fn turn(api: &Api) -> SemaphorePermit<'_> {
    api.scans.acquire().await.expect("never closed")
}
