//! The laws of [`AuditLog`](crate::AuditLog), and with them those of `danube_core::Audit`.
#![expect(clippy::unwrap_used, reason = "laws are tests, stamped in other crates")]

use danube_core::{
    AuditAction, AuditActor, AuditEvent, AuditOutcome, ErrorClass, MAX_AUDIT_OBJECT_BYTES,
    Timestamp,
};

use crate::{AuditLog, AuditQuery, MAX_EVENTS_PER_LIST};

/// Makes a module with one test for each law of [`AuditLog`](crate::AuditLog), and each of them a second
/// time through `Arc<dyn AuditLog>`. The expression is as for
/// [`job_store_conformance!`](crate::job_store_conformance).
///
/// ```
/// # use danube_store::MemoryAudit;
/// danube_store::audit_log_conformance!(memory, (MemoryAudit::new(), ()));
/// ```
#[macro_export]
macro_rules! audit_log_conformance {
    ($module:ident, $fixture:expr) => {
        $crate::audit_log_conformance!(@laws $module, $fixture,
            an_event_comes_back_as_it_was_recorded,
            events_keep_their_order_and_the_newest_comes_first,
            pages_name_every_event_once,
            an_object_that_is_too_long_is_refused,
            events_recorded_at_once_are_all_kept,
        );
    };
    (@laws $module:ident, $fixture:expr, $($law:ident,)+) => {
        mod $module {
            use super::*;

            $(#[tokio::test]
            async fn $law() {
                let (log, _guard) = $fixture;
                $crate::conformance::$law(&log).await;
            })+

            mod as_dyn {
                use super::*;

                $(#[tokio::test]
                async fn $law() {
                    let (log, _guard) = $fixture;
                    let log: std::sync::Arc<dyn $crate::AuditLog> = std::sync::Arc::new(log);
                    $crate::conformance::$law(&log).await;
                })+
            }
        }
    };
}

fn event(object: &str) -> AuditEvent {
    AuditEvent {
        at: Timestamp::UNIX_EPOCH,
        actor: AuditActor::User(1000),
        action: AuditAction::SecretSet,
        object: object.to_owned(),
        outcome: AuditOutcome::Done,
    }
}

async fn all(log: &impl AuditLog) -> Vec<String> {
    let query = AuditQuery::default().with_limit(MAX_EVENTS_PER_LIST);
    log.events(&query).await.unwrap().into_iter().map(|record| record.event.object).collect()
}

/// Every actor, action and outcome, any text as object, and the time to the millisecond.
pub async fn an_event_comes_back_as_it_was_recorded(log: &impl AuditLog) {
    let mut expected = Vec::new();
    for actor in
        [AuditActor::Job("a".parse().unwrap()), AuditActor::User(0), AuditActor::User(u32::MAX)]
    {
        for action in AuditAction::ALL {
            for outcome in AuditOutcome::ALL {
                let object = format!("it's 100% \"{}\"; -- ä", expected.len());
                let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
                let (actor, action, outcome) = (actor.clone(), *action, *outcome);
                expected.push(AuditEvent { at, actor, action, object, outcome });
                log.record(expected.last().unwrap()).await.unwrap();
            }
        }
    }
    let longest = event(&"x".repeat(MAX_AUDIT_OBJECT_BYTES));
    log.record(&longest).await.unwrap();
    expected.push(longest);
    let finer = Timestamp::from_nanosecond(1_999_999).unwrap();
    log.record(&AuditEvent { at: finer, ..event("finer") }).await.unwrap();
    expected.push(AuditEvent { at: Timestamp::from_millisecond(1).unwrap(), ..event("finer") });

    let query = AuditQuery::default().with_limit(MAX_EVENTS_PER_LIST);
    let mut records = log.events(&query).await.unwrap();
    records.reverse();
    for (n, (record, expected)) in records.iter().zip(&expected).enumerate() {
        assert_eq!((record.number, &record.event), (n as u64 + 1, expected));
    }
    assert_eq!(records.len(), expected.len());
}

/// The order is that of the calls, whatever the clock says.
pub async fn events_keep_their_order_and_the_newest_comes_first(log: &impl AuditLog) {
    assert!(all(log).await.is_empty());
    for (seconds, object) in [(30, "first"), (10, "second"), (20, "third")] {
        let at = Timestamp::from_second(seconds).unwrap();
        log.record(&AuditEvent { at, ..event(object) }).await.unwrap();
    }
    assert_eq!(all(log).await, ["third", "second", "first"]);
}

/// Each page begins before the last number of the one before it; a limit of nothing is one.
pub async fn pages_name_every_event_once(log: &impl AuditLog) {
    for n in 0..7 {
        log.record(&event(&n.to_string())).await.unwrap();
    }
    let (mut query, mut seen) = (AuditQuery::default().with_limit(3), Vec::new());
    loop {
        let page = log.events(&query).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        query = query.with_before(last.number);
        seen.extend(page.into_iter().map(|record| record.event.object));
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
    let one = log.events(&AuditQuery::default().with_limit(0)).await.unwrap();
    assert_eq!(one.len(), 1);
}

/// One byte beyond the limit is refused as invalid, and nothing is recorded.
pub async fn an_object_that_is_too_long_is_refused(log: &impl AuditLog) {
    let refused = log.record(&event(&"x".repeat(MAX_AUDIT_OBJECT_BYTES + 1))).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::Invalid);
    assert!(all(log).await.is_empty());
}

/// Of many recorded at once each is there, under a number of its own.
pub async fn events_recorded_at_once_are_all_kept(log: &impl AuditLog) {
    let names: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
    let events: Vec<AuditEvent> = names.iter().map(|name| event(name)).collect();
    let recording = events.iter().map(|event| log.record(event));
    for recorded in super::together::all(recording).await {
        recorded.unwrap();
    }
    let records = log.events(&AuditQuery::default()).await.unwrap();
    let mut numbers: Vec<u64> = records.iter().map(|record| record.number).collect();
    numbers.reverse();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let mut seen: Vec<String> = records.into_iter().map(|record| record.event.object).collect();
    seen.sort();
    assert_eq!(seen, names);
}
