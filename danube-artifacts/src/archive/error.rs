//! Why an archive is refused, and what else can go wrong with one.

use std::io;
use std::path::PathBuf;

use danube_core::ErrorClass;

/// Why an archive is not believed. Every kind of attack has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The path begins with `/`.
    #[error("its path is absolute")]
    Absolute,
    /// The path has a `..` component.
    #[error("its path has a '..' component")]
    ParentDirectory,
    /// The path is empty, or has an empty or `.` component after its first.
    #[error("its path has empty or '.' components, or none")]
    OddPath,
    /// A path or target is not UTF-8.
    #[error("its name is not UTF-8")]
    NotUtf8,
    /// A path or target has control characters.
    #[error("its name has control characters")]
    ControlCharacters,
    /// A path or target, or a component of it, is too long.
    #[error("its name is longer than {limit} bytes")]
    NameTooLong {
        /// The limit that it passes.
        limit: usize,
    },
    /// The path has too many components.
    #[error("it lies deeper than {limit} directories")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// The path stands twice.
    #[error("its path stands in the archive twice")]
    Duplicate,
    /// The path leads through something that is no directory: a link, or a file.
    #[error("its path leads through {through:?}, which is no directory")]
    ThroughLink {
        /// What it leads through.
        through: String,
    },
    /// A symbolic link leads out of the root, or may: its target is absolute, or has `..` anywhere but
    /// in front.
    #[error("it is a symbolic link out of the archive, to {target:?}")]
    LinkOutside {
        /// Where it leads.
        target: String,
    },
    /// A hard link to something else than a regular file that came before.
    #[error("it is a hard link to {target:?}, which is no file that came before it")]
    HardLinkTarget {
        /// Where it leads.
        target: String,
    },
    /// It is neither file, directory nor link.
    #[error("it is a {kind}")]
    Kind {
        /// What it is: `character device`, `FIFO`, `sparse file`.
        kind: &'static str,
    },
    /// A directory or link that claims to have content.
    #[error("it is no file and claims to have content")]
    ContentOfNoFile,
    /// A file whose name ends as a directory's.
    #[error("it is a file whose name ends with '/'")]
    FileWithSlash,
    /// The header's checksum is wrong.
    #[error("the checksum of its header is wrong")]
    Checksum,
    /// The header is of no known dialect.
    #[error("its header is neither POSIX ustar nor GNU tar")]
    Dialect,
    /// A number in the header is spelled in a way that programs read differently.
    #[error("its header has a malformed {field}")]
    Number {
        /// The field.
        field: &'static str,
    },
    /// A GNU header uses the field that POSIX ones put the directory in: programs read it
    /// differently.
    #[error("its header is a GNU one with a POSIX prefix")]
    AmbiguousPrefix,
    /// An extended header is malformed.
    #[error("its extended header is malformed")]
    Extended,
    /// An extended header changes what programs read differently, or nothing is known about it.
    #[error("its extended header has the keyword {keyword:?}")]
    ExtendedKeyword {
        /// The keyword.
        keyword: String,
    },
    /// Two sizes were given, and they differ.
    #[error("its headers give two different sizes")]
    TwoSizes,
    /// Its name, target or size is given by several extended headers.
    #[error("several extended headers speak about it")]
    ExtendedTwice,
    /// The archive ends, or goes on with another extended header, before the entry.
    #[error("an extended header is followed by no entry")]
    ExtendedAlone,
    /// The archive stops in the middle.
    #[error("the archive is cut short")]
    Truncated,
    /// The archive goes on after its end.
    #[error("the archive goes on after its end")]
    AfterEnd,
    /// The compressed data is damaged, or is no gzip at all.
    #[error("the gzip data is damaged")]
    Gzip,
    /// The compressed data goes on after its end.
    #[error("there is more after the end of the gzip data")]
    AfterGzip,
    /// Too many entries and directories.
    #[error("the archive has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// The names and targets are too long together.
    #[error("the names in the archive are longer than {limit} bytes together")]
    NamesTooLong {
        /// The limit.
        limit: usize,
    },
    /// One file is too large.
    #[error("it is larger than {limit} bytes")]
    FileTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The archive is too large.
    #[error("the archive unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The archive unpacks to suspiciously much.
    #[error("the archive unpacks to more than {limit} times its size")]
    Ratio {
        /// The limit.
        limit: u64,
    },
}

/// An error of packing or unpacking.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The archive was refused. What was unpacked of it is gone again.
    #[error("entry {entry}{}: {refusal}", named(name))]
    Refused {
        /// Which entry it was, from 1; headers that only speak about the next entry are not counted.
        entry: u64,
        /// The entry's name as far as it is known, with control characters escaped; else empty.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// The tree to be packed has something that no archive of ours may hold.
    #[error("cannot pack {}: {refusal}", path.display())]
    CannotPack {
        /// What it is.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// A file changed while it was packed.
    #[error("{} changed while it was packed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Something is already where the archive is to be unpacked.
    #[error("{} exists already: name a directory that does not", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The archive could not be read or written.
    #[error("cannot {operation} the archive")]
    Stream {
        /// `read` or `write`.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ArchiveError {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused { refusal, .. } | Self::CannotPack { refusal, .. } => match refusal {
                Refusal::TooManyEntries { .. }
                | Refusal::NamesTooLong { .. }
                | Refusal::FileTooLarge { .. }
                | Refusal::TooLarge { .. }
                | Refusal::Ratio { .. } => ErrorClass::Exhausted,
                _ => ErrorClass::Invalid,
            },
            Self::Changed { .. } | Self::Exists { .. } => ErrorClass::Conflict,
            Self::Stream { source, .. } | Self::File { source, .. } => ErrorClass::of_io(source),
        }
    }

    /// The reason, where something was refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } | Self::CannotPack { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

fn named(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" ({name})") }
}
