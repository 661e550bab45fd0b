//! The fair read-write lock.

use std::ops::Deref;
use std::time::Duration;

use crate::backend::{Kind, QueueEntry};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::guard::{Guard, Release};
use crate::name::Name;
use crate::recipes::{Acquire, Named};

/// A fair read-write lock: one writer, or any number of readers, strictly in the order of the queue.
///
/// A reader shares with the readers before it and waits for the writers before it; it never overtakes a waiting writer, so
/// writers do not starve. A writer waits for everybody before it. A release wakes those that can go on and one more at most.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let config = client.rw_lock("config")?;
/// let (_one, _two) = (config.read().await?, config.read().await?); // share
/// let mut writer = config.write();
/// writer.position().await?; // waits for both of them
/// assert!(config.try_read().await?.is_none(), "nobody overtakes it");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RwLock {
    named: Named,
}

/// A lock held for reading. Releases it when dropped; all else it does is a [`Guard`]'s.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let reading = client.rw_lock("config")?.read().await?;
/// reading.run(async { /* read it; stopped before anybody can write */ }).await?;
/// reading.check()?;
/// reading.release().await;
/// # Ok(()) }
/// ```
#[must_use = "a lock is released when its guard is dropped"]
#[derive(Debug)]
pub struct ReadGuard(Guard);

/// A lock held for writing. Releases it when dropped; all else it does is a [`Guard`]'s.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let config = client.rw_lock("config")?;
/// let writing = config.write().await?;
/// let token = writing.token(); // with each write
/// drop(writing);
/// assert!(config.write().await?.token() > token);
/// # Ok(()) }
/// ```
#[must_use = "a lock is released when its guard is dropped"]
#[derive(Debug)]
pub struct WriteGuard(Guard);

impl RwLock {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        Self { named: Named::new(client, name) }
    }

    /// The same lock, with a text that people see beside this process in the queue. Default: the client's label.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let reading = client.rw_lock("config")?.labelled("web 3").read().await?;
    /// let holder = client.queue("config")?.list().await?.remove(0).owner;
    /// assert_eq!(holder.and_then(|owner| owner.label).as_deref(), Some("web 3"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.named = self.named.labelled(label);
        self
    }

    /// The lock's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.rw_lock("config")?.name(), "config");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.named.name.as_str()
    }

    /// Waits for the lock, for reading.
    ///
    /// # Errors
    /// As [`Mutex::lock`](crate::Mutex::lock), and [`Error::OtherRecipe`] when the name is in use by another recipe.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let lock = client.rw_lock("config")?;
    /// let one = lock.read().await?;
    /// let two = lock.read().await?;
    /// assert!(lock.try_write().await?.is_none());
    /// # drop((one, two)); Ok(()) }
    /// ```
    pub fn read(&self) -> Acquire<ReadGuard> {
        self.named.wait(self.named.request(Kind::Read), |guard, _| ReadGuard(guard))
    }

    /// Waits for the lock, for writing.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.rw_lock("config")?.write().await?;
    /// guard.run(async { /* write it */ }).await?;
    /// guard.release().await;
    /// # Ok(()) }
    /// ```
    pub fn write(&self) -> Acquire<WriteGuard> {
        self.named.wait(self.named.request(Kind::Write), |guard, _| WriteGuard(guard))
    }

    /// Takes the lock for reading if that is possible at once; `None` otherwise, and then nothing is left in the store.
    ///
    /// # Errors
    /// As [`read`](Self::read). When the store does not answer, that is known after at most a ttl.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let config = client.rw_lock("config")?;
    /// let reading = config.try_read().await?.expect("nobody writes");
    /// reading.release().await;
    /// let writing = config.write().await?;
    /// assert!(config.try_read().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn try_read(&self) -> Result<Option<ReadGuard>> {
        Ok(self.named.try_now(self.named.request(Kind::Read)).await?.map(ReadGuard))
    }

    /// Takes the lock for writing if nobody holds it or waits for it; `None` otherwise, and then nothing is left in the
    /// store.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let config = client.rw_lock("config")?;
    /// let reading = config.read().await?;
    /// assert!(config.try_write().await?.is_none());
    /// reading.release().await;
    /// assert!(config.try_write().await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn try_write(&self) -> Result<Option<WriteGuard>> {
        Ok(self.named.try_now(self.named.request(Kind::Write)).await?.map(WriteGuard))
    }

    /// Waits for the lock, for reading, for at most `timeout`; `None` when it was not to be had in time. The deadline
    /// bounds everything, opening a session and cleaning up included.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`Error::Timeout`] when the deadline passed before the store had given a place in the
    /// queue.
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
    /// let config = client.rw_lock("config")?;
    /// let writing = config.write().await?;
    /// assert!(config.try_read_for(Duration::from_secs(5)).await?.is_none());
    /// writing.release().await;
    /// assert!(config.try_read_for(Duration::from_secs(5)).await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn try_read_for(&self, timeout: Duration) -> Result<Option<ReadGuard>> {
        Ok(self.named.try_for(self.named.request(Kind::Read), timeout).await?.map(ReadGuard))
    }

    /// Waits for the lock, for writing, for at most `timeout`. As [`try_read_for`](Self::try_read_for).
    ///
    /// # Errors
    /// As [`try_read_for`](Self::try_read_for).
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
    /// let config = client.rw_lock("config")?;
    /// let reading = config.read().await?;
    /// assert!(config.try_write_for(Duration::from_secs(5)).await?.is_none());
    /// assert!(config.try_read().await?.is_some(), "it does not stand in the way any more");
    /// # Ok(()) }
    /// ```
    pub async fn try_write_for(&self, timeout: Duration) -> Result<Option<WriteGuard>> {
        Ok(self.named.try_for(self.named.request(Kind::Write), timeout).await?.map(WriteGuard))
    }

    /// Everybody in the queue, the holders first.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::backend::Kind;
    ///
    /// let config = client.rw_lock("config")?;
    /// let (reading, mut writer) = (config.read().await?, config.write());
    /// writer.position().await?;
    /// let kinds = config.entries().await?.into_iter().map(|entry| entry.kind);
    /// assert!(kinds.eq([Kind::Read, Kind::Write]));
    /// # Ok(()) }
    /// ```
    pub async fn entries(&self) -> Result<Vec<QueueEntry>> {
        self.named.client.entries(&self.named.name).await
    }
}

impl ReadGuard {
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    /// The lock is released all the same, in the background.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let config = client.rw_lock("config")?;
    /// assert_eq!(config.read().await?.release().await, lock_core::Release::Released);
    /// assert!(config.try_write().await?.is_some(), "free by now; after a drop, in a moment");
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Release {
        self.0.release().await
    }

    /// Always refused: two readers that both waited for the other to leave would wait for ever. Release the lock and lock
    /// it for writing; somebody else may have written in between.
    ///
    /// # Errors
    /// [`Error::UpgradeRefused`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let config = client.rw_lock("config")?;
    /// let reading = config.read().await?;
    /// assert!(matches!(reading.upgrade(), Err(lock_core::Error::UpgradeRefused { .. })));
    /// reading.release().await;
    /// let writing = config.write().await?; // look again: it may have changed
    /// # Ok(()) }
    /// ```
    pub fn upgrade(&self) -> Result<WriteGuard> {
        Err(Error::UpgradeRefused { lock: self.0.name().to_owned() })
    }
}

impl WriteGuard {
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    /// The lock is released all the same, in the background.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let config = client.rw_lock("config")?;
    /// assert_eq!(config.write().await?.release().await, lock_core::Release::Released);
    /// assert!(config.try_read().await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Release {
        self.0.release().await
    }

    /// Goes on with reading. The change is one step of the store and the place in the queue is kept, so that no waiting
    /// writer comes in between; readers that waited for this writer come in. The token stays.
    ///
    /// # Errors
    /// [`Error::Lost`] when the lock was lost before or meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future releases the lock, in the background.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let lock = client.rw_lock("config")?;
    /// let writing = lock.write().await?;
    /// // … write, then read what was written, with other readers …
    /// let reading = writing.downgrade().await?;
    /// let other = lock.try_read().await?.expect("readers share");
    /// # drop((reading, other)); Ok(()) }
    /// ```
    pub async fn downgrade(self) -> Result<ReadGuard> {
        // In a task, because the request may be applied whatever becomes of the caller.
        let runtime = self.0.live().runtime.clone();
        let downgraded = runtime.spawn(self.0.downgrade()).await;
        let gone = |_| Err(Error::Runtime { problem: "has been shut down; keep it alive as long as its locks".into() });
        downgraded.unwrap_or_else(gone).map(ReadGuard)
    }
}

impl Deref for ReadGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.0
    }
}

impl Deref for WriteGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.0
    }
}
