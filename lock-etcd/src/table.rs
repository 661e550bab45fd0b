//! The watches of one stream, and what the server's events mean to each of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{EventType, WatchOptions, WatchResponse};
use lock_core::backend::{Change, Kind};
use tokio::sync::{mpsc, oneshot};

use crate::error::Failure;
use crate::keys;
use crate::view::Events;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// An entry, and the revision that created it.
    Entry { key: Vec<u8>, created: i64 },
    /// A record.
    Record { key: Vec<u8> },
    /// The entries of a queue, for the next change.
    Queue { prefix: Vec<u8> },
    /// The entries of a queue, for all that happens to them until the watch ends.
    Entries(Arc<Events>),
}

/// What happened to a key.
#[derive(Clone, Copy, Debug)]
struct Event<'a> {
    key: &'a [u8],
    revision: i64,
    /// The revision that created the key which was put; `None` for a removal.
    put: Option<i64>,
}

impl Subject {
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Entry { key, .. } | Self::Record { key } | Self::Queue { prefix: key } => key,
            Self::Entries(events) => &events.prefix,
        }
    }

    pub(crate) fn options(&self, id: i64) -> WatchOptions {
        let options = WatchOptions::new().with_watch_id(id);
        match self {
            Self::Entry { .. } | Self::Record { .. } => options,
            Self::Queue { .. } | Self::Entries(_) => options.with_range(keys::end_of(self.key())),
        }
    }

    /// What events in the server's order tell; `None` when nothing happened.
    fn change<'a>(&self, events: impl Iterator<Item = Event<'a>>) -> Option<Change> {
        match self {
            Self::Entry { created, .. } => entry_change(*created, events),
            Self::Record { .. } => events.last().map(|_| Change::Updated),
            Self::Queue { prefix } => events.into_iter().find(|event| stirs(prefix, event)).map(|_| Change::Updated),
            Self::Entries(_) => None,
        }
    }
}

fn entry_change<'a>(created: i64, events: impl Iterator<Item = Event<'a>>) -> Option<Change> {
    let mut change = None;
    // A member that lags behind tells of earlier incarnations and of the creation, too.
    for event in events.filter(|event| event.revision > created) {
        match event.put {
            None => return Some(Change::Removed),
            Some(of) if of == created => change = Some(Change::Updated),
            // The entry is gone, and servers have lost events: what else happened before this is not known.
            Some(_) => return Some(Change::Unknown),
        }
    }
    change
}

/// Whether an entry joined or left the queue, or may have turned from a writer into a reader. What else is written to
/// entries does not concern those who follow the queue.
fn stirs(prefix: &[u8], event: &Event<'_>) -> bool {
    let joined_or_left = event.put.is_none_or(|created| created == event.revision);
    keys::is_entry(prefix, event.key) && (joined_or_left || keys::kind(event.key) == Kind::Write)
}

/// Tells from which revision on a watch is in force, or why it is not.
pub(crate) type Confirmation = oneshot::Receiver<Result<i64, Failure>>;

/// A watch in force. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watching {
    table: Arc<Table>,
    pub(crate) id: i64,
    change: oneshot::Receiver<Change>,
}

impl Watching {
    pub(crate) async fn change(mut self) -> Change {
        (&mut self.change).await.unwrap_or(Change::Unknown)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.table.forget(self.id);
    }
}

/// The watches of one stream, by id.
#[derive(Debug)]
pub(crate) struct Table {
    state: Mutex<State>,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
struct State {
    /// 0 once the stream has ended.
    next_id: i64,
    watches: BTreeMap<i64, Watch>,
}

/// What is to be asked of the server.
#[derive(Debug)]
pub(crate) enum Command {
    Open(i64, Subject),
    Close(i64),
}

/// Dropping it says that the watch has ended without telling.
#[derive(Debug)]
struct Watch {
    subject: Subject,
    in_force: Option<oneshot::Sender<Result<i64, Failure>>>,
    change: oneshot::Sender<Change>,
}

impl Table {
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, queue) = mpsc::unbounded_channel();
        (Arc::new(Self { state: Mutex::new(State { next_id: 1, watches: BTreeMap::new() }), commands }), queue)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when the stream has ended.
    pub(crate) fn add(self: &Arc<Self>, subject: &Subject) -> Option<(Watching, Confirmation)> {
        let (in_force, confirmation) = oneshot::channel();
        let (sender, change) = oneshot::channel();
        let mut state = self.state();
        if state.next_id == 0 {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        let watch = Watch { subject: subject.clone(), in_force: Some(in_force), change: sender };
        state.watches.insert(id, watch);
        // Under the lock, so that watches are asked for in the order of their ids.
        let _ = self.commands.send(Command::Open(id, subject.clone()));
        drop(state);
        Some((Watching { table: self.clone(), id, change }, confirmation))
    }

    fn forget(&self, id: i64) {
        let mut state = self.state();
        if state.watches.remove(&id).is_some() {
            let _ = self.commands.send(Command::Close(id));
        }
    }

    /// Ends all watches without telling.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.next_id = 0;
        state.watches.clear();
    }

    /// Takes an answer of the server.
    pub(crate) fn digest(&self, answer: &WatchResponse) {
        let mut state = self.state();
        let mut id = answer.watch_id();
        if answer.created() && answer.canceled() && !state.watches.contains_key(&id) {
            // Some releases refuse a watch without its id; requests are answered in order.
            let oldest = state.watches.iter().find(|(_, watch)| watch.in_force.is_some());
            id = oldest.map_or(id, |(id, _)| *id);
        }
        if answer.canceled() {
            if let Some(Watch { in_force: Some(in_force), .. }) = state.watches.remove(&id) {
                let _ = in_force.send(Err(Failure::watch_refused(answer.cancel_reason())));
            }
            return;
        }
        let Some(watch) = state.watches.get_mut(&id) else { return };
        if answer.created()
            && let Some(in_force) = watch.in_force.take()
        {
            let revision = answer.header().map_or(i64::MAX, etcd_client::ResponseHeader::revision);
            let _ = in_force.send(Ok(revision));
        }
        if let Subject::Entries(entries) = &watch.subject {
            for event in answer.events() {
                match (event.event_type(), event.kv()) {
                    (EventType::Put, Some(kv)) => entries.put(kv),
                    (EventType::Delete, Some(kv)) => entries.removed(kv.key(), kv.mod_revision()),
                    (_, None) => {}
                }
            }
            return;
        }
        let events = answer.events().iter().filter_map(|event| {
            let kv = event.kv()?;
            let put = (event.event_type() == EventType::Put).then(|| kv.create_revision());
            Some(Event { key: kv.key(), revision: kv.mod_revision(), put })
        });
        if let Some(change) = watch.subject.change(events)
            && let Some(watch) = state.watches.remove(&id)
        {
            let _ = watch.change.send(change);
            let _ = self.commands.send(Command::Close(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(created: i64) -> Subject {
        Subject::Entry { key: b"l/k".to_vec(), created }
    }

    fn put(created: i64, revision: i64) -> Event<'static> {
        Event { key: b"l/k", revision, put: Some(created) }
    }

    fn removal(revision: i64) -> Event<'static> {
        Event { key: b"l/k", revision, put: None }
    }

    #[tokio::test]
    async fn a_dropped_watch_is_closed_on_the_server_once() {
        let (table, mut queue) = Table::new();
        let (watching, _confirmation) = table.add(&entry(5)).unwrap();
        assert!(matches!(queue.try_recv(), Ok(Command::Open(1, of)) if of == entry(5)));
        drop(watching);
        assert!(matches!(queue.try_recv(), Ok(Command::Close(1))));
        assert!(queue.try_recv().is_err());
    }

    #[tokio::test]
    async fn the_end_of_the_stream_ends_watches_without_telling() {
        let (table, _queue) = Table::new();
        let (watching, confirmation) = table.add(&entry(5)).unwrap();
        table.close();
        assert!(confirmation.await.is_err());
        assert_eq!(watching.change().await, Change::Unknown);
        assert!(table.add(&entry(5)).is_none());
    }

    #[test]
    fn an_entry_is_one_incarnation_from_its_creation_on() {
        for (events, want) in [
            (vec![], None),
            (vec![put(5, 5)], None),
            (vec![put(2, 3), removal(4), put(5, 5)], None),
            (vec![put(5, 6)], Some(Change::Updated)),
            (vec![put(5, 5), put(5, 7)], Some(Change::Updated)),
            (vec![removal(6)], Some(Change::Removed)),
            (vec![put(5, 6), removal(7)], Some(Change::Removed)),
            (vec![removal(6), put(7, 7)], Some(Change::Removed)),
            (vec![put(7, 7)], Some(Change::Unknown)),
            (vec![put(7, 7), removal(8)], Some(Change::Unknown)),
        ] {
            assert_eq!(entry(5).change(events.iter().copied()), want, "{events:?}");
        }
    }

    #[test]
    fn a_record_changes_with_every_event() {
        let record = Subject::Record { key: b"%record/l".to_vec() };
        assert_eq!(record.change(std::iter::empty()), None);
        for event in [put(5, 5), put(5, 6), removal(7)] {
            assert_eq!(record.change([event].into_iter()), Some(Change::Updated), "{event:?}");
        }
    }

    #[test]
    fn a_queue_is_stirred_by_who_joins_leaves_or_may_read_on() {
        let (foreign, writer) = (&b"l/1f"[..], &b"l/1f-7-write"[..]);
        for (key, put, revision, want) in [
            (foreign, Some(5), 5, true),
            (foreign, None, 6, true),
            (foreign, Some(5), 6, false),
            (writer, Some(5), 6, true),
            (b"l/b/1f", Some(5), 5, false),
            (b"l/b/1f", None, 6, false),
        ] {
            let queue = Subject::Queue { prefix: b"l/".to_vec() };
            let event = Event { key, revision, put };
            assert_eq!(queue.change([event].into_iter()).is_some(), want, "{event:?}");
        }
    }
}
