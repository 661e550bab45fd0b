//! What watches on entries, records and queues tell, on a real directory.

mod common;

use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Directory, enqueue, eventually, in_time, keys, name, watch};
use lock_core::Name;
use lock_core::backend::{Change, Kind, Session, Stir, Watched, Written};

/// Whether nothing comes of it for a while: past the time in which a watch looks without being told.
async fn is_silent<F: Future + Unpin>(future: &mut F) -> bool {
    tokio::time::timeout(Duration::from_millis(700), future).await.is_err()
}

/// A watch on a queue in which nothing happens. It need not exist, and a sweep may once remove its empty directory.
async fn silent_stir(session: &Arc<dyn Session>, queue: &Name) -> Stir {
    for _ in 0..3 {
        let mut stir = session.watch_queue(queue).await.expect("it can be watched");
        if is_silent(&mut stir).await {
            return stir;
        }
    }
    panic!("it is stirred again and again");
}

#[tokio::test]
async fn a_watch_tells_what_happened_and_to_nobody_else() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let first = enqueue(&a, "q", Kind::Exclusive).await.entry;
    let second = enqueue(&a, "q", Kind::Exclusive).await.entry;
    let mut of_second = watch(&b, &second).await;
    let updated = watch(&b, &first).await;
    assert_eq!(a.write(&first, 1, b"new").await.expect("an answer"), Written::Done);
    assert_eq!(in_time("the update is told", updated).await, Change::Updated);
    let removed = watch(&b, &first).await;
    fs::remove_file(directory.path(&first.key)).expect("it is there");
    assert_eq!(in_time("the removal is told", removed).await, Change::Removed);
    assert!(is_silent(&mut of_second).await);
    a.close().await.expect("it closes");
    assert_eq!(in_time("the end is told", of_second).await, Change::Removed);
    assert!(matches!(b.watch(&first).await, Ok(Watched::Gone)));
}

#[tokio::test]
async fn a_file_that_is_read_elsewhere_is_told_of_all_the_same() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let entry = enqueue(&a, "q", Kind::Exclusive).await.entry;
    let _pager = File::open(directory.path(&entry.key)).expect("it can be read");
    let mut removed = watch(&b, &entry).await;
    assert!(is_silent(&mut removed).await);
    a.dequeue(&entry).await.expect("it is removed");
    assert_eq!(in_time("the removal is told", removed).await, Change::Removed);
}

/// The watches are asked as a waiter asks them: the predecessor's, then its own.
#[tokio::test]
async fn an_own_removal_is_not_missed_for_the_predecessors() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    for _ in 0..20 {
        let predecessor = enqueue(&a, "q", Kind::Exclusive).await.entry;
        let mine = enqueue(&b, "q", Kind::Exclusive).await.entry;
        let (other, own) = (watch(&b, &predecessor).await, watch(&b, &mine).await);
        fs::remove_file(directory.path(&mine.key)).expect("it is there");
        fs::remove_file(directory.path(&predecessor.key)).expect("it is there");
        assert_eq!(in_time("the predecessor's", other).await, Change::Removed);
        let own = tokio::time::timeout(Duration::ZERO, own).await;
        assert_eq!(own, Ok(Change::Removed), "told no later");
    }
}

#[tokio::test]
async fn a_record_is_watched_before_anybody_wrote_it() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let record = a.record(&name("q"));
    for version in 0..3 {
        let mut updated = watch(&b, &record).await;
        assert!(is_silent(&mut updated).await);
        assert_eq!(a.read(&record).await.expect("an answer").expect("always there").version, version);
        assert_eq!(a.write(&record, version, b"new").await.expect("an answer"), Written::Done);
        assert_eq!(in_time("the update is told", updated).await, Change::Updated);
    }
}

#[tokio::test]
async fn a_queue_is_watched_for_those_who_join_and_leave_and_die() {
    let directory = Directory::new();
    let (a, b, dies) = (directory.session().await, directory.session().await, directory.session().await);
    let queue = name("q");
    let stir = silent_stir(&b, &queue).await;
    let entry = enqueue(&a, "q", Kind::Member).await.entry;
    in_time("who joins", stir).await;
    let mut stir = b.watch_queue(&queue).await.expect("it can be watched");
    assert_eq!(a.write(&entry, 1, b"new").await.expect("an answer"), Written::Done);
    assert!(is_silent(&mut stir).await, "a value is nothing to it");
    a.dequeue(&entry).await.expect("it is removed");
    in_time("who leaves", stir).await;
    let writer = enqueue(&a, "q", Kind::Write).await.entry;
    let stir = b.watch_queue(&queue).await.expect("it can be watched");
    let reader = a.downgrade(&writer).await.expect("an answer").expect("it is there");
    in_time("who asks for something else", stir).await;
    a.dequeue(&reader).await.expect("it is removed");
    enqueue(&dies, "q", Kind::Member).await;
    let stir = silent_stir(&b, &queue).await;
    drop(dies);
    in_time("who dies", stir).await;
    assert_eq!(keys(&b, "q").await, Vec::<Arc<str>>::new());
    // Two who watch an empty queue do not disturb each other.
    eventually("what is left is removed", || async { directory.files().iter().all(|file| !file.starts_with("q/")) })
        .await;
    let mut stirs = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let (one, other) = tokio::join!(a.watch_queue(&queue), b.watch_queue(&queue));
        let (mut one, mut other) = (one.expect("it can be watched"), other.expect("it can be watched"));
        tokio::select! {
            () = &mut one => stirs += 1,
            () = &mut other => stirs += 1,
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
    assert!(stirs <= 2, "stirred {stirs} times while nothing happened");
}

#[tokio::test]
async fn lost_events_end_every_watch() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let entry = enqueue(&a, "q", Kind::Exclusive).await.entry;
    let mut of_entry = watch(&b, &entry).await;
    assert!(is_silent(&mut of_entry).await);
    let _stir = b.watch_queue(&name("q")).await.expect("it can be watched");
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Nothing else runs on this thread, so nobody reads what is told.
    for n in 0..=limit / 2 {
        let path = directory.path(&format!("q/{n}"));
        fs::write(&path, "").expect("it is written");
        fs::remove_file(&path).expect("it is there");
    }
    assert_eq!(in_time("the watch says that it does not know", of_entry).await, Change::Unknown);
    let removed = watch(&b, &entry).await;
    a.dequeue(&entry).await.expect("it is removed");
    assert_eq!(in_time("later ones tell", removed).await, Change::Removed);
}
