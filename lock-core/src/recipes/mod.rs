//! What users take: each recipe is a kind of entry, a way to wait, and a guard.

mod barrier;
mod condvar;
mod count_down_latch;
mod double_barrier;
mod election;
mod group;
mod multi_lock;
mod mutex;
mod persistent;
mod recorded;
mod reentrant_mutex;
mod rounds;
mod rw_lock;
mod semaphore;
mod sleep;

pub use barrier::Barrier;
pub use condvar::Condvar;
pub use count_down_latch::CountDownLatch;
pub use double_barrier::{DoubleBarrier, Party};
pub use election::{
    Campaign, Candidate, Election, Ending, Leader, LeaderLatch, Leadership, Observer, Selector, Stopper, Turn,
};
pub use group::{Group, GroupWatch, Member, Membership};
pub use multi_lock::{MultiGuard, MultiLock};
pub use mutex::Mutex;
pub(crate) use reentrant_mutex::Owners;
pub use reentrant_mutex::{ReentrantGuard, ReentrantMutex};
pub use rw_lock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::{Permit, Permits, Semaphore};

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::acquire::{Acquiring, Patience, Request, acquire};
use crate::backend::{Entry, Kind};
use crate::client::Client;
use crate::error::Result;
use crate::guard::Guard;
use crate::name::Name;
use crate::owner::Owner;

/// A name on a store, and who uses it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) client: Client,
    pub(crate) name: Name,
    label: Option<String>,
}

impl Named {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        let label = client.label().map(str::to_owned);
        Self { client, name, label }
    }

    fn labelled(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// A request whose entry shows its owner.
    pub(crate) fn request(&self, kind: Kind) -> Result<Request> {
        let value = Owner::current(self.label.as_deref()).check_size(format_args!("lock {:?}", self.name))?;
        Ok(Request::new(&self.name, kind, value))
    }

    pub(crate) fn wait<G>(&self, request: Result<Request>, wrap: fn(Guard, Kind) -> G) -> Acquire<G> {
        Acquire { client: self.client.clone(), request: Some(request.map(Arc::new)), acquiring: None, wrap }
    }

    pub(crate) async fn try_now(&self, request: Result<Request>) -> Result<Option<Guard>> {
        acquire(&self.client, request?, Patience::Try).await
    }

    pub(crate) async fn try_for(&self, request: Result<Request>, timeout: Duration) -> Result<Option<Guard>> {
        acquire(&self.client, request?, Patience::For(timeout)).await
    }
}

/// Waiting for a lock: a future of its guard, which can also tell its place in the queue.
///
/// Does nothing until it is polled or asked for its [`position`](Self::position).
///
/// # Cancel safety
/// Dropping it gives up the place in the queue and leaves nothing behind.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
/// # let clock = lock_core::clock::TokioClock::new();
/// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
/// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
/// use std::time::Duration;
///
/// let mutex = client.mutex("reindex")?;
/// let holder = mutex.lock().await?;
/// let mut waiting = mutex.lock();
/// while tokio::time::timeout(Duration::from_secs(60), &mut waiting).await.is_err() {
///     println!("still waiting: {:?}", waiting.position().await?); // without losing the place
/// #   break;
/// }
/// drop(waiting);
/// assert_eq!(mutex.entries().await?.len(), 1, "nothing is left of it");
/// # Ok(()) }
/// ```
#[must_use = "nothing is waited for unless this is awaited"]
pub struct Acquire<G> {
    client: Client,
    request: Option<Result<Arc<Request>>>,
    acquiring: Option<Acquiring>,
    wrap: fn(Guard, Kind) -> G,
}

/// A place in a queue.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::Position;
///
/// let mutex = client.mutex("reindex")?;
/// let holder = mutex.lock().await?;
/// let mut waiting = mutex.lock();
/// assert_eq!(waiting.position().await?, Some(Position { ahead: 1, length: 2 }));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// How many entries are ahead, holders among them.
    pub ahead: usize,
    /// How many entries the queue has, this one included.
    pub length: usize,
}

impl<G> Acquire<G> {
    /// The place in the queue, from a listing; `None` when there is none any more. Waits until there is one.
    ///
    /// # Errors
    /// As [`Client::entries`], and what ended the waiting before it began.
    ///
    /// # Cancel safety
    /// The place in the queue is kept.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("reindex")?;
    /// let holder = mutex.lock().await?;
    /// let mut waiting = mutex.lock();
    /// let position = waiting.position().await?.expect("it waits");
    /// println!("{} of {}", position.ahead + 1, position.length);
    /// holder.release().await;
    /// waiting.await?;
    /// # Ok(()) }
    /// ```
    pub async fn position(&mut self) -> Result<Option<Position>> {
        let Some((entry, name)) = self.entered().await? else { return Ok(None) };
        let queue = self.client.entries(&name).await?;
        let at = queue.iter().position(|other| other.entry == entry);
        Ok(at.map(|ahead| Position { ahead, length: queue.len() }))
    }

    /// The entry, once there is one, and its queue; `None` when the attempt has ended without, and its answer says why.
    async fn entered(&mut self) -> Result<Option<(Entry, Name)>> {
        self.start()?;
        let Some(acquiring) = &mut self.acquiring else { return Ok(None) };
        let name = acquiring.request.queue.clone();
        Ok(acquiring.entry().await.map(|entry| (entry.clone(), name)))
    }

    fn start(&mut self) -> Result<()> {
        if let Some(request) = self.request.take() {
            self.acquiring = Some(Acquiring::start(&self.client, request?, Patience::Forever));
        }
        Ok(())
    }
}

impl<G> Future for Acquire<G> {
    type Output = Result<G>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<G>> {
        self.start()?;
        let Self { client, acquiring, wrap, .. } = &mut *self;
        loop {
            let Some(waiting) = acquiring else { return Poll::Pending };
            // Without a deadline the answer is a guard or an error.
            match ready!(waiting.poll_guard(cx))? {
                Some(guard) => return Poll::Ready(Ok(wrap(guard, waiting.request.kind))),
                None => *waiting = Acquiring::start(client, waiting.request.clone(), Patience::Forever),
            }
        }
    }
}

impl<G> fmt::Debug for Acquire<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("acquiring", &self.acquiring).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::client::Client;
    use crate::error::Error;
    use crate::memory::{Fault, Memory, Op};

    #[tokio::test]
    async fn a_place_can_be_asked_for_again() {
        let store = Memory::new();
        let mutex = Client::connect(store.clone()).await.unwrap().mutex("l").unwrap();
        let mut first = mutex.lock();
        for _ in 0..2 {
            assert!(first.position().await.unwrap().is_some());
        }
        store.link().plan(Op::Enqueue, Fault::Refuse);
        let mut refused = mutex.lock();
        for _ in 0..2 {
            assert_eq!(refused.position().await.unwrap(), None, "there will be none");
        }
        assert!(matches!(refused.await, Err(Error::Refused { .. })));
    }
}
