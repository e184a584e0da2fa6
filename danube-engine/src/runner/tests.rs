//! The life of jobs, told by scripts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use danube_artifacts::attest::{EntryPoint, Source};
use danube_artifacts::{ArtifactState, BlobKey};
use danube_core::{ErrorClass, SecretBytes};
use danube_exec::{
    Command, ExecControl, ExecEvent, ExecHandle, ExecSession, Position, Script, SessionSource,
    Signal, SignalTarget,
};
use danube_logs::{LogPhase, MemoryLogs};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fixture::{House, job};

fn quiet() -> Progress<'static> {
    &|_, _, _| {}
}

/// Polls until the condition holds; time is paused, so this costs none.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..10_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to hold");
}

#[tokio::test(start_paused = true)]
async fn a_job_ends_with_the_verdict_of_its_steps() {
    let ok = || Script::new().stdout("fine\n");
    type Case = (&'static str, Vec<Script>, JobState, u8, &'static [&'static str], &'static str);
    let cases: Vec<Case> = vec![
        ("all pass", vec![ok(), ok()], JobState::Succeeded, 0, &["succeeded", "succeeded"], ""),
        (
            "the first fails",
            vec![ok().exit(3)],
            JobState::Failed,
            1,
            &["failed", "failed"],
            "step \"one\" failed with exit code 3",
        ),
        (
            "the second fails",
            vec![ok(), ok().exit(255)],
            JobState::Failed,
            1,
            &["succeeded", "failed"],
            "step \"two\" failed with exit code 255",
        ),
        (
            "not started",
            vec![Script::new().not_started()],
            JobState::Lost,
            5,
            &["lost", "lost"],
            "step \"one\" could not be started: entity not found",
        ),
        (
            "lost",
            vec![ok().lose()],
            JobState::Lost,
            5,
            &["lost", "lost"],
            "step \"one\": lost the command",
        ),
    ];
    for (desc, scripts, state, exit_code, steps, message) in cases {
        let house = House::new(scripts);
        let outcome = house.run(house.spec(&["one", "two"])).await;
        let job = &outcome.job;
        assert_eq!((job.state, outcome.exit_code()), (state, exit_code), "{desc}");
        let states: Vec<_> = job.steps.iter().map(|step| step.state.as_str()).collect();
        assert_eq!(states, steps, "{desc}");
        let said = job.message.clone().unwrap_or_default();
        assert!(said.starts_with(message), "{desc}: {said}");
        let stat = house.logs.stat(&job.id).await.unwrap();
        assert_eq!(stat.phase, LogPhase::Sealed, "{desc}");
        assert_eq!(stat.len, job.log_bytes, "{desc}");
        assert!(house.log().await.contains(message), "{desc}");
        assert!(job.finished_at.is_some() && job.started_at.is_some(), "{desc}");
        assert_eq!(house.jobs.get(&job.id).await.unwrap(), *job, "{desc}");
        let reason = job.lost_reason.map(|reason| reason.as_str()).unwrap_or_default();
        let expected = match desc {
            "not started" => "not_started",
            "lost" => "connection",
            _ => "",
        };
        assert_eq!(reason, expected, "{desc}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_step_writes_stands_in_the_log_in_its_range() {
    let script = Script::new().stdout("a\nb").stderr("x\n").stdout("c\n");
    let house = House::new([script, Script::new().stdout("d\n").exit(7)]);
    let outcome = house.run(house.spec(&["one", "two"])).await;
    let at = "[2024-01-06T12:00:00.000Z]";
    let one = format!("{at} [one] [stdout] a\n{at} [one] [stderr] x\n{at} [one] [stdout] bc\n");
    let two = format!("{at} [two] [stdout] d\n");
    let last = format!("{at} [danube] [danube] step \"two\" failed with exit code 7\n");
    let log = house.log().await;
    assert_eq!(log, format!("{one}{two}{last}"));
    let [first, second] = &outcome.job.steps[..] else { panic!("two steps") };
    let (end_one, end_two) = (one.len() as u64, (one.len() + two.len()) as u64);
    assert_eq!(first.log_range, Some(danube_core::ByteRange::new(0, end_one)));
    assert_eq!(second.log_range, Some(danube_core::ByteRange::new(end_one, end_two)));
    assert_eq!((first.exit_code, second.exit_code), (Some(0), Some(7)));
    let digest: [u8; 32] = Sha256::digest(&log).into();
    assert_eq!(outcome.log_digest, Some(Sha256Digest::from_bytes(digest)));
}

#[tokio::test(start_paused = true)]
async fn a_step_gets_its_command_and_environment() {
    let house = House::new([Script::new()]);
    let mut spec = house.spec(&["one"]);
    spec.secrets.push(("TOKEN".into(), "hunter2-hunter2".into()));
    house.run(spec).await;
    let started = house.scripted.started();
    let names: Vec<_> = started[0].env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["DANUBE_JOB_ID", "DANUBE_STEP", "TOKEN"]);
    assert_eq!(started[0].current_dir.as_deref(), Some(house.work_dir()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_step_has_its_open_line_shown_after_a_second() {
    let gate = Arc::new(Notify::new());
    let house = House::new([Script::new().stdout("password: ").wait_for(gate.clone())]);
    let look = async {
        until(async || house.log().await.ends_with("[stdout] password: \n")).await;
        gate.notify_one();
    };
    let (outcome, ()) = tokio::join!(house.run(house.spec(&["one"])), look);
    assert_eq!(outcome.exit_code(), 0);
}

/// Whatever is right at the end of a job that was ended.
async fn assert_ended(house: &House, outcome: &Outcome, state: JobState, signals: &[Signal]) {
    assert_eq!(outcome.job.state, state);
    assert_eq!(outcome.job.steps[0].state, state);
    assert_eq!(house.scripted.signals(), signals);
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Sealed);
    assert!(house.log().await.contains(outcome.job.message.as_deref().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_is_ended_gently_and_then_not() {
    let patient = || Script::new().stdout("hello\n").until_signalled();
    for (script, signals, took) in [
        (patient(), &[Signal::Terminate][..], 0),
        (patient().deaf(), &[Signal::Terminate, Signal::Kill][..], 10),
    ] {
        let house = House::new([script]);
        let (cancel, runner) = (CancellationToken::new(), house.runner());
        let (running, begin) = (cancel.clone(), tokio::time::Instant::now());
        let run = runner.run(house.spec(&["one", "two"]), running, quiet());
        let ask = async {
            until(async || house.log().await.contains("hello")).await;
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(run, ask);
        let outcome = outcome.unwrap();
        assert_eq!(begin.elapsed().as_secs(), took);
        assert_ended(&house, &outcome, JobState::Cancelled, signals).await;
        assert_eq!(outcome.exit_code(), 3);
        assert_eq!(outcome.job.message.as_deref(), Some("cancelled in step \"one\""));
        assert!(outcome.job.steps[0].signal.is_some());
        assert_eq!(outcome.job.steps[1].started_at, None);
        let note = "cancelled: SIGTERM sent, SIGKILL follows after 10s";
        assert!(house.log().await.contains(note));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_request_in_the_record_is_seen() {
    let house = House::new([Script::new().stdout("hello\n").until_signalled()]);
    let ask = async {
        until(async || house.log().await.contains("hello")).await;
        house.jobs.request_cancel(&job(), house.clock.now()).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(house.run(house.spec(&["one"])), ask);
    assert_ended(&house, &outcome, JobState::Cancelled, &[Signal::Terminate]).await;
    assert!(outcome.job.cancel_requested_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_job_cancelled_before_it_begins_starts_nothing() {
    let house = House::new([Script::new()]);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let outcome = house.runner().run(house.spec(&["one"]), cancel, quiet()).await.unwrap();
    assert_eq!(outcome.job.state, JobState::Cancelled);
    assert!(house.scripted.started().is_empty());
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Sealed);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_step_or_job_ends_it_as_timed_out() {
    type Change = fn(&mut JobSpec);
    let cases: [(Change, &str); 2] = [
        (
            |spec| spec.steps[0].timeout = Some(Duration::from_secs(90)),
            "the timeout of step \"one\" of 1m30s is over",
        ),
        (|spec| spec.timeout = Some(Duration::from_secs(3600)), "the job's timeout of 1h is over"),
    ];
    for (change, message) in cases {
        let house = House::new([Script::new().until_signalled().deaf()]);
        let mut spec = house.spec(&["one", "two"]);
        change(&mut spec);
        let timeout = spec.timeout.or(spec.steps[0].timeout).unwrap();
        let begin = tokio::time::Instant::now();
        let outcome = house.run(spec).await;
        assert_eq!(begin.elapsed().as_secs(), timeout.as_secs() + 10);
        let signals = [Signal::Terminate, Signal::Kill];
        assert_ended(&house, &outcome, JobState::TimedOut, &signals).await;
        assert_eq!(outcome.exit_code(), 4);
        assert_eq!(outcome.job.message.as_deref(), Some(message));
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_within_its_timeout_is_not_touched() {
    let house = House::new([Script::new(), Script::new()]);
    let mut spec = house.spec(&["one", "two"]);
    spec.timeout = Some(Duration::from_secs(1));
    spec.steps[0].timeout = Some(Duration::from_secs(1));
    assert_eq!(house.run(spec).await.exit_code(), 0);
    assert!(house.scripted.signals().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_written_ends_the_step_and_the_verdict() {
    let patient = || Script::new().stdout("b\n").stdout("c\n").until_signalled();
    for (script, signals) in [
        (patient(), &[Signal::Terminate][..]),
        (patient().deaf(), &[Signal::Terminate, Signal::Kill][..]),
    ] {
        let house = House::new([Script::new().stdout("a\n"), script]);
        // The second step's words come to a full disk.
        let appends = AtomicUsize::new(0);
        house.diary.fail_when(move |what| {
            what == "log append" && appends.fetch_add(1, Ordering::Relaxed) > 0
        });
        let outcome = house.run(house.spec(&["one", "two", "three"])).await;
        assert_eq!(outcome.job.state, JobState::Lost);
        assert_eq!(outcome.job.lost_reason, Some(LostReason::LogWrite));
        assert_eq!(outcome.exit_code(), 5);
        assert_eq!(house.scripted.signals(), signals);
        let message = outcome.job.message.clone().unwrap();
        assert!(message.starts_with("the log could not be written: "), "{message}");
        let states: Vec<_> = outcome.job.steps.iter().map(|step| step.state).collect();
        assert_eq!(states, [JobState::Succeeded, JobState::Lost, JobState::Lost]);
        assert_eq!(house.log().await.lines().count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_fails_takes_every_verdict_and_the_first_reason_is_kept() {
    let house = House::new([Script::new().exit(2)]);
    house.diary.fail_when(|what| what == "log seal");
    let outcome = house.run(house.spec(&["one"])).await;
    assert_eq!(outcome.job.lost_reason, Some(LostReason::LogWrite));
    let message = outcome.job.message.unwrap();
    let both = "step \"one\" failed with exit code 2; then the log could not be sealed: ";
    assert!(message.starts_with(both), "{message}");
    assert_eq!(outcome.job.steps[0].exit_code, Some(2));
    // The log is let go, so that somebody can seal it when there is room again.
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Abandoned);
}

/// A command that always has something to say and never makes anybody wait, until it is signalled;
/// or until nobody does so for a long time.
#[derive(Debug, Clone, Default)]
struct Flood {
    told: usize,
    signalled: Arc<AtomicBool>,
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a flood")
    }
}

#[async_trait::async_trait]
impl Executor for Flood {
    fn capabilities(&self) -> danube_exec::Capabilities {
        danube_exec::Capabilities::default()
    }

    async fn start(&self, _: Command) -> Result<ExecSession, danube_exec::Error> {
        let control = ExecControl::new(Arc::new(self.clone()));
        Ok(ExecSession::new(Box::new(self.clone()), control))
    }

    async fn attach(
        &self,
        handle: &ExecHandle,
        _: Position,
    ) -> Result<ExecSession, danube_exec::Error> {
        Err(danube_exec::Error::NotFound { handle: handle.0.clone() })
    }
}

#[async_trait::async_trait]
impl SessionSource for Flood {
    async fn next(&mut self) -> Result<Option<ExecEvent>, danube_exec::Error> {
        self.told += 1;
        if self.told > 100_000 || self.signalled.load(Ordering::Relaxed) {
            return Ok(Some(ExecEvent::Exited(danube_exec::ExitStatus::Code(0))));
        }
        Ok(Some(ExecEvent::Output {
            stream: danube_core::OutputStream::Stdout,
            bytes: bytes::Bytes::from_static(b"more\n"),
            position: Position { stdout_bytes: 5 * self.told as u64, stderr_bytes: 0 },
        }))
    }
}

#[async_trait::async_trait]
impl SignalTarget for Flood {
    async fn signal(&self, _: Signal) -> Result<(), danube_exec::Error> {
        self.signalled.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_keeps_nobody_from_ending_the_job() {
    for (log_fails, state) in [(false, JobState::Cancelled), (true, JobState::Lost)] {
        let house = House::new([]);
        let flood = Flood::default();
        let parts = Parts { executor: Arc::new(flood.clone()), ..house.parts() };
        let cancel = CancellationToken::new();
        let asked = cancel.clone();
        // The log comes to its first line: cancel, or a full disk.
        house.diary.fail_when(move |what| {
            if what == "log append" && !log_fails {
                asked.cancel();
            }
            what == "log append" && log_fails
        });
        let runner = JobRunner::new(parts, RunnerOptions::default());
        let outcome = runner.run(house.spec(&["one"]), cancel, quiet()).await.unwrap();
        assert!(flood.signalled.load(Ordering::Relaxed), "{state}: nobody ended it");
        assert_eq!(outcome.job.state, state);
    }
}

/// An executor that hangs: in `start`, or in everything after it.
#[derive(Debug)]
struct Hanging {
    in_start: bool,
}

impl fmt::Display for Hanging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hanging commands")
    }
}

#[async_trait::async_trait]
impl Executor for Hanging {
    fn capabilities(&self) -> danube_exec::Capabilities {
        danube_exec::Capabilities::default()
    }

    async fn start(&self, _: Command) -> Result<ExecSession, danube_exec::Error> {
        if self.in_start {
            pending::<()>().await;
        }
        Ok(ExecSession::new(Box::new(Nothing), ExecControl::new(Arc::new(Nothing))))
    }

    async fn attach(
        &self,
        handle: &ExecHandle,
        _: Position,
    ) -> Result<ExecSession, danube_exec::Error> {
        Err(danube_exec::Error::NotFound { handle: handle.0.clone() })
    }
}

struct Nothing;

#[async_trait::async_trait]
impl SessionSource for Nothing {
    async fn next(&mut self) -> Result<Option<ExecEvent>, danube_exec::Error> {
        pending().await
    }
}

#[async_trait::async_trait]
impl SignalTarget for Nothing {
    async fn signal(&self, _: Signal) -> Result<(), danube_exec::Error> {
        pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_ends_in_bounded_time_whatever_hangs() {
    for (in_start, state, most) in [(true, JobState::Cancelled, 2), (false, JobState::Lost, 45)] {
        let house = House::new([]);
        let parts = Parts { executor: Arc::new(Hanging { in_start }), ..house.parts() };
        let cancel = CancellationToken::new();
        let begin = tokio::time::Instant::now();
        let runner = JobRunner::new(parts, RunnerOptions::default());
        let run = runner.run(house.spec(&["one"]), cancel.clone(), quiet());
        let ask = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(run, ask);
        let job = outcome.unwrap().job;
        assert_eq!(job.state, state);
        assert!(begin.elapsed() <= Duration::from_secs(most), "{:?}", begin.elapsed());
        if state == JobState::Lost {
            let said = "step \"one\" was still there 30s after SIGKILL";
            assert_eq!(job.message.as_deref(), Some(said));
            assert_eq!(job.lost_reason, Some(LostReason::Connection));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_created_is_told_in_the_record() {
    let house = House::new([Script::new()]);
    house.diary.fail_when(|what| what == "log open");
    let outcome = house.run(house.spec(&["one"])).await;
    assert_eq!(outcome.job.lost_reason, Some(LostReason::LogWrite));
    assert!(house.scripted.started().is_empty());
    assert_eq!(outcome.log_digest, None);
}

#[tokio::test(start_paused = true)]
async fn the_end_has_an_order_and_the_verdict_comes_last() {
    let house = House::new([Script::new().stdout("a\n")]);
    std::fs::create_dir(house.work_dir().join("out")).unwrap();
    std::fs::write(house.work_dir().join("out/b"), "bb").unwrap();
    std::fs::write(house.work_dir().join("out/a"), "a").unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["out/*".into(), "nothing".into()];
    let outcome = house.run(spec).await;
    assert_eq!(
        house.diary.written(),
        [
            "job create",
            "log open",
            "job transition starting",
            "job transition running",
            "job step one running",
            "log append",
            "log sync",
            "job step one succeeded",
            "log append",
            "blob put job-1/out/a",
            "blob put job-1/out/b",
            "log seal",
            "blob put job-1/.danube/signatures/out/a.sig",
            "blob put job-1/.danube/signatures/out/b.sig",
            "blob put job-1/.danube/provenance.dsse.json",
            "blob put job-1/.danube/provenance.json",
            "blob put job-1/.danube/metadata.json",
            "job transition succeeded",
            "log release",
        ]
    );
    assert!(house.log().await.ends_with("[danube] [danube] no file matches \"nothing\"\n"));
    let names: Vec<_> = outcome.artifacts.iter().map(|a| (a.name.as_str(), a.state)).collect();
    assert_eq!(names, [("out/a", ArtifactState::Active), ("out/b", ArtifactState::Active)]);
    assert_eq!(house.artifacts().list(&job()).await.unwrap(), outcome.artifacts);

    let provenance = house.blob(&BlobKey::provenance(&job())).await;
    let statement = danube_artifacts::attest::Statement::parse(&provenance).unwrap();
    let subjects: Vec<_> = statement.subjects().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(subjects, ["out/a", "out/b", "logs/job-1.log"]);
    assert_eq!(statement.subjects()[2].digest.sha256, outcome.log_digest.unwrap());
    let text = String::from_utf8(provenance).unwrap();
    for part in ["\"command\": \"one\"", "\"out/*\"", "a job"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_sealed_log_is_copied_before_the_verdict_and_only_a_job_that_passed_is_lost_without_it()
{
    type Fault = Option<fn(&str) -> bool>;
    let fails: Fault = Some(|what| what.ends_with("job.log"));
    for (desc, script, fault, state, copied) in [
        ("passed", Script::new().stdout("a\n"), None, JobState::Succeeded, true),
        ("failed", Script::new().stdout("a\n").exit(1), None, JobState::Failed, true),
        ("passed, no copy", Script::new().stdout("a\n"), fails, JobState::Lost, false),
        ("failed, no copy", Script::new().stdout("a\n").exit(1), fails, JobState::Failed, false),
    ] {
        let mut house = House::new([script]);
        house.options = RunnerOptions::default().with_log_kept_with_artifacts();
        if let Some(fault) = fault {
            house.diary.fail_when(fault);
        }
        std::fs::write(house.work_dir().join("a"), "a").unwrap();
        let mut spec = house.spec(&["one"]);
        spec.artifacts.paths = vec!["a".into()];
        let outcome = house.run(spec).await;
        assert_eq!(outcome.job.state, state, "{desc}");
        let written = house.diary.written();
        let at = |what: &str| written.iter().position(|w| w.starts_with(what));
        let copy = at("blob put job-1/.danube/job.log");
        assert!(at("log seal") < copy && copy < at(&format!("job transition {state}")), "{desc}");
        if copied {
            let copy = house.blob(&BlobKey::log(&job())).await;
            assert_eq!(String::from_utf8(copy).unwrap(), house.log().await, "{desc}");
        } else {
            assert_eq!(house.artifacts().list(&job()).await.unwrap(), [], "{desc}");
            assert!(house.blobs.list(&job()).await.unwrap().is_empty(), "{desc}");
        }
        if state == JobState::Lost {
            assert_eq!(outcome.job.lost_reason, Some(LostReason::Sign), "{desc}");
            let message = outcome.job.message.unwrap();
            assert!(message.contains("could not be kept with the artifacts"), "{message}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_job_that_succeeds_keeps_anything() {
    type Fault = fn(&str) -> bool;
    let cases: [(&str, Fault, Option<LostReason>); 5] = [
        ("a copy fails", |what| what == "blob put job-1/b", Some(LostReason::Collect)),
        ("the seal fails", |what| what == "log seal", Some(LostReason::LogWrite)),
        ("a signature fails", |what| what.ends_with("b.sig"), Some(LostReason::Sign)),
        ("the proof fails", |what| what.ends_with("provenance.json"), Some(LostReason::Sign)),
        ("a warning fails", |what| what == "log append", Some(LostReason::LogWrite)),
    ];
    for (desc, fault, reason) in cases {
        let house = House::new([Script::new()]);
        std::fs::write(house.work_dir().join("a"), "a").unwrap();
        std::fs::write(house.work_dir().join("b"), "b").unwrap();
        let mut spec = house.spec(&["one"]);
        spec.artifacts.paths = vec!["*".into(), "nothing".into()];
        house.diary.fail_when(move |what| fault(what) && !what.starts_with("blob delete"));
        let outcome = house.run(spec).await;
        assert_eq!(outcome.job.state, JobState::Lost, "{desc}");
        assert_eq!(outcome.job.lost_reason, reason, "{desc}");
        assert_eq!(outcome.job.steps[0].state, JobState::Succeeded, "{desc}");
        assert!(outcome.artifacts.is_empty(), "{desc}");
        assert!(house.artifacts().list(&job()).await.unwrap().is_empty(), "{desc}");
        let left: Vec<_> = house.blobs.list(&job()).await.unwrap();
        assert!(left.is_empty(), "{desc}: {left:?}");
        assert!(outcome.job.message.unwrap().ends_with("no storage space"), "{desc}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_job_that_lost_its_artifacts_the_copy_of_the_log_stays() {
    type Fault = fn(&str) -> bool;
    let cases: [(&str, Fault); 3] = [
        ("a copy fails", |what| what == "blob put job-1/b"),
        ("a signature fails", |what| what.ends_with("b.sig")),
        ("the proof fails", |what| what.ends_with("provenance.json")),
    ];
    for (desc, fault) in cases {
        let mut house = House::new([Script::new().stdout("x\n")]);
        house.options = RunnerOptions::default().with_log_kept_with_artifacts();
        std::fs::write(house.work_dir().join("a"), "a").unwrap();
        std::fs::write(house.work_dir().join("b"), "b").unwrap();
        let mut spec = house.spec(&["one"]);
        spec.artifacts.paths = vec!["*".into()];
        house.diary.fail_when(move |what| fault(what) && !what.starts_with("blob delete"));
        let outcome = house.run(spec).await;
        assert_eq!(outcome.job.state, JobState::Lost, "{desc}");
        let left = house.blobs.list(&job()).await.unwrap();
        assert_eq!(left, [BlobKey::log(&job())], "{desc}");
        let copy = house.blob(&left[0]).await;
        assert_eq!(String::from_utf8(copy).unwrap(), house.log().await, "{desc}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_collects_nothing_and_proves_nothing() {
    let house = House::new([Script::new().exit(1)]);
    std::fs::write(house.work_dir().join("a"), "a").unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    assert_eq!(house.run(spec).await.exit_code(), 1);
    assert!(house.blobs.list(&job()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn too_many_files_are_no_success() {
    let mut house = House::new([Script::new()]);
    house.options = RunnerOptions::default().with_max_artifacts(1);
    std::fs::write(house.work_dir().join("a"), "a").unwrap();
    std::fs::write(house.work_dir().join("b"), "b").unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    let outcome = house.run(spec).await;
    assert_eq!(outcome.job.lost_reason, Some(LostReason::Collect));
    assert!(outcome.job.message.unwrap().contains("more than 1 files match"));
}

#[tokio::test(start_paused = true)]
async fn files_left_out_are_named_but_not_without_end() {
    let mut house = House::new([Script::new()]);
    house.options = RunnerOptions::default().with_max_artifact_bytes(3);
    for i in 0..30 {
        std::fs::write(house.work_dir().join(format!("big-{i:02}")), "four").unwrap();
    }
    std::fs::write(house.work_dir().join("fits"), "abc").unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    let outcome = house.run(spec).await;
    assert_eq!(outcome.exit_code(), 0);
    let names: Vec<_> = outcome.artifacts.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["fits"]);
    let log = house.log().await;
    assert_eq!(log.lines().count(), 21);
    assert!(log.contains("[danube] not kept as an artifact: big-00 "), "{log}");
    assert!(log.ends_with("[danube] not kept as artifacts: 10 more\n"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_job_can_be_cancelled_while_it_keeps_files() {
    let house = House::new([Script::new()]);
    std::fs::write(house.work_dir().join("a"), "a").unwrap();
    std::fs::write(house.work_dir().join("b"), "b").unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    let cancel = CancellationToken::new();
    let runner = house.runner();
    // The first file is copied when the cancel comes.
    let ask = |_: &ArtifactName, _: u64, _: u64| cancel.cancel();
    let outcome = runner.run(spec, cancel.clone(), &ask).await.unwrap();
    assert_eq!(outcome.job.state, JobState::Cancelled);
    assert!(house.blobs.list(&job()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_vanishes_before_its_turn_is_a_warning() {
    let house = House::new([Script::new()]);
    for name in ["a", "b", "c", "d"] {
        std::fs::write(house.work_dir().join(name), name).unwrap();
    }
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    // All were found when the first of them is copied.
    let look = |_: &ArtifactName, _: u64, _: u64| {
        let _ = std::fs::remove_file(house.work_dir().join("b"));
        let _ = std::fs::remove_file(house.work_dir().join("c"));
        let _ = std::os::unix::fs::symlink("/etc/hostname", house.work_dir().join("c"));
    };
    let outcome = house.runner().run(spec, CancellationToken::new(), &look).await.unwrap();
    assert_eq!(outcome.exit_code(), 0);
    let names: Vec<_> = outcome.artifacts.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["a", "d"]);
    let log = house.log().await;
    assert!(log.contains("[danube] not kept as an artifact: b vanished\n"), "{log}");
    assert!(log.contains("[danube] not kept as an artifact: c vanished\n"), "{log}");
}

#[tokio::test]
async fn files_that_vanish_are_named_but_not_without_end() {
    let house = House::new([Script::new()]);
    let names: Vec<_> = (0..30).map(|at| format!("{at:02}")).collect();
    for name in &names {
        std::fs::write(house.work_dir().join(name), "x").unwrap();
    }
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    let look = |_: &ArtifactName, _: u64, _: u64| {
        names[1..].iter().for_each(|name| drop(std::fs::remove_file(house.work_dir().join(name))));
    };
    let outcome = house.runner().run(spec, CancellationToken::new(), &look).await.unwrap();
    assert_eq!((outcome.exit_code(), outcome.artifacts.len()), (0, 1));
    let log = house.log().await;
    assert_eq!(log.matches(" vanished\n").count(), 21, "{log}");
    assert!(log.ends_with("[danube] not kept as artifacts: 9 more vanished\n"), "{log}");
}

#[tokio::test]
async fn many_files_are_synced_together_and_a_sync_that_fails_is_no_success() {
    for fails in [false, true] {
        let house = House::new([Script::new()]);
        for at in 0..30 {
            std::fs::write(house.work_dir().join(at.to_string()), "x").unwrap();
        }
        house.diary.fail_when(move |what| fails && what == "blob sync");
        let mut spec = house.spec(&["one"]);
        spec.artifacts.paths = vec!["*".into()];
        let outcome = house.run(spec).await;
        assert_eq!(outcome.exit_code(), if fails { 5 } else { 0 });
        let written = house.diary.written();
        // Once for the files, and once for their signatures.
        let syncs = written.iter().filter(|what| what.starts_with("blob sync")).count();
        assert_eq!(syncs, if fails { 1 } else { 2 }, "{written:?}");
        let kept = if fails { 0 } else { 30 };
        assert_eq!(outcome.artifacts.len(), kept);
    }
}

#[tokio::test]
async fn progress_is_told_for_every_file_up_to_its_last_byte() {
    let house = House::new([Script::new()]);
    std::fs::write(house.work_dir().join("a"), vec![1; 3_000_000]).unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    let seen = Mutex::new(Vec::new());
    let look = |name: &ArtifactName, copied: u64, total: u64| {
        seen.lock().unwrap().push((name.to_string(), copied, total));
    };
    house.runner().run(spec, CancellationToken::new(), &look).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.last().unwrap(), &("a".to_owned(), 3_000_000, 3_000_000));
    assert!(seen.windows(2).all(|two| two[0].1 <= two[1].1));
}

const SECRET: &str = "hunter2-hunter2";

/// A job with a secret wherever one can be.
fn secretive(house: &House) -> JobSpec {
    std::fs::write(house.work_dir().join(format!("x-{SECRET}")), "content").unwrap();
    std::fs::write(house.work_dir().join("y"), SECRET).unwrap();
    let mut spec = house.spec(&["one", "two"]);
    spec.name = format!("job {SECRET}");
    spec.artifacts.paths = vec!["*".into(), format!("{SECRET}*")];
    spec.steps[0].command = crate::StepCommand::Shell(format!("echo {SECRET}"));
    spec.steps[1].command = crate::StepCommand::Argv(vec!["echo".into(), SECRET.into()]);
    spec.secrets.push(("TOKEN".into(), SecretBytes::from(SECRET)));
    spec.pipeline = Some(format!("pipeline {SECRET}"));
    let source = Source::new(format!("https://{SECRET}@git.example.com/a"), "a".repeat(40));
    spec.source = Some(source.with_branch(format!("branch-{SECRET}")));
    spec.entry_point = Some(EntryPoint::of(format!("{SECRET}.yaml"), b"steps"));
    spec
}

/// Everything that is written down about a job, besides its artifacts.
async fn everything(house: &House, outcome: &Outcome) -> String {
    let mut all = house.log().await;
    all.push_str(&serde_json::to_string(&outcome.job).unwrap());
    all.push_str(&serde_json::to_string(&outcome.artifacts).unwrap());
    all.push_str(&format!("{outcome:?} {:?}", house.diary.written()));
    all
}

#[tokio::test(start_paused = true)]
async fn a_secret_stands_nowhere_however_it_is_printed() {
    let whole = Script::new().stdout(SECRET).stdout("\n").stderr(SECRET).stderr("\n");
    let bytes = || SECRET.bytes().map(|byte| vec![byte]);
    let split = bytes().fold(Script::new(), Script::stdout).stdout(" out\n");
    let split = bytes().fold(split, Script::stderr).stderr(" err\n");
    let house = House::new([whole, split.exit(9)]);
    let outcome = house.run(secretive(&house)).await;
    assert_eq!(outcome.exit_code(), 1);
    let all = everything(&house, &outcome).await;
    for line in ["[stdout] ***\n", "[stderr] ***\n", "[stdout] *** out\n", "[stderr] *** err\n"] {
        assert!(all.contains(line), "{line}: {all}");
    }
    assert!(all.contains("echo ***") && all.contains("job ***"), "{all}");
    assert!(!all.contains("hunter2"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_secret_stands_in_no_proof_and_in_no_artifact_name() {
    let house = House::new([Script::new(), Script::new()]);
    let outcome = house.run(secretive(&house)).await;
    assert_eq!(outcome.exit_code(), 0);
    let names: Vec<_> = outcome.artifacts.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["y"]);
    let mut all = everything(&house, &outcome).await;
    let provenance = house.blob(&BlobKey::provenance(&job())).await;
    all.push_str(&String::from_utf8(provenance).unwrap());
    for masked in ["pipeline ***", "\"https://git.example.com/a\"", "branch-***", "***.yaml"] {
        assert!(all.contains(masked), "{masked}: {all}");
    }
    assert!(all.contains("artifact: x-*** has a secret in its name"), "{all}");
    assert!(!all.contains("hunter2"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_leaves_a_job_that_can_be_recovered() {
    let house = House::new([Script::new().stdout("hello\n").until_signalled()]);
    tokio::select! {
        _ = house.run(house.spec(&["one"])) => panic!("it waits for a signal"),
        () = until(async || house.log().await.contains("hello")) => {}
    }
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Abandoned);
    let ended =
        crate::recover(&house.jobs, &house.logs, &house.blobs, &house.clock()).await.unwrap();
    assert_eq!(ended[0].lost_reason, Some(LostReason::OwnerDied));
    assert_eq!(ended[0].steps[0].state, JobState::Lost);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_job_leaves_no_trace() {
    let house = House::new([]);
    let mut spec = house.spec(&["one"]);
    spec.steps.clear();
    let refused = house.runner().run(spec, CancellationToken::new(), quiet()).await;
    assert_eq!(refused.unwrap_err().class(), ErrorClass::Invalid);
    assert!(house.diary.written().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_id_is_used_once() {
    let house = House::new([Script::new()]);
    house.run(house.spec(&["one"])).await;
    let before = house.jobs.get(&job()).await.unwrap();
    let again = house.runner().run(house.spec(&["one"]), CancellationToken::new(), quiet()).await;
    assert_eq!(again.unwrap_err().class(), ErrorClass::Conflict);
    assert_eq!(house.jobs.get(&job()).await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_log_somebody_else_owns_is_left_to_them() {
    let house = House::new([Script::new()]);
    let other: MemoryLogs = house.memory_logs.other_owner();
    other.open(&job()).await.unwrap();
    let refused = house.runner().run(house.spec(&["one"]), CancellationToken::new(), quiet()).await;
    assert!(matches!(refused, Err(Error::Log { .. })));
    assert_eq!(house.jobs.get(&job()).await.unwrap().state, JobState::Pending);
    assert!(house.scripted.started().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_others_ended_ends_here_too() {
    let house = House::new([Script::new().stdout("hello\n").until_signalled()]);
    let end = async {
        until(async || house.log().await.contains("hello")).await;
        let change = Transition::lost(LostReason::OwnerDied, house.clock.now());
        house.jobs.transition(&job(), &change).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(house.run(house.spec(&["one"])), end);
    assert_eq!(outcome.job.lost_reason, Some(LostReason::OwnerDied));
    assert_eq!(house.scripted.signals(), [Signal::Terminate]);
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Sealed);
}

/// The records of a job that cannot be written, one by one: once, or from then on.
const RECORDS: [&str; 3] =
    ["job transition starting", "job step one running", "job step one succeeded"];

#[tokio::test(start_paused = true)]
async fn a_record_that_could_not_be_written_loses_the_job_and_the_log_says_so() {
    for fault in RECORDS {
        let house = House::new([Script::new()]);
        house.diary.fail_when(move |what| what == fault);
        let outcome = house.run(house.spec(&["one"])).await;
        assert_eq!(outcome.job.lost_reason, Some(LostReason::Record), "{fault}");
        assert_eq!(outcome.job.log_bytes, house.log().await.len() as u64, "{fault}");
        let log = house.log().await;
        assert!(log.contains("[danube] the record of the job could not be written: "), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_written_any_more_are_an_error() {
    for fault in RECORDS {
        let house = House::new([Script::new()]);
        let broken = AtomicBool::new(false);
        house.diary.fail_when(move |what| {
            let breaks = broken.load(Ordering::Relaxed) || what == fault;
            broken.store(breaks, Ordering::Relaxed);
            breaks && what.starts_with("job ")
        });
        let failed =
            house.runner().run(house.spec(&["one"]), CancellationToken::new(), quiet()).await;
        assert_eq!(failed.unwrap_err().class(), ErrorClass::Exhausted, "{fault}");
        assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Sealed, "{fault}");
        assert!(!house.jobs.get(&job()).await.unwrap().state.is_terminal(), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_log_is_no_failure() {
    let script = (0..100).fold(Script::new(), |script, _| script.stdout("x".repeat(999) + "\n"));
    let mut house = House::new([script]);
    house.options.log = LogOptions::default().with_max_log_bytes(10_000);
    let outcome = house.run(house.spec(&["one"])).await;
    assert_eq!(outcome.exit_code(), 0);
    assert!(outcome.job.log_truncated);
    assert!(house.log().await.contains("[one] [danube] [TRUNCATED - log exceeded 0 MB limit]"));
}
