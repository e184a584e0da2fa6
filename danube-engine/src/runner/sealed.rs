//! The log of a job, read again once it is sealed.

use danube_artifacts::{BlobKey, ByteStream, PutMode, PutOptions};
use danube_core::{BoxError, ByteRange, Sha256Digest};
use futures_util::{TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::Run;
use crate::error::told;

impl Run<'_> {
    pub(super) async fn log_digest(&self, len: u64) -> Result<Sha256Digest, String> {
        let mut hash = Sha256::new();
        let mut body = self.log_stream(len);
        while let Some(bytes) = body.try_next().await.map_err(|error| told(&*error))? {
            hash.update(&bytes);
        }
        Ok(Sha256Digest::from_bytes(hash.finalize().into()))
    }

    /// Copies the log to where the artifacts are, or says why it is not there.
    pub(super) async fn keep_log(&self, len: u64, digest: Sha256Digest) -> Result<(), String> {
        // The log has a limit of its own, and somebody may have put one there for a run that was ended by force.
        let options = PutOptions::default()
            .with_mode(PutMode::Replace)
            .with_max_bytes(len)
            .with_size_bytes(len)
            .with_expected(digest);
        let key = BlobKey::log(&self.spec.id);
        let put = self.parts.artifacts.blobs().put(&key, self.log_stream(len), options);
        put.await.map(drop).map_err(|error| told(&error))
    }

    /// The first `len` bytes of the log.
    fn log_stream(&self, len: u64) -> ByteStream {
        let (logs, id) = (self.parts.logs.clone(), self.spec.id.clone());
        Box::pin(stream::try_unfold(0, move |at| {
            let (logs, id) = (logs.clone(), id.clone());
            async move {
                if at >= len {
                    return Ok(None);
                }
                let bytes = logs.read(&id, ByteRange::new(at, len)).await?;
                if bytes.is_empty() {
                    return Err(BoxError::from(format!("it ends at byte {at} of {len}")));
                }
                let next = at + bytes.len() as u64;
                Ok(Some((bytes, next)))
            }
        }))
    }
}
