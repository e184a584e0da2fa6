//! Links: requests that carry their own permission.

use std::fmt;
use std::time::Duration;

use danube_core::{ByteRange, Sha256Digest, Timestamp};

use crate::Error;

/// How long a link holds unless somebody says otherwise: 15 minutes.
pub const DEFAULT_LINK_LIFE: Duration = Duration::from_mins(15);
/// The longest a link may hold: 7 days, which is what S3 allows (Signature Version 4, query parameters).
pub const MAX_LINK_LIFE: Duration = Duration::from_hours(7 * 24);

/// What a link may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkMethod {
    /// Reading the blob.
    Get,
    /// Storing it.
    Put,
}

impl LinkMethod {
    /// The method of HTTP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }
}

impl fmt::Display for LinkMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a link is to allow.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LinkOptions {
    /// What it may be used for.
    pub method: LinkMethod,
    /// How long it holds, in whole seconds.
    pub expires_in: Duration,
    /// Of a `Get`: the only range that may be read.
    pub range: Option<ByteRange>,
    /// Of a `Put`: how many bytes must come.
    pub size_bytes: Option<u64>,
    /// Of a `Put`: what they must hash to.
    pub expected: Option<Sha256Digest>,
}

impl LinkOptions {
    /// Reading for [`DEFAULT_LINK_LIFE`].
    #[must_use]
    pub const fn get() -> Self {
        Self {
            method: LinkMethod::Get,
            expires_in: DEFAULT_LINK_LIFE,
            range: None,
            size_bytes: None,
            expected: None,
        }
    }

    /// Storing something new for [`DEFAULT_LINK_LIFE`].
    #[must_use]
    pub const fn put() -> Self {
        Self { method: LinkMethod::Put, ..Self::get() }
    }

    /// Holding that long.
    #[must_use]
    pub const fn with_expires_in(mut self, expires_in: Duration) -> Self {
        self.expires_in = expires_in;
        self
    }

    /// Only this range.
    #[must_use]
    pub const fn with_range(mut self, range: ByteRange) -> Self {
        self.range = Some(range);
        self
    }

    /// Only so many bytes.
    #[must_use]
    pub const fn with_size_bytes(mut self, size_bytes: u64) -> Self {
        self.size_bytes = Some(size_bytes);
        self
    }

    /// Only bytes with this digest.
    #[must_use]
    pub const fn with_expected(mut self, digest: Sha256Digest) -> Self {
        self.expected = Some(digest);
        self
    }

    /// What every backend refuses in the same way: a life outside of a second to [`MAX_LINK_LIFE`], an empty
    /// range, and what does not belong to the method.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub fn validate(&self) -> Result<(), Error> {
        let refused = |value: String, rule| Err(Error::invalid("link", &value, rule));
        if !(1..=MAX_LINK_LIFE.as_secs()).contains(&self.expires_in.as_secs()) {
            let value = format!("of {} s", self.expires_in.as_secs());
            return refused(value, "must hold for 1 second to 7 days");
        }
        match self.method {
            LinkMethod::Get if self.size_bytes.is_some() || self.expected.is_some() => {
                refused("GET".to_owned(), "takes no size and no digest")
            }
            LinkMethod::Put if self.range.is_some() => refused("PUT".to_owned(), "takes no range"),
            _ if self.range.is_some_and(|range| range.is_empty()) => {
                refused("GET".to_owned(), "has an empty range")
            }
            _ => Ok(()),
        }
    }
}

/// A request that anybody may make until it expires, without any other permission. Whoever has it has the
/// permission: it belongs into no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The method of the request.
    pub method: LinkMethod,
    /// Where it goes.
    pub url: String,
    /// The headers that it must have.
    pub headers: Vec<(String, String)>,
    /// When it holds no more.
    pub expires_at: Timestamp,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.split_once('?').map_or(&*self.url, |(path, _)| path);
        f.debug_struct("Link")
            .field("method", &self.method)
            .field("url", &url)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_backend_could_keep_is_refused() {
        let digest = Sha256Digest::from_bytes([1; 32]);
        let range = ByteRange::new(3, 9);
        for (options, holds) in [
            (LinkOptions::get(), true),
            (LinkOptions::get().with_range(range), true),
            (LinkOptions::get().with_range(ByteRange::new(3, 3)), false),
            (LinkOptions::get().with_size_bytes(1), false),
            (LinkOptions::get().with_expected(digest), false),
            (LinkOptions::get().with_expires_in(MAX_LINK_LIFE), true),
            (LinkOptions::get().with_expires_in(MAX_LINK_LIFE + Duration::from_secs(1)), false),
            (LinkOptions::get().with_expires_in(Duration::from_millis(999)), false),
            (LinkOptions::put().with_size_bytes(1).with_expected(digest), true),
            (LinkOptions::put().with_range(range), false),
        ] {
            assert_eq!(options.validate().is_ok(), holds, "{options:?}");
        }
    }

    #[test]
    fn a_printed_link_opens_nothing() {
        let link = Link {
            method: LinkMethod::Get,
            url: "http://h/a?signature=SECRET".to_owned(),
            headers: Vec::new(),
            expires_at: Timestamp::UNIX_EPOCH,
        };
        let printed = format!("{link:?}");
        assert!(printed.contains("http://h/a") && !printed.contains("SECRET"), "{printed}");
    }
}
