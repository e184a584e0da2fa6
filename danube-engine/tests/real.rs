//! Whole jobs with real processes, real files and a real database.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use danube_artifacts::verify::{VerifyOptions, verify_file};
use danube_artifacts::{Artifacts, FsBlobs, PublicKeys, SigningKey};
use danube_core::{ByteRange, Clock, JobId, JobState, LostReason, SecretBytes, SystemClock};
use danube_engine::{
    JobFile, JobRunner, JobSpec, Outcome, Parts, RunnerOptions, StepCommand, StepSpec, recover,
};
use danube_exec::LocalProcesses;
use danube_logs::{FsLogs, LogOptions, LogPhase, LogStore};
use danube_store::{JobStore, Store, StoreOptions};
use tokio_util::sync::CancellationToken;

/// A data directory and a work directory.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
    parts: Parts,
    keys: PublicKeys,
    options: RunnerOptions,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let store = Store::open(&data.join("danube.db"), StoreOptions::default()).await.unwrap();
        let key = SigningKey::generate().unwrap();
        let keys = key.public_keys();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let blobs = Arc::new(FsBlobs::new(data.join("artifacts")));
        let records = Arc::new(store.clone());
        let parts = Parts {
            executor: Arc::new(LocalProcesses::new()),
            logs: Arc::new(FsLogs::new(data.join("logs"))),
            artifacts: Artifacts::new(blobs, records.clone(), Arc::new(key), clock.clone()),
            jobs: records,
            clock,
        };
        let options = RunnerOptions::default().with_grace(Duration::from_secs(2));
        Self { dir, store, parts, keys, options }
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn spec(&self, scripts: &[&str]) -> JobSpec {
        let step = |(i, script): (usize, &&str)| {
            let name = format!("step {i}").parse().unwrap();
            StepSpec::new(name, StepCommand::Shell((*script).to_owned()))
        };
        let steps = scripts.iter().enumerate().map(step).collect();
        let id = JobId::mint(self.parts.clock.now());
        let mut spec = JobSpec::new(id, "a job", steps, self.work());
        spec.base_env.push(("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()));
        spec.exclude.push(self.data());
        spec
    }

    async fn run(&self, spec: JobSpec) -> Outcome {
        self.run_until(spec, CancellationToken::new()).await
    }

    async fn run_until(&self, spec: JobSpec, cancel: CancellationToken) -> Outcome {
        let runner = JobRunner::new(self.parts.clone(), self.options.clone());
        let limit = Duration::from_secs(60);
        let run = runner.run(spec, cancel, &|_, _, _| {});
        tokio::time::timeout(limit, run).await.expect("it ends").unwrap()
    }

    fn log(&self, job: &JobId) -> String {
        let path = self.data().join("logs").join(format!("{job}.log"));
        String::from_utf8(std::fs::read(path).unwrap_or_default()).unwrap()
    }

    async fn wait_for(&self, job: &JobId, text: &str) {
        for _ in 0..6000 {
            if self.log(job).contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{text:?} never came: {}", self.log(job));
    }
}

/// Every file below a directory whose bytes hold `needle`.
fn holding(dir: &Path, needle: &[u8], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            holding(&path, needle, found);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_file_is_run_and_what_it_made_is_verified() {
    let place = Place::new().await;
    let file = JobFile::parse(
        "name: build\n\
         env: {GREETING: hello}\n\
         steps:\n\
         - name: make\n  run: |\n    mkdir out\n    printf '%s' \"$GREETING\" > out/greeting\n    echo made >&2\n\
         - name: show\n  run: cat out/greeting; echo \" $DANUBE_STEP\"; echo \"$WHO\"\n  env: {WHO: me}\n\
         artifacts: ['out/**', 'missing']\n",
    )
    .unwrap();
    let id = JobId::mint(place.parts.clock.now());
    let mut spec = file.into_spec(id.clone(), place.work());
    spec.base_env.push(("PATH".into(), "/usr/bin:/bin".into()));
    let outcome = place.run(spec).await;
    assert_eq!((outcome.exit_code(), outcome.job.message.as_deref()), (0, None));
    let log = place.log(&id);
    let contents: Vec<_> = log.lines().map(|line| line.split_once("] ").unwrap().1).collect();
    assert_eq!(
        contents,
        [
            "[make] [stderr] made",
            "[show] [stdout] hello show",
            "[show] [stdout] me",
            "[danube] [danube] no file matches \"missing\"",
        ]
    );
    let artifact = place.data().join("artifacts").join(id.as_str()).join("out/greeting");
    let options = VerifyOptions::new(place.keys.clone()).with_expected_job(id.clone());
    verify_file(&artifact, &options).unwrap();
    let stat = place.parts.logs.stat(&id).await.unwrap();
    assert_eq!((stat.phase, stat.owned), (LogPhase::Sealed, false));
    assert_eq!(stat.len, outcome.job.log_bytes);
    assert_eq!(place.store.get(&id).await.unwrap(), outcome.job);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_a_failure_in_a_shell_and_no_verdict_without_one() {
    let place = Place::new().await;
    let outcome = place.run(place.spec(&["danube-no-such-program"])).await;
    assert_eq!((outcome.job.state, outcome.job.steps[0].exit_code), (JobState::Failed, Some(127)));

    let mut spec = place.spec(&[""]);
    spec.steps[0].command = StepCommand::Argv(vec!["danube-no-such-program".into()]);
    let outcome = place.run(spec).await;
    assert_eq!(outcome.job.lost_reason, Some(LostReason::NotStarted));
    assert_eq!(outcome.exit_code(), 5);

    let mut spec = place.spec(&["true"]);
    spec.work_dir = place.dir.path().join("nowhere");
    let outcome = place.run(spec).await;
    assert_eq!(outcome.job.lost_reason, Some(LostReason::NotStarted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_process_says_its_last_words() {
    let place = Place::new().await;
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let spec = place.spec(&[script]);
    let (id, cancel) = (spec.id.clone(), CancellationToken::new());
    let ask = async {
        place.wait_for(&id, "ready").await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(place.run_until(spec, cancel.clone()), ask);
    assert_eq!(outcome.job.state, JobState::Cancelled);
    assert_eq!(outcome.job.steps[0].exit_code, Some(0));
    assert!(place.log(&id).contains("[stdout] bye\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ignores_sigterm_is_killed_after_the_grace() {
    let place = Place::new().await;
    let mut spec = place.spec(&["trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    spec.steps[0].timeout = Some(Duration::from_millis(500));
    let outcome = place.run(spec).await;
    assert_eq!(outcome.job.state, JobState::TimedOut);
    assert_eq!(outcome.job.steps[0].signal, Some(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_through_its_record_from_elsewhere() {
    let place = Place::new().await;
    let spec = place.spec(&["echo ready; sleep 60"]);
    let id = spec.id.clone();
    let ask = async {
        place.wait_for(&id, "ready").await;
        let path = place.data().join("danube.db");
        let other = Store::open(&path, StoreOptions::default()).await.unwrap();
        other.request_cancel(&id, place.parts.clock.now()).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(place.run(spec), ask);
    assert_eq!((outcome.job.state, outcome.exit_code()), (JobState::Cancelled, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_on_no_disk_however_slowly_it_is_printed() {
    const SECRET: &str = "s3cr3t-hunter2-value";
    let place = Place::new().await;
    let slowly =
        "for c in s3 cr 3t -h un te r2 -v al ue; do printf %s \"$c\"; sleep 0.02; done; echo";
    let script =
        format!("echo $TOKEN; echo $TOKEN >&2; {slowly}; ({slowly}) >&2; echo $TOKEN > kept");
    let mut spec = place.spec(&[&script, &format!("echo {SECRET}; exit 4")]);
    spec.secrets.push(("TOKEN".into(), SecretBytes::from(SECRET)));
    let outcome = place.run(spec).await;
    assert_eq!((outcome.exit_code(), outcome.job.steps[1].exit_code), (1, Some(4)));
    let masked = place.log(&outcome.job.id).matches("***\n").count();
    assert_eq!(masked, 5);
    let mut found = Vec::new();
    holding(&place.data(), SECRET.as_bytes(), &mut found);
    assert!(found.is_empty(), "{found:?}");
    assert!(!format!("{outcome:?}").contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_truncated_and_the_job_still_succeeds() {
    let mut place = Place::new().await;
    place.options =
        RunnerOptions::default().with_log(LogOptions::default().with_max_log_bytes(1024 * 1024));
    let outcome = place.run(place.spec(&["yes | head -c 100000000"])).await;
    assert_eq!(outcome.exit_code(), 0, "{:?}", outcome.job.message);
    assert!(outcome.job.log_truncated);
    let log = place.log(&outcome.job.id);
    assert!(log.contains("[danube] [TRUNCATED - log exceeded 1 MB limit]\n"));
    assert!(log.len() < 1024 * 1024 + 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_run_was_dropped_is_recovered_by_another_store() {
    let place = Place::new().await;
    let spec = place.spec(&["echo ready; sleep 60"]);
    let id = spec.id.clone();
    tokio::select! {
        _ = place.run(spec) => panic!("it sleeps"),
        () = place.wait_for(&id, "ready") => {}
    }
    let jobs: Arc<dyn JobStore> = Arc::new(
        Store::open(&place.data().join("danube.db"), StoreOptions::default()).await.unwrap(),
    );
    let logs: Arc<dyn LogStore> = Arc::new(FsLogs::new(place.data().join("logs")));
    let ended =
        recover(&jobs, &logs, place.parts.artifacts.blobs(), &place.parts.clock).await.unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].lost_reason, Some(LostReason::OwnerDied));
    let log = logs.read(&id, ByteRange::new(0, u64::MAX)).await.unwrap();
    assert!(log.ends_with(b"[danube] [danube] the process that ran this job died\n"));
    assert!(
        recover(&jobs, &logs, place.parts.artifacts.blobs(), &place.parts.clock)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_run_at_once_and_keep_to_themselves() {
    let place = Place::new().await;
    let jobs = (0..8).map(|i| {
        let script = format!("for n in 1 2 3 4 5; do echo job {i} line $n; done; exit {}", i % 2);
        place.run(place.spec(&[&script]))
    });
    let outcomes = futures_util::future::join_all(jobs).await;
    for (i, outcome) in outcomes.iter().enumerate() {
        assert_eq!(usize::from(outcome.exit_code()), i % 2);
        let log = place.log(&outcome.job.id);
        assert_eq!(log.matches(&format!("[stdout] job {i} line ")).count(), 5, "{log}");
    }
}
