//! The pause after a holder that vanished.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Contender, NOT_WOKEN, Waiter, World, contenders, fresh_name, has_length, in_time, patience, poll_and_drop,
};
use crate::{Error, Guard, Mutex, Name, Release};

/// Long enough to be told from any delay of a test that is not broken.
const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(1_500);

/// One mutex in several clients.
struct Bench {
    clients: Vec<Contender>,
    name: Name,
}

impl Bench {
    async fn new(world: &dyn World, clients: usize) -> Self {
        Self { clients: contenders(world, clients).await, name: Name::new(fresh_name()).unwrap() }
    }

    fn plain(&self, client: usize) -> Mutex {
        self.clients[client].client.mutex(&self.name).unwrap()
    }

    fn delayed(&self, client: usize, delay: Duration) -> Mutex {
        self.plain(client).with_lock_delay(delay)
    }

    /// Starts waiting, as the `n`-th in the queue.
    async fn waiter(&self, world: &dyn World, mutex: Mutex, n: usize) -> Waiter<Guard> {
        Waiter::nth(world, (&self.name, n), mutex.lock()).await
    }

    async fn has_length(&self, world: &dyn World, n: usize) {
        has_length(world, &self.name, n).await;
    }

    async fn remove_first(&self, world: &dyn World) {
        let entry = world.entries(&self.name).await.remove(0).entry;
        world.remove(&entry).await;
    }

    async fn expire(&self, world: &dyn World, client: usize) {
        world.expire(&self.clients[client].client.session_id().await.unwrap()).await;
    }
}

/// A guard after a pause of `delay`, counted from `since`.
async fn granted_after(world: &dyn World, delay: Duration, since: Instant, waiter: Waiter<Guard>) -> Guard {
    let within = delay + patience(world);
    let guard = tokio::time::timeout(within, waiter.0).await.expect("after the pause").unwrap().unwrap();
    assert!(since.elapsed() >= delay, "a pause of {delay:?} took {:?}", since.elapsed());
    guard.check().unwrap();
    guard
}

/// A guard without a pause.
async fn granted_at_once(what: &str, mutex: Mutex) -> Guard {
    let guard = tokio::time::timeout(LONG / 2, mutex.lock()).await.unwrap_or_else(|_| panic!("a pause: {what}"));
    guard.unwrap()
}

pub async fn release_and_drop_cause_no_pause(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    for round in 0..6 {
        let guard = granted_at_once("the last one left in order", bench.delayed(round % 2, LONG)).await;
        match round % 3 {
            0 => drop(guard),
            1 => assert_eq!(guard.release().await, Release::Released),
            _ => poll_and_drop(guard.release(), 1).await,
        }
    }
    let holder = granted_at_once("the last one left in order", bench.delayed(0, LONG)).await;
    let waiter = bench.waiter(world, bench.delayed(1, LONG), 2).await;
    drop(holder);
    let guard = tokio::time::timeout(LONG / 2, waiter.0).await.expect("no pause").unwrap().unwrap();
    guard.check().unwrap();
    let none = bench.delayed(0, LONG).try_lock().await.unwrap();
    assert!(none.is_none());
    guard.release().await;
    let taken = tokio::time::timeout(LONG / 2, bench.delayed(0, LONG).try_lock()).await.expect("no pause");
    taken.unwrap().expect("free").release().await;
    bench.has_length(world, 0).await;
}

pub async fn withdrawing_at_any_moment_causes_no_pause(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    for polls in 0..6 {
        poll_and_drop(bench.delayed(0, LONG).lock(), polls).await;
        poll_and_drop(bench.delayed(0, LONG).try_lock(), polls).await;
    }
    for step in 0..25 {
        let _ = tokio::time::timeout(Duration::from_micros(500 * step), bench.delayed(0, LONG).lock()).await;
    }
    let guard = granted_at_once("all left in order", bench.delayed(1, LONG)).await;
    guard.release().await;
    bench.has_length(world, 0).await;
}

pub async fn ended_session_of_the_holder_causes_a_pause(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let dying = bench.delayed(0, SHORT).lock().await.unwrap();
    let waiter = bench.waiter(world, bench.delayed(1, LONG), 2).await;
    let since = Instant::now();
    bench.expire(world, 0).await;
    let guard = granted_after(world, SHORT, since, waiter).await;
    assert!(dying.check().is_err());
    assert!(guard.token() > dying.token());
    assert_eq!(dying.release().await, Release::NotHeld);
    guard.release().await;
    granted_at_once("the last one left in order", bench.delayed(0, LONG)).await.release().await;
}

pub async fn removed_holder_causes_a_pause(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let removed = bench.delayed(0, SHORT).lock().await.unwrap();
    let waiter = bench.waiter(world, bench.delayed(1, LONG), 2).await;
    let since = Instant::now();
    bench.remove_first(world).await;
    let guard = granted_after(world, SHORT, since, waiter).await;
    assert_eq!(removed.release().await, Release::NotHeld, "the late release does not say that it left in order");
    guard.release().await;
    // Nobody waited when it vanished, so nobody knows when that was.
    let removed = granted_at_once("the last one left in order", bench.delayed(0, SHORT)).await;
    bench.remove_first(world).await;
    tokio::time::timeout(Duration::from_secs(1), removed.lost()).await.expect("noticed within a second");
    drop(removed);
    let since = Instant::now();
    let waiter = bench.waiter(world, bench.delayed(1, LONG), 1).await;
    granted_after(world, SHORT, since, waiter).await.release().await;
}

pub async fn second_loss_in_the_pause_begins_another(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    for dies in [false, true] {
        let removed = bench.delayed(0, SHORT).lock().await.unwrap();
        let second = bench.waiter(world, bench.delayed(1, LONG), 2).await;
        let third = bench.waiter(world, bench.delayed(2, LONG), 3).await;
        bench.remove_first(world).await;
        bench.has_length(world, 2).await;
        tokio::time::sleep(SHORT / 3).await;
        assert!(second.is_waiting() && third.is_waiting());
        let since = Instant::now();
        if dies {
            bench.expire(world, 1).await;
            let error = second.outcome(world).await.unwrap_err();
            assert!(error.is_retryable(), "{error}");
        } else {
            bench.remove_first(world).await;
            let told = tokio::time::timeout(SHORT / 2, second.0).await.expect("told at once, not after the pause");
            let error = told.unwrap().unwrap_err();
            assert!(matches!(error, Error::EntryRemoved { .. }), "{error}");
        }
        granted_after(world, SHORT, since, third).await.release().await;
        assert!(removed.check().is_err());
    }
}

pub async fn withdrawing_in_the_pause_leaves_the_rest_to_the_next(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let removed = bench.delayed(0, SHORT).lock().await.unwrap();
    let second = bench.waiter(world, bench.delayed(1, LONG), 2).await;
    let vanished = Instant::now();
    bench.remove_first(world).await;
    bench.has_length(world, 1).await;
    tokio::time::sleep(SHORT / 3).await;
    second.0.abort();
    bench.has_length(world, 0).await;
    let began = Instant::now();
    let timeout = SHORT / 3;
    assert!(bench.delayed(1, LONG).try_lock_for(timeout).await.unwrap().is_none(), "the deadline counts in the pause");
    assert!(began.elapsed() >= timeout && began.elapsed() < SHORT, "took {:?}", began.elapsed());
    bench.has_length(world, 0).await;
    let third = bench.waiter(world, bench.delayed(0, LONG), 1).await;
    let since = Instant::now();
    granted_after(world, SHORT, vanished, third).await.release().await;
    assert!(since.elapsed() < SHORT * 2 / 3, "a third was left, and it took {:?}", since.elapsed());
    drop(removed);
    granted_at_once("the last one left in order", bench.delayed(0, LONG)).await.release().await;
}

pub async fn closing_withdraws_in_order(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let guard = bench.delayed(0, LONG).lock().await.unwrap();
    drop(guard);
    bench.clients[0].client.close().await;
    let guard = granted_at_once("the last one was dropped", bench.delayed(1, SHORT)).await;
    let waiter = bench.waiter(world, bench.delayed(0, LONG), 2).await;
    bench.clients[0].client.close().await;
    assert!(waiter.outcome(world).await.unwrap_err().is_retryable());
    bench.has_length(world, 1).await;

    let waiter = bench.waiter(world, bench.delayed(0, LONG), 2).await;
    let vanished = Instant::now();
    bench.remove_first(world).await;
    bench.has_length(world, 1).await;
    tokio::time::sleep(SHORT * 2 / 3).await;
    bench.clients[0].client.close().await;
    assert!(waiter.outcome(world).await.unwrap_err().is_retryable());
    let next = bench.waiter(world, bench.delayed(1, SHORT), 1).await;
    let since = Instant::now();
    let next = granted_after(world, SHORT, vanished, next).await;
    assert!(since.elapsed() < SHORT * 2 / 3, "a third was left, and it took {:?}", since.elapsed());
    drop(guard);

    // One that still holds vanishes.
    let waiter = bench.waiter(world, bench.delayed(0, LONG), 2).await;
    let vanished = Instant::now();
    bench.clients[1].client.close().await;
    assert!(next.check().is_err());
    granted_after(world, SHORT, vanished, waiter).await.release().await;
}

pub async fn removed_waiter_causes_no_pause(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let holder = bench.delayed(0, LONG).lock().await.unwrap();
    let second = bench.waiter(world, bench.delayed(1, LONG), 2).await;
    let third = bench.waiter(world, bench.delayed(2, LONG), 3).await;
    let entry = world.entries(&bench.name).await.remove(1).entry;
    world.remove(&entry).await;
    second.outcome(world).await.unwrap_err();
    holder.release().await;
    let guard = tokio::time::timeout(LONG / 2, third.0).await.expect("no pause").unwrap().unwrap();
    guard.check().unwrap();
}

pub async fn who_did_not_ask_neither_waits_nor_makes_others_wait(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let removed = bench.delayed(0, LONG).lock().await.unwrap();
    let waiter = bench.waiter(world, bench.plain(1), 2).await;
    bench.remove_first(world).await;
    let plain = tokio::time::timeout(LONG / 2, waiter.0).await.expect("it did not ask").unwrap().unwrap();
    plain.check().unwrap();
    drop((removed, plain));
    let bench = Bench::new(world, 2).await;
    let removed = bench.plain(0).lock().await.unwrap();
    let waiter = bench.waiter(world, bench.delayed(1, LONG), 2).await;
    bench.remove_first(world).await;
    let guard = tokio::time::timeout(LONG / 2, waiter.0).await.expect("that one did not ask").unwrap().unwrap();
    guard.check().unwrap();
    drop(removed);
}

pub async fn cut_off_holder_causes_a_pause_after_its_end(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let holder = bench.delayed(0, SHORT).lock().await.unwrap();
    let waiter = bench.waiter(world, bench.delayed(1, SHORT), 2).await;
    bench.clients[0].link.hold().await;
    let lost = tokio::time::timeout(NOT_WOKEN, holder.lost());
    lost.await.expect("its life cannot be proven");
    let since = Instant::now();
    let guard = granted_after(world, SHORT, since, waiter).await;
    // What it sends late must not say that it left in order.
    drop(holder);
    bench.clients[0].link.resume().await;
    in_time(world, "the new holder is gone", guard.release()).await;
    granted_at_once("the last one left in order", bench.delayed(0, LONG)).await.check().unwrap();
}
