//! A queue as the session knows it, kept up to date by a watch on all its keys.

use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{GetOptions, KeyValue, ResponseHeader};
use lock_core::backend::{Ahead, Entry, Feed, Kind, Standing, View, Watched};

use crate::error::Failure;
use crate::keys;
use crate::queue::{entries_in, standing};
use crate::session::EtcdSession;
use crate::table::Subject;

/// What a watch on all keys of a queue tells: kept until the queue was listed, and then passed on.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) prefix: Vec<u8>,
    told: Mutex<Told>,
}

#[derive(Debug)]
enum Told {
    /// Before the queue was listed.
    Kept(Vec<Event>),
    /// It was listed at this revision, which is in the list.
    Passed { to: Arc<View<i64>>, listed: i64 },
}

/// What happened to an entry, and the revision of it.
#[derive(Debug)]
enum Event {
    Put { place: i64, standing: Standing, revision: i64 },
    Removal { key: String, revision: i64 },
}

impl Event {
    fn revision(&self) -> i64 {
        let (Self::Put { revision, .. } | Self::Removal { revision, .. }) = self;
        *revision
    }

    fn pass_on(self, view: &View<i64>) {
        match self {
            Self::Put { place, standing, .. } => view.put(place, standing),
            Self::Removal { key, .. } => view.remove(&key),
        }
    }
}

impl Events {
    fn new(prefix: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { prefix, told: Mutex::new(Told::Kept(Vec::new())) })
    }

    /// A key was put.
    pub(crate) fn put(&self, kv: &KeyValue) {
        let (place, standing) = (kv.create_revision(), standing(kv));
        self.tell(kv.key(), Event::Put { place, standing, revision: kv.mod_revision() });
    }

    /// A key was removed, at this revision.
    pub(crate) fn removed(&self, key: &[u8], revision: i64) {
        self.tell(key, Event::Removal { key: keys::text(key), revision });
    }

    fn tell(&self, key: &[u8], event: Event) {
        if !keys::is_entry(&self.prefix, key) {
            return;
        }
        match &mut *self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            Told::Kept(events) => events.push(event),
            Told::Passed { to, listed } if event.revision() > *listed => event.pass_on(to),
            Told::Passed { .. } => {}
        }
    }

    /// Makes a view of the queue as it was listed at a revision, and of all that was told since.
    fn view(&self, list: impl Iterator<Item = (i64, Standing)>, listed: i64) -> Arc<View<i64>> {
        let view = Arc::new(View::new(list, listed));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Told::Kept(events) = &mut *told {
            events.drain(..).filter(|event| event.revision() > listed).for_each(|event| event.pass_on(&view));
        }
        *told = Told::Passed { to: view.clone(), listed };
        view
    }
}

impl PartialEq for Events {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Events {}

impl EtcdSession {
    /// As the view of its queue shows it; `None` where there is none, or it cannot tell.
    pub(crate) async fn viewed_ahead(&self, mine: &Entry, limit: usize) -> Option<Option<Ahead>> {
        if !self.endpoints.config().views {
            return None;
        }
        let (key, place) = keys::bytes(mine).ok()?;
        let queue = keys::queue_of(&key)?;
        let view = match self.views.get(queue, async || self.open_view(queue.as_bytes()).await).await? {
            Ok(view) => view,
            Err(failure) => {
                tracing::debug!(?failure, queue, "no view of the queue");
                return None;
            }
        };
        if !view.reaches(&place).await {
            return None;
        }
        view.ahead(&place, mine, limit).ok()
    }

    /// As the view of its queue shows it; `None` where there is none, or it cannot tell.
    pub(crate) fn viewed_watch(&self, entry: &Entry) -> Option<Watched> {
        let (key, place) = keys::bytes(entry).ok()?;
        self.views.find(keys::queue_of(&key)?)?.watch(&place, entry).ok()
    }

    async fn open_view(&self, prefix: &[u8]) -> Result<(Arc<View<i64>>, Feed), Failure> {
        let events = Events::new(prefix.to_vec());
        let (watching, in_force_from) = self.watches.watch(&Subject::Entries(events.clone())).await?;
        let list = async |options: GetOptions| {
            let options = options.with_range(keys::end_of(prefix));
            self.endpoints.get(prefix, options).await.map(|(_, list)| list)
        };
        let mut listed = list(GetOptions::new().with_keys_only()).await?;
        if entries_in(prefix, &listed).any(|kv| keys::kind(kv.key()) == Kind::Write) {
            // Its value tells whether it is one still.
            listed = list(GetOptions::new()).await?;
        }
        let revision = listed.header().map_or(0, ResponseHeader::revision);
        if revision < in_force_from {
            return Err(Failure::unavailable("a list older than the watch"));
        }
        let seated = entries_in(prefix, &listed).map(|kv| (kv.create_revision(), standing(kv)));
        let view = events.view(seated, revision);
        tracing::debug!(entries = view.len(), revision, "view opened");
        let feed = async move {
            watching.change().await;
        };
        Ok((view, Box::pin(feed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(key: &str, place: i64) -> Standing {
        let entry = Entry { key: key.into(), incarnation: place.unsigned_abs() };
        Standing { entry, kind: Kind::Exclusive }
    }

    fn put(events: &Events, key: &str, place: i64) {
        events.tell(key.as_bytes(), Event::Put { place, standing: standing(key, place), revision: place });
    }

    /// The places in it.
    fn shown(view: &View<i64>) -> Vec<i64> {
        let last = standing("l/z", 100);
        view.put(100, last.clone());
        let ahead = view.ahead(&100, &last.entry, 9).unwrap().unwrap();
        ahead.nearest.iter().rev().map(|other| other.entry.incarnation.cast_signed()).collect()
    }

    #[test]
    fn what_the_list_shows_already_is_not_told_again() {
        let events = Events::new(b"l/".to_vec());
        // A key that went and came again before it was listed, one that went since, and one that came since.
        put(&events, "l/a", 5);
        events.removed(b"l/a", 6);
        put(&events, "l/a", 7);
        events.removed(b"l/b", 12);
        put(&events, "l/c", 13);
        let list = [(7, standing("l/a", 7)), (8, standing("l/b", 8))];
        let view = events.view(list.into_iter(), 10);
        assert!(view.has_reached(&13));
        // Told late.
        put(&events, "l/d", 9);
        events.removed(b"l/a", 10);
        put(&events, "l/e", 14);
        put(&events, "l/deeper/e", 15);
        assert_eq!(shown(&view), [7, 13, 14]);
    }
}
