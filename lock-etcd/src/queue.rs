//! Entries of a queue: how they are created, found again, read, and removed.

use std::sync::atomic::Ordering;

use etcd_client::{
    Compare, CompareOp, GetOptions, GetResponse, KeyValue, ResponseHeader, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};
use lock_core::backend::{Ahead, Dequeued, Enqueue, Enqueued, Entry, Kind, Placed, QueueEntry, Standing};
use lock_core::{Error, Name, Result};

use crate::downgrade::{shown, stored};
use crate::error::Meaning;
use crate::keys;
use crate::session::EtcdSession;

pub(crate) const ENTER: &str = "enter the queue";
pub(crate) const SETTLE: &str = "settle a lost reply";
pub(crate) const LOOK: &str = "read the queue";
pub(crate) const LIST: &str = "list the queue";
pub(crate) const LEAVE: &str = "leave the queue";

/// Entries read at once. Values have at most 4 KiB when they are ours, and what fits into a request otherwise.
const PAGE: usize = 500;

impl EtcdSession {
    fn key_of(&self, prefix: &str, request: &Enqueue<'_>) -> String {
        keys::entry_key(prefix, self.lease, self.slots.of(prefix, request.id), request.kind)
    }

    /// Remembers what became of a request to enter, where that is known.
    pub(crate) fn note(&self, prefix: &str, id: &str, entered: Result<Option<&Placed>, &Error>) {
        match entered {
            Ok(Some(placed)) => {
                self.slots.entered(prefix, id, placed.entry.incarnation);
                // Said before it looks, so that who looks first knows that the others wait, too.
                if placed.ahead.is_none() {
                    self.views.waits(prefix, &placed.entry);
                }
            }
            Err(Error::Unavailable { .. }) => {}
            Ok(None) | Err(_) => self.slots.refused(prefix, id),
        }
    }

    /// An entry is not in its queue any more.
    pub(crate) fn is_gone(&self, entry: &Entry) {
        if let Some(prefix) = keys::queue_of(entry.key.as_bytes()) {
            self.views.left(prefix, entry);
            self.slots.left(prefix, entry);
        }
    }

    /// Puts an entry, unless the fence has moved, and again when it has.
    pub(crate) async fn enter(&self, prefix: &str, request: &Enqueue<'_>) -> Result<Enqueued> {
        let mut key = self.key_of(prefix, request);
        let value =
            if request.kind == Kind::Write { stored(request.kind, request.value) } else { request.value.to_vec() };
        let keys_only = || Some(GetOptions::new().with_keys_only());
        let mut only_if_free = request.only_if_free;
        loop {
            let fence = self.fence.load(Ordering::Acquire);
            let mut when = vec![
                Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
                Compare::mod_revision(self.key.as_str(), CompareOp::Equal, fence),
            ];
            if only_if_free {
                when.push(Compare::create_revision(prefix, CompareOp::Equal, 0).with_prefix());
            }
            let enter = Txn::new().when(when).and_then([
                TxnOp::put(key.as_str(), value.as_slice(), Some(self.put_with_lease())),
                // A count costs the server nothing; a sorted range would make it read the whole queue.
                TxnOp::get(prefix, Some(GetOptions::new().with_prefix().with_count_only())),
            ]);
            match self.commits.enter(prefix, &key, enter).await {
                Ok(Some(entered)) => {
                    self.views.entered(prefix, usize::try_from(entered.keys).unwrap_or_default());
                    let entry =
                        Entry { key: key.into(), incarnation: u64::try_from(entered.revision).unwrap_or_default() };
                    let ahead = (entered.keys == 1).then(Ahead::default);
                    return Ok(Enqueued::Placed(Placed { token: entry.incarnation, entry, ahead }));
                }
                Ok(None) => {}
                Err(failure) if failure.meaning == Meaning::NoSpace => {
                    let own = self.get(ENTER, key, GetOptions::new().with_keys_only()).await?;
                    let own = own.kvs().first().filter(|own| own.lease() == self.lease);
                    let placed = own.map(|own| Enqueued::Placed(placed(own)));
                    return placed.ok_or_else(|| self.explain(failure, ENTER));
                }
                Err(failure) => return Err(self.explain(failure, ENTER)),
            }
            // Which of the conditions did not hold is asked only now, so that the request is a short one.
            let why = Txn::new()
                .and_then([TxnOp::get(self.key.as_str(), keys_only()), TxnOp::get(key.as_str(), keys_only())]);
            let reads = reads(&self.txn(ENTER, why).await?);
            let first = |i: usize| reads.get(i).and_then(|range| range.kvs().first());
            let session = first(0).filter(|session| session.create_revision() == self.created);
            match (session, first(1)) {
                (None, _) => return Err(self.over()),
                (Some(_), Some(own)) if own.lease() == self.lease => return Ok(Enqueued::Placed(placed(own))),
                (Some(_), Some(_)) => {
                    tracing::warn!(key, "another client has put a key of this session, which takes another one");
                    self.slots.foreign(prefix, request.id);
                    key = self.key_of(prefix, request);
                }
                (Some(session), None) if session.mod_revision() > fence => {
                    self.fence.fetch_max(session.mod_revision(), Ordering::AcqRel);
                }
                (Some(_), None) if only_if_free => {
                    if !self.is_free(prefix).await? {
                        return Ok(Enqueued::Busy);
                    }
                    only_if_free = false;
                }
                // Whatever it was, it is so no more.
                (Some(_), None) => {}
            }
        }
    }

    /// Whether a queue has no entry, where keys under its prefix may belong to locks of longer names.
    async fn is_free(&self, prefix: &str) -> Result<bool> {
        let mut limit = PAGE;
        loop {
            let options = GetOptions::new().with_prefix().with_keys_only().with_limit(limit as i64);
            let range = self.get(ENTER, prefix, options).await?;
            if entries_in(prefix.as_bytes(), &range).next().is_some() {
                return Ok(false);
            }
            if !range.more() {
                return Ok(true);
            }
            limit = 0;
        }
    }

    /// Moves the fence, behind which a lost request to enter can never be applied, and looks for its entry.
    pub(crate) async fn settle(&self, prefix: &str, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let key = self.key_of(prefix, request);
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
        Ok(own.map(placed))
    }

    pub(crate) async fn look(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>> {
        let (key, created) = keys::bytes(mine)?;
        let prefix = keys::prefix_of(&key);
        // Only among readers and writers does a value tell what an entry asks for.
        let values = matches!(keys::kind(&key), Kind::Read | Kind::Write);
        let look = async |at_most: i64| {
            let mut before = GetOptions::new()
                .with_prefix()
                .with_max_create_revision(created - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(at_most);
            if !values {
                before = before.with_keys_only();
            }
            let look = Txn::new()
                .when([Compare::create_revision(key.as_slice(), CompareOp::Equal, created)])
                .and_then([TxnOp::get(prefix, Some(before))]);
            let answer = self.txn(LOOK, look).await?;
            Ok::<_, Error>(answer.succeeded().then(|| reads(&answer)).and_then(|reads| reads.into_iter().next()))
        };
        let mut at_most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        loop {
            let Some(range) = look(at_most).await? else { return Ok(None) };
            let mut nearest: Vec<_> = entries_in(prefix, &range).map(standing).collect();
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

    pub(crate) async fn list(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>> {
        let prefix = keys::queue_prefix(self.namespace(), queue).into_bytes();
        if (1..=PAGE).contains(&limit) {
            let options = GetOptions::new()
                .with_prefix()
                .with_sort(SortTarget::Create, SortOrder::Ascend)
                .with_limit(limit as i64);
            let range = self.get(LIST, prefix.as_slice(), options).await?;
            let first: Vec<_> = entries_in(&prefix, &range).map(queue_entry).collect();
            // Keys of locks of longer names may have taken the places of entries.
            if first.len() == limit || !range.more() {
                return Ok(first);
            }
        }
        // In the order of the keys, the only one in which the server can go on where it stopped.
        let (mut found, mut from, mut revision) = (Vec::new(), prefix.clone(), 0);
        loop {
            let options =
                GetOptions::new().with_range(keys::end_of(&prefix)).with_limit(PAGE as i64).with_revision(revision);
            let range = self.get(LIST, from, options).await?;
            if revision == 0 {
                revision = range.header().map_or(0, ResponseHeader::revision);
            }
            found.extend(entries_in(&prefix, &range).map(queue_entry));
            match range.kvs().last() {
                Some(last) if range.more() => from = [last.key(), b"\0"].concat(),
                _ => break,
            }
        }
        found.sort_by_key(|entry| entry.entry.incarnation);
        found.truncate(limit);
        Ok(found)
    }

    pub(crate) async fn leave(&self, entry: &Entry) -> Result<Dequeued> {
        let (key, created) = keys::bytes(entry)?;
        let removed = self.commits.leave(key, created).await.map_err(|failure| self.explain(failure, LEAVE))?;
        Ok(if removed { Dequeued::Removed } else { Dequeued::Absent })
    }
}

fn placed(kv: &KeyValue) -> Placed {
    let entry = keys::entry(kv);
    Placed { token: entry.incarnation, entry, ahead: None }
}

/// An entry and what it asks for now, or asked for first if its value was not read.
pub(crate) fn standing(kv: &KeyValue) -> Standing {
    Standing { entry: keys::entry(kv), kind: shown(kv).0 }
}

fn queue_entry(kv: &KeyValue) -> QueueEntry {
    let (entry, (kind, value)) = (keys::entry(kv), shown(kv));
    let (token, value) = (Some(entry.incarnation), value.to_vec());
    QueueEntry { entry, kind, session: format!("{:x}", kv.lease()), token, value }
}

/// The entries of a queue that the answer to a range shows.
pub(crate) fn entries_in<'a>(prefix: &'a [u8], range: &'a GetResponse) -> impl Iterator<Item = &'a KeyValue> {
    range.kvs().iter().filter(move |kv| keys::is_entry(prefix, kv.key()))
}

/// The answers to the reads of a transaction, in order.
pub(crate) fn reads(response: &TxnResponse) -> Vec<GetResponse> {
    let responses = response.op_responses().into_iter();
    responses.filter_map(|response| if let TxnOpResponse::Get(get) = response { Some(get) } else { None }).collect()
}
