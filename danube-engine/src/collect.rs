//! Which files a job keeps, and when.

use std::fmt;
use std::str::FromStr;

use danube_artifacts::collect::{CollectLimits, Patterns, Preset};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::Error;
use crate::job_file::Checked;

/// Which files of the work directory a job keeps, and when. Where nothing is named nothing is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Collect {
    /// Globs of the files, relative to the work directory: see [`Patterns`].
    pub paths: Vec<String>,
    /// Globs that go by a name.
    pub preset: Option<Preset>,
    /// Globs of what is not kept all the same, whole directories too.
    pub exclude: Vec<String>,
    /// After which end.
    pub when: CollectWhen,
    /// The longest file; what [`RunnerOptions`](crate::RunnerOptions) allow holds beside it.
    pub max_file_bytes: Option<u64>,
    /// The most bytes of all files together; what `RunnerOptions` allow holds beside it.
    pub max_total_bytes: Option<u64>,
    /// The most files; what `RunnerOptions` allow holds beside it.
    pub max_files: Option<usize>,
}

/// After which end of a job its files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CollectWhen {
    /// When it succeeded; of any other nothing stays.
    #[default]
    Success,
    /// Also when it failed, timed out, was cancelled or got lost after one of its steps had begun: for
    /// whoever has to find out why. Each file is signed; provenance is for what succeeded.
    Always,
}

impl CollectWhen {
    /// Both.
    pub const ALL: &[Self] = &[Self::Success, Self::Always];

    /// How it is written: `success` or `always`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for CollectWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CollectWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|when| when.as_str() == text);
        found.ok_or_else(|| format!("must be success or always, not {text:?}"))
    }
}

impl Collect {
    /// Whether no file is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.preset.is_none()
    }

    /// What is looked for; `None` where nothing is to be kept.
    pub(crate) fn patterns(&self) -> Result<Option<Patterns>, Error> {
        let limits = [self.max_file_bytes, self.max_total_bytes, self.max_files.map(|n| n as u64)];
        if limits.contains(&Some(0)) {
            return Err(Error::invalid("artifacts", "must not be limited to nothing"));
        }
        if self.is_empty() {
            return match *self == Self::default() {
                true => Ok(None),
                false => Err(Error::invalid("artifacts", "name no files: add paths or a preset")),
            };
        }
        let patterns = Patterns::parse(&self.paths).map_err(Error::Globs)?;
        let patterns = self.preset.into_iter().fold(patterns, Patterns::with_preset);
        patterns.without(&self.exclude).map(Some).map_err(Error::Globs)
    }

    /// The limits of a job whose host allows this much.
    pub(crate) fn limits(&self, allowed: CollectLimits) -> CollectLimits {
        let least = |own: Option<u64>, allowed: u64| own.map_or(allowed, |own| own.min(allowed));
        let files = self.max_files.map_or(allowed.max_files, |own| own.min(allowed.max_files));
        let file_bytes = least(self.max_file_bytes, allowed.max_file_bytes);
        let total_bytes = least(self.max_total_bytes, allowed.max_total_bytes);
        allowed
            .with_max_files(files)
            .with_max_file_bytes(file_bytes)
            .with_max_total_bytes(total_bytes)
    }
}

/// As it is written in a job file: a list of globs, or a mapping that says more.
impl<'de> Deserialize<'de> for Collect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Collect;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of globs, or a mapping with paths or preset")
            }

            fn visit_unit<E>(self) -> Result<Collect, E> {
                Ok(Collect::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Collect, A::Error> {
                let paths = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(Collect { paths, ..Collect::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Collect, A::Error> {
                let raw = RawCollect::deserialize(MapAccessDeserializer::new(map))?;
                let RawCollect { paths, preset, exclude, when, .. } = raw;
                let limit = |limit: Option<Checked<Limit>>| limit.map(|Checked(Limit(most))| most);
                Ok(Collect {
                    paths,
                    preset: preset.map(|Checked(Named(preset))| preset),
                    exclude,
                    when: when.map(|Checked(when)| when).unwrap_or_default(),
                    max_file_bytes: limit(raw.max_file_bytes),
                    max_total_bytes: limit(raw.max_total_bytes),
                    // Nobody counts more files than a machine word holds.
                    max_files: limit(raw.max_files)
                        .map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
                })
            }
        }

        deserializer.deserialize_any(Written)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCollect {
    #[serde(default)]
    paths: Vec<String>,
    preset: Option<Checked<Named>>,
    #[serde(default)]
    exclude: Vec<String>,
    when: Option<Checked<CollectWhen>>,
    max_file_bytes: Option<Checked<Limit>>,
    max_total_bytes: Option<Checked<Limit>>,
    max_files: Option<Checked<Limit>>,
}

struct Named(Preset);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: danube_artifacts::Error| e.to_string())
    }
}

struct Limit(u64);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) | Err(_) => Err("must be a whole number, at least 1".to_owned()),
            Ok(most) => Ok(Self(most)),
        }
    }
}
