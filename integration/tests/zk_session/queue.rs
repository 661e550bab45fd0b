//! The queue without faults of the network: order, tokens, foreign nodes, directories that come and go.

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use integration::{PATIENCE, ZooKeeper, eventually};
use lock_core::Name;
use lock_core::backend::{Ahead, Change, Dequeued, Enqueued, Kind, Watched};
use tokio::task::JoinSet;

use crate::{Attempt, OWNER, ahead, dequeue, enqueue, keys, mutex, open, placed, queue, retried, single, until_gone};

#[tokio::test]
async fn entries_queue_in_order_and_tell_who_is_ahead() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (a, b) = (open(&zookeeper.endpoint(0)).await, open(&zookeeper.endpoint(0)).await);
    let queue = queue();
    let first = enqueue(&a, &queue).await;
    assert_eq!(first.ahead, Some(Ahead::default()));
    let second = enqueue(&b, &queue).await;
    assert_eq!(second.ahead, Some(Ahead { nearest: vec![mutex(&first.entry)], more: false }));
    let third = enqueue(&a, &queue).await;
    assert_eq!(third.ahead.as_ref().unwrap().nearest, [mutex(&second.entry), mutex(&first.entry)]);
    assert!(first.token < second.token && second.token < third.token);

    let nearest = ahead(&a, &third.entry, 1).await.unwrap();
    assert_eq!(nearest, Ahead { nearest: vec![mutex(&second.entry)], more: true });
    let entries = b.entries(&queue, usize::MAX).await.unwrap();
    assert_eq!(entries.iter().map(|e| &e.entry).collect::<Vec<_>>(), [&first.entry, &second.entry, &third.entry]);
    assert_eq!(entries.iter().map(|e| e.token.unwrap()).collect::<Vec<_>>(), [first.token, second.token, third.token]);
    assert_eq!(entries.iter().map(|e| e.session.clone()).collect::<Vec<_>>(), [a.id(), b.id(), a.id()]);
    assert!(entries.iter().all(|e| e.value == b"value"));

    assert_eq!(dequeue(&b, &second.entry).await, Dequeued::Removed);
    assert_eq!(dequeue(&b, &second.entry).await, Dequeued::Absent);
    assert_eq!(ahead(&b, &second.entry, 1).await, None);
    assert_eq!(ahead(&a, &third.entry, 5).await.unwrap().nearest, [mutex(&first.entry)]);
    assert!(matches!(b.watch(&second.entry).await.unwrap(), Watched::Gone));
}

#[tokio::test]
async fn a_try_leaves_nothing_behind_a_holder_and_an_entry_in_a_free_queue() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let queue = queue();
    let attempt = || Attempt::try_only(&queue);
    let holder = placed(attempt().enqueue(&session).await);
    for _ in 0..20 {
        assert!(matches!(attempt().enqueue(&session).await, Ok(Enqueued::Busy)));
    }
    assert_eq!(keys(&session, &queue).await, from_ref(&holder.entry.key));
    dequeue(&session, &holder.entry).await;
    let next = placed(attempt().enqueue(&session).await);
    assert_eq!(next.ahead, Some(Ahead::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_tasks_of_one_session_have_ten_places() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let queue = queue();
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let (session, queue) = (session.clone(), queue.clone());
        tasks.spawn(async move { enqueue(&session, &queue).await });
    }
    let mut all = tasks.join_all().await;
    all.sort_by_key(|placed| placed.token);
    let in_order: Vec<_> = all.iter().map(|placed| placed.entry.key.clone()).collect();
    assert_eq!(keys(&session, &queue).await, in_order);
    for (i, placed) in all.iter().enumerate() {
        let Ahead { nearest, more } = ahead(&session, &placed.entry, 20).await.unwrap();
        assert_eq!((nearest.len(), more), (i, false));
        // What was ahead at the time of the enqueue is what is ahead now.
        if let Some(told) = &placed.ahead {
            assert_eq!(nearest[..nearest.len().min(told.nearest.len())], told.nearest[..]);
        }
    }
    assert!(all.iter().any(|placed| placed.ahead.is_some()), "one lists the queue for all");
}

#[tokio::test]
async fn nodes_of_other_clients_count_exactly_when_those_count_them() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let (admin, queue) = (zookeeper.admin().await.unwrap(), queue());
    let first = enqueue(&session, &queue).await;
    let (directory, _) = first.entry.key.rsplit_once('/').unwrap();
    for name in [
        "_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000100",
        "_c_0123456789abcdef0123456789abcdef-lock-0000000101",
        "0123456789abcdef0123456789abcdef__lock__0000000102",
        "0123456789abcdef0123456789abcdef__rlock__0000000103",
        "_c_01234567-89ab-cdef-0123-456789abcdef-__READ__0000000104",
        "_c_01234567-89ab-cdef-0123-456789abcdef-__WRIT__0000000104",
        "_c_01234567-89ab-cdef-0123-456789abcdef-latch-0000000105",
        "_c_01234567-89ab-cdef-0123-456789abcdef-permits3-0000000106",
        "ignored",
        "größe",
        "-lock-",
        "x-lock-12",
        "x-lease-0000000001",
        "x-permits0-0000000001",
        "__lock__00000000é",
        "x-lock-9999999999",
    ] {
        admin.create(&format!("{directory}/{name}"), b"").await.unwrap();
    }
    let entries = session.entries(&queue, usize::MAX).await.unwrap();
    let seen: Vec<_> = entries[1..].iter().map(|e| (e.entry.key.rsplit_once('/').unwrap().1, e.kind)).collect();
    // A writer of Curator makes the read node with its own number while its write node is there.
    let want = [
        ("_c_01234567-89ab-cdef-0123-456789abcdef-lock-0000000100", Kind::Exclusive),
        ("_c_0123456789abcdef0123456789abcdef-lock-0000000101", Kind::Exclusive),
        ("0123456789abcdef0123456789abcdef__lock__0000000102", Kind::Exclusive),
        ("0123456789abcdef0123456789abcdef__rlock__0000000103", Kind::Read),
        ("_c_01234567-89ab-cdef-0123-456789abcdef-__WRIT__0000000104", Kind::Write),
        ("_c_01234567-89ab-cdef-0123-456789abcdef-__READ__0000000104", Kind::Read),
        ("_c_01234567-89ab-cdef-0123-456789abcdef-latch-0000000105", Kind::Candidate),
        ("_c_01234567-89ab-cdef-0123-456789abcdef-permits3-0000000106", Kind::Permits(3)),
    ];
    assert_eq!(seen, want);
    assert_eq!(entries[1].session, "0x0");
    for limit in 0..12 {
        assert_eq!(session.entries(&queue, limit).await.unwrap(), entries[..limit.min(entries.len())]);
    }

    // Its number is that of the children created so far, hence below those made up above.
    let mine = enqueue(&session, &queue).await;
    assert_eq!(mine.ahead.unwrap().nearest, [mutex(&first.entry)]);
    assert_eq!(ahead(&session, &mine.entry, 8).await.unwrap().nearest, [mutex(&first.entry)]);
    let try_only = Attempt::try_only(&queue);
    assert!(matches!(try_only.enqueue(&session).await, Ok(Enqueued::Busy)));
}

#[tokio::test]
async fn names_stay_one_segment_whatever_they_contain() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    for name in [
        "a",
        "a/b",
        "a\0b",
        ".",
        "..",
        "%session",
        "%25session",
        "größe 🔒",
        "\u{e000}\u{fff0}\u{7f}",
        "x-lock-0000000001",
    ] {
        let name = Name::new(name).unwrap();
        let placed = enqueue(&session, &name).await;
        assert_eq!(keys(&session, &name).await, from_ref(&placed.entry.key), "{name}");
    }
}

/// The directory is deleted at each step.
#[tokio::test]
async fn a_deleted_directory_is_made_again_and_its_entries_are_gone() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let (admin, queue) = (zookeeper.admin().await.unwrap(), queue());
    assert_eq!(keys(&session, &queue).await, Vec::<Arc<str>>::new());
    let mut last = 0;
    for _ in 0..3 {
        let mine = enqueue(&session, &queue).await;
        // The sequence starts again with the directory; tokens do not.
        assert!(mine.entry.key.ends_with("-lock-0000000000") && mine.token > last, "{mine:?}");
        last = mine.token;
        let removal = crate::watch(&session, &mine.entry).await;
        let (directory, name) = mine.entry.key.rsplit_once('/').unwrap();
        admin.delete(&format!("{directory}/{name}")).await.unwrap();
        admin.delete(directory).await.unwrap();
        assert_eq!(removal.await, Change::Removed);
        assert_eq!(ahead(&session, &mine.entry, 1).await, None);
        assert!(matches!(session.watch(&mine.entry).await.unwrap(), Watched::Gone));
        assert_eq!(dequeue(&session, &mine.entry).await, Dequeued::Absent);
        assert!(session.adopt(&Attempt::new(&queue).request()).await.unwrap().is_none());
    }
}

/// The directory is deleted whenever it is empty, faster than any server reaps containers.
#[tokio::test(flavor = "multi_thread")]
async fn enqueues_survive_a_directory_that_is_deleted_all_the_time() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let queue = queue();
    let admin = zookeeper.admin().await.unwrap();
    let directory = format!("/locks/{}", queue.segment());
    let reaper = tokio::spawn(async move {
        let mut reaped = 0;
        loop {
            match admin.client().delete(&directory, None).await {
                Ok(()) => reaped += 1,
                Err(zookeeper_client::Error::NoNode | zookeeper_client::Error::NotEmpty) => {}
                Err(error) => return Err::<(), _>((reaped, error)),
            }
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..100 {
        let attempt = Attempt::new(&queue);
        let mine = match attempt.enqueue(&session).await {
            Err(lock_core::Error::Unavailable { .. }) => match attempt.adopt(&session).await {
                Some(placed) => placed,
                None => continue,
            },
            answer => placed(answer),
        };
        assert_eq!(ahead(&session, &mine.entry, 1).await, Some(Ahead::default()));
        assert_eq!(dequeue(&session, &mine.entry).await, Dequeued::Removed);
    }
    assert!(!reaper.is_finished());
    reaper.abort();
}

#[tokio::test]
async fn directories_are_containers_that_the_server_removes_when_empty() {
    let zookeeper = single(&["-Dznode.container.checkIntervalMs=50"]).await;
    let session = open(&zookeeper.endpoint(0)).await;
    let admin = zookeeper.admin().await.unwrap();
    let queue = queue();
    let directory = format!("/locks/{}", queue.segment());
    for _ in 0..3 {
        let mine = enqueue(&session, &queue).await;
        dequeue(&session, &mine.entry).await;
        let gone = || async { admin.client().check_stat(&directory).await.ok()?.is_none().then_some(()) };
        eventually("the server to remove the directory", PATIENCE, gone).await.unwrap();
    }
}

#[tokio::test]
async fn closing_removes_everything_at_once_and_ends_the_session_for_all() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let admin = zookeeper.admin().await.unwrap();
    let queue = queue();
    let mine = enqueue(&session, &queue).await;
    assert_eq!(admin.children("/locks/%session").await.unwrap(), [session.id()]);
    assert_eq!(admin.data(&format!("/locks/%session/{}", session.id())).await.unwrap().unwrap(), OWNER);
    let other = open(&zookeeper.endpoint(0)).await;
    let others = enqueue(&other, &queue).await;
    let busy: Vec<_> = (0..20)
        .map(|_| {
            let (session, attempt) = (session.clone(), Attempt::new(&queue));
            tokio::spawn(async move { attempt.enqueue(&session).await })
        })
        .collect();
    let removal = crate::watch(&session, &others.entry).await;

    session.close().await.unwrap();
    // Without any wait: the store has answered.
    assert_eq!(admin.children("/locks/%session").await.unwrap(), [other.id()]);
    assert!(!zookeeper.dump().await.unwrap().contains(&session.id()));
    assert_eq!(keys(&other, &queue).await, [others.entry.key]);
    for task in busy {
        let answer = task.await.unwrap();
        assert!(matches!(
            answer,
            Ok(_) | Err(lock_core::Error::Unavailable { .. } | lock_core::Error::SessionOver { .. })
        ));
    }
    assert_eq!(removal.await, Change::Unknown);
    let over = |answer: Result<(), lock_core::Error>| matches!(answer, Err(lock_core::Error::SessionOver { .. }));
    assert!(over(session.renew().await.map(drop)));
    assert!(over(session.dequeue(&mine.entry).await.map(drop)));
    assert!(over(session.watch(&mine.entry).await.map(drop)));
    session.close().await.unwrap();
}

#[tokio::test]
async fn a_dropped_session_ends_in_the_store_too() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let (id, queue) = (session.id(), queue());
    let mine = enqueue(&session, &queue).await;
    let removal = crate::watch(&session, &mine.entry).await;
    drop(session);
    until_gone(&zookeeper, &id, Duration::from_secs(2)).await;
    assert_eq!(removal.await, Change::Unknown);
}

#[tokio::test]
async fn a_session_whose_node_was_deleted_makes_it_again() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let session = open(&zookeeper.endpoint(0)).await;
    let admin = zookeeper.admin().await.unwrap();
    let mine = enqueue(&session, &queue()).await;
    let node = format!("/locks/%session/{}", session.id());
    admin.delete(&node).await.unwrap();
    admin.delete("/locks/%session").await.unwrap();
    assert!(retried("renew", || session.renew()).await > Duration::ZERO);
    let nodes = admin.children("/locks/%session").await.unwrap();
    assert!(nodes.len() == 1 && nodes[0].starts_with(&session.id()), "{nodes:?}");
    assert_eq!(admin.data(&format!("/locks/%session/{}", nodes[0])).await.unwrap().unwrap(), OWNER);
    assert_eq!(ahead(&session, &mine.entry, 1).await, Some(Ahead::default()));
}

#[tokio::test]
async fn the_root_of_the_ensemble_can_hold_the_queues() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let mut config = lock_zk::Config::new([zookeeper.endpoint(0)]);
    config.chroot = "/".into();
    let backend = lock_zk::ZooKeeper::new(config).unwrap();
    let session = lock_core::backend::Backend::open(&backend, OWNER).await.unwrap();
    let queue = queue();
    let mine = enqueue(&session, &queue).await;
    assert!(mine.entry.key.starts_with(&format!("/{queue}/_c_")), "{mine:?}");
    assert!(retried("renew", || session.renew()).await > Duration::ZERO);
    let _: Arc<dyn lock_core::backend::Session> = session;
}
