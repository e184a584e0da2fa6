//! Log streams: where they begin, what they say, how they end.

use danube_core::JobState;
use danube_logs::LogWriter;

use super::events::{EventSource, Rebuilt};
use super::*;

const LOG: &[u8] = b"one\ntwo \xff\nthree\r\nfour";

impl Fixture {
    /// Streams to the end, resuming where a client stopped.
    async fn stream(&self, path: &str, last_id: Option<&str>, from: u64) -> Rebuilt {
        let headers: Vec<_> = last_id.map(|id| ("last-event-id", id)).into_iter().collect();
        let answer = self.ask(Method::GET, path, &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        let mut rebuilt = Rebuilt { from, ..Rebuilt::default() };
        for event in EventSource::default().push(&answer.body) {
            rebuilt.take(&event);
        }
        rebuilt
    }
}

#[tokio::test]
async fn a_stream_begins_where_it_is_told_to() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", LOG).await;
    let len = LOG.len() as u64;
    let path = "/api/v1/jobs/job-0001/logs/stream";
    for (query, last_id, from) in [
        ("", None, 0),
        ("?offset=0", None, 0),
        ("?offset=4", None, 4),
        ("?offset=6", None, 6),
        ("?offset=21", None, len),
        ("?tail=0", None, len),
        ("?tail=1", None, 17),
        ("?tail=2", None, 10),
        ("?tail=99", None, 0),
        // A client that comes back counts more than what its address says.
        ("?offset=4", Some("6"), 6),
        ("?tail=1", Some("6"), 6),
        ("", Some("21"), len),
        // What cannot be an offset of this log begins at the beginning.
        ("", Some("22"), 0),
        ("", Some("99999999999999999999999"), 0),
        ("", Some("-1"), 0),
        ("", Some("+6"), 0),
        ("", Some("six"), 0),
        ("", Some(""), 0),
    ] {
        let rebuilt = fixture.stream(&format!("{path}{query}"), last_id, from).await;
        assert_eq!(rebuilt.bytes, LOG[from as usize..], "{query} {last_id:?}");
        assert_eq!(rebuilt.status.as_deref(), Some("succeeded"));
    }
}

#[tokio::test]
async fn a_client_that_was_cut_off_anywhere_rebuilds_the_log() {
    let fixture = Fixture::new();
    let mut log = Vec::new();
    for n in 0..40_u8 {
        log.extend(
            b"line \xc3\xa9 \0\r "
                .iter()
                .chain(&[n + 200, b'\n'])
                .filter(|b| n % 3 != 0 || **b < 128),
        );
    }
    fixture.finished("job-0001", &log).await;
    let path = "/api/v1/jobs/job-0001/logs/stream";
    let whole = fixture.get(path).await.body;
    for cut in 0..whole.len() {
        let mut rebuilt = Rebuilt::default();
        let mut last_id = String::new();
        for event in EventSource::default().push(&whole[..cut]) {
            rebuilt.take(&event);
            last_id.clone_from(&event.last_id);
        }
        if rebuilt.status.is_some() {
            continue;
        }
        // A browser sends no header where there was no id yet.
        let last_id = (!last_id.is_empty()).then_some(last_id.as_str());
        let from = rebuilt.bytes.len() as u64;
        let rest = fixture.stream(path, last_id, from).await;
        rebuilt.bytes.extend(rest.bytes);
        assert!(rebuilt.bytes == log, "cut at {cut}");
    }
}

#[tokio::test]
async fn the_plain_form_is_lines() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", b"one\ntwo\n").await;
    let answer = fixture.get("/api/v1/jobs/job-0001/logs/stream?format=plain").await;
    let events = EventSource::default().push(&answer.body);
    let lines: Vec<_> =
        events.iter().filter(|e| e.name == "message").map(|e| e.data.as_str()).collect();
    assert_eq!(lines, ["one", "two"]);
    assert_eq!(events.last().unwrap().json()["status"], "succeeded");
}

#[tokio::test]
async fn the_end_says_how_the_job_ended() {
    let fixture = Fixture::new();
    for state in [JobState::Succeeded, JobState::Failed, JobState::TimedOut, JobState::Cancelled] {
        let id = fixture.job(&format!("job-{state}")).await;
        fixture.log(&id, b"x\n").await;
        fixture.seal(&id).await;
        fixture.end(&id, state).await;
        let rebuilt = fixture.stream(&format!("/v1/runs/{id}/logs/stream"), None, 0).await;
        assert_eq!(rebuilt.status.as_deref(), Some(state.as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_for_the_verdict_and_does_not_invent_one() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    fixture.log(&id, b"x\n").await;
    fixture.seal(&id).await;
    let path = "/api/v1/jobs/job-0001/logs/stream";
    let ends = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        fixture.end(&id, JobState::Failed).await;
    };
    let (rebuilt, ()) = tokio::join!(fixture.stream(path, None, 0), ends);
    assert_eq!(rebuilt.status.as_deref(), Some("failed"));

    // Sealed, but nobody ever says how it ended: the stream ends and can be resumed.
    let id = fixture.job("job-0002").await;
    fixture.log(&id, b"x\n").await;
    fixture.seal(&id).await;
    let rebuilt = fixture.stream("/api/v1/jobs/job-0002/logs/stream", None, 0).await;
    assert_eq!((rebuilt.bytes.as_slice(), rebuilt.status), (&b"x\n"[..], None));
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_owner_died_ends_as_lost_with_every_byte_of_its_log() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    let owner = fixture.logs.other_owner();
    owner.open(&id).await.unwrap();
    owner.append(&id, 0, Bytes::from_static(b"before\n")).await.unwrap();
    let recovery = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(owner);
        // As slow as the server's own round of recovery may be.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (store, clock) = (Arc::new(fixture.logs.clone()), Arc::new(fixture.clock.clone()));
        let writer = LogWriter::create(store, id.clone(), clock, Default::default()).await.unwrap();
        writer.note("the process that ran this job died").await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        writer.seal().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        fixture.end(&id, JobState::Lost).await;
    };
    let path = "/api/v1/jobs/job-0001/logs/stream";
    let (rebuilt, ()) = tokio::join!(fixture.stream(path, None, 0), recovery);
    assert_eq!(rebuilt.status.as_deref(), Some("lost"));
    let file = fixture.get("/api/v1/jobs/job-0001/logs").await.body;
    assert_eq!(rebuilt.bytes, file);
    assert!(String::from_utf8_lossy(&file).contains("the process that ran this job died"));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_nobody_takes_over_ends_its_stream_in_bounded_time_without_a_verdict() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    let owner = fixture.logs.other_owner();
    owner.open(&id).await.unwrap();
    owner.append(&id, 0, Bytes::from_static(b"before\n")).await.unwrap();
    drop(owner);
    let begun = tokio::time::Instant::now();
    let path = "/api/v1/jobs/job-0001/logs/stream";
    let request = Request::builder().uri(path).header("host", "localhost");
    let response = fixture.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut rebuilt = Rebuilt::default();
    EventSource::default().push(&body).iter().for_each(|event| rebuilt.take(event));
    assert_eq!((rebuilt.bytes.as_slice(), rebuilt.status), (&b"before\n"[..], None));
    assert!(begun.elapsed() < Duration::from_secs(35), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn more_streams_than_the_limit_are_asked_to_come_back() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    fixture.log(&id, b"x\n").await;
    let router = super::super::with_max_streams(fixture.state(), 1);
    let ask = |path: &str| {
        let request = Request::builder().uri(path).header("host", "localhost");
        router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let path = "/api/v1/jobs/job-0001/logs/stream";
    let first = ask(path).await.unwrap();
    let second = ask(path).await.unwrap();
    assert_eq!(second.status(), 503);
    assert_eq!(second.headers()["retry-after"], "5");
    assert_eq!(ask("/health").await.unwrap().status(), 200, "the rest is served");
    drop(first);
    assert_eq!(ask(path).await.unwrap().status(), 200, "a place is given back");
}

#[test]
fn open_streams_are_counted_while_they_are_open() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&fixture.recorder, || {
        runtime.block_on(async {
            let id = fixture.job("job-0001").await;
            fixture.log(&id, b"x\n").await;
            let open = |n: u32| {
                let text = fixture.recorder.handle().render();
                assert!(text.contains(&format!("danube_http_log_streams_open {n}")), "{text}");
            };
            let request = || {
                let path = "/api/v1/jobs/job-0001/logs/stream";
                let request = Request::builder().uri(path).header("host", "localhost");
                fixture.router().oneshot(request.body(Body::empty()).unwrap())
            };
            let (one, two) = (request().await.unwrap(), request().await.unwrap());
            open(2);
            drop(one);
            open(1);
            drop(two);
            open(0);
        });
    });
}
