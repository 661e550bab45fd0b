//! The count-down latch, in calm and while things break.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Contender, Cut, World, contenders, eventually, fresh_name, in_time, patience, poll_and_drop};
use crate::{CountDownLatch, Error, Result};

const SECOND: Duration = Duration::from_secs(1);

/// One latch in several clients.
fn everywhere(contenders: &[Contender], count: u32) -> Vec<CountDownLatch> {
    let name = fresh_name();
    contenders.iter().map(|contender| contender.client.count_down_latch(&name, count).unwrap()).collect()
}

fn start(latch: &CountDownLatch) -> JoinHandle<Result<()>> {
    let latch = latch.clone();
    tokio::spawn(async move { latch.wait().await })
}

/// Starts waiting and returns when the waiter sleeps.
async fn waiting(world: &dyn World, contender: &Contender, latch: &CountDownLatch) -> JoinHandle<Result<()>> {
    let before = contender.client.metrics().waits;
    let waiter = start(latch);
    eventually("the waiter sleeps", patience(world), || async { contender.client.metrics().waits > before }).await;
    waiter
}

async fn goes_on(world: &dyn World, waiter: JoinHandle<Result<()>>) {
    in_time(world, "the waiter goes on", waiter).await.unwrap().unwrap();
}

async fn count_down(world: &dyn World, latch: &CountDownLatch) -> u32 {
    in_time(world, "counted down", latch.count_down()).await.unwrap()
}

pub async fn opens_at_zero_and_stays_open(world: &dyn World) {
    let two = contenders(world, 2).await;
    let latch = everywhere(&two, 3);
    assert_eq!(latch[0].count().await.unwrap(), 3, "nobody has used it yet");
    let waiter = waiting(world, &two[1], &latch[1]).await;
    assert_eq!(count_down(world, &latch[0]).await, 2);
    assert_eq!(count_down(world, &latch[1]).await, 1);
    assert_eq!(latch[0].count().await.unwrap(), 1);
    assert!(!waiter.is_finished());
    assert!(!latch[0].wait_for(world.ttl() / 20).await.unwrap());
    assert_eq!(count_down(world, &latch[0]).await, 0);
    goes_on(world, waiter).await;
    assert_eq!(count_down(world, &latch[0]).await, 0, "below zero there is nothing");
    assert_eq!(latch[1].count().await.unwrap(), 0);
    in_time(world, "it stays open", latch[1].wait()).await.unwrap();
    two[0].client.close().await;
    assert!(in_time(world, "it belongs to nobody", latch[0].wait_for(patience(world))).await.unwrap());
}

pub async fn counts_every_one_of_a_crowd_once(world: &dyn World) {
    const EACH: u32 = 8;
    let three = contenders(world, 3).await;
    let latch = everywhere(&three, 3 * EACH);
    let waiter = waiting(world, &three[0], &latch[0]).await;
    let mut crowd = Vec::new();
    for latch in &latch {
        for _ in 0..EACH {
            let latch = latch.clone();
            crowd.push(tokio::spawn(async move { latch.count_down().await }));
        }
    }
    let mut left = Vec::new();
    for one in crowd {
        left.push(in_time(world, "counted down", one).await.unwrap().unwrap());
    }
    left.sort_unstable();
    assert_eq!(left, (0..3 * EACH).collect::<Vec<_>>(), "each has made a step of its own");
    goes_on(world, waiter).await;
}

pub async fn opening_in_the_moment_of_coming_is_not_missed(world: &dyn World) {
    let two = contenders(world, 2).await;
    for step in 0..40 {
        let latch = everywhere(&two, 1);
        let waiter = start(&latch[1]);
        tokio::time::sleep(Duration::from_micros(150 * step)).await;
        assert_eq!(count_down(world, &latch[0]).await, 0);
        // Long before watches are renewed.
        tokio::time::timeout(SECOND * 3, waiter).await.expect("not missed").unwrap().unwrap();
    }
}

pub async fn resetting_closes_it_and_keeps_nobody_who_waited(world: &dyn World) {
    let two = contenders(world, 2).await;
    let latch = everywhere(&two, 2);
    for _ in 0..5 {
        let waiter = waiting(world, &two[1], &latch[1]).await;
        assert_eq!(count_down(world, &latch[0]).await, 1);
        latch[0].reset().await.unwrap();
        assert_eq!(latch[1].count().await.unwrap(), 2, "what was counted is forgotten");
        assert_eq!(count_down(world, &latch[0]).await, 1);
        assert!(!waiter.is_finished(), "it did not open yet");
        assert_eq!(count_down(world, &latch[0]).await, 0);
        latch[0].reset().await.unwrap();
        goes_on(world, waiter).await;
        assert!(!latch[1].wait_for(world.ttl() / 20).await.unwrap(), "who comes later waits");
    }
}

pub async fn another_count_is_refused(world: &dyn World) {
    let two = contenders(world, 2).await;
    let latch = everywhere(&two, 3);
    let other = two[1].client.count_down_latch(latch[0].name(), 4).unwrap();
    let waiter = waiting(world, &two[0], &latch[0]).await;
    for error in [
        in_time(world, "told", other.count_down()).await.unwrap_err(),
        in_time(world, "told", other.count()).await.unwrap_err(),
        in_time(world, "told", other.wait()).await.unwrap_err(),
        in_time(world, "told", other.wait_for(SECOND)).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NumberMismatch { asked: 4, stored: 3, .. }), "{error}");
        assert!(error.to_string().contains(latch[0].name()) && !error.is_retryable(), "{error}");
    }
    assert_eq!(latch[0].count().await.unwrap(), 3, "nothing was counted");
    other.reset().await.unwrap();
    assert_eq!(other.count_down().await.unwrap(), 3, "a reset is the way to another count");
    let error = in_time(world, "who believes in the old count is told", waiter).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NumberMismatch { asked: 3, stored: 4, .. }), "{error}");
    for count in [0, CountDownLatch::MAX_COUNT + 1, u32::MAX] {
        let error = two[0].client.count_down_latch("l", count).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }) && error.to_string().contains("1 to 3000"), "{error}");
    }
}

pub async fn name_in_use_by_another_recipe_is_told(world: &dyn World) {
    let one = world.contender().await;
    let name = fresh_name();
    let barrier = one.client.barrier(&name).unwrap();
    barrier.raise().await.unwrap();
    let latch = one.client.count_down_latch(&name, 3).unwrap();
    for error in [
        in_time(world, "told", latch.count_down()).await.unwrap_err(),
        in_time(world, "told", latch.count()).await.unwrap_err(),
        in_time(world, "told", latch.reset()).await.unwrap_err(),
        in_time(world, "told", latch.wait()).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::OtherRecipe { wanted: "count-down latch", found: "barrier", .. }), "{error}");
    }
    assert!(barrier.is_raised().await.unwrap(), "untouched");
    barrier.lower().await.unwrap();
    assert_eq!(latch.count_down().await.unwrap(), 2, "a lowered barrier leaves nothing");
    let error = barrier.raise().await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { wanted: "barrier", found: "count-down latch", .. }), "{error}");
}

pub async fn lost_replies_count_once(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let latch = everywhere(&two, 6);
        for left in (0..6).rev() {
            two[0].link.lose_next_reply(latch[0].name(), how).await;
            assert_eq!(count_down(world, &latch[0]).await, left, "{how:?}");
            assert_eq!(latch[1].count().await.unwrap(), left, "{how:?}");
        }
        two[0].link.lose_next_reply(latch[0].name(), how).await;
        in_time(world, "reset in the end", latch[0].reset()).await.unwrap();
        assert_eq!(latch[1].count().await.unwrap(), 6, "{how:?}");
    }
}

/// A count-down is two requests, and the moment decides which of them the cut hits.
pub async fn cuts_at_any_moment_count_once(world: &dyn World) {
    const STEPS: u32 = 30;
    let two = contenders(world, 2).await;
    let latch = everywhere(&two, STEPS);
    for step in 0..STEPS {
        let counting = tokio::spawn({
            let latch = latch[0].clone();
            async move { latch.count_down().await }
        });
        tokio::time::sleep(Duration::from_micros(u64::from(step) * 100)).await;
        two[0].link.cut(if step % 2 == 0 { Cut::Fin } else { Cut::Rst }).await;
        let left = in_time(world, "counted down", counting).await.unwrap().unwrap();
        assert_eq!(left, STEPS - 1 - step);
        assert_eq!(latch[1].count().await.unwrap(), left);
    }
}

pub async fn cut_does_not_keep_a_waiter(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let latch = everywhere(&two, 1);
        let waiter = waiting(world, &two[1], &latch[1]).await;
        two[1].link.cut(how).await;
        tokio::time::sleep(world.ttl() / 4).await;
        assert!(!waiter.is_finished(), "a cut is no wake-up");
        // The event is lost on its way, and the latch closed again before the waiter looks.
        two[1].link.hold().await;
        assert_eq!(count_down(world, &latch[0]).await, 0);
        latch[0].reset().await.unwrap();
        two[1].link.cut(how).await;
        two[1].link.resume().await;
        goes_on(world, waiter).await;
    }
}

pub async fn ended_session_does_not_end_a_wait(world: &dyn World) {
    let two = contenders(world, 2).await;
    let latch = everywhere(&two, 2);
    assert_eq!(count_down(world, &latch[1]).await, 1);
    let waiter = waiting(world, &two[1], &latch[1]).await;
    world.expire(&two[1].client.session_id().await.unwrap()).await;
    eventually("it waits in the next session", patience(world), || async {
        two[1].client.metrics().sessions_opened >= 2 && two[1].client.metrics().waits >= 2
    })
    .await;
    assert!(!waiter.is_finished());
    assert_eq!(latch[0].count().await.unwrap(), 1, "what an ended session has counted stays counted");
    assert_eq!(count_down(world, &latch[0]).await, 0);
    goes_on(world, waiter).await;
}

pub async fn silence_longer_than_the_ttl_ends_neither_wait_nor_count_down(world: &dyn World) {
    let two = contenders(world, 2).await;
    let latch = everywhere(&two, 2);
    let waiter = waiting(world, &two[1], &latch[1]).await;
    two[1].link.hold().await;
    let counting = tokio::spawn({
        let latch = latch[1].clone();
        async move { latch.count_down().await }
    });
    assert_eq!(count_down(world, &latch[0]).await, 1);
    tokio::time::sleep(world.ttl() + SECOND).await;
    assert!(!waiter.is_finished());
    two[1].link.resume().await;
    // The session may not have been replaced in time; then nobody knows whether it has counted.
    match in_time(world, "an answer", counting).await.unwrap() {
        Ok(left) => assert_eq!(left, 0),
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            count_down(world, &latch[1]).await;
        }
    }
    goes_on(world, waiter).await;
}

pub async fn dropped_wait_does_not_change_it(world: &dyn World) {
    let two = contenders(world, 2).await;
    let latch = everywhere(&two, 1);
    for polls in 0..6 {
        poll_and_drop(latch[1].wait(), polls).await;
        poll_and_drop(latch[1].wait_for(SECOND), polls).await;
    }
    assert_eq!(latch[0].count().await.unwrap(), 1);
    let before = two[1].client.metrics();
    assert_eq!(count_down(world, &latch[0]).await, 0);
    in_time(world, "it still works", latch[1].wait()).await.unwrap();
    assert_eq!(two[1].client.metrics().nudges, before.nudges, "nobody waits any more");
}

pub async fn deadline_of_a_wait_holds_also_in_silence(world: &dyn World) {
    let one = world.contender().await;
    let latch = one.client.count_down_latch(fresh_name(), 1).unwrap();
    let timeout = Duration::from_millis(200);
    let on_time = |began: Instant| {
        let took = began.elapsed();
        assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    };
    let began = Instant::now();
    assert!(!latch.wait_for(timeout).await.unwrap());
    on_time(began);
    one.link.hold().await;
    let began = Instant::now();
    let error = latch.wait_for(timeout).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains(latch.name()), "{error}");
    on_time(began);
    one.link.resume().await;
}
