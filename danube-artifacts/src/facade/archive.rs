//! Archiving an artifact, and bringing it back.

use std::time::Duration;

use danube_core::{ArtifactName, JobId};

use super::{Artifacts, whole_milliseconds};
use crate::{Access, ArtifactRecord, ArtifactState, BlobKey, Error, RecordChange, Tier};

impl Artifacts {
    /// Archives an artifact: its bytes go where they cost least and nobody can read them before they are
    /// [restored](Self::restore). Its signature and the job's provenance stay readable. One that is archived already is a
    /// success. Retention and [`delete`](Self::delete) go by the same rules as before.
    ///
    /// # Errors
    ///
    /// Those of [`set_tier`](Self::set_tier).
    pub async fn archive(&self, job: &JobId, name: &ArtifactName) -> Result<ArtifactRecord, Error> {
        self.set_tier(job, name, Tier::Cold).await
    }

    /// Moves the bytes of an artifact to a tier: `Cold` archives it; `Hot` or `Warm` bring one that was archived back, once
    /// it is [restored](Self::restore), and it is `active` again.
    ///
    /// The bytes move first, then the record follows: what dies in between leaves a record of where they were, reading
    /// goes by where they are, and the same call once more ends it. That is also what a backend leaves that moves old
    /// bytes by itself.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] in a backend without tiers; [`Error::NoRecord`]; [`Error::NotActive`] for one that is not
    /// signed yet, or being deleted; [`Error::Archived`] when it has to be restored first; [`Error::Replaced`] when another
    /// one took its place meanwhile; those of the store, of the index and of [`write_records`](Self::write_records).
    pub async fn set_tier(
        &self,
        job: &JobId,
        name: &ArtifactName,
        tier: Tier,
    ) -> Result<ArtifactRecord, Error> {
        if !self.blobs.capabilities().tiers {
            return Err(Error::unsupported(&self.blobs, "have no tiers: nothing can be archived"));
        }
        let record = self.signed(job, name).await?;
        self.blobs.set_tier(&BlobKey::artifact(job, name), tier).await?;
        let change = match (tier, record.state) {
            (Tier::Cold, ArtifactState::Active) => {
                Some(RecordChange::archived(whole_milliseconds(self.clock.now())))
            }
            (Tier::Hot | Tier::Warm, ArtifactState::Archived) => {
                Some(RecordChange::state(ArtifactState::Active))
            }
            _ => None,
        };
        let record = match change {
            Some(change) => self.index.change(job, name, &change.only(record.id)).await?,
            None => record,
        };
        self.write_records(job).await?;
        Ok(record)
    }

    /// Has an archived artifact made readable for at least `keep_for`, in whole days, and tells how far that is. Asked again
    /// while it is readable, it stays so for longer. It stays archived: what is restored is a copy for a while, and
    /// [`set_tier`](Self::set_tier) brings the artifact back for good. One that is not archived is readable already.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecord`]; [`Error::NotActive`] for one that is not signed yet, or being deleted; those of
    /// [`BlobStore::restore`](crate::BlobStore::restore).
    pub async fn restore(
        &self,
        job: &JobId,
        name: &ArtifactName,
        keep_for: Duration,
    ) -> Result<Access, Error> {
        self.signed(job, name).await?;
        self.blobs.restore(&BlobKey::artifact(job, name), keep_for).await
    }
}
