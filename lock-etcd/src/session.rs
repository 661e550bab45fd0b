//! A session: one lease, and the keys that hang on it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Compare, CompareOp, Error as EtcdError, GetOptions, GetResponse, KeyValue, PutOptions, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse, TxnResponse,
};
use lock_core::backend::{Ahead, Dequeued, Enqueue, Enqueued, Entry, Placed, QueueEntry, Session, Watched};
use lock_core::{Error, Name, Result};
use tokio::sync::Mutex;

use crate::endpoints::{Connection, Endpoints, Failure};
use crate::error::{Meaning, explain, meaning};
use crate::keys;
use crate::renewal::{Renewal, Round};
use crate::watches::Watches;

#[derive(Debug)]
pub(crate) struct EtcdSession {
    endpoints: Arc<Endpoints>,
    lease: i64,
    ttl: Duration,
    /// The session's own key, and the revision that created it.
    key: String,
    created: i64,
    /// The version of the session's key. Every enqueue compares it, and `adopt` raises it, so that an enqueue that was
    /// sent before can never be applied after.
    fence: AtomicI64,
    renewal: Mutex<Renewal>,
    watches: Watches,
}

impl EtcdSession {
    pub(crate) fn new(endpoints: Endpoints, lease: i64, ttl: Duration, created: i64, version: i64) -> Self {
        let endpoints = Arc::new(endpoints);
        let key = keys::session_key(&endpoints.config().namespace, lease);
        Self {
            lease,
            ttl,
            created,
            fence: AtomicI64::new(version),
            renewal: Mutex::new(Renewal::new(lease, key.clone(), created)),
            watches: Watches::new(endpoints.clone()),
            endpoints,
            key,
        }
    }

    fn over(&self) -> Error {
        Error::SessionOver { session: self.id() }
    }

    fn explain(&self, failure: Failure, request: &'static str) -> Error {
        match failure {
            Failure::Etcd(error) => explain(error, request, &self.id(), self.endpoints.config()),
            Failure::NoAnswer(error) => Error::unavailable(request, error),
        }
    }

    async fn request<T, F>(&self, name: &'static str, request: impl FnOnce(Connection) -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T, EtcdError>> + Send,
    {
        self.endpoints.request(request).await.map_err(|failure| self.explain(failure, name))
    }

    async fn txn(&self, name: &'static str, txn: Txn) -> Result<TxnResponse> {
        self.request(name, async |mut connection: Connection| connection.client.txn(txn).await).await
    }

    fn put_with_lease(&self) -> PutOptions {
        PutOptions::new().with_lease(self.lease)
    }

    fn placed(&self, kv: &KeyValue, ahead: Option<Ahead>) -> Placed {
        let entry = keys::entry(kv);
        Placed { token: entry.incarnation, entry, ahead }
    }

    /// The entries of a queue that the answer to a range shows.
    fn entries_in<'a>(prefix: &'a [u8], range: &'a GetResponse) -> impl Iterator<Item = &'a KeyValue> {
        range.kvs().iter().filter(move |kv| keys::is_entry(prefix, kv.key()))
    }

    /// Whether a queue has no entry, where keys under its prefix may belong to locks of longer names.
    async fn is_free(&self, prefix: &str) -> Result<bool> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let range = self.request("read the queue", async |mut connection: Connection| {
            connection.client.get(prefix, Some(options)).await
        });
        let range = range.await?;
        Ok(Self::entries_in(prefix.as_bytes(), &range).next().is_none())
    }
}

const ENTER: &str = "enter the queue";

/// The answers to the reads of a transaction, in order.
fn reads(response: &TxnResponse) -> Vec<GetResponse> {
    let responses = response.op_responses().into_iter();
    responses.filter_map(|response| if let TxnOpResponse::Get(get) = response { Some(get) } else { None }).collect()
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
        const RENEW: &str = "renew the session";
        let mut renewal = self.renewal.lock().await;
        match renewal.round(&self.endpoints).await.map_err(|failure| self.explain(failure, RENEW))? {
            Round::Alive(valid) => Ok(valid.min(self.ttl)),
            Round::Over => Err(self.over()),
            Round::Unclear => Err(Error::unavailable(RENEW, Changed)),
        }
    }

    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        let namespace = &self.endpoints.config().namespace;
        let prefix = keys::queue_prefix(namespace, request.queue);
        let key = keys::entry_key(namespace, request.queue, self.lease, request.id);
        let mut only_if_free = request.only_if_free;
        loop {
            let fence = self.fence.load(Ordering::Acquire);
            let mut when = vec![
                Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                Compare::version(self.key.as_str(), CompareOp::Equal, fence),
            ];
            if only_if_free {
                when.push(Compare::create_revision(prefix.as_str(), CompareOp::Equal, 0).with_prefix());
            }
            let enter = Txn::new()
                .when(when)
                .and_then([
                    TxnOp::put(key.as_str(), request.value, Some(self.put_with_lease())),
                    // A count costs the server nothing; a sorted range would make it read the whole queue.
                    TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix().with_count_only())),
                ])
                .or_else([TxnOp::get(self.key.as_str(), None), TxnOp::get(key.as_str(), None)]);
            let answer = self.txn(ENTER, enter).await?;
            let reads = reads(&answer);
            if answer.succeeded() {
                let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                let entry = Entry { key, incarnation: u64::try_from(revision).unwrap_or_default() };
                let alone = reads.first().is_some_and(|range| range.count() == 1);
                let ahead = alone.then(Ahead::default);
                return Ok(Enqueued::Placed(Placed { token: entry.incarnation, entry, ahead }));
            }
            let (session, own) =
                (reads.first().and_then(|r| r.kvs().first()), reads.get(1).and_then(|r| r.kvs().first()));
            match (session, own) {
                (Some(session), None) if session.create_revision() == self.created => {
                    if session.version() > fence {
                        self.fence.fetch_max(session.version(), Ordering::AcqRel);
                    } else if only_if_free {
                        if !self.is_free(&prefix).await? {
                            return Ok(Enqueued::Busy);
                        }
                        only_if_free = false;
                    }
                }
                (Some(_), Some(own)) if own.lease() == self.lease => {
                    return Ok(Enqueued::Placed(self.placed(own, None)));
                }
                _ => return Err(self.over()),
            }
        }
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let key = keys::entry_key(&self.endpoints.config().namespace, request.queue, self.lease, request.id);
        let fence =
            Txn::new().when([Compare::create_revision(self.key.as_str(), CompareOp::Equal, self.created)]).and_then([
                TxnOp::put(self.key.as_str(), "", Some(self.put_with_lease().with_ignore_value())),
                TxnOp::get(self.key.as_str(), None),
                TxnOp::get(key, None),
            ]);
        let answer = self.txn("settle a lost reply", fence).await?;
        let reads = reads(&answer);
        let Some(session) = reads.first().and_then(|range| range.kvs().first()) else { return Err(self.over()) };
        self.fence.fetch_max(session.version(), Ordering::AcqRel);
        let own = reads.get(1).and_then(|range| range.kvs().first()).filter(|own| own.lease() == self.lease);
        Ok(own.map(|own| self.placed(own, None)))
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let (key, created) = keys::bytes(mine)?;
        let prefix = keys::prefix_of(&key);
        let mut at_most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        loop {
            let before = GetOptions::new()
                .with_prefix()
                .with_keys_only()
                .with_max_create_revision(created - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(at_most);
            let look = Txn::new().and_then([TxnOp::get(key.as_slice(), None), TxnOp::get(prefix, Some(before))]);
            let answer = self.txn("read the queue", look).await?;
            let reads = reads(&answer);
            let own = reads.first().and_then(|range| range.kvs().first());
            let (Some(range), true) = (reads.get(1), own.is_some_and(|own| own.create_revision() == created)) else {
                return Ok(None);
            };
            let mut nearest: Vec<Entry> = Self::entries_in(prefix, range).map(keys::entry).collect();
            if range.more() && nearest.len() <= limit {
                // Keys of locks of longer names took the places of entries.
                at_most = 0;
                continue;
            }
            let more = nearest.len() > limit;
            nearest.truncate(limit);
            return Ok(Some(Ahead { nearest, more }));
        }
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        const WATCH: &str = "watch an entry";
        let (key, created) = keys::bytes(entry)?;
        let watching = self.watches.watch(&key, created).await.map_err(|failure| self.explain(failure, WATCH))?;
        let read = self.request(WATCH, async |mut connection: Connection| {
            connection.client.get(key, Some(GetOptions::new().with_keys_only())).await
        });
        let lives = read.await?.kvs().first().is_some_and(|kv| kv.create_revision() == created);
        Ok(if lives { Watched::Present(Box::pin(watching.removed())) } else { Watched::Gone })
    }

    async fn dequeue(&self, mine: &Entry) -> Result<Dequeued> {
        let (key, created) = keys::bytes(mine)?;
        let delete = Txn::new()
            .when([Compare::create_revision(key.as_slice(), CompareOp::Equal, created)])
            .and_then([TxnOp::delete(key, None)]);
        let answer = self.txn("leave the queue", delete).await?;
        Ok(if answer.succeeded() { Dequeued::Removed } else { Dequeued::Absent })
    }

    async fn entries(&self, queue: &Name) -> Result<Vec<QueueEntry>> {
        let prefix = keys::queue_prefix(&self.endpoints.config().namespace, queue);
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let range = self.request("list the queue", async |mut connection: Connection| {
            connection.client.get(prefix.as_str(), Some(options)).await
        });
        let range = range.await?;
        let entries = Self::entries_in(prefix.as_bytes(), &range).map(|kv| {
            let entry = keys::entry(kv);
            let (token, value) = (Some(entry.incarnation), kv.value().to_vec());
            QueueEntry { entry, session: format!("{:x}", kv.lease()), token, value }
        });
        Ok(entries.collect())
    }

    async fn close(&self) -> Result<()> {
        self.watches.close().await;
        let revoked =
            self.endpoints.request(async |mut connection: Connection| connection.client.lease_revoke(self.lease).await);
        match revoked.await {
            Ok(_) => Ok(()),
            Err(Failure::Etcd(error)) if meaning(&error) == Meaning::LeaseNotFound => Ok(()),
            Err(failure) => Err(self.explain(failure, "end the session")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the member or its term changed during the renewal")]
struct Changed;
