//! The fair semaphore.

use std::ops::Deref;
use std::time::Duration;

use crate::acquire::Request;
use crate::backend::{Kind, QueueEntry};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::guard::{Guard, Release};
use crate::name::Name;
use crate::recipes::{Acquire, Named};
use crate::record::{self, Record, Update};

/// A fair semaphore: at most a fixed number of permits are held at a time, granted strictly in the order of the queue.
///
/// Several permits are granted at once or not at all, and nobody overtakes one who waits for many. A permit that comes back
/// wakes the first waiter only; that one, when it is granted, wakes the next to be the first.
///
/// The limit is kept in the store. The first user sets it; a client that believes in another number is refused.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let connections = client.semaphore("db-connections", 20)?;
/// let (one, many) = (connections.acquire(1).await?, connections.acquire(15).await?);
/// assert!(connections.try_acquire(5).await?.is_none(), "4 are left");
/// many.release().await;
/// assert!(connections.try_acquire(5).await?.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore {
    named: Named,
    limit: u32,
}

/// Permits held. Gives them back when dropped; all else it does is a [`Guard`]'s.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let permits = client.semaphore("db-connections", 20)?.acquire(3).await?;
/// permits.run(async { /* use 3 connections; stopped before they can be somebody else's */ }).await?;
/// assert_eq!(permits.count(), 3);
/// permits.release().await; // all of them; or drop them
/// # Ok(()) }
/// ```
#[must_use = "permits are given back when this is dropped"]
#[derive(Debug)]
pub struct Permits {
    guard: Guard,
    count: u32,
}

/// One of the permits held.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let permits = client.semaphore("db-connections", 20)?.acquire(2).await?;
/// let [first, second] = &permits.permits()[..] else { unreachable!("2 were asked for") };
/// assert!(first.id != second.id && first.token == second.token);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permit {
    /// Unlike that of every other permit ever granted.
    pub id: String,
    /// The fencing token: greater than that of every permit granted earlier, and the same for permits granted at once.
    pub token: u64,
}

const SEMAPHORE: &str = "semaphore";

impl Semaphore {
    pub(crate) fn new(client: Client, name: Name, limit: u32) -> Result<Self> {
        if limit == 0 {
            return Err(Error::InvalidConfig {
                setting: "limit of the semaphore".into(),
                value: "0".into(),
                expected: "at least 1 permit".into(),
            });
        }
        Ok(Self { named: Named::new(client, name), limit })
    }

    /// The same semaphore, with a text that people see beside this process in the queue. Default: the client's label.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let permit = client.semaphore("db-connections", 20)?.labelled("importer").acquire(1).await?;
    /// let holder = client.queue("db-connections")?.list().await?.remove(0).owner;
    /// assert_eq!(holder.and_then(|owner| owner.label).as_deref(), Some("importer"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.named = self.named.labelled(label);
        self
    }

    /// The semaphore's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.semaphore("db-connections", 20)?.name(), "db-connections");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.named.name.as_str()
    }

    /// The limit that this client believes in.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.semaphore("db-connections", 20)?.limit(), 20);
    /// # Ok(()) }
    /// ```
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Waits for this many permits, all at once.
    ///
    /// # Errors
    /// As [`Mutex::lock`](crate::Mutex::lock); [`Error::InvalidConfig`] for no permits, or more than the limit;
    /// [`Error::LimitMismatch`] when the store has another limit; [`Error::OtherRecipe`] when the name is in use by another
    /// recipe.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let connections = client.semaphore("db-connections", 20)?;
    /// let one = connections.acquire(1).await?;
    /// let batch = connections.acquire(4).await?;
    /// println!("{:?}", batch.permits());
    /// batch.release().await;
    /// # drop(one); Ok(()) }
    /// ```
    pub fn acquire(&self, permits: u32) -> Acquire<Permits> {
        self.named.wait(self.request(permits), |guard, kind| match kind {
            Kind::Permits(count) => Permits { guard, count },
            _ => Permits { guard, count: 0 },
        })
    }

    /// Takes this many permits if they are free and nobody waits; `None` otherwise, and then nothing is left in the store.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire). When the store does not answer, that is known after at most a ttl.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let downloads = client.semaphore("downloads", 2)?;
    /// let one = downloads.try_acquire(1).await?.expect("nobody uses it");
    /// assert!(downloads.try_acquire(2).await?.is_none(), "all at once or none");
    /// assert!(downloads.try_acquire(3).await.is_err(), "there will never be 3");
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire(&self, permits: u32) -> Result<Option<Permits>> {
        let guard = self.named.try_now(self.request(permits)).await?;
        Ok(guard.map(|guard| Permits { guard, count: permits }))
    }

    /// Waits for this many permits for at most `timeout`; `None` when they were not to be had in time. The deadline bounds
    /// everything, opening a session and cleaning up included.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`Error::Timeout`] when the deadline passed before the store had given a place in
    /// the queue.
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
    /// let downloads = client.semaphore("downloads", 2)?;
    /// let both = downloads.acquire(2).await?;
    /// assert!(downloads.try_acquire_for(1, Duration::from_secs(5)).await?.is_none());
    /// both.release().await;
    /// assert!(downloads.try_acquire_for(1, Duration::from_secs(5)).await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn try_acquire_for(&self, permits: u32, timeout: Duration) -> Result<Option<Permits>> {
        let guard = self.named.try_for(self.request(permits), timeout).await?;
        Ok(guard.map(|guard| Permits { guard, count: permits }))
    }

    /// Changes the limit in the store, for everybody. Waiters notice at once; permits that are held, or are just being granted,
    /// stay held, so that a lower limit is reached when enough of them have come back. Who still believes in the old limit is
    /// refused from now on; waiters for more permits than the new limit are refused, too.
    ///
    /// Returns the semaphore with the new limit.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for 0; [`Error::OtherRecipe`] when the name is in use by another recipe; those of
    /// [`Client::entries`].
    ///
    /// # Cancel safety
    /// The change may or may not be made.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let small = client.semaphore("db-connections", 20)?;
    /// let large = small.set_limit(40).await?;
    /// assert_eq!(large.limit(), 40);
    /// assert!(small.try_acquire(1).await.is_err(), "20 is no longer the limit");
    /// # Ok(()) }
    /// ```
    pub async fn set_limit(&self, limit: u32) -> Result<Self> {
        let changed = Self::new(self.named.client.clone(), self.named.name.clone(), limit)?;
        let name = self.named.name.clone();
        let believed = self.limit;
        self.named
            .client
            .with_session(move |live| async move {
                if record::limits(&live, &name).await?.is_none() {
                    record::unclaimed(&live, &name, Kind::Permits(limit)).await?;
                }
                record::update(&live, &name, SEMAPHORE, |record| {
                    let was = match record {
                        Some(Record::Semaphore { limit: now, highest }) if now == limit => {
                            return Ok((Update::Keep, highest));
                        }
                        Some(Record::Semaphore { limit: now, highest }) => highest.max(now),
                        _ => believed,
                    };
                    let highest = was.max(limit);
                    Ok((Update::Write(Record::Semaphore { limit, highest }), highest))
                })
                .await
            })
            .await?;
        Ok(Self { named: Named { label: self.named.label.clone(), ..changed.named }, limit })
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
    /// let downloads = client.semaphore("downloads", 3)?;
    /// let (_one, _two) = (downloads.acquire(1).await?, downloads.acquire(2).await?);
    /// let kinds = downloads.entries().await?.into_iter().map(|entry| entry.kind);
    /// assert!(kinds.eq([Kind::Permits(1), Kind::Permits(2)]));
    /// # Ok(()) }
    /// ```
    pub async fn entries(&self) -> Result<Vec<QueueEntry>> {
        self.named.client.entries(&self.named.name).await
    }

    fn request(&self, permits: u32) -> Result<Request> {
        if permits == 0 || permits > self.limit {
            return Err(Error::too_many_permits(permits, self.limit));
        }
        Ok(Request { limit: Some(self.limit), ..self.named.request(Kind::Permits(permits))? })
    }
}

impl Permits {
    /// How many these are.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.semaphore("downloads", 3)?.acquire(2).await?.count(), 2);
    /// # Ok(()) }
    /// ```
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Each of them.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let batch = client.semaphore("db-connections", 20)?.acquire(3).await?;
    /// for permit in batch.permits() {
    ///     println!("a connection named {}, with token {}", permit.id, permit.token);
    /// }
    /// assert_eq!(batch.permits().len(), 3);
    /// # Ok(()) }
    /// ```
    pub fn permits(&self) -> Vec<Permit> {
        let (token, entry) = (self.guard.token(), self.guard.entry().id());
        (0..self.count).map(|i| Permit { id: format!("{entry}#{i}"), token }).collect()
    }

    /// Gives all of them back, as [`Guard::release`].
    ///
    /// # Cancel safety
    /// They are given back all the same, in the background.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let downloads = client.semaphore("downloads", 2)?;
    /// assert_eq!(downloads.acquire(2).await?.release().await, lock_core::Release::Released);
    /// assert!(downloads.try_acquire(2).await?.is_some(), "free by now; after a drop, in a moment");
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Release {
        self.guard.release().await
    }
}

impl Deref for Permits {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}
