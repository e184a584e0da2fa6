//! The envelope and the statement in it.

use std::path::{Path, PathBuf};

use danube_core::{JobId, Sha256Digest};

use super::parts::read_part;
use super::{Failure, Part, VerifyError, VerifyOptions, failure_of};
use crate::KeyId;
use crate::attest::{Envelope, MAX_PROVENANCE_BYTES, Statement, Subject};

/// A provenance whose signature holds and that meets what is expected of it.
pub(super) struct Provenance {
    envelope_path: PathBuf,
    pub(super) statement: Statement,
    pub(super) key_id: KeyId,
}

impl Provenance {
    pub(super) fn open(
        (envelope_path, payload_path): (PathBuf, PathBuf),
        options: &VerifyOptions,
        checks: &mut Vec<String>,
    ) -> Result<Self, VerifyError> {
        let envelope = read_part(Part::Envelope, &envelope_path, MAX_PROVENANCE_BYTES)?;
        let payload = read_part(Part::Provenance, &payload_path, MAX_PROVENANCE_BYTES)?;
        Self::check((envelope_path, envelope), (&payload_path, &payload), options, checks)
    }

    pub(super) fn check(
        (envelope_path, envelope_bytes): (PathBuf, Vec<u8>),
        (payload_path, payload_bytes): (&Path, &[u8]),
        options: &VerifyOptions,
        checks: &mut Vec<String>,
    ) -> Result<Self, VerifyError> {
        let refused = |failure, why: &dyn std::fmt::Display| {
            let reason = format!("{} {why}", envelope_path.display());
            VerifyError::new(Part::Envelope, failure, reason)
        };
        let malformed = |e: crate::Error| match e {
            crate::Error::Invalid { rule, .. } => refused(Failure::Malformed, &rule),
            other => refused(Failure::Malformed, &other),
        };
        let envelope = Envelope::parse(&envelope_bytes).map_err(malformed)?;
        let key_id = envelope.verify(&options.public_keys).map_err(|e| {
            refused(failure_of(&e), &format_args!("is not proved: its signature: {e}"))
        })?;
        checks.push(format!(
            "the envelope {} is spelled as Danube writes it, and its signature by key {} holds",
            envelope_path.display(),
            *key_id
        ));
        if payload_bytes != envelope.payload() {
            let payload_path = payload_path.display();
            let reason =
                format!("{payload_path} is not the payload of the envelope, byte for byte");
            return Err(VerifyError::new(Part::Provenance, Failure::Mismatch, reason));
        }
        checks.push(format!("{} is its payload byte for byte", payload_path.display()));

        let statement = Statement::parse(envelope.payload()).map_err(malformed)?;
        let source = statement.about().source.as_ref();
        let said = [
            (
                "job",
                options.expected_job.as_ref().map(JobId::as_str),
                Some(statement.job().as_str()),
            ),
            (
                "repository",
                options.expected_repository.as_deref(),
                source.map(|source| source.repository.as_str()),
            ),
            (
                "commit",
                options.expected_commit.as_deref(),
                source.map(|source| source.commit.as_str()),
            ),
        ];
        for (what, expected, found) in said {
            let Some(expected) = expected else { continue };
            if found != Some(expected) {
                let found = found.unwrap_or("none that it names");
                let why = format!("is of {what} {found}, not of {expected}");
                return Err(refused(Failure::Mismatch, &why));
            }
            checks.push(format!("it is of {what} {expected}, as expected"));
        }
        Ok(Self { key_id: key_id.into_inner(), statement, envelope_path })
    }

    /// The name of the subject that is meant and has this size and digest.
    pub(super) fn bind(
        &self,
        path: &Path,
        what: &str,
        is_meant: impl Fn(&Subject) -> bool,
        size_bytes: u64,
        digest: Sha256Digest,
        checks: &mut Vec<String>,
    ) -> Result<String, VerifyError> {
        let job = self.statement.job();
        let refused = |why: String| {
            let reason = format!("{} {why}", self.envelope_path.display());
            VerifyError::new(Part::Envelope, Failure::Mismatch, reason)
        };
        let meant: Vec<&Subject> =
            self.statement.subjects().iter().filter(|subject| is_meant(subject)).collect();
        let Some(first) = meant.first() else {
            return Err(refused(format!("says nothing about {what} (it is of job {job})")));
        };
        let Some(bound) = meant.iter().find(|subject| subject.digest.sha256 == digest) else {
            let reason = format!(
                "{} has the SHA-256 {digest}, and the provenance of job {job} says {} for {}",
                path.display(),
                first.digest.sha256,
                first.name
            );
            return Err(VerifyError::new(Part::Artifact, Failure::Mismatch, reason));
        };
        if bound.annotations.size != size_bytes {
            let said = bound.annotations.size;
            return Err(refused(format!(
                "says {said} bytes for {}, which has {size_bytes}",
                bound.name
            )));
        }
        let name = &bound.name;
        checks.push(format!("it binds the name {name}, the size and the SHA-256 to job {job}"));
        Ok(name.clone())
    }
}
