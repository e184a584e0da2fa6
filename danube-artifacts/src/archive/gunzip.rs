//! Unzipping with an eye on how much comes out of how little.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::Refusal;

/// What the ratio is not asked for: an empty directory tree has a high one.
const RATIO_FREE_BYTES: u64 = 16 << 20;

/// The one member of a gzip file; bytes after it are refused.
#[derive(Debug)]
pub struct Gunzip<R> {
    decoder: GzDecoder<BufReader<Counted<R>>>,
    written: u64,
    max_ratio: u64,
}

impl<R: Read> Gunzip<R> {
    pub(super) fn new(source: R, max_ratio: u64) -> Self {
        let source = BufReader::with_capacity(64 * 1024, Counted { source, count: 0 });
        Self { decoder: GzDecoder::new(source), written: 0, max_ratio }
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.decoder.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                io::Error::other(Refusal::Gzip)
            }
            io::ErrorKind::UnexpectedEof => io::Error::other(Refusal::Truncated),
            _ => e,
        })?;
        if read == 0 {
            return match self.decoder.get_mut().fill_buf()? {
                [] => Ok(0),
                _ => Err(io::Error::other(Refusal::AfterGzip)),
            };
        }
        self.written += read as u64;
        let allowed = self.decoder.get_ref().get_ref().count.saturating_mul(self.max_ratio);
        if self.written > allowed.max(RATIO_FREE_BYTES) {
            return Err(io::Error::other(Refusal::Ratio { limit: self.max_ratio }));
        }
        Ok(read)
    }
}

#[derive(Debug)]
struct Counted<R> {
    source: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.count += read as u64;
        Ok(read)
    }
}
