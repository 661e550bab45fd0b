//! The state of the store and what each request does to it, in one step and without waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backend::{Ahead, Change, Content, Dequeued, Entry, Kind, QueueEntry, Standing, Written};
use crate::name::Name;

#[derive(Debug, Default)]
pub(super) struct Store(Mutex<State>);

impl Store {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every step leaves the state consistent, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Orders entries and is their token; never reused.
    last_order: u64,
    last_session: u64,
    /// By their names' segments. Boxed, because a node of a map has room for eleven, and most queues have one.
    queues: BTreeMap<Arc<str>, BTreeMap<u64, Box<Stored>>>,
    sessions: BTreeMap<Arc<str>, Life>,
    records: HashMap<String, Content>,
    watches: HashMap<String, Vec<oneshot::Sender<Change>>>,
    /// The entry removed last, for reads that lag behind.
    ghost: Option<Box<Stored>>,
}

#[derive(Debug)]
struct Stored {
    entry: Entry,
    session: Arc<str>,
    kind: Kind,
    content: Content,
}

impl Stored {
    fn standing(&self) -> Standing {
        Standing { entry: self.entry.clone(), kind: self.kind }
    }
}

/// An entry on its way into a queue.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) key: Arc<str>,
    pub(super) session: Arc<str>,
    /// Requests sent under an older fence of the session are refused for ever.
    pub(super) fence: u64,
    pub(super) kind: Kind,
    pub(super) value: Vec<u8>,
    pub(super) only_if_free: bool,
}

#[derive(Debug)]
struct Life {
    owner: Vec<u8>,
    expires: Instant,
    fence: u64,
}

/// What became of an enqueue in the store.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Placed(Entry),
    Busy,
    FenceMoved,
    SessionOver,
}

impl State {
    pub(super) fn open_session(&mut self, owner: Vec<u8>, expires: Instant) -> Arc<str> {
        self.last_session += 1;
        let id: Arc<str> = format!("s{}", self.last_session).into();
        self.sessions.insert(id.clone(), Life { owner, expires, fence: 0 });
        id
    }

    pub(super) fn owner(&self, session: &str) -> Option<Vec<u8>> {
        self.sessions.get(session).map(|life| life.owner.clone())
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// When the session will expire; `None` when it is over.
    pub(super) fn expiry(&self, session: &str) -> Option<Instant> {
        self.sessions.get(session).map(|life| life.expires)
    }

    pub(super) fn renew(&mut self, session: &str, expires: Instant) -> bool {
        let life = self.sessions.get_mut(session);
        life.map(|life| life.expires = life.expires.max(expires)).is_some()
    }

    pub(super) fn end_session(&mut self, session: &str) -> bool {
        let lived = self.sessions.remove(session).is_some();
        let entries = self.queues.values().flat_map(BTreeMap::values);
        let owned = entries.filter(|stored| *stored.session == *session).map(|stored| stored.entry.clone());
        for entry in owned.collect::<Vec<_>>() {
            self.dequeue(&entry);
        }
        lived
    }

    pub(super) fn fence(&self, session: &str) -> u64 {
        self.sessions.get(session).map_or(0, |life| life.fence)
    }

    pub(super) fn move_fence(&mut self, session: &str) -> bool {
        self.sessions.get_mut(session).map(|life| life.fence += 1).is_some()
    }

    pub(super) fn enqueue(&mut self, offer: Offer) -> Outcome {
        match self.sessions.get(&offer.session) {
            None => return Outcome::SessionOver,
            Some(life) if life.fence != offer.fence => return Outcome::FenceMoved,
            Some(_) => {}
        }
        let queue = queue_of(&offer.key);
        let entries = self.queues.entry(queue.into()).or_default();
        if offer.only_if_free && !entries.is_empty() {
            return Outcome::Busy;
        }
        self.last_order += 1;
        let entry = Entry { key: offer.key.clone(), incarnation: self.last_order };
        let content = Content { value: offer.value, version: 1 };
        let stored = Stored { entry: entry.clone(), session: offer.session, kind: offer.kind, content };
        entries.insert(self.last_order, Box::new(stored));
        self.tell(queue, Change::Updated);
        Outcome::Placed(entry)
    }

    pub(super) fn find(&self, key: &str) -> Option<Entry> {
        let mut entries = self.queues.get(queue_of(key))?.values();
        entries.find(|stored| *stored.entry.key == *key).map(|stored| stored.entry.clone())
    }

    /// The entries ahead of `mine`, nearest first; with `stale`, as if the last removal had not happened yet.
    pub(super) fn ahead(&self, mine: &Entry, limit: usize, stale: bool) -> Option<Ahead> {
        let queue = queue_of(&mine.key);
        let entries = self.queues.get(queue)?;
        entries.get(&mine.incarnation)?;
        let before = entries.range(..mine.incarnation).rev().take(limit.saturating_add(1));
        let mut before: Vec<&Stored> = before.map(|(_, stored)| &**stored).collect();
        if let Some(ghost) = &self.ghost
            && stale
            && queue_of(&ghost.entry.key) == queue
            && ghost.entry.incarnation < mine.incarnation
        {
            let at = before.partition_point(|other| other.entry.incarnation > ghost.entry.incarnation);
            before.insert(at, ghost);
        }
        let more = before.len() > limit;
        Some(Ahead { nearest: before.into_iter().take(limit).map(Stored::standing).collect(), more })
    }

    /// Registers a watch; `None` when the entry is gone.
    pub(super) fn watch(&mut self, entry: &Entry) -> Option<oneshot::Receiver<Change>> {
        if !is_record(&entry.key) {
            self.stored(entry)?;
        }
        Some(self.register(&entry.key))
    }

    pub(super) fn watch_queue(&mut self, queue: &str) -> oneshot::Receiver<Change> {
        self.register(queue)
    }

    pub(super) fn read(&self, entry: &Entry) -> Option<Content> {
        if is_record(&entry.key) {
            return Some(self.records.get(&*entry.key).cloned().unwrap_or_default());
        }
        self.stored(entry).map(|stored| stored.content.clone())
    }

    pub(super) fn write(&mut self, entry: &Entry, version: u64, value: &[u8]) -> Written {
        let content = if is_record(&entry.key) {
            Some(self.records.entry(entry.key.to_string()).or_default())
        } else {
            self.stored_mut(entry).map(|stored| &mut stored.content)
        };
        match content {
            Some(content) if content.version == version => {
                *content = Content { value: value.to_vec(), version: version + 1 };
                self.tell(&entry.key, Change::Updated);
                Written::Done
            }
            _ => Written::Conflict,
        }
    }

    pub(super) fn downgrade(&mut self, entry: &Entry) -> Option<Entry> {
        let stored = self.stored_mut(entry)?;
        if stored.kind == Kind::Write {
            stored.kind = Kind::Read;
            self.tell(&entry.key, Change::Updated);
        }
        Some(entry.clone())
    }

    pub(super) fn dequeue(&mut self, entry: &Entry) -> Dequeued {
        if self.remove(queue_of(&entry.key), entry.incarnation) { Dequeued::Removed } else { Dequeued::Absent }
    }

    pub(super) fn remove_by_key(&mut self, key: &str) -> bool {
        self.find(key).is_some_and(|entry| self.dequeue(&entry) == Dequeued::Removed)
    }

    pub(super) fn entries(&self, queue: &Name, limit: usize) -> Vec<QueueEntry> {
        let Some(entries) = self.queues.get(queue.segment()) else { return Vec::new() };
        let entries = entries.values().take(limit).map(|stored| QueueEntry {
            entry: stored.entry.clone(),
            kind: stored.kind,
            session: stored.session.to_string(),
            token: Some(stored.entry.incarnation),
            value: stored.content.value.clone(),
        });
        entries.collect()
    }

    pub(super) fn names(&self, prefix: &str) -> Vec<Name> {
        let names = self.queues.keys().filter_map(|segment| Name::from_segment(segment));
        let mut names: Vec<_> = names.filter(|name| name.as_str().starts_with(prefix)).collect();
        names.sort_unstable();
        names
    }

    fn stored(&self, entry: &Entry) -> Option<&Stored> {
        Some(self.queues.get(queue_of(&entry.key))?.get(&entry.incarnation)?)
    }

    fn stored_mut(&mut self, entry: &Entry) -> Option<&mut Stored> {
        Some(self.queues.get_mut(queue_of(&entry.key))?.get_mut(&entry.incarnation)?)
    }

    fn remove(&mut self, queue: &str, order: u64) -> bool {
        let Some(entries) = self.queues.get_mut(queue) else { return false };
        let Some(stored) = entries.remove(&order) else { return false };
        if entries.is_empty() {
            self.queues.remove(queue);
        }
        self.tell(&stored.entry.key, Change::Removed);
        self.tell(queue, Change::Updated);
        self.ghost = Some(stored);
        true
    }

    /// Registers a watch on an entry, a record, or a queue by its name.
    fn register(&mut self, key: &str) -> oneshot::Receiver<Change> {
        let (changed, watch) = oneshot::channel();
        let watches = self.watches.entry(key.to_owned()).or_default();
        watches.retain(|watch| !watch.is_closed());
        watches.push(changed);
        watch
    }

    fn tell(&mut self, key: &str, change: Change) {
        if self.watches.is_empty() {
            return;
        }
        for watch in self.watches.remove(key).unwrap_or_default() {
            let _ = watch.send(change);
        }
    }
}

/// Where the record of a queue is kept; names are escaped, so this is none.
pub(super) fn record(queue: &Name) -> Entry {
    Entry { key: format!("{RECORD}{}", queue.segment()).into(), incarnation: 0 }
}

const RECORD: &str = "%record/";

fn is_record(key: &str) -> bool {
    key.starts_with(RECORD)
}

/// The first segment of an entry's key. Names are escaped, so it holds no slash of its own.
fn queue_of(key: &str) -> &str {
    key.split('/').next().unwrap_or_default()
}

/// What the entry of this attempt is called.
pub(super) fn key(queue: &Name, session: &str, id: &str) -> Arc<str> {
    [queue.segment(), "/", session, "-", id].concat().into()
}
