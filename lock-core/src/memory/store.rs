//! The state of the store and what each request does to it, in one step and without waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    queues: BTreeMap<String, BTreeMap<u64, Stored>>,
    sessions: HashMap<String, Life>,
    records: HashMap<String, Content>,
    watches: HashMap<String, Vec<oneshot::Sender<Change>>>,
    /// The entry removed last, for reads that lag behind.
    ghost: Option<(String, u64, Stored)>,
}

#[derive(Clone, Debug)]
struct Stored {
    session: String,
    id: String,
    kind: Kind,
    content: Content,
}

#[derive(Debug)]
struct Life {
    owner: Vec<u8>,
    expires: Instant,
    /// Requests sent under an older fence are refused for ever.
    fence: u64,
}

/// What became of an enqueue in the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Placed(u64),
    Busy,
    FenceMoved,
    SessionOver,
}

impl State {
    pub(super) fn open_session(&mut self, owner: Vec<u8>, expires: Instant) -> String {
        self.last_session += 1;
        let id = format!("s{}", self.last_session);
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
        let of_session = |(order, stored): (&u64, &Stored)| (stored.session == session).then_some(*order);
        let owned = self
            .queues
            .iter()
            .flat_map(|(name, queue)| queue.iter().filter_map(of_session).map(|order| (name.clone(), order)));
        for (queue, order) in owned.collect::<Vec<_>>() {
            self.remove(&queue, order);
        }
        lived
    }

    pub(super) fn fence(&self, session: &str) -> u64 {
        self.sessions.get(session).map_or(0, |life| life.fence)
    }

    pub(super) fn move_fence(&mut self, session: &str) -> bool {
        self.sessions.get_mut(session).map(|life| life.fence += 1).is_some()
    }

    pub(super) fn enqueue(
        &mut self,
        session: &str,
        fence: u64,
        queue: &str,
        (id, kind): (&str, Kind),
        value: &[u8],
        only_if_free: bool,
    ) -> Outcome {
        match self.sessions.get(session) {
            None => return Outcome::SessionOver,
            Some(life) if life.fence != fence => return Outcome::FenceMoved,
            Some(_) => {}
        }
        let entries = self.queues.entry(queue.to_owned()).or_default();
        if only_if_free && !entries.is_empty() {
            return Outcome::Busy;
        }
        self.last_order += 1;
        let content = Content { value: value.to_vec(), version: 1 };
        let stored = Stored { session: session.to_owned(), id: id.to_owned(), kind, content };
        entries.insert(self.last_order, stored);
        self.tell(queue, Change::Updated);
        Outcome::Placed(self.last_order)
    }

    pub(super) fn find(&self, session: &str, queue: &str, id: &str) -> Option<u64> {
        let found = self.queues.get(queue)?.iter().find(|(_, e)| e.session == session && e.id == id);
        found.map(|(order, _)| *order)
    }

    pub(super) fn entry(&self, queue: &str, order: u64) -> Option<Entry> {
        Some(as_entry(queue, order, self.queues.get(queue)?.get(&order)?))
    }

    /// The entries ahead of `mine`, nearest first; with `stale`, as if the last removal had not happened yet.
    pub(super) fn ahead(&self, mine: &Entry, limit: usize, stale: bool) -> Option<Ahead> {
        let queue = queue_of(mine);
        let entries = self.queues.get(queue)?;
        entries.get(&mine.incarnation)?;
        let mut before: Vec<(u64, &Stored)> =
            entries.range(..mine.incarnation).rev().take(limit.saturating_add(1)).map(|(o, e)| (*o, e)).collect();
        if let Some((of, order, ghost)) = &self.ghost
            && stale
            && of == queue
            && *order < mine.incarnation
        {
            let at = before.partition_point(|(other, _)| other > order);
            before.insert(at, (*order, ghost));
        }
        let more = before.len() > limit;
        let nearest = before.into_iter().take(limit).map(|(order, stored)| standing(queue, order, stored));
        Some(Ahead { nearest: nearest.collect(), more })
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
        if self.remove(queue_of(entry), entry.incarnation) { Dequeued::Removed } else { Dequeued::Absent }
    }

    pub(super) fn remove_by_key(&mut self, key: &str) -> bool {
        let Some((queue, _)) = key.split_once('/') else { return false };
        let entries = self.queues.get(queue).into_iter().flatten();
        let found = entries.map(|(order, stored)| as_entry(queue, *order, stored)).find(|entry| *entry.key == *key);
        found.is_some_and(|entry| self.remove(queue, entry.incarnation))
    }

    pub(super) fn entries(&self, queue: &Name, limit: usize) -> Vec<QueueEntry> {
        let Some(entries) = self.queues.get(queue.segment()) else { return Vec::new() };
        let entries = entries.iter().take(limit).map(|(order, stored)| QueueEntry {
            entry: as_entry(queue.segment(), *order, stored),
            kind: stored.kind,
            session: stored.session.clone(),
            token: Some(*order),
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
        self.queues.get(queue_of(entry))?.get(&entry.incarnation)
    }

    fn stored_mut(&mut self, entry: &Entry) -> Option<&mut Stored> {
        self.queues.get_mut(queue_of(entry))?.get_mut(&entry.incarnation)
    }

    fn remove(&mut self, queue: &str, order: u64) -> bool {
        let Some(entries) = self.queues.get_mut(queue) else { return false };
        let Some(stored) = entries.remove(&order) else { return false };
        if entries.is_empty() {
            self.queues.remove(queue);
        }
        let key = as_entry(queue, order, &stored).key;
        self.ghost = Some((queue.to_owned(), order, stored));
        self.tell(&key, Change::Removed);
        self.tell(queue, Change::Updated);
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

/// The first segment of a key. Names are escaped, so it holds no slash of its own.
fn queue_of(entry: &Entry) -> &str {
    entry.key.split('/').next().unwrap_or_default()
}

fn as_entry(queue: &str, order: u64, stored: &Stored) -> Entry {
    Entry { key: format!("{queue}/{}-{}", stored.session, stored.id).into(), incarnation: order }
}

fn standing(queue: &str, order: u64, stored: &Stored) -> Standing {
    Standing { entry: as_entry(queue, order, stored), kind: stored.kind }
}
