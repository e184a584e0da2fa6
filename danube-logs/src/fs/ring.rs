//! `<job>.tail`: the newest lines of a log whose head is full.
//!
//! Two files, each with a header and lines behind it: when the newer one has as much as is to be kept it
//! takes the older one's place, and a new one begins. Nothing is ever overwritten, so a process that is killed
//! leaves at worst the beginning of a last line. Header, 24 bytes: `DNBTAIL` and the version 1, then, little
//! endian, the lines and the bytes of output that stood before this file's first line.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use danube_core::JobId;
use rustix::fs::OFlags;

use crate::line::Omitted;
use crate::{LineFormat, LogTail};

const MAGIC: &[u8; 8] = b"DNBTAIL\x01";
const HEADER: u64 = 24;

/// The newest lines of one log.
#[derive(Debug)]
pub(super) struct Ring {
    dir: PathBuf,
    log: JobId,
    older: Option<Part>,
    newer: Part,
}

#[derive(Debug)]
struct Part {
    file: File,
    /// What stood before its first line.
    before: Omitted,
    has: Omitted,
    /// Bytes of lines.
    len: u64,
}

fn newer_path(dir: &Path, log: &JobId) -> PathBuf {
    dir.join(format!("{log}.tail"))
}

fn older_path(dir: &Path, log: &JobId) -> PathBuf {
    dir.join(format!("{log}.tail.old"))
}

impl Ring {
    /// A ring without lines.
    pub(super) fn create(dir: &Path, log: &JobId) -> io::Result<Self> {
        let newer = Part::create(&newer_path(dir, log), Omitted::default())?;
        Ok(Self { dir: dir.to_owned(), log: log.clone(), older: None, newer })
    }

    /// What a dead owner left, without the beginning of a last line; `None` where it left none.
    pub(super) fn open(dir: &Path, log: &JobId, format: LineFormat) -> io::Result<Option<Self>> {
        let older = Part::open(&older_path(dir, log), format)?;
        let newer = match (Part::open(&newer_path(dir, log), format)?, &older) {
            (Some(newer), _) => newer,
            // Killed between the change of places and the new file.
            (None, Some(older)) => {
                let mut before = older.before;
                before += older.has;
                Part::create(&newer_path(dir, log), before)?
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { dir: dir.to_owned(), log: log.clone(), older, newer }))
    }

    /// Appends whole lines: all of them or, with an error, none.
    pub(super) fn append(&mut self, lines: &[u8], output: u64, keep: u64) -> io::Result<()> {
        if self.newer.len >= keep {
            let newer = newer_path(&self.dir, &self.log);
            let mut before = self.newer.before;
            before += self.newer.has;
            fs::rename(&newer, older_path(&self.dir, &self.log))?;
            // On a full disk the part that is full gets its name back, and the next append tries again.
            let part = match Part::create(&newer, before) {
                Ok(part) => part,
                Err(error) => {
                    fs::rename(older_path(&self.dir, &self.log), &newer)?;
                    self.older = None;
                    return Err(error);
                }
            };
            self.older = Some(std::mem::replace(&mut self.newer, part));
        }
        let part = &mut self.newer;
        if let Err(error) = part.file.write_all_at(lines, HEADER + part.len) {
            let _ = part.file.set_len(HEADER + part.len);
            return Err(error);
        }
        part.len += lines.len() as u64;
        part.has += Omitted { lines: memchr::memchr_iter(b'\n', lines).count() as u64, output };
        Ok(())
    }

    pub(super) fn read(&self) -> io::Result<LogTail> {
        let parts = [self.older.as_ref(), Some(&self.newer)].into_iter().flatten();
        let dropped = self.older.as_ref().unwrap_or(&self.newer).before;
        let mut lines = Vec::new();
        for part in parts {
            part.read(&mut lines)?;
        }
        let lines = Bytes::from(lines);
        Ok(LogTail { dropped_lines: dropped.lines, dropped_output: dropped.output, lines })
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        if let Some(older) = &self.older {
            older.file.sync_data()?;
        }
        self.newer.file.sync_data()
    }
}

impl Part {
    fn create(path: &Path, before: Omitted) -> io::Result<Self> {
        // Its own name is the log's owner's: whatever lies there is a dead owner's.
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(flags);
        let file = options.open(path)?;
        let mut header = [0; 24];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&before.lines.to_le_bytes());
        header[16..].copy_from_slice(&before.output.to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Self { file, before, has: Omitted::default(), len: 0 })
    }

    fn open(path: &Path, format: LineFormat) -> io::Result<Option<Self>> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut header = [0; 24];
        match file.read_exact_at(&mut header, 0) {
            Ok(()) if &header[..8] == MAGIC => {}
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            // Killed before it was whole: it carries nothing that was acknowledged.
            Ok(()) | Err(_) => return Ok(None),
        }
        let number = |at: usize| {
            u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes are eight bytes"))
        };
        let before = Omitted { lines: number(8), output: number(16) };
        let mut part = Self { file, before, has: Omitted::default(), len: 0 };
        part.len = part.file.metadata()?.len().saturating_sub(HEADER);
        let mut lines = Vec::new();
        part.read(&mut lines)?;
        lines.truncate(memchr::memrchr(b'\n', &lines).map_or(0, |at| at + 1));
        part.len = lines.len() as u64;
        part.file.set_len(HEADER + part.len)?;
        part.has = format.count(&lines);
        Ok(Some(part))
    }

    fn read(&self, lines: &mut Vec<u8>) -> io::Result<()> {
        let at = lines.len();
        lines.resize(at + usize::try_from(self.len).map_err(io::Error::other)?, 0);
        self.file.read_exact_at(&mut lines[at..], HEADER)
    }
}

/// Removes it, and returns the bytes freed.
pub(super) fn remove(dir: &Path, log: &JobId) -> io::Result<u64> {
    let mut freed = 0;
    for path in [older_path(dir, log), newer_path(dir, log)] {
        let len = match fs::symlink_metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => freed += len,
        }
    }
    Ok(freed)
}
