//! tar.gz archives: packed so that the same tree gives the same bytes, unpacked so that a hostile
//! archive touches nothing.
//!
//! Everything here blocks. It is made for trees that somebody else wrote.
//!
//! * [`pack`] writes a directory: names sorted, no owners, one time for everything (1980-01-01), modes
//!   0644 and 0755. The same tree packed twice gives the same bytes, so a signature of them stays
//!   good; another version of this crate may compress otherwise.
//! * [`unpack`] writes into a new directory, which appears whole or not at all. Owners, times and modes
//!   other than "executable" are dropped.
//! * [`Entries`] reads an archive without touching any file system.
//!
//! What is refused, each by a name of its own ([`Refusal`]): absolute paths, `..`, links out of the
//! tree, paths through links, devices and FIFOs, sparse files, paths that stand twice, headers that
//! programs read differently (PAX records against ustar fields, sizes given twice, odd numbers), data
//! after the end, and what unpacks to more than the [`Limits`]. The dialects that are read are those of
//! GNU tar (`gnu`, `oldgnu`, `ustar`, `pax`), bsdtar, Python and `git archive`; archives of before 1988
//! and files of 8 GiB or more are not.
//!
//! ```
//! use danube_artifacts::archive::{Limits, PackOptions, pack, unpack};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let (tree, copy) = (dir.path().join("tree"), dir.path().join("copy"));
//! std::fs::create_dir_all(tree.join("bin"))?;
//! std::fs::write(tree.join("bin/tool"), "#!/bin/sh\n")?;
//! let mut archive = Vec::new();
//! let packed = pack(&tree, &mut archive, &PackOptions::default())?;
//! assert_eq!(packed.entries, 2);
//!
//! let unpacked = unpack(&archive[..], &copy, &Limits::default())?;
//! assert_eq!((unpacked.entries, unpacked.content_bytes), (2, 10));
//! assert_eq!(std::fs::read(copy.join("bin/tool"))?, b"#!/bin/sh\n");
//! # Ok(())
//! # }
//! ```

mod entries;
mod error;
mod gunzip;
mod header;
mod pack;
mod path;
mod staging;
mod unpack;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

pub use entries::{Entries, Entry, EntryKind};
pub use error::{ArchiveError, Refusal};
pub use gunzip::Gunzip;
pub use pack::{PackOptions, Packed, Skipped, pack};
pub use unpack::{Unpacked, unpack};

/// The longest path or target, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;
/// The longest component of one: what Linux' file systems take.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// The most components of a path.
pub const MAX_DEPTH: usize = 128;
/// The most bytes that all paths and targets of an archive have together: they are held in memory.
pub const MAX_NAMES_BYTES: usize = 32 << 20;
/// The longest extended header; a few extended attributes fit into it.
pub const MAX_EXTENDED_BYTES: u64 = 1 << 20;
/// The most zeros after the end; records of 10 KiB are usual, and tapes had larger ones.
pub const MAX_TRAILER_BYTES: u64 = 1 << 20;
/// The most things that [`pack`] names as skipped; more are only counted.
pub const MAX_SKIPPED: usize = 1000;

/// How much an archive may unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most entries, directories that only follow from paths included. 100,000 by default.
    pub max_entries: u64,
    /// The most bytes of one file. 5 GB by default; never 8 GiB or more.
    pub max_file_bytes: u64,
    /// The most bytes of the archive before compression. 20 GB by default.
    pub max_bytes: u64,
    /// How many times its size an archive may unpack to; the first 16 MiB are free. 200 by default:
    /// text compresses to a tenth, zeros to a thousandth.
    pub max_ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 100_000,
            max_file_bytes: 5_000_000_000,
            max_bytes: 20_000_000_000,
            max_ratio: 200,
        }
    }
}

impl Limits {
    /// With at most this many entries.
    #[must_use]
    pub fn with_max_entries(mut self, max_entries: u64) -> Self {
        self.max_entries = max_entries;
        self
    }

    /// With files of at most this many bytes.
    #[must_use]
    pub fn with_max_file_bytes(mut self, max_file_bytes: u64) -> Self {
        self.max_file_bytes = max_file_bytes;
        self
    }

    /// With at most this many bytes in all.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// With at most this ratio.
    #[must_use]
    pub fn with_max_ratio(mut self, max_ratio: u64) -> Self {
        self.max_ratio = max_ratio;
        self
    }
}
