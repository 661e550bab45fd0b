//! A leader whose log cannot be written is deposed, does not notice, and goes on answering keep-alives.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use integration::{Disk, Etcd, EtcdOptions, PATIENCE, eventually};
use lock_core::Error;
use lock_core::backend::Session;
use tokio::time::{Instant, timeout};

use crate::{enqueue, lease, open_with, queue};

/// Three servers with their logs on disks that can be frozen, and which of them leads.
struct Cluster {
    etcd: Etcd,
    disks: Vec<Disk>,
    leader: usize,
}

impl Cluster {
    async fn start() -> Self {
        let disks: Vec<Disk> = (0..3).map(|_| Disk::mount().unwrap()).collect();
        let wal_dirs = disks.iter().map(|disk| disk.path().to_owned()).collect();
        let etcd = Etcd::start(EtcdOptions { nodes: 3, wal_dirs, ..EtcdOptions::default() }).await.unwrap();
        let leader = etcd.leader().await.unwrap();
        Self { etcd, disks, leader }
    }

    /// Freezes the leader's log, and gives the leader something to write there, on which it gets stuck.
    async fn freeze(&self) {
        self.disks[self.leader].freeze().unwrap();
        let put = ["--command-timeout=300ms", "put", "stuck", "here"];
        self.etcd.ctl_at(&self.etcd.url(self.leader), &put).await.unwrap_err();
    }

    fn thaw(&self) {
        self.disks[self.leader].thaw().unwrap();
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

/// Asks again and again; remembers until when the session was last promised to live.
async fn keep(session: &Arc<dyn Session>, until: &mut Instant) {
    loop {
        let asked = Instant::now();
        match session.renew().await {
            Ok(valid) => *until = (*until).max(asked + valid),
            Err(Error::SessionOver { .. }) => return,
            Err(_) => {}
        }
        tokio::time::sleep(session.ttl() / 30).await;
    }
}

/// What a client sees that trusts keep-alives: when they were answered positively.
async fn keep_alives(url: String, lease: i64) -> Vec<Instant> {
    let mut positive = Vec::new();
    let client = Client::connect([url], None).await.unwrap();
    let (mut keeper, mut answers) = client.lease_client().keep_alive(lease).await.unwrap();
    loop {
        keeper.keep_alive().await.unwrap();
        match timeout(Duration::from_secs(3), answers.message()).await {
            Ok(Ok(Some(answer))) if answer.ttl() > 0 => positive.push(Instant::now()),
            _ => return positive,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether those that have a quorum say that the lease is gone.
async fn gone(etcd: &Etcd, frozen: usize, lease: i64) -> Option<()> {
    let healthy: Vec<_> = (0..3).filter(|i| *i != frozen).map(|i| etcd.url(i)).collect();
    let answer =
        etcd.ctl_at(&healthy.join(","), &["get", "--prefix", "--keys-only", "--", "locks/%session/"]).await.ok()?;
    (!answer.contains(&format!("{lease:x}"))).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_deposed_unnoticed_proves_nothing() {
    let cluster = Cluster::start().await;
    let (etcd, leader) = (&cluster.etcd, cluster.leader);
    // This session knows no other member.
    let session = open_with(&etcd.endpoint(leader), "ttl=6s").await;
    enqueue(&session, &queue()).await;
    let mut until = Instant::now();
    let _ = timeout(Duration::from_secs(2), keep(&session, &mut until)).await;
    let id = lease(&session);
    let bare = tokio::spawn(keep_alives(etcd.url(leader), id));
    let ended = async {
        cluster.freeze().await;
        eventually("the lease to end", PATIENCE, || gone(etcd, leader, id)).await.unwrap();
        Instant::now()
    };
    let end = tokio::select! {
        () = keep(&session, &mut until) => panic!("a frozen leader cannot say that the session is over"),
        end = ended => end,
    };
    assert!(end >= until, "ended {:?} before the promise ran out", until - end);
    let mut later = end;
    let _ = timeout(Duration::from_secs(5), keep(&session, &mut later)).await;
    assert_eq!(later, end, "promised after its end");
    cluster.thaw();
    let answered = bare.await.unwrap();
    let after = answered.iter().filter(|at| **at > end).count();
    println!(
        "{after} bare keep-alives were answered positively after the end; promised no later than {:?} before",
        end - until
    );
    let over = async { while !matches!(session.renew().await, Err(Error::SessionOver { .. })) {} };
    timeout(PATIENCE, over).await.expect("the session is over for good");
}
