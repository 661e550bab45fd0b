//! The store as one client uses it, with a note of every entry that the client asks to have removed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{
    Ahead, Backend, Content, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Stir, Watched, Written,
};
use lock_core::memory::Memory;
use lock_core::{Name, Result};

/// The keys of entries that somebody asked to have removed, whatever became of the request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removals(Arc<Mutex<HashSet<Arc<str>>>>);

impl Removals {
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

#[derive(Debug)]
pub(crate) struct Spied<T> {
    pub(crate) store: T,
    pub(crate) removals: Removals,
}

#[async_trait]
impl Backend for Spied<Memory> {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        let session = Spied { store: self.store.open(owner).await?, removals: self.removals.clone() };
        Ok(Arc::new(session))
    }
}

#[async_trait]
impl Session for Spied<Arc<dyn Session>> {
    fn id(&self) -> String {
        self.store.id()
    }

    fn ttl(&self) -> Duration {
        self.store.ttl()
    }

    async fn renew(&self) -> Result<Duration> {
        self.store.renew().await
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        self.store.enqueue(request).await
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        self.store.adopt(request).await
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        self.store.ahead(mine, limit).await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        self.store.watch(entry).await
    }

    async fn watch_queue(&self, queue: &Name) -> Result<Stir> {
        self.store.watch_queue(queue).await
    }

    async fn dequeue(&self, entry: &Entry) -> Result<Dequeued> {
        self.removals.0.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.key.clone());
        self.store.dequeue(entry).await
    }

    async fn entries(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>> {
        self.store.entries(queue, limit).await
    }

    async fn queues(&self, prefix: &str) -> Result<Vec<Name>> {
        self.store.queues(prefix).await
    }

    fn record(&self, queue: &Name) -> Entry {
        self.store.record(queue)
    }

    async fn read(&self, entry: &Entry) -> Result<Option<Content>> {
        self.store.read(entry).await
    }

    async fn write(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written> {
        self.store.write(entry, version, value).await
    }

    async fn downgrade(&self, mine: &Entry) -> Result<Option<Entry>> {
        self.store.downgrade(mine).await
    }

    async fn owner(&self, session: &str) -> Result<Option<Vec<u8>>> {
        self.store.owner(session).await
    }

    async fn time_left(&self, session: &str) -> Result<Option<Duration>> {
        self.store.time_left(session).await
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await
    }
}
