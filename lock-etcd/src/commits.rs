//! Group commit: what the tasks of a session write at the same time goes to the server in one transaction.
//!
//! A transaction costs the server much more than a write in it. As long as few are under way, each write is sent by itself
//! and at once; those that come while more are under way are sent together, each with its own condition and its own answer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::{Compare, CompareOp, GetResponse, ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::endpoints::Endpoints;
use crate::error::{Failure, Meaning};

/// Transactions under way from which on writes are gathered. More of them than this do not make the server faster.
const UNDER_WAY: usize = 2;

/// Writes in one transaction. Servers as shipped take 128, where a write that is a transaction itself counts with its parts.
const TOGETHER: usize = 48;

#[derive(Debug)]
pub(crate) struct Commits {
    endpoints: Arc<Endpoints>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    gathered: Vec<Write>,
    /// Writes that the server takes in one transaction.
    together: usize,
}

#[derive(Debug)]
struct Write {
    what: What,
    answer: oneshot::Sender<Result<Answer, Failure>>,
}

#[derive(Clone, Debug)]
enum What {
    /// Puts an entry into a queue, on conditions, and counts the keys of the queue.
    Enter { queue: String, key: String, txn: Txn },
    /// Deletes a key, if this revision created it.
    Leave { key: Vec<u8>, created: i64 },
}

impl What {
    fn transaction(self) -> Txn {
        match self {
            Self::Enter { txn, .. } => txn,
            // Nothing but a deletion, which a full database allows.
            Self::Leave { key, created } => Txn::new()
                .when([Compare::create_revision(key.as_slice(), CompareOp::Equal, created)])
                .and_then([TxnOp::delete(key, None)]),
        }
    }
}

/// The answer to one write, and the revision of the transaction in which it was sent.
type Answer = (TxnResponse, i64);

/// An entry that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    /// The revision that created it.
    pub(crate) revision: i64,
    /// The number of keys in its queue.
    pub(crate) keys: i64,
}

/// One transaction under way. When it ends, what was gathered meanwhile is sent.
struct UnderWay(Arc<Commits>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        // Without a runtime nobody waits any more.
        if let Ok(runtime) = Handle::try_current() {
            self.0.send_gathered(&runtime);
        }
    }
}

impl Commits {
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> Arc<Self> {
        let state = State { under_way: 0, gathered: Vec::new(), together: TOGETHER };
        Arc::new(Self { endpoints, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an entry by a transaction that also counts the keys of its queue; `None` when its conditions did not hold.
    pub(crate) async fn enter(self: &Arc<Self>, queue: &str, key: &str, txn: Txn) -> Result<Option<Entered>, Failure> {
        let (answer, revision) = self.write(What::Enter { queue: queue.to_owned(), key: key.to_owned(), txn }).await?;
        let counted = |op| if let TxnOpResponse::Get(get) = op { Some(GetResponse::count(&get)) } else { None };
        let keys = || answer.op_responses().into_iter().find_map(counted).unwrap_or_default();
        Ok(answer.succeeded().then(|| Entered { revision, keys: keys() }))
    }

    /// Deletes a key, if this revision created it. Whether it was there.
    pub(crate) async fn leave(self: &Arc<Self>, key: Vec<u8>, created: i64) -> Result<bool, Failure> {
        let (answer, _) = self.write(What::Leave { key, created }).await?;
        Ok(answer.succeeded())
    }

    async fn write(self: &Arc<Self>, what: What) -> Result<Answer, Failure> {
        let gathered = {
            let mut state = self.state();
            if state.under_way < UNDER_WAY {
                state.under_way += 1;
                Err(what)
            } else {
                let (answer, answered) = oneshot::channel();
                state.gathered.push(Write { what, answer });
                Ok(answered)
            }
        };
        match gathered {
            Err(what) => {
                let _under_way = UnderWay(self.clone());
                self.send_one(what).await
            }
            Ok(answered) => answered.await.unwrap_or_else(|_| Err(Failure::unavailable("the runtime is gone"))),
        }
    }

    fn send_gathered(self: &Arc<Self>, runtime: &Handle) {
        loop {
            let (together, alone) = {
                let mut state = self.state();
                if state.under_way >= UNDER_WAY || state.gathered.is_empty() {
                    return;
                }
                state.under_way += 1;
                let at_most = state.together;
                gather(&mut state.gathered, at_most)
            };
            for write in alone {
                let commits = self.clone();
                runtime.spawn(async move {
                    let _ = write.answer.send(commits.send_one(write.what).await);
                });
            }
            let under_way = UnderWay(self.clone());
            runtime.spawn(async move {
                under_way.0.send_together(together).await;
            });
        }
    }

    async fn send_one(&self, what: What) -> Result<Answer, Failure> {
        let answer = self.endpoints.txn(what.transaction()).await?;
        let revision = revision(&answer);
        Ok((answer, revision))
    }

    async fn send_together(&self, writes: Vec<Write>) {
        if writes.len() > 1 {
            let ops = writes.iter().map(|write| TxnOp::txn(write.what.clone().transaction()));
            let txn = Txn::new().and_then(ops.collect::<Vec<_>>());
            match self.endpoints.txn(txn).await {
                Ok(answer) => return answer_each(writes, &answer),
                Err(failure) if may_be_applied(&failure) => {
                    for write in writes {
                        let _ = write.answer.send(Err(failure.clone()));
                    }
                    return;
                }
                // Not applied, for the sake of one of them, or because they are too many.
                Err(failure) => {
                    tracing::debug!(?failure, writes = writes.len(), "sending them one by one");
                    if failure.meaning == Meaning::Refused {
                        let mut state = self.state();
                        state.together = (writes.len() / 2).max(1).min(state.together);
                    }
                }
            }
        }
        for write in writes {
            let _ = write.answer.send(self.send_one(write.what).await);
        }
    }
}

/// Takes out what is to be sent together, and what is to be sent alone: of several entries of one queue, each needs a
/// revision of its own, which is its place; and a server refuses to write twice to one key.
fn gather(gathered: &mut Vec<Write>, at_most: usize) -> (Vec<Write>, Vec<Write>) {
    let taken: Vec<_> =
        gathered.drain(..gathered.len().min(at_most)).filter(|write| !write.answer.is_closed()).collect();
    let left = |write: &Write| if let What::Leave { key, .. } = &write.what { Some(key.clone()) } else { None };
    let left: HashSet<_> = taken.iter().filter_map(left).collect();
    let mut queues = HashSet::new();
    let fits = |write: &Write| match &write.what {
        What::Enter { queue, key, .. } => !left.contains(key.as_bytes()) && queues.insert(queue.clone()),
        What::Leave { .. } => true,
    };
    let (mut together, alone): (Vec<_>, Vec<_>) = taken.into_iter().partition(fits);
    // Those who leave first, so that those who enter do not find them.
    together.sort_by_key(|write| matches!(write.what, What::Enter { .. }));
    (together, alone)
}

/// A full database is told of also by a request that filled it.
fn may_be_applied(failure: &Failure) -> bool {
    !matches!(failure.meaning, Meaning::LeaseNotFound | Meaning::AccessDenied | Meaning::Refused)
}

fn answer_each(writes: Vec<Write>, answer: &TxnResponse) {
    let revision = revision(answer);
    let mut answers = answer.op_responses().into_iter();
    for write in writes {
        let own = match answers.next() {
            Some(TxnOpResponse::Txn(own)) => Ok((own, revision)),
            _ => Err(Failure::unavailable("an answer to another request")),
        };
        let _ = write.answer.send(own);
    }
}

fn revision(answer: &TxnResponse) -> i64 {
    answer.header().map_or(0, ResponseHeader::revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(queue: &str) -> What {
        What::Enter { queue: queue.to_owned(), key: format!("{queue}/0"), txn: Txn::new() }
    }

    fn leave(key: &str) -> What {
        What::Leave { key: key.into(), created: 1 }
    }

    /// What is sent together and alone of these, and how many are left.
    fn gathered(writes: &[What], at_most: usize) -> (Vec<String>, Vec<String>, usize) {
        let mut kept = Vec::new();
        let mut writes: Vec<_> = writes
            .iter()
            .map(|what| {
                let (answer, answered) = oneshot::channel();
                kept.push(answered);
                Write { what: what.clone(), answer }
            })
            .collect();
        let (together, alone) = gather(&mut writes, at_most);
        let names = |writes: Vec<Write>| {
            let name = |write: Write| match write.what {
                What::Enter { queue, .. } => format!("+{queue}"),
                What::Leave { key, .. } => format!("-{}", String::from_utf8_lossy(&key)),
            };
            writes.into_iter().map(name).collect()
        };
        (names(together), names(alone), writes.len())
    }

    #[test]
    fn two_entries_of_one_queue_never_share_a_revision() {
        let writes = [enter("a"), leave("a/1"), enter("a"), enter("b"), leave("a/2"), enter("a")];
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(gathered(&writes, 9), (strings(&["-a/1", "-a/2", "+a", "+b"]), strings(&["+a", "+a"]), 0));
        assert_eq!(gathered(&writes, 2), (strings(&["-a/1", "+a"]), strings(&[]), 4));
    }

    #[test]
    fn a_key_that_is_left_is_not_entered_in_the_same_request() {
        let (together, alone, _) = gathered(&[enter("a"), enter("b"), leave("a/0")], 9);
        assert_eq!((together.join(" "), alone.join(" ")), ("-a/0 +b".to_owned(), "+a".to_owned()));
    }

    #[test]
    fn what_nobody_waits_for_is_not_sent() {
        let (answer, answered) = oneshot::channel();
        drop(answered);
        let mut writes = vec![Write { what: enter("a"), answer }];
        let (together, alone) = gather(&mut writes, 9);
        assert!(together.is_empty() && alone.is_empty() && writes.is_empty());
    }
}
