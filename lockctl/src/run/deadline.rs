//! When a command has to be told to end, and when it has to be ended. No clock and no system in here.

use std::time::Duration;

use lock_core::clock::Instant;

/// What to do at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing until then.
    Wait(Instant),
    /// Ask the command to end.
    Terminate,
    /// End it.
    Kill,
}

/// The times of a command, from the moment until which its lock is proven to be held.
///
/// The command is asked `grace` and `margin` before that moment, and ended `margin` before it. The margin is the time that it
/// takes the system to do so.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    until: Instant,
    grace: Duration,
    margin: Duration,
    /// Once it was asked to end: when its time is over, whatever becomes of the lock.
    kill_at: Option<Instant>,
}

impl Deadline {
    pub(crate) const fn new(until: Instant, grace: Duration, margin: Duration) -> Self {
        Self { until, grace, margin, kill_at: None }
    }

    /// Takes note of a new proof.
    pub(crate) const fn set(&mut self, until: Instant) {
        self.until = until;
    }

    /// Takes note that the command is asked to end now. Asking again does not give it more time.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.kill_at.get_or_insert(now + self.grace);
    }

    /// Whether the command was asked to end.
    pub(crate) const fn is_asked(&self) -> bool {
        self.kill_at.is_some()
    }

    /// When the command has to be ended at the latest.
    pub(crate) fn kill_at(&self) -> Instant {
        let end = before(self.until, self.margin);
        self.kill_at.map_or(end, |at| at.min(end))
    }

    pub(crate) fn step(&self, now: Instant) -> Step {
        let kill_at = self.kill_at();
        if now >= kill_at {
            return Step::Kill;
        }
        if self.is_asked() {
            return Step::Wait(kill_at);
        }
        let ask_at = before(kill_at, self.grace);
        if now >= ask_at { Step::Terminate } else { Step::Wait(ask_at) }
    }
}

fn before(at: Instant, duration: Duration) -> Instant {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Instant::from_nanos(at.as_nanos().saturating_sub(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn deadline(until: u64) -> Deadline {
        Deadline::new(at(until), Duration::from_secs(3), Duration::from_secs(1))
    }

    #[test]
    fn it_is_asked_with_time_to_end_and_ended_with_time_to_die() {
        let mut deadline = deadline(100);
        assert_eq!(deadline.step(at(0)), Step::Wait(at(96)));
        assert_eq!(deadline.step(at(96)), Step::Terminate);
        deadline.asked(at(96));
        assert_eq!(deadline.step(at(97)), Step::Wait(at(99)));
        assert_eq!(deadline.step(at(99)), Step::Kill);
    }

    #[test]
    fn a_new_proof_moves_the_end() {
        let mut deadline = deadline(100);
        deadline.set(at(110));
        assert_eq!(deadline.step(at(99)), Step::Wait(at(106)));
    }

    #[test]
    fn once_asked_it_gets_its_grace_and_no_more() {
        let mut deadline = deadline(100);
        deadline.asked(at(10));
        assert_eq!(deadline.step(at(10)), Step::Wait(at(13)));
        deadline.asked(at(12));
        deadline.set(at(200));
        assert_eq!(deadline.step(at(13)), Step::Kill, "neither asking again nor a new proof gives more time");
    }

    #[test]
    fn the_end_of_the_lock_comes_before_the_end_of_the_grace() {
        let mut deadline = deadline(100);
        deadline.asked(at(98));
        assert_eq!(deadline.step(at(98)), Step::Wait(at(99)));
        assert_eq!(deadline.step(at(99)), Step::Kill);
    }

    #[test]
    fn who_wakes_late_ends_it_at_once() {
        assert_eq!(deadline(100).step(at(5_000)), Step::Kill);
        assert_eq!(deadline(0).step(at(0)), Step::Kill);
        assert_eq!(deadline(2).step(at(0)), Step::Terminate, "too short a proof for the grace");
    }
}
