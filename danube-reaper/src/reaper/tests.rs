//! Passes over sweeps in memory, some of which fail.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use danube_core::{Candidate, ErrorClass, ManualClock, Pin, Reaped, SweepError};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// Keeps candidates by id, and refuses or fails where told.
#[derive(Debug, Default)]
struct Things {
    kept: Mutex<BTreeMap<String, Candidate>>,
    stuck: Vec<String>,
    silent: bool,
}

impl fmt::Display for Things {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("things in memory")
    }
}

#[async_trait]
impl Sweep for Things {
    async fn candidates(&self) -> Result<Vec<Candidate>, SweepError> {
        if self.silent {
            return Err(failure("listing"));
        }
        Ok(self.kept.lock().unwrap().values().cloned().collect())
    }

    async fn reap(&self, candidate: &Candidate) -> Result<Reaped, SweepError> {
        if self.stuck.contains(&candidate.id) {
            return Err(failure("deleting"));
        }
        let mut kept = self.kept.lock().unwrap();
        match kept.get(&candidate.id) {
            None => Ok(Reaped::default()),
            Some(now) if now.version != candidate.version => {
                Err(SweepError::Changed { id: candidate.id.clone() })
            }
            Some(_) => {
                kept.remove(&candidate.id);
                Ok(Reaped { bytes_freed: if candidate.shared { 0 } else { candidate.bytes } })
            }
        }
    }
}

fn failure(operation: &str) -> SweepError {
    SweepError::Backend {
        operation: operation.into(),
        class: ErrorClass::Unavailable,
        source: "the disk is gone".into(),
    }
}

fn day(day: u32) -> Timestamp {
    Timestamp::UNIX_EPOCH + day * DAY
}

/// A thing that finished on this day.
fn thing(kind: CandidateKind, id: &str, finished_on: u32) -> Candidate {
    Candidate {
        kind,
        id: id.into(),
        owner: "job".parse().unwrap(),
        bytes: 10,
        shared: false,
        finished_at: Some(day(finished_on)),
        keep_for: None,
        pins: Vec::new(),
        version: "1".into(),
    }
}

fn log(id: &str, finished_on: u32) -> Candidate {
    thing(CandidateKind::Log, id, finished_on)
}

fn things(candidates: impl IntoIterator<Item = Candidate>) -> Things {
    let kept = candidates.into_iter().map(|c| (c.id.clone(), c)).collect();
    Things { kept: Mutex::new(kept), ..Things::default() }
}

/// Day 100, thirty days of retention.
fn reaper(logs: &Arc<Things>) -> Reaper {
    Reaper::new(Arc::new(ManualClock::new(day(100))), Retention::default())
        .with_sweep(CandidateKind::Log, logs.clone())
}

fn ids<'a>(candidates: impl IntoIterator<Item = &'a Candidate>) -> Vec<&'a str> {
    candidates.into_iter().map(|c| c.id.as_str()).collect()
}

fn left(things: &Things) -> Vec<String> {
    things.kept.lock().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn what_is_old_goes_and_a_second_pass_finds_nothing_to_do() {
    let mut pinned = log("pinned", 1);
    pinned.pins.push(Pin::KeepForever);
    let mut running = log("running", 1);
    running.finished_at = None;
    let mut shared = log("shared", 3);
    shared.shared = true;
    let all = [log("old", 2), log("at the limit", 70), log("young", 71), pinned, running, shared];
    let logs = Arc::new(things(all));
    let reaper = reaper(&logs);

    let report = reaper.run().await.unwrap();
    assert_eq!(ids(report.reaped.iter().map(|(c, _)| c)), ["old", "shared", "at the limit"]);
    assert_eq!((report.bytes_freed, report.kept, report.is_complete()), (20, 3, true));
    assert_eq!(left(&logs), ["pinned", "running", "young"]);

    let again = reaper.run().await.unwrap();
    assert!(again.reaped.is_empty() && again.bytes_freed == 0 && again.is_complete());
}

#[tokio::test]
async fn a_dry_run_chooses_what_a_real_one_deletes_and_deletes_nothing() {
    let logs = Arc::new(things((0..200).map(|n| log(&n.to_string(), n % 100))));
    let reaper = reaper(&logs);
    let plan = reaper.plan().await.unwrap();
    assert_eq!(left(&logs).len(), 200);
    let report = reaper.run().await.unwrap();
    assert_eq!(ids(report.reaped.iter().map(|(c, _)| c)), ids(&plan.reap));
    assert_eq!((plan.reap.len(), plan.bytes()), (142, report.bytes_freed));
}

#[tokio::test]
async fn one_failure_does_not_stop_the_others() {
    let mut logs = things([log("a", 1), log("b", 2), log("c", 3)]);
    logs.stuck.push("b".into());
    let logs = Arc::new(logs);
    let report = reaper(&logs).run().await.unwrap();
    assert_eq!(ids(report.reaped.iter().map(|(c, _)| c)), ["a", "c"]);
    assert_eq!(ids(report.failed.iter().map(|(c, _)| c)), ["b"]);
    assert_eq!((report.bytes_freed, report.is_complete()), (20, false));
    assert_eq!(left(&logs), ["b"]);
}

#[tokio::test]
async fn what_changed_since_the_plan_is_not_deleted_and_what_is_gone_is_no_failure() {
    let logs = Arc::new(things([log("changed", 1), log("gone", 2)]));
    let reaper = reaper(&logs);
    let plan = reaper.plan().await.unwrap();
    {
        let mut kept = logs.kept.lock().unwrap();
        kept.get_mut("changed").unwrap().version = "2".into();
        kept.remove("gone");
    }
    let report = execute(plan, &reaper.sweeps).await;
    assert!(matches!(&report.failed[..], [(_, SweepError::Changed { id })] if id == "changed"));
    assert_eq!(ids(report.reaped.iter().map(|(c, _)| c)), ["gone"]);
    assert_eq!(report.bytes_freed, 0);
    assert_eq!(left(&logs), ["changed"]);
}

#[tokio::test]
async fn a_sweep_that_cannot_answer_does_not_stop_the_others() {
    let logs = Arc::new(Things { silent: true, ..things([log("log", 1)]) });
    let artifacts = Arc::new(things([thing(CandidateKind::Artifact, "artifact", 1)]));
    let reaper = reaper(&logs).with_sweep(CandidateKind::Artifact, artifacts.clone());
    let report = reaper.run().await.unwrap();
    assert_eq!(report.unlisted[0].0, "things in memory");
    assert!(!report.is_complete());
    assert_eq!((left(&logs).len(), left(&artifacts).len()), (1, 0));
}

#[tokio::test]
async fn a_sweep_is_trusted_with_its_own_kind_only() {
    let logs = Arc::new(things([thing(CandidateKind::Artifact, "artifact", 1), log("log", 1)]));
    let artifacts = Arc::new(things([]));
    let reaper = reaper(&logs).with_sweep(CandidateKind::Artifact, artifacts);
    let plan = reaper.plan().await.unwrap();
    assert_eq!(ids(&plan.reap), ["log"]);
    assert_eq!(plan.keep[0].1, KeepReason::ForeignKind);
}

#[tokio::test]
async fn a_kind_that_nobody_deletes_is_a_failure_and_not_silence() {
    let plan = plan(day(100), &Retention::default(), vec![log("log", 1)]);
    let report = execute(plan, &Sweeps::new()).await;
    assert_eq!(report.failed[0].1.class(), ErrorClass::Unsupported);
}

#[tokio::test]
async fn nothing_is_deleted_by_a_clock_that_is_far_behind() {
    // A day behind is tolerated; what is from the future stays all the same.
    let logs = Arc::new(things([log("old", 1), log("tomorrow", 101)]));
    assert_eq!(reaper(&logs).run().await.unwrap().reaped.len(), 1);
    assert_eq!(left(&logs), ["tomorrow"]);

    let mut later = log("later", 101);
    later.finished_at = Some(day(101) + Duration::from_nanos(1));
    let logs = Arc::new(things([log("old", 1), later]));
    let error = reaper(&logs).run().await.unwrap_err();
    assert!(matches!(&error, Error::ClockBehind { id, .. } if id == "later"));
    assert!(error.to_string().starts_with("the clock says 1970-04-11T00:00:00Z"), "{error}");
    assert_eq!(left(&logs).len(), 2);
}

#[tokio::test]
async fn a_retention_of_zero_is_refused() {
    let logs = Arc::new(things([log("old", 1)]));
    let clock = Arc::new(ManualClock::new(day(100)));
    let zero = Retention::default().with_logs(Duration::ZERO);
    let reaper = Reaper::new(clock, zero).with_sweep(CandidateKind::Log, logs.clone());
    let error = reaper.run().await.unwrap_err();
    assert!(matches!(error, Error::ZeroRetention { kind: CandidateKind::Log }));
    assert_eq!((error.class(), left(&logs).len()), (ErrorClass::Invalid, 1));
}
