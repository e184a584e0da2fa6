//! The secrets of running jobs: loaded for one job, seen by that job, gone when it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use danube_core::{
    Audit, AuditAction, AuditActor, AuditEvent, AuditOutcome, Clock, JobId, SecretBytes,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::{Error, Keyring, SecretKey, SecretOwner, SecretVault};
use slots::{Filled, Slots, Values};

mod slots;

/// The lock that `slots` uses.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
}

/// Bytes of secrets that one service holds at most, of all jobs together.
pub const MAX_LOADED_BYTES: usize = 64 << 20;

/// The gauge with the number of values that are held, of all services of the process together.
pub const CACHE_SIZE_GAUGE: &str = "danube_secret_cache_size";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// As far ahead as a time is counted: a century, which every clock can add.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How a [`SecretService`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecretServiceOptions {
    /// How long what was loaded is given, whatever becomes of its job. A day unless told.
    pub ttl: Duration,
}

impl Default for SecretServiceOptions {
    fn default() -> Self {
        Self { ttl: DAY }
    }
}

impl SecretServiceOptions {
    /// The same, keeping what was loaded for at most so long.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
}

/// The secrets of jobs while they run. Clones share what is loaded.
///
/// * [`load`](Self::load) opens the values that a job names and gives a [`LoadedSecrets`]; while that lives,
///   [`get`](Self::get) gives them to this job and to no other. When it is dropped they are zeroised and
///   gone: at the job's end, on an early return, when the future that holds it is dropped, in a panic.
/// * [`clear`](Self::clear) does the same by the job's name. A load that is under way then comes to nothing.
/// * What outlives [`ttl`](SecretServiceOptions::ttl) is given to nobody and zeroised, whether or not anybody
///   calls again.
/// * Every value that is opened and every value that is given, or refused, is recorded first
///   ([`Audit`]): which job, which owner and key, never the value. What cannot be recorded does not happen.
/// * The gauge [`CACHE_SIZE_GAUGE`] tells how many values are held.
///
/// It needs a tokio runtime with its clock.
#[derive(Clone)]
pub struct SecretService(Arc<Inner>);

struct Inner {
    vault: Arc<dyn SecretVault>,
    keyring: Arc<Keyring>,
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
    options: SecretServiceOptions,
    slots: Slots,
}

impl fmt::Debug for SecretService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { vault, audit, options, slots, .. } = &*self.0;
        f.debug_struct("SecretService")
            .field("vault", vault)
            .field("audit", audit)
            .field("options", options)
            .field("held", &slots.len())
            .finish_non_exhaustive()
    }
}

impl SecretService {
    /// A service over this vault, with the keys that sealed what is in it.
    #[must_use]
    pub fn new(
        vault: Arc<dyn SecretVault>,
        keyring: Arc<Keyring>,
        audit: Arc<dyn Audit>,
        clock: Arc<dyn Clock>,
        options: SecretServiceOptions,
    ) -> Self {
        let slots = Slots::new();
        Self(Arc::new(Inner { vault, keyring, audit, clock, options, slots }))
    }

    /// Opens these secrets of `owner` for a job. Which owner's secrets a job may have is the caller's to
    /// know.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyLoaded`] while the job has secrets; [`Error::NotFound`] and [`Error::CannotOpen`] for
    /// the first that is not there or does not open, and then none is loaded; [`Error::Cleared`] when the
    /// job was cleared meanwhile; [`Error::TooManyLoaded`] beyond [`MAX_LOADED_BYTES`]; [`Error::Audit`];
    /// what vault and keyring say.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is loaded.
    pub async fn load(
        &self,
        job: &JobId,
        owner: &SecretOwner,
        keys: &[SecretKey],
    ) -> Result<LoadedSecrets, Error> {
        let inner = &self.0;
        inner.expire();
        let expires = Instant::now() + inner.options.ttl.min(LONGEST_TTL);
        let load = inner.slots.begin(job, owner, expires);
        let load = load.ok_or_else(|| Error::AlreadyLoaded { job: job.clone() })?;
        // From here on whatever happens ends the load, unless it is given away.
        let mut loaded =
            LoadedSecrets { inner: inner.clone(), job: job.clone(), load, timer: None };
        let mut sealed = Vec::new();
        for key in keys {
            let object = format!("{owner}/{key}");
            inner.record(job, AuditAction::SecretLoaded, &object, AuditOutcome::Done).await?;
            match inner.vault.get(owner, key).await {
                Ok(value) => sealed.push((key.clone(), value)),
                Err(error) => return Err(inner.refused(job, &object, error).await),
            }
        }
        let (keyring, of) = (inner.keyring.clone(), owner.clone());
        let opened = crate::blocking(move || {
            let open = |(key, value)| match keyring.open_value(&of, &key, &value) {
                Ok(value) => Ok((key, value)),
                Err(error) => Err((format!("{of}/{key}"), error)),
            };
            sealed.into_iter().map(open).collect::<Result<Values, _>>()
        });
        let values = match opened.await {
            Ok(values) => values,
            Err((object, error)) => return Err(inner.refused(job, &object, error).await),
        };
        let count = values.len();
        match inner.slots.fill(job, load, values) {
            Filled::Yes => {}
            Filled::Cleared => return Err(Error::Cleared { job: job.clone() }),
            Filled::TooMany => return Err(Error::TooManyLoaded),
        }
        gauge().increment(count as f64);
        // Nobody may ever call again, and the time is over all the same. The service need not live for it.
        let weak = Arc::downgrade(inner);
        let timer = tokio::spawn(async move {
            tokio::time::sleep_until(expires).await;
            if let Some(inner) = weak.upgrade() {
                inner.expire();
            }
        });
        loaded.timer = Some(timer.abort_handle());
        Ok(loaded)
    }

    /// A secret that is loaded for this job.
    ///
    /// # Errors
    ///
    /// [`Error::NotLoaded`], which does not tell whether another job has a secret of this name;
    /// [`Error::Audit`].
    pub async fn get(&self, job: &JobId, key: &SecretKey) -> Result<SecretBytes, Error> {
        let inner = &self.0;
        inner.expire();
        let (object, outcome, found) = match inner.slots.get(job, key) {
            Some((owner, value)) => (format!("{owner}/{key}"), AuditOutcome::Done, Ok(value)),
            None => {
                let error = Error::NotLoaded { job: job.clone(), key: key.clone() };
                (key.to_string(), AuditOutcome::Refused, Err(error))
            }
        };
        inner.record(job, AuditAction::SecretRead, &object, outcome).await?;
        found
    }

    /// Zeroises and forgets what is loaded for a job, or is about to be; says how many values went.
    pub fn clear(&self, job: &JobId) -> usize {
        self.0.expire();
        let gone = self.0.slots.clear(job);
        gauge().decrement(gone as f64);
        gone
    }

    /// How many values are held, of all jobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.expire();
        self.0.slots.len()
    }

    /// Whether no value is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn expire(&self) {
        let gone = self.slots.expire(Instant::now());
        gauge().decrement(gone as f64);
    }

    async fn record(
        &self,
        job: &JobId,
        action: AuditAction,
        object: &str,
        outcome: AuditOutcome,
    ) -> Result<(), Error> {
        let actor = AuditActor::Job(job.clone());
        let (at, object) = (self.clock.now(), object.to_owned());
        Ok(self.audit.record(&AuditEvent { at, actor, action, object, outcome }).await?)
    }

    /// The error of a load, recorded; or that it could not be.
    async fn refused(&self, job: &JobId, object: &str, error: Error) -> Error {
        let recorded =
            self.record(job, AuditAction::SecretLoaded, object, AuditOutcome::Refused).await;
        recorded.err().unwrap_or(error)
    }
}

fn gauge() -> metrics::Gauge {
    metrics::gauge!(CACHE_SIZE_GAUGE)
}

/// The secrets that are loaded for a job, for as long as this lives. They are read by way of
/// [`SecretService::get`].
#[must_use = "dropped, it takes the secrets along"]
pub struct LoadedSecrets {
    inner: Arc<Inner>,
    job: JobId,
    load: u64,
    /// What ends it when its time is over.
    timer: Option<AbortHandle>,
}

impl Drop for LoadedSecrets {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
        let gone = self.inner.slots.end(&self.job, self.load);
        gauge().decrement(gone as f64);
    }
}

impl fmt::Debug for LoadedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedSecrets").field("job", &self.job).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
