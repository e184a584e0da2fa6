//! Counting and hashing what arrives, the same for every backend.

use danube_core::Sha256Digest;
use sha2::{Digest as _, Sha256};

use crate::{BlobKey, Error, PutOptions, Stored};

/// Counts the bytes of one blob, and tells at the end whether they are what was announced.
#[derive(Debug)]
pub(crate) struct Meter {
    key: BlobKey,
    options: PutOptions,
    size_bytes: u64,
}

impl Meter {
    /// Refuses what cannot become right.
    pub(crate) fn new(key: BlobKey, options: PutOptions) -> Result<Self, Error> {
        let limit_bytes = options.max_bytes;
        if options.size_bytes.is_some_and(|size| size > limit_bytes) {
            return Err(Error::TooLarge { key, limit_bytes });
        }
        Ok(Self { key, options, size_bytes: 0 })
    }

    /// Counts a chunk, unless it goes beyond the limit. To be called before the chunk is stored.
    pub(crate) fn count(&mut self, chunk_bytes: usize) -> Result<(), Error> {
        let limit_bytes = self.options.max_bytes;
        let size_bytes = self.size_bytes.saturating_add(chunk_bytes as u64);
        if size_bytes > limit_bytes {
            return Err(Error::TooLarge { key: self.key.clone(), limit_bytes });
        }
        self.size_bytes = size_bytes;
        match self.options.size_bytes {
            Some(expected) if size_bytes > expected => self.wrong_size(expected),
            _ => Ok(()),
        }
    }

    /// What arrived, unless it is not what was announced.
    pub(crate) fn finish(self, digest: Sha256Digest) -> Result<Stored, Error> {
        match self.options.size_bytes {
            Some(expected) if self.size_bytes != expected => self.wrong_size(expected)?,
            _ => {}
        }
        match self.options.expected {
            Some(expected) if expected != digest => {
                Err(Error::DigestMismatch { key: self.key, expected, actual: digest })
            }
            _ => Ok(Stored { size_bytes: self.size_bytes, digest }),
        }
    }

    fn wrong_size(&self, expected: u64) -> Result<(), Error> {
        Err(Error::SizeMismatch { key: self.key.clone(), expected, actual: self.size_bytes })
    }
}

/// The bytes of one blob as they arrive, counted and hashed.
#[derive(Debug)]
pub(crate) struct Intake {
    meter: Meter,
    hasher: Sha256,
}

impl Intake {
    pub(crate) fn new(key: BlobKey, options: PutOptions) -> Result<Self, Error> {
        Ok(Self { meter: Meter::new(key, options)?, hasher: Sha256::new() })
    }

    /// Takes a chunk, unless it goes beyond the limit. To be called before the chunk is stored.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.meter.count(chunk.len())?;
        self.hasher.update(chunk);
        Ok(())
    }

    /// What arrived, unless it is not what was announced.
    pub(crate) fn finish(self) -> Result<Stored, Error> {
        self.meter.finish(digest_of(self.hasher))
    }
}

pub(crate) fn digest_of(hasher: Sha256) -> Sha256Digest {
    Sha256Digest::from_bytes(hasher.finalize().into())
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
