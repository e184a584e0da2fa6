//! The log of a job: as a file, and as events while it grows.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use danube_core::{ByteRange, ErrorClass, JobId};
use danube_logs::sse::{self, SseFormat, SseOptions};
use danube_logs::{Error, LogPhase, LogStat, LogStore, LogStoreExt};
use danube_store::{JobRecord, JobStore};
use futures_core::Stream;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::content::Content;
use super::disposition::inline;
use super::job::{Job, Params};
use super::metrics::OpenStream;
use super::problem::{Problem, Subject};
use super::serve::Shutdown;
use super::takeover::AwaitTakeover;

/// Bytes of a log that one download holds at once.
const CHUNK_BYTES: u64 = 64 * 1024;

/// How many last lines may be asked for: the log is searched backwards for them.
const MAX_TAIL_LINES: usize = 100_000;

/// How long a stream waits for whoever takes an abandoned log over, and then for the job's verdict.
/// `danube serve` looks for dead owners every five seconds; three rounds.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often the record is looked at while its verdict is due.
const LOOK: Duration = Duration::from_millis(200);

/// `GET …/logs`: what is stored at this moment, byte for byte.
pub(super) async fn file(
    State(api): State<Api>,
    Job(job): Job,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stat = stat(&api, &job).await?;
    let content = Content {
        len: stat.len,
        media_type: HeaderValue::from_static("text/plain; charset=utf-8"),
        disposition: inline(&format!("{}.log", job.id)),
        etag: etag(&stat),
    };
    let asked = content.asked(&method, &headers)?;
    let body = Body::from_stream(pieces(api.state.logs.clone(), job.id, asked.bytes()));
    Ok(asked.with_body(body))
}

/// A sealed log never changes; one that grows has no tag.
fn etag(stat: &LogStat) -> Option<HeaderValue> {
    let sealed_at = match stat.phase {
        LogPhase::Sealed => stat.state.sealed_at?,
        LogPhase::Open | LogPhase::Abandoned => return None,
    };
    let tag = format!("\"log-{}-{}\"", stat.len, sealed_at.as_millisecond());
    HeaderValue::try_from(tag).ok()
}

/// The bytes of a range that is stored. Should they be gone by now, the connection breaks off: the
/// length that was promised must not be kept with anything else.
fn pieces(
    logs: Arc<dyn LogStore>,
    log: JobId,
    range: ByteRange,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    stream::try_unfold(range, move |left| {
        let (logs, log) = (logs.clone(), log.clone());
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let piece = ByteRange::with_len(left.start, CHUNK_BYTES).clamp_end(left.end);
            let bytes = logs.read(&log, piece).await?;
            if bytes.is_empty() {
                return Err(Error::NotFound { log });
            }
            let rest = ByteRange::new(left.start + bytes.len() as u64, left.end);
            Ok(Some((bytes, rest)))
        }
    })
}

/// Where the job's log stands, or why there is none.
pub(super) async fn stat(api: &Api, job: &JobRecord) -> Result<LogStat, Problem> {
    let (id, retry) = (&job.id, HeaderValue::from_static("1"));
    match api.state.logs.stat(id).await {
        Ok(stat) => Ok(stat),
        Err(e) if e.class() != ErrorClass::NotFound => Err(of_log(&e)),
        Err(_) => Err(match job.log_deleted_at {
            Some(at) => {
                let detail = format!("the log of job {id} was deleted on {at}");
                Problem::new(Subject::Logs, ErrorClass::Gone, detail)
            }
            None if job.state.is_terminal() => {
                let detail = format!("job {id} has no log");
                Problem::new(Subject::Logs, ErrorClass::NotFound, detail)
            }
            None => {
                let detail = format!("the log of job {id} has not begun");
                Problem::new(Subject::Logs, ErrorClass::NotFound, detail)
                    .with_header(RETRY_AFTER, retry)
            }
        }),
    }
}

pub(super) fn of_log(error: &Error) -> Problem {
    Problem::of(Subject::Logs, error.class(), error)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamParams {
    offset: Option<u64>,
    tail: Option<usize>,
    max_lag: Option<u64>,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Json,
    Plain,
}

/// `GET …/logs/stream`: server-sent events, to the end of the job. A stream that ends without an
/// `end` event can be resumed: the server stops, or the job's verdict is not known yet.
pub(super) async fn stream(
    State(api): State<Api>,
    Job(job): Job,
    Params(params): Params<StreamParams>,
    headers: HeaderMap,
    shutdown: Option<Extension<Shutdown>>,
) -> Result<Response, Problem> {
    let slot = api.streams.clone().try_acquire_owned().map_err(|_| too_many())?;
    let stat = stat(&api, &job).await?;
    let from = start(&api, &job.id, &stat, &params, &headers).await?;
    let format = match params.format {
        Format::Json => SseFormat::Json,
        Format::Plain => SseFormat::Plain,
    };
    let over = shutdown.map(|Extension(Shutdown(token))| token).unwrap_or_default().child_token();
    let logs: Arc<dyn LogStore> = Arc::new(AwaitTakeover::new(api.state.logs.clone(), PATIENCE));
    let options = SseOptions::default().with_format(format).with_max_lag(params.max_lag);
    let verdict = verdict(&api, job.id.clone(), over.clone());
    let events = sse::stream(logs, job.id, from, options, verdict);
    let open = (slot, OpenStream::new());
    let events = events.take_until(over.cancelled_owned()).inspect(move |_| {
        let _ = &open;
    });
    Ok(event_stream(Body::from_stream(events)))
}

fn event_stream(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        // Proxies of the nginx kind collect answers otherwise.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

fn too_many() -> Problem {
    let detail = "too many log streams are open on this server; try again in a moment";
    Problem::http(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", detail)
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
}

/// Where a stream begins: where the client says that it stopped, or at `?offset=`, or so that
/// `?tail=` lines are left, or at the beginning.
///
/// A `Last-Event-ID` that cannot be one of this log (no number, beyond its end) begins at the
/// beginning: a client that reconnects by itself must not fail for ever, and every event says where
/// it lies.
async fn start(
    api: &Api,
    id: &JobId,
    stat: &LogStat,
    params: &StreamParams,
    headers: &HeaderMap,
) -> Result<u64, Problem> {
    if let Some(last) = headers.get("last-event-id") {
        let at = last.to_str().ok().and_then(sse::parse_last_event_id);
        return Ok(at.filter(|at| *at <= stat.len).unwrap_or(0));
    }
    match (params.offset, params.tail) {
        (Some(_), Some(_)) => Err(Problem::invalid("give offset or tail, not both")),
        (Some(at), None) if at > stat.len => {
            let detail = format!("the log has {} bytes, {at} lies beyond its end", stat.len);
            Err(Problem::http(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail))
        }
        (Some(at), None) => Ok(at),
        (None, Some(lines)) if lines > MAX_TAIL_LINES => {
            Err(Problem::invalid(format!("tail must be at most {MAX_TAIL_LINES}")))
        }
        (None, Some(lines)) => api.state.logs.tail_offset(id, lines).await.map_err(|e| of_log(&e)),
        (None, None) => Ok(0),
    }
}

/// The state that the job ended in, once it is recorded. The log ends a moment before, and a dead
/// owner's job only when somebody has noticed. When it takes too long the stream is `over` without
/// an end: what is not known is not said.
fn verdict(
    api: &Api,
    id: JobId,
    over: CancellationToken,
) -> impl Future<Output = String> + Send + use<> {
    let jobs = api.state.jobs.clone();
    async move {
        let due = Instant::now() + PATIENCE;
        loop {
            match jobs.get(&id).await {
                Ok(job) if job.state.is_terminal() => return job.state.to_string(),
                Ok(_) => {}
                Err(e) => tracing::warn!(job = %id, error = %e, "cannot read how a job ended"),
            }
            if Instant::now() >= due {
                over.cancel();
                return pending().await;
            }
            sleep(LOOK).await;
        }
    }
}
