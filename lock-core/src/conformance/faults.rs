//! The mutex, and what else lets one in at a time, while things break.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Cut, Subject, Waiter, World, contenders, eventually, in_time, patience, poll_and_drop};
use crate::{Error, Loss, Release, State};

const SECOND: Duration = Duration::from_secs(1);

pub async fn removed_holder_is_lost_within_a_second(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    let entry = locks.entries(world).await.remove(0).entry;
    let began = Instant::now();
    world.remove(&entry).await;
    let loss = tokio::time::timeout(SECOND, holder.lost()).await.expect("noticed within a second");
    assert_eq!(loss, Loss::EntryRemoved);
    assert!(matches!(holder.check(), Err(Error::Lost { loss: Loss::EntryRemoved, .. })));
    assert_eq!(holder.valid_for(), Duration::ZERO);
    let next = waiter.guard(world).await;
    assert!(began.elapsed() < SECOND * 2);
    assert!(next.token() > holder.token());
    assert_eq!(holder.release().await, Release::NotHeld);
    next.check().unwrap();
    assert_eq!(locks.entries(world).await.len(), 1, "the release touched nothing");
}

pub async fn removed_waiter_is_told_and_lets_nobody_jump_ahead(world: &dyn World, subject: Subject) {
    let three = contenders(world, 3).await;
    let locks = subject.everywhere(world, &three).await;
    let holder = locks[0].lock().await.unwrap();
    let middle = Waiter::start(world, &locks, 1, 2).await;
    let last = Waiter::start(world, &locks, 2, 3).await;
    let entry = locks.entries(world).await.remove(1).entry;
    world.remove(&entry).await;
    let error = tokio::time::timeout(SECOND, middle.0).await.expect("told within a second").unwrap().unwrap_err();
    assert!(matches!(error, Error::EntryRemoved { .. }), "{error}");
    assert!(error.is_retryable());
    eventually("the last one sleeps behind the holder", patience(world), || async {
        three[2].client.metrics().waits >= 2 || three[2].client.metrics().looks >= 2
    })
    .await;
    assert!(last.is_waiting());
    holder.check().unwrap();
    holder.release().await;
    last.guard(world).await.release().await;
}

pub async fn ended_session_is_noticed_and_replaced(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    world.expire(&two[0].client.session_id().await.unwrap()).await;
    let loss = tokio::time::timeout(SECOND.max(world.ttl() / 3), holder.lost()).await.expect("noticed");
    assert!(matches!(loss, Loss::SessionEnded | Loss::EntryRemoved | Loss::Expired), "{loss}");
    let next = waiter.guard(world).await;
    assert!(next.token() > holder.token());
    let again = Waiter::start(world, &locks, 0, 2).await;
    next.release().await;
    let again = again.guard(world).await;
    assert!(holder.check().is_err(), "an old guard stays lost");
    assert_eq!(holder.release().await, Release::NotHeld);
    again.check().unwrap();
    again.release().await;
}

pub async fn ended_session_of_a_middle_waiter_keeps_the_order(world: &dyn World, subject: Subject) {
    let four = contenders(world, 4).await;
    let locks = subject.everywhere(world, &four).await;
    let holder = locks[0].lock().await.unwrap();
    let mut waiters = Vec::new();
    for i in 1..four.len() {
        waiters.push(Waiter::start(world, &locks, i, i + 1).await);
    }
    world.expire(&four[2].client.session_id().await.unwrap()).await;
    let error = waiters.remove(1).outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. } | Error::EntryRemoved { .. }), "{error}");
    assert!(waiters.iter().all(Waiter::is_waiting));
    holder.check().unwrap();
    holder.release().await;
    for _ in 0..2 {
        let guard = waiters.remove(0).guard(world).await;
        assert!(waiters.iter().all(Waiter::is_waiting));
        guard.release().await;
    }
}

pub async fn ended_session_of_a_waiter_never_grants(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    world.expire(&two[1].client.session_id().await.unwrap()).await;
    locks.has_length(world, 1).await;
    let error = waiter.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. } | Error::EntryRemoved { .. }), "{error}");
    holder.check().unwrap();
    holder.release().await;
    let next = in_time(world, "the next acquire just works", locks[1].lock()).await.unwrap();
    next.release().await;
}

pub async fn cut_keeps_guard_and_places(world: &dyn World, subject: Subject) {
    // Both at once, for they take longer than the ttl.
    tokio::join!(guard_and_places_in_a(Cut::Fin, world, subject), guard_and_places_in_a(Cut::Rst, world, subject));
}

async fn guard_and_places_in_a(how: Cut, world: &dyn World, subject: Subject) {
    let three = contenders(world, 3).await;
    let locks = subject.everywhere(world, &three).await;
    let holder = locks[0].lock().await.unwrap();
    let first = Waiter::start(world, &locks, 1, 2).await;
    let second = Waiter::start(world, &locks, 2, 3).await;
    let before = locks.entries(world).await;
    for contender in &three {
        contender.link.cut(how).await;
    }
    // Long enough for several renewals: the cut must not be noticed by then.
    tokio::time::sleep(world.ttl() + SECOND).await;
    holder.check().unwrap();
    assert_eq!(locks.entries(world).await, before, "{how:?}: every place is kept");
    three[1].link.cut(how).await;
    assert_eq!(holder.release().await, Release::Released);
    let first = first.guard(world).await;
    assert!(second.is_waiting());
    first.release().await;
    second.guard(world).await.release().await;
    locks.has_length(world, 0).await;
}

pub async fn lost_reply_of_enqueue_keeps_one_entry_in_its_place(world: &dyn World, subject: Subject) {
    for how in [Cut::Fin, Cut::Rst] {
        let three = contenders(world, 3).await;
        let locks = subject.everywhere(world, &three).await;
        let holder = locks[0].lock().await.unwrap();
        three[1].link.lose_next_reply(locks[1].name(), how).await;
        let unlucky = Waiter::start(world, &locks, 1, 2).await;
        let last = Waiter::start(world, &locks, 2, 3).await;
        eventually("the unlucky one sleeps", patience(world), || async { three[1].client.metrics().waits >= 1 }).await;
        assert_eq!(locks.entries(world).await.len(), 3, "{how:?}: one entry each");
        holder.release().await;
        let unlucky = unlucky.guard(world).await;
        assert!(last.is_waiting(), "{how:?}: the place is kept");
        unlucky.release().await;
        last.guard(world).await.release().await;
        locks.has_length(world, 0).await;
    }
}

pub async fn lost_reply_of_release_is_settled(world: &dyn World, subject: Subject) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let locks = subject.everywhere(world, &two).await;
        let holder = locks[0].lock().await.unwrap();
        let waiter = Waiter::start(world, &locks, 1, 2).await;
        two[0].link.lose_next_reply(locks[0].name(), how).await;
        assert_eq!(in_time(world, "the release is settled", holder.release()).await, Release::Released, "{how:?}");
        let next = waiter.guard(world).await;
        let again = Waiter::start(world, &locks, 0, 2).await;
        next.check().unwrap();
        next.release().await;
        again.guard(world).await.release().await;
    }
}

pub async fn short_silence_is_suspect_and_passes(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    let locks = subject.in_one(world, &one).await;
    let guard = locks[0].lock().await.unwrap();
    one.link.hold().await;
    let mut states = guard.watch();
    let state = in_time(world, "a silent link is suspect", states.changed()).await;
    assert_eq!(state, State::Suspect);
    guard.check().expect("suspect is still held");
    one.link.resume().await;
    let state = in_time(world, "an answer clears the suspicion", states.changed()).await;
    assert_eq!(state, State::Held);
    assert_eq!(guard.release().await, Release::Released);
}

pub async fn long_silence_ends_the_guard_before_the_next_grant(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = Arc::new(locks[0].lock().await.unwrap());
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    two[0].link.hold().await;
    let lost_before_grant = {
        let holder = holder.clone();
        tokio::spawn(async move {
            holder.lost().await;
            Instant::now()
        })
    };
    let next = waiter.guard(world).await;
    let granted = Instant::now();
    assert!(holder.check().is_err(), "no two guards say held");
    assert!(lost_before_grant.await.unwrap() <= granted);
    two[0].link.resume().await;
    next.check().unwrap();
    // The old holder's link is back: its guard must not revive, and its clean-up must not touch the new holder.
    tokio::time::sleep(world.ttl()).await;
    assert!(holder.check().is_err());
    next.check().unwrap();
    assert_eq!(locks.entries(world).await.len(), 1);
}

pub async fn waiter_cut_off_for_longer_than_the_ttl_never_gets_a_guard(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    two[1].link.hold().await;
    locks.has_length(world, 1).await;
    holder.release().await;
    two[1].link.resume().await;
    let error = waiter.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. }) && error.is_session_lost(), "{error}");
    let next = in_time(world, "the next acquire just works", locks[1].lock()).await.unwrap();
    next.release().await;
}

pub async fn deadline_holds_in_silence(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    let locks = subject.in_one(world, &one).await;
    one.link.hold().await;
    let timeout = Duration::from_millis(200);
    let began = Instant::now();
    let error = locks[0].try_lock_for(timeout).await.unwrap_err();
    let took = began.elapsed();
    assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains(locks[0].name()), "{error}");
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    one.link.resume().await;
    let guard = in_time(world, "the lock is free after all", locks[0].lock()).await.unwrap();
    locks.has_length(world, 1).await;
    guard.release().await;
}

pub async fn withdrawing_in_silence_leaves_nothing(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    for held in [true, false] {
        let holder = if held { Some(locks[0].lock().await.unwrap()) } else { None };
        for step in 0..6 {
            let acquire = Waiter::start_blindly(&locks[1]);
            tokio::time::sleep(Duration::from_micros(400 * step)).await;
            two[1].link.hold().await;
            acquire.0.abort();
            let another = Waiter::start_blindly(&locks[1]);
            tokio::task::yield_now().await;
            another.0.abort();
            two[1].link.resume().await;
        }
        for polls in 0..4 {
            two[1].link.hold().await;
            poll_and_drop(locks[1].lock(), polls).await;
            poll_and_drop(locks[1].try_lock(), polls).await;
            two[1].link.resume().await;
        }
        if let Some(holder) = holder {
            locks.has_length(world, 1).await;
            holder.release().await;
        }
        locks.has_length(world, 0).await;
        let guard = in_time(world, "nobody is blocked", locks[0].lock()).await.unwrap();
        guard.release().await;
    }
}

pub async fn guard_dropped_in_silence_is_released_later(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    two[0].link.hold().await;
    drop(holder);
    tokio::time::sleep(world.ttl() / 4).await;
    assert!(waiter.is_waiting());
    two[0].link.resume().await;
    let guard = tokio::time::timeout(world.ttl() + SECOND * 2, waiter.0).await.expect("granted").unwrap().unwrap();
    guard.release().await;
    locks.has_length(world, 0).await;
}

pub async fn release_in_silence_is_pending_and_settled_later(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let states = holder.watch();
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    two[0].link.hold().await;
    let release = tokio::spawn(holder.release());
    eventually("the guard is lost before anything is sent", SECOND, || async {
        states.state() == State::Lost(Loss::Released)
    })
    .await;
    assert_eq!(in_time(world, "an answer in time", release).await.unwrap(), Release::Pending);
    two[0].link.resume().await;
    waiter.guard(world).await.release().await;
    locks.has_length(world, 0).await;
}

pub async fn work_stops_before_validity_ends(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    let locks = subject.in_one(world, &one).await;
    let guard = locks[0].lock().await.unwrap();
    assert_eq!(guard.run(async { 7 }).await.unwrap(), 7);
    one.link.hold().await;
    let work = guard.run(async {
        loop {
            guard.check().expect("the work only runs while the lock is held");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let stopped: crate::Result<()> = in_time(world, "the work is stopped", work).await;
    assert!(matches!(stopped, Err(Error::Lost { .. })));
    one.link.resume().await;
}
