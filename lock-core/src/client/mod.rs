//! The handle that applications keep: it owns the present session and opens the next one when that is lost.

mod builder;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinError;

use crate::backend::{Backend, QueueEntry};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::guard::AbortOnDrop;
use crate::metrics::{Counters, Metrics};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::Queue;
use crate::recipes::{
    Barrier, Condvar, CountDownLatch, DoubleBarrier, Election, Group, MultiLock, Mutex, Owners, ReentrantMutex, RwLock,
    Semaphore,
};
use crate::session::Live;

pub use builder::Builder;

/// A connection to one store, from which locks are made. Cheap to clone; clones share one session.
///
/// The session is renewed by a thread of this library, so a busy application does not lose its locks. When a session is
/// lost, its guards are lost for good and the next acquire opens a new session by itself.
///
/// When the last clone and the last guard are gone, the session ends in the background. A process that is about to exit
/// calls [`close`](Self::close), or others wait for up to a ttl for what it held.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::{Client, memory::Memory};
///
/// let client = Client::connect(Memory::new()).await?;
/// let guard = client.mutex("nightly-backup")?.lock().await?;
/// guard.check()?;
/// guard.release().await;
/// client.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    runtime: Handle,
    clock: Arc<dyn Clock>,
    label: Option<String>,
    counters: Arc<Counters>,
    current: Lock<Generation>,
    reentrant: Arc<Owners>,
    /// Counts the calls of `close`.
    closes: watch::Sender<u64>,
}

/// One session, or the attempt to open it, whose outcome all who wait for it share.
type Generation = Arc<OnceCell<Result<Arc<Live>>>>;

impl Client {
    /// Opens a session on a store with the default settings.
    ///
    /// # Errors
    /// What is wrong with the configuration, the credentials or the way to the servers:
    /// [`Error::InvalidConfig`], [`Error::AccessDenied`], [`Error::Unreachable`], [`Error::Refused`], each within the backend's
    /// connect timeout; [`Error::Runtime`] when no thread can be started.
    ///
    /// # Cancel safety
    /// Dropping the future closes a session that was just being opened.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// use lock_core::{Client, Error, memory::{Fault, Memory, Op}};
    ///
    /// let store = Memory::new();
    /// store.link().plan(Op::Open, Fault::Refuse);
    /// let refused = Client::connect(store.clone()).await; // told here, not by the first lock
    /// assert!(matches!(refused, Err(Error::Unreachable { .. })));
    /// assert!(Client::connect(store).await.is_ok());
    /// # Ok(()) }
    /// ```
    pub async fn connect(backend: impl Backend) -> Result<Self> {
        Self::builder(backend).connect().await
    }

    /// Starts with the default settings.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// use lock_core::{Client, memory::Memory};
    ///
    /// let client = Client::builder(Memory::new()).label("worker 7").connect().await?;
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// let holder = client.queue("reindex")?.list().await?.remove(0).owner;
    /// assert_eq!(holder.and_then(|owner| owner.label).as_deref(), Some("worker 7"));
    /// # Ok(()) }
    /// ```
    pub fn builder(backend: impl Backend) -> Builder {
        Builder::new(backend)
    }

    /// A mutex of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("tenants/7/backup")?.lock().await?;
    /// let same = client.mutex("tenants/7/backup")?; // in any process: the name is the lock
    /// assert!(same.try_lock().await?.is_none());
    /// assert!(client.mutex("tenants/7")?.try_lock().await?.is_some(), "a name is not a path");
    /// # Ok(()) }
    /// ```
    pub fn mutex(&self, name: impl AsRef<str>) -> Result<Mutex> {
        Ok(Mutex::new(self.clone(), Name::new(name)?))
    }

    /// A mutex of this name that its owner may lock again. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let hold = client.reentrant_mutex("accounts")?.lock("request-17").await?;
    /// let elsewhere = client.reentrant_mutex("accounts")?; // knows the owners of this client
    /// assert!(elsewhere.try_lock("request-17").await?.is_some());
    /// assert!(client.mutex("accounts")?.try_lock().await?.is_none(), "to all others it is a mutex");
    /// # Ok(()) }
    /// ```
    pub fn reentrant_mutex(&self, name: impl AsRef<str>) -> Result<ReentrantMutex> {
        Ok(ReentrantMutex::new(self.clone(), Name::new(name)?, self.inner.reentrant.clone()))
    }

    /// The mutexes of these names, to be taken together. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for no names.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let both = client.multi_lock(["account-b", "account-a"])?;
    /// assert!(both.names().eq(["account-a", "account-b"]), "in this order, whoever locks them");
    /// assert!(client.multi_lock([""; 0]).is_err(), "no names");
    /// # Ok(()) }
    /// ```
    pub fn multi_lock<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Result<MultiLock> {
        MultiLock::new(self, names)
    }

    /// A read-write lock of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let config = client.rw_lock("config")?;
    /// let reading = config.read().await?;
    /// assert!(config.try_read().await?.is_some());
    /// assert!(config.try_write().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub fn rw_lock(&self, name: impl AsRef<str>) -> Result<RwLock> {
        Ok(RwLock::new(self.clone(), Name::new(name)?))
    }

    /// A semaphore of this name with `limit` permits; the same number everywhere. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for a limit of 0.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let downloads = client.semaphore("downloads", 2)?;
    /// let held = downloads.acquire(2).await?;
    /// assert!(downloads.try_acquire(1).await?.is_none());
    /// let other = client.semaphore("downloads", 3)?;
    /// assert!(other.try_acquire(1).await.is_err(), "the first user set the limit");
    /// # Ok(()) }
    /// ```
    pub fn semaphore(&self, name: impl AsRef<str>, limit: u32) -> Result<Semaphore> {
        Semaphore::new(self.clone(), Name::new(name)?, limit)
    }

    /// An election of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let leadership = client.election("scheduler")?.campaign("10.0.0.1:7000").await?;
    /// let leader = client.election("scheduler")?.leader().await?; // as any process sees it
    /// assert_eq!(leader.map(|leader| leader.value).as_deref(), Some(&b"10.0.0.1:7000"[..]));
    /// # Ok(()) }
    /// ```
    pub fn election(&self, name: impl AsRef<str>) -> Result<Election> {
        Ok(Election::new(self.clone(), Name::new(name)?))
    }

    /// A barrier of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// client.barrier("schema-migration")?.raise().await?;
    /// assert!(client.barrier("schema-migration")?.is_raised().await?); // in any process
    /// # Ok(()) }
    /// ```
    pub fn barrier(&self, name: impl AsRef<str>) -> Result<Barrier> {
        Ok(Barrier::new(self.clone(), Name::new(name)?))
    }

    /// A condition variable of this name, for mutexes of this client. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("table")?;
    /// let changed = client.condvar("table-changed")?; // a name of its own: its sleepers are a queue
    /// assert!(!changed.notify_one().await?, "nobody sleeps");
    /// # Ok(()) }
    /// ```
    pub fn condvar(&self, name: impl AsRef<str>) -> Result<Condvar> {
        Ok(Condvar::new(self.clone(), Name::new(name)?))
    }

    /// A double barrier of this name for `parties` parties; the same number everywhere. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for no parties.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let alone = client.double_barrier("simulation-step", 1)?.enter().await?;
    /// let others = client.double_barrier("simulation-step", 2)?;
    /// assert!(others.enter().await.is_err(), "the first user set the number");
    /// alone.leave().await?;
    /// # Ok(()) }
    /// ```
    pub fn double_barrier(&self, name: impl AsRef<str>, parties: u32) -> Result<DoubleBarrier> {
        DoubleBarrier::new(self.clone(), Name::new(name)?, parties)
    }

    /// A latch of this name that opens after `count` count-downs; the same number everywhere. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for a count that is not 1 to [`CountDownLatch::MAX_COUNT`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let loaded = client.count_down_latch("shards-loaded", 3)?;
    /// loaded.count_down().await?;
    /// assert_eq!(client.count_down_latch("shards-loaded", 3)?.count().await?, 2); // in any process
    /// # Ok(()) }
    /// ```
    pub fn count_down_latch(&self, name: impl AsRef<str>, count: u32) -> Result<CountDownLatch> {
        CountDownLatch::new(self.clone(), Name::new(name)?, count)
    }

    /// A group of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let membership = client.group("workers")?.join("10.0.0.1:7000").await?;
    /// let members = client.group("workers")?.members().await?; // as any process sees them
    /// assert_eq!(members[0].value, b"10.0.0.1:7000");
    /// # Ok(()) }
    /// ```
    pub fn group(&self, name: impl AsRef<str>) -> Result<Group> {
        Ok(Group::new(self.clone(), Name::new(name)?))
    }

    /// The queue of this name, whatever recipe uses it, for people and tools. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::backend::Kind;
    ///
    /// let permits = client.semaphore("downloads", 5)?.acquire(2).await?;
    /// let places = client.queue("downloads")?.list().await?; // without knowing what it is
    /// assert_eq!(places[0].kind, Kind::Permits(2));
    /// # Ok(()) }
    /// ```
    pub fn queue(&self, name: impl AsRef<str>) -> Result<Queue> {
        Ok(Queue::new(self.clone(), Name::new(name)?))
    }

    /// Everybody in the queue of a lock, the holder first.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; those of [`connect`](Self::connect) when a session had to be opened; [`Error::SessionOver`] when
    /// the session ended meanwhile, as it does when the store does not answer for a ttl; [`Error::AccessDenied`] and
    /// [`Error::Refused`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let client = lock_core::Client::connect(store.clone()).await?;
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// let entries = client.entries("reindex").await?;
    /// assert_eq!(entries[0].entry, *guard.entry(), "as the store has it");
    /// # Ok(()) }
    /// ```
    pub async fn entries(&self, name: impl AsRef<str>) -> Result<Vec<QueueEntry>> {
        let name = Name::new(name)?;
        self.with_session(move |live| async move { live.retry(|| live.session.entries(&name, usize::MAX)).await }).await
    }

    /// The names, in order, that start with `prefix` and in whose queues somebody stands, whatever recipe and kind of client
    /// it is. With an empty prefix, all. For people and tools: the store has to look at every queue.
    ///
    /// # Errors
    /// Those of [`entries`](Self::entries).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let hourly = client.mutex("reports/hourly")?.lock().await?;
    /// let names = client.queues("reports/").await?;
    /// assert_eq!(names[0].as_str(), "reports/hourly");
    /// hourly.release().await;
    /// assert!(client.queues("reports/").await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn queues(&self, prefix: impl AsRef<str>) -> Result<Vec<Name>> {
        let prefix = prefix.as_ref().to_owned();
        self.with_session(move |live| async move { live.retry(|| live.session.queues(&prefix)).await }).await
    }

    /// The id of the present session as the store's own tools show it, opening one if need be.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let client = lock_core::Client::connect(store.clone()).await?;
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// let id = client.session_id().await?; // to be looked up in the store's logs
    /// assert_eq!(client.entries("reindex").await?[0].session, id);
    /// # Ok(()) }
    /// ```
    pub async fn session_id(&self) -> Result<String> {
        Ok(self.live_from_anywhere().await?.session.id())
    }

    /// The time to live that the server granted: how long after this process dies others wait for what it held.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # use std::time::Duration;
    /// # use lock_core::{Client, memory::Memory};
    /// let client = Client::connect(Memory::new().with_ttl(Duration::from_secs(30))?).await?;
    /// assert_eq!(client.ttl().await?, Duration::from_secs(30)); // a server may grant more than was asked for
    /// # Ok(()) }
    /// ```
    pub async fn ttl(&self) -> Result<Duration> {
        Ok(self.live_from_anywhere().await?.session.ttl())
    }

    /// How long the present session is proven to live, counted from now; right after [`connect`](Self::connect), nearly as
    /// long as one proof lasts. Shorter than the ttl: by a tenth on etcd, by five twelfths on ZooKeeper.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert!(client.valid_for().await? <= client.ttl().await?);
    /// # Ok(()) }
    /// ```
    pub async fn valid_for(&self) -> Result<Duration> {
        let live = self.live_from_anywhere().await?;
        live.health.left().map_err(|_| live.over())
    }

    /// Ends the present session: all guards of this client are lost at once, all its entries leave their queues.
    ///
    /// Returns when the store has confirmed it or could not be reached in time; then the ttl does it. What is leaving a lock with
    /// a [delay](crate::Mutex::with_lock_delay) has up to a third of the ttl to do so in order. A session that is
    /// just being opened is waited for, at most for the backend's connect timeout, and closed. A later acquire opens a new
    /// session, but what takes part in the background, such as a [`LeaderLatch`](crate::LeaderLatch) or a
    /// [`Membership`](crate::Membership), ends.
    ///
    /// # Cancel safety
    /// The session ends all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// client.close().await; // at the end of `main`: otherwise others may wait for a ttl
    /// assert!(guard.check().is_err());
    /// assert!(client.mutex("reindex")?.try_lock().await?.is_some(), "in a new session");
    /// # Ok(()) }
    /// ```
    pub async fn close(&self) {
        self.inner.closes.send_modify(|closes| *closes += 1);
        let current = std::mem::take(&mut *self.current());
        // A session that is just being opened is waited for; one that nobody has begun to open will not be.
        let opened =
            current.get_or_init(|| async { Err(Error::SessionOver { session: "that was not opened".into() }) });
        if let Ok(live) = opened.await {
            live.close().await;
        }
    }

    /// What this client has done so far.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let before = client.metrics();
    /// client.mutex("reindex")?.lock().await?.release().await;
    /// let after = client.metrics();
    /// assert_eq!(after.granted - before.granted, 1);
    /// assert_eq!(after.sessions_opened, before.sessions_opened, "the session is shared");
    /// # Ok(()) }
    /// ```
    pub fn metrics(&self) -> Metrics {
        self.inner.counters.snapshot()
    }

    /// Changes whenever the client is closed from now on.
    pub(crate) fn closes(&self) -> watch::Receiver<u64> {
        self.inner.closes.subscribe()
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Whether both are clones of one client.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn label(&self) -> Option<&str> {
        self.inner.label.as_deref()
    }

    /// The present session, or a new one. To be called on the client's runtime.
    pub(crate) async fn live(&self) -> Result<Arc<Live>> {
        loop {
            let generation = {
                let mut current = self.current();
                let over = match current.get() {
                    Some(Ok(live)) => live.health.check().is_err(),
                    Some(Err(_)) => true,
                    None => false,
                };
                if over {
                    *current = Generation::default();
                }
                current.clone()
            };
            // Boxed: it is rare, and would make every acquire large.
            match generation.get_or_init(|| Box::pin(self.open())).await.clone() {
                // Closed before it was opened: this acquire comes after that.
                Err(Error::SessionOver { .. }) => {}
                Ok(live) if !live.is_kept() => {
                    return Err(Error::Runtime {
                        problem: "has been shut down; keep it alive as long as its locks".into(),
                    });
                }
                opened => return opened,
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Generation> {
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session in a task of its own, so that a caller who gives up does not leave one half open: dropping its
    /// result closes it.
    async fn open(&self) -> Result<Arc<Live>> {
        let inner = self.inner.clone();
        let owner = Owner::current(self.label()).to_value();
        let opening = async move {
            let (runtime, clock, counters) = (inner.runtime.clone(), inner.clock.clone(), inner.counters.clone());
            Live::open(&*inner.backend, &owner, runtime, clock, counters).await
        };
        self.on_runtime(opening).await?
    }

    async fn live_from_anywhere(&self) -> Result<Arc<Live>> {
        let client = self.clone();
        self.on_runtime(async move { client.live().await }).await?
    }

    /// Makes requests over the present session, or a new one, from any runtime.
    pub(crate) async fn with_session<T, F>(&self, task: impl FnOnce(Arc<Live>) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let client = self.clone();
        self.on_runtime(async move { task(client.live().await?).await }).await?
    }

    /// Runs a task on the client's runtime as long as the caller waits for it.
    pub(crate) async fn while_wanted<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.inner.runtime.spawn(task);
        let _wanted = AbortOnDrop(task.abort_handle());
        task.await.map_err(no_answer)?
    }

    /// Does on the client's runtime what has to come to its end whatever becomes of the caller.
    pub(crate) async fn on_runtime<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.inner.runtime.spawn(task).await.map_err(no_answer)
    }
}

fn no_answer(error: JoinError) -> Error {
    Error::Runtime { problem: format!("did not answer: {error}") }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("backend", &self.inner.backend).finish_non_exhaustive()
    }
}
