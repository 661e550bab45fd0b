//! Several mutexes at once.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::client::Client;
use crate::clock::Instant;
use crate::error::{Error, Loss, Result};
use crate::guard::{Guard, Release};
use crate::name::Name;
use crate::recipes::Mutex;

/// Several mutexes that are taken together or not at all.
///
/// They are locked one after the other in the order of their names, whatever the order they were given in, so that two of
/// these never wait for each other. A name that was given twice counts once. Each queue is that of the ordinary [`Mutex`].
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let transfer = client.multi_lock(["account-b", "account-a"])?;
/// let back = client.multi_lock(["account-a", "account-b"])?; // never waits for the other in a circle
/// let held = transfer.lock().await?;
/// assert!(back.try_lock().await?.is_none());
/// assert!(client.mutex("account-a")?.try_lock().await?.is_none(), "it is an ordinary mutex");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MultiLock {
    client: Client,
    /// By name, each once.
    mutexes: Vec<Mutex>,
}

/// Several locks held. Releases them when dropped.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let both = client.multi_lock(["account-a", "account-b"])?.lock().await?;
/// both.run(async { /* stopped before one of them can be somebody else's */ }).await?;
/// drop(both);
/// client.mutex("account-b")?.lock().await?;
/// # Ok(()) }
/// ```
#[must_use = "the locks are released when this is dropped"]
#[derive(Debug)]
pub struct MultiGuard {
    guards: Vec<Guard>,
}

impl MultiLock {
    pub(crate) fn new<N: AsRef<str>>(client: &Client, names: impl IntoIterator<Item = N>) -> Result<Self> {
        let names = names.into_iter().map(Name::new).collect::<Result<BTreeSet<_>>>()?;
        if names.is_empty() {
            return Err(Error::InvalidConfig {
                setting: "names of the multi-lock".into(),
                value: "none".into(),
                expected: "at least one name".into(),
            });
        }
        let mutexes = names.into_iter().map(|name| Mutex::new(client.clone(), name)).collect();
        Ok(Self { client: client.clone(), mutexes })
    }

    /// The same locks, with a text that people see beside this process in the queues. Default: the client's label.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["a", "b"])?.labelled("transfer 17").lock().await?;
    /// for name in ["a", "b"] {
    ///     let holder = client.queue(name)?.list().await?.remove(0).owner;
    ///     assert_eq!(holder.and_then(|owner| owner.label).as_deref(), Some("transfer 17"));
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        let label = label.into();
        self.mutexes = self.mutexes.into_iter().map(|mutex| mutex.labelled(label.clone())).collect();
        self
    }

    /// The names, in the order in which they are locked.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let locks = client.multi_lock(["b", "a", "b"])?;
    /// assert_eq!(locks.names().collect::<Vec<_>>(), ["a", "b"]);
    /// # Ok(()) }
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.mutexes.iter().map(Mutex::name)
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// As [`Mutex::lock`], of the first that fails, and [`Error::Lost`] when one was lost while the others were waited for.
    /// None is held then.
    ///
    /// # Cancel safety
    /// Dropping the future gives up all places and locks and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["account-b", "account-a"])?.lock().await?;
    /// both.run(async { /* move the money */ }).await?;
    /// both.release().await;
    /// # Ok(()) }
    /// ```
    pub async fn lock(&self) -> Result<MultiGuard> {
        let mut held = MultiGuard { guards: Vec::with_capacity(self.mutexes.len()) };
        for mutex in &self.mutexes {
            let next = held.while_held(mutex.lock()).await;
            match next.and_then(|guard| guard) {
                Ok(guard) => held.guards.push(guard),
                Err(error) => return Err(held.given_up(error).await),
            }
        }
        Ok(held)
    }

    /// Takes all of them if each is free and has no waiters; `None` otherwise, and then nothing is left in the store.
    ///
    /// # Errors
    /// As [`Mutex::try_lock`], of the first that fails. None is held then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["a", "b"])?;
    /// let busy = client.mutex("b")?.lock().await?;
    /// assert!(both.try_lock().await?.is_none());
    /// assert!(client.mutex("a")?.try_lock().await?.is_some(), "not kept without the other");
    /// # Ok(()) }
    /// ```
    pub async fn try_lock(&self) -> Result<Option<MultiGuard>> {
        let mut held = MultiGuard { guards: Vec::with_capacity(self.mutexes.len()) };
        for mutex in &self.mutexes {
            match mutex.try_lock().await {
                Ok(Some(guard)) => held.guards.push(guard),
                Ok(None) => {
                    held.release().await;
                    return Ok(None);
                }
                Err(error) => return Err(held.given_up(error).await),
            }
        }
        held.check()?;
        Ok(Some(held))
    }

    /// Waits for all of them for at most `timeout`; `None` when one was not free in time. The deadline bounds everything;
    /// what was taken until then is released in the background.
    ///
    /// # Errors
    /// As [`lock`](Self::lock) and [`Mutex::try_lock_for`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up all places and locks and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let both = client.multi_lock(["a", "b"])?;
    /// let busy = client.mutex("b")?.lock().await?;
    /// assert!(both.try_lock_for(Duration::from_secs(5)).await?.is_none());
    /// busy.release().await;
    /// assert!(both.try_lock_for(Duration::from_secs(5)).await?.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn try_lock_for(&self, timeout: Duration) -> Result<Option<MultiGuard>> {
        let clock = self.client.clock();
        let deadline = clock.now() + timeout;
        let mut held = MultiGuard { guards: Vec::with_capacity(self.mutexes.len()) };
        for mutex in &self.mutexes {
            let left = deadline.saturating_duration_since(clock.now());
            match held.while_held(mutex.try_lock_for(left)).await?? {
                Some(guard) => held.guards.push(guard),
                None => return Ok(None),
            }
        }
        Ok(Some(held))
    }
}

impl MultiGuard {
    /// The guards, in the order of their names: each has a token of its own.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["a", "b"])?.lock().await?;
    /// let tokens = both.guards().iter().map(|guard| (guard.name(), guard.token())); // for each account's own
    /// assert!(tokens.map(|(name, _)| name).eq(["a", "b"]));
    /// # Ok(()) }
    /// ```
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Whether all are still held. Synchronous, without I/O.
    ///
    /// # Errors
    /// [`Error::Lost`] naming the first that is not, from the moment of loss on for ever.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let both = client.multi_lock(["a", "b"])?.lock().await?;
    /// both.check()?; // before each step
    /// client.queue("b")?.break_lock(both.guards()[1].token()).await?; // by an operator
    /// both.lost().await;
    /// assert!(both.check().is_err() && both.guards()[0].check().is_ok(), "one is as bad as all");
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<()> {
        self.guards.iter().try_for_each(Guard::check)
    }

    /// The moment until which all are proven to be held, on the client's clock; `None` once one is lost.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["a", "b"])?.lock().await?;
    /// assert!(both.valid_until() <= both.guards()[0].valid_until());
    /// client.close().await;
    /// assert_eq!(both.valid_until(), None);
    /// # Ok(()) }
    /// ```
    pub fn valid_until(&self) -> Option<Instant> {
        self.guards.iter().map(Guard::valid_until).min().flatten()
    }

    /// Resolves when one of them is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let both = client.multi_lock(["a", "b"])?.lock().await?;
    /// client.queue("b")?.break_lock(both.guards()[1].token()).await?; // by an operator
    /// assert_eq!(both.lost().await, lock_core::Loss::EntryRemoved);
    /// # Ok(()) }
    /// ```
    pub async fn lost(&self) -> Loss {
        let mut losses: Vec<Pin<Box<dyn Future<Output = Loss> + Send + '_>>> = Vec::new();
        for guard in &self.guards {
            losses.push(Box::pin(guard.lost()));
        }
        poll_fn(|cx| {
            let lost = losses.iter_mut().find_map(|loss| match loss.as_mut().poll(cx) {
                Poll::Ready(loss) => Some(loss),
                Poll::Pending => None,
            });
            lost.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Runs `work` while all are held, and stops it before the validity of one ends. As [`Guard::run`].
    ///
    /// # Errors
    /// [`Error::Lost`] when the work was stopped.
    ///
    /// # Cancel safety
    /// Dropping it drops the work.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["account-a", "account-b"])?.lock().await?;
    /// assert_eq!(both.run(async { 100 - 30 }).await?, 70);
    /// client.close().await;
    /// assert!(both.run(async { unreachable!("it is not even begun") }).await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        let Some((first, _)) = self.guards.split_first() else { return Ok(work.await) };
        // All belong to one session, or the earlier ones are lost: so the first one's time limit is that of all.
        first.run(self.while_held(work)).await?
    }

    /// Releases all of them at the same time and waits for the store's answers: the worst of them.
    ///
    /// # Cancel safety
    /// They are released all the same, in the background.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["a", "b"])?;
    /// assert_eq!(both.lock().await?.release().await, lock_core::Release::Released);
    /// assert!(both.try_lock().await?.is_some(), "both are free by now");
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Release {
        let start = |guard: Guard| {
            let runtime = guard.live().runtime.clone();
            runtime.spawn(guard.release())
        };
        let releases: Vec<_> = self.guards.into_iter().map(start).collect();
        let mut worst = Release::Released;
        for release in releases {
            match release.await.unwrap_or(Release::Pending) {
                Release::Released => {}
                Release::NotHeld if worst == Release::Pending => {}
                other => worst = other,
            }
        }
        worst
    }

    /// Goes on with `work` until it ends or one lock is lost; it is never polled after that.
    async fn while_held<F: Future>(&self, work: F) -> Result<F::Output> {
        let (mut work, mut lost) = (pin!(work), pin!(self.lost()));
        poll_fn(|cx| {
            self.check()?;
            if !self.guards.is_empty() && lost.as_mut().poll(cx).is_ready() {
                self.check()?;
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    async fn given_up(self, error: Error) -> Error {
        self.release().await;
        error
    }
}
