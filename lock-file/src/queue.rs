//! What the requests about a queue do, each in one transaction.

use std::path::PathBuf;

use lock_core::backend::{Ahead, Dequeued, Entry, Kind, QueueEntry, Standing};

use crate::config::Access;
use crate::error::Failed;
use crate::names::{Key, NEW_DIRECTORY, Place, names};
use crate::store::Transaction;
use crate::sys;
use crate::values;

/// How many entries ahead an enqueue tells of, where more than the nearest is wanted.
const SHARED_LOOK: usize = 16;

/// How often a directory is made that is removed at the same time.
const DIRECTORY_TRIES: usize = 4;

/// What became of an enqueue.
pub(crate) enum Entered {
    Placed { place: Place, ahead: Ahead },
    Busy,
}

impl Transaction<'_> {
    /// The entries of a queue that were not removed, in no order, whether their sessions live or not.
    fn places(&self, queue: &str) -> Result<Vec<Place>, Failed> {
        Ok(sys::list(&self.path(queue))?.iter().filter_map(|name| Place::parse(name)).collect())
    }

    /// Keeps the first `limit` that count, and removes those before them that do not. Returns whether any were left out.
    fn first_alive(&mut self, queue: &str, places: Vec<Place>, limit: usize) -> Result<(Vec<Place>, bool), Failed> {
        let mut alive = Vec::new();
        let mut places = places.into_iter();
        for place in places.by_ref() {
            if !self.is_alive(&place.session)? {
                let path = self.path(&place.entry(queue).key);
                self.bury(&path);
            } else if alive.len() < limit {
                alive.push(place);
            } else {
                return Ok((alive, true));
            }
        }
        Ok((alive, false))
    }

    pub(crate) fn has_live_entry(&mut self, queue: &str) -> Result<bool, Failed> {
        let places = self.places(queue)?;
        Ok(!self.first_alive(queue, places, 1)?.0.is_empty())
    }

    /// What is ahead of a number, nearest first.
    fn ahead_of(&mut self, queue: &str, order: u64, places: Vec<Place>, limit: usize) -> Result<Ahead, Failed> {
        let mut before: Vec<Place> = places.into_iter().filter(|place| place.order < order).collect();
        before.sort_unstable_by_key(|place| std::cmp::Reverse(place.order));
        let (nearest, more) = self.first_alive(queue, before, limit.max(1))?;
        let standing = |place: Place| Standing { entry: place.entry(queue), kind: place.kind };
        Ok(Ahead { nearest: nearest.into_iter().map(standing).collect(), more })
    }

    pub(crate) fn enqueue(
        &mut self,
        queue: &str,
        (session, id, kind): (&str, &str, Kind),
        value: &[u8],
        only_if_free: bool,
    ) -> Result<Entered, Failed> {
        let places = self.places(queue)?;
        if only_if_free && !self.first_alive(queue, places.clone(), 1)?.0.is_empty() {
            return Ok(Entered::Busy);
        }
        let order = self.take_number()?;
        let limit = if matches!(kind, Kind::Read | Kind::Permits(_)) { SHARED_LOOK } else { 1 };
        // Before the entry is there, so that a failure leaves none.
        let ahead = self.ahead_of(queue, order, places, limit)?;
        let place = Place { order, session: session.to_owned(), id: id.to_owned(), kind };
        let path = self.path(&place.entry(queue).key);
        let content = values::encode(1, value);
        for _ in 1..DIRECTORY_TRIES {
            match sys::create(&path, self.store.access, &content) {
                Err(failed) if failed.is_missing() => self.make_directory(queue)?,
                created => return created.map(|_| Entered::Placed { place, ahead }),
            }
        }
        sys::create(&path, self.store.access, &content).map(|_| Entered::Placed { place, ahead })
    }

    /// Makes a directory of the store, such as a queue's.
    pub(crate) fn make_directory(&self, name: &str) -> Result<(), Failed> {
        let (path, access) = (self.path(name), self.store.access);
        if access == Access::Owner {
            return sys::make_directory(&path, access).map(drop);
        }
        if sys::identity_at(&path)?.is_some() {
            return Ok(());
        }
        // With all its rights from the first moment on: only its owner could add them later. One may be left of a process
        // that died here.
        let new = self.path(NEW_DIRECTORY);
        sys::remove_directory(&new);
        sys::make_directory(&new, access)?;
        sys::rename(&new, &path)
    }

    /// The entry of an enqueue whose answer was lost.
    pub(crate) fn find_by_id(&mut self, queue: &str, session: &str, id: &str) -> Result<Option<Place>, Failed> {
        Ok(self.places(queue)?.into_iter().find(|place| place.session == session && place.id == id))
    }

    pub(crate) fn ahead(&mut self, mine: &Entry, limit: usize) -> Result<Option<Ahead>, Failed> {
        let Some(Key::Entry { queue, place: mine }) = Key::parse(mine) else { return Ok(None) };
        let places = self.places(queue)?;
        let exists = places.iter().any(|place| place.order == mine.order && place.session == mine.session);
        if !exists || !self.is_alive(&mine.session)? {
            return Ok(None);
        }
        self.ahead_of(queue, mine.order, places, limit).map(Some)
    }

    pub(crate) fn dequeue(&mut self, entry: &Entry) -> Result<Dequeued, Failed> {
        let Some(Key::Entry { place, .. }) = Key::parse(entry) else { return Ok(Dequeued::Absent) };
        // First, so that a failure has removed nothing. An entry of a dead session has left the queue already.
        let alive = self.is_alive(&place.session)?;
        let mut removed = false;
        for name in names(&entry.key) {
            let path = self.path(&name);
            removed = removed || sys::remove(&path)?;
        }
        Ok(if removed && alive { Dequeued::Removed } else { Dequeued::Absent })
    }

    pub(crate) fn entries(&mut self, queue: &str, limit: usize) -> Result<Vec<QueueEntry>, Failed> {
        let mut places = self.places(queue)?;
        places.sort_unstable_by_key(|place| place.order);
        let (places, _) = self.first_alive(queue, places, limit)?;
        let mut entries = Vec::with_capacity(places.len());
        for place in places {
            let entry = place.entry(queue);
            // Removed by hand in between.
            let Some(content) = values::read(&self.path(&entry.key))? else { continue };
            entries.push(QueueEntry {
                entry,
                kind: place.kind,
                session: place.session,
                token: Some(place.order),
                value: content.value,
            });
        }
        Ok(entries)
    }

    /// The sessions that have entries in a queue, alive or not, and the queue's directory, which is made if need be.
    pub(crate) fn sessions_in(&mut self, queue: &str) -> Result<(PathBuf, Vec<String>), Failed> {
        self.make_directory(queue)?;
        let mut sessions: Vec<String> = self.places(queue)?.into_iter().map(|place| place.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        Ok((self.path(queue), sessions))
    }
}
