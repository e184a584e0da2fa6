//! Provenance: an in-toto Statement v1 with a SLSA provenance v1 predicate, in a DSSE envelope; on
//! request in the older forms ([`ProvenanceForm`]), and as a Sigstore bundle
//! ([`Envelope::to_bundle`]).
//!
//! The statement binds the name, the size and the SHA-256 of every artifact and of the log to the job
//! that made them. It claims no SLSA level.
//!
//! * `provenance.json` is the payload, byte for byte, indented for people.
//! * `provenance.dsse.json` is the envelope. Ours has exactly one spelling (compact, fields in the
//!   order `payloadType`, `payload`, `signatures`; standard base64 with padding), and
//!   [`Envelope::parse`] accepts no other: no bit of it can change unnoticed.
//! * The subject of the log is called `logs/<job>.log`. Every subject carries annotations: `size`
//!   in bytes, and `kind`, which is `artifact` or `log`, so that an artifact of that name is not
//!   mistaken for the log; an artifact also its own `signature`. The older forms have no annotations; there
//!   they stand in an extension of the predicate, `urn:danube:provenance:v1`, in the order of the subjects.
//!
//! With the feature `attest` alone this module, the keys and [`verify`](crate::verify) need no runtime.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use danube_core::{JobId, Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{ArtifactRecord, Error, KeyId, Signature, SignatureError, Signer, Verified, Verifier};

mod bundle;
#[cfg(test)]
mod tests;
mod wire;

pub use bundle::BUNDLE_TYPE;

/// The type of an envelope's payload.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// What the external parameters of our statements mean: a Danube job, whose `parameters` the runner
/// of the job wrote down.
pub const BUILD_TYPE: &str = "urn:danube:job:v1";
/// The longest envelope or payload that is read: 64 MiB, five times what ten thousand artifacts with
/// the longest names need.
pub const MAX_PROVENANCE_BYTES: u64 = 64 << 20;

/// In which form a statement is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ProvenanceForm {
    /// in-toto Statement v1 with SLSA provenance v1.
    #[default]
    V1,
    /// in-toto Statement v0.1 with SLSA provenance v0.2.
    V02,
    /// in-toto Statement v0.1 with SLSA provenance v0.1, the one that has a `recipe`.
    V01,
}

impl ProvenanceForm {
    const ALL: [Self; 3] = [Self::V1, Self::V02, Self::V01];

    /// The type of the statement, its `_type`.
    #[must_use]
    pub fn statement_type(self) -> &'static str {
        match self {
            Self::V1 => "https://in-toto.io/Statement/v1",
            Self::V02 | Self::V01 => "https://in-toto.io/Statement/v0.1",
        }
    }

    /// The type of its predicate, its `predicateType`.
    #[must_use]
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::V1 => "https://slsa.dev/provenance/v1",
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V01 => "https://slsa.dev/provenance/v0.1",
        }
    }
}

impl fmt::Display for ProvenanceForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V1 => "v1",
            Self::V02 => "v0.2",
            Self::V01 => "v0.1",
        })
    }
}

impl FromStr for ProvenanceForm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let same = |form: &Self| form.to_string() == text;
        let form = Self::ALL.into_iter().find(same);
        form.ok_or_else(|| Error::invalid("provenance form", text, "must be v1, v0.2 or v0.1"))
    }
}

/// What is known about how the artifacts came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProvenanceInput {
    /// The job.
    pub job: JobId,
    /// Who built: a URI that the operator chose for this installation.
    pub builder_id: String,
    /// The version of Danube.
    pub builder_version: String,
    /// When the job began.
    pub started_at: Option<Timestamp>,
    /// When its last step ended.
    pub finished_at: Option<Timestamp>,
    /// What was asked for: steps, their commands. Everybody who gets an artifact can read it: the
    /// caller has masked secrets.
    pub parameters: serde_json::Value,
    /// The pipeline that the job is a run of.
    pub pipeline: Option<String>,
    /// What was built.
    pub source: Option<Source>,
    /// The file that says what the job does.
    pub entry_point: Option<EntryPoint>,
    /// In which form it is written.
    pub form: ProvenanceForm,
}

/// Source code, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// The address of the repository, for instance `git+https://git.example.com/a/b`.
    pub repository: String,
    /// The commit: 40 or 64 lower-case hexadecimal digits.
    pub commit: String,
    /// The branch that it was taken from.
    pub branch: Option<String>,
}

impl Source {
    /// This commit of this repository.
    #[must_use]
    pub fn new(repository: impl Into<String>, commit: impl Into<String>) -> Self {
        Self { repository: repository.into(), commit: commit.into(), branch: None }
    }

    /// Checks that the commit is one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub fn validate(&self) -> Result<(), Error> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if matches!(self.commit.len(), 40 | 64) && self.commit.bytes().all(is_hex) {
            return Ok(());
        }
        let rule = "must be 40 or 64 lower-case hexadecimal digits";
        Err(Error::invalid("commit", &self.commit, rule))
    }

    /// With the branch.
    #[must_use]
    pub fn with_branch(mut self, branch: impl Into<String>) -> Self {
        self.branch = Some(branch.into());
        self
    }
}

/// The file that says what a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPoint {
    /// Its path, below the source where there is one.
    pub path: String,
    /// The SHA-256 of it.
    pub digest: Sha256Digest,
}

impl EntryPoint {
    /// The file at this path that holds this.
    #[must_use]
    pub fn of(path: impl Into<String>, content: &[u8]) -> Self {
        let digest = Sha256Digest::from_bytes(Sha256::digest(content).into());
        Self { path: path.into(), digest }
    }
}

impl ProvenanceInput {
    /// What is always known.
    #[must_use]
    pub fn new(
        job: JobId,
        builder_id: impl Into<String>,
        builder_version: impl Into<String>,
        parameters: serde_json::Value,
    ) -> Self {
        Self {
            job,
            builder_id: builder_id.into(),
            builder_version: builder_version.into(),
            started_at: None,
            finished_at: None,
            parameters,
            pipeline: None,
            source: None,
            entry_point: None,
            form: ProvenanceForm::V1,
        }
    }

    /// With the times of the job.
    #[must_use]
    pub fn with_times(mut self, started_at: Timestamp, finished_at: Timestamp) -> Self {
        self.started_at = Some(started_at);
        self.finished_at = Some(finished_at);
        self
    }

    /// With the pipeline that it is a run of.
    #[must_use]
    pub fn with_pipeline(mut self, pipeline: impl Into<String>) -> Self {
        self.pipeline = Some(pipeline.into());
        self
    }

    /// With what was built.
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// In this form.
    #[must_use]
    pub fn with_form(mut self, form: ProvenanceForm) -> Self {
        self.form = form;
        self
    }

    /// With the file that says what the job does.
    #[must_use]
    pub fn with_entry_point(mut self, entry_point: EntryPoint) -> Self {
        self.entry_point = Some(entry_point);
        self
    }
}

/// The sealed log as a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSubject {
    /// Its name: `logs/<job>.log`.
    pub name: String,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// The SHA-256 of them.
    pub digest: Sha256Digest,
}

impl LogSubject {
    /// The log of a job.
    #[must_use]
    pub fn new(job: &JobId, size_bytes: u64, digest: Sha256Digest) -> Self {
        Self { name: format!("logs/{job}.log"), size_bytes, digest }
    }
}

/// What kind of thing a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// An artifact, by its name.
    Artifact,
    /// The log of the job.
    Log,
}

/// One thing that a statement speaks about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its digests.
    pub digest: SubjectDigest,
    /// What else is said about it.
    pub annotations: Annotations,
}

/// The digests of a [`Subject`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectDigest {
    /// The SHA-256.
    pub sha256: Sha256Digest,
}

/// The annotations of a [`Subject`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotations {
    /// What it is.
    pub kind: SubjectKind,
    /// How many bytes it has.
    pub size: u64,
    /// The signature over its SHA-256, as its `.sig` holds it, in standard base64; of artifacts, where
    /// [`Statement::sign_subjects`] was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// An in-toto statement of ours. Make one with [`statement`], read one with [`Statement::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    about: ProvenanceInput,
    subjects: Vec<Subject>,
}

impl Statement {
    /// Reads a statement of ours, in whichever form.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for anything else: other types, missing fields, damaged JSON.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        wire::parse(payload).map_err(|why| {
            Error::invalid("statement", "", format!("is not a Danube provenance: {why}"))
        })
    }

    /// How the subjects came to be.
    #[must_use]
    pub fn about(&self) -> &ProvenanceInput {
        &self.about
    }

    /// How the subjects came to be.
    #[must_use]
    pub fn into_about(self) -> ProvenanceInput {
        self.about
    }

    /// The job that made the subjects.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.about.job
    }

    /// What it speaks about.
    #[must_use]
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// Writes into the statement the signature of every artifact, as the artifact itself has it: an Ed25519
    /// signature is the same each time. It adds no proof, the envelope's signature covers the digests; it
    /// keeps what is known of an artifact in one document.
    ///
    /// # Errors
    ///
    /// Those of the signer.
    pub async fn sign_subjects(&mut self, signer: &dyn Signer) -> Result<(), Error> {
        for Subject { digest, annotations, .. } in &mut self.subjects {
            if annotations.kind == SubjectKind::Artifact {
                let signature = signer.sign(digest.sha256.as_bytes()).await?;
                annotations.signature = Some(STANDARD.encode(signature.as_bytes()));
            }
        }
        Ok(())
    }

    /// The payload that is signed.
    fn to_payload(&self) -> Vec<u8> {
        wire::to_payload(self)
    }
}

/// The statement about these artifacts and this log.
///
/// # Errors
///
/// [`Error::Invalid`] when an artifact belongs to another job, a name stands twice, or the commit is
/// none.
pub fn statement(
    input: &ProvenanceInput,
    artifacts: &[ArtifactRecord],
    log: Option<&LogSubject>,
) -> Result<Statement, Error> {
    let mut subjects = Vec::with_capacity(artifacts.len() + 1);
    for artifact in artifacts {
        if artifact.job != input.job {
            let rule = format!("belongs to job {}, not to {}", artifact.job, input.job);
            return Err(Error::invalid("artifact", artifact.name.as_str(), rule));
        }
        subjects.push(Subject {
            name: artifact.name.to_string(),
            digest: SubjectDigest { sha256: artifact.digest },
            annotations: Annotations {
                kind: SubjectKind::Artifact,
                size: artifact.size_bytes,
                signature: None,
            },
        });
    }
    subjects.sort_by(|a: &Subject, b| a.name.cmp(&b.name));
    if let Some(twice) = subjects.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::invalid("artifact", &twice[0].name, "stands twice in one provenance"));
    }
    input.source.as_ref().map_or(Ok(()), Source::validate)?;
    subjects.extend(log.map(|log| Subject {
        name: log.name.clone(),
        digest: SubjectDigest { sha256: log.digest },
        annotations: Annotations { kind: SubjectKind::Log, size: log.size_bytes, signature: None },
    }));
    Ok(Statement { about: input.clone(), subjects })
}

/// The pre-authentication encoding of DSSE v1: what is really signed, so that a payload cannot be
/// taken for one of another type.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let mut encoded = head.into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

/// A payload with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload: Vec<u8>,
    key_id: String,
    signature: Signature,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireEnvelope {
    payload_type: String,
    payload: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: String,
    sig: String,
}

impl Envelope {
    /// Signs a statement.
    ///
    /// # Errors
    ///
    /// What the signer says.
    pub async fn seal(statement: &Statement, signer: &dyn Signer) -> Result<Self, Error> {
        let payload = statement.to_payload();
        let signature = signer.sign(&pae(PAYLOAD_TYPE, &payload)).await?;
        Ok(Self { payload, key_id: signer.key_id().to_string(), signature })
    }

    /// Its one spelling: what `provenance.dsse.json` holds.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = WireEnvelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: STANDARD.encode(&self.payload),
            signatures: vec![WireSignature {
                keyid: self.key_id.clone(),
                sig: STANDARD.encode(self.signature.as_bytes()),
            }],
        };
        serde_json::to_vec(&wire).expect("an envelope of strings is JSON")
    }

    /// Reads an envelope in its one spelling, with exactly one signature.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for everything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let malformed = |why: String| Error::invalid("envelope", "", why);
        let wire: WireEnvelope = serde_json::from_slice(bytes)
            .map_err(|e| malformed(format!("is not a DSSE envelope: {e}")))?;
        if wire.payload_type != PAYLOAD_TYPE {
            return Err(malformed(format!("does not hold the type {PAYLOAD_TYPE}")));
        }
        let [signature] = &wire.signatures[..] else {
            return Err(malformed(format!(
                "must have exactly one signature, and has {}",
                wire.signatures.len()
            )));
        };
        let decode = |what: &str, text: &str| {
            STANDARD.decode(text).map_err(|e| malformed(format!("has a damaged {what}: {e}")))
        };
        let this = Self {
            payload: decode("payload", &wire.payload)?,
            key_id: signature.keyid.clone(),
            signature: Signature::from_bytes(decode("signature", &signature.sig)?),
        };
        if this.to_bytes() != bytes {
            return Err(malformed("is not spelled as Danube writes it".to_owned()));
        }
        Ok(this)
    }

    /// The statement's bytes: what `provenance.json` holds. Believe them only after
    /// [`verify`](Self::verify).
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The id of the key that is said to have signed.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Verifies the signature and gives the id of the key that made it. The key is one that the
    /// verifier trusts; the envelope only says which of them.
    ///
    /// # Errors
    ///
    /// [`SignatureError`].
    pub fn verify(&self, verifier: &dyn Verifier) -> Result<Verified<KeyId>, SignatureError> {
        let unknown = |_| SignatureError::UnknownKey { key_id: self.key_id.clone() };
        let key_id: KeyId = self.key_id.parse().map_err(unknown)?;
        verifier.verify(Some(&key_id), &pae(PAYLOAD_TYPE, &self.payload), &self.signature)
    }
}
