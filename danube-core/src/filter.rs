//! The seam between secrets and logs: bytes in, bytes out, some held back for a while.

/// A filter that one stream of bytes runs through, chunk by chunk.
///
/// Laws, for any way of cutting the input into chunks:
///
/// * The output of all calls together depends on the input bytes and on where `idle` was called,
///   never on where `push` was cut.
/// * `push` holds back only bytes that may begin something the filter would replace; `held` counts
///   them, and it never exceeds a bound that the filter documents.
/// * After `finish` nothing is held. The filter is then as new.
///
/// A filter is synchronous and owns no timer: whoever feeds it calls [`idle`](Self::idle) when the
/// stream has been silent for a second, so that what was held (a prompt, a progress bar) is seen.
/// One filter serves one stream; sharing one between stdout and stderr would join what the
/// command never joined.
pub trait StreamFilter: Send {
    /// Takes the next bytes and appends to `out` what can be said of them already.
    fn push(&mut self, input: &[u8], out: &mut Vec<u8>);

    /// Says something about held bytes although more may follow, because the stream is silent.
    fn idle(&mut self, out: &mut Vec<u8>);

    /// The stream has ended: appends everything that is left.
    fn finish(&mut self, out: &mut Vec<u8>);

    /// Bytes taken and not yet spoken of.
    fn held(&self) -> usize;
}

/// The filter that changes nothing and holds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Passthrough;

impl StreamFilter for Passthrough {
    fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(input);
    }

    fn idle(&mut self, _out: &mut Vec<u8>) {}

    fn finish(&mut self, _out: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }
}
