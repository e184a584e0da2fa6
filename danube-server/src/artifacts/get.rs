//! `danube artifacts get`: to a file, to standard output, or unpacked.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use danube_artifacts::{ArtifactRecord, BlobKey, BlobStore, ByteStream, Error};
use danube_core::ErrorClass;
use danube_core::files::{Existing, TemporaryFile};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::app::App;
use crate::failure::Failure;
use crate::summary::CopyBar;
use crate::terminal::{self, Sink};
use crate::{Environment, archive, view};

/// Pieces that wait for whoever unpacks; a piece of a file has 256 KiB.
const PIECES: usize = 2;

/// The bytes of an artifact, if they can be read now; an error at their end where they are not those of its record.
async fn open(app: &App, record: &ArtifactRecord) -> Result<ByteStream, Failure> {
    let ArtifactRecord { job, name, .. } = record;
    match app.blobs.get(&BlobKey::artifact(job, name), None).await {
        Ok(blob) => Ok(record.checked(blob.body)),
        Err(Error::Archived { .. }) => {
            let (shown, typed) = (terminal::safe(name.as_str()), terminal::word(name.as_str()));
            Err(Failure::new(
                ErrorClass::Conflict,
                format!(
                    "{shown} is archived: `danube artifacts restore {job} {typed}` makes it readable"
                ),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn write(
    app: &App,
    record: &ArtifactRecord,
    to: Option<PathBuf>,
    environment: &Environment,
) -> Result<u8, Failure> {
    let name = &record.name;
    let mut body = open(app, record).await?;
    let broken = |e: danube_core::BoxError| Failure::of(ErrorClass::Internal, e.as_ref());
    if to.as_deref() == Some(Path::new("-")) {
        while let Some(bytes) = body.try_next().await.map_err(broken)? {
            if !view::write(Sink::Stdout, bytes.to_vec()).await? {
                break;
            }
        }
        return Ok(0);
    }
    let path = to.unwrap_or_else(|| name.file_name().into());
    let failed = |e: &io::Error| {
        let why = match e.kind() {
            io::ErrorKind::AlreadyExists => {
                "it exists already and is left as it is; name another with --to".to_owned()
            }
            _ => e.to_string(),
        };
        Failure::new(ErrorClass::of_io(e), format!("cannot write {}: {why}", path.display()))
    };
    if fs::symlink_metadata(&path).is_ok() {
        return Err(failed(&io::ErrorKind::AlreadyExists.into()));
    }
    let bar = CopyBar::new(environment.colour(Sink::Stderr));
    let mut file = TemporaryFile::create_beside(&path, 0o644).map_err(|e| failed(&e))?;
    let mut copied = 0;
    while let Some(bytes) = body.try_next().await.map_err(broken)? {
        copied += bytes.len() as u64;
        let written = tokio::task::spawn_blocking(move || {
            let result = file.file().write_all(&bytes);
            (file, result)
        });
        let (back, result) = written.await.expect("writing a file does not panic");
        file = back;
        result.map_err(|e| failed(&e))?;
        bar.at(name.as_str(), copied, record.size_bytes);
    }
    bar.done();
    let target = path.clone();
    let committed = tokio::task::spawn_blocking(move || file.commit(&target, Existing::Refuse));
    committed.await.expect("writing a file does not panic").map_err(|e| failed(&e))?;
    Sink::Stderr.line(&format!(
        "danube: {} ({}) is written to {}",
        terminal::safe(name.as_str()),
        terminal::size(copied),
        path.display()
    ));
    Ok(0)
}

/// Unpacks as it comes, without a file in between.
pub(super) async fn unpack(
    app: &App,
    record: &ArtifactRecord,
    into: PathBuf,
) -> Result<u8, Failure> {
    let mut body = open(app, record).await?;
    let (pieces, taken) = mpsc::channel(PIECES);
    let name = record.name.to_string();
    let unpacking = tokio::task::spawn_blocking(move || {
        archive::unpack_from(Taken { pieces: taken, piece: Bytes::new() }, &name, &into)
    });
    while let Some(piece) = body.next().await {
        // Whoever unpacks may have refused it already.
        if pieces.send(piece.map_err(io::Error::other)).await.is_err() {
            break;
        }
    }
    drop(pieces);
    unpacking.await.expect("unpacking does not panic")
}

/// What came, to be read on a thread that may wait.
struct Taken {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Taken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}
