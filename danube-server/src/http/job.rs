//! Jobs: the list, one of them, and how a path names one.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{HeaderValue, LINK};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use danube_store::{JobCursor, JobQuery, JobRecord, JobStoreExt, MAX_JOBS_PER_LIST};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Api;
use super::problem::{Problem, Subject};
use crate::wire;

/// Jobs on a page unless told otherwise, as `danube jobs` lists.
const DEFAULT_LIMIT: usize = 50;

/// The job that the path's `{id}` means.
pub(super) struct Job(pub(super) JobRecord);

impl FromRequestParts<Api> for Job {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let typed = path_parameter(parts, "id").await?;
        Ok(Self(find(api, &typed).await?))
    }
}

async fn find(api: &Api, typed: &str) -> Result<JobRecord, Problem> {
    let id = api.state.jobs.resolve(typed).await?;
    Ok(api.state.jobs.get(&id).await?)
}

/// One parameter of the path, percent-decoded.
pub(super) async fn path_parameter(parts: &mut Parts, name: &str) -> Result<String, Problem> {
    let Path(mut all) = Path::<BTreeMap<String, String>>::from_request_parts(parts, &()).await?;
    // Every route that asks declares it.
    all.remove(name).ok_or_else(|| Problem::invalid(format!("the path has no {name}")))
}

/// The query, where an unknown parameter or a wrong value is a problem like any other.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let Query(params) = Query::<T>::from_request_parts(parts, api).await?;
        Ok(Self(params))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    limit: Option<usize>,
    before: Option<String>,
}

/// `GET /api/v1/jobs`: newest first. Where there may be more, a `Link` of the relation `next` says
/// where (RFC 8288).
pub(super) async fn list(
    State(api): State<Api>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let mut query = JobQuery::default().with_limit(DEFAULT_LIMIT);
    if let Some(limit) = params.limit {
        if !(1..=MAX_JOBS_PER_LIST).contains(&limit) {
            return Err(Problem::invalid(format!("limit must be 1 to {MAX_JOBS_PER_LIST}")));
        }
        query = query.with_limit(limit);
    }
    if let Some(before) = &params.before {
        query = query.with_before(JobCursor::from(&find(&api, before).await?));
    }
    let jobs = api.state.jobs.list(&query).await?;
    let next = jobs
        .last()
        .filter(|_| jobs.len() == query.limit)
        .map(|job| format!("</api/v1/jobs?limit={}&before={}>; rel=\"next\"", query.limit, job.id));
    let mut response = Json(wire::Jobs::from_records(jobs)).into_response();
    if let Some(Ok(next)) = next.map(HeaderValue::try_from) {
        response.headers_mut().insert(LINK, next);
    }
    Ok(response)
}

/// `GET /api/v1/jobs/{id}`.
pub(super) async fn one(Job(job): Job) -> Json<wire::Job> {
    Json(job.into())
}

impl From<danube_store::Error> for Problem {
    fn from(error: danube_store::Error) -> Self {
        let subject = match &error {
            danube_store::Error::Ambiguous { .. } => Subject::AmbiguousJob,
            _ => Subject::Job,
        };
        Self::of(subject, error.class(), &error)
    }
}
