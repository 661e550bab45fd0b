//! The proof of holding a lock, which knows by itself when it stopped being one.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use crate::acquire::Request;
use crate::backend::{Change, Dequeued, Entry, Kind, Placed, Session, Watch, Watched};
use crate::clock::{Instant, sleep_until};
use crate::error::{Error, Loss, Result};
use crate::health::Health;
use crate::lock_delay;
use crate::name::Name;
use crate::revocation;
use crate::session::{self, Live};
use crate::signal::Signal;
use crate::state::{State, StateWatch, state};
use crate::unwatched;

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
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let guard = client.mutex("ledger")?.lock().await?;
/// guard.run(async { /* stopped in time */ }).await?;
/// guard.check()?; // or this before each effect
/// let token = guard.token();
/// drop(guard);
/// let next = client.mutex("ledger")?.lock().await?;
/// assert!(next.token() > token);
/// # Ok(()) }
/// ```
#[must_use = "a lock is released when its guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    lock: Name,
    token: u64,
    live: Arc<Live>,
    own: Arc<Own>,
    /// No watch on the entry has been opened yet.
    unwatched: Option<unwatched::Key>,
    /// The next holder waits if this one vanishes, so a release in order has to be said.
    delays: bool,
}

/// What becomes known about one entry.
#[derive(Debug)]
pub(crate) struct Own {
    entry: Entry,
    loss: OnceLock<Loss>,
    told: Notify,
    revoked: Signal<bool>,
    watcher: OnceLock<AbortHandle>,
}

impl Own {
    fn new(entry: Entry) -> Self {
        let (loss, watcher) = (OnceLock::new(), OnceLock::new());
        Self { entry, loss, told: Notify::new(), revoked: Signal::new(false), watcher }
    }

    pub(crate) fn loss(&self) -> Option<Loss> {
        self.loss.get().copied()
    }

    /// Returns whether it was held until now. The first reason given stands.
    fn lose(&self, loss: Loss) -> bool {
        let held = self.loss.set(loss).is_ok();
        if held {
            self.told.notify_waiters();
        }
        held
    }

    /// Resolves when it is lost.
    pub(crate) async fn lost(&self) {
        // From here on no loss is missed.
        let told = self.told.notified();
        if self.loss().is_none() {
            told.await;
        }
    }
}

/// What became of a [`Guard::release`].
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::Release;
///
/// let guard = client.mutex("ledger")?.lock().await?;
/// client.queue("ledger")?.break_lock(guard.token()).await?;
/// match guard.release().await {
///     Release::NotHeld => println!("somebody else may have worked at the same time"),
///     Release::Released | Release::Pending => unreachable!("it was broken"),
/// }
/// # Ok(()) }
/// ```
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
    pub(crate) fn new(request: &Request, live: Arc<Live>, placed: Placed, watched: Option<Watch>) -> Self {
        live.counters.granted.add_one();
        let patience = match request.kind {
            // Its removal is what it is there for.
            Kind::Sleeper => Duration::ZERO,
            _ => WATCH_OWN_AFTER,
        };
        Self::watched(request.queue.clone(), request.delay.is_some(), live, placed, watched, patience)
    }

    fn watched(
        lock: Name,
        delays: bool,
        live: Arc<Live>,
        placed: Placed,
        watched: Option<Watch>,
        patience: Duration,
    ) -> Self {
        let own = Arc::new(Own::new(placed.entry));
        let start = {
            let (live, own) = (live.clone(), own.clone());
            move || {
                let watcher = live.runtime.clone().spawn(watch_own(live, watched, own.clone()));
                let _ = own.watcher.set(watcher.abort_handle());
            }
        };
        let unwatched = if patience.is_zero() {
            start();
            None
        } else {
            Some(live.unwatched.add(&live.runtime, tokio::time::Instant::now() + patience, start))
        };
        Self { lock, token: placed.token, live, own, unwatched, delays }
    }

    /// Turns a write lock into a read lock in its place. To be run to its end.
    pub(crate) async fn downgrade(self) -> Result<Self> {
        self.check()?;
        // Where the entry gets another name, the removal of the old one is no loss.
        self.stop_watching();
        let live = self.live.clone();
        let turned = live.retry(|| live.session.downgrade(self.entry())).await;
        match turned {
            Ok(Some(entry)) => {
                self.own.lose(Loss::Released);
                if entry != *self.entry() {
                    live.locals.forget(self.entry());
                }
                let placed = Placed { entry, token: self.token, ahead: None };
                Ok(Self::watched(self.lock.clone(), self.delays, live, placed, None, Duration::ZERO))
            }
            Ok(None) => {
                self.own.lose(Loss::EntryRemoved);
                live.locals.forget(self.entry());
                Err(self.lost_error(Loss::EntryRemoved))
            }
            Err(error) => {
                // Which of its two names the entry has is not known, so that only the end of the session removes it.
                if live.health.check().is_ok() {
                    tracing::error!(entry = &*self.entry().key, %error, "an entry cannot be downgraded, ending its session");
                    live.health.lose(Loss::Stuck);
                }
                self.check()?;
                Err(error)
            }
        }
    }

    /// The lock's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.mutex("ledger")?.lock().await?.name(), "ledger");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.lock.as_str()
    }

    /// The fencing token: greater than that of every earlier grant of this lock.
    ///
    /// A resource that remembers the greatest token it has seen and refuses smaller ones is safe even from a holder that
    /// was paused between `check` and its write.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("ledger")?;
    /// let first = mutex.lock().await?;
    /// let seen = first.token(); // UPDATE ledger SET …, token = $1 WHERE token <= $1
    /// first.release().await;
    /// assert!(mutex.lock().await?.token() > seen);
    /// # Ok(()) }
    /// ```
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
        let loss = self.own.loss().or_else(|| self.live.health.check().err());
        loss.map_or(Ok(()), |loss| Err(self.lost_error(loss)))
    }

    /// The moment until which the lock is proven to be held, on the client's clock; it moves forward with each renewal.
    /// `None` once lost.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::clock::{BootClock, Clock};
    ///
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let deadline = guard.valid_until().expect("held"); // for a step that can be told when to give up
    /// assert!(deadline > BootClock.now());
    /// client.close().await;
    /// assert_eq!(guard.valid_until(), None);
    /// # Ok(()) }
    /// ```
    pub fn valid_until(&self) -> Option<Instant> {
        if self.own.loss().is_some() {
            return None;
        }
        self.live.health.check().ok()
    }

    /// How long the lock is proven to be held from now on; zero once lost.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let timeout = guard.valid_for() / 2; // for a request that must not outlive the lock
    /// assert!(!timeout.is_zero() && guard.valid_for() <= client.ttl().await?);
    /// client.close().await;
    /// assert!(guard.valid_for().is_zero());
    /// # Ok(()) }
    /// ```
    pub fn valid_for(&self) -> Duration {
        if self.own.loss().is_some() {
            return Duration::ZERO;
        }
        self.live.health.left().unwrap_or_default()
    }

    /// Held, suspect or lost.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::{Loss, State};
    ///
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// assert_eq!(guard.state(), State::Held);
    /// client.close().await;
    /// assert_eq!(guard.state(), State::Lost(Loss::Closed));
    /// # Ok(()) }
    /// ```
    pub fn state(&self) -> State {
        state(self.own.loss(), &self.live.health)
    }

    /// A view of the state that can be kept apart from the guard and waited on.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let mut watch = guard.watch();
    /// let alarm = tokio::spawn(async move { watch.lost().await });
    /// guard.release().await; // whoever has the guard need not know of the alarm
    /// assert_eq!(alarm.await.expect("no panic"), lock_core::Loss::Released);
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> StateWatch {
        StateWatch::new(self.own.clone(), self.live.health.clone())
    }

    /// Resolves when the lock is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// client.queue("ledger")?.break_lock(guard.token()).await?; // by an operator
    /// tokio::select! {
    ///     () = std::future::pending() => { /* work that ends by itself */ }
    ///     loss = guard.lost() => assert_eq!(loss, lock_core::Loss::EntryRemoved),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn lost(&self) -> Loss {
        self.watch().lost().await
    }

    /// Resolves when somebody asks this holder to let go, with [`Queue::revoke`](crate::Queue::revoke) or, on ZooKeeper,
    /// Curator's `Revoker`. Whether to follow is the holder's choice. A lock held for less than a quarter of a second may
    /// not notice.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("index")?.lock().await?;
    /// client.queue("index")?.revoke(guard.token()).await?;
    /// tokio::select! {
    ///     () = guard.revoked() => println!("letting go"),
    ///     loss = guard.lost() => println!("{loss}"),
    /// }
    /// guard.release().await;
    /// # Ok(()) }
    /// ```
    pub async fn revoked(&self) {
        self.own.revoked.wait_for(|revoked| *revoked).await;
    }

    /// Whether somebody has asked this holder to let go.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("index")?.lock().await?;
    /// client.queue("index")?.revoke(guard.token()).await?; // in any process
    /// while !guard.is_revoked() {
    ///     tokio::task::yield_now().await; // … index a batch …
    /// }
    /// guard.check()?; // asked, not forced
    /// # Ok(()) }
    /// ```
    pub fn is_revoked(&self) -> bool {
        self.own.revoked.value()
    }

    /// The entry in the store that proves it. For backends' crates and tools.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let mut places = client.queue("ledger")?.list().await?.into_iter();
    /// assert!(places.any(|place| place.entry == *guard.entry()), "which of the places is this one");
    /// # Ok(()) }
    /// ```
    pub fn entry(&self) -> &Entry {
        &self.own.entry
    }

    /// The session that owns the entry. For backends' crates and tools.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// assert_eq!(guard.session().id(), client.session_id().await?);
    /// # Ok(()) }
    /// ```
    pub fn session(&self) -> &Arc<dyn Session> {
        &self.live.session
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub(crate) fn lock(&self) -> &Name {
        &self.lock
    }

    /// Replaces the value that the entry shows, while the lock is held. A request to let go stays in it.
    pub(crate) async fn show(&self, value: &[u8]) -> Result<()> {
        self.check()?;
        let shown = self.live.rewrite(self.entry(), |old| {
            let new = revocation::keep(old, value);
            (self.check().is_ok() && new != old).then_some(new)
        });
        match shown.await {
            Ok(true) => self.check(),
            Ok(false) => Err(self.entry_removed()),
            Err(error) => self.check().and(Err(error)),
        }
    }

    /// Takes note that the entry is gone. The end of the session removes its entries too, and is then the reason to tell.
    pub(crate) fn entry_removed(&self) -> Error {
        if self.live.health.check().is_ok() {
            self.live.renew_now();
            self.own.lose(Loss::EntryRemoved);
            self.live.locals.forget(self.entry());
        }
        self.check().err().unwrap_or_else(|| self.lost_error(Loss::EntryRemoved))
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
                biased;
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
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("ledger")?;
    /// let released = mutex.lock().await?.release().await;
    /// assert_eq!(released, lock_core::Release::Released);
    /// assert!(mutex.try_lock().await?.is_some(), "free by now; after a drop, in a moment");
    /// # Ok(()) }
    /// ```
    pub async fn release(self) -> Release {
        self.let_go().await
    }

    /// As [`release`](Self::release), while others still look at the guard.
    pub(crate) async fn let_go(&self) -> Release {
        if self.check().is_err() {
            return Release::NotHeld;
        }
        self.end();
        let live = self.live.clone();
        let (answer, answered) = oneshot::channel();
        let leaving = self.leave();
        session::run(&self.live.runtime, async move {
            let budget = live.session.ttl() / RELEASE_BUDGET;
            let mut removal = pin!(leaving);
            let outcome = tokio::select! {
                biased;
                removed = &mut removal => match removed {
                    session::Removal::Removed => Release::Released,
                    session::Removal::Absent | session::Removal::SessionLost => Release::NotHeld,
                },
                // A timer only for what is not done at once.
                () = async { tokio::time::sleep(budget).await } => Release::Pending,
            };
            let _ = answer.send(outcome);
            if outcome == Release::Pending {
                removal.await;
            }
        });
        answered.await.unwrap_or(Release::Pending)
    }

    /// Gives the entry up and tells whether it was still there. Once an answer was lost, an entry that is absent may have
    /// been removed by this. To be run to its end.
    pub(crate) async fn take_back(self) -> Result<Dequeued> {
        self.end();
        let (live, entry) = (&self.live, self.entry());
        let asking = live.retry(|| live.session.dequeue(entry));
        if let Ok(Ok(dequeued)) = tokio::time::timeout(live.session.ttl(), asking).await {
            live.counters.dequeued.add_one();
            return Ok(dequeued);
        }
        match live.remove(entry).await {
            session::Removal::Removed | session::Removal::Absent => Ok(Dequeued::Absent),
            session::Removal::SessionLost => Err(live.over()),
        }
    }

    /// Removes the entry, in order.
    fn leave(&self) -> impl Future<Output = session::Removal> + Send + use<> {
        let (live, own) = (self.live.clone(), self.own.clone());
        let delayed = self.delays.then(|| (self.lock.clone(), self.token, live.leaving()));
        async move {
            if let Some((lock, token, _in_order)) = &delayed {
                Box::pin(lock_delay::forget(&live, lock, *token)).await;
            }
            live.remove(&own.entry).await
        }
    }

    /// Gives the lock up in the background, as [`Drop`] does, whoever else still has the guard.
    pub(crate) fn abandon(&self) {
        if self.end() {
            let leaving = self.leave();
            session::run(&self.live.runtime, async move {
                leaving.await;
            });
        }
    }

    /// Marks the guard lost locally. Returns whether it was held until now.
    fn end(&self) -> bool {
        let held = self.own.lose(Loss::Released);
        self.stop_watching();
        held
    }

    fn stop_watching(&self) {
        if let Some(unwatched) = self.unwatched {
            self.live.unwatched.take_back(unwatched);
        }
        if let Some(watcher) = self.own.watcher.get() {
            watcher.abort();
        }
    }

    fn lost_error(&self, loss: Loss) -> Error {
        Error::Lost { lock: self.lock.to_string(), loss }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Watches the holder's own entry, so that an operator who removes it is noticed within a second, and one who asks for it
/// is heard.
async fn watch_own(live: Arc<Live>, mut watched: Option<Watch>, own: Arc<Own>) {
    let entry = &own.entry;
    if own.loss().is_some() {
        // It was given up in the moment in which this began.
        return;
    }
    loop {
        // Boxed: it is done before the wait begins, and there may be thousands who hold.
        let (watch, version) = match Box::pin(look(&live, &own, watched.take())).await {
            Ok(Some(seen)) => seen,
            Ok(None) => break,
            Err(error) => return unwatchable(&live, entry, &error),
        };
        let mut present = live.roll_call.join(&live, entry, version);
        let change = tokio::select! {
            biased;
            _ = live.health.lost() => return,
            change = watch => change,
            () = present.changed() => Change::Unknown,
        };
        if change == Change::Removed {
            break;
        }
    }
    // The end of the session removes its entries too, and is then the reason to tell.
    if live.health.check().is_ok() {
        live.renew_now();
        own.lose(Loss::EntryRemoved);
        live.locals.forget(entry);
    }
}

/// The watch on a held entry, opened if need be, and the version of its value, which may ask the holder to let go; `None` when
/// it is gone.
async fn look(live: &Live, own: &Own, watched: Option<Watch>) -> Result<Option<(Watch, u64)>> {
    let watch = match watched {
        Some(watch) => watch,
        None => match live.retry(|| live.session.watch(&own.entry)).await? {
            Watched::Present(watch) => watch,
            Watched::Gone => return Ok(None),
        },
    };
    // With the watch in force, so that nothing written since is missed.
    let Some(content) = live.retry(|| live.session.read(&own.entry)).await? else { return Ok(None) };
    own.revoked.set_if(|revoked| {
        let asked = revocation::is_asked(&content.value);
        std::mem::replace(revoked, asked) != asked
    });
    Ok(Some((watch, content.version)))
}

/// The store definitely refuses to tell whether a held entry is still there.
fn unwatchable(live: &Live, entry: &Entry, error: &Error) {
    if !error.is_session_lost() {
        tracing::error!(entry = &*entry.key, %error, "a held entry cannot be watched, ending its session");
        live.health.lose(Loss::Stuck);
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

/// A task that nobody needs when this is gone.
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
