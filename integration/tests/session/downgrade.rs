//! Writers that go on as readers.

use integration::session::{ahead, dequeue, downgrade, enqueue_kind, keys, queue, read, watch, write};
use integration::{Action, Cut, Direction, Mode, PATIENCE, Proxy, When, eventually};
use lock_core::backend::{Change, Dequeued, Entry, Kind, Standing, Watched, Written};
use lock_core::{Error, Name};
use tokio::time::timeout;

use crate::{Server, open};

#[tokio::test]
async fn a_writer_reads_on_in_its_place_with_its_token_and_value() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    let queue = queue();
    let writer = enqueue_kind(&a, &queue, Kind::Write).await;
    let reader = enqueue_kind(&b, &queue, Kind::Read).await;
    let waiting = enqueue_kind(&b, &queue, Kind::Write).await;
    let seen = watch(&b, &writer.entry).await;
    let before = read(&b, &writer.entry).await.unwrap();
    assert_eq!(write(&b, &writer.entry, before.version, b"asked to let go").await, Written::Done);
    assert_eq!(timeout(PATIENCE, seen).await.unwrap(), Change::Updated);
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
    let behind = [standing(&reader.entry), standing(&mine)];
    assert_eq!(ahead(&b, &waiting.entry, 5).await.unwrap().nearest, behind);
    assert_eq!(ahead(&b, &reader.entry, 5).await.unwrap().nearest, [standing(&mine)]);

    // Again, by either name, changes nothing.
    assert_eq!(downgrade(&a, &writer.entry).await, Some(mine.clone()));
    assert_eq!(downgrade(&a, &mine).await, Some(mine.clone()));
    assert_eq!(downgrade(&b, &writer.entry).await, None, "another session's");
    assert_eq!(ahead(&a, &mine, 5).await.unwrap().nearest, []);
    assert!(matches!(a.watch(&mine).await.unwrap(), Watched::Present(_)));

    // Writing to it leaves it a reader.
    let now = read(&b, &mine).await.unwrap();
    assert_eq!(now.value, b"asked to let go");
    assert_eq!(write(&b, &mine, now.version, b"again").await, Written::Done);
    assert_eq!(read(&a, &mine).await.unwrap().value, b"again");
    assert_eq!(ahead(&b, &waiting.entry, 5).await.unwrap().nearest, behind);

    assert_eq!(dequeue(&a, &mine).await, Dequeued::Removed);
    assert_eq!(downgrade(&a, &writer.entry).await, None);
    assert_eq!(downgrade(&a, &mine).await, None);
    assert_eq!(keys(&b, &queue).await, [reader.entry.key, waiting.entry.key]);
}

/// It ends with its session, like every entry.
#[tokio::test]
async fn a_former_writer_goes_with_its_session() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    let queue = queue();
    let writer = enqueue_kind(&a, &queue, Kind::Write).await;
    let mine = downgrade(&a, &writer.entry).await.unwrap();
    let version = read(&b, &mine).await.unwrap().version;
    assert_eq!(write(&b, &mine, version, b"other").await, Written::Done);
    let removed = watch(&b, &mine).await;
    a.close().await.unwrap();
    assert_eq!(timeout(PATIENCE, removed).await, Ok(Change::Removed));
    assert!(keys(&b, &queue).await.is_empty());
}

#[tokio::test]
async fn removing_a_writer_removes_the_reader_that_it_became_and_no_other() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
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
    let server = Server::single().await.unwrap();
    let other = open(&server.endpoint(0)).await;
    let first_kind = async |queue: &Name| other.entries(queue, 1).await.ok()?.first().map(|entry| entry.kind);
    for (cut, remove) in [(Cut::Fin, false), (Cut::Rst, false), (Cut::Rst, true)] {
        let proxy = Proxy::start(server.addr(0)).await.unwrap();
        let session = open(&proxy.endpoint()).await;
        let queue = queue();
        let writer = enqueue_kind(&session, &queue, Kind::Write).await;
        let waiting = enqueue_kind(&other, &queue, Kind::Write).await;
        let request = When::Contains(b"__READ__".to_vec());
        let sent = proxy.after(Direction::ToServer, request, Action::Set(Direction::ToClient, Mode::Hold));
        let turning = tokio::spawn({
            let (session, entry) = (session.clone(), writer.entry.clone());
            async move { session.downgrade(&entry).await }
        });
        sent.fired().await.unwrap();
        let applied = || async { (first_kind(&queue).await == Some(Kind::Read)).then_some(()) };
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

/// Somebody writes to the entry all the time: no value is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_at_the_same_moment_is_kept_or_refused() {
    let server = Server::single().await.unwrap();
    let (a, b) = (open(&server.endpoint(0)).await, open(&server.endpoint(0)).await);
    for _ in 0..50 {
        let queue = queue();
        let writer = enqueue_kind(&a, &queue, Kind::Write).await.entry;
        let version = read(&b, &writer).await.unwrap().version;
        let (mine, written) = tokio::join!(downgrade(&a, &writer), write(&b, &writer, version, b"new"));
        let want: &[u8] = if written == Written::Done { b"new" } else { b"value" };
        let mine = mine.unwrap();
        assert_eq!(read(&b, &mine).await.unwrap().value, want);
        let kinds: Vec<_> = b.entries(&queue, 2).await.unwrap().iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Read], "{written:?}");
    }
}

/// Whoever reads and writes an entry on its own does not take part in what its value begins with.
#[tokio::test]
async fn values_that_look_like_marks_are_values() {
    let server = Server::single().await.unwrap();
    let session = open(&server.endpoint(0)).await;
    let queue = queue();
    let entry = enqueue_kind(&session, &queue, Kind::Write).await.entry;
    let values = [&b"__READ__"[..], b"__READ__x", b"__WRITE__", b"__WRITE____READ__x", b"__REVOKE__x", b"", b"x"];
    let listed = async |entry: &Entry, kind: Kind, value: &[u8]| {
        let first = session.entries(&queue, 1).await.unwrap().remove(0);
        assert_eq!((&first.entry, first.kind, &first.value[..]), (entry, kind, value));
        assert_eq!(read(&session, entry).await.unwrap().value, value);
    };
    for (value, next) in values.iter().zip(values.iter().cycle().skip(1)) {
        let version = read(&session, &entry).await.unwrap().version;
        assert_eq!(write(&session, &entry, version, value).await, Written::Done);
        listed(&entry, Kind::Write, value).await;
        let another = self::queue();
        let writer = enqueue_kind(&session, &another, Kind::Write).await.entry;
        let version = read(&session, &writer).await.unwrap().version;
        assert_eq!(write(&session, &writer, version, value).await, Written::Done);
        let reader = downgrade(&session, &writer).await.unwrap();
        assert_eq!(read(&session, &reader).await.unwrap().value, *value);
        let version = read(&session, &reader).await.unwrap().version;
        assert_eq!(write(&session, &reader, version, next).await, Written::Done);
        assert_eq!(read(&session, &reader).await.unwrap().value, *next);
        assert_eq!(session.entries(&another, 1).await.unwrap()[0].kind, Kind::Read);
    }
}
