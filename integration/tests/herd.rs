//! Nobody is woken in vain: two hundred hand-overs among two hundred waiters, counted by the clients and by the server.
//!
//! `cargo test -p integration --test herd -- --nocapture` prints the figures.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use integration::{Etcd, PATIENCE, ZooKeeper, connect, eventually};
use lock_core::{Client, Guard, Metrics};
use tokio::task::JoinSet;

const WAITERS: usize = 200;

/// Each has a session of its own, and a tenth of the waiters.
const CLIENTS: usize = 20;

/// Long enough that no session is renewed more than once or twice meanwhile.
const TTL: &str = "30s";

/// What is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Mutex,
    Writer,
    Semaphore(u32),
}

const SUBJECTS: [Subject; 4] = [Subject::Mutex, Subject::Writer, Subject::Semaphore(1), Subject::Semaphore(5)];

type Held = Box<dyn std::ops::Deref<Target = Guard> + Send>;

/// A guard of a mutex as the others are: something that leads to a guard.
struct Plain(Guard);

impl std::ops::Deref for Plain {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.0
    }
}

impl Subject {
    fn holders(self) -> usize {
        match self {
            Self::Mutex | Self::Writer => 1,
            Self::Semaphore(limit) => limit as usize,
        }
    }

    async fn lock(self, client: &Client, name: &str) -> lock_core::Result<Held> {
        Ok(match self {
            Self::Mutex => Box::new(Plain(client.mutex(name)?.lock().await?)),
            Self::Writer => Box::new(client.rw_lock(name)?.write().await?),
            Self::Semaphore(limit) => Box::new(client.semaphore(name, limit)?.acquire(1).await?),
        })
    }
}

/// What a server counts.
enum Server {
    ZooKeeper(ZooKeeper),
    Etcd(Etcd),
}

/// Counters of a server by name.
type Figures = BTreeMap<String, f64>;

impl Server {
    async fn connect(&self) -> Client {
        let url = match self {
            Self::ZooKeeper(zookeeper) => format!("zk://{}/herd?timeout={TTL}", zookeeper.endpoint(0)),
            Self::Etcd(etcd) => format!("etcd://{}/herd?ttl={TTL}", etcd.endpoint(0)),
        };
        connect(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    async fn figures(&self) -> Figures {
        match self {
            Self::ZooKeeper(zookeeper) => {
                let mntr = zookeeper.four_letter(0, "mntr").await.unwrap_or_else(|error| panic!("{error}"));
                let pairs = mntr.lines().filter_map(|line| line.split_once('\t'));
                pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
            }
            Self::Etcd(etcd) => etcd.metrics(0).await.unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

fn total(clients: &[Client], counter: impl Fn(Metrics) -> u64) -> u64 {
    clients.iter().map(|client| counter(client.metrics())).sum()
}

/// What was counted while the lock went through all hands.
struct Counted {
    granted: u64,
    wakeups: u64,
    nudges: u64,
    looks: u64,
    server: Figures,
}

impl Counted {
    /// By the server, of all counters whose names begin like this.
    fn of(&self, names: &[&str]) -> f64 {
        let counted = self.server.iter().filter(|(name, _)| names.iter().any(|begin| name.starts_with(begin)));
        counted.map(|(_, grown)| grown).sum()
    }
}

/// Lets everybody wait, then lets the lock go through all hands.
async fn hand_over(server: &Server, subject: Subject) -> Counted {
    let name = format!("{subject:?}-{:08x}", fastrand::u32(..));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.connect().await);
    }
    let mut holders = Vec::new();
    for client in &clients[..subject.holders()] {
        holders.push(subject.lock(client, &name).await.unwrap());
    }
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let mut waiters = JoinSet::new();
    for i in 0..WAITERS {
        let (client, name, tokens) = (clients[i % CLIENTS].clone(), name.clone(), tokens.clone());
        waiters.spawn(async move {
            let held = subject.lock(&client, &name).await.unwrap();
            tokens.lock().unwrap_or_else(PoisonError::into_inner).push(held.token());
            held.check().unwrap();
        });
    }
    let asleep = || async { (total(&clients, |m| m.waits) >= WAITERS as u64).then_some(()) };
    eventually("everybody to sleep", PATIENCE, asleep).await.unwrap_or_else(|error| panic!("{error}"));
    let counters = || {
        let count = |counter: fn(Metrics) -> u64| total(&clients, counter);
        [count(|m| m.granted), count(|m| m.wakeups), count(|m| m.nudges), count(|m| m.looks), count(|m| m.waits)]
    };
    // Until nobody looks again because others came at the same time.
    let mut before = counters();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let last = std::mem::replace(&mut before, counters());
        if last == before {
            break;
        }
    }
    let server_before = server.figures().await;
    let began = Instant::now();
    drop(holders);
    while let Some(done) = tokio::time::timeout(PATIENCE, waiters.join_next()).await.expect("nobody is forgotten") {
        done.unwrap();
    }
    let took = began.elapsed();
    let after = counters();
    let [granted, wakeups, nudges, looks, _] = std::array::from_fn(|i| after[i] - before[i]);
    let tokens = std::mem::take(&mut *tokens.lock().unwrap_or_else(PoisonError::into_inner));
    assert_eq!(tokens.len(), WAITERS);
    if subject.holders() == 1 {
        assert!(tokens.is_sorted(), "in the order of the queue");
    }
    let grown = |(name, value): (String, f64)| {
        let before = server_before.get(&name).copied().unwrap_or_default();
        (name, value - before)
    };
    let server = server.figures().await.into_iter().map(grown).collect();
    println!("{subject:?}: {WAITERS} hand-overs in {took:?}");
    println!("    clients: {granted} grants, {wakeups} wake-ups, {nudges} promotions, {looks} looks");
    Counted { granted, wakeups, nudges, looks, server }
}

/// What the clients counted: one is woken for each grant, or finds what it wants when it is told that it is the first
/// waiter. If all were woken each time it would be a hundred for each.
fn check_clients(subject: Subject, counted: &Counted) {
    const N: u64 = WAITERS as u64;
    assert_eq!(counted.granted, N);
    if subject.holders() == 1 {
        // A few look a moment too early, while views of the queue begin and end.
        assert!((N..=N + N / 20).contains(&counted.wakeups) && counted.nudges == 0, "{subject:?}: {}", counted.wakeups);
    } else {
        assert!(counted.wakeups <= N && counted.nudges <= N, "{subject:?}");
        assert!(counted.wakeups + counted.nudges >= N, "{subject:?}");
    }
    assert!(counted.looks <= 3 * N, "{subject:?}");
}

fn per_hand_over(figure: f64) -> f64 {
    figure / WAITERS as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper_wakes_one_waiter_per_hand_over() {
    let server = Server::ZooKeeper(ZooKeeper::single().await.unwrap());
    for subject in SUBJECTS {
        let counted = hand_over(&server, subject).await;
        let events = per_hand_over(counted.of(&["zk_sum_node_deleted_watch", "zk_sum_node_changed_watch"]));
        let packets = per_hand_over(counted.of(&["zk_packets_received"]));
        println!("    server: {events:.2} watches fired and {packets:.2} packets received per hand-over");
        check_clients(subject, &counted);
        // The waiter's, and those of the one whose entry it was; none within a session. A herd of the waiters left would be
        // a hundred.
        let most = if subject.holders() == 1 { 2.5 } else { 5.0 };
        assert!(events <= most, "{subject:?}: {events}");
        assert!(packets <= 15.0, "{subject:?}: {packets}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_wakes_one_waiter_per_hand_over() {
    let server = Server::Etcd(Etcd::single().await.unwrap());
    for subject in SUBJECTS {
        let counted = hand_over(&server, subject).await;
        let watch = r#"grpc_server_msg_sent_total{grpc_method="Watch""#;
        let received = ["Range", "Txn", "Put", "Watch"];
        let received = received.map(|method| format!(r#"grpc_server_msg_received_total{{grpc_method="{method}""#));
        let sent = per_hand_over(counted.of(&[watch]));
        let received = per_hand_over(counted.of(&received.each_ref().map(String::as_str)));
        println!("    server: {sent:.2} watch messages sent and {received:.2} messages received per hand-over");
        check_clients(subject, &counted);
        // An event, and the ends of the watches. A herd of the waiters left would be a hundred.
        assert!(sent <= 8.0, "{subject:?}: {sent}");
        assert!(received <= 15.0, "{subject:?}: {received}");
    }
}

/// Whoever follows a queue has one watch for all of it and one for its record, before and after a change.
async fn follow(server: &Server, watches: &str) {
    const HOLDERS: u32 = 50;
    let (client, observer) = (server.connect().await, server.connect().await);
    let semaphore = client.semaphore("followed", HOLDERS).unwrap();
    let mut held = Vec::new();
    for _ in 1..HOLDERS {
        held.push(semaphore.acquire(1).await.unwrap());
    }
    // Until the holders watch their own entries.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = async || server.figures().await.get(watches).copied().unwrap_or_else(|| panic!("no figure {watches}"));
    let before = count().await;
    let mut watch = observer.queue("followed").unwrap().watch();
    assert_eq!(watch.next().await.unwrap().len(), held.len());
    let following = count().await;
    // A holder that watches nothing of its own yet, of a client without others that would make a view worth it.
    let other = server.connect().await;
    let last = other.semaphore("followed", HOLDERS).unwrap().acquire(1).await.unwrap();
    assert_eq!(watch.next().await.unwrap().len(), held.len() + 1);
    last.release().await;
    while watch.next().await.unwrap().len() != held.len() {}
    let after = count().await;
    println!("{watches} with {} entries: {before}, then {following}, after changes {after}", held.len());
    assert_eq!((following - before, after - before), (2.0, 2.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_queue_costs_zookeeper_two_watches() {
    follow(&Server::ZooKeeper(ZooKeeper::single().await.unwrap()), "zk_watch_count").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_queue_costs_etcd_two_watches() {
    follow(&Server::Etcd(Etcd::single().await.unwrap()), "etcd_debugging_mvcc_watcher_total").await;
}
