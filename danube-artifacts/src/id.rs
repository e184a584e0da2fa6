//! The id of an artifact.

use std::fmt;
use std::str::FromStr;

use danube_core::{ArtifactName, JobId, Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::{Builder, NoContext, Uuid};

use crate::Error;

/// The id of one artifact: a UUID, written in lower case with hyphens.
///
/// It stands for the bytes that were kept, not for their name: what replaces an artifact gets an id of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactId([u8; 16]);

impl ArtifactId {
    /// What a record has that is not stored yet.
    #[cfg(feature = "store")]
    pub(crate) const NONE: Self = Self([0; 16]);

    /// A new id: a UUID version 7 (RFC 9562), as jobs have. 74 of its bits are chosen at random, and new ones stand at
    /// the end of an index.
    #[must_use]
    pub fn mint(now: Timestamp) -> Self {
        // Before 1970 there is no such UUID; a clock that is so wrong still gets unique ids.
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let nanos = now.subsec_nanosecond().unsigned_abs();
        let time = uuid::Timestamp::from_unix(NoContext, seconds, nanos);
        Self(Uuid::new_v7(time).into_bytes())
    }

    /// The id that always follows from these parts: a UUID version 8 of their SHA-256.
    fn derived(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(Builder::from_custom_bytes(bytes).into_uuid().into_bytes())
    }

    /// The id of what an upload in parts becomes, however often it is completed.
    #[cfg(feature = "store")]
    pub(crate) fn of_upload(upload: &crate::UploadId) -> Self {
        Self::derived(&[b"upload", upload.as_str().as_bytes()])
    }

    /// The id of a record that was written before records had one.
    pub(crate) fn of_old(
        job: &JobId,
        name: &ArtifactName,
        digest: &Sha256Digest,
        created_at: Timestamp,
    ) -> Self {
        let created_at = created_at.as_millisecond().to_be_bytes();
        let (job, name) = (job.as_str().as_bytes(), name.as_str().as_bytes());
        Self::derived(&[b"record", job, name, digest.as_bytes(), &created_at])
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Uuid::from_bytes(self.0).hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl FromStr for ArtifactId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self, Error> {
        let read = Uuid::parse_str(id).ok().map(|uuid| Self(uuid.into_bytes()));
        // One spelling: the parser also takes braces, URNs and no hyphens at all.
        read.filter(|read| read.to_string().eq_ignore_ascii_case(id))
            .ok_or_else(|| Error::invalid("artifact id", id, "must be a UUID with hyphens"))
    }
}

impl TryFrom<String> for ArtifactId {
    type Error = Error;

    fn try_from(id: String) -> Result<Self, Error> {
        id.parse()
    }
}

impl From<ArtifactId> for String {
    fn from(id: ArtifactId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_differ_sort_by_time_and_are_read_back() {
        let [early, late] = [1_700_000_000, 1_700_000_001]
            .map(|second| ArtifactId::mint(Timestamp::from_second(second).unwrap()));
        assert!(early < late && early.to_string() < late.to_string());
        assert_ne!(early, ArtifactId::mint(Timestamp::from_second(1_700_000_000).unwrap()));
        assert_ne!(
            ArtifactId::mint(Timestamp::from_second(-5).unwrap()),
            ArtifactId::mint(Timestamp::from_second(-5).unwrap())
        );
        assert_eq!(early.to_string().parse::<ArtifactId>().unwrap(), early);
        assert_eq!(early.to_string().to_uppercase().parse::<ArtifactId>().unwrap(), early);
        assert_eq!(early.to_string().as_bytes()[14], b'7');
        let json = serde_json::to_string(&early).unwrap();
        assert_eq!(json, format!("\"{early}\""));
        assert_eq!(serde_json::from_str::<ArtifactId>(&json).unwrap(), early);
    }

    #[test]
    fn other_spellings_are_refused() {
        let id = ArtifactId::mint(Timestamp::UNIX_EPOCH).to_string();
        let bare = id.replace('-', "");
        for wrong in
            ["", "latest", &id[1..], &bare, &format!("{{{id}}}"), &format!("urn:uuid:{id}")]
        {
            assert!(wrong.parse::<ArtifactId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_follows_from_its_parts_does_so_each_time_and_from_nothing_else() {
        let (job, name) = ("j".parse().unwrap(), "a/b".parse().unwrap());
        let digest = Sha256Digest::from_bytes([7; 32]);
        let old = ArtifactId::of_old(&job, &name, &digest, Timestamp::UNIX_EPOCH);
        assert_eq!(old, ArtifactId::of_old(&job, &name, &digest, Timestamp::UNIX_EPOCH));
        assert_eq!(old.to_string().as_bytes()[14], b'8');
        let (other_job, other_name) = ("ja".parse().unwrap(), "/b"[1..].parse().unwrap());
        let shifted = ArtifactId::of_old(&other_job, &other_name, &digest, Timestamp::UNIX_EPOCH);
        assert_ne!(old, shifted);
    }
}
