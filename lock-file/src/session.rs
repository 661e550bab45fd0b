//! The own session as a [`Session`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{
    Ahead, Content, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Stir, Watched, Written,
};
use lock_core::{Error, Name, Result};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::ear::Ear;
use crate::error::{Failed, NoAnswer};
use crate::names::{self, Key, RECORDS, is_session};
use crate::notices::Notices;
use crate::own::Own;
use crate::queue::Entered;
use crate::store::{Store, Transaction};
use crate::sys;

const RENEW: &str = "renew the session";

/// No request takes longer than this, whatever the ttl.
const LONGEST_REQUEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct FileSession {
    pub(crate) store: Arc<Store>,
    pub(crate) own: Arc<Own>,
    ttl: Duration,
    /// Absent when the kernel has no more of them.
    notices: Option<Arc<Notices>>,
    /// A renewal that got no answer may still be at it.
    renewing: Arc<AtomicBool>,
}

impl FileSession {
    pub(crate) fn new(store: Arc<Store>, own: Own, ttl: Duration, notices: Option<Notices>) -> Self {
        let notices = notices.map(Arc::new);
        Self { store, own: Arc::new(own), ttl, notices, renewing: Arc::default() }
    }

    pub(crate) fn limit(&self) -> Duration {
        (self.ttl / 3).min(LONGEST_REQUEST)
    }

    /// Does work in a transaction.
    async fn run<T: Send + 'static>(
        &self,
        request: &'static str,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        self.store.run(request, self.limit(), work).await
    }

    /// The same for what only a live session may do.
    async fn run_alive<T: Send + 'static>(
        &self,
        request: &'static str,
        work: impl FnOnce(&mut Transaction<'_>, &Own) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        let own = self.own.clone();
        let done = self.run(request, move |store| match own.is_there()? {
            true => work(store, &own).map(Some),
            false => Ok(None),
        });
        done.await?.ok_or_else(|| self.over())
    }

    fn over(&self) -> Error {
        Error::SessionOver { session: self.own.id.clone() }
    }

    fn ear(&self) -> Ear {
        Ear::new(self.notices.clone())
    }

    /// Removes the directories of queues that were left some time ago, in the background.
    fn tidy(&self) {
        let left = self.own.take_left();
        if left.is_empty() {
            return;
        }
        let (store, limit) = (self.store.clone(), self.limit());
        tokio::spawn(async move {
            let removed = store.run("remove the directories of empty queues", limit, move |store| {
                for queue in left {
                    sys::remove_directory(&store.path(&queue));
                }
                Ok(())
            });
            if let Err(error) = removed.await {
                tracing::debug!(%error, "empty directories stay");
            }
        });
    }
}

#[async_trait]
impl Session for FileSession {
    fn id(&self) -> String {
        self.own.id.clone()
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Makes no change, so it needs no transaction, which a process that was stopped in one of its own could hold up.
    async fn renew(&self) -> Result<Duration> {
        let limit = self.ttl / 4;
        if self.renewing.swap(true, Ordering::SeqCst) {
            return Err(Error::unavailable(RENEW, NoAnswer(limit)));
        }
        let (own, renewing) = (self.own.clone(), self.renewing.clone());
        let look = spawn_blocking(move || {
            let there = own.is_there();
            renewing.store(false, Ordering::SeqCst);
            there
        });
        let there = match timeout(limit, look).await {
            Ok(Ok(there)) => there.map_err(|failed| failed.classify(RENEW, &self.store.directory))?,
            Ok(Err(error)) => return Err(Error::unavailable(RENEW, error)),
            Err(_) => return Err(Error::unavailable(RENEW, NoAnswer(limit))),
        };
        if !there {
            return Err(self.over());
        }
        self.tidy();
        // The kernel keeps the lock as long as this process lives.
        Ok(self.ttl)
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        let (queue, id, kind) = (request.queue.segment().to_owned(), request.id.to_owned(), request.kind);
        let (value, only_if_free) = (request.value.to_vec(), request.only_if_free);
        let entered = self.run_alive("enter the queue", move |store, own| {
            let entered = store.enqueue(&queue, (&own.id, &id, kind), &value, only_if_free)?;
            Ok(match entered {
                Entered::Busy => Enqueued::Busy,
                Entered::Placed { place, ahead } => {
                    let entry = place.entry(&queue);
                    own.has(entry.key.clone());
                    Enqueued::Placed(Placed { entry, token: place.order, ahead: Some(ahead) })
                }
            })
        });
        entered.await
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        // The lost request has ended when this one begins.
        let (queue, id) = (request.queue.segment().to_owned(), request.id.to_owned());
        let found = self.run_alive("settle a lost reply", move |store, own| {
            let place = store.find_by_id(&queue, &own.id, &id)?;
            Ok(place.map(|place| {
                let entry = place.entry(&queue);
                own.has(entry.key.clone());
                Placed { entry, token: place.order, ahead: None }
            }))
        });
        found.await
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let mine = mine.clone();
        self.run("read the queue", move |store| store.ahead(&mine, limit)).await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        let (entry, ear, whole) = (entry.clone(), self.ear(), self.store.clone());
        self.run("watch an entry", move |store| store.watch(whole, &entry, ear)).await
    }

    async fn watch_queue(&self, queue: &Name) -> Result<Stir> {
        let (queue, ear, whole) = (queue.segment().to_owned(), self.ear(), self.store.clone());
        let kept = self.own.keep(&queue);
        let stir = self.run("watch the queue", move |store| store.watch_queue(whole, &queue, ear)).await?;
        Ok(Box::pin(async move {
            let _kept = kept;
            stir.await;
        }))
    }

    async fn dequeue(&self, entry: &Entry) -> Result<Dequeued> {
        let (entry, own) = (entry.clone(), self.own.clone());
        self.run("leave the queue", move |store| {
            let dequeued = store.dequeue(&entry)?;
            own.has_no_more(&entry.key);
            Ok(dequeued)
        })
        .await
    }

    async fn entries(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>> {
        let queue = queue.segment().to_owned();
        self.run("list the queue", move |store| store.entries(&queue, limit)).await
    }

    async fn queues(&self, prefix: &str) -> Result<Vec<Name>> {
        self.names(prefix).await
    }

    fn record(&self, queue: &Name) -> Entry {
        names::record(queue.segment())
    }

    async fn read(&self, entry: &Entry) -> Result<Option<Content>> {
        let entry = entry.clone();
        self.run("read a value", move |store| store.read_value(&entry)).await
    }

    async fn write(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written> {
        let (entry, value, own) = (entry.clone(), value.to_vec(), self.own.clone());
        let write = move |store: &Store, patience: &_| {
            let lasting = matches!(Key::parse(&entry), Some(Key::Record { .. }));
            let Some(draft) = store.draft(&own.id, version, &value, lasting)? else { return Ok(Written::Conflict) };
            let written = store.transact(patience, |store| store.put(&entry, &draft))?;
            if lasting && written == Written::Done {
                sys::sync_directory(&store.path(RECORDS)).map_err(Failed::halfway)?;
            }
            Ok(written)
        };
        self.store.on_thread("write a value", self.limit(), write).await
    }

    async fn downgrade(&self, mine: &Entry) -> Result<Option<Entry>> {
        let mine = mine.clone();
        let turned = self.run_alive("downgrade an entry", move |store, own| {
            let turned = store.turn_reader(&mine, &own.id)?;
            if let Some(reader) = &turned {
                own.has(reader.key.clone());
            }
            Ok(turned)
        });
        turned.await
    }

    async fn owner(&self, session: &str) -> Result<Option<Vec<u8>>> {
        let session = session.to_owned();
        self.run("read a session's owner", move |store| {
            if !is_session(&session) || !store.is_alive(&session)? {
                return Ok(None);
            }
            let path = store.store.session_path(&session);
            sys::open(&path)?.map(|file| sys::read(&file, &path)).transpose()
        })
        .await
    }

    async fn close(&self) -> Result<()> {
        let Some(lock) = self.own.close() else { return Ok(()) };
        let own = self.own.clone();
        let ended = self.run("end the session", move |store| store.end_session(&own)).await;
        // If nothing could be removed, this ends the session all the same, and others remove what is left.
        drop(lock);
        tracing::debug!(session = self.own.id, "session closed");
        ended
    }
}
