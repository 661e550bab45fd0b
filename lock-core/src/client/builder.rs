//! How a client comes about.

use std::sync::{Arc, Mutex as Lock, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::backend::Backend;
use crate::client::{Client, Inner};
use crate::clock::{BootClock, Clock};
use crate::error::{Error, Result};
use crate::owner::Owner;

/// Settings of a [`Client`] that have defaults.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use lock_core::{Client, memory::Memory};
///
/// let client = Client::builder(Memory::new())
///     .label("nightly jobs")
///     .runtime(tokio::runtime::Handle::current())
///     .connect()
///     .await?;
/// assert_eq!(client.metrics().sessions_opened, 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Builder {
    backend: Arc<dyn Backend>,
    runtime: Option<Handle>,
    clock: Arc<dyn Clock>,
    label: Option<String>,
}

impl Builder {
    pub(crate) fn new(backend: impl Backend) -> Self {
        Self { backend: Arc::new(backend), runtime: None, clock: Arc::new(BootClock), label: None }
    }

    /// A text about this process that people see in the queues. Default: none; host and process id are always shown.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # use lock_core::{Client, memory::Memory};
    /// let client = Client::builder(Memory::new()).label("api server, blue").connect().await?;
    /// let membership = client.group("servers")?.join("10.0.0.1:7000").await?;
    /// let owner = client.group("servers")?.members().await?.remove(0).owner;
    /// assert_eq!(owner.and_then(|owner| owner.label).as_deref(), Some("api server, blue"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The runtime that carries the session and every waiter. Default: a thread of this library, shared by all clients of
    /// the process.
    ///
    /// With a runtime of your own, code that blocks it delays renewals, and the locks are lost when it is shut down.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # use lock_core::{Client, Error, memory::Memory};
    /// let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    /// let client = Client::builder(Memory::new()).runtime(runtime.handle().clone()).connect().await?;
    /// client.mutex("backup")?.lock().await?.release().await;
    /// std::thread::spawn(|| drop(runtime)).join().expect("it ends"); // too early: the client is still in use
    /// assert!(matches!(client.mutex("backup")?.lock().await, Err(Error::Runtime { .. })));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The clock that validity is measured on. Default: [`BootClock`]. For tests.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # use std::time::Duration;
    /// # use lock_core::{Client, clock::TokioClock, memory::Memory};
    /// // In a test with paused time, that of locks is paused, too.
    /// let store = Memory::new();
    /// let builder = Client::builder(store.clone()).runtime(tokio::runtime::Handle::current());
    /// let client = builder.clock(TokioClock::new()).connect().await?;
    /// let guard = client.mutex("backup")?.lock().await?;
    /// store.link().hold(); // nothing arrives any more
    /// tokio::time::sleep(Duration::from_secs(11)).await; // no time at all
    /// assert!(guard.check().is_err());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the first session.
    ///
    /// # Errors
    /// As [`Client::connect`], and [`Error::MetadataTooLarge`] for a label of about 4 KiB or more.
    ///
    /// # Cancel safety
    /// As [`Client::connect`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # use lock_core::{Client, Error, memory::Memory};
    /// let builder = Client::builder(Memory::new()).label("x".repeat(5_000));
    /// let refused = builder.connect().await;
    /// assert!(matches!(refused, Err(Error::MetadataTooLarge { limit: 4_096, .. })));
    /// # Ok(()) }
    /// ```
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
