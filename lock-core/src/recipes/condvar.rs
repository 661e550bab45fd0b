//! The condition variable.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::backend::{Dequeued, Entry, Kind, QueueEntry};
use crate::client::Client;
use crate::decision::of_own_recipe;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::name::Name;
use crate::recipes::sleep::Sleep;
use crate::recipes::{Mutex, Named};
use crate::record;
use crate::session::{Backoff, Live};

/// A condition variable: those who hold a [`Mutex`] and find a condition not met sleep until somebody notifies them, and
/// hold the mutex again then.
///
/// Whoever meets the condition under the mutex and notifies after that, under the mutex or not, wakes somebody who sleeps:
/// no notification is lost between release and sleep. It is for those who sleep at that moment and not remembered for others.
///
/// **Loop on your condition.** Somebody else may have the mutex first and undo it, and when an answer of the store is lost,
/// more may be woken than were notified. A notification given to a process that dies, or loses its session, at that
/// moment is lost with it.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// # use std::sync::{Arc, atomic::{AtomicBool, Ordering::SeqCst}};
/// # let loaded = Arc::new(AtomicBool::new(false)); let seen = loaded.clone();
/// # let is_loaded = move || seen.load(SeqCst); let load = || loaded.store(true, SeqCst);
/// let mutex = client.mutex("table")?;
/// let changed = client.condvar("table-changed")?;
/// let reader = tokio::spawn({
///     let (mutex, changed) = (mutex.clone(), changed.clone()); // in any process
///     async move {
///         let mut guard = mutex.lock().await?;
///         while !is_loaded() {
///             guard = changed.wait(guard, &mutex).await?;
///         }
///         guard.run(async { /* read it */ }).await
///     }
/// });
/// let guard = mutex.lock().await?;
/// load();
/// guard.release().await;
/// changed.notify_all().await?;
/// reader.await.expect("no panic")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Condvar {
    pub(super) named: Named,
}

/// Sleepers that are removed at a time.
const AT_A_TIME: usize = 64;

impl Condvar {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        Self { named: Named::new(client, name) }
    }

    /// The same condition variable, with a text that people see beside this process in the queue. Default: the client's
    /// label.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # let mutex = client.mutex("table")?;
    /// let changed = client.condvar("table-changed")?.labelled("reader 7");
    /// # let mut watch = client.queue("table-changed")?.watch();
    /// let reader = tokio::spawn({
    ///     let changed = changed.clone();
    ///     async move { changed.wait(mutex.lock().await?, &mutex).await }
    /// });
    /// # while watch.next().await?.is_empty() {}
    /// let sleeper = client.queue("table-changed")?.list().await?.remove(0).owner;
    /// assert_eq!(sleeper.and_then(|owner| owner.label).as_deref(), Some("reader 7"));
    /// # reader.abort();
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.named = self.named.labelled(label);
        self
    }

    /// The name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.condvar("table-changed")?.name(), "table-changed");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.named.name.as_str()
    }

    /// Releases `mutex`, sleeps until notified, and locks it again, at the end of its queue.
    ///
    /// # Errors
    /// The mutex is released after every error.
    /// * [`Error::SessionLost`] when the session ended meanwhile: look at the condition again, it may be met.
    /// * [`Error::Lost`] when the guard was lost before this one slept.
    /// * [`Error::InvalidConfig`] when `guard` is not `mutex`'s, or they are not of the client that made this.
    /// * [`Error::OtherRecipe`] when the name is in use by another recipe, such as the mutex itself.
    /// * Those of [`Mutex::lock`].
    ///
    /// # Cancel safety
    /// Dropping the future releases the mutex, or gives up the place in its queue, and leaves no sleeper behind. A
    /// notification that this one had got goes to the next.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let (mutex, changed) = (client.mutex("table")?, client.condvar("table-changed")?);
    /// let reader = tokio::spawn({
    ///     let (mutex, changed) = (mutex.clone(), changed.clone()); // in any process
    ///     async move {
    ///         let guard = mutex.lock().await?;
    ///         let guard = changed.wait(guard, &mutex).await?; // in a loop over the condition
    ///         guard.check()
    ///     }
    /// });
    /// while !changed.notify_one().await? {} // until it sleeps
    /// reader.await.expect("no panic")?;
    /// # Ok(()) }
    /// ```
    pub async fn wait(&self, guard: Guard, mutex: &Mutex) -> Result<Guard> {
        self.sleep(guard, mutex, None).await.map(|(guard, _)| guard)
    }

    /// Releases `mutex`, sleeps until notified, for at most `timeout`, and locks it again. Tells whether it was notified; if
    /// not, no notification was used up.
    ///
    /// The deadline bounds the sleep, not the wait for the mutex before and after it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Cancel safety
    /// As [`wait`](Self::wait).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # use std::time::Duration;
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let (mutex, changed) = (client.mutex("config")?, client.condvar("config-changed")?);
    /// let guard = mutex.lock().await?;
    /// let (guard, notified) = changed.wait_for(guard, &mutex, Duration::from_millis(10)).await?;
    /// assert!(!notified && guard.check().is_ok());
    /// # Ok(()) }
    /// ```
    pub async fn wait_for(&self, guard: Guard, mutex: &Mutex, timeout: Duration) -> Result<(Guard, bool)> {
        self.sleep(guard, mutex, Some(timeout)).await
    }

    async fn sleep(&self, guard: Guard, mutex: &Mutex, timeout: Option<Duration>) -> Result<(Guard, bool)> {
        let client = &self.named.client;
        if guard.lock() != mutex.key() || !mutex.client().is(client) {
            return Err(not_of_the_mutex(mutex));
        }
        guard.check()?;
        let (reply, answer) = oneshot::channel();
        let deadline = timeout.map(|after| client.clock().now() + after);
        client.runtime().spawn(Sleep::new(self, mutex, deadline).run(guard, reply));
        let woken = answer.await.unwrap_or_else(|_| {
            Err(Error::Runtime { problem: "has been shut down; keep it alive as long as its locks".into() })
        });
        woken?.into_guard()
    }

    /// Wakes the one who has slept longest. Returns whether there was one; when an answer of the store was lost, `false` may
    /// also mean that nobody but that one slept.
    ///
    /// # Errors
    /// Those of [`Client::entries`], and [`Error::OtherRecipe`] when the name is in use by another recipe. After a retryable
    /// one somebody may or may not have been woken.
    ///
    /// # Cancel safety
    /// It notifies all the same, unless the store cannot be reached.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # let (mutex, changed) = (client.mutex("table")?, client.condvar("table-changed")?);
    /// # let mut watch = client.queue("table-changed")?.watch();
    /// # let _two = [(); 2].map(|()| {
    /// #     let (mutex, changed) = (mutex.clone(), changed.clone());
    /// #     tokio::spawn(async move { changed.wait(mutex.lock().await?, &mutex).await })
    /// # });
    /// # while watch.next().await?.len() < 2 {}
    /// // Two sleep until there is work. For one piece of it, one is enough.
    /// assert!(changed.notify_one().await?);
    /// assert_eq!(changed.entries().await?.len(), 1);
    /// # Ok(()) }
    /// ```
    pub async fn notify_one(&self) -> Result<bool> {
        let Named { client, name, .. } = self.named.clone();
        let notifying = async move {
            let mut backoff = Backoff::default();
            loop {
                match wake_first(&*client.live().await?, &name).await {
                    Err(Error::SessionOver { .. }) => tokio::time::sleep(backoff.next()).await,
                    woken => return woken.map_err(|error| error.of_lock(&name)),
                }
            }
        };
        self.named.client.on_runtime(notifying).await?
    }

    /// Wakes everybody who sleeps now. Returns how many; when an answer of the store was lost, there may have been more.
    ///
    /// # Errors
    /// As [`notify_one`](Self::notify_one).
    ///
    /// # Cancel safety
    /// As [`notify_one`](Self::notify_one).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # let (mutex, changed) = (client.mutex("table")?, client.condvar("table-changed")?);
    /// # let mut watch = client.queue("table-changed")?.watch();
    /// # let _two = [(); 2].map(|()| {
    /// #     let (mutex, changed) = (mutex.clone(), changed.clone());
    /// #     tokio::spawn(async move { changed.wait(mutex.lock().await?, &mutex).await })
    /// # });
    /// # while watch.next().await?.len() < 2 {}
    /// // Two sleep until the table is loaded. It is now.
    /// assert_eq!(changed.notify_all().await?, 2);
    /// assert!(changed.entries().await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn notify_all(&self) -> Result<usize> {
        let Named { client, name, .. } = self.named.clone();
        let notifying = async move {
            let (mut backoff, mut woken) = (Backoff::default(), 0);
            loop {
                match wake_all(client.live().await?, &name, &mut woken).await {
                    Err(Error::SessionOver { .. }) => tokio::time::sleep(backoff.next()).await,
                    done => return done.map(|()| woken).map_err(|error| error.of_lock(&name)),
                }
            }
        };
        self.named.client.on_runtime(notifying).await?
    }

    /// Everybody who sleeps, the one who has slept longest first.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # let (mutex, changed) = (client.mutex("table")?, client.condvar("table-changed")?);
    /// # let mut watch = client.queue("table-changed")?.watch();
    /// assert!(changed.entries().await?.is_empty());
    /// let reader = tokio::spawn({
    ///     let (mutex, changed) = (mutex.clone(), changed.clone());
    ///     async move { changed.wait(mutex.lock().await?, &mutex).await }
    /// });
    /// # while watch.next().await?.is_empty() {}
    /// assert_eq!(changed.entries().await?.len(), 1); // once it sleeps
    /// # reader.abort();
    /// # Ok(()) }
    /// ```
    pub async fn entries(&self) -> Result<Vec<QueueEntry>> {
        self.named.client.entries(&self.named.name).await
    }
}

pub(super) fn not_of_the_mutex(mutex: &Mutex) -> Error {
    Error::InvalidConfig {
        setting: "guard of the wait".into(),
        value: format!("a guard that is not of mutex {:?}", mutex.name()),
        expected: "a guard of the mutex given, both of the client that made the condition variable".into(),
    }
}

async fn wake_first(live: &Live, name: &Name) -> Result<bool> {
    loop {
        let Some(first) = sleepers(live, name, 1).await?.pop() else { return Ok(false) };
        if wake(live, &first).await? {
            return Ok(true);
        }
    }
}

async fn wake_all(live: Arc<Live>, name: &Name, woken: &mut usize) -> Result<()> {
    let mut asleep = sleepers(&live, name, usize::MAX).await?.into_iter();
    loop {
        let mut waking = JoinSet::new();
        for sleeper in asleep.by_ref().take(AT_A_TIME) {
            let live = live.clone();
            waking.spawn(async move { wake(&live, &sleeper).await });
        }
        if waking.is_empty() {
            return Ok(());
        }
        while let Some(done) = waking.join_next().await {
            *woken += usize::from(done.unwrap_or_else(|_| Err(live.over()))?);
        }
    }
}

/// The first `limit` sleepers, the one who has slept longest first.
async fn sleepers(live: &Live, name: &Name, limit: usize) -> Result<Vec<Entry>> {
    let queue = live.retry(|| live.session.entries(name, limit)).await?;
    let sleepers = of_own_recipe(queue, Kind::Sleeper, |entry| entry.kind);
    let sleepers = sleepers.map_err(|found| record::other_recipe(name, Kind::Sleeper, found))?;
    Ok(sleepers.into_iter().map(|entry| entry.entry).collect())
}

/// Wakes a sleeper. When an answer was lost, `false` may also mean that this has woken it: rather one too many is woken
/// than one who gave up at that moment taken for one.
async fn wake(live: &Live, sleeper: &Entry) -> Result<bool> {
    let woken = live.retry(|| live.session.dequeue(sleeper)).await? == Dequeued::Removed;
    if woken {
        live.counters.dequeued.add_one();
    }
    Ok(woken)
}
