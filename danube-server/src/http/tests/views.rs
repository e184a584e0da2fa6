//! Logs as programs ask for them.

use serde_json::json;

use super::events::{EventSource, Rebuilt};
use super::*;

const LOG: &[u8] = b"[2024-01-06T12:00:00.123Z] [a] [stdout] ::group::Build\n\
    [2024-01-06T12:00:00.124Z] [b] [stderr] \x1b[31mbad\x1b[0m \xff\n\
    [2024-01-06T12:00:00.125Z] [a] [stdout] good\n\
    [2024-01-06T12:00:00.126Z] [a] [stdout] ::endgroup::\n";

#[tokio::test]
async fn the_last_lines_come_with_the_figures_of_the_whole_log() {
    let fixture = Fixture::new();
    let lines: Vec<String> = (0..150).map(|n| format!("line {n}\n")).collect();
    fixture.finished("job-0001", lines.concat().as_bytes()).await;
    let total = lines.concat().len();
    for (query, count) in [("", 100), ("?tail=2", 2), ("?tail=0", 0), ("?tail=10000", 150)] {
        let answer = fixture.get(&format!("/jobs/job-0001/output{query}")).await.json();
        let output = lines[150 - count..].concat();
        let expected =
            json!({"output": output, "lines": count, "truncated": false, "total_bytes": total});
        assert_eq!(answer, expected, "{query}");
    }
}

#[tokio::test]
async fn a_log_that_grows_has_an_output_and_a_log_that_was_cut_says_so() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    fixture.log(&id, b"one\n").await;
    let answer = fixture.get("/api/v1/jobs/job-0001/output").await.json();
    assert_eq!((&answer["output"], &answer["truncated"]), (&json!("one\n"), &json!(false)));
    let state = LogState { truncated: true, ..LogState::default() };
    fixture.logs.seal(&id, &state).await.unwrap();
    assert_eq!(fixture.get("/jobs/job-0001/output").await.json()["truncated"], true);
}

#[tokio::test]
async fn a_search_gives_lines_places_and_where_to_go_on() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", LOG).await;
    let path = "/api/v1/jobs/job-0001/logs/search";
    let found = fixture.get(&format!("{path}?q=GOOD&ignore_case=true")).await.json();
    let line = json!({
        "line": 3, "from": 110, "to": 155, "match": true, "spans": [[150, 154]],
        "text": "[2024-01-06T12:00:00.125Z] [a] [stdout] good",
    });
    let end = json!({"offset": LOG.len(), "line": 5});
    let expected = json!({
        "lines": [line], "matching_lines": 1, "more": null, "end": end, "open": false
    });
    assert_eq!(found, expected);

    let mut seen = Vec::new();
    let mut from = "offset=0".to_owned();
    loop {
        let page = fixture.get(&format!("{path}?q=o&limit=1&{from}")).await.json();
        seen.push(page["lines"][0]["line"].as_u64().unwrap());
        let Some(more) = page["more"].as_object() else { break };
        from = format!("offset={}&line={}", more["offset"], more["line"]);
    }
    assert_eq!(seen, [1, 3, 4]);

    let lines = async |query: &str| {
        let found = fixture.get(&format!("{path}?{query}")).await.json();
        let lines = found["lines"].as_array().unwrap().iter();
        lines.map(|line| line["line"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(lines("q=bad%20").await, [2], "colours do not count");
    assert_eq!(lines("q=bad%20&ignore_ansi=false").await, [0; 0]);
    assert_eq!(lines("q=::&literal=true&step=a").await, [1, 4]);
    assert_eq!(lines("q=stderr").await, [0; 0], "brackets are no content");
    assert_eq!(lines("q=stderr&within=line").await, [2]);
    assert_eq!(lines("q=good&context=1").await, [2, 3, 4]);
    assert_eq!(lines("q=good&before=1&step=a").await, [1, 3]);
    let odd = fixture.get(&format!("{path}?q=bad")).await.json();
    assert!(odd["lines"][0]["base64"].is_string() && odd["lines"][0]["text"].is_null(), "{odd}");
}

#[tokio::test]
async fn entries_are_pages_of_lines() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", LOG).await;
    let first = fixture.get("/v1/runs/job-0001/logs?limit=2&ansi=strip").await.json();
    let expected = json!({
        "run_id": "job-0001",
        "logs": [
            {"timestamp": "2024-01-06T12:00:00.123Z", "level": "INFO", "message": "::group::Build", "source": "tool",
                "step": "a", "offset": 0},
            {"timestamp": "2024-01-06T12:00:00.124Z", "level": "ERROR", "message": "bad \u{fffd}", "source": "tool",
                "step": "b", "offset": 55},
        ],
        "has_more": true,
        "next": 110,
    });
    assert_eq!(first, expected);
    let path = "/api/v1/jobs/job-0001/logs/entries?offset=110&step=a";
    let rest = fixture.get(path).await.json();
    assert_eq!((rest["logs"].as_array().unwrap().len(), &rest["has_more"]), (2, &json!(false)));
    let spans = fixture.get("/v1/runs/job-0001/logs?ansi=spans&step=b").await.json();
    assert_eq!(spans["logs"][0]["message"], "bad \u{fffd}");
    let red = json!([{"start": 0, "end": 3, "foreground": {"indexed": 1}}]);
    assert_eq!(spans["logs"][0]["spans"], red);
}

#[tokio::test]
async fn who_accepts_events_gets_events() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", LOG).await;
    let headers = [("accept", "text/event-stream")];
    let answer = fixture.ask(Method::GET, "/v1/runs/job-0001/logs", &headers).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let mut rebuilt = Rebuilt::default();
    EventSource::default().push(&answer.body).iter().for_each(|event| rebuilt.take(event));
    assert_eq!(rebuilt.bytes, LOG);
    let headers = [("accept", "application/json, text/event-stream")];
    let answer = fixture.ask(Method::GET, "/v1/runs/job-0001/logs", &headers).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn groups_are_spans_of_lines() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", LOG).await;
    let groups = fixture.get("/api/v1/jobs/job-0001/logs/groups").await.json();
    let expected = json!({
        "groups": [{
            "name": "Build", "kind": "github", "step": "a", "depth": 0, "first_line": 1, "last_line": 4,
            "range": {"start": 0, "end": LOG.len()}, "expanded": false, "ended": true,
        }],
        "omitted": 0,
    });
    assert_eq!(groups, expected);
    let none = fixture.get("/api/v1/jobs/job-0001/logs/groups?step=b").await.json();
    assert_eq!(none["groups"], json!([]));
}

#[tokio::test]
async fn a_watcher_that_lags_is_told_of_the_gap() {
    let fixture = Fixture::new();
    let log = b"line\n".repeat(1000);
    fixture.finished("job-0001", &log).await;
    let answer = fixture.get("/api/v1/jobs/job-0001/logs/stream?max_lag=1000").await;
    let events = EventSource::default().push(&answer.body);
    assert_eq!(
        (events[0].name.as_str(), &events[0].json()),
        ("gap", &json!({"from": 0, "to": 4505}))
    );
    assert_eq!(events[0].last_id, "4505");
    let (from, to, bytes) = events[1].log_bytes();
    assert_eq!((from, to, bytes.as_slice()), (4505, 5000, &log[4505..]));
}
