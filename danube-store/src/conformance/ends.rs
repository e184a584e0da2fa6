//! Laws about states, ends and what comes after them.

use danube_core::{CandidateKind, ErrorClass, JobState, LostReason};

use super::{at, finished_step, id, job, step, step_name, terminal, to};
use crate::{Error, JobRecord, JobStore, LogFacts, StepRecord, Transition};

/// Forward, any state may be left out; the times are those of the first step and of the end; `transition`
/// tells the state that was left.
pub async fn states_go_forward_and_set_their_times(store: &impl JobStore) {
    store.create(&job("j")).await.expect("create");
    let road = [
        (JobState::Pending, JobState::Pending, None, None),
        (JobState::Pending, JobState::Starting, Some(at(1)), None),
        (JobState::Starting, JobState::Running, Some(at(1)), None),
        (JobState::Running, JobState::Running, Some(at(1)), None),
        (JobState::Running, JobState::TimedOut, Some(at(1)), Some(at(4))),
    ];
    for (second, (from, state, started_at, finished_at)) in road.into_iter().enumerate() {
        let left = store.transition(&id("j"), &to(state, second as i64)).await.expect("transition");
        assert_eq!(left, from);
        let kept = store.get(&id("j")).await.expect("get");
        let expected = JobRecord { state, started_at, finished_at, ..job("j") };
        assert_eq!(kept, expected);
    }
    let backwards = [
        (JobState::Starting, JobState::Pending),
        (JobState::Running, JobState::Starting),
        (JobState::Running, JobState::Pending),
    ];
    for (n, (from, state)) in backwards.into_iter().enumerate() {
        let name = format!("back-{n}");
        store.create(&job(&name)).await.expect("create");
        store.transition(&id(&name), &to(from, 1)).await.expect("transition");
        let before = store.get(&id(&name)).await.expect("get");
        match store.transition(&id(&name), &to(state, 2)).await {
            Err(Error::Backwards { from: f, to: t, .. }) => assert_eq!((f, t), (from, state)),
            other => panic!("expected Backwards, got {other:?}"),
        }
        assert_eq!(store.get(&id(&name)).await.expect("get"), before);
    }
    // A job that never began has no beginning.
    store.create(&job("straight")).await.expect("create");
    store.transition(&id("straight"), &to(JobState::Cancelled, 3)).await.expect("transition");
    let kept = store.get(&id("straight")).await.expect("get");
    assert_eq!((kept.started_at, kept.finished_at), (None, Some(at(3))));
}

/// Message and facts about the log stay when a change brings none.
pub async fn a_change_keeps_what_it_does_not_name(store: &impl JobStore) {
    let record = JobRecord { message: Some("first".to_owned()), log_bytes: 7, ..job("j") };
    store.create(&record).await.expect("create");
    store.transition(&id("j"), &to(JobState::Starting, 1)).await.expect("transition");
    let kept = store.get(&id("j")).await.expect("get");
    assert_eq!((kept.message.as_deref(), kept.log_bytes), (Some("first"), 7));
    let full = Transition {
        to: JobState::Running,
        lost_reason: None,
        message: Some("second".to_owned()),
        at: at(2),
        log: Some(LogFacts { bytes: 99, truncated: true }),
    };
    store.transition(&id("j"), &full).await.expect("transition");
    store.transition(&id("j"), &to(JobState::Succeeded, 3)).await.expect("transition");
    let kept = store.get(&id("j")).await.expect("get");
    assert_eq!(
        (kept.message.as_deref(), kept.log_bytes, kept.log_truncated),
        (Some("second"), 99, true)
    );
}

/// No state leads out of a terminal one, and nothing about the job's run changes any more.
pub async fn what_ended_stays_as_it_is(store: &impl JobStore) {
    for end in terminal() {
        let record = JobRecord { steps: vec![finished_step(0, "a")], ..job(end.as_str()) };
        store.create(&record).await.expect("create");
        let change = to(end, 1).with_message("the end").with_log(5, false);
        store.transition(&record.id, &change).await.expect("transition");
        let ended = store.get(&record.id).await.expect("get");
        assert_eq!((ended.state, ended.finished_at), (end, Some(at(1))));
        for state in JobState::ALL {
            let again = to(*state, 2).with_message("again").with_log(6, true);
            match store.transition(&record.id, &again).await {
                Err(error @ Error::Finished { .. }) => {
                    assert_eq!(error.class(), ErrorClass::Conflict);
                    let Error::Finished { job, state } = error else { unreachable!() };
                    assert_eq!((&job, state), (&record.id, end));
                }
                other => panic!("expected Finished from {end} to {state}, got {other:?}"),
            }
        }
        for put in [step(0, "a"), finished_step(0, "a"), step(1, "b")] {
            let refused = store.put_step(&record.id, &put).await.expect_err("an ended job");
            assert!(matches!(refused, Error::Finished { .. }), "{refused:?}");
        }
        assert_eq!(store.request_cancel(&record.id, at(3)).await.expect("request_cancel"), end);
        assert_eq!(store.get(&record.id).await.expect("get"), ended);
    }
}

/// A loss names its reason, and only a loss does.
pub async fn a_loss_has_a_reason_and_nothing_else_has(store: &impl JobStore) {
    store.create(&job("j")).await.expect("create");
    for state in JobState::ALL {
        let mut wrong = to(*state, 1);
        wrong.lost_reason = match wrong.lost_reason {
            Some(_) => None,
            None => Some(LostReason::Collect),
        };
        let refused = store.transition(&id("j"), &wrong).await.expect_err("a wrong reason");
        assert!(matches!(refused, Error::Invalid { .. }), "{state}: {refused:?}");
    }
    assert_eq!(store.get(&id("j")).await.expect("get"), job("j"));
    for reason in LostReason::ALL {
        store.create(&job(reason.as_str())).await.expect("create");
        let change = Transition::lost(*reason, at(1));
        store.transition(&id(reason.as_str()), &change).await.expect("transition");
        let kept = store.get(&id(reason.as_str())).await.expect("get");
        assert_eq!((kept.state, kept.lost_reason), (JobState::Lost, Some(*reason)));
    }
}

/// Steps that have not ended take the job's state; only those that had begun take the time; those that
/// had ended stay.
pub async fn the_end_of_a_job_ends_its_steps(store: &impl JobStore) {
    for end in terminal().filter(|end| *end != JobState::Succeeded) {
        let running =
            StepRecord { state: JobState::Running, started_at: Some(at(3)), ..step(1, "b") };
        let steps = vec![finished_step(0, "a"), running.clone(), step(2, "c")];
        let record = JobRecord { steps, ..job(end.as_str()) };
        store.create(&record).await.expect("create");
        store.transition(&record.id, &to(end, 9)).await.expect("transition");
        let kept = store.get(&record.id).await.expect("get");
        let expected = [
            finished_step(0, "a"),
            StepRecord { state: end, finished_at: Some(at(9)), ..running },
            StepRecord { state: end, ..step(2, "c") },
        ];
        assert_eq!(kept.steps, expected);
    }
}

/// Nothing is called a success that has no verdict.
pub async fn success_needs_the_end_of_every_step(store: &impl JobStore) {
    for (n, state) in
        [JobState::Pending, JobState::Starting, JobState::Running].into_iter().enumerate()
    {
        let open = StepRecord { state, ..step(1, "open") };
        let steps = vec![finished_step(0, "a"), open, finished_step(2, "c")];
        let record = JobRecord { steps, ..job(&format!("j{n}")) };
        store.create(&record).await.expect("create");
        match store.transition(&record.id, &to(JobState::Succeeded, 1)).await {
            Err(Error::StepUnfinished { step, state: s, .. }) => {
                assert_eq!((step, s), (step_name("open"), state));
            }
            other => panic!("expected StepUnfinished, got {other:?}"),
        }
        assert_eq!(store.get(&record.id).await.expect("get"), record);
        store.put_step(&record.id, &finished_step(1, "open")).await.expect("put_step");
        store.transition(&record.id, &to(JobState::Succeeded, 2)).await.expect("transition");
        let kept = store.get(&record.id).await.expect("get");
        assert_eq!((kept.state, kept.finished_at), (JobState::Succeeded, Some(at(2))));
    }
}

/// The first request's time stays; each tells the state; the state itself is the runner's to change.
pub async fn the_first_request_to_cancel_stays(store: &impl JobStore) {
    store.create(&job("j")).await.expect("create");
    let found = store.request_cancel(&id("j"), at(1)).await.expect("request_cancel");
    assert_eq!(found, JobState::Pending);
    store.transition(&id("j"), &to(JobState::Running, 2)).await.expect("transition");
    let found = store.request_cancel(&id("j"), at(3)).await.expect("request_cancel");
    assert_eq!(found, JobState::Running);
    let kept = store.get(&id("j")).await.expect("get");
    assert_eq!((kept.state, kept.cancel_requested_at), (JobState::Running, Some(at(1))));
    store.transition(&id("j"), &to(JobState::Cancelled, 4)).await.expect("transition");
    let kept = store.get(&id("j")).await.expect("get");
    assert_eq!((kept.state, kept.cancel_requested_at), (JobState::Cancelled, Some(at(1))));
}

/// Each kind of data has its own mark, and the first time stays.
pub async fn the_first_mark_of_deletion_stays(store: &impl JobStore) {
    store.create(&job("j")).await.expect("create");
    store.transition(&id("j"), &to(JobState::Failed, 1)).await.expect("transition");
    let ended = store.get(&id("j")).await.expect("get");
    for second in [5, 6] {
        store.mark_deleted(&id("j"), CandidateKind::Log, at(second)).await.expect("mark");
        let kept = store.get(&id("j")).await.expect("get");
        assert_eq!(kept, JobRecord { log_deleted_at: Some(at(5)), ..ended.clone() });
    }
    store.mark_deleted(&id("j"), CandidateKind::Artifact, at(7)).await.expect("mark");
    let kept = store.get(&id("j")).await.expect("get");
    assert_eq!((kept.log_deleted_at, kept.artifacts_deleted_at), (Some(at(5)), Some(at(7))));
}

/// A running job's data is never deleted, so it is never marked.
pub async fn what_has_not_ended_is_not_marked_as_deleted(store: &impl JobStore) {
    for state in [JobState::Pending, JobState::Starting, JobState::Running] {
        store.create(&job(state.as_str())).await.expect("create");
        store.transition(&id(state.as_str()), &to(state, 1)).await.expect("transition");
        let before = store.get(&id(state.as_str())).await.expect("get");
        for kind in [CandidateKind::Log, CandidateKind::Artifact] {
            let refused = store.mark_deleted(&before.id, kind, at(2)).await;
            assert!(matches!(refused, Err(Error::Unfinished { .. })), "{refused:?}");
        }
        assert_eq!(store.get(&before.id).await.expect("get"), before);
    }
}
