//! Several mutexes at once: all or none, and no deadlock.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{
    Contender, Cut, NOT_WOKEN, Waiter, World, contenders, fresh_name, has_length, in_time, patience, poll_and_drop,
    sleeps,
};
use crate::{Error, Loss, MultiLock, Mutex, Name, Release};

const SECOND: Duration = Duration::from_secs(1);

/// Several names in several clients.
struct Bench {
    clients: Vec<Contender>,
    /// In order.
    names: Vec<Name>,
}

impl Bench {
    async fn new(world: &dyn World, clients: usize, names: usize) -> Self {
        let base = fresh_name();
        let names = (0..names).map(|i| Name::new(format!("{base}-{i}")).unwrap()).collect();
        Self { clients: contenders(world, clients).await, names }
    }

    fn all(&self, client: usize) -> MultiLock {
        self.clients[client].client.multi_lock(&self.names).unwrap()
    }

    fn mutex(&self, client: usize, name: usize) -> Mutex {
        self.clients[client].client.mutex(&self.names[name]).unwrap()
    }

    async fn have_lengths(&self, world: &dyn World, lengths: &[usize]) {
        for (name, length) in self.names.iter().zip(lengths) {
            has_length(world, name, *length).await;
        }
    }
}

pub async fn order_of_the_names_does_not_matter(world: &dyn World) {
    const ROUNDS: usize = 15;
    let bench = Bench::new(world, 2, 2).await;
    let backwards = bench.clients[1].client.multi_lock(bench.names.iter().rev()).unwrap();
    assert!(backwards.names().eq(bench.names.iter().map(Name::as_str)));
    let inside = Arc::new(AtomicBool::new(false));
    let tasks = [bench.all(0), backwards].map(|locks| {
        let inside = inside.clone();
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let both = locks.lock().await.unwrap();
                assert!(!inside.swap(true, Ordering::SeqCst), "two holders");
                tokio::task::yield_now().await;
                both.check().unwrap();
                inside.store(false, Ordering::SeqCst);
                assert_eq!(both.release().await, Release::Released);
            }
        })
    });
    for task in tasks {
        in_time(world, "no deadlock", task).await.unwrap();
    }
    bench.have_lengths(world, &[0, 0]).await;
}

pub async fn name_given_twice_counts_once(world: &dyn World) {
    let bench = Bench::new(world, 1, 2).await;
    let names = [&bench.names[1], &bench.names[0], &bench.names[1], &bench.names[0]];
    let locks = bench.clients[0].client.multi_lock(names).unwrap();
    assert_eq!(locks.names().count(), 2);
    let both = in_time(world, "it does not wait for itself", locks.lock()).await.unwrap();
    assert_eq!(both.guards().len(), 2);
    assert!(both.guards().iter().map(|guard| guard.name()).eq(bench.names.iter().map(Name::as_str)));
    bench.have_lengths(world, &[1, 1]).await;
    assert!(matches!(bench.clients[0].client.multi_lock([""; 0]), Err(Error::InvalidConfig { .. })));
    assert!(matches!(bench.clients[0].client.multi_lock(["a", ""]), Err(Error::InvalidName { .. })));
}

pub async fn twenty_with_random_names_never_block_each_other(world: &dyn World) {
    const NAMES: usize = 6;
    const ROUNDS: usize = 4;
    let bench = Bench::new(world, 3, NAMES).await;
    let inside: Arc<[AtomicUsize; NAMES]> = Arc::default();
    let mut tasks = Vec::new();
    for task in 0..20 {
        let client = bench.clients[task % 3].client.clone();
        let (names, inside) = (bench.names.clone(), inside.clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let mut chosen: Vec<usize> = (0..NAMES).collect();
                fastrand::shuffle(&mut chosen);
                chosen.truncate(fastrand::usize(1..=4));
                let locks = client.multi_lock(chosen.iter().map(|i| &names[*i])).unwrap();
                let held = match fastrand::u8(0..4) {
                    0 => locks.try_lock().await.unwrap(),
                    1 => match locks.try_lock_for(Duration::from_millis(30)).await {
                        Err(Error::Timeout { .. }) => None,
                        held => held.unwrap(),
                    },
                    _ => Some(locks.lock().await.unwrap()),
                };
                let Some(held) = held else { continue };
                for i in &chosen {
                    assert_eq!(inside[*i].fetch_add(1, Ordering::SeqCst), 0, "two holders");
                }
                tokio::time::sleep(Duration::from_micros(fastrand::u64(0..1_000))).await;
                held.check().unwrap();
                for i in &chosen {
                    inside[*i].fetch_sub(1, Ordering::SeqCst);
                }
                if fastrand::bool() {
                    held.release().await;
                }
            }
        }));
    }
    for task in tasks {
        tokio::time::timeout(patience(world) * 2, task).await.expect("no deadlock").unwrap();
    }
    bench.have_lengths(world, &[0; NAMES]).await;
}

pub async fn excludes_the_mutexes_of_its_names(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let middle = bench.mutex(0, 1).lock().await.unwrap();
    let all = bench.all(1);
    let waiter = Waiter::nth(world, (&bench.names[1], 2), async move { all.lock().await }).await;
    bench.have_lengths(world, &[1, 2, 0]).await;
    assert!(bench.mutex(0, 0).try_lock().await.unwrap().is_none(), "it holds the first");
    bench.mutex(0, 2).try_lock().await.unwrap().expect("it has not come to the last").release().await;
    middle.release().await;
    let all = waiter.guard_at_once("all are free").await;
    for name in 0..3 {
        assert!(bench.mutex(0, name).try_lock().await.unwrap().is_none());
    }
    let first = bench.mutex(0, 0);
    let mutex = Waiter::nth(world, (&bench.names[0], 2), first.lock()).await;
    assert!(mutex.is_waiting());
    assert_eq!(all.release().await, Release::Released);
    mutex.guard_at_once("all were released").await.check().unwrap();
}

pub async fn first_error_releases_all(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let other = bench.clients[0].client.semaphore(&bench.names[1], 1).unwrap().acquire(1).await.unwrap();
    let refused = |error: Error| {
        assert!(matches!(&error, Error::OtherRecipe { name, .. } if *name == bench.names[1].as_str()), "{error}");
    };
    refused(in_time(world, "a refusal", bench.all(1).lock()).await.unwrap_err());
    bench.have_lengths(world, &[0, 1, 0]).await;
    refused(bench.all(1).try_lock_for(patience(world)).await.unwrap_err());
    bench.have_lengths(world, &[0, 1, 0]).await;
    other.check().unwrap();
}

pub async fn try_lock_takes_all_or_nothing(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    for name in 0..3 {
        let held = bench.mutex(0, name).lock().await.unwrap();
        assert!(bench.all(1).try_lock().await.unwrap().is_none());
        for (i, queue) in bench.names.iter().enumerate() {
            assert_eq!(world.entries(queue).await.len(), usize::from(i == name), "nothing is left when it answers");
        }
        held.release().await;
    }
    let all = bench.all(1).try_lock().await.unwrap().expect("all are free");
    all.check().unwrap();
    bench.have_lengths(world, &[1, 1, 1]).await;
    drop(all);
    bench.have_lengths(world, &[0, 0, 0]).await;
}

pub async fn deadline_releases_all(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let last = bench.mutex(0, 2).lock().await.unwrap();
    let timeout = Duration::from_millis(400);
    let began = Instant::now();
    assert!(bench.all(1).try_lock_for(timeout).await.unwrap().is_none());
    let took = began.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    bench.have_lengths(world, &[0, 0, 1]).await;
    last.release().await;
    let all = bench.all(1).try_lock_for(patience(world)).await.unwrap().expect("all are free");
    all.release().await;
    bench.have_lengths(world, &[0, 0, 0]).await;
}

pub async fn deadline_holds_in_silence(world: &dyn World) {
    let bench = Bench::new(world, 2, 2).await;
    let last = bench.mutex(0, 1).lock().await.unwrap();
    let all = bench.all(1);
    let timeout = Duration::from_secs(1);
    let began = Instant::now();
    let waiter = Waiter::nth(world, (&bench.names[1], 2), async move { all.try_lock_for(timeout).await }).await;
    sleeps(world, &bench.clients[1], 1).await;
    bench.clients[1].link.hold().await;
    assert!(waiter.outcome(world).await.unwrap().is_none());
    let took = began.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    bench.clients[1].link.resume().await;
    bench.have_lengths(world, &[0, 1]).await;
    last.check().unwrap();
}

pub async fn withdrawing_at_any_moment_leaves_nothing(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    for held in [true, false] {
        let last = if held { Some(bench.mutex(0, 2).lock().await.unwrap()) } else { None };
        for polls in 0..8 {
            poll_and_drop(bench.all(1).lock(), polls).await;
            poll_and_drop(bench.all(1).try_lock(), polls).await;
        }
        for step in 0..15 {
            let _ = tokio::time::timeout(Duration::from_micros(400 * step), bench.all(1).lock()).await;
        }
        bench.have_lengths(world, &[0, 0, usize::from(held)]).await;
        drop(last);
        let all = in_time(world, "nobody is blocked", bench.all(0).lock()).await.unwrap();
        all.release().await;
    }
}

pub async fn one_lost_is_all_lost(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    for removed in 0..3 {
        let all = in_time(world, "all are free", bench.all(0).lock()).await.unwrap();
        assert_eq!(all.run(async { 7 }).await.unwrap(), 7);
        assert!(all.valid_until().is_some());
        let entry = world.entries(&bench.names[removed]).await.remove(0).entry;
        let working = all.run(async {
            loop {
                all.check().expect("the work only runs while all are held");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let (stopped, ()): (crate::Result<()>, ()) = tokio::join!(
            async { tokio::time::timeout(NOT_WOKEN, working).await.expect("the work is stopped") },
            world.remove(&entry)
        );
        let lost_one = |error: Error| {
            assert!(
                matches!(&error, Error::Lost { lock, loss: Loss::EntryRemoved } if *lock == bench.names[removed].as_str()),
                "{error}"
            );
        };
        lost_one(stopped.unwrap_err());
        lost_one(all.check().unwrap_err());
        assert!(all.valid_until().is_none());
        assert_eq!(in_time(world, "the loss", all.lost()).await, Loss::EntryRemoved);
        lost_one(all.run(async { panic!("work is polled after the loss") }).await.unwrap_err());
        let taken = bench.mutex(1, removed).try_lock().await.unwrap().expect("this one is free");
        assert_eq!(all.release().await, Release::NotHeld);
        taken.check().unwrap();
        drop(taken);
        bench.have_lengths(world, &[0, 0, 0]).await;
    }
}

pub async fn one_lost_while_the_others_are_waited_for_releases_all(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let last = bench.mutex(0, 2).lock().await.unwrap();
    let all = bench.all(1);
    let waiter = Waiter::nth(world, (&bench.names[2], 2), async move { all.lock().await }).await;
    let entry = world.entries(&bench.names[0]).await.remove(0).entry;
    world.remove(&entry).await;
    let error = tokio::time::timeout(NOT_WOKEN, waiter.0).await.expect("told at once").unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Lost { lock, loss: Loss::EntryRemoved } if *lock == bench.names[0].as_str()),
        "{error}"
    );
    assert!(error.is_retryable());
    bench.have_lengths(world, &[0, 0, 1]).await;
    last.check().unwrap();
}

pub async fn ended_session_makes_way_in_every_queue(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let all = bench.all(0).lock().await.unwrap();
    let next = bench.all(1);
    let waiter = Waiter::nth(world, (&bench.names[0], 2), async move { next.lock().await }).await;
    world.expire(&bench.clients[0].client.session_id().await.unwrap()).await;
    let next = waiter.guard_at_once("the session of the holder ended").await;
    let loss = tokio::time::timeout(NOT_WOKEN, all.lost()).await.expect("noticed");
    assert!(matches!(loss, Loss::SessionEnded | Loss::EntryRemoved | Loss::Expired), "{loss}");
    assert_eq!(all.release().await, Release::NotHeld);
    next.check().unwrap();
    let tokens: BTreeSet<u64> = next.guards().iter().map(|guard| guard.token()).collect();
    assert_eq!(tokens.len(), 3, "a token for each");
}

pub async fn ended_session_of_a_waiter_releases_what_it_held(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let last = bench.mutex(0, 2).lock().await.unwrap();
    let all = bench.all(1);
    let waiter = Waiter::nth(world, (&bench.names[2], 2), async move { all.lock().await }).await;
    world.expire(&bench.clients[1].client.session_id().await.unwrap()).await;
    let error = waiter.outcome(world).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    bench.have_lengths(world, &[0, 0, 1]).await;
    last.check().unwrap();
    last.release().await;
    in_time(world, "the next attempt just works", bench.all(1).lock()).await.unwrap().check().unwrap();
}

pub async fn lost_replies_leave_one_entry_in_each_queue(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 1, 3).await;
        bench.clients[0].link.lose_next_reply(bench.names[1].as_str(), how).await;
        let all = in_time(world, "all are free", bench.all(0).lock()).await.unwrap();
        bench.have_lengths(world, &[1, 1, 1]).await;
        all.check().unwrap();
        bench.clients[0].link.lose_next_reply(bench.names[2].as_str(), how).await;
        assert_eq!(in_time(world, "the release is settled", all.release()).await, Release::Released);
        bench.have_lengths(world, &[0, 0, 0]).await;
    }
}

pub async fn broken_link_keeps_all_of_them_for_less_than_the_ttl(world: &dyn World) {
    tokio::join!(kept_over_a_broken_link(Cut::Fin, world), kept_over_a_broken_link(Cut::Rst, world));
}

async fn kept_over_a_broken_link(how: Cut, world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let all = bench.all(0).lock().await.unwrap();
    let (next, last) = (bench.all(1), bench.mutex(1, 2));
    let next = Waiter::nth(world, (&bench.names[0], 2), async move { next.lock().await }).await;
    let last = Waiter::nth(world, (&bench.names[2], 2), async move { last.lock().await }).await;
    for Contender { link, .. } in &bench.clients {
        link.hold().await;
        link.cut(how).await;
    }
    tokio::time::sleep(world.ttl() / 4).await;
    all.check().expect("suspect is still held");
    for Contender { link, .. } in &bench.clients {
        link.resume().await;
    }
    // Long enough for several renewals.
    tokio::time::sleep(world.ttl() + SECOND).await;
    all.check().unwrap();
    assert!(next.is_waiting() && last.is_waiting());
    bench.have_lengths(world, &[2, 1, 2]).await;
    assert_eq!(all.release().await, Release::Released, "{how:?}");
    last.guard_at_once("its name is free").await.release().await;
    next.guard_at_once("all are free").await.release().await;
    bench.have_lengths(world, &[0, 0, 0]).await;
}

pub async fn long_silence_loses_all_of_them_before_the_next_grant(world: &dyn World) {
    let bench = Bench::new(world, 2, 3).await;
    let all = Arc::new(bench.all(0).lock().await.unwrap());
    let next = bench.all(1);
    let waiter = Waiter::nth(world, (&bench.names[0], 2), async move { next.lock().await }).await;
    bench.clients[0].link.hold().await;
    let proven = all.guards()[0].valid_for();
    let lost = tokio::spawn({
        let (all, began) = (all.clone(), Instant::now());
        async move { (all.lost().await, began.elapsed()) }
    });
    let next = waiter.guard(world).await;
    assert!(all.check().is_err() && all.guards().iter().all(|guard| guard.check().is_err()), "no two hold");
    let (loss, after) = in_time(world, "the loss is told", lost).await.unwrap();
    assert_eq!(loss, Loss::Expired);
    assert!(after + SECOND / 4 > proven, "held for {proven:?} more, and lost after {after:?}");
    bench.have_lengths(world, &[1, 1, 1]).await;
    bench.clients[0].link.resume().await;
    // Its clean-up must not touch the new holder.
    tokio::time::sleep(world.ttl()).await;
    assert!(all.check().is_err());
    next.check().unwrap();
    let all = Arc::into_inner(all).expect("nobody else has it");
    assert_eq!(all.release().await, Release::NotHeld);
    assert_eq!(next.release().await, Release::Released);
    bench.have_lengths(world, &[0, 0, 0]).await;
    in_time(world, "the next attempt just works", bench.all(0).lock()).await.unwrap().check().unwrap();
}
