//! Which keys the entries of a session have: few, and always the same ones.
//!
//! A key that was deleted stays in the server's index until the history is compacted, and each count or list of its queue
//! passes it. So a session uses a key again once the entry that had it is certainly gone; the revision that created it tells
//! the one from the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The numbers in the keys of one session, by the prefix of the queue.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    queues: Mutex<HashMap<String, Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The slot of each request, by its id, and the revision that created its entry, once that is known.
    taken: HashMap<String, (usize, Option<u64>)>,
    /// The request of each entry, by that revision.
    entries: HashMap<u64, String>,
    /// Slots before the first that was never used.
    free: BinaryHeap<Reverse<usize>>,
    unused: usize,
}

impl Slots {
    fn queues(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a request: the one that it has, or the first one that nobody has.
    pub(crate) fn of(&self, queue: &str, id: &str) -> usize {
        let mut queues = self.queues();
        match queues.get_mut(queue) {
            Some(queue) => queue.of(id),
            None => queues.entry(queue.to_owned()).or_default().of(id),
        }
    }

    /// The request was applied, at this revision.
    pub(crate) fn entered(&self, queue: &str, id: &str, revision: u64) {
        if let Some(queue) = self.queues().get_mut(queue)
            && let Some((_, created)) = queue.taken.get_mut(id)
        {
            *created = Some(revision);
            queue.entries.insert(revision, id.to_owned());
        }
    }

    /// Somebody else is in the slot of this request, and may stay as long as others of this session are in the queue.
    pub(crate) fn foreign(&self, queue: &str, id: &str) {
        if let Some(queue) = self.queues().get_mut(queue) {
            queue.taken.remove(id);
        }
    }

    /// The request was not applied, and never will be.
    pub(crate) fn refused(&self, queue: &str, id: &str) {
        self.free(queue, |_| Some(id.to_owned()));
    }

    /// The entry that this revision created is gone for good.
    pub(crate) fn left(&self, queue: &str, revision: u64) {
        self.free(queue, |queue| queue.entries.get(&revision).cloned());
    }

    fn free(&self, name: &str, request: impl FnOnce(&Queue) -> Option<String>) {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(name) else { return };
        let Some((slot, created)) = request(queue).and_then(|id| queue.taken.remove(&id)) else { return };
        if let Some(created) = created {
            queue.entries.remove(&created);
        }
        queue.free.push(Reverse(slot));
        if queue.taken.is_empty() {
            queues.remove(name);
        }
    }
}

impl Queue {
    fn of(&mut self, id: &str) -> usize {
        if let Some((slot, _)) = self.taken.get(id) {
            return *slot;
        }
        let slot = match self.free.pop() {
            Some(Reverse(slot)) => slot,
            None => {
                self.unused += 1;
                self.unused - 1
            }
        };
        self.taken.insert(id.to_owned(), (slot, None));
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_when_its_entry_is_gone_and_not_before() {
        let slots = Slots::default();
        assert_eq!((slots.of("l/", "a"), slots.of("l/", "b"), slots.of("m/", "c")), (0, 1, 0));
        slots.entered("l/", "a", 7);
        assert_eq!(slots.of("l/", "a"), 0, "the same request");
        slots.left("l/", 6);
        assert_eq!(slots.of("l/", "d"), 2, "of an earlier one it was said that it is gone");
        slots.left("l/", 7);
        assert_eq!(slots.of("l/", "e"), 0);
        slots.left("l/", 7);
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
    fn a_queue_without_entries_is_forgotten() {
        let slots = Slots::default();
        for (id, created) in [("a", 5), ("b", 6)] {
            slots.of("l/", id);
            slots.entered("l/", id, created);
        }
        slots.left("l/", 5);
        slots.left("l/", 6);
        assert!(slots.queues().is_empty());
    }
}
