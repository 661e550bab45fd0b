//! Views of queues: what a session knows of a queue without asking.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration::session::{WAYS_TO_ASK, finds_gone};
use integration::{Cut, Etcd, PATIENCE, Proxy, connect, eventually};
use lock_core::backend::Kind;
use lock_core::{Client, Error};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{ahead, enqueue, enqueue_kind, open, queue};

const WAITERS: usize = 30;

async fn client(endpoint: &str, parameters: &str) -> Client {
    connect(&format!("etcd://{endpoint}/views?ttl=10s{parameters}")).await.unwrap()
}

async fn watches(etcd: &Etcd) -> f64 {
    etcd.metrics(0).await.unwrap()["etcd_debugging_mvcc_watcher_total"]
}

/// Holds a lock, with others waiting for it who are given it one after the other.
struct Crowd {
    waiters: JoinSet<lock_core::Result<()>>,
    holders: Arc<AtomicUsize>,
    /// The tokens in the order of the grants.
    tokens: Arc<Mutex<Vec<u64>>>,
}

impl Crowd {
    /// Some of each client wait, one client's after the other's, until all are in the queue.
    async fn queue_up(clients: &[&Client], name: &str) -> Self {
        let (mut waiters, holders) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        let tokens = Arc::new(Mutex::new(Vec::new()));
        for n in 0..WAITERS {
            let mutex = clients[n % clients.len()].mutex(name).unwrap();
            let (holders, tokens) = (holders.clone(), tokens.clone());
            waiters.spawn(async move {
                let guard = mutex.lock().await?;
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "nobody else holds");
                tokens.lock().unwrap().push(guard.token());
                tokio::time::sleep(Duration::from_millis(2)).await;
                guard.check()?;
                holders.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            });
        }
        let all = || async { (clients[0].entries(name).await.ok()?.len() > WAITERS).then_some(()) };
        eventually("everybody to queue up", PATIENCE, all).await.unwrap();
        Self { waiters, holders, tokens }
    }

    /// Waits until all have had it, and checks in which order.
    async fn served(mut self) {
        while let Some(served) = timeout(PATIENCE, self.waiters.join_next()).await.expect("nobody is forgotten") {
            served.unwrap().unwrap();
        }
        let tokens = self.tokens.lock().unwrap().clone();
        assert_eq!((tokens.len(), self.holders.load(Ordering::SeqCst)), (WAITERS, 0));
        assert!(tokens.is_sorted(), "in the order of the queue: {tokens:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_waiters_of_a_session_cost_one_watch() {
    let etcd = Etcd::single().await.unwrap();
    let client = client(&etcd.endpoint(0), "").await;
    let guard = client.mutex("l").unwrap().lock().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = watches(&etcd).await;
    let crowd = Crowd::queue_up(&[&client], "l").await;
    // The client's own listing of the queue in the meantime watches nothing.
    assert_eq!(watches(&etcd).await - before, 1.0);
    guard.release().await;
    crowd.served().await;
    // Nobody waits any more.
    let none = || async { (watches(&etcd).await <= before - 1.0).then_some(()) };
    eventually("the view to end", PATIENCE, none).await.unwrap();
}

#[tokio::test]
async fn an_entry_waits_no_more_whatever_tells_that_it_is_gone() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    for asked in WAYS_TO_ASK {
        let queue = queue();
        let first = enqueue(&session, &queue).await.entry;
        let second = enqueue_kind(&session, &queue, Kind::Write).await.entry;
        assert_eq!(ahead(&session, &second, 9).await.unwrap().nearest[0].entry, first);
        assert_eq!(watches(&etcd).await, 1.0);
        etcd.ctl(&["del", &second.key]).await.unwrap();
        finds_gone(&session, &second, asked).await;
        // Long before a view is made anew.
        let none = || async { (watches(&etcd).await == 0.0).then_some(()) };
        let ended = eventually("the view to end", Duration::from_secs(5), none).await;
        ended.unwrap_or_else(|error| panic!("it waits in spite of {asked}: {error}"));
    }
}

/// Some go by views, the others by reading; they share one queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_of_waiting_keep_one_order() {
    let etcd = Etcd::single().await.unwrap();
    let (viewing, reading) = (client(&etcd.endpoint(0), "").await, client(&etcd.endpoint(0), "&views=off").await);
    let another = client(&etcd.endpoint(0), "").await;
    for _ in 0..3 {
        let guard = reading.mutex("l").unwrap().lock().await.unwrap();
        let crowd = Crowd::queue_up(&[&viewing, &reading, &another], "l").await;
        guard.release().await;
        crowd.served().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_ends_a_view_and_loses_nobody() {
    let etcd = Etcd::single().await.unwrap();
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let (waiting, other) = (client(&proxy.endpoint(), "").await, client(&etcd.endpoint(0), "").await);
    // Before the release, in it, and behind it.
    for pause in [50, 0, 5] {
        let guard = other.mutex("l").unwrap().lock().await.unwrap();
        let crowd = Crowd::queue_up(&[&waiting], "l").await;
        let release = async {
            tokio::time::sleep(Duration::from_millis(50 - pause)).await;
            guard.release().await;
        };
        let cut = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            proxy.cut(Cut::Rst).await.unwrap();
        };
        tokio::join!(release, cut);
        crowd.served().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_is_removed_by_hand_is_told_and_the_others_go_on() {
    let etcd = Etcd::single().await.unwrap();
    let client = client(&etcd.endpoint(0), "").await;
    let mutex = client.mutex("l").unwrap();
    let guard = mutex.lock().await.unwrap();
    let (mut first, mut second) = (mutex.lock(), mutex.lock());
    first.position().await.unwrap();
    second.position().await.unwrap();
    let (first, second) = (tokio::spawn(first), tokio::spawn(second));
    let queue = client.entries("l").await.unwrap();
    assert_eq!(queue.len(), 3);
    etcd.ctl(&["del", &queue[1].entry.key]).await.unwrap();
    let told = timeout(Duration::from_secs(2), first).await.expect("told at once").unwrap();
    assert!(matches!(told, Err(Error::EntryRemoved { .. })), "{told:?}");
    guard.check().unwrap();
    assert!(!second.is_finished(), "the holder is there");
    guard.release().await;
    let granted = timeout(Duration::from_secs(2), second).await.expect("granted at once").unwrap();
    granted.unwrap().check().unwrap();
}
