//! What is no file: verified by whoever fetched it, as files are.

use std::path::Path;

use danube_core::{ArtifactName, Sha256Digest};
use sha2::{Digest as _, Sha256};

use super::provenance::Provenance;
use super::{Evidence, Failure, Part, VerifyError, VerifyOptions, verify_signature};
use crate::attest::{Subject, SubjectKind};
use crate::blob::{ENVELOPE_FILE, PROVENANCE_FILE};
use crate::{Signature, Verified};

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
    /// `provenance.dsse.json`; the caller limits it to [`MAX_PROVENANCE_BYTES`](crate::attest::MAX_PROVENANCE_BYTES).
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

/// Verifies what was fetched from somewhere, from a server for instance, as
/// [`verify_file`](super::verify_file) and [`verify_log`](super::verify_log) do; whoever fetched it
/// digested it meanwhile. The key is not fetched: it is the caller's.
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
