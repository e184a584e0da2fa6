//! Every order in which the threads of a host can load, read and clear: none leaks between jobs or
//! leaves anything behind.
//!
//! The source under test is the library's own, with a lock of `loom` in the place of the standard one.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use danube_core::{JobId, SecretBytes};
use danube_secrets::{MAX_LOADED_BYTES, SecretKey, SecretOwner};
use loom::sync::Arc;
use loom::thread;
use slots::{Filled, Slots, Values};
use tokio::time::Instant;

#[path = "../src/service/slots.rs"]
mod slots;

mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use loom::sync::{Mutex, MutexGuard};
}

/// Tries every order, and says how many there were.
#[expect(clippy::print_stdout, reason = "the figure is a part of what the test tells")]
fn model(law: &str, run: impl Fn() + Sync + Send + 'static) {
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = orders.clone();
    loom::model(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        run();
    });
    println!("{law}: {} orders", orders.load(Ordering::Relaxed));
}

fn job(name: &str) -> JobId {
    name.parse().unwrap()
}

fn key() -> SecretKey {
    "TOKEN".parse().unwrap()
}

fn values(of: &str) -> Values {
    Values::from([(key(), SecretBytes::from(of))])
}

fn begin(slots: &Slots, name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "nothing expires here")]
    let never = std::time::Instant::now() + Duration::from_secs(3600);
    let owner: SecretOwner = "o".parse().unwrap();
    slots.begin(&job(name), &owner, Instant::from_std(never))
}

fn get(slots: &Slots, name: &str) -> Option<String> {
    let (_, value) = slots.get(&job(name), &key())?;
    Some(String::from_utf8(value.expose().to_vec()).unwrap())
}

#[test]
fn a_job_that_is_cleared_while_it_loads_has_nothing_afterwards() {
    model("cleared while loading", || {
        let slots = Arc::new(Slots::new());
        let load = begin(&slots, "a").unwrap();
        let filler = slots.clone();
        let fills = thread::spawn(move || filler.fill(&job("a"), load, values("of a")));
        let clearer = slots.clone();
        let clears = thread::spawn(move || clearer.clear(&job("a")));
        let seen = get(&slots, "a");
        assert!(seen.is_none_or(|seen| seen == "of a"));
        let (filled, cleared) = (fills.join().unwrap(), clears.join().unwrap());
        // Whatever came first: it is gone, and it is told once.
        assert_eq!((filled == Filled::Yes, cleared), (cleared == 1, cleared));
        assert_eq!((get(&slots, "a"), slots.len()), (None, 0));
    });
}

#[test]
fn the_end_of_an_earlier_load_leaves_a_later_one_alone() {
    model("an end that comes late", || {
        let slots = Arc::new(Slots::new());
        let first = begin(&slots, "a").unwrap();
        assert_eq!(slots.fill(&job("a"), first, values("first")), Filled::Yes);
        let ender = slots.clone();
        // Cleared by name, and the guard of the first load is dropped later.
        let ends = thread::spawn(move || {
            ender.clear(&job("a"));
            ender.end(&job("a"), first)
        });
        let loader = slots.clone();
        let loads = thread::spawn(move || {
            let second = begin(&loader, "a")?;
            Some(loader.fill(&job("a"), second, values("second")))
        });
        assert_eq!(ends.join().unwrap(), 0);
        match loads.join().unwrap() {
            // It began after the clearing, or was refused because the first was still there.
            Some(filled) => {
                assert_eq!(filled, Filled::Yes);
                assert_eq!(get(&slots, "a").as_deref(), Some("second"));
            }
            None => assert_eq!(slots.len(), 0),
        }
    });
}

#[test]
fn two_jobs_that_load_read_and_end_at_once_see_only_their_own() {
    model("two jobs", || {
        let slots = Arc::new(Slots::new());
        let run = |name: &'static str| {
            let slots = slots.clone();
            thread::spawn(move || {
                let load = begin(&slots, name).unwrap();
                assert_eq!(slots.fill(&job(name), load, values(name)), Filled::Yes);
                assert_eq!(get(&slots, name).as_deref(), Some(name));
                assert_eq!(slots.end(&job(name), load), 1);
                assert_eq!(get(&slots, name), None);
            })
        };
        let (a, b) = (run("a"), run("b"));
        a.join().unwrap();
        b.join().unwrap();
        assert_eq!(slots.len(), 0);
    });
}

#[test]
fn of_two_loads_of_one_job_one_is_refused() {
    model("two loads of one job", || {
        let slots = Arc::new(Slots::new());
        let load = |of: &'static str| {
            let slots = slots.clone();
            thread::spawn(move || {
                let load = begin(&slots, "a")?;
                Some(slots.fill(&job("a"), load, values(of)))
            })
        };
        let (a, b) = (load("first"), load("second"));
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        assert!(a.is_some() ^ b.is_some());
        let expected = if a.is_some() { "first" } else { "second" };
        assert_eq!(get(&slots, "a").as_deref(), Some(expected));
        assert_eq!(slots.len(), 1);
    });
}

#[test]
fn what_expires_and_is_ended_and_cleared_at_once_goes_once() {
    model("three ends at once", || {
        let slots = Arc::new(Slots::new());
        let load = begin(&slots, "a").unwrap();
        slots.fill(&job("a"), load, values("of a"));
        let (ender, expirer) = (slots.clone(), slots.clone());
        let ends = thread::spawn(move || ender.end(&job("a"), load));
        #[expect(clippy::disallowed_methods, reason = "a time after every other")]
        let late = std::time::Instant::now() + Duration::from_secs(7200);
        let expires = thread::spawn(move || expirer.expire(Instant::from_std(late)));
        let cleared = slots.clear(&job("a"));
        assert_eq!(cleared + ends.join().unwrap() + expires.join().unwrap(), 1);
        assert_eq!(slots.len(), 0);
    });
}
