//! The mutex that its owner may take again.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Contender, Cut, NOT_WOKEN, Waiter, World, contenders, fresh_name, has_length, in_time, patience, poll_and_drop,
};
use crate::{Error, Loss, Mutex, Name, ReentrantGuard, ReentrantMutex, Release};

const SECOND: Duration = Duration::from_secs(1);

/// One mutex in several clients.
struct Bench {
    clients: Vec<Contender>,
    mutexes: Vec<ReentrantMutex>,
    name: Name,
}

impl Bench {
    async fn new(world: &dyn World, clients: usize) -> Self {
        let name = fresh_name();
        let clients = contenders(world, clients).await;
        let mutexes = clients.iter().map(|one| one.client.reentrant_mutex(&name).unwrap()).collect();
        Self { clients, mutexes, name: Name::new(name).unwrap() }
    }

    fn plain(&self, client: usize) -> Mutex {
        self.clients[client].client.mutex(&self.name).unwrap()
    }

    fn waiter(&self, client: usize, owner: &'static str) -> Waiter<ReentrantGuard> {
        let mutex = self.mutexes[client].clone();
        Waiter::of(async move { mutex.lock(owner).await })
    }

    async fn has_length(&self, world: &dyn World, n: usize) {
        has_length(world, &self.name, n).await;
    }
}

pub async fn owner_locks_again_at_once(world: &dyn World) {
    let bench = Bench::new(world, 1).await;
    let mutex = &bench.mutexes[0];
    let first = mutex.lock("me").await.unwrap();
    assert_eq!(first.count(), 1);
    let mut holds = vec![
        in_time(world, "it does not wait for itself", mutex.lock("me")).await.unwrap(),
        mutex.try_lock("me").await.unwrap().expect("it is its own"),
        mutex.try_lock_for("me", Duration::ZERO).await.unwrap().expect("it is its own"),
        // Another handle of the same client.
        bench.clients[0].client.clone().reentrant_mutex(&bench.name).unwrap().lock("me").await.unwrap(),
        first.again().unwrap(),
    ];
    assert_eq!(first.count(), 6);
    assert!(holds.iter().all(|hold| hold.token() == first.token()), "the token stays");
    bench.has_length(world, 1).await;
    assert_eq!(first.release().await, None);
    for left in (1..holds.len()).rev() {
        let hold = holds.remove(left / 2);
        hold.check().unwrap();
        if left % 2 == 0 {
            drop(hold);
        } else {
            assert_eq!(hold.release().await, None);
        }
        assert_eq!(holds[0].count(), left);
        bench.has_length(world, 1).await;
        assert!(mutex.try_lock("other").await.unwrap().is_none(), "{left} holds are left");
    }
    assert_eq!(holds.remove(0).release().await, Some(Release::Released));
    bench.has_length(world, 0).await;
}

pub async fn other_owners_are_excluded(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let hold = bench.mutexes[0].lock("me").await.unwrap();
    assert!(bench.mutexes[0].try_lock("you").await.unwrap().is_none());
    assert!(bench.mutexes[1].try_lock("me").await.unwrap().is_none(), "at another client it is somebody else");
    assert!(bench.plain(0).try_lock().await.unwrap().is_none(), "the plain mutex is the same lock");
    let timeout = Duration::from_millis(100);
    assert!(bench.mutexes[0].try_lock_for("you", timeout).await.unwrap().is_none());
    bench.has_length(world, 1).await;
    let you = bench.waiter(0, "you");
    bench.has_length(world, 2).await;
    let other = bench.waiter(1, "me");
    bench.has_length(world, 3).await;
    let again = bench.mutexes[0].lock("me").await.unwrap();
    drop(hold);
    assert!(you.is_waiting() && other.is_waiting(), "one hold is left");
    let token = again.token();
    again.release().await;
    let you = you.guard_at_once("no hold is left").await;
    assert!(you.token() > token && other.is_waiting());
    assert_eq!(you.count(), 1);
    drop(you);
    other.guard_at_once("no hold is left").await.check().unwrap();
}

pub async fn excludes_the_plain_mutex_of_its_name(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let plain = bench.plain(1).lock().await.unwrap();
    assert!(bench.mutexes[0].try_lock("me").await.unwrap().is_none());
    let waiter = bench.waiter(0, "me");
    bench.has_length(world, 2).await;
    plain.release().await;
    let hold = waiter.guard_at_once("the plain one was released").await;
    assert!(bench.plain(1).try_lock().await.unwrap().is_none());
    assert_eq!(hold.release().await, Some(Release::Released));
    bench.plain(1).try_lock().await.unwrap().expect("free").check().unwrap();
}

pub async fn tasks_of_one_owner_share_one_place(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let plain = bench.plain(1).lock().await.unwrap();
    let waiters: Vec<_> = (0..8).map(|_| bench.waiter(0, "me")).collect();
    bench.has_length(world, 2).await;
    let other = bench.waiter(0, "you");
    bench.has_length(world, 3).await;
    plain.release().await;
    let mut holds = Vec::new();
    for waiter in waiters {
        holds.push(waiter.guard_at_once("the owner holds it").await);
    }
    assert_eq!(holds[0].count(), 8);
    assert!(holds.iter().all(|hold| hold.token() == holds[0].token()));
    bench.has_length(world, 2).await;
    assert!(other.is_waiting());
    drop(holds);
    other.guard_at_once("no hold is left").await.check().unwrap();
}

pub async fn owner_that_let_go_starts_anew(world: &dyn World) {
    let bench = Bench::new(world, 1).await;
    let mut token = 0;
    for round in 0..6 {
        let hold = in_time(world, "its last hold is gone", bench.mutexes[0].lock("me")).await.unwrap();
        assert!(hold.token() > token, "another grant has another token");
        assert_eq!(hold.count(), 1);
        token = hold.token();
        match round % 3 {
            0 => drop(hold),
            1 => assert_eq!(hold.release().await, Some(Release::Released)),
            _ => poll_and_drop(hold.release(), 1).await,
        }
    }
    bench.has_length(world, 0).await;
}

pub async fn first_attempt_withdrawn_hands_over_to_the_second(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    for polls in 0..4 {
        let plain = bench.plain(1).lock().await.unwrap();
        let first = bench.waiter(0, "me");
        bench.has_length(world, 2).await;
        let second = bench.waiter(0, "me");
        assert!(bench.mutexes[0].try_lock("me").await.unwrap().is_none(), "it is just waited for");
        assert!(bench.mutexes[0].try_lock_for("me", Duration::from_millis(30)).await.unwrap().is_none());
        poll_and_drop(bench.mutexes[0].lock("me"), polls).await;
        bench.has_length(world, 2).await;
        let entry = world.entries(&bench.name).await.remove(1).entry;
        first.0.abort();
        let gone = || async { world.entries(&bench.name).await.get(1).is_some_and(|other| other.entry != entry) };
        super::eventually("the second enters in its own place", patience(world), gone).await;
        bench.has_length(world, 2).await;
        assert!(second.is_waiting());
        plain.release().await;
        let hold = second.guard_at_once("the plain one was released").await;
        assert_eq!(hold.count(), 1);
        hold.release().await;
        bench.has_length(world, 0).await;
    }
}

pub async fn withdrawing_at_any_moment_leaves_nothing(world: &dyn World) {
    let bench = Bench::new(world, 1).await;
    for polls in 0..5 {
        poll_and_drop(bench.mutexes[0].lock("me"), polls).await;
        poll_and_drop(bench.mutexes[0].try_lock("me"), polls).await;
        poll_and_drop(bench.mutexes[0].try_lock_for("me", Duration::from_secs(1)), polls).await;
    }
    let hold = in_time(world, "nobody is blocked", bench.mutexes[0].lock("you")).await.unwrap();
    assert_eq!(hold.count(), 1);
    hold.release().await;
    bench.has_length(world, 0).await;
}

pub async fn loss_is_that_of_every_hold_and_the_next_is_new(world: &dyn World) {
    let bench = Bench::new(world, 1).await;
    let mutex = &bench.mutexes[0];
    let (first, second) = (mutex.lock("me").await.unwrap(), mutex.lock("me").await.unwrap());
    let entry = world.entries(&bench.name).await.remove(0).entry;
    world.remove(&entry).await;
    let loss = tokio::time::timeout(Duration::from_secs(1), second.lost()).await.expect("noticed within a second");
    assert_eq!(loss, Loss::EntryRemoved);
    assert!(matches!(first.check(), Err(Error::Lost { loss: Loss::EntryRemoved, .. })));
    assert!(first.again().is_err());
    let new = in_time(world, "a new grant", mutex.lock("me")).await.unwrap();
    assert!(new.token() > first.token());
    assert_eq!(new.count(), 1, "those from before are no holds of it");
    assert_eq!(first.release().await, None);
    assert_eq!(second.release().await, Some(Release::NotHeld));
    new.check().expect("it is not touched by the end of the old ones");
    bench.has_length(world, 1).await;
    assert_eq!(mutex.lock("me").await.unwrap().count(), 2);
}

pub async fn ended_session_loses_every_hold(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let mutex = &bench.mutexes[0];
    let (first, second) = (mutex.lock("me").await.unwrap(), mutex.lock("me").await.unwrap());
    let next = bench.waiter(1, "me");
    bench.has_length(world, 2).await;
    world.expire(&bench.clients[0].client.session_id().await.unwrap()).await;
    let next = next.guard_at_once("the session of the holder ended").await;
    tokio::time::timeout(NOT_WOKEN, first.lost()).await.expect("noticed");
    assert!(second.check().is_err());
    let again = bench.waiter(0, "me");
    bench.has_length(world, 2).await;
    assert!(again.is_waiting(), "the old holds let nobody in");
    drop((first, second));
    next.check().unwrap();
    drop(next);
    again.guard_at_once("the other let go").await.check().unwrap();
}

pub async fn broken_link_keeps_every_hold_for_less_than_the_ttl(world: &dyn World) {
    tokio::join!(kept_over_a_broken_link(Cut::Fin, world), kept_over_a_broken_link(Cut::Rst, world));
}

async fn kept_over_a_broken_link(how: Cut, world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let mutex = &bench.mutexes[0];
    let (first, second) = (mutex.lock("me").await.unwrap(), mutex.lock("me").await.unwrap());
    let other = bench.waiter(1, "other");
    bench.has_length(world, 2).await;
    for Contender { link, .. } in &bench.clients {
        link.hold().await;
        link.cut(how).await;
    }
    let third = tokio::time::timeout(world.ttl() / 8, mutex.lock("me")).await.expect("asks nobody").unwrap();
    tokio::time::sleep(world.ttl() / 4).await;
    first.check().expect("suspect is still held");
    for Contender { link, .. } in &bench.clients {
        link.resume().await;
    }
    // Long enough for several renewals.
    tokio::time::sleep(world.ttl() + SECOND).await;
    assert_eq!((first.count(), third.token()), (3, first.token()), "{how:?}");
    assert_eq!(first.release().await, None);
    assert_eq!(third.release().await, None);
    second.check().unwrap();
    assert!(other.is_waiting());
    bench.has_length(world, 2).await;
    assert_eq!(second.release().await, Some(Release::Released), "{how:?}");
    other.guard_at_once("all holds have ended").await.release().await;
    bench.has_length(world, 0).await;
}

pub async fn long_silence_loses_every_hold_before_the_next_grant(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let mutex = &bench.mutexes[0];
    let (first, second) = (mutex.lock("me").await.unwrap(), mutex.lock("me").await.unwrap());
    let next = bench.waiter(1, "me");
    bench.has_length(world, 2).await;
    bench.clients[0].link.hold().await;
    let (proven, began) = (first.valid_for(), Instant::now());
    let lost = tokio::spawn(async move { (first.lost().await, began.elapsed(), first) });
    let next = next.guard(world).await;
    assert!(second.check().is_err() && second.again().is_err(), "no two hold");
    let (loss, after, first) = in_time(world, "the loss is told", lost).await.unwrap();
    assert_eq!(loss, Loss::Expired);
    assert!(after + SECOND / 4 > proven, "held for {proven:?} more, and lost after {after:?}");
    // It cannot be had again before the store has given it back.
    let again = bench.waiter(0, "me");
    bench.clients[0].link.resume().await;
    bench.has_length(world, 2).await;
    assert!(again.is_waiting(), "the old holds let nobody in");
    assert_eq!((first.release().await, second.release().await), (None, Some(Release::NotHeld)));
    // The clean-up of the old one must not touch the new holder.
    tokio::time::sleep(world.ttl()).await;
    next.check().unwrap();
    assert_eq!(next.release().await, Some(Release::Released));
    again.guard_at_once("the other let go").await.release().await;
    bench.has_length(world, 0).await;
}
