//! The contract of a backend: a fair queue plus a session.
//!
//! A backend stores ordered queues of entries and keeps one session alive; every recipe is written once, in this crate,
//! as a decision over such a queue. To add a store, implement [`Backend`] (opens sessions) and [`Session`] (the queue),
//! and run the conformance suite (feature `conformance`) against the real server.
//!
//! # Rules for every method
//! * **Bounded.** Each call ends by itself within about a third of the ttl, with an error if need be, whatever the network does.
//!   Only the future of a [`Watched::Present`] may wait for ever.
//! * **Honest errors.** [`Error::Unavailable`] means "may have been applied". [`Error::Refused`] and [`Error::AccessDenied`]
//!   mean "certainly not applied, and asking again will not help". [`Error::SessionOver`] means that the store no longer
//!   has this session, hence none of its entries. Classify by a white list of definite answers; all else is `Unavailable`.
//! * **No retries of writes.** The caller retries; it knows the deadline, and whether anybody still waits for the answer.
//! * **Any task, any time.** Methods are called concurrently, from tasks of the client's runtime. A future may be dropped at
//!   any point unless its method says otherwise.
//! * **Foreign entries are input.** What other clients wrote into a queue is parsed, never trusted: no panic. An entry that
//!   those clients would count as a contender counts here; all else is ignored.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::Name;

/// Opens sessions on one store. One value of this per deployment; it is cheap to keep and holds no connection.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Opens a session that owns nothing yet. `owner` is the encoded owner metadata, kept where
    /// [`Session::owner`] finds it.
    ///
    /// # Contract
    /// Bounded by the backend's connect timeout. Leaves nothing behind when it fails. Need not prove the session's life:
    /// [`Session::renew`] is called before the session is used.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::AccessDenied`], [`Error::InvalidConfig`], or [`Error::Refused`].
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>>;
}

/// One unit of liveness in the store (a lease, a ZooKeeper session), and the entries it owns.
///
/// When it ends, the store removes all its entries. The methods follow the [rules for every method](self).
#[async_trait]
pub trait Session: Any + fmt::Debug + Send + Sync {
    /// The session's id as the store's own tools show it.
    fn id(&self) -> String;

    /// The time the store keeps the session without a sign of life: what the server **granted**, not what was asked for.
    fn ttl(&self) -> Duration;

    /// Renews the session once and returns how long it is now proven to live, **counted from the call of this method**.
    ///
    /// # Contract
    /// * `Ok(valid)` promises: the store ends this session no earlier than `valid` after this call began, even if no
    ///   sign of life follows, a leader changes, or this very server was cut off from its quorum. A ping, a read from one
    ///   server, or a positive keep-alive answer alone does not prove that.
    /// * One attempt. After a failure the next call tries another server.
    /// * At most one call at a time.
    ///
    /// # Errors
    /// [`Error::SessionOver`] ends the session for good; any other error is retried until the last proof runs out.
    async fn renew(&self) -> Result<Duration>;

    /// Appends an entry of this session to a queue, in one round trip where the store can.
    ///
    /// # Contract
    /// * The order of entries is the order in which the store applied the enqueues: FIFO over all clients.
    /// * Two entries of one session in one queue are two entries.
    /// * With [`Enqueue::only_if_free`], an entry is left only if nobody was ahead of it, judged atomically where the
    ///   store can; otherwise [`Enqueued::Busy`], or an entry with others [ahead](Placed::ahead) which the caller removes.
    /// * **Not dropped** before it ends by the caller. After [`Error::Unavailable`] the caller uses [`adopt`](Self::adopt).
    async fn enqueue(&self, request: &Enqueue<'_>) -> Result<Enqueued>;

    /// Settles an [`enqueue`](Self::enqueue) whose answer was lost.
    ///
    /// # Contract
    /// `Some` is the entry of that request. After `None` the lost request **can never be applied any more**, however long
    /// it is delayed on its way, and the caller may enqueue again with the same [id](Enqueue::id). Adopts only an entry
    /// of this very session. A `request` of [`only_if_free`](Enqueue::only_if_free) is adopted like any other.
    async fn adopt(&self, request: &Enqueue<'_>) -> Result<Option<Placed>>;

    /// The live entries ahead of `mine`, nearest first, at most `limit` of them (at least 1); `None` when `mine` is gone.
    ///
    /// # Contract
    /// Never misses an entry that was enqueued before `mine` and still lives. May still show one that was removed a moment ago.
    async fn ahead(&self, mine: &Entry, limit: usize) -> Result<Option<Ahead>>;

    /// Watches one entry, anybody's, or a [record](Self::record), for its next change.
    ///
    /// # Contract
    /// `Present` means: the entry existed at some moment **after** the watch was in force, so no removal is missed. A change
    /// of its value is missed only if it came before this call returned. A record is always present. Dropping the
    /// future ends the watch. Removals of entries watched by one session are reported in the order in which the store
    /// applied them.
    async fn watch(&self, entry: &Entry) -> Result<Watched>;

    /// Watches a queue, which need not exist yet: the future resolves when an entry may have joined or left it, or
    /// the watch can no longer tell.
    ///
    /// # Contract
    /// Nothing that happens after this call has returned is missed. It may resolve for no reason, but not again and
    /// again while nothing happens.
    async fn watch_queue(&self, queue: &Name) -> Result<Stir>;

    /// Removes an entry, this session's or, at an operator's request, another's.
    ///
    /// # Contract
    /// Conditional on this very incarnation: it never touches an entry created later, whatever its key. Idempotent, so that
    /// the caller can repeat it until the answer is definite.
    async fn dequeue(&self, entry: &Entry) -> Result<Dequeued>;

    /// The first live entries of a queue in order, the holder's first, at most `limit` of them.
    ///
    /// # Contract
    /// Sees everything that was done to the queue before this call began, by any client.
    async fn entries(&self, queue: &Name, limit: usize) -> Result<Vec<QueueEntry>>;

    /// The names that start with `prefix` of the queues that have a live entry, in the order of the names.
    ///
    /// # Contract
    /// * Sees everything that was done to the queues before this call began, by any client.
    /// * What is left of a queue without entries is none: its [record](Self::record), an empty directory.
    /// * A queue of other clients is told of by the name under which [`entries`](Self::entries) lists it; one that has no
    ///   such name, because its place is not the [segment](Name::segment) of any, or that may not be read, is skipped.
    /// * Read in parts, each no longer than the list of one queue or the names of all: the store need not have all entries
    ///   in one answer.
    async fn queues(&self, prefix: &str) -> Result<Vec<Name>>;

    /// Where the record of a queue is kept: a value of at most 64 KiB that belongs to no session, such as a semaphore's
    /// limit. To be given to [`read`](Self::read), [`write`](Self::write) and [`watch`](Self::watch). Makes no request.
    fn record(&self, queue: &Name) -> Entry;

    /// The value of an entry or a record, and its version; `None` when the entry is gone. A record that nobody wrote is empty
    /// and has version 0.
    ///
    /// # Contract
    /// Sees everything that was written before this call began, by any client.
    async fn read(&self, entry: &Entry) -> Result<Option<Content>>;

    /// Replaces the value of an entry, anybody's, or of a record, if its version is still `version`.
    ///
    /// # Contract
    /// Atomic. An entry keeps its place, its kind and its owner: it ends with its session. Writing an empty record leaves it
    /// as if nobody had written it, but no version ever comes back, so that a late request cannot undo another's.
    async fn write(&self, entry: &Entry, version: u64, value: &[u8]) -> Result<Written>;

    /// Turns an entry of this session from [`Kind::Write`] into [`Kind::Read`] in its place, in one step of the store;
    /// returns the entry as it is called then, with the same token, or `None` when it is gone. Watches on it resolve, with
    /// [`Change::Updated`] or [`Change::Removed`].
    ///
    /// # Contract
    /// Idempotent, so that the caller can repeat it until the answer is definite: an entry that was turned already is
    /// found again.
    async fn downgrade(&self, mine: &Entry) -> Result<Option<Entry>>;

    /// The owner metadata that a live session of this library was [opened](Backend::open) with, by its
    /// [id](QueueEntry::session); `None` for a session that is over or another client's.
    async fn owner(&self, session: &str) -> Result<Option<Vec<u8>>>;

    /// Ends the session in the store, which removes all its entries. Best effort: the ttl does it otherwise.
    async fn close(&self) -> Result<()>;
}

/// A request to append an entry.
#[derive(Clone, Copy, Debug)]
pub struct Enqueue<'a> {
    /// The queue.
    pub queue: &'a Name,
    /// What the entry asks for. Stored so that [`ahead`](Session::ahead) tells it.
    pub kind: Kind,
    /// Distinguishes this attempt from every other one of any client: 32 lower-case hex digits, fresh for each acquire
    /// and the same for all its retries.
    pub id: &'a str,
    /// The entry's first value: owner metadata, or what a candidate shows. At most 4 KiB.
    pub value: &'a [u8],
    /// Leave an entry only if nobody at all is ahead (`try_lock` of a mutex).
    pub only_if_free: bool,
}

/// What an entry asks for: the part of a recipe that the others in the queue have to know.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A mutex.
    Exclusive,
    /// An entry of another client in a layout that does not tell: a mutex's, or a candidate's.
    Unmarked,
    /// A read-write lock, for reading.
    Read,
    /// A read-write lock, for writing.
    Write,
    /// This many permits of a semaphore, at least one.
    Permits(u32),
    /// Leadership.
    Candidate,
    /// Being in a group.
    Member,
    /// Being at a double barrier.
    Party,
    /// A notification of a condition variable.
    Sleeper,
}

impl Kind {
    /// The kind as a word for keys and node names, of lower-case letters and digits; `None` for an unmarked one.
    pub fn tag(self) -> Option<String> {
        Some(match self {
            Self::Unmarked => return None,
            Self::Exclusive => "lock".to_owned(),
            Self::Read => "read".to_owned(),
            Self::Write => "write".to_owned(),
            Self::Permits(permits) => format!("permits{permits}"),
            Self::Candidate => "candidate".to_owned(),
            Self::Member => "member".to_owned(),
            Self::Party => "party".to_owned(),
            Self::Sleeper => "sleeper".to_owned(),
        })
    }

    /// The kind that has this [tag](Self::tag).
    pub fn from_tag(tag: &str) -> Option<Self> {
        Some(match tag {
            "lock" => Self::Exclusive,
            "read" => Self::Read,
            "write" => Self::Write,
            "candidate" => Self::Candidate,
            "member" => Self::Member,
            "party" => Self::Party,
            "sleeper" => Self::Sleeper,
            _ => {
                let digits = tag.strip_prefix("permits")?;
                let canonical = digits.starts_with(|first: char| matches!(first, '1'..='9'));
                Self::Permits(digits.parse().ok().filter(|_| canonical)?)
            }
        })
    }

    /// The recipe that uses it, as people call it.
    pub fn recipe(self) -> &'static str {
        match self {
            Self::Exclusive => "mutex",
            Self::Unmarked => "mutex or election of another client",
            Self::Read | Self::Write => "read-write lock",
            Self::Permits(_) => "semaphore",
            Self::Candidate => "election",
            Self::Member => "group",
            Self::Party => "double barrier",
            Self::Sleeper => "condition variable",
        }
    }
}

/// One incarnation of an entry, or a record. Only its backend reads the fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The entry's key or path in the store.
    pub key: String,
    /// Tells incarnations of one key apart, where the store can reuse a key; otherwise anything constant for the entry.
    pub incarnation: u64,
}

/// The answer to [`Session::enqueue`].
#[derive(Clone, Debug)]
pub enum Enqueued {
    /// The entry is in the queue.
    Placed(Placed),
    /// Somebody was ahead and [`only_if_free`](Enqueue::only_if_free) was set; nothing is left in the store.
    Busy,
}

/// An entry of this session in a queue.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The entry.
    pub entry: Entry,
    /// The fencing token of a grant to this entry: greater than that of every entry that was ever before it in this
    /// queue. From the store's own order (etcd's create revision, ZooKeeper's czxid), never from a clock.
    pub token: u64,
    /// What was ahead of the entry when it was created, if the same round trip told. For [`Kind::Permits`] in that very
    /// moment, or it is left out: who sees the queue in between may act on it. For the others a moment later will do.
    pub ahead: Option<Ahead>,
}

/// The live entries ahead of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Nearest first.
    pub nearest: Vec<Standing>,
    /// Whether there are others, farther ahead, that [`nearest`](Self::nearest) leaves out.
    pub more: bool,
}

/// A live entry and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The entry.
    pub entry: Entry,
    /// What it asks for now.
    pub kind: Kind,
}

/// The answer to [`Session::watch`].
pub enum Watched {
    /// The entry exists; the future resolves when that, or its value, may have changed.
    Present(Watch),
    /// The entry is gone.
    Gone,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Present(_) => "Present",
            Self::Gone => "Gone",
        })
    }
}

/// Resolves with the next change of a watched entry, or when the watch can no longer tell.
pub type Watch = Pin<Box<dyn Future<Output = Change> + Send>>;

/// Resolves when a watched queue may have changed.
pub type Stir = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The store said that this incarnation was removed. A fact, on which a grant may rest.
    Removed,
    /// Its value was written.
    Updated,
    /// The watch ended without saying so (connection lost, compaction, …): look again.
    Unknown,
}

/// The value of an entry or a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The value.
    pub value: Vec<u8>,
    /// Changes with every write.
    pub version: u64,
}

/// The answer to [`Session::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The value was replaced.
    Done,
    /// Nothing was written: the version is another one, or the entry is gone.
    Conflict,
}

/// The answer to [`Session::dequeue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dequeued {
    /// This call removed the entry.
    Removed,
    /// There was no such entry any more.
    Absent,
}

/// An entry of a queue as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// The entry.
    pub entry: Entry,
    /// What it asks for.
    pub kind: Kind,
    /// The session that owns it, as the store's own tools show it.
    pub session: String,
    /// The fencing token that its holder has or will have; `None` where a listing does not tell, which it always does for
    /// candidates.
    pub token: Option<u64>,
    /// Its value: [owner metadata](crate::owner::Owner) when a client of this library wrote it, for elections and groups
    /// the value that the candidate or member shows.
    pub value: Vec<u8>,
}

impl QueueEntry {
    /// The entry and what it asks for.
    pub(crate) fn standing(self) -> Standing {
        Standing { entry: self.entry, kind: self.kind }
    }
}

impl Error {
    /// For backends: the request, such as "enter the queue", may have been applied.
    pub fn unavailable(request: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { request: request.into(), source: Arc::new(source) }
    }

    /// For backends: the request, such as "enter the queue", was certainly not applied, and will not be if repeated.
    pub fn refused(request: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Refused { request: request.into(), source: Arc::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_and_nothing_else_is_one() {
        for kind in [
            Kind::Exclusive,
            Kind::Read,
            Kind::Write,
            Kind::Permits(1),
            Kind::Permits(u32::MAX),
            Kind::Candidate,
            Kind::Member,
            Kind::Party,
            Kind::Sleeper,
        ] {
            assert_eq!(kind.tag().and_then(|tag| Kind::from_tag(&tag)), Some(kind));
        }
        for other in
            ["", "locks", "permits", "permits0", "permits01", "permits+1", "permits-1", "permits4294967296", "Read"]
        {
            assert_eq!(Kind::from_tag(other), None, "{other:?}");
        }
        assert_eq!(Kind::Unmarked.tag(), None);
    }
}
