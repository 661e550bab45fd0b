//! A live session: the backend's session, its health, and the one task that renews and finally closes it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::unconstrained;
use tokio::time::timeout;

use crate::backend::{Backend, Dequeued, Entry, Session, Written};
use crate::clock::{Clock, Instant, sleep_until};
use crate::error::{Error, Loss, Result};
use crate::health::Health;
use crate::locals::Locals;
use crate::metrics::Counters;
use crate::roll_call::RollCall;
use crate::signal::Signal;
use crate::unwatched::Unwatched;

/// Renewals per ttl. Six leave time for several failed ones before the proven life runs out.
const BEATS_PER_TTL: u32 = 6;

/// Closing a session waits for this part of its ttl, at most, for those who leave in order.
const LEAVING_BUDGET: u32 = 3;

/// Renewals tried before a session that has just been opened is given up.
const FIRST_RENEWALS: u32 = 3;

#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) session: Arc<dyn Session>,
    pub(crate) health: Arc<Health>,
    pub(crate) runtime: Handle,
    pub(crate) counters: Arc<Counters>,
    pub(crate) locals: Locals,
    pub(crate) unwatched: Arc<Unwatched>,
    pub(crate) roll_call: RollCall,
    renew_now: Arc<Notify>,
    /// Whether it is about to be closed.
    closing: Signal<bool>,
    /// How many have to leave their queues in order before that.
    leaving: Signal<usize>,
    closed: watch::Receiver<bool>,
}

/// One who leaves a queue in order. The session is not closed before, as far as the store answers.
#[derive(Debug)]
pub(crate) struct Leaving(Arc<Live>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leaving.set_if(|count| {
            *count -= 1;
            true
        });
    }
}

/// The definite end of [`Live::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// The entry is gone, by this removal.
    Removed,
    /// The entry was gone already.
    Absent,
    /// The session is over, and the entry goes with it.
    SessionLost,
}

impl Live {
    pub(crate) async fn open(
        backend: &dyn Backend,
        owner: &[u8],
        runtime: Handle,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>> {
        let session = backend.open(owner).await?;
        let valid_until = match first_proof(&*session, &*clock).await {
            Ok(until) => until,
            Err(error) => {
                let _ = session.close().await;
                return Err(error);
            }
        };
        counters.sessions_opened.add_one();
        counters.renewals.add_one();
        let health = Arc::new(Health::new(clock, valid_until));
        let renew_now = Arc::new(Notify::new());
        let (closed_sender, closed) = watch::channel(false);
        runtime.spawn({
            let keeper = Keeper {
                session: session.clone(),
                health: health.clone(),
                counters: counters.clone(),
                renew_now: renew_now.clone(),
            };
            async move {
                keeper.keep().await;
                closed_sender.send_replace(true);
            }
        });
        Ok(Arc::new(Self {
            session,
            health,
            runtime,
            counters,
            locals: Locals::default(),
            unwatched: Arc::default(),
            roll_call: RollCall::default(),
            renew_now,
            closing: Signal::new(false),
            leaving: Signal::new(0),
            closed,
        }))
    }

    /// Whether there is somebody who renews it; not when its runtime is gone.
    pub(crate) fn is_kept(&self) -> bool {
        self.closed.has_changed().is_ok() || self.health.check().is_err()
    }

    /// The interval of renewals.
    fn beat(&self) -> Duration {
        self.session.ttl() / BEATS_PER_TTL
    }

    /// Resolves when at least one beat of proven life is left, asking for a renewal if need be.
    pub(crate) async fn proven(&self) -> Result<(), Loss> {
        let proofs = self.health.proofs();
        loop {
            let seen = proofs.version();
            if self.health.left()? >= self.beat() {
                return Ok(());
            }
            self.renew_now();
            tokio::select! {
                biased;
                loss = self.health.lost() => return Err(loss),
                _ = proofs.changed(seen) => {}
            }
        }
    }

    /// Asks for a renewal before it is due. An entry that vanished may be the first sign that the session is over.
    pub(crate) fn renew_now(&self) {
        self.renew_now.notify_one();
    }

    /// Makes a request again and again until it is answered or the session is lost.
    pub(crate) async fn retry<T, F>(&self, request: impl Fn() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut backoff = Backoff::default();
        loop {
            let answer = tokio::select! {
                biased;
                _ = self.health.lost() => return Err(self.over()),
                answer = request() => answer,
            };
            match answer {
                Err(Error::Unavailable { request, source }) => {
                    tracing::debug!(%request, %source, "no answer, asking again");
                    backoff.wait(&self.health).await;
                }
                answer => return answer.inspect_err(|error| self.note(error)),
            }
        }
    }

    /// Removes an entry that is given up. Goes on until the answer is definite; an entry that resists for a whole ttl takes
    /// the session with it, because a session that is kept alive would keep the entry for ever.
    pub(crate) async fn remove(&self, entry: &Entry) -> Removal {
        self.locals.leave(entry);
        let removal = self.remove_from_store(entry).await;
        self.locals.forget(entry);
        removal
    }

    async fn remove_from_store(&self, entry: &Entry) -> Removal {
        let mut backoff = Backoff::default();
        let mut give_up = None;
        loop {
            let answer = tokio::select! {
                biased;
                _ = self.health.lost() => return Removal::SessionLost,
                answer = self.session.dequeue(entry) => answer,
            };
            match answer {
                Ok(Dequeued::Removed) => {
                    self.counters.dequeued.add_one();
                    return Removal::Removed;
                }
                // An earlier call whose answer was lost may be the one that removed it.
                Ok(Dequeued::Absent) if give_up.is_some() => {
                    self.counters.dequeued.add_one();
                    return Removal::Removed;
                }
                Ok(Dequeued::Absent) => return Removal::Absent,
                Err(Error::SessionOver { .. }) => self.health.lose(Loss::SessionEnded),
                Err(error) => {
                    let now = self.health.clock().now();
                    if !error.is_retryable() || now >= *give_up.get_or_insert_with(|| now + self.session.ttl()) {
                        tracing::error!(entry = &*entry.key, %error, "an entry cannot be removed, ending its session");
                        self.health.lose(Loss::Stuck);
                    } else {
                        tracing::debug!(entry = &*entry.key, %error, "removal not confirmed, trying again");
                        backoff.wait(&self.health).await;
                    }
                }
            }
        }
    }

    /// Removes an entry in the background. Works outside any runtime; never blocks, never panics.
    pub(crate) fn remove_later(self: Arc<Self>, entry: Entry) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move { self.remove(&entry).await });
    }

    /// Writes an entry as it is in the background, so that those who watch it look again.
    pub(crate) fn touch_later(self: Arc<Self>, entry: Entry) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            // An entry that is gone, or goes with its session, needs no touch.
            match self.rewrite(&entry, |value| Some(value.to_vec())).await {
                Err(error) if !error.is_session_lost() => {
                    tracing::warn!(entry = &*entry.key, %error, "the next in the queue is not told and will find out late");
                }
                _ => {}
            }
        });
    }

    /// Replaces the value of an entry or a record by what `change` makes of it, as often as others are faster, until it is
    /// done or `change` wants nothing. Returns whether the entry exists.
    ///
    /// `change` is asked again when an answer was lost, and may then see what it has written itself.
    pub(crate) async fn rewrite(
        &self,
        entry: &Entry,
        mut change: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send,
    ) -> Result<bool> {
        let mut backoff = Backoff::default();
        loop {
            let Some(content) = self.retry(|| self.session.read(entry)).await? else { return Ok(false) };
            let Some(value) = change(&content.value) else { return Ok(true) };
            match self.session.write(entry, content.version, &value).await {
                Ok(Written::Done) => return Ok(true),
                Ok(Written::Conflict) => {}
                Err(Error::Unavailable { request, source }) => {
                    tracing::debug!(entry = &*entry.key, %request, %source, "the answer was lost");
                }
                Err(error) => {
                    self.note(&error);
                    return Err(error);
                }
            }
            backoff.wait(&self.health).await;
        }
    }

    /// Takes note of an error that tells about the session.
    pub(crate) fn note(&self, error: &Error) {
        if matches!(error, Error::SessionOver { .. }) {
            self.health.lose(Loss::SessionEnded);
        }
    }

    /// The error of whoever needs the session when it is lost.
    pub(crate) fn over(&self) -> Error {
        Error::SessionOver { session: self.session.id() }
    }

    /// Resolves when the session is about to be closed.
    pub(crate) async fn closing(&self) {
        self.closing.wait_for(|closing| *closing).await;
    }

    /// Keeps the session from being closed until this one has left.
    pub(crate) fn leaving(self: &Arc<Self>) -> Leaving {
        self.leaving.set_if(|count| {
            *count += 1;
            true
        });
        Leaving(self.clone())
    }

    /// Ends the session and waits until the store was told, as far as it can be reached.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.closing.set_if(|closing| !std::mem::replace(closing, true));
        if self.leaving.value() > 0 {
            let live = self.clone();
            let left = self.runtime.spawn(async move {
                tokio::select! {
                    biased;
                    () = live.leaving.wait_for(|count| *count == 0) => {}
                    _ = live.health.lost() => {}
                    () = tokio::time::sleep(live.session.ttl() / LEAVING_BUDGET) => {}
                }
                live.health.lose(Loss::Closed);
            });
            let _ = left.await;
        }
        self.health.lose(Loss::Closed);
        // An error means that the runtime is gone and the keeper with it.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.health.lose(Loss::Closed);
    }
}

async fn first_proof(session: &dyn Session, clock: &dyn Clock) -> Result<Instant> {
    let mut tries = 0;
    loop {
        let asked = clock.now();
        tries += 1;
        match session.renew().await {
            Ok(valid) => return Ok(asked + valid),
            Err(error) if tries == FIRST_RENEWALS || !error.is_retryable() => return Err(error),
            Err(error) => tracing::debug!(%error, "the first renewal failed, trying again"),
        }
    }
}

/// The task of one session: renews it until it is lost, then closes it.
struct Keeper {
    session: Arc<dyn Session>,
    health: Arc<Health>,
    counters: Arc<Counters>,
    renew_now: Arc<Notify>,
}

impl Keeper {
    async fn keep(&self) {
        let loss = tokio::select! {
            biased;
            loss = self.health.lost() => loss,
            loss = self.renew() => loss,
        };
        if loss != Loss::Closed {
            self.counters.sessions_lost.add_one();
            tracing::warn!(session = self.session.id(), %loss, "session lost");
        }
        if let Err(error) = self.session.close().await {
            tracing::debug!(session = self.session.id(), %error, "the store was not told of the session's end");
        }
    }

    /// Resolves when the proven life has run out, which `check` makes a loss.
    async fn expire(&self) -> Loss {
        loop {
            match self.health.check() {
                Ok(until) => sleep_until(self.health.clock(), until).await,
                Err(loss) => return loss,
            }
        }
    }

    /// Renews it for as long as it lives.
    async fn renew(&self) -> Loss {
        let clock = self.health.clock();
        let beat = self.session.ttl() / BEATS_PER_TTL;
        let mut backoff = Backoff::default();
        let mut next = clock.now() + beat;
        loop {
            // One timer for both, since thousands of sessions are idle.
            let until = match self.health.check() {
                Ok(until) => until,
                Err(loss) => return loss,
            };
            tokio::select! {
                biased;
                () = sleep_until(clock, next.min(until)) => {}
                () = self.renew_now.notified() => {}
            }
            let asked = clock.now();
            let renewed = tokio::select! {
                biased;
                loss = self.expire() => return loss,
                renewed = self.renew_once(beat) => renewed,
            };
            match renewed {
                Ok(valid) => {
                    if let Err(loss) = self.health.extend(asked + valid) {
                        return loss;
                    }
                    self.counters.renewals.add_one();
                    backoff = Backoff::default();
                    next = asked + beat;
                }
                Err(Error::SessionOver { .. }) => self.health.lose(Loss::SessionEnded),
                Err(error) => {
                    tracing::warn!(session = self.session.id(), %error, "renewal failed, trying again");
                    self.health.suspect();
                    next = clock.now() + backoff.next().min(beat / 4);
                }
            }
        }
    }

    /// One renewal; the session is suspect while it takes longer than a beat.
    async fn renew_once(&self, beat: Duration) -> Result<Duration> {
        let mut renewal = self.session.renew();
        tokio::select! {
            biased;
            answer = &mut renewal => return answer,
            () = tokio::time::sleep(beat) => self.health.suspect(),
        }
        renewal.await
    }
}

/// Watches are renewed this often even if nothing happens, because stores have lost events.
const RECHECK: Duration = Duration::from_secs(15);

/// Resolves when a watch is to be renewed; not for all at the same time.
pub(crate) async fn recheck() {
    tokio::time::sleep(RECHECK.mul_f64(0.7 + 0.6 * fastrand::f64())).await;
}

/// Growing, jittered pauses between tries: 10 ms to 1 s.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = Duration::from_millis(10 << self.tries.min(7)).min(Duration::from_secs(1));
        self.tries += 1;
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Waits for the next try, or for the loss of the session.
    pub(crate) async fn wait(&mut self, health: &Health) {
        // Boxed: it is rare, and would make everything large that may have to ask again.
        let _ = Box::pin(timeout(self.next(), health.lost())).await;
    }
}

/// Does something on this runtime, to its end. What need not wait for anything needs no task and is done on return.
pub(crate) fn run(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    let mut task = Box::pin(task);
    let done = {
        let _context = runtime.enter();
        // A caller who has used up its turn would make it wait for nothing.
        pin!(unconstrained(task.as_mut())).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    if !done {
        runtime.spawn(task);
    }
}
