//! `danube artifacts pack` and `unpack`: work without a data directory.

use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

use danube_artifacts::archive::{ArchiveError, Limits, PackOptions, Packed, pack, unpack};
use danube_core::ErrorClass;
use danube_core::files::{Existing, TemporaryFile};

use crate::failure::Failure;
use crate::terminal::{self, Sink};

pub(crate) async fn pack_directory(dir: PathBuf, file: PathBuf) -> Result<u8, Failure> {
    let work = move || pack_blocking(&dir, &file);
    tokio::task::spawn_blocking(work).await.expect("packing does not panic")
}

pub(crate) async fn unpack_file(file: PathBuf, into: PathBuf) -> Result<u8, Failure> {
    let work = move || unpack_blocking(&file, &into);
    tokio::task::spawn_blocking(work).await.expect("unpacking does not panic")
}

fn pack_blocking(dir: &Path, file: &Path) -> Result<u8, Failure> {
    let cannot = |e: std::io::Error| Failure::io(format!("cannot write {}", file.display()), &e);
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Where either is missing, opening it says so.
    if let (Ok(parent), Ok(dir)) = (parent.canonicalize(), dir.canonicalize())
        && parent.starts_with(dir)
    {
        let message = format!("{} lies in what is to be packed: name another", file.display());
        return Err(Failure::invalid(message));
    }
    if std::fs::symlink_metadata(file).is_ok() {
        return Err(cannot(std::io::ErrorKind::AlreadyExists.into()));
    }
    let archive = TemporaryFile::create_beside(file, 0o644).map_err(cannot)?;
    let packed = pack(dir, BufWriter::new(archive.file()), &PackOptions::default());
    let packed = packed.map_err(|e| failure(&e))?;
    archive.commit(file, Existing::Refuse).map_err(cannot)?;
    say_left_out(&packed);
    Sink::Stderr.line(&format!(
        "danube: packed {} entries ({}) into {}",
        packed.entries,
        terminal::size(packed.content_bytes),
        terminal::safe(&file.display().to_string())
    ));
    Ok(0)
}

/// Names what was not packed.
pub(crate) fn say_left_out(packed: &Packed) {
    for skipped in &packed.skipped {
        let path = terminal::safe(&skipped.path);
        let why = terminal::safe(&skipped.refusal.to_string());
        Sink::Stderr.line(&format!("danube: left out: {path}: {why}"));
    }
    if packed.more_skipped > 0 {
        Sink::Stderr.line(&format!("danube: left out: {} more", packed.more_skipped));
    }
}

fn unpack_blocking(file: &Path, into: &Path) -> Result<u8, Failure> {
    let archive = std::fs::File::open(file)
        .map_err(|e| Failure::io(format!("cannot open {}", file.display()), &e))?;
    unpack_from(archive, &file.display().to_string(), into)
}

/// Unpacks what comes from `source`, which is called so where it is refused.
pub(crate) fn unpack_from(source: impl Read, called: &str, into: &Path) -> Result<u8, Failure> {
    let unpacked = match unpack(source, into, &Limits::default()) {
        Ok(unpacked) => unpacked,
        Err(error @ ArchiveError::Refused { .. }) => {
            let shown = terminal::safe(&format!("{called}: {error}"));
            Sink::Stderr.line(&format!("danube: refused: {shown}"));
            return Ok(1);
        }
        Err(error) => return Err(failure(&error)),
    };
    if unpacked.leftovers > 0 {
        let count = unpacked.leftovers;
        Sink::Stderr.line(&format!("danube: removed what killed unpackings left: {count}"));
    }
    Sink::Stderr.line(&format!(
        "danube: unpacked {} entries ({}) into {}",
        unpacked.entries,
        terminal::size(unpacked.content_bytes),
        terminal::safe(&into.display().to_string())
    ));
    Ok(0)
}

pub(crate) fn failure(error: &ArchiveError) -> Failure {
    let class = match error.class() {
        // A tree that cannot be packed is no wrong usage.
        ErrorClass::Invalid | ErrorClass::Exhausted => ErrorClass::Conflict,
        class => class,
    };
    Failure::of(class, error)
}
