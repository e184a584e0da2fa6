//! Why a job is to end before its time. The first reason stands.

use tokio::sync::watch;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    /// Somebody asked for it.
    Cancelled,
    /// The steps took too long in all.
    JobTimeout,
    /// One step took too long.
    StepTimeout,
    /// What it writes cannot be stored.
    LogWrite,
}

/// Whether a job is to end, for everybody who has to know.
#[derive(Debug)]
pub(super) struct Stop(watch::Sender<Option<StopReason>>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Stop {
    /// Asks for the end, unless somebody did before.
    pub(super) fn ask(&self, reason: StopReason) {
        self.0.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(reason);
            first
        });
    }

    /// Why it is to end, if it is.
    pub(super) fn reason(&self) -> Option<StopReason> {
        *self.0.borrow()
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&self) -> StopReason {
        let mut asked = self.0.subscribe();
        loop {
            if let Some(reason) = *asked.borrow_and_update() {
                return reason;
            }
            // The sender lives in `self`, so this returns only when somebody asked.
            let _ = asked.changed().await;
        }
    }
}
