//! A house of memory backends for tests, in which every write can be watched and made to fail.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use danube_artifacts::{
    Access, Artifacts, Blob, BlobCapabilities, BlobKey, BlobStat, BlobStore, ByteStream, Link,
    LinkOptions, MemoryBlobs, MemoryIndex, PutOptions, SigningKey, Stored, Tier,
};
use danube_core::{
    ByteRange, CandidateKind, Clock, JobId, JobState, ManualClock, StepName, Timestamp,
};
use danube_exec::{Script, Scripted};
use danube_logs::{LogStat, LogState, LogStore, LogTail, MemoryLogs};
use danube_store::{JobQuery, JobRecord, JobStore, JobTally, MemoryJobs, StepRecord, Transition};
use tokio_util::sync::CancellationToken;

use crate::{JobRunner, JobSpec, Outcome, Parts, RunnerOptions, StepCommand, StepSpec};

/// Says of a write, named like `log append` or `job transition running`, whether it fails.
type Fault = Box<dyn Fn(&str) -> bool + Send>;

/// Wraps a backend: every write is written down, and fails where the fault says so.
pub(crate) struct Spy<T> {
    inner: T,
    diary: Arc<Diary>,
}

/// What was written, and what is to fail.
#[derive(Default)]
pub(crate) struct Diary {
    pub(crate) written: Mutex<Vec<String>>,
    pub(crate) fault: Mutex<Option<Fault>>,
    /// What does not come back.
    hang: Mutex<Option<Fault>>,
}

impl Diary {
    /// Writes it down; `true` when it is to fail.
    fn fails(&self, what: &str) -> bool {
        let fails = self.fault.lock().unwrap().as_ref().is_some_and(|fault| fault(what));
        let word = if fails { format!("{what} (failed)") } else { what.to_owned() };
        self.written.lock().unwrap().push(word);
        fails
    }

    pub(crate) fn fail_when(&self, fault: impl Fn(&str) -> bool + Send + 'static) {
        *self.fault.lock().unwrap() = Some(Box::new(fault));
    }

    pub(crate) fn hang_when(&self, hang: impl Fn(&str) -> bool + Send + 'static) {
        *self.hang.lock().unwrap() = Some(Box::new(hang));
    }

    /// Does not return as long as this is to hang.
    async fn may_hang(&self, what: &str) {
        let hangs = || self.hang.lock().unwrap().as_ref().is_some_and(|hang| hang(what));
        while hangs() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn written(&self) -> Vec<String> {
        self.written.lock().unwrap().clone()
    }
}

impl<T: fmt::Debug> fmt::Debug for Spy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for Spy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn full() -> std::io::Error {
    std::io::ErrorKind::StorageFull.into()
}

impl<T> Spy<T> {
    fn log(&self, operation: &'static str, log: &JobId) -> Result<(), danube_logs::Error> {
        if self.diary.fails(&format!("log {operation}")) {
            let log = log.clone();
            return Err(danube_logs::Error::Io { log, operation, source: full() });
        }
        Ok(())
    }

    fn job(&self, what: &str) -> Result<(), danube_store::Error> {
        if self.diary.fails(&format!("job {what}")) {
            let (path, source) = ("danube.db".into(), full().into());
            return Err(danube_store::Error::Full { path, source });
        }
        Ok(())
    }
}

#[async_trait]
impl<T: LogStore> LogStore for Spy<T> {
    async fn open(&self, log: &JobId) -> Result<LogStat, danube_logs::Error> {
        self.log("open", log)?;
        self.inner.open(log).await
    }

    async fn append(&self, log: &JobId, at: u64, bytes: Bytes) -> Result<u64, danube_logs::Error> {
        self.log("append", log)?;
        self.inner.append(log, at, bytes).await
    }

    async fn append_tail(
        &self,
        log: &JobId,
        lines: Bytes,
        output: u64,
        keep: u64,
    ) -> Result<(), danube_logs::Error> {
        self.log("append", log)?;
        self.inner.append_tail(log, lines, output, keep).await
    }

    async fn tail(&self, log: &JobId) -> Result<Option<LogTail>, danube_logs::Error> {
        self.inner.tail(log).await
    }

    async fn read(&self, log: &JobId, range: ByteRange) -> Result<Bytes, danube_logs::Error> {
        self.inner.read(log, range).await
    }

    async fn stat(&self, log: &JobId) -> Result<LogStat, danube_logs::Error> {
        self.inner.stat(log).await
    }

    async fn changed(&self, log: &JobId, beyond: u64) -> Result<LogStat, danube_logs::Error> {
        self.inner.changed(log, beyond).await
    }

    async fn sync(&self, log: &JobId, state: &LogState) -> Result<(), danube_logs::Error> {
        self.log("sync", log)?;
        self.inner.sync(log, state).await
    }

    async fn seal(&self, log: &JobId, state: &LogState) -> Result<(), danube_logs::Error> {
        self.log("seal", log)?;
        self.inner.seal(log, state).await
    }

    fn release(&self, log: &JobId) {
        self.diary.fails("log release");
        self.inner.release(log);
    }

    async fn delete(&self, log: &JobId) -> Result<u64, danube_logs::Error> {
        self.log("delete", log)?;
        self.inner.delete(log).await
    }

    async fn landmark(
        &self,
        log: &JobId,
        sought: danube_logs::Sought,
    ) -> Result<danube_logs::Landmark, danube_logs::Error> {
        self.inner.landmark(log, sought).await
    }

    async fn list(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<(JobId, LogStat)>, danube_logs::Error> {
        self.inner.list(after, limit).await
    }
}

#[async_trait]
impl<T: JobStore> JobStore for Spy<T> {
    async fn create(&self, job: &JobRecord) -> Result<(), danube_store::Error> {
        self.job("create")?;
        self.inner.create(job).await
    }

    async fn get(&self, id: &JobId) -> Result<JobRecord, danube_store::Error> {
        self.inner.get(id).await
    }

    async fn list(&self, query: &JobQuery) -> Result<Vec<JobRecord>, danube_store::Error> {
        self.inner.list(query).await
    }

    async fn tally(&self) -> Result<Vec<JobTally>, danube_store::Error> {
        self.inner.tally().await
    }

    async fn matching(&self, text: &str, limit: usize) -> Result<Vec<JobId>, danube_store::Error> {
        self.inner.matching(text, limit).await
    }

    async fn transition(
        &self,
        id: &JobId,
        change: &Transition,
    ) -> Result<JobState, danube_store::Error> {
        let what = format!("transition {}", change.to);
        self.diary.may_hang(&format!("job {what}")).await;
        self.job(&what)?;
        self.inner.transition(id, change).await
    }

    async fn put_step(&self, id: &JobId, step: &StepRecord) -> Result<(), danube_store::Error> {
        self.job(&format!("step {} {}", step.name, step.state))?;
        self.inner.put_step(id, step).await
    }

    async fn request_cancel(
        &self,
        id: &JobId,
        at: Timestamp,
    ) -> Result<JobState, danube_store::Error> {
        self.inner.request_cancel(id, at).await
    }

    async fn mark_deleted(
        &self,
        id: &JobId,
        what: CandidateKind,
        at: Timestamp,
    ) -> Result<(), danube_store::Error> {
        self.job(&format!("mark {what}"))?;
        self.inner.mark_deleted(id, what, at).await
    }
}

#[async_trait]
impl<T: BlobStore> BlobStore for Spy<T> {
    fn capabilities(&self) -> BlobCapabilities {
        self.inner.capabilities()
    }

    async fn put(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, danube_artifacts::Error> {
        self.diary.may_hang(&format!("blob put {key}")).await;
        if self.diary.fails(&format!("blob put {key}")) {
            return Err(danube_artifacts::Error::io(self, format!("put {key}"), full()));
        }
        self.inner.put(key, body, options).await
    }

    async fn get(
        &self,
        key: &BlobKey,
        range: Option<ByteRange>,
    ) -> Result<Blob, danube_artifacts::Error> {
        self.inner.get(key, range).await
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, danube_artifacts::Error> {
        self.inner.stat(key).await
    }

    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, danube_artifacts::Error> {
        self.inner.list(job).await
    }

    async fn jobs(
        &self,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>, danube_artifacts::Error> {
        self.inner.jobs(after, limit).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<u64, danube_artifacts::Error> {
        if self.diary.fails(&format!("blob delete {key}")) {
            return Err(danube_artifacts::Error::io(self, format!("delete {key}"), full()));
        }
        self.inner.delete(key).await
    }

    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), danube_artifacts::Error> {
        self.inner.set_tier(key, tier).await
    }

    async fn restore(
        &self,
        key: &BlobKey,
        keep_for: Duration,
    ) -> Result<Access, danube_artifacts::Error> {
        self.inner.restore(key, keep_for).await
    }

    async fn link(
        &self,
        key: &BlobKey,
        options: &LinkOptions,
    ) -> Result<Link, danube_artifacts::Error> {
        self.inner.link(key, options).await
    }

    async fn sync(&self) -> Result<(), danube_artifacts::Error> {
        if self.diary.fails("blob sync") {
            return Err(danube_artifacts::Error::io(self, "sync".to_owned(), full()));
        }
        self.inner.sync().await
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, danube_artifacts::Error> {
        self.inner.sweep(before).await
    }
}

/// Everything a job is run with, in memory, and a directory to work in.
pub(crate) struct House {
    pub(crate) scripted: Scripted,
    pub(crate) memory_logs: MemoryLogs,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) jobs: Arc<dyn JobStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) index: Arc<MemoryIndex>,
    pub(crate) clock: ManualClock,
    pub(crate) diary: Arc<Diary>,
    pub(crate) options: RunnerOptions,
    signing_key: Arc<SigningKey>,
    dir: tempfile::TempDir,
}

impl House {
    pub(crate) fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let diary = Arc::new(Diary::default());
        let memory_logs = MemoryLogs::new();
        let clock = ManualClock::new("2024-01-06T12:00:00Z".parse().unwrap());
        let blobs = MemoryBlobs::new().with_clock(Arc::new(clock.clone()));
        Self {
            scripted: Scripted::new(scripts),
            logs: Arc::new(Spy { inner: memory_logs.clone(), diary: diary.clone() }),
            memory_logs,
            jobs: Arc::new(Spy { inner: MemoryJobs::new(), diary: diary.clone() }),
            blobs: Arc::new(Spy { inner: blobs, diary: diary.clone() }),
            index: Arc::new(MemoryIndex::new()),
            clock,
            diary,
            options: RunnerOptions::default(),
            signing_key: Arc::new(SigningKey::generate().unwrap()),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn work_dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub(crate) fn artifacts(&self) -> Artifacts {
        let (blobs, index) = (self.blobs.clone(), self.index.clone());
        Artifacts::new(blobs, index, self.signing_key.clone(), self.clock())
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            executor: Arc::new(self.scripted.clone()),
            logs: self.logs.clone(),
            artifacts: self.artifacts(),
            jobs: self.jobs.clone(),
            clock: self.clock(),
        }
    }

    pub(crate) fn runner(&self) -> JobRunner {
        JobRunner::new(self.parts(), self.options.clone())
    }

    /// A job with these steps, each of them a program of the step's name.
    pub(crate) fn spec(&self, steps: &[&str]) -> JobSpec {
        let step = |name: &&str| {
            let words = vec![(*name).into()];
            StepSpec::new(name.parse::<StepName>().unwrap(), StepCommand::Argv(words))
        };
        JobSpec::new(job(), "a job", steps.iter().map(step).collect(), self.work_dir().into())
    }

    pub(crate) async fn run(&self, spec: JobSpec) -> Outcome {
        self.runner().run(spec, CancellationToken::new(), &|_, _, _| {}).await.unwrap()
    }

    /// What the log holds by now.
    pub(crate) async fn log(&self) -> String {
        match self.memory_logs.read(&job(), ByteRange::new(0, u64::MAX)).await {
            Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Err(danube_logs::Error::NotFound { .. }) => String::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// What its signatures are verified with.
    pub(crate) fn public_keys(&self) -> danube_artifacts::PublicKeys {
        self.signing_key.public_keys()
    }

    pub(crate) async fn blob(&self, key: &BlobKey) -> Vec<u8> {
        use futures_util::TryStreamExt;
        let blob = self.blobs.get(key, None).await.unwrap();
        blob.body.map_ok(|bytes| bytes.to_vec()).try_concat().await.unwrap()
    }
}

/// The job of every test.
pub(crate) fn job() -> JobId {
    "job-1".parse().unwrap()
}
