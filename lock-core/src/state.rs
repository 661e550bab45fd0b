//! What a guard's holder can know: held, suspect or lost.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Loss;
use crate::health::Health;

/// Whether a lock is still held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Held, and renewed in time.
    Held,
    /// Still held, but the last renewal is overdue; it will be lost unless one succeeds.
    Suspect,
    /// Lost, for ever.
    Lost(Loss),
}

/// A guard's state, to be watched from elsewhere.
#[derive(Clone, Debug)]
pub struct StateWatch {
    own: watch::Receiver<Option<Loss>>,
    health: Arc<Health>,
    /// The session's state that is known.
    seen: u64,
}

impl StateWatch {
    pub(crate) fn new(own: watch::Receiver<Option<Loss>>, health: Arc<Health>) -> Self {
        let seen = health.told().version();
        Self { own, health, seen }
    }

    /// The state now.
    pub fn state(&self) -> State {
        state(*self.own.borrow(), &self.health)
    }

    /// Resolves with the new state when it has changed since this watch was made or last asked; at once when it is lost.
    ///
    /// # Cancel safety
    /// No change is missed by dropping it.
    pub async fn changed(&mut self) -> State {
        if !matches!(self.state(), State::Lost(_)) {
            tokio::select! {
                biased;
                _ = self.own.changed() => {}
                seen = self.health.told().changed(self.seen) => self.seen = seen,
            }
        }
        self.state()
    }

    /// Resolves when the lock is lost.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    pub async fn lost(&mut self) -> Loss {
        loop {
            if let State::Lost(loss) = self.state() {
                return loss;
            }
            self.changed().await;
        }
    }
}

/// The state of a guard that lost its own entry in this way, or did not, in a session of this health.
pub(crate) fn state(own: Option<Loss>, health: &Health) -> State {
    own.map_or_else(|| health.state(), State::Lost)
}
