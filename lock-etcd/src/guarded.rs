//! Writes to etcd that apply only while a lock is held.

use std::any::Any;

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, Txn, TxnOp};
use lock_core::{Error, Guard, Loss, Result};

use crate::error::{Failure, Meaning};
use crate::keys;
use crate::queue::reads;
use crate::session::EtcdSession;

const COMMIT: &str = "write under a lock";

/// Writes to etcd that apply all or nothing, and only while a guard's entry exists.
///
/// One transaction that compares the create revision of the guard's key, so the store itself refuses the writes of a holder
/// that has been replaced, however late they come: no token has to be compared. Keys are whole keys, not below the
/// namespace of the locks, and the user of that client needs permission for them. One key can be written once.
///
/// Programs with a client of their own get the same with [`comparison`](Self::comparison) in a transaction of theirs.
///
/// # Examples
/// ```no_run
/// # async fn example(client: lock_core::Client) -> Result<(), lock_etcd::GuardedError> {
/// use lock_etcd::Guarded;
///
/// let guard = client.mutex("nightly-backup")?.lock().await?;
/// Guarded::new(&guard)?
///     .put("backup/last", "2026-01-31")
///     .put_if("backup/done/2026-01-31", "", 0)
///     .delete("backup/next")
///     .commit()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing is written without `commit`"]
#[derive(Debug)]
pub struct Guarded<'a> {
    guard: &'a Guard,
    session: &'a EtcdSession,
    /// The guard's key, and the revision that created it.
    key: Vec<u8>,
    created: i64,
    writes: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    key: Vec<u8>,
    change: Change,
    /// The revision at which the key must have been written last, 0 for no key.
    version: Option<i64>,
}

#[derive(Debug)]
enum Change {
    Put(Vec<u8>),
    PutEphemeral(Vec<u8>),
    Delete,
}

/// Why guarded writes were not made, or may not have been.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_etcd::{Guarded, GuardedError};
///
/// let guard = client.mutex("nightly-backup")?.lock().await?; // of a client that is not etcd's
/// assert!(matches!(Guarded::new(&guard), Err(GuardedError::OtherBackend { .. })));
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum GuardedError {
    /// The guard's lock is kept in another store.
    #[error("lock {lock:?} is not kept in etcd, which can guard writes only with locks of its own")]
    OtherBackend {
        /// The lock.
        lock: String,
    },

    /// The condition of one of the writes did not hold. Nothing was written; the lock was held.
    #[error("nothing was written: {conflict} at {key}")]
    Conflict {
        /// The key of that write.
        key: String,
        /// What was the matter.
        conflict: Conflict,
    },

    /// [`Error::Lost`]: nothing was written, the lock was no longer held. [`Error::Unavailable`]: see
    /// [`Guarded::commit`]. Any other: nothing was written, and asking again will not help.
    #[error(transparent)]
    Lock(#[from] Error),
}

/// Which condition of a write did not hold.
///
/// # Examples
/// ```
/// use lock_etcd::{Conflict, GuardedError};
///
/// let error = GuardedError::Conflict { key: "backup/last".into(), conflict: Conflict::BadVersion };
/// assert_eq!(error.to_string(), "nothing was written: another version at backup/last");
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The key does not exist.
    NoKey,
    /// A key that must not exist does.
    KeyExists,
    /// The key was written since.
    BadVersion,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoKey => "no key",
            Self::KeyExists => "there is a key already",
            Self::BadVersion => "another version",
        })
    }
}

impl<'a> Guarded<'a> {
    /// No writes yet, to be made under this guard. Any kind of guard: a read lock and a permit are entries, too.
    ///
    /// # Errors
    /// [`GuardedError::OtherBackend`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(client: lock_core::Client) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// let permit = client.semaphore("exports", 3)?.acquire(1).await?;
    /// Guarded::new(&permit)?.put("exports/17", "running").commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn new(guard: &'a Guard) -> Result<Self, GuardedError> {
        match (&**guard.session() as &dyn Any).downcast_ref() {
            Some(session) => {
                let (key, created) = keys::bytes(guard.entry())?;
                Ok(Self { guard, session, key, created, writes: Vec::new() })
            }
            None => Err(GuardedError::OtherBackend { lock: guard.name().to_owned() }),
        }
    }

    /// The key that exists, with the [token](Guard::token) as its create revision, as long as the lock is held.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// let guarded = Guarded::new(&guard)?;
    /// println!("etcdctl get {} # as long as the lock is held", guarded.entry_key());
    /// # Ok(()) }
    /// ```
    pub fn entry_key(&self) -> &'a str {
        &self.guard.entry().key
    }

    /// What holds as long as the lock is held: for a transaction of another client of crate `etcd-client`, 0.21. Other
    /// clients compare the create revision of [`entry_key`](Self::entry_key) with the [token](Guard::token).
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard, mut etcd: etcd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use etcd_client::{Txn, TxnOp};
    ///
    /// let held = lock_etcd::Guarded::new(&guard)?.comparison();
    /// let write = Txn::new().when([held]).and_then([TxnOp::put("backup/last", "2026-01-31", None)]);
    /// assert!(etcd.txn(write).await?.succeeded());
    /// # Ok(()) }
    /// ```
    pub fn comparison(&self) -> Compare {
        Compare::create_revision(self.key.as_slice(), CompareOp::Equal, self.created)
    }

    /// Writes a key, whatever is there. It gets no lease, also if it had one.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// Guarded::new(&guard)?.put("backup/last", "2026-01-31").put("backup/by", "db1").commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn put(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.with(key, Change::Put(value.into()), None)
    }

    /// As [`put`](Self::put), if the key's mod revision is still `version`; 0 for a key that does not exist.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// let read = 17; // the mod revision of what the new value was made from
    /// Guarded::new(&guard)?.put_if("backup/plan", "the next plan", read).commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn put_if(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, version: i64) -> Self {
        self.with(key, Change::Put(value.into()), Some(version))
    }

    /// Writes a key that ends with the session of the lock's client. Releasing the lock does not remove it.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// // For everybody to see, as long as this process lives.
    /// Guarded::new(&guard)?.put_ephemeral("backup/running", "db1").commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn put_ephemeral(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.with(key, Change::PutEphemeral(value.into()), None)
    }

    /// Deletes a key, if it is there.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// Guarded::new(&guard)?.delete("backup/running").put("backup/last", "2026-01-31").commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn delete(self, key: impl Into<Vec<u8>>) -> Self {
        self.with(key, Change::Delete, None)
    }

    /// Deletes a key, if its mod revision is still `version`.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// let read = 17; // the mod revision of the request that was done
    /// Guarded::new(&guard)?.delete_if("backup/request", read).commit().await?; // and not of a newer one
    /// # Ok(()) }
    /// ```
    pub fn delete_if(self, key: impl Into<Vec<u8>>, version: i64) -> Self {
        self.with(key, Change::Delete, Some(version))
    }

    fn with(mut self, key: impl Into<Vec<u8>>, change: Change, version: Option<i64>) -> Self {
        self.writes.push(Write { key: key.into(), change, version });
        self
    }

    /// Makes all the writes in one step of the store. Without any, it asks the store whether the lock is held. Sends
    /// nothing when the guard is known to be lost.
    ///
    /// One request, which the servers must accept as a whole: as shipped, 1.5 MiB and about 120 writes. More than 2 MiB they
    /// do not even read, and the answer is [`Error::Unavailable`] each time.
    ///
    /// # Errors
    /// [`GuardedError::Conflict`], or of the lock:
    /// * [`Error::Lost`]: nothing was written.
    /// * [`Error::Unavailable`]: there was no answer, or the database is full, which the server says also when it has made
    ///   the writes that filled it. The writes may have been made, or be made later, once and all of them or not at all;
    ///   but never when the entry is gone, and so never after the next grant. Who needs to know gives versions and commits
    ///   the same again, which ends in a conflict if they were made; or reads what is there.
    /// * [`Error::AccessDenied`] and [`Error::Refused`]: nothing was written.
    ///
    /// # Cancel safety
    /// Dropping the future is like an answer that is lost.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_etcd::GuardedError> {
    /// # use lock_etcd::Guarded;
    /// # use lock_core::Error;
    /// # use lock_etcd::GuardedError;
    /// match Guarded::new(&guard)?.put_if("backup/done/2026-01-31", "", 0).commit().await {
    ///     Ok(()) => println!("done, by this one"),
    ///     Err(GuardedError::Conflict { key, .. }) => println!("{key} is there: it had been done"),
    ///     Err(GuardedError::Lock(Error::Unavailable { .. })) => println!("done or not: commit the same again"),
    ///     Err(error) => return Err(error), // not done
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn commit(&self) -> Result<(), GuardedError> {
        self.guard.check()?;
        let answer = self.session.bounded(COMMIT, async { Ok(self.send().await) }).await;
        answer.unwrap_or_else(|error| Err(error.into()))
    }

    async fn send(&self) -> Result<(), GuardedError> {
        let conditions = self.conditions().map(|(key, version)| Compare::mod_revision(key, CompareOp::Equal, version));
        let read = |key: &[u8]| TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
        let why = [read(&self.key), read(self.session.key.as_bytes())];
        let transaction = Txn::new()
            .when(std::iter::once(self.comparison()).chain(conditions).collect::<Vec<_>>())
            .and_then(self.writes.iter().map(|write| self.write(write)).collect::<Vec<_>>())
            .or_else(why.into_iter().chain(self.conditions().map(|(key, _)| read(key))).collect::<Vec<_>>());
        match self.session.endpoints.txn(transaction).await {
            Ok(answer) if answer.succeeded() => Ok(()),
            Ok(answer) => Err(self.why_not(&reads(&answer))),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    fn write(&self, write: &Write) -> TxnOp {
        let key = write.key.as_slice();
        match &write.change {
            Change::Put(value) => TxnOp::put(key, value.as_slice(), None),
            Change::PutEphemeral(value) => TxnOp::put(key, value.as_slice(), Some(self.session.put_with_lease())),
            Change::Delete => TxnOp::delete(key, None),
        }
    }

    fn conditions(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.writes.iter().filter_map(|write| Some((write.key.as_slice(), write.version?)))
    }

    /// Why the writes were not made, by what the same step read: the entry, the session, and each key with a condition.
    fn why_not(&self, read: &[GetResponse]) -> GuardedError {
        let found = |n: usize| read.get(n).and_then(|range| range.kvs().first());
        let lives = |n, created| found(n).is_some_and(|kv| kv.create_revision() == created);
        if !lives(1, self.session.created) {
            return self.lost(Loss::SessionEnded);
        }
        if !lives(0, self.created) {
            return self.lost(Loss::EntryRemoved);
        }
        let mut conditions = self.conditions().enumerate().filter_map(|(n, (key, version))| {
            let conflict = conflict(version, found(n + 2).map(KeyValue::mod_revision))?;
            Some(GuardedError::Conflict { key: String::from_utf8_lossy(key).into_owned(), conflict })
        });
        // The comparison and the reads are of one revision.
        let unexplained =
            || self.session.explain(Failure::unavailable("an answer that contradicts itself"), COMMIT).into();
        conditions.next().unwrap_or_else(unexplained)
    }

    fn explain(&self, failure: Failure) -> GuardedError {
        match failure.meaning {
            Meaning::LeaseNotFound => self.lost(Loss::SessionEnded),
            Meaning::NoSpace => Error::Unavailable { request: COMMIT.into(), source: failure.source() }.into(),
            Meaning::AccessDenied => {
                let keys: Vec<_> = self.writes.iter().map(|write| String::from_utf8_lossy(&write.key)).collect();
                let what = format!("one of the keys {keys:?}, or the lock's");
                failure.access_denied(self.session.endpoints.config(), what).into()
            }
            _ => self.session.explain(failure, COMMIT).into(),
        }
    }

    fn lost(&self, loss: Loss) -> GuardedError {
        Error::Lost { lock: self.guard.name().to_owned(), loss }.into()
    }
}

/// What keeps a key of this version from being the one that was wanted; versions are never negative.
fn conflict(wanted: i64, found: Option<i64>) -> Option<Conflict> {
    match found {
        Some(found) if found == wanted => None,
        None if wanted == 0 => None,
        None => Some(Conflict::NoKey),
        Some(_) if wanted == 0 => Some(Conflict::KeyExists),
        Some(_) => Some(Conflict::BadVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_tells_the_conflict() {
        for (wanted, found, want) in [
            (0, None, None),
            (7, Some(7), None),
            (7, None, Some(Conflict::NoKey)),
            (0, Some(7), Some(Conflict::KeyExists)),
            (7, Some(8), Some(Conflict::BadVersion)),
        ] {
            assert_eq!(conflict(wanted, found), want, "{wanted} {found:?}");
        }
    }
}
