//! One header of a tar archive: 512 bytes, in the dialects that today's programs write, read so that
//! nothing in it can be read in two ways. Sources: POSIX.1-2017 (`pax`, "ustar Interchange Format")
//! and the GNU tar manual ("Basic Tar Format").

use super::Refusal;

pub(super) const BLOCK_BYTES: usize = 512;

pub(super) type Block = [u8; BLOCK_BYTES];

/// The largest size that a header's eleven octal digits hold: one byte less than 8 GiB.
pub(super) const MAX_FILE_BYTES: u64 = 0o777_7777_7777;

/// How many bytes a name or target in the header itself has at most; longer ones get an extended
/// header.
pub(super) const NAME_BYTES: usize = 100;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) type_flag: u8,
    pub(super) is_executable: bool,
}

impl Header {
    pub(super) fn parse(block: &Block) -> Result<Self, Refusal> {
        if octal(&block[148..156]) != Some(checksum(block)) {
            return Err(Refusal::Checksum);
        }
        let is_gnu = match &block[257..265] {
            b"ustar\x0000" => false,
            b"ustar  \0" => true,
            _ => return Err(Refusal::Dialect),
        };
        let number = |field, range: std::ops::Range<usize>| {
            octal(&block[range]).ok_or(Refusal::Number { field })
        };
        let mode = number("mode", 100..108)?;
        let size = number("size", 124..136)?;
        // Not used, but refused where programs stumble over them. Large ones are written in binary.
        for (field, range) in [("owner", 108..116), ("group", 116..124), ("time", 136..148)] {
            if block[range.start] & 0x80 == 0 {
                number(field, range)?;
            }
        }
        let mut name = text(&block[..NAME_BYTES]).to_vec();
        let prefix = &block[345..500];
        if is_gnu {
            // Times of an incremental dump and the map of a sparse file may stand here. Python reads it
            // as the directory of the name, GNU tar does not.
            if prefix.iter().any(|byte| *byte != 0) {
                return Err(Refusal::AmbiguousPrefix);
            }
        } else if prefix[0] != 0 {
            let mut whole = text(prefix).to_vec();
            whole.push(b'/');
            whole.append(&mut name);
            name = whole;
        }
        Ok(Self {
            name,
            link: text(&block[157..257]).to_vec(),
            size,
            type_flag: block[156],
            is_executable: mode & 0o100 != 0,
        })
    }

    /// The POSIX header. Name and target have at most [`NAME_BYTES`], the size is at most
    /// [`MAX_FILE_BYTES`].
    pub(super) fn to_block(&self, mode: u32, mtime: u64) -> Block {
        let mut block = [0; BLOCK_BYTES];
        block[..self.name.len()].copy_from_slice(&self.name);
        let mut put = |at: usize, width: usize, value: u64| {
            let digits = format!("{value:0width$o}");
            block[at..at + width].copy_from_slice(digits.as_bytes());
        };
        put(100, 7, u64::from(mode));
        put(108, 7, 0);
        put(116, 7, 0);
        put(124, 11, self.size);
        put(136, 11, mtime);
        block[156] = self.type_flag;
        block[157..157 + self.link.len()].copy_from_slice(&self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum = format!("{:06o}\0 ", checksum(&block));
        block[148..156].copy_from_slice(sum.as_bytes());
        block
    }
}

/// The sum of the bytes, those of the sum itself taken as spaces.
pub(super) fn checksum(block: &Block) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..])
}

/// Octal digits after spaces, ended by NULs and spaces or by the end of the field.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| !(b'0'..=b'7').contains(byte)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    // At most twelve digits: they fit.
    Some(digits.iter().fold(0, |value, digit| value * 8 + u64::from(digit - b'0')))
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The records of an extended header (`pax`): `LENGTH KEYWORD=VALUE\n`, again and again.
pub(super) fn extended_records(mut text: &[u8]) -> Result<Vec<(&str, &[u8])>, Refusal> {
    let mut records = Vec::new();
    while !text.is_empty() {
        let space = text.iter().take(20).position(|byte| *byte == b' ').ok_or(Refusal::Extended)?;
        let digits = &text[..space];
        let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let length: usize = length.ok_or(Refusal::Extended)?;
        if digits[0] == b'0' || !digits[0].is_ascii_digit() || length > text.len() {
            return Err(Refusal::Extended);
        }
        let (record, rest) = text.split_at(length);
        let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or(Refusal::Extended)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(Refusal::Extended)?;
        let keyword = std::str::from_utf8(&record[..equals]).map_err(|_| Refusal::Extended)?;
        records.push((keyword, &record[equals + 1..]));
        text = rest;
    }
    Ok(records)
}

/// One such record.
pub(super) fn extended_record(keyword: &str, value: &[u8]) -> Vec<u8> {
    // The length counts its own digits.
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    length = rest + length.to_string().len();
    let mut record = format!("{length} {keyword}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written() {
        let header = Header {
            name: b"a/b".to_vec(),
            link: Vec::new(),
            size: MAX_FILE_BYTES,
            type_flag: b'0',
            is_executable: true,
        };
        let block = header.to_block(0o755, 315_532_800);
        assert_eq!(Header::parse(&block), Ok(header));
        for at in 0..BLOCK_BYTES {
            let mut changed = block;
            changed[at] ^= 1;
            assert!(Header::parse(&changed).is_err(), "byte {at} can change unnoticed");
        }
    }

    #[test]
    fn an_octal_number_has_one_spelling() {
        let table: [(&[u8], Option<u64>); 11] = [
            (b"0000644\0", Some(0o644)),
            (b"  644 \0 ", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"777777777777", Some(0o7777_7777_7777)),
            (b"\0\0\0\0\0\0\0\0", None),
            (b"        ", None),
            (b"000064\x008", None),
            (b"0000 644", None),
            (b"-000644\0", None),
            (b"0x00644\0", None),
            (b"\x80\0\0\0\0\0\0\x01", None),
        ];
        for (field, value) in table {
            assert_eq!(octal(field), value, "{field:?}");
        }
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for len in 0..2000 {
            let value = vec![b'x'; len];
            let record = extended_record("path", &value);
            assert_eq!(extended_records(&record).unwrap(), [("path", &value[..])], "{len}");
        }
    }

    #[test]
    fn a_malformed_record_is_refused() {
        for text in [
            &b"x"[..],
            b"9 path=a\n9 path=b",
            b"010 path=a\n",
            b"+9 path=a\n",
            b" 9 path=a\n",
            b"8 path=a\n",
            b"99 path=a\n",
            b"2 \n",
            b"1 ",
            b"7 path\n",
            b"99999999999999999999 path=a\n",
        ] {
            assert_eq!(extended_records(text), Err(Refusal::Extended), "{text:?}");
        }
    }
}
