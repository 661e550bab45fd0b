//! The way between a client and the store, and what can happen on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::signal::Signal;

/// A request of the [session contract](crate::backend::Session).
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let store = lock_core::memory::Memory::new();
/// # let client = lock_core::Client::connect(store.clone()).await?;
/// use lock_core::memory::{Fault, Op};
///
/// store.link().plan(Op::Close, Fault::DropRequest);
/// client.close().await;
/// assert_eq!(store.session_count(), 1, "until the end of its ttl");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opening a session.
    Open,
    /// Renewing it.
    Renew,
    /// Entering a queue.
    Enqueue,
    /// Settling an enqueue whose reply was lost.
    Adopt,
    /// Reading what is ahead.
    Ahead,
    /// Opening a watch.
    Watch,
    /// Opening a watch on a queue.
    WatchQueue,
    /// Leaving a queue.
    Dequeue,
    /// Reading a queue.
    Entries,
    /// Reading the names of the queues.
    Queues,
    /// Reading a value.
    Read,
    /// Writing a value.
    Write,
    /// Turning a write entry into a read one.
    Downgrade,
    /// Reading a session's owner.
    Owner,
    /// Reading how long a session is kept.
    TimeLeft,
    /// Ending the session.
    Close,
}

/// What happens to one request.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let store = lock_core::memory::Memory::new();
/// # let client = lock_core::Client::connect(store.clone()).await?;
/// use lock_core::memory::{Fault, Op};
///
/// store.link().plan(Op::Enqueue, Fault::DropReply); // is there an entry, or is there none?
/// client.mutex("ledger")?.lock().await?;
/// assert_eq!(client.metrics().ambiguous, 1, "asked, and settled");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never reaches the store.
    DropRequest,
    /// It is applied, and the reply is lost.
    DropReply,
    /// It is taken for lost, and reaches the store this much later.
    Late(Duration),
    /// It takes this much longer, on the way there.
    Delay(Duration),
    /// It is not applied, and the store says that asking again will not help.
    Refuse,
    /// A read shows the queue as it was before the last removal, and an enqueue that should only enter a free queue
    /// believes it free. No effect on other requests.
    StaleRead,
    /// The event of a watch never comes. No effect on other requests.
    LostEvent,
}

/// The way between one client and the store. Clones are the same link.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
/// # let store = lock_core::memory::Memory::new();
/// # let clock = lock_core::clock::TokioClock::new();
/// # let client = lock_core::Client::builder(store.clone()).clock(clock);
/// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
/// let guard = client.mutex("ledger")?.lock().await?;
/// let link = store.link().clone();
/// link.hold(); // the network is gone …
/// tokio::time::sleep(client.ttl().await? / 2).await;
/// link.resume(); // … and comes back in time
/// tokio::time::sleep(client.ttl().await?).await;
/// guard.check()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plan: Mutex<Plan>,
    held: Signal<bool>,
    /// Changes at every cut.
    cuts: Signal<()>,
}

#[derive(Debug, Default)]
struct Plan {
    faults: VecDeque<(Op, Fault)>,
    latency: Duration,
}

impl Default for Link {
    fn default() -> Self {
        let shared = Shared { plan: Mutex::default(), held: Signal::new(false), cuts: Signal::new(()) };
        Self { shared: Arc::new(shared) }
    }
}

impl Link {
    /// Lets `fault` happen to the next `op` that has none planned yet.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let client = lock_core::Client::connect(store.clone()).await?;
    /// use lock_core::{Error, memory::{Fault, Op}};
    ///
    /// store.link().plan(Op::Enqueue, Fault::Refuse);
    /// let mutex = client.mutex("ledger")?;
    /// assert!(matches!(mutex.lock().await, Err(Error::Refused { .. })));
    /// assert!(mutex.lock().await.is_ok(), "only the next one");
    /// # Ok(()) }
    /// ```
    pub fn plan(&self, op: Op, fault: Fault) {
        self.plan_mut().faults.push_back((op, fault));
    }

    /// Forgets the faults planned, and delivers what was held.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let client = lock_core::Client::connect(store.clone()).await?;
    /// use lock_core::memory::{Fault, Op};
    ///
    /// store.link().plan(Op::Enqueue, Fault::Refuse);
    /// store.link().hold();
    /// store.link().heal();
    /// client.mutex("ledger")?.lock().await?;
    /// # Ok(()) }
    /// ```
    pub fn heal(&self) {
        self.plan_mut().faults.clear();
        self.resume();
    }

    /// Every request and every reply takes this long from now on. Default: nothing.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let since = tokio::time::Instant::now();
    /// store.link().set_latency(Duration::from_millis(50));
    /// client.mutex("ledger")?.lock().await?;
    /// assert_eq!(since.elapsed(), Duration::from_millis(100), "one round trip");
    /// # Ok(()) }
    /// ```
    pub fn set_latency(&self, each_way: Duration) {
        self.plan_mut().latency = each_way;
    }

    /// From now on nothing arrives, in either direction, and nothing fails: requests, replies and events are kept.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// use lock_core::State;
    ///
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// store.link().hold();
    /// assert_eq!(guard.watch().changed().await, State::Suspect); // not told that anything failed
    /// store.link().resume();
    /// assert_eq!(guard.watch().changed().await, State::Held);
    /// # Ok(()) }
    /// ```
    pub fn hold(&self) {
        self.shared.held.set_if(|held| !std::mem::replace(held, true));
    }

    /// Delivers what was held.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let mutex = client.mutex("ledger")?;
    /// store.link().hold();
    /// let waiting = tokio::spawn(async move { mutex.lock().await });
    /// tokio::time::sleep(Duration::from_secs(1)).await;
    /// assert!(store.entries(&lock_core::Name::new("ledger")?).is_empty());
    /// store.link().resume();
    /// waiting.await.expect("no panic")?; // its request was kept
    /// # Ok(()) }
    /// ```
    pub fn resume(&self) {
        self.shared.held.set_if(std::mem::take);
    }

    /// Breaks the connection once: every watch ends without telling.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let client = lock_core::Client::connect(store.clone()).await?;
    /// let mutex = client.mutex("ledger")?;
    /// let (guard, mut waiting) = (mutex.lock().await?, mutex.lock());
    /// waiting.position().await?;
    /// store.link().cut();
    /// guard.release().await;
    /// waiting.await?.check()?; // it looked again
    /// # Ok(()) }
    /// ```
    pub fn cut(&self) {
        self.shared.cuts.set_if(|()| true);
    }

    pub(super) fn latency(&self) -> Duration {
        self.plan_mut().latency
    }

    pub(super) fn next_fault(&self, op: Op) -> Option<Fault> {
        let mut plan = self.plan_mut();
        let at = plan.faults.iter().position(|(planned, _)| *planned == op)?;
        plan.faults.remove(at).map(|(_, fault)| fault)
    }

    pub(super) fn is_held(&self) -> bool {
        self.shared.held.value()
    }

    /// Resolves when nothing is held.
    pub(super) async fn open(&self) {
        self.shared.held.wait_for(|held| !held).await;
    }

    /// Resolves at a cut after this call.
    pub(super) fn next_cut(&self) -> impl Future<Output = ()> + Send + 'static {
        let (link, seen) = (self.clone(), self.shared.cuts.version());
        async move {
            link.shared.cuts.changed(seen).await;
        }
    }

    fn plan_mut(&self) -> MutexGuard<'_, Plan> {
        self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
