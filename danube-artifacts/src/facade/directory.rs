//! A directory as an artifact: a reproducible tar.gz that goes into the store as it is packed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use danube_core::{ArtifactName, BoxError, JobId};
use futures_util::stream;
use tokio::sync::mpsc;

use super::{Artifacts, KeepOptions};
use crate::archive::{ArchiveError, PackOptions, Packed, pack};
use crate::{ArtifactRecord, ByteStream, Error};

/// Bytes that are handed over at once: gzip writes 32 KiB at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait for the store: with the two at the ends at most 1 MiB.
const PIECES: usize = 2;

impl Artifacts {
    /// Packs what is below `dir` and [keeps](Self::keep) it as `name`, with `.tar.gz` at its end. The same tree gives the
    /// same bytes, so the same digest. It goes into the store as it is packed: no file in between, and about 1 MiB of memory.
    /// What is left out is told ([`pack`]). Of `options`, sizes and digests are those of the archive.
    ///
    /// # Errors
    ///
    /// [`Error::Directory`] when the tree cannot be packed, or changes meanwhile: nothing is stored then. [`Error::Name`] when
    /// the name is too long with its ending; those of [`keep`](Self::keep).
    ///
    /// # Cancel safety
    ///
    /// That of [`keep`](Self::keep); the thread that packs ends by itself with the next piece.
    pub async fn keep_dir(
        &self,
        job: &JobId,
        name: &ArtifactName,
        dir: impl Into<PathBuf>,
        options: KeepOptions,
        pack: PackOptions,
    ) -> Result<(ArtifactRecord, Packed), Error> {
        let (name, dir) = (archive_name(name)?, dir.into());
        let packed = Arc::new(Mutex::new(None));
        let body = packing(dir.clone(), pack, Arc::clone(&packed));
        let record = match self.keep(job, &name, body, options).await {
            Ok(record) => record,
            Err(Error::Body { key, source }) => {
                return Err(match source.downcast::<ArchiveError>() {
                    Ok(error) => Error::Directory(*error),
                    Err(source) => Error::Body { key, source },
                });
            }
            Err(error) => return Err(error),
        };
        let packed = packed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let packed = packed.ok_or_else(|| {
            let cut = io::ErrorKind::UnexpectedEof.into();
            Error::io(&self.blobs, format!("take the whole archive of {}", dir.display()), cut)
        })?;
        Ok((record, packed))
    }
}

/// The archive as it comes from a thread of its own. It ends well only when everything was packed.
fn packing(dir: PathBuf, options: PackOptions, told: Arc<Mutex<Option<Packed>>>) -> ByteStream {
    let start = move || {
        let (pieces, taken) = mpsc::channel(PIECES);
        let work = tokio::task::spawn_blocking(move || {
            let mut pipe = Pipe { pieces, piece: Vec::new() };
            let packed = pack(&dir, &mut pipe, &options)?;
            let flushed = pipe.flush();
            flushed.map_err(|source| ArchiveError::Stream { operation: "write", source })?;
            Ok::<_, ArchiveError>(packed)
        });
        (taken, work)
    };
    enum At<S, T> {
        Start(S),
        UnderWay(T),
    }
    Box::pin(stream::try_unfold(At::Start(start), move |at| {
        let told = Arc::clone(&told);
        async move {
            let (mut taken, work) = match at {
                At::Start(start) => start(),
                At::UnderWay(work) => work,
            };
            if let Some(piece) = taken.recv().await {
                return Ok(Some((piece, At::UnderWay((taken, work)))));
            }
            let packed = work.await.map_err(|e| BoxError::from(io::Error::from(e)))??;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(packed);
            Ok(None)
        }
    }))
}

/// Hands over what is written, as fast as it is taken.
struct Pipe {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece).into();
        self.pieces.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// What the archive of a directory is called.
fn archive_name(name: &ArtifactName) -> Result<ArtifactName, Error> {
    let named = name.as_str();
    if named.ends_with(".tar.gz") || named.ends_with(".tgz") {
        return Ok(name.clone());
    }
    Ok(format!("{named}.tar.gz").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Entries, Limits, Refusal};
    use crate::facade::tests::{House, house, name, read};
    use danube_core::ErrorClass;
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        // Larger than all the pieces that may wait, and not to be compressed away.
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..3_000_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        fs::write(dir.path().join("bin/noise"), noise).unwrap();
        fs::write(dir.path().join("README"), "read me").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), 0o600.into()).unwrap();
        dir
    }

    async fn keep_dir(
        house: &House,
        named: &str,
        dir: &Path,
        options: KeepOptions,
        pack: PackOptions,
    ) -> Result<(ArtifactRecord, Packed), Error> {
        house.artifacts.keep_dir(&house.job, &name(named), dir, options, pack).await
    }

    #[tokio::test]
    async fn the_same_tree_is_the_same_artifact_and_unpacks_to_itself() {
        let (house, tree, copy) = (house(), tree(), tree());
        let told = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&told);
        let options = KeepOptions::default().with_progress(move |bytes, whole| {
            assert!(bytes > count.swap(bytes, Ordering::Relaxed) && whole.is_none());
        });
        let (first, packed) =
            keep_dir(&house, "out", tree.path(), options, PackOptions::default()).await.unwrap();
        assert_eq!(first.name, name("out.tar.gz"));
        assert_eq!(first.content_type, "application/gzip");
        assert_eq!(told.load(Ordering::Relaxed), first.size_bytes);
        assert_eq!((packed.entries, packed.content_bytes), (3, 3_000_007));
        assert_eq!(packed.skipped[0].refusal, Refusal::Kind { kind: "FIFO" });
        let (second, _) = keep_dir(
            &house,
            "again.tgz",
            copy.path(),
            KeepOptions::default(),
            PackOptions::default(),
        )
        .await
        .unwrap();
        assert_eq!((second.name.as_str(), second.digest), ("again.tgz", first.digest));

        house.artifacts.sign(&first).await.unwrap();
        let (_, blob) = house.artifacts.open(&house.job, &first.name, None).await.unwrap();
        let bytes = read(blob).await;
        let mut entries = Entries::from_gzip(&bytes[..], Limits::default());
        let mut paths = Vec::new();
        while let Some(entry) = entries.next_entry().unwrap() {
            paths.push(entry.path);
        }
        assert_eq!(paths, ["README", "bin", "bin/noise"]);
    }

    #[tokio::test]
    async fn a_tree_that_cannot_be_packed_leaves_nothing() {
        let house = house();
        let pack = async |named: &str, dir: &Path, options| {
            keep_dir(&house, named, dir, KeepOptions::default(), options).await.unwrap_err()
        };
        let tree = tree();
        let root = tree.path().to_owned();
        let missing = pack("a", &root.join("missing"), PackOptions::default()).await;
        assert!(matches!(missing, Error::Directory(ArchiveError::File { .. })), "{missing:?}");
        assert_eq!(missing.class(), ErrorClass::NotFound);
        let small = Limits::default().with_max_bytes(1_000_000);
        let large = pack("a", &root, PackOptions::default().with_limits(small)).await;
        assert_eq!(large.class(), ErrorClass::Exhausted, "{large:?}");
        let long = "n".repeat(248);
        let long = pack(&long, &root, PackOptions::default()).await;
        assert!(matches!(long, Error::Name(_)), "{long:?}");
        fs::write(root.join("line\nbreak"), "").unwrap();
        let hostile = pack("a", &root, PackOptions::default()).await;
        assert_eq!(hostile.class(), ErrorClass::Invalid, "{hostile:?}");
        assert!(house.artifacts.blobs().list(&house.job).await.unwrap().is_empty());
        assert!(house.artifacts.list(&house.job).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_tree_that_changes_meanwhile_leaves_nothing() {
        let (house, tree) = (house(), tree());
        let grows = tree.path().join("bin/noise");
        let options = KeepOptions::default().with_progress(move |bytes, _| {
            // The file is being read: it is longer than what may wait.
            if bytes <= PIECE_BYTES as u64 {
                fs::File::options().append(true).open(&grows).unwrap().write_all(b"more").unwrap();
            }
        });
        let packing = keep_dir(&house, "a", tree.path(), options, PackOptions::default());
        let changed = packing.await.unwrap_err();
        assert!(matches!(changed, Error::Directory(ArchiveError::Changed { .. })), "{changed:?}");
        assert!(house.artifacts.blobs().list(&house.job).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn whoever_stops_listening_ends_the_packing() {
        let (house, tree) = (house(), tree());
        let options = KeepOptions::default().with_max_bytes(1000);
        let packing = keep_dir(&house, "a", tree.path(), options, PackOptions::default());
        let refused = packing.await.unwrap_err();
        assert!(matches!(refused, Error::TooLarge { .. }), "{refused:?}");
        // The runtime of this test waits for its threads when it ends: a packing that went on would hang it.
    }
}
