//! A proxy before a server of S3 that lets chosen requests fail.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 500 InternalError; the server never sees the request.
    Internal,
    /// 503 SlowDown; the server never sees the request.
    SlowDown,
    /// 200 with an error in its body, as S3 answers a Complete or a Copy that fails late; the server never sees it.
    ErrorIn200,
    /// The connection breaks before the server sees the request.
    CutBefore,
    /// The server does what it was asked for, and nobody hears of it.
    CutAfter,
    /// The server does what it was asked for, and half of its answer comes.
    CutWithin,
    /// The server does what it was asked for, and answers with another ETag.
    WrongEtag,
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault::Internal,
    Fault::SlowDown,
    Fault::ErrorIn200,
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::CutWithin,
    Fault::WrongEtag,
];

/// Which requests fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stubbornness {
    /// That one, and the next attempt gets through.
    Once,
    /// That one, and everything like it.
    Always,
    /// That one and whatever comes after it.
    FromThenOn,
}

pub(crate) const STUBBORNNESS: &[Stubbornness] =
    &[Stubbornness::Once, Stubbornness::Always, Stubbornness::FromThenOn];

/// What fails now and then: all that a client mends by asking again.
const PASSING_FAULTS: &[Fault] =
    &[Fault::SlowDown, Fault::CutBefore, Fault::CutAfter, Fault::Internal];

#[derive(Default)]
struct Plan {
    seen: usize,
    now_and_then: bool,
    fault: Option<(usize, Fault, Stubbornness)>,
    /// The request that failed first: its method and target.
    failed: Option<String>,
}

/// It lives as long as the runtime of the test.
#[derive(Clone)]
pub(crate) struct Proxy {
    port: u16,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    pub(crate) async fn before(server: &str) -> Self {
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::<Mutex<Plan>>::default();
        let serving = Arc::clone(&plan);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (plan, server) = (Arc::clone(&serving), server.clone());
                // A connection that breaks is what this is for.
                tokio::spawn(async move { serve(client, &server, &plan).await.ok() });
            }
        });
        Self { port, plan }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on the `at`-th request fails.
    pub(crate) fn fail(&self, at: usize, fault: Fault, stubbornness: Stubbornness) {
        *self.plan.lock().unwrap() =
            Plan { fault: Some((at, fault, stubbornness)), ..Plan::default() };
    }

    /// From now on every third request fails, when it is sent for the first time.
    pub(crate) fn fail_now_and_then(&self) {
        *self.plan.lock().unwrap() = Plan { now_and_then: true, ..Plan::default() };
    }

    /// From now on nothing fails. Tells which request failed first.
    pub(crate) fn heal(&self) -> Option<String> {
        std::mem::take(&mut *self.plan.lock().unwrap()).failed
    }
}

impl Plan {
    fn next(&mut self, request: &str, attempt: usize) -> Option<Fault> {
        let completes = request.starts_with("POST") && request.contains("uploadId=");
        if self.now_and_then && attempt == 1 {
            self.seen += 1;
            if !self.seen.is_multiple_of(3) {
                return None;
            }
            self.failed.get_or_insert_with(|| request.to_owned());
            let fault = PASSING_FAULTS[self.seen / 3 % PASSING_FAULTS.len()];
            // Whoever did not hear that an upload was completed, and finds what somebody else put since, cannot know:
            // moto answers 500 to whoever asks again, where S3 says once more what it said.
            let unknown = completes && fault == Fault::CutAfter;
            return Some(if unknown { Fault::CutBefore } else { fault });
        }
        let (at, fault, stubbornness) = self.fault?;
        if fault == Fault::ErrorIn200 && !completes {
            return None;
        }
        let number = self.seen;
        self.seen += 1;
        let fails = match stubbornness {
            Stubbornness::Once => number == at,
            Stubbornness::Always => number == at || self.failed.as_deref() == Some(request),
            Stubbornness::FromThenOn => number >= at,
        };
        if !fails {
            return None;
        }
        self.failed.get_or_insert_with(|| request.to_owned());
        Some(fault)
    }
}

/// One request: the client is told that the connection closes.
async fn serve(mut client: TcpStream, server: &str, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head_end = loop {
        if let Some(at) = request.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&request[..head_end]).into_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if header("expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.len() < head_end + length {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = head.lines().next().unwrap().to_owned();
    // The SDK counts: `amz-sdk-request: attempt=1; max=3`.
    let attempt = header("amz-sdk-request").and_then(|counted| {
        counted.split("; ").find_map(|field| field.strip_prefix("attempt=")?.parse().ok())
    });
    let fault = plan.lock().unwrap().next(&line, attempt.unwrap());
    let answer = match fault {
        Some(Fault::Internal) => error("500 Internal Server Error", "InternalError"),
        Some(Fault::SlowDown) => error("503 Slow Down", "SlowDown"),
        Some(Fault::ErrorIn200) => error("200 OK", "InternalError"),
        Some(Fault::CutBefore) => return Ok(()),
        other => {
            let mut answer = forward(server, &head, &request[head_end..]).await?;
            match other {
                Some(Fault::CutAfter) => return Ok(()),
                Some(Fault::CutWithin) => answer.truncate(answer.len() / 2),
                Some(Fault::WrongEtag) => other_etag(&mut answer),
                _ => {}
            }
            answer
        }
    };
    client.write_all(&answer).await?;
    client.shutdown().await
}

async fn forward(server: &str, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut lines = head.trim_end().lines();
    let mut sent = format!("{}\r\nConnection: close\r\n", lines.next().unwrap());
    for line in lines {
        let lower = line.to_ascii_lowercase();
        if !lower.starts_with("connection:") && !lower.starts_with("expect:") {
            sent.push_str(line);
            sent.push_str("\r\n");
        }
    }
    sent.push_str("\r\n");
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(sent.as_bytes()).await?;
    upstream.write_all(body).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn error(status: &str, code: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a test lets it fail</Message></Error>"
    );
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Turns the first digit of the ETag into another one.
fn other_etag(answer: &mut [u8]) {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or(answer.len());
    let lower = answer[..head].to_ascii_lowercase();
    if let Some(at) = lower.windows(7).position(|name| name == b"\netag: ") {
        let digit = &mut answer[at + 8];
        *digit = if *digit == b'0' { b'1' } else { b'0' };
    }
}
