//! Watches on queues.

use std::time::Duration;

use integration::session::{dequeue, downgrade, enqueue, enqueue_kind, keys, queue, read, retried, watch_queue, write};
use integration::{Cut, PATIENCE, Proxy};
use lock_core::Name;
use lock_core::backend::{Kind, Stir};
use tokio::time::timeout;

use crate::{Server, open};

pub(crate) async fn stirred(stir: Stir) {
    timeout(PATIENCE, stir).await.expect("the watch to resolve");
}

pub(crate) async fn still(stir: &mut Stir) {
    assert!(timeout(Duration::from_millis(150), stir).await.is_err(), "nothing happened");
}

#[tokio::test]
async fn a_queue_is_watched_from_before_there_is_one() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    let queue = queue();
    let mut stir = watch_queue(&b, &queue).await;
    still(&mut stir).await;
    enqueue(&a, &queue).await;
    stirred(stir).await;

    // The first may have told of a directory alone.
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
    assert!(keys(&b, &queue).await.is_empty());
}

#[tokio::test]
async fn only_its_own_queue_stirs_a_watch() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    let (empty, used) = (queue(), queue());
    let entry = enqueue(&a, &used).await.entry;
    let (mut of_empty, mut of_used) = (watch_queue(&b, &empty).await, watch_queue(&b, &used).await);
    for longer in ["0", "-", "/", "/x"] {
        let neighbour = Name::new(format!("{}{longer}", used.as_str())).unwrap();
        let neighbour = enqueue(&a, &neighbour).await.entry;
        dequeue(&a, &neighbour).await;
    }
    write(&a, &a.record(&used), 0, b"x").await;
    let version = read(&a, &entry).await.unwrap().version;
    write(&a, &entry, version, b"x").await;
    still(&mut of_empty).await;
    still(&mut of_used).await;
    dequeue(&a, &entry).await;
    stirred(of_used).await;
    still(&mut of_empty).await;
}

#[tokio::test]
async fn a_downgrade_stirs() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    let queue = queue();
    let writer = enqueue_kind(&a, &queue, Kind::Write).await.entry;
    let mut stir = watch_queue(&b, &queue).await;
    still(&mut stir).await;
    downgrade(&a, &writer).await.unwrap();
    stirred(stir).await;
}

/// With a change while the connection is away, and without one; for a queue that is there and one that is not.
#[tokio::test]
async fn a_connection_that_is_cut_resolves_the_watch() {
    let server = Server::single().await.unwrap();
    let proxy = Proxy::start(server.addr(0)).await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&proxy.endpoint()).await);
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
    let server = Server::cluster(3).await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(2)).await);
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
