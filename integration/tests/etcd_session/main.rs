//! The etcd backend against real servers, at the level of its sessions.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

mod access;
mod ambiguous;
mod queue;
mod stale_leader;
mod validity;
mod watching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use integration::{Etcd, PATIENCE, Proxy, eventually};
use lock_core::Name;
use lock_core::backend::{Ahead, Backend, Dequeued, Enqueue, Enqueued, Entry, Placed, Removal, Session, Watched};
use tokio::time::Instant;

const OWNER: &[u8] = b"tests";
const NAMESPACE: &str = "locks";

/// One attempt to enter a queue.
struct Attempt {
    queue: Name,
    /// Also what goes over the wire in its key.
    id: String,
    try_only: bool,
}

impl Attempt {
    fn new(queue: &Name) -> Self {
        Self { queue: queue.clone(), id: format!("{:032x}", fastrand::u128(..)), try_only: false }
    }

    fn try_only(queue: &Name) -> Self {
        Self { try_only: true, ..Self::new(queue) }
    }

    fn request(&self) -> Enqueue<'_> {
        Enqueue { queue: &self.queue, id: &self.id, value: b"value", only_if_free: self.try_only }
    }

    async fn enqueue(&self, session: &Arc<dyn Session>) -> lock_core::Result<Enqueued> {
        session.enqueue(&self.request()).await
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
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(lock_core::Error::Unavailable { .. }) if Instant::now() < deadline => {
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

async fn renew(session: &Arc<dyn Session>) -> Duration {
    retried("renew", || session.renew()).await
}

async fn keys(session: &Arc<dyn Session>, queue: &Name) -> Vec<String> {
    let entries = retried("entries", || session.entries(queue)).await;
    entries.into_iter().map(|entry| entry.entry.key).collect()
}

/// Opens a session with a ttl that outlasts the faults of a test.
async fn open(endpoints: &str) -> Arc<dyn Session> {
    open_with(endpoints, "ttl=60s").await
}

async fn open_with(endpoints: &str, parameters: &str) -> Arc<dyn Session> {
    try_open(&format!("etcd://{endpoints}/{NAMESPACE}?{parameters}")).await.unwrap()
}

async fn try_open(url: &str) -> lock_core::Result<Arc<dyn Session>> {
    lock_etcd::Etcd::from_url(url)?.open(OWNER).await
}

fn lease(session: &Arc<dyn Session>) -> i64 {
    i64::from_str_radix(&session.id(), 16).unwrap()
}

fn all_endpoints(etcd: &Etcd) -> String {
    (0..etcd.nodes()).map(|i| etcd.endpoint(i)).collect::<Vec<_>>().join(",")
}

/// Two ways to the first server, and a session that uses one of them: the session, that one, and the other.
async fn open_over_two(etcd: &Etcd, parameters: &str) -> (Arc<dyn Session>, Proxy, Proxy) {
    let [a, b] = [Proxy::start(etcd.addr(0)).await.unwrap(), Proxy::start(etcd.addr(0)).await.unwrap()];
    let session = open_with(&format!("{},{}", a.endpoint(), b.endpoint()), parameters).await;
    if a.connections() > 0 { (session, a, b) } else { (session, b, a) }
}

/// Waits until the server has this lease no more.
async fn until_over(etcd: &Etcd, lease: i64, limit: Duration) {
    let gone = || async { (!etcd.lease_list().await.ok()?.contains(&lease)).then_some(()) };
    eventually(format!("lease {lease:x} to end"), limit, gone).await.unwrap();
}
