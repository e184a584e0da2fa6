//! One data directory, opened: the real parts behind the traits.

use std::path::PathBuf;
use std::sync::Arc;

use danube_artifacts::{
    ArtifactSweep, Artifacts, BlobStore, FsBlobs, LinkKey, Linked, Opened, PublicKeys, Signer,
    SigningKeys, UploadSessions,
};
use danube_core::files::create_private_dir;
use danube_core::{CandidateKind, Clock, ErrorClass, JobId, Sweep, SystemClock};
use danube_engine::{JobSweep, Parts};
use danube_exec::Executor;
use danube_logs::{FsLogs, LogStore, LogSweep};
use danube_reaper::{Reaper, Retention};
use danube_store::{JobStore, JobStoreExt, Store, StoreOptions};

use crate::config::Config;
use crate::failure::Failure;
use crate::s3;
use crate::terminal::{self, Sink};

/// What every command works on.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<Store>,
    pub(crate) logs: Arc<dyn LogStore>,
    /// The same logs, for what only files can do.
    pub(crate) log_files: FsLogs,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) uploads: Arc<dyn UploadSessions>,
}

impl App {
    /// Creates the data directory where there is none, opens what is in it, and ends the jobs whose
    /// owner died.
    pub(crate) async fn open(config: Config) -> Result<Self, Failure> {
        Self::create_dirs(&config)?;
        let dir = config.data_dir.clone();
        let logs = dir.join("logs");
        let log_files =
            if config.compress_logs { FsLogs::compressed(logs) } else { FsLogs::new(logs) };
        let store = Store::open(&dir.join("danube.db"), StoreOptions::default()).await?;
        let (blobs, uploads): (Arc<dyn BlobStore>, Arc<dyn UploadSessions>) = match &config.s3 {
            Some(bucket) => {
                let blobs = Arc::new(s3::connect(bucket).await?);
                (blobs.clone(), blobs)
            }
            None => {
                let blobs = Arc::new(FsBlobs::new(dir.join("artifacts")));
                (blobs.clone(), blobs)
            }
        };
        let app = Self {
            clock: Arc::new(SystemClock),
            store: Arc::new(store),
            logs: Arc::new(log_files.clone()),
            log_files,
            blobs,
            uploads,
            config,
        };
        app.recover().await?;
        Ok(app)
    }

    /// Creates the directories, each of them private.
    pub(crate) fn create_dirs(config: &Config) -> Result<(), Failure> {
        for below in ["", "logs", "artifacts", "keys"] {
            let path = config.data_dir.join(below);
            create_private_dir(&path).map_err(|e| {
                let hint = match ErrorClass::of_io(&e) {
                    ErrorClass::Denied => "; name one that you may write to with --data-dir",
                    _ => "",
                };
                let message =
                    format!("cannot use the data directory {}: {e}{hint}", path.display());
                // Whatever the system says of it: without the directory nothing can be done.
                Failure::new(ErrorClass::Internal, message)
            })?;
        }
        Ok(())
    }

    /// The reaper over logs and artifacts, with what the jobs say about them.
    pub(crate) fn reaper(&self) -> Reaper {
        let mut retention = Retention::default()
            .with_logs(self.config.keep_logs)
            .with_artifacts(self.config.keep_artifacts);
        retention.log_bytes = self.config.max_total_log_bytes;
        let with_jobs = |sweep: Arc<dyn Sweep>| -> Arc<dyn Sweep> {
            Arc::new(JobSweep::new(sweep, self.store.clone(), self.clock.clone()))
        };
        let logs = with_jobs(Arc::new(LogSweep::new(self.logs.clone())));
        let artifacts =
            with_jobs(Arc::new(ArtifactSweep::new(self.blobs.clone(), self.store.clone())));
        Reaper::new(self.clock.clone(), retention)
            .with_sweep(CandidateKind::Log, logs)
            .with_sweep(CandidateKind::Artifact, artifacts)
    }

    /// Ends the jobs whose owner died, and says so.
    pub(crate) async fn recover(&self) -> Result<(), Failure> {
        let jobs: Arc<dyn JobStore> = self.store.clone();
        let ended = danube_engine::recover(&jobs, &self.logs, &self.blobs, &self.clock).await?;
        for job in ended {
            Sink::Stderr.line(&format!(
                "danube: job {} ({}) is lost: the process that ran it died",
                job.id,
                terminal::safe(&job.name)
            ));
        }
        Ok(())
    }

    /// The job that somebody typed: its id, the beginning or end of it, or `latest`.
    pub(crate) async fn job(&self, typed: &str) -> Result<JobId, Failure> {
        Ok(self.store.resolve(typed).await?)
    }

    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.config.data_dir.join("keys")
    }

    /// Opens the signing key, and makes one where there is none.
    pub(crate) async fn artifacts(&self) -> Result<Artifacts, Failure> {
        self.artifacts_in(self.blobs.clone()).await
    }

    /// The same with links: those of the store, or else ones that `danube serve` answers.
    pub(crate) async fn artifacts_with_links(&self) -> Result<Artifacts, Failure> {
        let blobs = self.blobs.clone();
        if blobs.capabilities().links {
            return self.artifacts_in(blobs).await;
        }
        let (key, base) = (self.link_key().await?, &self.config.public_url);
        self.artifacts_in(Arc::new(Linked::new(blobs, base, key, self.clock.clone()))).await
    }

    /// Opens the key of the links that `danube serve` answers, and makes one where there is none.
    pub(crate) async fn link_key(&self) -> Result<LinkKey, Failure> {
        let keys_dir = self.keys_dir();
        let opened = tokio::task::spawn_blocking(move || LinkKey::open_or_create(&keys_dir)).await;
        Ok(opened.expect("opening a key does not panic")?)
    }

    async fn artifacts_in(&self, blobs: Arc<dyn BlobStore>) -> Result<Artifacts, Failure> {
        let keys_dir = self.keys_dir();
        let opened =
            tokio::task::spawn_blocking(move || SigningKeys::open_or_create(&keys_dir)).await;
        let (key, opened) = opened.expect("opening a key does not panic")?;
        if opened == Opened::Created {
            let pem = key.public_pem();
            let public = pem.lines().nth(1).unwrap_or_default();
            Sink::Stderr.line(&format!(
                "danube: made signing key {}; give its public part to whoever verifies: {public} ({})",
                key.key_id(),
                self.keys_dir().join("signing.key.pub").display()
            ));
        }
        let signer: Arc<dyn Signer> = Arc::new(key);
        Ok(Artifacts::new(blobs, self.store.clone(), signer, self.clock.clone()))
    }

    /// What a job is run with.
    pub(crate) async fn parts(&self, executor: Arc<dyn Executor>) -> Result<Parts, Failure> {
        Ok(Parts {
            executor,
            logs: self.logs.clone(),
            artifacts: self.artifacts().await?,
            jobs: self.store.clone(),
            clock: self.clock.clone(),
        })
    }
}

/// The public keys that a data directory trusts; opens nothing else in it.
pub(crate) fn trusted_keys(config: &Config) -> Result<PublicKeys, Failure> {
    Ok(PublicKeys::from_keys_dir(&config.data_dir.join("keys"))?)
}
