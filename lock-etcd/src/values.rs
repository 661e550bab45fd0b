//! Values of entries and records, and who owns a session.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use lock_core::backend::{Content, Entry, Kind, Written};
use lock_core::{Error, Name, Result};

use crate::downgrade::{shown, stored};
use crate::endpoints::Connection;
use crate::error::{Failure, Meaning};
use crate::keys;
use crate::queue::reads;
use crate::session::EtcdSession;

pub(crate) const READ: &str = "read a value";
pub(crate) const WRITE: &str = "write a value";
pub(crate) const OWNER: &str = "read a session's owner";
pub(crate) const TIME_LEFT: &str = "read how long a lease is kept";

/// Entries compared in one transaction; servers as shipped take 128.
const COMPARED: usize = 100;

impl EtcdSession {
    pub(crate) fn record_of(&self, queue: &Name) -> Entry {
        Entry { key: format!("{}{}", keys::record_prefix(self.namespace()), queue.segment()).into(), incarnation: 0 }
    }

    pub(crate) fn is_record(&self, entry: &Entry) -> bool {
        entry.key.starts_with(&keys::record_prefix(self.namespace()))
    }

    pub(crate) async fn read_value(&self, entry: &Entry) -> Result<Option<Content>> {
        let (key, created) = keys::bytes(entry)?;
        let range = self.get(READ, key, GetOptions::new()).await?;
        let found = range.kvs().first();
        if self.is_record(entry) {
            let content = |kv: &KeyValue| Content { value: kv.value().to_vec(), version: version(kv) };
            return Ok(Some(found.map(content).unwrap_or_default()));
        }
        let found = found.filter(|kv| kv.create_revision() == created);
        Ok(found.map(|kv| Content { value: shown(kv).1.to_vec(), version: version(kv) }))
    }

    /// Those of these entries that are gone or have another version, by transactions that compare all of them.
    pub(crate) async fn changed_since(&self, seen: &[(Entry, u64)]) -> Result<Vec<Entry>> {
        let mut changed = Vec::new();
        let (mut unseen, mut at_once) = (seen, COMPARED);
        while !unseen.is_empty() {
            let (part, rest) = unseen.split_at(at_once.min(unseen.len()));
            let as_seen = part.iter().map(|(entry, version)| {
                let version = i64::try_from(*version).unwrap_or_default();
                Ok(Compare::mod_revision(keys::bytes(entry)?.0, CompareOp::Equal, version))
            });
            let keys_only = |key: &[u8]| TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
            let each = part.iter().map(|(entry, _)| Ok(keys_only(&keys::bytes(entry)?.0)));
            // Without any read in it, a transaction would be answered by a member on its own.
            let look = Txn::new()
                .when(as_seen.collect::<Result<Vec<_>>>()?)
                .and_then([keys_only(self.key.as_bytes())])
                .or_else(each.collect::<Result<Vec<_>>>()?);
            let answer = match self.endpoints.txn(look).await {
                // More than this server takes in one transaction.
                Err(failure) if failure.meaning == Meaning::Refused && at_once > 1 => {
                    at_once /= 2;
                    continue;
                }
                answer => answer.map_err(|failure| self.explain(failure, READ))?,
            };
            if !answer.succeeded() {
                let found = reads(&answer);
                let now = |at: usize| found.get(at).and_then(|range| range.kvs().first()).map(version);
                let others = part.iter().enumerate().filter(|(at, (_, seen))| now(*at) != Some(*seen));
                changed.extend(others.map(|(_, (entry, _))| entry.clone()));
            }
            unseen = rest;
        }
        Ok(changed)
    }

    /// The version is the revision of the last write: those of different incarnations of a key differ, and a request that
    /// was delayed on its way fits nothing that was written since.
    pub(crate) async fn write_value(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written> {
        let (key, created) = keys::bytes(entry)?;
        let Ok(version) = i64::try_from(version) else { return Ok(Written::Conflict) };
        let unchanged = Compare::mod_revision(key.as_slice(), CompareOp::Equal, version);
        let write = if self.is_record(entry) {
            // A record that was never written is no key, whose revision is 0 to a comparison. It is never deleted, not
            // even when it is empty, so that it is not 0 again.
            Txn::new().when([unchanged]).and_then([TxnOp::put(key.as_slice(), value, None)])
        } else {
            let value = match keys::kind(&key) {
                Kind::Write => {
                    let range = self.get(WRITE, key.as_slice(), GetOptions::new()).await?;
                    match range.kvs().first() {
                        Some(now) if now.mod_revision() == version => stored(shown(now).0, value),
                        _ => return Ok(Written::Conflict),
                    }
                }
                _ => value.to_vec(),
            };
            let put = TxnOp::put(key.as_slice(), value, Some(PutOptions::new().with_ignore_lease()));
            let this = Compare::create_revision(key.as_slice(), CompareOp::Equal, created);
            Txn::new().when([this, unchanged]).and_then([put])
        };
        match self.endpoints.txn(write).await {
            Ok(answer) if answer.succeeded() => Ok(Written::Done),
            Ok(_) => Ok(Written::Conflict),
            Err(failure) => Err(self.explain_write(failure, WRITE, &key, version).await),
        }
    }

    /// The error of a request that was to write to a key of this version. One that fills the database up is applied and
    /// yet answered like one that is refused.
    pub(crate) async fn explain_write(
        &self,
        failure: Failure,
        request: &'static str,
        key: &[u8],
        version: i64,
    ) -> Error {
        if failure.meaning != Meaning::NoSpace {
            return self.explain(failure, request);
        }
        let now = match self.get(request, key, GetOptions::new().with_keys_only()).await {
            Ok(range) => range.kvs().first().map_or(0, KeyValue::mod_revision),
            Err(error) => return error,
        };
        if now == version {
            return self.explain(failure, request);
        }
        Error::Unavailable { request: request.into(), source: failure.source() }
    }

    /// What a live session keeps in its own key.
    pub(crate) async fn read_owner(&self, session: &str) -> Result<Option<Vec<u8>>> {
        let Some(lease) = lease_of(session) else { return Ok(None) };
        let range = self.get(OWNER, keys::session_key(self.namespace(), lease), GetOptions::new()).await?;
        Ok(range.kvs().first().filter(|kv| kv.lease() == lease).map(|kv| kv.value().to_vec()))
    }

    /// Answered by the leader alone, who counts the time.
    pub(crate) async fn read_time_left(&self, session: &str) -> Result<Option<Duration>> {
        let Some(lease) = lease_of(session) else { return Ok(None) };
        let request = async |connection: Arc<Connection>| connection.lease.clone().time_to_live(lease, None).await;
        match self.endpoints.request(request).await {
            // Negative when it is over.
            Ok(answer) => Ok(u64::try_from(answer.ttl()).ok().map(Duration::from_secs)),
            Err(failure) if failure.meaning == Meaning::LeaseNotFound => Ok(None),
            Err(failure) => Err(self.explain(failure, TIME_LEFT)),
        }
    }
}

/// Keys without a lease are others'.
fn lease_of(session: &str) -> Option<i64> {
    let lease = u64::from_str_radix(session, 16).ok()?.cast_signed();
    (lease != 0 && format!("{lease:x}") == session).then_some(lease)
}

fn version(kv: &KeyValue) -> u64 {
    u64::try_from(kv.mod_revision()).unwrap_or_default()
}
