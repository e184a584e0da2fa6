//! Errors as `application/problem+json` (RFC 9457), from one table.

use std::borrow::Cow;
use std::error::Error as StdError;

use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use danube_core::ErrorClass;

use crate::failure::Failure;
use crate::wire;

/// The media type of every error.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What an error is about; with the class it gives the `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Request,
    Job,
    AmbiguousJob,
    Logs,
    Artifact,
    Artifacts,
    Signature,
    Provenance,
}

/// The HTTP status of a class of errors: the one table.
fn status(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::Invalid => StatusCode::BAD_REQUEST,
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::Gone => StatusCode::GONE,
        ErrorClass::Conflict => StatusCode::CONFLICT,
        ErrorClass::Denied => StatusCode::FORBIDDEN,
        ErrorClass::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
        ErrorClass::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The stable `code`: programs compare it, so it never changes once it is out.
fn code(subject: Subject, class: ErrorClass) -> &'static str {
    match (class, subject) {
        (ErrorClass::NotFound, Subject::Job) => "job_not_found",
        (ErrorClass::NotFound, Subject::Logs) => "logs_not_available",
        (ErrorClass::NotFound, Subject::Artifact | Subject::Artifacts) => "artifact_not_found",
        (ErrorClass::NotFound, Subject::Signature) => "signature_not_found",
        (ErrorClass::NotFound, Subject::Provenance) => "provenance_not_found",
        (ErrorClass::NotFound, Subject::Request) => "not_found",
        (ErrorClass::Gone, Subject::Logs) => "logs_deleted",
        (ErrorClass::Gone, Subject::Artifact) => "artifact_deleted",
        (ErrorClass::Gone, _) => "artifacts_deleted",
        (ErrorClass::Unavailable, Subject::Artifact) => "artifact_not_ready",
        (ErrorClass::Invalid, Subject::AmbiguousJob) => "job_ambiguous",
        (ErrorClass::Invalid, _) => "invalid_request",
        (ErrorClass::Conflict, _) => "conflict",
        (ErrorClass::Denied, _) => "denied",
        (ErrorClass::Exhausted, _) => "exhausted",
        (ErrorClass::Unsupported, _) => "unsupported",
        (ErrorClass::Unavailable, _) => "unavailable",
        _ => "internal",
    }
}

/// An error on its way to a client.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem with a subject of ours.
    pub(super) fn new(
        subject: Subject,
        class: ErrorClass,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut problem = Self::http(status(class), code(subject, class), detail);
        if class.is_retryable() {
            problem = problem.with_header(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        problem
    }

    /// A problem of HTTP itself, which no class stands for.
    pub(super) fn http(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new() }
    }

    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Subject::Request, ErrorClass::Invalid, detail)
    }

    /// An error of one of the crates, told with its causes. A fault of ours is told to the server's
    /// own log; the client learns that there is one.
    pub(super) fn of(subject: Subject, class: ErrorClass, error: &dyn StdError) -> Self {
        let sentence = Failure::of(class, error).to_string();
        if status(class) == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %sentence, ?subject, "a request failed");
            return Self::new(subject, class, "the server failed; its own log says why");
        }
        Self::new(subject, class, sentence)
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, code, detail, headers } = self;
        let body = wire::Problem::new(status.as_u16(), status.canonical_reason(), code, &detail);
        let mut response = (status, body.to_json()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
        response.headers_mut().extend(headers);
        response
    }
}

/// The extractors of axum, with our answer to what they refuse.
macro_rules! of_rejection {
    ($($rejection:ty),+) => {$(
        impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Self {
                Self::http(rejection.status(), "invalid_request", rejection.body_text())
            }
        }
    )+};
}

of_rejection!(axum::extract::rejection::PathRejection, axum::extract::rejection::QueryRejection);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_status_and_every_subject_a_code() {
        use ErrorClass as C;
        for (subject, class, expected) in [
            (Subject::Job, C::NotFound, (404, "job_not_found")),
            (Subject::AmbiguousJob, C::Invalid, (400, "job_ambiguous")),
            (Subject::Job, C::Conflict, (409, "conflict")),
            (Subject::Logs, C::NotFound, (404, "logs_not_available")),
            (Subject::Logs, C::Gone, (410, "logs_deleted")),
            (Subject::Artifact, C::NotFound, (404, "artifact_not_found")),
            (Subject::Artifact, C::Gone, (410, "artifact_deleted")),
            (Subject::Artifact, C::Unavailable, (503, "artifact_not_ready")),
            (Subject::Artifacts, C::Gone, (410, "artifacts_deleted")),
            (Subject::Provenance, C::NotFound, (404, "provenance_not_found")),
            (Subject::Request, C::Invalid, (400, "invalid_request")),
            (Subject::Logs, C::Denied, (403, "denied")),
            (Subject::Logs, C::Exhausted, (507, "exhausted")),
            (Subject::Logs, C::Unsupported, (501, "unsupported")),
            (Subject::Job, C::Unavailable, (503, "unavailable")),
            (Subject::Logs, C::Internal, (500, "internal")),
        ] {
            assert_eq!((status(class).as_u16(), code(subject, class)), expected, "{subject:?}");
        }
    }

    #[test]
    fn a_fault_of_ours_is_told_to_our_log_and_not_to_the_client() {
        let failed = |cause: std::io::ErrorKind| {
            let error = danube_artifacts::Error::io(&"files", "read a".into(), cause.into());
            Problem::of(Subject::Artifact, error.class(), &error)
        };
        let full = failed(std::io::ErrorKind::StorageFull);
        assert_eq!(full.status, StatusCode::INSUFFICIENT_STORAGE);
        assert!(full.detail.starts_with("files could not read a: "), "{}", full.detail);
        let broken = failed(std::io::ErrorKind::Other);
        assert_eq!(broken.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!broken.detail.contains("files"), "{}", broken.detail);
    }
}
