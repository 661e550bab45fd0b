//! Groups on the memory backend, where exact faults and times matter.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use lock_core::clock::TokioClock;
use lock_core::memory::{Fault, Memory, Op};
use lock_core::{Client, Error, Member, Role};
use tokio::time::{Instant, timeout};

const TTL: Duration = Duration::from_secs(6);

fn store() -> Memory {
    Memory::new().with_ttl(TTL).expect("a valid ttl")
}

/// A client with a link of its own.
async fn connect(store: &Memory) -> (Client, Memory) {
    let own = store.clone().with_own_link();
    own.link().set_latency(Duration::from_millis(1));
    let builder = Client::builder(own.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    (builder.connect().await.expect("memory connects"), own)
}

fn all_show(members: &[Member], n: usize, value: &[u8]) -> bool {
    members.len() == n && members.iter().all(|member| member.value == value)
}

#[tokio::test(start_paused = true)]
async fn values_that_are_written_at_the_same_time_are_all_seen() {
    let memory = store();
    let (onlooker, _) = connect(&memory).await;
    let group = onlooker.group("g").unwrap();
    let mut watch = group.watch();
    let mut memberships = Vec::new();
    for _ in 0..30 {
        memberships.push(connect(&memory).await.0.group("g").unwrap().join("old").await.unwrap());
    }
    while !all_show(&watch.next().await.unwrap(), 30, b"old") {}
    let began = Instant::now();
    let updates: Vec<_> = memberships
        .into_iter()
        .map(|membership| {
            tokio::spawn(async move {
                membership.update("new").await.unwrap();
                assert!(Instant::now() - began < Duration::from_millis(20), "nobody waits for the others");
                membership
            })
        })
        .collect();
    let seen = async { while !all_show(&watch.next().await.unwrap(), 30, b"new") {} };
    timeout(Duration::from_millis(200), seen).await.expect("seen at once");
    for update in updates {
        assert_eq!(update.await.unwrap().leave().await, lock_core::Release::Released);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_store_refuses_is_told_and_shown_by_the_next_registration() {
    let memory = store();
    let (client, own) = connect(&memory).await;
    let group = client.group("g").unwrap();
    let mut membership = group.join("old").await.unwrap();
    own.link().plan(Op::Write, Fault::Refuse);
    let error = membership.update("new").await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(group.members().await.unwrap()[0].value, b"old");
    assert!(memory.expire_session(&client.session_id().await.unwrap()));
    while membership.changed().await.unwrap().is_none() {}
    assert_eq!(group.members().await.unwrap()[0].value, b"new");
    membership.update("newer").await.unwrap();
    assert_eq!(group.members().await.unwrap()[0].value, b"newer");
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_delays_a_value_by_the_recheck_only() {
    let memory = store();
    let (onlooker, deaf) = connect(&memory).await;
    let membership = connect(&memory).await.0.group("g").unwrap().join("old").await.unwrap();
    let mut watch = onlooker.group("g").unwrap().watch();
    deaf.link().plan(Op::Watch, Fault::LostEvent);
    deaf.link().plan(Op::WatchQueue, Fault::LostEvent);
    assert_eq!(watch.next().await.unwrap()[0].value, b"old");
    membership.update("new").await.unwrap();
    let members = timeout(Duration::from_secs(20), watch.next()).await.expect("rechecked").unwrap();
    assert_eq!(members[0].value, b"new");
}

#[tokio::test(start_paused = true)]
async fn a_watched_queue_shows_at_once_what_a_new_limit_makes_of_it() {
    let (client, _) = connect(&store()).await;
    let semaphore = client.semaphore("s", 1).unwrap();
    let holder = semaphore.acquire(1).await.unwrap();
    let waiter = tokio::spawn(semaphore.acquire(1));
    let mut watch = client.queue("s").unwrap().watch();
    let roles = |places: Vec<lock_core::Place>| places.into_iter().map(|place| place.role).collect::<Vec<_>>();
    while roles(watch.next().await.unwrap()) != [Role::Holder, Role::Waiter] {}
    let began = Instant::now();
    semaphore.set_limit(2).await.unwrap();
    while roles(watch.next().await.unwrap()) != [Role::Holder, Role::Holder] {}
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop((holder, waiter.await.unwrap().unwrap()));
}
