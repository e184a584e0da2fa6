//! The laws of [`LogStore`], one test each, for anybody's backend.
//!
//! [`log_store_conformance!`](crate::log_store_conformance) stamps them as tests. Each law gets a function that
//! opens the same logs once more, as another owner would: another process, or another handle.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use danube_core::{ByteRange, JobId, Timestamp};

use crate::{
    Error, FollowEvent, Follower, LogPhase, LogState, LogStore, LogStoreExt, MAX_READ_BYTES,
    StepRange,
};

mod faulty;
mod model;
pub use faulty::Faulty;
pub use model::calls_in_any_order_are_those_on_a_vector;

/// Opens the same logs as another owner.
pub type Owners<'a> = &'a (dyn Fn() -> Arc<dyn LogStore> + Send + Sync);

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn id(name: &str) -> JobId {
    name.parse().expect("a good id")
}

fn state(sealed: bool) -> LogState {
    LogState {
        truncated: true,
        omitted_lines: 3,
        omitted_bytes: 40,
        steps: vec![StepRange {
            name: "build".parse().expect("a name"),
            range: ByteRange::new(1, 9),
        }],
        sealed_at: sealed.then_some(Timestamp::UNIX_EPOCH),
        ..LogState::default()
    }
}

async fn all(store: &dyn LogStore, log: &JobId) -> Vec<u8> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    loop {
        let more = store.read(log, ByteRange::new(at, u64::MAX)).await.expect("readable");
        if more.is_empty() {
            return bytes;
        }
        at += more.len() as u64;
        bytes.extend_from_slice(&more);
    }
}

async fn put(store: &dyn LogStore, log: &JobId, at: u64, bytes: &[u8]) -> u64 {
    store.append(log, at, Bytes::copy_from_slice(bytes)).await.expect("appended")
}

/// What is appended is read back, by anybody, at the offsets that were returned.
pub async fn what_is_appended_is_read_back_at_its_offset(owners: Owners<'_>) {
    let (store, other, log) = (owners(), owners(), id("a"));
    let stat = store.open(&log).await.expect("opened");
    assert_eq!((stat.len, stat.phase), (0, LogPhase::Open));
    let mut model = Vec::new();
    for piece in [&b"one\n"[..], b"", b"two \0 \xff\r\n", b"three\n"] {
        let end = put(&store, &log, model.len() as u64, piece).await;
        model.extend_from_slice(piece);
        assert_eq!(end, model.len() as u64);
        assert_eq!(all(&store, &log).await, model);
        assert_eq!(all(&other, &log).await, model);
    }
    for start in 0..=model.len() {
        for end in start..=model.len() + 2 {
            let range = ByteRange::new(start as u64, end as u64);
            let read = other.read(&log, range).await.expect("readable");
            assert_eq!(read, model[start..end.min(model.len())], "{range}");
        }
    }
    assert!(store.read(&log, ByteRange::new(900, 1000)).await.expect("past the end").is_empty());
    assert!(store.read(&log, ByteRange::new(5, 2)).await.expect("empty").is_empty());
}

/// An append that does not continue the log changes nothing.
pub async fn an_append_elsewhere_than_at_the_end_is_a_conflict(owners: Owners<'_>) {
    let (store, log) = (owners(), id("a"));
    store.open(&log).await.expect("opened");
    put(&store, &log, 0, b"12345\n").await;
    for at in [0, 5, 7, u64::MAX] {
        let conflict = store.append(&log, at, Bytes::from_static(b"x")).await;
        assert!(
            matches!(conflict, Err(Error::OffsetConflict { expected, actual: 6, .. }) if expected == at),
            "{conflict:?}"
        );
    }
    assert_eq!(all(&store, &log).await, b"12345\n");
}

/// While the owner lives nobody else opens, appends, seals or deletes; nor the owner twice.
pub async fn a_living_owner_is_the_only_one(owners: Owners<'_>) {
    let (store, other, log) = (owners(), owners(), id("a"));
    store.open(&log).await.expect("opened");
    put(&store, &log, 0, b"mine\n").await;
    assert!(matches!(store.open(&log).await, Err(Error::Owned { .. })));
    assert!(matches!(other.open(&log).await, Err(Error::Owned { .. })));
    let append = other.append(&log, 5, Bytes::from_static(b"x\n")).await;
    assert!(matches!(append, Err(Error::NotOwned { .. })), "{append:?}");
    assert!(matches!(other.sync(&log, &state(false)).await, Err(Error::NotOwned { .. })));
    assert!(matches!(other.seal(&log, &state(true)).await, Err(Error::NotOwned { .. })));
    for store in [&store, &other] {
        assert!(matches!(store.delete(&log).await, Err(Error::Owned { .. })));
        let stat = store.stat(&log).await.expect("there");
        assert_eq!((stat.len, stat.phase), (5, LogPhase::Open));
    }
    assert_eq!(all(&other, &log).await, b"mine\n");
}

/// Nobody appends to a log that was not opened, or that is not there.
pub async fn nothing_is_written_without_opening(owners: Owners<'_>) {
    let (store, log) = (owners(), id("a"));
    let append = store.append(&log, 0, Bytes::from_static(b"x")).await;
    assert!(matches!(append, Err(Error::NotOwned { .. })), "{append:?}");
    assert!(matches!(store.sync(&log, &LogState::default()).await, Err(Error::NotOwned { .. })));
    assert!(matches!(store.stat(&log).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.read(&log, ByteRange::new(0, 1)).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.changed(&log, 0).await, Err(Error::NotFound { .. })));
}

/// A log whose owner is gone is abandoned; one successor takes it over and goes on at its end.
pub async fn an_abandoned_log_is_taken_over_once_and_goes_on(owners: Owners<'_>) {
    let (first, log) = (owners(), id("a"));
    first.open(&log).await.expect("opened");
    put(&first, &log, 0, b"[t] [s] [stdout] whole\n").await;
    first.sync(&log, &state(false)).await.expect("synced");
    drop(first);
    let (second, third) = (owners(), owners());
    let stat = second.stat(&log).await.expect("there");
    assert_eq!((stat.phase, &*stat.state), (LogPhase::Abandoned, &state(false)));
    let (a, b) = tokio::join!(second.open(&log), third.open(&log));
    assert!(a.is_ok() != b.is_ok(), "one of two takes it: {a:?} {b:?}");
    let (winner, stat) = match a {
        Ok(stat) => (second, stat),
        Err(_) => (third, b.expect("the other one")),
    };
    assert_eq!((stat.len, &*stat.state), (23, &state(false)));
    put(&winner, &log, 23, b"more\n").await;
    assert_eq!(all(&winner, &log).await, b"[t] [s] [stdout] whole\nmore\n");
}

/// What a dying owner left stays as it is, a torn line too, and is gone on with.
pub async fn what_a_dead_owner_left_stays_as_it_is(owners: Owners<'_>) {
    let all_left =
        [&b"[t] [s] [stdout] whole\n[t] [s] [stdout] par"[..], b"whole\n", b"[2024-", b""];
    for (number, left) in all_left.into_iter().enumerate() {
        let (first, log) = (owners(), id(&format!("log-{number}")));
        first.open(&log).await.expect("opened");
        put(&first, &log, 0, left).await;
        drop(first);
        let second = owners();
        let stat = second.open(&log).await.expect("taken over");
        assert_eq!(stat.len, left.len() as u64);
        assert_eq!(put(&second, &log, stat.len, b"\n").await, stat.len + 1);
        assert_eq!(all(&second, &log).await, [left, b"\n"].concat());
    }
}

/// The ring behind a full head has the newest lines, counts the others, survives its owner, is no part of what is
/// read, and goes with the seal.
pub async fn the_ring_keeps_the_newest_lines_and_counts_the_others(owners: Owners<'_>) {
    const KEEP: u64 = 100;
    let (mut store, log) = (owners(), id("a"));
    store.open(&log).await.expect("opened");
    assert_eq!(store.tail(&log).await.expect("asked"), None);
    put(&store, &log, 0, b"head\n").await;
    let mut given = Vec::new();
    for number in 0..200 {
        let lines = format!("line {number}\n").repeat(number % 4);
        let count = lines.len() as u64;
        store.append_tail(&log, lines.clone().into(), count, KEEP).await.expect("appended");
        given.extend_from_slice(lines.as_bytes());
        if number % 50 == 33 {
            drop(store);
            store = owners();
            // The lines say nothing of a format, so what they carry is what they are.
            store.open(&log).await.expect("taken over");
        }
        let tail = store.tail(&log).await.expect("read").unwrap_or_default();
        assert!(given.ends_with(&tail.lines), "after {number}");
        assert!(tail.lines.len() as u64 >= KEEP.min(given.len() as u64), "after {number}");
        assert!((tail.lines.len() as u64) < 2 * KEEP + 64, "after {number}");
        let dropped = &given[..given.len() - tail.lines.len()];
        assert_eq!(tail.dropped_lines, dropped.iter().filter(|&&b| b == b'\n').count() as u64);
        assert_eq!(tail.dropped_output, dropped.len() as u64);
        assert_eq!(all(&store, &log).await, b"head\n");
    }
    let other = owners();
    let refused = other.append_tail(&log, Bytes::from_static(b"x\n"), 2, KEEP).await;
    assert!(matches!(refused, Err(Error::NotOwned { .. })), "{refused:?}");
    store.seal(&log, &state(true)).await.expect("sealed");
    let refused = store.append_tail(&log, Bytes::from_static(b"x\n"), 2, KEEP).await;
    assert!(matches!(refused, Err(Error::Sealed { .. })), "{refused:?}");
    assert_eq!(all(&other, &log).await, b"head\n");
    store.release(&log);
    other.delete(&log).await.expect("deleted");
    other.open(&log).await.expect("a new one");
    assert_eq!(other.tail(&log).await.expect("asked"), None, "the old one's ring is gone");
}

/// A sealed log never changes; sealing again is fine; its state is kept.
pub async fn a_sealed_log_never_changes(owners: Owners<'_>) {
    let (store, other, log) = (owners(), owners(), id("a"));
    store.open(&log).await.expect("opened");
    put(&store, &log, 0, b"done\n").await;
    store.seal(&log, &state(true)).await.expect("sealed");
    store.seal(&log, &LogState::default()).await.expect("sealed already");
    let append = store.append(&log, 5, Bytes::from_static(b"x")).await;
    assert!(matches!(append, Err(Error::Sealed { .. } | Error::NotOwned { .. })), "{append:?}");
    assert!(matches!(store.open(&log).await, Err(Error::Sealed { .. })));
    // Whoever sealed it still owns it, until it lets go.
    assert!(matches!(other.delete(&log).await, Err(Error::Owned { .. })));
    assert!(other.stat(&log).await.expect("there").owned);
    store.release(&log);
    store.release(&log);
    assert!(!other.stat(&log).await.expect("there").owned);
    drop(store);
    for store in [&other, &owners()] {
        assert!(matches!(store.open(&log).await, Err(Error::Sealed { .. })));
        let stat = store.stat(&log).await.expect("there");
        assert_eq!((stat.len, stat.phase, &*stat.state), (5, LogPhase::Sealed, &state(true)));
        assert_eq!(all(store, &log).await, b"done\n");
    }
}

/// Waiting ends with growth, with the seal, and with the owner.
pub async fn waiting_ends_with_growth_the_seal_and_the_owner(owners: Owners<'_>) {
    let log = id("a");
    for through_another in [false, true] {
        let store = owners();
        let reader = if through_another { owners() } else { store.clone() };
        store.delete(&log).await.expect("deleted");
        store.open(&log).await.expect("opened");
        let wait = |beyond| tokio::time::timeout(PATIENCE, reader.changed(&log, beyond));
        let (stat, _) = tokio::join!(wait(0), async {
            tokio::task::yield_now().await;
            put(&store, &log, 0, b"1\n").await
        });
        assert_eq!(stat.expect("in time").expect("grown").len, 2);
        // What is there already is told at once.
        assert_eq!(wait(1).await.expect("in time").expect("grown").len, 2);
        let (stat, ()) = tokio::join!(wait(2), async {
            tokio::task::yield_now().await;
            store.seal(&log, &state(true)).await.expect("sealed");
        });
        let stat = stat.expect("in time").expect("sealed");
        assert_eq!((stat.len, stat.phase), (2, LogPhase::Sealed));
    }
    let (store, reader, log) = (owners(), owners(), id("b"));
    store.open(&log).await.expect("opened");
    let (stat, ()) = tokio::join!(tokio::time::timeout(PATIENCE, reader.changed(&log, 0)), async {
        tokio::task::yield_now().await;
        drop(store);
    });
    assert_eq!(stat.expect("in time").expect("abandoned").phase, LogPhase::Abandoned);
}

/// Deleting is idempotent, frees the id, and never touches what somebody writes.
pub async fn deleting_is_idempotent_and_frees_the_id(owners: Owners<'_>) {
    let (store, log) = (owners(), id("a"));
    assert_eq!(store.delete(&log).await.expect("nothing there"), 0);
    store.open(&log).await.expect("opened");
    put(&store, &log, 0, &[b'x'; 1000]).await;
    store.seal(&log, &state(true)).await.expect("sealed");
    store.release(&log);
    assert!(owners().delete(&log).await.expect("deleted") >= 1000);
    assert_eq!(store.delete(&log).await.expect("gone already"), 0);
    assert!(matches!(store.stat(&log).await, Err(Error::NotFound { .. })));
    let stat = store.open(&log).await.expect("the id is free");
    assert_eq!((stat.len, &*stat.state), (0, &LogState::default()));
}

/// A log that is released before it is sealed is abandoned, and whoever waits for it is told.
pub async fn a_released_log_is_abandoned(owners: Owners<'_>) {
    let (store, other, log) = (owners(), owners(), id("a"));
    store.release(&log);
    store.open(&log).await.expect("opened");
    put(&store, &log, 0, b"[t] [s] [stdout] x\n").await;
    other.release(&log);
    assert_eq!(store.stat(&log).await.expect("there").phase, LogPhase::Open);
    let (stat, ()) =
        tokio::join!(tokio::time::timeout(PATIENCE, store.changed(&log, 1000)), async {
            tokio::task::yield_now().await;
            store.release(&log);
        });
    let stat = stat.expect("in time").expect("there");
    assert_eq!((stat.phase, stat.owned), (LogPhase::Abandoned, false));
    assert_eq!(other.open(&log).await.expect("taken over").len, 19);
}

/// A list is in the order of ids, in pages.
pub async fn a_list_is_ordered_and_paged(owners: Owners<'_>) {
    let store = owners();
    assert!(store.list(None, 10).await.expect("empty").is_empty());
    for name in ["c", "a", "B", "b.log", "b"] {
        store.open(&id(name)).await.expect("opened");
        put(&store, &id(name), 0, b"x\n").await;
    }
    let mut names = Vec::new();
    loop {
        let after = names.last().map(|name: &String| id(name));
        let page = owners().list(after.as_ref(), 2).await.expect("listed");
        assert!(page.iter().all(|(_, stat)| stat.len == 2 && stat.phase == LogPhase::Open));
        if page.is_empty() {
            break;
        }
        names.extend(page.into_iter().map(|(log, _)| log.to_string()));
    }
    assert_eq!(names, ["B", "a", "b", "b.log", "c"]);
}

/// A read is bounded, whatever was asked for.
pub async fn a_read_is_bounded(owners: Owners<'_>) {
    let (store, log) = (owners(), id("a"));
    store.open(&log).await.expect("opened");
    let big = vec![b'x'; usize::try_from(MAX_READ_BYTES).expect("small") + 10];
    put(&store, &log, 0, &big).await;
    let read = store.read(&log, ByteRange::new(0, u64::MAX)).await.expect("readable");
    assert_eq!(read.len() as u64, MAX_READ_BYTES);
    assert_eq!(all(&store, &log).await.len(), big.len());
}

/// A tail begins where the last lines begin, however they are distributed.
pub async fn a_tail_begins_with_its_lines(owners: Owners<'_>) {
    let (store, log) = (owners(), id("a"));
    store.open(&log).await.expect("opened");
    assert_eq!(store.tail_offset(&log, 5).await.expect("empty"), 0);
    let lines: Vec<String> = (0..200).map(|n| format!("{}\n", "y".repeat(n * n % 3000))).collect();
    let text = lines.concat();
    put(&store, &log, 0, text.as_bytes()).await;
    for n in [0, 1, 2, 50, 199, 200, 201, 10_000] {
        let expected: usize = lines.iter().rev().take(n).map(String::len).sum();
        let offset = store.tail_offset(&log, n).await.expect("found");
        assert_eq!(offset, (text.len() - expected) as u64, "last {n}");
    }
    put(&store, &log, text.len() as u64, b"open").await;
    assert_eq!(store.tail_offset(&log, 1).await.expect("found"), text.len() as u64);
}

/// A line is found by its number and by its time, whoever looks and however far it is.
pub async fn lines_are_found_by_number_and_by_time(owners: Owners<'_>) {
    let (store, other, log) = (owners(), owners(), id("a"));
    store.open(&log).await.expect("opened");
    let nothing = "1970-01-01T00:00:00Z".parse().expect("a time");
    assert_eq!(other.line_offset(&log, 0).await.expect("empty"), None);
    assert_eq!(other.time_offset(&log, nothing).await.expect("empty"), None);
    // Some lines of each millisecond, a long one, some without a time: 400 KiB in all.
    let at = |n: usize| Timestamp::from_millisecond(1_700_000_000_000 + n as i64).expect("a time");
    let lines: Vec<String> = (0..4000)
        .map(|n| match n {
            777 => format!("[{:.3}] [s] [stdout] {}\n", at(77), "z".repeat(60_000)),
            _ if n % 10 == 5 => "\n".into(),
            _ => format!("[{:.3}] [s] [stdout] {}\n", at(n / 10), "y".repeat(n * 7 % 100)),
        })
        .collect();
    let mut end = 0;
    for part in lines.chunks(1000) {
        end = put(&store, &log, end, part.concat().as_bytes()).await;
        if end < 150_000 {
            // What has an index by now goes on without one that is out of date.
            store.sync(&log, &state(false)).await.expect("synced");
        }
        let number = lines.len() as u64 - 1;
        let all_there = end == lines.concat().len() as u64;
        assert_eq!(other.line_offset(&log, number).await.expect("looked").is_some(), all_there);
    }
    let offset = |n: usize| lines[..n].iter().map(String::len).sum::<usize>() as u64;
    for sealed in [false, true] {
        if sealed {
            store.seal(&log, &state(true)).await.expect("sealed");
        }
        for store in [&store, &other, &owners()] {
            for n in [0, 1, 2, 500, 776, 777, 778, 1999, 3998, 3999] {
                let found = store.line_offset(&log, n as u64).await.expect("found");
                assert_eq!(found, Some(offset(n)), "line {n}");
            }
            for n in [4000, 4001, u64::MAX] {
                assert_eq!(store.line_offset(&log, n).await.expect("no such line"), None);
            }
            for n in [0, 1, 50, 77, 78, 200, 399] {
                let found = store.time_offset(&log, at(n)).await.expect("found");
                assert_eq!(found, Some(offset(n * 10)), "millisecond {n}");
            }
            assert_eq!(store.time_offset(&log, nothing).await.expect("found"), Some(0));
            assert_eq!(store.time_offset(&log, at(400)).await.expect("too late"), None);
        }
    }
    assert!(matches!(store.line_offset(&id("b"), 0).await, Err(Error::NotFound { .. })));
}

/// Followers that begin anywhere, in any process, are told every byte once and in order, and then the
/// end.
pub async fn followers_are_told_every_byte(owners: Owners<'_>) {
    let (store, log) = (owners(), id("a"));
    store.open(&log).await.expect("opened");
    let lines: Vec<Vec<u8>> = (0_usize..600)
        .map(|n| [&vec![b'a' + (n % 26) as u8; n * n % 5000][..], b"\n"].concat())
        .collect();
    let text = lines.concat();
    let mut followers = tokio::task::JoinSet::new();
    for n in 0..12 {
        let reader = if n % 2 == 0 { store.clone() } else { owners() };
        let from = if n < 4 { 0 } else { text.len() * n / 12 };
        let log = log.clone();
        followers.spawn(async move {
            let mut follower = Follower::new(reader, log, from as u64);
            let mut told = Vec::new();
            loop {
                match follower.next().await.expect("followed") {
                    FollowEvent::Bytes { range, bytes } => {
                        assert_eq!(range.start, (from + told.len()) as u64);
                        told.extend_from_slice(&bytes);
                    }
                    FollowEvent::Truncated => {}
                    FollowEvent::End(phase) => return (from, told, phase),
                }
                if n % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let mut end = 0;
    for (n, line) in lines.iter().enumerate() {
        end = put(&store, &log, end, line).await;
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    store.seal(&log, &state(true)).await.expect("sealed");
    while let Some(told) =
        tokio::time::timeout(PATIENCE, followers.join_next()).await.expect("in time")
    {
        let (from, told, phase) = told.expect("no panic");
        assert!(told == text[from..], "from {from}: {} of {} bytes", told.len(), text.len() - from);
        assert_eq!(phase, LogPhase::Sealed);
    }
}

/// Stamps every law as a test of one backend.
///
/// ```ignore
/// danube_logs::log_store_conformance!(memory, {
///     let logs = MemoryLogs::new();
///     move || logs.other_owner()
/// });
/// ```
///
/// The expression makes a closure, new for each law, that gives another owner of the same logs at each call. The
/// laws run through `Arc<dyn LogStore>`.
#[macro_export]
macro_rules! log_store_conformance {
    ($module:ident, $owners:expr) => {
        $crate::log_store_conformance! { @laws $module, $owners,
            what_is_appended_is_read_back_at_its_offset,
            an_append_elsewhere_than_at_the_end_is_a_conflict,
            a_living_owner_is_the_only_one,
            nothing_is_written_without_opening,
            an_abandoned_log_is_taken_over_once_and_goes_on,
            what_a_dead_owner_left_stays_as_it_is,
            the_ring_keeps_the_newest_lines_and_counts_the_others,
            a_sealed_log_never_changes,
            waiting_ends_with_growth_the_seal_and_the_owner,
            deleting_is_idempotent_and_frees_the_id,
            a_released_log_is_abandoned,
            a_list_is_ordered_and_paged,
            a_read_is_bounded,
            a_tail_begins_with_its_lines,
            lines_are_found_by_number_and_by_time,
            followers_are_told_every_byte,
            calls_in_any_order_are_those_on_a_vector,
        }
    };
    (@laws $module:ident, $owners:expr, $($law:ident,)+) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    let another = $owners;
                    let owners = || -> std::sync::Arc<dyn $crate::LogStore> { std::sync::Arc::new(another()) };
                    $crate::conformance::$law(&owners).await;
                }
            )+
        }
    };
}
