//! `<job>.log.zst`: a sealed log in the seekable format of zstd, readable by `zstd -dc` too.
//!
//! Frames of 128 KiB, each with a checksum, and a table of them at the end
//! (<https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>).

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};

use bytes::{Bytes, BytesMut};
use danube_core::ByteRange;
use zeekstd::SeekTable;
use zstd_safe::{CCtx, CParameter};

use super::dir::read_range;

/// What a read of one byte has to unpack: a fraction of a millisecond.
const FRAME_BYTES: u32 = 128 * 1024;

/// The largest frame that is unpacked, and its packed size at the worst: what other versions may have written.
const MAX_FRAME_BYTES: u64 = 1024 * 1024;
const MAX_PACKED_BYTES: u64 = MAX_FRAME_BYTES + 64 * 1024;

/// zstd's own default: on build output about ten times smaller at some hundred megabytes a second.
const LEVEL: i32 = 3;

/// What is compared at once, and read ahead of a [`LogText`].
const BLOCK_BYTES: u64 = 1024 * 1024;

/// Compresses `len` bytes of a log into an empty file, and makes sure that they can be read back.
pub(super) fn write(text: &File, len: u64, mut to: &File) -> io::Result<()> {
    let failed = |code| io::Error::other(zstd_safe::get_error_name(code));
    let mut context = CCtx::create();
    for parameter in [CParameter::CompressionLevel(LEVEL), CParameter::ChecksumFlag(true)] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    let mut table = SeekTable::new();
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(FRAME_BYTES as usize));
    let mut at = 0;
    while at < len {
        let range = ByteRange::with_len(at, FRAME_BYTES.into()).clamp_end(len);
        let frame = read_range(text, range)?;
        if frame.len() as u64 != range.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        packed.clear();
        context.compress2(&mut packed, &frame).map_err(failed)?;
        to.write_all(&packed)?;
        let size = |len: usize| u32::try_from(len).map_err(io::Error::other);
        table.log_frame(size(packed.len())?, size(frame.len())?).map_err(error)?;
        at = range.end;
    }
    let mut table = table.into_serializer();
    let mut end = vec![0; table.encoded_len()];
    table.write_into(&mut end);
    to.write_all(&end)?;

    // The text goes when this returns: not on trust.
    let mut at = 0;
    while at < len {
        let range = ByteRange::with_len(at, BLOCK_BYTES).clamp_end(len);
        if read(to, range)? != read_range(text, range)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what was compressed does not read back as it was",
            ));
        }
        at = range.end;
    }
    Ok(())
}

/// How many bytes of log there are.
pub(super) fn len(file: &File) -> io::Result<u64> {
    Ok(table(file)?.size_decomp())
}

/// The table of a file's frames. It has no checksum of its own, so it must look like one of ours: all frames but the last are of one
/// size, and they fill the file.
fn table(mut file: &File) -> io::Result<SeekTable> {
    // The last 9 bytes say how many frames there are, 8 bytes each in the table: room is made for no more than fit.
    let len = file.metadata()?.len();
    let end = read_range(file, ByteRange::with_len(len.saturating_sub(9), 4))?;
    let frames = end[..].try_into().map(u32::from_le_bytes);
    if !frames.is_ok_and(|frames| 17 + u64::from(frames) * 8 <= len) {
        return Err(damaged("it does not end with a table of frames"));
    }
    let table = SeekTable::from_seekable(&mut file).map_err(error)?;
    let last = table.num_frames().checked_sub(1).ok_or_else(|| damaged("it has no frames"))?;
    let size = |frame| table.frame_size_decomp(frame).map_err(error);
    let first = size(0)?;
    for frame in 1..=last {
        let size = size(frame)?;
        if size > first || (size < first && frame < last) {
            return Err(damaged("the table of its frames is not as it was written"));
        }
    }
    let rest = len.checked_sub(table.size_comp());
    if rest != Some(table.clone().into_serializer().encoded_len() as u64) {
        return Err(damaged("its frames do not fill it"));
    }
    Ok(table)
}

/// The bytes of a range; short at the end.
pub(super) fn read(file: &File, range: ByteRange) -> io::Result<Bytes> {
    unpack(file, &table(file)?, range)
}

/// Whole frames are unpacked, since their checksums are at their ends.
fn unpack(file: &File, table: &SeekTable, range: ByteRange) -> io::Result<Bytes> {
    let range = range.clamp_end(table.size_decomp());
    let mut bytes = BytesMut::with_capacity(usize::try_from(range.len()).unwrap_or(0));
    let mut unpacked = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let frame = table.frame_index_decomp(at);
        let place = |start: zeekstd::Result<u64>, end: zeekstd::Result<u64>| {
            Ok::<_, io::Error>(ByteRange::new(start.map_err(error)?, end.map_err(error)?))
        };
        let packed = place(table.frame_start_comp(frame), table.frame_end_comp(frame))?;
        let holds = place(table.frame_start_decomp(frame), table.frame_end_decomp(frame))?;
        if packed.len() > MAX_PACKED_BYTES || holds.len() > MAX_FRAME_BYTES {
            return Err(damaged("a frame is larger than any that was written"));
        }
        let packed = read_range(file, packed)?;
        unpacked.clear();
        unpacked.reserve(usize::try_from(holds.len()).unwrap_or(0));
        let len = zstd_safe::decompress(&mut unpacked, &packed)
            .map_err(|code| damaged(zstd_safe::get_error_name(code)))?;
        if len as u64 != holds.len() {
            return Err(damaged("a frame is not as long as the table says"));
        }
        let end = range.end.min(holds.end);
        let index = |at: u64| usize::try_from(at - holds.start).unwrap_or(usize::MAX);
        bytes.extend_from_slice(&unpacked[index(at)..index(end)]);
        at = end;
    }
    Ok(bytes.freeze())
}

/// The text of a compressed log (`<job>.log.zst`) from its beginning to its end, for whoever has the file and
/// no store. It blocks, and holds about a mebibyte.
///
/// A reader that came to the end has read every byte of every frame, and the checksum of each held. A file that is
/// damaged, or compressed by something else, is an error of the kind [`io::ErrorKind::InvalidData`], never a shorter
/// text.
pub struct LogText {
    file: File,
    table: SeekTable,
    /// Where what was read ahead ends.
    at: u64,
    ahead: Bytes,
}

impl LogText {
    /// Reads the table of the file's frames.
    ///
    /// # Errors
    ///
    /// What the system says; [`io::ErrorKind::InvalidData`] for what is no compressed log.
    pub fn of_compressed(file: File) -> io::Result<Self> {
        let table = table(&file)?;
        Ok(Self { file, table, at: 0, ahead: Bytes::new() })
    }
}

impl fmt::Debug for LogText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogText")
            .field("file", &self.file)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Read for LogText {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() && !buffer.is_empty() {
            self.ahead =
                unpack(&self.file, &self.table, ByteRange::with_len(self.at, BLOCK_BYTES))?;
            self.at += self.ahead.len() as u64;
        }
        let len = buffer.len().min(self.ahead.len());
        buffer[..len].copy_from_slice(&self.ahead.split_to(len));
        Ok(len)
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the compressed log is damaged: {why}"))
}

fn error(error: zeekstd::Error) -> io::Error {
    if error.is_io() { io::Error::other(error) } else { damaged(&error.to_string()) }
}
