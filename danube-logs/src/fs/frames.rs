//! `<job>.log.zst`: a sealed log in the seekable format of zstd, readable by `zstd -dc` too.
//!
//! Frames of 128 KiB, each with a checksum, and a table of them at the end
//! (<https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>).

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;
use danube_core::ByteRange;
use zeekstd::{DecodeOptions, EncodeOptions, FrameSizePolicy, SeekTable};

/// What a read of one byte has to unpack: a fraction of a millisecond.
const FRAME_BYTES: u32 = 128 * 1024;

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
    let mut file = file;
    Ok(SeekTable::from_seekable(&mut file).map_err(error)?.size_decomp())
}

/// The bytes of a range; short at the end.
pub(super) fn read(file: &File, range: ByteRange) -> io::Result<Bytes> {
    let mut file = file;
    let table = SeekTable::from_seekable(&mut file).map_err(error)?;
    let range = range.clamp_end(table.size_decomp());
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let options = DecodeOptions::new(file).seek_table(table).offset(range.start);
    let mut decoder = options.offset_limit(range.end).into_decoder().map_err(error)?;
    let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
    decoder.read_exact(&mut bytes)?;
    Ok(bytes.into())
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
