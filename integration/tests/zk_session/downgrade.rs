//! Writers that go on as readers.

use std::sync::Arc;

use integration::{Action, Cut, Direction, Mode, PATIENCE, Proxy, When, ZooKeeper, eventually};
use lock_core::Error;
use lock_core::backend::{Change, Dequeued, Entry, Kind, Session, Standing, Watched, Written};
use tokio::time::timeout;

use crate::{Attempt, ahead, dequeue, enqueue_kind, keys, open, open_with, queue, read, retried, watch, write};

async fn downgrade(session: &Arc<dyn Session>, entry: &Entry) -> Option<Entry> {
    retried("downgrade", || session.downgrade(entry)).await
}

#[tokio::test]
async fn a_writer_reads_on_in_its_place_with_its_token_and_value() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let writer = enqueue_kind(&a, &queue, Kind::Write).await;
    let reader = enqueue_kind(&b, &queue, Kind::Read).await;
    let waiting = enqueue_kind(&b, &queue, Kind::Write).await;
    let seen = watch(&b, &writer.entry).await;
    let before = read(&b, &writer.entry).await.unwrap();
    assert_eq!(write(&b, &writer.entry, before.version, b"asked to let go").await, Written::Done);
    assert_eq!(seen.await, Change::Updated);
    let seen = watch(&b, &writer.entry).await;

    let mine = downgrade(&a, &writer.entry).await.unwrap();
    assert_ne!(timeout(PATIENCE, seen).await.unwrap(), Change::Unknown);
    let listed = b.entries(&queue, usize::MAX).await.unwrap();
    let kinds: Vec<_> = listed.iter().map(|entry| (entry.entry.clone(), entry.kind, entry.token)).collect();
    let want = [
        (mine.clone(), Kind::Read, Some(writer.token)),
        (reader.entry.clone(), Kind::Read, Some(reader.token)),
        (waiting.entry.clone(), Kind::Write, Some(waiting.token)),
    ];
    assert_eq!(kinds, want);
    assert_eq!((&listed[0].value[..], &listed[0].session), (&b"asked to let go"[..], &a.id()));
    let standing = |entry: &Entry| Standing { entry: entry.clone(), kind: Kind::Read };
    assert_eq!(ahead(&b, &waiting.entry, 5).await.unwrap().nearest, [standing(&reader.entry), standing(&mine)]);

    // Again, by either name, changes nothing.
    assert_eq!(downgrade(&a, &writer.entry).await, Some(mine.clone()));
    assert_eq!(downgrade(&a, &mine).await, Some(mine.clone()));
    assert_eq!(downgrade(&b, &writer.entry).await, None, "another session's");
    assert_eq!(ahead(&a, &mine, 5).await.unwrap().nearest, []);
    assert!(matches!(a.watch(&writer.entry).await.unwrap(), Watched::Gone));
    assert!(matches!(a.watch(&mine).await.unwrap(), Watched::Present(_)));

    assert_eq!(dequeue(&a, &mine).await, Dequeued::Removed);
    assert_eq!(downgrade(&a, &writer.entry).await, None);
    assert_eq!(downgrade(&a, &mine).await, None);
    assert_eq!(keys(&b, &queue).await, [reader.entry.key, waiting.entry.key]);
}

/// It ends with its session, like every entry.
#[tokio::test]
async fn a_former_writer_goes_with_its_session() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let writer = enqueue_kind(&a, &queue, Kind::Write).await;
    let mine = downgrade(&a, &writer.entry).await.unwrap();
    let removed = watch(&b, &mine).await;
    a.close().await.unwrap();
    assert_eq!(timeout(PATIENCE, removed).await, Ok(Change::Removed));
    assert!(keys(&b, &queue).await.is_empty());
}

#[tokio::test]
async fn removing_a_writer_removes_the_reader_that_it_became_and_no_other() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let (first, second) = (enqueue_kind(&a, &queue, Kind::Write).await, enqueue_kind(&a, &queue, Kind::Write).await);
    let other = downgrade(&a, &second.entry).await.unwrap();
    let _ = downgrade(&a, &first.entry).await.unwrap();
    assert_eq!(dequeue(&b, &first.entry).await, Dequeued::Removed);
    assert_eq!(dequeue(&b, &first.entry).await, Dequeued::Absent);
    assert_eq!(keys(&b, &queue).await, [other.key]);
}

/// Applied, and the answer lost: found again, and removed under whichever name.
#[tokio::test]
async fn a_downgrade_without_an_answer_is_found_and_can_be_removed() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let other = open(&zookeeper.endpoint(0)).await;
    for (cut, remove) in [(Cut::Fin, false), (Cut::Rst, false), (Cut::Rst, true)] {
        let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
        let session = open(&proxy.endpoint()).await;
        let queue = queue();
        let writer = enqueue_kind(&session, &queue, Kind::Write).await;
        let waiting = enqueue_kind(&other, &queue, Kind::Write).await;
        let request = When::Contains(b"-__READ__".to_vec());
        let sent = proxy.after(Direction::ToServer, request, Action::Set(Direction::ToClient, Mode::Hold));
        let turning = tokio::spawn({
            let (session, entry) = (session.clone(), writer.entry.clone());
            async move { session.downgrade(&entry).await }
        });
        sent.fired().await.unwrap();
        let applied = || async { (!keys(&other, &queue).await.contains(&writer.entry.key)).then_some(()) };
        eventually("the downgrade to be applied", PATIENCE, applied).await.unwrap();
        proxy.cut(cut).await.unwrap();
        let answer = turning.await.unwrap();
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
        proxy.heal().await.unwrap();
        if remove {
            assert_eq!(dequeue(&session, &writer.entry).await, Dequeued::Removed);
            assert_eq!(keys(&other, &queue).await, [waiting.entry.key]);
        } else {
            let mine = downgrade(&session, &writer.entry).await.unwrap();
            assert_eq!(keys(&other, &queue).await, [mine.key, waiting.entry.key]);
        }
    }
}

/// A request that is delayed on a connection which the session has left, until after the entry was removed.
#[tokio::test]
async fn a_delayed_downgrade_brings_nothing_back() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let observer = open(&zookeeper.endpoint(0)).await;
    for repeat in [false, true] {
        let proxies = [Proxy::start(zookeeper.addr(0)).await.unwrap(), Proxy::start(zookeeper.addr(0)).await.unwrap()];
        let hosts = format!("{},{}", proxies[0].endpoint(), proxies[1].endpoint());
        let session = open_with(&hosts, "timeout=6s").await;
        let queue = queue();
        let writer = enqueue_kind(&session, &queue, Kind::Write).await;
        let used = proxies.iter().position(|proxy| proxy.connections() == 1).unwrap();
        let old = &proxies[used];
        let request = When::Contains(b"-__READ__".to_vec());
        let held = old.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
        let turning = tokio::spawn({
            let (session, entry) = (session.clone(), writer.entry.clone());
            async move { session.downgrade(&entry).await }
        });
        held.fired().await.unwrap();
        assert!(matches!(turning.await.unwrap(), Err(Error::Unavailable { .. })));
        let left = if repeat {
            // Another name is never given: the delayed request and this one make the same node.
            vec![downgrade(&session, &writer.entry).await.unwrap().key]
        } else {
            assert_eq!(dequeue(&session, &writer.entry).await, Dequeued::Removed);
            Vec::new()
        };
        let before = old.counters().passed_to_server;
        old.heal().await.unwrap();
        let passed = || async { (old.counters().passed_to_server > before).then_some(()) };
        eventually("the delayed request to go out", PATIENCE, passed).await.unwrap();
        // A request of the same session is answered after it, wherever the session is by then.
        let attempt = Attempt::new(&crate::queue());
        let after = attempt.enter(&session).await;
        assert_eq!(keys(&observer, &queue).await, left);
        dequeue(&session, &after.entry).await;
        session.close().await.unwrap();
    }
}

/// Whoever looks while a writer turns sees it as the one or the other, or both, but never sees nobody.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_the_place_empty_meanwhile() {
    let zookeeper = ZooKeeper::cluster(3).await.unwrap();
    let a = open(&zookeeper.endpoint(0)).await;
    let lookers =
        [open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(1)).await, open(&zookeeper.endpoint(2)).await];
    for _ in 0..20 {
        let queue = queue();
        let writer = enqueue_kind(&a, &queue, Kind::Write).await;
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut looking = tokio::task::JoinSet::new();
        for looker in &lookers {
            let mine = enqueue_kind(looker, &queue, Kind::Write).await.entry;
            let (looker, done) = (looker.clone(), done.clone());
            looking.spawn(async move {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let seen = looker.ahead(&mine, 8).await.unwrap().unwrap().nearest;
                    let first = seen.last().expect("somebody is ahead");
                    assert!(first.entry.key.contains("0000000000"), "{seen:?}");
                }
            });
        }
        let mine = downgrade(&a, &writer.entry).await.unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        looking.join_all().await;
        dequeue(&a, &mine).await;
    }
}

/// Somebody writes to the entry all the time: no value is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_at_the_same_moment_is_kept_or_refused() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    for _ in 0..50 {
        let queue = queue();
        let writer = enqueue_kind(&a, &queue, Kind::Write).await.entry;
        let version = read(&b, &writer).await.unwrap().version;
        let (mine, written) = tokio::join!(downgrade(&a, &writer), write(&b, &writer, version, b"new"));
        let want: &[u8] = if written == Written::Done { b"new" } else { b"value" };
        assert_eq!(read(&b, &mine.unwrap()).await.unwrap().value, want);
    }
}
