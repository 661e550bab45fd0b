//! Why an operation failed, by meaning.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::name::Name;

/// The result of an operation of this library.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::{Client, Guard, Result};
///
/// async fn backup(client: &Client) -> Result<Guard> {
///     client.mutex("nightly-backup")?.lock().await
/// }
/// assert_eq!(backup(&client).await?.name(), "nightly-backup");
/// # Ok(()) }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of the layer below, kept for `source()`.
///
/// # Examples
/// ```
/// use lock_core::Error;
///
/// let error = Error::unavailable("renew the session", std::io::Error::other("connection reset"));
/// let Error::Unavailable { source, .. } = &error else { unreachable!() };
/// assert!(source.is::<std::io::Error>(), "for those who know what the backend uses");
/// assert!(!error.to_string().contains("connection reset"), "a report prints both");
/// ```
pub type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// Why an operation failed.
///
/// Contention is not among them: a lock that somebody else holds is `Ok(None)`.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// match client.mutex("reindex")?.lock().await {
///     Ok(guard) => guard.run(async { /* … */ }).await?,
///     Err(error) if error.is_retryable() => println!("later: {error}"),
///     Err(error) => return Err(error), // somebody has to change something
/// }
/// let error = client.mutex("").unwrap_err();
/// assert!(error.to_string().starts_with(r#"lock name "" cannot be used: it is empty"#));
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The lock's name cannot be used.
    #[error("lock name {name:?} cannot be used: {problem}")]
    InvalidName {
        /// The name, abbreviated when long.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },

    /// A setting, from a URL, a config struct or a call, cannot be used.
    #[error("{setting} is {value:?}, expected {expected}")]
    InvalidConfig {
        /// The setting's name.
        setting: String,
        /// The value found. Never a password.
        value: String,
        /// What was expected, and what to do.
        expected: String,
    },

    /// The owner metadata (host, process id, label) of an entry is too large; nothing was sent.
    #[error("owner metadata of {of} has {size} bytes, at most {limit} are allowed; shorten the label")]
    MetadataTooLarge {
        /// What it belongs to.
        of: String,
        /// Its size in bytes, encoded.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// The value that an entry is to show, such as a candidate's, is too large; nothing was sent.
    #[error("the value for {name:?} has {size} bytes, at most {limit} are allowed: show where to find the rest")]
    ValueTooLarge {
        /// The election or group.
        name: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// No server of the store could be reached to open a session.
    #[error(
        "no server reached at {endpoints} within {within:?}; check the addresses, that a server runs there, and TLS settings"
    )]
    Unreachable {
        /// The endpoints tried.
        endpoints: String,
        /// How long it was tried.
        within: Duration,
        /// The last failure.
        source: Source,
    },

    /// The store refused the credentials, or their owner lacks a permission.
    #[error("{endpoints} refused {who}: check the user, the password and its permissions on {what}")]
    AccessDenied {
        /// The endpoints, or the one that refused.
        endpoints: String,
        /// Who was refused, for example `user "app"`. Never a password.
        who: String,
        /// What access was asked for, for example a key prefix.
        what: String,
        /// The store's answer.
        source: Source,
    },

    /// The name is in use by another recipe. Nothing was left in the store; except that a semaphore or double barrier whose
    /// very first use coincides with that of the other recipe may have left its limit or number of parties, as if it had come
    /// and gone just before.
    #[error("{name:?} is in use as a {found}, so it cannot be a {wanted}: give each recipe a name of its own")]
    OtherRecipe {
        /// The name.
        name: String,
        /// The recipe asked for.
        wanted: &'static str,
        /// The recipe found.
        found: &'static str,
    },

    /// The semaphore has another limit. Nothing was left in the store.
    #[error(
        "semaphore {name:?} has {stored} permits in the store, not {asked}: use the same number everywhere, or change it with \
         `set_limit`"
    )]
    LimitMismatch {
        /// The semaphore.
        name: String,
        /// The limit that the caller believes in.
        asked: u32,
        /// The limit in the store.
        stored: u32,
    },

    /// The double barrier has another number of parties, or the latch another count. Nothing was left in the store.
    #[error("{recipe} {name:?} has {stored} {of} in the store, not {asked}: use the same number everywhere")]
    NumberMismatch {
        /// The name.
        name: String,
        /// The recipe.
        recipe: &'static str,
        /// What the number counts, such as "parties".
        of: &'static str,
        /// The number that the caller believes in.
        asked: u32,
        /// The number in the store.
        stored: u32,
    },

    /// A read lock cannot become a write lock: two readers that both wait for the other to leave would wait for ever.
    #[error("lock {lock:?} is held for reading and cannot be upgraded: release it, then lock it for writing")]
    UpgradeRefused {
        /// The lock.
        lock: String,
    },

    /// The deadline passed before the store answered whether the lock is free.
    #[error("lock {lock:?}: the deadline of {after:?} passed while {doing}; the attempt has been withdrawn")]
    Timeout {
        /// The lock.
        lock: String,
        /// The time allowed.
        after: Duration,
        /// What was under way.
        doing: &'static str,
    },

    /// The session ended while the lock was waited for; the place in the queue is gone. Try again: a new session opens.
    #[error("lock {lock:?}: the session ended while waiting ({loss}); the place in the queue is lost, acquire again")]
    SessionLost {
        /// The lock.
        lock: String,
        /// How it ended.
        loss: Loss,
    },

    /// Somebody removed the waiting entry from the queue. Try again for a new place.
    #[error(
        "lock {lock:?}: the waiting entry was removed by somebody else; acquire again for a new place in the queue"
    )]
    EntryRemoved {
        /// The lock.
        lock: String,
    },

    /// The guard no longer holds its lock.
    #[error("lock {lock:?} is no longer held ({loss}); stop the work it protects")]
    Lost {
        /// The lock.
        lock: String,
        /// How it was lost.
        loss: Loss,
    },

    /// The session is over, said by the store to a backend's call.
    #[error("the session {session} is over")]
    SessionOver {
        /// The session's id in the store.
        session: String,
    },

    /// The store did not answer, or its answer leaves open whether the request was applied.
    #[error("no definite answer from the store, asked to {request}")]
    Unavailable {
        /// What was asked for, such as "renew the session".
        request: Cow<'static, str>,
        /// The failure.
        source: Source,
    },

    /// The store definitely refused the request.
    #[error("the store refused to {request}")]
    Refused {
        /// What was asked for, such as "enter the queue of lock "x"".
        request: Cow<'static, str>,
        /// The store's answer.
        source: Source,
    },

    /// The runtime that carries the sessions could not be started or has been shut down.
    #[error("the runtime of the lock sessions {problem}")]
    Runtime {
        /// What happened and what to do.
        problem: String,
    },
}

impl Error {
    /// Whether a new acquire may succeed without a change of configuration: a place in the queue, a session or a guard
    /// was lost, or the store could not be reached.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let name = client.mutex("x".repeat(300)).unwrap_err();
    /// assert!(!name.is_retryable(), "it will not be shorter the next time");
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// client.close().await;
    /// let lost = guard.check().unwrap_err();
    /// assert!(lost.is_retryable() && client.mutex("reindex")?.lock().await.is_ok());
    /// # Ok(()) }
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::SessionLost { .. }
                | Self::SessionOver { .. }
                | Self::EntryRemoved { .. }
                | Self::Lost { .. }
                | Self::Unavailable { .. }
        )
    }

    /// For backends: the request, such as "enter the queue", may have been applied.
    ///
    /// # Examples
    /// ```
    /// use lock_core::Error;
    ///
    /// let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset); // after the request was sent
    /// let error = Error::unavailable("enter the queue", reset);
    /// assert!(error.is_retryable());
    /// assert!(error.to_string().ends_with("asked to enter the queue"));
    /// ```
    pub fn unavailable(request: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { request: request.into(), source: Arc::new(source) }
    }

    /// For backends: the request, such as "enter the queue", was certainly not applied, and will not be if repeated.
    ///
    /// # Examples
    /// ```
    /// use lock_core::Error;
    ///
    /// let error = Error::refused("enter the queue", std::io::Error::other("request is too large"));
    /// assert!(!error.is_retryable());
    /// assert_eq!(error.to_string(), "the store refused to enter the queue");
    /// ```
    pub fn refused(request: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Refused { request: request.into(), source: Arc::new(source) }
    }

    /// Whether the caller asked for something that this name, or this number, cannot be.
    pub(crate) fn is_misuse(&self) -> bool {
        matches!(
            self,
            Self::OtherRecipe { .. }
                | Self::LimitMismatch { .. }
                | Self::NumberMismatch { .. }
                | Self::InvalidConfig { .. }
        )
    }

    pub(crate) fn runtime_gone() -> Self {
        Self::Runtime { problem: "has been shut down; keep it alive as long as its locks".into() }
    }

    pub(crate) fn too_many_permits(wanted: u32, limit: u32) -> Self {
        Self::InvalidConfig {
            setting: "permits".into(),
            value: wanted.to_string(),
            expected: format!("1 to {limit}, the limit of the semaphore"),
        }
    }

    /// Names the lock in an error of a backend's call.
    pub(crate) fn of_lock(mut self, lock: &Name) -> Self {
        if let Self::Unavailable { request, .. } | Self::Refused { request, .. } = &mut self {
            *request = format!("{request} of lock {lock:?}").into();
        }
        self
    }

    /// Whether the cause is the end of the session, so that every guard of that session is lost too. `false` also when no more
    /// than the removal of one entry was seen: see [`Loss::EntryRemoved`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let (broken, other) = (client.mutex("a")?.lock().await?, client.mutex("b")?.lock().await?);
    /// client.queue("a")?.break_lock(broken.token()).await?;
    /// broken.lost().await;
    /// assert!(!broken.check().unwrap_err().is_session_lost() && other.check().is_ok());
    /// client.close().await;
    /// assert!(other.check().unwrap_err().is_session_lost(), "and every other guard is lost, too");
    /// # Ok(()) }
    /// ```
    pub fn is_session_lost(&self) -> bool {
        match self {
            Self::SessionLost { .. } | Self::SessionOver { .. } => true,
            Self::Lost { loss, .. } => matches!(loss, Loss::Expired | Loss::SessionEnded | Loss::Stuck | Loss::Closed),
            _ => false,
        }
    }
}

/// How a guard or a session ended.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
/// # let clock = lock_core::clock::TokioClock::new();
/// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
/// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
/// use lock_core::Loss;
///
/// let guard = client.mutex("reindex")?.lock().await?;
/// client.queue("reindex")?.break_lock(guard.token()).await?;
/// match guard.lost().await {
///     Loss::EntryRemoved => println!("an operator gave the lock to the next"),
///     loss => unreachable!("{loss}"),
/// }
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The store could not be shown to keep the session alive in time.
    Expired,
    /// The store ended the session.
    SessionEnded,
    /// The session was ended because an entry of it could not be removed, or not be found after a lost reply, for a whole
    /// ttl; its end removes the entry.
    Stuck,
    /// This process closed the session.
    Closed,
    /// The lock's entry was removed by somebody else, for example by an operator; or by the store with its session, when that
    /// was the first that was seen of the session's end.
    EntryRemoved,
    /// The guard was released or dropped.
    Released,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no proof in time that the session is still alive",
            Self::SessionEnded => "the store ended the session",
            Self::Stuck => "an entry of the session could not be removed or found, so the session was ended",
            Self::Closed => "the client was closed",
            Self::EntryRemoved => "its entry was removed by somebody else",
            Self::Released => "it was released",
        })
    }
}
