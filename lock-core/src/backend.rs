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

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::name::Name;

/// Opens sessions on one store. One value of this per deployment; it is cheap to keep and holds no connection.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Opens a session that owns nothing yet. `owner` is the encoded owner metadata, for people who look at the store.
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
pub trait Session: fmt::Debug + Send + Sync + 'static {
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

    /// Watches one entry, anybody's, for its removal.
    ///
    /// # Contract
    /// `Present` means: the entry existed at some moment **after** the watch was in force, so no removal is missed.
    /// Dropping the future ends the watch. Removals of entries watched by one session are reported in the order in which
    /// the store applied them.
    async fn watch(&self, entry: &Entry) -> Result<Watched>;

    /// Removes an entry of this session.
    ///
    /// # Contract
    /// Conditional on this very incarnation: it never touches an entry created later, whatever its key. Idempotent, so that
    /// the caller can repeat it until the answer is definite.
    async fn dequeue(&self, mine: &Entry) -> Result<Dequeued>;

    /// Every live entry of a queue in order, the holder's first, for people and tests.
    async fn entries(&self, queue: &Name) -> Result<Vec<QueueEntry>>;

    /// Ends the session in the store, which removes all its entries. Best effort: the ttl does it otherwise.
    async fn close(&self) -> Result<()>;
}

/// A request to append an entry.
#[derive(Clone, Copy, Debug)]
pub struct Enqueue<'a> {
    /// The queue.
    pub queue: &'a Name,
    /// Distinguishes this attempt from every other one of any client: 32 lower-case hex digits, fresh for each acquire
    /// and the same for all its retries.
    pub id: &'a str,
    /// Owner metadata, stored as the entry's value. At most 4 KiB.
    pub value: &'a [u8],
    /// Leave an entry only if nobody is ahead (`try_lock`).
    pub only_if_free: bool,
}

/// One incarnation of an entry. Only its backend reads the fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// What was ahead of the entry when it was created, if the same round trip told.
    pub ahead: Option<Ahead>,
}

/// The live entries ahead of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Nearest first.
    pub nearest: Vec<Entry>,
    /// Whether there are others, farther ahead, that [`nearest`](Self::nearest) leaves out.
    pub more: bool,
}

/// The answer to [`Session::watch`].
pub enum Watched {
    /// The entry exists; the future resolves when that may have changed.
    Present(Removal),
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

/// Resolves when a watched entry is gone, or when the watch can no longer tell.
pub type Removal = Pin<Box<dyn Future<Output = Removed> + Send>>;

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The store said that this incarnation was removed. A fact, on which a grant may rest.
    Gone,
    /// The watch ended without saying so (connection lost, compaction, …): look again.
    Unknown,
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
    /// The session that owns it, as the store's own tools show it.
    pub session: String,
    /// The fencing token that its holder has or will have; `None` where a listing does not tell.
    pub token: Option<u64>,
    /// Its value: [owner metadata](crate::owner::Owner) when a client of this library wrote it.
    pub value: Vec<u8>,
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
