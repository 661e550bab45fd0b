//! Writes to ZooKeeper that apply only while a lock is held.

use std::any::Any;
use std::sync::Arc;

use lock_core::{Error, Guard, Loss, Result};
use zookeeper_client as zk;
use zookeeper_client::{Client, CreateMode, MultiWriteError, MultiWriter};

use crate::session::ZkSession;

const COMMIT: &str = "write under a lock";

/// Writes to ZooKeeper that apply all or nothing, and only while a guard's entry exists.
///
/// One transaction of the guard's own session with a check of the guard's node, so the store itself refuses the writes of
/// a holder that has been replaced, however late they come: no token has to be compared. Paths are absolute, not below the
/// chroot of the locks; nodes are created with the [access](crate::Config::acl) of that client.
///
/// Programs with a client of their own get the same with a `multi` that begins with a check of the node at
/// [`entry_path`](Self::entry_path), any version.
///
/// # Examples
/// ```no_run
/// # async fn example(client: lock_core::Client) -> Result<(), lock_zk::GuardedError> {
/// use lock_zk::Guarded;
///
/// let guard = client.mutex("nightly-backup")?.lock().await?;
/// Guarded::new(&guard)?
///     .set_data("/backup/last", b"2026-01-31", None)
///     .create("/backup/done/2026-01-31", b"")
///     .delete("/backup/next", Some(3))
///     .commit()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing is written without `commit`"]
#[derive(Debug)]
pub struct Guarded<'a> {
    guard: &'a Guard,
    session: &'a ZkSession,
    writes: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    path: String,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Set { data: Vec<u8>, version: Option<i32> },
    Create { data: Vec<u8>, mode: CreateMode },
    Delete { version: Option<i32> },
}

/// Why guarded writes were not made, or may not have been.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_zk::{Guarded, GuardedError};
///
/// let guard = client.mutex("nightly-backup")?.lock().await?; // of a client that is not ZooKeeper's
/// assert!(matches!(Guarded::new(&guard), Err(GuardedError::OtherBackend { .. })));
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum GuardedError {
    /// The guard's lock is kept in another store.
    #[error("lock {lock:?} is not kept in ZooKeeper, which can guard writes only with locks of its own")]
    OtherBackend {
        /// The lock.
        lock: String,
    },

    /// The condition of one of the writes did not hold. Nothing was written; the lock was held.
    #[error("nothing was written: {conflict} at {path}")]
    Conflict {
        /// The path of that write.
        path: String,
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
/// use lock_zk::{Conflict, GuardedError};
///
/// let error = GuardedError::Conflict { path: "/backup/next".into(), conflict: Conflict::NotEmpty };
/// assert_eq!(error.to_string(), "nothing was written: the node has children at /backup/next");
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The node, or for a creation its parent, does not exist.
    NoNode,
    /// A node to be created exists.
    NodeExists,
    /// The node's data has another version.
    BadVersion,
    /// A node to be deleted has children.
    NotEmpty,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoNode => "no node, or no parent,",
            Self::NodeExists => "there is a node already",
            Self::BadVersion => "another version of the data",
            Self::NotEmpty => "the node has children",
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
    /// # async fn example(client: lock_core::Client) -> Result<(), lock_zk::GuardedError> {
    /// # use lock_zk::Guarded;
    /// let permit = client.semaphore("exports", 3)?.acquire(1).await?;
    /// Guarded::new(&permit)?.set_data("/exports/17", "running", None).commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn new(guard: &'a Guard) -> Result<Self, GuardedError> {
        match (&**guard.session() as &dyn Any).downcast_ref() {
            Some(session) => Ok(Self { guard, session, writes: Vec::new() }),
            None => Err(GuardedError::OtherBackend { lock: guard.name().to_owned() }),
        }
    }

    /// The node that exists as long as the lock is held.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_zk::GuardedError> {
    /// # use lock_zk::Guarded;
    /// let guarded = Guarded::new(&guard)?;
    /// println!("zkCli.sh stat {} # as long as the lock is held", guarded.entry_path());
    /// # Ok(()) }
    /// ```
    pub fn entry_path(&self) -> &'a str {
        &self.guard.entry().key
    }

    /// Replaces the data of a node, if its version is still `version`; `None` for any.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_zk::GuardedError> {
    /// # use lock_zk::Guarded;
    /// let read = 3; // the version of what the new data was made from
    /// Guarded::new(&guard)?.set_data("/backup/plan", "the next plan", Some(read)).commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn set_data(self, path: impl Into<String>, data: impl Into<Vec<u8>>, version: Option<i32>) -> Self {
        self.with(path, Change::Set { data: data.into(), version })
    }

    /// Creates a persistent node, whose parent must exist.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_zk::GuardedError> {
    /// # use lock_zk::Guarded;
    /// // A parent and its child in one step.
    /// Guarded::new(&guard)?.create("/backup", "").create("/backup/last", "2026-01-31").commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn create(self, path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        self.with(path, Change::Create { data: data.into(), mode: CreateMode::Persistent })
    }

    /// Creates a node that ends with the session of the lock's client. Releasing the lock does not remove it.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_zk::GuardedError> {
    /// # use lock_zk::Guarded;
    /// // For everybody to see, as long as this process lives.
    /// Guarded::new(&guard)?.create_ephemeral("/backup/running", "db1").commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn create_ephemeral(self, path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        self.with(path, Change::Create { data: data.into(), mode: CreateMode::Ephemeral })
    }

    /// Deletes a node, if the version of its data is still `version`; `None` for any.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_zk::GuardedError> {
    /// # use lock_zk::Guarded;
    /// let read = 3; // the version of the request that was done
    /// Guarded::new(&guard)?.delete("/backup/request", Some(read)).commit().await?; // and not of a newer one
    /// # Ok(()) }
    /// ```
    pub fn delete(self, path: impl Into<String>, version: Option<i32>) -> Self {
        self.with(path, Change::Delete { version })
    }

    fn with(mut self, path: impl Into<String>, change: Change) -> Self {
        self.writes.push(Write { path: path.into(), change });
        self
    }

    /// Makes all the writes, in their order, in one step of the store. Without any, it asks the store whether the lock is
    /// held. Sends nothing when the guard is known to be lost.
    ///
    /// One request, which the servers must accept as a whole (1 MiB as shipped); they end the connection of one that
    /// sends more.
    ///
    /// # Errors
    /// [`GuardedError::Conflict`], or of the lock:
    /// * [`Error::Lost`]: nothing was written.
    /// * [`Error::Unavailable`]: there was no answer. The writes may have been made, or be made later, once and all of them
    ///   or not at all; but never when the entry is gone, and so never after the next grant. Who needs to know gives
    ///   versions and commits the same again, which ends in a conflict if they were made; or reads what is there.
    /// * [`Error::AccessDenied`] and [`Error::Refused`]: nothing was written.
    ///
    /// # Cancel safety
    /// Dropping the future is like an answer that is lost.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(guard: lock_core::Guard) -> Result<(), lock_zk::GuardedError> {
    /// # use lock_zk::Guarded;
    /// # use lock_core::Error;
    /// # use lock_zk::GuardedError;
    /// match Guarded::new(&guard)?.create("/backup/done/2026-01-31", "").commit().await {
    ///     Ok(()) => println!("done, by this one"),
    ///     Err(GuardedError::Conflict { path, conflict }) => println!("{path}: {conflict}"), // done before?
    ///     Err(GuardedError::Lock(Error::Unavailable { .. })) => println!("done or not: commit the same again"),
    ///     Err(error) => return Err(error), // not done
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn commit(&self) -> Result<(), GuardedError> {
        self.guard.check()?;
        let answer = self.session.bounded(COMMIT, |client| async move { Ok(self.send(&client).await) }).await;
        answer.unwrap_or_else(|error| Err(self.lost_with_session(error)))
    }

    async fn send(&self, client: &Arc<Client>) -> Result<(), GuardedError> {
        let path = self.entry_path();
        let mut transaction = client.new_multi_writer();
        let checked = transaction.add_check_version(path, -1);
        checked.map_err(|error| self.session.classify(COMMIT, path, error))?;
        for write in &self.writes {
            self.add(&mut transaction, write).map_err(|error| self.session.classify(COMMIT, &write.path, error))?;
        }
        let (path, error) = match transaction.commit().await {
            Ok(_) => return Ok(()),
            Err(MultiWriteError::OperationFailed { index: 0, source: zk::Error::NoNode }) => {
                return Err(self.lost(Loss::EntryRemoved));
            }
            Err(MultiWriteError::OperationFailed { index, source }) => {
                let write = index.checked_sub(1).and_then(|index| self.writes.get(index));
                let path = write.map_or(path, |write| &write.path);
                if let Some(conflict) = conflict(&source) {
                    return Err(GuardedError::Conflict { path: path.to_owned(), conflict });
                }
                (path, source)
            }
            Err(MultiWriteError::RequestFailed { source }) => (path, source),
        };
        Err(self.lost_with_session(self.session.classify(COMMIT, path, error)))
    }

    fn add(&self, transaction: &mut MultiWriter<'_>, write: &Write) -> Result<(), zk::Error> {
        match &write.change {
            Change::Set { data, version } => transaction.add_set_data(&write.path, data, *version),
            Change::Create { data, mode } => {
                transaction.add_create(&write.path, data, &mode.with_acls(self.session.settings.acls))
            }
            Change::Delete { version } => transaction.add_delete(&write.path, *version),
        }
    }

    fn lost_with_session(&self, error: Error) -> GuardedError {
        match error {
            Error::SessionOver { .. } => self.lost(Loss::SessionEnded),
            error => error.into(),
        }
    }

    fn lost(&self, loss: Loss) -> GuardedError {
        Error::Lost { lock: self.guard.name().to_owned(), loss }.into()
    }
}

fn conflict(error: &zk::Error) -> Option<Conflict> {
    Some(match error {
        zk::Error::NoNode => Conflict::NoNode,
        zk::Error::NodeExists => Conflict::NodeExists,
        zk::Error::BadVersion => Conflict::BadVersion,
        zk::Error::NotEmpty => Conflict::NotEmpty,
        _ => return None,
    })
}
