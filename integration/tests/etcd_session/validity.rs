//! What a renewal promises is kept, whatever happens to connections and leaders.

use std::sync::Arc;
use std::time::Duration;

use integration::{Direction, Etcd, EtcdOptions, Mode, PATIENCE, Proxy, eventually};
use lock_core::Error;
use lock_core::backend::{Dequeued, Session};
use tokio::time::{Instant, timeout};

use crate::{all_endpoints, dequeue, enqueue, lease, open, open_over_two, open_with, queue, renew, until_over};

/// Renews until it works, and returns until when the session is promised to live.
async fn promise(session: &Arc<dyn Session>) -> Instant {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = Instant::now();
        match session.renew().await {
            Ok(valid) => return asked + valid,
            Err(Error::Unavailable { .. }) if Instant::now() < deadline => {}
            Err(error) => panic!("{error} ({error:?})"),
        }
    }
}

/// Waits for the end of a session that is not renewed any more, and returns when it was seen.
async fn end_of(etcd: &Etcd, session: &Arc<dyn Session>) -> Instant {
    until_over(etcd, lease(session), PATIENCE).await;
    Instant::now()
}

#[tokio::test]
async fn a_renewal_promises_less_than_the_ttl_and_keeps_it() {
    let etcd = Etcd::single().await.unwrap();
    let session = open_with(&etcd.endpoint(0), "ttl=3s").await;
    assert_eq!(session.ttl(), Duration::from_secs(3));
    let mut until = promise(&session).await;
    for _ in 0..3 {
        let asked = Instant::now();
        let valid = session.renew().await.unwrap();
        assert_eq!(valid, Duration::from_millis(2700), "the margin is a tenth");
        until = until.max(asked + valid);
    }
    let end = end_of(&etcd, &session).await;
    assert!(end >= until, "ended {:?} too early", until - end);
    assert!(matches!(session.renew().await, Err(Error::SessionOver { .. })));
}

/// The server grants more than was asked for.
#[tokio::test]
async fn the_granted_ttl_counts() {
    let options = EtcdOptions { election: Duration::from_secs(3), ..EtcdOptions::default() };
    let etcd = Etcd::start(options).await.unwrap();
    let session = open_with(&etcd.endpoint(0), "ttl=2s").await;
    assert_eq!(session.ttl(), Duration::from_secs(5));
    assert_eq!(renew(&session).await, Duration::from_millis(4500));
}

/// The lease is revoked, or the session's key deleted, by hand.
#[tokio::test]
async fn a_session_that_was_ended_is_over() {
    let etcd = Etcd::single().await.unwrap();
    for by_key in [false, true] {
        let session = open(&etcd.endpoint(0)).await;
        let queue = queue();
        let entry = enqueue(&session, &queue).await.entry;
        renew(&session).await;
        if by_key {
            etcd.ctl(&["del", &format!("{}/%session/{}", crate::NAMESPACE, session.id())]).await.unwrap();
        } else {
            etcd.lease_revoke(lease(&session)).await.unwrap();
        }
        for _ in 0..2 {
            let error = session.renew().await.unwrap_err();
            assert!(matches!(&error, Error::SessionOver { session: id } if *id == session.id()), "{error:?}");
        }
        let attempt = crate::Attempt::new(&queue);
        assert!(matches!(attempt.enqueue(&session).await, Err(Error::SessionOver { .. })));
        let expected = if by_key { Dequeued::Removed } else { Dequeued::Absent };
        assert_eq!(dequeue(&session, &entry).await, expected);
        let _ = session.close().await;
    }
}

/// Answers to keep-alives that were given up come in a burst, and count for nothing.
#[tokio::test]
async fn late_answers_prolong_nothing() {
    let etcd = Etcd::single().await.unwrap();
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let session = open_with(&proxy.endpoint(), "ttl=6s").await;
    let mut until = promise(&session).await;
    for _ in 0..3 {
        proxy.set(Direction::ToClient, Mode::Hold);
        session.renew().await.unwrap_err();
        proxy.set(Direction::ToClient, Mode::Pass);
        until = until.max(promise(&session).await);
    }
    proxy.set_both(Mode::Hold);
    let end = end_of(&etcd, &session).await;
    assert!(end >= until, "ended {:?} too early", until - end);
}

/// The server is frozen for a while.
#[tokio::test]
async fn a_frozen_server_makes_no_promise() {
    let etcd = Etcd::single().await.unwrap();
    let session = open_with(&etcd.endpoint(0), "ttl=6s").await;
    promise(&session).await;
    etcd.pause(0).unwrap();
    session.renew().await.unwrap_err();
    etcd.resume(0).unwrap();
    let until = promise(&session).await;
    let end = end_of(&etcd, &session).await;
    assert!(end >= until, "ended {:?} too early", until - end);
}

/// Leaders come and go.
#[tokio::test]
async fn changes_of_the_leader_are_survived() {
    let etcd = Etcd::cluster(3).await.unwrap();
    let session = open_with(&all_endpoints(&etcd), "ttl=10s").await;
    let entry = enqueue(&session, &queue()).await.entry;
    promise(&session).await;
    for round in 0..6 {
        let to = (etcd.leader().await.unwrap() + 1) % 3;
        etcd.move_leader(to).await.unwrap();
        let renewed = timeout(session.ttl() / 2, promise(&session)).await;
        assert!(renewed.is_ok(), "round {round}");
    }
    let leader = etcd.leader().await.unwrap();
    etcd.kill(leader).unwrap();
    let until = timeout(session.ttl() * 9 / 10, promise(&session)).await.expect("renewed in time");
    etcd.restart(leader).await.unwrap();
    let end = end_of(&etcd, &session).await;
    assert!(end >= until, "ended {:?} too early", until - end);
    assert_eq!(dequeue(&session, &entry).await, Dequeued::Absent);
}

/// One of three members is dead, in each of the ways to be dead.
#[tokio::test]
async fn a_dead_member_is_not_noticed() {
    let etcd = Etcd::cluster(3).await.unwrap();
    let proxies = [
        Proxy::start(etcd.addr(0)).await.unwrap(),
        Proxy::start(etcd.addr(1)).await.unwrap(),
        Proxy::start(etcd.addr(2)).await.unwrap(),
    ];
    let endpoints = proxies.each_ref().map(Proxy::endpoint).join(",");
    for dead in &proxies {
        for silent in [false, true] {
            if silent {
                dead.blackhole_new(true);
                dead.set_both(Mode::Hold);
            } else {
                dead.refuse(true).await.unwrap();
                dead.cut(integration::Cut::Rst).await.unwrap();
            }
            for _ in 0..3 {
                let session = open_with(&endpoints, "ttl=10s").await;
                let queue = queue();
                let began = Instant::now();
                renew(&session).await;
                let entry = enqueue(&session, &queue).await.entry;
                assert_eq!(dequeue(&session, &entry).await, Dequeued::Removed);
                assert!(began.elapsed() < session.ttl() / 3, "took {:?}", began.elapsed());
                session.close().await.unwrap();
            }
            dead.heal().await.unwrap();
        }
    }
    // A grant that was held up in silence may arrive when its session is gone; such a lease has no key and is not renewed.
    assert!(etcd.keys("").await.unwrap().is_empty());
    let none = || async { etcd.lease_list().await.ok()?.is_empty().then_some(()) };
    eventually("no lease to be left", PATIENCE, none).await.unwrap();
}

/// The member in use dies under a session.
#[tokio::test]
async fn a_session_leaves_a_member_that_dies() {
    let etcd = Etcd::single().await.unwrap();
    for silent in [false, true] {
        let (session, used, spare) = open_over_two(&etcd, "ttl=6s").await;
        let queue = queue();
        let entry = enqueue(&session, &queue).await.entry;
        promise(&session).await;
        if silent {
            used.set_both(Mode::Hold);
            used.blackhole_new(true);
        } else {
            used.refuse(true).await.unwrap();
            used.cut(integration::Cut::Rst).await.unwrap();
        }
        let began = Instant::now();
        let until = promise(&session).await;
        assert!(began.elapsed() < session.ttl() / 2 && until > Instant::now(), "took {:?}", began.elapsed());
        assert!(spare.connections() > 0);
        assert_eq!(dequeue(&session, &entry).await, Dequeued::Removed);
        session.close().await.unwrap();
    }
}

/// Answers of a server that knows nothing of the session are no answers.
#[tokio::test]
async fn another_cluster_is_not_believed() {
    let (etcd, stranger) = (Etcd::single().await.unwrap(), Etcd::single().await.unwrap());
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let endpoints = format!("{},{}", proxy.endpoint(), stranger.endpoint(0));
    // The first member is chosen at random.
    let session = loop {
        let session = open_with(&endpoints, "ttl=10s").await;
        if proxy.connections() > 0 {
            break session;
        }
        session.close().await.unwrap();
    };
    let queue = queue();
    let entry = enqueue(&session, &queue).await.entry;
    promise(&session).await;
    proxy.refuse(true).await.unwrap();
    proxy.cut(integration::Cut::Rst).await.unwrap();
    for _ in 0..10 {
        assert!(matches!(session.renew().await, Err(Error::Unavailable { .. })));
        assert!(matches!(session.watch(&entry).await, Err(Error::Unavailable { .. })));
        assert!(matches!(session.dequeue(&entry).await, Err(Error::Unavailable { .. })));
        assert!(matches!(session.ahead(&entry, 1).await, Err(Error::Unavailable { .. })));
    }
    proxy.heal().await.unwrap();
    let renewed = || async { session.renew().await.ok() };
    eventually("the session to be renewed", Duration::from_secs(8), renewed).await.unwrap();
    assert_eq!(dequeue(&session, &entry).await, Dequeued::Removed);
}
