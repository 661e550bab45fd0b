//! One wait for a condition variable: out of the mutex, asleep, and into the mutex again.
//!
//! It is a task of the client's runtime, because what it has begun goes on whatever becomes of its caller: an entry to
//! be removed, a notification to be passed on.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::acquire::{Patience, acquire};
use crate::backend::{Dequeued, Kind};
use crate::clock::Instant;
use crate::error::{Error, Loss, Result};
use crate::guard::Guard;
use crate::recipes::condvar::not_of_the_mutex;
use crate::recipes::{Condvar, Mutex};
use crate::session::Live;

pub(crate) struct Sleep {
    condvar: Condvar,
    mutex: Mutex,
    deadline: Option<Instant>,
}

type Reply = oneshot::Sender<Result<Woken>>;

/// The mutex held again. Dropped before it reached the caller, it passes the notification on.
#[derive(Debug)]
pub(crate) struct Woken {
    guard: Option<Guard>,
    notified: bool,
    condvar: Condvar,
}

impl Woken {
    pub(crate) fn into_guard(mut self) -> Result<(Guard, bool)> {
        let held = self.guard.take().map(|guard| (guard, self.notified));
        held.ok_or_else(|| Error::Runtime { problem: "lost a guard".into() })
    }
}

impl Drop for Woken {
    fn drop(&mut self) {
        if self.guard.is_some() && self.notified {
            let condvar = self.condvar.clone();
            self.condvar.named.client.runtime().spawn(async move { pass_on(&condvar).await });
        }
    }
}

/// Gives a notification to the next whose receiver is gone.
async fn pass_on(condvar: &Condvar) {
    if let Err(error) = condvar.notify_one().await {
        tracing::warn!(condvar = condvar.name(), %error, "a notification is lost with the one who had got it");
    }
}

impl Sleep {
    pub(crate) fn new(condvar: &Condvar, mutex: &Mutex, deadline: Option<Instant>) -> Self {
        Self { condvar: condvar.clone(), mutex: mutex.clone(), deadline }
    }

    pub(crate) async fn run(self, guard: Guard, mut reply: Reply) {
        let live = guard.live().clone();
        let Some(entered) = self.enter(guard, &mut reply).await else { return };
        let notified = match entered {
            Ok(Some(sleeper)) => match self.sleep(sleeper, &mut reply).await {
                Some(notified) => notified,
                None => return,
            },
            // Notified before it slept.
            Ok(None) => Ok(true),
            Err(error) => Err(error),
        };
        let notified = match notified {
            Ok(notified) => notified,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let locked = tokio::select! {
            biased;
            () = reply.closed() => {
                if notified {
                    pass_on(&self.condvar).await;
                }
                return;
            }
            locked = self.mutex.lock() => locked,
            loss = live.health.lost(), if notified => Err(self.session_lost(loss)),
        };
        let woken = locked.and_then(|guard| {
            // The end of the session removes a sleeper, too. Only a session that still takes entries after the removal was
            // seen did not do it.
            if notified && !Arc::ptr_eq(guard.live(), &live) {
                return Err(self.session_lost(live.health.check().err().unwrap_or(Loss::SessionEnded)));
            }
            Ok(Woken { guard: Some(guard), notified, condvar: self.condvar.clone() })
        });
        // When the caller is gone, what comes back passes the notification on and releases the mutex.
        let _ = reply.send(woken);
    }

    /// Goes to sleep, then releases the mutex; `None` of a sleeper when it is notified already. `None` when the caller is gone.
    async fn enter(&self, guard: Guard, reply: &mut Reply) -> Option<Result<Option<Guard>>> {
        let request = match self.condvar.named.request(Kind::Sleeper) {
            Ok(request) => request,
            Err(error) => return Some(Err(error)),
        };
        let live = guard.live().clone();
        let mut entering = pin!(acquire(&self.condvar.named.client, request, Patience::Forever));
        let entered = tokio::select! {
            biased;
            () = reply.closed() => {
                drop(guard);
                if let Ok(Some(sleeper)) = entering.await {
                    self.withdraw(sleeper).await;
                }
                return None;
            }
            _ = guard.lost() => return Some(guard.check().map(|()| None)),
            entered = &mut entering => entered,
        };
        let sleeper = match entered {
            Ok(sleeper) => sleeper,
            Err(Error::EntryRemoved { .. }) => None,
            Err(error) => return Some(Err(error)),
        };
        // Held until after it is a sleeper: whoever holds the mutex next can notify it.
        if let Err(lost) = guard.check() {
            return Some(Err(lost));
        }
        if sleeper.as_ref().is_some_and(|sleeper| !Arc::ptr_eq(sleeper.live(), &live)) {
            return Some(Err(not_of_the_mutex(&self.mutex)));
        }
        live.runtime.spawn(guard.release());
        Some(Ok(sleeper))
    }

    /// Whether it was notified before the deadline. `None` when the caller is gone, and then nothing is left of it.
    async fn sleep(&self, sleeper: Guard, reply: &mut Reply) -> Option<Result<bool>> {
        let deadline = async {
            match self.deadline {
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(self.condvar.named.client.clock().now());
                    tokio::time::sleep(left).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            loss = sleeper.lost() => Some(match loss {
                Loss::EntryRemoved => Ok(true),
                loss => Err(self.session_lost(loss)),
            }),
            () = reply.closed() => {
                self.withdraw(sleeper).await;
                None
            }
            () = deadline => Some(take_back(sleeper).await.map_err(|loss| self.session_lost(loss))),
        }
    }

    /// Wakes up for a caller who is gone.
    async fn withdraw(&self, sleeper: Guard) {
        if let Ok(true) = take_back(sleeper).await {
            pass_on(&self.condvar).await;
        }
    }

    fn session_lost(&self, loss: Loss) -> Error {
        Error::SessionLost { lock: self.condvar.name().to_owned(), loss }
    }
}

/// Wakes up by itself; whether it was notified at the same moment. After a lost answer it may have been, so it counts as
/// notified.
async fn take_back(sleeper: Guard) -> Result<bool, Loss> {
    let live: Arc<Live> = sleeper.live().clone();
    match sleeper.take_back().await {
        Ok(dequeued) => Ok(dequeued == Dequeued::Absent),
        Err(_) => Err(live.health.check().err().unwrap_or(Loss::SessionEnded)),
    }
}
