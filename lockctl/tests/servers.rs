//! What operators see and do, on real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod operating;

use integration::{Etcd, EtcdOptions, PATIENCE, ZooKeeper, eventually};
use operating::{Bench, Going, Ran, lockctl, operating};
use rustix::process::Signal;
use tokio::sync::OnceCell;

/// One server of a kind for all tests of this program; it ends with it.
async fn etcd() -> &'static Etcd {
    static ETCD: OnceCell<Etcd> = OnceCell::const_new();
    ETCD.get_or_init(|| async { Etcd::single().await.unwrap_or_else(|error| panic!("{error}")) }).await
}

async fn zookeeper() -> &'static ZooKeeper {
    static ZOOKEEPER: OnceCell<ZooKeeper> = OnceCell::const_new();
    ZOOKEEPER.get_or_init(|| async { ZooKeeper::single().await.unwrap_or_else(|error| panic!("{error}")) }).await
}

fn namespace() -> String {
    format!("operate-{:016x}", fastrand::u64(..))
}

mod on_etcd {
    async fn store() -> (String, ()) {
        (format!("etcd://{}/{}", super::etcd().await.endpoint(0), super::namespace()), ())
    }

    super::operating!(store());
}

mod on_zookeeper {
    async fn store() -> (String, ()) {
        (format!("zk://{}/{}", super::zookeeper().await.endpoint(0), super::namespace()), ())
    }

    super::operating!(store());
}

const WAITERS: usize = 1000;

/// One watch, however many wait; and it is told of a change. For a semaphore, another one for its limit.
async fn thousand_waiters_cost_one_watch<F>(url: &str, watches: impl Fn() -> F + Send + Sync)
where
    F: Future<Output = f64> + Send,
{
    let bench = Bench::new(url).await;
    let mutex = bench.client.mutex("l").unwrap();
    let holder = mutex.lock().await.unwrap();
    let waiters: Vec<_> = (0..WAITERS).map(|_| tokio::spawn(mutex.lock())).collect();
    bench.has_length("l", WAITERS + 1).await;
    let asleep = || async { (bench.client.metrics().waits >= WAITERS as u64).then_some(()) };
    eventually("everybody to sleep", PATIENCE, asleep).await.unwrap();
    // Until the holder has begun to watch its own entry, and nobody begins anything.
    let steady = || async {
        let before = watches().await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        (watches().await == before).then_some(before)
    };
    let before = eventually("the number of watches to be steady", PATIENCE, steady).await.unwrap();

    let mut watch = Going::start(bench.command(&["queue", "l", "--watch"]));
    watch.until(&format!(", {WAITERS} waiting"));
    let during = watches().await;
    println!("{before} watches of {WAITERS} waiters, {during} with one who looks on");
    assert_eq!(during - before, 1.0);
    holder.release().await;
    watch.until(&format!(", {} waiting", WAITERS - 1));
    watch.signal(Signal::TERM);
    assert_eq!(watch.ends().code(), Some(143));

    let _permit = bench.client.semaphore("s", 2).unwrap().acquire(1).await.unwrap();
    let before = eventually("the number of watches to be steady", PATIENCE, steady).await.unwrap();
    let mut watch = Going::start(bench.command(&["queue", "s", "--watch"]));
    watch.until(", 0 waiting");
    assert_eq!(watches().await - before, 2.0);
    watch.signal(Signal::TERM);
    watch.ends();
    waiters.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_on_costs_etcd_one_watch_for_a_thousand_waiters() {
    // Its own: others' watches would count.
    let etcd = Etcd::single().await.unwrap();
    let url = format!("etcd://{}/locks?ttl=60s", etcd.endpoint(0));
    let watches = async || etcd.metrics(0).await.unwrap()["etcd_debugging_mvcc_watcher_total"];
    thousand_waiters_cost_one_watch(&url, watches).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_on_costs_zookeeper_one_watch_for_a_thousand_waiters() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let url = format!("zk://{}/locks?timeout=60s", zookeeper.endpoint(0));
    let watches = async || {
        let mntr = zookeeper.four_letter(0, "mntr").await.unwrap();
        let line = mntr.lines().find_map(|line| line.strip_prefix("zk_watch_count\t")).map(str::trim);
        line.and_then(|count| count.parse::<f64>().ok()).unwrap_or_else(|| panic!("no zk_watch_count: {mntr}"))
    };
    thousand_waiters_cost_one_watch(&url, watches).await;
}

#[tokio::test]
async fn a_watch_that_a_signal_ends_leaves_no_session() {
    let etcd = Etcd::single().await.unwrap();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let url = format!("etcd://{}/locks?ttl=60s", etcd.endpoint(0));
        let mut command = lockctl();
        command.args(["--backend", &url, "queue", "l", "--watch"]);
        let mut watch = Going::start(command);
        watch.line();
        assert_eq!(etcd.lease_list().await.unwrap().len(), 1);
        watch.signal(signal);
        watch.ends();
        assert!(etcd.lease_list().await.unwrap().is_empty() && etcd.keys("").await.unwrap().is_empty(), "{signal:?}");
    }
}

#[tokio::test]
async fn denied_access_is_77_and_doctor_tells_what_to_check() {
    let etcd = Etcd::start(EtcdOptions { auth: true, ..EtcdOptions::default() }).await.unwrap();
    let run = |user: &str, password: &str, namespace: &str, command: &str| {
        let url = format!("etcd://{}/{namespace}?ttl=60s", etcd.endpoint(0));
        let mut lockctl = lockctl();
        lockctl.env("LOCKCTL_PASSWORD", password).args(["--backend", &url, "--user", user, command]);
        Ran::of(lockctl.output().unwrap())
    };
    assert_eq!(run("app", "apppw", "locks", "ls").code, Some(0));
    run("app", "wrong", "locks", "ls").refused(77, &["user \"app\""]);
    run("app", "apppw", "secret", "ls").refused(77, &["user \"app\"", "secret/"]);
    let well = run("app", "apppw", "locks", "doctor");
    assert!(well.code == Some(0) && well.out.contains("as user \"app\""), "{well:?}");
    for (password, namespace) in [("wrong", "locks"), ("apppw", "secret")] {
        let bad = run("app", password, namespace, "doctor");
        assert!(bad.code == Some(77) && bad.out.contains("→ check --user"), "{bad:?}");
        assert!(!format!("{bad:?}").contains(password), "{bad:?}");
    }
}

#[tokio::test]
async fn doctor_names_the_server_that_is_gone() {
    let etcd = Etcd::cluster(3).await.unwrap();
    let endpoints: Vec<_> = (0..3).map(|i| etcd.endpoint(i)).collect();
    let doctor = || {
        let url = format!("etcd://{}/locks?ttl=60s", endpoints.join(","));
        Ran::of(lockctl().args(["--connect-timeout", "2s", "--backend", &url, "doctor"]).output().unwrap())
    };
    assert_eq!(doctor().code, Some(0));
    let gone = 1;
    etcd.stop(gone).await.unwrap();
    let ran = doctor();
    assert_eq!(ran.code, Some(69), "{ran:?}");
    let bad: Vec<_> = ran.out.lines().filter(|line| line.starts_with("BAD ")).collect();
    assert!(bad.len() == 1 && bad[0].contains(&format!("server {}:", endpoints[gone])), "{ran:?}");
    assert!(ran.out.contains("take it out of --backend"), "{ran:?}");
    assert!(ran.out.contains("ok    lock: taken"), "the others suffice: {ran:?}");
}
