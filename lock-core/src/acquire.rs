//! The way into a queue and through it: the only wait loop of this crate.
//!
//! An acquire is a task of the client's runtime, because a request that was sent may be applied whatever becomes of its
//! caller. The caller holds a receiver; when it is dropped, the task withdraws the entry.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tokio::time::timeout;

use crate::backend::{Change, Enqueue, Enqueued, Entry, Kind, Placed, Watch, Watched};
use crate::client::Client;
use crate::clock::Instant;
use crate::error::{Error, Loss, Result};
use crate::guard::Guard;
use crate::name::Name;
use crate::queue::{Decision, EXCLUSIVE_LIMIT, exclusive};
use crate::session::{Backoff, Live, recheck};

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

type Reply = oneshot::Sender<Result<Option<Guard>>>;

/// Acquires a lock. `None` when it was not free in time.
pub(crate) async fn acquire(client: &Client, lock: &Name, value: Vec<u8>, patience: Patience) -> Result<Option<Guard>> {
    let (reply, answer) = oneshot::channel();
    let deadline = match patience {
        Patience::For(after) => Some(client.clock().now() + after),
        Patience::Try | Patience::Forever => None,
    };
    let attempt = Attempt {
        client: client.clone(),
        lock: lock.clone(),
        id: format!("{:032x}", fastrand::u128(..)),
        value,
        patience,
        deadline,
        withdrawn: AtomicBool::new(false),
    };
    client.runtime().spawn(attempt.run(reply));
    answer.await.unwrap_or_else(|_| {
        Err(Error::Runtime { problem: "has been shut down; keep it alive as long as its locks".into() })
    })
}

struct Attempt {
    client: Client,
    lock: Name,
    id: String,
    value: Vec<u8>,
    patience: Patience,
    deadline: Option<Instant>,
    /// The caller is not interested any more: do not enter again.
    withdrawn: AtomicBool,
}

/// Why an attempt is not continued.
enum Interruption {
    CallerGone,
    DeadlinePassed,
}

impl Attempt {
    async fn run(self, mut reply: Reply) {
        let (live, placed) = loop {
            let live = tokio::select! {
                biased;
                why = self.interrupted(&mut reply) => return self.give_up(reply, &why, Some("opening a session")),
                live = self.client.live() => live,
            };
            let live = match live {
                Ok(live) => live,
                Err(error) => return answer(reply, Err(error)),
            };
            // Never dropped: the request may be applied at any time, and its entry must be found again.
            let mut entering = pin!(self.enter(&live));
            let entered = tokio::select! {
                biased;
                why = self.interrupted(&mut reply) => {
                    self.withdrawn.store(true, Ordering::Relaxed);
                    self.give_up(reply, &why, Some("entering the queue"));
                    if let Ok(Enqueued::Placed(placed)) = entering.await {
                        live.remove(&placed.entry).await;
                    }
                    return;
                }
                entered = &mut entering => entered,
            };
            match entered {
                Ok(Enqueued::Placed(placed)) => break (live.clone(), placed),
                Ok(Enqueued::Busy) => return answer(reply, Ok(None)),
                // Lost before it was of any use, for example unnoticed while idle: no place is lost, so try the next one.
                Err(Error::SessionOver { .. }) => tokio::time::sleep(Backoff::default().next()).await,
                Err(error) => return answer(reply, Err(error.of_lock(&self.lock))),
            }
        };
        live.counters.enqueued.add_one();

        let turn = tokio::select! {
            biased;
            why = self.interrupted(&mut reply) => {
                self.give_up(reply, &why, None);
                live.remove(&placed.entry).await;
                return;
            }
            turn = self.wait_for_turn(&live, &placed) => turn,
        };
        match turn {
            // When the caller is gone, the guard comes back and its drop releases the lock.
            Ok(Turn::Granted { own }) => answer(reply, Ok(Some(Guard::new(self.lock, live, placed, own)))),
            Ok(Turn::Busy) => {
                live.remove(&placed.entry).await;
                answer(reply, Ok(None));
            }
            Err(error) => {
                if matches!(error, Error::EntryRemoved { .. }) {
                    live.renew_now();
                }
                let error = match error {
                    Error::SessionOver { .. } => {
                        let loss = live.health.check().err().unwrap_or(Loss::SessionEnded);
                        Error::SessionLost { lock: self.lock.to_string(), loss }
                    }
                    error => error.of_lock(&self.lock),
                };
                live.remove_later(placed.entry);
                answer(reply, Err(error));
            }
        }
    }

    async fn interrupted(&self, reply: &mut Reply) -> Interruption {
        let deadline = async {
            match self.deadline {
                // A waiter that is late after a suspend hurts nobody, and thousands of them should not nap.
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(self.client.clock().now());
                    tokio::time::sleep(left).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = reply.closed() => Interruption::CallerGone,
            () = deadline => Interruption::DeadlinePassed,
        }
    }

    /// Answers a caller whose deadline passed: the lock was not free in time, or it is not known (`doing` what).
    fn give_up(&self, reply: Reply, why: &Interruption, doing: Option<&'static str>) {
        if let (Interruption::DeadlinePassed, Patience::For(after)) = (why, self.patience) {
            let timeout = |doing| Error::Timeout { lock: self.lock.to_string(), after, doing };
            answer(reply, doing.map_or(Ok(None), |doing| Err(timeout(doing))));
        }
    }

    /// Enters the queue once, whatever becomes of requests and replies on the way.
    async fn enter(&self, live: &Live) -> Result<Enqueued> {
        let request = Enqueue {
            queue: &self.lock,
            kind: Kind::Exclusive,
            id: &self.id,
            value: &self.value,
            only_if_free: self.patience == Patience::Try,
        };
        loop {
            match live.session.enqueue(&request).await {
                Err(Error::Unavailable { request, source }) => {
                    tracing::debug!(lock = %self.lock, %request, %source, "the answer was lost");
                }
                definite => return definite.inspect_err(|error| live.note(error)),
            }
            live.counters.ambiguous.add_one();
            Backoff::default().wait(&live.health).await;
            if let Some(placed) = self.settle(live, &request).await? {
                return Ok(Enqueued::Placed(placed));
            }
            if self.withdrawn.load(Ordering::Relaxed) {
                return Ok(Enqueued::Busy);
            }
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
            tracing::error!(lock = %self.lock, %error, "a lost reply cannot be settled, ending the session");
            live.health.lose(Loss::Stuck);
        }
        Err(error)
    }

    /// Waits until the entry is the first of its queue and the session is proven to live on for a while.
    async fn wait_for_turn(&self, live: &Live, placed: &Placed) -> Result<Turn> {
        let mine = &placed.entry;
        let mut known = placed.ahead.clone();
        let mut own = None;
        loop {
            let ahead = match known.take() {
                Some(ahead) => ahead,
                None => {
                    live.counters.looks.add_one();
                    let ahead = live.retry(|| live.session.ahead(mine, EXCLUSIVE_LIMIT)).await?;
                    ahead.ok_or_else(|| self.entry_removed())?
                }
            };
            match exclusive(&ahead) {
                Decision::Granted => break,
                Decision::Wait { .. } if self.patience == Patience::Try => return Ok(Turn::Busy),
                // A wake-up is a hint and the queue decides, except that nothing can join ahead of a last predecessor.
                Decision::Wait { on, last } => {
                    if self.wait_for_removal(live, mine, &mut own, on).await? == Change::Removed && last {
                        break;
                    }
                }
            }
        }
        live.proven().await.map_err(|_| live.over())?;
        Ok(Turn::Granted { own })
    }

    /// Waits until the predecessor `on` may have left, watching the own entry too.
    ///
    /// `Gone` means that `on` was removed while `mine` existed: both are watched, and removals come in the store's order.
    async fn wait_for_removal(&self, live: &Live, mine: &Entry, own: &mut Option<Watch>, on: &Entry) -> Result<Change> {
        loop {
            let unwatched = own.is_none();
            let (own_watch, predecessor) = tokio::try_join!(
                async { if unwatched { watch(live, mine).await.map(Some) } else { Ok(None) } },
                watch(live, on)
            )?;
            match own_watch {
                None => {}
                Some(Watched::Present(removal)) => *own = Some(removal),
                Some(Watched::Gone) => return Err(self.entry_removed()),
            }
            let (Watched::Present(mut predecessor), Some(own_removal)) = (predecessor, own.as_mut()) else {
                return Ok(Change::Unknown);
            };
            live.counters.waits.add_one();
            tokio::select! {
                biased;
                _ = live.health.lost() => return Err(live.over()),
                first = first_removed(own_removal, &mut predecessor) => {
                    if let First::Own(removed) = first {
                        *own = None;
                        if removed == Change::Removed {
                            return Err(self.entry_removed());
                        }
                    }
                    if first == First::Predecessor(Change::Removed) {
                        live.counters.wakeups.add_one();
                        return Ok(Change::Removed);
                    }
                    // The connection may be gone, and with it the watches of all who wait here: not all at once.
                    Backoff::default().wait(&live.health).await;
                    return Ok(Change::Unknown);
                }
                () = recheck() => *own = None,
            }
        }
    }

    fn entry_removed(&self) -> Error {
        Error::EntryRemoved { lock: self.lock.to_string() }
    }
}

/// The outcome of waiting.
enum Turn {
    Granted {
        /// The watch on the own entry, if there was cause to open one.
        own: Option<Watch>,
    },
    Busy,
}

/// Which of two watches ended first.
#[derive(Debug, PartialEq, Eq)]
enum First {
    Own(Change),
    Predecessor(Change),
}

/// Waits for one of two removals. The predecessor is asked before the own entry, and the own entry counts before it:
/// another thread may tell of both in the middle, the own entry's removal first.
async fn first_removed(own: &mut Watch, predecessor: &mut Watch) -> First {
    let first = poll_fn(|cx| {
        let predecessor = predecessor.as_mut().poll(cx);
        match (own.as_mut().poll(cx), predecessor) {
            (Poll::Ready(removed), _) => Poll::Ready(First::Own(removed)),
            (_, Poll::Ready(removed)) => Poll::Ready(First::Predecessor(removed)),
            _ => Poll::Pending,
        }
    });
    // With a budget, the own watch could be silent because the predecessor's used it up.
    unconstrained(first).await
}

async fn watch(live: &Live, entry: &Entry) -> Result<Watched> {
    live.retry(|| live.session.watch(entry)).await
}

fn answer(reply: Reply, result: Result<Option<Guard>>) {
    let _ = reply.send(result);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn an_own_removal_told_between_two_looks_comes_first() {
        let told = Arc::new(AtomicBool::new(false));
        let of_own = told.clone();
        let mut own: Watch =
            Box::pin(poll_fn(
                move |_| {
                    if of_own.load(Ordering::SeqCst) { Poll::Ready(Change::Removed) } else { Poll::Pending }
                },
            ));
        // While this one is asked, another thread tells of both.
        let mut predecessor: Watch = Box::pin(poll_fn(move |_| {
            told.store(true, Ordering::SeqCst);
            Poll::Ready(Change::Removed)
        }));
        assert_eq!(first_removed(&mut own, &mut predecessor).await, First::Own(Change::Removed));
    }
}
