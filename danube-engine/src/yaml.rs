//! YAML, bounded before it is parsed and strict where it is ambiguous. Nothing else here knows
//! `serde_yaml`.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};

/// The longest document: 1 MiB, far beyond every job file, and parsed in a fraction of a second.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// How deep `[` and `{` may nest. The parser looks at every open bracket again for each new token: a
/// megabyte of `[` would keep it busy for 20 s.
pub(crate) const MAX_FLOW_NESTING: usize = 32;

/// The key whose value is merged into its mapping.
pub(crate) const MERGE: &str = "<<";

/// Reads one document into `T`.
///
/// Scalars arrive as they are written: `1.10` read into a `String` is `1.10`, and `no` is `no`. A key
/// that stands twice in a mapping is refused, since it is anybody's guess which of them is meant.
///
/// # Errors
///
/// One sentence with the path within the document, the line and the column, as far as they are known.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("it is longer than {MAX_BYTES} bytes"));
    }
    if let Some(line) = too_deep(text) {
        return Err(format!("brackets nest deeper than {MAX_FLOW_NESTING} at line {line}"));
    }
    // A parser of a stream sees an end where people see an empty file.
    let meaningless = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(meaningless) {
        return Err("it is empty".to_owned());
    }
    let _: DistinctKeys = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    serde_yaml::from_str(text).map_err(|e| e.to_string())
}

/// The line in which flow collections nest too deep, counted as the parser would.
///
/// It reads quotes, comments and block scalars, so that the brackets in a script do not count. Where a
/// document is malformed it may count other than the parser, which then gives up by itself.
fn too_deep(text: &str) -> Option<usize> {
    let mut scan = Scan::default();
    text.split('\n').position(|line| scan.line(line)).map(|index| index + 1)
}

#[derive(Default)]
struct Scan {
    depth: usize,
    /// The quote that is open at the end of the last line.
    quote: Option<u8>,
    /// The column that the lines of the open block scalar are beyond.
    block: Option<usize>,
}

impl Scan {
    /// Reads one line; `true` when it is the one that nests too deep.
    fn line(&mut self, line: &str) -> bool {
        let bytes = line.strip_suffix('\r').unwrap_or(line).as_bytes();
        let indent = bytes.iter().take_while(|b| **b == b' ').count();
        if let Some(column) = self.block {
            if indent > column || bytes.trim_ascii().is_empty() {
                return false;
            }
            self.block = None;
        }
        let mut key_column = indent;
        while bytes[key_column..].starts_with(b"- ") {
            key_column += 2;
            key_column += bytes[key_column..].iter().take_while(|b| **b == b' ').count();
        }
        // Whether a new scalar or collection may begin at the next byte.
        let mut fresh = true;
        let mut i = 0;
        while let Some(byte) = bytes.get(i).copied() {
            i += 1;
            if let Some(quote) = self.quote {
                let escapes = match quote {
                    b'"' => byte == b'\\',
                    // Within single quotes two of them are one.
                    _ => byte == quote && bytes.get(i) == Some(&quote),
                };
                if escapes {
                    i += 1;
                } else if byte == quote {
                    self.quote = None;
                    fresh = false;
                }
                continue;
            }
            let after_space = i == 1 || matches!(bytes[i - 2], b' ' | b'\t');
            match byte {
                b' ' | b'\t' => continue,
                b'#' if after_space => return false,
                b'"' | b'\'' if fresh => self.quote = Some(byte),
                b'[' | b'{' if fresh || self.depth > 0 => {
                    self.depth += 1;
                    if self.depth > MAX_FLOW_NESTING {
                        return true;
                    }
                    fresh = true;
                    continue;
                }
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                b'|' | b'>' if fresh && self.depth == 0 && is_block_header(&bytes[i..]) => {
                    self.block = Some(key_column);
                    return false;
                }
                _ => {}
            }
            // `- `, `? `, `: ` and `,` introduce; tags and anchors stand before what they mark.
            let ends_word = bytes.get(i).is_none_or(|next| matches!(next, b' ' | b'\t'));
            fresh = match byte {
                b'-' | b'?' => fresh && ends_word,
                b':' => ends_word || self.depth > 0,
                b',' => self.depth > 0,
                b'!' | b'&' | b'*' if fresh => {
                    while bytes.get(i).is_some_and(|b| !matches!(b, b' ' | b'\t' | b',')) {
                        i += 1;
                    }
                    true
                }
                _ => false,
            };
        }
        false
    }
}

/// Whether a line that goes on like this after `|` or `>` begins a block scalar.
fn is_block_header(rest: &[u8]) -> bool {
    let indicators = rest.iter().take_while(|b| matches!(b, b'+' | b'-' | b'1'..=b'9')).count();
    let after = &rest[indicators..];
    let comment = after.trim_ascii_start();
    let spaced = after.is_empty() || after.len() > comment.len();
    indicators <= 2 && spaced && (comment.is_empty() || comment.starts_with(b"#"))
}

/// Any document, as long as no mapping in it has a key twice.
struct DistinctKeys;

impl<'de> Deserialize<'de> for DistinctKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for DistinctKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while map.next_key_seed(NewKey(&mut seen))?.is_some() {
            map.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, _tagged: A) -> Result<Self, A::Error> {
        Err(de::Error::custom("tags are not understood here"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

/// A key that this mapping has not had. Refusing it here gives the error the key's own line.
struct NewKey<'a>(&'a mut HashSet<String>);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<(), E> {
        if self.0.insert(key.to_owned()) {
            Ok(())
        } else {
            Err(E::custom(format_args!("the key {key:?} stands twice in this mapping")))
        }
    }
}

/// The value of a merge key: a mapping, or several of which the first one wins.
pub(crate) struct Merge<T>(pub(crate) Vec<T>);

// Derived, it would ask for `T: Default`, which it does not need.
impl<T> Default for Merge<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Merge<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping to merge, or a list of them")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
                Ok(vec![T::deserialize(MapAccessDeserializer::new(map))?])
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq))
            }
        }

        deserializer.deserialize_any(OneOrMany(std::marker::PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests;
