//! Taking part in an election in the background.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::guard::{Guard, Release};
use crate::recipes::election::{Election, Leadership};
use crate::recipes::persistent::{Held, Persistent};

/// A candidate in the background: it stands for leadership from now on, leads whenever its turn comes, and stands again
/// after every loss.
///
/// Somebody may ask it to let go while it leads, as every holder, with [`Queue::revoke`](crate::Queue::revoke). It goes on
/// leading: its user hears of it by [`Leadership::ending`] and decides. [`Leadership::transfer`] follows the request, and the
/// latch stands again at the end of the queue; nobody has asked it to let go then.
///
/// It ends when it is closed or dropped, or when its [`Client`](crate::Client) is closed.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let election = client.election("scheduler")?;
/// let mut latch = election.latch("10.0.0.1:7000")?; // stands for leadership until it is closed
/// latch.leading().await?;
/// assert!(latch.is_leader());
/// latch.close().await;
/// assert_eq!(election.leader().await?, None);
/// # Ok(()) }
/// ```
#[must_use = "the candidate withdraws when this is dropped"]
#[derive(Debug)]
pub struct LeaderLatch {
    inner: Persistent<Leadership>,
}

impl LeaderLatch {
    pub(super) fn start(election: Election, value: Vec<u8>) -> Self {
        let client = election.named.client.clone();
        let name = election.name().to_owned();
        Self { inner: Persistent::start(&client, &name, None, move || election.campaign(&value)) }
    }

    /// Whether it leads. Synchronous, without I/O, and false as soon as the leadership's [`check`](Guard::check) fails.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut latch = client.election("scheduler")?.latch("10.0.0.1:7000")?;
    /// latch.leading().await?;
    /// assert!(latch.is_leader());
    /// client.close().await;
    /// assert!(!latch.is_leader());
    /// # Ok(()) }
    /// ```
    pub fn is_leader(&self) -> bool {
        self.inner.current().is_some()
    }

    /// The leadership, while it leads: to pass on its token, to proclaim another value, or to put work into its
    /// [`run`](Guard::run). Whoever keeps it does not keep leading: it ends with the latch.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut latch = client.election("scheduler")?.latch("10.0.0.1:7000")?;
    /// latch.leading().await?;
    /// if let Some(leadership) = latch.leadership() {
    ///     leadership.run(async { /* what only the leader does */ }).await?;
    /// }
    /// # assert_eq!(latch.leadership().map(|leadership| leadership.term()), Some(1));
    /// # Ok(()) }
    /// ```
    pub fn leadership(&self) -> Option<Arc<Leadership>> {
        self.inner.current()
    }

    /// Resolves when it has begun or ceased to lead since this was asked last, with the leadership or `None`. Changes
    /// that come close together are seen as one.
    ///
    /// # Errors
    /// [`Error::Lost`] when the client was closed, from then on for ever.
    ///
    /// # Cancel safety
    /// No change is missed by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let election = client.election("scheduler")?;
    /// let mut latch = election.latch("10.0.0.1:7000")?;
    /// let first = latch.changed().await?.expect("it has begun to lead");
    /// client.queue("scheduler")?.break_lock(first.token()).await?; // by an operator
    /// assert!(latch.changed().await?.is_none());
    /// assert_eq!(latch.leading().await?.term(), 2, "it stands again by itself");
    /// # Ok(()) }
    /// ```
    pub async fn changed(&mut self) -> Result<Option<Arc<Leadership>>> {
        self.inner.changed().await
    }

    /// Resolves when it leads.
    ///
    /// # Errors
    /// As [`changed`](Self::changed).
    ///
    /// # Cancel safety
    /// The candidate stays in the queue.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut latch = client.election("scheduler")?.latch("10.0.0.1:7000")?;
    /// let leadership = latch.leading().await?;
    /// leadership.run(async { /* what only the leader does */ }).await?;
    /// client.close().await;
    /// assert!(latch.leading().await.is_err(), "it will not lead again");
    /// # Ok(()) }
    /// ```
    pub async fn leading(&mut self) -> Result<Arc<Leadership>> {
        loop {
            if let Some(leadership) = self.inner.current() {
                return Ok(leadership);
            }
            self.changed().await?;
        }
    }

    /// Why the last attempt failed, if it has not led since. It goes on trying, with growing pauses of up to a second;
    /// up to ten when that is not expected to help, as with [`Error::OtherRecipe`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("scheduler")?.lock().await?; // not an election
    /// let latch = client.election("scheduler")?.latch("10.0.0.1:7000")?;
    /// # while latch.trouble().is_none() { tokio::task::yield_now().await }
    /// if let Some(error) = latch.trouble() {
    ///     println!("standing, but: {error}"); // in a health check
    /// }
    /// # Ok(()) }
    /// ```
    pub fn trouble(&self) -> Option<Error> {
        self.inner.trouble()
    }

    /// Stops taking part: resigns or withdraws. The answer is that of [`Leadership::resign`];
    /// [`Release::NotHeld`] when it did not lead.
    ///
    /// # Cancel safety
    /// It stops all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::Release;
    ///
    /// let mut latch = client.election("scheduler")?.latch("10.0.0.1:7000")?;
    /// latch.leading().await?;
    /// assert_eq!(latch.close().await, Release::Released); // the next one need not wait for the ttl
    /// # Ok(()) }
    /// ```
    pub async fn close(self) -> Release {
        self.inner.close().await
    }
}

impl Held for Leadership {
    fn guard(&self) -> &Guard {
        self
    }
}
