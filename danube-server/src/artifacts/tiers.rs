//! `danube artifacts archive` and `restore`.

use std::time::Duration;

use danube_artifacts::{Access, Artifacts, Tier};
use danube_core::{ArtifactName, JobId};

use crate::failure::Failure;
use crate::terminal::{self, Sink};

pub(super) async fn archive(
    artifacts: &Artifacts,
    job: &JobId,
    name: &ArtifactName,
    tier: Tier,
) -> Result<u8, Failure> {
    let record = artifacts.set_tier(job, name, tier).await?;
    let shown = terminal::safe(name.as_str());
    Sink::Stderr.line(&format!("danube: {shown} is {} ({tier})", record.state));
    Ok(0)
}

/// 0 when it can be read, and is back where that was asked for; 1 when that takes time still.
pub(super) async fn restore(
    artifacts: &Artifacts,
    job: &JobId,
    name: &ArtifactName,
    keep_for: Duration,
    for_good: bool,
) -> Result<u8, Failure> {
    let access = artifacts.restore(job, name, keep_for).await?;
    let shown = terminal::safe(name.as_str());
    if for_good && access.is_readable() {
        let record = artifacts.set_tier(job, name, Tier::Hot).await?;
        Sink::Stderr.line(&format!("danube: {shown} is {} again", record.state));
        return Ok(0);
    }
    match access {
        Access::Now => {
            Sink::Stderr.line(&format!("danube: {shown} is readable: it is not archived"))
        }
        Access::Until(_) => Sink::Stderr.line(&format!("danube: {shown} is {access}")),
        Access::Restoring | Access::Archived => {
            let line =
                "is being restored, which takes hours; the same command says when it is done";
            Sink::Stderr.line(&format!("danube: {shown} {line}"));
        }
    }
    Ok(u8::from(!access.is_readable()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use danube_artifacts::{KeepOptions, MemoryBlobs, MemoryIndex, SigningKey, bytes_stream};
    use danube_core::{ErrorClass, SystemClock};
    use std::sync::Arc;

    #[tokio::test]
    async fn what_is_archived_is_restored_and_brought_back() {
        let artifacts = Artifacts::new(
            Arc::new(MemoryBlobs::new()),
            Arc::new(MemoryIndex::new()),
            Arc::new(SigningKey::generate().unwrap()),
            Arc::new(SystemClock),
        );
        let (job, name): (JobId, ArtifactName) = ("j".parse().unwrap(), "a".parse().unwrap());
        let day = Duration::from_secs(86_400);
        let missing = archive(&artifacts, &job, &name, Tier::Cold).await.unwrap_err();
        assert_eq!(missing.class(), ErrorClass::NotFound);
        let options = KeepOptions::default();
        let kept = artifacts.keep(&job, &name, bytes_stream("x"), options).await.unwrap();
        artifacts.sign(&kept).await.unwrap();

        let state = async || artifacts.get(&job, &name).await.unwrap().state.as_str();
        assert_eq!(restore(&artifacts, &job, &name, day, false).await.unwrap(), 0);
        assert_eq!(archive(&artifacts, &job, &name, Tier::Cold).await.unwrap(), 0);
        assert_eq!(state().await, "archived");
        let warm = archive(&artifacts, &job, &name, Tier::Warm).await.unwrap_err();
        assert_eq!(warm.class(), ErrorClass::Conflict);
        assert_eq!(restore(&artifacts, &job, &name, day, false).await.unwrap(), 0);
        assert_eq!(state().await, "archived");
        artifacts.open(&job, &name, None).await.unwrap();
        assert_eq!(restore(&artifacts, &job, &name, day, true).await.unwrap(), 0);
        assert_eq!(state().await, "active");
    }
}
