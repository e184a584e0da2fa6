//! How far a body is.

use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt;

use crate::ByteStream;

type Told = dyn Fn(u64, Option<u64>) + Send + Sync;

/// Somebody who wants to know how far a body is; see [`KeepOptions::with_progress`](super::KeepOptions::with_progress).
#[derive(Clone)]
pub struct Progress(Arc<Told>);

impl Progress {
    pub(super) fn new(told: impl Fn(u64, Option<u64>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// The same stream, which tells how many of its bytes were taken.
    pub(super) fn watch(self, body: ByteStream, size_bytes: Option<u64>) -> ByteStream {
        let mut taken = 0;
        Box::pin(body.inspect(move |chunk| {
            if let Ok(bytes) = chunk {
                taken += bytes.len() as u64;
                (self.0)(taken, size_bytes);
            }
        }))
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").finish_non_exhaustive()
    }
}
