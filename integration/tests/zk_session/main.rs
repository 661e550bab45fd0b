//! The ZooKeeper backend against real servers, at the level of its sessions.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

mod access;
mod alone;
mod ambiguous;
#[path = "../session/mod.rs"]
mod both;
mod commits;
mod downgrade;
mod guarded;
mod queue;
mod queue_watch;
mod queues;
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
use integration::{ZooKeeper, ZooKeeperOptions, eventually};
use lock_core::backend::{Backend, Session};

type Server = ZooKeeper;

const OWNER: &[u8] = b"tests";

/// What the name of an attempt's node starts with, which is also what goes over the wire.
fn prefix(attempt: &Attempt) -> String {
    let id = &attempt.id;
    format!("_c_{}-{}-{}-{}-{}-lock-", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
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

/// What the server counts under this name of `mntr`.
async fn counter(zookeeper: &ZooKeeper, name: &str) -> Option<String> {
    let text = zookeeper.four_letter(0, "mntr").await.ok()?;
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .find_map(|(counted, value)| (counted == name).then(|| value.to_owned()))
}

/// Waits until the server has no node of a session any more.
async fn until_gone(zookeeper: &ZooKeeper, session: &str, limit: Duration) {
    let gone = || async { (!zookeeper.dump().await.ok()?.contains(session)).then_some(()) };
    eventually(format!("session {session} to leave the store"), limit, gone).await.unwrap();
}
