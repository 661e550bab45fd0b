//! A store in the memory of this process: the embedded default, and the bench on which the recipes are tested.
//!
//! It keeps every rule of the [backend contract](crate::backend), including the unpleasant ones: sessions expire, requests
//! and replies get lost or arrive late, watches end. [`Link`] makes that happen. All its timers are tokio's, so a test with
//! paused time runs hours in milliseconds.
//!
//! # Examples
//! What does an application do when the store is out of reach for longer than the ttl?
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
//! use lock_core::{Client, clock::TokioClock, memory::Memory};
//!
//! let store = Memory::new();
//! let builder = Client::builder(store.clone()).runtime(tokio::runtime::Handle::current());
//! let client = builder.clock(TokioClock::new()).connect().await?;
//! let guard = client.mutex("ledger")?.lock().await?;
//! store.link().hold();
//! let work = guard.run(async { std::future::pending::<()>().await });
//! assert!(work.await.is_err(), "stopped");
//! # Ok(()) }
//! ```

mod link;
mod session;
mod store;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{Backend, QueueEntry, Session};
use crate::error::{Error, Result};
use crate::name::Name;
pub use link::{Fault, Link, Op};
use session::MemorySession;
use store::Store;

/// A store in memory, seen over one [`Link`]. Clones share both.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::{Client, memory::Memory};
///
/// let store = Memory::new();
/// let here = Client::connect(store.clone()).await?;
/// let there = Client::connect(store).await?;
/// let guard = here.mutex("l")?.lock().await?;
/// assert!(there.mutex("l")?.try_lock().await?.is_none());
/// drop(guard);
/// there.mutex("l")?.lock().await?.release().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Memory {
    store: Arc<Store>,
    link: Link,
    ttl: Duration,
}

impl Memory {
    /// An empty store whose sessions have a ttl of 10 s.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # use std::time::Duration;
    /// # use lock_core::{Client, memory::Memory};
    /// let client = Client::connect(Memory::new()).await?;
    /// assert_eq!(client.ttl().await?, Duration::from_secs(10));
    /// assert!(client.queues("").await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn new() -> Self {
        Self { store: Arc::default(), link: Link::default(), ttl: Duration::from_secs(10) }
    }

    /// The same store, for sessions with another ttl.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for less than 10 ms.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # use std::time::Duration;
    /// # use lock_core::{Client, memory::Memory};
    /// let short = Memory::new().with_ttl(Duration::from_secs(2))?;
    /// assert_eq!(Client::connect(short).await?.ttl().await?, Duration::from_secs(2));
    /// assert!(Memory::new().with_ttl(Duration::from_millis(9)).is_err());
    /// # Ok(()) }
    /// ```
    pub fn with_ttl(mut self, ttl: Duration) -> Result<Self> {
        if ttl < Duration::from_millis(10) {
            return Err(Error::InvalidConfig {
                setting: "ttl".into(),
                value: format!("{ttl:?}"),
                expected: "at least 10ms".into(),
            });
        }
        self.ttl = ttl;
        Ok(self)
    }

    /// The same store, seen over a link of its own.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// use lock_core::{Client, memory::{Fault, Memory, Op}};
    ///
    /// let store = Memory::new();
    /// let (here, there) = (store.clone().with_own_link(), store.with_own_link());
    /// here.link().plan(Op::Open, Fault::DropRequest);
    /// assert!(Client::connect(there).await.is_ok());
    /// assert!(Client::connect(here).await.is_err(), "one cannot reach the store, the other one can");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_own_link(mut self) -> Self {
        self.link = Link::default();
        self
    }

    /// The link, to break it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// use lock_core::Loss;
    ///
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// store.link().hold();
    /// assert_eq!(guard.lost().await, Loss::Expired);
    /// # Ok(()) }
    /// ```
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The queue as it is, whatever the link does.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let client = lock_core::Client::connect(store.clone()).await?;
    /// use lock_core::Name;
    ///
    /// let name = Name::new("ledger")?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// store.link().hold(); // no client learns of anything
    /// drop(guard);
    /// assert_eq!(store.entries(&name).len(), 1, "the store has not heard of it yet");
    /// # Ok(()) }
    /// ```
    pub fn entries(&self, queue: &Name) -> Vec<QueueEntry> {
        self.store.lock().entries(queue, usize::MAX)
    }

    /// Removes an entry by its key, as an operator would. Returns whether there was one.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// use lock_core::Loss;
    ///
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// assert!(store.remove_entry(&guard.entry().key));
    /// assert_eq!(guard.lost().await, Loss::EntryRemoved);
    /// assert!(!store.remove_entry(&guard.entry().key), "it is gone");
    /// # Ok(()) }
    /// ```
    pub fn remove_entry(&self, key: &str) -> bool {
        self.store.lock().remove_by_key(key)
    }

    /// Ends a session and removes its entries, as the server does at the end of the ttl. Returns whether it lived.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// assert!(store.expire_session(&client.session_id().await?));
    /// assert!(client.entries("ledger").await?.is_empty());
    /// guard.lost().await; // the guard notices by itself
    /// # Ok(()) }
    /// ```
    pub fn expire_session(&self, id: &str) -> bool {
        self.store.lock().end_session(id)
    }

    /// Live sessions.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let client = lock_core::Client::connect(store.clone()).await?;
    /// assert_eq!(store.session_count(), 1);
    /// client.close().await;
    /// assert_eq!(store.session_count(), 0, "nothing is left behind");
    /// # Ok(()) }
    /// ```
    pub fn session_count(&self) -> usize {
        self.store.lock().session_count()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Backend for Memory {
    async fn open(&self, owner: &[u8]) -> Result<Arc<dyn Session>> {
        MemorySession::open(self.store.clone(), self.link.clone(), self.ttl, owner).await
    }
}
