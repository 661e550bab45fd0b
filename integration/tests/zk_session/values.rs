//! What is ZooKeeper's own about values and owners.

use integration::{PATIENCE, ZooKeeper};
use lock_core::Error;
use lock_core::backend::{Change, Watched, Written};
use tokio::time::timeout;

use crate::{Attempt, OWNER, enqueue, open, queue, read, retried, until_gone, watch, write};

/// What a node's version would mean to the server when it is -1: any.
#[tokio::test]
async fn no_version_overwrites_whatever_is_there() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let entry = enqueue(&session, &queue()).await.entry;
    let any = 1 << 32;
    assert!(matches!(session.write(&entry, any, b"late").await, Err(Error::Refused { .. })));
    assert_eq!(read(&session, &entry).await.unwrap().value, b"value");
}

/// Its parents are not of the kind that the server removes when they stay empty.
#[tokio::test]
async fn a_record_stays_until_an_operator_deletes_it() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let record = a.record(&queue());
    assert_eq!(write(&a, &record, 0, b"x").await, Written::Done);
    let admin = zookeeper.admin().await.unwrap();
    for node in ["/locks/%record", &record.key] {
        let stat = admin.client().check_stat(node).await.unwrap().unwrap();
        assert_eq!(stat.ephemeral_owner, 0, "{node}");
    }
    let changed = watch(&b, &record).await;
    admin.delete(&record.key).await.unwrap();
    assert_eq!(timeout(PATIENCE, changed).await, Ok(Change::Updated));
    assert!(matches!(b.watch(&record).await.unwrap(), Watched::Present(_)));
}

#[tokio::test]
async fn the_owner_of_a_live_session_is_told_whatever_its_node_is_called() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let id = a.id();
    let owner = || async { retried("owner", || b.owner(&id)).await };
    assert_eq!(owner().await.as_deref(), Some(OWNER));
    let queue = queue();
    for _ in 0..12 {
        // Settling replaces the session's node.
        assert!(Attempt::new(&queue).adopt(&a).await.is_none());
        assert_eq!(owner().await.as_deref(), Some(OWNER));
    }
    let admin = zookeeper.admin().await.unwrap();
    let nodes = admin.children("/locks/%session").await.unwrap();
    assert!(nodes.contains(&format!("{}.12", a.id())), "{nodes:?}");

    // What others made up.
    admin.create("/locks/%session/0x77", b"forged").await.unwrap();
    for other in ["0x77", "0x78", "", "..", "%session", "a/b", &a.id()[..5], &format!("{}.12", a.id()), "größe"] {
        assert_eq!(retried("owner", || b.owner(other)).await, None, "{other:?}");
    }
    a.close().await.unwrap();
    until_gone(&zookeeper, &id, PATIENCE).await;
    assert_eq!(retried("owner", || b.owner(&id)).await, None);
}
