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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let (here, there) = (client.mutex("nightly-backup")?, client.mutex("nightly-backup")?); // in any process
/// let first = here.lock().await?;
/// assert!(there.try_lock().await?.is_none());
/// assert!(here.try_lock().await?.is_none(), "not reentrant: each call is a contender of its own");
/// first.release().await;
/// there.lock().await?.release().await;
/// # Ok(()) }
/// ```
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
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("reindex")?.labelled("shard 3").lock().await?;
    /// let holder = client.queue("reindex")?.list().await?.remove(0).owner;
    /// assert_eq!(holder.and_then(|owner| owner.label).as_deref(), Some("shard 3"));
    /// # Ok(()) }
    /// ```
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
    /// [`try_lock`](Self::try_lock) takes that long then, too. Whoever gives up in the pause leaves the rest of it to the
    /// next. [`Client::close`] withdraws who waits in order, and lets go of what is held without releasing it. Costs two
    /// more requests at each grant and two at each release.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// use std::time::Duration;
    ///
    /// let mutex = client.mutex("disk")?.with_lock_delay(Duration::from_secs(30));
    /// let gone = mutex.lock().await?;
    /// client.queue("disk")?.break_lock(gone.token()).await?; // or its process dies
    /// let vanished = tokio::time::Instant::now();
    /// mutex.lock().await?.release().await;
    /// assert!(vanished.elapsed() >= Duration::from_secs(30));
    /// mutex.lock().await?; // at once: the one before has released it
    /// # assert!(vanished.elapsed() < Duration::from_secs(40));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_lock_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(LockDelay(delay));
        self
    }

    /// The lock's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.mutex("nightly-backup")?.name(), "nightly-backup");
    /// # Ok(()) }
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("nightly-backup")?;
    /// match mutex.try_lock().await? {
    ///     Some(guard) => guard.run(async { /* back up */ }).await?,
    ///     None => println!("another instance does it"),
    /// }
    /// let busy = mutex.lock().await?;
    /// assert!(mutex.try_lock().await?.is_none());
    /// # Ok(()) }
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let mutex = client.mutex("nightly-backup")?;
    /// let busy = mutex.lock().await?;
    /// assert!(mutex.try_lock_for(Duration::from_secs(5)).await?.is_none());
    /// assert_eq!(mutex.entries().await?.len(), 1, "the place was given up");
    /// busy.release().await;
    /// assert!(mutex.try_lock_for(Duration::from_secs(5)).await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn try_lock_for(&self, timeout: Duration) -> Result<Option<Guard>> {
        self.named.try_for(self.request(), timeout).await
    }

    /// Everybody in the queue, the holder first.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("nightly-backup")?;
    /// let (guard, mut waiting) = (mutex.lock().await?, mutex.lock());
    /// waiting.position().await?;
    /// let entries = mutex.entries().await?;
    /// assert_eq!((entries.len(), entries[0].token), (2, Some(guard.token())));
    /// # Ok(()) }
    /// ```
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
