//! Verifying a file offline: nothing but the file, its signature, its provenance and a trusted key.
//!
//! [`verify_file`] verifies an artifact, [`verify_log`] the log of a job ([`verify_log_in`] where it is
//! compressed), [`verify_fetched`] either where they are no files. They block, read the file once, and
//! hold no more of it than a chunk.
//!
//! What is needed for an artifact, and where it is looked for:
//!
//! * the signature: `PATH.sig`, then `.danube/signatures/<name>.sig` in the nearest directory above that has a
//!   `.danube/`. A `PATH.sig` that does not verify gives way to the one in `.danube/`: it may be an
//!   artifact that is called so;
//! * the envelope `provenance.dsse.json` and its payload `provenance.json`: in that `.danube/`, else
//!   beside the file;
//! * the key: one of those that the caller trusts, never one that the evidence brings along.
//!
//! The name that the provenance binds is the path below the directory of the `.danube/`. Where the
//! file was taken out of its tree, it is the last component alone; give
//! [`VerifyOptions::with_expected_name`] to ask for more.
//!
//! A log has no signature of its own: the provenance binds it. That is looked for as Danube keeps it,
//! in `../artifacts/<job>/.danube/` of `logs/<job>.log` (or `logs/<job>.log.zst`), else beside the log.

mod fetched;
mod parts;
mod place;
mod provenance;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use danube_core::{ArtifactName, ErrorClass, JobId, Sha256Digest};
use rustix::fs::OFlags;

pub use self::fetched::{Digester, Fetched, FetchedSubject, verify_fetched};

use self::parts::{digest_of, open_part, unreadable};
use self::place::Place;
use self::provenance::Provenance;
use crate::attest::{ProvenanceInput, Statement, Subject, SubjectKind};
use crate::{KeyId, PublicKeys, Signature, SignatureError, Verified, Verifier};

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;

/// How [`verify_file`] verifies.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// The trusted keys.
    pub public_keys: PublicKeys,
    /// The signature, where it does not lie in its usual place.
    pub signature: Option<PathBuf>,
    /// Either file of the provenance; the other is looked for beside it.
    pub provenance: Option<PathBuf>,
    /// Whether the provenance is not asked for.
    pub signature_only: bool,
    /// The job that must have made it.
    pub expected_job: Option<JobId>,
    /// The name that it must have been kept under.
    pub expected_name: Option<ArtifactName>,
    /// The repository that it must have been built from, as the provenance spells it.
    pub expected_repository: Option<String>,
    /// The commit that it must have been built from, in full.
    pub expected_commit: Option<String>,
}

impl VerifyOptions {
    /// With these keys, everything else found and required.
    #[must_use]
    pub fn new(public_keys: PublicKeys) -> Self {
        Self {
            public_keys,
            signature: None,
            provenance: None,
            signature_only: false,
            expected_job: None,
            expected_name: None,
            expected_repository: None,
            expected_commit: None,
        }
    }

    /// With the signature in this file.
    #[must_use]
    pub fn with_signature(mut self, path: impl Into<PathBuf>) -> Self {
        self.signature = Some(path.into());
        self
    }

    /// With the provenance in this file (either of the two).
    #[must_use]
    pub fn with_provenance(mut self, path: impl Into<PathBuf>) -> Self {
        self.provenance = Some(path.into());
        self
    }

    /// Without provenance: only that a trusted key signed these bytes.
    #[must_use]
    pub fn with_signature_only(mut self) -> Self {
        self.signature_only = true;
        self
    }

    /// Only if this job made it.
    #[must_use]
    pub fn with_expected_job(mut self, job: JobId) -> Self {
        self.expected_job = Some(job);
        self
    }

    /// Only if it was kept under this name.
    #[must_use]
    pub fn with_expected_name(mut self, name: ArtifactName) -> Self {
        self.expected_name = Some(name);
        self
    }

    /// Only if it was built from this repository.
    #[must_use]
    pub fn with_expected_repository(mut self, repository: impl Into<String>) -> Self {
        self.expected_repository = Some(repository.into());
        self
    }

    /// Only if it was built from this commit.
    #[must_use]
    pub fn with_expected_commit(mut self, commit: impl Into<String>) -> Self {
        self.expected_commit = Some(commit.into());
        self
    }

    fn expects_provenance(&self) -> bool {
        self.expected_job.is_some()
            || self.expected_name.is_some()
            || self.expected_repository.is_some()
            || self.expected_commit.is_some()
    }
}

/// What was verified about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// How many bytes it has.
    pub size_bytes: u64,
    /// The SHA-256 of them.
    pub digest: Sha256Digest,
    /// The key that signed.
    pub key_id: KeyId,
    /// The job that made it; `None` where only the signature was asked for.
    pub job: Option<JobId>,
    /// The name it was kept under; `None` where only the signature was asked for.
    pub name: Option<String>,
    /// What the provenance says about how it came to be: who built it, from what. It is as true as the
    /// holder of the key is honest. `None` where only the signature was asked for.
    pub about: Option<ProvenanceInput>,
    /// Each check that was made and held, in words.
    pub checks: Vec<String>,
}

/// The part of the evidence that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The file itself.
    Artifact,
    /// Its signature.
    Signature,
    /// `provenance.dsse.json`.
    Envelope,
    /// `provenance.json`.
    Provenance,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Artifact => "artifact",
            Self::Signature => "signature",
            Self::Envelope => "envelope",
            Self::Provenance => "provenance.json",
        })
    }
}

/// What is wrong with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// It is not there, or nothing is in it.
    Missing,
    /// It cannot be read, or is no regular file.
    Unreadable,
    /// It is not what such a part looks like.
    Malformed,
    /// It was made with a key that is not trusted.
    UnknownKey,
    /// It was changed, or belongs to something else.
    Mismatch,
    /// The options ask for what this part cannot tell.
    Unanswerable,
}

/// Why a file was not verified.
#[derive(Debug, thiserror::Error)]
#[error("{part}: {reason}")]
#[non_exhaustive]
pub struct VerifyError {
    /// The part that does not hold.
    pub part: Part,
    /// What is wrong with it.
    pub failure: Failure,
    /// Why, in words.
    pub reason: String,
}

impl VerifyError {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self.failure {
            Failure::Missing => ErrorClass::NotFound,
            Failure::Unanswerable => ErrorClass::Invalid,
            _ => ErrorClass::Denied,
        }
    }

    fn new(part: Part, failure: Failure, reason: impl Into<String>) -> Self {
        Self { part, failure, reason: reason.into() }
    }
}

/// Verifies a file: that a trusted key signed its SHA-256, and, unless only that is asked for, that a
/// trusted key signed the provenance that binds its name, size and SHA-256 to a job.
///
/// # Errors
///
/// [`VerifyError`], which names the part that does not hold. Where the file and its provenance
/// disagree, the file is named: the provenance is signed. Without provenance nobody can tell whether
/// the file or its signature was changed; then the signature is named.
pub fn verify_file(
    path: &Path,
    options: &VerifyOptions,
) -> Result<Verified<Evidence>, VerifyError> {
    if options.signature_only && options.expects_provenance() {
        return Err(VerifyError::new(
            Part::Envelope,
            Failure::Unanswerable,
            "the signature alone tells neither the job nor the name nor the source: verify the provenance too",
        ));
    }
    let place = Place::of(path)?;
    let mut checks = Vec::new();
    let file = open_part(Part::Artifact, path, OFlags::NOFOLLOW)?;
    let (size_bytes, digest) = digest_of(path, file)?;
    checks.push(format!("read {size_bytes} bytes of {}, SHA-256 {digest}", path.display()));

    let signatures = place.signatures(options)?;
    let proof = if options.signature_only {
        None
    } else {
        let provenance = Provenance::open(place.provenance(options)?, options, &mut checks)?;
        let whole = |subject: &Subject, name: &str| subject.name == name;
        let last = |subject: &Subject, name: &str| subject.name.rsplit('/').next() == Some(name);
        let (name, is_whole) = place.name(options);
        let is_meant = |subject: &Subject| {
            subject.annotations.kind == SubjectKind::Artifact
                && (whole(subject, name) || (!is_whole && last(subject, name)))
        };
        let what = format!("an artifact called {name}");
        let bound = provenance.bind(path, &what, is_meant, size_bytes, digest, &mut checks)?;
        Some((bound, provenance.statement))
    };
    let key_id = verify_signature(&signatures, options, digest, proof.is_some(), &mut checks)?;
    let (name, statement) = proof.unzip();
    let job = statement.as_ref().map(|statement| statement.job().clone());
    let about = statement.map(Statement::into_about);
    Ok(Verified::vouch(Evidence { size_bytes, digest, key_id, job, name, about, checks }))
}

/// Verifies the log of a job: that a trusted key signed the provenance that binds its size and SHA-256
/// to the job. The name of the file does not matter.
///
/// # Errors
///
/// [`VerifyError`], as with [`verify_file`]. A signature or an artifact's name cannot be asked for.
pub fn verify_log(path: &Path, options: &VerifyOptions) -> Result<Verified<Evidence>, VerifyError> {
    verify_log_in(path, options, Ok)
}

/// [`verify_log`] for a log that lies in its file in another form, for instance compressed: `text`
/// makes a reader of the log's text out of the file. What that reader fails with makes the file
/// [`Failure::Unreadable`].
///
/// # Errors
///
/// Those of [`verify_log`].
pub fn verify_log_in<R: Read>(
    path: &Path,
    options: &VerifyOptions,
    text: impl FnOnce(File) -> io::Result<R>,
) -> Result<Verified<Evidence>, VerifyError> {
    if options.signature_only || options.signature.is_some() || options.expected_name.is_some() {
        return Err(VerifyError::new(
            Part::Signature,
            Failure::Unanswerable,
            "a log has neither a signature nor a name of its own: its job's provenance binds it",
        ));
    }
    let place = Place::of(path)?;
    let mut checks = Vec::new();
    let file = open_part(Part::Artifact, path, OFlags::NOFOLLOW)?;
    let (size_bytes, digest) = digest_of(path, text(file).map_err(|e| unreadable(path, &e))?)?;
    checks.push(format!("read {size_bytes} bytes of log in {}, SHA-256 {digest}", path.display()));
    let provenance = Provenance::open(place.provenance_of_log(options)?, options, &mut checks)?;
    let is_meant = |subject: &Subject| subject.annotations.kind == SubjectKind::Log;
    let name = provenance.bind(path, "a log", is_meant, size_bytes, digest, &mut checks)?;
    let Provenance { statement, key_id, .. } = provenance;
    Ok(Verified::vouch(Evidence {
        size_bytes,
        digest,
        key_id,
        job: Some(statement.job().clone()),
        name: Some(name),
        about: Some(statement.into_about()),
        checks,
    }))
}

fn verify_signature(
    signatures: &[(PathBuf, Signature)],
    options: &VerifyOptions,
    digest: Sha256Digest,
    file_is_proved: bool,
    checks: &mut Vec<String>,
) -> Result<KeyId, VerifyError> {
    let mut first_error = None;
    for (path, signature) in signatures {
        match options.public_keys.verify(None, digest.as_bytes(), signature) {
            Ok(key_id) => {
                checks.push(format!(
                    "the signature {} by key {} holds over the SHA-256 of the file",
                    path.display(),
                    *key_id
                ));
                return Ok(key_id.into_inner());
            }
            Err(error) => drop(first_error.get_or_insert((path, error))),
        }
    }
    let (path, error) = first_error.expect("there is a signature, or an error before");
    let failure = failure_of(&error);
    let path = path.display();
    let reason = match (error, file_is_proved) {
        (SignatureError::Mismatch, true) => {
            format!("{path} is none of this file by a trusted key")
        }
        (SignatureError::Mismatch, false) => format!(
            "{path} is none of this file by a trusted key: the file or the signature was changed, or another key signed"
        ),
        (other, _) => format!("{path} is no signature: {other}"),
    };
    Err(VerifyError::new(Part::Signature, failure, reason))
}

fn failure_of(error: &SignatureError) -> Failure {
    match error {
        SignatureError::UnknownKey { .. } => Failure::UnknownKey,
        SignatureError::WrongLength { .. } => Failure::Malformed,
        SignatureError::Mismatch => Failure::Mismatch,
    }
}
