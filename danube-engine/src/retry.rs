//! Patience with a store that is busy.

use std::time::Duration;

use danube_store::Error;

/// How long is waited between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How often it is tried. A busy database has waited 5 s itself each time, so that a job outlives half
/// a minute of somebody's lock.
const TRIES: u32 = 6;

/// Calls until it succeeds, fails for good, or was busy too often.
pub(crate) async fn retrying<T, F: Future<Output = Result<T, Error>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Error> {
    for _ in 1..TRIES {
        match call().await {
            Err(error) if error.class().is_retryable() => tokio::time::sleep(PAUSE).await,
            other => return other,
        }
    }
    call().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn busy() -> Error {
        Error::Busy { path: "db".into(), waited: Duration::from_secs(5) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_store_is_asked_again_and_again_but_not_for_ever() {
        let asked = Cell::new(0);
        let third_time_lucky = || async {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Err(busy()) } else { Ok(asked.get()) }
        };
        assert_eq!(retrying(third_time_lucky).await.unwrap(), 3);
        asked.set(0);
        let never = || async {
            asked.set(asked.get() + 1);
            Err::<(), _>(busy())
        };
        assert!(matches!(retrying(never).await, Err(Error::Busy { .. })));
        assert_eq!(asked.get(), TRIES);
    }

    #[tokio::test]
    async fn what_will_not_change_is_asked_once() {
        let asked = Cell::new(0);
        let refused = || async {
            asked.set(asked.get() + 1);
            Err::<(), _>(Error::NoJobs)
        };
        assert!(retrying(refused).await.is_err());
        assert_eq!(asked.get(), 1);
    }
}
