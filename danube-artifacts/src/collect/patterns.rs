//! What is collected, as globs.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::Error;

/// The most globs of one job, and the most that exclude.
pub const MAX_PATTERNS: usize = 100;
/// The longest glob, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// Globs that were checked.
///
/// They are matched against the whole path below the root, by case. `?` and `*` match within one
/// component, names that begin with a dot included; `**` as a component matches any number of
/// directories; `[a-z]`, `{a,b}` and `\` work as usual. `./` in front is dropped.
#[derive(Debug, Clone)]
pub struct Patterns {
    globs: Vec<Pattern>,
    set: GlobSet,
    /// What matches one of these is not there; a directory neither, with all that is in it.
    excluded: GlobSet,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// The preset that it comes from.
    preset: Option<Preset>,
    /// One for each component, as far as the glob can be cut into components.
    components: Option<Vec<Component>>,
}

#[derive(Debug, Clone)]
enum Component {
    Matches(GlobMatcher),
    AnyDepth,
}

/// Globs that go by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preset {
    /// What tools that analyse data leave in the directory they work in: tables, documents, pictures, and whatever
    /// is called a report, an analysis or an output. The globs are those by which CTS-Lite finds what its tools made.
    Data,
}

impl Preset {
    /// Every one.
    pub const ALL: &[Self] = &[Self::Data];

    /// What it is called: `data`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
        }
    }

    /// What it stands for.
    #[must_use]
    pub const fn globs(self) -> &'static [&'static str] {
        match self {
            Self::Data => &[
                "*.csv",
                "*.json",
                "*.html",
                "*.png",
                "*.pdf",
                "*report*",
                "*analysis*",
                "*output*",
            ],
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().copied().find(|preset| preset.as_str() == text);
        found.ok_or_else(|| Error::invalid("preset", text, "is not known: there is data"))
    }
}

impl Patterns {
    /// Checks globs: relative, without `..`, at most [`MAX_PATTERNS`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], which names the glob; [`Error::TooMany`].
    pub fn parse(globs: &[String]) -> Result<Self, Error> {
        let all = checked(globs)?.into_iter().map(|text| (text, None));
        Self::of(all.collect(), GlobSet::empty())
    }

    /// With the globs of a preset too.
    #[must_use]
    pub fn with_preset(self, preset: Preset) -> Self {
        let before = self.globs.into_iter().map(|glob| (glob.text, glob.preset));
        let more = preset.globs().iter().map(|text| ((*text).to_owned(), Some(preset)));
        Self::of(before.chain(more).collect(), self.excluded)
            .expect("globs that were checked stay globs")
    }

    /// Without what matches one of these. One that matches a directory leaves out all that is in it. What was
    /// excluded before is not any more.
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse).
    pub fn without(mut self, globs: &[String]) -> Result<Self, Error> {
        self.excluded = set_of(&checked(globs)?)?;
        Ok(self)
    }

    fn of(globs: Vec<(String, Option<Preset>)>, excluded: GlobSet) -> Result<Self, Error> {
        let texts: Vec<_> = globs.iter().map(|(text, _)| text.clone()).collect();
        let pattern = |(text, preset): (String, _)| {
            let components = text.split('/').map(component_of).collect::<Result<_, _>>().ok();
            Pattern { text, preset, components }
        };
        let set = set_of(&texts)?;
        Ok(Self { globs: globs.into_iter().map(pattern).collect(), set, excluded })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.globs.is_empty()
    }

    /// Whether one of them matches this path below the root, and none excludes it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let ends = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        let mut dirs_and_path = ends.chain([path.len()]);
        self.set.is_match(path) && !dirs_and_path.any(|end| self.excludes(&path.as_bytes()[..end]))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.globs.len()
    }

    /// Which of them match, by their position.
    pub(super) fn matching(&self, path: &[u8]) -> Vec<usize> {
        self.set.matches(OsStr::from_bytes(path))
    }

    /// Whether this path itself is excluded; those above it are not looked at.
    pub(super) fn excludes(&self, path: &[u8]) -> bool {
        self.excluded.is_match(OsStr::from_bytes(path))
    }

    /// Whether the glob at this position is just this path.
    pub(super) fn is_literally(&self, at: usize, path: &[u8]) -> bool {
        self.globs[at].text.as_bytes() == path
    }

    /// Whether something below this directory can match.
    pub(super) fn lead_below(&self, dir: &[u8]) -> bool {
        dir.is_empty() || self.globs.iter().any(|pattern| pattern.leads_below(dir))
    }

    /// The globs that matched nothing, and the presets of which none did.
    pub(super) fn unmatched(&self, matched: &[bool]) -> (Vec<String>, Vec<Preset>) {
        let pairs = || self.globs.iter().zip(matched);
        let own = pairs().filter(|(glob, matched)| glob.preset.is_none() && !**matched);
        let is_idle = |preset: &Preset| {
            let mut of_it = pairs().filter(|(glob, _)| glob.preset == Some(*preset)).peekable();
            of_it.peek().is_some() && of_it.all(|(_, matched)| !matched)
        };
        let presets = Preset::ALL.iter().copied().filter(is_idle);
        (own.map(|(glob, _)| glob.text.clone()).collect(), presets.collect())
    }
}

impl Pattern {
    fn leads_below(&self, dir: &[u8]) -> bool {
        let Some(components) = &self.components else { return true };
        let mut dirs = 0;
        for name in dir.split(|byte| *byte == b'/') {
            match components.get(dirs) {
                Some(Component::AnyDepth) => return true,
                Some(Component::Matches(glob)) if glob.is_match(OsStr::from_bytes(name)) => {}
                _ => return false,
            }
            dirs += 1;
        }
        components.len() > dirs
    }
}

/// The globs without `./` in front, each of them one.
fn checked(globs: &[String]) -> Result<Vec<String>, Error> {
    if globs.len() > MAX_PATTERNS {
        return Err(Error::TooMany { what: "globs", limit: MAX_PATTERNS as u64 });
    }
    let mut texts = Vec::with_capacity(globs.len());
    for glob in globs {
        let refused = |rule: String| Error::invalid("glob", glob, rule);
        let text = glob.strip_prefix("./").unwrap_or(glob);
        check(text).map_err(|rule| refused(rule.to_owned()))?;
        glob_of(text).map_err(|e| refused(format!("is not a glob: {}", e.kind())))?;
        texts.push(text.to_owned());
    }
    Ok(texts)
}

fn check(glob: &str) -> Result<(), &'static str> {
    if glob.is_empty() || glob.len() > MAX_PATTERN_BYTES {
        Err("must be 1 to 1024 bytes long")
    } else if glob.starts_with('/') {
        Err("must be relative to the work directory")
    } else if glob.chars().any(char::is_control) {
        Err("must not contain control characters")
    } else if glob.split('/').any(|component| component == "..") {
        Err("must not leave the work directory with '..'")
    } else if glob.ends_with('/') {
        Err("must name files: write ** behind the last '/' for all that is below")
    } else if glob.split('/').any(|component| component.is_empty() || component == ".") {
        Err("must not contain empty components or '.'")
    } else {
        Ok(())
    }
}

fn set_of(texts: &[String]) -> Result<GlobSet, Error> {
    let refused = |e: globset::Error| {
        Error::invalid("glob", &texts.join(" "), format!("cannot be used: {}", e.kind()))
    };
    let mut set = GlobSetBuilder::new();
    for text in texts {
        set.add(glob_of(text).map_err(refused)?);
    }
    set.build().map_err(refused)
}

fn glob_of(text: &str) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build()
}

fn component_of(text: &str) -> Result<Component, globset::Error> {
    if text.contains("**") {
        return Ok(Component::AnyDepth);
    }
    Ok(Component::Matches(glob_of(text)?.compile_matcher()))
}
