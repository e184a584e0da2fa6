//! The laws of [`ArtifactIndex`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use danube_core::{ArtifactName, ErrorClass, JobId, Sha256Digest, Timestamp};

use crate::{
    ArtifactId, ArtifactIndex, ArtifactKind, ArtifactRecord, ArtifactState, Error, RecordChange,
};

fn job(id: &str) -> JobId {
    id.parse().expect("a valid job id")
}

fn name(name: &str) -> ArtifactName {
    name.parse().expect("a valid artifact name")
}

/// The id follows from the names, so that two of the same are equal.
fn record(of_job: &str, named: &str) -> ArtifactRecord {
    let (job, name) = (job(of_job), name(named));
    let digest = Sha256Digest::from_bytes([named.len() as u8; 32]);
    let created_at = Timestamp::from_millisecond(1_700_000_000_123).expect("a valid time");
    ArtifactRecord {
        id: ArtifactId::of_old(&job, &name, &digest, created_at),
        job,
        name,
        size_bytes: named.len() as u64,
        digest,
        content_type: "application/octet-stream".to_owned(),
        kind: ArtifactKind::Other,
        state: ArtifactState::Uploading,
        created_at,
        archived_at: None,
        keep_for: None,
        keep_forever: false,
        tags: BTreeMap::new(),
    }
}

fn new_id() -> ArtifactId {
    ArtifactId::mint(Timestamp::UNIX_EPOCH)
}

/// The record in this state, with what belongs to it.
fn in_state(record: ArtifactRecord, state: ArtifactState) -> ArtifactRecord {
    let archived = state == ArtifactState::Archived;
    ArtifactRecord { state, archived_at: archived.then_some(record.created_at), ..record }
}

fn to_state(state: ArtifactState) -> RecordChange {
    match state {
        ArtifactState::Archived => RecordChange::archived(record("j", "a").created_at),
        state => RecordChange::state(state),
    }
}

fn names(records: &[ArtifactRecord]) -> Vec<&str> {
    records.iter().map(|record| record.name.as_str()).collect()
}

/// A record comes back whole: the largest size, tags of every script, early times, every state.
pub async fn what_was_put_is_got_back(index: impl ArtifactIndex) {
    let full = ArtifactRecord {
        size_bytes: i64::MAX as u64,
        digest: Sha256Digest::from_bytes(std::array::from_fn(|at| at as u8)),
        content_type: "text/plain; charset=\"utf-8\"".to_owned(),
        kind: ArtifactKind::Log,
        state: ArtifactState::Archived,
        archived_at: Some(Timestamp::from_millisecond(1_800_000_000_456).expect("a valid time")),
        keep_for: Some(Duration::from_secs(86_400 * 365 * 50)),
        keep_forever: true,
        tags: [("branch", "größe/'; DROP TABLE x; --"), ("empty", ""), ("ключ", "🦀")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..record("j", "out/it's a \"name\" % _ \\.bin")
    };
    index.put(&full).await.expect("put");
    assert_eq!(index.get(&full.job, &full.name).await.expect("get"), full);
    assert_eq!(index.list(&full.job, None, 10).await.expect("list"), std::slice::from_ref(&full));
    assert_eq!(index.all(None, 10).await.expect("all"), [full]);

    for state in ArtifactState::ALL {
        let with_state = in_state(record("j", "state"), *state);
        index.put(&with_state).await.expect("put");
        assert_eq!(index.get(&job("j"), &name("state")).await.expect("get"), with_state);
    }
    for kind in ArtifactKind::ALL {
        let of_kind = ArtifactRecord { kind: *kind, ..record("j", "kind") };
        index.put(&of_kind).await.expect("put");
        assert_eq!(index.get(&job("j"), &name("kind")).await.expect("get"), of_kind);
    }
    let early =
        ArtifactRecord { created_at: Timestamp::UNIX_EPOCH, size_bytes: 0, ..record("j", "early") };
    index.put(&early).await.expect("put");
    assert_eq!(index.get(&early.job, &early.name).await.expect("get"), early);
}

/// `put` is an upsert by job and name, and every field is the new one's.
pub async fn a_put_replaces_the_record_of_that_name_only(index: impl ArtifactIndex) {
    let mut first = record("j", "a");
    first.tags.insert("old".to_owned(), "1".to_owned());
    first.keep_for = Some(Duration::from_secs(5));
    let same_name_elsewhere = record("k", "a");
    for record in [&first, &same_name_elsewhere, &record("j", "b")] {
        index.put(record).await.expect("put");
    }
    let second =
        ArtifactRecord { size_bytes: 99, state: ArtifactState::Active, ..record("j", "a") };
    index.put(&second).await.expect("put");
    index.put(&second).await.expect("the same put again");
    assert_eq!(index.get(&second.job, &second.name).await.expect("get"), second);
    assert_eq!(index.get(&job("k"), &name("a")).await.expect("get"), same_name_elsewhere);
    assert_eq!(names(&index.list(&job("j"), None, 10).await.expect("list")), ["a", "b"]);
}

/// A missing record is `NoRecord` for `get` and `change`, and an empty list for `list`.
pub async fn what_is_not_there_is_told(index: impl ArtifactIndex) {
    index.put(&record("j", "a")).await.expect("put");
    for (of_job, named) in [("j", "b"), ("k", "a"), ("J", "a"), ("j", "A")] {
        let got = index.get(&job(of_job), &name(named)).await.expect_err("get");
        assert!(matches!(got, Error::NoRecord { .. }), "{got:?}");
        assert_eq!(got.class(), ErrorClass::NotFound);
        let change = RecordChange::state(ArtifactState::Deleted);
        let set = index.change(&job(of_job), &name(named), &change).await;
        assert!(matches!(set, Err(Error::NoRecord { .. })), "{set:?}");
    }
    assert!(index.list(&job("k"), None, 10).await.expect("list").is_empty());
    assert_eq!(index.get(&job("j"), &name("a")).await.expect("get"), record("j", "a"));
}

/// `list` gives the records of its job and of no other, by name.
pub async fn a_list_is_one_job_in_the_order_of_names(index: impl ArtifactIndex) {
    for (of_job, named) in [("j", "c"), ("j1", "x"), ("j", "a/b"), ("i", "y"), ("j", "a")] {
        index.put(&record(of_job, named)).await.expect("put");
    }
    assert_eq!(names(&index.list(&job("j"), None, 10).await.expect("list")), ["a", "a/b", "c"]);
}

/// Pages join without a gap or a repetition, also when a name seen before is gone.
pub async fn paging_names_every_record_once(index: impl ArtifactIndex) {
    let every: Vec<String> = (0..25).map(|at| format!("n{at:02}")).collect();
    for named in &every {
        index.put(&record("j", named)).await.expect("put");
    }
    for limit in [1, 7, 25, 26] {
        let mut seen: Vec<ArtifactRecord> = Vec::new();
        loop {
            let after = seen.last().map(|record| record.name.clone());
            let page = index.list(&job("j"), after.as_ref(), limit).await.expect("list");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert_eq!(names(&seen), every);
    }
    assert!(index.list(&job("j"), None, 0).await.expect("list").is_empty());
    assert!(index.all(None, 0).await.expect("all").is_empty());
    index.remove(&job("j"), &name("n05")).await.expect("remove");
    let after_the_removed = index.list(&job("j"), Some(&name("n05")), 2).await.expect("list");
    assert_eq!(names(&after_the_removed), ["n06", "n07"]);
    let huge = index.list(&job("j"), None, usize::MAX).await.expect("a limit of any size");
    assert_eq!(huge.len(), 24);
}

/// `all` pages through every job.
pub async fn all_goes_by_job_and_name(index: impl ArtifactIndex) {
    let order = [("a", "z"), ("b", "a"), ("b", "b"), ("b-c", "a"), ("c", "a")];
    for (of_job, named) in order.iter().rev() {
        index.put(&record(of_job, named)).await.expect("put");
    }
    for limit in 1..=6 {
        let mut seen: Vec<ArtifactRecord> = Vec::new();
        loop {
            let after = seen.last().map(|record| (record.job.clone(), record.name.clone()));
            let after = after.as_ref().map(|(job, name)| (job, name));
            let page = index.all(after, limit).await.expect("all");
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        let seen: Vec<_> = seen.iter().map(|r| (r.job.as_str(), r.name.as_str())).collect();
        assert_eq!(seen, order);
    }
}

/// `change` touches what it says, of one record.
pub async fn a_change_changes_what_it_says(index: impl ArtifactIndex) {
    let mut now = record("j", "a");
    now.tags.insert("k".to_owned(), "v".to_owned());
    index.put(&now).await.expect("put");
    index.put(&record("j", "b")).await.expect("put");
    let (active, archived) = (ArtifactState::Active, ArtifactState::Archived);
    for state in [active, active, archived, active, archived, ArtifactState::Uploading] {
        let changed = index.change(&now.job, &now.name, &to_state(state)).await;
        now = in_state(now, state);
        assert_eq!(changed.expect("change"), now);
        assert_eq!(index.get(&now.job, &now.name).await.expect("get"), now);
    }
    let change = RecordChange::default()
        .with_tag("new", "1")
        .with_tag("k", "other")
        .without_tag("never was")
        .with_keep_forever(true)
        .with_keep_for(Some(Duration::from_millis(2_500)));
    index.change(&now.job, &now.name, &change).await.expect("change");
    now.tags = [("new", "1"), ("k", "other")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    (now.keep_forever, now.keep_for) = (true, Some(Duration::from_secs(2)));
    assert_eq!(index.get(&now.job, &now.name).await.expect("get"), now);
    let back = RecordChange::default().without_tag("new").with_keep_for(None);
    let back = back.with_keep_forever(false);
    index.change(&now.job, &now.name, &back).await.expect("change");
    now.tags.remove("new");
    (now.keep_forever, now.keep_for) = (false, None);
    assert_eq!(index.get(&now.job, &now.name).await.expect("get"), now);

    let mut too_many = RecordChange::state(ArtifactState::Active);
    for at in 0..=crate::MAX_TAGS {
        too_many = too_many.with_tag(at.to_string(), "");
    }
    let refused = index.change(&now.job, &now.name, &too_many).await.expect_err("too many");
    assert_eq!(refused.class(), ErrorClass::Invalid);
    assert_eq!(index.get(&now.job, &now.name).await.expect("get"), now);
    assert_eq!(index.get(&job("j"), &name("b")).await.expect("get"), record("j", "b"));
}

/// A change that is for one artifact leaves the one that replaced it alone.
pub async fn a_change_for_one_artifact_does_not_touch_another(index: impl ArtifactIndex) {
    let first = record("j", "a");
    let second = ArtifactRecord { id: new_id(), ..first.clone() };
    index.put(&first).await.expect("put");
    let change = RecordChange::archived(first.created_at).only(first.id);
    let changed = index.change(&first.job, &first.name, &change).await.expect("change");
    assert_eq!(changed, in_state(first.clone(), ArtifactState::Archived));
    index.put(&second).await.expect("put");
    let refused = index.change(&first.job, &first.name, &change).await.expect_err("replaced");
    assert!(matches!(refused, Error::Replaced { .. }), "{refused:?}");
    assert_eq!(refused.class(), ErrorClass::Conflict);
    assert_eq!(index.get(&first.job, &first.name).await.expect("get"), second);
}

/// `find` gives the record that has the id now: not one that was replaced or removed.
pub async fn a_record_is_found_by_its_id_as_long_as_it_has_it(index: impl ArtifactIndex) {
    let (first, other) = (record("j", "a"), record("k", "a"));
    for record in [&first, &other] {
        index.put(record).await.expect("put");
        assert_eq!(index.find(&record.id).await.expect("find"), *record);
    }
    let change = RecordChange::state(ArtifactState::Deleted);
    let deleted = index.change(&first.job, &first.name, &change).await.expect("change");
    assert_eq!(index.find(&first.id).await.expect("find"), deleted);
    let second = ArtifactRecord { id: new_id(), ..first.clone() };
    index.put(&second).await.expect("put");
    assert_eq!(index.find(&second.id).await.expect("find"), second);
    index.remove(&second.job, &second.name).await.expect("remove");
    for gone in [first.id, second.id, new_id()] {
        let missing = index.find(&gone).await.expect_err("find");
        assert!(matches!(missing, Error::NoArtifact { .. }), "{missing:?}");
        assert_eq!(missing.class(), ErrorClass::NotFound);
    }
    assert_eq!(index.find(&other.id).await.expect("find"), other);
}

/// Two artifacts never have one id; an id is free again when its record is gone.
pub async fn an_id_is_of_one_artifact(index: impl ArtifactIndex) {
    let first = record("j", "a");
    index.put(&first).await.expect("put");
    for (of_job, named) in [("j", "b"), ("k", "a")] {
        let taken = ArtifactRecord { id: first.id, ..record(of_job, named) };
        let refused = index.put(&taken).await.expect_err("the id is taken");
        assert_eq!(refused.class(), ErrorClass::Invalid, "{refused:?}");
        let none = index.get(&taken.job, &taken.name).await.expect_err("nothing was put");
        assert!(matches!(none, Error::NoRecord { .. }), "{none:?}");
    }
    assert_eq!(index.find(&first.id).await.expect("find"), first);
    index.remove(&first.job, &first.name).await.expect("remove");
    let heir = ArtifactRecord { id: first.id, ..record("j", "b") };
    index.put(&heir).await.expect("the id is free again");
    assert_eq!(index.find(&first.id).await.expect("find"), heir);
}

/// Of several changes at once none is lost.
pub async fn changes_at_once_all_count(index: impl ArtifactIndex) {
    let index = Arc::new(index);
    index.put(&record("j", "a")).await.expect("put");
    let changing = (0..20).map(|at| {
        let index = Arc::clone(&index);
        tokio::spawn(async move {
            let change = RecordChange::default().with_tag(format!("tag{at}"), at.to_string());
            index.change(&job("j"), &name("a"), &change).await.expect("change");
        })
    });
    for change in changing.collect::<Vec<_>>() {
        change.await.expect("no panic");
    }
    let all = index.get(&job("j"), &name("a")).await.expect("get").tags;
    assert!((0..20).all(|at| all.contains_key(&format!("tag{at}"))), "{all:?}");
}

/// `change_all` gives what `change` gives, one after the other, and changes nothing where one is refused.
pub async fn several_are_changed_together_or_not_at_all(index: impl ArtifactIndex) {
    for (of_job, named) in [("j", "a"), ("j", "b"), ("j", "c"), ("k", "a")] {
        index.put(&record(of_job, named)).await.expect("put");
    }
    let to = |named, state| (name(named), RecordChange::state(state));
    let changes = [to("c", ArtifactState::Active), to("a", ArtifactState::Deleted)];
    let changed = index.change_all(&job("j"), &changes).await.expect("changed");
    let now = |named, state| ArtifactRecord { state, ..record("j", named) };
    let (a, c) = (now("a", ArtifactState::Deleted), now("c", ArtifactState::Active));
    assert_eq!(changed, [c.clone(), a.clone()]);
    let all = index.all(None, 10).await.expect("all");
    assert_eq!(all, [a, record("j", "b"), c, record("k", "a")]);

    let changes = [to("b", ArtifactState::Active), to("d", ArtifactState::Active)];
    let refused = index.change_all(&job("j"), &changes).await;
    assert!(matches!(&refused, Err(Error::NoRecord { name, .. }) if name.as_str() == "d"));
    assert_eq!(index.all(None, 10).await.expect("all"), all);
    assert!(index.change_all(&job("x"), &[]).await.expect("nothing to do").is_empty());
}

/// `remove` is idempotent.
pub async fn removing_twice_is_as_good_as_once(index: impl ArtifactIndex) {
    index.put(&record("j", "a")).await.expect("put");
    index.put(&record("j", "b")).await.expect("put");
    for _ in 0..2 {
        index.remove(&job("j"), &name("a")).await.expect("remove");
        assert_eq!(names(&index.list(&job("j"), None, 10).await.expect("list")), ["b"]);
    }
    index.remove(&job("unknown"), &name("a")).await.expect("remove of what never was");
    let mut again = record("j", "a");
    again.tags.insert("second".to_owned(), "life".to_owned());
    index.put(&again).await.expect("put");
    assert_eq!(index.get(&again.job, &again.name).await.expect("get"), again);
}

/// The bounds of [`ArtifactRecord::validate`] hold in the store.
pub async fn records_beyond_their_bounds_are_refused(index: impl ArtifactIndex) {
    let good = record("j", "a");
    index.put(&good).await.expect("put");
    let with_tag = |key: &str, value: &str| ArtifactRecord {
        tags: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..good.clone()
    };
    let many = (0..=crate::MAX_TAGS).map(|at| (at.to_string(), String::new())).collect();
    let bad = [
        ("too many tags", ArtifactRecord { tags: many, ..good.clone() }),
        ("empty key", with_tag("", "v")),
        ("long key", with_tag(&"k".repeat(crate::MAX_TAG_KEY_BYTES + 1), "v")),
        ("long value", with_tag("k", &"v".repeat(crate::MAX_TAG_VALUE_BYTES + 1))),
        ("a line break in a value", with_tag("k", "a\nb")),
        ("a NUL in a key", with_tag("a\0b", "v")),
        ("no content type", ArtifactRecord { content_type: String::new(), ..good.clone() }),
        ("archived at no time", ArtifactRecord { state: ArtifactState::Archived, ..good.clone() }),
        (
            "not archived at a time",
            ArtifactRecord { archived_at: Some(good.created_at), ..good.clone() },
        ),
        ("longer than any file", ArtifactRecord { size_bytes: 1 << 63, ..good.clone() }),
        ("header injection", ArtifactRecord { content_type: "a/b\r\nx: y".into(), ..good.clone() }),
    ];
    for (desc, bad) in bad {
        let refused = index.put(&bad).await.expect_err(desc);
        assert_eq!(refused.class(), ErrorClass::Invalid, "{desc}: {refused:?}");
    }
    assert_eq!(index.get(&good.job, &good.name).await.expect("get"), good);
    let at_the_bounds = ArtifactRecord {
        tags: (0..crate::MAX_TAGS)
            .map(|at| {
                let key = format!("{at:0width$}", width = crate::MAX_TAG_KEY_BYTES);
                (key, "v".repeat(crate::MAX_TAG_VALUE_BYTES))
            })
            .collect(),
        ..good.clone()
    };
    index.put(&at_the_bounds).await.expect("put at the bounds");
    assert_eq!(index.get(&good.job, &good.name).await.expect("get"), at_the_bounds);
}

/// Names differ when their bytes do, and sort by them: no case folding, no Unicode normalisation.
pub async fn names_are_compared_as_bytes(index: impl ArtifactIndex) {
    let mut all = [
        "A", "a", "B", "b", "Z", "_", "a.b", "a/b", "a0", "\u{e9}", "e\u{301}", "e", "ß", "ss",
        "1", "10", "2",
    ];
    for named in all {
        index.put(&record("j", named)).await.expect("put");
    }
    all.sort_unstable();
    assert_eq!(names(&index.list(&job("j"), None, 100).await.expect("list")), all);
    for of_job in ["B", "a", "C"] {
        index.put(&record(of_job, "x")).await.expect("put");
    }
    let jobs: Vec<_> =
        index.all(None, 100).await.expect("all").into_iter().map(|r| r.job).collect();
    assert!(jobs.is_sorted());
}

/// Any sequence of operations gives what a map would.
pub async fn random_operations_agree_with_a_map(index: impl ArtifactIndex) {
    let mut model: BTreeMap<(JobId, ArtifactName), ArtifactRecord> = BTreeMap::new();
    let mut numbers = super::Numbers::new(7);
    for _ in 0..400 {
        let (of_job, named) =
            (["j", "k", "K"][numbers.below(3)], ["a", "a/b", "b", "é"][numbers.below(4)]);
        let key = (job(of_job), name(named));
        let state = ArtifactState::ALL[numbers.below(ArtifactState::ALL.len())];
        match numbers.below(5) {
            0 | 1 => {
                let size_bytes = numbers.below(1000) as u64;
                let record = ArtifactRecord { id: new_id(), size_bytes, ..record(of_job, named) };
                let record = in_state(record, state);
                index.put(&record).await.expect("put");
                model.insert(key, record);
            }
            2 => {
                index.remove(&key.0, &key.1).await.expect("remove");
                model.remove(&key);
            }
            3 => {
                let changed = index.change(&key.0, &key.1, &to_state(state)).await;
                match (changed, model.get_mut(&key)) {
                    (Ok(changed), Some(record)) => {
                        // Deleting keeps the time of archiving.
                        let archived_at = record.archived_at;
                        *record = in_state(record.clone(), state);
                        if state == ArtifactState::Deleted {
                            record.archived_at = archived_at;
                        }
                        assert_eq!(changed, *record);
                    }
                    (Err(Error::NoRecord { .. }), None) => {}
                    (got, model) => panic!("change gave {got:?}, the model has {model:?}"),
                }
            }
            _ => match (index.get(&key.0, &key.1).await, model.get(&key)) {
                (Ok(got), Some(wanted)) => {
                    assert_eq!(got, *wanted);
                    assert_eq!(index.find(&got.id).await.expect("find"), got);
                }
                (Err(Error::NoRecord { .. }), None) => {}
                (got, model) => panic!("get gave {got:?}, the model has {model:?}"),
            },
        }
    }
    let all = index.all(None, 1000).await.expect("all");
    assert_eq!(all, model.into_values().collect::<Vec<_>>());
}
