//! What is known about an artifact besides its bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use danube_core::{ArtifactName, JobId, Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Tags an artifact may have.
pub const MAX_TAGS: usize = 64;
/// Bytes of a tag's key.
pub const MAX_TAG_KEY_BYTES: usize = 128;
/// Bytes of a tag's value.
pub const MAX_TAG_VALUE_BYTES: usize = 1024;
/// Bytes of a content type (RFC 6838 allows 127 on each side of the slash).
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// Where an artifact stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactState {
    /// Its bytes are stored, its signature is not yet.
    Uploading,
    /// Stored, signed, readable.
    Active,
    /// Deleted, or being deleted.
    Deleted,
}

impl ArtifactState {
    /// Every one of them, in the order of a life.
    pub const ALL: &[Self] = &[Self::Uploading, Self::Active, Self::Deleted];

    /// Its name, as it is stored and printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }
}

impl fmt::Display for ArtifactState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ArtifactState {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .copied()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| Error::invalid("artifact state", name, "is not known"))
    }
}

/// The record of one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// The job that made it.
    pub job: JobId,
    /// Its name within the job.
    pub name: ArtifactName,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// The SHA-256 of its bytes, computed from what arrived.
    pub digest: Sha256Digest,
    /// Its media type, told by its name.
    pub content_type: String,
    /// Where it stands.
    pub state: ArtifactState,
    /// When it was stored, in whole milliseconds.
    pub created_at: Timestamp,
    /// How long its owner wants it kept, in whole seconds; `None` leaves it to the policy.
    #[serde(rename = "keep_for_seconds", with = "seconds", default)]
    pub keep_for: Option<Duration>,
    /// Whether retention never applies to it.
    #[serde(default)]
    pub keep_forever: bool,
    /// What its owner says about it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl ArtifactRecord {
    /// Whether the record keeps its bounds: a size below 2^63 (as files and SQL have it), at most [`MAX_TAGS`] tags, their keys 1 to
    /// [`MAX_TAG_KEY_BYTES`] and their values at most [`MAX_TAG_VALUE_BYTES`] bytes long, a content
    /// type of 1 to [`MAX_CONTENT_TYPE_BYTES`] bytes, and no control characters in any of them.
    /// Every [`ArtifactIndex::put`](crate::ArtifactIndex::put) asks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub fn validate(&self) -> Result<(), Error> {
        let clean = |text: &str| !text.chars().any(char::is_control);
        if i64::try_from(self.size_bytes).is_err() {
            return Err(Error::invalid("artifact", self.name.as_str(), "is longer than any file"));
        }
        let content_type = &self.content_type;
        if content_type.is_empty()
            || content_type.len() > MAX_CONTENT_TYPE_BYTES
            || !clean(content_type)
        {
            let rule = format!("must be 1 to {MAX_CONTENT_TYPE_BYTES} bytes without controls");
            return Err(Error::invalid("content type", content_type, rule));
        }
        if self.tags.len() > MAX_TAGS {
            let rule = format!("has more than {MAX_TAGS} tags");
            return Err(Error::invalid("artifact", self.name.as_str(), rule));
        }
        for (key, value) in &self.tags {
            if key.is_empty() || key.len() > MAX_TAG_KEY_BYTES || !clean(key) {
                let rule = format!("must be 1 to {MAX_TAG_KEY_BYTES} bytes without controls");
                return Err(Error::invalid("tag", key, rule));
            }
            if value.len() > MAX_TAG_VALUE_BYTES || !clean(value) {
                let rule = format!(
                    "must have a value of at most {MAX_TAG_VALUE_BYTES} bytes without controls"
                );
                return Err(Error::invalid("tag", key, rule));
            }
        }
        Ok(())
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|duration| duration.as_secs()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_json_that_comes_back_and_old_json_is_read() {
        let record = ArtifactRecord {
            job: "j".parse().unwrap(),
            name: "out/a".parse().unwrap(),
            size_bytes: 7,
            digest: Sha256Digest::from_bytes([1; 32]),
            content_type: "text/plain".to_owned(),
            state: ArtifactState::Active,
            created_at: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            keep_for: Some(Duration::from_secs(60)),
            keep_forever: true,
            tags: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        };
        let digest = "01".repeat(32);
        let wanted = serde_json::json!({
            "job": "j", "name": "out/a", "size_bytes": 7, "digest": digest,
            "content_type": "text/plain", "state": "active",
            "created_at": "2023-11-14T22:13:20.123Z", "keep_for_seconds": 60, "keep_forever": true,
            "tags": {"k": "v"},
        });
        assert_eq!(serde_json::to_value(&record).unwrap(), wanted);
        assert_eq!(serde_json::from_value::<ArtifactRecord>(wanted.clone()).unwrap(), record);

        let mut least = wanted;
        for later in ["keep_for_seconds", "keep_forever", "tags"] {
            least.as_object_mut().unwrap().remove(later);
        }
        let read: ArtifactRecord = serde_json::from_value(least).unwrap();
        assert_eq!((read.keep_for, read.keep_forever, read.tags.len()), (None, false, 0));
    }

    #[test]
    fn every_state_is_read_back_and_equals_its_json() {
        for state in ArtifactState::ALL {
            assert_eq!(state.as_str().parse::<ArtifactState>().unwrap(), *state);
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        assert!("cold".parse::<ArtifactState>().is_err());
    }
}
