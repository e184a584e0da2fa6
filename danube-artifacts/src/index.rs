//! The contract of the records of artifacts.

use std::fmt::{Debug, Display};
use std::sync::Arc;

use async_trait::async_trait;
use danube_core::{ArtifactName, JobId};

use crate::{ArtifactId, ArtifactRecord, Error, RecordChange};

mod memory;

pub use memory::MemoryIndex;

/// Records of artifacts, by job and name; each has an id of its own besides.
///
/// * **Atomicity.** Each call happens whole or not at all, and whoever asks after it returned sees it.
/// * **Durability.** What a `put`, `change` or `remove` acknowledged survives the death of the
///   process (a memory backend excepted, which says so).
/// * **Order.** `list` goes by name, `all` by job and then by name; both compare bytes. Paging with
///   `after` = the last one seen names every record that stands still exactly once.
/// * **Bounds.** At most `limit` records come back, fewer only at the end; `limit` 0 gives none.
/// * **Fidelity.** A record comes back as it was put: times to the millisecond, `keep_for` to the
///   second.
/// * **Cancel safety.** A dropped call may or may not have happened. Every call but a change of a
///   removed record is idempotent, so calling it again is right.
/// * Jobs need not be known: the index works without a store of jobs.
#[async_trait]
pub trait ArtifactIndex: Debug + Display + Send + Sync + 'static {
    /// Stores the record under its job and name, replacing the one that is there.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when [`ArtifactRecord::validate`] refuses it, or its id is that of an artifact of another name
    /// or job; nothing is changed then.
    async fn put(&self, record: &ArtifactRecord) -> Result<(), Error>;

    /// The record, whatever its state.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecord`].
    async fn get(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error>;

    /// The record of the artifact with this id, whatever its state.
    ///
    /// # Errors
    ///
    /// [`Error::NoArtifact`].
    async fn find(&self, id: &ArtifactId) -> Result<ArtifactRecord, Error>;

    /// The records of one job, those after `after`; none for a job that is not known.
    async fn list(
        &self,
        job: &JobId,
        after: Option<&ArtifactName>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error>;

    /// The records of all jobs, those after `after`.
    async fn all(
        &self,
        after: Option<(&JobId, &ArtifactName)>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error>;

    /// Changes what the change says and nothing else, and gives the record as it is then. Any state may
    /// follow any other. Of several changes at once none is lost.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecord`]; [`Error::Replaced`] when the change is [for another artifact](RecordChange::only);
    /// [`Error::Invalid`] when the record would break its bounds. Nothing is changed then.
    async fn change(
        &self,
        job: &JobId,
        name: &ArtifactName,
        change: &RecordChange,
    ) -> Result<ArtifactRecord, Error>;

    /// Changes several records of one job, all of them or none, and gives them in the same order. It costs one
    /// sync where [`change`](Self::change) costs one for each. Of a name that comes twice the last change counts.
    ///
    /// # Errors
    ///
    /// Those of [`change`](Self::change), and nothing is changed then.
    async fn change_all(
        &self,
        job: &JobId,
        changes: &[(ArtifactName, RecordChange)],
    ) -> Result<Vec<ArtifactRecord>, Error>;

    /// Forgets the record. One that is not there is a success.
    async fn remove(&self, job: &JobId, name: &ArtifactName) -> Result<(), Error>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: ArtifactIndex + ?Sized> ArtifactIndex for Arc<T> {
    async fn put(&self, record: &ArtifactRecord) -> Result<(), Error> {
        (**self).put(record).await
    }

    async fn get(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        (**self).get(job, name).await
    }

    async fn find(&self, id: &ArtifactId) -> Result<ArtifactRecord, Error> {
        (**self).find(id).await
    }

    async fn list(
        &self,
        job: &JobId,
        after: Option<&ArtifactName>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        (**self).list(job, after, limit).await
    }

    async fn all(
        &self,
        after: Option<(&JobId, &ArtifactName)>,
        limit: usize,
    ) -> Result<Vec<ArtifactRecord>, Error> {
        (**self).all(after, limit).await
    }

    async fn change(
        &self,
        job: &JobId,
        name: &ArtifactName,
        change: &RecordChange,
    ) -> Result<ArtifactRecord, Error> {
        (**self).change(job, name, change).await
    }

    async fn change_all(
        &self,
        job: &JobId,
        changes: &[(ArtifactName, RecordChange)],
    ) -> Result<Vec<ArtifactRecord>, Error> {
        (**self).change_all(job, changes).await
    }

    async fn remove(&self, job: &JobId, name: &ArtifactName) -> Result<(), Error> {
        (**self).remove(job, name).await
    }
}
