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
use tokio::time::timeout;

use crate::endpoints::{Connection, Endpoints};
use crate::error::{Failure, Meaning};
use crate::keys;
use crate::renewal::{Renewal, Round};
use crate::watches::Watches;

/// Entries read at once. Values have at most 4 KiB when they are ours, and what fits into a request otherwise.
const PAGE: i64 = 500;

#[derive(Debug)]
pub(crate) struct EtcdSession {
    endpoints: Arc<Endpoints>,
    lease: i64,
    ttl: Duration,
    /// The session's own key, and the revision that created it.
    key: String,
    created: i64,
    /// The revision that last changed the session's key. Every enqueue compares it, and `adopt` changes the key, so that
    /// an enqueue that was sent before can never be applied after.
    fence: AtomicI64,
    renewal: Mutex<Renewal>,
    watches: Watches,
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
            watches: Watches::new(endpoints.clone()),
            endpoints,
            key,
        }
    }

    fn over(&self) -> Error {
        tracing::debug!(session = self.id(), "session over");
        Error::SessionOver { session: self.id() }
    }

    fn explain(&self, failure: Failure, request: &'static str) -> Error {
        failure.explain(request, &self.id(), self.endpoints.config())
    }

    /// Ends a call of several requests after a third of the ttl.
    async fn bounded<T>(&self, request: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let within = self.endpoints.request_timeout() * 2;
        let late = |_| Err(self.explain(Failure::no_answer("etcd", within), request));
        timeout(within, call).await.unwrap_or_else(late)
    }

    async fn txn(&self, name: &'static str, txn: Txn) -> Result<TxnResponse> {
        self.endpoints.txn(txn).await.map_err(|failure| self.explain(failure, name))
    }

    async fn get(
        &self,
        name: &'static str,
        key: impl Into<Vec<u8>> + Send,
        options: GetOptions,
    ) -> Result<GetResponse> {
        let answer = self.endpoints.get(key, options).await;
        answer.map(|(_, answer)| answer).map_err(|failure| self.explain(failure, name))
    }

    fn put_with_lease(&self) -> PutOptions {
        PutOptions::new().with_lease(self.lease)
    }

    fn placed(&self, kv: &KeyValue) -> Placed {
        let entry = keys::entry(kv);
        Placed { token: entry.incarnation, entry, ahead: None }
    }

    /// The entries of a queue that the answer to a range shows.
    fn entries_in<'a>(prefix: &'a [u8], range: &'a GetResponse) -> impl Iterator<Item = &'a KeyValue> {
        range.kvs().iter().filter(move |kv| keys::is_entry(prefix, kv.key()))
    }

    /// Whether a queue has no entry, where keys under its prefix may belong to locks of longer names.
    async fn is_free(&self, prefix: &str) -> Result<bool> {
        let mut limit = PAGE;
        loop {
            let options = GetOptions::new().with_prefix().with_keys_only().with_limit(limit);
            let range = self.get(ENTER, prefix, options).await?;
            if Self::entries_in(prefix.as_bytes(), &range).next().is_some() {
                return Ok(false);
            }
            if !range.more() {
                return Ok(true);
            }
            limit = 0;
        }
    }

    /// Puts an entry, unless the fence has moved, and again when it has.
    async fn enter(&self, request: &Enqueue<'_>) -> Result<Enqueued> {
        let namespace = &self.endpoints.config().namespace;
        let prefix = keys::queue_prefix(namespace, request.queue);
        let key = keys::entry_key(namespace, request.queue, self.lease, request.id);
        let keys_only = || Some(GetOptions::new().with_keys_only());
        let mut only_if_free = request.only_if_free;
        loop {
            let fence = self.fence.load(Ordering::Acquire);
            let mut when = vec![
                Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                Compare::mod_revision(self.key.as_str(), CompareOp::Equal, fence),
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
                .or_else([TxnOp::get(self.key.as_str(), keys_only()), TxnOp::get(key.as_str(), keys_only())]);
            let answer = match self.endpoints.txn(enter).await {
                Ok(answer) => answer,
                Err(failure) if failure.meaning == Meaning::NoSpace => {
                    let own = self.get(ENTER, key, GetOptions::new().with_keys_only()).await?;
                    let own = own.kvs().first().filter(|own| own.lease() == self.lease);
                    let placed = own.map(|own| Enqueued::Placed(self.placed(own)));
                    return placed.ok_or_else(|| self.explain(failure, ENTER));
                }
                Err(failure) => return Err(self.explain(failure, ENTER)),
            };
            let reads = reads(&answer);
            if answer.succeeded() {
                let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                let entry = Entry { key, incarnation: u64::try_from(revision).unwrap_or_default() };
                let alone = reads.first().is_some_and(|range| range.count() == 1);
                let ahead = alone.then(Ahead::default);
                return Ok(Enqueued::Placed(Placed { token: entry.incarnation, entry, ahead }));
            }
            let first = |i: usize| reads.get(i).and_then(|range| range.kvs().first());
            let session = first(0).filter(|session| session.create_revision() == self.created);
            match (session, first(1)) {
                (None, _) => return Err(self.over()),
                (Some(_), Some(own)) if own.lease() == self.lease => return Ok(Enqueued::Placed(self.placed(own))),
                (Some(_), Some(_)) => return Err(Error::refused(ENTER, Taken(key))),
                (Some(session), None) if session.mod_revision() > fence => {
                    self.fence.fetch_max(session.mod_revision(), Ordering::AcqRel);
                }
                (Some(_), None) => {
                    if !self.is_free(&prefix).await? {
                        return Ok(Enqueued::Busy);
                    }
                    only_if_free = false;
                }
            }
        }
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
        self.bounded(ENTER, self.enter(request)).await
    }

    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        const SETTLE: &str = "settle a lost reply";
        let key = keys::entry_key(&self.endpoints.config().namespace, request.queue, self.lease, request.id);
        let keys_only = || Some(GetOptions::new().with_keys_only());
        let fence =
            Txn::new().when([Compare::create_revision(self.key.as_str(), CompareOp::Equal, self.created)]).and_then([
                TxnOp::put(self.key.as_str(), "", Some(self.put_with_lease().with_ignore_value())),
                TxnOp::get(self.key.as_str(), keys_only()),
                TxnOp::get(key, keys_only()),
            ]);
        let answer = match self.endpoints.txn(fence).await {
            Ok(answer) => answer,
            Err(failure) if failure.meaning == Meaning::LeaseNotFound => return Err(self.over()),
            // Whatever keeps the fence from being moved, the lost request may still be applied.
            Err(failure) => return Err(Error::Unavailable { request: SETTLE.into(), source: failure.source() }),
        };
        let reads = reads(&answer);
        let Some(session) = reads.first().and_then(|range| range.kvs().first()) else { return Err(self.over()) };
        self.fence.fetch_max(session.mod_revision(), Ordering::AcqRel);
        let own = reads.get(1).and_then(|range| range.kvs().first()).filter(|own| own.lease() == self.lease);
        Ok(own.map(|own| self.placed(own)))
    }

    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let (key, created) = keys::bytes(mine)?;
        let prefix = keys::prefix_of(&key);
        let look = async |at_most: i64| {
            let before = GetOptions::new()
                .with_prefix()
                .with_keys_only()
                .with_max_create_revision(created - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(at_most);
            let look = Txn::new()
                .when([Compare::create_revision(key.as_slice(), CompareOp::Equal, created)])
                .and_then([TxnOp::get(prefix, Some(before))]);
            let answer = self.txn(LOOK, look).await?;
            Ok::<_, Error>(answer.succeeded().then(|| reads(&answer)).and_then(|reads| reads.into_iter().next()))
        };
        let looking = async {
            let mut at_most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
            loop {
                let Some(range) = look(at_most).await? else { return Ok(None) };
                let mut nearest: Vec<Entry> = Self::entries_in(prefix, &range).map(keys::entry).collect();
                if range.more() && nearest.len() <= limit {
                    // Keys of locks of longer names took the places of entries.
                    at_most = 0;
                    continue;
                }
                let more = nearest.len() > limit;
                nearest.truncate(limit);
                return Ok(Some(Ahead { nearest, more }));
            }
        };
        self.bounded(LOOK, looking).await
    }

    async fn watch(&self, entry: &Entry) -> Result<Watched> {
        const WATCH: &str = "watch an entry";
        let (key, created) = keys::bytes(entry)?;
        // The revision at which the entry was seen, if it was.
        let see = async || {
            let range = self.get(WATCH, key.as_slice(), GetOptions::new().with_keys_only()).await?;
            let seen_at = range.header().map_or(0, etcd_client::ResponseHeader::revision);
            if seen_at < created {
                return Err(self.explain(Failure::unavailable("an answer older than the entry"), WATCH));
            }
            let lives = range.kvs().first().is_some_and(|kv| kv.create_revision() == created);
            Ok(lives.then_some(seen_at))
        };
        let watching = async {
            // Both at once: it is the revisions that tell whether the read is late enough.
            let (watching, seen) = tokio::join!(self.watches.watch(&key, created), see());
            let Some(seen_at) = seen? else { return Ok(Watched::Gone) };
            let (watching, in_force_from) = watching.map_err(|failure| self.explain(failure, WATCH))?;
            if seen_at < in_force_from && see().await?.is_none() {
                return Ok(Watched::Gone);
            }
            Ok(Watched::Present(Box::pin(watching.removed())))
        };
        self.bounded(WATCH, watching).await
    }

    async fn dequeue(&self, mine: &Entry) -> Result<Dequeued> {
        let (key, created) = keys::bytes(mine)?;
        // Nothing but a deletion, which a full database allows.
        let delete = Txn::new()
            .when([Compare::create_revision(key.as_slice(), CompareOp::Equal, created)])
            .and_then([TxnOp::delete(key, None)]);
        let answer = self.txn("leave the queue", delete).await?;
        Ok(if answer.succeeded() { Dequeued::Removed } else { Dequeued::Absent })
    }

    async fn entries(&self, queue: &Name) -> Result<Vec<QueueEntry>> {
        let prefix = keys::queue_prefix(&self.endpoints.config().namespace, queue).into_bytes();
        let listing = async {
            let (mut found, mut from, mut revision) = (Vec::new(), prefix.clone(), 0);
            loop {
                let options =
                    GetOptions::new().with_range(keys::end_of(&prefix)).with_limit(PAGE).with_revision(revision);
                let range = self.get(LIST, from, options).await?;
                if revision == 0 {
                    revision = range.header().map_or(0, etcd_client::ResponseHeader::revision);
                }
                found.extend(Self::entries_in(&prefix, &range).map(|kv| {
                    let entry = keys::entry(kv);
                    let (token, value) = (Some(entry.incarnation), kv.value().to_vec());
                    QueueEntry { entry, session: format!("{:x}", kv.lease()), token, value }
                }));
                match range.kvs().last() {
                    Some(last) if range.more() => from = [last.key(), b"\0"].concat(),
                    _ => break,
                }
            }
            found.sort_by_key(|entry| entry.entry.incarnation);
            Ok(found)
        };
        self.bounded(LIST, listing).await
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

const LOOK: &str = "read the queue";
const LIST: &str = "list the queue";
const CLOSE: &str = "end the session";

#[derive(Debug, thiserror::Error)]
#[error("the member or its term changed during the renewal")]
struct Changed;

#[derive(Debug, thiserror::Error)]
#[error("another client has put key {0}, which is reserved for this session")]
struct Taken(String);
