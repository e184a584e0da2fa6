//! Which job may see which values: the state behind the service, without waiting, disk or clock.
//!
//! The lock comes from the module above, so that `tests/interleavings.rs` can run this very source with a
//! lock that tries every order of its threads.

use std::collections::BTreeMap;

use danube_core::{JobId, SecretBytes};
use tokio::time::Instant;

use super::sync::{Mutex, MutexGuard, PoisonError};
use super::{MAX_LOADED_BYTES, SecretKey, SecretOwner};

pub(crate) type Values = BTreeMap<SecretKey, SecretBytes>;

/// The secrets of every job that has some, each under the number of the load that brought them: what a
/// load does late, after its job was cleared or loaded again, is told by the number and comes to nothing.
pub(crate) struct Slots(Mutex<State>);

#[derive(Default)]
struct State {
    loads: u64,
    bytes: usize,
    slots: BTreeMap<JobId, Slot>,
}

struct Slot {
    load: u64,
    owner: SecretOwner,
    expires: Instant,
    /// Empty while they are being loaded.
    values: Values,
}

/// What became of the values of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    Yes,
    /// The job was cleared while they were loaded.
    Cleared,
    /// They would pass the limit.
    TooMany,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State::default()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step in here panics between two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a load and gives its number; `None` where the job has one already.
    pub(crate) fn begin(&self, job: &JobId, owner: &SecretOwner, expires: Instant) -> Option<u64> {
        let mut state = self.state();
        if state.slots.contains_key(job) {
            return None;
        }
        state.loads += 1;
        let load = state.loads;
        let slot = Slot { load, owner: owner.clone(), expires, values: Values::new() };
        state.slots.insert(job.clone(), slot);
        Some(load)
    }

    /// Puts what a load brought in its place, if that is still its place.
    pub(crate) fn fill(&self, job: &JobId, load: u64, values: Values) -> Filled {
        let mut state = self.state();
        let bytes = bytes_of(&values);
        if state.bytes + bytes > MAX_LOADED_BYTES {
            return Filled::TooMany;
        }
        match state.slots.get_mut(job) {
            Some(slot) if slot.load == load => {
                slot.values = values;
                state.bytes += bytes;
                Filled::Yes
            }
            _ => Filled::Cleared,
        }
    }

    /// Whose secret it is, and a copy of its value. It is made under the lock: what is cleared has no
    /// reader any more.
    pub(crate) fn get(&self, job: &JobId, key: &SecretKey) -> Option<(SecretOwner, SecretBytes)> {
        let state = self.state();
        let slot = state.slots.get(job)?;
        Some((slot.owner.clone(), slot.values.get(key)?.clone()))
    }

    /// Ends the load of this number, if it is still there; gives how many values went.
    pub(crate) fn end(&self, job: &JobId, load: u64) -> usize {
        self.take(|slots| match slots.get(job) {
            Some(slot) if slot.load == load => slots.remove(job).into_iter().collect(),
            _ => Vec::new(),
        })
    }

    /// Ends whatever this job has; gives how many values went.
    pub(crate) fn clear(&self, job: &JobId) -> usize {
        self.take(|slots| slots.remove(job).into_iter().collect())
    }

    /// Ends what has outlived its time; gives how many values went.
    pub(crate) fn expire(&self, now: Instant) -> usize {
        self.take(|slots| {
            slots.extract_if(.., |_, slot| slot.expires <= now).map(|(_, s)| s).collect()
        })
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.state().slots.values().map(|slot| slot.values.len()).sum()
    }

    fn take(&self, what: impl FnOnce(&mut BTreeMap<JobId, Slot>) -> Vec<Slot>) -> usize {
        let mut state = self.state();
        let taken = what(&mut state.slots);
        state.bytes -= taken.iter().map(|slot| bytes_of(&slot.values)).sum::<usize>();
        // Under the lock they are zeroised too: nobody is told that they are gone while they are there.
        taken.iter().map(|slot| slot.values.len()).sum()
    }
}

fn bytes_of(values: &Values) -> usize {
    values.values().map(SecretBytes::len).sum()
}
