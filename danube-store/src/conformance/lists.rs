//! Laws about finding jobs.

use danube_core::{JobState, LostReason, Timestamp};

use super::{at, id, job, step, to};
use crate::{JobCursor, JobQuery, JobRecord, JobStore, JobTally, MAX_JOBS_PER_LIST, Transition};

async fn create(store: &impl JobStore, named: &str, second: i64) {
    let record = JobRecord { created_at: at(second), ..job(named) };
    store.create(&record).await.expect("create");
}

async fn list(store: &impl JobStore, query: &JobQuery) -> Vec<String> {
    store.list(query).await.expect("list").iter().map(|job| job.id.to_string()).collect()
}

/// By time, then by the bytes of the id, both descending; steps come along.
pub async fn the_list_is_newest_first(store: &impl JobStore) {
    assert!(list(store, &JobQuery::default()).await.is_empty());
    for (named, second) in
        [("b", 5), ("old", -9), ("a", 5), ("Z", 5), ("new", 7), ("b-1", 5), ("ab", 5)]
    {
        create(store, named, second).await;
    }
    store.put_step(&id("a"), &step(0, "only")).await.expect("put_step");
    let all = store.list(&JobQuery::default()).await.expect("list");
    let ids: Vec<_> = all.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids, ["new", "b-1", "b", "ab", "a", "Z", "old"]);
    assert_eq!(all[4].steps, [step(0, "only")]);
    assert!(all[3].steps.is_empty());
}

/// Pages of any size join without a gap or a repetition, also when many jobs have one time, when a
/// cursor is finer than what is kept, and when newer jobs come while paging.
pub async fn pages_name_every_job_once(store: &impl JobStore) {
    for n in 0..20 {
        create(store, &format!("j{n:02}"), n / 5).await;
    }
    let whole = list(store, &JobQuery::default()).await;
    assert_eq!(whole.len(), 20);
    for limit in [1, 3, 19, 20, 21] {
        let mut seen = Vec::new();
        let mut query = JobQuery::default().with_limit(limit);
        loop {
            let page = store.list(&query).await.expect("list");
            let Some(last) = page.last() else { break };
            assert!(page.len() <= limit);
            query = query.with_before(JobCursor::from(last));
            seen.extend(page.into_iter().map(|job| job.id.to_string()));
            create(store, &format!("newer-{limit}-{}", seen.len()), 1_000).await;
        }
        let seen: Vec<_> = seen.into_iter().filter(|id| !id.starts_with("newer")).collect();
        assert_eq!(seen, whole);
    }
    // A cursor that names no job is a place all the same.
    let fine = Timestamp::new(at(2).as_second(), 999).expect("a valid time");
    let between = JobCursor { created_at: fine, id: id("j12-and-a-half") };
    let page = list(store, &JobQuery::default().with_before(between).with_limit(2)).await;
    assert_eq!(page, ["j12", "j11"]);
}

/// None for 0; never more than the bound of the contract.
pub async fn limits_are_bounds(store: &impl JobStore) {
    for n in 0..MAX_JOBS_PER_LIST + 2 {
        create(store, &format!("job-{n}"), n as i64).await;
    }
    for (limit, count) in [(0, 0), (1, 1), (usize::MAX, MAX_JOBS_PER_LIST)] {
        assert_eq!(list(store, &JobQuery::default().with_limit(limit)).await.len(), count);
        let ids = store.matching("job-", limit).await.expect("matching");
        assert_eq!(ids.len(), count);
    }
    assert_eq!(list(store, &JobQuery::default()).await.len(), 100);
}

/// Each job under its state, and its reason where it is lost; nothing that no job is in.
pub async fn the_tally_counts_every_job_once(store: &impl JobStore) {
    assert!(store.tally().await.expect("tally").is_empty());
    let reasons = [LostReason::Sign, LostReason::OwnerDied, LostReason::Sign];
    for (n, reason) in reasons.into_iter().enumerate() {
        let named = format!("lost-{n}");
        create(store, &named, 0).await;
        let lost = Transition::lost(reason, at(9));
        store.transition(&id(&named), &lost).await.expect("transition");
    }
    for n in 0..3 {
        let named = format!("done-{n}");
        create(store, &named, 0).await;
        store.transition(&id(&named), &to(JobState::Succeeded, 9)).await.expect("transition");
        store.put_step(&id(&named), &step(0, "late")).await.expect_err("it has ended");
    }
    create(store, "young", 0).await;
    store.put_step(&id("young"), &step(0, "one")).await.expect("put_step");
    store.put_step(&id("young"), &step(1, "two")).await.expect("put_step");
    let of = |state, lost_reason, jobs| JobTally { state, lost_reason, jobs };
    let wanted = [
        of(JobState::Lost, Some(LostReason::OwnerDied), 1),
        of(JobState::Lost, Some(LostReason::Sign), 2),
        of(JobState::Pending, None, 1),
        of(JobState::Succeeded, None, 3),
    ];
    assert_eq!(store.tally().await.expect("tally"), wanted);
}

/// `unfinished_only` gives exactly the jobs whose state is not terminal, page by page.
pub async fn unfinished_jobs_are_listed_apart(store: &impl JobStore) {
    for (n, state) in JobState::ALL.iter().enumerate() {
        create(store, state.as_str(), n as i64).await;
        if *state != JobState::Pending {
            store.transition(&id(state.as_str()), &to(*state, 9)).await.expect("transition");
        }
    }
    let unfinished = JobQuery::default().with_unfinished_only(true);
    assert_eq!(list(store, &unfinished).await, ["running", "starting", "pending"]);
    let first = store.list(&unfinished.clone().with_limit(2)).await.expect("list");
    let rest = unfinished.with_before(JobCursor::from(&first[1]));
    assert_eq!(list(store, &rest).await, ["pending"]);
    assert_eq!(list(store, &JobQuery::default()).await.len(), JobState::ALL.len());
}

/// Beginnings and ends match byte for byte; nothing in the text is a pattern.
pub async fn ids_are_matched_at_both_ends_byte_for_byte(store: &impl JobStore) {
    for (named, second) in
        [("abcd-1", 0), ("abcd_2", 1), ("x-abcd", 2), ("ABCD-3", 3), ("xabcdx", 4), ("abcd", 5)]
    {
        create(store, named, second).await;
    }
    let cases: &[(&str, &[&str])] = &[
        ("abcd", &["abcd", "x-abcd", "abcd_2", "abcd-1"]),
        ("abcd_", &["abcd_2"]),
        ("abc%", &[]),
        ("abc*", &[]),
        ("?bcd", &[]),
        ("ABCD", &["ABCD-3"]),
        ("-3", &["ABCD-3"]),
        ("abcd-1", &["abcd-1"]),
        ("abcd-12", &[]),
        ("ä", &[]),
        ("abcd\0", &[]),
        ("'; --", &[]),
        ("", &["abcd", "xabcdx", "ABCD-3", "x-abcd", "abcd_2", "abcd-1"]),
    ];
    for (text, expected) in cases {
        let found = store.matching(text, 10).await.expect("matching");
        let found: Vec<_> = found.iter().map(|id| id.as_str()).collect();
        assert_eq!(found, *expected, "{text:?}");
    }
    assert_eq!(store.matching("abcd", 2).await.expect("matching"), [id("abcd"), id("x-abcd")]);
    let long = "a".repeat(100_000);
    assert!(store.matching(&long, 10).await.expect("matching").is_empty());
}
