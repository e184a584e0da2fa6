//! Durations as people write them.

use std::time::Duration;

use crate::Error;

/// The units, longest first: the order in which they are written.
const UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration like `90s`, `10m`, `1h30m`, `250ms` or `7d`: whole numbers, each with its unit, the
/// longest unit first and each unit once.
///
/// # Errors
///
/// [`Error::Invalid`] for anything else, a number without a unit included: nobody should have to
/// guess whether `90` means seconds.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(danube_engine::parse_duration("1h30m").unwrap(), Duration::from_secs(5400));
/// assert!(danube_engine::parse_duration("90").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, Error> {
    let wrong = |rule: &str| Error::invalid(format!("duration {:?}", shortened(text)), rule);
    let not_one = || wrong("must be written like 90s, 10m, 1h30m or 250ms");
    let mut rest = text;
    let mut units = UNITS;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let position = units.iter().position(|(name, _)| *name == unit).ok_or_else(not_one)?;
        if number.is_empty() {
            return Err(not_one());
        }
        let (_, unit_ms) = units[position];
        units = &units[position + 1..];
        rest = after;
        total_ms = number
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(unit_ms))
            .and_then(|ms| ms.checked_add(total_ms))
            .ok_or_else(|| wrong("is too long"))?;
    }
    if text.is_empty() { Err(not_one()) } else { Ok(Duration::from_millis(total_ms)) }
}

/// The beginning of what was typed: enough to know it again.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A duration as [`parse_duration`] reads it, in whole milliseconds.
pub(crate) fn spoken(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        if left >= *unit_ms {
            text.push_str(&format!("{}{unit}", left / unit_ms));
            left %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_numbers_with_units_longest_first() {
        let cases: [(&str, u64); 7] = [
            ("250ms", 250),
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0s", 0),
            ("007s", 7_000),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        let bad = [
            "",
            "90",
            "s",
            "1.5h",
            "-1s",
            "+1s",
            " 1s",
            "1s ",
            "1 s",
            "1S",
            "30m1h",
            "1s1s",
            "1x",
            "1h30",
            "99999999999999999999s",
            "18446744073709551615d",
            "٣s",
        ];
        for text in bad {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.class(), danube_core::ErrorClass::Invalid, "{text:?}");
            assert!(error.to_string().starts_with("duration \""), "{error}");
        }
        assert!(parse_duration(&"1".repeat(100_000)).unwrap_err().to_string().len() < 200);
    }

    proptest! {
        #[test]
        fn what_is_spoken_is_read_back(ms in any::<u64>()) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&spoken(duration)).unwrap(), duration);
        }
    }
}
