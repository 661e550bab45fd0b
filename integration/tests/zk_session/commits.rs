//! Many writes of one session at once: sent together, each with its own answer.

use std::collections::HashSet;
use std::sync::Arc;

use integration::{Action, Cut, Direction, Mode, PATIENCE, Proxy, When, ZooKeeper, eventually};
use lock_core::Name;
use lock_core::backend::{Dequeued, Placed, Session};
use tokio::task::JoinSet;

use crate::{Attempt, dequeue, enqueue, keys, open, placed, prefix, queue, until_gone};

const ALL: usize = 200;

fn queues(n: usize) -> Vec<Name> {
    (0..n).map(|_| queue()).collect()
}

/// So many attempts, at one of these queues after the other.
fn attempts(queues: &[Name], all: usize) -> Vec<Attempt> {
    queues.iter().cycle().take(all).map(Attempt::new).collect()
}

/// All enter at once. The entries of each queue.
async fn enter_all(session: &Arc<dyn Session>, attempts: Vec<Attempt>, queues: usize) -> Vec<Vec<Placed>> {
    let mut tasks = JoinSet::new();
    for (n, attempt) in attempts.into_iter().enumerate() {
        let session = session.clone();
        tasks.spawn(async move { (n % queues, attempt.enter(&session).await) });
    }
    let mut placed = vec![Vec::new(); queues];
    while let Some(entered) = tasks.join_next().await {
        let (queue, entry) = entered.unwrap();
        placed[queue].push(entry);
    }
    placed
}

async fn enter(session: &Arc<dyn Session>, queues: &[Name], all: usize) -> Vec<Vec<Placed>> {
    enter_all(session, attempts(queues, all), queues.len()).await
}

/// All leave at once. How many of the entries were there.
async fn leave(session: &Arc<dyn Session>, placed: impl IntoIterator<Item = Placed>) -> usize {
    let mut tasks = JoinSet::new();
    for placed in placed {
        let session = session.clone();
        tasks.spawn(async move { dequeue(&session, &placed.entry).await });
    }
    tasks.join_all().await.into_iter().filter(|left| *left == Dequeued::Removed).count()
}

/// Each entry has a token of its own, and they stand in the order of their tokens.
async fn check_order(session: &Arc<dyn Session>, queue: &Name, placed: &[Placed]) {
    let tokens: HashSet<_> = placed.iter().map(|placed| placed.token).collect();
    assert_eq!(tokens.len(), placed.len(), "a token for each");
    let listed = session.entries(queue, usize::MAX).await.unwrap();
    assert!(listed.iter().map(|entry| entry.token).is_sorted());
    assert_eq!(listed.iter().filter_map(|entry| entry.token).collect::<HashSet<_>>(), tokens);
    assert_eq!(listed.len(), tokens.len());
}

/// How many transactions the server has made.
async fn transactions(zookeeper: &ZooKeeper) -> u64 {
    let text = zookeeper.four_letter(0, "srvr").await.unwrap();
    let zxid = text.lines().find_map(|line| line.strip_prefix("Zxid: 0x")).unwrap();
    u64::from_str_radix(zxid, 16).unwrap() & u64::from(u32::MAX)
}

/// So many as are needed when many are sent together, and a few heartbeats.
fn is_few(transactions: u64) -> bool {
    transactions <= ALL as u64 / 10
}

#[tokio::test]
async fn what_is_written_at_once_is_sent_together() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (session, queues) = (open(&zookeeper.endpoint(0)).await, queues(ALL));
    // Makes the directories.
    let made = enter(&session, &queues, ALL).await;
    assert_eq!(leave(&session, made.into_iter().flatten()).await, ALL);
    let before = transactions(&zookeeper).await;
    let placed = enter(&session, &queues, ALL).await;
    let entered = transactions(&zookeeper).await;
    assert!(placed.iter().flatten().all(|placed| placed.ahead.as_ref().is_some_and(|ahead| ahead.nearest.is_empty())));
    for (queue, placed) in queues.iter().zip(&placed) {
        check_order(&session, queue, placed).await;
    }
    let leaving = transactions(&zookeeper).await;
    assert_eq!(leave(&session, placed.into_iter().flatten()).await, ALL);
    let left = transactions(&zookeeper).await;
    println!("{ALL} entered in {} transactions and left in {}", entered - before, left - leaving);
    assert!(is_few(entered - before) && is_few(left - leaving));
    for queue in &queues {
        assert!(keys(&session, queue).await.is_empty());
    }
}

/// Also when another session enters at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_entries_of_one_queue_have_two_tokens_in_their_order() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queues = queues(8);
    let (mut placed, others) = tokio::join!(enter(&a, &queues, ALL), enter(&b, &queues, ALL));
    let all = |placed: Vec<Vec<Placed>>| placed.into_iter().flatten();
    let (of_a, of_b) = (placed.clone(), others.clone());
    for (placed, others) in placed.iter_mut().zip(others) {
        placed.extend(others);
    }
    for (queue, placed) in queues.iter().zip(&placed) {
        check_order(&a, queue, placed).await;
    }
    assert_eq!(tokio::join!(leave(&a, all(of_a)), leave(&b, all(of_b))), (ALL, ALL));
    for queue in &queues {
        assert!(keys(&a, queue).await.is_empty());
    }
}

#[tokio::test]
async fn an_entry_that_is_gone_fails_its_own_removal_only() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (session, admin) = (open(&zookeeper.endpoint(0)).await, zookeeper.admin().await.unwrap());
    for gone in [1, 10] {
        let placed: Vec<_> = enter(&session, &queues(ALL), ALL).await.into_iter().flatten().collect();
        // Not the first, which are sent alone.
        for placed in &placed[ALL - gone..] {
            admin.delete(&placed.entry.key).await.unwrap();
        }
        let before = transactions(&zookeeper).await;
        assert_eq!(leave(&session, placed).await, ALL - gone);
        let made = transactions(&zookeeper).await - before;
        println!("{gone} of {ALL} were gone: {made} transactions");
        assert!(made < ALL as u64);
    }
}

#[tokio::test]
async fn a_directory_that_is_gone_holds_up_nobody() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (session, admin) = (open(&zookeeper.endpoint(0)).await, zookeeper.admin().await.unwrap());
    let queues = queues(ALL);
    for gone in [1, 10] {
        let made: Vec<_> = enter(&session, &queues, ALL).await.into_iter().flatten().collect();
        assert_eq!(leave(&session, made.clone()).await, ALL);
        for placed in &made[ALL - gone..] {
            admin.delete(placed.entry.key.rsplit_once('/').unwrap().0).await.unwrap();
        }
        let placed = enter(&session, &queues, ALL).await;
        for (queue, placed) in queues.iter().zip(&placed) {
            assert_eq!(placed.len(), 1);
            check_order(&session, queue, placed).await;
        }
        assert_eq!(leave(&session, placed.into_iter().flatten()).await, ALL);
    }
}

/// The session's node, which all who enter depend on.
#[tokio::test]
async fn a_session_without_its_node_enters_all_the_same() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (session, admin) = (open(&zookeeper.endpoint(0)).await, zookeeper.admin().await.unwrap());
    let queues = queues(ALL);
    let made = enter(&session, &queues, ALL).await;
    let node = format!("/locks/%session/{}", session.id());
    admin.delete(&node).await.unwrap();
    let (left, placed) = tokio::join!(leave(&session, made.into_iter().flatten()), enter(&session, &queues, ALL));
    assert_eq!(left, ALL);
    for (queue, placed) in queues.iter().zip(&placed) {
        check_order(&session, queue, placed).await;
    }
}

/// Sent and not answered, or not even sent: each is settled by itself.
#[tokio::test]
async fn a_lost_connection_is_one_to_each() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let observer = open(&zookeeper.endpoint(0)).await;
    for direction in [Direction::ToClient, Direction::ToServer] {
        let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
        let (session, queues) = (open(&proxy.endpoint()).await, queues(ALL / 2));
        let made = enter(&session, &queues, ALL).await;
        // Not among the first, which are sent alone.
        let (attempts, mark) = (attempts(&queues, ALL), ALL / 2 - 1);
        let (marked, mark) = (&queues[mark], prefix(&attempts[mark]));
        let when = When::Contains(mark.clone().into_bytes());
        // One that is sent with others stops what comes after it, on the way there or back.
        let held = match direction {
            Direction::ToClient => proxy.after(Direction::ToServer, when, Action::Set(Direction::ToClient, Mode::Hold)),
            _ => proxy.before(Direction::ToServer, when, Action::Set(Direction::ToServer, Mode::Hold)),
        };
        let leaving = {
            let session = session.clone();
            tokio::spawn(async move { leave(&session, made.into_iter().flatten()).await })
        };
        let entering = {
            let (session, queues) = (session.clone(), queues.len());
            tokio::spawn(async move { enter_all(&session, attempts, queues).await })
        };
        held.fired().await.unwrap();
        match direction {
            Direction::ToClient => {
                let is_there = |keys: Vec<Arc<str>>| keys.iter().any(|key| key.contains(&mark));
                let applied = || async { is_there(keys(&observer, marked).await).then_some(()) };
                eventually("what was sent to be applied", PATIENCE, applied).await.unwrap();
            }
            _ => proxy.wait_for_held(direction, 100).await.unwrap(),
        }
        proxy.cut(Cut::Rst).await.unwrap();
        proxy.heal().await.unwrap();
        leaving.await.unwrap();
        let placed = entering.await.unwrap();
        for (queue, placed) in queues.iter().zip(&placed) {
            check_order(&observer, queue, placed).await;
        }
        assert_eq!(leave(&session, placed.into_iter().flatten()).await, ALL);
        for queue in &queues {
            assert!(keys(&observer, queue).await.is_empty());
        }
        let id = session.id();
        session.close().await.unwrap();
        until_gone(&zookeeper, &id, PATIENCE).await;
    }
}

fn contains(attempt: &Attempt) -> When {
    When::Contains(prefix(attempt).into_bytes())
}

#[tokio::test]
async fn who_gives_up_takes_nobody_along() {
    const EACH: usize = 30;
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let session = open(&proxy.endpoint()).await;
    let attempts: Vec<_> = (0..3 * EACH).map(|_| Arc::new(Attempt::new(&queue()))).collect();
    for attempt in &attempts {
        let made = attempt.enter(&session).await;
        assert_eq!(dequeue(&session, &made.entry).await, Dequeued::Removed);
    }
    // All but the first are gathered while the answers to those are on their way; what is sent then waits for its own.
    let sent =
        proxy.after(Direction::ToServer, contains(&attempts[EACH]), Action::Set(Direction::ToClient, Mode::Hold));
    let tasks: Vec<_> = attempts.iter().map(|attempt| attempt.start(&session)).collect();
    sent.fired().await.unwrap();
    proxy.wait_for_held(Direction::ToClient, 100).await.unwrap();
    for task in tasks.iter().skip(1).step_by(3) {
        task.abort();
    }
    proxy.heal().await.unwrap();
    for (n, (task, attempt)) in tasks.into_iter().zip(&attempts).enumerate() {
        match task.await {
            Ok(answer) => drop(placed(answer)),
            Err(ended) => {
                assert!(ended.is_cancelled() && n % 3 == 1);
                let _ = attempt.adopt(&session).await;
            }
        }
    }
    // Whatever was adopted or not, nothing more comes.
    enqueue(&session, &queue()).await;
    let mut found = 0;
    for attempt in &attempts {
        found += usize::from(attempt.adopt(&session).await.is_some());
    }
    println!("{found} of {} entered", 3 * EACH);
    assert!((2 * EACH..=3 * EACH).contains(&found));
    let id = session.id();
    session.close().await.unwrap();
    until_gone(&zookeeper, &id, PATIENCE).await;
}
