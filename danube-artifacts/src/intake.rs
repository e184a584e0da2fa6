//! Counting and hashing what arrives, the same for every backend.

use danube_core::Sha256Digest;
use sha2::{Digest as _, Sha256};

use crate::{BlobKey, Error, PutOptions, Stored};

/// The bytes of one blob as they arrive.
#[derive(Debug)]
pub(crate) struct Intake {
    key: BlobKey,
    options: PutOptions,
    hasher: Sha256,
    size_bytes: u64,
}

impl Intake {
    pub(crate) fn new(key: BlobKey, options: PutOptions) -> Self {
        Self { key, options, hasher: Sha256::new(), size_bytes: 0 }
    }

    /// Takes a chunk, unless it goes beyond the limit. To be called before the chunk is stored.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let limit_bytes = self.options.max_bytes;
        let size_bytes = self.size_bytes.saturating_add(chunk.len() as u64);
        if size_bytes > limit_bytes {
            return Err(Error::TooLarge { key: self.key.clone(), limit_bytes });
        }
        self.size_bytes = size_bytes;
        self.hasher.update(chunk);
        Ok(())
    }

    /// What arrived, unless it is not what was announced.
    pub(crate) fn finish(self) -> Result<Stored, Error> {
        let digest = Sha256Digest::from_bytes(self.hasher.finalize().into());
        match self.options.expected {
            Some(expected) if expected != digest => {
                Err(Error::DigestMismatch { key: self.key, expected, actual: digest })
            }
            _ => Ok(Stored { size_bytes: self.size_bytes, digest }),
        }
    }
}

/// The part of a blob that a range asks for.
pub(crate) fn clamp(
    key: &BlobKey,
    range: Option<danube_core::ByteRange>,
    size_bytes: u64,
) -> Result<danube_core::ByteRange, Error> {
    match range {
        None => Ok(danube_core::ByteRange::new(0, size_bytes)),
        Some(range) if range.start >= size_bytes => {
            Err(Error::OutOfRange { key: key.clone(), start: range.start, size_bytes })
        }
        Some(range) => {
            let end = range.end.min(size_bytes).max(range.start);
            Ok(danube_core::ByteRange::new(range.start, end))
        }
    }
}
