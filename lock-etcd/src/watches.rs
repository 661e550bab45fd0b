//! All watches of a session, on one stream.
//!
//! Watches are opened "from now": a watch from a revision that has passed is served by etcd in a batch every 100 ms. Nothing
//! is missed, because the key is read after the server has confirmed the watch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use etcd_client::{EventType, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use lock_core::backend::Removed;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use crate::endpoints::{Connection, Endpoints, Failure};
use crate::error::NoAnswer;

#[derive(Debug)]
pub(crate) struct Watches {
    endpoints: Arc<Endpoints>,
    next_id: AtomicI64,
    stream: Mutex<Option<Stream>>,
}

/// The way to the task of one stream.
#[derive(Clone, Debug)]
struct Stream {
    epoch: u64,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Open(i64, Watch),
    Close(i64),
}

/// A key that is watched, until its waiter closes it. Dropping the senders says that the watch has ended.
#[derive(Debug)]
struct Watch {
    key: Vec<u8>,
    /// Removals at this revision or before are of an earlier incarnation.
    created: i64,
    in_force: Option<oneshot::Sender<()>>,
    removed: Option<oneshot::Sender<()>>,
}

/// A watch in force. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watching {
    id: i64,
    commands: mpsc::UnboundedSender<Command>,
    removed: oneshot::Receiver<()>,
}

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
        // Without a task there is no watch to end.
        let _ = self.commands.send(Command::Close(self.id));
    }
}

impl Watches {
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints, next_id: AtomicI64::new(1), stream: Mutex::default() }
    }

    /// Watches `key` for the removal of the incarnation created at `created`. Returns when the watch is in force.
    pub(crate) async fn watch(&self, key: &[u8], created: i64) -> Result<Watching, Failure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let within = self.endpoints.request_timeout();
        let stream = self.stream(key).await?;
        let (in_force, confirmed) = oneshot::channel();
        let (removed, removal) = oneshot::channel();
        let watch = Watch { key: key.to_vec(), created, in_force: Some(in_force), removed: Some(removed) };
        let _ = stream.commands.send(Command::Open(id, watch));
        let watching = Watching { id, commands: stream.commands, removed: removal };
        match timeout(within, confirmed).await {
            Ok(Ok(())) => Ok(watching),
            Ok(Err(_)) => Err(Failure::NoAnswer(NoAnswer { endpoint: "the watch stream, which ended".into(), within })),
            Err(_) => {
                self.endpoints.give_up(stream.epoch);
                Err(Failure::NoAnswer(NoAnswer { endpoint: "the watch stream".into(), within }))
            }
        }
    }

    /// Ends every watch.
    pub(crate) async fn close(&self) {
        self.stream.lock().await.take();
    }

    /// The stream of the present connection, opened if need be.
    async fn stream(&self, key: &[u8]) -> Result<Stream, Failure> {
        let mut current = self.stream.lock().await;
        let epoch = *self.endpoints.epochs().borrow();
        if let Some(stream) = &*current
            && stream.epoch == epoch
            && !stream.commands.is_closed()
        {
            return Ok(stream.clone());
        }
        // A stream opens with a watch, which is closed again at once.
        let opening = self.next_id.fetch_add(1, Ordering::Relaxed);
        let opened = self.endpoints.request(async |mut connection: Connection| {
            let stream = connection.client.watch(key, Some(options(opening))).await?;
            Ok((connection.epoch, stream))
        });
        let (epoch, (mut requests, answers)) = opened.await.map(|(epoch, stream)| (epoch, stream.split()))?;
        requests.cancel(opening).await.map_err(Failure::Etcd)?;
        let (commands, queue) = mpsc::unbounded_channel();
        let stream = Stream { epoch, commands };
        tokio::spawn(serve(self.endpoints.clone(), epoch, requests, answers, queue));
        *current = Some(stream.clone());
        Ok(stream)
    }
}

fn options(id: i64) -> WatchOptions {
    WatchOptions::new().with_watch_id(id).with_filters([WatchFilterType::NoPut])
}

/// The task of one stream. When it ends, every watch on it ends without telling.
async fn serve(
    endpoints: Arc<Endpoints>,
    epoch: u64,
    mut requests: WatchRequestSender,
    mut answers: WatchResponseStream,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut epochs = endpoints.epochs();
    let mut watches: HashMap<i64, Watch> = HashMap::new();
    loop {
        tokio::select! {
            () = async { let _ = epochs.wait_for(|now| *now != epoch).await; } => return,
            command = commands.recv() => {
                let sent = match command {
                    None => return,
                    Some(Command::Open(id, watch)) => {
                        let sent = requests.watch(watch.key.clone(), Some(options(id))).await;
                        watches.insert(id, watch);
                        sent
                    }
                    Some(Command::Close(id)) => match watches.remove(&id) {
                        Some(_) => requests.cancel(id).await,
                        None => Ok(()),
                    },
                };
                if sent.is_err() {
                    break;
                }
            }
            answer = answers.message() => match answer {
                Ok(Some(answer)) => digest(&answer, &mut watches),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "the watch stream ended");
                    break;
                }
            }
        }
    }
    endpoints.give_up(epoch);
}

fn digest(answer: &WatchResponse, watches: &mut HashMap<i64, Watch>) {
    let id = answer.watch_id();
    if answer.canceled() {
        watches.remove(&id);
        return;
    }
    let Some(watch) = watches.get_mut(&id) else { return };
    if answer.created()
        && let Some(in_force) = watch.in_force.take()
    {
        let _ = in_force.send(());
    }
    let removed = answer.events().iter().any(|event| {
        let revision = event.kv().map_or(0, |kv| kv.mod_revision());
        event.event_type() == EventType::Delete && revision > watch.created
    });
    if removed && let Some(removed) = watch.removed.take() {
        let _ = removed.send(());
    }
}
