//! The indexes of logs that this process does not write: read from the sidecar, and made up to the log's
//! end by reading on.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use danube_core::{ByteRange, JobId};

use super::dir::{Dir, Stored, io_error};
use super::sidecar;
use crate::index::{Landmark, LineIndex, Sought};
use crate::{Error, MAX_READ_BYTES};

/// Indexes kept in memory: at most 1.5 MiB each.
const KEPT: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Indexes(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    log: JobId,
    /// The file that it was made of: another one may come to lie under this name.
    of: (u64, u64),
    index: Arc<Mutex<LineIndex>>,
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

impl Indexes {
    pub(super) fn landmark(
        &self,
        dir: &Dir,
        log: &JobId,
        sought: Sought,
    ) -> Result<Landmark, Error> {
        let stored = dir.stored(log)?;
        let failed = |source| io_error(log, "find lines in", source);
        let of = identity(&stored.file().metadata().map_err(failed)?);
        let kept = self.kept(log, of);
        // Whoever asks for the same log meanwhile would do the same work.
        let mut index = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let len = stored.len().map_err(failed)?;
        if index.is_empty() {
            *index = load(dir, log, &stored, len).map_err(failed)?;
        } else if index.len() > len {
            *index = LineIndex::new();
        }
        extend(&mut index, &stored, len).map_err(failed)?;
        let landmark = index.landmark(sought);
        if ends_a_line(&stored, landmark.offset).map_err(failed)? {
            return Ok(landmark);
        }
        tracing::warn!(%log, "the index of a log's lines does not fit it, and is made anew");
        *index = LineIndex::new();
        extend(&mut index, &stored, len).map_err(failed)?;
        Ok(index.landmark(sought))
    }

    fn kept(&self, log: &JobId, of: (u64, u64)) -> Arc<Mutex<LineIndex>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().position(|kept| kept.log == *log);
        let kept = match found.map(|at| all.remove(at)).filter(|kept| kept.of == of) {
            Some(kept) => kept,
            None => Kept { log: log.clone(), of, index: Arc::default() },
        };
        let index = kept.index.clone();
        all.truncate(KEPT - 1);
        all.insert(0, kept);
        index
    }
}

/// The index that lies beside a log, if it fits.
pub(super) fn load(dir: &Dir, log: &JobId, stored: &Stored, len: u64) -> io::Result<LineIndex> {
    let index = sidecar::read_index(&dir.0, log, len)?;
    Ok(if ends_a_line(stored, index.len())? { index } else { LineIndex::new() })
}

fn ends_a_line(stored: &Stored, offset: u64) -> io::Result<bool> {
    Ok(offset == 0 || stored.read(ByteRange::new(offset - 1, offset))?[..] == *b"\n")
}

/// Reads on to the last line that has ended: what follows it may yet be cut off by a recovery.
pub(super) fn extend(index: &mut LineIndex, stored: &Stored, len: u64) -> io::Result<()> {
    while index.len() < len {
        let block = stored.read(ByteRange::with_len(index.len(), MAX_READ_BYTES).clamp_end(len))?;
        match memchr::memrchr(b'\n', &block) {
            Some(end) => index.push(&block[..=end]),
            // In the middle of a line that is longer than a block.
            None if block.len() as u64 == MAX_READ_BYTES => index.push(&block),
            None => break,
        }
    }
    Ok(())
}
