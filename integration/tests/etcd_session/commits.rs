//! Many writes of one session at once: sent together, each with its own condition and its own answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use integration::{Direction, Etcd, EtcdOptions, Mode, Proxy};
use lock_core::Name;
use lock_core::backend::{Dequeued, Enqueued, Placed, Session};
use tokio::task::JoinSet;

use crate::{Attempt, dequeue, enqueue, keys, open, open_with, queue};

const QUEUES: usize = 8;
const EACH: usize = 25;

/// All enter at once, several into each queue.
async fn crowd(session: &Arc<dyn Session>, queues: &[Name]) -> Vec<Vec<Placed>> {
    let mut tasks = JoinSet::new();
    for n in 0..queues.len() * EACH {
        let (session, queue) = (session.clone(), queues[n % queues.len()].clone());
        tasks.spawn(async move { (n % QUEUES, Attempt::new(&queue).enter(&session).await) });
    }
    let mut placed = vec![Vec::new(); queues.len()];
    while let Some(entered) = tasks.join_next().await {
        let (queue, entry) = entered.unwrap();
        placed[queue].push(entry);
    }
    placed
}

/// All leave at once.
async fn leave(session: &Arc<dyn Session>, placed: Vec<Vec<Placed>>) {
    let mut tasks = JoinSet::new();
    for placed in placed.into_iter().flatten() {
        let session = session.clone();
        tasks.spawn(async move { dequeue(&session, &placed.entry).await });
    }
    while let Some(left) = tasks.join_next().await {
        assert_eq!(left.unwrap(), Dequeued::Removed);
    }
}

/// Each entry has a place of its own, and they stand in the order of their tokens.
async fn check_order(session: &Arc<dyn Session>, queue: &Name, placed: &[Placed]) {
    let tokens: HashSet<_> = placed.iter().map(|placed| placed.token).collect();
    assert_eq!(tokens.len(), EACH, "a place for each");
    let listed = session.entries(queue, usize::MAX).await.unwrap();
    assert!(listed.iter().map(|entry| entry.token).is_sorted());
    assert_eq!(listed.iter().filter_map(|entry| entry.token).collect::<HashSet<_>>(), tokens);
}

fn queues() -> Vec<Name> {
    (0..QUEUES).map(|_| queue()).collect()
}

async fn transactions(etcd: &Etcd) -> f64 {
    let metrics = etcd.metrics(0).await.unwrap();
    let of = |method: &str| {
        let name = format!(r#"grpc_server_started_total{{grpc_method="{method}""#);
        metrics.iter().filter(|(metric, _)| metric.starts_with(&name)).map(|(_, count)| count).sum::<f64>()
    };
    of("Txn")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_at_once_is_sent_together_and_in_order() {
    let etcd = Etcd::single().await.unwrap();
    let (session, queues) = (open(&etcd.endpoint(0)).await, queues());
    let before = transactions(&etcd).await;
    let placed = crowd(&session, &queues).await;
    for (queue, placed) in queues.iter().zip(&placed) {
        check_order(&session, queue, placed).await;
    }
    let entered = transactions(&etcd).await;
    leave(&session, placed).await;
    let left = transactions(&etcd).await;
    let all = (QUEUES * EACH) as f64;
    println!("{all} entered with {} requests and left with {}", entered - before, left - entered);
    // Of one queue, no two may enter together.
    assert!(left - entered <= all / 4.0 && entered - before <= all);
    for queue in &queues {
        assert!(keys(&session, queue).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_does_not_hold_fails_its_own_write_only() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let busy = queue();
    let first = enqueue(&session, &busy).await;
    let mut tasks = JoinSet::new();
    for n in 0..60 {
        let (session, queue) = (session.clone(), if n % 3 == 0 { busy.clone() } else { queue() });
        tasks.spawn(async move { (n % 3 == 0, Attempt::try_only(&queue).enqueue(&session).await) });
    }
    while let Some(tried) = tasks.join_next().await {
        let (is_busy, answer) = tried.unwrap();
        match answer.unwrap() {
            Enqueued::Busy => assert!(is_busy),
            Enqueued::Placed(placed) => assert!(!is_busy && placed.ahead.is_some()),
        }
    }
    assert_eq!(keys(&session, &busy).await, [first.entry.key]);
}

/// The server refuses a transaction with more operations than it was told to take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_little_at_once_is_sent_little() {
    let extra_args = vec!["--max-txn-ops".into(), "6".into()];
    let etcd = Etcd::start(EtcdOptions { extra_args, ..EtcdOptions::default() }).await.unwrap();
    let (session, queues) = (open(&etcd.endpoint(0)).await, queues());
    for _ in 0..3 {
        let placed = crowd(&session, &queues).await;
        for (queue, placed) in queues.iter().zip(&placed) {
            check_order(&session, queue, placed).await;
        }
        leave(&session, placed).await;
    }
}

/// The answers to writes that were sent together are lost, and each is settled by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_one_to_each() {
    let etcd = Etcd::single().await.unwrap();
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let (session, queues) = (open_with(&proxy.endpoint(), "ttl=30s").await, queues());
    enqueue(&session, &queue()).await;
    proxy.set(Direction::ToClient, Mode::Discard);
    let crowd = {
        let (session, queues) = (session.clone(), queues.clone());
        tokio::spawn(async move { crowd(&session, &queues).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.set(Direction::ToClient, Mode::Pass);
    proxy.cut(integration::Cut::Rst).await.unwrap();
    let placed = crowd.await.unwrap();
    for (queue, placed) in queues.iter().zip(&placed) {
        check_order(&session, queue, placed).await;
    }
    leave(&session, placed).await;
    for queue in &queues {
        assert!(keys(&session, queue).await.is_empty());
    }
}
