//! The barrier, in calm and while things break.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Contender, Cut, World, contenders, eventually, fresh_name, in_time, patience, poll_and_drop};
use crate::{Barrier, Error, Name, Result};

const SECOND: Duration = Duration::from_secs(1);

/// One barrier in several clients.
fn everywhere(contenders: &[Contender]) -> Vec<Barrier> {
    let name = fresh_name();
    contenders.iter().map(|contender| contender.client.barrier(&name).unwrap()).collect()
}

fn start(barrier: &Barrier) -> JoinHandle<Result<()>> {
    let barrier = barrier.clone();
    tokio::spawn(async move { barrier.wait().await })
}

/// Starts waiting and returns when the waiter sleeps.
async fn waiting(world: &dyn World, contender: &Contender, barrier: &Barrier) -> JoinHandle<Result<()>> {
    let before = contender.client.metrics().waits;
    let waiter = start(barrier);
    eventually("the waiter sleeps", patience(world), || async { contender.client.metrics().waits > before }).await;
    waiter
}

async fn passes(world: &dyn World, waiter: JoinHandle<Result<()>>) {
    in_time(world, "the waiter goes on", waiter).await.unwrap().unwrap();
}

pub async fn who_comes_to_a_lowered_one_goes_on(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    in_time(world, "never raised", barrier[0].wait()).await.unwrap();
    barrier[0].lower().await.unwrap();
    assert!(!barrier[1].is_raised().await.unwrap());
    barrier[0].raise().await.unwrap();
    assert!(barrier[1].is_raised().await.unwrap());
    barrier[1].lower().await.unwrap();
    assert!(!barrier[0].is_raised().await.unwrap());
    in_time(world, "lowered", barrier[0].wait()).await.unwrap();
}

pub async fn lowering_wakes_each_waiter_once(world: &dyn World) {
    const WAITERS: usize = 10;
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    let count = |of: fn(crate::Metrics) -> u64| two.iter().map(|c| of(c.client.metrics())).sum::<u64>();
    barrier[0].raise().await.unwrap();
    let mut waiters = Vec::new();
    for i in 0..WAITERS {
        waiters.push(waiting(world, &two[i % 2], &barrier[i % 2]).await);
    }
    barrier[1].raise().await.unwrap();
    tokio::time::sleep(world.ttl() / 4).await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "raising what is raised lets nobody go on");
    assert_eq!(count(|m| m.nudges), 0, "nor does it wake anybody");
    barrier[0].lower().await.unwrap();
    for waiter in waiters {
        passes(world, waiter).await;
    }
    assert_eq!(count(|m| m.nudges), WAITERS as u64);
    assert_eq!(count(|m| m.looks), 2 * WAITERS as u64, "one look when each came and one when it was woken");
}

pub async fn stays_raised_without_the_one_who_raised_it(world: &dyn World) {
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three);
    barrier[0].raise().await.unwrap();
    three[0].client.close().await;
    assert!(barrier[1].is_raised().await.unwrap());
    let waiter = waiting(world, &three[1], &barrier[1]).await;
    barrier[2].lower().await.unwrap();
    passes(world, waiter).await;
}

pub async fn raising_again_at_once_lets_the_waiters_go_on(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    barrier[0].raise().await.unwrap();
    for _ in 0..10 {
        let waiter = waiting(world, &two[1], &barrier[1]).await;
        barrier[0].lower().await.unwrap();
        barrier[0].raise().await.unwrap();
        passes(world, waiter).await;
    }
    assert!(!barrier[1].wait_for(world.ttl() / 10).await.unwrap(), "who comes later waits");
}

pub async fn lowering_in_the_moment_of_coming_is_not_missed(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    for step in 0..40 {
        barrier[0].raise().await.unwrap();
        let waiter = start(&barrier[1]);
        tokio::time::sleep(Duration::from_micros(100 * step)).await;
        barrier[0].lower().await.unwrap();
        // Long before watches are renewed.
        tokio::time::timeout(SECOND * 3, waiter).await.expect("not missed").unwrap().unwrap();
    }
}

pub async fn deadline_of_a_wait_passes_on_time(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    assert!(barrier[1].wait_for(patience(world)).await.unwrap(), "never raised");
    barrier[0].raise().await.unwrap();
    let timeout = Duration::from_millis(300);
    let began = Instant::now();
    assert!(!barrier[1].wait_for(timeout).await.unwrap());
    let took = began.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    let waiter = tokio::spawn({
        let (barrier, long) = (barrier[1].clone(), patience(world));
        async move { barrier.wait_for(long).await }
    });
    barrier[0].lower().await.unwrap();
    assert!(in_time(world, "lowered in time", waiter).await.unwrap().unwrap());
}

pub async fn dropped_wait_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    barrier[0].raise().await.unwrap();
    for polls in 0..6 {
        poll_and_drop(barrier[1].wait(), polls).await;
        poll_and_drop(barrier[1].wait_for(SECOND), polls).await;
    }
    for step in 0..20 {
        let _ = tokio::time::timeout(Duration::from_micros(150 * step), barrier[1].wait()).await;
    }
    let name = Name::new(barrier[0].name()).unwrap();
    assert_eq!(world.entries(&name).await, [], "waiting takes no place in a queue");
    let before = two[1].client.metrics();
    barrier[0].lower().await.unwrap();
    in_time(world, "it still works", barrier[1].wait()).await.unwrap();
    assert_eq!(two[1].client.metrics().nudges, before.nudges, "nobody waits any more");
}

pub async fn name_in_use_by_another_recipe_is_told(world: &dyn World) {
    let one = world.contender().await;
    let (name, other) = (fresh_name(), fresh_name());
    let permit = one.client.semaphore(&name, 3).unwrap().acquire(1).await.unwrap();
    let barrier = one.client.barrier(&name).unwrap();
    for error in [
        in_time(world, "told", barrier.raise()).await.unwrap_err(),
        in_time(world, "told", barrier.lower()).await.unwrap_err(),
        in_time(world, "told", barrier.is_raised()).await.unwrap_err(),
        in_time(world, "told", barrier.wait()).await.unwrap_err(),
        in_time(world, "told", barrier.wait_for(SECOND)).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::OtherRecipe { wanted: "barrier", found: "semaphore", .. }), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
    permit.check().expect("untouched");
    one.client.barrier(&other).unwrap().raise().await.unwrap();
    let error = one.client.semaphore(&other, 3).unwrap().acquire(1).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { found: "barrier", .. }), "{error}");
    assert!(matches!(one.client.barrier(""), Err(Error::InvalidName { .. })));
}

pub async fn cut_does_not_keep_a_waiter(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let barrier = everywhere(&two);
        barrier[0].raise().await.unwrap();
        let waiter = waiting(world, &two[1], &barrier[1]).await;
        two[1].link.cut(how).await;
        tokio::time::sleep(world.ttl() / 4).await;
        assert!(!waiter.is_finished(), "a cut is no wake-up");
        barrier[0].lower().await.unwrap();
        passes(world, waiter).await;
        // The event is lost on its way.
        barrier[0].raise().await.unwrap();
        let waiter = waiting(world, &two[1], &barrier[1]).await;
        two[1].link.hold().await;
        barrier[0].lower().await.unwrap();
        two[1].link.cut(how).await;
        two[1].link.resume().await;
        passes(world, waiter).await;
    }
}

pub async fn ended_session_does_not_end_a_wait(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    barrier[0].raise().await.unwrap();
    let waiter = waiting(world, &two[1], &barrier[1]).await;
    world.expire(&two[1].client.session_id().await.unwrap()).await;
    eventually("it waits in the next session", patience(world), || async {
        two[1].client.metrics().sessions_opened >= 2 && two[1].client.metrics().waits >= 2
    })
    .await;
    assert!(!waiter.is_finished());
    two[1].client.close().await;
    barrier[0].lower().await.unwrap();
    passes(world, waiter).await;
}

pub async fn silence_longer_than_the_ttl_does_not_end_a_wait(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    barrier[0].raise().await.unwrap();
    let waiter = waiting(world, &two[1], &barrier[1]).await;
    two[1].link.hold().await;
    barrier[0].lower().await.unwrap();
    // Raised again, so that only the change tells.
    barrier[0].raise().await.unwrap();
    tokio::time::sleep(world.ttl() + SECOND).await;
    assert!(!waiter.is_finished());
    two[1].link.resume().await;
    passes(world, waiter).await;
}

pub async fn lost_replies_do_not_change_the_outcome(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let barrier = everywhere(&two);
        for _ in 0..3 {
            two[0].link.lose_next_reply(barrier[0].name(), how).await;
            in_time(world, "raised in the end", barrier[0].raise()).await.unwrap();
            assert!(barrier[1].is_raised().await.unwrap(), "{how:?}");
            let waiter = waiting(world, &two[1], &barrier[1]).await;
            two[0].link.lose_next_reply(barrier[0].name(), how).await;
            in_time(world, "lowered in the end", barrier[0].lower()).await.unwrap();
            assert!(!barrier[1].is_raised().await.unwrap(), "{how:?}");
            passes(world, waiter).await;
        }
    }
}

pub async fn deadline_of_a_wait_holds_in_silence(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two);
    barrier[0].raise().await.unwrap();
    let timeout = SECOND;
    let on_time = |began: Instant| {
        let took = began.elapsed();
        assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    };
    two[1].link.hold().await;
    let began = Instant::now();
    let error = barrier[1].wait_for(timeout).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains(barrier[1].name()), "{error}");
    on_time(began);
    two[1].link.resume().await;
    let began = Instant::now();
    let asleep = two[1].client.metrics().waits;
    let waiter = tokio::spawn({
        let barrier = barrier[1].clone();
        async move { barrier.wait_for(timeout).await }
    });
    eventually("it sleeps", timeout, || async { two[1].client.metrics().waits > asleep }).await;
    two[1].link.hold().await;
    assert!(!in_time(world, "an answer", waiter).await.unwrap().unwrap(), "seen raised, and not lowered in time");
    on_time(began);
    two[1].link.resume().await;
}
