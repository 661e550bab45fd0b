//! A ZooKeeper session as a [`Session`].

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{Ahead, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Watched};
use lock_core::clock::{BootClock, Clock, Instant};
use lock_core::{Error, Name, Result};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use zookeeper_client as zk;
use zookeeper_client::{Acls, Client, CreateMode, MultiWriteError};

use crate::error::{Closing, DirectoryGone, NoAnswer, NumbersUsedUp, Peer, TooManyWatches};
use crate::names::{self, Place};
use crate::proof::Proofs;
use crate::watch::{MAX_WATCHED_BYTES, removal};

const RENEW: &str = "renew the session";
const ENQUEUE: &str = "enter the queue";
const ADOPT: &str = "look for an entry whose creation was not answered";
const LIST: &str = "list the queue";
const WATCH: &str = "watch an entry";
const DEQUEUE: &str = "remove an entry";

/// How often an entry is put into a directory that is removed at the same time. Servers remove container nodes that stay
/// empty for a minute, so more than one time means that somebody deletes on purpose.
const DIRECTORY_TRIES: usize = 4;

/// Entries ahead that an enqueue reports; who needs more asks.
const NEAREST: usize = 8;

/// Reads in flight when a whole queue is read.
const READS: usize = 64;

pub(crate) struct Settings {
    pub(crate) chroot: String,
    pub(crate) acls: Acls<'static>,
    pub(crate) peer: Peer,
}

pub(crate) struct ZkSession {
    /// Absent once the session is being closed: the client closes its session when the last reference is dropped.
    client: Mutex<Option<Arc<Client>>>,
    id: String,
    raw_id: i64,
    ttl: Duration,
    settings: Settings,
    /// The node that heartbeats check, and its data.
    node: String,
    owner: Vec<u8>,
    proofs: Proofs,
    closing: watch::Sender<bool>,
    closed: AtomicBool,
    /// Servers before 3.5.3 have no container nodes.
    no_containers: AtomicBool,
    watched_bytes: Arc<Semaphore>,
    warned_of_watches: AtomicBool,
}

impl fmt::Debug for ZkSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkSession").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl ZkSession {
    pub(crate) fn new(client: Client, settings: Settings, owner: &[u8], began: Instant) -> Self {
        let (id, ttl) = (client.session_id(), client.session_timeout());
        let mut this = Self {
            client: Mutex::new(Some(Arc::new(client))),
            id: id.to_string(),
            raw_id: id.0,
            ttl,
            settings,
            node: String::new(),
            owner: owner.to_vec(),
            proofs: Proofs::new(ttl, began),
            closing: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            no_containers: AtomicBool::new(false),
            watched_bytes: Arc::new(Semaphore::new(MAX_WATCHED_BYTES)),
            warned_of_watches: AtomicBool::new(false),
        };
        // No lock's segment looks like this one.
        this.node = format!("{}/{}", this.path("%session"), this.id);
        this
    }

    /// Creates the session's own node.
    pub(crate) async fn register(&self) -> Result<()> {
        let client = self.client()?;
        self.create_node(&client).await
    }

    async fn create_node(&self, client: &Client) -> Result<()> {
        let options = CreateMode::Ephemeral.with_acls(self.settings.acls);
        let directory = self.path("%session");
        for _ in 0..DIRECTORY_TRIES {
            match client.create(&self.node, &self.owner, &options).await {
                Ok(_) | Err(zk::Error::NodeExists) => return Ok(()),
                Err(zk::Error::NoNode) => self.make_directory(client, &directory).await?,
                Err(error) => return Err(self.classify("open a session", &self.node, error)),
            }
        }
        Err(Error::unavailable("open a session", DirectoryGone(directory)))
    }

    async fn make_directory(&self, client: &Client, path: &str) -> Result<()> {
        let acls = self.settings.acls;
        if !self.no_containers.load(Ordering::Relaxed) {
            match client.mkdir(path, &CreateMode::Container.with_acls(acls)).await {
                Err(zk::Error::Unimplemented) => self.no_containers.store(true, Ordering::Relaxed),
                made => return made.map_err(|error| self.classify("create a directory", path, error)),
            }
        }
        let made = client.mkdir(path, &CreateMode::Persistent.with_acls(acls)).await;
        made.map_err(|error| self.classify("create a directory", path, error))
    }

    fn path(&self, segment: &str) -> String {
        format!("{}/{segment}", self.settings.chroot.trim_end_matches('/'))
    }

    fn classify(&self, request: &'static str, path: &str, error: zk::Error) -> Error {
        self.settings.peer.classify(request, path, &self.id, error)
    }

    fn client(&self) -> Result<Arc<Client>> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None if self.closed.load(Ordering::Relaxed) => Err(Error::SessionOver { session: self.id.clone() }),
            None => Err(Error::unavailable("use the session", Closing)),
        }
    }

    /// Gives a request a client and a time limit, and ends it when the session is closed, which waits for all clients.
    async fn bounded<T, F>(
        &self,
        request: &'static str,
        limit: Duration,
        work: impl FnOnce(Arc<Client>) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut closing = self.closing.subscribe();
        let work = work(self.client()?);
        tokio::select! {
            biased;
            // The sender lives as long as `self`.
            _ = closing.wait_for(|closing| *closing) => Err(Error::unavailable(request, Closing)),
            answer = timeout(limit, work) => answer.unwrap_or_else(|_| Err(Error::unavailable(request, NoAnswer(limit)))),
        }
    }

    /// A transaction that fails unless a leader with a quorum still has this session.
    async fn heartbeat(&self, client: &Client) -> Result<()> {
        let refused = |error| self.classify(RENEW, &self.node, error);
        let mut beat = client.new_multi_writer();
        beat.add_check_version(&self.node, -1).map_err(refused)?;
        match beat.commit().await {
            Ok(_) => Ok(()),
            // Somebody deleted the node, or the directories with it. The locks rest on their entries, which are watched
            // one by one, so the session is as good as before. Creating the node is a heartbeat too.
            Err(MultiWriteError::OperationFailed { source: zk::Error::NoNode, .. }) => {
                tracing::warn!(
                    session = self.id,
                    node = self.node,
                    "the session's node was deleted, creating it again"
                );
                self.create_node(client).await
            }
            Err(error) => {
                let error = zk::Error::from(error);
                if error == zk::Error::SessionMoved {
                    // A server on which a session only ever fails transactions does not notice that the session was
                    // elsewhere meanwhile (ZOOKEEPER-2886); a plain request makes it close the connection.
                    let _ = client.set_data(&self.node, &self.owner, None).await;
                }
                Err(refused(error))
            }
        }
    }

    async fn put(&self, client: &Client, request: &Enqueue<'_>) -> Result<Enqueued> {
        let directory = self.path(request.queue.segment());
        if request.only_if_free {
            match client.list_children(&directory).await {
                Ok(children) if !names::in_order(&children).is_empty() => return Ok(Enqueued::Busy),
                Ok(_) | Err(zk::Error::NoNode) => {}
                Err(error) => return Err(self.classify(LIST, &directory, error)),
            }
        }
        let prefix = format!("{directory}/{}", names::prefix(request.id));
        let options = CreateMode::EphemeralSequential.with_acls(self.settings.acls);
        for _ in 0..DIRECTORY_TRIES {
            // Both are sent here, in this order, before any answer. One server answers the list after the create, so the
            // list has everybody whose entry was created before and lives.
            let create = client.create(&prefix, request.value, &options);
            let list = client.list_children(&directory);
            let (created, listed) = tokio::join!(create, list);
            match created {
                Ok((stat, sequence)) => {
                    let key = format!("{prefix}{sequence}");
                    let token = if stat.is_invalid() { None } else { Some(stat.czxid) };
                    return self.placed(client, key, token, listed.ok()).await.map(Enqueued::Placed);
                }
                Err(zk::Error::NoNode) => self.make_directory(client, &directory).await?,
                Err(error) => return Err(self.classify(ENQUEUE, &directory, error)),
            }
        }
        Err(Error::unavailable(ENQUEUE, DirectoryGone(directory)))
    }

    async fn placed(
        &self,
        client: &Client,
        key: String,
        czxid: Option<i64>,
        children: Option<Vec<String>>,
    ) -> Result<Placed> {
        let Some((directory, place)) = place(&key) else {
            return Err(Error::unavailable(ENQUEUE, zk::Error::UnexpectedError(format!("unexpected path {key}"))));
        };
        if place.is_unsafe() {
            return match client.delete(&key, None).await {
                Ok(()) | Err(zk::Error::NoNode) => Err(Error::refused(ENQUEUE, NumbersUsedUp(directory.to_owned()))),
                Err(error) => Err(Error::unavailable(ENQUEUE, error)),
            };
        }
        let czxid = match czxid {
            Some(czxid) => czxid,
            None => {
                let read = client.get_data(&key).await;
                read.map_err(|error| Error::unavailable(ENQUEUE, error))?.1.czxid
            }
        };
        let ahead = children.and_then(|children| ahead(directory, &children, place, NEAREST));
        Ok(Placed { token: czxid.unsigned_abs(), ahead, entry: entry(key) })
    }

    async fn find(&self, client: &Client, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let directory = self.path(request.queue.segment());
        // The client and the server keep the order of requests, also of those that wait in the client for a connection. A
        // create that is still on its way on a former connection is refused, for the session has moved. So what this
        // list does not show, with all that the leader had accepted before, cannot come any more.
        let sync = client.sync(&directory);
        let list = client.list_children(&directory);
        let (synced, listed) = tokio::join!(sync, list);
        match synced {
            Ok(()) | Err(zk::Error::NoNode) => {}
            Err(error) => return Err(self.classify(ADOPT, &directory, error)),
        }
        let children = match listed {
            Ok(children) => children,
            Err(zk::Error::NoNode) => return Ok(None),
            Err(error) => return Err(self.classify(LIST, &directory, error)),
        };
        let prefix = names::prefix(request.id);
        for name in children.iter().filter(|name| name.starts_with(&prefix) && Place::parse(name).is_some()) {
            let key = format!("{directory}/{name}");
            match client.check_stat(&key).await {
                // An earlier session of this client may have left one with the same id.
                Ok(Some(stat)) if stat.ephemeral_owner == self.raw_id => {
                    return self.placed(client, key, Some(stat.czxid), Some(children)).await.map(Some);
                }
                Ok(_) | Err(zk::Error::NoNode) => {}
                Err(error) => return Err(self.classify(ADOPT, &key, error)),
            }
        }
        Ok(None)
    }

    async fn read_all(&self, client: &Client, directory: &str) -> Result<Vec<QueueEntry>> {
        let sync = client.sync(directory);
        let list = client.list_children(directory);
        let (synced, listed) = tokio::join!(sync, list);
        let children = match synced.and(listed) {
            Ok(children) => children,
            Err(zk::Error::NoNode) => return Ok(Vec::new()),
            Err(error) => return Err(self.classify(LIST, directory, error)),
        };
        let keys: Vec<_> = names::in_order(&children).into_iter().map(|name| format!("{directory}/{name}")).collect();
        let mut entries = Vec::with_capacity(keys.len());
        for keys in keys.chunks(READS) {
            // Sent when called, not when awaited.
            let reads: Vec<_> = keys.iter().map(|key| (key, client.get_data(key))).collect();
            for (key, read) in reads {
                match read.await {
                    Ok((value, stat)) => entries.push(QueueEntry {
                        entry: entry(key.clone()),
                        session: zk::SessionId(stat.ephemeral_owner).to_string(),
                        token: Some(stat.czxid.unsigned_abs()),
                        value,
                    }),
                    Err(zk::Error::NoNode) => {}
                    Err(error) => return Err(self.classify(LIST, key, error)),
                }
            }
        }
        Ok(entries)
    }
}

#[async_trait]
impl Session for ZkSession {
    fn id(&self) -> String {
        self.id.clone()
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&self) -> Result<Duration> {
        let asked = BootClock.now();
        self.bounded(RENEW, self.ttl / 4, |client| async move { self.heartbeat(&client).await }).await?;
        Ok(self.proofs.answered(asked))
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        self.bounded(ENQUEUE, self.ttl / 3, |client| async move { self.put(&client, request).await }).await
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        self.bounded(ADOPT, self.ttl / 3, |client| async move { self.find(&client, request).await }).await
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let Some((directory, place)) = place(&mine.key) else { return Ok(None) };
        let list = |client: Arc<Client>| async move {
            match client.list_children(directory).await {
                Ok(children) => Ok(ahead(directory, &children, place, limit)),
                Err(zk::Error::NoNode) => Ok(None),
                Err(error) => Err(self.classify(LIST, directory, error)),
            }
        };
        self.bounded(LIST, self.ttl / 3, list).await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        let size = u32::try_from(entry.key.len()).unwrap_or(u32::MAX);
        let Ok(permit) = self.watched_bytes.clone().try_acquire_many_owned(size) else {
            if !self.warned_of_watches.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    session = self.id,
                    "too many waiters for one session; the last ones are slower to notice"
                );
            }
            let look = |client: Arc<Client>| async move {
                match client.check_stat(&entry.key).await {
                    Ok(None) | Err(zk::Error::NoNode) => Ok(Watched::Gone),
                    Ok(Some(_)) => Err(Error::unavailable(WATCH, TooManyWatches)),
                    Err(error) => Err(self.classify(WATCH, &entry.key, error)),
                }
            };
            return self.bounded(WATCH, self.ttl / 3, look).await;
        };
        let watch = |client: Arc<Client>| async move {
            let state = client.state_watcher();
            match client.get_and_watch_data(&entry.key).await {
                Ok((_, _, watcher)) => Ok(Watched::Present(removal(watcher, state, permit))),
                Err(zk::Error::NoNode) => Ok(Watched::Gone),
                Err(error) => Err(self.classify(WATCH, &entry.key, error)),
            }
        };
        self.bounded(WATCH, self.ttl / 3, watch).await
    }

    async fn dequeue(&self, mine: &Entry) -> Result<Dequeued> {
        let delete = |client: Arc<Client>| async move {
            // Node names are never used twice, so there is no later incarnation to spare.
            match client.delete(&mine.key, None).await {
                Ok(()) => Ok(Dequeued::Removed),
                Err(zk::Error::NoNode) => Ok(Dequeued::Absent),
                Err(error) => Err(self.classify(DEQUEUE, &mine.key, error)),
            }
        };
        self.bounded(DEQUEUE, self.ttl / 3, delete).await
    }

    async fn entries(&self, queue: &Name) -> Result<Vec<QueueEntry>> {
        let directory = self.path(queue.segment());
        self.bounded(LIST, self.ttl / 3, |client| async move { self.read_all(&client, &directory).await }).await
    }

    async fn close(&self) -> Result<()> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.closing.send_replace(true);
        let Some(client) = client else { return Ok(()) };
        let mut state = client.state_watcher();
        // Terminal states are told once; this one may have been the last.
        let mut ended = client.state().is_terminated();
        drop(client);
        let told = timeout(self.ttl / 3, async {
            while !ended {
                ended = state.changed().await.is_terminated();
            }
        });
        match told.await {
            Ok(()) => {
                self.closed.store(true, Ordering::Relaxed);
                tracing::debug!(session = self.id, "session closed");
                Ok(())
            }
            Err(_) => Err(Error::unavailable("close the session", NoAnswer(self.ttl / 3))),
        }
    }
}

/// Names are never used twice: there is a fresh uuid in each.
fn entry(key: String) -> Entry {
    Entry { key, incarnation: 0 }
}

/// The directory and the place of an entry.
fn place(key: &str) -> Option<(&str, Place<'_>)> {
    let (directory, name) = key.rsplit_once('/')?;
    Some((directory, Place::parse(name)?))
}

/// The entries ahead of `mine`; `None` when it is not there itself.
fn ahead(directory: &str, children: &[String], mine: Place<'_>, limit: usize) -> Option<Ahead> {
    if !children.iter().any(|name| name == mine.name()) {
        return None;
    }
    let ahead = names::ahead(children, mine);
    let nearest = ahead.iter().take(limit).map(|name| entry(format!("{directory}/{name}"))).collect();
    Some(Ahead { nearest, more: ahead.len() > limit })
}
