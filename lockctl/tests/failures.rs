//! Whatever goes wrong, no two commands run at once, on real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::contest::{
    Contender, Contest, Term, alone, break_lock, is_ended, is_removed, is_removed_while_deaf, kill_lockctl, kill_warden,
};
use integration::{Etcd, Mode, Proxy, ZooKeeper};
use rustix::process::Signal;
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(4);

/// The server counts the ttl from the last renewal, and ends sessions a little late; then comes the pause.
const LATEST: Duration = Duration::from_secs(18);

/// Stops `lockctl` until after somebody else has the lock.
async fn stop(contest: &Contest, holder: &Contender, term: &Term) {
    holder.signal(Signal::STOP);
    alone(contest, term).await;
    contest.term(1, LATEST).await;
    holder.signal(Signal::CONT);
}

/// The faults of one holder, while the servers are well.
async fn holders_fail(url: &(impl Fn(&str) -> String + Sync), server: SocketAddr) {
    let proxies = [Proxy::start(server).await.unwrap(), Proxy::start(server).await.unwrap()];
    let direct = url(&server.to_string());
    let by_proxy = [url(&proxies[0].endpoint()), url(&proxies[1].endpoint())];
    let (killed, warden, stopped, held, deaf) = (
        Contest::new("killed", TTL),
        Contest::new("warden", TTL),
        Contest::new("stopped", TTL),
        Contest::new("held", TTL),
        Contest::new("deaf", TTL),
    );
    let both = [direct.as_str(), direct.as_str()];
    tokio::join!(
        killed.is_handed_on(both, kill_lockctl, LATEST, None),
        warden.is_handed_on(both, kill_warden, LATEST, Some(80)),
        stopped.is_handed_on(
            both,
            async |holder: &Contender, term: &Term| stop(&stopped, holder, term).await,
            LATEST,
            Some(80)
        ),
        held.is_handed_on(
            [&by_proxy[0], &direct],
            async |_: &Contender, term: &Term| {
                proxies[0].set_both(Mode::Hold);
                alone(&held, term).await;
            },
            LATEST,
            Some(80),
        ),
        // Nobody but lockctl itself can act then.
        deaf.is_handed_on(
            [&by_proxy[1], &direct],
            async |holder: &Contender, term: &Term| {
                common::signal(holder.warden(), Signal::STOP);
                proxies[1].set_both(Mode::Hold);
                alone(&deaf, term).await;
            },
            LATEST,
            Some(80),
        ),
    );
}

/// The lock is removed while its holder cannot hear of it: `lockctl` is stopped, or cut off from the server for a while.
async fn is_removed_unheard<F>(
    url: &(impl Fn(&str) -> String + Sync),
    server: SocketAddr,
    remove: impl Fn(&'static str, Term) -> F + Send + Sync,
) where
    F: Future<Output = ()> + Send,
{
    let proxy = Proxy::start(server).await.unwrap();
    let (direct, by_proxy) = (url(&server.to_string()), url(&proxy.endpoint()));
    let (stopped, held) = (Contest::new("stopped", TTL), Contest::new("held", TTL));
    let stop = async |holder: &Contender, term: &Term| {
        holder.signal(Signal::STOP);
        remove("stopped", term.clone()).await;
    };
    let hold = async |_: &Contender, term: &Term| {
        proxy.set_both(Mode::Hold);
        remove("held", term.clone()).await;
    };
    let go_on = async |holder: &Contender| holder.signal(Signal::CONT);
    let resume = async |_: &Contender| proxy.set_both(Mode::Pass);
    tokio::join!(
        is_removed_while_deaf(&stopped, [&direct, &direct], stop, go_on),
        is_removed_while_deaf(&held, [&by_proxy, &direct], hold, resume),
    );
}

/// The server is silent for two ttl, so that all sessions are lost.
async fn a_server_is_silent(url: &str, pause: impl Fn() + Send + Sync, resume: impl Fn() + Send + Sync) {
    let contest = Contest::new("silent", TTL);
    let fault = async |_: &Contender, term: &Term| {
        pause();
        is_ended(&contest, term).await;
        sleep(TTL).await;
        assert_eq!(contest.terms().len(), 1, "{}", contest.story());
        resume();
    };
    contest.is_handed_on([url, url], fault, Duration::from_secs(20), Some(80)).await;
}

/// A server goes and comes back within the ttl, or another one takes over: the holder keeps the lock.
async fn nothing_is_lost(url: &str, name: &str, fault: impl AsyncFnOnce()) {
    let contest = Contest::new(name, Duration::from_secs(10));
    let calm = async |holder: &Contender, term: &Term| {
        fault().await;
        // Longer than its last proof from before would have lasted.
        sleep(Duration::from_secs(10)).await;
        let last = contest.terms()[0].last;
        assert!(last - term.begin > 9.0, "it ran on: {}", contest.story());
        holder.signal(Signal::USR1);
    };
    contest.is_handed_on([url, url], calm, LATEST, Some(0)).await;
}

fn etcd_url(endpoint: &str) -> String {
    format!("etcd://{endpoint}/locks")
}

fn zk_url(endpoint: &str) -> String {
    format!("zk://{endpoint}/locks")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_fail_on_etcd() {
    let etcd = Etcd::single().await.unwrap();
    holders_fail(&etcd_url, etcd.addr(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_removes_a_holder_on_etcd() {
    let etcd = Etcd::single().await.unwrap();
    let url = etcd_url(&etcd.endpoint(0));
    let delete = async |_: &str, term: Term| {
        etcd.ctl(&["del", &term.key]).await.unwrap();
    };
    let revoke = async |_: &str, term: Term| {
        let lease = term.key.rsplit('/').next().unwrap().split('-').next().unwrap();
        etcd.lease_revoke(i64::from_str_radix(lease, 16).unwrap()).await.unwrap();
    };
    // One after the other, for they have the same name.
    is_removed(TTL, &url, async |_, term| delete("removed", term.clone()).await).await;
    is_removed(TTL, &url, async |_, term| revoke("removed", term.clone()).await).await;
    is_removed(TTL, &url, async |_, term| break_lock(&url, "removed", term)).await;
    is_removed_unheard(&etcd_url, etcd.addr(0), delete).await;
    is_removed_unheard(&etcd_url, etcd.addr(0), revoke).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_server_is_silent_or_restarts() {
    let etcd = Etcd::single().await.unwrap();
    let url = etcd_url(&etcd.endpoint(0));
    a_server_is_silent(&url, || etcd.pause(0).unwrap(), || etcd.resume(0).unwrap()).await;
    nothing_is_lost(&url, "restart", async || {
        etcd.kill(0).unwrap();
        etcd.restart(0).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_three_etcd_servers_is_killed() {
    let etcd = Etcd::cluster(3).await.unwrap();
    let hosts: Vec<String> = (0..3).map(|i| etcd.endpoint(i)).collect();
    nothing_is_lost(&etcd_url(&hosts.join(",")), "leader", async || {
        etcd.kill(etcd.leader().await.unwrap()).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_fail_on_zookeeper() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    holders_fail(&zk_url, zookeeper.addr(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_removes_a_holder_on_zookeeper() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let url = zk_url(&zookeeper.endpoint(0));
    let admin = zookeeper.admin().await.unwrap();
    let delete = async |term: &Term| {
        let path = if term.key.starts_with("/locks/") { term.key.clone() } else { format!("/locks{}", term.key) };
        admin.delete(&path).await.unwrap();
    };
    is_removed(TTL, &url, async |_, term| delete(term).await).await;
    is_removed(TTL, &url, async |_, term| break_lock(&url, "removed", term)).await;
    is_removed_unheard(&zk_url, zookeeper.addr(0), async |name, term| break_lock(&url, name, &term)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zookeeper_server_is_silent_or_restarts() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let url = zk_url(&zookeeper.endpoint(0));
    a_server_is_silent(&url, || zookeeper.pause(0).unwrap(), || zookeeper.resume(0).unwrap()).await;
    nothing_is_lost(&url, "restart", async || {
        zookeeper.kill(0).unwrap();
        zookeeper.restart(0).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_three_zookeeper_servers_is_killed() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    nothing_is_lost(&zk_url(&zookeeper.connect_string()), "leader", async || {
        zookeeper.kill(zookeeper.leader().await.unwrap()).unwrap();
    })
    .await;
}
