//! A ZooKeeper session as a [`Session`].

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{
    Ahead, Change, Content, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Stir, Views, Watched,
    Written,
};
use lock_core::clock::{BootClock, Clock, Instant};
use lock_core::{Error, Name, Result};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use zookeeper_client as zk;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::alone::Alone;
use crate::commits::Commits;
use crate::downgrade::DOWNGRADE;
use crate::error::{Closing, NoAnswer, Peer};
use crate::names::Seat;
use crate::own_node::{self, OwnNode};
use crate::proof::Proofs;
use crate::queue::{ahead, entry, place};
use crate::queues::LIST_NAMES;
use crate::values::{OWNER, READ, WRITE};
use crate::watch::{MAX_WATCHED_BYTES, WATCH, WATCH_QUEUE};

pub(crate) const RENEW: &str = "renew the session";
pub(crate) const ENQUEUE: &str = "enter the queue";
pub(crate) const ADOPT: &str = "look for an entry whose creation was not answered";
pub(crate) const LIST: &str = "list the queue";
const DEQUEUE: &str = "remove an entry";

/// How often an entry is put into a directory that is removed at the same time. Servers remove container nodes that stay
/// empty for a minute, so more than one time means that somebody deletes on purpose.
pub(crate) const DIRECTORY_TRIES: usize = 4;

/// How many enqueues are on their way at a time. The server answers a connection in order, and a heartbeat must not wait for
/// thousands of them.
const ENQUEUES: usize = 256;

pub(crate) struct Settings {
    pub(crate) chroot: String,
    pub(crate) acls: Acls<'static>,
    pub(crate) peer: Peer,
    pub(crate) views: bool,
}

impl Settings {
    fn path(&self, segment: &str) -> String {
        format!("{}/{segment}", self.chroot.trim_end_matches('/'))
    }
}

pub(crate) struct ZkSession {
    /// Absent once the session is being closed: the client closes its session when the last reference is dropped.
    client: Mutex<Option<Arc<Client>>>,
    pub(crate) id: String,
    pub(crate) raw_id: i64,
    ttl: Duration,
    pub(crate) settings: Settings,
    pub(crate) own: OwnNode,
    /// By the id of each enqueue without an answer, the own node on which it depends.
    pub(crate) unanswered: Mutex<HashMap<String, Arc<str>>>,
    proofs: Proofs,
    enqueues: Semaphore,
    pub(crate) commits: Commits,
    pub(crate) me: Weak<Self>,
    closing: watch::Sender<bool>,
    closed: AtomicBool,
    /// Servers before 3.5.3 have no container nodes.
    no_containers: AtomicBool,
    pub(crate) watched_bytes: Arc<Semaphore>,
    pub(crate) warned_of_watches: AtomicBool,
    pub(crate) views: Arc<Views<Seat>>,
    pub(crate) alone: Alone,
    /// Set when none is wanted, and where the server has no persistent watches.
    pub(crate) no_views: AtomicBool,
    /// How many views in a row were not opened.
    pub(crate) lost_views: AtomicUsize,
    /// Changes when a view may not be told any more.
    pub(crate) muted: watch::Sender<u64>,
    /// The directories that are being listed for one who enters.
    listing: Mutex<HashSet<String>>,
}

/// While it is there, nobody else who enters needs to list the directory.
pub(crate) struct Listing<'a> {
    session: &'a ZkSession,
    directory: &'a str,
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        self.session.listing.lock().unwrap_or_else(PoisonError::into_inner).remove(self.directory);
    }
}

impl fmt::Debug for ZkSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkSession").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl ZkSession {
    pub(crate) fn new(client: Client, settings: Settings, owner: &[u8], began: Instant) -> Arc<Self> {
        let (id, ttl) = (client.session_id(), client.session_timeout());
        let own = OwnNode::new(settings.path(own_node::DIRECTORY), &id.to_string(), owner);
        Arc::new_cyclic(|me| Self {
            client: Mutex::new(Some(Arc::new(client))),
            id: id.to_string(),
            raw_id: id.0,
            ttl,
            no_views: AtomicBool::new(!settings.views),
            settings,
            own,
            unanswered: Mutex::default(),
            proofs: Proofs::new(ttl, began),
            enqueues: Semaphore::new(ENQUEUES),
            commits: Commits::default(),
            me: me.clone(),
            closing: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            no_containers: AtomicBool::new(false),
            watched_bytes: Arc::new(Semaphore::new(MAX_WATCHED_BYTES)),
            warned_of_watches: AtomicBool::new(false),
            views: Arc::default(),
            alone: Alone::default(),
            lost_views: AtomicUsize::new(0),
            muted: watch::Sender::default(),
            listing: Mutex::default(),
        })
    }

    /// An entry is not in its queue any more, at least not under this name.
    pub(crate) fn is_gone(&self, entry: &Entry) {
        if let Some((directory, _)) = place(&entry.key) {
            self.views.left(directory, entry);
        }
    }

    /// Lists a directory for one who enters, unless somebody does already.
    pub(crate) fn lists<'a>(&'a self, directory: &'a str) -> Option<Listing<'a>> {
        let first = self.listing.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_owned());
        first.then_some(Listing { session: self, directory })
    }

    pub(crate) async fn make_directory(&self, client: &Client, path: &str) -> Result<()> {
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

    pub(crate) fn path(&self, segment: &str) -> String {
        self.settings.path(segment)
    }

    pub(crate) fn chroot(&self) -> &str {
        &self.settings.chroot
    }

    pub(crate) fn classify(&self, request: &'static str, path: &str, error: zk::Error) -> Error {
        self.settings.peer.classify(request, path, &self.id, error)
    }

    pub(crate) fn client(&self) -> Result<Arc<Client>> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None if self.closed.load(Ordering::Relaxed) => Err(Error::SessionOver { session: self.id.clone() }),
            None => Err(Error::unavailable("use the session", Closing)),
        }
    }

    /// Does work as [`within`](Self::within) the time that every request may take.
    pub(crate) async fn bounded<T, F>(
        &self,
        request: &'static str,
        work: impl FnOnce(Arc<Client>) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        self.within(self.ttl / 3, request, work).await
    }

    /// Gives a request a client and a time limit, and ends it when the session is closed, which waits for all clients.
    async fn within<T, F>(
        &self,
        limit: Duration,
        request: &'static str,
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
        self.within(self.ttl / 4, RENEW, |client| async move { self.heartbeat(&client).await }).await?;
        Ok(self.proofs.answered(asked))
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        // Without a time limit: nothing was sent yet. Closed with the session.
        let _room = self.enqueues.acquire().await.map_err(|_| Error::unavailable(ENQUEUE, Closing))?;
        self.bounded(ENQUEUE, |client| async move { self.put(&client, request).await }).await
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let found = self.bounded(ADOPT, |client| async move { self.find(&client, request).await }).await?;
        self.settled(request.id);
        Ok(found)
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let Some((directory, place)) = place(&mine.key) else { return Ok(None) };
        let list = |client: Arc<Client>| async move {
            if let Some(ahead) = self.viewed_ahead(&client, mine, limit).await {
                return Ok(Some(ahead));
            }
            match client.list_children(directory).await {
                Ok(children) => Ok(ahead(directory, &children, place, limit)),
                Err(zk::Error::NoNode) => Ok(None),
                Err(error) => Err(self.classify(LIST, directory, error)),
            }
        };
        self.bounded(LIST, list).await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        if self.is_record(entry) {
            let watch = |client: Arc<Client>| async move { self.watch_record(&client, &entry.key).await };
            return self.bounded(WATCH, watch).await;
        }
        let watched = match self.viewed_watch(entry) {
            Some(watched) => watched,
            None => {
                let watch = |client: Arc<Client>| async move { self.watch_entry(&client, &entry.key).await };
                self.bounded(WATCH, watch).await?
            }
        };
        let Watched::Present(watch) = watched else {
            self.is_gone(entry);
            return Ok(Watched::Gone);
        };
        let (views, entry) = (self.views.clone(), entry.clone());
        Ok(Watched::Present(Box::pin(async move {
            let change = watch.await;
            if change == Change::Removed
                && let Some((directory, place)) = place(&entry.key)
            {
                views.left(directory, &entry);
                // Boxed, so that a watch has no room for it.
                Box::pin(views.catch_up(directory, &place.into(), &entry)).await;
            }
            change
        })))
    }

    async fn watch_queue(&self, queue: &Name) -> Result<Stir> {
        let directory = self.path(queue.segment());
        let watch = |client: Arc<Client>| async move { self.watch_children(&client, &directory).await };
        self.bounded(WATCH_QUEUE, watch).await
    }

    async fn dequeue(&self, entry: &Entry) -> Result<Dequeued> {
        let remove = |client: Arc<Client>| async move {
            self.remove(&client, entry).await.map_err(|error| self.classify(DEQUEUE, &entry.key, error))
        };
        let dequeued = self.bounded(DEQUEUE, remove).await?;
        self.is_gone(entry);
        Ok(dequeued)
    }

    async fn entries(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>> {
        let directory = self.path(queue.segment());
        let read = |client: Arc<Client>| async move { self.read_all(&client, &directory, limit).await };
        self.bounded(LIST, read).await
    }

    async fn queues(&self, prefix: &str) -> Result<Vec<Name>> {
        self.bounded(LIST_NAMES, |client| async move { self.read_names(&client, prefix).await }).await
    }

    fn record(&self, queue: &Name) -> Entry {
        entry(self.record_of(queue.segment()))
    }

    async fn read(&self, entry: &Entry) -> Result<Option<Content>> {
        let read = self.bounded(READ, |client| async move { self.read_value(&client, entry).await }).await?;
        if read.is_none() {
            self.is_gone(entry);
        }
        Ok(read)
    }

    async fn changed(&self, seen: &[(Entry, u64)]) -> Result<Vec<Entry>> {
        self.bounded(READ, |client| async move { self.changed_since(&client, seen).await }).await
    }

    async fn write(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written> {
        let write = |client: Arc<Client>| async move { self.write_value(&client, entry, version, value).await };
        self.bounded(WRITE, write).await
    }

    async fn downgrade(&self, mine: &Entry) -> Result<Option<Entry>> {
        let reader = self.bounded(DOWNGRADE, |client| async move { self.turn_reader(&client, mine).await }).await?;
        if reader.as_ref() != Some(mine) {
            self.is_gone(mine);
        }
        Ok(reader)
    }

    async fn owner(&self, session: &str) -> Result<Option<Vec<u8>>> {
        self.bounded(OWNER, |client| async move { self.read_owner(&client, session).await }).await
    }

    async fn close(&self) -> Result<()> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.closing.send_replace(true);
        self.enqueues.close();
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
