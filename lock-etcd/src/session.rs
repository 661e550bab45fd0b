//! An etcd lease, and the keys that hang on it, as a [`Session`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Error as EtcdError, GetOptions, GetResponse, PutOptions, Txn, TxnResponse};
use lock_core::backend::{
    Ahead, Change, Content, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Stir, Views, Watched,
    Written,
};
use lock_core::{Error, Name, Result};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::commits::Commits;
use crate::downgrade::DOWNGRADE;
use crate::endpoints::{Connection, Endpoints};
use crate::error::{Failure, Meaning};
use crate::keys;
use crate::queue::{ENTER, LEAVE, LIST, LOOK, SETTLE};
use crate::queues::LIST_NAMES;
use crate::renewal::{Renewal, Round};
use crate::slots::Slots;
use crate::values::{OWNER, READ, TIME_LEFT, WRITE};
use crate::watch::{WATCH, WATCH_QUEUE};
use crate::watches::Watches;

const RENEW: &str = "renew the session";
const CLOSE: &str = "end the session";

#[derive(Debug)]
pub(crate) struct EtcdSession {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) lease: i64,
    ttl: Duration,
    /// The session's own key, and the revision that created it.
    pub(crate) key: String,
    pub(crate) created: i64,
    /// The revision that last changed the session's key. Every enqueue compares it, and `adopt` changes the key, so that
    /// an enqueue that was sent before can never be applied after.
    pub(crate) fence: AtomicI64,
    renewal: Mutex<Renewal>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) watches: Watches,
    pub(crate) views: Arc<Views<i64>>,
}

impl EtcdSession {
    pub(crate) fn new(endpoints: Arc<Endpoints>, lease: i64, ttl: Duration, created: i64) -> Self {
        let key = keys::session_key(&endpoints.config().namespace, lease);
        Self {
            lease,
            ttl,
            created,
            fence: AtomicI64::new(created),
            renewal: Mutex::new(Renewal::new(lease, key.clone(), created)),
            commits: Commits::new(endpoints.clone()),
            slots: Arc::default(),
            watches: Watches::new(endpoints.clone()),
            views: Arc::default(),
            endpoints,
            key,
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.endpoints.config().namespace
    }

    pub(crate) fn over(&self) -> Error {
        tracing::debug!(session = self.id(), "session over");
        Error::SessionOver { session: self.id() }
    }

    pub(crate) fn explain(&self, failure: Failure, request: &'static str) -> Error {
        failure.explain(request, &self.id(), self.endpoints.config())
    }

    /// Ends a call of several requests after a third of the ttl.
    pub(crate) async fn bounded<T>(
        &self,
        request: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let within = self.endpoints.request_timeout() * 2;
        let late = |_| Err(self.explain(Failure::no_answer("etcd", within), request));
        timeout(within, call).await.unwrap_or_else(late)
    }

    pub(crate) async fn txn(&self, name: &'static str, txn: Txn) -> Result<TxnResponse> {
        self.endpoints.txn(txn).await.map_err(|failure| self.explain(failure, name))
    }

    pub(crate) async fn get(
        &self,
        name: &'static str,
        key: impl Into<Vec<u8>> + Send,
        options: GetOptions,
    ) -> Result<GetResponse> {
        let answer = self.endpoints.get(key, options).await;
        answer.map(|(_, answer)| answer).map_err(|failure| self.explain(failure, name))
    }

    pub(crate) fn put_with_lease(&self) -> PutOptions {
        PutOptions::new().with_lease(self.lease)
    }
}

#[async_trait]
impl Session for EtcdSession {
    fn id(&self) -> String {
        format!("{:x}", self.lease)
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn renew(&self) -> Result<Duration> {
        let renewing = async {
            let round = self.renewal.lock().await.round(&self.endpoints).await;
            match round.map_err(|failure| self.explain(failure, RENEW))? {
                Round::Alive(valid) => Ok(valid.min(self.ttl)),
                Round::Over => Err(self.over()),
                Round::Unclear => Err(Error::unavailable(RENEW, Changed)),
            }
        };
        let epoch = *self.endpoints.epochs().borrow();
        let renewed = self.bounded(RENEW, renewing).await;
        if matches!(renewed, Err(Error::Unavailable { .. })) {
            // Whatever the reason, the next try is another member's.
            self.endpoints.give_up(epoch);
        }
        renewed
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        let prefix = keys::queue_prefix(self.namespace(), request.queue);
        let entered = self.bounded(ENTER, self.enter(&prefix, request)).await;
        let placed = entered.as_ref().map(|entered| match entered {
            Enqueued::Placed(placed) => Some(placed),
            Enqueued::Busy => None,
        });
        self.note(&prefix, request.id, placed);
        entered
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let prefix = keys::queue_prefix(self.namespace(), request.queue);
        let found = self.bounded(SETTLE, self.settle(&prefix, request)).await;
        self.note(&prefix, request.id, found.as_ref().map(Option::as_ref));
        found
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let looking = async {
            match self.viewed_ahead(mine, limit).await {
                Some(ahead) => Ok(ahead),
                None => self.look(mine, limit).await,
            }
        };
        self.bounded(LOOK, looking).await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        let (key, created) = keys::bytes(entry)?;
        if self.is_record(entry) {
            return self.bounded(WATCH, self.watch_record(key)).await;
        }
        let watched = match self.viewed_watch(entry) {
            Some(watched) => watched,
            None => self.bounded(WATCH, self.watch_entry(key, created)).await?,
        };
        let Watched::Present(watch) = watched else {
            self.is_gone(entry);
            return Ok(Watched::Gone);
        };
        let (views, slots, entry) = (self.views.clone(), self.slots.clone(), entry.clone());
        Ok(Watched::Present(Box::pin(async move {
            let change = watch.await;
            if change == Change::Removed {
                // Boxed, so that a watch has no room for it.
                Box::pin(removed(&views, &slots, &entry)).await;
            }
            change
        })))
    }

    async fn watch_queue(&self, queue: &Name) -> Result<Stir> {
        self.bounded(WATCH_QUEUE, self.watch_entries(queue)).await
    }

    async fn dequeue(&self, entry: &Entry) -> Result<Dequeued> {
        let left = self.bounded(LEAVE, self.leave(entry)).await;
        if left.is_ok() {
            self.is_gone(entry);
        }
        left
    }

    async fn entries(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>> {
        self.bounded(LIST, self.list(queue, limit)).await
    }

    async fn queues(&self, prefix: &str) -> Result<Vec<Name>> {
        self.bounded(LIST_NAMES, self.names(prefix)).await
    }

    fn record(&self, queue: &Name) -> Entry {
        self.record_of(queue)
    }

    async fn read(&self, entry: &Entry) -> Result<Option<Content>> {
        let read = self.bounded(READ, self.read_value(entry)).await?;
        if read.is_none() {
            self.is_gone(entry);
        }
        Ok(read)
    }

    async fn changed(&self, seen: &[(Entry, u64)]) -> Result<Vec<Entry>> {
        self.bounded(READ, self.changed_since(seen)).await
    }

    async fn write(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written> {
        self.bounded(WRITE, self.write_value(entry, version, value)).await
    }

    async fn downgrade(&self, mine: &Entry) -> Result<Option<Entry>> {
        let reader = self.bounded(DOWNGRADE, self.turn_reader(mine)).await?;
        if reader.is_none() {
            self.is_gone(mine);
        }
        Ok(reader)
    }

    async fn owner(&self, session: &str) -> Result<Option<Vec<u8>>> {
        self.bounded(OWNER, self.read_owner(session)).await
    }

    async fn time_left(&self, session: &str) -> Result<Option<Duration>> {
        self.bounded(TIME_LEFT, self.read_time_left(session)).await
    }

    async fn close(&self) -> Result<()> {
        self.watches.close().await;
        let closing = async {
            let mut tries = 0;
            loop {
                let revoke = async |connection: Arc<Connection>| -> Result<_, EtcdError> {
                    connection.lease.clone().revoke(self.lease).await
                };
                tries += 1;
                match self.endpoints.request(revoke).await {
                    Ok(_) => return Ok(()),
                    Err(failure) if failure.meaning == Meaning::LeaseNotFound => return Ok(()),
                    // Another member may do better, and a repeated revocation hurts nobody.
                    Err(failure) if failure.asks_for_another_member() && tries < 3 => {}
                    Err(failure) => return Err(self.explain(failure, CLOSE)),
                }
            }
        };
        self.bounded(CLOSE, closing).await
    }
}

/// Takes note that a watched entry is not in its queue any more.
async fn removed(views: &Views<i64>, slots: &Slots, entry: &Entry) {
    let Ok((key, created)) = keys::bytes(entry) else { return };
    let Some(queue) = keys::queue_of(&key) else { return };
    views.left(queue, entry);
    views.catch_up(queue, &created, entry).await;
    slots.left(queue, entry);
}

#[derive(Debug, thiserror::Error)]
#[error("the member or its term changed during the renewal")]
struct Changed;
