//! The proof of holding a lock, which knows by itself when it stopped being one.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::backend::{Change, Entry, Placed, Watch, Watched};
use crate::clock::{Instant, sleep_until};
use crate::error::{Error, Loss, Result};
use crate::health::Health;
use crate::name::Name;
use crate::session::{self, Live, recheck};
use crate::state::{State, StateWatch, state};

/// A lock held for less than this never pays for a watch on its own entry.
const WATCH_OWN_AFTER: Duration = Duration::from_millis(250);

/// `release` answers [`Release::Pending`] after this part of the ttl.
const RELEASE_BUDGET: u32 = 3;

/// `run` stops the work when this part of the ttl is left.
const RUN_MARGIN: u32 = 20;

/// A held lock. Releases it when dropped.
///
/// A guard is valid while its session is proven to live and its entry is in the queue. It cannot stop the store from
/// handing the lock on when the process is cut off or asleep; it knows the moment before which that cannot have happened.
/// So [`check`](Self::check) before each effect, or put the work into [`run`](Self::run), and pass [`token`](Self::token)
/// to resources that can compare it.
///
/// `Send`, not `Clone`. Dropping it marks it lost at once and removes its entry in the background, also outside of any
/// runtime; [`release`](Self::release) tells whether that worked.
#[must_use = "a lock is released when its guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    lock: Name,
    token: u64,
    live: Arc<Live>,
    entry: Entry,
    own: Arc<watch::Sender<Option<Loss>>>,
    watcher: AbortHandle,
}

/// What became of a [`Guard::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The store confirmed that the entry is gone; the next waiter has the lock.
    Released,
    /// The lock was no longer this guard's when the release began or while it ran. Nothing of another holder was touched.
    NotHeld,
    /// The store has not answered within a third of the ttl. The library goes on trying; at the latest the end of the
    /// session, at most two ttl away, removes the entry.
    Pending,
}

impl Guard {
    pub(crate) fn new(lock: Name, live: Arc<Live>, placed: Placed, watched: Option<Watch>) -> Self {
        live.counters.granted.add_one();
        let own = Arc::new(watch::Sender::new(None));
        let watcher = live.runtime.spawn(watch_own(live.clone(), placed.entry.clone(), watched, own.clone()));
        Self { lock, token: placed.token, live, entry: placed.entry, own, watcher: watcher.abort_handle() }
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.lock.as_str()
    }

    /// The fencing token: greater than that of every earlier grant of this lock.
    ///
    /// A resource that remembers the greatest token it has seen and refuses smaller ones is safe even from a holder that
    /// was paused between `check` and its write.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether the lock is still held. Synchronous, without I/O; about the cost of reading a clock.
    ///
    /// # Errors
    /// [`Error::Lost`], from the moment of loss on for ever.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// for line in ["a", "b"] {
    ///     guard.check()?;
    ///     println!("{line}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn check(&self) -> Result<()> {
        let own = *self.own.borrow();
        let loss = own.or_else(|| self.live.health.check().err());
        loss.map_or(Ok(()), |loss| Err(self.lost_error(loss)))
    }

    /// The moment until which the lock is proven to be held, on the client's clock; it moves forward with each renewal.
    /// `None` once lost.
    pub fn valid_until(&self) -> Option<Instant> {
        if self.own.borrow().is_some() {
            return None;
        }
        self.live.health.check().ok()
    }

    /// How long the lock is proven to be held from now on; zero once lost.
    pub fn valid_for(&self) -> Duration {
        let now = self.live.health.clock().now();
        self.valid_until().map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Held, suspect or lost.
    pub fn state(&self) -> State {
        state(*self.own.borrow(), &self.live.health)
    }

    /// A view of the state that can be kept apart from the guard and waited on.
    pub fn watch(&self) -> StateWatch {
        StateWatch::new(self.own.subscribe(), self.live.health.clone())
    }

    /// Resolves when the lock is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    pub async fn lost(&self) -> Loss {
        self.watch().lost().await
    }

    /// Runs `work` while the lock is held, and stops it before the validity ends.
    ///
    /// The work is dropped when a twentieth of the ttl is left, and is never polled after the lock was lost, not even once
    /// when the process was stopped and continued. It cannot be stopped inside of one poll: blocking code must `check`.
    ///
    /// # Errors
    /// [`Error::Lost`] when the work was stopped. The lock may be won back by a late renewal; [`check`](Self::check) tells.
    ///
    /// # Cancel safety
    /// Dropping it drops the work.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("report")?.lock().await?;
    /// let lines = guard.run(async { 42 }).await?;
    /// assert_eq!(lines, 42);
    /// # Ok(()) }
    /// ```
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        let (stop, stopped) = oneshot::channel();
        let health = self.live.health.clone();
        let margin = self.live.session.ttl() / RUN_MARGIN;
        let timer = self.live.runtime.spawn(async move {
            let _ = stop.send(nearly_expired(&health, margin).await);
        });
        let _timer = AbortOnDrop(timer.abort_handle());
        let mut states = self.watch();
        let mut stopped = pin!(async {
            tokio::select! {
                // A runtime that was shut down renews nothing any more.
                loss = stopped => loss.unwrap_or(Loss::Expired),
                loss = states.lost() => loss,
            }
        });
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.check()?;
            if let std::task::Poll::Ready(loss) = stopped.as_mut().poll(cx) {
                return std::task::Poll::Ready(Err(self.lost_error(loss)));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Gives the lock up and waits for the store's answer.
    ///
    /// The guard is lost locally before anything is sent. Nothing is sent when the lock is no longer held.
    ///
    /// # Cancel safety
    /// The lock is released all the same, in the background.
    pub async fn release(self) -> Release {
        if self.check().is_err() {
            return Release::NotHeld;
        }
        self.end();
        let (live, entry) = (self.live.clone(), self.entry.clone());
        let (answer, answered) = oneshot::channel();
        self.live.runtime.spawn(async move {
            let budget = live.session.ttl() / RELEASE_BUDGET;
            let mut removal = pin!(live.remove(&entry));
            let outcome = tokio::select! {
                removed = &mut removal => match removed {
                    session::Removal::Removed => Release::Released,
                    session::Removal::Absent | session::Removal::SessionLost => Release::NotHeld,
                },
                () = tokio::time::sleep(budget) => Release::Pending,
            };
            let _ = answer.send(outcome);
            if outcome == Release::Pending {
                removal.await;
            }
        });
        answered.await.unwrap_or(Release::Pending)
    }

    /// Marks the guard lost locally. Returns whether it was held until now.
    fn end(&self) -> bool {
        self.watcher.abort();
        self.own.send_if_modified(|loss| {
            let held = loss.is_none();
            loss.get_or_insert(Loss::Released);
            held
        })
    }

    fn lost_error(&self, loss: Loss) -> Error {
        Error::Lost { lock: self.lock.to_string(), loss }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.end() {
            self.live.clone().remove_later(self.entry.clone());
        }
    }
}

/// Watches the holder's own entry, so that an operator who removes it is noticed within a second.
async fn watch_own(live: Arc<Live>, entry: Entry, watched: Option<Watch>, own: Arc<watch::Sender<Option<Loss>>>) {
    let mut watched = watched;
    if watched.is_none() {
        tokio::time::sleep(WATCH_OWN_AFTER).await;
    }
    loop {
        let removal = match watched.take() {
            Some(removal) => Some(removal),
            None => match live.retry(|| live.session.watch(&entry)).await {
                Ok(Watched::Present(removal)) => Some(removal),
                Ok(Watched::Gone) => None,
                Err(error) if error.is_session_lost() => return,
                Err(error) => {
                    // The store definitely refuses to tell whether the lock is still there.
                    tracing::error!(entry = entry.key, %error, "a held entry cannot be watched, ending its session");
                    return live.health.lose(Loss::Stuck);
                }
            },
        };
        let removed = match removal {
            Some(removal) => tokio::select! {
                _ = live.health.lost() => return,
                removed = removal => removed,
                () = recheck() => Change::Unknown,
            },
            None => Change::Removed,
        };
        if removed == Change::Removed {
            break;
        }
    }
    // The end of the session removes its entries too, and is then the reason to tell.
    if live.health.check().is_ok() {
        live.renew_now();
        own.send_if_modified(|loss| {
            let held = loss.is_none();
            loss.get_or_insert(Loss::EntryRemoved);
            held
        });
    }
}

/// Resolves when less than `margin` of the proven life is left.
async fn nearly_expired(health: &Health, margin: Duration) -> Loss {
    loop {
        match health.check() {
            Err(loss) => return loss,
            Ok(until) => {
                let stop = Instant::from_nanos(until.as_nanos().saturating_sub(margin.as_nanos() as u64));
                if health.clock().now() >= stop {
                    return Loss::Expired;
                }
                sleep_until(health.clock(), stop).await;
            }
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
