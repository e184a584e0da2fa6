//! The HTTP side: jobs, logs and artifacts, read by programs and people on this machine.
//!
//! | path | gives |
//! |---|---|
//! | `/health`, `/metrics` | liveness; Prometheus text |
//! | `/api/v1/jobs`, `/api/v1/jobs/{id}` | the list, newest first; one job |
//! | `/api/v1/jobs/{id}/logs` | the log as a file |
//! | `/api/v1/jobs/{id}/logs/stream` | the log as server-sent events |
//! | `/api/v1/jobs/{id}/logs/search` | the lines that match |
//! | `/api/v1/jobs/{id}/logs/entries`, `…/logs/groups` | its lines as entries; its groups |
//! | `/api/v1/jobs/{id}/output` | its last lines |
//! | `/api/v1/jobs/{id}/artifacts`, `…/artifacts/{name}` | the list; one file, or its signature |
//! | `/api/v1/jobs/{id}/provenance`, `…/provenance.dsse` | what binds the files to the job |
//! | `/api/v1/links/{job}/{path}?…` | one artifact, got or put by whoever has the link |
//!
//! `{id}` is what a person may type: an id, a unique beginning or end of one, or `latest`. Every error
//! is a problem of RFC 9457 with a stable `code`.

mod artifacts;
mod connection;
mod content;
mod disposition;
mod host;
mod job;
mod links;
mod logs;
mod metrics;
mod problem;
mod range;
mod serve;
mod takeover;
mod views;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use danube_artifacts::Artifacts;
use danube_core::ErrorClass;
use danube_logs::LogStore;
use danube_store::JobStore;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;

use crate::wire;
use problem::{Problem, Subject};

pub(crate) use links::Links;
pub(crate) use serve::serve;

/// Log streams at once. A stalled one holds a piece or two of its log, and 64 KiB in the kernel: all of
/// them together a few hundred megabytes.
const MAX_STREAMS: usize = 2048;

/// Reads of whole logs at once: searches, entries, groups. Each takes a processor.
const MAX_SCANS: usize = 8;

/// What the handlers read from.
#[derive(Clone)]
pub(crate) struct HttpState {
    pub(crate) jobs: Arc<dyn JobStore>,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) artifacts: Artifacts,
    pub(crate) links: Links,
    pub(crate) metrics: PrometheusHandle,
}

/// The parts, and what this router counts of itself.
#[derive(Clone)]
struct Api {
    state: HttpState,
    streams: Arc<Semaphore>,
    scans: Arc<Semaphore>,
    puts: Arc<Semaphore>,
    answered: Arc<metrics::Answered>,
}

/// Every route. The recorder of the metrics is to be installed before, or they go nowhere.
pub(crate) fn router(state: HttpState) -> Router {
    with_max_streams(state, MAX_STREAMS)
}

fn with_max_streams(state: HttpState, max_streams: usize) -> Router {
    metrics::describe();
    let api = Api {
        state,
        streams: Arc::new(Semaphore::new(max_streams)),
        scans: Arc::new(Semaphore::new(MAX_SCANS)),
        puts: Arc::new(Semaphore::new(links::MAX_PUTS)),
        answered: Arc::default(),
    };
    let links = Router::new()
        .route("/api/v1/links/{job}/{*path}", get(links::get).put(links::put))
        // Before the layers, which then see what it answers, too: a preflight is no method of ours.
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(links::confidential));
    // Without an origin that is allowed, a preflight gets what every other unknown method gets.
    let links = match &*api.state.links.cors_origins {
        [] => links,
        origins => links.layer(links::cors(origins.to_vec())),
    };
    Router::new()
        .merge(links)
        .route("/health", get(health))
        .route("/metrics", get(metrics::scrape))
        .route("/api/v1/jobs", get(job::list))
        .route("/api/v1/jobs/{id}", get(job::one))
        .route("/api/v1/jobs/{id}/logs", get(logs::file))
        .route("/api/v1/jobs/{id}/logs/stream", get(logs::stream))
        .route("/api/v1/jobs/{id}/logs/search", get(views::search))
        .route("/api/v1/jobs/{id}/logs/entries", get(views::entries))
        .route("/api/v1/jobs/{id}/logs/groups", get(views::groups))
        .route("/api/v1/jobs/{id}/output", get(views::output))
        .route("/api/v1/jobs/{id}/artifacts", get(artifacts::list))
        .route("/api/v1/jobs/{id}/artifacts/{*name}", get(artifacts::download))
        .route("/api/v1/jobs/{id}/provenance", get(artifacts::provenance))
        .route("/api/v1/jobs/{id}/provenance.dsse", get(artifacts::envelope))
        // The paths that other documents promise; the same handlers.
        .route("/api/v1/artifacts/{id}", get(artifacts::list))
        .route("/api/v1/artifacts/{id}/{*name}", get(artifacts::download))
        .route("/v1/artifacts/{id}", get(artifacts::list))
        .route("/v1/artifacts/{id}/download", get(artifacts::download_by_id))
        .route("/v1/artifacts/{id}/metadata", get(artifacts::metadata_by_id))
        .route("/v1/runs/{id}/logs", get(views::entries_or_events))
        .route("/v1/runs/{id}/logs/stream", get(logs::stream))
        .route("/jobs/{id}/output", get(views::output))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn(host::only_this_machine))
        .layer(from_fn(harmless))
        .layer(from_fn_with_state(api.clone(), metrics::count))
        .with_state(api)
}

async fn health() -> Json<wire::Health> {
    Json(wire::Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

async fn not_found(uri: Uri) -> Problem {
    // The path may be anything, and of any length.
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(Subject::Request, ErrorClass::NotFound, format!("there is nothing at {path}"))
}

async fn method_not_allowed() -> Problem {
    let detail = "this API is read: with GET or HEAD; only a link may be for PUT";
    Problem::http(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// Middleware: whatever a job wrote, a browser neither guesses what it is nor runs it.
async fn harmless(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await.into_response();
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    );
    response
}

#[cfg(test)]
mod tests;
