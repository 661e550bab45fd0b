//! Writes that apply only under a lock.

use std::error::Error as _;
use std::time::Duration;

use etcd_client::{PutOptions, Txn, TxnOp};
use integration::{Action, Cut, Direction, Etcd, EtcdOptions, Mode, PATIENCE, Proxy, When, connect, eventually};
use lock_core::{Client, Error, Guard, Loss};
use lock_etcd::{Conflict, Guarded, GuardedError};

use crate::{NAMESPACE, until_over};

async fn client(endpoint: &str) -> Client {
    client_with(endpoint, "ttl=6s").await
}

async fn client_with(endpoint: &str, parameters: &str) -> Client {
    connect(&format!("etcd://{endpoint}/{NAMESPACE}?{parameters}")).await.unwrap()
}

async fn lock(client: &Client) -> Guard {
    client.mutex(crate::queue().as_str()).unwrap().lock().await.unwrap()
}

async fn admin(etcd: &Etcd) -> etcd_client::Client {
    etcd_client::Client::connect([etcd.url(0)], None).await.unwrap()
}

/// A key's value, mod revision and lease.
async fn found(admin: &etcd_client::Client, key: &str) -> Option<(String, i64, i64)> {
    let answer = admin.clone().get(key, None).await.unwrap();
    answer.kvs().first().map(|kv| (kv.value_str().unwrap().to_owned(), kv.mod_revision(), kv.lease()))
}

async fn value(admin: &etcd_client::Client, key: &str) -> Option<String> {
    found(admin, key).await.map(|(value, ..)| value)
}

async fn version(admin: &etcd_client::Client, key: &str) -> i64 {
    found(admin, key).await.unwrap().1
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
        Err(GuardedError::Conflict { key, conflict }) if key == at && conflict == want => {}
        other => panic!("no {want:?} at {at}: {other:?}"),
    }
}

#[tokio::test]
async fn writes_of_a_holder_are_made_all_or_none() {
    let etcd = Etcd::single().await.unwrap();
    let (client, mut admin) = (client(&etcd.endpoint(0)).await, admin(&etcd).await);
    for key in ["app/old", "app/older", "app/state"] {
        admin.put(key, "0", None).await.unwrap();
    }
    let guard = lock(&client).await;
    let lease = i64::from_str_radix(&guard.session().id(), 16).unwrap();
    admin.put("app/leased", "0", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    Guarded::new(&guard).unwrap().commit().await.unwrap();
    let (state, older) = (version(&admin, "app/state").await, version(&admin, "app/older").await);
    let writes = Guarded::new(&guard).unwrap().put_if("app/state", "1", state).delete("app/old").delete("app/none");
    let writes = writes.put_if("app/new", "x", 0).put("app/any", "y").put_ephemeral("app/now", "z");
    writes.delete_if("app/older", older).put("app/leased", "w").commit().await.unwrap();
    for (key, want, on) in [
        ("app/state", "1", 0),
        ("app/new", "x", 0),
        ("app/any", "y", 0),
        ("app/now", "z", lease),
        ("app/leased", "w", 0),
    ] {
        let (value, _, lease) = found(&admin, key).await.unwrap();
        assert_eq!((&*value, lease), (want, on), "{key}");
    }
    for gone in ["app/old", "app/older"] {
        assert_eq!(value(&admin, gone).await, None, "{gone}");
    }

    // Any of them may be in the way of the others.
    let state = version(&admin, "app/state").await;
    let none = |write: fn(Guarded<'_>) -> Guarded<'_>| {
        let writes = Guarded::new(&guard).unwrap().put_if("app/state", "2", state).put("app/none", "");
        async move { write(writes).put_if("app/nil", "", 0).commit().await }
    };
    assert_conflict(none(|it| it.put_if("app/new", "", 1)).await, "app/new", Conflict::BadVersion);
    assert_conflict(none(|it| it.put_if("app/gone", "", 1)).await, "app/gone", Conflict::NoKey);
    assert_conflict(none(|it| it.put_if("app/new", "", 0)).await, "app/new", Conflict::KeyExists);
    assert_conflict(none(|it| it.delete_if("app/any", 1)).await, "app/any", Conflict::BadVersion);
    assert_conflict(none(|it| it.delete_if("app/gone", 1)).await, "app/gone", Conflict::NoKey);
    for (refused, why) in [
        (none(|it| it.put("app/state", "")).await, "duplicate key"),
        (none(|it| it.put("", "")).await, "key is not provided"),
        (none(|it| (0..200).fold(it, |it, i| it.put(format!("app/{i}"), ""))).await, "too many operations"),
        (none(|it| it.put("app/large", vec![b'x'; 1_800_000])).await, "too large"),
    ] {
        let Err(GuardedError::Lock(Error::Refused { source, .. })) = refused else { panic!("{why}: {refused:?}") };
        assert!(source.to_string().contains(why), "{source}");
    }
    assert_eq!(value(&admin, "app/state").await.as_deref(), Some("1"));
    assert_eq!(value(&admin, "app/none").await, None);
    guard.check().unwrap();

    // What belongs to the session stays when the lock is released, and goes with the session.
    guard.release().await;
    assert_eq!(value(&admin, "app/now").await.as_deref(), Some("z"));
    client.close().await;
    assert_eq!(value(&admin, "app/now").await, None);
    assert_eq!(value(&admin, "app/any").await.as_deref(), Some("y"));
}

#[tokio::test]
async fn a_holder_that_was_thrown_out_writes_nothing_even_before_it_notices() {
    let etcd = Etcd::single().await.unwrap();
    let (client, mut admin) = (client(&etcd.endpoint(0)).await, admin(&etcd).await);
    admin.put("app", "old", None).await.unwrap();
    let mut noticed_late = 0;
    for _ in 0..10 {
        let guard = lock(&client).await;
        let writes = Guarded::new(&guard).unwrap();
        let held = writes.comparison();
        admin.delete(writes.entry_key(), None).await.unwrap();
        noticed_late += u32::from(guard.check().is_ok());
        assert_lost(writes.put("app", "new").commit().await, Loss::EntryRemoved);
        assert_lost(Guarded::new(&guard).unwrap().commit().await, Loss::EntryRemoved);
        // A wrong version beside it does not hide that.
        assert_lost(Guarded::new(&guard).unwrap().put_if("app", "new", 0).commit().await, Loss::EntryRemoved);
        // The same key again is not the same entry.
        admin.put(&*guard.entry().key, "forged", None).await.unwrap();
        assert_lost(Guarded::new(&guard).unwrap().delete("app").commit().await, Loss::EntryRemoved);
        let write = Txn::new().when([held]).and_then([TxnOp::put("app", "new", None)]);
        assert!(!admin.txn(write).await.unwrap().succeeded());
    }
    assert!(noticed_late > 0, "the guards were always lost before the store was asked");
    assert_eq!(value(&admin, "app").await.as_deref(), Some("old"));
}

#[tokio::test]
async fn a_holder_whose_session_was_ended_writes_nothing() {
    let etcd = Etcd::single().await.unwrap();
    let admin = admin(&etcd).await;
    let mut noticed_late = 0;
    for ephemeral in [false, true] {
        for _ in 0..5 {
            // A client of its own each time, for the session is gone with it.
            let client = client_with(&etcd.endpoint(0), "ttl=60s").await;
            let guard = lock(&client).await;
            let lease = i64::from_str_radix(&guard.session().id(), 16).unwrap();
            etcd.lease_revoke(lease).await.unwrap();
            until_over(&etcd, lease, PATIENCE).await;
            noticed_late += u32::from(guard.check().is_ok());
            let writes = Guarded::new(&guard).unwrap();
            let writes = if ephemeral { writes.put_ephemeral("app", "new") } else { writes.put("app", "new") };
            match writes.commit().await {
                Err(GuardedError::Lock(Error::Lost { loss: Loss::SessionEnded | Loss::EntryRemoved, .. })) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(noticed_late > 0, "the guards were always lost before the store was asked");
    assert_eq!(value(&admin, "app").await, None);
}

#[tokio::test]
async fn a_guard_known_to_be_lost_sends_nothing() {
    let etcd = Etcd::single().await.unwrap();
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let client = client(&proxy.endpoint()).await;
    let guard = lock(&client).await;
    client.close().await;
    let request = When::Contains(b"unsent".to_vec());
    let sent = proxy.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
    assert_lost(Guarded::new(&guard).unwrap().put("app", "unsent").commit().await, Loss::Closed);
    let fired = tokio::time::timeout(Duration::from_millis(200), sent.fired()).await;
    assert!(fired.is_err(), "{fired:?}");
}

/// The reason for all this: a write that is delayed on its way until somebody else has the lock.
#[tokio::test]
async fn a_delayed_write_is_not_made_after_the_next_grant() {
    let etcd = Etcd::single().await.unwrap();
    let (proxy, mut admin) = (Proxy::start(etcd.addr(0)).await.unwrap(), admin(&etcd).await);
    // The write may wait for five seconds.
    let slow = client_with(&proxy.endpoint(), "ttl=60s").await;
    let other = client(&etcd.endpoint(0)).await;
    admin.put("app", "", None).await.unwrap();
    let name = crate::queue();
    for release in [false, true] {
        let guard = slow.mutex(name.as_str()).unwrap().lock().await.unwrap();
        let request = When::Contains(b"delayed".to_vec());
        let held = proxy.before(Direction::ToServer, request, Action::Set(Direction::ToServer, Mode::Hold));
        let key = guard.entry().key.clone();
        let writing = tokio::spawn(async move {
            let answer = Guarded::new(&guard).unwrap().put("app", "delayed").commit().await;
            (answer, guard)
        });
        held.fired().await.unwrap();
        admin.delete(&*key, None).await.unwrap();
        let next = other.mutex(name.as_str()).unwrap().lock().await.unwrap();
        Guarded::new(&next).unwrap().put("app", "next").commit().await.unwrap();
        if release {
            next.release().await;
        }

        proxy.heal().await.unwrap();
        let (answer, _guard) = tokio::time::timeout(PATIENCE, writing).await.unwrap().unwrap();
        // The connection was only slow, so the answer is the store's.
        assert_lost(answer, Loss::EntryRemoved);
        assert_eq!(value(&admin, "app").await.as_deref(), Some("next"));
    }
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_refusal_by_committing_again() {
    let etcd = Etcd::single().await.unwrap();
    let (proxy, mut admin) = (Proxy::start(etcd.addr(0)).await.unwrap(), admin(&etcd).await);
    let client = client(&proxy.endpoint()).await;
    admin.put("app", "0", None).await.unwrap();
    let guard = lock(&client).await;
    let sent = proxy.after(
        Direction::ToServer,
        When::Contains(b"unanswered".to_vec()),
        Action::Set(Direction::ToClient, Mode::Hold),
    );
    let writes = Guarded::new(&guard).unwrap().put_if("app", "unanswered", version(&admin, "app").await);
    let (answer, ()) = tokio::join!(writes.commit(), async {
        sent.fired().await.unwrap();
        let made = || async { (value(&admin, "app").await.as_deref() == Some("unanswered")).then_some(()) };
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
    assert_conflict(eventually("an answer", PATIENCE, again).await.unwrap(), "app", Conflict::BadVersion);
    guard.release().await;
}

#[tokio::test]
async fn readers_and_former_writers_have_entries_too() {
    let etcd = Etcd::single().await.unwrap();
    let (client, admin) = (client(&etcd.endpoint(0)).await, admin(&etcd).await);
    let lock = client.rw_lock(crate::queue().as_str()).unwrap();
    let writing = lock.write().await.unwrap();
    let as_writer = Guarded::new(&writing).unwrap().entry_key().to_owned();
    Guarded::new(&writing).unwrap().put("one", "").commit().await.unwrap();
    let former = writing.downgrade().await.unwrap();
    assert_eq!(Guarded::new(&former).unwrap().entry_key(), as_writer);
    let reading = lock.read().await.unwrap();
    for (guard, key) in [(&former, "two"), (&reading, "three")] {
        Guarded::new(guard).unwrap().put(key, "").commit().await.unwrap();
        assert_eq!(value(&admin, key).await.as_deref(), Some(""));
    }
    // The listing has the token that the guard has, so that operators can name it.
    let places = client.queue(lock.name()).unwrap().list().await.unwrap();
    assert_eq!(places.iter().map(|place| place.token.unwrap()).collect::<Vec<_>>(), [former.token(), reading.token()]);
    assert!(client.queue(lock.name()).unwrap().break_lock(former.token()).await.unwrap());
    assert_lost(Guarded::new(&former).unwrap().put("four", "").commit().await, Loss::EntryRemoved);
    tokio::time::timeout(Duration::from_secs(2), former.lost()).await.unwrap();
}

/// Of the users of etcd, the one of the lock's client writes.
#[tokio::test]
async fn keys_without_permission_are_named() {
    let etcd = Etcd::start(EtcdOptions { auth: true, ..EtcdOptions::default() }).await.unwrap();
    let client = connect(&format!("etcd://app:apppw@{}/{NAMESPACE}?ttl=6s", etcd.endpoint(0))).await.unwrap();
    let guard = lock(&client).await;
    Guarded::new(&guard).unwrap().put(format!("{NAMESPACE}/app"), "x").commit().await.unwrap();
    let answer = Guarded::new(&guard).unwrap().put(format!("{NAMESPACE}/app"), "y").put("beyond", "x").commit().await;
    let Err(GuardedError::Lock(error @ Error::AccessDenied { .. })) = answer else { panic!("{answer:?}") };
    assert!(error.to_string().contains("beyond") && error.to_string().contains("user \"app\""), "{error}");
    let version = |key| async move { etcd.ctl(&["get", "--print-value-only", key]).await.unwrap() };
    assert_eq!(version("locks/app").await.trim(), "x");
}

/// A full database: what is put may or may not have been, and what deletes helps.
#[tokio::test]
async fn a_full_database_says_nothing_for_sure() {
    let extra_args = vec!["--quota-backend-bytes=4194304".to_owned()];
    let etcd = Etcd::start(EtcdOptions { extra_args, ..EtcdOptions::default() }).await.unwrap();
    let (client, mut admin) = (client(&etcd.endpoint(0)).await, admin(&etcd).await);
    let guard = lock(&client).await;
    while admin.put("filler", vec![b'x'; 1 << 20], None).await.is_ok() {}
    let answer = Guarded::new(&guard).unwrap().put("app", "more").commit().await;
    let Err(GuardedError::Lock(error @ Error::Unavailable { .. })) = answer else { panic!("{answer:?}") };
    assert!(error.source().unwrap().to_string().contains("alarm disarm"), "{error}");
    assert_eq!(value(&admin, "app").await, None);
    Guarded::new(&guard).unwrap().delete("filler").commit().await.unwrap();
    assert_eq!(found(&admin, "filler").await, None);
}

#[tokio::test]
async fn only_locks_of_etcd_guard_writes_to_it() {
    let client = Client::connect(lock_core::memory::Memory::new()).await.unwrap();
    let guard = lock(&client).await;
    let error = Guarded::new(&guard).unwrap_err();
    assert!(matches!(error, GuardedError::OtherBackend { .. }));
    assert!(error.to_string().contains(guard.name()), "{error}");
}
