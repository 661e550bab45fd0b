//! What is ZooKeeper's own about watches on queues: a queue is a directory.

use integration::ZooKeeper;

use crate::both::queue_watch::{still, stirred};
use crate::{enqueue, open, queue, watch_queue};

#[tokio::test]
async fn a_watch_makes_no_directory_and_outlasts_its_removal() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let admin = zookeeper.admin().await.unwrap();
    let stir = watch_queue(&b, &queue).await;
    assert_eq!(admin.client().check_stat(&format!("/locks/{}", queue.segment())).await.unwrap(), None);
    let first = enqueue(&a, &queue).await.entry;
    stirred(stir).await;
    a.close().await.unwrap();
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
