//! What is etcd's own about watches on queues: they are watches on ranges, beside others on the same stream.

use integration::{Etcd, PATIENCE};
use lock_core::backend::{Change, Kind};
use tokio::time::timeout;

use crate::both::queue_watch::{still, stirred};
use crate::watching::{until_watchers, watchers};
use crate::{NAMESPACE, dequeue, enqueue, enqueue_kind, open, queue, read, watch, watch_queue, write};

#[tokio::test]
async fn entries_of_others_stir_and_keys_of_longer_names_do_not() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let mut stir = watch_queue(&session, &queue).await;
    let key = |rest: &str| format!("{NAMESPACE}/{queue}{rest}");
    for other in ["/deeper/1", "", "0", "0/1", "-", "."] {
        etcd.ctl(&["put", &key(other), "x"]).await.unwrap();
        etcd.ctl(&["del", &key(other)]).await.unwrap();
    }
    still(&mut stir).await;
    etcd.ctl(&["put", &key("/694d"), "theirs"]).await.unwrap();
    stirred(stir).await;
    // A new value of a leader or a mutex, such as a request to let go, is told to those who watch its entry.
    let mut stir = watch_queue(&session, &queue).await;
    etcd.ctl(&["put", &key("/694d"), "another value"]).await.unwrap();
    still(&mut stir).await;
    etcd.ctl(&["del", &key("/694d")]).await.unwrap();
    stirred(stir).await;
}

/// One stream, whose watches are told apart.
#[tokio::test]
async fn watches_on_a_queue_its_entries_and_its_record_are_told_apart() {
    let etcd = Etcd::single().await.unwrap();
    let (a, b) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let queue = queue();
    let first = enqueue_kind(&a, &queue, Kind::Candidate).await.entry;
    let record = a.record(&queue);
    let mut of_queue = watch_queue(&b, &queue).await;
    let of_first = watch(&b, &first).await;
    let mut of_record = watch(&b, &record).await;
    let version = read(&a, &first).await.unwrap().version;
    write(&a, &first, version, b"another").await;
    assert_eq!(timeout(PATIENCE, of_first).await, Ok(Change::Updated));
    still(&mut of_queue).await;
    write(&a, &record, 0, b"x").await;
    assert_eq!(timeout(PATIENCE, &mut of_record).await, Ok(Change::Updated));
    still(&mut of_queue).await;
    let mut of_first = watch(&b, &first).await;
    enqueue(&a, &queue).await;
    stirred(of_queue).await;
    assert!(timeout(std::time::Duration::from_millis(150), &mut of_first).await.is_err());
    dequeue(&a, &first).await;
    assert_eq!(timeout(PATIENCE, of_first).await, Ok(Change::Removed));
}

#[tokio::test]
async fn no_watch_on_a_queue_or_a_record_is_left_behind() {
    let etcd = Etcd::single().await.unwrap();
    let (a, b) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let used = queue();
    enqueue(&a, &used).await;
    let baseline = watchers(&etcd).await;
    for queue in [used, queue()] {
        let (stir, record) = (watch_queue(&b, &queue).await, watch(&b, &b.record(&queue)).await);
        until_watchers(&etcd, baseline + 2.0).await;
        drop(stir);
        until_watchers(&etcd, baseline + 1.0).await;
        drop(record);
        until_watchers(&etcd, baseline).await;
        // Those that have told are closed, even while nobody looks at the answer.
        let told = (watch_queue(&b, &queue).await, watch(&b, &b.record(&queue)).await);
        enqueue(&a, &queue).await;
        write(&a, &a.record(&queue), 0, b"x").await;
        until_watchers(&etcd, baseline).await;
        drop(told);
    }
}
