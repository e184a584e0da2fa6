//! The loop that accepts connections, and its end.
//!
//! Built on hyper-util and not on `axum::serve`, which waits for ever for a request that never comes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::connection::Watched;

/// What a connection may cost, and how long it may do nothing.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub(super) connections: usize,
    /// For the first bytes, and then for each head of a request. It ends idle keep-alive too.
    pub(super) head: Duration,
    /// How long a peer may take nothing of what it asked for.
    pub(super) stall: Duration,
    /// How often the other side of HTTP/2 is asked whether it lives, and how long it may think.
    pub(super) ping: (Duration, Duration),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // With the buffers below this is at most about half a gigabyte of stalled readers.
            connections: 4096,
            head: Duration::from_secs(10),
            // Four heartbeats of a log stream. Whoever slept longer resumes by offset or range.
            stall: Duration::from_secs(60),
            ping: (Duration::from_secs(20), Duration::from_secs(10)),
        }
    }
}

/// What the socket itself may hold of an answer: the kernel would take 4 MiB for each slow reader.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What hyper may hold of an answer beyond that, and of the head of a request.
const BUFFER_BYTES: usize = 64 * 1024;

/// Requests at once on one connection of HTTP/2.
const MAX_REQUESTS_PER_CONNECTION: u32 = 128;

/// How long accepting rests after the system refused, for instance for want of file descriptors.
const REST: Duration = Duration::from_millis(100);

/// Told to each request: when it is cancelled, streams end.
#[derive(Debug, Clone)]
pub(super) struct Shutdown(pub(super) CancellationToken);

/// Serves `router` on `listener` until `shutdown` is cancelled. Then nothing new is accepted, log
/// streams end between two events, and what else is under way gets `drain` to end by itself before
/// it is cut off.
///
/// # Errors
///
/// `InvalidInput` for a listener that others than this machine can reach: there are no tokens yet.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    serve_with(listener, router, shutdown, drain, Limits::default()).await
}

pub(super) async fn serve_with(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    drain: Duration,
    limits: Limits,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        let refused = format!("{address} can be reached from outside, and there are no tokens yet");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, refused));
    }
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut open = JoinSet::new();
    while let Some(stream) = next(&listener, &shutdown, &slots, &mut open).await {
        let (stream, slot) = stream;
        let (router, shutdown, limits) = (router.clone(), shutdown.clone(), limits.clone());
        open.spawn(async move {
            connection(stream, router, shutdown, &limits).await;
            drop(slot);
        });
    }
    // From here on the port is free, and whoever knocks is refused instead of kept waiting.
    drop(listener);
    let all_ended = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all_ended).await.is_err() {
        tracing::warn!(connections = open.len(), ?drain, "cutting off what did not end in time");
        open.shutdown().await;
    }
    Ok(())
}

type Slot = tokio::sync::OwnedSemaphorePermit;

/// The next connection and its slot; `None` when the server is to end.
async fn next(
    listener: &TcpListener,
    shutdown: &CancellationToken,
    slots: &Arc<Semaphore>,
    open: &mut JoinSet<()>,
) -> Option<(TcpStream, Slot)> {
    let accept = async {
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, slot)),
                Err(e) if is_the_peers(&e) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection; trying again");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    };
    tokio::pin!(accept);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            // Ended tasks are collected as they end, so that their number stays that of the open ones.
            Some(ended) = open.join_next() => {
                if let Err(e) = ended {
                    tracing::error!(error = %e, "a connection's task failed");
                }
            }
            accepted = &mut accept => return accepted,
        }
    }
}

/// Errors of `accept` that are about one connection that is gone already.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused)
}

async fn connection(
    stream: TcpStream,
    router: Router,
    shutdown: CancellationToken,
    limits: &Limits,
) {
    // Neither is needed to serve; a socket that refuses them is as good as gone.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES);
    let io = TokioIo::new(Watched::new(stream, limits.head, limits.stall));
    let told = Shutdown(shutdown.clone());
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(told.clone());
        request.map(Body::new)
    });
    let builder = builder(limits);
    let connection = builder.serve_connection(io, TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        // A peer that went away, spoke something else, or was too slow: its concern, not ours.
        tracing::debug!(error, "a connection ended early");
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping.0)
        .keep_alive_timeout(limits.ping.1)
        .max_concurrent_streams(MAX_REQUESTS_PER_CONNECTION)
        .max_header_list_size(16 * 1024)
        .max_send_buf_size(BUFFER_BYTES);
    builder
}
