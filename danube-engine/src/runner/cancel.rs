//! Ending a job from outside.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How a job is ended from outside before its time. From one token alone the job can be ended, and not
/// what is collected of it afterwards.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Cancel {
    /// Ends its steps, or where they are over the collecting of its files. What a job that keeps its files
    /// [`Always`](crate::CollectWhen::Always) has left behind by then is still collected.
    pub job: CancellationToken,
    /// Ends that too, and before it the job.
    pub collecting: CancellationToken,
}

impl From<CancellationToken> for Cancel {
    fn from(job: CancellationToken) -> Self {
        Self { job, collecting: CancellationToken::new() }
    }
}

/// How often it was asked for: once for the job, twice for the collecting too.
#[derive(Debug)]
pub(super) struct Asked(watch::Sender<u8>);

impl Default for Asked {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Asked {
    pub(super) fn set(&self, times: u8) {
        self.0.send_replace(times);
    }

    pub(super) fn times(&self) -> u8 {
        *self.0.borrow()
    }

    /// Waits until it is asked for once more than so often.
    pub(super) async fn more_often_than(&self, before: u8) {
        // The sender lives in `self`, so this returns only when somebody asked.
        let _ = self.0.subscribe().wait_for(|times| *times > before).await;
    }
}
