//! Files and bytes as streams, read off the runtime's threads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use danube_core::{BoxError, ByteRange};
use futures_util::{StreamExt, stream};
use sha2::{Digest as _, Sha256};

use crate::intake::digest_of;
use crate::{ArtifactRecord, ByteStream};

/// Bytes per read: large enough that handing them to a thread and back does not count.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// A stream that gives `bytes` and ends.
#[must_use]
pub fn bytes_stream(bytes: impl Into<Bytes>) -> ByteStream {
    let bytes = bytes.into();
    let chunk = (!bytes.is_empty()).then_some(Ok(bytes));
    Box::pin(stream::iter(chunk))
}

/// A stream of a file's bytes from its beginning to where it ends when the end is reached, 256 KiB at
/// a time. The reads happen on tokio's threads for blocking work; it must be polled on a runtime.
#[must_use]
pub fn file_stream(file: File) -> ByteStream {
    read_stream(Arc::new(file), 0, None)
}

/// The first `want` bytes of a stream, fewer where it ends or fails earlier, and the stream as it was.
pub(crate) async fn peek(body: ByteStream, want: usize) -> (Vec<u8>, ByteStream) {
    // One that ended here is asked again by who reads it whole, and many streams panic then.
    let mut body = body.fuse();
    let (mut head, mut taken) = (Vec::new(), Vec::new());
    while head.len() < want {
        let Some(chunk) = body.next().await else { break };
        let failed = chunk.is_err();
        if let Ok(bytes) = &chunk {
            head.extend_from_slice(&bytes[..bytes.len().min(want - head.len())]);
        }
        taken.push(chunk);
        if failed {
            break;
        }
    }
    (head, Box::pin(stream::iter(taken).chain(body)))
}

impl ArtifactRecord {
    /// `body`, which is to be the artifact, whole: it ends with an error where its bytes do not have the SHA-256 of the
    /// record. Whoever takes it does nothing that counts before its end.
    #[must_use]
    pub fn checked(&self, body: ByteStream) -> ByteStream {
        let (name, expected) = (self.name.clone(), self.digest);
        Box::pin(stream::try_unfold(Some((body, Sha256::new())), move |reading| {
            let name = name.clone();
            async move {
                let Some((mut body, mut hasher)) = reading else { return Ok(None) };
                if let Some(chunk) = body.next().await.transpose()? {
                    hasher.update(&chunk);
                    return Ok(Some((chunk, Some((body, hasher)))));
                }
                match digest_of(hasher) {
                    actual if actual == expected => Ok(None),
                    actual => Err(BoxError::from(format!(
                        "{name} is not what was stored: its bytes have the SHA-256 {actual}, and its record says {expected}"
                    ))),
                }
            }
        }))
    }
}

/// The range of a file; one that ends early is an error.
pub(crate) fn range_stream(file: Arc<File>, range: ByteRange) -> ByteStream {
    read_stream(file, range.start, Some(range.end))
}

fn read_stream(file: Arc<File>, start: u64, end: Option<u64>) -> ByteStream {
    Box::pin(stream::try_unfold((start, false), move |(at, ended)| {
        let file = Arc::clone(&file);
        async move {
            let want = end.map_or(CHUNK_BYTES as u64, |end| end.saturating_sub(at));
            if want == 0 || ended {
                return Ok(None);
            }
            let want = want.min(CHUNK_BYTES as u64) as usize;
            let read = tokio::task::spawn_blocking(move || read_at(&file, at, want)).await;
            let bytes = read.map_err(BoxError::from)??;
            match (bytes.len() as u64, end) {
                (0, Some(_)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                (0, None) => Ok(None),
                // A short read without an end is the end: asking again would cost a thread's turn, which
                // small files have to pay once each.
                (len, None) => Ok(Some((bytes, (at + len, len < want as u64)))),
                (len, Some(_)) => Ok(Some((bytes, (at + len, false)))),
            }
        }
    }))
}

/// Fills up to `want` bytes, fewer only at the end of the file.
fn read_at(file: &File, at: u64, want: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; want];
    let mut filled = 0;
    while filled < want {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}
