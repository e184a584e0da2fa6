//! Artifacts: the list, one of them, its signature, and the provenance of the job.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{HeaderMap, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use danube_artifacts::{Access, ArtifactId, ArtifactRecord, BlobKey, Error};
use danube_core::{ArtifactName, ByteRange, ErrorClass, JobId};
use danube_store::JobRecord;
use serde::Deserialize;

use super::Api;
use super::content::Content;
use super::disposition::attachment;
use super::job::{Job, Params, path_parameter};
use super::problem::{Problem, Subject};
use crate::wire;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// `GET …/artifacts`: those that are stored and signed, by name.
pub(super) async fn list(
    State(api): State<Api>,
    Job(job): Job,
) -> Result<Json<wire::Artifacts>, Problem> {
    let listed = api.state.artifacts.list(&job.id).await;
    let mut records = listed.map_err(|e| Problem::of(Subject::Artifacts, e.class(), &e))?;
    records.retain(|record| record.state.is_kept());
    Ok(Json(wire::Artifacts::from_records(records)))
}

/// The artifact that the path's `{*name}` means.
pub(super) struct Name(ArtifactName);

impl FromRequestParts<Api> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let name = path_parameter(parts, "name").await?;
        name.parse().map(Self).map_err(|e| Problem::of(Subject::Artifact, ErrorClass::Invalid, &e))
    }
}

/// What is wanted of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    Signature,
    Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DownloadParams {
    part: Option<Wanted>,
}

/// `GET …/artifacts/{name}`: the file, or with `?part=signature` its signature, with `?part=metadata` its record.
/// `{name}.sig` gives the signature too, where no artifact has that name.
pub(super) async fn download(
    State(api): State<Api>,
    Job(job): Job,
    Name(name): Name,
    Params(params): Params<DownloadParams>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (record, wanted) = locate(&api, &job, &name, params.part).await?;
    match wanted {
        Some(Wanted::Metadata) => Ok(Json(wire::Artifact::from(record)).into_response()),
        Some(Wanted::Signature) => {
            let key = BlobKey::signature(&job.id, &record.name);
            send(&api, Subject::Signature, &key, None, None, &method, &headers).await
        }
        None => send_file(&api, &record, &method, &headers).await,
    }
}

async fn send_file(
    api: &Api,
    record: &ArtifactRecord,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let key = BlobKey::artifact(&record.job, &record.name);
    send(api, Subject::Artifact, &key, Some(content_of(record)), None, method, headers).await
}

/// The artifact whose own id stands in the path's `{id}`.
pub(super) struct ById(ArtifactRecord);

impl FromRequestParts<Api> for ById {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let typed = path_parameter(parts, "id").await?;
        let id: ArtifactId = typed.parse().map_err(|e| of_artifact(&e))?;
        let found = api.state.artifacts.find(&id).await;
        found.and_then(if_kept).map(Self).map_err(|e| of_artifact(&e))
    }
}

/// `GET /v1/artifacts/{artifact_id}/download`.
pub(super) async fn download_by_id(
    State(api): State<Api>,
    ById(record): ById,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    send_file(&api, &record, &method, &headers).await
}

/// `GET /v1/artifacts/{artifact_id}/metadata`.
pub(super) async fn metadata_by_id(ById(record): ById) -> Json<wire::Artifact> {
    Json(record.into())
}

/// The record of an artifact that is stored and signed, and which part of it is meant.
async fn locate(
    api: &Api,
    job: &JobRecord,
    name: &ArtifactName,
    wanted: Option<Wanted>,
) -> Result<(ArtifactRecord, Option<Wanted>), Problem> {
    match kept(api, &job.id, name).await {
        Err(Error::NoRecord { .. }) if wanted.is_none() => {
            let signed = name.as_str().strip_suffix(".sig").and_then(|name| name.parse().ok());
            let Some(signed) = signed else { return Err(missing(job, name)) };
            match kept(api, &job.id, &signed).await {
                Ok(record) => Ok((record, Some(Wanted::Signature))),
                Err(Error::NoRecord { .. }) => Err(missing(job, name)),
                Err(e) => Err(of_artifact(&e)),
            }
        }
        Err(Error::NoRecord { .. }) => Err(missing(job, name)),
        found => found.map(|record| (record, wanted)).map_err(|e| of_artifact(&e)),
    }
}

/// The record of an artifact that is stored and signed.
pub(super) async fn kept(
    api: &Api,
    job: &JobId,
    name: &ArtifactName,
) -> Result<ArtifactRecord, Error> {
    if_kept(api.state.artifacts.get(job, name).await?)
}

/// The record of something that is stored and signed; where it is kept is another matter.
fn if_kept(record: ArtifactRecord) -> Result<ArtifactRecord, Error> {
    if record.state.is_kept() {
        return Ok(record);
    }
    let ArtifactRecord { job, name, state, .. } = record;
    Err(Error::NotActive { job, name, state })
}

/// It is archived: the request is right, and somebody has to do something before it can be answered.
fn archived(key: &BlobKey, access: Access) -> Problem {
    let (job, path) = (key.job(), key.path());
    let detail = match access {
        Access::Restoring => {
            format!("{path} of job {job} is being restored: ask again in some hours")
        }
        _ => format!(
            "{path} of job {job} is archived: have it restored with `danube artifacts restore {job} {path}`, then \
             ask again"
        ),
    };
    Problem::http(StatusCode::CONFLICT, "artifact_archived", detail)
}

pub(super) fn of_artifact(error: &Error) -> Problem {
    Problem::of(Subject::Artifact, error.class(), error)
}

/// There is no such artifact, or there may have been one.
fn missing(job: &JobRecord, name: &ArtifactName) -> Problem {
    let id = &job.id;
    match job.artifacts_deleted_at {
        None => {
            let detail = format!("job {id} has no artifact {name:?}");
            Problem::new(Subject::Artifact, ErrorClass::NotFound, detail)
        }
        Some(at) => {
            let detail =
                format!("job {id} has no artifact {name:?}: its retention was over on {at}");
            Problem::new(Subject::Artifacts, ErrorClass::Gone, detail)
        }
    }
}

pub(super) fn content_of(record: &ArtifactRecord) -> Content {
    Content {
        len: record.size_bytes,
        media_type: HeaderValue::try_from(&record.content_type).unwrap_or(OCTETS),
        disposition: attachment(record.name.as_str()),
        // Computed from the bytes when they arrived: what has this tag has these bytes.
        etag: HeaderValue::try_from(format!("\"sha256-{}\"", record.digest)).ok(),
    }
}

/// `GET …/provenance`: the in-toto statement.
pub(super) async fn provenance(
    State(api): State<Api>,
    Job(job): Job,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = BlobKey::provenance(&job.id);
    send(&api, Subject::Provenance, &key, None, None, &method, &headers).await
}

/// `GET …/provenance.dsse`: the same in its signed envelope.
pub(super) async fn envelope(
    State(api): State<Api>,
    Job(job): Job,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = BlobKey::envelope(&job.id);
    send(&api, Subject::Provenance, &key, None, None, &method, &headers).await
}

/// Sends a blob, or the range of it that was asked for. `known` is what its record says; a blob
/// without a record says for itself what it is. Of `within` alone, where that is given: it then is all there is.
pub(super) async fn send(
    api: &Api,
    subject: Subject,
    key: &BlobKey,
    known: Option<Content>,
    within: Option<ByteRange>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let failed = |e: Error| match e {
        // It was readable a moment ago.
        Error::Archived { key } => archived(&key, Access::Archived),
        e => Problem::of(subject, e.class(), &e),
    };
    let blobs = api.state.artifacts.blobs();
    let stat = blobs.stat(key).await.map_err(failed)?;
    if !stat.access.is_readable() {
        return Err(archived(key, stat.access));
    }
    let len = stat.size_bytes;
    let mut content = known.unwrap_or_else(|| metadata(key, subject, len));
    if content.len != len {
        tracing::error!(%key, recorded = content.len, stored = len, "a stored file has changed");
        let detail = "the stored file is not what was recorded; danube verify-artifact says more";
        return Err(Problem::new(subject, ErrorClass::Internal, detail));
    }
    let mut begin = 0;
    if let Some(within) = within {
        let part = within.clamp_end(len);
        if part.is_empty() {
            let (key, start, size_bytes) = (key.clone(), within.start, len);
            return Err(failed(Error::OutOfRange { key, start, size_bytes }));
        }
        begin = part.start;
        // A part is not what the tag of the whole names.
        content = Content { len: part.len(), etag: None, ..content };
    }
    let asked = content.asked(method, headers)?;
    let ByteRange { start, end } = asked.bytes();
    if start == end {
        return Ok(asked.with_body(Body::empty()));
    }
    let range = ByteRange::new(begin + start, begin + end);
    let blob = blobs.get(key, Some(range)).await.map_err(failed)?;
    Ok(asked.with_body(Body::from_stream(blob.body)))
}

/// What Danube itself adds to a job's files.
fn metadata(key: &BlobKey, subject: Subject, len: u64) -> Content {
    let media_type = match subject {
        Subject::Provenance => HeaderValue::from_static("application/json"),
        _ => OCTETS,
    };
    Content { len, media_type, disposition: attachment(&key.path()), etag: None }
}
