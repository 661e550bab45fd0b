//! What is ZooKeeper's own about writers that go on as readers: the node gets another name.

use std::sync::Arc;

use integration::{Action, Direction, Mode, PATIENCE, Proxy, When, ZooKeeper, eventually};
use lock_core::Error;
use lock_core::backend::{Kind, Watched};

use crate::{Attempt, dequeue, downgrade, enqueue_kind, keys, open, open_with, queue};

#[tokio::test]
async fn the_former_node_is_gone() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let writer = enqueue_kind(&session, &queue(), Kind::Write).await;
    let mine = downgrade(&session, &writer.entry).await.unwrap();
    assert_ne!(mine, writer.entry);
    assert!(matches!(session.watch(&writer.entry).await.unwrap(), Watched::Gone));
    assert!(matches!(session.watch(&mine).await.unwrap(), Watched::Present(_)));
}

/// A request that is delayed on a connection which the session has left, until after the entry was removed.
#[tokio::test]
async fn a_delayed_downgrade_brings_nothing_back() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let observer = open(&zookeeper.endpoint(0)).await;
    for repeat in [false, true] {
        let proxies = [Proxy::start(zookeeper.addr(0)).await.unwrap(), Proxy::start(zookeeper.addr(0)).await.unwrap()];
        let hosts = format!("{},{}", proxies[0].endpoint(), proxies[1].endpoint());
        let session = open_with(&hosts, "timeout=6s").await;
        let queue = queue();
        let writer = enqueue_kind(&session, &queue, Kind::Write).await;
        let used = proxies.iter().position(|proxy| proxy.connections() == 1).unwrap();
        let old = &proxies[used];
        let request = When::Contains(b"-__READ__".to_vec());
        let held = old.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
        let turning = tokio::spawn({
            let (session, entry) = (session.clone(), writer.entry.clone());
            async move { session.downgrade(&entry).await }
        });
        held.fired().await.unwrap();
        assert!(matches!(turning.await.unwrap(), Err(Error::Unavailable { .. })));
        let left = if repeat {
            // Another name is never given: the delayed request and this one make the same node.
            vec![downgrade(&session, &writer.entry).await.unwrap().key]
        } else {
            // `Absent` when the answer to a first try was lost.
            dequeue(&session, &writer.entry).await;
            assert!(keys(&observer, &queue).await.is_empty());
            Vec::new()
        };
        let before = old.counters().passed_to_server;
        old.heal().await.unwrap();
        let passed = || async { (old.counters().passed_to_server > before).then_some(()) };
        eventually("the delayed request to go out", PATIENCE, passed).await.unwrap();
        // A request of the same session is answered after it, wherever the session is by then.
        let attempt = Attempt::new(&crate::queue());
        let after = attempt.enter(&session).await;
        assert_eq!(keys(&observer, &queue).await, left);
        dequeue(&session, &after.entry).await;
        session.close().await.unwrap();
    }
}

/// Whoever looks while a writer turns sees it as the one or the other, or both, but never sees nobody.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_the_place_empty_meanwhile() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    let a = open(&zookeeper.endpoint(0)).await;
    let lookers =
        [open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(1)).await, open(&zookeeper.endpoint(2)).await];
    for _ in 0..20 {
        let queue = queue();
        let writer = enqueue_kind(&a, &queue, Kind::Write).await;
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut looking = tokio::task::JoinSet::new();
        for looker in &lookers {
            let mine = enqueue_kind(looker, &queue, Kind::Write).await.entry;
            let (looker, done) = (looker.clone(), done.clone());
            looking.spawn(async move {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let seen = looker.ahead(&mine, 8).await.unwrap().unwrap().nearest;
                    let first = seen.last().expect("somebody is ahead");
                    assert!(first.entry.key.contains("0000000000"), "{seen:?}");
                }
            });
        }
        let mine = downgrade(&a, &writer.entry).await.unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        looking.join_all().await;
        dequeue(&a, &mine).await;
    }
}
