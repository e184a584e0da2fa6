//! The client's side of an upload in parts.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use danube_core::{BoxError, ByteRange, Sha256Digest};
use futures_util::TryStreamExt;
use sha2::{Digest as _, Sha256};

use crate::stream::range_stream;
use crate::{Error, Part, UploadId, UploadSessions};

/// What [`send_file`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The bytes that were sent.
    pub sent_bytes: u64,
    /// The bytes that were acknowledged before and are those of the file still.
    pub known_bytes: u64,
}

/// Sends those parts of a file that an upload does not have yet, or has otherwise. `progress` is called with
/// how many bytes of the file are there, after every part. Calling it again goes on where it stopped.
///
/// # Errors
///
/// [`Error::Part`] when the upload has more than the file: it was begun for another one. [`Error::Body`]
/// when the file cannot be read; those of [`UploadSessions::put_part`].
pub async fn send_file(
    uploads: &dyn UploadSessions,
    id: &UploadId,
    file: File,
    mut progress: impl FnMut(u64),
) -> Result<Sent, Error> {
    let state = uploads.upload(id).await?;
    let failed = |source: BoxError| Error::Body { key: state.key.clone(), source };
    let size_bytes = file.metadata().map_err(|e| failed(e.into()))?.len();
    let parts = size_bytes.div_ceil(state.part_bytes);
    if let Some(beyond) = state.parts.iter().find(|part| u64::from(part.number) >= parts) {
        let reason = format!("lies beyond the {size_bytes} bytes of this file; begin a new upload");
        return Err(Error::Part { id: id.clone(), number: beyond.number, reason });
    }
    let file = Arc::new(file);
    let mut sent = Sent::default();
    for at in 0..parts {
        let start = at * state.part_bytes;
        let range = ByteRange::new(start, size_bytes.min(start + state.part_bytes));
        let (bytes, digest) = read(&file, range).await.map_err(failed)?;
        let number = u32::try_from(at).unwrap_or(u32::MAX);
        let size_bytes = bytes.len() as u64;
        let wanted = Part { number, size_bytes, digest };
        if state.parts.contains(&wanted) {
            sent.known_bytes += size_bytes;
        } else {
            let stored = uploads.put_part(id, number, bytes).await?;
            if stored != wanted {
                let reason = "did not arrive as it was sent; send it again".to_owned();
                return Err(Error::Part { id: id.clone(), number, reason });
            }
            sent.sent_bytes += size_bytes;
        }
        progress(sent.sent_bytes + sent.known_bytes);
    }
    Ok(sent)
}

async fn read(file: &Arc<File>, range: ByteRange) -> Result<(Bytes, Sha256Digest), BoxError> {
    let mut bytes = Vec::with_capacity(usize::try_from(range.len())?);
    let mut chunks = range_stream(Arc::clone(file), range);
    while let Some(chunk) = chunks.try_next().await? {
        bytes.extend_from_slice(&chunk);
    }
    let hashed = tokio::task::spawn_blocking(move || {
        let digest = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
        (Bytes::from(bytes), digest)
    });
    hashed.await.map_err(|e| io::Error::from(e).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlobKey, MIN_PART_BYTES, MemoryBlobs, PutOptions};
    use std::os::unix::fs::FileExt;

    #[tokio::test]
    async fn only_what_is_not_there_is_sent() {
        let part = MIN_PART_BYTES;
        let len = 5 * part + 100;
        let bytes: Vec<u8> = (0..len).map(|at| ((at * at) >> 7) as u8).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let store = MemoryBlobs::new();
        let key = BlobKey::artifact(&"j".parse().unwrap(), &"a".parse().unwrap());
        let id = store.begin(&key, PutOptions::default(), part).await.unwrap();
        for number in [1, 4] {
            let at = (u64::from(number) * part) as usize;
            let known = Bytes::copy_from_slice(&bytes[at..at + part as usize]);
            store.put_part(&id, number, known).await.unwrap();
        }
        store.put_part(&id, 2, Bytes::from(vec![0; part as usize])).await.unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let mut told = Vec::new();
        let sent = send_file(&store, &id, open(), |bytes| told.push(bytes)).await.unwrap();
        assert_eq!(sent, Sent { sent_bytes: 3 * part + 100, known_bytes: 2 * part });
        assert_eq!(
            told,
            [1, 2, 3, 4, 5].map(|n| n * part).into_iter().chain([len]).collect::<Vec<_>>()
        );
        let again = send_file(&store, &id, open(), |_| {}).await.unwrap();
        assert_eq!(again, Sent { sent_bytes: 0, known_bytes: len });
        // The file changed since: what is in the upload follows it.
        open().write_all_at(b"new", 3 * part + 5).unwrap();
        let changed = send_file(&store, &id, open(), |_| {}).await.unwrap();
        assert_eq!(changed.sent_bytes, part);
        store.complete(&id).await.unwrap();
        open().set_len(part).unwrap();
        let shorter = send_file(&store, &id, open(), |_| {}).await.unwrap_err();
        assert!(matches!(shorter, Error::Part { number: 1, .. }), "{shorter:?}");
    }
}
