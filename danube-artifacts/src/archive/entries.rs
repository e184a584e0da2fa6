//! Reading a tar archive entry by entry, strictly: what two programs could read differently is refused.

use std::collections::HashMap;
use std::io::{self, Read};

use super::gunzip::Gunzip;
use super::header::{BLOCK_BYTES, Block, Header, extended_records};
use super::path::{checked_path, checked_target};
use super::{
    ArchiveError, Limits, MAX_EXTENDED_BYTES, MAX_NAMES_BYTES, MAX_PATH_BYTES, MAX_TRAILER_BYTES,
    Refusal,
};

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Which one it is, from 1.
    pub number: u64,
    /// Its path: relative, without `.`, `..` and empty components, each component at most 255 bytes.
    /// The root of the tree itself is the empty path.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// How many bytes it has.
        size_bytes: u64,
        /// Whether its owner may execute it.
        is_executable: bool,
    },
    /// A symbolic link that stays below the root.
    Symlink {
        /// Where it leads, relative to its directory.
        target: String,
    },
    /// A second name of a file that came before.
    HardLink {
        /// The path of that file.
        target: String,
    },
}

/// What a path in the archive stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A directory that only follows from the path of something in it.
    ImpliedDirectory,
    Directory,
    File,
    Link,
}

/// The entries of a tar archive, one after the other; what cannot be trusted is refused by name. It
/// touches no file system. After an error or the end there are no more entries.
///
/// It holds the names seen so far and nothing of the contents.
#[derive(Debug)]
pub struct Entries<R> {
    source: R,
    limits: Limits,
    number: u64,
    /// The path of the current entry, for messages.
    current: String,
    read_bytes: u64,
    /// What of the current entry's content was not read yet, and the padding after it.
    content_left: u64,
    padding: usize,
    seen: HashMap<Box<str>, Seen>,
    names_bytes: usize,
    is_done: bool,
}

/// What extended headers say about the next entry.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    has_pax: bool,
}

impl Extended {
    fn is_pending(&self) -> bool {
        self.has_pax || self.name.is_some() || self.link.is_some()
    }
}

impl<R: Read> Entries<Gunzip<R>> {
    /// The entries of a gzipped archive.
    pub fn from_gzip(source: R, limits: Limits) -> Self {
        let gunzip = Gunzip::new(source, limits.max_ratio);
        Self::new(gunzip, limits)
    }
}

impl<R: Read> Entries<R> {
    /// The entries of an archive that is not compressed.
    pub fn new(source: R, limits: Limits) -> Self {
        Self {
            source,
            limits,
            number: 0,
            current: String::new(),
            read_bytes: 0,
            content_left: 0,
            padding: 0,
            seen: HashMap::new(),
            names_bytes: 0,
            is_done: false,
        }
    }

    /// The next entry; what was not read of the one before is skipped. `None` is the end, and then all
    /// of the source was read and nothing came after the archive.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Refused`]; [`ArchiveError::Stream`] when the source fails.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        if self.is_done {
            return Ok(None);
        }
        let next = self.advance();
        self.is_done = !matches!(next, Ok(Some(_)));
        next
    }

    /// Reads on in the content of the current entry; 0 is its end.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Refused`] when the archive ends before; [`ArchiveError::Stream`].
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let wanted = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = match self.read(&mut buffer[..wanted]) {
            Ok(0) => Err(self.refused(Refusal::Truncated, &[])),
            other => other,
        };
        self.is_done |= read.is_err();
        let read = read?;
        self.content_left -= read as u64;
        Ok(read)
    }

    fn advance(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip_content()?;
        self.current.clear();
        self.number += 1;
        let mut extended = Extended::default();
        loop {
            let mut block = [0; BLOCK_BYTES];
            self.fill(&mut block)?;
            if block == [0; BLOCK_BYTES] {
                if extended.is_pending() {
                    return Err(self.refused(Refusal::ExtendedAlone, &[]));
                }
                self.end()?;
                return Ok(None);
            }
            if let Some(entry) = self.header(&block, &mut extended)? {
                return Ok(Some(entry));
            }
        }
    }

    /// One header: an entry, or something about the next.
    fn header(
        &mut self,
        block: &Block,
        extended: &mut Extended,
    ) -> Result<Option<Entry>, ArchiveError> {
        let header = Header::parse(block).map_err(|refusal| self.refused(refusal, &[]))?;
        match header.type_flag {
            b'x' => {
                if extended.is_pending() {
                    return Err(self.refused(Refusal::ExtendedTwice, &[]));
                }
                extended.has_pax = true;
                let text = self.extended_content(&header, MAX_EXTENDED_BYTES)?;
                self.pax(&text, Some(extended))?;
            }
            b'g' => {
                if extended.is_pending() {
                    return Err(self.refused(Refusal::ExtendedAlone, &[]));
                }
                let text = self.extended_content(&header, MAX_EXTENDED_BYTES)?;
                self.pax(&text, None)?;
            }
            flag @ (b'L' | b'K') => {
                let mut text = self.extended_content(&header, MAX_PATH_BYTES as u64 + 1)?;
                if text.pop() != Some(0) || text.contains(&0) {
                    return Err(self.refused(Refusal::Extended, &text));
                }
                let place = if flag == b'L' { &mut extended.name } else { &mut extended.link };
                if place.replace(text).is_some() || extended.has_pax {
                    return Err(self.refused(Refusal::ExtendedTwice, &[]));
                }
            }
            _ => return self.entry(header, std::mem::take(extended)).map(Some),
        }
        Ok(None)
    }

    /// The records of an extended header; a global one (`extended` is `None`) may say nothing that
    /// matters.
    fn pax(&self, text: &[u8], extended: Option<&mut Extended>) -> Result<(), ArchiveError> {
        let refused = |refusal| self.refused(refusal, &[]);
        let mut nothing = Extended::default();
        let is_global = extended.is_none();
        let extended = extended.unwrap_or(&mut nothing);
        for (keyword, value) in extended_records(text).map_err(refused)? {
            let unknown = || {
                let keyword = keyword.chars().take(64).collect::<String>();
                refused(Refusal::ExtendedKeyword { keyword: escaped(keyword.as_bytes()) })
            };
            match keyword {
                "path" | "linkpath" | "size" if is_global => return Err(unknown()),
                "path" | "linkpath" => {
                    if value.is_empty() {
                        return Err(refused(Refusal::Extended));
                    }
                    let is_path = keyword == "path";
                    let place = if is_path { &mut extended.name } else { &mut extended.link };
                    if place.replace(value.to_vec()).is_some() {
                        return Err(refused(Refusal::ExtendedTwice));
                    }
                }
                "size" => {
                    let number = plain_number(value).ok_or_else(|| refused(Refusal::Extended))?;
                    if extended.size.replace(number).is_some() {
                        return Err(refused(Refusal::ExtendedTwice));
                    }
                }
                _ if is_harmless(keyword, value) => {}
                _ => return Err(unknown()),
            }
        }
        Ok(())
    }

    fn extended_content(&mut self, header: &Header, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if header.size > limit {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            return Err(self.refused(Refusal::NameTooLong { limit }, &[]));
        }
        let mut content = vec![0; usize::try_from(header.size).unwrap_or_default()];
        self.fill(&mut content)?;
        let mut padding = [0; BLOCK_BYTES];
        let len = padding_of(header.size);
        self.fill(&mut padding[..len])?;
        Ok(content)
    }

    fn entry(&mut self, mut header: Header, extended: Extended) -> Result<Entry, ArchiveError> {
        let name = extended.name.unwrap_or_else(|| std::mem::take(&mut header.name));
        let link = extended.link.unwrap_or_else(|| std::mem::take(&mut header.link));
        let checked = self.check(&name, &link, extended.size, &header);
        let (path, kind) = checked.map_err(|refusal| self.refused(refusal, &name))?;
        if let EntryKind::File { size_bytes, .. } = kind {
            self.content_left = size_bytes;
            self.padding = padding_of(size_bytes);
        }
        self.current.clone_from(&path);
        Ok(Entry { number: self.number, path, kind })
    }

    fn check(
        &mut self,
        name: &[u8],
        link: &[u8],
        extended_size: Option<u64>,
        header: &Header,
    ) -> Result<(String, EntryKind), Refusal> {
        let (path, has_slash) = checked_path(name)?;
        let size = header.size;
        if extended_size.is_some_and(|extended| extended != size) {
            return Err(Refusal::TwoSizes);
        }
        let is_file = matches!(header.type_flag, 0 | b'0');
        if !is_file && size != 0 && matches!(header.type_flag, b'1' | b'2' | b'5') {
            return Err(Refusal::ContentOfNoFile);
        }
        let kind = match header.type_flag {
            0 | b'0' => {
                if has_slash {
                    return Err(Refusal::FileWithSlash);
                }
                if size > self.limits.max_file_bytes {
                    return Err(Refusal::FileTooLarge { limit: self.limits.max_file_bytes });
                }
                EntryKind::File { size_bytes: size, is_executable: header.is_executable }
            }
            b'1' => {
                let (target, has_slash) = checked_path(link)?;
                if has_slash || self.seen.get(&*target) != Some(&Seen::File) {
                    return Err(Refusal::HardLinkTarget { target });
                }
                EntryKind::HardLink { target }
            }
            b'2' => EntryKind::Symlink { target: checked_target(&path, link)? },
            b'5' => EntryKind::Directory,
            other => return Err(Refusal::Kind { kind: kind_name(other) }),
        };
        if has_slash && !matches!(kind, EntryKind::Directory) {
            return Err(Refusal::FileWithSlash);
        }
        if path.is_empty() && kind != EntryKind::Directory {
            return Err(Refusal::OddPath);
        }
        self.note(&path, &kind)?;
        Ok((path, kind))
    }

    /// Notes the path, and refuses one that stands twice or leads through what is no directory.
    fn note(&mut self, path: &str, kind: &EntryKind) -> Result<(), Refusal> {
        // The directories that this path implies, up to the first that is known.
        let mut implied = Vec::new();
        let mut at = path;
        while let Some((parent, _)) = at.rsplit_once('/') {
            match self.seen.get(parent) {
                Some(Seen::Directory | Seen::ImpliedDirectory) => break,
                Some(_) => return Err(Refusal::ThroughLink { through: parent.to_owned() }),
                None => implied.push(parent),
            }
            at = parent;
        }
        let seen = match kind {
            EntryKind::Directory => Seen::Directory,
            // A hard link is the file itself.
            EntryKind::File { .. } | EntryKind::HardLink { .. } => Seen::File,
            EntryKind::Symlink { .. } => Seen::Link,
        };
        match self.seen.get(path) {
            None => {}
            Some(Seen::ImpliedDirectory) if seen == Seen::Directory => {}
            Some(_) => return Err(Refusal::Duplicate),
        }
        let targets = match kind {
            EntryKind::Symlink { target } | EntryKind::HardLink { target } => target.len(),
            _ => 0,
        };
        self.names_bytes += path.len() + targets + implied.iter().map(|p| p.len()).sum::<usize>();
        if self.names_bytes > MAX_NAMES_BYTES {
            return Err(Refusal::NamesTooLong { limit: MAX_NAMES_BYTES });
        }
        for parent in implied {
            self.seen.insert(parent.into(), Seen::ImpliedDirectory);
        }
        self.seen.insert(path.into(), seen);
        if self.seen.len() as u64 > self.limits.max_entries {
            return Err(Refusal::TooManyEntries { limit: self.limits.max_entries });
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 16 * 1024];
        while self.content_left > 0 {
            self.read_content(&mut buffer)?;
        }
        let padding = std::mem::take(&mut self.padding);
        self.fill(&mut buffer[..padding])
    }

    /// After the first of the two blocks of zeros that end an archive.
    fn end(&mut self) -> Result<(), ArchiveError> {
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block)?;
        let mut trailer = 0;
        // Programs fill up the last record of a tape with zeros.
        let mut read = BLOCK_BYTES;
        while read > 0 {
            trailer += read as u64;
            if block[..read].iter().any(|byte| *byte != 0) || trailer > MAX_TRAILER_BYTES {
                return Err(self.refused(Refusal::AfterEnd, &[]));
            }
            read = self.read(&mut block)?;
        }
        Ok(())
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), ArchiveError> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(self.refused(Refusal::Truncated, &[])),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            let read = match self.source.read(buffer) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(match e.downcast::<Refusal>() {
                        Ok(refusal) => self.refused(refusal, &[]),
                        Err(source) => ArchiveError::Stream { operation: "read", source },
                    });
                }
            };
            self.read_bytes += read as u64;
            if self.read_bytes > self.limits.max_bytes {
                let limit = self.limits.max_bytes;
                return Err(self.refused(Refusal::TooLarge { limit }, &[]));
            }
            return Ok(read);
        }
    }

    fn refused(&self, refusal: Refusal, name: &[u8]) -> ArchiveError {
        let name = if name.is_empty() { self.current.as_bytes() } else { name };
        ArchiveError::Refused { entry: self.number.max(1), name: escaped(name), refusal }
    }
}

/// A name as it can be shown: at most 200 characters, none that controls anything.
fn escaped(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars()
        .take(200)
        .flat_map(|c| {
            let plain = (!c.is_control()).then_some(c);
            plain.into_iter().chain(c.escape_default().filter(move |_| c.is_control()))
        })
        .collect()
}

fn padding_of(size: u64) -> usize {
    let used = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default();
    if used == 0 { 0 } else { BLOCK_BYTES - used }
}

/// Decimal digits without anything before or after them.
fn plain_number(value: &[u8]) -> Option<u64> {
    let is_plain =
        value.iter().all(u8::is_ascii_digit) && (value == b"0" || value.first()? != &b'0');
    std::str::from_utf8(value).ok().filter(|_| is_plain)?.parse().ok()
}

/// What changes neither names nor contents, and is spelled as it should be.
fn is_harmless(keyword: &str, value: &[u8]) -> bool {
    match keyword {
        "mtime" | "atime" | "ctime" | "LIBARCHIVE.creationtime" => {
            let value = value.strip_prefix(b"-").unwrap_or(value);
            let mut parts = value.splitn(2, |byte| *byte == b'.');
            let is_digits = |part: &[u8]| part.len() <= 18 && part.iter().all(u8::is_ascii_digit);
            parts.next().is_some_and(|whole| !whole.is_empty() && is_digits(whole))
                && parts.next().is_none_or(is_digits)
        }
        "uid" | "gid" => plain_number(value).is_some_and(|id| u32::try_from(id).is_ok()),
        "uname" | "gname" | "comment" => true,
        "SCHILY.dev" | "SCHILY.ino" | "SCHILY.nlink" | "SCHILY.fflags" => true,
        _ => ["SCHILY.acl.", "SCHILY.xattr.", "LIBARCHIVE.xattr.", "RHT.security."]
            .iter()
            .any(|prefix| keyword.starts_with(prefix)),
    }
}

fn kind_name(type_flag: u8) -> &'static str {
    match type_flag {
        b'3' => "character device",
        b'4' => "block device",
        b'6' => "FIFO",
        b'7' => "contiguous file",
        b'S' => "sparse file",
        b'D' => "dumped directory",
        b'M' => "part of a file of another volume",
        b'V' => "volume label",
        b'N' => "list of long names",
        b'X' => "Solaris extended header",
        _ => "thing of an unknown type",
    }
}
