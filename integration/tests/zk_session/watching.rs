//! Watches: what they report, in which order, over reconnects and restarts, and what they leave behind.

use std::sync::Arc;
use std::time::Duration;

use integration::{Cut, PATIENCE, Proxy, ZooKeeper, eventually};
use lock_core::Name;
use lock_core::backend::{Change, Session, Watched, Written};
use tokio::time::timeout;

use crate::{ahead, dequeue, enqueue, keys, open, open_with, queue, read, retried, watch, watch_queue, write};

#[tokio::test]
async fn a_removal_is_a_fact_and_a_write_is_an_update() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let first = enqueue(&a, &queue).await.entry;
    let removal = watch(&b, &first).await;
    dequeue(&a, &first).await;
    assert_eq!(removal.await, Change::Removed);

    let second = enqueue(&a, &queue).await.entry;
    let mut removal = watch(&b, &second).await;
    assert!(timeout(Duration::from_millis(50), &mut removal).await.is_err());
    zookeeper.admin().await.unwrap().client().set_data(&second.key, b"__REVOKE__", None).await.unwrap();
    assert_eq!(removal.await, Change::Updated);

    let third = enqueue(&a, &queue).await.entry;
    let removal = watch(&b, &third).await;
    a.close().await.unwrap();
    assert_eq!(removal.await, Change::Removed);
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
        assert_eq!(second_gone.await, Change::Removed);
        // Known by now, without any wait.
        assert_eq!(timeout(Duration::ZERO, &mut first_gone).await, Ok(Change::Removed));
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
        assert_eq!(timeout(PATIENCE, first_gone).await, Ok(Change::Unknown));
        assert!(matches!(retried("watch", || b.watch(&first)).await, Watched::Gone));
        dequeue(&a, &second).await;
        timeout(PATIENCE, second_gone).await.unwrap();
        let third = enqueue(&a, &queue).await.entry;
        let third_gone = watch(&b, &third).await;
        dequeue(&a, &third).await;
        assert_eq!(third_gone.await, Change::Removed);
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

/// Those on directories included, which `wchs` leaves out.
async fn watches(zookeeper: &ZooKeeper) -> Option<String> {
    crate::counter(zookeeper, "zk_watch_count").await
}

pub(crate) async fn until_watches(zookeeper: &ZooKeeper, want: &str) {
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
            assert_eq!(removal.await, Change::Removed);
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
    let mut watched = Vec::new();
    for entry in &entries {
        watched.push(watch(&b, entry).await);
    }
    let record = b.record(&queue);
    let recorded = watch(&b, &record).await;
    let stirred = watch_queue(&b, &queue).await;
    let in_the_server: usize = watches(&zookeeper).await.unwrap().parse().unwrap();
    assert!((300..440).contains(&in_the_server), "450 paths of 320 bytes are more than 128 KiB: {in_the_server}");

    proxy.cut(Cut::Rst).await.unwrap();
    retried("renew", || b.renew()).await;
    // Those that found no room are looked at instead.
    let (mut first, mut last) = (watched.remove(0), watched.pop().unwrap());
    assert!(timeout(Duration::from_millis(50), &mut last).await.is_err());
    assert_eq!(write(&a, &record, 0, b"1").await, Written::Done);
    dequeue(&a, &entries[449]).await;
    assert_eq!(timeout(PATIENCE, last).await, Ok(Change::Unknown));
    timeout(PATIENCE, stirred).await.unwrap();
    assert_eq!(timeout(PATIENCE, recorded).await, Ok(Change::Updated));
    let last = watched.pop().unwrap();
    let value = read(&a, &entries[448]).await.unwrap();
    assert_eq!(write(&a, &entries[448], value.version, b"new").await, Written::Done);
    assert_eq!(timeout(PATIENCE, last).await, Ok(Change::Updated));
    assert!(matches!(retried("watch", || b.watch(&entries[449])).await, Watched::Gone));

    // The others were told by the server, and make room.
    assert!(timeout(Duration::from_millis(50), &mut first).await.is_err());
    dequeue(&a, &entries[0]).await;
    timeout(PATIENCE, first).await.unwrap();
    let removal = watch(&b, &entries[447]).await;
    dequeue(&a, &entries[447]).await;
    assert_eq!(timeout(PATIENCE, removal).await, Ok(Change::Removed));

    // Nothing of it keeps the session from being closed.
    timeout(Duration::from_secs(1), b.close()).await.unwrap().unwrap();
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
        assert_eq!(removal.await, Change::Unknown);
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
