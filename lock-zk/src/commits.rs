//! Group commit: what the tasks of a session write at the same time goes to the server in one transaction.
//!
//! Each transaction costs a write to the servers' disks, and each request a round. As long as few are under way, each write
//! is sent by itself and at once; those that come while more are under way are sent together. Such a transaction fails as
//! a whole and tells which part failed. Whatever was not applied for the sake of another is sent by itself, by the one who
//! waits for it, so that all that is not plain has one place.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use zookeeper_client as zk;
use zookeeper_client::{Client, MultiWriteError, MultiWriteResult, Stat};

use crate::session::ZkSession;

const COMMIT: &str = "write several entries at once";

/// Transactions under way from which on writes are gathered. More of them than this do not make the server faster.
const UNDER_WAY: usize = 2;

/// Writes in one transaction.
const TOGETHER: usize = 64;

/// Paths and values in one transaction, in bytes: far below what servers take in one packet, 1 MiB as shipped.
const BYTES: usize = 64 << 10;

/// How often writes are sent together, until they are sent one by one.
const TRIES: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Commits {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    gathered: Vec<Write>,
}

/// Who gets what became of a write.
pub(crate) type Answer<T> = oneshot::Sender<Turn<T>>;

#[derive(Debug)]
pub(crate) enum Write {
    Enter(Entering, Answer<Entered>),
    /// Deletes the node of this path.
    Leave(String, Answer<()>),
}

/// A node to be created.
#[derive(Clone, Debug)]
pub(crate) struct Entering {
    pub(crate) id: String,
    pub(crate) directory: String,
    pub(crate) prefix: String,
    pub(crate) value: Vec<u8>,
    /// Whether the directory is to be listed right after.
    pub(crate) lists: bool,
}

/// A node that was created.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) path: String,
    /// The transaction that created it.
    pub(crate) zxid: i64,
    /// The directory right after that, if it was to be listed and could be.
    pub(crate) listed: Option<(Vec<String>, Stat)>,
}

/// What becomes of a write whose turn it is.
#[derive(Debug)]
pub(crate) enum Turn<T> {
    /// It is to be sent by itself. What there is with it is kept until the answer comes.
    Alone(Option<UnderWay>),
    /// It was sent together with others.
    Answered(Result<T, zk::Error>),
}

/// One transaction under way. When it ends, what was gathered meanwhile is sent.
#[derive(Debug)]
pub(crate) struct UnderWay(Weak<ZkSession>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(session) = self.0.upgrade() {
            session.commits.state().under_way -= 1;
            // Without a runtime nobody waits any more.
            if let Ok(runtime) = Handle::try_current() {
                session.send_gathered(&runtime);
            }
        }
    }
}

impl Commits {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be sent now, together and alone. The former counts as under way.
    fn next(&self) -> Option<(Batch, Vec<Write>)> {
        let mut state = self.state();
        if state.under_way >= UNDER_WAY || state.gathered.is_empty() {
            return None;
        }
        state.under_way += 1;
        Some(gather(&mut state.gathered))
    }
}

impl ZkSession {
    /// Waits until it is a write's turn, or until it was sent together with others.
    pub(crate) async fn turn<T>(&self, write: impl FnOnce(Answer<T>) -> Write) -> Turn<T> {
        let gathered = {
            let mut state = self.commits.state();
            if state.under_way < UNDER_WAY {
                state.under_way += 1;
                None
            } else {
                let (answer, answered) = oneshot::channel();
                state.gathered.push(write(answer));
                Some(answered)
            }
        };
        match gathered {
            None => Turn::Alone(Some(UnderWay(self.me.clone()))),
            Some(answered) => answered.await.unwrap_or(Turn::Answered(Err(zk::Error::Timeout))),
        }
    }

    fn send_gathered(&self, runtime: &Handle) {
        while let Some((batch, alone)) = self.commits.next() {
            let under_way = UnderWay(self.me.clone());
            alone.into_iter().for_each(|write| write.alone(None));
            if batch.len() < 2 {
                batch.alone(Some(under_way));
                continue;
            }
            let session = self.me.clone();
            runtime.spawn(async move {
                let Some(session) = session.upgrade() else { return };
                let send = |client: Arc<Client>| {
                    let session = &session;
                    async move {
                        session.send_together(&client, batch, under_way).await;
                        Ok(())
                    }
                };
                if let Err(error) = session.bounded(COMMIT, send).await {
                    tracing::debug!(%error, "the answers to several writes are lost");
                }
            });
        }
    }

    async fn send_together(&self, client: &Client, mut batch: Batch, under_way: UnderWay) {
        for _ in 0..TRIES {
            let own = self.own.path();
            self.note_unanswered(&mut batch, &own);
            if batch.len() < 2 {
                break;
            }
            let mut transaction = client.new_multi_writer();
            let mut added = Ok(());
            if !batch.enters.is_empty() {
                added = self.add_fence(&mut transaction, &own);
            }
            for (key, _) in &batch.leaves {
                added = added.and_then(|()| transaction.add_delete(key, None));
            }
            for (entering, _) in &batch.enters {
                added = added.and_then(|()| self.add_entry(&mut transaction, entering));
            }
            if added.is_err() {
                break;
            }
            // All are given to the client here, in this order, as for an entry that is created alone.
            let commit = transaction.commit();
            let list = |(entering, _): &(Entering, _)| entering.lists.then(|| client.get_children(&entering.directory));
            let lists: Vec<_> = batch.enters.iter().map(list).collect();
            match commit.await {
                Ok(results) => {
                    drop(under_way);
                    return batch.answer(results, lists).await;
                }
                Err(MultiWriteError::OperationFailed { index, source }) => {
                    tracing::debug!(%source, index, writes = batch.len(), "one of several writes failed all");
                    let Some(write) = batch.take_out(index) else { break };
                    write.alone(None);
                }
                Err(MultiWriteError::RequestFailed { source }) => return batch.fail(&source),
            }
        }
        batch.alone(None);
    }

    /// Notes all enqueues as sent, but those whose callers are gone, and may have made sure by now that they never come.
    fn note_unanswered(&self, batch: &mut Batch, own: &Arc<str>) {
        let mut unanswered = self.unanswered();
        batch.enters.retain(|(_, answer)| !answer.is_closed());
        for (entering, _) in &batch.enters {
            unanswered.insert(entering.id.clone(), own.clone());
        }
    }
}

impl Write {
    fn is_closed(&self) -> bool {
        match self {
            Self::Enter(_, answer) => answer.is_closed(),
            Self::Leave(_, answer) => answer.is_closed(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Enter(entering, _) => entering.prefix.len() + entering.value.len(),
            Self::Leave(key, _) => key.len(),
        }
    }

    /// Nobody may wait any more, which is as well.
    fn alone(self, under_way: Option<UnderWay>) {
        match self {
            Self::Enter(_, answer) => drop(answer.send(Turn::Alone(under_way))),
            Self::Leave(_, answer) => drop(answer.send(Turn::Alone(under_way))),
        }
    }
}

/// Writes that are sent together: the session's own node if any of them enters, those who leave, those who enter.
#[derive(Debug, Default)]
struct Batch {
    leaves: Vec<(String, Answer<()>)>,
    enters: Vec<(Entering, Answer<Entered>)>,
}

impl Batch {
    fn len(&self) -> usize {
        self.leaves.len() + self.enters.len()
    }

    /// The part of the transaction with this index, unless it is the session's own node.
    fn take_out(&mut self, index: usize) -> Option<Write> {
        let index = index.checked_sub(usize::from(!self.enters.is_empty()))?;
        if index < self.leaves.len() {
            let (key, answer) = self.leaves.remove(index);
            return Some(Write::Leave(key, answer));
        }
        let index = index - self.leaves.len();
        (index < self.enters.len())
            .then(|| self.enters.remove(index))
            .map(|(entering, answer)| Write::Enter(entering, answer))
    }

    fn into_writes(self) -> impl Iterator<Item = Write> {
        let leaves = self.leaves.into_iter().map(|(key, answer)| Write::Leave(key, answer));
        leaves.chain(self.enters.into_iter().map(|(entering, answer)| Write::Enter(entering, answer)))
    }

    fn alone(self, mut under_way: Option<UnderWay>) {
        self.into_writes().for_each(|write| write.alone(under_way.take()));
    }

    fn fail(self, error: &zk::Error) {
        for write in self.into_writes() {
            match write {
                Write::Enter(_, answer) => drop(answer.send(Turn::Answered(Err(error.clone())))),
                Write::Leave(_, answer) => drop(answer.send(Turn::Answered(Err(error.clone())))),
            }
        }
    }

    async fn answer<L>(self, results: Vec<MultiWriteResult>, lists: Vec<Option<L>>)
    where
        L: Future<Output = Result<(Vec<String>, Stat), zk::Error>>,
    {
        let mut results = results.into_iter().peekable();
        let fence = results.next_if(|result| matches!(result, MultiWriteResult::SetData { .. }));
        for (_, answer) in self.leaves {
            let left = match results.next() {
                Some(MultiWriteResult::Delete) => Ok(()),
                _ => Err(other_results()),
            };
            let _ = answer.send(Turn::Answered(left));
        }
        for ((_, answer), list) in self.enters.into_iter().zip(lists) {
            let entered = match (&fence, results.next()) {
                (Some(MultiWriteResult::SetData { stat }), Some(MultiWriteResult::Create { path, .. })) => {
                    let listed = if let Some(list) = list { list.await.ok() } else { None };
                    Ok(Entered { path, zxid: stat.mzxid, listed })
                }
                _ => Err(other_results()),
            };
            let _ = answer.send(Turn::Answered(entered));
        }
    }
}

pub(crate) fn other_results() -> zk::Error {
    zk::Error::UnexpectedError("results of another transaction".into())
}

/// Takes out what is to be sent together, and what is to be sent alone: of several entries of one queue, each needs a
/// transaction of its own, whose id is its token.
fn gather(gathered: &mut Vec<Write>) -> (Batch, Vec<Write>) {
    gathered.retain(|write| !write.is_closed());
    let mut bytes = 0;
    let fits = |write: &&Write| {
        bytes += write.bytes();
        bytes <= BYTES
    };
    let fitting = gathered.iter().take(TOGETHER).take_while(fits).count();
    // One that is too big fits alone.
    let taken = fitting.max(1).min(gathered.len());
    let (mut batch, mut alone, mut queues) = (Batch::default(), Vec::new(), HashSet::new());
    for write in gathered.drain(..taken) {
        match write {
            Write::Leave(key, answer) => batch.leaves.push((key, answer)),
            Write::Enter(entering, answer) => {
                if queues.insert(entering.directory.clone()) {
                    batch.enters.push((entering, answer));
                } else {
                    alone.push(Write::Enter(entering, answer));
                }
            }
        }
    }
    (batch, alone)
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use super::*;

    type Waiter = Box<dyn Any>;

    fn enter(queue: &str, bytes: usize) -> (Write, Waiter) {
        let (answer, answered) = oneshot::channel();
        let directory = queue.to_owned();
        let entering =
            Entering { id: "0".into(), prefix: format!("{directory}/"), directory, value: vec![0; bytes], lists: true };
        (Write::Enter(entering, answer), Box::new(answered))
    }

    fn leave(key: &str) -> (Write, Waiter) {
        let (answer, answered) = oneshot::channel();
        (Write::Leave(key.into(), answer), Box::new(answered))
    }

    fn name(write: Write) -> String {
        match write {
            Write::Enter(entering, _) => format!("+{}", entering.directory),
            Write::Leave(key, _) => format!("-{key}"),
        }
    }

    /// What is sent together and alone of these, and how many are left.
    fn gathered(writes: Vec<(Write, Waiter)>) -> (String, String, usize) {
        let (mut writes, _waiters): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        let (together, alone) = gather(&mut writes);
        let names = |writes: Vec<Write>| writes.into_iter().map(name).collect::<Vec<_>>().join(" ");
        (names(together.into_writes().collect()), names(alone), writes.len())
    }

    #[test]
    fn two_entries_of_one_queue_never_share_a_transaction() {
        let writes = vec![enter("a", 0), leave("a/1"), enter("a", 0), enter("b", 0), leave("a/2"), enter("a", 0)];
        assert_eq!(gathered(writes), ("-a/1 -a/2 +a +b".into(), "+a +a".into(), 0));
    }

    #[test]
    fn a_transaction_is_of_moderate_size() {
        let many = (0..TOGETHER + 3).map(|n| leave(&n.to_string())).collect();
        assert_eq!(gathered(many).2, 3);
        let big = vec![enter("a", BYTES / 2), enter("b", BYTES / 2), leave("c")];
        assert_eq!(gathered(big), ("+a".into(), String::new(), 2));
        let huge = vec![enter("a", 2 * BYTES), leave("b")];
        assert_eq!(gathered(huge), ("+a".into(), String::new(), 1));
    }

    #[test]
    fn what_nobody_waits_for_is_not_sent() {
        let (kept, _waiter) = leave("b");
        let mut writes = vec![enter("a", 0).0, kept, leave("c").0];
        let (batch, alone) = gather(&mut writes);
        assert_eq!((batch.into_writes().map(name).collect::<String>(), alone.len(), writes.len()), ("-b".into(), 0, 0));
    }

    #[test]
    fn the_part_that_failed_is_known_by_its_index() {
        let parts = |writes: Vec<(Write, Waiter)>, index| {
            let (mut writes, _waiters): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
            gather(&mut writes).0.take_out(index).map(name)
        };
        let both = || vec![enter("a", 0), leave("b"), enter("c", 0), leave("d")];
        let taken: Vec<_> = (0..6).map(|index| parts(both(), index).unwrap_or_default()).collect();
        assert_eq!(taken, ["", "-b", "-d", "+a", "+c", ""], "the session's own node comes first");
        assert_eq!(parts(vec![leave("b"), leave("d")], 1).unwrap(), "-d");
    }
}
