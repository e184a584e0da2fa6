//! One range of bytes of one response (RFC 9110, section 14), decided before anything is read.

use axum::http::header::{HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{Method, StatusCode};
use danube_core::ByteRange;

/// What is sent of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: 200.
    Whole,
    /// These bytes of it: 206.
    Range(ByteRange),
    /// None of it can be: 416.
    Unsatisfiable,
    /// The client has it already: 304.
    NotModified,
}

impl Part {
    /// What a request asks for of `len` bytes that `etag` names, where something does.
    ///
    /// What is not understood is ignored, as the RFC wants it: several ranges, other units, a range
    /// whose end is before its beginning. Only GET has ranges.
    pub(super) fn asked(
        method: &Method,
        headers: &HeaderMap,
        len: u64,
        etag: Option<&HeaderValue>,
    ) -> Self {
        if etag.is_some_and(|etag| none_match_names(headers, etag)) {
            return Self::NotModified;
        }
        let mut values = headers.get_all(RANGE).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Self::Whole };
        if method != Method::GET || !if_range_holds(headers, etag) {
            return Self::Whole;
        }
        value.to_str().ok().and_then(single).map_or(Self::Whole, |spec| spec.within(len))
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Whole => StatusCode::OK,
            Self::Range(_) => StatusCode::PARTIAL_CONTENT,
            Self::Unsatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::NotModified => StatusCode::NOT_MODIFIED,
        }
    }

    /// The bytes that are sent of `len`.
    pub(super) fn bytes(self, len: u64) -> ByteRange {
        match self {
            Self::Whole => ByteRange::new(0, len),
            Self::Range(range) => range,
            Self::Unsatisfiable | Self::NotModified => ByteRange::default(),
        }
    }

    /// The `Content-Range` that goes with it.
    pub(super) fn content_range(self, len: u64) -> Option<String> {
        match self {
            Self::Range(ByteRange { start, end }) => {
                Some(format!("bytes {start}-{}/{len}", end - 1))
            }
            Self::Unsatisfiable => Some(format!("bytes */{len}")),
            Self::Whole | Self::NotModified => None,
        }
    }
}

/// One `range-spec`, with offsets that are at most what a `u64` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl Spec {
    fn within(self, len: u64) -> Part {
        match self {
            Self::Last(0) => Part::Unsatisfiable,
            // The last bytes of nothing are all of it; no `Content-Range` can say that.
            Self::Last(_) if len == 0 => Part::Whole,
            Self::Last(count) => Part::Range(ByteRange::new(len.saturating_sub(count), len)),
            Self::From { first, .. } if first >= len => Part::Unsatisfiable,
            Self::From { first, last } => {
                let end = last.map_or(len, |last| last.saturating_add(1).min(len));
                Part::Range(ByteRange::new(first, end))
            }
        }
    }
}

/// The one range that a `Range` header names; `None` where it names none, several, or is wrong.
fn single(value: &str) -> Option<Spec> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // The second element settles it: ten thousand more are not looked at.
    let mut elements =
        set.split(',').map(|e| e.trim_matches([' ', '\t'])).filter(|e| !e.is_empty());
    let (spec, None) = (elements.next()?, elements.next()) else { return None };
    match spec.split_once('-')? {
        ("", count) => Some(Spec::Last(number(count)?)),
        (first, "") => Some(Spec::From { first: number(first)?, last: None }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From { first, last: Some(last) })
        }
    }
}

/// Digits and nothing else; a number beyond every offset is the largest of them.
fn number(text: &str) -> Option<u64> {
    let all_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// `If-Range` compares strongly: a weak tag, an old one, or a date (we send none) asks for the whole.
fn if_range_holds(headers: &HeaderMap, etag: Option<&HeaderValue>) -> bool {
    let mut values = headers.get_all(IF_RANGE).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) => Some(value) == etag,
        (Some(_), Some(_)) => false,
    }
}

/// `If-None-Match` compares weakly.
fn none_match_names(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(etag) = etag.to_str() else { return false };
    let tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(','))
        .map(|tag| tag.trim_matches([' ', '\t']))
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn asked(method: Method, headers: &[(&str, &str)], len: u64) -> Part {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        Part::asked(&method, &map, len, Some(&HeaderValue::from_static("\"tag\"")))
    }

    fn get(range: &str, len: u64) -> Part {
        asked(Method::GET, &[("range", range)], len)
    }

    fn part(start: u64, end: u64) -> Part {
        Part::Range(ByteRange::new(start, end))
    }

    #[test]
    fn one_range_is_cut_to_what_is_there() {
        for (range, len, expected) in [
            ("bytes=0-", 10, part(0, 10)),
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=5-9", 10, part(5, 10)),
            ("bytes=5-10", 10, part(5, 10)),
            ("bytes=9-", 10, part(9, 10)),
            ("bytes=-1", 10, part(9, 10)),
            ("bytes=-10", 10, part(0, 10)),
            ("bytes=-11", 10, part(0, 10)),
            ("Bytes= 1-2 ", 10, part(1, 3)),
            ("bytes=,1-2,,", 10, part(1, 3)),
            ("bytes=001-0000000000000000000002", 10, part(1, 3)),
            ("bytes=0-18446744073709551615", 10, part(0, 10)),
            ("bytes=0-99999999999999999999999", 10, part(0, 10)),
            ("bytes=-99999999999999999999999", 10, part(0, 10)),
        ] {
            assert_eq!(get(range, len), expected, "{range} of {len}");
        }
    }

    #[test]
    fn a_range_beyond_the_end_cannot_be_satisfied() {
        for (range, len) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=-0", 10),
            ("bytes=0-", 0),
            ("bytes=0-0", 0),
            ("bytes=18446744073709551615-", 10),
            ("bytes=99999999999999999999999-", 10),
        ] {
            assert_eq!(get(range, len), Part::Unsatisfiable, "{range} of {len}");
        }
        assert_eq!(Part::Unsatisfiable.content_range(10).as_deref(), Some("bytes */10"));
    }

    #[test]
    fn what_is_not_one_range_of_bytes_asks_for_everything() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-b",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=5-4",
            "bytes=0-1,2-3",
            "bytes=0-0,0-0",
            "bytes=1--2",
            "bytes=--1",
            "lines=0-1",
            "bytes 0-1",
            "bytes=0x1-2",
            "bytes=1 -2",
        ] {
            assert_eq!(get(range, 10), Part::Whole, "{range}");
        }
        assert_eq!(get("bytes=-5", 0), Part::Whole, "the last bytes of nothing");
        let twice = [("range", "bytes=0-1"), ("range", "bytes=2-3")];
        assert_eq!(asked(Method::GET, &twice, 10), Part::Whole);
        assert_eq!(asked(Method::HEAD, &twice[..1], 10), Part::Whole);
    }

    #[test]
    fn ten_thousand_ranges_cost_no_more_than_one() {
        let many = format!("bytes={}", "0-0,".repeat(10_000));
        let begun = tokio::time::Instant::now();
        assert_eq!(get(&many, 10), Part::Whole);
        assert!(begun.elapsed() < Duration::from_millis(5));
    }

    #[test]
    fn if_range_compares_strongly() {
        for (tag, holds) in [
            ("\"tag\"", true),
            ("W/\"tag\"", false),
            ("\"old\"", false),
            ("tag", false),
            ("Wed, 21 Oct 2015 07:28:00 GMT", false),
        ] {
            let expected = if holds { part(0, 1) } else { Part::Whole };
            let headers = [("range", "bytes=0-0"), ("if-range", tag)];
            assert_eq!(asked(Method::GET, &headers, 10), expected, "{tag}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        headers.insert(IF_RANGE, HeaderValue::from_static("\"tag\""));
        assert_eq!(
            Part::asked(&Method::GET, &headers, 10, None),
            Part::Whole,
            "nothing to compare"
        );
    }

    #[test]
    fn if_none_match_compares_weakly_and_comes_before_the_range() {
        for (tags, known) in [
            ("\"tag\"", true),
            ("W/\"tag\"", true),
            ("*", true),
            ("\"a\", \"tag\"", true),
            ("\"a\"", false),
            ("tag", false),
        ] {
            let expected = if known { Part::NotModified } else { part(0, 1) };
            let headers = [("range", "bytes=0-0"), ("if-none-match", tags)];
            assert_eq!(asked(Method::GET, &headers, 10), expected, "{tags}");
        }
    }

    proptest! {
        /// The model decides about each byte alone.
        #[test]
        fn a_range_names_the_bytes_that_a_reader_would_count(
            len in 0_u64..12, first in 0_u64..15, last in 0_u64..15, open in any::<bool>(),
        ) {
            let range =
                if open { format!("bytes={first}-") } else { format!("bytes={first}-{last}") };
            let wanted: Vec<u64> = (0..len).filter(|at| *at >= first && (open || *at <= last)).collect();
            match get(&range, len) {
                Part::Range(got) => prop_assert_eq!((got.start..got.end).collect::<Vec<_>>(), wanted),
                Part::Unsatisfiable => prop_assert!(wanted.is_empty()),
                other => prop_assert!(!open && last < first, "{range} of {len}: {other:?}"),
            }
        }

        #[test]
        fn whatever_the_header_says_what_is_sent_exists(
            range in "(bytes)?=?[-0-9, ]{0,30}|[ -~]{0,30}", len in 0_u64..50,
        ) {
            let part = get(&range, len);
            let bytes = part.bytes(len);
            prop_assert!(bytes.start <= bytes.end && bytes.end <= len);
            prop_assert!(!matches!(part, Part::Range(range) if range.is_empty()));
        }
    }
}
