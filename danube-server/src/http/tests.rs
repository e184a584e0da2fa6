//! The API over memory backends: in process, and over a socket.

mod events;
mod files;
mod links;
mod routes;
mod server;
mod streams;
mod views;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use bytes::Bytes;
use danube_artifacts::attest::ProvenanceInput;
use danube_artifacts::{
    ArtifactRecord, Artifacts, KeepOptions, LinkKey, Linked, MemoryBlobs, MemoryIndex, SigningKey,
    bytes_stream,
};
use danube_core::{ArtifactName, Clock, JobId, JobState, LostReason, ManualClock, Timestamp};
use danube_logs::{LogState, LogStore, MemoryLogs};
use danube_store::{JobRecord, JobStore, MemoryJobs, Transition};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tower::ServiceExt;

use super::{HttpState, Links};

/// Longer than anything here takes, so that a hang is a failure and not a hang.
const DEADLINE: Duration = Duration::from_secs(20);

/// Everything the API reads from, and the API.
struct Fixture {
    jobs: MemoryJobs,
    logs: MemoryLogs,
    artifacts: Artifacts,
    link_key: LinkKey,
    clock: ManualClock,
    recorder: PrometheusRecorder,
}

impl Fixture {
    fn new() -> Self {
        let clock = ManualClock::new(at(1_700_000_000));
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let signer = Arc::new(SigningKey::generate().unwrap());
        let link_key = LinkKey::generate().unwrap();
        let blobs = Linked::new(
            MemoryBlobs::new(),
            "http://127.0.0.1:8080",
            link_key.clone(),
            Arc::new(clock.clone()),
        );
        let (blobs, index) = (Arc::new(blobs), Arc::new(MemoryIndex::new()));
        Self {
            jobs: MemoryJobs::new(),
            logs: MemoryLogs::new(),
            artifacts: Artifacts::new(blobs, index, signer, shared),
            link_key,
            clock,
            recorder: PrometheusBuilder::new().build_recorder(),
        }
    }

    fn state(&self) -> HttpState {
        HttpState {
            jobs: Arc::new(self.jobs.clone()),
            logs: Arc::new(self.logs.clone()),
            artifacts: self.artifacts.clone(),
            links: Links {
                key: self.link_key.clone(),
                cors_origins: vec![HeaderValue::from_static("https://ci.example")],
                max_bytes: 1000,
                clock: Arc::new(self.clock.clone()),
            },
            metrics: self.recorder.handle(),
        }
    }

    fn router(&self) -> Router {
        super::router(self.state())
    }

    /// A job that runs, made a second after the one before.
    async fn job(&self, name: &str) -> JobId {
        let id: JobId = name.parse().unwrap();
        self.clock.advance(Duration::from_secs(1));
        let now = self.clock.now();
        self.jobs.create(&JobRecord::pending(id.clone(), name, now)).await.unwrap();
        self.jobs.transition(&id, &Transition::new(JobState::Running, now)).await.unwrap();
        id
    }

    async fn end(&self, id: &JobId, state: JobState) {
        let now = self.clock.now();
        let transition = match state {
            JobState::Lost => Transition::lost(LostReason::OwnerDied, now),
            other => Transition::new(other, now),
        };
        self.jobs.transition(id, &transition).await.unwrap();
    }

    /// A log that is open and has these bytes.
    async fn log(&self, id: &JobId, bytes: &[u8]) {
        self.logs.open(id).await.unwrap();
        self.append(id, bytes).await;
    }

    async fn append(&self, id: &JobId, bytes: &[u8]) {
        let at = self.logs.stat(id).await.unwrap().len;
        self.logs.append(id, at, Bytes::copy_from_slice(bytes)).await.unwrap();
    }

    async fn seal(&self, id: &JobId) {
        let state = LogState { sealed_at: Some(self.clock.now()), ..LogState::default() };
        self.logs.seal(id, &state).await.unwrap();
    }

    /// A job that succeeded, with this log.
    async fn finished(&self, name: &str, log: &[u8]) -> JobId {
        let id = self.job(name).await;
        self.log(&id, log).await;
        self.seal(&id).await;
        self.end(&id, JobState::Succeeded).await;
        id
    }

    /// An artifact that is stored and not signed.
    async fn upload(&self, job: &JobId, name: &str, bytes: &[u8]) -> ArtifactRecord {
        let name: ArtifactName = name.parse().unwrap();
        let body = bytes_stream(Bytes::copy_from_slice(bytes));
        self.artifacts.keep(job, &name, body, KeepOptions::default()).await.unwrap()
    }

    async fn keep(&self, job: &JobId, name: &str, bytes: &[u8]) -> ArtifactRecord {
        let record = self.upload(job, name, bytes).await;
        self.artifacts.sign(&record).await.unwrap()
    }

    async fn prove(&self, job: &JobId, artifacts: &[ArtifactRecord]) {
        let builder = "https://danube.example/test";
        let input = ProvenanceInput::new(job.clone(), builder, "0", serde_json::json!({}));
        self.artifacts.prove(&input, artifacts, None).await.unwrap();
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(method, path, headers, Body::empty()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:8080");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(self.router(), request.body(body).unwrap()).await
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The status and the code of a problem.
    #[track_caller]
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["type"], "about:blank");
        assert_eq!(body["title"], self.status.canonical_reason().unwrap());
        assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
        (self.status.as_u16(), body["code"].as_str().unwrap().to_owned())
    }
}

async fn answer(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(DEADLINE, body.collect()).await.expect("the body ends");
    Answer { status: head.status, headers: head.headers, body: body.unwrap().to_bytes() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}
