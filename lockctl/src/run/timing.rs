//! How a ttl is divided: room for renewals, the command's grace, and the time that the system takes.

use std::time::Duration;

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
    /// # Errors
    /// That the grace does not fit into the ttl.
    pub(crate) fn new(ttl: Duration, grace: Option<Duration>) -> Result<Self, Failure> {
        let margin = (ttl / 10).clamp(Duration::from_millis(100), Duration::from_secs(2));
        let grace = grace.unwrap_or_else(|| USUAL_GRACE.min(ttl / 3));
        // Two renewals in three may fail before the command is asked to end.
        let room = Duration::from_millis(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX) / 3);
        let longest = ttl.saturating_sub(margin + room);
        if grace > longest {
            let problem = format!(
                "--grace is {grace:?}, expected at most {longest:?} with the store's ttl of {ttl:?}: the command has to be ended \
                 while the lock is still held, with {margin:?} to spare and {room:?} for renewals; choose a longer --ttl"
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
    fn the_grace_fits_into_the_ttl() {
        let usual = Timing::new(30 * SECOND, None).unwrap();
        assert_eq!(usual, Timing { grace: 5 * SECOND, margin: 2 * SECOND, removed: 31 * SECOND });
        let short = Timing::new(3 * SECOND, None).unwrap();
        assert_eq!(short, Timing { grace: SECOND, margin: Duration::from_millis(300), removed: 4 * SECOND });
        assert_eq!(Timing::new(30 * SECOND, Some(18 * SECOND)).unwrap().grace, 18 * SECOND);
        let error = Timing::new(30 * SECOND, Some(19 * SECOND)).unwrap_err();
        assert_eq!(error.exit(), Exit::CONFIGURATION);
        assert_eq!(Timing::new(3 * SECOND, Some(Duration::ZERO)).unwrap().grace, Duration::ZERO);
    }
}
