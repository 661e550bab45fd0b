//! Apache Curator's own recipes and ours in one queue, in both directions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::time::Duration;

use integration::{Curator, PATIENCE, ZooKeeper, connect, eventually};
use lock_core::{Client, Error, Result};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const DIRECTORY: &str = "/team/nightly";
const NAME: &str = "nightly";

struct Fleet {
    _zookeeper: ZooKeeper,
    client: Client,
    curator: Curator,
}

impl Fleet {
    async fn start() -> Self {
        let zookeeper = ZooKeeper::single().await.unwrap();
        let endpoint = zookeeper.endpoint(0);
        let client = connect(&format!("zk://{endpoint}/team")).await.unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/curator/Curator.java");
        let curator = Curator::start(&program, &[&endpoint]).await.unwrap();
        Self { _zookeeper: zookeeper, client, curator }
    }

    /// Waits until the queue has `n` entries.
    async fn queue(&self, n: usize) {
        let length = || async { (self.client.entries(NAME).await.ok()?.len() == n).then_some(()) };
        eventually(format!("{n} entries"), PATIENCE, length).await.unwrap();
    }
}

async fn granted<G>(waiter: JoinHandle<Result<G>>) -> G {
    timeout(PATIENCE, waiter).await.expect("it is granted in time").unwrap().unwrap()
}

fn waiting<G: Send + 'static>(acquire: impl Future<Output = Result<G>> + Send + 'static) -> JoinHandle<Result<G>> {
    tokio::spawn(acquire)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutex_is_one_lock() {
    let mut fleet = Fleet::start().await;
    let mutex = fleet.client.mutex(NAME).unwrap();
    let ours = mutex.lock().await.unwrap();
    fleet.curator.say(&format!("a lock {DIRECTORY}")).await.unwrap();
    fleet.queue(2).await;
    assert!(!fleet.curator.has_said("a held").await.unwrap());
    ours.release().await;
    fleet.curator.hears("a held").await.unwrap();
    assert!(mutex.try_lock().await.unwrap().is_none());
    let ours = waiting(mutex.lock());
    fleet.queue(2).await;
    assert!(!ours.is_finished());
    fleet.curator.ask("a release", "a released").await.unwrap();
    granted(ours).await.release().await;
    fleet.queue(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_and_writers_do_not() {
    let mut fleet = Fleet::start().await;
    let lock = fleet.client.rw_lock(NAME).unwrap();
    let reading = lock.read().await.unwrap();
    fleet.curator.ask(&format!("a read {DIRECTORY}"), "a held").await.unwrap();
    fleet.curator.say(&format!("b write {DIRECTORY}")).await.unwrap();
    fleet.queue(3).await;
    let behind = waiting(lock.read());
    fleet.queue(4).await;
    reading.release().await;
    assert!(!fleet.curator.has_said("b held").await.unwrap(), "Curator's own reader is ahead");
    assert!(!behind.is_finished(), "a writer waits ahead");
    fleet.curator.ask("a release", "a released").await.unwrap();
    fleet.curator.hears("b held").await.unwrap();
    let writing = waiting(lock.write());
    fleet.queue(3).await;
    assert!(!behind.is_finished());
    fleet.curator.ask("b release", "b released").await.unwrap();
    let behind = granted(behind).await;
    assert!(!writing.is_finished());
    behind.release().await;
    granted(writing).await.release().await;
    fleet.queue(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downgrade_lets_readers_in_and_no_writer() {
    let mut fleet = Fleet::start().await;
    let lock = fleet.client.rw_lock(NAME).unwrap();

    let writing = lock.write().await.unwrap();
    fleet.curator.say(&format!("r read {DIRECTORY}")).await.unwrap();
    fleet.queue(2).await;
    fleet.curator.say(&format!("w write {DIRECTORY}")).await.unwrap();
    fleet.queue(3).await;
    let reading = writing.downgrade().await.unwrap();
    fleet.curator.hears("r held").await.unwrap();
    fleet.curator.ask("r release", "r released").await.unwrap();
    assert!(!fleet.curator.has_said("w held").await.unwrap(), "we still read");
    reading.release().await;
    fleet.curator.hears("w held").await.unwrap();

    // Before 5.5 its reader's node comes behind those who wait (CURATOR-621), so that no writer may do so.
    let reader = waiting(lock.read());
    fleet.queue(2).await;
    fleet.curator.ask("w downgrade", "w reads").await.unwrap();
    granted(reader).await.release().await;
    fleet.queue(1).await;
    let writer = waiting(lock.write());
    fleet.queue(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!writer.is_finished(), "Curator still reads");
    fleet.curator.ask("w release", "w released").await.unwrap();
    granted(writer).await.release().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_asked_to_let_go_in_both_directions() {
    let mut fleet = Fleet::start().await;
    let mutex = fleet.client.mutex(NAME).unwrap();

    let ours = mutex.lock().await.unwrap();
    let path = ours.entry().key.clone();
    fleet.curator.ask(&format!("a revoke {path}"), "a revoked").await.unwrap();
    timeout(PATIENCE, ours.revoked()).await.expect("Curator asks us");
    ours.release().await;

    fleet.curator.ask(&format!("b revocable {DIRECTORY}"), "b held").await.unwrap();
    let queue = fleet.client.queue(NAME).unwrap();
    let token = queue.list().await.unwrap()[0].token.unwrap();
    assert!(queue.revoke(token).await.unwrap());
    fleet.curator.hears("b asked").await.unwrap();
    fleet.curator.ask("b release", "b released").await.unwrap();
    fleet.queue(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_latch_is_one_election() {
    let mut fleet = Fleet::start().await;
    let election = fleet.client.election(NAME).unwrap();
    let ours = election.campaign("ours").await.unwrap();
    fleet.curator.say(&format!("a latch {DIRECTORY} theirs")).await.unwrap();
    fleet.queue(2).await;
    fleet.curator.ask("a leader", "a leader ours").await.unwrap();
    let error = ours.proclaim("ours, moved").await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "Curator would miss that we resign: {error}");
    let token = ours.token();
    let error = fleet.client.queue(NAME).unwrap().revoke(token).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(!fleet.curator.has_said("a leads").await.unwrap());
    ours.resign().await;
    fleet.curator.hears("a leads").await.unwrap();
    let leader = election.leader().await.unwrap().expect("Curator leads");
    assert_eq!((leader.value.as_slice(), leader.token > token), (b"theirs".as_slice(), true));
    let ours = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("ours again").await }
    });
    fleet.queue(2).await;
    assert!(!ours.is_finished());
    fleet.curator.ask("a close", "a closed").await.unwrap();
    let ours = granted(ours).await;
    ours.proclaim("moved").await.unwrap();
    fleet.curator.say(&format!("b latch {DIRECTORY} late")).await.unwrap();
    fleet.queue(2).await;
    fleet.curator.ask("b leader", "b leader moved").await.unwrap();
    ours.resign().await;
    fleet.curator.hears("b leads").await.unwrap();
}
