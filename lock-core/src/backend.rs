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
//!
//! # Examples
//! ```
//! # #[tokio::main] async fn main() -> lock_core::Result<()> {
//! use lock_core::{Name, memory::Memory};
//! use lock_core::backend::{Backend, Change, Enqueue, Enqueued, Kind, Watched};
//!
//! let session = Memory::new().open(b"me").await?;
//! session.renew().await?;
//! let queue = Name::new("reindex")?;
//! let mut request =
//!     Enqueue { queue: &queue, kind: Kind::Exclusive, id: &"0".repeat(32), value: b"", only_if_free: false };
//! let Enqueued::Placed(first) = session.enqueue(&request).await? else { unreachable!() };
//! let id = "1".repeat(32);
//! request.id = &id;
//! let Enqueued::Placed(second) = session.enqueue(&request).await? else { unreachable!() };
//! let ahead = session.ahead(&second.entry, 1).await?.expect("it lives");
//! assert!(ahead.nearest[0].entry == first.entry && second.token > first.token);
//! let Watched::Present(watch) = session.watch(&first.entry).await? else { unreachable!() };
//! session.dequeue(&first.entry).await?;
//! assert_eq!(watch.await, Change::Removed); // the second holds
//! # Ok(()) }
//! ```

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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering::Relaxed}};
/// use lock_core::{Client, Result, memory::Memory};
/// use lock_core::backend::{Backend, Session};
///
/// /// A store that counts how often it is turned to.
/// #[derive(Clone, Debug)]
/// struct Counted(Memory, Arc<AtomicU32>);
///
/// #[async_trait::async_trait]
/// impl Backend for Counted {
///     async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
///         self.1.fetch_add(1, Relaxed);
///         self.0.open(owner).await
///     }
/// }
/// let store = Counted(Memory::new(), Arc::default());
/// let client = Client::connect(store.clone()).await?;
/// client.mutex("reindex")?.lock().await?;
/// assert_eq!(store.1.load(Relaxed), 1);
/// # Ok(()) }
/// ```
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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::{Error, memory::Memory};
/// use lock_core::backend::{Backend, Session};
///
/// let session = Memory::new().open(b"me").await?;
/// assert!(session.renew().await? <= session.ttl()); // counted from before the call
/// assert_eq!(session.owner(&session.id()).await?.as_deref(), Some(&b"me"[..]));
/// session.close().await?;
/// assert!(matches!(session.renew().await, Err(Error::SessionOver { .. })));
/// # Ok(()) }
/// ```
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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let request = Enqueue { queue: &name, kind: Kind::Write, id: &"0".repeat(32), value: b"me", only_if_free: true };
/// assert!(matches!(session.enqueue(&request).await?, Enqueued::Placed(_)));
/// assert!(session.adopt(&request).await?.is_some(), "found by its id, should the answer be lost");
/// # Ok(()) }
/// ```
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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::backend::Kind;
///
/// let writing = client.rw_lock("config")?.write().await?;
/// assert_eq!(client.queue("config")?.list().await?[0].kind, Kind::Write);
/// let reading = writing.downgrade().await?;
/// assert_eq!(client.queue("config")?.list().await?[0].kind, Kind::Read);
/// # Ok(()) }
/// ```
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
    ///
    /// # Examples
    /// ```
    /// # use lock_core::backend::Kind;
    /// assert_eq!(Kind::Permits(3).tag().as_deref(), Some("permits3"));
    /// assert_eq!(Kind::Unmarked.tag(), None);
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// # use lock_core::backend::Kind;
    /// assert_eq!(Kind::from_tag("permits3"), Some(Kind::Permits(3)));
    /// assert_eq!(Kind::from_tag("permits03"), None, "another client's");
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// # use lock_core::backend::Kind;
    /// assert_eq!(Kind::Write.recipe(), "read-write lock");
    /// assert_eq!(Kind::Permits(3).recipe(), "semaphore");
    /// ```
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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let guard = client.mutex("reindex")?.lock().await?;
/// let entry = guard.entry().clone(); // a lock's next holder has another
/// drop(guard);
/// assert_ne!(*client.mutex("reindex")?.lock().await?.entry(), entry);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The entry's key or path in the store.
    pub key: String,
    /// Tells incarnations of one key apart, where the store can reuse a key; otherwise anything constant for the entry.
    pub incarnation: u64,
}

/// The answer to [`Session::enqueue`].
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let mut request = Enqueue { queue: &name, kind: Kind::Write, id: &"0".repeat(32), value: b"", only_if_free: true };
/// assert!(matches!(session.enqueue(&request).await?, Enqueued::Placed(_)));
/// let id = "1".repeat(32);
/// request.id = &id;
/// assert!(matches!(session.enqueue(&request).await?, Enqueued::Busy));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub enum Enqueued {
    /// The entry is in the queue.
    Placed(Placed),
    /// Somebody was ahead and [`only_if_free`](Enqueue::only_if_free) was set; nothing is left in the store.
    Busy,
}

/// An entry of this session in a queue.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let request = Enqueue { queue: &name, kind: Kind::Write, id: &"0".repeat(32), value: b"", only_if_free: false };
/// let Enqueued::Placed(placed) = session.enqueue(&request).await? else { unreachable!() };
/// let entries = session.entries(&name, 1).await?;
/// assert_eq!((&entries[0].entry, entries[0].token), (&placed.entry, Some(placed.token)));
/// # Ok(()) }
/// ```
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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// # let (one, two) = ("0".repeat(32), "1".repeat(32));
/// # let first = Enqueue { queue: &name, kind: Kind::Write, id: &one, value: b"", only_if_free: false };
/// # session.enqueue(&first).await?; session.enqueue(&Enqueue { id: &two, ..first }).await?;
/// let entries = session.entries(&name, 2).await?;
/// let ahead = session.ahead(&entries[1].entry, 1).await?.expect("it lives");
/// assert!(ahead.nearest[0].entry == entries[0].entry && !ahead.more);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Nearest first.
    pub nearest: Vec<Standing>,
    /// Whether there are others, farther ahead, that [`nearest`](Self::nearest) leaves out.
    pub more: bool,
}

/// A live entry and what it asks for.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// # let (one, two) = ("0".repeat(32), "1".repeat(32));
/// # let first = Enqueue { queue: &name, kind: Kind::Write, id: &one, value: b"", only_if_free: false };
/// # session.enqueue(&first).await?; session.enqueue(&Enqueue { id: &two, ..first }).await?;
/// let entries = session.entries(&name, 2).await?;
/// let Ahead { nearest, .. } = session.ahead(&entries[1].entry, 1).await?.expect("it lives");
/// assert_eq!(nearest, [Standing { entry: entries[0].entry.clone(), kind: Kind::Write }]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The entry.
    pub entry: Entry,
    /// What it asks for now.
    pub kind: Kind,
}

/// The answer to [`Session::watch`].
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let record = session.record(&name); // always there, also when nobody has written it
/// assert!(matches!(session.watch(&record).await?, Watched::Present(_)));
/// let nobody = Entry { key: "no such entry".into(), incarnation: 0 };
/// assert!(matches!(session.watch(&nobody).await?, Watched::Gone));
/// # Ok(()) }
/// ```
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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let record = session.record(&name);
/// let Watched::Present(watch) = session.watch(&record).await? else { unreachable!() };
/// session.write(&record, 0, b"20").await?;
/// assert_eq!(watch.await, Change::Updated);
/// # Ok(()) }
/// ```
pub type Watch = Pin<Box<dyn Future<Output = Change> + Send>>;

/// Resolves when a watched queue may have changed.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let stir: Stir = session.watch_queue(&name).await?;
/// let request = Enqueue { queue: &name, kind: Kind::Member, id: &"0".repeat(32), value: b"", only_if_free: false };
/// session.enqueue(&request).await?;
/// stir.await; // look again
/// assert_eq!(session.entries(&name, 9).await?.len(), 1);
/// # Ok(()) }
/// ```
pub type Stir = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a watch ended.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// # let request = Enqueue { queue: &name, kind: Kind::Write, id: &"0".repeat(32), value: b"", only_if_free: false };
/// let Enqueued::Placed(placed) = session.enqueue(&request).await? else { unreachable!() };
/// let Watched::Present(watch) = session.watch(&placed.entry).await? else { unreachable!() };
/// session.dequeue(&placed.entry).await?;
/// match watch.await {
///     Change::Removed => println!("it is certain"),
///     change => unreachable!("look again: {change:?}"),
/// }
/// # Ok(()) }
/// ```
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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let record = session.record(&name);
/// assert_eq!(session.read(&record).await?, Some(Content { value: Vec::new(), version: 0 }));
/// session.write(&record, 0, b"20").await?;
/// let Content { value, version } = session.read(&record).await?.expect("a record is always there");
/// assert!(value == b"20" && version != 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The value.
    pub value: Vec<u8>,
    /// Changes with every write.
    pub version: u64,
}

/// The answer to [`Session::write`].
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// let record = session.record(&name);
/// assert_eq!(session.write(&record, 0, b"20").await?, Written::Done);
/// assert_eq!(session.write(&record, 0, b"40").await?, Written::Conflict, "version 0 was replaced");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The value was replaced.
    Done,
    /// Nothing was written: the version is another one, or the entry is gone.
    Conflict,
}

/// The answer to [`Session::dequeue`].
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # use lock_core::{Name, backend::*, memory::Memory};
/// # let session = Memory::new().open(b"").await?;
/// # let name = Name::new("reindex")?;
/// # let request = Enqueue { queue: &name, kind: Kind::Write, id: &"0".repeat(32), value: b"", only_if_free: false };
/// let Enqueued::Placed(placed) = session.enqueue(&request).await? else { unreachable!() };
/// assert_eq!(session.dequeue(&placed.entry).await?, Dequeued::Removed);
/// assert_eq!(session.dequeue(&placed.entry).await?, Dequeued::Absent);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dequeued {
    /// This call removed the entry.
    Removed,
    /// There was no such entry any more.
    Absent,
}

/// An entry of a queue as people see it.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let guard = client.mutex("reindex")?.lock().await?;
/// let entry = client.entries("reindex").await?.remove(0);
/// assert_eq!((entry.token, entry.session), (Some(guard.token()), client.session_id().await?));
/// # Ok(()) }
/// ```
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
    ///
    /// # Examples
    /// ```
    /// use lock_core::Error;
    ///
    /// let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset); // after the request was sent
    /// let error = Error::unavailable("enter the queue", reset);
    /// assert!(error.is_retryable());
    /// assert!(error.to_string().ends_with("asked to enter the queue"));
    /// ```
    pub fn unavailable(request: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { request: request.into(), source: Arc::new(source) }
    }

    /// For backends: the request, such as "enter the queue", was certainly not applied, and will not be if repeated.
    ///
    /// # Examples
    /// ```
    /// use lock_core::Error;
    ///
    /// let error = Error::refused("enter the queue", std::io::Error::other("request is too large"));
    /// assert!(!error.is_retryable());
    /// assert_eq!(error.to_string(), "the store refused to enter the queue");
    /// ```
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
