//! A queue that a session has to itself is followed, not listed for each entry; and the session is not alone for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration::{PATIENCE, ZooKeeper, connect};
use lock_core::{Client, Guard, Mutex};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::watching::until_watches;

/// More than it takes to have a queue to oneself.
const MANY: usize = 12;

async fn client(zookeeper: &ZooKeeper) -> Client {
    connect(&format!("zk://{}/alone?timeout=10s", zookeeper.endpoint(0))).await.unwrap()
}

/// Takes and releases a lock several times.
async fn visit(mutex: &Mutex, times: usize) {
    for _ in 0..times {
        mutex.lock().await.unwrap().release().await;
    }
}

async fn packets(zookeeper: &ZooKeeper) -> u64 {
    crate::counter(zookeeper, "zk_packets_received").await.unwrap().parse().unwrap()
}

/// Asks for a lock that another one holds, and does not get it for this long.
async fn waits(mutex: &Mutex, at_least: Duration) -> JoinHandle<Guard> {
    let mutex = mutex.clone();
    let mut waiting = tokio::spawn(async move { mutex.lock().await.unwrap() });
    assert!(timeout(at_least, &mut waiting).await.is_err(), "the other one holds");
    waiting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_ones_own_is_not_listed() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let client = client(&zookeeper).await;
    let mutex = client.mutex("l").unwrap();
    visit(&mutex, MANY).await;
    let before = packets(&zookeeper).await;
    visit(&mutex, 100).await;
    let sent = packets(&zookeeper).await - before;
    // And a few heartbeats.
    assert!((200..220).contains(&sent), "a transaction and a deletion each: {sent}");
    // Nobody comes any more.
    until_watches(&zookeeper, "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_used_in_turns_is_not_followed() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (one, two) = (client(&zookeeper).await, client(&zookeeper).await);
    let (one, two) = (one.mutex("l").unwrap(), two.mutex("l").unwrap());
    for _ in 0..MANY {
        visit(&one, 4).await;
        visit(&two, 1).await;
    }
    until_watches(&zookeeper, "0").await;
    let before = packets(&zookeeper).await;
    for _ in 0..20 {
        visit(&one, 4).await;
        visit(&two, 1).await;
    }
    let sent = packets(&zookeeper).await - before;
    assert!((300..330).contains(&sent), "and a list each: {sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_is_seen_at_once() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (one, two) = (client(&zookeeper).await, client(&zookeeper).await);
    let (one, two) = (one.mutex("l").unwrap(), two.mutex("l").unwrap());
    for _ in 0..20 {
        visit(&one, MANY).await;
        let other = two.lock().await.unwrap();
        let waiting = waits(&one, Duration::from_millis(50)).await;
        let token = other.token();
        other.release().await;
        let guard = timeout(PATIENCE, waiting).await.unwrap().unwrap();
        assert!(guard.token() > token);
        guard.release().await;
    }
}

/// The directory begins to count anew, so that numbers say nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_was_made_anew_is_another_queue() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (one, two) = (client(&zookeeper).await, client(&zookeeper).await);
    let admin = zookeeper.admin().await.unwrap();
    let (one, two) = (one.mutex("l").unwrap(), two.mutex("l").unwrap());
    for seen in [MANY, MANY + 1, 3, MANY + 30] {
        visit(&one, seen).await;
        let guard = one.lock().await.unwrap();
        let directory = guard.entry().key.rsplit_once('/').unwrap().0.to_owned();
        let number: usize = guard.entry().key.rsplit_once('-').unwrap().1.parse().unwrap();
        guard.release().await;
        admin.delete(&directory).await.unwrap();
        // As many others as there were before: the next number is the one that would follow.
        visit(&two, number).await;
        let other = two.lock().await.unwrap();
        let waiting = waits(&one, Duration::from_millis(100)).await;
        other.release().await;
        timeout(PATIENCE, waiting).await.unwrap().unwrap().release().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_mostly_alone_excludes_others() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let holders = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for (pause, times) in [(0, 1500), (7, 150), (31, 40)] {
        let (mutex, holders) = (client(&zookeeper).await.mutex("l").unwrap(), holders.clone());
        tasks.spawn(async move {
            for _ in 0..times {
                let guard = mutex.lock().await.unwrap();
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "nobody else holds");
                tokio::task::yield_now().await;
                guard.check().unwrap();
                holders.fetch_sub(1, Ordering::SeqCst);
                guard.release().await;
                sleep(Duration::from_millis(pause)).await;
            }
        });
    }
    while let Some(done) = timeout(PATIENCE, tasks.join_next()).await.expect("nobody is forgotten") {
        done.unwrap();
    }
}
