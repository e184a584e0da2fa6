//! Verifying a file offline: nothing but the file, its signature, its provenance and a trusted key.
//!
//! [`verify_file`] verifies an artifact, [`verify_log`] the log of a job, [`verify_fetched`] either
//! where they are no files. Both block, read the file
//! once, and hold no more of it than a chunk.
//!
//! What is needed for an artifact, and where it is looked for:
//!
//! * the signature: `PATH.sig`, then `.danube/<name>.sig` in the nearest directory above that has a
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
//! in `../artifacts/<job>/.danube/` of `logs/<job>.log`, else beside the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use danube_core::{ArtifactName, ErrorClass, JobId, Sha256Digest};
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::attest::{
    Envelope, MAX_PROVENANCE_BYTES, ProvenanceInput, Statement, Subject, SubjectKind,
};
use crate::blob::{ENVELOPE_FILE, METADATA_DIR, PROVENANCE_FILE};
use crate::{KeyId, PublicKeys, Signature, SignatureError, Verified, Verifier};

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;

/// No signature of any algorithm in use is longer.
const MAX_SIGNATURE_BYTES: u64 = 16 * 1024;
/// How much of a file is read at once.
const READ_BYTES: usize = 256 * 1024;

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
    let (size_bytes, digest) = digest_of(path)?;
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
    if options.signature_only || options.signature.is_some() || options.expected_name.is_some() {
        return Err(VerifyError::new(
            Part::Signature,
            Failure::Unanswerable,
            "a log has neither a signature nor a name of its own: its job's provenance binds it",
        ));
    }
    let place = Place::of(path)?;
    let mut checks = Vec::new();
    let (size_bytes, digest) = digest_of(path)?;
    checks.push(format!("read {size_bytes} bytes of {}, SHA-256 {digest}", path.display()));
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

/// A file that is not here, and what was fetched with it: see [`verify_fetched`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fetched {
    /// Where it came from, for messages.
    pub from: String,
    /// What it is.
    pub subject: FetchedSubject,
    /// How many bytes came.
    pub size_bytes: u64,
    /// The SHA-256 of them.
    pub digest: Sha256Digest,
    /// `provenance.dsse.json`; the caller limits it to [`MAX_PROVENANCE_BYTES`].
    pub envelope: Vec<u8>,
    /// `provenance.json`, likewise.
    pub payload: Vec<u8>,
}

/// What was fetched.
#[derive(Debug, Clone)]
pub enum FetchedSubject {
    /// An artifact.
    Artifact {
        /// The name that it was asked for by.
        name: ArtifactName,
        /// Its signature.
        signature: Signature,
    },
    /// The log of a job.
    Log,
}

impl Fetched {
    /// What came from there.
    #[must_use]
    pub fn new(
        from: impl Into<String>,
        subject: FetchedSubject,
        (size_bytes, digest): (u64, Sha256Digest),
        envelope: Vec<u8>,
        payload: Vec<u8>,
    ) -> Self {
        Self { from: from.into(), subject, size_bytes, digest, envelope, payload }
    }
}

/// The SHA-256 of bytes that come in pieces, for [`Fetched`].
#[derive(Debug, Clone, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces.
    #[must_use]
    pub fn finish(self) -> Sha256Digest {
        Sha256Digest::from_bytes(self.0.finalize().into())
    }
}

/// Verifies what was fetched from somewhere, from a server for instance, as [`verify_file`] and
/// [`verify_log`] do; whoever fetched it digested it meanwhile. The key is not fetched: it is the caller's.
///
/// # Errors
///
/// [`VerifyError`]. A signature alone cannot be asked for, nor files that evidence lies in.
pub fn verify_fetched(
    fetched: &Fetched,
    options: &VerifyOptions,
) -> Result<Verified<Evidence>, VerifyError> {
    if options.signature_only || options.signature.is_some() || options.provenance.is_some() {
        return Err(VerifyError::new(
            Part::Envelope,
            Failure::Unanswerable,
            "what was fetched is verified with all that was fetched with it",
        ));
    }
    let Fetched { from, subject, size_bytes, digest, envelope, payload } = fetched;
    let (size_bytes, digest, from) = (*size_bytes, *digest, Path::new(from));
    let mut checks =
        vec![format!("fetched {size_bytes} bytes of {}, SHA-256 {digest}", from.display())];
    let envelope = (from.join(ENVELOPE_FILE), envelope.clone());
    let payload_path = from.join(PROVENANCE_FILE);
    let provenance = Provenance::check(envelope, (&payload_path, payload), options, &mut checks)?;
    let (what, kind, wanted) = match subject {
        FetchedSubject::Artifact { name, .. } => {
            let name = options.expected_name.as_ref().unwrap_or(name);
            (format!("an artifact called {name}"), SubjectKind::Artifact, Some(name.as_str()))
        }
        FetchedSubject::Log => ("a log".to_owned(), SubjectKind::Log, None),
    };
    let is_meant = |subject: &Subject| {
        subject.annotations.kind == kind && wanted.is_none_or(|name| subject.name == name)
    };
    let name = provenance.bind(from, &what, is_meant, size_bytes, digest, &mut checks)?;
    let Provenance { statement, key_id, .. } = provenance;
    let key_id = match subject {
        FetchedSubject::Artifact { signature, .. } => {
            let signatures = [(from.join("signature"), signature.clone())];
            verify_signature(&signatures, options, digest, true, &mut checks)?
        }
        FetchedSubject::Log => key_id,
    };
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

/// Where a file lies.
struct Place {
    path: PathBuf,
    parent: PathBuf,
    file_name: String,
    /// The directory above it that has a `.danube/`, and the path of the file below that directory.
    tree: Option<(PathBuf, String)>,
}

impl Place {
    fn of(path: &Path) -> Result<Self, VerifyError> {
        let unreadable = |why: &dyn std::fmt::Display| {
            let reason = format!("cannot open {}: {why}", path.display());
            VerifyError::new(Part::Artifact, Failure::Unreadable, reason)
        };
        let name = path.file_name().ok_or_else(|| unreadable(&"it is not the path of a file"))?;
        let name = name.to_str().ok_or_else(|| unreadable(&"its name is not UTF-8"))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = fs::canonicalize(parent).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => absent(Part::Artifact, path),
            _ => unreadable(&e),
        })?;
        let tree = parent.ancestors().find(|dir| dir.join(METADATA_DIR).is_dir());
        let tree = tree.and_then(|tree| {
            let below = parent.strip_prefix(tree).ok()?.join(name);
            Some((tree.to_owned(), below.to_str()?.to_owned()))
        });
        Ok(Self { path: path.to_owned(), parent, file_name: name.to_owned(), tree })
    }

    /// The signatures to try, each with where it was found.
    fn signatures(
        &self,
        options: &VerifyOptions,
    ) -> Result<Vec<(PathBuf, Signature)>, VerifyError> {
        let read = |path: PathBuf| {
            let bytes = read_part(Part::Signature, &path, MAX_SIGNATURE_BYTES)?;
            Ok((path, Signature::from_bytes(bytes)))
        };
        if let Some(path) = &options.signature {
            return Ok(vec![read(path.clone())?]);
        }
        let mut beside = self.path.clone().into_os_string();
        beside.push(".sig");
        let mut places = vec![PathBuf::from(beside)];
        if let Some((tree, name)) = &self.tree {
            places.push(tree.join(METADATA_DIR).join(format!("{name}.sig")));
        }
        let looked = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>();
        places.retain(|place| fs::symlink_metadata(place).is_ok());
        if places.is_empty() {
            let reason = format!("there is none: looked for {}", looked.join(" and "));
            return Err(VerifyError::new(Part::Signature, Failure::Missing, reason));
        }
        // One that cannot be read does not hide one that can.
        let (good, bad): (Vec<_>, Vec<_>) = places.into_iter().map(read).partition(Result::is_ok);
        match bad.into_iter().next() {
            Some(Err(error)) if good.is_empty() => Err(error),
            _ => Ok(good.into_iter().flatten().collect()),
        }
    }

    /// The envelope and the payload.
    fn provenance(&self, options: &VerifyOptions) -> Result<(PathBuf, PathBuf), VerifyError> {
        let Some(given) = &options.provenance else {
            let dir = match &self.tree {
                Some((tree, _)) => tree.join(METADATA_DIR),
                None => self.parent.clone(),
            };
            return Ok((dir.join(ENVELOPE_FILE), dir.join(PROVENANCE_FILE)));
        };
        let name = given.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(stem) = name.strip_suffix(".dsse.json") {
            Ok((given.clone(), given.with_file_name(format!("{stem}.json"))))
        } else if let Some(stem) = name.strip_suffix(".json") {
            Ok((given.with_file_name(format!("{stem}.dsse.json")), given.clone()))
        } else {
            let reason = format!(
                "{} is called neither .dsse.json nor .json, so the other file cannot be found",
                given.display()
            );
            Err(VerifyError::new(Part::Envelope, Failure::Unanswerable, reason))
        }
    }

    /// The envelope and the payload for a log: where Danube keeps them, else beside it.
    fn provenance_of_log(
        &self,
        options: &VerifyOptions,
    ) -> Result<(PathBuf, PathBuf), VerifyError> {
        if options.provenance.is_some() {
            return self.provenance(options);
        }
        let kept = self
            .file_name
            .strip_suffix(".log")
            .zip(self.parent.parent())
            .map(|(job, data_dir)| data_dir.join("artifacts").join(job).join(METADATA_DIR));
        let dir = kept.filter(|dir| dir.is_dir()).unwrap_or_else(|| self.parent.clone());
        Ok((dir.join(ENVELOPE_FILE), dir.join(PROVENANCE_FILE)))
    }

    /// The name that the provenance must bind, and whether it is the whole one.
    fn name<'a>(&'a self, options: &'a VerifyOptions) -> (&'a str, bool) {
        match (&options.expected_name, &self.tree) {
            (Some(name), _) => (name.as_str(), true),
            (None, Some((_, name))) if options.provenance.is_none() => (name, true),
            _ => (&self.file_name, false),
        }
    }
}

/// A provenance whose signature holds and that meets what is expected of it.
struct Provenance {
    envelope_path: PathBuf,
    statement: Statement,
    key_id: KeyId,
}

impl Provenance {
    fn open(
        (envelope_path, payload_path): (PathBuf, PathBuf),
        options: &VerifyOptions,
        checks: &mut Vec<String>,
    ) -> Result<Self, VerifyError> {
        let envelope = read_part(Part::Envelope, &envelope_path, MAX_PROVENANCE_BYTES)?;
        let payload = read_part(Part::Provenance, &payload_path, MAX_PROVENANCE_BYTES)?;
        Self::check((envelope_path, envelope), (&payload_path, &payload), options, checks)
    }

    fn check(
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
    fn bind(
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

fn absent(part: Part, path: &Path) -> VerifyError {
    VerifyError::new(part, Failure::Missing, format!("there is no {}", path.display()))
}

/// Opens a regular file. NONBLOCK: a FIFO must not wait for its writer.
fn open_part(part: Part, path: &Path, flags: OFlags) -> Result<File, VerifyError> {
    let unreadable = |why: &dyn std::fmt::Display| {
        let reason = format!("cannot open {}: {why}", path.display());
        VerifyError::new(part, Failure::Unreadable, reason)
    };
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => absent(part, path),
        _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            unreadable(&"it is a symbolic link; give the file itself")
        }
        _ => unreadable(&e),
    })?;
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(_) => Err(unreadable(&"it is not a regular file")),
        Err(e) => Err(unreadable(&e)),
    }
}

fn read_part(part: Part, path: &Path, limit: u64) -> Result<Vec<u8>, VerifyError> {
    let file = open_part(part, path, OFlags::empty())?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| {
        let reason = format!("cannot read {}: {e}", path.display());
        VerifyError::new(part, Failure::Unreadable, reason)
    })?;
    if bytes.is_empty() {
        let reason = format!("{} is empty", path.display());
        return Err(VerifyError::new(part, Failure::Missing, reason));
    }
    if bytes.len() as u64 > limit {
        let reason = format!("{} is longer than {limit} bytes", path.display());
        return Err(VerifyError::new(part, Failure::Malformed, reason));
    }
    Ok(bytes)
}

fn digest_of(path: &Path) -> Result<(u64, Sha256Digest), VerifyError> {
    let mut file = open_part(Part::Artifact, path, OFlags::NOFOLLOW)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut size_bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size_bytes += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                let reason = format!("cannot read {}: {e}", path.display());
                return Err(VerifyError::new(Part::Artifact, Failure::Unreadable, reason));
            }
        }
    }
    Ok((size_bytes, Sha256Digest::from_bytes(hasher.finalize().into())))
}
