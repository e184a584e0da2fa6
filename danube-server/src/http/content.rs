//! Bytes that are sent whole or by one range.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderMap, HeaderValue,
};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use danube_core::ByteRange;

use super::problem::Problem;
use super::range::Part;

/// Something that has a length.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) len: u64,
    pub(super) media_type: HeaderValue,
    pub(super) disposition: HeaderValue,
    /// Given where the bytes under this name never change.
    pub(super) etag: Option<HeaderValue>,
}

/// The part of a [`Content`] that a request asked for.
#[derive(Debug)]
pub(super) struct Asked {
    content: Content,
    part: Part,
}

impl Content {
    /// Which part of it is asked for; 416 when none of it can be.
    pub(super) fn asked(self, method: &Method, headers: &HeaderMap) -> Result<Asked, Problem> {
        let part = Part::asked(method, headers, self.len, self.etag.as_ref());
        if part == Part::Unsatisfiable {
            let detail = format!("the range begins beyond the end: there are {} bytes", self.len);
            let problem =
                Problem::http(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
            return Err(match content_range(part, self.len) {
                Some(range) => problem.with_header(CONTENT_RANGE, range),
                None => problem,
            });
        }
        Ok(Asked { content: self, part })
    }
}

impl Asked {
    /// The bytes that the body must give.
    pub(super) fn bytes(&self) -> ByteRange {
        self.part.bytes(self.content.len)
    }

    /// The answer, with `body` for [`bytes`](Self::bytes).
    pub(super) fn with_body(self, body: Body) -> Response {
        let range = self.bytes();
        let Self { content: Content { len, media_type, disposition, etag }, part } = self;
        let mut response = part.status().into_response();
        let headers = response.headers_mut();
        // Whoever keeps a copy asks again whether it is the last word.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(etag) = etag {
            headers.insert(ETAG, etag);
        }
        if part == Part::NotModified {
            // The length that the whole would have: any other would be a lie about the copy.
            headers.insert(CONTENT_LENGTH, len.into());
            return response;
        }
        headers.insert(CONTENT_TYPE, media_type);
        headers.insert(CONTENT_DISPOSITION, disposition);
        headers.insert(CONTENT_LENGTH, range.len().into());
        if let Some(range) = content_range(part, len) {
            headers.insert(CONTENT_RANGE, range);
        }
        *response.body_mut() = body;
        response
    }
}

fn content_range(part: Part, len: u64) -> Option<HeaderValue> {
    part.content_range(len).and_then(|text| HeaderValue::try_from(text).ok())
}
