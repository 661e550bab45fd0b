//! The names of the queues, those of other clients included.

use std::sync::Arc;

use integration::ZooKeeper;
use lock_core::backend::{Backend, Session};
use zookeeper_client::{Acls, CreateMode};

use crate::{OWNER, enqueue, open, open_with, queue, retried};

const CONTENDER: &str = "_c_0b84a4b2-5b0c-4a6f-9c85-9ab4b1c6a0f1-lock-0000000000";

async fn names(session: &Arc<dyn Session>, prefix: &str) -> Vec<String> {
    retried("queues", || session.queues(prefix)).await.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn queues_of_other_clients_are_told_where_they_have_a_name() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let absent = open_with(&format!("{}/no/such", zookeeper.endpoint(0)), "timeout=6s").await;
    assert_eq!(names(&absent, "").await, [""; 0], "nothing but the session's own node");
    let session = open(&zookeeper.endpoint(0)).await;
    let admin = zookeeper.admin().await.unwrap();
    for segment in ["curator", "a%2Fb", "deep", "a%2fb", "%zz", "%FF", "empty", "other", "%record"] {
        let created = admin.create(&format!("/locks/{segment}"), b"").await;
        created.unwrap_or_else(|error| assert!(segment == "%record", "{error}"));
    }
    admin.create("/locks/deep/er", b"").await.unwrap();
    admin.create("/locks/other/config", b"").await.unwrap();
    for segment in ["curator", "a%2Fb", "deep/er", "a%2fb", "%zz", "%FF", "%record"] {
        admin.create(&format!("/locks/{segment}/{CONTENDER}"), b"").await.unwrap();
    }
    assert_eq!(names(&session, "").await, ["a/b", "curator"]);
    assert_eq!(names(&session, "a/").await, ["a/b"]);
    let queue = queue();
    enqueue(&session, &queue).await;
    assert_eq!(names(&session, queue.as_str()).await, [queue.to_string()]);
    // The servers' own directory has children, too.
    let mut config = lock_zk::Config::new([zookeeper.endpoint(0)]);
    config.chroot = "/".into();
    let root = lock_zk::ZooKeeper::new(config).unwrap().open(OWNER).await.unwrap();
    assert_eq!(names(&root, "").await, [""; 0]);
}

#[tokio::test]
async fn a_directory_that_may_not_be_read_hides_no_other() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let admin = zookeeper.admin().await.unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::creator_all());
    admin.client().create("/locks/secret", b"", &options).await.unwrap();
    admin.create(&format!("/locks/secret/{CONTENDER}"), b"").await.unwrap();
    let queue = queue();
    enqueue(&session, &queue).await;
    assert_eq!(names(&session, "").await, [queue.to_string()]);
}

/// Several times as many directories as are listed at once, most of them empty.
#[tokio::test]
async fn many_directories_hide_no_queue() {
    const MANY: usize = 1000;
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let admin = zookeeper.admin().await.unwrap();
    for i in 0..MANY {
        admin.create(&format!("/locks/many-{i:03}"), b"").await.unwrap();
    }
    let full: Vec<_> = (0..MANY).step_by(97).map(|i| format!("many-{i:03}")).collect();
    for name in &full {
        admin.create(&format!("/locks/{name}/{CONTENDER}"), b"").await.unwrap();
    }
    assert_eq!(names(&session, "many").await, full);
}
