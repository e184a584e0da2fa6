//! The decision: what may go. It asks no clock and touches nothing.

use std::cmp::Ordering;
use std::fmt;

use danube_core::{Candidate, CandidateKind, Pin, SweepError, Timestamp};

use crate::Retention;

/// What is to be deleted, and why the rest is not.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Plan {
    /// What is deleted: what finished first comes first.
    pub reap: Vec<Candidate>,
    /// What stays, and the first reason for it.
    pub keep: Vec<(Candidate, KeepReason)>,
    /// Sweeps that could not say what they keep, by their names. Nothing of theirs is deleted.
    pub unlisted: Vec<(String, SweepError)>,
}

impl Plan {
    /// Bytes of what is to be deleted, as far as they are its own; what is shared may free less.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reap.iter().fold(0, |sum, candidate| sum.saturating_add(candidate.bytes))
    }
}

/// Why something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeepReason {
    /// It is in use, or nobody knows when it finished.
    Unfinished,
    /// It is pinned.
    Pinned(Pin),
    /// It finished later than now: the clock was set back, and its age is unknown.
    FinishedLater,
    /// It is young.
    Until(Timestamp),
    /// It is to be kept beyond the end of time that can be written.
    Forever,
    /// There is no retention for its kind.
    NoRetention,
    /// A sweep named it that was registered for another kind.
    ForeignKind,
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => f.write_str("not finished"),
            Self::Pinned(Pin::KeepForever) => f.write_str("pinned: keep for ever"),
            Self::Pinned(Pin::LastSuccess) => f.write_str("pinned: the last success of its job"),
            Self::Pinned(_) => f.write_str("pinned"),
            Self::FinishedLater => f.write_str("finished later than now"),
            Self::Until(until) => write!(f, "kept until {until}"),
            Self::Forever => f.write_str("kept for ever"),
            Self::NoRetention => f.write_str("no retention for its kind"),
            Self::ForeignKind => f.write_str("named by the sweep of another kind"),
        }
    }
}

/// Decides about everything that was seen. Pure: the same arguments give the same plan.
///
/// A candidate is deleted when it finished, nothing pins it, its kind has a retention or its owner
/// gave one (the owner's counts), and `finished_at` plus that time is not after `now`. Then, while the logs that stay
/// have more bytes than [`Retention::log_bytes`], the one of them goes that finished first; pinned and unfinished logs
/// count and stay.
#[must_use]
pub fn plan(now: Timestamp, retention: &Retention, seen: Vec<Candidate>) -> Plan {
    let mut plan = Plan::default();
    for candidate in seen {
        match reason_to_keep(now, retention, &candidate) {
            Some(reason) => plan.keep.push((candidate, reason)),
            None => plan.reap.push(candidate),
        }
    }
    if let Some(most) = retention.log_bytes {
        plan.fit_logs(most);
    }
    plan.reap.sort_by(first_finished_first);
    plan
}

fn first_finished_first(a: &Candidate, b: &Candidate) -> Ordering {
    (a.finished_at, a.kind, &a.owner, &a.id).cmp(&(b.finished_at, b.kind, &b.owner, &b.id))
}

impl Plan {
    /// Lets logs go before their time until those that stay have at most so many bytes.
    fn fit_logs(&mut self, most: u64) {
        let is_log = |candidate: &Candidate| candidate.kind == CandidateKind::Log;
        let logs = self.keep.iter().filter(|(candidate, _)| is_log(candidate));
        let mut bytes = logs.fold(0_u64, |sum, (log, _)| sum.saturating_add(log.bytes));
        let may_go = |(candidate, reason): &(Candidate, KeepReason)| {
            is_log(candidate) && matches!(reason, KeepReason::Until(_) | KeepReason::Forever)
        };
        let (mut young, keep): (Vec<_>, Vec<_>) = self.keep.drain(..).partition(may_go);
        self.keep = keep;
        young.sort_by(|(a, _), (b, _)| first_finished_first(a, b));
        for (log, reason) in young {
            if bytes > most {
                bytes = bytes.saturating_sub(log.bytes);
                self.reap.push(log);
            } else {
                self.keep.push((log, reason));
            }
        }
    }
}

fn reason_to_keep(
    now: Timestamp,
    retention: &Retention,
    candidate: &Candidate,
) -> Option<KeepReason> {
    let Some(finished_at) = candidate.finished_at else { return Some(KeepReason::Unfinished) };
    if let Some(pin) = candidate.pins.first() {
        return Some(KeepReason::Pinned(*pin));
    }
    if finished_at > now {
        return Some(KeepReason::FinishedLater);
    }
    let Some(keep_for) = candidate.keep_for.or(retention.of(candidate.kind)) else {
        return Some(KeepReason::NoRetention);
    };
    match finished_at.checked_add(keep_for) {
        Ok(until) if until <= now => None,
        Ok(until) => Some(KeepReason::Until(until)),
        Err(_) => Some(KeepReason::Forever),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn candidate(finished_at: Option<i64>) -> Candidate {
        Candidate {
            kind: CandidateKind::Log,
            id: "log".into(),
            owner: "job".parse().unwrap(),
            bytes: 10,
            shared: false,
            finished_at: finished_at.map(at),
            keep_for: None,
            pins: Vec::new(),
            version: "1".into(),
        }
    }

    fn retention(logs: u64, artifacts: u64) -> Retention {
        Retention::default()
            .with_logs(Duration::from_secs(logs))
            .with_artifacts(Duration::from_secs(artifacts))
    }

    fn decide(now: i64, candidate: Candidate) -> Option<KeepReason> {
        let plan = plan(at(now), &retention(100, 50), vec![candidate]);
        assert_eq!(plan.reap.len() + plan.keep.len(), 1);
        plan.keep.first().map(|(_, reason)| *reason)
    }

    #[test]
    fn thirty_days_are_the_default() {
        let month = Duration::from_secs(30 * 86_400);
        assert_eq!(Retention::default(), retention(month.as_secs(), month.as_secs()));
    }

    #[test]
    fn a_thing_goes_when_its_time_is_over_and_not_a_nanosecond_before() {
        let mut log = candidate(Some(1_000));
        assert_eq!(decide(1_099, log.clone()), Some(KeepReason::Until(at(1_100))));
        assert_eq!(decide(1_100, log.clone()), None);
        log.finished_at = Some(at(1_000) + Duration::from_nanos(1));
        assert!(matches!(decide(1_100, log.clone()), Some(KeepReason::Until(_))));
        log.kind = CandidateKind::Artifact;
        assert_eq!(decide(1_051, log), None);
    }

    #[test]
    fn what_is_not_finished_or_pinned_or_from_the_future_stays_whatever_its_age() {
        assert_eq!(decide(1_000_000_000, candidate(None)), Some(KeepReason::Unfinished));
        for pin in [Pin::KeepForever, Pin::LastSuccess] {
            let mut pinned = candidate(Some(0));
            pinned.pins.push(pin);
            pinned.keep_for = Some(Duration::ZERO);
            assert_eq!(decide(1_000_000_000, pinned), Some(KeepReason::Pinned(pin)));
        }
        let mut future = candidate(Some(1_001));
        future.keep_for = Some(Duration::ZERO);
        assert_eq!(decide(1_000, future), Some(KeepReason::FinishedLater));
    }

    #[test]
    fn the_owners_time_counts_whether_shorter_or_longer() {
        let mut own = candidate(Some(0));
        own.keep_for = Some(Duration::from_secs(1));
        assert_eq!(decide(1, own.clone()), None);
        own.keep_for = Some(Duration::from_secs(1_000));
        assert_eq!(decide(999, own.clone()), Some(KeepReason::Until(at(1_000))));
        own.keep_for = Some(Duration::MAX);
        assert_eq!(decide(1_000_000_000, own), Some(KeepReason::Forever));
    }

    #[test]
    fn what_finished_first_goes_first() {
        let finished = [30, 10, 20].map(|second| candidate(Some(second)));
        let plan = plan(at(1_000), &retention(1, 1), finished.to_vec());
        let order: Vec<_> = plan.reap.iter().map(|c| c.finished_at.unwrap().as_second()).collect();
        assert_eq!((order, plan.bytes()), (vec![10, 20, 30], 30));
    }

    #[test]
    fn over_the_budget_the_logs_that_finished_first_go_before_their_time() {
        let log = |finished_at, bytes| Candidate { bytes, ..candidate(finished_at) };
        let mut pinned = log(Some(1), 40);
        pinned.pins.push(Pin::KeepForever);
        let mut dear = log(Some(20), 10);
        dear.keep_for = Some(Duration::MAX);
        let artifact = Candidate { kind: CandidateKind::Artifact, ..log(Some(5), 1_000) };
        let seen =
            vec![log(Some(40), 10), log(None, 30), pinned, log(Some(30), 10), dear, artifact];
        for (most, gone) in [
            (100, &[][..]),
            (99, &[20]),
            (90, &[20]),
            (89, &[20, 30]),
            (79, &[20, 30, 40]),
            (0, &[20, 30, 40]),
        ] {
            let retention = retention(1_000, 1_000).with_log_bytes(most);
            let plan = plan(at(50), &retention, seen.clone());
            let order: Vec<_> =
                plan.reap.iter().map(|c| c.finished_at.unwrap().as_second()).collect();
            assert_eq!(order, gone, "at most {most}");
            assert_eq!(plan.reap.len() + plan.keep.len(), seen.len());
        }
    }

    #[test]
    fn a_reason_reads_as_one() {
        assert_eq!(KeepReason::Until(at(0)).to_string(), "kept until 1970-01-01T00:00:00Z");
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (
            prop::sample::select(vec![CandidateKind::Log, CandidateKind::Artifact]),
            0_u32..100_000,
            prop::option::weighted(0.8, -300_i64..300),
            prop::option::of(0_u64..300),
            prop::collection::vec(
                prop::sample::select(vec![Pin::KeepForever, Pin::LastSuccess]),
                0..2,
            ),
        )
            .prop_map(|(kind, id, finished_at, keep_for, pins)| Candidate {
                kind,
                id: id.to_string(),
                keep_for: keep_for.map(Duration::from_secs),
                pins,
                ..candidate(finished_at)
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// The model counts in whole seconds and says for each candidate alone whether it may go.
        #[test]
        fn exactly_what_the_model_lets_go_is_reaped(
            now in -300_i64..600,
            logs in 0_u64..300,
            artifacts in 0_u64..300,
            seen in prop::collection::vec(any_candidate(), 0..20),
        ) {
            let may_go = |candidate: &Candidate| {
                let default = match candidate.kind {
                    CandidateKind::Log => logs,
                    _ => artifacts,
                };
                let keep_for = candidate.keep_for.map_or(default, |own| own.as_secs());
                candidate.pins.is_empty()
                    && candidate.finished_at.is_some_and(|finished_at| {
                        let age = now - finished_at.as_second();
                        age >= 0 && age >= keep_for as i64
                    })
            };
            let plan = plan(at(now), &retention(logs, artifacts), seen.clone());
            let mut expected: Vec<_> = seen.iter().filter(|c| may_go(c)).cloned().collect();
            let mut kept: Vec<_> = seen.into_iter().filter(|c| !may_go(c)).collect();
            let mut reaped = plan.reap.clone();
            let mut stayed: Vec<_> = plan.keep.into_iter().map(|(c, _)| c).collect();
            for list in [&mut expected, &mut kept, &mut reaped, &mut stayed] {
                list.sort_by_key(|c| format!("{c:?}"));
            }
            prop_assert_eq!(reaped, expected);
            prop_assert_eq!(stayed, kept);
            prop_assert!(plan.reap.is_sorted_by_key(|c| c.finished_at));
        }
    }
}
