//! Proof of life of a lease.
//!
//! A keep-alive answer proves nothing by itself: a leader that was deposed without noticing answers it from memory
//! (etcd#15247, until 3.4.31 and 3.5.13), and a member that serves reads may belong to another term than the one that
//! answered the keep-alive. So a round is: a quorum read of the session's key, the keep-alive, and the read again, all
//! answered by the same member in the same raft term. The second read proves that this term had a quorum after the
//! keep-alive, so the leader that extended the lease was the real one; whoever leads later starts with the full ttl.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Error as EtcdError, GetOptions, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper, ResponseHeader,
};
use tokio::time::timeout;

use crate::endpoints::{Connection, Endpoints};
use crate::error::Failure;

/// Who answered, and in which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Witness {
    cluster: u64,
    member: u64,
    term: u64,
}

impl Witness {
    fn of(header: Option<&ResponseHeader>) -> Option<Self> {
        let header = header?;
        Some(Self { cluster: header.cluster_id(), member: header.member_id(), term: header.raft_term() })
    }
}

/// What one renewal showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// The lease lives, and will for this long from before the round on.
    Alive(Duration),
    /// A quorum says that the session's key is gone, and so is the lease.
    Over,
    /// Neither; the leader or the member changed in between.
    Unclear,
}

/// The keep-alive stream of one lease, and the last quorum read.
#[derive(Debug)]
pub(crate) struct Renewal {
    lease: i64,
    session_key: String,
    created: i64,
    stream: Option<Stream>,
    last: Option<(u64, Witness)>,
}

struct Stream {
    epoch: u64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.epoch)
    }
}

impl Stream {
    /// Sends one keep-alive and waits for its answer.
    async fn exchange(&mut self) -> Result<LeaseKeepAliveResponse, EtcdError> {
        self.keeper.keep_alive().await?;
        let ended = || EtcdError::LeaseKeepAliveError("the server ended the stream".into());
        self.answers.message().await?.ok_or_else(ended)
    }
}

impl Renewal {
    pub(crate) fn new(lease: i64, session_key: String, created: i64) -> Self {
        Self { lease, session_key, created, stream: None, last: None }
    }

    pub(crate) async fn round(&mut self, endpoints: &Endpoints) -> Result<Round, Failure> {
        let epoch = *endpoints.epochs().borrow();
        let known = self.last.take().filter(|(of, _)| *of == epoch);
        let Some((_, mut before)) = (match known {
            Some(known) => Some(known),
            None => self.read(endpoints).await?,
        }) else {
            return Ok(Round::Over);
        };
        // An election between the two reads spoils the first round only.
        for _ in 0..2 {
            let kept = self.keep_alive(endpoints).await?;
            let Some((epoch, after)) = self.read(endpoints).await? else { return Ok(Round::Over) };
            if let Some(valid) = proof(before, kept, after) {
                self.last = Some((epoch, after));
                return Ok(Round::Alive(valid));
            }
            before = after;
        }
        Ok(Round::Unclear)
    }

    /// A quorum read of the session's key: who answered, or `None` when the key is gone.
    async fn read(&self, endpoints: &Endpoints) -> Result<Option<(u64, Witness)>, Failure> {
        let (epoch, answer) = endpoints.get(self.session_key.as_str(), GetOptions::new().with_keys_only()).await?;
        let lives = answer.kvs().first().is_some_and(|kv| kv.create_revision() == self.created);
        let witness = Witness::of(answer.header()).ok_or_else(|| Failure::unavailable("an answer without a header"))?;
        Ok(lives.then_some((epoch, witness)))
    }

    /// One keep-alive: who answered, and the ttl from when it was sent on; `None` when there is no such lease.
    async fn keep_alive(&mut self, endpoints: &Endpoints) -> Result<Option<(Witness, Duration)>, Failure> {
        let epoch = *endpoints.epochs().borrow();
        // Out of its place while it is used: an answer that comes after this call was given up counts for no later one.
        let mut kept = self.stream.take().filter(|stream| stream.epoch == epoch);
        let mut fresh = false;
        loop {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => {
                    fresh = true;
                    let Some(stream) = open(endpoints, self.lease).await? else { return Ok(None) };
                    stream
                }
            };
            let within = endpoints.request_timeout();
            match timeout(within, stream.exchange()).await {
                Ok(Ok(answer)) => {
                    self.stream = Some(stream);
                    let ttl = u64::try_from(answer.ttl()).ok().filter(|ttl| *ttl > 0 && answer.id() == self.lease);
                    return Ok(Witness::of(answer.header()).zip(ttl.map(Duration::from_secs)));
                }
                // The connection of a stream that was kept since the last round may have ended long ago.
                Ok(Err(error)) if !fresh => tracing::debug!(%error, "the keep-alive stream ended, opening another"),
                Ok(Err(error)) => {
                    endpoints.give_up(stream.epoch);
                    return Err(error.into());
                }
                Err(_) => {
                    endpoints.give_up(stream.epoch);
                    return Err(Failure::no_answer("the keep-alive stream", within));
                }
            }
        }
    }
}

/// `None` when there is no such lease.
async fn open(endpoints: &Endpoints, lease: i64) -> Result<Option<Stream>, Failure> {
    let opening = endpoints.request(async |connection: Arc<Connection>| {
        // The client swallows the answer that opens a stream, so every round sends a keep-alive of its own.
        match connection.lease.clone().keep_alive(lease).await {
            Ok((keeper, answers)) => Ok(Some(Stream { epoch: connection.epoch, keeper, answers })),
            Err(EtcdError::LeaseKeepAliveError(_)) => Ok(None),
            Err(error) => Err(error),
        }
    });
    opening.await
}

/// The life proven by a quorum read, a keep-alive with its ttl, and another quorum read.
fn proof(before: Witness, kept: Option<(Witness, Duration)>, after: Witness) -> Option<Duration> {
    let (during, ttl) = kept?;
    (before == during && during == after).then(|| ttl - margin(ttl))
}

/// For clocks that run apart, and for the time between an expiry and its being noticed.
fn margin(ttl: Duration) -> Duration {
    (ttl / 10).max(Duration::from_millis(200)).min(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_member_in_one_term_proves_life() {
        let witness = |cluster, member, term| Witness { cluster, member, term };
        let (one, ttl) = (witness(1, 1, 1), Duration::from_secs(10));
        assert_eq!(proof(one, Some((one, ttl)), one), Some(Duration::from_secs(9)));
        assert_eq!(proof(one, None, one), None, "no lease");
        for other in [witness(2, 1, 1), witness(1, 2, 1), witness(1, 1, 2)] {
            assert_eq!(proof(other, Some((one, ttl)), one), None, "before: {other:?}");
            assert_eq!(proof(one, Some((other, ttl)), one), None, "keep-alive: {other:?}");
            assert_eq!(proof(one, Some((one, ttl)), other), None, "after: {other:?}");
        }
    }

    #[test]
    fn a_part_of_the_ttl_is_never_promised() {
        assert_eq!(margin(Duration::from_secs(15)), Duration::from_millis(1500));
        assert_eq!(margin(Duration::from_secs(1)), Duration::from_millis(200));
    }
}
