//! What is printed where: colour, safety, and a closed pipe that ends quietly.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One of the two places that output goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Stdout,
    Stderr,
}

impl Sink {
    pub(crate) fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        }
    }

    /// Writes all of it. Blocks: a terminal may be stopped.
    pub(crate) fn write(self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(bytes),
        }
    }

    /// Prints a line for a person or a program.
    pub(crate) fn line(self, text: &str) {
        self.text(&format!("{text}\n"));
    }

    /// Prints a text that ends its lines itself. That nobody reads it is no error; that it cannot be
    /// written is told at the end, by [`output_was_lost`].
    pub(crate) fn text(self, text: &str) {
        if let Err(e) = self.write(text.as_bytes())
            && self == Self::Stdout
            && e.kind() != io::ErrorKind::BrokenPipe
        {
            OUTPUT_LOST.store(true, Ordering::Relaxed);
        }
    }
}

/// Set when something could not be written to standard output, on a full disk for instance.
static OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Whether something that was asked for could not be printed.
pub(crate) fn output_was_lost() -> bool {
    OUTPUT_LOST.load(Ordering::Relaxed)
}

/// Whether to use colour on a sink: it is a terminal, and nobody asked for none
/// (<https://no-color.org>).
pub(crate) fn colour(sink: Sink, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    let unwanted = no_color.is_some_and(|value| !value.is_empty());
    let dumb = term.is_some_and(|term| term == "dumb");
    sink.is_terminal() && !unwanted && !dumb
}

/// A duration for people: `46 ms`, `12.4 s`, `3 m 05 s`, `2 h 07 m`.
pub(crate) fn duration(duration: Duration) -> String {
    let tenths = duration.as_millis() / 100;
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{}.{} s", tenths / 10, tenths % 10),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A size for people, in powers of 1,000: `512 B`, `12.3 kB`, `52.4 MB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// Columns as wide as they must be, two spaces between them; the last one is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let columns = head.len();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    let mut put = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    put(&mut head.iter().copied());
    for row in rows {
        put(&mut row.iter().map(String::as_str));
    }
    text
}

/// Text that came from a job (a name, a message), made safe for a terminal.
pub(crate) fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same as one word of a shell's line, so that a command can be typed as it is shown.
pub(crate) fn word(text: &str) -> String {
    let text = safe(text);
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_word_as_one() {
        for (text, shown) in [
            ("out/ü-1.0.tar.gz", "out/ü-1.0.tar.gz"),
            ("a b", "'a b'"),
            ("*", "'*'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)\n", "'$(reboot)\u{fffd}'"),
        ] {
            assert_eq!(word(text), shown);
        }
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let said = |millis| duration(Duration::from_millis(millis));
        assert_eq!(said(0), "0 ms");
        assert_eq!(said(340), "340 ms");
        assert_eq!(said(1_340), "1.3 s");
        assert_eq!(said(59_990), "59.9 s");
        assert_eq!(said(185_000), "3 m 05 s");
        assert_eq!(said(7_620_000), "2 h 07 m");
    }

    #[test]
    fn a_table_lines_up_and_has_no_trailing_blanks() {
        let rows = [vec!["a".into(), "long cell".into()], vec!["bbb".into(), "x".into()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID   NAME\na    long cell\nbbb  x\n");
    }

    #[test]
    fn nothing_is_coloured_where_nobody_wants_it() {
        // The test's own stdout may be a terminal; these hold wherever it runs.
        assert!(!colour(Sink::Stdout, Some(OsStr::new("1")), None));
        assert!(!colour(Sink::Stdout, None, Some(OsStr::new("dumb"))));
    }
}
