//! A backend's session as tests drive it, below the client.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lock_core::backend::{
    Ahead, Change, Content, Dequeued, Enqueue, Enqueued, Entry, Kind, Placed, Session, Standing, Stir, Watch, Watched,
    Written,
};
use lock_core::{Error, Name};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::PATIENCE;

/// One attempt to enter a queue.
#[derive(Debug)]
pub struct Attempt {
    queue: Name,
    kind: Kind,
    /// Also what goes over the wire, in the entry's key.
    pub id: String,
    try_only: bool,
}

impl Attempt {
    /// An attempt to lock a mutex that waits its turn.
    pub fn new(queue: &Name) -> Self {
        Self::of_kind(queue, Kind::Exclusive)
    }

    /// An attempt of another recipe.
    pub fn of_kind(queue: &Name, kind: Kind) -> Self {
        Self { queue: queue.clone(), kind, id: format!("{:032x}", fastrand::u128(..)), try_only: false }
    }

    /// An attempt that enters a free queue only.
    pub fn try_only(queue: &Name) -> Self {
        Self { try_only: true, ..Self::new(queue) }
    }

    /// The request that this attempt makes.
    pub fn request(&self) -> Enqueue<'_> {
        Enqueue { queue: &self.queue, kind: self.kind, id: &self.id, value: b"value", only_if_free: self.try_only }
    }

    /// Asks once.
    ///
    /// # Errors
    ///
    /// As [`Session::enqueue`].
    pub async fn enqueue(&self, session: &Arc<dyn Session>) -> lock_core::Result<Enqueued> {
        session.enqueue(&self.request()).await
    }

    /// Asks once, in a task.
    pub fn start(self: &Arc<Self>, session: &Arc<dyn Session>) -> JoinHandle<lock_core::Result<Enqueued>> {
        let (session, attempt) = (session.clone(), self.clone());
        tokio::spawn(async move { attempt.enqueue(&session).await })
    }

    /// Settles a request whose answer was lost.
    pub async fn adopt(&self, session: &Arc<dyn Session>) -> Option<Placed> {
        let request = self.request();
        retried("adopt", || session.adopt(&request)).await
    }

    /// Enters the queue as the client does, whatever is lost on the way.
    pub async fn enter(&self, session: &Arc<dyn Session>) -> Placed {
        loop {
            match self.enqueue(session).await {
                Err(Error::Unavailable { .. }) => {}
                answer => return placed(answer),
            }
            if let Some(placed) = self.adopt(session).await {
                return placed;
            }
        }
    }
}

/// A queue that no other test uses.
pub fn queue() -> Name {
    Name::new(format!("q{:016x}", fastrand::u64(..))).unwrap_or_else(|error| panic!("{error}"))
}

/// Enters a queue with one request, which must be answered.
pub async fn enqueue(session: &Arc<dyn Session>, queue: &Name) -> Placed {
    placed(Attempt::new(queue).enqueue(session).await)
}

/// Enters a queue for another recipe than a mutex.
pub async fn enqueue_kind(session: &Arc<dyn Session>, queue: &Name, kind: Kind) -> Placed {
    placed(Attempt::of_kind(queue, kind).enqueue(session).await)
}

/// The place that an answer must have given.
pub fn placed(answer: lock_core::Result<Enqueued>) -> Placed {
    match answer {
        Ok(Enqueued::Placed(placed)) => placed,
        other => panic!("not placed: {other:?}"),
    }
}

/// Waits for a request whose answer must be lost.
pub async fn lost(enqueuing: JoinHandle<lock_core::Result<Enqueued>>) {
    let answer = enqueuing.await.unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
}

/// Asks until the answer is definite, as the client does.
pub async fn retried<T, F>(what: &str, ask: impl Fn() -> F + Send) -> T
where
    F: Future<Output = lock_core::Result<T>> + Send,
    T: Send,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(Error::Unavailable { .. }) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{what}: {error} ({error:?})"),
        }
    }
}

/// What is ahead of an entry.
pub async fn ahead(session: &Arc<dyn Session>, mine: &Entry, limit: usize) -> Option<Ahead> {
    retried("ahead", || session.ahead(mine, limit)).await
}

/// An entry of a mutex as those behind it see it.
pub fn mutex(entry: &Entry) -> Standing {
    Standing { entry: entry.clone(), kind: Kind::Exclusive }
}

/// Watches an entry, which must be there.
pub async fn watch(session: &Arc<dyn Session>, entry: &Entry) -> Watch {
    match retried("watch", || session.watch(entry)).await {
        Watched::Present(watch) => watch,
        Watched::Gone => panic!("{entry:?} is gone"),
    }
}

/// Watches a queue.
pub async fn watch_queue(session: &Arc<dyn Session>, queue: &Name) -> Stir {
    retried("watch a queue", || session.watch_queue(queue)).await
}

/// Reads the value of an entry or a record.
pub async fn read(session: &Arc<dyn Session>, entry: &Entry) -> Option<Content> {
    retried("read", || session.read(entry)).await
}

/// Writes the value of an entry or a record with one request, which must be answered.
pub async fn write(session: &Arc<dyn Session>, entry: &Entry, version: u64, value: &[u8]) -> Written {
    session.write(entry, version, value).await.unwrap_or_else(|error| panic!("write: {error}"))
}

/// Turns a writer's entry into a reader's; the entry that it is then.
pub async fn downgrade(session: &Arc<dyn Session>, mine: &Entry) -> Option<Entry> {
    retried("downgrade", || session.downgrade(mine)).await
}

/// Removes an entry.
pub async fn dequeue(session: &Arc<dyn Session>, entry: &Entry) -> Dequeued {
    retried("dequeue", || session.dequeue(entry)).await
}

/// The requests by which a session learns that one of its entries is gone.
pub const WAYS_TO_ASK: [&str; 4] = ["watch", "read", "downgrade", "dequeue"];

/// Makes one of these requests for an entry that is gone.
pub async fn finds_gone(session: &Arc<dyn Session>, entry: &Entry, asked: &str) {
    match asked {
        "watch" => match retried("watch", || session.watch(entry)).await {
            Watched::Gone => {}
            Watched::Present(watch) => {
                let change = timeout(PATIENCE, watch).await;
                assert_eq!(change.unwrap_or_else(|_| panic!("nobody tells that {entry:?} is gone")), Change::Removed);
            }
        },
        "read" => assert_eq!(read(session, entry).await, None),
        "downgrade" => assert_eq!(downgrade(session, entry).await, None),
        "dequeue" => assert_eq!(dequeue(session, entry).await, Dequeued::Absent),
        other => panic!("{other} is none of {WAYS_TO_ASK:?}"),
    }
}

/// The keys of a queue's entries, in order.
pub async fn keys(session: &Arc<dyn Session>, queue: &Name) -> Vec<Arc<str>> {
    let entries = retried("entries", || session.entries(queue, usize::MAX)).await;
    entries.into_iter().map(|entry| entry.entry.key).collect()
}
