//! Laws about many calls at once, and the model.

use std::task::Poll;

use danube_core::{CandidateKind, JobState};

use super::{at, finished_step, id, job, step, to};
use crate::{Error, JobCursor, JobQuery, JobRecord, JobStore, MemoryJobs, StepRecord, Transition};

/// Runs the calls on one task, all of them begun before any is finished.
pub(super) async fn all<T>(calls: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut calls: Vec<_> = calls.into_iter().map(|call| (Box::pin(call), None)).collect();
    std::future::poll_fn(|context| {
        let mut waits = false;
        for (call, result) in &mut calls {
            if result.is_none() {
                match call.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => waits = true,
                }
            }
        }
        if waits { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    calls.into_iter().filter_map(|(_, result)| result).collect()
}

/// Runs two futures on one task.
async fn both<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let (mut a, mut b) = (None, None);
    std::future::poll_fn(|context| {
        if a.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(context)
        {
            a = Some(value);
        }
        if b.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(context)
        {
            b = Some(value);
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (one, other) => {
                (a, b) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

/// Of many that create one id at once, one succeeds, and its record stands.
pub async fn of_many_creators_one_wins(store: &impl JobStore) {
    let records: Vec<_> = (0..16)
        .map(|n| JobRecord {
            name: n.to_string(),
            steps: vec![step(n, &format!("step {n}"))],
            ..job("j")
        })
        .collect();
    let results = all(records.iter().map(|record| store.create(record))).await;
    let winners: Vec<_> = (0..16).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{winners:?} were told that they created the job");
    for refused in results.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    }
    assert_eq!(store.get(&id("j")).await.expect("get"), records[winners[0]]);
}

/// Of many that end one job at once, one succeeds, and its end stands.
pub async fn of_many_that_end_a_job_one_wins(store: &impl JobStore) {
    store.create(&job("j")).await.expect("create");
    let changes: Vec<_> = (0..15)
        .map(|n| {
            let ends = [JobState::Failed, JobState::Lost, JobState::Cancelled];
            to(ends[n % 3], n as i64).with_message(n.to_string())
        })
        .collect();
    let j = id("j");
    let results = all(changes.iter().map(|change| store.transition(&j, change))).await;
    let winners: Vec<_> = (0..15).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{winners:?} were told that they ended the job");
    let kept = store.get(&id("j")).await.expect("get");
    let won = &changes[winners[0]];
    assert_eq!((kept.state, kept.finished_at), (won.to, Some(won.at)));
    assert_eq!((kept.lost_reason, kept.message), (won.lost_reason, won.message.clone()));
}

/// Changes of one job that concern different things do not undo each other.
pub async fn steps_recorded_at_once_are_all_kept(store: &impl JobStore) {
    store.create(&job("j")).await.expect("create");
    let steps: Vec<_> = (0..16).map(|n| finished_step(n, &format!("step {n}"))).collect();
    let j = id("j");
    let puts = steps.iter().map(|step| store.put_step(&j, step));
    let (puts, cancel) = both(all(puts), store.request_cancel(&j, at(3))).await;
    assert!(puts.into_iter().all(|put| put.is_ok()) && cancel.is_ok());
    let kept = store.get(&j).await.expect("get");
    assert_eq!((kept.steps, kept.cancel_requested_at), (steps, Some(at(3))));
}

/// A reader never sees a job that ended with a step that runs, nor an end without its time.
pub async fn readers_see_a_job_at_one_moment(store: &impl JobStore) {
    let ids: Vec<_> = (0..20).map(|n| id(&format!("j{n}"))).collect();
    for named in &ids {
        let steps = vec![
            StepRecord { state: JobState::Running, started_at: Some(at(1)), ..step(0, "a") },
            step(1, "b"),
        ];
        store.create(&JobRecord { steps, ..job(named.as_str()) }).await.expect("create");
    }
    let write = async {
        for named in &ids {
            store.transition(named, &to(JobState::Failed, 5)).await.expect("transition");
        }
    };
    let read = async {
        loop {
            let mut ended = store.get(&ids[19]).await.expect("get").state.is_terminal();
            let seen = store.list(&JobQuery::default()).await.expect("list");
            assert_eq!(seen.len(), ids.len());
            for job in seen {
                let is_over = job.state.is_terminal();
                assert_eq!(job.finished_at.is_some(), is_over);
                assert!(job.steps.iter().all(|step| step.state.is_terminal() == is_over));
                ended &= is_over;
            }
            if ended {
                break;
            }
        }
    };
    both(write, read).await;
}

/// The same numbers each time (splitmix64), so that a failure repeats.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

async fn act(store: &impl JobStore, numbers: &mut Numbers, second: i64) -> Result<String, Error> {
    let named = id(["a", "ab", "abc", "B", "b-1", "c_2"][numbers.below(6)]);
    let state = JobState::ALL[numbers.below(JobState::ALL.len())];
    // Steps that have ended, mostly: or hardly a job would ever succeed.
    let some_step = |numbers: &mut Numbers| {
        let position = numbers.below(3) as u32;
        let name = ["x", "y", "z"][numbers.below(3)];
        if numbers.below(4) == 0 { step(position, name) } else { finished_step(position, name) }
    };
    Ok(match numbers.below(12) {
        0..3 => {
            let steps = (0..numbers.below(3)).map(|_| some_step(numbers)).collect();
            let created_at = at(numbers.below(4) as i64);
            let record = JobRecord { created_at, steps, ..job(named.as_str()) };
            store.create(&record).await.map(|()| String::new())?
        }
        3..6 => {
            let mut change: Transition = to(state, second);
            if numbers.below(3) == 0 {
                change = change.with_message(second.to_string()).with_log(second as u64, true);
            }
            store.transition(&named, &change).await?.to_string()
        }
        6..9 => {
            let step = some_step(numbers);
            store.put_step(&named, &step).await.map(|()| String::new())?
        }
        9 => store.request_cancel(&named, at(second)).await?.to_string(),
        10 => {
            let kind = [CandidateKind::Log, CandidateKind::Artifact][numbers.below(2)];
            store.mark_deleted(&named, kind, at(second)).await.map(|()| String::new())?
        }
        _ => {
            let limit = numbers.below(7);
            let cursor = JobCursor { created_at: at(numbers.below(4) as i64), id: named.clone() };
            let mut query = JobQuery::default().with_limit(limit);
            if numbers.below(2) == 0 {
                query = query.with_before(cursor).with_unfinished_only(numbers.below(2) == 0);
            }
            let listed = store.list(&query).await?;
            let ids = store.matching(["a", "b", "1", "_2"][numbers.below(4)], limit).await?;
            format!("{listed:?} {ids:?}")
        }
    })
}

/// Any sequence of calls answers, refuses and leaves behind what [`MemoryJobs`] does.
pub async fn random_operations_agree_with_memory(store: &impl JobStore) {
    let model = MemoryJobs::new();
    for n in 0..600 {
        let (ours, models) = (
            act(store, &mut Numbers(n), n as i64).await.map_err(|error| error.to_string()),
            act(&model, &mut Numbers(n), n as i64).await.map_err(|error| error.to_string()),
        );
        assert_eq!(ours, models, "call {n}");
    }
    let everything = JobQuery::default();
    let kept = store.list(&everything).await.expect("list");
    assert_eq!(kept, model.list(&everything).await.expect("list"));
    assert!(kept.iter().any(|job| job.state == JobState::Succeeded), "{kept:?}");
    for job in kept {
        assert_eq!(store.get(&job.id).await.expect("get"), job);
    }
}
