//! The etcd backend against real servers, at the level of its sessions.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

mod access;
mod ambiguous;
#[path = "../session/mod.rs"]
mod both;
mod commits;
mod guarded;
mod queue;
mod queue_watch;
mod queues;
mod stale_leader;
mod validity;
mod values;
mod views;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use integration::session::{
    Attempt, ahead, dequeue, downgrade, enqueue, enqueue_kind, keys, lost, mutex, placed, queue, read, retried, watch,
    watch_queue, write,
};
use integration::{Etcd, Proxy, eventually};
use lock_core::backend::{Backend, Session};

type Server = Etcd;

const OWNER: &[u8] = b"tests";
const NAMESPACE: &str = "locks";

async fn renew(session: &Arc<dyn Session>) -> Duration {
    retried("renew", || session.renew()).await
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
