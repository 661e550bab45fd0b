//! What one does with any lock: wait for it in some way, hold it, and give it up in some way.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lock_core::{Guard, MultiGuard, Permits, ReadGuard, Release, Result, WriteGuard};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use crate::plan::{millis, pause};
use crate::play::TTL;
use crate::world::World;

/// What the timer's granularity and the scheduler may add.
const SLACK: Duration = Duration::from_millis(5);

/// How one waits for a lock.
#[derive(Clone, Debug)]
pub(crate) enum Wait {
    Forever,
    Try,
    For(Duration),
    /// The future is dropped after this time.
    Cancelled(Duration),
    /// The future is dropped after this many polls.
    Polled(u8),
}

/// How one gives a lock up.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Release,
    Drop,
    /// The future of the release is dropped after this many polls.
    Polled(u8),
}

/// One lock held once.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) wait: Wait,
    pub(crate) hold: Duration,
    pub(crate) end: End,
}

impl Turn {
    /// Waits as long as need be, holds for these milliseconds, and releases.
    pub(crate) fn simple(hold: u64) -> Self {
        Self { wait: Wait::Forever, hold: Duration::from_millis(hold), end: End::Release }
    }

    pub(crate) fn strategy() -> impl Strategy<Value = Self> + Clone {
        (Wait::strategy(), hold(), End::strategy()).prop_map(|(wait, hold, end)| Self { wait, hold, end })
    }
}

impl Wait {
    pub(crate) fn strategy() -> impl Strategy<Value = Self> + Clone {
        prop_oneof![
            4 => Just(Self::Forever),
            3 => Just(Self::Try),
            2 => millis(0..2_000).prop_map(Self::For),
            2 => millis(0..2_000).prop_map(Self::Cancelled),
            2 => (0..12u8).prop_map(Self::Polled),
        ]
    }
}

impl Wait {
    /// Without those that do not wait for long.
    pub(crate) fn patient() -> impl Strategy<Value = Self> + Clone {
        prop_oneof![
            4 => Just(Self::Forever),
            1 => millis(0..2_000).prop_map(Self::Cancelled),
            1 => (0..16u8).prop_map(Self::Polled),
        ]
    }

    /// Without the one that does not wait at all.
    pub(crate) fn waiting() -> impl Strategy<Value = Self> + Clone {
        prop_oneof![3 => Self::patient(), 1 => millis(0..2_000).prop_map(Self::For)]
    }
}

impl End {
    pub(crate) fn strategy() -> impl Strategy<Value = Self> + Clone {
        prop_oneof![3 => Just(Self::Release), 2 => Just(Self::Drop), 1 => (0..3u8).prop_map(Self::Polled)]
    }
}

/// How long something is held: not at all, shorter or longer than a holder's watch on its own entry takes to begin, or long
/// enough to show that somebody behind has not been told of something else.
pub(crate) fn hold() -> impl Strategy<Value = Duration> + Clone {
    prop_oneof![3 => pause(), 2 => millis(0..1_000), 1 => millis(0..3_000)]
}

/// What locks give out.
pub(crate) trait Hold: Send + Sync + Sized {
    fn guards(&self) -> Vec<&Guard>;
    fn release(self) -> impl Future<Output = Release> + Send;
}

macro_rules! hold {
    ($($guard:ty: |$this:ident| $guards:expr;)+) => {$(
        impl Hold for $guard {
            fn guards(&self) -> Vec<&Guard> {
                let $this = self;
                $guards
            }

            async fn release(self) -> Release {
                Self::release(self).await
            }
        }
    )+};
}

hold! {
    Guard: |this| vec![this];
    ReadGuard: |this| vec![this];
    WriteGuard: |this| vec![this];
    Permits: |this| vec![this];
    MultiGuard: |this| this.guards().iter().collect();
}

impl World {
    /// Waits for something that can be waited for in all these ways.
    pub(crate) async fn wait<G>(
        &self,
        client: usize,
        how: &Wait,
        lock: impl Future<Output = Result<G>>,
        try_lock: impl Future<Output = Result<Option<G>>>,
        try_lock_for: impl AsyncFnOnce(Duration) -> Result<Option<G>>,
    ) -> Result<Option<G>> {
        let began = Instant::now();
        let (outcome, bound) = match how {
            Wait::Forever => (lock.await.map(Some), Duration::MAX),
            // Each of its steps is bounded by a ttl; what it left behind is removed first.
            Wait::Try => (try_lock.await, TTL * 2 * self.queues()),
            Wait::For(patience) => (try_lock_for(*patience).await, *patience),
            Wait::Cancelled(after) => (timeout(*after, lock).await.map_or(Ok(None), |guard| guard.map(Some)), *after),
            Wait::Polled(polls) => (polled(lock, *polls).await.transpose(), Duration::MAX),
        };
        let took = began.elapsed();
        self.check(took <= bound.saturating_add(SLACK), || format!("client {client}: {how:?} took {took:?}"));
        outcome
    }

    /// Gives something up.
    pub(crate) async fn end<G: Hold>(&self, client: usize, how: &End, held: G) {
        held.guards().into_iter().for_each(|guard| self.lets_go(guard));
        match how {
            End::Drop => drop(held),
            End::Polled(polls) => drop(polled(held.release(), *polls).await),
            End::Release => {
                let entries: Vec<_> = held.guards().iter().map(|guard| guard.entry().clone()).collect();
                let began = Instant::now();
                let released = held.release().await;
                let took = began.elapsed();
                self.check(took <= TTL / 3 + SLACK, || format!("client {client}: the release took {took:?}"));
                if released == Release::Released {
                    let left: Vec<_> = entries.iter().filter(|entry| self.is_there(entry)).collect();
                    self.check(left.is_empty(), || format!("client {client}: released, and yet there: {left:?}"));
                }
                let pending = released == Release::Pending && self.is_clean(client);
                self.check(!pending, || format!("client {client}: the release is pending"));
            }
        }
    }

    /// Waits for a guard, holds and gives it up.
    pub(crate) async fn hold<G: Hold>(&self, client: usize, turn: &Turn, held: G) {
        sleep(turn.hold).await;
        self.end(client, &turn.end, held).await;
    }
}

/// Polls a future this often, each time when it is woken, then drops it.
pub(crate) async fn polled<F: Future>(future: F, polls: u8) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => {
                // Dropped at the next turn of this task, when the others had theirs.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
