//! What the answers of S3 mean to a caller.

use std::error::Error as StdError;
use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use danube_core::ErrorClass;

/// A request that failed, in words that hold no credential and no signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The status of HTTP, where a response came.
    status: Option<u16>,
    /// The code of S3, for instance `NoSuchBucket`.
    code: Option<String>,
    said: String,
    request_id: Option<String>,
    pub(super) class: ErrorClass,
    /// Whether the request may have had its effect although it failed.
    pub(super) in_doubt: bool,
}

impl Fault {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>, bucket: &str) -> Self
    where
        E: ProvideErrorMetadata + RequestId + StdError + 'static,
    {
        let (status, code, message, request_id) = match error {
            SdkError::ServiceError(failed) => {
                let (raw, error) = (failed.raw(), failed.err());
                let own = |text: Option<&str>| text.map(str::to_owned);
                let status = raw.status().as_u16();
                let id = error.request_id();
                (Some(status), own(error.code()), own(error.message()), own(id))
            }
            SdkError::ResponseError(failed) => {
                (Some(failed.raw().status().as_u16()), None, None, None)
            }
            _ => (None, None, None, None),
        };
        // Half an answer is none, whatever its status is.
        let class = match error {
            SdkError::ResponseError(_) => ErrorClass::Unavailable,
            _ => class_of(status, code.as_deref()),
        };
        let mut said = message.unwrap_or_else(|| match code.is_some() {
            true => "the server refused it".to_owned(),
            false => chain(error),
        });
        match code.as_deref() {
            Some("NoSuchBucket") => {
                said = format!("there is no bucket {bucket}: create it, or name another one");
            }
            Some("PermanentRedirect" | "AuthorizationHeaderMalformed") => {
                said = format!("bucket {bucket} lies in another region: {said}");
            }
            _ => {}
        }
        let in_doubt = class == ErrorClass::Unavailable;
        Self { status, code, said, request_id, class, in_doubt }
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// A `HEAD` has no body, so its answer has no code.
    pub(super) fn is_absent(&self) -> bool {
        self.status == Some(404) && !self.is("NoSuchBucket") && !self.is("NoSuchUpload")
    }

    pub(super) fn is_unsupported(&self) -> bool {
        self.class == ErrorClass::Unsupported
    }

    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }
}

fn class_of(status: Option<u16>, code: Option<&str>) -> ErrorClass {
    match (status, code) {
        (_, Some("SlowDown" | "RequestTimeout" | "Throttling" | "ThrottlingException" | "InternalError"
            | "ServiceUnavailable" | "OperationAborted" | "ConditionalRequestConflict"
            // The bytes changed on their way: sending them again is right.
            | "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody")) => ErrorClass::Unavailable,
        (_, Some("NoSuchBucket")) => ErrorClass::Internal,
        (_, Some("QuotaExceeded" | "XMinioStorageFull" | "EntityTooLarge")) | (Some(507), _) => {
            ErrorClass::Exhausted
        }
        (_, Some("NotImplemented")) | (Some(501), _) => ErrorClass::Unsupported,
        (Some(401 | 403), _) => ErrorClass::Denied,
        (Some(404), _) => ErrorClass::NotFound,
        (Some(409 | 412), _) => ErrorClass::Conflict,
        // Nobody answered, or nobody could read the answer: an error in a response of 200, too.
        (None | Some(200..=299 | 408 | 429 | 500..=599), _) => ErrorClass::Unavailable,
        _ => ErrorClass::Internal,
    }
}

/// The causes one after another, each once.
fn chain(error: &dyn StdError) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !said.ends_with(&next) {
            said = format!("{said}: {next}");
        }
        cause = error.source();
    }
    said
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)?;
        let told = [
            self.status.map(|status| format!("status {status}")),
            self.code.clone(),
            self.request_id.as_ref().map(|id| format!("request {id}")),
        ];
        let told: Vec<_> = told.into_iter().flatten().collect();
        if told.is_empty() { Ok(()) } else { write!(f, " ({})", told.join(", ")) }
    }
}

impl StdError for Fault {}
