//! The resource's side of fencing tokens.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Refuses the writes of holders that have been replaced: it remembers the greatest token that it has seen for each lock
/// and refuses smaller ones.
///
/// It belongs where the protected resource is changed, in the one process or the one transaction that does it. A store
/// that can compare numbers needs none of this; see "Fencing" in the README for SQL and for HTTP headers.
///
/// # Examples
/// ```
/// use lock_core::FencingGate;
///
/// let gate = FencingGate::new();
/// gate.admit("report", 7)?;
/// gate.admit("report", 9)?; // the next holder
/// gate.admit("report", 9)?; // which may write more than once
/// let late = gate.admit("report", 7).unwrap_err();
/// assert_eq!((late.token, late.greatest), (7, 9));
/// # Ok::<(), lock_core::StaleToken>(())
/// ```
#[derive(Debug, Default)]
pub struct FencingGate {
    greatest: Mutex<HashMap<String, u64>>,
}

/// A token that is smaller than one seen before.
///
/// # Examples
/// ```
/// use lock_core::{FencingGate, StaleToken};
///
/// let gate = FencingGate::new();
/// gate.admit("report", 9)?;
/// let stale = gate.admit("report", 7).unwrap_err(); // to be sent to the late holder
/// assert_eq!(stale, StaleToken { lock: "report".into(), token: 7, greatest: 9 });
/// # Ok::<(), StaleToken>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token {token} of lock {lock:?} is stale: {greatest} was seen; its holder has been replaced and must stop")]
pub struct StaleToken {
    /// The lock.
    pub lock: String,
    /// The token refused.
    pub token: u64,
    /// The greatest token seen.
    pub greatest: u64,
}

impl FencingGate {
    /// A gate that has seen nothing. After a restart, [`admit`](Self::admit) the [greatest](Self::greatest) token that was
    /// stored beside the resource before anybody else.
    ///
    /// # Examples
    /// ```
    /// let gate = lock_core::FencingGate::new();
    /// assert_eq!(gate.greatest("report"), None);
    /// gate.admit("report", 1)?; // whoever comes first passes
    /// # Ok::<(), lock_core::StaleToken>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the holder of this token pass, and nobody with a smaller one from now on.
    ///
    /// A check by itself is not enough: [`admit_and`](Self::admit_and) makes the change in the same step.
    ///
    /// # Errors
    /// [`StaleToken`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # let gate = lock_core::FencingGate::new();
    /// let mutex = client.mutex("report")?;
    /// let paused = mutex.lock().await?.token(); // the process sleeps, and its lock is given to the next
    /// let next = mutex.lock().await?;
    /// assert!(gate.admit("report", next.token()).is_ok());
    /// assert!(gate.admit("report", paused).is_err(), "too late");
    /// # Ok(()) }
    /// ```
    pub fn admit(&self, lock: &str, token: u64) -> Result<(), StaleToken> {
        self.admit_and(lock, token, || ())
    }

    /// Makes a change on behalf of the holder of this token, while nobody else passes.
    ///
    /// # Errors
    /// [`StaleToken`], and then `change` was not called.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::FencingGate;
    /// let gate = FencingGate::new();
    /// let mut file = Vec::new();
    /// gate.admit_and("report", 7, || file.push("line"))?;
    /// assert!(gate.admit_and("report", 6, || file.push("late")).is_err());
    /// assert_eq!(file, ["line"]);
    /// # Ok::<(), lock_core::StaleToken>(())
    /// ```
    pub fn admit_and<T>(&self, lock: &str, token: u64, change: impl FnOnce() -> T) -> Result<T, StaleToken> {
        // A change that panicked has still seen its token.
        let mut greatest = self.greatest.lock().unwrap_or_else(PoisonError::into_inner);
        match greatest.get_mut(lock) {
            Some(seen) if token < *seen => {
                return Err(StaleToken { lock: lock.to_owned(), token, greatest: *seen });
            }
            Some(seen) => *seen = token,
            None => {
                greatest.insert(lock.to_owned(), token);
            }
        }
        Ok(change())
    }

    /// The greatest token seen for a lock, to be stored beside the resource.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::FencingGate;
    /// let gate = FencingGate::new();
    /// gate.admit("report", 9)?;
    /// let stored = gate.greatest("report").expect("one has passed");
    ///
    /// let gate = FencingGate::new(); // after a restart
    /// gate.admit("report", stored)?; // before anybody else
    /// assert!(gate.admit("report", 7).is_err());
    /// # Ok::<(), lock_core::StaleToken>(())
    /// ```
    pub fn greatest(&self, lock: &str) -> Option<u64> {
        self.greatest.lock().unwrap_or_else(PoisonError::into_inner).get(lock).copied()
    }
}
