//! Links: one artifact, got or put by whoever has the URL.
//!
//! The query of such a URL is a permission: nothing here tells it on, neither in a log nor in a metric nor in an
//! error.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE, REFERRER_POLICY,
};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use danube_artifacts::{
    BlobPart, ByteStream, Error, LinkGrant, LinkKey, LinkMethod, LinkRefusal, Verified,
};
use danube_core::{BoxError, Clock, ErrorClass};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout};
use tower_http::cors::CorsLayer;

use super::Api;
use super::artifacts;
use super::problem::{Problem, Subject};
use crate::wire;

/// Puts at once: each may hold 20 MiB in the store.
pub(super) const MAX_PUTS: usize = 16;

/// A put has to bring so much in so long, or it is broken off: a kibibyte in a second.
const PACE_BYTES: u64 = 64 * 1024;
const PACE: Duration = Duration::from_secs(60);

/// How long a browser may remember what it was told about an origin.
const REMEMBERED: Duration = Duration::from_mins(10);

/// What the routes of links need.
#[derive(Clone)]
pub(crate) struct Links {
    pub(crate) key: LinkKey,
    /// The pages that may use links from a browser.
    pub(crate) cors_origins: Vec<HeaderValue>,
    /// The largest artifact.
    pub(crate) max_bytes: u64,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What the request's link grants.
fn granted(api: &Api, method: LinkMethod, uri: &Uri) -> Result<Verified<LinkGrant>, Problem> {
    let links = &api.state.links;
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    Ok(links.key.verify(method, target, links.clock.now())?)
}

impl From<LinkRefusal> for Problem {
    fn from(refusal: LinkRefusal) -> Self {
        let code = match refusal {
            LinkRefusal::Expired { .. } => "link_expired",
            _ => "link_refused",
        };
        Self::http(StatusCode::FORBIDDEN, code, refusal.to_string())
    }
}

/// `GET /api/v1/links/{job}/{path}`: what the link is for, whole or by one range of it.
pub(super) async fn get(
    State(api): State<Api>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let grant = granted(&api, LinkMethod::Get, &uri)?;
    let (subject, content) = match grant.key.part() {
        BlobPart::Artifact(name) => {
            let record = artifacts::kept(&api, grant.key.job(), name).await;
            let record = record.map_err(|e| artifacts::of_artifact(&e))?;
            (Subject::Artifact, Some(artifacts::content_of(&record)))
        }
        BlobPart::Signature(_) => (Subject::Signature, None),
        BlobPart::Log => (Subject::Logs, None),
        _ => (Subject::Provenance, None),
    };
    artifacts::send(&api, subject, &grant.key, content, grant.range, &method, &headers).await
}

/// `PUT /api/v1/links/{job}/{path}`: stores the body as the link says. It becomes an artifact when it is adopted.
pub(super) async fn put(
    State(api): State<Api>,
    uri: Uri,
    request: Request,
) -> Result<(StatusCode, Json<wire::Stored>), Problem> {
    let grant = granted(&api, LinkMethod::Put, &uri)?;
    if request.headers().contains_key(CONTENT_RANGE) {
        return Err(Problem::invalid("a link takes the whole body: Content-Range has no meaning"));
    }
    let _slot = api.puts.try_acquire().map_err(|_| {
        let detail = format!("{MAX_PUTS} puts are under way: try again");
        Problem::new(Subject::Request, ErrorClass::Unavailable, detail)
    })?;
    let body = request.into_body();
    let (key, max_bytes) = (&grant.key, api.state.links.max_bytes);
    // Told before a byte of it is taken, where the request says its length.
    if let Some(actual) = body.size_hint().exact() {
        let key = key.clone();
        match grant.size_bytes {
            Some(expected) if actual != expected => {
                return Err(of_put(&Error::SizeMismatch { key, expected, actual }));
            }
            _ if actual > max_bytes => {
                return Err(of_put(&Error::TooLarge { key, limit_bytes: max_bytes }));
            }
            _ => {}
        }
    }
    let stored = api.state.artifacts.receive(&grant, paced(body), max_bytes).await;
    let stored = stored.map_err(|e| of_put(&e))?;
    Ok((StatusCode::CREATED, Json(stored.into())))
}

fn of_put(error: &Error) -> Problem {
    match error {
        Error::TooLarge { .. } => {
            Problem::http(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string())
        }
        _ => artifacts::of_artifact(error),
    }
}

/// The bytes of a body, as long as they come at the pace that is asked for. Only waiting for them counts, not what
/// the store takes its time for.
fn paced(body: Body) -> ByteStream {
    let state = (body.into_data_stream(), PACE, 0_u64);
    Box::pin(stream::unfold(Some(state), |state| async move {
        let (mut body, patience, come) = state?;
        let begun = Instant::now();
        match timeout(patience, body.next()).await {
            Err(_) => {
                let slow = format!("less than {PACE_BYTES} bytes came in {} s", PACE.as_secs());
                Some((Err(BoxError::from(slow)), None))
            }
            Ok(None) => None,
            Ok(Some(Err(e))) => Some((Err(e.into()), None)),
            Ok(Some(Ok(bytes))) => {
                let next = match come + bytes.len() as u64 {
                    enough if enough >= PACE_BYTES => (body, PACE, 0),
                    come => (body, patience.saturating_sub(begun.elapsed()), come),
                };
                Some((Ok(bytes), Some(next)))
            }
        }
    }))
}

/// Middleware: an answer to a link is kept by nobody, and the link is told to no other site.
pub(super) async fn confidential(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// What pages of these origins may do from a browser. No cookie and no password goes with it: the link is all.
pub(super) fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD, Method::PUT])
        .allow_headers([CONTENT_TYPE, RANGE, IF_RANGE, IF_NONE_MATCH])
        .expose_headers([ACCEPT_RANGES, CONTENT_RANGE, CONTENT_DISPOSITION, ETAG])
        .max_age(REMEMBERED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_too_slowly_is_broken_off_and_a_slow_one_is_not() {
        // A piece every 50 s: enough of them are fast enough, however long it takes.
        let dripping = |bytes: usize, pieces: usize| {
            let piece: Arc<[u8]> = vec![7; bytes].into();
            let body = stream::iter(0..pieces).then(move |_| {
                let piece = piece.to_vec();
                async move {
                    tokio::time::sleep(Duration::from_secs(50)).await;
                    Ok::<_, std::io::Error>(piece)
                }
            });
            paced(Body::from_stream(body)).collect::<Vec<_>>()
        };
        let enough = dripping(64 * 1024, 20).await;
        assert_eq!((enough.len(), enough.iter().filter(|c| c.is_err()).count()), (20, 0));
        let slow = dripping(1, 20).await;
        assert!(slow.len() == 2 && slow[1].is_err(), "{slow:?}");
    }
}
