//! Which path answers what, and every problem.

use std::panic;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use danube_core::{CandidateKind, JobState};
use danube_store::JobStore;
use tokio::sync::Semaphore;

use super::*;

#[tokio::test]
async fn every_route_has_its_answer() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"line\n").await;
    let kept = fixture.keep(&id, "out/a.bin", b"bytes").await;
    fixture.prove(&id, &[kept]).await;
    for path in [
        "/health",
        "/metrics",
        "/api/v1/jobs",
        "/api/v1/jobs/job-0001",
        "/api/v1/jobs/latest",
        "/api/v1/jobs/0001",
        "/api/v1/jobs/job-/logs",
        "/api/v1/jobs/job-0001/logs/stream",
        "/api/v1/jobs/job-0001/logs/search?q=line",
        "/api/v1/jobs/job-0001/logs/entries",
        "/api/v1/jobs/job-0001/logs/groups",
        "/api/v1/jobs/job-0001/output",
        "/jobs/job-0001/output",
        "/v1/runs/job-0001/logs",
        "/api/v1/jobs/job-0001/artifacts",
        "/api/v1/jobs/job-0001/artifacts/out/a.bin",
        "/api/v1/jobs/job-0001/artifacts/out%2Fa.bin",
        "/api/v1/jobs/job-0001/artifacts/out/a.bin?part=signature",
        "/api/v1/jobs/job-0001/provenance",
        "/api/v1/jobs/job-0001/provenance.dsse",
        "/api/v1/artifacts/job-0001",
        "/api/v1/artifacts/job-0001/out/a.bin",
        "/v1/artifacts/job-0001",
        "/v1/runs/job-0001/logs/stream",
    ] {
        let answer = fixture.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let head = fixture.ask(Method::HEAD, path, &[]).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0), "HEAD {path}");
        let post = fixture.ask(Method::POST, path, &[]).await;
        assert_eq!(post.problem(), (405, "method_not_allowed".into()), "POST {path}");
        assert_eq!(post.header("allow"), Some("GET,HEAD"), "POST {path}");
    }
}

#[tokio::test]
async fn every_mistake_has_its_problem() {
    let fixture = Fixture::new();
    assert_eq!(fixture.get("/api/v1/jobs/latest").await.problem(), (404, "job_not_found".into()));
    fixture.job("job-0001").await;
    let id = fixture.finished("job-0002", b"line\n").await;
    fixture.keep(&id, "a", b"bytes").await;
    fixture.upload(&id, "half", b"bytes").await;
    let gone = fixture.job("job-0003").await;
    fixture.end(&gone, JobState::Failed).await;
    for kind in [CandidateKind::Log, CandidateKind::Artifact] {
        fixture.jobs.mark_deleted(&gone, kind, at(1_800_000_000)).await.unwrap();
    }
    let never = fixture.job("other-4").await;
    fixture.end(&never, JobState::Cancelled).await;
    for (path, status, code) in [
        ("/", 404, "not_found"),
        ("/api/v1/nothing", 404, "not_found"),
        ("/api/v1/jobs/", 404, "not_found"),
        ("/api/v1/jobs/unknown", 404, "job_not_found"),
        ("/api/v1/jobs/..%2F..%2Fetc%2Fpasswd", 404, "job_not_found"),
        ("/api/v1/jobs/unknown/logs", 404, "job_not_found"),
        ("/api/v1/jobs/unknown/logs/stream", 404, "job_not_found"),
        ("/api/v1/jobs/unknown/artifacts", 404, "job_not_found"),
        ("/api/v1/jobs/unknown/artifacts/a", 404, "job_not_found"),
        ("/api/v1/jobs/job-", 400, "job_ambiguous"),
        ("/api/v1/jobs/no", 400, "invalid_request"),
        ("/api/v1/jobs/%FF%FF%FF%FF", 400, "invalid_request"),
        ("/api/v1/jobs?limit=0", 400, "invalid_request"),
        ("/api/v1/jobs?limit=1001", 400, "invalid_request"),
        ("/api/v1/jobs?limit=many", 400, "invalid_request"),
        ("/api/v1/jobs?limit=-1", 400, "invalid_request"),
        ("/api/v1/jobs?limti=1", 400, "invalid_request"),
        ("/api/v1/jobs?before=unknown", 404, "job_not_found"),
        ("/api/v1/jobs/job-0001/logs", 404, "logs_not_available"),
        ("/api/v1/jobs/job-0001/logs/stream", 404, "logs_not_available"),
        ("/api/v1/jobs/other-4/logs", 404, "logs_not_available"),
        ("/api/v1/jobs/job-0003/logs", 410, "logs_deleted"),
        ("/api/v1/jobs/job-0003/logs/stream", 410, "logs_deleted"),
        ("/jobs/unknown/output", 404, "job_not_found"),
        ("/jobs/job-0001/output", 404, "logs_not_available"),
        ("/jobs/job-0003/output", 410, "logs_deleted"),
        ("/jobs/job-0002/output?tail=10001", 400, "invalid_request"),
        ("/jobs/job-0002/output?tail=-1", 400, "invalid_request"),
        ("/api/v1/jobs/job-0001/logs/search?q=x", 404, "logs_not_available"),
        ("/api/v1/jobs/job-0003/logs/search?q=x", 410, "logs_deleted"),
        ("/api/v1/jobs/job-0002/logs/search", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/search?q=", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/search?q=(", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/search?q=x&limit=10001", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/search?q=x&context=1001", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/search?q=x&offset=5", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/search?q=x&offset=6&line=2", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/search?q=x&step=%5B", 400, "invalid_request"),
        ("/api/v1/jobs/job-0003/logs/entries", 410, "logs_deleted"),
        ("/api/v1/jobs/job-0002/logs/entries?limit=0", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/entries?limit=10001", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/entries?offset=6", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/entries?ansi=html", 400, "invalid_request"),
        ("/api/v1/jobs/job-0003/logs/groups", 410, "logs_deleted"),
        ("/api/v1/jobs/job-0003/artifacts/a", 410, "artifacts_deleted"),
        ("/api/v1/jobs/job-0002/logs/stream?offset=6", 416, "range_not_satisfiable"),
        ("/api/v1/jobs/job-0002/logs/stream?offset=-1", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/stream?offset=0&tail=1", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/stream?tail=100001", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/logs/stream?format=xml", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/artifacts/b", 404, "artifact_not_found"),
        ("/api/v1/jobs/job-0002/artifacts/b.sig", 404, "artifact_not_found"),
        ("/api/v1/jobs/job-0002/artifacts/.sig", 404, "artifact_not_found"),
        ("/api/v1/jobs/job-0002/artifacts/half", 503, "artifact_not_ready"),
        ("/api/v1/jobs/job-0002/artifacts/half.sig", 503, "artifact_not_ready"),
        ("/api/v1/jobs/job-0002/artifacts/half?part=signature", 503, "artifact_not_ready"),
        ("/api/v1/jobs/job-0002/artifacts/a?part=half", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/artifacts/..%2Fa", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/artifacts/.danube/provenance.json", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/artifacts/a%0D%0Ab", 400, "invalid_request"),
        ("/api/v1/jobs/job-0002/provenance", 404, "provenance_not_found"),
    ] {
        assert_eq!(fixture.get(path).await.problem(), (status, code.into()), "{path}");
    }
    let soon = fixture.get("/api/v1/jobs/job-0001/logs").await;
    assert_eq!(soon.header("retry-after"), Some("1"), "an unfinished job's log may come");
    assert_eq!(fixture.get("/api/v1/jobs/other-4/logs").await.header("retry-after"), None);
}

#[tokio::test]
async fn a_request_for_another_host_is_misdirected() {
    let fixture = Fixture::new();
    for path in ["/health", "/metrics", "/api/v1/jobs", "/nothing"] {
        let foreign = fixture.ask(Method::GET, path, &[("host", "evil.example")]).await;
        assert_eq!(foreign.problem(), (421, "foreign_host".into()), "{path}");
    }
    let two = [("host", "localhost"), ("host", "evil.example")];
    assert_eq!(fixture.ask(Method::GET, "/health", &two).await.problem().0, 400);
    let none = Request::builder().uri("/health").body(Body::empty()).unwrap();
    assert_eq!(answer(fixture.router(), none).await.problem().0, 400);
    // An absolute URI names the host too, and both must be this machine.
    let absolute = "http://evil.example/health";
    let both = fixture.ask(Method::GET, absolute, &[("host", "localhost")]).await;
    assert_eq!(both.problem(), (421, "foreign_host".into()));
    let ours = fixture.ask(Method::GET, "http://[::1]:80/health", &[("host", "localhost")]).await;
    assert_eq!(ours.status, 200);
}

#[tokio::test]
async fn pages_name_every_job_once_newest_first() {
    let fixture = Fixture::new();
    for n in 1..=5 {
        fixture.job(&format!("job-{n}")).await;
    }
    let (mut path, mut seen, mut pages) = ("/api/v1/jobs?limit=2".to_owned(), Vec::new(), 0);
    loop {
        let page = fixture.get(&path).await;
        pages += 1;
        for job in page.json()["jobs"].as_array().unwrap() {
            seen.push(job["id"].as_str().unwrap().to_owned());
        }
        let Some(link) = page.header("link") else { break };
        let (next, relation) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(relation, "; rel=\"next\"");
        path = next.to_owned();
    }
    assert_eq!((seen.join(" ").as_str(), pages), ("job-5 job-4 job-3 job-2 job-1", 3));
}

#[tokio::test]
async fn a_job_is_told_with_everything_that_is_recorded() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    fixture.end(&id, JobState::Lost).await;
    let job = fixture.get("/api/v1/jobs/job-0001").await.json();
    assert_eq!(job["id"], "job-0001");
    assert_eq!((&job["state"], &job["lost_reason"]), (&"lost".into(), &"owner_died".into()));
    assert_eq!(job["created_at"], "2023-11-14T22:13:21Z");
    // What nothing is known of is said to be null, so that every job has the same members.
    let record = serde_json::to_value(fixture.jobs.get(&id).await.unwrap()).unwrap();
    let members = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(members(&job), members(&record));
    let listed = fixture.get("/api/v1/jobs").await.json();
    assert_eq!(listed["jobs"], serde_json::json!([job]));
}

#[test]
fn the_series_of_the_metrics_do_not_grow_with_what_is_asked_for() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scrape = || {
        runtime.block_on(async {
            let text = fixture.get("/metrics").await;
            assert_eq!(
                text.header("content-type"),
                Some("text/plain; version=0.0.4; charset=utf-8")
            );
            String::from_utf8(text.body.to_vec()).unwrap()
        })
    };
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    metrics::with_local_recorder(&fixture.recorder, || {
        let router = fixture.router();
        let ask = |path: String, host: &str| {
            let request = Request::builder().uri(path).header("host", host);
            let request = request.body(Body::empty()).unwrap();
            runtime.block_on(answer(router.clone(), request)).status
        };
        let round = |n: usize| {
            assert_eq!(ask(format!("/no\"\\{n}").replace(['"', '\\'], "%22"), "localhost"), 404);
            assert_eq!(ask(format!("/api/v1/jobs/unknown-{n}"), "localhost"), 404);
            assert_eq!(ask(format!("/api/v1/jobs/unknown/artifacts/{n}/x"), "localhost"), 404);
            assert_eq!(ask(format!("/api/v1/jobs?before=unknown{n}"), "localhost"), 404);
            assert_eq!(ask("/api/v1/jobs".into(), &format!("evil{n}.example")), 421);
        };
        round(0);
        let _ = scrape();
        let before = scrape();
        // More than what the histogram keeps before it is drained.
        (1..=300).for_each(round);
        let after = scrape();
        assert_eq!(series(&before), series(&after), "{before}\n{after}");
        let count = "danube_http_requests_total{route=\"/api/v1/jobs/{id}\",status=\"404\"} 301";
        assert!(after.contains(count), "{after}");
        assert!(
            after.contains("danube_http_requests_total{route=\"unmatched\",status=\"404\"} 301")
        );
        assert!(after.contains("danube_http_request_duration_seconds_count{"), "{after}");
        assert!(!after.contains("evil") && !after.contains("unknown"), "{after}");
    });
}

#[test]
fn provenance_is_counted_by_what_is_recorded() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&fixture.recorder, || {
        let says = |ok: usize, error: usize| {
            let text = runtime.block_on(fixture.get("/metrics")).body;
            let text = String::from_utf8(text.to_vec()).unwrap();
            for (status, count) in [("ok", ok), ("error", error)] {
                let line =
                    format!("danube_provenance_generated_total{{status=\"{status}\"}} {count}\n");
                assert!(text.contains(&line), "{line} is not in {text}");
            }
        };
        says(0, 0);
        runtime.block_on(async {
            fixture.finished("one", b"").await;
            fixture.job("runs").await;
            for state in [JobState::Failed, JobState::Lost, JobState::Cancelled] {
                let id = fixture.job(state.as_str()).await;
                fixture.end(&id, state).await;
            }
        });
        says(1, 0);
        runtime.block_on(async {
            fixture.finished("two", b"").await;
            let id = fixture.job("unsigned").await;
            let lost = Transition::lost(LostReason::Sign, fixture.clock.now());
            fixture.jobs.transition(&id, &lost).await.unwrap();
        });
        says(2, 1);
        says(2, 1);
    });
}

#[tokio::test]
async fn a_handler_that_panics_fails_one_request() {
    let fixture = Fixture::new();
    let api = super::super::Api {
        state: fixture.state(),
        streams: Arc::new(Semaphore::new(1)),
        scans: Arc::new(Semaphore::new(1)),
        puts: Arc::new(Semaphore::new(1)),
        answered: Arc::default(),
    };
    let router = Router::new()
        .route("/panics", get(async || -> &'static str { panic!("a bug\r\nof ours") }))
        .layer(from_fn_with_state(api, super::super::metrics::count));
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let request = Request::builder().uri("/panics").body(Body::empty()).unwrap();
    let answer = answer(router, request).await;
    panic::set_hook(quiet);
    assert_eq!(answer.problem(), (500, "internal".into()));
    assert!(!answer.json().to_string().contains("a bug"), "{answer:?}");
}
