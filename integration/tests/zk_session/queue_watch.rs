//! Watches on queues.

use std::time::Duration;

use integration::{Cut, PATIENCE, Proxy, ZooKeeper};
use lock_core::Name;
use lock_core::backend::{Kind, Stir};
use tokio::time::timeout;

use crate::{dequeue, enqueue, enqueue_kind, keys, open, queue, retried, watch_queue};

async fn stirred(stir: Stir) {
    timeout(PATIENCE, stir).await.expect("the watch to resolve");
}

async fn still(stir: &mut Stir) {
    assert!(timeout(Duration::from_millis(60), stir).await.is_err(), "nothing happened");
}

#[tokio::test]
async fn a_queue_is_watched_from_before_there_is_one() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let admin = zookeeper.admin().await.unwrap();
    let mut stir = watch_queue(&b, &queue).await;
    still(&mut stir).await;
    // Looking leaves nothing behind.
    assert_eq!(admin.client().check_stat(&format!("/locks/{}", queue.segment())).await.unwrap(), None);
    let first = enqueue(&a, &queue).await.entry;
    stirred(stir).await;

    // The first may have told of the directory alone.
    for _ in 0..3 {
        let mut stir = watch_queue(&b, &queue).await;
        still(&mut stir).await;
        let second = enqueue(&a, &queue).await.entry;
        stirred(stir).await;
        let stir = watch_queue(&b, &queue).await;
        dequeue(&a, &second).await;
        stirred(stir).await;
    }
    let stir = watch_queue(&b, &queue).await;
    a.close().await.unwrap();
    stirred(stir).await;
    let stir = watch_queue(&b, &queue).await;
    let directory = first.key.rsplit_once('/').unwrap().0;
    admin.delete(directory).await.unwrap();
    stirred(stir).await;
    let mut stir = watch_queue(&b, &queue).await;
    still(&mut stir).await;
    admin.create(directory, b"").await.unwrap();
    stirred(stir).await;
}

#[tokio::test]
async fn only_its_own_queue_stirs_a_watch() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let (empty, used) = (queue(), queue());
    let entry = enqueue(&a, &used).await.entry;
    let (mut of_empty, mut of_used) = (watch_queue(&b, &empty).await, watch_queue(&b, &used).await);
    let neighbour = enqueue(&a, &Name::new(format!("{}0", used.as_str())).unwrap()).await.entry;
    a.write(&a.record(&used), 0, b"x").await.unwrap();
    a.write(&entry, 1, b"x").await.unwrap();
    dequeue(&a, &neighbour).await;
    still(&mut of_empty).await;
    still(&mut of_used).await;
}

#[tokio::test]
async fn a_downgrade_stirs() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let writer = enqueue_kind(&a, &queue, Kind::Write).await.entry;
    let stir = watch_queue(&b, &queue).await;
    a.downgrade(&writer).await.unwrap().unwrap();
    stirred(stir).await;
}

/// With a change while the connection is away, and without one; for a queue that is there and one that is not.
#[tokio::test]
async fn a_connection_that_is_cut_resolves_the_watch() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&proxy.endpoint()).await);
    for (cut, change) in [(Cut::Fin, false), (Cut::Rst, false), (Cut::Fin, true), (Cut::Rst, true)] {
        for exists in [false, true] {
            let queue = queue();
            if exists {
                enqueue(&a, &queue).await;
            }
            let stir = watch_queue(&b, &queue).await;
            proxy.refuse(true).await.unwrap();
            proxy.cut(cut).await.unwrap();
            if change {
                enqueue(&a, &queue).await;
            }
            stirred(stir).await;
            proxy.heal().await.unwrap();
            // Once connected again, it is quiet and then tells.
            retried("renew", || b.renew()).await;
            let mut stir = watch_queue(&b, &queue).await;
            still(&mut stir).await;
            let entry = enqueue(&a, &queue).await.entry;
            stirred(stir).await;
            assert!(keys(&b, &queue).await.contains(&entry.key));
        }
    }
}

/// The watch is on one server and the change is made on another.
#[tokio::test]
async fn nothing_is_missed_after_the_call_whichever_server_is_asked() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(2)).await);
    let queue = queue();
    for _ in 0..40 {
        let stir = watch_queue(&b, &queue).await;
        let entry = enqueue(&a, &queue).await.entry;
        stirred(stir).await;
        let stir = watch_queue(&b, &queue).await;
        dequeue(&a, &entry).await;
        stirred(stir).await;
    }
}

#[tokio::test]
async fn no_watch_on_a_queue_is_left_behind() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let used = queue();
    enqueue(&a, &used).await;
    for queue in [used, queue()] {
        let stir = watch_queue(&b, &queue).await;
        crate::watching::until_watches(&zookeeper, "1").await;
        drop(stir);
        crate::watching::until_watches(&zookeeper, "0").await;
    }
}
