//! Watches: nothing is missed, nothing is made up, nothing is left on the server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use integration::{Cut, Etcd, PATIENCE, Proxy, eventually};
use lock_core::Name;
use lock_core::backend::{Change, Entry, Session, Watched};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{ahead, all_endpoints, dequeue, enqueue, keys, mutex, open, open_with, queue, watch};

pub(crate) async fn watchers(etcd: &Etcd) -> f64 {
    etcd.metrics(0).await.unwrap()["etcd_debugging_mvcc_watcher_total"]
}

pub(crate) async fn until_watchers(etcd: &Etcd, n: f64) {
    let reached = || async { (watchers(etcd).await == n).then_some(()) };
    eventually(format!("{n} watchers on the server"), PATIENCE, reached).await.unwrap();
}

/// The predecessor leaves between the look and the watch, and that very revision, or a later one, is
/// compacted away.
#[tokio::test]
async fn a_removal_before_the_watch_is_seen_whatever_is_compacted() {
    let etcd = Etcd::single().await.unwrap();
    let (session, other) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    for later in [0, 1] {
        let queue = queue();
        let first = enqueue(&other, &queue).await;
        let mine = enqueue(&session, &queue).await;
        let on = ahead(&session, &mine.entry, 1).await.unwrap().nearest.remove(0);
        dequeue(&other, &first.entry).await;
        for _ in 0..later {
            etcd.ctl(&["put", "another", "change"]).await.unwrap();
        }
        etcd.compact().await.unwrap();
        assert!(matches!(session.watch(&on.entry).await.unwrap(), Watched::Gone), "{later} revisions later");
    }
}

/// The same, at whatever moment of the watch's opening it happens: from long before the watch is asked for until long after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_while_the_watch_opens_is_seen() {
    const STEP: Duration = Duration::from_micros(25);
    const ROUNDS: u32 = 400;
    let etcd = Arc::new(Etcd::single().await.unwrap());
    let (session, other) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let mut seen = [0, 0];
    for round in 0..ROUNDS {
        let entry = enqueue(&other, &queue()).await.entry;
        let start = Instant::now();
        let removing = tokio::spawn({
            let (other, entry) = (other.clone(), entry.clone());
            async move {
                until(start + STEP * round).await;
                dequeue(&other, &entry).await
            }
        });
        until(start + STEP * (ROUNDS / 2)).await;
        match session.watch(&entry).await.unwrap() {
            Watched::Gone => seen[0] += 1,
            Watched::Present(removal) => {
                let removed = timeout(Duration::from_secs(5), removal).await;
                assert_eq!(removed, Ok(Change::Removed), "round {round}");
                seen[1] += 1;
            }
        }
        removing.await.unwrap();
    }
    assert!(seen.iter().all(|n| *n > 0), "gone already, removed later: {seen:?}");
}

/// Closer than a timer, which counts in milliseconds.
async fn until(moment: Instant) {
    while Instant::now() < moment {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn removals_are_told_in_their_order() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let mut entries = Vec::new();
    for _ in 0..50 {
        entries.push(enqueue(&session, &queue).await.entry);
    }
    fastrand::shuffle(&mut entries);
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut watching = JoinSet::new();
    for entry in &entries {
        let (removal, told, key) = (watch(&session, entry).await, told.clone(), entry.key.clone());
        watching.spawn(async move {
            assert_eq!(removal.await, Change::Removed);
            told.lock().unwrap().push(key);
        });
    }
    fastrand::shuffle(&mut entries);
    for entry in &entries {
        dequeue(&session, entry).await;
    }
    timeout(PATIENCE, watching.join_all()).await.unwrap();
    assert_eq!(*told.lock().unwrap(), entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>());
}

/// A key that is written, removed and put again by somebody else.
#[tokio::test]
async fn an_incarnation_is_watched_and_not_a_key() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let first = enqueue(&session, &queue).await.entry;
    let mut changed = watch(&session, &first).await;
    timeout(Duration::from_millis(300), &mut changed).await.expect_err("its creation is no change");
    etcd.ctl(&["put", "--ignore-lease", &first.key, "written"]).await.unwrap();
    assert_eq!(timeout(PATIENCE, changed).await.unwrap(), Change::Updated);
    let removed = watch(&session, &first).await;
    etcd.ctl(&["del", &first.key]).await.unwrap();
    etcd.ctl(&["put", &first.key, "again"]).await.unwrap();
    assert_eq!(timeout(PATIENCE, removed).await.unwrap(), Change::Removed);
    assert!(matches!(session.watch(&first).await.unwrap(), Watched::Gone));
    let second = session.entries(&queue, usize::MAX).await.unwrap().remove(0).entry;
    assert_eq!(second.key, first.key);
    let changed = watch(&session, &second).await;
    etcd.ctl(&["put", &second.key, "written again"]).await.unwrap();
    assert_eq!(timeout(PATIENCE, changed).await.unwrap(), Change::Updated);
    let removed = watch(&session, &second).await;
    etcd.ctl(&["del", &second.key]).await.unwrap();
    assert_eq!(timeout(PATIENCE, removed).await.unwrap(), Change::Removed);
}

#[tokio::test]
async fn no_watcher_is_left_on_the_server() {
    let etcd = Etcd::single().await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let queue = queue();
    let baseline = watchers(&etcd).await;
    let mut entries = Vec::new();
    for _ in 0..60 {
        entries.push(enqueue(&session, &queue).await.entry);
    }
    let mut removals = Vec::new();
    for entry in entries.iter().chain(&entries) {
        removals.push(watch(&session, entry).await);
    }
    until_watchers(&etcd, baseline + 120.0).await;
    removals.truncate(60);
    until_watchers(&etcd, baseline + 60.0).await;
    // Removed entries are watched no more, even while nobody looks at the answer.
    for entry in &entries[..30] {
        dequeue(&session, entry).await;
    }
    until_watchers(&etcd, baseline + 30.0).await;
    drop(removals);
    until_watchers(&etcd, baseline).await;
    // Watches given up while they open.
    for step in 0..60 {
        let (session, entry) = (session.clone(), entries[40].clone());
        let opening = tokio::spawn(async move { session.watch(&entry).await });
        tokio::time::sleep(Duration::from_micros(20 * step)).await;
        opening.abort();
    }
    drop(watch(&session, &entries[41]).await);
    until_watchers(&etcd, baseline).await;
    let kept = watch(&session, &entries[42]).await;
    session.close().await.unwrap();
    until_watchers(&etcd, baseline).await;
    assert_eq!(timeout(PATIENCE, kept).await.unwrap(), Change::Unknown);
}

/// After a fault a watch is told to look again, and the next one works.
async fn recovers(session: &Arc<dyn Session>, other: &Arc<dyn Session>, queue: &Name, first: &Entry, mine: &Entry) {
    let nearest = ahead(session, mine, 1).await.unwrap().nearest;
    assert_eq!(nearest, [mutex(first)], "every place is kept");
    assert_eq!(keys(other, queue).await.len(), 2);
    let removal = watch(session, first).await;
    dequeue(other, first).await;
    assert_eq!(timeout(PATIENCE, removal).await.unwrap(), Change::Removed);
}

/// The connection ends while an entry is watched.
#[tokio::test]
async fn a_cut_ends_watches_without_an_answer() {
    let etcd = Etcd::single().await.unwrap();
    let other = open(&etcd.endpoint(0)).await;
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let session = open(&proxy.endpoint()).await;
    for cut in [Cut::Fin, Cut::Rst].repeat(10) {
        let queue = queue();
        let (first, mine) = (enqueue(&other, &queue).await.entry, enqueue_again(&session, &queue).await);
        let removal = watch(&session, &first).await;
        proxy.cut(cut).await.unwrap();
        assert_eq!(timeout(PATIENCE, removal).await.unwrap(), Change::Unknown);
        recovers(&session, &other, &queue, &first, &mine).await;
    }
}

/// Enters behind a fault that may have taken the connection.
async fn enqueue_again(session: &Arc<dyn Session>, queue: &Name) -> Entry {
    let attempt = crate::Attempt::new(queue);
    loop {
        match attempt.enqueue(session).await {
            Err(lock_core::Error::Unavailable { .. }) => {}
            answer => return crate::placed(answer).entry,
        }
        if let Some(placed) = attempt.adopt(session).await {
            return placed.entry;
        }
    }
}

/// The server is killed while an entry is watched.
#[tokio::test]
async fn a_killed_server_ends_watches_without_an_answer() {
    let etcd = Etcd::single().await.unwrap();
    let (session, other) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let queue = queue();
    let (first, mine) = (enqueue(&other, &queue).await.entry, enqueue(&session, &queue).await.entry);
    let removal = watch(&session, &first).await;
    etcd.kill(0).unwrap();
    assert_eq!(timeout(PATIENCE, removal).await.unwrap(), Change::Unknown);
    etcd.restart(0).await.unwrap();
    recovers(&session, &other, &queue, &first, &mine).await;
}

/// A blackhole ends watches as soon as any request has noticed it.
#[tokio::test]
async fn silence_ends_watches_with_the_first_unanswered_request() {
    let etcd = Etcd::single().await.unwrap();
    let other = open(&etcd.endpoint(0)).await;
    let (session, proxy, _spare) = crate::open_over_two(&etcd, "ttl=6s").await;
    let queue = queue();
    let (first, mine) = (enqueue(&other, &queue).await.entry, enqueue(&session, &queue).await.entry);
    let removal = watch(&session, &first).await;
    proxy.set_both(integration::Mode::Hold);
    session.renew().await.unwrap_err();
    assert_eq!(timeout(Duration::from_secs(1), removal).await.unwrap(), Change::Unknown);
    recovers(&session, &other, &queue, &first, &mine).await;
}

/// A member without a quorum says nothing by itself.
#[tokio::test]
async fn a_member_without_a_quorum_ends_watches() {
    let etcd = Etcd::cluster(3).await.unwrap();
    let session = open(&etcd.endpoint(0)).await;
    let other = open(&all_endpoints(&etcd)).await;
    let queue = queue();
    let (first, mine) = (enqueue(&other, &queue).await.entry, enqueue(&session, &queue).await.entry);
    let removal = watch(&session, &first).await;
    for i in [1, 2] {
        etcd.pause(i).unwrap();
    }
    assert_eq!(timeout(PATIENCE, removal).await.unwrap(), Change::Unknown);
    for i in [1, 2] {
        etcd.resume(i).unwrap();
    }
    recovers(&session, &other, &queue, &first, &mine).await;
}

/// Pings that the server takes for abuse would end the connection of a waiter that is idle.
#[tokio::test]
async fn an_idle_watch_keeps_its_connection() {
    let etcd = Etcd::single().await.unwrap();
    let other = open(&etcd.endpoint(0)).await;
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let session = open_with(&proxy.endpoint(), "ttl=120s").await;
    let entry = enqueue(&other, &queue()).await.entry;
    let mut removal = watch(&session, &entry).await;
    let accepted = proxy.counters().accepted;
    // Not a wait for a condition: it is the idleness that is tested.
    timeout(Duration::from_secs(35), &mut removal).await.expect_err("nothing happened");
    assert_eq!(proxy.counters().accepted, accepted);
    dequeue(&other, &entry).await;
    assert_eq!(timeout(PATIENCE, removal).await.unwrap(), Change::Removed);
}

/// A thousand watches are told of one revision, far more than the server keeps ready for one stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_removals_at_once_are_told() {
    let etcd = Etcd::single().await.unwrap();
    let (session, other) = (open(&etcd.endpoint(0)).await, open(&etcd.endpoint(0)).await);
    let queue = queue();
    let mut entering = JoinSet::new();
    for _ in 0..1000 {
        let (other, queue) = (other.clone(), queue.clone());
        entering.spawn(async move { enqueue(&other, &queue).await.entry });
    }
    let mut watching = JoinSet::new();
    for entry in entering.join_all().await {
        let session = session.clone();
        watching.spawn(async move {
            let removal = watch(&session, &entry).await;
            removal.await
        });
    }
    let baseline = watchers(&etcd).await;
    until_watchers(&etcd, baseline.max(1000.0)).await;
    other.close().await.unwrap();
    let told = timeout(PATIENCE, watching.join_all()).await.unwrap();
    assert!(told.iter().all(|removed| *removed == Change::Removed));
}
