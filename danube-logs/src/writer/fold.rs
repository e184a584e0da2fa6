//! The end of a log that was too long comes behind its head.

use bytes::Bytes;

use super::{Ownership, Shared, attribute};
use crate::{Error, Fold, Keep, LogState, LogTail};

/// Longer texts are appended in pieces: a store may hold a whole one in memory.
const PIECE: usize = 1024 * 1024;

impl Shared {
    /// Puts what the ring has behind the head, and returns the new end.
    pub(super) async fn fold_in(
        &self,
        len: u64,
        state: &mut LogState,
        tail: &LogTail,
    ) -> Result<u64, Error> {
        let format = state.format;
        let most = match state.keep {
            Keep::HeadAndTail { tail_bytes } => tail_bytes,
            Keep::Head => 0,
        };
        let spare = tail.lines.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        // A line that does not fit whole is left out.
        let cut = match spare.checked_sub(1) {
            None => 0,
            Some(before) => memchr::memchr(b'\n', &tail.lines[before..])
                .map_or(tail.lines.len(), |at| before + at + 1),
        };
        let trimmed = format.count(&tail.lines[..cut]);
        let lines = tail.dropped_lines + trimmed.lines;
        let output = tail.dropped_output + trimmed.output;
        let marker = if lines == 0 {
            String::new()
        } else {
            let text = format!("[… {lines} lines, {output} bytes omitted …]");
            let note = format.note(self.clock.now(), "danube", &text);
            String::from_utf8_lossy(&note).into_owned()
        };
        let kept = tail.lines.len() - cut;
        let fold = Fold { at: len, marker, tail_bytes: kept as u64 };
        state.omitted_lines += lines;
        state.omitted_bytes += output;
        state.truncated = state.omitted_lines > 0;
        if format.names_steps() {
            attribute(&tail.lines[cut..], fold.at + fold.marker.len() as u64, state);
        }
        state.fold = Some(fold.clone());
        self.owned.store.sync(&self.owned.log, state).await?;
        self.owned.fold(len, &fold, tail).await
    }
}

impl Ownership {
    /// Appends what is missing of a fold, and returns the end of the log.
    pub(super) async fn fold(&self, len: u64, fold: &Fold, tail: &LogTail) -> Result<u64, Error> {
        let skip = tail.lines.len().saturating_sub(usize::try_from(fold.tail_bytes).unwrap_or(0));
        let mut text = Vec::with_capacity(fold.marker.len() + tail.lines.len() - skip);
        text.extend_from_slice(fold.marker.as_bytes());
        text.extend_from_slice(&tail.lines[skip..]);
        let mut text = Bytes::from(text);
        let there = usize::try_from(len.saturating_sub(fold.at)).unwrap_or(usize::MAX);
        let _ = text.split_to(there.min(text.len()));
        let mut len = len;
        while !text.is_empty() {
            let piece = text.split_to(text.len().min(PIECE));
            len = self.store.append(&self.log, len, piece).await?;
        }
        Ok(len)
    }
}
