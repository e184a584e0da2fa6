//! What is known about an artifact besides its bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use danube_core::{ArtifactName, JobId, Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize, Serializer};

use crate::{ArtifactId, Error};

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
    /// Stored and signed, and kept where nobody can read it before it is restored.
    Archived,
    /// Deleted, or being deleted.
    Deleted,
}

impl ArtifactState {
    /// Every one of them, in the order of a life.
    pub const ALL: &[Self] = &[Self::Uploading, Self::Active, Self::Archived, Self::Deleted];

    /// Its name, as it is stored and printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Active => "active",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
        }
    }

    /// Whether it is stored and signed, and nobody deleted it.
    #[must_use]
    pub const fn is_kept(self) -> bool {
        matches!(self, Self::Active | Self::Archived)
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

/// What sort of thing an artifact is; unless its owner says, its name and media type tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// Source code.
    Code,
    /// For people to read: Markdown, plain text, PDF, HTML, office documents.
    Document,
    /// A picture.
    Image,
    /// For programs to read: JSON, CSV, XML, databases.
    Data,
    /// What something said while it ran.
    Log,
    /// Anything else.
    Other,
}

/// File names of source code whose media types say nothing, or something else.
const CODE: &[&str] = &[
    "c", "cc", "cpp", "cs", "css", "go", "h", "hpp", "java", "js", "jsx", "kt", "lua", "mjs",
    "php", "pl", "proto", "py", "rb", "rs", "scala", "sh", "sql", "swift", "ts", "tsx", "zig",
];
const DATA: &[&str] = &[
    "arrow", "avro", "csv", "db", "json", "jsonl", "ndjson", "parquet", "sqlite", "toml", "tsv",
    "xml", "yaml", "yml",
];

impl ArtifactKind {
    /// Every one of them.
    pub const ALL: &[Self] =
        &[Self::Code, Self::Document, Self::Image, Self::Data, Self::Log, Self::Other];

    /// What a file of this name and media type is.
    #[must_use]
    pub fn of(name: &ArtifactName, content_type: &str) -> Self {
        let file = name.file_name();
        let extension = file.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        let extension = extension.as_deref().unwrap_or_default();
        match extension {
            "log" => return Self::Log,
            "md" | "txt" | "pdf" | "html" | "htm" | "rst" | "adoc" => return Self::Document,
            code if CODE.contains(&code) => return Self::Code,
            data if DATA.contains(&data) => return Self::Data,
            _ => {}
        }
        match content_type.split_once('/') {
            Some(("image", _)) => Self::Image,
            Some(("text", _)) => Self::Document,
            Some(("application", "json" | "xml" | "vnd.sqlite3")) => Self::Data,
            Some(("application", document)) => {
                let written = ["pdf", "msword", "rtf", "opendocument.text", "wordprocessingml"];
                let is_one = written.iter().any(|part| document.contains(part));
                if is_one { Self::Document } else { Self::Other }
            }
            _ => Self::Other,
        }
    }

    /// Its name, as it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Document => "document",
            Self::Image => "image",
            Self::Data => "data",
            Self::Log => "log",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ArtifactKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let rule = "is none of code, document, image, data, log, other";
            Error::invalid("artifact type", name, rule)
        })
    }
}

/// The record of one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct ArtifactRecord {
    /// Its own id; a record that was written before records had one gets one that follows from the rest.
    pub id: ArtifactId,
    /// The job that made it.
    pub job: JobId,
    /// Its name within the job.
    pub name: ArtifactName,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// The SHA-256 of its bytes, computed from what arrived.
    pub digest: Sha256Digest,
    /// Its media type, told by its first bytes and its name.
    pub content_type: String,
    /// What sort of thing it is.
    pub kind: ArtifactKind,
    /// Where it stands.
    pub state: ArtifactState,
    /// When it was stored, in whole milliseconds.
    pub created_at: Timestamp,
    /// When it was archived, in whole milliseconds; kept while it is `archived` and when that is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    /// How long its owner wants it kept, in whole seconds; `None` leaves it to the policy.
    #[serde(rename = "keep_for_seconds", serialize_with = "seconds")]
    pub keep_for: Option<Duration>,
    /// Whether retention never applies to it.
    pub keep_forever: bool,
    /// What its owner says about it.
    pub tags: BTreeMap<String, String>,
}

/// A record as any version wrote it.
#[derive(Deserialize)]
struct Written {
    id: Option<ArtifactId>,
    job: JobId,
    name: ArtifactName,
    size_bytes: u64,
    digest: Sha256Digest,
    content_type: String,
    kind: Option<ArtifactKind>,
    state: ArtifactState,
    created_at: Timestamp,
    archived_at: Option<Timestamp>,
    keep_for_seconds: Option<u64>,
    #[serde(default)]
    keep_forever: bool,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

impl From<Written> for ArtifactRecord {
    fn from(written: Written) -> Self {
        let Written { job, name, digest, content_type, created_at, .. } = written;
        Self {
            id: written.id.unwrap_or_else(|| ArtifactId::of_old(&job, &name, &digest, created_at)),
            size_bytes: written.size_bytes,
            kind: written.kind.unwrap_or_else(|| ArtifactKind::of(&name, &content_type)),
            state: written.state,
            archived_at: written.archived_at,
            keep_for: written.keep_for_seconds.map(Duration::from_secs),
            keep_forever: written.keep_forever,
            tags: written.tags,
            job,
            name,
            digest,
            content_type,
            created_at,
        }
    }
}

impl ArtifactRecord {
    /// When its own time is over; `None` where the policy decides, or it is kept for ever.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let keep_for = self.keep_for.filter(|_| !self.keep_forever)?;
        self.created_at.checked_add(keep_for).ok()
    }

    /// Whether the record keeps its bounds: a size below 2^63 (as files and SQL have it), at most [`MAX_TAGS`] tags, their keys 1 to
    /// [`MAX_TAG_KEY_BYTES`] and their values at most [`MAX_TAG_VALUE_BYTES`] bytes long, a content
    /// type of 1 to [`MAX_CONTENT_TYPE_BYTES`] bytes, no control characters in any of them, and a time of
    /// archiving if it is `archived` and none if it is `uploading` or `active`.
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
        let fits = match self.state {
            ArtifactState::Uploading | ArtifactState::Active => self.archived_at.is_none(),
            ArtifactState::Archived => self.archived_at.is_some(),
            ArtifactState::Deleted => true,
        };
        if !fits {
            let rule = format!("is {} and says otherwise when it was archived", self.state);
            return Err(Error::invalid("artifact", self.name.as_str(), rule));
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

/// What is to become different about a record; what is not said stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordChange {
    /// Only if the record is still that of this artifact, and not of one that replaced it.
    pub only: Option<ArtifactId>,
    /// Where it stands then. An artifact that becomes `uploading` or `active` loses its time of archiving.
    pub state: Option<ArtifactState>,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// How long its owner wants it kept then.
    pub keep_for: Option<Option<Duration>>,
    /// Whether retention never applies to it then.
    pub keep_forever: Option<bool>,
    /// Tags that it has then, and with `None` those that it has no more.
    pub tags: BTreeMap<String, Option<String>>,
}

impl RecordChange {
    /// To this state.
    #[must_use]
    pub fn state(state: ArtifactState) -> Self {
        Self { state: Some(state), ..Self::default() }
    }

    /// To `archived`, since `at`.
    #[must_use]
    pub fn archived(at: Timestamp) -> Self {
        Self { archived_at: Some(at), ..Self::state(ArtifactState::Archived) }
    }

    /// Only if the record is still that of this artifact.
    #[must_use]
    pub fn only(mut self, id: ArtifactId) -> Self {
        self.only = Some(id);
        self
    }

    /// Kept that long, counted in whole seconds; `None` leaves it to the policy.
    #[must_use]
    pub fn with_keep_for(mut self, keep_for: Option<Duration>) -> Self {
        self.keep_for = Some(keep_for);
        self
    }

    /// Kept for ever, or not any more.
    #[must_use]
    pub fn with_keep_forever(mut self, keep_forever: bool) -> Self {
        self.keep_forever = Some(keep_forever);
        self
    }

    /// With this tag.
    #[must_use]
    pub fn with_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), Some(value.into()));
        self
    }

    /// Without this tag.
    #[must_use]
    pub fn without_tag(mut self, key: impl Into<String>) -> Self {
        self.tags.insert(key.into(), None);
        self
    }

    /// The record as it is then.
    ///
    /// # Errors
    ///
    /// Those of [`ArtifactRecord::validate`]; [`Error::Replaced`] when the change is [`only`](Self::only) for another.
    pub fn apply(&self, record: &ArtifactRecord) -> Result<ArtifactRecord, Error> {
        let Self { only, state, archived_at, keep_for, keep_forever, tags } = self;
        if only.is_some_and(|only| only != record.id) {
            return Err(Error::Replaced { job: record.job.clone(), name: record.name.clone() });
        }
        let mut changed = record.clone();
        changed.state = state.unwrap_or(changed.state);
        changed.archived_at = match state {
            Some(ArtifactState::Uploading | ArtifactState::Active) => None,
            _ => archived_at.or(changed.archived_at),
        };
        changed.keep_forever = keep_forever.unwrap_or(changed.keep_forever);
        if let Some(keep_for) = keep_for {
            changed.keep_for = keep_for.map(|duration| Duration::from_secs(duration.as_secs()));
        }
        for (key, value) in tags {
            match value {
                Some(value) => drop(changed.tags.insert(key.clone(), value.clone())),
                None => drop(changed.tags.remove(key)),
            }
        }
        changed.validate()?;
        Ok(changed)
    }
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn seconds<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|duration| duration.as_secs()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_json_that_comes_back_and_old_json_is_read() {
        let id = ArtifactId::mint(Timestamp::UNIX_EPOCH);
        let record = ArtifactRecord {
            id,
            job: "j".parse().unwrap(),
            name: "out/a".parse().unwrap(),
            size_bytes: 7,
            digest: Sha256Digest::from_bytes([1; 32]),
            content_type: "text/plain".to_owned(),
            kind: ArtifactKind::Log,
            state: ArtifactState::Archived,
            created_at: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            archived_at: Some(Timestamp::UNIX_EPOCH),
            keep_for: Some(Duration::from_secs(60)),
            keep_forever: true,
            tags: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        };
        let digest = "01".repeat(32);
        let wanted = serde_json::json!({
            "id": id, "job": "j", "name": "out/a", "size_bytes": 7, "digest": digest,
            "content_type": "text/plain", "kind": "log", "state": "archived",
            "created_at": "2023-11-14T22:13:20.123Z", "archived_at": "1970-01-01T00:00:00Z",
            "keep_for_seconds": 60, "keep_forever": true, "tags": {"k": "v"},
        });
        assert_eq!(serde_json::to_value(&record).unwrap(), wanted);
        assert_eq!(serde_json::from_value::<ArtifactRecord>(wanted.clone()).unwrap(), record);

        let mut least = wanted;
        least["state"] = "active".into();
        for later in ["id", "kind", "archived_at", "keep_for_seconds", "keep_forever", "tags"] {
            least.as_object_mut().unwrap().remove(later);
        }
        let read: ArtifactRecord = serde_json::from_value(least.clone()).unwrap();
        assert_eq!((read.keep_for, read.keep_forever, read.tags.len()), (None, false, 0));
        assert_eq!((read.kind, read.archived_at), (ArtifactKind::Document, None));
        read.validate().unwrap();
        let again: ArtifactRecord = serde_json::from_value(least).unwrap();
        assert_eq!(read.id, again.id, "the id of an old record is always the same");
    }

    #[test]
    fn names_and_media_types_tell_what_a_file_is() {
        use ArtifactKind::{Code, Data, Document, Image, Log, Other};
        for (name, content_type, kind) in [
            ("src/main.rs", "text/x-rust", Code),
            ("app.JS", "text/javascript", Code),
            ("README.md", "text/markdown", Document),
            ("notes.txt", "text/plain", Document),
            ("report", "application/pdf", Document),
            ("LICENSE", "text/plain", Document),
            ("plot.png", "image/png", Image),
            ("plot", "image/svg+xml", Image),
            ("a.csv", "text/csv", Data),
            ("a", "application/json", Data),
            ("build.log", "text/plain", Log),
            ("a.tar.gz", "application/gzip", Other),
            ("a", "application/octet-stream", Other),
        ] {
            assert_eq!(ArtifactKind::of(&name.parse().unwrap(), content_type), kind, "{name}");
        }
        for kind in ArtifactKind::ALL {
            assert_eq!(kind.as_str().parse::<ArtifactKind>().unwrap(), *kind);
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{kind}\""));
        }
    }

    #[test]
    fn every_state_is_read_back_and_equals_its_json() {
        for state in ArtifactState::ALL {
            assert_eq!(state.as_str().parse::<ArtifactState>().unwrap(), *state);
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        assert!("cold".parse::<ArtifactState>().is_err());
    }

    #[test]
    fn a_change_is_for_one_artifact_and_archived_goes_with_its_time() {
        let id = ArtifactId::mint(Timestamp::UNIX_EPOCH);
        let active = ArtifactRecord {
            id,
            job: "j".parse().unwrap(),
            name: "a".parse().unwrap(),
            size_bytes: 7,
            digest: Sha256Digest::from_bytes([1; 32]),
            content_type: "text/plain".to_owned(),
            kind: ArtifactKind::Other,
            state: ArtifactState::Active,
            created_at: Timestamp::UNIX_EPOCH,
            archived_at: None,
            keep_for: None,
            keep_forever: false,
            tags: BTreeMap::new(),
        };
        let at = Timestamp::from_second(9).unwrap();
        let archived = RecordChange::archived(at).only(id).apply(&active).unwrap();
        assert_eq!((archived.state, archived.archived_at), (ArtifactState::Archived, Some(at)));
        let deleted = RecordChange::state(ArtifactState::Deleted).apply(&archived).unwrap();
        assert_eq!(deleted.archived_at, Some(at));
        let back = RecordChange::state(ArtifactState::Active).apply(&archived).unwrap();
        assert_eq!(back, active);
        assert!(RecordChange::state(ArtifactState::Archived).apply(&active).is_err());
        let other = RecordChange::default().only(ArtifactId::mint(at));
        assert!(matches!(other.apply(&active), Err(Error::Replaced { .. })));
    }
}
