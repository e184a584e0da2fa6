//! The loop behind a real socket: slow peers, silent peers, and the end.

use std::io;
use std::net::SocketAddr;

use danube_core::{JobState, OutputStream, Passthrough};
use danube_logs::LogWriter;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::super::serve::{Limits, serve, serve_with};
use super::events::{EventSource, Rebuilt};
use super::*;

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<io::Result<()>>,
}

const DRAIN: Duration = Duration::from_secs(1);

/// Limits that make a test of them short.
fn short() -> Limits {
    Limits {
        head: Duration::from_millis(200),
        stall: Duration::from_millis(300),
        ping: (Duration::from_millis(200), Duration::from_millis(200)),
        ..Limits::default()
    }
}

impl Server {
    async fn start(fixture: &Fixture, limits: Limits) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = serve_with(listener, fixture.router(), shutdown.clone(), DRAIN, limits);
        Self { address, shutdown, task: tokio::spawn(serving) }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Asks over a connection of its own and returns the answer with its open body.
    async fn open(&self, path: &str, last_id: Option<u64>) -> axum::http::Response<Incoming> {
        let io = TokioIo::new(self.connect().await);
        let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().uri(path).header("host", "localhost");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id.to_string());
        }
        client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    }

    /// Stops it and returns how long that took.
    async fn stop(self) -> Duration {
        let begun = Instant::now();
        self.shutdown.cancel();
        timeout(DEADLINE, self.task).await.expect("the server ends").unwrap().unwrap();
        begun.elapsed()
    }
}

/// Reads until the other side closes; a reset counts as that.
async fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut got)).await;
    let _ = read.expect("the server closes the connection");
    got
}

#[tokio::test]
async fn only_a_listener_on_this_machine_is_served() {
    let fixture = Fixture::new();
    let listener = TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
    let refused = serve(listener, fixture.router(), CancellationToken::new(), DRAIN).await;
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_peer_that_does_not_finish_its_request_is_closed() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture, short()).await;
    for begun in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /hea",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    ] {
        let mut stream = server.send(begun).await;
        let answer = read_to_close(&mut stream).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("200 OK"), "{begun:?}: {answer}");
    }
    // One byte at a time is no way around it: the deadline is that of the whole head.
    let mut stream = server.connect().await;
    let slow = async {
        for byte in "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".bytes().cycle() {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, slow).await.expect("the server closes the connection");
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_answer() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture, short()).await;
    let mut stream = server.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let answer = read_to_close(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    server.stop().await;
}

#[tokio::test]
async fn a_hundred_silent_peers_do_not_keep_anybody_waiting() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture, Limits::default()).await;
    let mut silent = Vec::new();
    for n in 0..100 {
        silent.push(server.send(if n % 2 == 0 { "" } else { "GET / HT" }).await);
    }
    let begun = Instant::now();
    assert_eq!(server.open("/health", None).await.status(), 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // They do not hold up the end either.
    assert!(server.stop().await <= DRAIN + Duration::from_secs(1));
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_until_one_ends() {
    let fixture = Fixture::new();
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = Server::start(&fixture, limits).await;
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut first = server.send(request).await;
    let mut head = [0; 15];
    first.read_exact(&mut head).await.unwrap();
    let mut second = server.send(request).await;
    let waits = timeout(Duration::from_millis(200), second.read_exact(&mut head)).await;
    assert!(waits.is_err(), "the second is not served yet");
    drop(first);
    timeout(DEADLINE, second.read_exact(&mut head)).await.expect("now it is").unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_takes_nothing_of_what_it_asked_for_is_closed() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"").await;
    // More than every buffer between here and there.
    fixture.keep(&id, "big", &vec![b'x'; 32 << 20]).await;
    let limits = Limits { connections: 1, ..short() };
    let server = Server::start(&fixture, limits).await;
    let path = "/api/v1/jobs/job-0001/artifacts/big";
    let mut stalled = server.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    // There is one slot: that somebody else is answered shows that the stalled one was let go.
    let next =
        timeout(DEADLINE, server.open("/health", None)).await.expect("the slot is given back");
    assert_eq!(next.status(), 200);
    drop(next);
    let got = read_to_close(&mut stalled).await;
    assert!(got.len() < 32 << 20, "{}", got.len());
    server.stop().await;
}

#[tokio::test]
async fn http2_is_spoken_on_the_same_port_and_its_authority_is_the_host() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture, Limits::default()).await;
    let io = TokioIo::new(server.connect().await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut client, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    for (authority, status) in [("localhost:8080", 200), ("evil.example", 421)] {
        let request = Request::builder().uri(format!("http://{authority}/health"));
        let answer =
            client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{authority}");
    }
    server.stop().await;
}

/// Reads events until something is true of what they rebuild.
async fn follow(
    body: &mut Incoming,
    source: &mut EventSource,
    rebuilt: &mut Rebuilt,
    until: impl Fn(&Rebuilt) -> bool,
) {
    let reading = async {
        while !until(rebuilt) {
            let Some(frame) = body.frame().await else { break };
            let Ok(data) = frame.unwrap().into_data() else { continue };
            source.push(&data).iter().for_each(|event| rebuilt.take(event));
        }
    };
    timeout(DEADLINE, reading).await.expect("the events come");
}

#[tokio::test]
async fn a_live_stream_cut_and_resumed_rebuilds_the_log_byte_for_byte() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture, Limits::default()).await;
    let id = fixture.job("job-0001").await;
    let (store, clock) = (Arc::new(fixture.logs.clone()), Arc::new(fixture.clock.clone()));
    let writer = LogWriter::create(store, id.clone(), clock, Default::default()).await.unwrap();
    let step = writer
        .step("run".parse().unwrap(), Box::new(Passthrough), Box::new(Passthrough))
        .await
        .unwrap();
    let path = "/api/v1/jobs/job-0001/logs/stream";
    let mut rebuilt = Rebuilt::default();
    let mut last_id = None;
    for round in 0..20_u8 {
        // Whole lines, halves of lines, bytes that are no text, and now and then a lot at once.
        let stream = if round % 2 == 0 { OutputStream::Stdout } else { OutputStream::Stderr };
        step.write(stream, b"text \xc3\xa9 \xe2\x80\xa8 \r here\nand \xff\0 there\npart")
            .await
            .unwrap();
        if round % 5 == 4 {
            step.write(stream, &b"many lines\n".repeat(20_000)).await.unwrap();
            step.write(stream, &[b'l'; 200_000]).await.unwrap();
        }
        let written = fixture.logs.stat(&id).await.unwrap().len;
        let mut body = server.open(path, last_id).await.into_body();
        let mut source = EventSource::default();
        // Sometimes to the last byte, sometimes the client goes in the middle of it.
        let goal = if round % 3 == 0 {
            written - (written - rebuilt.bytes.len() as u64) / 2
        } else {
            written
        };
        follow(&mut body, &mut source, &mut rebuilt, |r| r.bytes.len() as u64 >= goal).await;
        last_id = Some(rebuilt.bytes.len() as u64);
    }
    let mut body = server.open(path, last_id).await.into_body();
    let mut source = EventSource::default();
    let ending = async {
        step.finish().await.unwrap();
        writer.seal().await.unwrap();
        fixture.end(&id, JobState::Failed).await;
    };
    let following = follow(&mut body, &mut source, &mut rebuilt, |r| r.status.is_some());
    let ((), ()) = tokio::join!(ending, following);
    assert!(body.frame().await.is_none(), "the answer ends with the job");
    assert_eq!(rebuilt.status.as_deref(), Some("failed"));
    let file = server.open("/api/v1/jobs/job-0001/logs", None).await.into_body();
    let file = file.collect().await.unwrap().to_bytes();
    assert!(
        file.len() > 1_000_000 && rebuilt.bytes == file,
        "{} {}",
        rebuilt.bytes.len(),
        file.len()
    );
    server.stop().await;
}

#[tokio::test]
async fn open_streams_end_with_the_server_and_can_be_resumed() {
    let fixture = Fixture::new();
    let server = Server::start(&fixture, Limits::default()).await;
    let id = fixture.job("job-0001").await;
    fixture.log(&id, b"line\n").await;
    let mut open = Vec::new();
    for _ in 0..50 {
        let mut body = server.open("/api/v1/jobs/job-0001/logs/stream", None).await.into_body();
        let (mut source, mut rebuilt) = (EventSource::default(), Rebuilt::default());
        follow(&mut body, &mut source, &mut rebuilt, |r| r.bytes == b"line\n").await;
        open.push((body, source, rebuilt));
    }
    let address = server.address;
    let took = server.stop().await;
    assert!(took < DRAIN, "streams end at once, not when time is over: {took:?}");
    assert!(TcpStream::connect(address).await.is_err(), "the port is free");
    for (mut body, mut source, mut rebuilt) in open {
        // A whole answer, and no `end` event: a client comes back for the rest.
        follow(&mut body, &mut source, &mut rebuilt, |r| r.status.is_some()).await;
        assert_eq!((rebuilt.bytes.as_slice(), rebuilt.status), (&b"line\n"[..], None));
    }
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_when_its_time_is_over() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"").await;
    fixture.keep(&id, "big", &vec![b'x'; 32 << 20]).await;
    let server = Server::start(&fixture, Limits::default()).await;
    let path = "/api/v1/jobs/job-0001/artifacts/big";
    let mut stalled = server.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let mut begun = [0; 15];
    stalled.read_exact(&mut begun).await.unwrap();
    let took = server.stop().await;
    assert!(took >= DRAIN && took < DRAIN + Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_download_under_way_is_finished_before_the_end() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"").await;
    fixture.keep(&id, "big", &vec![b'x'; 8 << 20]).await;
    let server = Server::start(&fixture, Limits::default()).await;
    let body = server.open("/api/v1/jobs/job-0001/artifacts/big", None).await.into_body();
    server.shutdown.cancel();
    let got = timeout(DEADLINE, body.collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(got.len(), 8 << 20);
    server.stop().await;
}
