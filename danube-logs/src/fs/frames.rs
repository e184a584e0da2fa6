//! `<job>.log.zst`: a sealed log in the seekable format of zstd, readable by `zstd -dc` too.
//!
//! Frames of 128 KiB, each with a checksum, and a table of them at the end
//! (<https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>).

use std::fs::File;
use std::io;

use bytes::{Bytes, BytesMut};
use danube_core::ByteRange;
use zeekstd::{EncodeOptions, FrameSizePolicy, SeekTable};

/// What a read of one byte has to unpack: a fraction of a millisecond.
const FRAME_BYTES: u32 = 128 * 1024;

/// The largest frame that is unpacked, and its packed size at the worst: what other versions may have written.
const MAX_FRAME_BYTES: u64 = 1024 * 1024;
const MAX_PACKED_BYTES: u64 = MAX_FRAME_BYTES + 64 * 1024;

/// zstd's own default: on build output about ten times smaller at some hundred megabytes a second.
const LEVEL: i32 = 3;

/// What is read, written and compared at once.
const BLOCK_BYTES: u64 = 1024 * 1024;

/// Compresses `len` bytes of a log into an empty file, and makes sure that they can be read back.
pub(super) fn write(text: &File, len: u64, to: &File) -> io::Result<()> {
    let options = EncodeOptions::new()
        .frame_size_policy(FrameSizePolicy::Uncompressed(FRAME_BYTES))
        .checksum_flag(true)
        .compression_level(LEVEL);
    let mut encoder = options.into_encoder(to).map_err(io::Error::other)?;
    let text = super::dir::Stored::Text(text.try_clone()?);
    let mut at = 0;
    while at < len {
        let block = text.read(ByteRange::with_len(at, BLOCK_BYTES).clamp_end(len))?;
        if block.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += block.len() as u64;
        let mut rest = &block[..];
        while !rest.is_empty() {
            let taken = encoder.compress(rest).map_err(error)?;
            rest = &rest[taken..];
        }
    }
    encoder.finish().map_err(error)?;

    // The text goes when this returns: not on trust.
    let mut at = 0;
    while at < len {
        let range = ByteRange::with_len(at, BLOCK_BYTES).clamp_end(len);
        if read(to, range)? != text.read(range)? {
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
    let rest = file.metadata()?.len().checked_sub(table.size_comp());
    if rest != Some(table.clone().into_serializer().encoded_len() as u64) {
        return Err(damaged("its frames do not fill it"));
    }
    Ok(table)
}

/// The bytes of a range; short at the end. Whole frames are unpacked, since their checksums are at their ends.
pub(super) fn read(file: &File, range: ByteRange) -> io::Result<Bytes> {
    let table = table(file)?;
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
        let packed = super::dir::read_range(file, packed)?;
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

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the compressed log is damaged: {why}"))
}

/// A full disk stays a full disk.
fn error(error: zeekstd::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(at) = cause {
        if let Some(io) = at.downcast_ref::<io::Error>() {
            return match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), error.to_string()),
            };
        }
        cause = at.source();
    }
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
