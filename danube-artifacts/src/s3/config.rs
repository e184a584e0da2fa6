//! Which bucket, and how it is reached.

use crate::Error;

/// Where a job's blobs begin in the bucket unless somebody says otherwise.
pub const DEFAULT_PREFIX: &str = "artifacts/";
/// What is left of a key of 1,024 bytes for a job's id and a name of some length.
const MAX_PREFIX_BYTES: usize = 256;

/// A bucket of S3, or of a server that speaks its protocol. It holds no credentials: those come from where every
/// tool of AWS looks for them, which [`S3Blobs::connect`](super::S3Blobs::connect) tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket, which exists already.
    pub bucket: String,
    /// Its region; `None` for what the environment or the profile says.
    pub region: Option<String>,
    /// The address of a server that is not AWS, for instance `http://minio:9000`.
    pub endpoint: Option<String>,
    /// Whether the bucket's name stands in the path instead of the host's name.
    pub path_style: bool,
    /// What every key begins with: empty, or with a `/` at its end. Everything below it belongs to Danube.
    pub prefix: String,
}

impl S3Config {
    /// A bucket of AWS, its blobs below `artifacts/`.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        let (bucket, prefix) = (bucket.into(), DEFAULT_PREFIX.to_owned());
        Self { bucket, region: None, endpoint: None, path_style: false, prefix }
    }

    /// In this region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Of this server instead of AWS, the bucket's name in the path: what most of them understand.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self.path_style = true;
        self
    }

    /// With the bucket's name in the path, or in the host's name.
    #[must_use]
    pub fn with_path_style(mut self, path_style: bool) -> Self {
        self.path_style = path_style;
        self
    }

    /// With keys that begin so.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Refuses what no server could take, before anybody asks one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], which names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        let bytes = || self.bucket.bytes();
        if !(3..=63).contains(&self.bucket.len())
            || !bytes().all(allowed)
            || !edge(bytes().next())
            || !edge(bytes().last())
        {
            let rule = "must be 3 to 63 of a-z, 0-9, '-' and '.', and begin and end with one of a-z and 0-9";
            return Err(Error::invalid("S3 bucket", &self.bucket, rule));
        }
        if let Some(region) = &self.region
            && (region.is_empty()
                || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        {
            return Err(Error::invalid("S3 region", region, "must be a name such as eu-central-1"));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint)?;
        }
        let prefix = self.prefix.as_str();
        let segments = prefix.strip_suffix('/').map(|path| path.split('/'));
        let refused = match segments {
            None => !prefix.is_empty(),
            Some(mut segments) => segments.any(|segment| matches!(segment, "" | "." | "..")),
        };
        if refused || prefix.len() > MAX_PREFIX_BYTES || prefix.chars().any(char::is_control) {
            let rule = "must be empty, or a relative path of at most 256 bytes that ends in '/'";
            return Err(Error::invalid("S3 prefix", prefix, rule));
        }
        Ok(())
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), Error> {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    // A name and password in it would be printed wherever the store is named.
    if host.is_some_and(|host| host.contains('@')) {
        let rule = "must not contain credentials: they come from the environment or a profile";
        return Err(Error::invalid("S3 endpoint", "with '@'", rule));
    }
    let refused = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#');
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') && !host.contains(refused) => {
            Ok(())
        }
        _ => Err(Error::invalid("S3 endpoint", endpoint, "must be http:// or https:// and a host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_server_could_take_is_refused_with_the_setting_named() {
        let good = S3Config::new("my-bucket.1");
        for good in [
            good.clone(),
            good.clone().with_prefix(""),
            good.clone().with_prefix("ci/artifacts/"),
            good.clone().with_region("eu-central-1"),
            good.clone().with_endpoint("http://127.0.0.1:9000"),
            good.clone().with_endpoint("https://minio.example/base"),
        ] {
            good.validate().unwrap();
        }
        for (bad, what) in [
            (S3Config::new("ab"), "S3 bucket"),
            (S3Config::new("Upper"), "S3 bucket"),
            (S3Config::new("a/b"), "S3 bucket"),
            (S3Config::new("-abc"), "S3 bucket"),
            (good.clone().with_prefix("/a/"), "S3 prefix"),
            (good.clone().with_prefix("a"), "S3 prefix"),
            (good.clone().with_prefix("a//"), "S3 prefix"),
            (good.clone().with_prefix("a/../"), "S3 prefix"),
            (good.clone().with_region(""), "S3 region"),
            (good.clone().with_endpoint("minio:9000"), "S3 endpoint"),
            (good.clone().with_endpoint("http://"), "S3 endpoint"),
            (good.clone().with_endpoint("http://h/?x=1"), "S3 endpoint"),
            (good.clone().with_endpoint("http://user:hunter2@minio:9000"), "S3 endpoint"),
        ] {
            let said = bad.validate().unwrap_err().to_string();
            assert!(said.starts_with(what) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn an_endpoint_means_the_path_unless_somebody_says_otherwise() {
        let endpoint = S3Config::new("abc").with_endpoint("http://h");
        assert!(endpoint.path_style && !S3Config::new("abc").path_style);
        assert!(!endpoint.with_path_style(false).path_style);
    }
}
