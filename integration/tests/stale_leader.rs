//! A leader whose disk hangs is deposed without noticing, and old releases of etcd go on answering keep-alives from there.
//! Whoever believes them holds a lock that is somebody else's.

use std::sync::Arc;
use std::time::Duration;

use integration::{Disk, Etcd, EtcdOptions, connect, eventually};
use lock_core::{Client, Loss, Mutex};

const TTL: Duration = Duration::from_secs(5);
const LOCK: &str = "stale";

struct Cluster {
    etcd: Arc<Etcd>,
    disks: Vec<Disk>,
    leader: usize,
}

impl Cluster {
    async fn start() -> Self {
        let disks: Vec<Disk> = (0..3).map(|_| Disk::mount().unwrap_or_else(|error| panic!("{error}"))).collect();
        let wal_dirs = disks.iter().map(|disk| disk.path().to_owned()).collect();
        let etcd = Etcd::start(EtcdOptions { nodes: 3, wal_dirs, ..EtcdOptions::default() }).await;
        let etcd = Arc::new(etcd.unwrap_or_else(|error| panic!("{error}")));
        let leader = etcd.leader().await.unwrap_or_else(|error| panic!("{error}"));
        Self { etcd, disks, leader }
    }

    async fn mutex(&self, members: impl IntoIterator<Item = usize>) -> (Client, Mutex) {
        let hosts: Vec<_> = members.into_iter().map(|i| self.etcd.endpoint(i)).collect();
        let client = connect(&format!("etcd://{}/test?ttl={}s", hosts.join(","), TTL.as_secs())).await;
        let client = client.unwrap_or_else(|error| panic!("{error}"));
        let mutex = client.mutex(LOCK).expect("a valid name");
        (client, mutex)
    }

    /// Freezes the leader's disk and writes something, which stops its consensus but not its answers.
    fn hang_leader(&self) {
        self.disks[self.leader].freeze().unwrap_or_else(|error| panic!("{error}"));
        let others: Vec<_> = self.others().map(|i| self.etcd.url(i)).collect();
        let etcd = self.etcd.clone();
        tokio::spawn(async move { etcd.ctl_at(&others.join(","), &["put", "unrelated", "write"]).await });
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let leader = self.leader;
        (0..3).filter(move |i| *i != leader)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A server that waits for a frozen disk cannot even be killed.
        for disk in &self.disks {
            let _ = disk.thaw();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_at_a_stale_leader_is_lost_before_the_next_is_granted() {
    let cluster = Cluster::start().await;
    let (_pinned, mutex) = cluster.mutex([cluster.leader]).await;
    let (others, waiting) = cluster.mutex(cluster.others()).await;
    let holder = mutex.lock().await.expect("the lock is free");
    let waiter = tokio::spawn(async move { waiting.lock().await });
    eventually("the waiter to sleep", TTL, || async { (others.metrics().waits > 0).then_some(()) })
        .await
        .expect("waits");

    cluster.hang_leader();
    let loss = tokio::time::timeout(TTL, holder.lost()).await.expect("lost within the ttl");
    assert_eq!(loss, Loss::Expired);
    assert!(!waiter.is_finished(), "lost before anybody else is granted");
    let next = tokio::time::timeout(TTL * 4, waiter).await.expect("the lock is handed on");
    let next = next.expect("no panic").expect("the waiter is granted");
    assert!(next.token() > holder.token());

    cluster.disks[cluster.leader].thaw().unwrap_or_else(|error| panic!("{error}"));
    cluster.etcd.wait_ready(cluster.leader).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(holder.check().is_err(), "lost for good");
    // A deposed leader that wakes up revokes the leases that it did not see renewed (etcd#15247, until 3.4.31 and 3.5.13).
    // There the new holder loses its entry, and must know.
    eventually("the new holder to know whether its entry is in the queue", TTL, || async {
        let queue = others.entries(LOCK).await.ok()?;
        let listed = queue.iter().any(|entry| entry.token == Some(next.token()));
        (next.check().is_ok() == listed).then_some(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_knows_all_members_keeps_the_lock() {
    let cluster = Cluster::start().await;
    let (client, mutex) = cluster.mutex(0..3).await;
    let (_others, waiting) = cluster.mutex(cluster.others()).await;
    let holder = mutex.lock().await.expect("the lock is free");
    let waiter = tokio::spawn(async move { waiting.lock().await });
    cluster.hang_leader();
    let frozen_at = client.metrics().renewals;
    // More renewals than fit into one ttl: the proof comes from members that have a quorum.
    eventually("renewals to go on", TTL * 4, || async { (client.metrics().renewals > frozen_at + 8).then_some(()) })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    holder.check().expect("the holder noticed nothing");
    assert!(!waiter.is_finished());
    holder.release().await;
    let next = tokio::time::timeout(TTL, waiter).await.expect("handed on").expect("no panic").expect("granted");
    next.check().expect("the next one holds it");
}
