//! The mutex while nothing breaks.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    Contender, Waiter, Witness, World, contenders, eventually, everywhere, fresh_name, in_time, name, patience,
};
use super::{poll_and_drop, queue_length};
use crate::owner::Owner;
use crate::{Error, Loss, Release, State};

pub async fn excludes_two_tasks_of_one_session(world: &dyn World) {
    let one = world.contender().await;
    let mutex = one.client.mutex(fresh_name()).unwrap();
    let first = mutex.lock().await.unwrap();
    let second = Waiter::start(world, &mutex, 2).await;
    let entries = world.entries(&name(&mutex)).await;
    assert_ne!(entries[0].entry.key, entries[1].entry.key);
    assert_eq!(entries[0].session, entries[1].session);
    assert!(second.is_waiting());
    let token = first.token();
    assert_eq!(first.release().await, Release::Released);
    let second = second.guard(world).await;
    assert!(second.token() > token);
    assert_eq!(second.release().await, Release::Released);
    queue_length(world, &mutex, 0).await;
}

pub async fn excludes_two_sessions(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let first = mutex[0].lock().await.unwrap();
    let second = Waiter::start(world, &mutex[1], 2).await;
    assert!(mutex[1].try_lock().await.unwrap().is_none());
    assert!(second.is_waiting());
    assert_eq!(first.state(), State::Held);
    assert_eq!(first.release().await, Release::Released);
    second.guard(world).await.check().unwrap();
    queue_length(world, &mutex[0], 0).await;
}

pub async fn has_one_holder_under_contention(world: &dyn World) {
    const TASKS: usize = 4;
    const ROUNDS: usize = 10;
    let three = contenders(world, 3).await;
    let witness = Arc::new(Witness::default());
    let mutexes = everywhere(&three);
    let mut tasks = Vec::new();
    for mutex in mutexes.iter().flat_map(|mutex| std::iter::repeat_n(mutex, TASKS)) {
        let (mutex, witness) = (mutex.clone(), witness.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let guard = mutex.lock().await.unwrap();
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
    queue_length(world, &mutexes[0], 0).await;
}

pub async fn grants_in_the_order_of_the_queue(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let holder = mutex[0].lock().await.unwrap();
    let mut waiters = Vec::new();
    for i in 0..8 {
        waiters.push(Waiter::start(world, &mutex[i % 2], i + 2).await);
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

pub async fn wakes_one_waiter_per_release(world: &dyn World) {
    const WAITERS: u64 = 10;
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let count = |of: fn(crate::Metrics) -> u64| two.iter().map(|c| of(c.client.metrics())).sum::<u64>();
    let holder = mutex[0].lock().await.unwrap();
    let mut waiters = Vec::new();
    for i in 0..WAITERS {
        waiters.push(Waiter::start(world, &mutex[(i % 2) as usize], i as usize + 2).await);
    }
    eventually("everybody sleeps", patience(world), || async { count(|m| m.waits) >= WAITERS }).await;
    assert_eq!(count(|m| m.wakeups), 0, "nobody wakes before the release");
    drop(holder);
    for waiter in waiters {
        waiter.guard(world).await.release().await;
    }
    assert_eq!(count(|m| m.wakeups), WAITERS);
    assert_eq!(count(|m| m.granted), WAITERS + 1);
}

pub async fn try_lock_takes_a_free_lock(world: &dyn World) {
    let one = world.contender().await;
    let mutex = one.client.mutex(fresh_name()).unwrap();
    let guard = mutex.try_lock().await.unwrap().expect("the lock is free");
    assert_eq!(world.entries(&name(&mutex)).await.len(), 1);
    assert_eq!(guard.release().await, Release::Released);
    assert_eq!(world.entries(&name(&mutex)).await.len(), 0);
}

pub async fn try_lock_on_a_held_lock_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let holder = mutex[0].lock().await.unwrap();
    for i in 0..20 {
        assert!(mutex[i % 2].try_lock().await.unwrap().is_none());
        assert_eq!(world.entries(&name(&mutex[0])).await.len(), 1, "when try_lock answers, its entry is gone");
    }
    drop(holder);
}

pub async fn try_lock_storm_never_overlaps_and_leaves_nothing(world: &dyn World) {
    let three = contenders(world, 3).await;
    let mutexes = everywhere(&three);
    let witness = Arc::new(Witness::default());
    let mut tasks = Vec::new();
    for mutex in &mutexes {
        for _ in 0..3 {
            let (mutex, witness) = (mutex.clone(), witness.clone());
            tasks.push(tokio::spawn(async move {
                for _ in 0..15 {
                    if let Some(guard) = mutex.try_lock().await.unwrap() {
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
    queue_length(world, &mutexes[0], 0).await;
}

pub async fn deadline_passes_on_time_and_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let holder = mutex[0].lock().await.unwrap();
    let timeout = Duration::from_millis(300);
    let began = Instant::now();
    assert!(mutex[1].try_lock_for(timeout).await.unwrap().is_none());
    let took = began.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    queue_length(world, &mutex[0], 1).await;
    drop(holder);
    let guard = mutex[1].try_lock_for(patience(world)).await.unwrap().expect("free now");
    guard.release().await;
    queue_length(world, &mutex[0], 0).await;
}

pub async fn dropped_guard_releases_outside_of_a_runtime(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let guard = mutex[0].lock().await.unwrap();
    let states = guard.watch();
    let waiter = Waiter::start(world, &mutex[1], 2).await;
    std::thread::spawn(move || drop(guard)).join().unwrap();
    assert_eq!(states.state(), State::Lost(Loss::Released), "at once");
    waiter.guard(world).await.release().await;
}

pub async fn panicking_holder_releases(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let holder = mutex[0].clone();
    let panicked = tokio::spawn(async move {
        let _guard = holder.lock().await.unwrap();
        // Unwinds like a panic, without the message of one in the test's output.
        std::panic::resume_unwind(Box::new("the critical section"));
    });
    assert!(in_time(world, "the holder ends", panicked).await.unwrap_err().is_panic());
    let guard = mutex[1].try_lock_for(Duration::from_secs(1)).await.unwrap();
    assert!(guard.is_some(), "released within a second");
}

pub async fn withdrawing_at_any_moment_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    for held in [true, false] {
        let holder = if held { Some(mutex[0].lock().await.unwrap()) } else { None };
        for polls in 0..4 {
            poll_and_drop(mutex[1].lock(), polls).await;
            poll_and_drop(mutex[1].try_lock(), polls).await;
        }
        for step in 0..40 {
            let moment = Duration::from_micros(150 * step);
            let _ = tokio::time::timeout(moment, mutex[1].lock()).await;
        }
        queue_length(world, &mutex[0], usize::from(held)).await;
        if let Some(holder) = holder {
            holder.check().unwrap();
            holder.release().await;
        }
        let guard = mutex[1].try_lock_for(patience(world)).await.unwrap();
        guard.expect("nobody is blocked").release().await;
    }
}

pub async fn withdrawn_middle_waiter_lets_nobody_jump_ahead(world: &dyn World) {
    let three = contenders(world, 3).await;
    let mutex = everywhere(&three);
    let holder = mutex[0].lock().await.unwrap();
    let middle = Waiter::start(world, &mutex[1], 2).await;
    let last = Waiter::start(world, &mutex[2], 3).await;
    let asleep = || three[2].client.metrics().waits;
    eventually("the last one sleeps", patience(world), || async { asleep() >= 1 }).await;
    middle.0.abort();
    queue_length(world, &mutex[0], 2).await;
    eventually("the last one sleeps again", patience(world), || async { asleep() >= 2 }).await;
    assert!(last.is_waiting(), "the holder still holds");
    holder.check().unwrap();
    holder.release().await;
    last.guard(world).await.release().await;
}

pub async fn names_do_not_overlap(world: &dyn World) {
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
        let mutex = one.client.mutex(name).unwrap();
        let guard = in_time(world, "a lock of its own", mutex.lock()).await;
        guards.push(guard.unwrap_or_else(|error| panic!("{name:?}: {error}")));
        assert_eq!(mutex.entries().await.unwrap().len(), 1, "{name:?}");
    }
    for guard in guards {
        assert_eq!(guard.release().await, Release::Released);
    }
}

pub async fn shows_who_waits(world: &dyn World) {
    let one = world.contender().await;
    let mutex = one.client.mutex(fresh_name()).unwrap();
    let holder = mutex.clone().labelled("the holder \"1\" ü").lock().await.unwrap();
    let waiter = Waiter::start(world, &mutex, 2).await;
    let entries = mutex.entries().await.unwrap();
    assert_eq!(entries, world.entries(&name(&mutex)).await);
    let owners: Vec<Owner> = entries.iter().map(|e| Owner::decode(&e.value).unwrap()).collect();
    assert_eq!(owners[0].label.as_deref(), Some("the holder \"1\" ü"));
    assert_eq!(owners[1].pid, std::process::id());
    assert_eq!(entries[0].session, one.client.session_id().await.unwrap());
    assert!(entries[0].token.is_none_or(|token| token == holder.token()));
    waiter.0.abort();
}

pub async fn refuses_bad_input_and_leaves_nothing(world: &dyn World) {
    let one = world.contender().await;
    assert!(matches!(one.client.mutex(""), Err(Error::InvalidName { .. })));
    assert!(matches!(one.client.mutex("x".repeat(256)), Err(Error::InvalidName { .. })));
    let mutex = one.client.mutex(fresh_name()).unwrap();
    let error = mutex.clone().labelled("x".repeat(2 << 20)).lock().await.unwrap_err();
    assert!(matches!(error, Error::MetadataTooLarge { limit: 4096, .. }), "{error}");
    assert!(error.to_string().contains(mutex.name()), "{error}");
    assert_eq!(world.entries(&name(&mutex)).await.len(), 0);
}

pub async fn closing_releases_everything_at_once(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let other = two[0].client.mutex(fresh_name()).unwrap();
    let (guard, second) = (mutex[0].lock().await.unwrap(), other.lock().await.unwrap());
    let waiter = Waiter::start(world, &mutex[1], 2).await;
    let own_waiter = Waiter::start(world, &mutex[0], 3).await;
    let began = Instant::now();
    two[0].client.close().await;
    assert!(matches!(guard.check(), Err(Error::Lost { loss: Loss::Closed, .. })));
    assert!(second.check().is_err());
    let error = own_waiter.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { loss: Loss::Closed, .. }), "{error}");
    waiter.guard(world).await.release().await;
    queue_length(world, &other, 0).await;
    assert!(began.elapsed() < world.ttl() / 2, "the store was told, not left to the ttl: {:?}", began.elapsed());
    let again = in_time(world, "a new session opens", mutex[0].lock()).await.unwrap();
    again.check().unwrap();
    assert!(guard.check().is_err(), "an old guard stays lost");
    assert_eq!(guard.release().await, Release::NotHeld);
    again.check().unwrap();
}

pub async fn forgotten_client_leaves_no_session(world: &dyn World) {
    let two = contenders(world, 2).await;
    let mutex = everywhere(&two);
    let guard = mutex[0].lock().await.unwrap();
    let mut links = Vec::new();
    for Contender { client, link } in two {
        // Without its link a client could not tell the store anything.
        links.push(link);
        drop(client);
    }
    let mut mutex = mutex.into_iter();
    drop(mutex.next());
    tokio::task::yield_now().await;
    guard.check().expect("a guard keeps its session");
    drop(guard);
    let guard = mutex.next().unwrap().try_lock_for(Duration::from_secs(2)).await.unwrap();
    guard.expect("released").check().unwrap();
}
