//! Holders that are processes, killed and stopped: what no test inside one process can show.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use integration::{Etcd, Process, ZooKeeper, connect, eventually};
use lock_core::Client;
use lock_core::clock::{BootClock, Clock};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

const TTL: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(2);

/// Who excludes whom: the recipes of a holder and of one who waits for it.
const PAIRS: [(&str, &str); 6] = [
    ("mutex", "mutex"),
    ("reader", "writer"),
    ("writer", "reader"),
    ("writer", "writer"),
    ("permit", "permit"),
    ("leader", "leader"),
];

/// Contender processes for one name on one store, and an observer.
struct Contest {
    url: String,
    name: String,
    observer: Client,
    logs: TempDir,
}

struct Contender {
    process: Process,
    log: PathBuf,
}

impl Contest {
    async fn new(url: &str, pair: (&str, &str)) -> Self {
        let observer = connect(url).await.unwrap_or_else(|error| panic!("{error}"));
        let name = format!("{}-{}", pair.0, pair.1);
        Self { url: url.into(), name, observer, logs: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Starts a process and returns when its entry is the `n`-th of the queue.
    async fn start(&self, recipe: &str, n: usize) -> Contender {
        let log = self.logs.path().join(n.to_string());
        let program = OsStr::new(env!("CARGO_BIN_EXE_contender"));
        let args = [self.url.as_str(), recipe, &self.name];
        let process = Process::spawn(recipe, program, args, &log).expect("the contender starts");
        eventually(format!("{recipe} {n} to enter the queue"), TTL * 2, || async {
            (self.observer.entries(&self.name).await.ok()?.len() == n).then_some(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", process.log_tail()));
        Contender { process, log }
    }
}

impl Contender {
    fn events(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(&self.log).expect("the log can be read");
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn grant(&self) -> Option<(u64, u64)> {
        let granted = self.events().into_iter().find(|event| event["event"] == "granted")?;
        Some((granted["at"].as_u64()?, granted["token"].as_u64()?))
    }

    async fn granted_within(&self, limit: Duration) -> (u64, u64) {
        let granted = eventually("the grant", limit, || async { self.grant() }).await;
        granted.unwrap_or_else(|error| panic!("{error}\n{}", self.process.log_tail()))
    }

    /// When each check was made, and whether it said held.
    fn checks(&self) -> Vec<(u64, bool)> {
        let checks = self.events().into_iter().filter(|event| event["event"] == "check");
        checks.map(|event| (event["at"].as_u64().expect("a time"), event["held"] == true)).collect()
    }
}

async fn a_killed_holder_is_followed_within_the_ttl(url: String, pair: (&str, &str)) {
    let contest = Contest::new(&url, pair).await;
    let holder = contest.start(pair.0, 1).await;
    let (_, first) = holder.granted_within(TTL).await;
    let waiter = contest.start(pair.1, 2).await;
    holder.process.kill().expect("kill -9");
    let killed = BootClock.now().as_nanos();
    let (granted, second) = waiter.granted_within(TTL * 3).await;
    let took = Duration::from_nanos(granted.saturating_sub(killed));
    assert!(took <= TTL + GRACE, "took {took:?}");
    assert!(second > first);
}

async fn a_killed_waiter_is_passed_over(url: String, pair: (&str, &str)) {
    let contest = Contest::new(&url, pair).await;
    let holder = contest.start(pair.0, 1).await;
    holder.granted_within(TTL).await;
    let middle = contest.start(pair.1, 2).await;
    let last = contest.start(pair.0, 3).await;
    middle.process.kill().expect("kill -9");
    let passed = eventually("the dead waiter's entry to go", TTL + GRACE, || async {
        (contest.observer.entries(&contest.name).await.ok()?.len() == 2).then_some(())
    });
    passed.await.unwrap_or_else(|error| panic!("{error}"));
    // A reader behind a dead writer shares with the reader before it.
    if pair.0 != "reader" {
        assert_eq!(last.grant(), None, "the holder still holds");
        holder.process.kill().expect("kill -9");
    }
    last.granted_within(TTL + GRACE).await;
}

async fn a_stopped_holder_knows_at_once_when_it_continues(url: String, pair: (&str, &str)) {
    let contest = Contest::new(&url, pair).await;
    let mut holder = contest.start(pair.0, 1).await;
    let (_, first) = holder.granted_within(TTL).await;
    let waiter = contest.start(pair.1, 2).await;
    eventually("some checks", TTL, || async { (holder.checks().len() > 5).then_some(()) }).await.expect("checks");
    holder.process.pause().expect("SIGSTOP");
    let stopped = BootClock.now().as_nanos();
    let (granted, second) = waiter.granted_within(TTL + GRACE + GRACE).await;
    let took = Duration::from_nanos(granted.saturating_sub(stopped));
    assert!(took <= TTL + GRACE, "took {took:?}");
    assert!(second > first);
    let continued = BootClock.now().as_nanos();
    holder.process.resume().expect("SIGCONT");
    let after = eventually("the first check after the stop", TTL, || async {
        holder.checks().into_iter().find(|(at, _)| *at >= continued)
    });
    // The last check before the stop may have been cut in two by it: then it is the first one, and says lost.
    let lost = holder.checks().into_iter().find(|(_, held)| !held);
    if lost.is_none() {
        let (_, held) = after.await.expect("a check after the stop");
        assert!(!held, "the first check after the stop says held");
    }
    for (at, held) in holder.checks() {
        assert!(!held || at < granted, "two holders: held at {at}, the other was granted at {granted}");
    }
    assert!(waiter.checks().iter().all(|(_, held)| *held));
}

/// Plays a contest for every pair of recipes, a few at a time: the machine may have two cores.
async fn each_pair<F>(url: String, play: fn(String, (&'static str, &'static str)) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for pairs in PAIRS.chunks(3) {
        let mut contests: JoinSet<()> = pairs.iter().map(|pair| play(url.clone(), *pair)).collect();
        while let Some(contest) = contests.join_next().await {
            contest.expect("the contest holds");
        }
    }
}

async fn etcd() -> (Etcd, String) {
    let etcd = Etcd::single().await.unwrap_or_else(|error| panic!("{error}"));
    let url = format!("etcd://{}/test?ttl={}s", etcd.endpoint(0), TTL.as_secs());
    (etcd, url)
}

async fn zookeeper() -> (ZooKeeper, String) {
    let zookeeper = ZooKeeper::single().await.unwrap_or_else(|error| panic!("{error}"));
    let url = format!("zk://{}/test?timeout={}s", zookeeper.endpoint(0), TTL.as_secs());
    (zookeeper, url)
}

#[tokio::test]
async fn etcd_killed_holder() {
    let (_server, url) = etcd().await;
    each_pair(url, a_killed_holder_is_followed_within_the_ttl).await;
}

#[tokio::test]
async fn etcd_killed_waiter() {
    let (_server, url) = etcd().await;
    each_pair(url, a_killed_waiter_is_passed_over).await;
}

#[tokio::test]
async fn etcd_stopped_holder() {
    let (_server, url) = etcd().await;
    each_pair(url, a_stopped_holder_knows_at_once_when_it_continues).await;
}

#[tokio::test]
async fn zookeeper_killed_holder() {
    let (_server, url) = zookeeper().await;
    each_pair(url, a_killed_holder_is_followed_within_the_ttl).await;
}

#[tokio::test]
async fn zookeeper_killed_waiter() {
    let (_server, url) = zookeeper().await;
    each_pair(url, a_killed_waiter_is_passed_over).await;
}

#[tokio::test]
async fn zookeeper_stopped_holder() {
    let (_server, url) = zookeeper().await;
    each_pair(url, a_stopped_holder_knows_at_once_when_it_continues).await;
}
