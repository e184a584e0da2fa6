//! Where lines lie: a landmark for every 64 KiB or so of a log, from which a scan for a line or a
//! time is short.
//!
//! For authors of a backend: feed a [`LineIndex`] whatever is stored, and answer
//! [`LogStore::landmark`](crate::LogStore::landmark) from it.

use danube_core::Timestamp;

/// What a landmark is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// A line by its number, counted from 0.
    Line(u64),
    /// The first line of this time or later.
    Time(Timestamp),
}

/// The beginning of a line from which a scan forward finds what is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Landmark {
    /// Where the line begins.
    pub offset: u64,
    /// How many lines lie before it.
    pub lines_before: u64,
}

/// The distance of two landmarks, in bytes, until there are [`MAX_MARKS`] of them.
const SPACING: u64 = 64 * 1024;

/// When there are more, every second one goes: 1.5 MiB, enough for 4 GiB at the full density.
const MAX_MARKS: usize = 64 * 1024;

/// `[2024-01-06T12:00:00.123456789+00:00]` and some.
const HEAD_BYTES: usize = 48;

const MAGIC: [u8; 4] = *b"DNBX";
const VERSION: u32 = 1;
/// Magic, version, covered bytes, lines, spacing, number of marks.
const HEADER_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 8;
const MARK_BYTES: usize = 3 * 8;
const CRC_BYTES: usize = 4;
/// No line begins with the beginning of time.
const NO_TIME: i64 = i64::MIN;

/// The longest index there is, in bytes.
pub(crate) const MAX_ENCODED_BYTES: usize = HEADER_BYTES + MAX_MARKS * MARK_BYTES + CRC_BYTES;

/// A sparse index over the lines of a log, made while it grows. How the bytes are cut into pushes does not
/// matter.
///
/// It costs one count of line feeds over the bytes, and at most 1.5 MiB.
#[derive(Debug, Clone)]
pub struct LineIndex {
    marks: Vec<Mark>,
    spacing: u64,
    len: u64,
    lines: u64,
    /// Where the open line begins: behind the last line feed.
    whole: u64,
    /// The beginning of the line at `whole`, as far as it has come, where that line is due a mark.
    head: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    offset: u64,
    lines_before: u64,
    /// Since 1970; [`NO_TIME`] for a line without one.
    millis: i64,
}

impl From<Mark> for Landmark {
    fn from(mark: Mark) -> Self {
        Self { offset: mark.offset, lines_before: mark.lines_before }
    }
}

impl Default for LineIndex {
    fn default() -> Self {
        Self::with_spacing(SPACING)
    }
}

impl LineIndex {
    /// The index of an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with_spacing(spacing: u64) -> Self {
        Self { marks: Vec::new(), spacing, len: 0, lines: 0, whole: 0, head: Some(Vec::new()) }
    }

    /// Bytes seen.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lines that have ended.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Takes the next bytes of the log.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if let Some(head) = &mut self.head {
                let window = &bytes[..bytes.len().min(HEAD_BYTES - head.len())];
                let end = memchr::memchr(b'\n', window);
                head.extend_from_slice(&window[..end.unwrap_or(window.len())]);
                if end.is_none() && head.len() < HEAD_BYTES {
                    self.len += bytes.len() as u64;
                    return;
                }
                let millis = line_time(head).map_or(NO_TIME, Timestamp::as_millisecond);
                self.head = None;
                self.mark(millis);
            }
            // The next line that begins at this distance from the last mark gets one.
            let due = self.marks.last().map_or(0, |mark| mark.offset + self.spacing - 1);
            let skip = usize::try_from(due.saturating_sub(self.len)).unwrap_or(usize::MAX);
            let (before, after) = bytes.split_at(skip.min(bytes.len()));
            self.pass(before);
            let Some(end) = memchr::memchr(b'\n', after) else {
                self.len += after.len() as u64;
                return;
            };
            self.pass(&after[..=end]);
            bytes = &after[end + 1..];
            self.head = Some(Vec::new());
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        if let Some(last) = memchr::memrchr(b'\n', bytes) {
            self.whole = self.len + last as u64 + 1;
            self.lines += memchr::memchr_iter(b'\n', &bytes[..=last]).count() as u64;
        }
        self.len += bytes.len() as u64;
    }

    fn mark(&mut self, millis: i64) {
        if self.marks.len() == MAX_MARKS {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
            self.spacing *= 2;
        }
        // Where the line that is due begins; nothing has been passed since.
        self.marks.push(Mark { offset: self.whole, lines_before: self.lines, millis });
    }

    /// The landmark from which to scan for what is sought.
    ///
    /// For a time: it lies before the first line of that time or later, unless the clock was set back within 64 KiB of
    /// log after having been past that time; then a line that was ahead of its time may be overlooked.
    #[must_use]
    pub fn landmark(&self, sought: Sought) -> Landmark {
        let behind = match sought {
            Sought::Line(line) => self.marks.partition_point(|mark| mark.lines_before <= line),
            // One by one: where a clock was set back the times are in no order.
            Sought::Time(time) => {
                let millis = time.as_millisecond();
                let has_time = |mark: &Mark| mark.millis != NO_TIME;
                let is_later = |mark: &Mark| has_time(mark) && mark.millis >= millis;
                let later = self.marks.iter().position(is_later).unwrap_or(self.marks.len());
                // A mark without a time may itself lie behind the line that is sought.
                self.marks[..later].iter().rposition(has_time).map_or(0, |earlier| earlier + 1)
            }
        };
        behind.checked_sub(1).map_or(Landmark::default(), |at| self.marks[at].into())
    }

    /// The index of the whole lines as bytes: with a version and a checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.marks.len() * MARK_BYTES + CRC_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for word in [self.whole, self.lines, self.spacing] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        // A line that has not ended may yet be cut off by a recovery.
        let marks = self.marks.iter().take_while(|mark| mark.offset < self.whole);
        let count_at = out.len();
        out.extend_from_slice(&[0; 8]);
        let mut count = 0_u64;
        for mark in marks {
            out.extend_from_slice(&mark.offset.to_le_bytes());
            out.extend_from_slice(&mark.lines_before.to_le_bytes());
            out.extend_from_slice(&mark.millis.to_le_bytes());
            count += 1;
        }
        out[count_at..count_at + 8].copy_from_slice(&count.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// What [`encode`](Self::encode) made, for a log that now has `log_len` bytes. `None` for what is damaged, of another
    /// version, or says more than the log: such an index is made anew.
    ///
    /// Go on with the bytes from [`len`](Self::len).
    #[must_use]
    pub fn decode(bytes: &[u8], log_len: u64) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let rest = body.strip_prefix(&MAGIC)?;
        let (version, mut rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let mut word = || {
            let (word, more) = rest.split_first_chunk::<8>()?;
            rest = more;
            Some(u64::from_le_bytes(*word))
        };
        let (whole, lines, spacing, count) = (word()?, word()?, word()?, word()?);
        let count = usize::try_from(count).ok().filter(|&count| count <= MAX_MARKS)?;
        if rest.len() != count * MARK_BYTES || whole > log_len || lines > whole {
            return None;
        }
        if !spacing.is_power_of_two() || (count == 0) != (whole == 0) {
            return None;
        }
        let mut marks = Vec::with_capacity(count);
        let mut last: Option<Mark> = None;
        for bytes in rest.as_chunks::<MARK_BYTES>().0 {
            let (offset, more) = bytes.split_first_chunk::<8>()?;
            let (before, millis) = more.split_first_chunk::<8>()?;
            let mark = Mark {
                offset: u64::from_le_bytes(*offset),
                lines_before: u64::from_le_bytes(*before),
                millis: i64::from_le_bytes(millis.try_into().ok()?),
            };
            let follows = match last {
                None => mark.offset == 0 && mark.lines_before == 0,
                // A line has at least its line feed.
                Some(last) => {
                    mark.offset >= last.offset.checked_add(spacing)?
                        && mark.lines_before > last.lines_before
                        && mark.lines_before - last.lines_before <= mark.offset - last.offset
                }
            };
            if !follows || mark.offset >= whole || mark.lines_before >= lines {
                return None;
            }
            marks.push(mark);
            last = Some(mark);
        }
        let is_due = last.is_none_or(|last| whole - last.offset >= spacing);
        let head = is_due.then(Vec::new);
        Some(Self { marks, spacing, len: whole, lines, whole, head })
    }
}

/// The time that a line begins with, `[2024-01-06T12:00:00.123Z]`; `None` where it has none, or one without a
/// date.
pub(crate) fn line_time(line: &[u8]) -> Option<Timestamp> {
    let inner = line.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inner[..inner.len().min(HEAD_BYTES)])?;
    std::str::from_utf8(&inner[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
