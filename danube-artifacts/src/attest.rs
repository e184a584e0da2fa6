//! Provenance: an in-toto Statement v1 with a SLSA provenance v1 predicate, in a DSSE envelope.
//!
//! The statement binds the name, the size and the SHA-256 of every artifact and of the log to the job
//! that made them. It claims no SLSA level.
//!
//! * `provenance.json` is the payload, byte for byte, indented for people.
//! * `provenance.dsse.json` is the envelope. Ours has exactly one spelling (compact, fields in the
//!   order `payloadType`, `payload`, `signatures`; standard base64 with padding), and
//!   [`Envelope::parse`] accepts no other: no bit of it can change unnoticed.
//! * The subject of the log is called `logs/<job>.log`. Every subject carries two annotations: `size`
//!   in bytes, and `kind`, which is `artifact` or `log`, so that an artifact of that name is not
//!   mistaken for the log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use danube_core::{JobId, Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{ArtifactRecord, Error, KeyId, Signature, SignatureError, Signer, Verified, Verifier};

#[cfg(test)]
mod tests;

/// The type of an in-toto statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// The type of an envelope's payload.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// What the external parameters of our statements mean: a Danube job, whose `parameters` the runner
/// of the job wrote down.
pub const BUILD_TYPE: &str = "urn:danube:job:v1";
/// The longest envelope or payload that is read: 64 MiB, five times what ten thousand artifacts with
/// the longest names need.
pub const MAX_PROVENANCE_BYTES: u64 = 64 << 20;

/// What is known about how the artifacts came to be.
#[derive(Debug, Clone)]
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
    /// What was built.
    pub source: Option<Source>,
}

/// Source code, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The address of the repository, for instance `git+https://git.example.com/a/b`.
    pub repository: String,
    /// The commit.
    pub commit: String,
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
            source: None,
        }
    }

    /// With the times of the job.
    #[must_use]
    pub fn with_times(mut self, started_at: Timestamp, finished_at: Timestamp) -> Self {
        self.started_at = Some(started_at);
        self.finished_at = Some(finished_at);
        self
    }

    /// With what was built.
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = Some(source);
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
}

/// An in-toto statement, as far as verifying needs it. Make one with [`statement`], read one with
/// [`Statement::parse`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: serde_json::Value,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resolved_dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    uri: String,
    digest: DependencyDigest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DependencyDigest {
    git_commit: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RunDetails {
    builder: Builder,
    metadata: Metadata,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Builder {
    id: String,
    version: BuilderVersion,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BuilderVersion {
    danube: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    invocation_id: JobId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_on: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished_on: Option<Timestamp>,
}

impl Statement {
    /// Reads a statement of ours.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for anything else: other types, missing fields, damaged JSON.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let malformed = |why: &dyn std::fmt::Display| {
            Error::invalid("statement", "", format!("is not a Danube provenance: {why}"))
        };
        let this: Self = serde_json::from_slice(payload).map_err(|e| malformed(&e))?;
        if this.statement_type != STATEMENT_TYPE {
            return Err(malformed(&format_args!("its _type is not {STATEMENT_TYPE}")));
        }
        if this.predicate_type != PREDICATE_TYPE {
            return Err(malformed(&format_args!("its predicateType is not {PREDICATE_TYPE}")));
        }
        if this.predicate.build_definition.build_type != BUILD_TYPE {
            return Err(malformed(&format_args!("its buildType is not {BUILD_TYPE}")));
        }
        Ok(this)
    }

    /// The job that made the subjects.
    #[must_use]
    pub fn job(&self) -> &JobId {
        &self.predicate.run_details.metadata.invocation_id
    }

    /// Who says so about itself.
    #[must_use]
    pub fn builder_id(&self) -> &str {
        &self.predicate.run_details.builder.id
    }

    /// What it speaks about.
    #[must_use]
    pub fn subjects(&self) -> &[Subject] {
        &self.subject
    }

    /// The payload that is signed.
    fn to_payload(&self) -> Vec<u8> {
        // Nothing in it can fail to become JSON: every map key is a string.
        let mut payload =
            serde_json::to_vec_pretty(self).expect("a statement of strings and numbers is JSON");
        payload.push(b'\n');
        payload
    }
}

/// The statement about these artifacts and this log.
///
/// # Errors
///
/// [`Error::Invalid`] when an artifact belongs to another job, or a name stands twice.
pub fn statement(
    input: &ProvenanceInput,
    artifacts: &[ArtifactRecord],
    log: Option<&LogSubject>,
) -> Result<Statement, Error> {
    let mut subject = Vec::with_capacity(artifacts.len() + 1);
    for artifact in artifacts {
        if artifact.job != input.job {
            let rule = format!("belongs to job {}, not to {}", artifact.job, input.job);
            return Err(Error::invalid("artifact", artifact.name.as_str(), rule));
        }
        subject.push(Subject {
            name: artifact.name.to_string(),
            digest: SubjectDigest { sha256: artifact.digest },
            annotations: Annotations { kind: SubjectKind::Artifact, size: artifact.size_bytes },
        });
    }
    subject.sort_by(|a: &Subject, b| a.name.cmp(&b.name));
    if let Some(twice) = subject.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::invalid("artifact", &twice[0].name, "stands twice in one provenance"));
    }
    subject.extend(log.map(|log| Subject {
        name: log.name.clone(),
        digest: SubjectDigest { sha256: log.digest },
        annotations: Annotations { kind: SubjectKind::Log, size: log.size_bytes },
    }));
    let source = input.source.iter().map(|source| Dependency {
        uri: source.repository.clone(),
        digest: DependencyDigest { git_commit: source.commit.clone() },
    });
    Ok(Statement {
        statement_type: STATEMENT_TYPE.to_owned(),
        subject,
        predicate_type: PREDICATE_TYPE.to_owned(),
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE.to_owned(),
                external_parameters: input.parameters.clone(),
                resolved_dependencies: source.collect(),
            },
            run_details: RunDetails {
                builder: Builder {
                    id: input.builder_id.clone(),
                    version: BuilderVersion { danube: input.builder_version.clone() },
                },
                metadata: Metadata {
                    invocation_id: input.job.clone(),
                    started_on: input.started_at,
                    finished_on: input.finished_at,
                },
            },
        },
    })
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
