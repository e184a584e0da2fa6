//! Groups that a job's output marks, as spans of lines.

use std::collections::HashMap;

use danube_core::{ByteRange, JobId, StepName};
use serde::Serialize;

use super::strip_ansi;
use crate::LineFormat;
use crate::blocks::{Lines, Work, work_through};
use crate::{Error, LineSource, LogPhase, LogStore};

/// The most groups that are told; further ones are counted.
pub const MAX_GROUPS: usize = 10_000;

/// How deep groups are told; deeper ones belong to the group around them.
pub const MAX_GROUP_DEPTH: usize = 32;

/// The longest name, in bytes; a longer one is cut.
const MAX_NAME_BYTES: usize = 200;

/// Steps whose groups are told. A job has few; a log may be anybody's.
const MAX_STEPS: usize = 1000;

/// Who the marks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// `::group::NAME` … `::endgroup::`.
    Github,
    /// `--- NAME`, `+++ NAME` (open at first) or `~~~ NAME`, up to the next of them. The head of a
    /// unified diff looks the same.
    Buildkite,
    /// `section_start:TIME:ID` CR `NAME` … `section_end:TIME:ID`.
    Gitlab,
}

/// A group of lines of one step. Lines of other steps may lie between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it is called, without escape sequences; at most 200 bytes.
    pub name: String,
    /// Who marked it.
    pub kind: GroupKind,
    /// The step, where lines name one.
    pub step: Option<String>,
    /// How many groups of its step are around it.
    pub depth: usize,
    /// Its first line, the mark, and its last one, which for GitHub's and GitLab's is the mark that ends it.
    /// The first line of a log is 1.
    pub first_line: u64,
    /// See [`first_line`](Self::first_line).
    pub last_line: u64,
    /// Where these lines lie.
    pub range: ByteRange,
    /// Whether the job asks that it be shown open.
    pub expanded: bool,
    /// Whether it ended: by a mark, or by the group around it. Otherwise it reaches to the end.
    pub ended: bool,
}

/// The groups of a log, in the order of their first lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// They themselves, at most [`MAX_GROUPS`].
    pub groups: Vec<Group>,
    /// How many more there are.
    pub omitted: u64,
}

/// The groups in what is stored of a log.
///
/// A mark stands at the beginning of a line's content, escape sequences aside; GitLab's also behind the CR of
/// another. A mark that ends what never began is ignored.
///
/// Cancel safety: may be dropped at any time.
///
/// # Errors
///
/// [`Error::NotFound`], [`Error::Io`].
pub async fn groups(
    store: &(impl LogStore + ?Sized),
    log: &JobId,
    step: Option<&StepName>,
) -> Result<Groups, Error> {
    let stat = store.stat(log).await?;
    let scan = GroupScan::new(step.cloned(), stat.state.format);
    let mut scan = work_through(store, log, ByteRange::new(0, stat.len), scan).await?;
    let last_is_whole = stat.phase == LogPhase::Open;
    Ok(scan.finish(!last_is_whole))
}

/// Finds groups in the bytes of a log, in any pieces.
struct GroupScan {
    only: Option<StepName>,
    format: LineFormat,
    lines: Lines,
    found: Found,
}

#[derive(Default)]
struct Found {
    /// Lines so far.
    number: u64,
    groups: Groups,
    steps: HashMap<Option<String>, Step>,
}

#[derive(Default)]
struct Step {
    /// The groups that are open, outermost first.
    open: Vec<Open>,
    /// GitHub's groups within the innermost of these that are too deep to be told: their ends have no
    /// name.
    too_deep: u64,
}

struct Open {
    kind: GroupKind,
    /// GitLab's name for it.
    id: Vec<u8>,
    /// Where it is told, if it is.
    index: Option<usize>,
    /// The last line of its step so far.
    last: (u64, u64),
}

enum Mark<'a> {
    Begin {
        kind: GroupKind,
        id: &'a [u8],
        name: &'a [u8],
        expanded: bool,
    },
    End {
        kind: GroupKind,
        id: &'a [u8],
    },
    /// Buildkite's `^^^ +++`: the group that this line is in is to be shown open.
    Expand,
}

impl GroupScan {
    fn new(only: Option<StepName>, format: LineFormat) -> Self {
        Self { only, format, lines: Lines::new(0), found: Found::default() }
    }

    fn finish(&mut self, ended: bool) -> Groups {
        if ended {
            let (found, only, format) = (&mut self.found, self.only.as_ref(), self.format);
            self.lines.finish(|at, line| found.take(at, line, only, format));
        }
        let found = std::mem::take(&mut self.found);
        let mut groups = found.groups;
        for open in found.steps.into_values().flat_map(|step| step.open) {
            close(&mut groups, &open, open.last, false);
        }
        groups
    }
}

impl Work for GroupScan {
    fn push(&mut self, bytes: &[u8]) -> bool {
        let (found, only, format) = (&mut self.found, self.only.as_ref(), self.format);
        self.lines.push(bytes, |at, line| found.take(at, line, only, format))
    }
}

impl Found {
    fn take(&mut self, at: u64, line: &[u8], only: Option<&StepName>, format: LineFormat) -> bool {
        self.number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let (step, content) = match format.parse(text) {
            Some(line) if line.source == LineSource::Danube || line.continued => return true,
            Some(line) => (Some(line.step), line.content),
            None => (None, text),
        };
        if only.is_some_and(|only| step != Some(only.as_str())) {
            return true;
        }
        let stripped;
        let content = if content.contains(&0x1b) {
            stripped = strip_ansi(content).text;
            &stripped
        } else {
            content
        };
        let here = (self.number, at + line.len() as u64);
        let step = step.map(str::to_owned);
        for mark in marks(content) {
            self.mark(&mark, &step, at, here);
        }
        if let Some(step) = self.steps.get_mut(&step) {
            step.open.iter_mut().for_each(|group| group.last = here);
        }
        true
    }

    fn mark(&mut self, mark: &Mark<'_>, step: &Option<String>, at: u64, here: (u64, u64)) {
        if self.steps.len() == MAX_STEPS && !self.steps.contains_key(step) {
            return;
        }
        let Step { open, too_deep } = self.steps.entry(step.clone()).or_default();
        match mark {
            Mark::Begin { kind, id, name, expanded } => {
                if *kind == GroupKind::Buildkite
                    && let Some(before) = open.pop_if(|group| group.kind == GroupKind::Buildkite)
                {
                    close(&mut self.groups, &before, before.last, true);
                }
                let told = open.len() < MAX_GROUP_DEPTH && self.groups.groups.len() < MAX_GROUPS;
                if !told {
                    self.groups.omitted += 1;
                }
                if open.len() == MAX_GROUP_DEPTH {
                    *too_deep += u64::from(*kind == GroupKind::Github);
                    return;
                }
                open.push(Open {
                    kind: *kind,
                    id: id.to_vec(),
                    index: told.then_some(self.groups.groups.len()),
                    last: here,
                });
                if told {
                    self.groups.groups.push(Group {
                        name: cut(name),
                        kind: *kind,
                        step: step.clone(),
                        depth: open.len() - 1,
                        first_line: here.0,
                        last_line: here.0,
                        range: ByteRange::new(at, here.1),
                        expanded: *expanded,
                        ended: false,
                    });
                }
            }
            Mark::End { kind: GroupKind::Github, .. } if *too_deep > 0 => *too_deep -= 1,
            Mark::End { kind, id } => {
                let ends = |group: &Open| group.kind == *kind && group.id == *id;
                let Some(begun) = open.iter().rposition(ends) else { return };
                *too_deep = 0;
                for group in open.drain(begun..) {
                    close(&mut self.groups, &group, here, true);
                }
            }
            Mark::Expand => {
                let index = open.last().and_then(|group| group.index);
                if let Some(group) = index.and_then(|index| self.groups.groups.get_mut(index)) {
                    group.expanded = true;
                }
            }
        }
    }
}

fn close(groups: &mut Groups, open: &Open, (line, end): (u64, u64), ended: bool) {
    if let Some(group) = open.index.and_then(|index| groups.groups.get_mut(index)) {
        group.last_line = line;
        group.range.end = end;
        group.ended = ended;
    }
}

/// The marks of one line, which has no escape sequences any more.
fn marks(content: &[u8]) -> Vec<Mark<'_>> {
    let mut marks = Vec::new();
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    if let Some(name) = content.strip_prefix(b"::group::") {
        marks.push(Mark::Begin { kind: GroupKind::Github, id: b"", name, expanded: false });
    } else if content.starts_with(b"::endgroup::") {
        marks.push(Mark::End { kind: GroupKind::Github, id: b"" });
    } else if content.starts_with(b"^^^ +++") {
        marks.push(Mark::Expand);
    } else if let Some((mark, name)) = content.split_first_chunk::<4>() {
        let expanded = mark == b"+++ ";
        if (expanded || mark == b"--- " || mark == b"~~~ ") && !name.trim_ascii().is_empty() {
            marks.push(Mark::Begin { kind: GroupKind::Buildkite, id: b"", name, expanded });
        }
    }
    let mut pieces = content.split(|&b| b == b'\r').peekable();
    while let Some(piece) = pieces.next() {
        if let Some(id) = gitlab(piece, b"section_end:") {
            marks.push(Mark::End { kind: GroupKind::Gitlab, id });
        } else if let Some(id) = gitlab(piece, b"section_start:") {
            let (id, options) = match memchr::memchr(b'[', id) {
                Some(at) => id.split_at(at),
                None => (id, &b""[..]),
            };
            let is_name = |piece: &&&[u8]| !piece.starts_with(b"section_");
            let name = pieces.peek().filter(is_name).filter(|name| !name.is_empty());
            let name = name.copied().unwrap_or(id);
            let expanded = !options.windows(14).any(|option| option == b"collapsed=true");
            marks.push(Mark::Begin { kind: GroupKind::Gitlab, id, name, expanded });
        } else if marks.is_empty() {
            // No mark at the beginning of the line: none further on either.
            break;
        }
    }
    marks
}

/// What follows the time in a mark of GitLab's.
fn gitlab<'a>(piece: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let rest = piece.strip_prefix(mark)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let id = rest[digits..].strip_prefix(b":")?;
    (digits > 0 && !id.is_empty() && id.len() <= MAX_NAME_BYTES).then_some(id)
}

fn cut(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME_BYTES)]);
    let name = name.trim();
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

#[cfg(test)]
mod tests;
