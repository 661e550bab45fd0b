//! The fair mutex.

use std::time::Duration;

use crate::acquire::{Patience, acquire};
use crate::backend::QueueEntry;
use crate::client::Client;
use crate::error::Result;
use crate::guard::Guard;
use crate::name::Name;
use crate::owner::Owner;

/// A fair mutex: at most one guard, granted strictly in the order in which the store saw the requests.
///
/// Any number of these, in any process, with the same name on the same store is one lock. Each call of a locking method
/// is a contender of its own: two tasks of one process exclude each other, and a task that locks twice waits for itself.
/// A release wakes one waiter.
#[derive(Clone, Debug)]
pub struct Mutex {
    client: Client,
    name: Name,
    label: Option<String>,
}

impl Mutex {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        let label = client.label().map(str::to_owned);
        Self { client, name, label }
    }

    /// The same lock, with a text that people see beside this process in the queue. Default: the client's label.
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// [`Error::SessionLost`](crate::Error::SessionLost) and [`Error::EntryRemoved`](crate::Error::EntryRemoved) when the
    /// place in the queue was lost: acquire again. [`Error::Unreachable`](crate::Error::Unreachable) and the other errors
    /// of [`Client::connect`] when a session had to be opened. [`Error::MetadataTooLarge`](crate::Error::MetadataTooLarge).
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("nightly-backup")?.lock().await?;
    /// println!("mine, with token {}", guard.token());
    /// guard.release().await;
    /// # Ok(()) }
    /// ```
    pub async fn lock(&self) -> Result<Guard> {
        loop {
            // Without a deadline the answer is a guard or an error.
            if let Some(guard) = self.acquire(Patience::Forever).await? {
                return Ok(guard);
            }
        }
    }

    /// Takes the lock if nobody holds it or waits for it; `None` otherwise, and then nothing is left in the store.
    ///
    /// # Errors
    /// As [`lock`](Self::lock). When the store does not answer, that is known after at most a ttl.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn try_lock(&self) -> Result<Option<Guard>> {
        self.acquire(Patience::Try).await
    }

    /// Waits for the lock for at most `timeout`; `None` when it was not free in time. The deadline bounds everything,
    /// opening a session and cleaning up included.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`Error::Timeout`](crate::Error::Timeout) when the deadline passed before the store
    /// had given a place in the queue.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and leaves nothing behind.
    pub async fn try_lock_for(&self, timeout: Duration) -> Result<Option<Guard>> {
        self.acquire(Patience::For(timeout)).await
    }

    /// Everybody in the queue, the holder first.
    ///
    /// # Errors
    /// As [`Client::entries`].
    pub async fn entries(&self) -> Result<Vec<QueueEntry>> {
        self.client.entries(&self.name).await
    }

    async fn acquire(&self, patience: Patience) -> Result<Option<Guard>> {
        let value = Owner::current(self.label.as_deref()).check_size(&format!("lock {:?}", self.name))?;
        acquire(&self.client, &self.name, value, patience).await
    }
}
