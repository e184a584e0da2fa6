//! Names that were checked once and are right from then on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::{NoContext, Uuid};

/// A name that breaks the rules of its kind. The message says which rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name:?} {rule}")]
pub struct InvalidName {
    kind: &'static str,
    name: String,
    rule: &'static str,
}

impl InvalidName {
    pub(crate) fn new(kind: &'static str, name: &str, rule: &'static str) -> Self {
        // The beginning tells which name is meant; a megabyte of it in an error helps nobody.
        Self { kind, name: name.chars().take(80).collect(), rule }
    }

    /// The rule that was broken, as a sentence about the name: `must be …`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

/// Gives a type that wraps a `Box<str>` what a checked name has: `as_str`, `FromStr` and
/// `TryFrom<String>` by way of `$check`, `Display`, `Debug`. `$check` returns the rule that the name
/// breaks, as a sentence about it (`must be …`), and `$wrong` makes the error from name and rule.
///
/// ```
/// #[derive(Clone, PartialEq, Eq)]
/// struct Colour(Box<str>);
///
/// fn check(name: &str) -> Result<(), &'static str> {
///     if name.starts_with('#') { Ok(()) } else { Err("must begin with '#'") }
/// }
///
/// danube_core::checked_name!(Colour, String, check, |name, rule| format!("colour {name:?} {rule}"));
///
/// assert_eq!("#fff".parse::<Colour>().unwrap().as_str(), "#fff");
/// assert_eq!("red".parse::<Colour>().unwrap_err(), "colour \"red\" must begin with '#'");
/// ```
#[macro_export]
macro_rules! checked_name {
    ($type:ident, $error:ty, $check:path, $wrong:expr $(,)?) => {
        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $error;

            fn from_str(name: &str) -> ::std::result::Result<Self, $error> {
                let wrong: fn(&str, &'static str) -> $error = $wrong;
                $check(name).map(|()| Self(name.into())).map_err(|rule| wrong(name, rule))
            }
        }

        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(name: String) -> ::std::result::Result<Self, $error> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.into()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

/// The id of a job, and the name of everything that belongs to it:
/// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`. It is safe as a file name and in a URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Box<str>);

checked_name!(JobId, InvalidName, check_job_id, |name, rule| InvalidName::new(
    "job id", name, rule
));

impl JobId {
    /// A new id: a UUID version 7 (RFC 9562), which sorts by the moment it was made.
    #[must_use]
    pub fn mint(now: Timestamp) -> Self {
        // Before 1970 there is no such UUID; a clock that is so wrong still gets unique ids.
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let nanos = now.subsec_nanosecond().unsigned_abs();
        let uuid = Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, nanos));
        Self(uuid.to_string().into())
    }
}

fn check_job_id(name: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first_is_right = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first_is_right && name.len() <= 128 && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err("must be 1 to 128 letters, digits, '.', '_' or '-', and begin with a letter or digit")
    }
}

/// The name of a step: 1 to 100 characters, no controls, no `[` or `]`, so that it stands in a log
/// line's bracket without ambiguity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StepName(Box<str>);

checked_name!(StepName, InvalidName, check_step_name, |name, rule| InvalidName::new(
    "step name",
    name,
    rule
));

fn check_step_name(name: &str) -> Result<(), &'static str> {
    // U+2028 and U+2029 end lines in browsers and editors although they are no control characters.
    let forbidden = |c: char| c.is_control() || matches!(c, '[' | ']' | '\u{2028}' | '\u{2029}');
    if name.is_empty() || name.chars().count() > 100 {
        Err("must be 1 to 100 characters long")
    } else if name.chars().any(forbidden) {
        Err("must not contain control characters, line separators, '[' or ']'")
    } else if name.trim() != name {
        Err("must not begin or end with white space")
    } else {
        Ok(())
    }
}

/// The name of an artifact: its `/`-separated path relative to the work directory (`out/a.bin`).
///
/// No component is empty, `.`, `..` or `.danube` (where Danube keeps signatures), none is longer
/// than 251 bytes (so that `.sig` still fits a file system's 255), no component but the last ends
/// in `.sig`, and the whole is at most 1,024 bytes without NUL or other control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactName(Box<str>);

checked_name!(ArtifactName, InvalidName, check_artifact_name, |name, rule| InvalidName::new(
    "artifact name",
    name,
    rule
));

impl ArtifactName {
    /// Its last component: the name of the file alone.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

fn check_artifact_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 1024 {
        return Err("must be 1 to 1024 bytes long");
    }
    if name.chars().any(char::is_control) {
        return Err("must not contain control characters");
    }
    let mut components = name.split('/').peekable();
    while let Some(component) = components.next() {
        let is_directory = components.peek().is_some();
        match component {
            "" => return Err("must be a relative path without empty components"),
            "." | ".." => return Err("must not contain '.' or '..' as a component"),
            ".danube" => {
                return Err("must not contain '.danube', which is reserved for signatures");
            }
            _ if component.len() > 251 => {
                return Err("must not have a component longer than 251 bytes");
            }
            _ if is_directory && component.ends_with(".sig") => {
                return Err("must not have a directory that ends in '.sig'");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn job_ids_follow_their_alphabet() {
        let longest = "a".repeat(128);
        for good in ["a", "0", "build-1.2_x", longest.as_str()] {
            assert_eq!(good.parse::<JobId>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(129);
        for bad in ["", ".", "..", "-a", "_a", "a/b", "../x", "a b", "a\0", "ä", too_long.as_str()]
        {
            assert!(bad.parse::<JobId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn minted_ids_are_valid_unique_and_sort_by_time() {
        let early = JobId::mint(Timestamp::from_second(1_700_000_000).unwrap());
        let late = JobId::mint(Timestamp::from_second(1_700_000_001).unwrap());
        assert!(early < late);
        assert_eq!(early.as_str().parse::<JobId>().as_ref(), Ok(&early));
        let before_the_epoch = JobId::mint(Timestamp::from_second(-5).unwrap());
        assert_ne!(before_the_epoch, JobId::mint(Timestamp::from_second(-5).unwrap()));
    }

    #[test]
    fn step_names_cannot_forge_a_bracket_or_a_line() {
        for good in ["build", "unit tests (linux)", "größe", "a".repeat(100).as_str()] {
            assert!(good.parse::<StepName>().is_ok(), "{good:?} was refused");
        }
        let too_long = "a".repeat(101);
        for bad in
            ["", "a]b", "[x", "a\nb", "a\rb", "a\0", "a\u{2028}b", " a", "a ", too_long.as_str()]
        {
            assert!(bad.parse::<StepName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn artifact_names_stay_below_the_job() {
        let longest = "a".repeat(251);
        for good in ["a", "out/a.bin", "build#42", "x.sig", "CON", "dir.d/é", longest.as_str()] {
            assert!(good.parse::<ArtifactName>().is_ok(), "{good:?} was refused");
        }
        let too_long = "a".repeat(252);
        let bad = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            ".danube/x",
            "a/.danube",
            "a\0",
            "a\nb",
            "x.sig/a",
            too_long.as_str(),
        ];
        for bad in bad {
            assert!(bad.parse::<ArtifactName>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("out/a.bin".parse::<ArtifactName>().unwrap().file_name(), "a.bin");
    }

    #[test]
    fn an_error_names_the_thing_and_the_rule_and_stays_short() {
        let error = "x".repeat(100_000).parse::<JobId>().unwrap_err().to_string();
        assert!(error.starts_with("job id \"xxx") && error.len() < 250, "{error}");
    }

    proptest! {
        #[test]
        fn an_accepted_artifact_name_never_leaves_its_root(name in "[a./\\x00-\\x7f]{1,12}") {
            if let Ok(name) = name.parse::<ArtifactName>() {
                let path = std::path::Path::new(name.as_str());
                let all_normal =
                    path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
                prop_assert!(all_normal && path.is_relative());
            }
        }
    }
}
