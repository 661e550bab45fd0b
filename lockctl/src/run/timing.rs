//! How a ttl is divided: room for renewals, the command's grace, and the time that the system takes.

use std::time::Duration;

use humantime::format_duration;

use crate::exit::{Exit, Failure};

/// The longest grace that is given unasked.
const USUAL_GRACE: Duration = Duration::from_secs(5);

/// Within this time a holder that the store can reach is told that its entry was removed, and the command is dead.
const TOLD: Duration = Duration::from_secs(1);

/// The times around the end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// From SIGKILL to the moment in which the lock may be another's.
    pub(crate) margin: Duration,
    /// From the moment in which somebody removes the lock by force to the one in which the command is dead for certain.
    ///
    /// As long as the store does not reach this holder, the command has what is left of the last proof, which is less than
    /// a ttl. Once it does, this holder knows within [`TOLD`] and ends the command without a grace.
    pub(crate) removed: Duration,
}

impl Timing {
    /// `proof`: how long one proof of the store lasts, which is less than the ttl.
    ///
    /// # Errors
    /// That the grace, or what is needed besides, does not fit into that.
    pub(crate) fn new(ttl: Duration, proof: Duration, grace: Option<Duration>) -> Result<Self, Failure> {
        let margin = (ttl / 10).clamp(Duration::from_millis(100), Duration::from_secs(2));
        // One renewal is due after a sixth of the ttl, and one that fails may take another.
        let room = ttl / 3;
        let shown = |time: Duration| {
            format_duration(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
        };
        let Some(longest) = proof.checked_sub(margin + room) else {
            let problem = format!("a ttl of {} is too short to run a command in; choose a longer --ttl", shown(ttl));
            return Err(Failure::new(Exit::CONFIGURATION, problem));
        };
        let grace = grace.unwrap_or_else(|| USUAL_GRACE.min(ttl / 3).min(longest));
        if grace > longest {
            let problem = format!(
                "--grace is {}, expected at most {} with the store's ttl of {}: the command has to be ended while the lock is \
                 still proven to be held, with {} to spare and {} for renewals; choose a longer --ttl",
                shown(grace),
                shown(longest),
                shown(ttl),
                shown(margin),
                shown(room),
            );
            return Err(Failure::new(Exit::CONFIGURATION, problem));
        }
        Ok(Self { grace, margin, removed: ttl + TOLD })
    }

    /// How often to look whether there is a new proof, or the warden fails.
    pub(crate) fn beat(self) -> Duration {
        self.margin / 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_grace_fits_into_a_proof() {
        let etcd = |grace| Timing::new(30 * SECOND, 27 * SECOND, grace);
        let usual = etcd(None).unwrap();
        assert_eq!(usual, Timing { grace: 5 * SECOND, margin: 2 * SECOND, removed: 31 * SECOND });
        let short = Timing::new(3 * SECOND, 3 * SECOND, None).unwrap();
        assert_eq!(short, Timing { grace: SECOND, margin: Duration::from_millis(300), removed: 4 * SECOND });
        assert_eq!(etcd(Some(15 * SECOND)).unwrap().grace, 15 * SECOND);
        let error = etcd(Some(16 * SECOND)).unwrap_err();
        assert_eq!(error.exit(), Exit::CONFIGURATION);
        assert_eq!(etcd(Some(Duration::ZERO)).unwrap().grace, Duration::ZERO);
    }

    #[test]
    fn two_renewals_are_awaited_before_the_command_is_asked_to_end() {
        for ttl in [2 * SECOND, 10 * SECOND, 60 * SECOND] {
            // On ZooKeeper.
            let proof = ttl * 7 / 12;
            let timing = Timing::new(ttl, proof, None).unwrap();
            assert!(proof - timing.grace - timing.margin >= ttl / 3 && !timing.grace.is_zero(), "{timing:?}");
        }
        assert!(Timing::new(SECOND / 10, SECOND / 10, None).is_err(), "there is no time for anything");
    }
}
