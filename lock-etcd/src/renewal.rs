//! Proof of life of a lease.
//!
//! A keep-alive answer proves nothing by itself: a leader that was deposed without noticing answers it from memory
//! (etcd#15247, until 3.4.31 and 3.5.13), and a member that serves reads may belong to another term than the one that
//! answered the keep-alive. So a round is: a quorum read of the session's key, the keep-alive, and the read again, all
//! answered by the same member in the same raft term. The second read proves that this term had a quorum after the
//! keep-alive, so the leader that extended the lease was the real one; whoever leads later starts with the full ttl.

use std::time::Duration;

use etcd_client::{Error as EtcdError, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper, ResponseHeader};
use tokio::time::timeout;

use crate::endpoints::{Connection, Endpoints, Failure};
use crate::error::NoAnswer;

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

/// What one round of renewal showed.
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

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.epoch)
    }
}

impl Renewal {
    pub(crate) fn new(lease: i64, session_key: String, created: i64) -> Self {
        Self { lease, session_key, created, stream: None, last: None }
    }

    pub(crate) async fn round(&mut self, endpoints: &Endpoints) -> Result<Round, Failure> {
        let epoch = *endpoints.epochs().borrow();
        let before = match self.last.take() {
            Some((of, witness)) if of == epoch => Some(witness),
            _ => self.read(endpoints).await?.map(|(_, witness)| witness),
        };
        let Some(before) = before else { return Ok(Round::Over) };
        // Out of its place while it is used: an answer that comes after this call was given up counts for no later one.
        let stream = self.stream.take().filter(|stream| stream.epoch == epoch);
        let within = endpoints.request_timeout();
        let kept = timeout(within, keep_alive(endpoints, self.lease, stream)).await;
        let kept = match kept {
            Ok(Ok(kept)) => kept,
            Ok(Err(failure)) => {
                endpoints.give_up(epoch);
                return Err(failure);
            }
            Err(_) => {
                endpoints.give_up(epoch);
                return Err(Failure::NoAnswer(NoAnswer { endpoint: "the keep-alive stream".into(), within }));
            }
        };
        let Some((of, after)) = self.read(endpoints).await? else { return Ok(Round::Over) };
        self.last = Some((of, after));
        let Some((stream, answer)) = kept else { return Ok(Round::Unclear) };
        let agreed = stream.epoch == of && before == after && Witness::of(answer.header()) == Some(after);
        self.stream = Some(stream);
        let granted = u64::try_from(answer.ttl()).ok().filter(|ttl| *ttl > 0 && answer.id() == self.lease);
        match granted.map(Duration::from_secs) {
            Some(ttl) if agreed => Ok(Round::Alive(ttl - margin(ttl))),
            _ => Ok(Round::Unclear),
        }
    }

    /// A quorum read of the session's key: who answered, or `None` when the key is gone.
    async fn read(&self, endpoints: &Endpoints) -> Result<Option<(u64, Witness)>, Failure> {
        let read = endpoints.request(async |mut connection: Connection| {
            let answer = connection.client.get(self.session_key.as_str(), None).await?;
            Ok((connection.epoch, answer))
        });
        let (epoch, answer) = read.await?;
        let lives = answer.kvs().first().is_some_and(|kv| kv.create_revision() == self.created);
        match Witness::of(answer.header()) {
            Some(witness) => Ok(lives.then_some((epoch, witness))),
            None => Err(Failure::Etcd(EtcdError::Internal("an answer without a header".into()))),
        }
    }
}

/// For clocks that run apart, and for the time between an expiry and its being noticed.
fn margin(ttl: Duration) -> Duration {
    (ttl / 10).max(Duration::from_millis(200)).min(ttl)
}

/// Sends one keep-alive and waits for its answer; `None` when a new stream was refused because there is no such lease.
async fn keep_alive(
    endpoints: &Endpoints,
    lease: i64,
    stream: Option<Stream>,
) -> Result<Option<(Stream, LeaseKeepAliveResponse)>, Failure> {
    let stream = match stream {
        Some(stream) => Some(stream),
        None => {
            let opened = endpoints.request(async |mut connection: Connection| {
                match connection.client.lease_keep_alive(lease).await {
                    Ok((keeper, answers)) => Ok(Some(Stream { epoch: connection.epoch, keeper, answers })),
                    Err(EtcdError::LeaseKeepAliveError(_)) => Ok(None),
                    Err(error) => Err(error),
                }
            });
            opened.await?
        }
    };
    let Some(mut stream) = stream else { return Ok(None) };
    // The client swallows the answer that opened the stream, so every round sends a keep-alive of its own.
    stream.keeper.keep_alive().await.map_err(Failure::Etcd)?;
    match stream.answers.message().await.map_err(Failure::Etcd)? {
        Some(answer) => Ok(Some((stream, answer))),
        None => Err(Failure::Etcd(EtcdError::LeaseKeepAliveError("the server ended the stream".into()))),
    }
}
