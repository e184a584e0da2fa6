//! How a log is shown: exact bytes where a program reads, safe lines where a person does.

use std::io;
use std::sync::Arc;

use danube_core::{ByteRange, JobId, StepName};
use danube_logs::views::strip_ansi;
use danube_logs::{
    FollowEvent, Follower, LineFormat, LogPhase, LogStore, MAX_READ_BYTES, terminal_safe,
};

use crate::failure::Failure;
use crate::terminal::Sink;

/// Makes of the bytes of a log, cut anywhere, what is printed.
pub(crate) trait Shape {
    /// Takes the next bytes of the log and appends what is shown of them.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>);

    /// The log ended.
    fn finish(&mut self, out: &mut Vec<u8>);
}

/// What becomes of the log's lines on their way to a person.
#[derive(Debug, Clone, Default)]
pub(crate) struct ViewOptions {
    /// Control characters are made visible or dropped.
    pub(crate) safe: bool,
    /// The brackets in front of each line are dimmed.
    pub(crate) dim: bool,
    /// Escape sequences are left out.
    pub(crate) strip: bool,
    /// Only this step's lines.
    pub(crate) step: Option<StepName>,
    /// How the log's lines look.
    pub(crate) format: LineFormat,
    /// So many of the lines that would be shown are left out first.
    pub(crate) skip_lines: u64,
}

/// Turns chunks of the log, cut anywhere, into what is shown.
#[derive(Debug)]
pub(crate) struct View {
    options: ViewOptions,
    /// The beginning of a line whose end has not come. A log's lines are bounded, so this is.
    partial: Vec<u8>,
    /// Lines that matched so far.
    pub(crate) lines: u64,
}

impl View {
    pub(crate) fn new(options: ViewOptions) -> Self {
        Self { options, partial: Vec::new(), lines: 0 }
    }

    fn is_exact(&self) -> bool {
        let ViewOptions { safe, dim, strip, step, format: _, skip_lines } = &self.options;
        !safe && !dim && !strip && step.is_none() && *skip_lines == 0
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let parsed = self.options.format.parse(text);
        if let Some(step) = &self.options.step
            && parsed.as_ref().is_none_or(|line| line.step != step.as_str())
        {
            return;
        }
        self.lines += 1;
        if self.lines <= self.options.skip_lines {
            return;
        }
        let prefix = match &parsed {
            Some(parsed) if self.options.dim => text.len() - parsed.content.len(),
            _ => 0,
        };
        if prefix > 0 {
            out.extend_from_slice(b"\x1b[2m");
            self.text(&line[..prefix], out);
            out.extend_from_slice(b"\x1b[0m");
        }
        self.text(&line[prefix..], out);
    }

    fn text(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let ViewOptions { safe, strip, .. } = self.options;
        put(bytes, safe, strip, out);
    }
}

impl Shape for View {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.is_exact() {
            out.extend_from_slice(bytes);
            return;
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            if self.partial.is_empty() {
                self.line(line, out);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, out);
            }
        }
        self.partial.extend_from_slice(rest);
    }

    /// A line that was never closed is shown as it is.
    fn finish(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            self.line(&rest, out);
        }
    }
}

/// Appends bytes of a line as a person is to see them.
pub(crate) fn put(bytes: &[u8], safe: bool, strip: bool, out: &mut Vec<u8>) {
    let stripped;
    let bytes = if strip && bytes.contains(&0x1b) {
        stripped = strip_line(bytes);
        &stripped
    } else {
        bytes
    };
    if safe {
        terminal_safe(bytes, out);
    } else {
        out.extend_from_slice(bytes);
    }
}

/// A line without escape sequences; a sequence that is not complete does not swallow the line feed.
fn strip_line(line: &[u8]) -> Vec<u8> {
    let content = line.strip_suffix(b"\n").unwrap_or(line);
    let mut text = strip_ansi(content).text;
    text.extend_from_slice(&line[content.len()..]);
    text
}

/// How a showing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The log is sealed and all of it was shown.
    ToTheEnd,
    /// Nobody alive writes the log, and it is not sealed.
    Abandoned,
    /// Whoever read the output closed it.
    Closed,
}

/// Shows a log from `follower` on until it ends. Writing happens off the runtime's threads: a
/// stopped terminal stops nothing but the showing.
pub(crate) async fn show<S: Shape>(
    follower: &mut Follower,
    mut view: S,
    sink: Sink,
) -> Result<(Shown, S), Failure> {
    loop {
        let mut out = Vec::new();
        let end = match follower.next().await? {
            FollowEvent::Bytes { bytes, .. } => {
                view.push(&bytes, &mut out);
                None
            }
            FollowEvent::End(LogPhase::Sealed) => {
                view.finish(&mut out);
                Some(Shown::ToTheEnd)
            }
            FollowEvent::End(_) => Some(Shown::Abandoned),
            _ => None,
        };
        if !out.is_empty() && !write(sink, out).await? {
            return Ok((Shown::Closed, view));
        }
        if let Some(end) = end {
            return Ok((end, view));
        }
    }
}

/// Writes off the runtime; `false` when the reader is gone.
pub(crate) async fn write(sink: Sink, bytes: Vec<u8>) -> Result<bool, Failure> {
    let written = tokio::task::spawn_blocking(move || sink.write(&bytes)).await;
    match written.expect("writing to a terminal does not panic") {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::io("cannot write the output", &e)),
    }
}

/// Shows what is stored of a log between two offsets.
pub(crate) async fn show_range<S: Shape>(
    store: &Arc<dyn LogStore>,
    log: &JobId,
    from: u64,
    until: u64,
    mut view: S,
    sink: Sink,
) -> Result<S, Failure> {
    let mut at = from;
    loop {
        let range = ByteRange::with_len(at, MAX_READ_BYTES).clamp_end(until);
        let bytes = store.read(log, range).await?;
        at += bytes.len() as u64;
        let mut out = Vec::new();
        view.push(&bytes, &mut out);
        if bytes.is_empty() {
            view.finish(&mut out);
        }
        if !write(sink, out).await? || bytes.is_empty() {
            return Ok(view);
        }
    }
}

/// Counts the lines of a step in what is stored below an offset.
pub(crate) async fn count_lines(
    store: &Arc<dyn LogStore>,
    log: &JobId,
    until: u64,
    step: &StepName,
    format: LineFormat,
) -> Result<u64, Failure> {
    let options = ViewOptions { step: Some(step.clone()), format, ..ViewOptions::default() };
    let mut view = View::new(options);
    let (mut at, mut out) = (0, Vec::new());
    loop {
        let bytes =
            store.read(log, ByteRange::with_len(at, MAX_READ_BYTES).clamp_end(until)).await?;
        if bytes.is_empty() {
            return Ok(view.lines);
        }
        at += bytes.len() as u64;
        view.push(&bytes, &mut out);
        out.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"[2024-01-06T12:00:00.123Z] [a] [stdout] one\n\
        [2024-01-06T12:00:00.123Z] [b] [stderr] two \x1b[31mred\n\
        [2024-01-06T12:00:00.123Z] [a] [stdout] th\x07ree\n";

    fn shown(options: ViewOptions, pieces: usize) -> String {
        let mut view = View::new(options);
        let mut out = Vec::new();
        for piece in LOG.chunks(pieces) {
            view.push(piece, &mut out);
        }
        view.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn exact_bytes_pass_untouched_however_they_are_cut() {
        for pieces in [1, 7, LOG.len()] {
            assert_eq!(shown(ViewOptions::default(), pieces).as_bytes(), LOG);
        }
    }

    #[test]
    fn a_step_is_told_by_its_bracket_and_lines_can_be_skipped() {
        let step = Some("a".parse().unwrap());
        for pieces in [1, 7, LOG.len()] {
            let all = shown(ViewOptions { step: step.clone(), ..ViewOptions::default() }, pieces);
            assert_eq!(all.lines().count(), 2);
            assert!(all.contains("one") && all.contains("ree") && !all.contains("two"));
            let last = shown(
                ViewOptions { step: step.clone(), skip_lines: 1, ..ViewOptions::default() },
                pieces,
            );
            assert!(last.lines().count() == 1 && last.contains("ree"), "{last:?}");
        }
    }

    #[test]
    fn a_terminal_gets_no_bell_and_no_colour_that_runs_on() {
        let options = ViewOptions { safe: true, dim: true, ..ViewOptions::default() };
        for pieces in [1, 7, LOG.len()] {
            let text = shown(options.clone(), pieces);
            assert!(!text.contains('\x07'), "{text:?}");
            assert!(text.contains("two \x1b[31mred\x1b[0m\n"), "{text:?}");
            assert!(
                text.starts_with("\x1b[2m[2024-01-06T12:00:00.123Z] [a] [stdout] \x1b[0mone\n"),
                "{text:?}"
            );
        }
    }
}
