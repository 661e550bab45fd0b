//! Watches: what they report, in which order, over reconnects and restarts, and what they leave behind.

use std::sync::Arc;
use std::time::Duration;

use integration::{Cut, PATIENCE, Proxy, ZooKeeper, eventually};
use lock_core::Name;
use lock_core::backend::{Removed, Session, Watched};
use tokio::time::timeout;

use crate::{ahead, dequeue, enqueue, keys, open, open_with, queue, retried, watch};

#[tokio::test]
async fn a_removal_is_a_fact_and_anything_else_is_unknown() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let first = enqueue(&a, &queue).await.entry;
    let removal = watch(&b, &first).await;
    dequeue(&a, &first).await;
    assert_eq!(removal.await, Removed::Gone);

    // A change of data is no removal.
    let second = enqueue(&a, &queue).await.entry;
    let mut removal = watch(&b, &second).await;
    assert!(timeout(Duration::from_millis(50), &mut removal).await.is_err());
    zookeeper.admin().await.unwrap().client().set_data(&second.key, b"__REVOKE__", None).await.unwrap();
    assert_eq!(removal.await, Removed::Unknown);

    let third = enqueue(&a, &queue).await.entry;
    let removal = watch(&b, &third).await;
    a.close().await.unwrap();
    assert_eq!(removal.await, Removed::Gone);
}

#[tokio::test]
async fn removals_are_reported_in_the_order_of_the_store() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    for _ in 0..50 {
        let (first, second) = (enqueue(&a, &queue).await.entry, enqueue(&a, &queue).await.entry);
        let (mut first_gone, second_gone) = (watch(&b, &first).await, watch(&b, &second).await);
        tokio::join!(dequeue(&a, &first), dequeue(&a, &second));
        assert_eq!(second_gone.await, Removed::Gone);
        // Known by now, without any wait.
        assert_eq!(timeout(Duration::ZERO, &mut first_gone).await, Ok(Removed::Gone));
    }
}

/// Removals while the client was away are reported in no order, so they are not reported as facts.
#[tokio::test]
async fn a_removal_during_a_disconnection_is_unknown_and_one_after_it_is_seen() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&proxy.endpoint()).await);
    let queue = queue();
    for cut in [Cut::Fin, Cut::Rst] {
        let (first, second) = (enqueue(&a, &queue).await.entry, enqueue(&a, &queue).await.entry);
        let (first_gone, second_gone) = (watch(&b, &first).await, watch(&b, &second).await);
        proxy.refuse(true).await.unwrap();
        proxy.cut(cut).await.unwrap();
        dequeue(&a, &first).await;
        proxy.heal().await.unwrap();
        assert_eq!(timeout(PATIENCE, first_gone).await, Ok(Removed::Unknown));
        assert!(matches!(retried("watch", || b.watch(&first)).await, Watched::Gone));
        dequeue(&a, &second).await;
        timeout(PATIENCE, second_gone).await.unwrap();
        let third = enqueue(&a, &queue).await.entry;
        let third_gone = watch(&b, &third).await;
        dequeue(&a, &third).await;
        assert_eq!(third_gone.await, Removed::Gone);
    }
}

#[tokio::test]
async fn a_watch_and_the_place_survive_a_restart_of_the_server() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (
        open_with(&zookeeper.endpoint(0), "timeout=20s").await,
        open_with(&zookeeper.endpoint(0), "timeout=20s").await,
    );
    let queue = queue();
    let (first, second) = (enqueue(&a, &queue).await.entry, enqueue(&b, &queue).await.entry);
    let removal = watch(&b, &first).await;
    zookeeper.kill(0).unwrap();
    zookeeper.restart(0).await.unwrap();
    assert_eq!(keys(&b, &queue).await, [first.key.clone(), second.key.clone()]);
    dequeue(&a, &first).await;
    timeout(PATIENCE, removal).await.expect("the watch to fire");
    assert_eq!(ahead(&b, &second, 1).await.unwrap().nearest, []);
}

async fn watches(zookeeper: &ZooKeeper) -> Option<String> {
    let text = zookeeper.wchs(0).await.ok()?;
    text.lines().find_map(|line| line.strip_prefix("Total watches:").map(str::to_owned))
}

async fn until_watches(zookeeper: &ZooKeeper, want: &str) {
    let there = || async { (watches(zookeeper).await? == want).then_some(()) };
    eventually(format!("{want} watches"), PATIENCE, there).await.unwrap();
}

#[tokio::test]
async fn no_watch_is_left_behind() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    for i in 0..200 {
        let entry = enqueue(&a, &queue).await.entry;
        let removal = watch(&b, &entry).await;
        let dropped = watch(&b, &entry).await;
        drop(dropped);
        dequeue(&a, &entry).await;
        if i % 2 == 0 {
            assert_eq!(removal.await, Removed::Gone);
        }
        assert!(matches!(b.watch(&entry).await.unwrap(), Watched::Gone));
    }
    until_watches(&zookeeper, "0").await;

    // Dropping the future ends the watch although the entry stays, also when the answer was not awaited.
    let entry = enqueue(&a, &queue).await.entry;
    let removal = watch(&b, &entry).await;
    until_watches(&zookeeper, "1").await;
    drop(removal);
    until_watches(&zookeeper, "0").await;
    for _ in 0..20 {
        let _ = timeout(Duration::from_micros(fastrand::u64(0..2000)), b.watch(&entry)).await;
    }
    until_watches(&zookeeper, "0").await;
}

/// More watches than the client can carry over a reconnect.
#[tokio::test]
async fn too_many_watches_cost_neither_the_session_nor_a_wake_up() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open_with(&proxy.endpoint(), "timeout=10s").await);
    let queue = Name::new("x".repeat(255)).unwrap();
    let mut entries = Vec::new();
    for _ in 0..450 {
        entries.push(enqueue(&a, &queue).await.entry);
    }
    let mut present = Vec::new();
    let mut refused = None;
    for entry in &entries {
        match b.watch(entry).await {
            Ok(Watched::Present(removal)) => present.push(removal),
            Err(lock_core::Error::Unavailable { .. }) => refused = refused.or(Some(entry)),
            other => panic!("{other:?}"),
        }
    }
    let refused = refused.expect("450 paths of 320 bytes are more than 128 KiB");
    assert!(present.len() > 300, "{}", present.len());

    proxy.cut(Cut::Rst).await.unwrap();
    retried("renew", || b.renew()).await;
    // A refused watch tells when there is nothing left to watch, and works once others have ended.
    dequeue(&a, refused).await;
    assert!(matches!(retried("watch", || b.watch(refused)).await, Watched::Gone));
    let last = entries.last().unwrap();
    dequeue(&a, &entries[0]).await;
    timeout(PATIENCE, present.remove(0)).await.unwrap();
    let removal = watch(&b, last).await;
    dequeue(&a, last).await;
    assert_eq!(removal.await, Removed::Gone);
}

/// The runtime that carries the session is dropped under a waiter.
#[test]
fn a_runtime_that_is_gone_panics_nobody() {
    let serving = tokio::runtime::Runtime::new().unwrap();
    let zookeeper = serving.block_on(ZooKeeper::single()).unwrap();
    let carrying = tokio::runtime::Runtime::new().unwrap();
    let endpoint = zookeeper.endpoint(0);
    let session: Arc<dyn Session> = carrying.block_on(async { open(&endpoint).await });
    let entry = carrying.block_on(async { enqueue(&session, &queue()).await.entry });
    let removal = carrying.block_on(watch(&session, &entry));
    drop(carrying);
    serving.block_on(async {
        assert_eq!(removal.await, Removed::Unknown);
        for answer in [
            session.renew().await.map(drop),
            session.watch(&entry).await.map(drop),
            session.dequeue(&entry).await.map(drop),
        ] {
            assert!(matches!(answer, Err(lock_core::Error::Unavailable { .. })), "{answer:?}");
        }
        assert!(session.close().await.is_err());
    });
}
