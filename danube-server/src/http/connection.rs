//! A connection that cannot be held open by doing nothing.
//!
//! Hyper's header timeout begins when it knows which version of HTTP is spoken, and it has none for
//! writing. This wrapper adds both: the first bytes must come, and a peer must take what it asked for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The length of HTTP/2's preface. No request of HTTP/1.1 is shorter, so after so many bytes one of
/// hyper's own timeouts runs.
const FIRST_BYTES: usize = 24;

/// A stream with deadlines.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    /// Runs until the first bytes are here.
    opening: Option<Opening>,
    /// How long a write may make no progress.
    patience: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Opening {
    deadline: Pin<Box<Sleep>>,
    missing: usize,
}

impl<S> Watched<S> {
    /// `inner`, whose first bytes must be here after `opening`, and whose peer must take something at
    /// least once in `patience` while there is something to take.
    pub(super) fn new(inner: S, opening: Duration, patience: Duration) -> Self {
        let opening = Opening { deadline: Box::pin(sleep(opening)), missing: FIRST_BYTES };
        Self { inner, opening: Some(opening), patience, stalled: None }
    }

    /// Passes on what a write came to; while it waits, the deadline runs.
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let patience = self.patience;
        let deadline = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(too_slow("the peer takes nothing")))
    }
}

fn too_slow(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.inner).poll_read(cx, buf);
        let Some(opening) = &mut this.opening else { return outcome };
        opening.missing = opening.missing.saturating_sub(buf.filled().len() - before);
        if opening.missing == 0 {
            this.opening = None;
            return outcome;
        }
        if outcome.is_ready() {
            return outcome;
        }
        ready!(opening.deadline.as_mut().poll(cx));
        Poll::Ready(Err(too_slow("the first bytes did not come")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.progress(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.progress(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket has nothing to flush and says so at once: that is no progress of the peer's.
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.progress(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const OPENING: Duration = Duration::from_secs(10);
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn fewer_bytes_than_a_request_has_are_waited_for_only_so_long() {
        for sent in [0, 1, FIRST_BYTES - 1] {
            let (mut peer, ours) = duplex(1024);
            let mut ours = Watched::new(ours, OPENING, PATIENCE);
            peer.write_all(&vec![b'P'; sent]).await.unwrap();
            let mut got = vec![0; FIRST_BYTES];
            let error = ours.read_exact(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{sent} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_bytes_silence_is_hypers_concern() {
        let (mut peer, ours) = duplex(1024);
        let mut ours = Watched::new(ours, OPENING, PATIENCE);
        peer.write_all(&[b'G'; FIRST_BYTES]).await.unwrap();
        ours.read_exact(&mut [0; FIRST_BYTES]).await.unwrap();
        let waited = tokio::time::timeout(OPENING * 100, ours.read_u8()).await;
        assert!(waited.is_err(), "still open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_let_go_and_a_slow_one_is_not() {
        let (mut peer, ours) = duplex(1);
        let mut ours = Watched::new(ours, OPENING, PATIENCE);
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
                peer.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 10]), slow);
        written.unwrap();
        ours.write_all(&[0]).await.unwrap();
        assert_eq!(ours.write_all(&[0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
