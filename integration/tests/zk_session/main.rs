//! The ZooKeeper backend against real servers, at the level of its sessions.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

mod access;
mod ambiguous;
mod queue;
mod validity;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use integration::{PATIENCE, ZooKeeper, ZooKeeperOptions, eventually};
use lock_core::Name;
use lock_core::backend::{Ahead, Backend, Dequeued, Enqueue, Enqueued, Entry, Placed, Removal, Session, Watched};

const OWNER: &[u8] = b"tests";

/// One attempt to enter a queue.
struct Attempt {
    queue: Name,
    id: String,
    try_only: bool,
}

impl Attempt {
    fn new(queue: &Name) -> Self {
        Self { queue: queue.clone(), id: format!("{:032x}", fastrand::u128(..)), try_only: false }
    }

    fn request(&self) -> Enqueue<'_> {
        Enqueue { queue: &self.queue, id: &self.id, value: b"value", only_if_free: self.try_only }
    }

    /// What its node's name starts with, which is also what goes over the wire.
    fn prefix(&self) -> String {
        let id = &self.id;
        format!("_c_{}-{}-{}-{}-{}-lock-", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
    }

    async fn enqueue(&self, session: &Arc<dyn Session>) -> lock_core::Result<Enqueued> {
        session.enqueue(&self.request()).await
    }

    /// Enters the queue as the client does, whatever is lost on the way.
    async fn enter(&self, session: &Arc<dyn Session>) -> Placed {
        loop {
            match self.enqueue(session).await {
                Err(lock_core::Error::Unavailable { .. }) => {}
                answer => return placed(answer),
            }
            if let Some(placed) = self.adopt(session).await {
                return placed;
            }
        }
    }

    async fn adopt(&self, session: &Arc<dyn Session>) -> Option<Placed> {
        let request = self.request();
        retried("adopt", || session.adopt(&request)).await
    }
}

fn queue() -> Name {
    Name::new(format!("q{:016x}", fastrand::u64(..))).unwrap()
}

async fn enqueue(session: &Arc<dyn Session>, queue: &Name) -> Placed {
    placed(Attempt::new(queue).enqueue(session).await)
}

fn placed(answer: lock_core::Result<Enqueued>) -> Placed {
    match answer {
        Ok(Enqueued::Placed(placed)) => placed,
        other => panic!("not placed: {other:?}"),
    }
}

/// Asks until the answer is definite, as the client does.
async fn retried<T, F>(what: &str, ask: impl Fn() -> F) -> T
where
    F: Future<Output = lock_core::Result<T>> + Send,
    T: Send,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(lock_core::Error::Unavailable { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{what}: {error} ({error:?})"),
        }
    }
}

async fn ahead(session: &Arc<dyn Session>, mine: &Entry, limit: usize) -> Option<Ahead> {
    retried("ahead", || session.ahead(mine, limit)).await
}

async fn watch(session: &Arc<dyn Session>, entry: &Entry) -> Removal {
    match retried("watch", || session.watch(entry)).await {
        Watched::Present(removal) => removal,
        Watched::Gone => panic!("{entry:?} is gone"),
    }
}

async fn dequeue(session: &Arc<dyn Session>, entry: &Entry) -> Dequeued {
    retried("dequeue", || session.dequeue(entry)).await
}

async fn keys(session: &Arc<dyn Session>, queue: &Name) -> Vec<String> {
    let entries = retried("entries", || session.entries(queue)).await;
    entries.into_iter().map(|entry| entry.entry.key).collect()
}

/// Opens a session with a timeout that outlasts the faults of a test.
async fn open(endpoints: &str) -> Arc<dyn Session> {
    open_with(endpoints, "timeout=6s").await
}

async fn open_with(endpoints: &str, parameters: &str) -> Arc<dyn Session> {
    let url = format!("zk://{endpoints}?{parameters}");
    lock_zk::ZooKeeper::from_url(&url).unwrap().open(OWNER).await.unwrap()
}

async fn single(extra_jvm_args: &[&str]) -> ZooKeeper {
    let extra_jvm_args = extra_jvm_args.iter().map(|&arg| arg.to_owned()).collect();
    ZooKeeper::start(ZooKeeperOptions { extra_jvm_args, ..ZooKeeperOptions::default() }).await.unwrap()
}

/// Waits until the server has no node of a session any more.
async fn until_gone(zookeeper: &ZooKeeper, session: &str, limit: Duration) {
    let gone = || async { (!zookeeper.dump().await.ok()?.contains(session)).then_some(()) };
    eventually(format!("session {session} to leave the store"), limit, gone).await.unwrap();
}
