//! Until when a session is proven alive, and that it is lost for good once that moment has passed unnoticed or noticed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::clock::{Clock, Instant};
use crate::error::Loss;
use crate::signal::Signal;
use crate::state::State;

/// The deadline cell of one session.
///
/// `deadline` holds the end of the proven life in nanoseconds, 0 once lost. Whoever first sees the deadline passed
/// turns it to 0, so a late renewal can never revive what a `check` has already called lost.
#[derive(Debug)]
pub(crate) struct Health {
    clock: Arc<dyn Clock>,
    deadline: AtomicU64,
    loss: OnceLock<Loss>,
    state: Signal<State>,
    proofs: Signal<()>,
}

const LOST: u64 = 0;

impl Health {
    pub(crate) fn new(clock: Arc<dyn Clock>, valid_until: Instant) -> Self {
        Self {
            clock,
            deadline: AtomicU64::new(valid_until.as_nanos()),
            loss: OnceLock::new(),
            state: Signal::new(State::Held),
            proofs: Signal::new(()),
        }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Alive until when, or how it was lost. No I/O, no lock.
    pub(crate) fn check(&self) -> Result<Instant, Loss> {
        self.alive().map(|(_, until)| until)
    }

    /// How long the proven life still is.
    pub(crate) fn left(&self) -> Result<Duration, Loss> {
        self.alive().map(|(now, until)| until.saturating_duration_since(now))
    }

    /// The present moment, and until when it is proven to be alive. Reads the clock once.
    fn alive(&self) -> Result<(Instant, Instant), Loss> {
        loop {
            let deadline = self.deadline.load(Ordering::Acquire);
            if deadline == LOST {
                return Err(self.loss());
            }
            let now = self.clock.now();
            if now.as_nanos() < deadline {
                return Ok((now, Instant::from_nanos(deadline)));
            }
            // On failure somebody renewed it in the same moment or lost it: look again.
            if self.deadline.compare_exchange(deadline, LOST, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.lose(Loss::Expired);
            }
        }
    }

    /// Moves the deadline forward on proof of life, unless it has passed.
    pub(crate) fn extend(&self, until: Instant) -> Result<(), Loss> {
        loop {
            let deadline = self.check()?.as_nanos();
            let until = until.as_nanos();
            if until <= deadline
                || self.deadline.compare_exchange(deadline, until, Ordering::AcqRel, Ordering::Acquire).is_ok()
            {
                self.publish(State::Held);
                self.proofs.set_if(|()| true);
                return Ok(());
            }
        }
    }

    pub(crate) fn suspect(&self) {
        self.publish(State::Suspect);
    }

    /// Ends it. The first reason given stands.
    pub(crate) fn lose(&self, loss: Loss) {
        let loss = *self.loss.get_or_init(|| loss);
        self.deadline.store(LOST, Ordering::Release);
        self.publish(State::Lost(loss));
    }

    pub(crate) fn state(&self) -> State {
        match self.check() {
            Err(loss) => State::Lost(loss),
            Ok(_) => self.state.value(),
        }
    }

    /// Its state as it was told, without a look at the clock.
    pub(crate) fn told(&self) -> &Signal<State> {
        &self.state
    }

    /// Changes with every proof of life.
    pub(crate) fn proofs(&self) -> &Signal<()> {
        &self.proofs
    }

    /// Resolves when the session is lost.
    pub(crate) async fn lost(&self) -> Loss {
        self.state.wait_for(|state| matches!(state, State::Lost(_))).await;
        self.loss()
    }

    fn loss(&self) -> Loss {
        *self.loss.get().unwrap_or(&Loss::Expired)
    }

    fn publish(&self, new: State) {
        self.state.set_if(|state| {
            let changes = *state != new && !matches!(state, State::Lost(_));
            if changes {
                *state = new;
            }
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[derive(Debug, Default)]
    struct ManualClock(AtomicU64);
    impl Clock for ManualClock {
        fn now(&self) -> Instant {
            Instant::from_nanos(self.0.load(Ordering::SeqCst))
        }
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_deadline_that_passed_cannot_be_moved_even_if_nobody_looked() {
        let clock = Arc::new(ManualClock::default());
        let health = Health::new(clock.clone(), at(10));
        assert_eq!(health.check(), Ok(at(10)));
        assert_eq!(health.extend(at(20)), Ok(()));
        assert_eq!(health.extend(at(15)), Ok(()), "an older proof changes nothing");
        assert_eq!((health.check(), health.left()), (Ok(at(20)), Ok(Duration::from_nanos(20))));
        clock.0.store(20, Ordering::SeqCst);
        assert_eq!(health.extend(at(30)), Err(Loss::Expired));
        clock.0.store(19, Ordering::SeqCst);
        assert_eq!(health.check(), Err(Loss::Expired), "sticky");
        assert_eq!(health.state(), State::Lost(Loss::Expired));
    }

    #[test]
    fn the_first_loss_stands_and_suspicion_does_not_follow_it() {
        let health = Health::new(Arc::new(ManualClock::default()), at(10));
        health.suspect();
        assert_eq!(health.state(), State::Suspect);
        assert_eq!(health.extend(at(11)), Ok(()));
        assert_eq!(health.state(), State::Held);
        health.lose(Loss::SessionEnded);
        health.lose(Loss::Closed);
        health.suspect();
        assert_eq!(health.state(), State::Lost(Loss::SessionEnded));
        assert_eq!(health.extend(at(50)), Err(Loss::SessionEnded));
    }

    /// Renewals race with checks around the deadline: once a check said lost, none may say held again.
    #[test]
    fn lost_never_turns_back_under_races() {
        for _ in 0..2_000 {
            let clock = Arc::new(ManualClock::default());
            let health = Arc::new(Health::new(clock.clone(), at(1)));
            let start = Arc::new(Barrier::new(3));
            let renewer = std::thread::spawn({
                let (health, start) = (health.clone(), start.clone());
                move || {
                    start.wait();
                    (2..20).map(|t| health.extend(at(t))).skip_while(Result::is_ok).all(|r| r.is_err())
                }
            });
            let checker = std::thread::spawn({
                let (health, start) = (health.clone(), start.clone());
                move || {
                    start.wait();
                    (0..20).map(|_| health.check()).skip_while(Result::is_ok).all(|r| r.is_err())
                }
            });
            start.wait();
            for t in 0..20 {
                clock.0.store(t, Ordering::SeqCst);
            }
            assert!(renewer.join().unwrap() && checker.join().unwrap());
        }
    }
}
