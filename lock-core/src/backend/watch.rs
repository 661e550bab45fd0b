//! What is told of an entry, a record or a queue, and what became of a change to it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

#[cfg(doc)]
use crate::backend::Session;

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
