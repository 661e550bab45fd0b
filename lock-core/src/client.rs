//! The handle that applications keep: it owns the present session and opens the next one when that is lost.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex as Lock, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinError;

use crate::backend::{Backend, QueueEntry};
use crate::clock::{BootClock, Clock};
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

/// Settings of a [`Client`] that have defaults.
#[derive(Debug)]
pub struct Builder {
    backend: Arc<dyn Backend>,
    runtime: Option<Handle>,
    clock: Arc<dyn Clock>,
    label: Option<String>,
}

impl Client {
    /// Opens a session on a store with the default settings.
    ///
    /// # Errors
    /// What is wrong with the configuration, the credentials or the way to the servers:
    /// [`Error::InvalidConfig`], [`Error::AccessDenied`], [`Error::Unreachable`], each within the backend's connect timeout.
    pub async fn connect(backend: impl Backend) -> Result<Self> {
        Self::builder(backend).connect().await
    }

    /// Starts with the default settings.
    pub fn builder(backend: impl Backend) -> Builder {
        Builder { backend: Arc::new(backend), runtime: None, clock: Arc::new(BootClock), label: None }
    }

    /// A mutex of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn mutex(&self, name: impl AsRef<str>) -> Result<Mutex> {
        Ok(Mutex::new(self.clone(), Name::new(name)?))
    }

    /// A mutex of this name that its owner may lock again. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn reentrant_mutex(&self, name: impl AsRef<str>) -> Result<ReentrantMutex> {
        Ok(ReentrantMutex::new(self.clone(), Name::new(name)?, self.inner.reentrant.clone()))
    }

    /// The mutexes of these names, to be taken together. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for no names.
    pub fn multi_lock<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Result<MultiLock> {
        MultiLock::new(self, names)
    }

    /// A read-write lock of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn rw_lock(&self, name: impl AsRef<str>) -> Result<RwLock> {
        Ok(RwLock::new(self.clone(), Name::new(name)?))
    }

    /// A semaphore of this name with `limit` permits; the same number everywhere. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for a limit of 0.
    pub fn semaphore(&self, name: impl AsRef<str>, limit: u32) -> Result<Semaphore> {
        Semaphore::new(self.clone(), Name::new(name)?, limit)
    }

    /// An election of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn election(&self, name: impl AsRef<str>) -> Result<Election> {
        Ok(Election::new(self.clone(), Name::new(name)?))
    }

    /// A barrier of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn barrier(&self, name: impl AsRef<str>) -> Result<Barrier> {
        Ok(Barrier::new(self.clone(), Name::new(name)?))
    }

    /// A condition variable of this name, for mutexes of this client. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn condvar(&self, name: impl AsRef<str>) -> Result<Condvar> {
        Ok(Condvar::new(self.clone(), Name::new(name)?))
    }

    /// A double barrier of this name for `parties` parties; the same number everywhere. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for no parties.
    pub fn double_barrier(&self, name: impl AsRef<str>, parties: u32) -> Result<DoubleBarrier> {
        DoubleBarrier::new(self.clone(), Name::new(name)?, parties)
    }

    /// A latch of this name that opens after `count` count-downs; the same number everywhere. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and [`Error::InvalidConfig`] for a count that is not 1 to [`CountDownLatch::MAX_COUNT`].
    pub fn count_down_latch(&self, name: impl AsRef<str>, count: u32) -> Result<CountDownLatch> {
        CountDownLatch::new(self.clone(), Name::new(name)?, count)
    }

    /// A group of this name. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn group(&self, name: impl AsRef<str>) -> Result<Group> {
        Ok(Group::new(self.clone(), Name::new(name)?))
    }

    /// The queue of this name, whatever recipe uses it, for people and tools. Makes no request.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn queue(&self, name: impl AsRef<str>) -> Result<Queue> {
        Ok(Queue::new(self.clone(), Name::new(name)?))
    }

    /// Everybody in the queue of a lock, the holder first.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and those of [`connect`](Self::connect) and [`Error::Unavailable`].
    pub async fn entries(&self, name: impl AsRef<str>) -> Result<Vec<QueueEntry>> {
        let name = Name::new(name)?;
        self.with_session(move |live| async move { live.retry(|| live.session.entries(&name, usize::MAX)).await }).await
    }

    /// The names, in order, that start with `prefix` and in whose queues somebody stands, whatever recipe and kind of client
    /// it is. With an empty prefix, all. For people and tools: the store has to look at every queue.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect) and [`Error::Unavailable`].
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
    pub async fn session_id(&self) -> Result<String> {
        Ok(self.live_from_anywhere().await?.session.id())
    }

    /// The time to live that the server granted: how long after this process dies others wait for what it held.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn ttl(&self) -> Result<Duration> {
        Ok(self.live_from_anywhere().await?.session.ttl())
    }

    /// Ends the present session: all guards of this client are lost at once, all its entries leave their queues.
    ///
    /// Returns when the store has confirmed it or could not be reached in time; then the ttl does it. A session that is
    /// just being opened is waited for, at most for the backend's connect timeout, and closed. A later acquire opens a new
    /// session, but what takes part in the background, such as a [`LeaderLatch`](crate::LeaderLatch) or a
    /// [`Membership`](crate::Membership), ends.
    ///
    /// # Cancel safety
    /// The session ends all the same.
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
            match generation.get_or_init(|| self.open()).await.clone() {
                // Closed before it was opened: this acquire comes after that.
                Err(Error::SessionOver { .. }) => {}
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

impl Builder {
    /// A text about this process that people see in the queues. Default: none; host and process id are always shown.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The runtime that carries the session and every waiter. Default: a thread of this library, shared by all clients of
    /// the process.
    ///
    /// With a runtime of your own, code that blocks it delays renewals, and the locks are lost when it is shut down.
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The clock that validity is measured on. Default: [`BootClock`]. For tests.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the first session.
    ///
    /// # Errors
    /// As [`Client::connect`], and [`Error::MetadataTooLarge`] for a label of more than 4 KiB.
    pub async fn connect(self) -> Result<Client> {
        Owner::current(self.label.as_deref()).check_size("the client's label")?;
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => library_runtime()?,
        };
        let client = Client {
            inner: Arc::new(Inner {
                backend: self.backend,
                runtime,
                clock: self.clock,
                label: self.label,
                counters: Arc::default(),
                current: Lock::default(),
                reentrant: Arc::default(),
                closes: watch::Sender::new(0),
            }),
        };
        client.live_from_anywhere().await?;
        Ok(client)
    }
}

/// The runtime of sessions: one thread for the process, never shut down, so that user code can neither starve it nor
/// outlive it.
fn library_runtime() -> Result<Handle> {
    static RUNTIME: OnceLock<std::io::Result<tokio::runtime::Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("lock-sessions").enable_all().build()
    });
    match runtime {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(error) => Err(Error::Runtime { problem: format!("could not be started: {error}") }),
    }
}
