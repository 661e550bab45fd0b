//! What happens to the servers is not noticed by a holder and a waiter with a ttl of ten seconds.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use integration::{Etcd, ZooKeeper, connect, eventually};
use lock_core::{Client, Guard, Mutex, Release};

const TTL: Duration = Duration::from_secs(10);
const LOCK: &str = "clusters";

/// A holder and a waiter, in sessions of their own.
struct Pair {
    holder: Guard,
    waiter: tokio::task::JoinHandle<lock_core::Result<Guard>>,
    mutexes: [Mutex; 2],
    clients: [Client; 2],
    keys: Vec<Arc<str>>,
}

async fn keys(mutex: &Mutex) -> Option<Vec<Arc<str>>> {
    Some(mutex.entries().await.ok()?.into_iter().map(|entry| entry.entry.key).collect())
}

impl Pair {
    async fn new(url: &str) -> Self {
        let clients = [client(url).await, client(url).await];
        let mutexes = [0, 1].map(|i| clients[i].mutex(LOCK).expect("a valid name"));
        let holder = mutexes[0].lock().await.expect("the lock is free");
        let waiting = mutexes[1].clone();
        let waiter = tokio::spawn(async move { waiting.lock().await });
        eventually("the waiter to sleep", TTL, || async { (clients[1].metrics().waits > 0).then_some(()) })
            .await
            .expect("the waiter waits");
        let keys = keys(&mutexes[0]).await.expect("the queue can be read");
        assert_eq!(keys.len(), 2);
        Self { holder, waiter, mutexes, clients, keys }
    }

    /// Holder and waiter are where they were, renewals still succeed, and the lock can be handed on.
    async fn unaffected(self) {
        let renewals = |i: usize| self.clients[i].metrics().renewals;
        let before = [renewals(0), renewals(1)];
        eventually("both sessions to be renewed", TTL * 2, || async {
            (renewals(0) > before[0] && renewals(1) > before[1]).then_some(())
        })
        .await
        .expect("renewals go on");
        self.holder.check().expect("the holder noticed nothing");
        assert!(!self.waiter.is_finished(), "the waiter noticed nothing");
        let now = eventually("the queue to be readable", TTL, || keys(&self.mutexes[0])).await.expect("readable");
        assert_eq!(now, self.keys, "every place is kept");
        assert_eq!(self.clients[0].metrics().sessions_opened, 1);
        assert_eq!(self.clients[1].metrics().sessions_opened, 1);
        let token = self.holder.token();
        assert_eq!(self.holder.release().await, Release::Released);
        let next = tokio::time::timeout(TTL, self.waiter).await.expect("in time").expect("no panic").expect("granted");
        assert!(next.token() > token);
        assert_eq!(next.release().await, Release::Released);
        let left = eventually("the queue to be readable", TTL, || keys(&self.mutexes[0])).await.expect("readable");
        assert_eq!(left, Vec::<Arc<str>>::new());
    }
}

async fn client(url: &str) -> Client {
    connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"))
}

async fn ok<T>(fixture: impl Future<Output = integration::Result<T>>) -> T {
    fixture.await.unwrap_or_else(|error| panic!("{error}"))
}

fn etcd_url(etcd: &Etcd) -> String {
    let hosts: Vec<_> = (0..etcd.nodes()).map(|i| etcd.endpoint(i)).collect();
    format!("etcd://{}/test?ttl={}s", hosts.join(","), TTL.as_secs())
}

fn zookeeper_url(zookeeper: &ZooKeeper) -> String {
    let hosts: Vec<_> = (0..zookeeper.nodes()).map(|i| zookeeper.endpoint(i)).collect();
    format!("zk://{}/test?timeout={}s", hosts.join(","), TTL.as_secs())
}

#[tokio::test]
async fn etcd_restart() {
    let etcd = ok(Etcd::single()).await;
    let pair = Pair::new(&etcd_url(&etcd)).await;
    etcd.kill(0).expect("kill -9");
    ok(etcd.restart(0)).await;
    pair.unaffected().await;
}

#[tokio::test]
async fn etcd_compaction() {
    let etcd = ok(Etcd::single()).await;
    let pair = Pair::new(&etcd_url(&etcd)).await;
    for round in 0..5 {
        ok(etcd.ctl(&["put", "unrelated", &round.to_string()])).await;
        ok(etcd.compact()).await;
    }
    pair.unaffected().await;
}

#[tokio::test]
async fn etcd_loses_its_leader() {
    let etcd = ok(Etcd::cluster(3)).await;
    let pair = Pair::new(&etcd_url(&etcd)).await;
    let leader = ok(etcd.leader()).await;
    etcd.kill(leader).expect("kill -9");
    ok(eventually("a new leader", TTL, || async { etcd.leader().await.ok().filter(|new| *new != leader) })).await;
    pair.unaffected().await;
}

#[tokio::test]
async fn etcd_moves_its_leader() {
    let etcd = ok(Etcd::cluster(3)).await;
    let pair = Pair::new(&etcd_url(&etcd)).await;
    for _ in 0..4 {
        let next = (ok(etcd.leader()).await + 1) % 3;
        ok(etcd.move_leader(next)).await;
    }
    pair.unaffected().await;
}

#[tokio::test]
async fn etcd_freezes_one_server_after_the_other() {
    let etcd = ok(Etcd::cluster(3)).await;
    let pair = Pair::new(&etcd_url(&etcd)).await;
    for i in 0..3 {
        etcd.pause(i).expect("SIGSTOP");
        let frozen = tokio::time::sleep(Duration::from_secs(3));
        frozen.await;
        etcd.resume(i).expect("SIGCONT");
        ok(eventually("a leader", TTL, || async { etcd.leader().await.ok() })).await;
    }
    pair.unaffected().await;
}

#[tokio::test]
async fn etcd_has_a_dead_endpoint() {
    for dead in 0..3 {
        let etcd = ok(Etcd::cluster(3)).await;
        etcd.kill(dead).expect("kill -9");
        ok(eventually("a leader", TTL, || async { etcd.leader().await.ok().filter(|new| *new != dead) })).await;
        Pair::new(&etcd_url(&etcd)).await.unaffected().await;
    }
}

#[tokio::test]
async fn zookeeper_restart() {
    let zookeeper = ok(ZooKeeper::single()).await;
    let pair = Pair::new(&zookeeper_url(&zookeeper)).await;
    zookeeper.kill(0).expect("kill -9");
    ok(zookeeper.restart(0)).await;
    pair.unaffected().await;
}

#[tokio::test]
async fn zookeeper_loses_its_leader() {
    let zookeeper = ok(ZooKeeper::cluster(3)).await;
    let pair = Pair::new(&zookeeper_url(&zookeeper)).await;
    let leader = ok(zookeeper.leader()).await;
    zookeeper.kill(leader).expect("kill -9");
    ok(eventually("a new leader", TTL, || async { zookeeper.leader().await.ok().filter(|new| *new != leader) })).await;
    pair.unaffected().await;
}

#[tokio::test]
async fn zookeeper_restarts_one_server_after_the_other() {
    let zookeeper = ok(ZooKeeper::cluster(3)).await;
    let pair = Pair::new(&zookeeper_url(&zookeeper)).await;
    for i in 0..3 {
        zookeeper.kill(i).expect("kill -9");
        ok(zookeeper.restart(i)).await;
    }
    pair.unaffected().await;
}

#[tokio::test]
async fn zookeeper_has_a_dead_endpoint() {
    let zookeeper = ok(ZooKeeper::cluster(3)).await;
    for dead in 0..3 {
        zookeeper.kill(dead).expect("kill -9");
        ok(eventually("a leader", TTL, || async { zookeeper.leader().await.ok().filter(|new| *new != dead) })).await;
        Pair::new(&zookeeper_url(&zookeeper)).await.unaffected().await;
        ok(zookeeper.restart(dead)).await;
    }
}
