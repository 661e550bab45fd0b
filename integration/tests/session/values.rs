//! Values of entries and records.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use integration::session::{Attempt, dequeue, enqueue, keys, placed, queue, read, retried, watch, write};
use integration::{Action, Cut, Direction, Mode, PATIENCE, Proxy, When, eventually};
use lock_core::Error;
use lock_core::backend::{Change, Content, Dequeued, Entry, Kind, Session, Written};
use tokio::time::timeout;

use crate::{Server, open};

async fn version(session: &Arc<dyn Session>, entry: &Entry) -> u64 {
    read(session, entry).await.unwrap().version
}

#[tokio::test]
async fn an_entry_is_written_by_anybody_and_keeps_its_place_and_owner() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    for kind in [Kind::Exclusive, Kind::Write, Kind::Candidate] {
        let queue = queue();
        let session = open(&server.endpoint(0)).await;
        let placed = async |session| placed(Attempt::of_kind(&queue, kind).enqueue(session).await);
        let (first, second) = (placed(&session).await, placed(&b).await);
        let before = read(&b, &first.entry).await.unwrap();
        assert_eq!(before.value, b"value");
        assert_eq!(write(&b, &first.entry, before.version, b"other").await, Written::Done);
        let after = read(&a, &first.entry).await.unwrap();
        assert_eq!((&after.value[..], after.version > before.version), (&b"other"[..], true));
        assert_eq!(write(&b, &first.entry, before.version, b"late").await, Written::Conflict);
        for never in [0, after.version + 1, u64::from(u32::MAX), 1 << 40, u64::MAX] {
            let answer = b.write(&first.entry, never, b"late").await;
            assert!(matches!(answer, Ok(Written::Conflict) | Err(Error::Refused { .. })), "{never}: {answer:?}");
        }
        assert_eq!(read(&b, &first.entry).await.unwrap(), after);

        let entries = a.entries(&queue, usize::MAX).await.unwrap();
        assert_eq!((&entries[0].value[..], entries[0].kind), (&b"other"[..], kind));
        assert_eq!((entries[0].token, &entries[0].session), (Some(first.token), &session.id()));
        session.close().await.unwrap();
        assert_eq!(keys(&b, &queue).await, [second.entry.key]);
        assert_eq!(read(&b, &first.entry).await, None);
        assert_eq!(write(&b, &first.entry, after.version, b"late").await, Written::Conflict);
        assert_eq!(write(&b, &first.entry, 0, b"late").await, Written::Conflict);
    }
}

/// More than fit into one request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_entries_those_that_changed_are_told() {
    const N: usize = 450;
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    let queue = queue();
    let mut seen = Vec::new();
    for n in 0..N {
        let kind = if n % 2 == 0 { Kind::Exclusive } else { Kind::Write };
        let entry = placed(Attempt::of_kind(&queue, kind).enqueue(&a).await).entry;
        let version = version(&a, &entry).await;
        seen.push((entry, version));
    }
    let changed = async || retried("look after entries", || a.changed(&seen)).await;
    assert_eq!(changed().await, []);
    // At the edges of what goes into one request, and in the middle.
    let (removed, written) = ([0, 99, 100, 199, 250, N - 1], [1, 101, 200, 399]);
    for at in removed {
        assert_eq!(dequeue(&b, &seen[at].0).await, Dequeued::Removed);
    }
    for at in written {
        assert_eq!(write(&b, &seen[at].0, seen[at].1, b"other").await, Written::Done);
    }
    let told: HashSet<_> = changed().await.into_iter().collect();
    assert_eq!(told, removed.into_iter().chain(written).map(|at| seen[at].0.clone()).collect());
    assert_eq!(a.changed(&[]).await.unwrap(), []);
    // A key that came again.
    let again = placed(Attempt::new(&queue).enqueue(&a).await).entry;
    let (entry, version) = &seen[0];
    assert_ne!(again, *entry);
    assert_eq!(a.changed(&[(entry.clone(), *version)]).await.unwrap(), std::slice::from_ref(entry));
}

#[tokio::test]
async fn a_record_outlives_its_writer_and_no_version_comes_back() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    let queue = queue();
    let record = a.record(&queue);
    assert_eq!(read(&b, &record).await, Some(Content::default()));
    assert_eq!(write(&a, &record, 1, b"early").await, Written::Conflict);
    assert_eq!(write(&a, &record, 0, b"one").await, Written::Done);
    assert_eq!(write(&b, &record, 0, b"late").await, Written::Conflict);
    let one = read(&b, &record).await.unwrap();
    assert_eq!(one.value, b"one");
    a.close().await.unwrap();
    assert_eq!(read(&b, &record).await.unwrap(), one);

    // Empty again, and what was delayed since does not fit.
    assert_eq!(write(&b, &record, one.version, b"").await, Written::Done);
    let empty = read(&b, &record).await.unwrap();
    assert!(empty.value.is_empty());
    for late in [0, one.version] {
        assert_eq!(write(&b, &record, late, b"late").await, Written::Conflict);
    }
    assert_eq!(write(&b, &record, empty.version, &[7; 64 * 1024]).await, Written::Done);
    assert_eq!(read(&b, &record).await.unwrap().value.len(), 64 * 1024);

    // Not in the way of the queue, nor of others' records.
    assert!(keys(&b, &queue).await.is_empty());
    assert_eq!(read(&b, &b.record(&self::queue())).await, Some(Content::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_of_many_writers_is_lost() {
    let server = Server::single().await.unwrap();
    let queue = queue();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (session, queue) = (open(&server.endpoint(0)).await, queue.clone());
        tasks.spawn(async move {
            let record = session.record(&queue);
            for _ in 0..25 {
                loop {
                    let Content { mut value, version } = read(&session, &record).await.unwrap();
                    value.push(b'x');
                    if write(&session, &record, version, &value).await == Written::Done {
                        break;
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    let session = open(&server.endpoint(0)).await;
    assert_eq!(read(&session, &session.record(&queue)).await.unwrap().value.len(), 100);
}

/// The answer is lost, so it may or may not have been applied; once or not at all.
#[tokio::test]
async fn a_write_without_an_answer_is_applied_once_and_repeated_in_vain() {
    let server = Server::single().await.unwrap();
    let other = open(&server.endpoint(0)).await;
    // Where the store has a directory of records, it is made with the first one, in requests of its own.
    write(&other, &other.record(&queue()), 0, b"x").await;
    for cut in [Cut::Fin, Cut::Rst] {
        let proxy = Proxy::start(server.addr(0)).await.unwrap();
        let session = open(&proxy.endpoint()).await;
        let queue = queue();
        let entry = enqueue(&session, &queue).await.entry;
        for place in [entry, session.record(&queue)] {
            let before = version(&session, &place).await;
            let request = When::Contains(b"applied".to_vec());
            let sent = proxy.after(Direction::ToServer, request, Action::Set(Direction::ToClient, Mode::Hold));
            let writing = tokio::spawn({
                let (session, place) = (session.clone(), place.clone());
                async move { session.write(&place, before, b"applied").await }
            });
            sent.fired().await.unwrap();
            let applied = || async { (version(&other, &place).await > before).then_some(()) };
            eventually("the write to be applied", PATIENCE, applied).await.unwrap();
            proxy.cut(cut).await.unwrap();
            let answer = writing.await.unwrap();
            assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
            proxy.heal().await.unwrap();
            let again = retried("write", || session.write(&place, before, b"again")).await;
            assert_eq!(again, Written::Conflict);
            assert_eq!(read(&other, &place).await.unwrap().value, b"applied");
        }
    }
}

/// A read on one server sees what was written on another before it began.
#[tokio::test]
async fn a_read_sees_what_another_server_was_told_before() {
    let server = Server::cluster(3).await.unwrap();
    let sessions = [open(&server.endpoint(0)).await, open(&server.endpoint(1)).await, open(&server.endpoint(2)).await];
    let queue = queue();
    let record = sessions[0].record(&queue);
    for round in 0..60 {
        let writer = &sessions[round % 3];
        let value = round.to_string().into_bytes();
        assert_eq!(write(writer, &record, version(writer, &record).await, &value).await, Written::Done);
        assert_eq!(read(&sessions[(round + 1) % 3], &record).await.unwrap().value, value);
        let entry = enqueue(writer, &queue).await.entry;
        assert_eq!(keys(&sessions[(round + 2) % 3], &queue).await, std::slice::from_ref(&entry.key));
        assert!(read(&sessions[(round + 1) % 3], &entry).await.is_some());
        dequeue(writer, &entry).await;
    }
}

#[tokio::test]
async fn a_record_is_watched_before_and_after_it_is_first_written() {
    let server = Server::single().await.unwrap();
    let proxy = Proxy::start(server.addr(0)).await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&proxy.endpoint()).await);
    let record = a.record(&queue());
    for round in 0..4 {
        let mut changed = watch(&b, &record).await;
        assert!(timeout(Duration::from_millis(150), &mut changed).await.is_err());
        assert_eq!(write(&a, &record, version(&a, &record).await, b"x").await, Written::Done);
        assert_eq!(timeout(PATIENCE, changed).await, Ok(Change::Updated), "{round}");
    }
    // Over a reconnect, too: of a record that is there and of one that is not.
    for record in [record, a.record(&queue())] {
        let changed = watch(&b, &record).await;
        proxy.refuse(true).await.unwrap();
        proxy.cut(Cut::Rst).await.unwrap();
        assert_eq!(write(&a, &record, version(&a, &record).await, b"y").await, Written::Done);
        proxy.heal().await.unwrap();
        timeout(PATIENCE, changed).await.unwrap();
    }
}

#[tokio::test]
async fn each_kind_is_told_to_those_behind_and_found_again() {
    let server = Server::single().await.unwrap();
    let session = open(&server.endpoint(0)).await;
    let queue = queue();
    let kinds = [
        Kind::Exclusive,
        Kind::Read,
        Kind::Write,
        Kind::Permits(1),
        Kind::Permits(u32::MAX),
        Kind::Candidate,
        Kind::Member,
        Kind::Party,
        Kind::Sleeper,
    ];
    let mut entries = Vec::new();
    for kind in kinds {
        let attempt = Attempt::of_kind(&queue, kind);
        let placed = placed(attempt.enqueue(&session).await);
        assert_eq!(attempt.adopt(&session).await.unwrap().entry, placed.entry);
        entries.push(placed.entry);
    }
    let last = entries.last().unwrap();
    let ahead = session.ahead(last, usize::MAX).await.unwrap().unwrap();
    assert!(ahead.nearest.iter().map(|other| other.kind).eq(kinds[..8].iter().rev().copied()));
    let listed = session.entries(&queue, usize::MAX).await.unwrap();
    assert!(listed.iter().map(|entry| entry.kind).eq(kinds));
    for limit in [1, 2, 8, 9, 10] {
        let first = session.entries(&queue, limit).await.unwrap();
        assert_eq!(first, listed[..limit.min(9)], "limit {limit}");
    }
}
