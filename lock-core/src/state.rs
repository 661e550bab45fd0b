//! What a guard's holder can know: held, suspect or lost.

use std::sync::Arc;

use crate::error::Loss;
use crate::guard::Own;
use crate::health::Health;

/// Whether a lock is still held.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::State;
///
/// let guard = client.mutex("ledger")?.lock().await?;
/// match guard.state() {
///     State::Held => println!("go on"),
///     State::Suspect => println!("begin nothing that takes long"),
///     State::Lost(loss) => println!("stop: {loss}"),
/// }
/// assert_eq!(guard.state(), State::Held);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Held, and renewed in time.
    Held,
    /// Still held, but the last renewal is overdue; it will be lost unless one succeeds.
    Suspect,
    /// Lost, for ever.
    Lost(Loss),
}

/// A guard's state, to be watched from elsewhere.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let guard = client.mutex("ledger")?.lock().await?;
/// let mut watch = guard.watch(); // may be cloned, and outlives the guard
/// drop(guard);
/// assert_eq!(watch.lost().await, lock_core::Loss::Released);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct StateWatch {
    own: Arc<Own>,
    health: Arc<Health>,
    /// The session's state that is known.
    seen: u64,
}

impl StateWatch {
    pub(crate) fn new(own: Arc<Own>, health: Arc<Health>) -> Self {
        let seen = health.told().version();
        Self { own, health, seen }
    }

    /// The state now.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # use lock_core::{Loss, State};
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let watch = guard.watch(); // for a health check that has no guard
    /// assert_eq!(watch.state(), State::Held);
    /// client.close().await;
    /// assert_eq!(watch.state(), State::Lost(Loss::Closed));
    /// # Ok(()) }
    /// ```
    pub fn state(&self) -> State {
        state(self.own.loss(), &self.health)
    }

    /// Resolves with the new state when it has changed since this watch was made or last asked; at once when it is lost.
    ///
    /// # Cancel safety
    /// No change is missed by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use lock_core::{Loss, State};
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let mut watch = guard.watch();
    /// store.link().hold(); // the store cannot be reached any more
    /// assert_eq!(watch.changed().await, State::Suspect);
    /// assert_eq!(watch.changed().await, State::Lost(Loss::Expired));
    /// # Ok(()) }
    /// ```
    pub async fn changed(&mut self) -> State {
        if !matches!(self.state(), State::Lost(_)) {
            tokio::select! {
                biased;
                () = self.own.lost() => {}
                seen = self.health.told().changed(self.seen) => self.seen = seen,
            }
        }
        self.state()
    }

    /// Resolves when the lock is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let mut watches = [guard.watch(), guard.watch()];
    /// guard.release().await;
    /// for watch in &mut watches {
    ///     assert_eq!(watch.lost().await, lock_core::Loss::Released); // everybody is told
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn lost(&mut self) -> Loss {
        loop {
            if let State::Lost(loss) = self.state() {
                return loss;
            }
            self.changed().await;
        }
    }
}

/// The state of a guard that lost its own entry in this way, or did not, in a session of this health.
pub(crate) fn state(own: Option<Loss>, health: &Health) -> State {
    own.map_or_else(|| health.state(), State::Lost)
}
