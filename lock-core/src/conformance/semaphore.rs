//! The semaphore: several holders, several permits at once, and a limit that changes.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as Shared};
use std::time::Duration;

use tokio::time::Instant;

use super::{
    Contender, Cut, NOT_WOKEN, Waiter, World, contenders, count, eventually, fresh_name, has_length, in_time, patience,
    sleeps,
};
use crate::backend::Kind;
use crate::{Error, Loss, Name, Permits, Release, Semaphore};

/// One semaphore in several clients, by the client's number.
struct Bench {
    clients: Vec<Contender>,
    semaphores: Vec<Semaphore>,
    name: Name,
}

impl Bench {
    async fn new(world: &dyn World, clients: usize, limit: u32) -> Self {
        let name = fresh_name();
        let clients = contenders(world, clients).await;
        let semaphores = clients.iter().map(|one| one.client.semaphore(&name, limit).unwrap()).collect();
        Self { clients, semaphores, name: Name::new(name).unwrap() }
    }

    async fn acquire(&self, client: usize, permits: u32) -> Permits {
        self.semaphores[client].acquire(permits).await.unwrap()
    }

    /// Starts waiting and returns when the waiter sleeps as the `n`-th in the queue.
    async fn waiter(&self, world: &dyn World, client: usize, permits: u32, n: usize) -> Waiter<Permits> {
        let slept = self.clients[client].client.metrics().waits;
        let waiter = Waiter::nth(world, (&self.name, n), self.semaphores[client].acquire(permits)).await;
        sleeps(world, &self.clients[client], slept + 1).await;
        waiter
    }

    async fn has_length(&self, world: &dyn World, n: usize) {
        has_length(world, &self.name, n).await;
    }

    async fn session(&self, client: usize) -> String {
        self.clients[client].client.session_id().await.unwrap()
    }
}

/// Counts permits, and remembers their ids.
struct Witness {
    limit: u32,
    out: AtomicU32,
    ids: Shared<HashSet<String>>,
}

impl Witness {
    fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self { limit, out: AtomicU32::new(0), ids: Shared::default() })
    }

    fn enter(&self, permits: &Permits) {
        let out = self.out.fetch_add(permits.count(), Ordering::SeqCst) + permits.count();
        assert!(out <= self.limit, "{out} permits of {} are held", self.limit);
        for permit in permits.permits() {
            assert!(self.ids.lock().unwrap().insert(permit.id.clone()), "{} was granted twice", permit.id);
        }
    }

    fn leave(&self, permits: &Permits) {
        self.out.fetch_sub(permits.count(), Ordering::SeqCst);
    }

    fn granted(&self) -> usize {
        self.ids.lock().unwrap().len()
    }
}

/// One of the tasks of a storm: takes permits in every way, holds them for a moment, and gives them back in every way.
async fn take_permits(semaphore: Semaphore, witness: Arc<Witness>, rounds: usize, stall: Duration) {
    for round in 0..rounds {
        let wanted = fastrand::u32(1..=witness.limit);
        let began = Instant::now();
        let taken = match fastrand::u8(0..6) {
            0 => semaphore.try_acquire(wanted).await,
            1 => semaphore.try_acquire_for(wanted, Duration::from_millis(fastrand::u64(0..40))).await,
            2 => {
                let moment = Duration::from_micros(fastrand::u64(0..20_000));
                match tokio::time::timeout(moment, semaphore.acquire(wanted)).await {
                    Ok(taken) => taken.map(Some),
                    Err(_) => continue,
                }
            }
            _ => tokio::time::timeout(stall, semaphore.acquire(wanted))
                .await
                .unwrap_or_else(|_| panic!("forgotten in round {round}, waiting for {wanted} permits since {stall:?}"))
                .map(Some),
        };
        assert!(began.elapsed() < stall + Duration::from_secs(1), "took {:?}", began.elapsed());
        let permits = match taken {
            Ok(Some(permits)) => permits,
            Ok(None) => continue,
            Err(error) if error.is_retryable() => continue,
            Err(error) => panic!("{error}"),
        };
        witness.enter(&permits);
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..3_000))).await;
        permits.check().unwrap();
        witness.leave(&permits);
        if fastrand::bool() {
            permits.release().await;
        }
    }
}

pub async fn never_grants_more_than_its_limit(world: &dyn World) {
    let bench = Bench::new(world, 3, 5).await;
    let witness = Witness::new(5);
    let mut tasks = Vec::new();
    for semaphore in bench.semaphores.iter().flat_map(|semaphore| std::iter::repeat_n(semaphore, 4)) {
        tasks.push(tokio::spawn(take_permits(semaphore.clone(), witness.clone(), 12, NOT_WOKEN)));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(witness.granted() > 12, "the storm does something");
    bench.has_length(world, 0).await;
}

pub async fn grants_all_permits_at_once_or_none(world: &dyn World) {
    let bench = Bench::new(world, 2, 5).await;
    let three = bench.acquire(0, 3).await;
    let entries = world.entries(&bench.name).await;
    assert_eq!(entries.iter().map(|entry| entry.kind).collect::<Vec<_>>(), [Kind::Permits(3)], "one entry for all");
    assert!(bench.semaphores[1].try_acquire(3).await.unwrap().is_none());
    bench.has_length(world, 1).await;
    let waiter = bench.waiter(world, 1, 3, 2).await;
    waiter.0.abort();
    bench.has_length(world, 1).await;
    let two = bench.semaphores[1].try_acquire(2).await.unwrap().expect("the waiter took none of the two");
    assert_eq!(three.release().await, Release::Released);
    let three = bench.semaphores[0].try_acquire(3).await.unwrap().expect("all three came back");
    assert_eq!((two.count(), three.count()), (2, 3));
}

pub async fn grants_in_the_order_of_the_queue(world: &dyn World) {
    let bench = Bench::new(world, 3, 3).await;
    let holder = bench.acquire(0, 3).await;
    let mut waiters = Vec::new();
    for (i, wanted) in [1, 2, 3, 1, 1, 1].into_iter().enumerate() {
        waiters.push(bench.waiter(world, i % 3, wanted, i + 2).await);
    }
    drop(holder);
    let mut token = 0;
    for granted_together in [2, 1, 3] {
        let mut held = Vec::new();
        for _ in 0..granted_together {
            let permits = waiters.remove(0).guard_at_once("its permits are free").await;
            assert!(permits.token() > token, "tokens grow with the order");
            token = permits.token();
            held.push(permits);
        }
        assert!(waiters.iter().all(Waiter::is_waiting), "nobody behind is granted");
        for permits in held {
            permits.check().unwrap();
            permits.release().await;
        }
    }
    bench.has_length(world, 0).await;
}

pub async fn nobody_overtakes_one_who_waits_for_many(world: &dyn World) {
    let bench = Bench::new(world, 3, 5).await;
    let (one, two) = (bench.acquire(0, 2).await, bench.acquire(0, 2).await);
    let large = bench.waiter(world, 1, 5, 3).await;
    let mut small = Vec::new();
    for i in 0..3 {
        small.push(bench.waiter(world, 2, 1, i + 4).await);
    }
    let nobody_else = async |free: u32| {
        let semaphore = &bench.semaphores[0];
        assert!(semaphore.try_acquire(1).await.unwrap().is_none(), "{free} are free, but somebody waits");
        assert!(semaphore.try_acquire_for(1, Duration::from_millis(50)).await.unwrap().is_none(), "{free} are free");
    };
    nobody_else(1).await;
    let slept = bench.clients[1].client.metrics().waits;
    one.release().await;
    sleeps(world, &bench.clients[1], slept + 1).await;
    nobody_else(3).await;
    assert!(large.is_waiting() && small.iter().all(Waiter::is_waiting));
    two.release().await;
    let large = large.guard_at_once("all permits are free").await;
    assert!(small.iter().all(Waiter::is_waiting));
    large.release().await;
    let mut held = Vec::new();
    for waiter in small {
        held.push(waiter.guard_at_once("there is room for all small ones").await);
    }
}

pub async fn what_comes_back_may_be_enough_for_several(world: &dyn World) {
    let bench = Bench::new(world, 3, 5).await;
    let all = bench.acquire(0, 5).await;
    let mut waiters = Vec::new();
    for i in 0..6 {
        waiters.push(bench.waiter(world, i % 3, 1, i + 2).await);
    }
    drop(all);
    let mut held = Vec::new();
    for waiter in waiters.drain(..5) {
        held.push(waiter.guard_at_once("five came back").await);
    }
    let last = waiters.remove(0);
    assert!(last.is_waiting());
    // Whichever it is that comes back.
    held.swap_remove(3).release().await;
    last.guard_at_once("one came back").await.check().unwrap();
    held.iter().for_each(|permits| permits.check().unwrap());
}

pub async fn wakes_one_waiter_and_promotes_one_per_grant(world: &dyn World) {
    const WAITERS: usize = 9;
    let bench = Bench::new(world, 3, 3).await;
    let mut held = Vec::new();
    for client in 0..3 {
        held.push(bench.acquire(client, 1).await);
    }
    let mut waiters = Vec::new();
    for i in 0..WAITERS {
        waiters.push(bench.waiter(world, i % 3, 1, i + 4).await);
    }
    assert_eq!(count(&bench.clients, |m| m.wakeups + m.nudges), 0, "nobody wakes before the first permit comes back");
    for waiter in waiters {
        let slept = count(&bench.clients, |m| m.waits);
        held.remove(0).release().await;
        held.push(waiter.guard_at_once("a permit came back").await);
        if held[2].token() != world.entries(&bench.name).await.last().unwrap().token.unwrap() {
            let promoted = || async { count(&bench.clients, |m| m.waits) > slept };
            eventually("the next is the first waiter", patience(world), promoted).await;
        }
    }
    assert_eq!(count(&bench.clients, |m| m.wakeups), WAITERS as u64, "one is woken per permit");
    let nudges = count(&bench.clients, |m| m.nudges);
    assert!(nudges <= WAITERS as u64, "{nudges} were told that they are the first waiter");
}

pub async fn permits_have_ids_of_their_own(world: &dyn World) {
    let bench = Bench::new(world, 2, 4).await;
    let mut ids = HashSet::new();
    let mut token = 0;
    for round in 0..4 {
        let (two, one) = (bench.acquire(round % 2, 2).await, bench.acquire(1, 1).await);
        assert_eq!((two.count(), two.permits().len(), one.permits().len()), (2, 2, 1));
        assert!(token < two.token() && two.token() < one.token());
        token = one.token();
        for permit in two.permits().into_iter().chain(one.permits()) {
            assert!(permit.token == two.token() || permit.token == one.token());
            assert!(ids.insert(permit.id.clone()), "{} was granted twice", permit.id);
        }
        two.release().await;
        drop(one);
    }
    assert_eq!(ids.len(), 12);
}

pub async fn refuses_another_limit(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let wrong = bench.clients[1].client.semaphore(bench.name.as_str(), 4).unwrap();
    let refused = |error: Error| {
        assert!(matches!(error, Error::LimitMismatch { asked: 4, stored: 3, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(bench.name.as_str()) && text.contains('3') && text.contains('4'), "{text}");
        assert!(!error.is_retryable());
    };
    let holder = bench.acquire(0, 1).await;
    // The limit outlives the last holder.
    for holder in [Some(holder), None] {
        refused(in_time(world, "a refusal", wrong.acquire(1)).await.unwrap_err());
        refused(wrong.try_acquire(1).await.unwrap_err());
        refused(wrong.try_acquire_for(1, patience(world)).await.unwrap_err());
        let left = world.entries(&bench.name).await.len();
        assert_eq!(left, usize::from(holder.is_some()), "nothing is left when it is told");
        if let Some(holder) = holder {
            holder.check().unwrap();
            holder.release().await;
        }
    }
}

pub async fn refuses_no_permits_and_more_than_there_are(world: &dyn World) {
    let bench = Bench::new(world, 1, 3).await;
    assert!(matches!(bench.clients[0].client.semaphore("s", 0), Err(Error::InvalidConfig { .. })));
    for wanted in [0, 4, u32::MAX] {
        let semaphore = &bench.semaphores[0];
        for error in [
            in_time(world, "a refusal", semaphore.acquire(wanted)).await.unwrap_err(),
            semaphore.try_acquire(wanted).await.unwrap_err(),
            semaphore.try_acquire_for(wanted, patience(world)).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
            assert!(error.to_string().contains(&wanted.to_string()) && error.to_string().contains('3'), "{error}");
        }
    }
    assert!(matches!(bench.semaphores[0].set_limit(0).await, Err(Error::InvalidConfig { .. })));
    bench.has_length(world, 0).await;
    bench.acquire(0, 3).await.release().await;
}

pub async fn raised_limit_lets_waiters_in(world: &dyn World) {
    let bench = Bench::new(world, 3, 2).await;
    let holder = bench.acquire(0, 2).await;
    let mut waiters = Vec::new();
    for i in 0..4 {
        waiters.push(bench.waiter(world, i % 3, 1, i + 2).await);
    }
    let raised = bench.semaphores[0].set_limit(5).await.unwrap();
    assert_eq!(raised.limit(), 5);
    let mut held = Vec::new();
    for waiter in waiters.drain(..3) {
        held.push(waiter.guard_at_once("the limit was raised").await);
    }
    assert!(waiters[0].is_waiting());
    assert!(matches!(bench.semaphores[1].try_acquire(1).await, Err(Error::LimitMismatch { stored: 5, .. })));
    assert!(raised.try_acquire(1).await.unwrap().is_none());
    holder.release().await;
    waiters.remove(0).guard_at_once("two came back").await.release().await;
    let two = raised.try_acquire(2).await.unwrap();
    assert!(two.is_some() && raised.try_acquire(1).await.unwrap().is_none(), "five and no more");
}

pub async fn lowered_limit_takes_nothing_away_and_lets_nobody_in(world: &dyn World) {
    let bench = Bench::new(world, 2, 4).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(bench.acquire(0, 1).await);
    }
    let mut waiters = Vec::new();
    for i in 0..3 {
        waiters.push(bench.waiter(world, i % 2, 1, i + 5).await);
    }
    let lowered = bench.semaphores[0].set_limit(2).await.unwrap();
    assert_eq!(lowered.limit(), 2);
    for still_too_many in [4, 3, 2] {
        held.iter().for_each(|permits| permits.check().unwrap());
        assert!(lowered.try_acquire(1).await.unwrap().is_none(), "{still_too_many} are held");
        assert!(waiters.iter().all(Waiter::is_waiting), "{still_too_many} are held");
        // Not the one that is nearest to the waiters.
        held.remove(0).release().await;
    }
    let first = waiters.remove(0).guard_at_once("one of two is held").await;
    assert!(waiters.iter().all(Waiter::is_waiting), "two are held");
    held.pop().unwrap().release().await;
    let second = waiters.remove(0).guard_at_once("one of two is held").await;
    assert!(waiters[0].is_waiting(), "two are held");
    first.release().await;
    let third = waiters.remove(0).guard_at_once("one of two is held").await;
    second.check().unwrap();
    third.check().unwrap();
}

pub async fn lowered_limit_refuses_who_wants_more(world: &dyn World) {
    let bench = Bench::new(world, 3, 3).await;
    let holder = bench.acquire(0, 3).await;
    let small = bench.waiter(world, 0, 1, 2).await;
    let large = bench.waiter(world, 1, 3, 3).await;
    let last = bench.waiter(world, 2, 2, 4).await;
    bench.semaphores[2].set_limit(2).await.unwrap();
    let error = tokio::time::timeout(NOT_WOKEN, large.0).await.expect("told at once").unwrap().unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    assert!(error.to_string().contains('3') && error.to_string().contains('2'), "{error}");
    bench.has_length(world, 3).await;
    holder.check().unwrap();
    assert!(small.is_waiting() && last.is_waiting());
    holder.release().await;
    let small = small.guard_at_once("all came back").await;
    assert!(last.is_waiting());
    small.release().await;
    last.guard_at_once("all came back").await.check().unwrap();
}

/// A queue in which one of two permits is free, the first waiter wants both, and behind it two want one each.
struct Blocked {
    bench: Bench,
    held: Permits,
    first: Waiter<Permits>,
    behind: Vec<Waiter<Permits>>,
}

impl Blocked {
    async fn new(world: &dyn World) -> Self {
        let bench = Bench::new(world, 4, 2).await;
        let (gone, held) = (bench.acquire(0, 1).await, bench.acquire(0, 1).await);
        let first = bench.waiter(world, 1, 2, 3).await;
        let mut behind = Vec::new();
        for client in [2, 3] {
            behind.push(bench.waiter(world, client, 1, client + 2).await);
        }
        let slept = bench.clients[1].client.metrics().waits;
        gone.release().await;
        sleeps(world, &bench.clients[1], slept + 1).await;
        Self { bench, held, first, behind }
    }

    /// After the first waiter has gone: the next takes the free permit, and the last becomes the first waiter.
    async fn goes_on(mut self, world: &dyn World, length: usize) {
        let next = self.behind.remove(0).guard_at_once("nobody waits before it, and one is free").await;
        assert!(self.behind[0].is_waiting(), "both are held");
        self.bench.has_length(world, length).await;
        self.held.check().unwrap();
        self.held.release().await;
        let last = self.behind.remove(0).guard_at_once("one came back").await;
        next.check().unwrap();
        last.check().unwrap();
    }
}

pub async fn first_waiter_that_withdraws_makes_way(world: &dyn World) {
    let blocked = Blocked::new(world).await;
    assert!(blocked.first.is_waiting() && blocked.behind.iter().all(Waiter::is_waiting));
    blocked.first.0.abort();
    blocked.goes_on(world, 3).await;
}

/// At every moment around its grant: before it looks, before it tells the next, and after.
pub async fn first_waiter_withdrawn_at_its_grant_makes_way(world: &dyn World) {
    for moment in 0..12 {
        let mut blocked = Blocked::new(world).await;
        let first = std::mem::replace(&mut blocked.first, Waiter::of(std::future::pending()));
        let held = blocked.held;
        let released = tokio::spawn(held.release());
        tokio::time::sleep(Duration::from_micros(150 * moment)).await;
        first.0.abort();
        // A guard that was handed out already is dropped with the task's output.
        let _ = first.0.await;
        released.await.unwrap();
        let mut granted = Vec::new();
        for waiter in blocked.behind.drain(..) {
            granted.push(waiter.guard_at_once("there is room for both").await);
        }
        drop(granted);
        blocked.first.0.abort();
        blocked.bench.has_length(world, 0).await;
    }
}

pub async fn first_waiter_whose_session_ends_makes_way(world: &dyn World) {
    let mut blocked = Blocked::new(world).await;
    world.expire(&blocked.bench.session(1).await).await;
    let first = std::mem::replace(&mut blocked.first, Waiter::of(std::future::pending()));
    let error = first.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. } | Error::EntryRemoved { .. }), "{error}");
    blocked.goes_on(world, 3).await;
}

pub async fn first_waiter_that_is_removed_makes_way(world: &dyn World) {
    let mut blocked = Blocked::new(world).await;
    let entry = world.entries(&blocked.bench.name).await.remove(1);
    assert_eq!(entry.kind, Kind::Permits(2));
    world.remove(&entry.entry).await;
    let first = std::mem::replace(&mut blocked.first, Waiter::of(std::future::pending()));
    let error = first.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::EntryRemoved { .. }), "{error}");
    blocked.goes_on(world, 3).await;
}

/// It is granted and cannot know it, so it cannot tell the next either. The next is told when the session of the first
/// ends at the latest.
pub async fn first_waiter_cut_off_at_its_grant_holds_up_nobody_for_longer_than_its_session(world: &dyn World) {
    let bench = Bench::new(world, 3, 2).await;
    let (one, two) = (bench.acquire(0, 1).await, bench.acquire(0, 1).await);
    let first = bench.waiter(world, 1, 1, 3).await;
    let next = bench.waiter(world, 2, 1, 4).await;
    bench.clients[1].link.hold().await;
    let began = Instant::now();
    one.release().await;
    two.release().await;
    let next = next.guard(world).await;
    let took = began.elapsed();
    assert!(took < world.ttl() + Duration::from_secs(3), "told after {took:?}");
    next.check().unwrap();
    bench.clients[1].link.resume().await;
    let error = first.outcome(world).await.unwrap_err();
    assert!(error.is_session_lost(), "{error}");
    bench.has_length(world, 1).await;
}

/// Its reply is lost, and it is cut off before it can look: by the time it does, there is room for it. Who came behind has
/// taken it for the first waiter meanwhile.
pub async fn slow_one_that_never_waits_tells_the_next(world: &dyn World) {
    let bench = Bench::new(world, 3, 2).await;
    let (one, two) = (bench.acquire(0, 1).await, bench.acquire(0, 1).await);
    bench.clients[1].link.lose_next_reply(bench.name.as_str(), Cut::Rst).await;
    let slow = Waiter::nth(world, (&bench.name, 3), bench.semaphores[1].acquire(1)).await;
    bench.clients[1].link.hold().await;
    let next = bench.waiter(world, 2, 1, 4).await;
    one.release().await;
    two.release().await;
    bench.clients[1].link.resume().await;
    let slow = slow.guard_at_once("there is room for it").await;
    let next = next.guard_at_once("there is room for two").await;
    next.check().unwrap();
    slow.check().unwrap();
    bench.has_length(world, 2).await;
}

pub async fn cut_links_lose_no_wakeup(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 4, 2).await;
        let (one, two) = (bench.acquire(0, 1).await, bench.acquire(0, 1).await);
        let mut waiters = Vec::new();
        for client in 1..4 {
            waiters.push(bench.waiter(world, client, 1, client + 2).await);
        }
        let (first, second) = tokio::join!(one.release(), async {
            for client in &bench.clients[1..] {
                client.link.cut(how).await;
            }
            two.release().await
        });
        assert_eq!((first, second), (Release::Released, Release::Released));
        let last = waiters.pop().unwrap();
        let mut held = Vec::new();
        for waiter in waiters {
            held.push(waiter.guard_at_once("there is room for two").await);
        }
        assert!(last.is_waiting());
        bench.clients[3].link.cut(how).await;
        held.pop().unwrap().release().await;
        last.guard_at_once("one came back").await.check().unwrap();
    }
}

pub async fn lost_reply_of_a_first_waiter_loses_no_wakeup(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 3, 2).await;
        let (one, two) = (bench.acquire(0, 1).await, bench.acquire(0, 1).await);
        let first = bench.waiter(world, 1, 1, 3).await;
        let next = bench.waiter(world, 2, 1, 4).await;
        // Of its look, or of what it tells the next.
        bench.clients[1].link.lose_next_reply(bench.name.as_str(), how).await;
        one.release().await;
        two.release().await;
        let next = next.guard_at_once("there is room for two").await;
        let first = first.guard_at_once("there is room for two").await;
        first.check().unwrap();
        next.check().unwrap();
    }
}

pub async fn dead_holder_gives_all_its_permits_back(world: &dyn World) {
    let bench = Bench::new(world, 3, 5).await;
    let (dying, other) = (bench.acquire(0, 3).await, bench.acquire(1, 2).await);
    let waiter = bench.waiter(world, 2, 3, 3).await;
    world.expire(&bench.session(0).await).await;
    let three = waiter.guard_at_once("the session of its permits ended").await;
    let loss = tokio::time::timeout(NOT_WOKEN, dying.lost()).await.expect("noticed");
    assert!(matches!(loss, Loss::SessionEnded | Loss::EntryRemoved | Loss::Expired), "{loss}");
    assert_eq!(dying.release().await, Release::NotHeld);
    three.check().unwrap();
    other.check().unwrap();
    assert!(bench.semaphores[1].try_acquire(1).await.unwrap().is_none(), "five are held");
}

pub async fn never_grants_more_than_its_limit_while_links_break(world: &dyn World) {
    let bench = Bench::new(world, 3, 4).await;
    let witness = Witness::new(4);
    let over = Arc::new(AtomicBool::new(false));
    let links: Vec<_> = bench.clients.iter().map(|client| client.link.clone()).collect();
    let breaking = tokio::spawn({
        let (over, name) = (over.clone(), bench.name.clone());
        async move {
            while !over.load(Ordering::Relaxed) {
                let link = &links[fastrand::usize(0..links.len())];
                let how = if fastrand::bool() { Cut::Fin } else { Cut::Rst };
                match fastrand::u8(0..3) {
                    0 => link.lose_next_reply(name.as_str(), how).await,
                    1 => link.cut(how).await,
                    _ => {
                        link.hold().await;
                        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..100))).await;
                        link.resume().await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(50..250))).await;
            }
        }
    });
    let mut tasks = Vec::new();
    for semaphore in bench.semaphores.iter().flat_map(|semaphore| std::iter::repeat_n(semaphore, 3)) {
        tasks.push(tokio::spawn(take_permits(semaphore.clone(), witness.clone(), 12, patience(world))));
    }
    for task in tasks {
        task.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    breaking.await.unwrap();
    bench.has_length(world, 0).await;
}
