//! The mutex, and what else lets one in at a time, while nothing breaks.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    Contender, Subject, Waiter, Witness, World, contenders, count, eventually, fresh_name, in_time, patience,
    poll_and_drop,
};
use crate::owner::Owner;
use crate::{Error, Loss, Release, State};

pub async fn excludes_two_tasks_of_one_session(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    let locks = subject.in_one(world, &one).await;
    let first = locks[0].lock().await.unwrap();
    let second = Waiter::start(world, &locks, 0, 2).await;
    let entries = locks.entries(world).await;
    assert_ne!(entries[0].entry.key, entries[1].entry.key);
    assert_eq!(entries[0].session, entries[1].session);
    assert!(second.is_waiting());
    let token = first.token();
    assert_eq!(first.release().await, Release::Released);
    let second = second.guard(world).await;
    assert!(second.token() > token);
    assert_eq!(second.release().await, Release::Released);
    locks.has_length(world, 0).await;
}

pub async fn excludes_two_sessions(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let first = locks[0].lock().await.unwrap();
    let second = Waiter::start(world, &locks, 1, 2).await;
    assert!(locks[1].try_lock().await.unwrap().is_none());
    assert!(second.is_waiting());
    assert_eq!(first.state(), State::Held);
    assert_eq!(first.release().await, Release::Released);
    second.guard(world).await.check().unwrap();
    locks.has_length(world, 0).await;
}

pub async fn has_one_holder_under_contention(world: &dyn World, subject: Subject) {
    const TASKS: usize = 4;
    const ROUNDS: usize = 10;
    let three = contenders(world, 3).await;
    let witness = Arc::new(Witness::default());
    let locks = subject.everywhere(world, &three).await;
    let mut tasks = Vec::new();
    for lock in locks.iter().flat_map(|lock| std::iter::repeat_n(lock, TASKS)) {
        let (lock, witness) = (lock.clone(), witness.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let guard = lock.lock().await.unwrap();
                witness.enter(&guard);
                tokio::task::yield_now().await;
                guard.check().unwrap();
                witness.leave();
                assert_eq!(guard.release().await, Release::Released);
            }
        }));
    }
    for task in tasks {
        in_time(world, "every task has its rounds", task).await.unwrap();
    }
    assert_eq!(witness.grants(), (three.len() * TASKS * ROUNDS) as u64);
    locks.has_length(world, 0).await;
}

pub async fn grants_in_the_order_of_the_queue(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let mut waiters = Vec::new();
    for i in 0..8 {
        waiters.push(Waiter::start(world, &locks, i % 2, i + 2).await);
    }
    let mut token = holder.token();
    drop(holder);
    for _ in 0..8 {
        let guard = waiters.remove(0).guard(world).await;
        assert!(guard.token() > token);
        assert!(waiters.iter().all(Waiter::is_waiting), "nobody behind is granted");
        token = guard.token();
        guard.release().await;
    }
}

pub async fn wakes_one_waiter_per_release(world: &dyn World, subject: Subject) {
    const WAITERS: u64 = 10;
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let count = |of| count(&two, of);
    let holder = locks[0].lock().await.unwrap();
    let mut waiters = Vec::new();
    for i in 0..WAITERS {
        waiters.push(Waiter::start(world, &locks, (i % 2) as usize, i as usize + 2).await);
    }
    eventually("everybody sleeps", patience(world), || async { count(|m| m.waits) >= WAITERS }).await;
    assert_eq!(count(|m| m.wakeups), 0, "nobody wakes before the release");
    drop(holder);
    for waiter in waiters {
        waiter.guard(world).await.release().await;
    }
    let (wakeups, nudges) = (count(|m| m.wakeups), count(|m| m.nudges));
    assert!(nudges <= WAITERS * subject.nudges_per_grant(), "{nudges} nudges");
    // Who is told to be the first waiter looks, and may find that the permit is free by then.
    assert!(wakeups <= WAITERS && wakeups + nudges >= WAITERS, "{wakeups} wake-ups, {nudges} nudges");
    assert_eq!(count(|m| m.granted), WAITERS + 1);
}

pub async fn try_lock_takes_a_free_lock(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    let locks = subject.in_one(world, &one).await;
    let guard = locks[0].try_lock().await.unwrap().expect("the lock is free");
    assert_eq!(locks.entries(world).await.len(), 1);
    assert_eq!(guard.release().await, Release::Released);
    assert_eq!(locks.entries(world).await.len(), 0);
}

pub async fn try_lock_on_a_held_lock_leaves_nothing(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    for i in 0..20 {
        assert!(locks[i % 2].try_lock().await.unwrap().is_none());
        assert_eq!(locks.entries(world).await.len(), 1, "when try_lock answers, its entry is gone");
    }
    drop(holder);
}

pub async fn try_lock_storm_never_overlaps_and_leaves_nothing(world: &dyn World, subject: Subject) {
    let three = contenders(world, 3).await;
    let locks = subject.everywhere(world, &three).await;
    let witness = Arc::new(Witness::default());
    let mut tasks = Vec::new();
    for lock in locks.iter() {
        for _ in 0..3 {
            let (lock, witness) = (lock.clone(), witness.clone());
            tasks.push(tokio::spawn(async move {
                for _ in 0..15 {
                    if let Some(guard) = lock.try_lock().await.unwrap() {
                        witness.enter(&guard);
                        tokio::task::yield_now().await;
                        witness.leave();
                        guard.release().await;
                    }
                }
            }));
        }
    }
    for task in tasks {
        in_time(world, "the storm ends", task).await.unwrap();
    }
    locks.has_length(world, 0).await;
}

pub async fn deadline_passes_on_time_and_leaves_nothing(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].lock().await.unwrap();
    let timeout = Duration::from_millis(300);
    let began = Instant::now();
    assert!(locks[1].try_lock_for(timeout).await.unwrap().is_none());
    let took = began.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    locks.has_length(world, 1).await;
    drop(holder);
    let guard = locks[1].try_lock_for(patience(world)).await.unwrap().expect("free now");
    guard.release().await;
    locks.has_length(world, 0).await;
}

pub async fn dropped_guard_releases_outside_of_a_runtime(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let guard = locks[0].lock().await.unwrap();
    let states = guard.watch();
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    std::thread::spawn(move || drop(guard)).join().unwrap();
    assert_eq!(states.state(), State::Lost(Loss::Released), "at once");
    waiter.guard(world).await.release().await;
}

pub async fn panicking_holder_releases(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let holder = locks[0].clone();
    let panicked = tokio::spawn(async move {
        let _guard = holder.lock().await.unwrap();
        // Unwinds like a panic, without the message of one in the test's output.
        std::panic::resume_unwind(Box::new("the critical section"));
    });
    assert!(in_time(world, "the holder ends", panicked).await.unwrap_err().is_panic());
    let guard = locks[1].try_lock_for(Duration::from_secs(1)).await.unwrap();
    assert!(guard.is_some(), "released within a second");
}

pub async fn withdrawing_at_any_moment_leaves_nothing(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    for held in [true, false] {
        let holder = if held { Some(locks[0].lock().await.unwrap()) } else { None };
        for polls in 0..4 {
            poll_and_drop(locks[1].lock(), polls).await;
            poll_and_drop(locks[1].try_lock(), polls).await;
        }
        for step in 0..40 {
            let moment = Duration::from_micros(150 * step);
            let _ = tokio::time::timeout(moment, locks[1].lock()).await;
        }
        locks.has_length(world, usize::from(held)).await;
        if let Some(holder) = holder {
            holder.check().unwrap();
            holder.release().await;
        }
        let guard = locks[1].try_lock_for(patience(world)).await.unwrap();
        guard.expect("nobody is blocked").release().await;
    }
}

pub async fn withdrawn_middle_waiter_lets_nobody_jump_ahead(world: &dyn World, subject: Subject) {
    let three = contenders(world, 3).await;
    let locks = subject.everywhere(world, &three).await;
    let holder = locks[0].lock().await.unwrap();
    let middle = Waiter::start(world, &locks, 1, 2).await;
    let last = Waiter::start(world, &locks, 2, 3).await;
    let asleep = || three[2].client.metrics().waits;
    eventually("the last one sleeps", patience(world), || async { asleep() >= 1 }).await;
    middle.0.abort();
    locks.has_length(world, 2).await;
    eventually("the last one sleeps again", patience(world), || async { asleep() >= 2 }).await;
    assert!(last.is_waiting(), "the holder still holds");
    holder.check().unwrap();
    holder.release().await;
    last.guard(world).await.release().await;
}

pub async fn names_do_not_overlap(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    let base = fresh_name();
    let names = [
        base.clone(),
        format!("{base}/b"),
        format!("{base}/"),
        format!("{base}\0"),
        format!("{base}%2Fb"),
        format!("{base} "),
        format!("{base}-lock-0000000001"),
        format!("{base}\u{e000}🔒"),
        "..".into(),
        ".".into(),
    ];
    let mut guards = Vec::new();
    for name in &names {
        let lock = subject.of(&one.client, name);
        let guard = in_time(world, "a lock of its own", lock.lock()).await;
        guards.push(guard.unwrap_or_else(|error| panic!("{name:?}: {error}")));
        assert_eq!(lock.entries().await.unwrap().len(), 1, "{name:?}");
    }
    for guard in guards {
        assert_eq!(guard.release().await, Release::Released);
    }
}

pub async fn shows_who_waits(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    let locks = subject.in_one(world, &one).await;
    let holder = locks[0].clone().labelled("the holder \"1\" ü").lock().await.unwrap();
    let waiter = Waiter::start(world, &locks, 0, 2).await;
    assert_eq!(locks[0].entries().await.unwrap(), world.entries(&locks.name).await);
    let entries = locks.entries(world).await;
    let owners: Vec<Owner> = entries.iter().map(|e| Owner::decode(&e.value).unwrap()).collect();
    assert_eq!(owners[0].label.as_deref(), Some("the holder \"1\" ü"));
    assert_eq!(owners[1].pid, std::process::id());
    assert_eq!(entries[0].session, one.client.session_id().await.unwrap());
    assert!(entries[0].token.is_none_or(|token| token == holder.token()));
    waiter.0.abort();
}

pub async fn refuses_bad_input_and_leaves_nothing(world: &dyn World, subject: Subject) {
    let one = world.contender().await;
    assert!(matches!(one.client.mutex(""), Err(Error::InvalidName { .. })));
    assert!(matches!(one.client.mutex("x".repeat(256)), Err(Error::InvalidName { .. })));
    let locks = subject.in_one(world, &one).await;
    let error = locks[0].clone().labelled("x".repeat(2 << 20)).lock().await.unwrap_err();
    assert!(matches!(error, Error::MetadataTooLarge { limit: 4096, .. }), "{error}");
    assert!(error.to_string().contains(locks[0].name()), "{error}");
    assert_eq!(locks.entries(world).await.len(), 0);
}

pub async fn closing_releases_everything_at_once(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let others = subject.in_one(world, &two[0]).await;
    let (guard, second) = (locks[0].lock().await.unwrap(), others[0].lock().await.unwrap());
    let waiter = Waiter::start(world, &locks, 1, 2).await;
    let own_waiter = Waiter::start(world, &locks, 0, 3).await;
    let began = Instant::now();
    two[0].client.close().await;
    assert!(matches!(guard.check(), Err(Error::Lost { loss: Loss::Closed, .. })));
    assert!(second.check().is_err());
    let error = own_waiter.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { loss: Loss::Closed, .. }), "{error}");
    waiter.guard(world).await.release().await;
    others.has_length(world, 0).await;
    assert!(began.elapsed() < world.ttl() / 2, "the store was told, not left to the ttl: {:?}", began.elapsed());
    let again = in_time(world, "a new session opens", locks[0].lock()).await.unwrap();
    again.check().unwrap();
    assert!(guard.check().is_err(), "an old guard stays lost");
    assert_eq!(guard.release().await, Release::NotHeld);
    again.check().unwrap();
}

pub async fn forgotten_client_leaves_no_session(world: &dyn World, subject: Subject) {
    let two = contenders(world, 2).await;
    let locks = subject.everywhere(world, &two).await;
    let guard = locks[0].lock().await.unwrap();
    let mut links = Vec::new();
    for Contender { client, link } in two {
        // Without its link a client could not tell the store anything.
        links.push(link);
        drop(client);
    }
    let other = locks[1].clone();
    drop(locks);
    tokio::task::yield_now().await;
    guard.check().expect("a guard keeps its session");
    drop(guard);
    let guard = other.try_lock_for(Duration::from_secs(2)).await.unwrap();
    guard.expect("released").check().unwrap();
}
