//! The mutex that its owner may take again.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Mutex as AsyncLock;

use crate::client::Client;
use crate::clock::sleep_until;
use crate::error::Result;
use crate::guard::{Guard, Release};
use crate::name::Name;
use crate::recipes::Mutex;

/// A fair mutex that the owner who holds it may lock again.
///
/// An owner is a value that the caller names, such as a request's id: never a thread, because tasks move between them. All
/// handles that one [`Client`] (with its clones) makes of one name know the same owners; an owner of the same name at
/// another client is somebody else. In the queue it is an ordinary [`Mutex`], with which it excludes.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// # use lock_core::{ReentrantMutex, Result};
/// async fn deposit(accounts: &ReentrantMutex, request: &str) -> Result<()> {
///     let _hold = accounts.lock(request).await?; // whether or not the caller has it
///     Ok(())
/// }
/// let accounts = client.reentrant_mutex("accounts")?;
/// let outer = accounts.lock("request-17").await?;
/// deposit(&accounts, "request-17").await?;
/// assert_eq!(outer.count(), 1, "still held");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ReentrantMutex {
    mutex: Mutex,
    owners: Arc<Owners>,
}

/// A hold of a [`ReentrantMutex`]. The lock is released with the last hold of its owner; all else it does is a [`Guard`]'s,
/// the same for every hold of the owner, with one token.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let accounts = client.reentrant_mutex("accounts")?;
/// let (outer, inner) = (accounts.lock("request-17").await?, accounts.lock("request-17").await?);
/// drop(outer);
/// inner.check()?; // one hold is enough
/// drop(inner);
/// client.mutex("accounts")?.lock().await?; // as soon as the last one is gone
/// # Ok(()) }
/// ```
#[must_use = "a hold ends when it is dropped"]
#[derive(Debug)]
pub struct ReentrantGuard {
    guard: Arc<Guard>,
}

/// What the owners of all reentrant mutexes of a client hold.
#[derive(Debug, Default)]
pub(crate) struct Owners(Lock<HashMap<(Name, String), Arc<Slot>>>);

/// The guard of one owner, if it has one.
#[derive(Debug, Default)]
struct Slot {
    guard: Lock<Weak<Guard>>,
    /// Who has it acquires; the others of this owner wait for what comes of that.
    turn: AsyncLock<()>,
}

impl Owners {
    fn slot(&self, name: &Name, owner: &str) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Slots that nobody uses any more are cleared away here.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.guard().strong_count() > 0);
        slots.entry((name.clone(), owner.to_owned())).or_default().clone()
    }
}

impl Slot {
    /// Another hold of the guard that the owner has, if that is still valid.
    fn held(&self) -> Option<ReentrantGuard> {
        let guard = self.guard().upgrade()?;
        guard.check().is_ok().then_some(ReentrantGuard { guard })
    }

    fn keep(&self, guard: Guard) -> ReentrantGuard {
        let guard = Arc::new(guard);
        *self.guard() = Arc::downgrade(&guard);
        ReentrantGuard { guard }
    }

    fn guard(&self) -> MutexGuard<'_, Weak<Guard>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReentrantMutex {
    pub(crate) fn new(client: Client, name: Name, owners: Arc<Owners>) -> Self {
        Self { mutex: Mutex::new(client, name), owners }
    }

    /// The same lock, with a text that people see beside this process in the queue. Default: the client's label.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let hold = client.reentrant_mutex("accounts")?.labelled("api").lock("request-17").await?;
    /// let holder = client.queue("accounts")?.list().await?.remove(0).owner;
    /// assert_eq!(holder.and_then(|owner| owner.label).as_deref(), Some("api"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.mutex = self.mutex.labelled(label);
        self
    }

    /// The lock's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.reentrant_mutex("accounts")?.name(), "accounts");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.mutex.name()
    }

    /// Waits for the lock; at once if `owner` holds it.
    ///
    /// # Errors
    /// As [`Mutex::lock`]. After the owner's guard was lost, this acquires anew, with a new token; the holds from before stay
    /// lost.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let accounts = client.reentrant_mutex("accounts")?;
    /// let outer = accounts.lock("request-17").await?;
    /// let inner = accounts.lock("request-17").await?; // would wait for ever with an ordinary mutex
    /// assert_eq!((inner.count(), inner.token()), (2, outer.token()));
    /// assert!(accounts.try_lock("request-18").await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn lock(&self, owner: &str) -> Result<ReentrantGuard> {
        let slot = self.slot(owner);
        if let Some(hold) = slot.held() {
            return Ok(hold);
        }
        let _turn = slot.turn.lock().await;
        match slot.held() {
            Some(hold) => Ok(hold),
            None => Ok(slot.keep(self.mutex.lock().await?)),
        }
    }

    /// Takes the lock if `owner` holds it, or nobody holds it or waits for it; `None` otherwise.
    ///
    /// # Errors
    /// As [`Mutex::try_lock`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let accounts = client.reentrant_mutex("accounts")?;
    /// let hold = accounts.lock("request-17").await?;
    /// assert!(accounts.try_lock("request-17").await?.is_some());
    /// assert!(accounts.try_lock("request-18").await?.is_none());
    /// # Ok(()) }
    /// ```
    pub async fn try_lock(&self, owner: &str) -> Result<Option<ReentrantGuard>> {
        let slot = self.slot(owner);
        if let Some(hold) = slot.held() {
            return Ok(Some(hold));
        }
        // Another task of this owner is just waiting for the lock.
        let Ok(_turn) = slot.turn.try_lock() else { return Ok(None) };
        if let Some(hold) = slot.held() {
            return Ok(Some(hold));
        }
        Ok(self.mutex.try_lock().await?.map(|guard| slot.keep(guard)))
    }

    /// Waits for the lock for at most `timeout`; `None` when it was not free in time.
    ///
    /// # Errors
    /// As [`Mutex::try_lock_for`].
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
    /// let accounts = client.reentrant_mutex("accounts")?;
    /// let hold = accounts.lock("request-17").await?;
    /// assert!(accounts.try_lock_for("request-18", Duration::from_secs(5)).await?.is_none());
    /// hold.release().await;
    /// assert!(accounts.try_lock_for("request-18", Duration::from_secs(5)).await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn try_lock_for(&self, owner: &str, timeout: Duration) -> Result<Option<ReentrantGuard>> {
        let clock = self.mutex.client().clock().clone();
        let deadline = clock.now() + timeout;
        let slot = self.slot(owner);
        if let Some(hold) = slot.held() {
            return Ok(Some(hold));
        }
        let _turn = tokio::select! {
            biased;
            turn = slot.turn.lock() => turn,
            () = sleep_until(&*clock, deadline) => return Ok(None),
        };
        if let Some(hold) = slot.held() {
            return Ok(Some(hold));
        }
        let left = deadline.saturating_duration_since(clock.now());
        Ok(self.mutex.try_lock_for(left).await?.map(|guard| slot.keep(guard)))
    }

    fn slot(&self, owner: &str) -> Arc<Slot> {
        self.owners.slot(self.mutex.key(), owner)
    }
}

impl ReentrantGuard {
    /// How many holds the owner has now, this one included.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let accounts = client.reentrant_mutex("accounts")?;
    /// let outer = accounts.lock("request-17").await?;
    /// let inner = accounts.lock("request-17").await?;
    /// assert_eq!(outer.count(), 2);
    /// drop(inner);
    /// assert_eq!(outer.count(), 1);
    /// # Ok(()) }
    /// ```
    pub fn count(&self) -> usize {
        Arc::strong_count(&self.guard)
    }

    /// Another hold of the same owner, for a part of the work that may outlive this one. Makes no request.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let hold = client.reentrant_mutex("accounts")?.lock("request-17").await?;
    /// let part = hold.again()?; // for a task of its own
    /// assert!(hold.release().await.is_none(), "the lock is not released before the last part is done");
    /// part.check()?;
    /// # Ok(()) }
    /// ```
    pub fn again(&self) -> Result<Self> {
        self.guard.check()?;
        Ok(Self { guard: self.guard.clone() })
    }

    /// Ends this hold. With the last one the lock is released as by [`Guard::release`], whose answer this is; `None` while
    /// the owner has other holds.
    ///
    /// # Cancel safety
    /// The hold ends all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::Release;
    ///
    /// let accounts = client.reentrant_mutex("accounts")?;
    /// let (outer, inner) = (accounts.lock("request-17").await?, accounts.lock("request-17").await?);
    /// assert_eq!(inner.release().await, None, "the other hold goes on");
    /// assert_eq!(outer.release().await, Some(Release::Released));
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Option<Release> {
        match Arc::into_inner(self.guard) {
            Some(guard) => Some(guard.release().await),
            None => None,
        }
    }
}

impl Deref for ReentrantGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}
