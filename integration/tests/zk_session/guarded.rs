//! Writes that apply only under a lock.

use std::time::Duration;

use integration::{Action, Admin, Cut, Direction, Mode, PATIENCE, Proxy, When, ZooKeeper, eventually};
use lock_core::{Client, Error, Guard, Loss};
use lock_zk::{Conflict, Guarded, GuardedError};

async fn connect(hosts: &str) -> Client {
    let url = format!("zk://{hosts}?timeout=6s");
    Client::connect(lock_zk::ZooKeeper::from_url(&url).unwrap()).await.unwrap()
}

async fn lock(client: &Client) -> Guard {
    client.mutex(crate::queue().as_str()).unwrap().lock().await.unwrap()
}

async fn data(admin: &Admin, path: &str) -> Option<String> {
    admin.data(path).await.unwrap().map(|data| String::from_utf8(data).unwrap())
}

#[track_caller]
fn assert_lost(answer: Result<(), GuardedError>, by: Loss) {
    match answer {
        Err(GuardedError::Lock(Error::Lost { loss, .. })) if loss == by => {}
        other => panic!("not lost by {by:?}: {other:?}"),
    }
}

#[track_caller]
fn assert_conflict(answer: Result<(), GuardedError>, at: &str, want: Conflict) {
    match answer {
        Err(GuardedError::Conflict { path, conflict }) if path == at && conflict == want => {}
        other => panic!("no {want:?} at {at}: {other:?}"),
    }
}

#[tokio::test]
async fn writes_of_a_holder_are_made_all_or_none() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (client, admin) = (connect(&zookeeper.endpoint(0)).await, zookeeper.admin().await.unwrap());
    admin.create("/app", b"").await.unwrap();
    admin.create("/app/old", b"").await.unwrap();
    admin.create("/app/state", b"0").await.unwrap();
    let guard = lock(&client).await;
    Guarded::new(&guard).unwrap().commit().await.unwrap();
    let writes = Guarded::new(&guard).unwrap().set_data("/app/state", b"1", Some(0)).delete("/app/old", None);
    let writes = writes.create("/app/new", b"x").create("/app/new/child", b"y").create_ephemeral("/app/now", b"z");
    writes.commit().await.unwrap();
    for (path, want) in
        [("/app/state", "1"), ("/app/new", "x"), ("/app/new/child", "y"), ("/app/now", "z")].map(|(p, w)| (p, Some(w)))
    {
        assert_eq!(data(&admin, path).await.as_deref(), want, "{path}");
    }
    assert_eq!(data(&admin, "/app/old").await, None);

    // Any of them may be in the way of the others.
    let none = |write: fn(Guarded<'_>) -> Guarded<'_>| {
        let writes = Guarded::new(&guard).unwrap().set_data("/app/state", b"2", Some(1)).create("/app/none", b"");
        async move { write(writes).create("/app/none/more", b"").commit().await }
    };
    assert_conflict(none(|it| it.set_data("/app/new", b"", Some(7))).await, "/app/new", Conflict::BadVersion);
    assert_conflict(none(|it| it.set_data("/app/nil", b"", None)).await, "/app/nil", Conflict::NoNode);
    assert_conflict(none(|it| it.create("/app/nil/x", b"")).await, "/app/nil/x", Conflict::NoNode);
    assert_conflict(none(|it| it.create("/app/new", b"")).await, "/app/new", Conflict::NodeExists);
    assert_conflict(none(|it| it.delete("/app/new/child", Some(1))).await, "/app/new/child", Conflict::BadVersion);
    assert_conflict(none(|it| it.delete("/app/new", None)).await, "/app/new", Conflict::NotEmpty);
    for refused in [none(|it| it.create("relative", b"")).await, none(|it| it.delete("/app/now/", None)).await] {
        assert!(matches!(refused, Err(GuardedError::Lock(Error::Refused { .. }))), "{refused:?}");
    }
    assert_eq!(data(&admin, "/app/state").await.as_deref(), Some("1"));
    assert_eq!(data(&admin, "/app/none").await, None);

    // What belongs to the session stays when the lock is released, and goes with the session.
    guard.release().await;
    assert_eq!(data(&admin, "/app/now").await.as_deref(), Some("z"));
    client.close().await;
    assert_eq!(data(&admin, "/app/now").await, None);
}

#[tokio::test]
async fn a_holder_that_was_thrown_out_writes_nothing_even_before_it_notices() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (client, admin) = (connect(&zookeeper.endpoint(0)).await, zookeeper.admin().await.unwrap());
    admin.create("/app", b"old").await.unwrap();
    let mut noticed_late = 0;
    for _ in 0..10 {
        let guard = lock(&client).await;
        admin.delete(Guarded::new(&guard).unwrap().entry_path()).await.unwrap();
        noticed_late += u32::from(guard.check().is_ok());
        assert_lost(Guarded::new(&guard).unwrap().set_data("/app", b"new", None).commit().await, Loss::EntryRemoved);
        assert_lost(Guarded::new(&guard).unwrap().commit().await, Loss::EntryRemoved);
    }
    assert!(noticed_late > 0, "the guards were always lost before the store was asked");
    assert_eq!(data(&admin, "/app").await.as_deref(), Some("old"));
}

#[tokio::test]
async fn a_guard_known_to_be_lost_sends_nothing() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let client = connect(&proxy.endpoint()).await;
    let guard = lock(&client).await;
    client.close().await;
    let sent = proxy.counters().sent_by_clients;
    assert_lost(Guarded::new(&guard).unwrap().create("/app", b"").commit().await, Loss::Closed);
    assert_eq!(proxy.counters().sent_by_clients, sent);
}

/// The reason for all this: a write that is delayed on its way until somebody else has the lock.
#[tokio::test]
async fn a_delayed_write_is_not_made_after_the_next_grant() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (proxy, admin) = (Proxy::start(zookeeper.addr(0)).await.unwrap(), zookeeper.admin().await.unwrap());
    let (slow, other) = (connect(&proxy.endpoint()).await, connect(&zookeeper.endpoint(0)).await);
    admin.create("/app", b"").await.unwrap();
    let name = crate::queue();
    let guard = slow.mutex(name.as_str()).unwrap().lock().await.unwrap();
    let request = When::Contains(b"delayed".to_vec());
    let held = proxy.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
    let (path, passed) = (guard.entry().key.clone(), proxy.counters().passed_to_server);
    let writing = tokio::spawn(async move {
        let answer = Guarded::new(&guard).unwrap().set_data("/app", b"delayed", None).commit().await;
        (answer, guard)
    });
    held.fired().await.unwrap();
    admin.delete(&path).await.unwrap();
    let next = other.mutex(name.as_str()).unwrap().lock().await.unwrap();
    Guarded::new(&next).unwrap().set_data("/app", b"next", None).commit().await.unwrap();

    proxy.heal().await.unwrap();
    let out = || async { (proxy.counters().passed_to_server > passed).then_some(()) };
    eventually("the write to go out", PATIENCE, out).await.unwrap();
    let (answer, _guard) = tokio::time::timeout(PATIENCE, writing).await.unwrap().unwrap();
    assert!(matches!(answer, Err(GuardedError::Lock(Error::Lost { .. } | Error::Unavailable { .. }))), "{answer:?}");
    assert_eq!(data(&admin, "/app").await.as_deref(), Some("next"));
    next.release().await;
    assert_eq!(data(&admin, "/app").await.as_deref(), Some("next"));
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_refusal_by_committing_again() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let (proxy, admin) = (Proxy::start(zookeeper.addr(0)).await.unwrap(), zookeeper.admin().await.unwrap());
    let client = connect(&proxy.endpoint()).await;
    admin.create("/app", b"0").await.unwrap();
    let guard = lock(&client).await;
    let sent = proxy.after(
        Direction::ToServer,
        When::Contains(b"unanswered".to_vec()),
        Action::Set(Direction::ToClient, Mode::Hold),
    );
    let writes = Guarded::new(&guard).unwrap().set_data("/app", b"unanswered", Some(0));
    let (answer, ()) = tokio::join!(writes.commit(), async {
        sent.fired().await.unwrap();
        let made = || async { (data(&admin, "/app").await.as_deref() == Some("unanswered")).then_some(()) };
        eventually("the write to be made", PATIENCE, made).await.unwrap();
        proxy.cut(Cut::Rst).await.unwrap();
    });
    assert!(matches!(answer, Err(GuardedError::Lock(Error::Unavailable { .. }))), "{answer:?}");
    proxy.heal().await.unwrap();
    let again = || async {
        match writes.commit().await {
            Err(GuardedError::Lock(Error::Unavailable { .. })) => None,
            definite => Some(definite),
        }
    };
    assert_conflict(eventually("an answer", PATIENCE, again).await.unwrap(), "/app", Conflict::BadVersion);
    guard.release().await;
}

#[tokio::test]
async fn readers_and_former_writers_have_entries_too() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let client = connect(&zookeeper.endpoint(0)).await;
    let lock = client.rw_lock(crate::queue().as_str()).unwrap();
    let writing = lock.write().await.unwrap();
    let as_writer = Guarded::new(&writing).unwrap().entry_path().to_owned();
    Guarded::new(&writing).unwrap().create("/one", b"").commit().await.unwrap();
    let former = writing.downgrade().await.unwrap();
    let reading = lock.read().await.unwrap();
    for (guard, path) in [(&former, "/two"), (&reading, "/three")] {
        let writes = Guarded::new(guard).unwrap();
        assert_ne!(writes.entry_path(), as_writer);
        writes.create(path, b"").commit().await.unwrap();
    }
    // The listing has the token that the guard has, so that operators can name it.
    let places = client.queue(lock.name()).unwrap().list().await.unwrap();
    assert_eq!(places.iter().map(|place| place.token.unwrap()).collect::<Vec<_>>(), [former.token(), reading.token()]);
    assert!(client.queue(lock.name()).unwrap().break_lock(former.token()).await.unwrap());
    assert_lost(Guarded::new(&former).unwrap().create("/four", b"").commit().await, Loss::EntryRemoved);
    tokio::time::timeout(Duration::from_secs(2), former.lost()).await.unwrap();
}

#[tokio::test]
async fn only_locks_of_zookeeper_guard_writes_to_it() {
    let client = Client::connect(lock_core::memory::Memory::new()).await.unwrap();
    let guard = lock(&client).await;
    let error = Guarded::new(&guard).unwrap_err();
    assert!(matches!(error, GuardedError::OtherBackend { .. }));
    assert!(error.to_string().contains(guard.name()), "{error}");
}
