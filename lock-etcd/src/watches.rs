//! All watches of a session, on one stream.
//!
//! Watches are opened "from now": a watch from a revision that has passed is served by etcd in a batch every 100 ms. Nothing
//! is missed, because a watch in force says from which revision on it tells, and the key is read at that revision or later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{
    Error as EtcdError, EventType, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse,
    WatchResponseStream,
};
use lock_core::backend::Removed;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::endpoints::{Connection, Endpoints};
use crate::error::{Failure, Meaning};

#[derive(Debug)]
pub(crate) struct Watches {
    endpoints: Arc<Endpoints>,
    stream: tokio::sync::Mutex<Option<Stream>>,
}

/// A watch in force. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watching {
    table: Arc<Table>,
    id: i64,
    removed: oneshot::Receiver<()>,
}

/// Tells from which revision on a watch is in force, or why it is not.
type Confirmation = oneshot::Receiver<Result<i64, Failure>>;

impl Watching {
    pub(crate) async fn removed(mut self) -> Removed {
        match (&mut self.removed).await {
            Ok(()) => Removed::Gone,
            Err(_) => Removed::Unknown,
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.table.forget(self.id);
    }
}

impl Watches {
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, stream: tokio::sync::Mutex::default() }
    }

    /// Watches `key` for the removal of the incarnation created at `created`. Returns when the watch is in force, with the
    /// revision behind which it misses nothing.
    pub(crate) async fn watch(&self, key: &[u8], created: i64) -> Result<(Watching, i64), Failure> {
        let refused = match self.watch_once(key, created).await {
            Err(failure) if matches!(failure.meaning, Meaning::AccessDenied | Meaning::StaleLogin) => failure,
            answer => return answer,
        };
        // A stream keeps the token that it was opened with, and the server may have forgotten that one.
        tracing::debug!(?refused, "a watch was refused, logging in again");
        self.watch_once(key, created).await
    }

    async fn watch_once(&self, key: &[u8], created: i64) -> Result<(Watching, i64), Failure> {
        let within = self.endpoints.request_timeout();
        let (epoch, watching, confirmation) = self.open(key, created).await?;
        match timeout(within, confirmation).await {
            Ok(Ok(Ok(revision))) => Ok((watching, revision)),
            Ok(Ok(Err(failure))) => {
                self.endpoints.give_up(epoch);
                Err(failure)
            }
            Ok(Err(_)) => Err(Failure::unavailable("the watch stream ended")),
            Err(_) => {
                self.endpoints.give_up(epoch);
                Err(Failure::no_answer("the watch stream", within))
            }
        }
    }

    /// Ends every watch.
    pub(crate) async fn close(&self) {
        self.stream.lock().await.take();
    }

    /// Asks for a watch on the stream of the present connection, opened if need be.
    async fn open(&self, key: &[u8], created: i64) -> Result<(u64, Watching, Confirmation), Failure> {
        let mut current = self.stream.lock().await;
        let epoch = *self.endpoints.epochs().borrow();
        if let Some(stream) = &*current
            && stream.epoch == epoch
            && let Some((watching, confirmation)) = stream.table.add(key, created)
        {
            return Ok((epoch, watching, confirmation));
        }
        *current = None;
        let (table, mut queue) = Table::new();
        let Some((watching, confirmation)) = table.add(key, created) else {
            return Err(Failure::unavailable("the watch stream ended"));
        };
        // A stream opens with a watch: with this one, which the writer must not ask for again.
        let _ = queue.try_recv();
        let (id, key) = (watching.id, key.to_vec());
        let opening = self.endpoints.request(async |connection: Arc<Connection>| {
            let stream = connection.watch.clone().watch(key, Some(options(id))).await?;
            Ok((connection.epoch, stream))
        });
        let (epoch, stream) = opening.await?;
        tracing::debug!(epoch, "watch stream opened");
        let task = tokio::spawn(serve(self.endpoints.clone(), epoch, stream.split(), queue, table.clone()));
        *current = Some(Stream { epoch, table, task });
        Ok((epoch, watching, confirmation))
    }
}

#[derive(Debug)]
struct Stream {
    epoch: u64,
    table: Arc<Table>,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
        self.table.close();
    }
}

/// The watches of one stream, by id.
#[derive(Debug)]
struct Table {
    state: Mutex<State>,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
struct State {
    /// 0 once the stream has ended.
    next_id: i64,
    watches: BTreeMap<i64, Watch>,
}

#[derive(Debug)]
enum Command {
    Open(i64, Vec<u8>),
    Close(i64),
}

/// Dropping it says that the watch has ended without telling.
#[derive(Debug)]
struct Watch {
    /// Removals at this revision or before are of an earlier incarnation.
    created: i64,
    in_force: Option<oneshot::Sender<Result<i64, Failure>>>,
    removed: oneshot::Sender<()>,
}

impl Table {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Command>) {
        let (commands, queue) = mpsc::unbounded_channel();
        (Arc::new(Self { state: Mutex::new(State { next_id: 1, watches: BTreeMap::new() }), commands }), queue)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when the stream has ended.
    fn add(self: &Arc<Self>, key: &[u8], created: i64) -> Option<(Watching, Confirmation)> {
        let (in_force, confirmation) = oneshot::channel();
        let (sender, removed) = oneshot::channel();
        let mut state = self.state();
        if state.next_id == 0 {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        state.watches.insert(id, Watch { created, in_force: Some(in_force), removed: sender });
        // Under the lock, so that watches are asked for in the order of their ids.
        let _ = self.commands.send(Command::Open(id, key.to_vec()));
        drop(state);
        Some((Watching { table: self.clone(), id, removed }, confirmation))
    }

    fn forget(&self, id: i64) {
        let mut state = self.state();
        if state.watches.remove(&id).is_some() {
            let _ = self.commands.send(Command::Close(id));
        }
    }

    fn close(&self) {
        let mut state = self.state();
        state.next_id = 0;
        state.watches.clear();
    }

    fn digest(&self, answer: &WatchResponse) {
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
        let removed = answer.events().iter().any(|event| {
            let revision = event.kv().map_or(0, |kv| kv.mod_revision());
            event.event_type() == EventType::Delete && revision > watch.created
        });
        if removed && let Some(watch) = state.watches.remove(&id) {
            let _ = watch.removed.send(());
            let _ = self.commands.send(Command::Close(id));
        }
    }
}

fn options(id: i64) -> WatchOptions {
    WatchOptions::new().with_watch_id(id).with_filters([WatchFilterType::NoPut])
}

/// The task of one stream. When it ends, every watch on it ends without telling.
async fn serve(
    endpoints: Arc<Endpoints>,
    epoch: u64,
    (requests, answers): (WatchRequestSender, WatchResponseStream),
    commands: mpsc::UnboundedReceiver<Command>,
    table: Arc<Table>,
) {
    let mut epochs = endpoints.epochs();
    let moved = async { epochs.wait_for(|now| *now != epoch).await.map(drop) };
    // Requests and answers side by side: on a stalled connection neither must keep the other waiting.
    let ended = tokio::select! {
        _ = moved => None,
        error = write(requests, commands) => error,
        error = read(answers, &table) => error,
    };
    tracing::debug!(epoch, error = ended.as_ref().map(tracing::field::display), "watch stream ended");
    // First, so that whoever is told of the end uses another connection.
    endpoints.give_up(epoch);
    table.close();
}

async fn write(mut requests: WatchRequestSender, mut commands: mpsc::UnboundedReceiver<Command>) -> Option<EtcdError> {
    while let Some(command) = commands.recv().await {
        let sent = match command {
            Command::Open(id, key) => requests.watch(key, Some(options(id))).await,
            Command::Close(id) => requests.cancel(id).await,
        };
        if let Err(error) = sent {
            return Some(error);
        }
    }
    None
}

async fn read(mut answers: WatchResponseStream, table: &Table) -> Option<EtcdError> {
    loop {
        match answers.message().await {
            Ok(Some(answer)) => table.digest(&answer),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_watch_is_closed_on_the_server_once() {
        let (table, mut queue) = Table::new();
        let (watching, _confirmation) = table.add(b"k", 5).unwrap();
        assert!(matches!(queue.try_recv(), Ok(Command::Open(1, key)) if key == b"k"));
        drop(watching);
        assert!(matches!(queue.try_recv(), Ok(Command::Close(1))));
        assert!(queue.try_recv().is_err());
    }

    #[tokio::test]
    async fn the_end_of_the_stream_ends_watches_without_telling() {
        let (table, _queue) = Table::new();
        let (watching, confirmation) = table.add(b"k", 5).unwrap();
        table.close();
        assert!(confirmation.await.is_err());
        assert_eq!(watching.removed().await, Removed::Unknown);
        assert!(table.add(b"k", 5).is_none());
    }
}
