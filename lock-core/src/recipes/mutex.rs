//! The fair mutex.

use std::time::Duration;

use crate::acquire::Request;
use crate::backend::{Kind, QueueEntry};
use crate::client::Client;
use crate::error::Result;
use crate::guard::Guard;
use crate::lock_delay::LockDelay;
use crate::name::Name;
use crate::recipes::{Acquire, Named};

/// A fair mutex: at most one guard, granted strictly in the order in which the store saw the requests.
///
/// Any number of these, in any process, with the same name on the same store is one lock. Each call of a locking method
/// is a contender of its own: two tasks of one process exclude each other, and a task that locks twice waits for itself.
/// A release wakes one waiter.
#[derive(Clone, Debug)]
pub struct Mutex {
    named: Named,
    delay: Option<LockDelay>,
}

impl Mutex {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        Self { named: Named::new(client, name), delay: None }
    }

    /// The same lock, with a text that people see beside this process in the queue. Default: the client's label.
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.named = self.named.labelled(label);
        self
    }

    /// The same lock, whose next holder waits this long when a holder vanished without releasing: a dead process, a lost
    /// session, an entry removed by hand. Gives delayed writes of the dead holder time to arrive or to be refused.
    /// Default: none. After a release there is no pause.
    ///
    /// Everybody who uses the lock has to ask for it: one who does not neither waits nor makes others wait. The pause counts
    /// from the moment in which the next holder would have been granted, because nobody may have seen the last one vanish;
    /// [`try_lock`](Self::try_lock) takes that long then, too. [`Client::close`] lets go without releasing. Costs three more
    /// requests at each grant and two at each release.
    #[must_use]
    pub fn with_lock_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(LockDelay(delay));
        self
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.named.name.as_str()
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
    pub fn lock(&self) -> Acquire<Guard> {
        self.named.wait(self.request(), |guard, _| guard)
    }

    /// Takes the lock if nobody holds it or waits for it; `None` otherwise, and then nothing is left in the store.
    ///
    /// # Errors
    /// As [`lock`](Self::lock). When the store does not answer, that is known after at most a ttl.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn try_lock(&self) -> Result<Option<Guard>> {
        self.named.try_now(self.request()).await
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
        self.named.try_for(self.request(), timeout).await
    }

    /// Everybody in the queue, the holder first.
    ///
    /// # Errors
    /// As [`Client::entries`].
    pub async fn entries(&self) -> Result<Vec<QueueEntry>> {
        self.named.client.entries(&self.named.name).await
    }

    pub(crate) fn client(&self) -> &Client {
        &self.named.client
    }

    pub(crate) fn key(&self) -> &Name {
        &self.named.name
    }

    fn request(&self) -> Result<Request> {
        Ok(Request { delay: self.delay, ..self.named.request(Kind::Exclusive)? })
    }
}
