//! The way into a queue and out of it; `turn.rs` has what is between, the only wait loop of this crate.
//!
//! An acquire that has to wait is a task of the client's runtime, because a request that was sent may be applied whatever
//! becomes of its caller. The caller holds a receiver; when it is dropped, the task withdraws the entry.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::backend::{Enqueue, Enqueued, Entry, Kind, Placed};
use crate::client::Client;
use crate::clock::Instant;
use crate::decision::{Decision, Limits, are_of_one_recipe};
use crate::error::{Error, Loss, Result};
use crate::guard::Guard;
use crate::lock_delay::{self, LockDelay};
use crate::name::Name;
use crate::record;
use crate::session::{Backoff, Live, run};
use crate::turn::{Belief, Turn};

/// How long a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    Try,
    /// Until the deadline, this long after the call.
    For(Duration),
    /// For ever.
    Forever,
}

/// What somebody wants.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) queue: Name,
    pub(crate) kind: Kind,
    /// The entry's value.
    pub(crate) value: Vec<u8>,
    /// For a semaphore, the limit that the caller believes in.
    pub(crate) limit: Option<u32>,
    pub(crate) delay: Option<LockDelay>,
}

impl Request {
    pub(crate) fn new(queue: &Name, kind: Kind, value: Vec<u8>) -> Self {
        Self { queue: queue.clone(), kind, value, limit: None, delay: None }
    }
}

/// An acquire under way. Dropping it withdraws.
#[derive(Debug)]
pub(crate) struct Acquiring {
    pub(crate) request: Arc<Request>,
    answer: oneshot::Receiver<Result<Option<Guard>>>,
    /// Nobody has asked for the entry yet.
    entered: Option<oneshot::Receiver<Entry>>,
    entry: Option<Entry>,
}

type Reply = oneshot::Sender<Result<Option<Guard>>>;

impl Acquiring {
    pub(crate) fn start(client: &Client, request: Arc<Request>, patience: Patience) -> Self {
        let (reply, answer) = oneshot::channel();
        let (enters, entered) = oneshot::channel();
        let deadline = match patience {
            Patience::For(after) => Some(client.clock().now() + after),
            Patience::Try | Patience::Forever => None,
        };
        let begun = lock_delay::Begun::default();
        let attempt = Attempt { client: client.clone(), request: request.clone(), patience, deadline, begun };
        run(client.runtime(), async move { attempt.run(reply, enters).await });
        Self { request, answer, entered: Some(entered), entry: None }
    }

    /// The entry, when there is one; `None` when there will be none.
    pub(crate) async fn entry(&mut self) -> Option<&Entry> {
        if let Some(entered) = &mut self.entered {
            self.entry = entered.await.ok();
            self.entered = None;
        }
        self.entry.as_ref()
    }

    /// The guard; `None` when it was not to be had in time.
    pub(crate) fn poll_guard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Guard>>> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            let answer = answer.unwrap_or_else(|_| Err(Error::runtime_gone()))?;
            if let Some(guard) = &answer {
                guard.live().locals.grant(guard.entry());
            }
            Ok(answer)
        })
    }
}

/// Acquires something. `None` when it was not to be had in time.
pub(crate) async fn acquire(client: &Client, request: Request, patience: Patience) -> Result<Option<Guard>> {
    let mut acquiring = Acquiring::start(client, request.into(), patience);
    poll_fn(|cx| acquiring.poll_guard(cx)).await
}

/// One acquire, as a task.
///
/// Thousands may wait, and a future is as large as the largest of its states, with room for all that lives on from one
/// to the next. So what is done before and after the wait is in futures of its own, and what is rare is boxed.
pub(crate) struct Attempt {
    client: Client,
    pub(crate) request: Arc<Request>,
    pub(crate) patience: Patience,
    deadline: Option<Instant>,
    pub(crate) begun: lock_delay::Begun,
}

/// Why an attempt is not continued.
enum Interruption {
    CallerGone,
    DeadlinePassed,
    SessionClosing,
}

impl Attempt {
    async fn run(&self, reply: Reply, enters: oneshot::Sender<Entry>) {
        let Some((mut reply, live, mut placed)) = self.take_place(reply).await else { return };
        live.counters.enqueued.add_one();
        live.locals.enter(&placed.entry, self.request.kind);
        let _ = enters.send(placed.entry.clone());

        // It may be about to be granted when the session is closed.
        let in_order = self.request.delay.map(|_| live.leaving());
        let closing = async {
            match &in_order {
                Some(_) => Box::pin(live.closing()).await,
                None => pending().await,
            }
        };
        let turn = tokio::select! {
            biased;
            why = self.interrupted(&mut reply) => Err(why),
            () = closing => Err(Interruption::SessionClosing),
            turn = self.wait_for_turn(&live, &mut placed) => Ok(turn),
        };
        let why = match turn {
            Ok(turn) => return self.take_turn(turn, reply, live, placed).await,
            Err(why) => why,
        };
        self.give_up(reply, &why, None);
        self.withdraw(&live, &placed).await;
    }

    /// Enters the queue; `None` when the caller was answered or is gone, and no entry is left.
    async fn take_place(&self, mut reply: Reply) -> Option<(Reply, Arc<Live>, Placed)> {
        let id = format!("{:032x}", fastrand::u128(..));
        let mut pause = None;
        let refusal = loop {
            let opening = async {
                if let Some(pause) = pause {
                    Box::pin(tokio::time::sleep(pause)).await;
                }
                self.client.live().await
            };
            let live = tokio::select! {
                biased;
                why = self.interrupted(&mut reply) => {
                    self.give_up(reply, &why, Some("opening a session"));
                    return None;
                }
                live = opening => live,
            };
            let live = match live {
                Ok(live) => live,
                Err(error) => break Err(error),
            };
            let entered = {
                let withdrawn = AtomicBool::new(false);
                // Never dropped: the request may be applied at any time, and its entry must be found again.
                let mut entering = pin!(self.enter(&live, &id, &withdrawn));
                tokio::select! {
                    biased;
                    why = self.interrupted(&mut reply) => {
                        withdrawn.store(true, Ordering::Relaxed);
                        self.give_up(reply, &why, Some("entering the queue"));
                        if let Ok(Enqueued::Placed(placed)) = entering.await {
                            live.remove(&placed.entry).await;
                        }
                        return None;
                    }
                    entered = &mut entering => entered,
                }
            };
            match entered {
                Ok(Enqueued::Placed(placed)) => return Some((reply, live, placed)),
                Ok(Enqueued::Busy) => break Ok(None),
                Err(Error::SessionOver { .. }) if live.health.check() == Err(Loss::Closed) => {
                    break Err(self.session_lost(Loss::Closed));
                }
                // Lost before it was of any use, for example unnoticed while idle: no place is lost, so try the next one.
                Err(Error::SessionOver { .. }) => pause = Some(Backoff::default().next()),
                Err(error) => break Err(error.of_lock(&self.request.queue)),
            }
        };
        answer(reply, refusal);
        None
    }

    /// Answers the caller, who has the lock or leaves the queue.
    async fn take_turn(&self, turn: Result<Turn>, mut reply: Reply, live: Arc<Live>, placed: Placed) {
        match turn {
            // When the caller is gone, the guard comes back and its drop releases the lock.
            Ok(Turn::Granted { own }) => answer(reply, Ok(Some(Guard::new(&self.request, live, placed, own)))),
            Ok(Turn::Busy) => {
                live.remove(&placed.entry).await;
                answer(reply, Ok(None));
            }
            // Told when nothing of it is left, but not after the deadline.
            Err(error) if error.is_misuse() => {
                tokio::select! {
                    biased;
                    _ = live.remove(&placed.entry) => {}
                    _ = self.interrupted(&mut reply) => live.remove_later(placed.entry),
                }
                answer(reply, Err(error));
            }
            Err(error) => {
                // The end of the session removes its entries too, and is then the reason to tell, even when this task was
                // told of its entry first.
                let error = match (error, live.health.check()) {
                    (Error::SessionOver { .. } | Error::EntryRemoved { .. }, Err(loss)) => self.session_lost(loss),
                    (Error::SessionOver { .. }, Ok(_)) => self.session_lost(Loss::SessionEnded),
                    (error, _) => {
                        if matches!(error, Error::EntryRemoved { .. }) {
                            live.renew_now();
                        }
                        error.of_lock(&self.request.queue)
                    }
                };
                live.remove_later(placed.entry);
                answer(reply, Err(error));
            }
        }
    }

    /// Leaves the queue.
    async fn withdraw(&self, live: &Live, placed: &Placed) {
        if self.request.delay.is_some() {
            lock_delay::withdraw(live, &self.request.queue, placed.token, &self.begun).await;
        }
        live.remove(&placed.entry).await;
    }

    async fn interrupted(&self, reply: &mut Reply) -> Interruption {
        let deadline = async {
            match self.deadline {
                // A waiter that is late after a suspend hurts nobody, and thousands of them should not nap.
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(self.client.clock().now());
                    Box::pin(tokio::time::sleep(left)).await;
                }
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = reply.closed() => Interruption::CallerGone,
            () = deadline => Interruption::DeadlinePassed,
        }
    }

    /// Tells the caller, unless it is gone, that the lock was not free in time, or that it is not known (`doing` what).
    fn give_up(&self, reply: Reply, why: &Interruption, doing: Option<&'static str>) {
        match (why, self.patience) {
            (Interruption::DeadlinePassed, Patience::For(after)) => {
                let timeout = |doing| Error::Timeout { lock: self.request.queue.to_string(), after, doing };
                answer(reply, doing.map_or(Ok(None), |doing| Err(timeout(doing))));
            }
            (Interruption::SessionClosing, _) => answer(reply, Err(self.session_lost(Loss::Closed))),
            (Interruption::CallerGone | Interruption::DeadlinePassed, _) => {}
        }
    }

    fn session_lost(&self, loss: Loss) -> Error {
        Error::SessionLost { lock: self.request.queue.to_string(), loss }
    }

    /// Enters the queue once, whatever becomes of requests and replies on the way. Does not enter again when `withdrawn`.
    async fn enter(&self, live: &Live, id: &str, withdrawn: &AtomicBool) -> Result<Enqueued> {
        let request = Enqueue {
            queue: &self.request.queue,
            kind: self.request.kind,
            id,
            value: &self.request.value,
            only_if_free: self.patience == Patience::Try && excludes_all(self.request.kind),
        };
        if self.patience == Patience::Try && !request.only_if_free && Box::pin(self.is_busy(live)).await? {
            return Ok(Enqueued::Busy);
        }
        loop {
            match live.session.enqueue(&request).await {
                Err(Error::Unavailable { request, source }) => {
                    tracing::debug!(lock = %self.request.queue, %request, %source, "the answer was lost");
                }
                definite => return definite.inspect_err(|error| live.note(error)),
            }
            live.counters.ambiguous.add_one();
            Backoff::default().wait(&live.health).await;
            if let Some(placed) = Box::pin(self.settle(live, &request)).await? {
                return Ok(Enqueued::Placed(placed));
            }
            if withdrawn.load(Ordering::Relaxed) {
                return Ok(Enqueued::Busy);
            }
        }
    }

    /// Whether one who is not ready to wait need not even enter, where the queue may be shared. An entry that joins only to
    /// leave again could be in the way of others who are not ready to wait either.
    async fn is_busy(&self, live: &Live) -> Result<bool> {
        let limits = match self.request.limit {
            Some(believed) => {
                let stored = record::limits(live, &self.request.queue).await?;
                stored.unwrap_or_else(|| Limits::first(believed))
            }
            None => Limits::NONE,
        };
        let rule = self.rule_within(limits, Belief::Checked)?;
        let queue = live.retry(|| live.session.entries(&self.request.queue, usize::MAX)).await?;
        let first = queue.first().map(|entry| entry.kind);
        let nearest = queue.into_iter().rev().map(|entry| entry.standing()).collect();
        let ahead = crate::backend::Ahead { nearest, more: false };
        match (rule.decide(&ahead), first) {
            (Decision::OtherRecipe(_), Some(first)) if !are_of_one_recipe(rule.kind, first) => {
                Err(self.other_recipe(first))
            }
            (decision, _) => Ok(decision != Decision::Granted),
        }
    }

    /// Finds the entry of a request whose reply was lost. An entry that cannot be found for a whole ttl takes the session
    /// with it, because renewals would keep it for ever.
    async fn settle(&self, live: &Live, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let settled = timeout(live.session.ttl(), live.retry(|| live.session.adopt(request))).await;
        let error = match settled {
            Ok(Ok(placed)) => return Ok(placed),
            Ok(Err(error)) => error,
            Err(_) => live.over(),
        };
        if live.health.check().is_ok() {
            tracing::error!(lock = %self.request.queue, %error, "a lost reply cannot be settled, ending the session");
            live.health.lose(Loss::Stuck);
        }
        Err(error)
    }
}

/// Whether an entry of this kind is in nobody's company when it is granted.
fn excludes_all(kind: Kind) -> bool {
    matches!(kind, Kind::Exclusive | Kind::Write | Kind::Candidate | Kind::Unmarked)
}

fn answer(reply: Reply, result: Result<Option<Guard>>) {
    let _ = reply.send(result);
}
