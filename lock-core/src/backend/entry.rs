//! Entries: what goes into a queue, and what is seen of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::Kind;
#[cfg(doc)]
use crate::backend::Session;
use crate::name::Name;

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
    /// The entry's key or path in the store. Shared, because a waiter's is known in many places.
    pub key: Arc<str>,
    /// Tells incarnations of one key apart, where the store can reuse a key; otherwise anything constant for the entry.
    pub incarnation: u64,
}

impl Entry {
    /// What nothing else in the store is or was ever called.
    pub(crate) fn id(&self) -> String {
        format!("{}@{}", self.key, self.incarnation)
    }
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
