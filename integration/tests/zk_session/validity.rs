//! What a renewal promises, against clocks and partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use integration::{Mode, PATIENCE, Proxy, ZooKeeper, eventually};
use lock_core::Error;
use lock_core::backend::{Change, Session};

use crate::{ahead, enqueue, open, open_with, queue, retried, watch};

/// Renews now and then for a while, cuts the link, and checks that the entry outlives the last proof.
async fn outlives_its_proof(observer: &Arc<dyn Session>, proxy: &Proxy, beats: &[u64]) {
    let session = open_with(&proxy.endpoint(), "timeout=2s").await;
    let entry = enqueue(&session, &queue()).await.entry;
    let removal = watch(observer, &entry).await;
    let mut until = Instant::now();
    for pause in beats {
        tokio::time::sleep(Duration::from_millis(*pause)).await;
        let asked = Instant::now();
        until = until.max(asked + retried("renew", || session.renew()).await);
    }
    proxy.set_both(Mode::Discard);
    let mut observed = removal.await;
    // A watch that ended without a word is opened again.
    while observed == Change::Unknown {
        match retried("watch", || observer.watch(&entry)).await {
            lock_core::backend::Watched::Present(removal) => observed = removal.await,
            lock_core::backend::Watched::Gone => break,
        }
    }
    let gone = Instant::now();
    assert!(gone >= until, "gone {:?} before the proof ended, beats {beats:?}", until - gone);
    let over = || async { matches!(session.renew().await, Err(Error::SessionOver { .. })).then_some(()) };
    proxy.heal().await.unwrap();
    eventually("the session to be over", PATIENCE, over).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_outlives_the_proof_of_a_single_server() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let observer = open(&zookeeper.endpoint(0)).await;
    for beats in [&[0][..], &[0, 333, 333, 333], &[0, 900], &[100, 10, 10, 10, 10], &[1100, 30]] {
        let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
        outlives_its_proof(&observer, &proxy, beats).await;
    }
}

/// The client's server is frozen, which also cuts it off from its leader.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_outlives_the_proof_of_a_follower_that_is_cut_off() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    for beats in [&[0, 333, 333][..], &[0, 333, 50], &[0, 900, 20]] {
        let leader = zookeeper.leader().await.unwrap();
        let follower = (leader + 1) % 3;
        let observer = open(&zookeeper.endpoint(leader)).await;
        let session = open_with(&zookeeper.endpoint(follower), "timeout=2s").await;
        let entry = enqueue(&session, &queue()).await.entry;
        let removal = watch(&observer, &entry).await;
        let mut until = Instant::now();
        for pause in beats {
            tokio::time::sleep(Duration::from_millis(*pause)).await;
            let asked = Instant::now();
            until = until.max(asked + retried("renew", || session.renew()).await);
        }
        zookeeper.pause(follower).unwrap();
        assert_eq!(removal.await, Change::Removed);
        let gone = Instant::now();
        assert!(gone >= until, "gone {:?} before the proof ended, beats {beats:?}", until - gone);
        zookeeper.resume(follower).unwrap();
        zookeeper.wait_ready(follower).await.unwrap();
    }
}

/// A leader without a quorum still answers reads; renewals must fail.
#[tokio::test]
async fn a_leader_without_its_quorum_answers_reads_and_proves_nothing() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    let leader = zookeeper.leader().await.unwrap();
    let session = open(&zookeeper.endpoint(leader)).await;
    // Of its own, for a server keeps the order of one session: a read waits for the transaction before it.
    let reader = open(&zookeeper.endpoint(leader)).await;
    let mine = enqueue(&session, &queue()).await;
    retried("renew", || session.renew()).await;
    let others: Vec<_> = (0..3).filter(|i| *i != leader).collect();
    for i in &others {
        zookeeper.pause(*i).unwrap();
    }
    let (renewed, read) = tokio::join!(session.renew(), reader.ahead(&mine.entry, 1));
    assert!(matches!(renewed, Err(Error::Unavailable { .. })), "{renewed:?}");
    assert!(read.unwrap().is_some());
    for i in &others {
        zookeeper.resume(*i).unwrap();
    }
}

#[tokio::test]
async fn a_session_that_expired_is_over_for_every_method() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let session = open_with(&proxy.endpoint(), "timeout=1s").await;
    let queue = queue();
    let mine = enqueue(&session, &queue).await;
    let removal = watch(&session, &mine.entry).await;
    proxy.set_both(Mode::Hold);
    crate::until_gone(&zookeeper, &session.id(), PATIENCE).await;
    proxy.heal().await.unwrap();
    let over = || async { matches!(session.renew().await, Err(Error::SessionOver { .. })).then_some(()) };
    eventually("the session to be over", PATIENCE, over).await.unwrap();
    let attempt = crate::Attempt::new(&queue);
    for answer in [
        session.enqueue(&attempt.request()).await.map(drop),
        session.adopt(&attempt.request()).await.map(drop),
        session.ahead(&mine.entry, 1).await.map(drop),
        session.watch(&mine.entry).await.map(drop),
        session.dequeue(&mine.entry).await.map(drop),
        session.entries(&queue, usize::MAX).await.map(drop),
    ] {
        assert!(matches!(answer, Err(Error::SessionOver { .. })), "{answer:?}");
    }
    assert_eq!(removal.await, Change::Unknown);
    session.close().await.unwrap();
}

/// The server is frozen longer than the timeout; it counts its own pause as ours.
#[tokio::test]
async fn a_frozen_server_costs_no_more_than_the_session() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open_with(&zookeeper.endpoint(0), "timeout=1s").await;
    let mine = enqueue(&session, &queue()).await;
    let proven = Instant::now() + retried("renew", || session.renew()).await;
    zookeeper.pause(0).unwrap();
    while Instant::now() < proven {
        let answer = session.renew().await;
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    }
    zookeeper.resume(0).unwrap();
    // Alive or over, but said clearly.
    let said = || async {
        match session.renew().await {
            Ok(_) => Some(true),
            Err(Error::SessionOver { .. }) => Some(false),
            Err(_) => None,
        }
    };
    if eventually("a clear answer", PATIENCE, said).await.unwrap() {
        assert!(ahead(&session, &mine.entry, 1).await.is_some());
    }
}

/// A session moves to another server when its own dies, and is proven again there.
#[tokio::test]
async fn a_session_survives_the_death_of_its_server() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    let leader = zookeeper.leader().await.unwrap();
    let session = open_with(&zookeeper.connect_string(), "timeout=10s").await;
    let mine = enqueue(&session, &queue()).await;
    zookeeper.kill(leader).unwrap();
    zookeeper.leader().await.unwrap();
    retried("renew", || session.renew()).await;
    assert!(ahead(&session, &mine.entry, 1).await.is_some());
}
