//! Views of queues: what a session knows of a queue without asking.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration::session::{Attempt, WAYS_TO_ASK, finds_gone};
use integration::{Cut, PATIENCE, Proxy, ZooKeeper, connect, eventually};
use lock_core::backend::{Change, Kind, Written};
use lock_core::{Client, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client::{Acls, CreateMode};

use crate::{ahead, dequeue, downgrade, enqueue, enqueue_kind, open, open_with, queue, read, retried, watch, write};

const WAITERS: usize = 30;

async fn client(endpoint: &str, parameters: &str) -> Client {
    connect(&format!("zk://{endpoint}/views?timeout=10s{parameters}")).await.unwrap()
}

async fn watches(zookeeper: &ZooKeeper) -> usize {
    crate::counter(zookeeper, "zk_watch_count").await.unwrap().parse().unwrap()
}

/// Holds a lock, with others waiting for it who are given it one after the other.
struct Crowd {
    waiters: JoinSet<lock_core::Result<()>>,
    holders: Arc<AtomicUsize>,
    /// In the order of the grants.
    tokens: Arc<Mutex<Vec<u64>>>,
}

impl Crowd {
    /// Some of each client wait, until all are in the queue.
    async fn queue_up(clients: &[&Client], name: &str, size: usize) -> Self {
        let (holders, tokens) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let mut waiters = JoinSet::new();
        for n in 0..size {
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
        let all = || async { (clients[0].entries(name).await.ok()?.len() > size).then_some(()) };
        eventually("everybody to queue up", PATIENCE, all).await.unwrap();
        Self { waiters, holders, tokens }
    }

    /// Waits until all have had it, and checks in which order.
    async fn served(mut self) {
        let all = self.waiters.len();
        while let Some(served) = timeout(PATIENCE, self.waiters.join_next()).await.expect("nobody is forgotten") {
            served.unwrap().unwrap();
        }
        let tokens = self.tokens.lock().unwrap();
        assert_eq!((tokens.len(), self.holders.load(Ordering::SeqCst)), (all, 0));
        assert!(tokens.is_sorted(), "in the order of the queue: {tokens:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_waiters_of_a_session_cost_one_watch() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let client = client(&zookeeper.endpoint(0), "").await;
    let guard = client.mutex("l").unwrap().lock().await.unwrap();
    // The holder's, of its own entry.
    crate::watching::until_watches(&zookeeper, "1").await;
    let crowd = Crowd::queue_up(&[&client], "l", WAITERS).await;
    // The server counts the view's twice, for the nodes and for their children.
    crate::watching::until_watches(&zookeeper, "3").await;
    guard.release().await;
    crowd.served().await;
    // Nobody waits any more.
    crate::watching::until_watches(&zookeeper, "0").await;
}

/// Who has waited, held, and was thrown out, waits no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_does_not_outlive_a_holder_that_was_removed_by_hand() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (client, admin) = (client(&zookeeper.endpoint(0), "").await, zookeeper.admin().await.unwrap());
    let mutex = client.mutex("l").unwrap();
    let first = mutex.lock().await.unwrap();
    // Its own, before there is a view that would tell of it.
    crate::watching::until_watches(&zookeeper, "1").await;
    let next = tokio::spawn(async move { mutex.lock().await });
    crate::watching::until_watches(&zookeeper, "3").await;
    first.release().await;
    let held = timeout(PATIENCE, next).await.unwrap().unwrap().unwrap();
    admin.delete(&held.entry().key).await.unwrap();
    assert_eq!(timeout(PATIENCE, held.lost()).await.unwrap(), lock_core::Loss::EntryRemoved);
    drop(held);
    // Long before a view is made anew.
    let ended = crate::watching::until_watches(&zookeeper, "0");
    timeout(Duration::from_secs(5), ended).await.expect("nobody waits any more");
}

#[tokio::test]
async fn an_entry_waits_no_more_whatever_tells_that_it_is_gone() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (session, admin) = (open(&zookeeper.endpoint(0)).await, zookeeper.admin().await.unwrap());
    for asked in WAYS_TO_ASK {
        let queue = queue();
        let first = enqueue(&session, &queue).await.entry;
        let second = enqueue_kind(&session, &queue, Kind::Write).await.entry;
        assert_eq!(ahead(&session, &second, 9).await.unwrap().nearest[0].entry, first);
        crate::watching::until_watches(&zookeeper, "2").await;
        admin.delete(&second.key).await.unwrap();
        finds_gone(&session, &second, asked).await;
        let ended = timeout(Duration::from_secs(5), crate::watching::until_watches(&zookeeper, "0"));
        ended.await.unwrap_or_else(|_| panic!("it waits in spite of {asked}"));
    }
}

/// Far more than could each have a watch of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_waiters_of_a_session_wait_in_order() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let client = client(&zookeeper.endpoint(0), "").await;
    let mutex = client.mutex("l").unwrap();
    let guard = mutex.lock().await.unwrap();
    let mut waiters = JoinSet::new();
    const MANY: usize = 3_000;
    let tokens = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..MANY {
        let (mutex, tokens) = (mutex.clone(), tokens.clone());
        waiters.spawn(async move {
            let guard = mutex.lock().await.unwrap();
            tokens.lock().unwrap().push(guard.token());
            guard.check().unwrap();
        });
    }
    let all = || async { (client.metrics().waits >= MANY as u64).then_some(()) };
    eventually("everybody to wait", PATIENCE, all).await.unwrap();
    // While one view takes the place of another, there are more.
    let few = || async { (watches(&zookeeper).await <= 3).then_some(()) };
    eventually("no watches but the holder's, and those of the view", PATIENCE, few).await.unwrap();
    guard.release().await;
    while let Some(done) = timeout(PATIENCE, waiters.join_next()).await.expect("nobody is forgotten") {
        done.unwrap();
    }
    let tokens = tokens.lock().unwrap();
    assert!(tokens.len() == MANY && tokens.is_sorted());
}

/// Some go by views, the others by reading; they share one queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_of_waiting_keep_one_order() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let endpoint = zookeeper.endpoint(0);
    let (viewing, reading) = (client(&endpoint, "").await, client(&endpoint, "&views=off").await);
    let another = client(&endpoint, "").await;
    for _ in 0..3 {
        let guard = reading.mutex("l").unwrap().lock().await.unwrap();
        let crowd = Crowd::queue_up(&[&viewing, &reading, &another], "l", WAITERS).await;
        guard.release().await;
        crowd.served().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_ends_a_view_and_loses_nobody() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let (waiting, other) = (client(&proxy.endpoint(), "").await, client(&zookeeper.endpoint(0), "").await);
    // Before the release, in it, and behind it.
    for pause in [50, 0, 5] {
        let guard = other.mutex("l").unwrap().lock().await.unwrap();
        let crowd = Crowd::queue_up(&[&waiting], "l", WAITERS).await;
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
    let zookeeper = ZooKeeper::single().await.unwrap();
    let client = client(&zookeeper.endpoint(0), "").await;
    let mutex = client.mutex("l").unwrap();
    let guard = mutex.lock().await.unwrap();
    let (mut first, mut second) = (mutex.lock(), mutex.lock());
    first.position().await.unwrap();
    second.position().await.unwrap();
    let (first, second) = (tokio::spawn(first), tokio::spawn(second));
    let queue = client.entries("l").await.unwrap();
    assert_eq!(queue.len(), 3);
    zookeeper.admin().await.unwrap().delete(&queue[1].entry.key).await.unwrap();
    let told = timeout(Duration::from_secs(2), first).await.expect("told at once").unwrap();
    assert!(matches!(told, Err(Error::EntryRemoved { .. })), "{told:?}");
    guard.check().unwrap();
    assert!(!second.is_finished(), "the holder is there");
    guard.release().await;
    let granted = timeout(Duration::from_secs(2), second).await.expect("granted at once").unwrap();
    granted.unwrap().check().unwrap();
}

/// It is not in the list with which a view begins, and nobody comes after it.
#[tokio::test]
async fn an_entry_that_went_before_the_view_was_opened_is_known_to_be_gone() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let session = open_with(&proxy.endpoint(), "timeout=10s").await;
    let queue = queue();
    let (first, second) = (enqueue(&session, &queue).await.entry, enqueue(&session, &queue).await.entry);
    let last = enqueue(&session, &queue).await.entry;
    zookeeper.admin().await.unwrap().delete(&last.key).await.unwrap();
    proxy.cut(Cut::Rst).await.unwrap();
    retried("renew", || session.renew()).await;
    assert_eq!(ahead(&session, &second, 9).await.unwrap().nearest.len(), 1);
    assert!(watches(&zookeeper).await > 0, "there is a view");
    let asked = timeout(Duration::from_secs(1), ahead(&session, &last, 9)).await;
    assert_eq!(asked.expect("known soon"), None);
    // One that was told of by the view.
    let told = enqueue(&session, &queue).await.entry;
    assert_eq!(ahead(&session, &told, 9).await.unwrap().nearest.len(), 2);
    dequeue(&session, &told).await;
    assert_eq!(ahead(&session, &told, 9).await, None);
    dequeue(&session, &first).await;
    assert_eq!(ahead(&session, &second, 9).await.unwrap().nearest, []);
}

/// Servers tell a client nothing of nodes that it may not read.
#[tokio::test]
async fn an_entry_that_may_not_be_read_is_ahead_all_the_same() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let queue = queue();
    let (first, second) = (enqueue(&session, &queue).await.entry, enqueue(&session, &queue).await.entry);
    assert_eq!(ahead(&session, &second, 9).await.unwrap().nearest.len(), 1);
    let directory = second.key.rsplit_once('/').unwrap().0;
    let admin = zookeeper.admin().await.unwrap();
    let options = CreateMode::EphemeralSequential.with_acls(Acls::creator_all());
    admin.client().create(&format!("{directory}/hidden-lock-"), b"", &options).await.unwrap();
    // A view that shows nobody any more goes on for a moment.
    dequeue(&session, &first).await;
    dequeue(&session, &second).await;
    let third = enqueue(&session, &queue).await.entry;
    let nearest = ahead(&session, &third, 9).await.unwrap().nearest;
    assert_eq!(nearest.len(), 1, "{nearest:?}");
    assert!(nearest[0].entry.key.contains("/hidden-lock-"));
}

#[tokio::test]
async fn what_is_told_of_a_viewed_entry_is_what_a_watch_tells() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let queue = queue();
    let first = enqueue(&session, &queue).await.entry;
    let writer = enqueue_kind(&session, &queue, Kind::Write).await.entry;
    let last = enqueue(&session, &queue).await.entry;
    assert_eq!(ahead(&session, &last, 9).await.unwrap().nearest.len(), 2);
    let before = watches(&zookeeper).await;
    let (updated, removed, turned) =
        (watch(&session, &first).await, watch(&session, &first).await, watch(&session, &writer).await);
    assert_eq!(watches(&zookeeper).await, before, "they are the view's");
    let version = read(&session, &first).await.unwrap().version;
    assert_eq!(write(&session, &first, version, b"new").await, Written::Done);
    assert_eq!((updated.await, removed.await), (Change::Updated, Change::Updated));
    let removed = watch(&session, &first).await;
    let reader = downgrade(&session, &writer).await.unwrap();
    assert_eq!(turned.await, Change::Removed);
    // In the place of the writer, and there, whenever it is asked.
    let kept = watch(&session, &reader).await;
    let nearest = ahead(&session, &last, 9).await.unwrap().nearest;
    assert_eq!((&nearest[0].entry, nearest[0].kind), (&reader, Kind::Read));
    dequeue(&session, &first).await;
    assert_eq!(removed.await, Change::Removed);
    dequeue(&session, &reader).await;
    assert_eq!(kept.await, Change::Removed);
    assert_eq!(ahead(&session, &last, 9).await.unwrap().nearest, []);
}

/// While others come and go, so that there are events around each list with which a view begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_shows_what_a_list_shows() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let viewing = open_with(&proxy.endpoint(), "timeout=10s").await;
    let (reading, other) =
        (open_with(&zookeeper.endpoint(0), "views=off").await, open_with(&zookeeper.endpoint(0), "views=off").await);
    for round in 0..20 {
        let queue = queue();
        let _stays = enqueue(&other, &queue).await.entry;
        let mut churn = JoinSet::new();
        for n in 0..8 {
            let (other, queue) = (other.clone(), queue.clone());
            churn.spawn(async move {
                for step in 0..20 {
                    let entry = enqueue(&other, &queue).await.entry;
                    if (n + step + round) % 5 != 0 {
                        dequeue(&other, &entry).await;
                    }
                }
            });
        }
        let mut mine = Vec::new();
        for n in 0..6 {
            let entry = Attempt::new(&queue).enter(&viewing).await.entry;
            let seen = ahead(&viewing, &entry, 999).await.expect("it is there");
            assert!(!seen.nearest.is_empty(), "one never leaves");
            mine.push(entry);
            if n % 3 == 2 {
                proxy.cut(Cut::Rst).await.unwrap();
            }
        }
        while let Some(done) = churn.join_next().await {
            done.unwrap();
        }
        retried("renew", || viewing.renew()).await;
        for entry in &mine {
            assert_eq!(ahead(&viewing, entry, 999).await, ahead(&reading, entry, 999).await);
        }
    }
}

/// Passes on what a client sends, with requests for persistent watches made ones that no server knows; returns the address.
async fn without_persistent_watches(upstream: std::net::SocketAddr) -> std::net::SocketAddr {
    const ADD_WATCH: [u8; 4] = 106_i32.to_be_bytes();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(upstream).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut is_first = true;
                while let Ok(length) = from_client.read_u32().await {
                    let mut frame = vec![0; length as usize];
                    from_client.read_exact(&mut frame).await?;
                    // The first asks for a session; all others begin with a number and what they ask for.
                    if !std::mem::take(&mut is_first) && frame[4..8] == ADD_WATCH {
                        frame[4..8].copy_from_slice(&10_106_i32.to_be_bytes());
                    }
                    to_server.write_u32(length).await?;
                    to_server.write_all(&frame).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    addr
}

/// As before 3.6: the server says that it does not know the request, and closes the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_persistent_watches_is_asked_once() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(without_persistent_watches(zookeeper.addr(0)).await).await.unwrap();
    let client = client(&proxy.endpoint(), "").await;
    for _ in 0..3 {
        let guard = client.mutex("l").unwrap().lock().await.unwrap();
        let crowd = Crowd::queue_up(&[&client], "l", WAITERS).await;
        guard.release().await;
        crowd.served().await;
    }
    assert!(proxy.counters().accepted <= 2, "the connection was lost once");
}
