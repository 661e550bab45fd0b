//! A way between a client and a directory that can be held up, cut, and lose replies, as a network would.
//!
//! The real one cannot: it is a system call. What stands still in truth is the process, the machine or the disk, and
//! then everything does; these faults are harder, for they leave the client running. The end of a session is not held up
//! for ever, since closing a file needs no answer from anybody. It comes a little later than the client's own clock says,
//! as it does with a store that misses signs of life.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{
    Ahead, Backend, Change, Content, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Stir, Watched,
    Written,
};
use lock_core::{Error, Name, Result};
use tokio::sync::watch;
use tokio::time::timeout;

/// One way. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Way(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    held: watch::Sender<bool>,
    cuts: watch::Sender<u64>,
    /// What stands in the next change whose reply is lost.
    loses: Mutex<Option<String>>,
}

impl Default for Way {
    fn default() -> Self {
        let (held, cuts) = (watch::Sender::new(false), watch::Sender::new(0));
        Self(Arc::new(Shared { held, cuts, loses: Mutex::default() }))
    }
}

impl Way {
    pub(crate) fn hold(&self) {
        self.0.held.send_replace(true);
    }

    pub(crate) fn resume(&self) {
        self.0.held.send_replace(false);
    }

    pub(crate) fn cut(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(crate) fn lose_next_reply(&self, text: &str) {
        *self.loses() = Some(text.to_owned());
    }

    fn loses(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.0.loses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loses_reply(&self, texts: &[&[u8]]) -> bool {
        let stands_in = |text: &[u8], lost: &str| text.windows(lost.len()).any(|part| part == lost.as_bytes());
        self.loses().take_if(|lost| texts.iter().any(|text| stands_in(text, lost))).is_some()
    }

    async fn open(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.held.subscribe().wait_for(|held| !held).await;
    }

    fn next_cut(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut cuts = self.0.cuts.subscribe();
        cuts.mark_unchanged();
        let way = self.clone();
        async move {
            let _ = cuts.changed().await;
            drop(way);
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the way to the directory was told to fail")]
struct Told;

fn lost() -> Error {
    Error::unavailable("get an answer", Told)
}

/// A backend at the end of a way.
#[derive(Debug)]
pub(crate) struct Lossy<B> {
    backend: B,
    way: Way,
}

impl<B> Lossy<B> {
    pub(crate) fn new(backend: B, way: Way) -> Self {
        Self { backend, way }
    }
}

#[async_trait]
impl<B: Backend> Backend for Lossy<B> {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        let unreachable = |_| Error::Unreachable {
            endpoints: "the directory".into(),
            within: Duration::from_secs(1),
            source: Arc::new(Told),
        };
        timeout(Duration::from_secs(1), self.way.open()).await.map_err(unreachable)?;
        let inner = self.backend.open(owner).await?;
        Ok(Arc::new(LossySession { inner, way: self.way.clone() }))
    }
}

#[derive(Debug)]
struct LossySession {
    inner: Arc<dyn Session>,
    way: Way,
}

impl LossySession {
    /// Sends a request. Once it is on its way it is applied, even when nobody waits for its answer; one that was given up
    /// before never is. `change` is what stands in it, if it changes something.
    async fn request<T, F>(&self, change: &[&[u8]], apply: impl FnOnce(Arc<dyn Session>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let patience = self.inner.ttl() / 3;
        timeout(patience, self.way.open()).await.map_err(|_| lost())?;
        let answer = tokio::spawn(apply(self.inner.clone())).await.expect("a request does not panic");
        if self.way.loses_reply(change) {
            return Err(lost());
        }
        timeout(patience, self.way.open()).await.map_err(|_| lost())?;
        answer
    }
}

#[async_trait]
impl Session for LossySession {
    fn id(&self) -> String {
        self.inner.id()
    }

    fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    async fn renew(&self) -> Result<Duration> {
        self.request(&[], |inner| async move { inner.renew().await }).await
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        let (queue, id, value) = (request.queue.clone(), request.id.to_owned(), request.value.to_vec());
        let (kind, only_if_free) = (request.kind, request.only_if_free);
        let enqueue = |inner: Arc<dyn Session>| async move {
            inner.enqueue(&Enqueue { queue: &queue, kind, id: &id, value: &value, only_if_free }).await
        };
        self.request(&[request.queue.segment().as_bytes(), request.value], enqueue).await
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let (queue, id, value) = (request.queue.clone(), request.id.to_owned(), request.value.to_vec());
        let (kind, only_if_free) = (request.kind, request.only_if_free);
        let adopt = |inner: Arc<dyn Session>| async move {
            inner.adopt(&Enqueue { queue: &queue, kind, id: &id, value: &value, only_if_free }).await
        };
        self.request(&[], adopt).await
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let mine = mine.clone();
        self.request(&[], move |inner| async move { inner.ahead(&mine, limit).await }).await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        let (entry, cut, way) = (entry.clone(), self.way.next_cut(), self.way.clone());
        match self.request(&[], move |inner| async move { inner.watch(&entry).await }).await? {
            Watched::Gone => Ok(Watched::Gone),
            Watched::Present(watch) => Ok(Watched::Present(Box::pin(async move {
                let told = async move {
                    let change = watch.await;
                    way.open().await;
                    change
                };
                tokio::select! {
                    biased;
                    change = told => change,
                    () = cut => Change::Unknown,
                }
            }))),
        }
    }

    async fn watch_queue(&self, queue: &Name) -> Result<Stir> {
        let (queue, cut, way) = (queue.clone(), self.way.next_cut(), self.way.clone());
        let stir = self.request(&[], move |inner| async move { inner.watch_queue(&queue).await }).await?;
        Ok(Box::pin(async move {
            let told = async move {
                stir.await;
                way.open().await;
            };
            tokio::select! {
                () = told => {}
                () = cut => {}
            }
        }))
    }

    async fn dequeue(&self, entry: &Entry) -> Result<Dequeued> {
        let (key, entry) = (entry.key.clone(), entry.clone());
        self.request(&[key.as_bytes()], move |inner| async move { inner.dequeue(&entry).await }).await
    }

    async fn entries(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>> {
        let queue = queue.clone();
        self.request(&[], move |inner| async move { inner.entries(&queue, limit).await }).await
    }

    async fn queues(&self, prefix: &str) -> Result<Vec<Name>> {
        let prefix = prefix.to_owned();
        self.request(&[], move |inner| async move { inner.queues(&prefix).await }).await
    }

    fn record(&self, queue: &Name) -> Entry {
        self.inner.record(queue)
    }

    async fn read(&self, entry: &Entry) -> Result<Option<Content>> {
        let entry = entry.clone();
        self.request(&[], move |inner| async move { inner.read(&entry).await }).await
    }

    async fn write(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written> {
        let (change, entry, new) = ([entry.key.as_bytes(), value], entry.clone(), value.to_vec());
        self.request(&change, move |inner| async move { inner.write(&entry, version, &new).await }).await
    }

    async fn downgrade(&self, mine: &Entry) -> Result<Option<Entry>> {
        let (key, mine) = (mine.key.clone(), mine.clone());
        self.request(&[key.as_bytes()], move |inner| async move { inner.downgrade(&mine).await }).await
    }

    async fn owner(&self, session: &str) -> Result<Option<Vec<u8>>> {
        let session = session.to_owned();
        self.request(&[], move |inner| async move { inner.owner(&session).await }).await
    }

    async fn close(&self) -> Result<()> {
        let (inner, way, margin) = (self.inner.clone(), self.way.clone(), self.inner.ttl() / 10);
        let close = async move {
            // Either way it ends now.
            let _ = timeout(margin, way.open()).await;
            inner.close().await
        };
        tokio::spawn(close).await.expect("closing does not panic")
    }
}
