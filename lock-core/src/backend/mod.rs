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

mod entry;
mod kind;
mod view;
mod views;
mod watch;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::name::Name;

pub use entry::{Ahead, Enqueue, Enqueued, Entry, Placed, QueueEntry, Standing};
pub use kind::Kind;
pub use view::{Blind, View};
pub use views::{Feed, Views};
pub use watch::{Change, Content, Dequeued, Stir, Watch, Watched, Written};

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
/// Every method once:
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::{Error, Name, memory::Memory};
/// use lock_core::backend::{Backend, Change, Dequeued, Enqueue, Enqueued, Kind, Watched, Written};
///
/// let session = Memory::new().open(b"me").await?;
/// assert!(session.renew().await? <= session.ttl()); // counted from before the call
/// assert_eq!(session.owner(&session.id()).await?.as_deref(), Some(&b"me"[..]));
/// assert!(session.time_left(&session.id()).await? <= Some(session.ttl()));
///
/// // Two enter a queue. The answer to the second is lost on the way, and settled.
/// let queue = Name::new("config")?;
/// let stir = session.watch_queue(&queue).await?;
/// let (first, second) = ("0".repeat(32), "1".repeat(32));
/// let request = Enqueue { queue: &queue, kind: Kind::Write, id: &first, value: b"a", only_if_free: false };
/// let Enqueued::Placed(writer) = session.enqueue(&request).await? else { unreachable!() };
/// stir.await;
/// let request = Enqueue { kind: Kind::Read, id: &second, ..request };
/// session.enqueue(&request).await?;
/// let reader = session.adopt(&request).await?.expect("it was applied");
///
/// // The reader waits for the writer, who turns into one, and then leaves.
/// let ahead = session.ahead(&reader.entry, 1).await?.expect("it lives");
/// assert!(ahead.nearest[0].entry == writer.entry && reader.token > writer.token);
/// let turned = session.downgrade(&writer.entry).await?.expect("it lives");
/// assert_eq!(session.entries(&queue, 9).await?[0].kind, Kind::Read);
/// let Watched::Present(watch) = session.watch(&turned).await? else { unreachable!() };
/// assert_eq!(session.dequeue(&turned).await?, Dequeued::Removed);
/// assert_eq!(watch.await, Change::Removed);
///
/// // What is held is looked after.
/// let seen = session.read(&reader.entry).await?.expect("it lives").version;
/// assert_eq!(session.changed(&[(turned.clone(), 1), (reader.entry.clone(), seen)]).await?, [turned]);
///
/// // A value that outlives the session.
/// let record = session.record(&queue);
/// let old = session.read(&record).await?.expect("a record is always there");
/// assert_eq!(session.write(&record, old.version, b"limit 3").await?, Written::Done);
///
/// assert_eq!(session.queues("").await?, [queue]);
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

    /// Those of these entries of this session that are gone, or have another [version](Content::version) than this one. Asked
    /// for all that a session holds, every 10 to 20 s. Default: [reads](Self::read) each.
    ///
    /// # Contract
    /// Sees everything that was done before this call began, by any client.
    async fn changed(&self, seen: &[(Entry, u64)]) -> Result<Vec<Entry>> {
        let mut changed = Vec::new();
        for (entry, version) in seen {
            if self.read(entry).await?.is_none_or(|content| content.version != *version) {
                changed.push(entry.clone());
            }
        }
        Ok(changed)
    }

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

    /// How long the store would still keep a session, anybody's, that shows no sign of life from now on, by its
    /// [id](QueueEntry::session); `None` for one that is over, and where the store does not tell. Default: always `None`.
    ///
    /// # Contract
    /// At most the session's ttl, and a second for what a store rounds. Asking is no sign of life.
    async fn time_left(&self, session: &str) -> Result<Option<Duration>> {
        let _ = session;
        Ok(None)
    }

    /// Ends the session in the store, which removes all its entries. Best effort: the ttl does it otherwise.
    async fn close(&self) -> Result<()>;
}
