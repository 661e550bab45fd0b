//! The contract of a session, on a real directory, below the client.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use common::{Directory, enqueue, eventually, fresh_id, in_time, keys, name, watch};
use lock_core::Error;
use lock_core::backend::{Backend, Change, Dequeued, Enqueue, Enqueued, Entry, Kind, Watched, Written};
use lock_file::{Access, Config, Files};
use rustix::fs::{FlockOperation, flock};

/// What a process does that is stopped in the middle of a request.
fn stop_the_store(directory: &Directory) -> File {
    let lock = File::open(directory.root()).expect("the store is in use");
    flock(&lock, FlockOperation::LockExclusive).expect("it can be locked");
    lock
}

#[tokio::test]
async fn tokens_order_the_entries_of_all_sessions_and_grow_for_ever() {
    let directory = Directory::new();
    let mut last = 0;
    for _ in 0..3 {
        let (a, b) = (directory.session().await, directory.session().await);
        let mut expected = Vec::new();
        for session in [&a, &b, &b, &a] {
            let placed = enqueue(session, "q", Kind::Exclusive).await;
            assert!(placed.token > last, "{} after {last}", placed.token);
            last = placed.token;
            expected.push(placed.entry.key);
        }
        assert_eq!(keys(&a, "q").await, expected);
        a.close().await.expect("it closes");
        b.close().await.expect("it closes");
    }
}

#[tokio::test]
async fn a_close_leaves_nothing_but_the_counter() {
    let directory = Directory::new();
    let session = directory.session().await;
    for queue in ["a", "b", "a/b"] {
        enqueue(&session, queue, Kind::Exclusive).await;
    }
    let left = enqueue(&session, "left", Kind::Exclusive).await;
    session.dequeue(&left.entry).await.expect("it is removed");
    drop(session.watch_queue(&name("watched")).await.expect("it can be watched"));
    session.close().await.expect("it closes");
    assert_eq!(directory.files(), BTreeSet::from(["%counter", "%next", "%record", "%session"].map(str::to_owned)));
    let (queue, id) = (name("a"), fresh_id());
    let request = Enqueue { queue: &queue, kind: Kind::Exclusive, id: &id, value: b"", only_if_free: false };
    assert!(matches!(session.enqueue(&request).await, Err(Error::SessionOver { .. })));
    assert!(matches!(session.renew().await, Err(Error::SessionOver { .. })));
}

#[tokio::test]
async fn a_session_that_is_dropped_is_over_and_what_it_left_is_removed() {
    let directory = Directory::new();
    let (gone, alive) = (directory.session().await, directory.session().await);
    for queue in ["a", "b"] {
        enqueue(&gone, queue, Kind::Exclusive).await;
    }
    let id = gone.id();
    assert!(alive.owner(&id).await.expect("it can be asked for").is_some());
    drop(gone);
    assert_eq!(alive.owner(&id).await.expect("it can be asked for"), None);
    assert_eq!(keys(&alive, "a").await, Vec::<Arc<str>>::new());
    let own = format!("%session/{}", alive.id());
    eventually("all of it is removed, in the other queue too", || async {
        directory.files() == BTreeSet::from(["%counter", "%next", "%record", "%session", &own].map(str::to_owned))
    })
    .await;
}

#[tokio::test]
async fn only_if_free_looks_past_the_dead() {
    let directory = Directory::new();
    let (gone, alive) = (directory.session().await, directory.session().await);
    enqueue(&gone, "q", Kind::Exclusive).await;
    let (queue, id) = (name("q"), fresh_id());
    let request = Enqueue { queue: &queue, kind: Kind::Exclusive, id: &id, value: b"", only_if_free: true };
    assert!(matches!(alive.enqueue(&request).await, Ok(Enqueued::Busy)));
    drop(gone);
    let placed = alive.enqueue(&request).await.expect("an answer");
    let Enqueued::Placed(placed) = placed else { panic!("the queue is free") };
    assert!(placed.ahead.expect("it was told").nearest.is_empty());
}

#[tokio::test]
async fn ahead_leaves_out_the_dead_and_tells_of_more() {
    let directory = Directory::new();
    let (a, gone, mine) = (directory.session().await, directory.session().await, directory.session().await);
    let first = enqueue(&a, "q", Kind::Exclusive).await;
    enqueue(&gone, "q", Kind::Exclusive).await;
    let second = enqueue(&a, "q", Kind::Exclusive).await;
    enqueue(&gone, "q", Kind::Exclusive).await;
    let own = enqueue(&mine, "q", Kind::Exclusive).await;
    enqueue(&a, "q", Kind::Exclusive).await;
    drop(gone);
    let ahead = mine.ahead(&own.entry, 1).await.expect("an answer").expect("the entry is there");
    assert_eq!(ahead.nearest.iter().map(|one| &one.entry).collect::<Vec<_>>(), [&second.entry]);
    assert!(ahead.more);
    let ahead = mine.ahead(&own.entry, 2).await.expect("an answer").expect("the entry is there");
    assert_eq!(ahead.nearest.iter().map(|one| &one.entry).collect::<Vec<_>>(), [&second.entry, &first.entry]);
    assert!(!ahead.more);
    mine.dequeue(&own.entry).await.expect("it is removed");
    assert_eq!(mine.ahead(&own.entry, 1).await.expect("an answer"), None);
}

#[tokio::test]
async fn what_others_put_there_is_ignored() {
    let directory = Directory::new();
    let session = directory.session().await;
    let mine = enqueue(&session, "q", Kind::Exclusive).await;
    fs::write(directory.path("q/notes.txt"), "mine").expect("it is written");
    fs::write(directory.path("q/00000000000000000000-1.1-0a-lock"), "of no session").expect("it is written");
    fs::create_dir(directory.path("q/00000000000000000000-1.2-0a-lock")).expect("it is made");
    std::os::unix::fs::symlink("/etc/passwd", directory.path("%session/1.3")).expect("it is made");
    assert_eq!(keys(&session, "q").await, std::slice::from_ref(&mine.entry.key));
    assert_eq!(session.ahead(&mine.entry, 1).await.expect("an answer").expect("it is there").nearest, []);
    for key in ["../etc/passwd", "q/../../etc/passwd", "%session/1.3", "", "q"] {
        let entry = Entry { key: key.into(), incarnation: 0 };
        assert_eq!(session.dequeue(&entry).await.expect("an answer"), Dequeued::Absent);
        assert_eq!(session.read(&entry).await.expect("an answer"), None);
        assert!(matches!(session.watch(&entry).await, Ok(Watched::Gone)));
    }
    assert_eq!(session.owner("../../etc/passwd").await.expect("an answer"), None);
}

#[tokio::test]
async fn the_names_are_those_of_queues_in_which_somebody_lives() {
    let directory = Directory::new();
    let (gone, alive) = (directory.session().await, directory.session().await);
    for n in (0..100).rev() {
        enqueue(&alive, &format!("many/{n:03}"), Kind::Exclusive).await;
    }
    for queue in ["both", "dead"] {
        enqueue(&gone, queue, Kind::Exclusive).await;
    }
    enqueue(&alive, "both", Kind::Exclusive).await;
    enqueue(&alive, "..", Kind::Exclusive).await;
    let left = enqueue(&alive, "left", Kind::Exclusive).await.entry;
    alive.dequeue(&left).await.expect("it is removed");
    drop(gone);
    fs::write(directory.path("notes.txt"), "mine").expect("it is written");
    fs::create_dir(directory.path("a%2fb")).expect("it is made");
    let names = async |prefix: &str| -> Vec<String> {
        let names = alive.queues(prefix).await.expect("they can be listed");
        names.iter().map(|name| name.as_str().to_owned()).collect()
    };
    let many: Vec<String> = (0..100).map(|n| format!("many/{n:03}")).collect();
    assert_eq!(names("many/").await, many);
    assert_eq!(names("many/00").await.len(), 10);
    assert_eq!(names("").await, [vec!["..".to_owned(), "both".to_owned()], many].concat());
    assert_eq!(names("%").await, Vec::<String>::new());
}

#[tokio::test]
async fn values_are_replaced_whole_and_only_in_their_version() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let entry = enqueue(&a, "q", Kind::Candidate).await.entry;
    let record = a.record(&name("q"));
    for (place, first) in [(&entry, &b"value"[..]), (&record, b"")] {
        let before = b.read(place).await.expect("an answer").expect("it is there");
        assert_eq!(before.value, first);
        let long = vec![b'x'; 64 << 10];
        assert_eq!(b.write(place, before.version, &long).await.expect("an answer"), Written::Done);
        assert_eq!(a.write(place, before.version, b"late").await.expect("an answer"), Written::Conflict);
        let after = a.read(place).await.expect("an answer").expect("it is there");
        assert!(after.value == long && after.version > before.version);
        assert_eq!(a.write(place, after.version, b"").await.expect("an answer"), Written::Done);
        assert_eq!(
            a.write(place, before.version, b"late").await.expect("an answer"),
            Written::Conflict,
            "no version comes back"
        );
        assert_eq!(a.write(place, u64::MAX, b"x").await.expect("an answer"), Written::Conflict);
    }
    assert_eq!(keys(&b, "q").await, std::slice::from_ref(&entry.key), "it kept its place");
    a.dequeue(&entry).await.expect("it is removed");
    assert_eq!(b.write(&entry, 3, b"too late").await.expect("an answer"), Written::Conflict);
    assert_eq!(b.read(&entry).await.expect("an answer"), None);
    assert_eq!(keys(&b, "q").await, Vec::<Arc<str>>::new());
}

#[tokio::test]
async fn a_writer_turns_reader_in_its_place() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let writer = enqueue(&a, "q", Kind::Write).await;
    let waiter = enqueue(&b, "q", Kind::Read).await;
    let told = watch(&b, &writer.entry).await;
    let reader = a.downgrade(&writer.entry).await.expect("an answer").expect("it is there");
    assert_eq!(in_time("the watch tells", told).await, Change::Updated);
    for again in [&writer.entry, &reader] {
        assert_eq!(a.downgrade(again).await.expect("an answer").as_ref(), Some(&reader));
    }
    assert_eq!(b.downgrade(&writer.entry).await.expect("an answer"), None, "another session's");
    let entries = b.entries(&name("q"), usize::MAX).await.expect("it can be listed");
    assert_eq!((entries[0].kind, entries[0].token, &entries[0].entry), (Kind::Read, Some(writer.token), &reader));
    let ahead = b.ahead(&waiter.entry, 1).await.expect("an answer").expect("it is there");
    assert_eq!(ahead.nearest[0].kind, Kind::Read);
    assert_eq!(a.read(&writer.entry).await.expect("an answer").expect("found by its old name").value, b"value");
    let told = watch(&b, &writer.entry).await;
    assert_eq!(a.dequeue(&writer.entry).await.expect("an answer"), Dequeued::Removed);
    assert_eq!(in_time("the watch tells", told).await, Change::Removed);
    assert_eq!(a.downgrade(&writer.entry).await.expect("an answer"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_at_the_same_moment_as_a_downgrade_is_kept_or_refused() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    for _ in 0..50 {
        let writer = enqueue(&a, "q", Kind::Write).await.entry;
        let (reader, written) = tokio::join!(a.downgrade(&writer), b.write(&writer, 1, b"new"));
        let (reader, written) = (reader.expect("an answer").expect("it is there"), written.expect("an answer"));
        let expected: &[u8] = if written == Written::Done { b"new" } else { b"value" };
        assert_eq!(a.read(&reader).await.expect("an answer").expect("it is there").value, expected);
        assert_eq!(keys(&b, "q").await, std::slice::from_ref(&reader.key));
        a.dequeue(&reader).await.expect("it is removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_of_many_writers_is_lost() {
    let directory = Directory::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let session = directory.session().await;
        tasks.spawn(async move {
            let record = session.record(&name("q"));
            for _ in 0..10 {
                loop {
                    let mut content = session.read(&record).await.expect("an answer").expect("always there");
                    content.value.push(b'x');
                    let written = session.write(&record, content.version, &content.value).await;
                    if written.expect("an answer") == Written::Done {
                        break;
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    let session = directory.session().await;
    let content = session.read(&session.record(&name("q"))).await.expect("an answer").expect("always there");
    assert_eq!(content.value.len(), 40);
}

#[tokio::test]
async fn each_kind_is_told_to_those_behind_and_found_again() {
    let directory = Directory::new();
    let session = directory.session().await;
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
    let mut last = None;
    for kind in kinds {
        let (queue, id) = (name("q"), fresh_id());
        let request = Enqueue { queue: &queue, kind, id: &id, value: b"", only_if_free: false };
        let Enqueued::Placed(placed) = session.enqueue(&request).await.expect("an answer") else { panic!("busy") };
        let adopted = session.adopt(&request).await.expect("an answer").expect("it is there");
        assert_eq!((&adopted.entry, adopted.token), (&placed.entry, placed.token));
        last = Some(placed.entry);
    }
    let ahead = session.ahead(&last.expect("the last one"), usize::MAX).await.expect("an answer");
    let ahead = ahead.expect("it is there").nearest;
    assert!(ahead.iter().map(|other| other.kind).eq(kinds[..8].iter().rev().copied()));
    let listed = session.entries(&name("q"), usize::MAX).await.expect("it can be listed");
    assert!(listed.iter().map(|entry| entry.kind).eq(kinds));
    for limit in [1, 2, 9, 10] {
        assert_eq!(session.entries(&name("q"), limit).await.expect("it can be listed"), listed[..limit.min(9)]);
    }
}

#[tokio::test]
async fn a_process_that_was_stopped_in_a_request_holds_up_requests_and_no_renewals() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let entry = enqueue(&a, "q", Kind::Exclusive).await.entry;
    let stopped = stop_the_store(&directory);
    let (queue, id) = (name("q"), fresh_id());
    let request = Enqueue { queue: &queue, kind: Kind::Exclusive, id: &id, value: b"", only_if_free: false };
    let began = Instant::now();
    let (enqueued, listed) = tokio::join!(b.enqueue(&request), b.entries(&queue, 1));
    assert!(matches!(enqueued, Err(Error::Unavailable { .. })), "{enqueued:?}");
    assert!(matches!(listed, Err(Error::Unavailable { .. })), "{listed:?}");
    assert!(began.elapsed() < b.ttl() / 2, "took {:?}", began.elapsed());
    assert_eq!(a.renew().await.expect("renewed"), a.ttl());
    drop(stopped);
    assert!(b.adopt(&request).await.expect("an answer").is_none());
    // Now the lost request must never be applied, and a new one is.
    assert_eq!(keys(&b, "q").await, std::slice::from_ref(&entry.key));
    assert!(matches!(b.enqueue(&request).await, Ok(Enqueued::Placed(_))));
    assert!(b.adopt(&request).await.expect("an answer").is_some());
    assert_eq!(keys(&a, "q").await.len(), 2);
}

#[tokio::test]
async fn a_session_whose_store_stands_still_can_be_closed() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let entry = enqueue(&a, "q", Kind::Exclusive).await.entry;
    let removed = watch(&b, &entry).await;
    let stopped = stop_the_store(&directory);
    let closed = a.close().await;
    assert!(matches!(closed, Err(Error::Unavailable { .. })), "{closed:?}");
    assert_eq!(in_time("others need no answer from the store", removed).await, Change::Removed);
    drop(stopped);
    assert_eq!(keys(&b, "q").await, Vec::<Arc<str>>::new());
}

#[tokio::test]
async fn removed_numbers_and_a_removed_store_are_noticed() {
    let directory = Directory::new();
    let (a, b) = (directory.session().await, directory.session().await);
    let first = enqueue(&a, "q", Kind::Exclusive).await;
    fs::remove_file(directory.path("%next")).expect("it is there");
    let second = enqueue(&b, "q", Kind::Exclusive).await;
    let third = enqueue(&a, "q", Kind::Exclusive).await;
    assert!(first.token < second.token && second.token < third.token);
    fs::remove_dir_all(directory.root()).expect("it is there");
    for session in [&a, &b] {
        assert!(matches!(session.renew().await, Err(Error::SessionOver { .. })));
    }
    let again = directory.session().await;
    assert_eq!(keys(&again, "q").await, Vec::<Arc<str>>::new());
}

#[tokio::test]
async fn a_place_that_cannot_be_a_store_is_refused_by_name() {
    let directory = Directory::new();
    let file = directory.path("file");
    fs::write(&file, "").expect("it is written");
    for path in [file.clone(), file.join("below"), "/proc/locks".into()] {
        let error = Files::new(Config::new(&path)).expect("a valid setting").open(b"").await.unwrap_err();
        let named = error.to_string().contains(&path.display().to_string());
        assert!(matches!(error, Error::InvalidConfig { .. }) && named, "{error}");
    }
}

#[tokio::test]
async fn a_directory_that_holds_other_files_is_refused_and_keeps_them() {
    let parent = Directory::new();
    for other in ["inbox", "notes.txt", ".hidden"] {
        let root = parent.path(&format!("of {other}"));
        fs::create_dir(&root).expect("it is made");
        fs::create_dir(root.join(other)).expect("it is made");
        let error = Files::new(Config::new(&root)).expect("a valid setting").open(b"").await.unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }) && error.to_string().contains("other files"), "{error}");
        assert_eq!(fs::read_dir(&root).expect("it is there").count(), 1);
        Files::new(Config::new(root.join("locks"))).expect("a valid setting").open(b"").await.expect("beside it");
    }
}

#[tokio::test]
async fn what_cannot_be_removed_keeps_nothing_else() {
    let directory = Directory::new();
    let (gone, alive) = (directory.session().await, directory.session().await);
    let bad = directory.path(&format!("q/00000000000000000000-{}-0a-lock", gone.id()));
    enqueue(&gone, "q", Kind::Exclusive).await;
    fs::create_dir_all(bad.join("file")).expect("it is made");
    fs::write(directory.path("notes.txt"), "mine").expect("it is written");
    let dead = directory.path("%session/1.3");
    std::os::unix::fs::symlink("/etc/passwd", &dead).expect("it is made");
    let file = directory.path(&format!("%session/{}", gone.id()));
    drop(gone);
    let later = directory.session().await;
    assert_eq!(keys(&later, "q").await, Vec::<Arc<str>>::new());
    let mine = enqueue(&alive, "q", Kind::Exclusive).await.entry;
    eventually("all else is removed", || async {
        let left = fs::read_dir(directory.path("q")).expect("it is there").count();
        left == 2 && !file.exists() && fs::symlink_metadata(&dead).is_err()
    })
    .await;
    assert_eq!(keys(&later, "q").await, [mine.key]);
    assert!(bad.exists());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[tokio::test]
async fn files_are_for_the_user_alone_or_for_the_group() {
    for (access, directories, files) in [(Access::Owner, 0o700, 0o600), (Access::Group, 0o2770, 0o660)] {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let root = parent.path().join("a/locks");
        let mut config = Config::new(&root);
        config.access = access;
        let session = Files::new(config).expect("valid").open(b"owner").await.expect("it opens");
        let entry = enqueue(&session, "q", Kind::Exclusive).await.entry;
        session.write(&entry, 1, b"new").await.expect("it is written");
        session.write(&session.record(&name("q")), 0, b"new").await.expect("it is written");
        for directory in ["", "q", "%session", "%record"] {
            assert_eq!(mode(&root.join(directory)), directories, "{access:?} {directory:?}");
        }
        let own = format!("%session/{}", session.id());
        for file in [&*own, &entry.key, "%record/q", "%next", "%counter"] {
            assert_eq!(mode(&root.join(file)), files, "{access:?} {file:?}");
        }
    }
}
