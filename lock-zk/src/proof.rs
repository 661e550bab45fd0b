//! How long a session is proven to live.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lock_core::clock::Instant;

/// Turns answered heartbeats into proven life.
///
/// A heartbeat is a transaction, so an answer proves that a leader with a quorum had not ended the session. It does not
/// prove that the leader restarted the session's timeout: a follower passes signs of life on with its replies to the
/// leader's pings only, which come every half tick, and may be cut off right after the heartbeat.
///
/// But the replies and the heartbeat travel on one ordered connection from that follower to the leader. So a sign of life
/// that the follower had at least half a tick **before** the heartbeat was passed on before it, and the leader ends the
/// session no earlier than one timeout after that sign. A timeout is at least two ticks, so half a tick is at most a
/// quarter of it. Hence: a heartbeat proves one timeout from the latest *earlier* heartbeat that was answered and began
/// at least a quarter of the timeout before. The creation of the session, and every move to another server, goes to the
/// leader at once. A new leader starts with full timeouts for all sessions.
#[derive(Debug)]
pub(crate) struct Proofs {
    ttl: Duration,
    /// When the answered heartbeats began, the creation of the session first. Never empty.
    signs: Mutex<VecDeque<Instant>>,
}

impl Proofs {
    /// `began`: no later than the creation of the session.
    pub(crate) fn new(ttl: Duration, began: Instant) -> Self {
        Self { ttl, signs: Mutex::new(VecDeque::from([began])) }
    }

    /// Takes note of a heartbeat that began at `asked` and was answered; returns the life it proves from then on.
    pub(crate) fn answered(&self, asked: Instant) -> Duration {
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |sign: &Instant| asked.saturating_duration_since(*sign);
        while signs.len() > 1 && age(&signs[1]) >= self.ttl / 4 {
            signs.pop_front();
        }
        let known = age(&signs[0]);
        signs.push_back(asked);
        // A twelfth for what the leader may lag behind; and never more than beats of a sixth give steadily.
        let proven = self.ttl.saturating_sub(known).saturating_sub(self.ttl / 12);
        proven.min(self.ttl * 3 / 4 - self.ttl / 6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(12);

    fn proven(began_s: u64, answered_s: &[u64]) -> Vec<u64> {
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        let proofs = Proofs::new(TTL, at(began_s));
        answered_s.iter().map(|s| proofs.answered(at(*s)).as_secs()).collect()
    }

    #[test]
    fn steady_beats_prove_seven_twelfths() {
        assert_eq!(proven(0, &[0, 2, 4, 6, 8, 10, 12, 14]), [7; 8]);
    }

    #[test]
    fn rapid_beats_prove_no_more() {
        assert_eq!(proven(0, &[0, 1, 2, 3, 4, 5, 6, 7]), [7; 8]);
    }

    #[test]
    fn a_beat_after_a_silence_proves_only_what_was_known_before() {
        // 12 s of life from second 2, less 8 s that have passed by second 10, less the lag of 1 s.
        assert_eq!(proven(0, &[0, 2, 10, 11, 12, 13]), [7, 7, 3, 2, 1, 7]);
        assert_eq!(proven(0, &[0, 30, 33]), [7, 0, 7]);
    }
}
