//! Which keys the entries of a session have: few, and always the same ones.
//!
//! A key that was deleted stays in the server's index until the history is compacted, and each count or list of its queue
//! passes it. So a session uses a key again once the entry that had it is certainly gone; the revision that created it tells
//! the one from the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::backend::Entry;

use crate::keys;

/// The numbers in the keys of one session.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By the prefix of the queue.
    queues: HashMap<String, Queue>,
    /// The slot of each request, by its id. One map for all queues, since most have one entry.
    requests: HashMap<Arc<str>, usize>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who has each slot that was ever used.
    slots: Vec<Option<Taken>>,
    taken: usize,
    /// Not those that somebody else has taken.
    free: BinaryHeap<Reverse<usize>>,
}

#[derive(Debug)]
struct Taken {
    request: Arc<str>,
    /// The revision that created the entry, once that is known.
    created: Option<u64>,
}

impl Slots {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a request: the one that it has, or the first one that nobody has.
    pub(crate) fn of(&self, queue: &str, id: &str) -> usize {
        let mut state = self.state();
        if let Some(slot) = state.slot(queue, id) {
            return slot;
        }
        let State { queues, requests } = &mut *state;
        let request: Arc<str> = id.into();
        let slot = queues.entry(queue.to_owned()).or_default().take(request.clone());
        requests.insert(request, slot);
        slot
    }

    /// The request was applied, at this revision.
    pub(crate) fn entered(&self, queue: &str, id: &str, revision: u64) {
        let mut state = self.state();
        if let Some(slot) = state.slot(queue, id)
            && let Some(taken) = state.taken(queue, slot)
        {
            taken.created = Some(revision);
        }
    }

    /// Somebody else is in the slot of this request, and may stay as long as others of this session are in the queue.
    pub(crate) fn foreign(&self, queue: &str, id: &str) {
        let mut state = self.state();
        if let Some(slot) = state.slot(queue, id) {
            state.leave(queue, slot);
        }
    }

    /// The request was not applied, and never will be.
    pub(crate) fn refused(&self, queue: &str, id: &str) {
        let mut state = self.state();
        if let Some(slot) = state.slot(queue, id) {
            state.free(queue, slot);
        }
    }

    /// This entry is gone for good.
    pub(crate) fn left(&self, queue: &str, entry: &Entry) {
        let mut state = self.state();
        if let Some(slot) = keys::slot_of(&entry.key)
            && let Some(taken) = state.taken(queue, slot)
            && taken.created == Some(entry.incarnation)
        {
            state.free(queue, slot);
        }
    }
}

impl State {
    /// The slot that a request has.
    fn slot(&mut self, queue: &str, id: &str) -> Option<usize> {
        let slot = *self.requests.get(id)?;
        // The same id may be another request's in another queue.
        self.taken(queue, slot).filter(|taken| &*taken.request == id).map(|_| slot)
    }

    fn taken(&mut self, queue: &str, slot: usize) -> Option<&mut Taken> {
        self.queues.get_mut(queue)?.slots.get_mut(slot)?.as_mut()
    }

    /// Nobody of this session has the slot any more, nor will have it.
    fn leave(&mut self, queue: &str, slot: usize) {
        if let Some(queue) = self.queues.get_mut(queue)
            && let Some(taken) = queue.slots.get_mut(slot).and_then(Option::take)
        {
            queue.taken -= 1;
            self.requests.remove(&taken.request);
        }
    }

    /// The next request may have the slot.
    fn free(&mut self, name: &str, slot: usize) {
        self.leave(name, slot);
        let Some(queue) = self.queues.get_mut(name) else { return };
        queue.free.push(Reverse(slot));
        if queue.taken == 0 {
            self.queues.remove(name);
        }
    }
}

impl Queue {
    fn take(&mut self, request: Arc<str>) -> usize {
        self.taken += 1;
        let taken = Some(Taken { request, created: None });
        match self.free.pop() {
            Some(Reverse(slot)) => {
                self.slots[slot] = taken;
                slot
            }
            None => {
                // Most have one entry for as long as they are known.
                self.slots.reserve_exact(usize::from(self.slots.is_empty()));
                self.slots.push(taken);
                self.slots.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::backend::Kind;

    /// The entry in this slot of `l/` that this revision created.
    fn entry(slot: usize, created: u64) -> Entry {
        Entry { key: keys::entry_key("l/", 1, slot, Kind::Write).into(), incarnation: created }
    }

    #[test]
    fn a_slot_is_used_again_when_its_entry_is_gone_and_not_before() {
        let slots = Slots::default();
        assert_eq!((slots.of("l/", "a"), slots.of("l/", "b"), slots.of("m/", "c")), (0, 1, 0));
        slots.entered("l/", "a", 7);
        assert_eq!(slots.of("l/", "a"), 0, "the same request");
        slots.left("l/", &entry(0, 6));
        assert_eq!(slots.of("l/", "d"), 2, "of an earlier one it was said that it is gone");
        slots.left("l/", &entry(0, 7));
        assert_eq!(slots.of("l/", "e"), 0);
        slots.left("l/", &entry(0, 7));
        assert_eq!(slots.of("l/", "f"), 3, "it was said twice that it is gone");
    }

    #[test]
    fn a_request_that_was_not_applied_leaves_its_slot() {
        let slots = Slots::default();
        slots.of("l/", "a");
        slots.refused("l/", "b");
        slots.refused("m/", "a");
        assert_eq!(slots.of("l/", "c"), 1);
        slots.refused("l/", "a");
        assert_eq!(slots.of("l/", "d"), 0);
    }

    #[test]
    fn a_slot_of_somebody_else_is_left_alone() {
        let slots = Slots::default();
        slots.of("l/", "a");
        slots.foreign("l/", "a");
        assert_eq!(slots.of("l/", "a"), 1);
    }

    #[test]
    fn an_id_that_comes_again_in_another_queue_is_another_request() {
        let slots = Slots::default();
        assert_eq!((slots.of("l/", "a"), slots.of("m/", "x"), slots.of("m/", "a")), (0, 0, 1));
        slots.refused("l/", "a");
        slots.entered("m/", "a", 7);
        assert_eq!(slots.of("m/", "b"), 2);
        slots.foreign("l/", "a");
        assert_eq!(slots.of("m/", "a"), 1);
    }

    #[test]
    fn a_queue_without_entries_is_forgotten() {
        let slots = Slots::default();
        for (id, created) in [("a", 5), ("b", 6)] {
            slots.of("l/", id);
            slots.entered("l/", id, created);
        }
        slots.left("l/", &entry(0, 5));
        slots.left("l/", &entry(1, 6));
        let state = slots.state();
        assert!(state.queues.is_empty() && state.requests.is_empty());
    }
}
