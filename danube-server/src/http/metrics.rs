//! What the server counts about itself: bounded series, whatever is asked for.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use danube_core::{ErrorClass, JobState, LostReason};
use danube_store::JobTally;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::Api;
use super::problem::{Problem, Subject};

const REQUESTS: &str = "danube_http_requests_total";
const DURATION: &str = "danube_http_request_duration_seconds";
const STREAMS: &str = "danube_http_log_streams_open";
const PROVENANCE: &str = "danube_provenance_generated_total";

/// The histogram keeps every sample until somebody drains it, and perhaps nobody ever scrapes: after
/// so many requests the server does it itself.
const DRAIN_EVERY: u64 = 1024;

/// Tells the recorder what the names mean.
pub(super) fn describe() {
    metrics::describe_counter!(REQUESTS, "Requests answered, by matched route and status");
    metrics::describe_histogram!(
        DURATION,
        metrics::Unit::Seconds,
        "Time until the head of the answer was ready; bodies and streams go on after it"
    );
    metrics::describe_gauge!(STREAMS, "Log streams that are open");
    metrics::describe_counter!(
        PROVENANCE,
        "Jobs of this data directory, by any process, whose provenance was written (ok) or could not be signed or written (error)"
    );
}

/// Counts, by what is recorded, the jobs that have provenance and those lost for the want of it. A job has
/// succeeded when its provenance is written, and not before; it is lost for the reason `sign` when that, or signing
/// its artifacts, failed. Records of jobs are never deleted, so the numbers only grow.
async fn count_provenance(api: &Api) {
    let tally = match api.state.jobs.tally().await {
        Ok(tally) => tally,
        Err(error) => {
            tracing::warn!(%error, "cannot count jobs for the metrics");
            return;
        }
    };
    let count = |is_meant: fn(&JobTally) -> bool| -> u64 {
        tally.iter().filter(|tally| is_meant(tally)).map(|tally| tally.jobs).sum()
    };
    let ok = count(|tally| tally.state == JobState::Succeeded);
    let error = count(|tally| tally.lost_reason == Some(LostReason::Sign));
    metrics::counter!(PROVENANCE, "status" => "ok").absolute(ok);
    metrics::counter!(PROVENANCE, "status" => "error").absolute(error);
}

/// `GET /metrics`.
pub(super) async fn scrape(State(api): State<Api>) -> Response {
    count_provenance(&api).await;
    let text = api.state.metrics.render();
    let mut response = text.into_response();
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// Middleware: counts and times the request, and answers for a handler that panicked, so that one
/// request fails and not the connection with all its others.
pub(super) async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    // The route as it was declared, never the path that was asked for: that one has no bound.
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = route.unwrap_or("unmatched").to_owned();
    let begun = Instant::now();
    let response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => panicked(&route, &*panic),
    };
    let status = response.status().as_str().to_owned();
    let labels = [("route", route), ("status", status)];
    metrics::counter!(REQUESTS, &labels).increment(1);
    metrics::histogram!(DURATION, &labels).record(begun.elapsed());
    if api.answered.fetch_add(1, Ordering::Relaxed) % DRAIN_EVERY == DRAIN_EVERY - 1 {
        api.state.metrics.run_upkeep();
    }
    response
}

/// How many requests were answered since the start.
pub(super) type Answered = AtomicU64;

fn panicked(route: &str, panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(route, panic = text.unwrap_or("without a message"), "a handler panicked");
    let detail = "the server failed; its own log says why";
    let response = Problem::new(Subject::Request, ErrorClass::Internal, detail).into_response();
    debug_assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Counts one open stream for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenStream(());

impl OpenStream {
    pub(super) fn new() -> Self {
        metrics::gauge!(STREAMS).increment(1);
        Self(())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        metrics::gauge!(STREAMS).decrement(1);
    }
}
