//! A store in the memory of this process: the embedded default, and the bench on which the recipes are tested.
//!
//! It keeps every rule of the [backend contract](crate::backend), including the unpleasant ones: sessions expire, requests
//! and replies get lost or arrive late, watches end. [`Link`] makes that happen. All its timers are tokio's, so a test with
//! paused time runs hours in milliseconds.

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
    pub fn new() -> Self {
        Self { store: Arc::default(), link: Link::default(), ttl: Duration::from_secs(10) }
    }

    /// The same store, for sessions with another ttl.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for less than 10 ms.
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
    #[must_use]
    pub fn with_own_link(mut self) -> Self {
        self.link = Link::default();
        self
    }

    /// The link, to break it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The queue as it is, whatever the link does.
    pub fn entries(&self, queue: &Name) -> Vec<QueueEntry> {
        self.store.lock().entries(queue, usize::MAX)
    }

    /// Removes an entry by its key, as an operator would. Returns whether there was one.
    pub fn remove_entry(&self, key: &str) -> bool {
        self.store.lock().remove_by_key(key)
    }

    /// Ends a session and removes its entries, as the server does at the end of the ttl. Returns whether it lived.
    pub fn expire_session(&self, id: &str) -> bool {
        self.store.lock().end_session(id)
    }

    /// Live sessions.
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
