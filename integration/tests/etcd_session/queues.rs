//! The names of the queues, those of other clients included.

use std::sync::Arc;

use etcd_client::{Client, Txn, TxnOp};
use integration::Etcd;
use lock_core::backend::Session;

use crate::{enqueue, open, queue, retried, try_open};

async fn names(session: &Arc<dyn Session>, prefix: &str) -> Vec<String> {
    retried("queues", || session.queues(prefix)).await.iter().map(ToString::to_string).collect()
}

async fn put(client: &mut Client, keys: impl IntoIterator<Item = Vec<u8>>) {
    let puts: Vec<_> = keys.into_iter().map(|key| TxnOp::put(key, "", None)).collect();
    for some in puts.chunks(100) {
        client.txn(Txn::new().and_then(some)).await.unwrap();
    }
}

#[tokio::test]
async fn queues_of_other_clients_are_told_where_they_have_a_name() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let mut foreign = Client::connect([etcd.url(0)], None).await.unwrap();
    let keys: [&[u8]; 15] = [
        b"locks/go/694d",
        b"locks/go/694e",
        b"locks/binary/\xff",
        b"locks/a%2Fb/694d",
        b"locks/empty/",
        // No names, or none that leads there.
        b"locks/deep/er/694d",
        b"locks/a%2fb/694d",
        b"locks/%zz/694d",
        b"locks/%FF/694d",
        b"locks/\xff/694d",
        b"locks/%record/go",
        b"locks//694d",
        b"locks/none",
        // Beside the namespace.
        b"locks0/694d",
        b"top/694d",
    ];
    put(&mut foreign, keys.map(<[u8]>::to_vec)).await;
    assert_eq!(names(&session, "").await, ["a/b", "binary", "empty", "go"]);
    assert_eq!(names(&session, "a/").await, ["a/b"]);
    assert_eq!(names(&session, "gone").await, [""; 0]);
    let queue = queue();
    enqueue(&session, &queue).await;
    assert!(names(&session, "").await.contains(&queue.to_string()));
    let outside = try_open(&format!("etcd://{}/?ttl=60s", etcd.endpoint(0))).await.unwrap();
    // `locks/none` is an entry of the lock `locks` to whoever uses no namespace.
    assert_eq!(names(&outside, "").await, ["locks", "locks0", "top"]);
    assert_eq!(names(&outside, "locks").await, ["locks", "locks0"]);
}

/// Several times as many keys as are read at once, in one queue, in a place that is none, and in as many queues.
#[tokio::test]
async fn many_keys_hide_no_queue() {
    const MANY: usize = 9000;
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let mut foreign = Client::connect([etcd.url(0)], None).await.unwrap();
    for place in ["%other", "deep/er", "long"] {
        put(&mut foreign, (0..MANY).map(|i| format!("locks/{place}/{i:04}").into_bytes())).await;
    }
    put(&mut foreign, ["deep/zz/0", "deep/zzz", "long0/0", "last/0"].map(|key| format!("locks/{key}").into_bytes()))
        .await;
    assert_eq!(names(&session, "").await, ["deep", "last", "long", "long0"]);
    put(&mut foreign, (0..MANY).map(|i| format!("locks/many-{i:04}/0").into_bytes())).await;
    let many: Vec<_> = (0..MANY).map(|i| format!("many-{i:04}")).collect();
    assert_eq!(names(&session, "many").await, many);
    assert_eq!(names(&session, "").await.len(), MANY + 4);
}
