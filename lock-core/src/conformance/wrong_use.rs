//! One name for two kinds of recipe: told, and never waited for.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Contender, NOT_WOKEN, Waiter, World, contenders, fresh_name, has_length, in_time, record, sleeps};
use crate::backend::{Enqueue, Enqueued, Entry, Kind};
use crate::{Client, Error, Guard, Membership, MultiGuard, Name, Result, Role};

/// A way to hold a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Mutex,
    DelayedMutex,
    ReentrantMutex,
    MultiLock,
    Reader,
    Writer,
    Semaphore,
    Election,
    Group,
    /// Of one, which goes in at once.
    DoubleBarrier,
}

const WAYS: [Way; 10] = [
    Way::Mutex,
    Way::DelayedMutex,
    Way::ReentrantMutex,
    Way::MultiLock,
    Way::Reader,
    Way::Writer,
    Way::Semaphore,
    Way::Election,
    Way::Group,
    Way::DoubleBarrier,
];

/// What is held, for as long as it is not dropped.
trait Held: fmt::Debug + Send {
    fn check(&self) -> Result<()>;
}

impl<G: Deref<Target = Guard> + fmt::Debug + Send> Held for G {
    fn check(&self) -> Result<()> {
        (**self).check()
    }
}

impl Held for Guard {
    fn check(&self) -> Result<()> {
        self.check()
    }
}

impl Held for MultiGuard {
    fn check(&self) -> Result<()> {
        self.check()
    }
}

impl Held for Membership {
    fn check(&self) -> Result<()> {
        self.id().map(drop).ok_or_else(|| self.trouble().expect("why it is not registered"))
    }
}

impl Way {
    fn recipe(self) -> &'static str {
        match self {
            Self::Mutex | Self::DelayedMutex | Self::ReentrantMutex | Self::MultiLock => "mutex",
            Self::Reader | Self::Writer => "read-write lock",
            Self::Semaphore => "semaphore",
            Self::Election => "election",
            Self::Group => "group",
            Self::DoubleBarrier => "double barrier",
        }
    }

    async fn hold(self, client: &Client, name: &Name) -> Result<Box<dyn Held>> {
        Ok(match self {
            Self::Mutex => Box::new(client.mutex(name)?.lock().await?),
            Self::DelayedMutex => Box::new(client.mutex(name)?.with_lock_delay(DELAY).lock().await?),
            Self::ReentrantMutex => Box::new(client.reentrant_mutex(name)?.lock("me").await?),
            Self::MultiLock => Box::new(client.multi_lock([name])?.lock().await?),
            Self::Reader => Box::new(client.rw_lock(name)?.read().await?),
            Self::Writer => Box::new(client.rw_lock(name)?.write().await?),
            Self::Semaphore => Box::new(client.semaphore(name, 3)?.acquire(1).await?),
            Self::Election => Box::new(client.election(name)?.campaign("me").await?),
            Self::Group => Box::new(client.group(name)?.join("me").await?),
            Self::DoubleBarrier => Box::new(client.double_barrier(name, 1)?.enter().await?),
        })
    }

    /// Without waiting; `None` where there is no such way.
    async fn try_hold(self, client: &Client, name: &Name) -> Result<Option<Box<dyn Held>>> {
        fn held<G: Held + 'static>(held: G) -> Box<dyn Held> {
            Box::new(held)
        }
        Ok(match self {
            Self::Mutex => client.mutex(name)?.try_lock().await?.map(held),
            Self::DelayedMutex => client.mutex(name)?.with_lock_delay(DELAY).try_lock().await?.map(held),
            Self::ReentrantMutex => client.reentrant_mutex(name)?.try_lock("me").await?.map(held),
            Self::MultiLock => client.multi_lock([name])?.try_lock().await?.map(held),
            Self::Reader => client.rw_lock(name)?.try_read().await?.map(held),
            Self::Writer => client.rw_lock(name)?.try_write().await?.map(held),
            Self::Semaphore => client.semaphore(name, 3)?.try_acquire(1).await?.map(held),
            Self::DoubleBarrier => client.double_barrier(name, 1)?.enter_for(SECOND).await?.map(held),
            Self::Election | Self::Group => None,
        })
    }
}

const DELAY: Duration = Duration::from_millis(100);

const SECOND: Duration = Duration::from_secs(1);

/// Every two ways of different recipes.
fn pairs() -> impl Iterator<Item = (Way, Way)> {
    let all = WAYS.into_iter().flat_map(|one| WAYS.into_iter().map(move |other| (one, other)));
    all.filter(|(one, other)| one.recipe() != other.recipe())
}

fn a_name() -> Name {
    Name::new(fresh_name()).unwrap()
}

fn told(error: &Error, name: &Name, holds: Way, comes: Way) {
    let as_told = matches!(
        error,
        Error::OtherRecipe { name: told, wanted, found }
            if told == name.as_str() && *wanted == comes.recipe() && *found == holds.recipe()
    );
    assert!(as_told, "{comes:?} comes to {holds:?}: {error}");
    assert!(!error.is_retryable());
}

pub async fn who_comes_to_another_recipe_is_told(world: &dyn World) {
    let two = contenders(world, 2).await;
    // Without waiting to see whether the other leaves.
    let at_once = world.ttl() * 3 / 4;
    for (holds, comes) in pairs() {
        let name = a_name();
        let holder = in_time(world, "the name is free", holds.hold(&two[0].client, &name)).await.unwrap();
        let kept = record(&two[0].client, &name).await;
        let nothing_is_left = || async {
            assert_eq!(world.entries(&name).await.len(), 1, "{comes:?} left an entry behind {holds:?} when told");
            let left = record(&two[0].client, &name).await;
            assert_eq!(left, kept, "{comes:?} left a record beside {holds:?} when told");
        };
        for Contender { client, .. } in &two {
            let outcome = tokio::time::timeout(at_once, comes.hold(client, &name)).await;
            let outcome = outcome.unwrap_or_else(|_| panic!("{comes:?} waits for {holds:?}"));
            told(&outcome.unwrap_err(), &name, holds, comes);
            nothing_is_left().await;
            let outcome = tokio::time::timeout(at_once, comes.try_hold(client, &name)).await;
            match outcome.unwrap_or_else(|_| panic!("{comes:?} waits for {holds:?}")) {
                Ok(none) => assert!(none.is_none(), "{comes:?} beside {holds:?}"),
                Err(error) => told(&error, &name, holds, comes),
            }
            nothing_is_left().await;
        }
        holder.check().unwrap();
        drop(holder);
        has_length(world, &name, 0).await;
    }
}

pub async fn changing_the_limit_of_another_recipe_is_refused(world: &dyn World) {
    let two = contenders(world, 2).await;
    for holds in WAYS.into_iter().filter(|way| *way != Way::Semaphore) {
        let name = a_name();
        let holder = in_time(world, "the name is free", holds.hold(&two[0].client, &name)).await.unwrap();
        let kept = record(&two[0].client, &name).await;
        let changing = two[1].client.semaphore(&name, 3).unwrap();
        let error = in_time(world, "a refusal", changing.set_limit(4)).await.unwrap_err();
        told(&error, &name, holds, Way::Semaphore);
        assert_eq!(record(&two[0].client, &name).await, kept, "a limit was left beside {holds:?}");
        holder.check().unwrap();
    }
}

/// A recipe that keeps a record, and goes on keeping it without anybody in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    Semaphore,
    Election,
    DoubleBarrier,
    Barrier,
    Latch,
    Group,
}

const KEEPERS: [Keeper; 6] =
    [Keeper::Semaphore, Keeper::Election, Keeper::DoubleBarrier, Keeper::Barrier, Keeper::Latch, Keeper::Group];

impl Keeper {
    fn recipe(self) -> &'static str {
        match self {
            Self::Semaphore => "semaphore",
            Self::Election => "election",
            Self::DoubleBarrier => "double barrier",
            Self::Barrier => "barrier",
            Self::Latch => "count-down latch",
            Self::Group => "group",
        }
    }

    /// Uses the name, so that a record stays.
    async fn keep(self, client: &Client, name: &Name) -> Result<()> {
        match self {
            Self::Semaphore => client.semaphore(name, 3)?.acquire(1).await.map(drop),
            Self::Election => client.election(name)?.campaign("me").await.map(drop),
            Self::DoubleBarrier => client.double_barrier(name, 1)?.enter().await.map(drop),
            Self::Barrier => client.barrier(name)?.raise().await,
            Self::Latch => client.count_down_latch(name, 3)?.count_down().await.map(drop),
            Self::Group => client.group(name)?.join("me").await?.update("still me").await,
        }
    }

    /// Everything that may write the record.
    async fn attempts(self, client: &Client, name: &Name) -> Vec<Result<()>> {
        match self {
            Self::Semaphore => {
                let semaphore = client.semaphore(name, 3).unwrap();
                vec![
                    semaphore.acquire(1).await.map(drop),
                    semaphore.try_acquire(1).await.map(drop),
                    semaphore.try_acquire_for(1, SECOND).await.map(drop),
                    semaphore.set_limit(4).await.map(drop),
                ]
            }
            Self::Election => vec![client.election(name).unwrap().campaign("me").await.map(drop)],
            Self::DoubleBarrier => {
                let barrier = client.double_barrier(name, 1).unwrap();
                vec![barrier.enter().await.map(drop), barrier.enter_for(SECOND).await.map(drop)]
            }
            Self::Barrier => {
                let barrier = client.barrier(name).unwrap();
                vec![barrier.raise().await, barrier.lower().await, barrier.wait().await]
            }
            Self::Latch => {
                let latch = client.count_down_latch(name, 3).unwrap();
                vec![latch.count_down().await.map(drop), latch.reset().await, latch.wait().await]
            }
            Self::Group => vec![client.group(name).unwrap().join("me").await.map(drop)],
        }
    }
}

pub async fn record_of_another_recipe_stays_as_it_is(world: &dyn World) {
    let one = world.contender().await;
    for keeps in KEEPERS {
        let name = a_name();
        in_time(world, "the name is free", keeps.keep(&one.client, &name)).await.unwrap();
        has_length(world, &name, 0).await;
        let kept = record(&one.client, &name).await;
        assert!(!kept.is_empty(), "{keeps:?} keeps a record");
        let comers = KEEPERS.into_iter().filter(|comes| *comes != keeps);
        for comes in comers {
            for attempt in in_time(world, "told", comes.attempts(&one.client, &name)).await {
                let error = attempt.expect_err("refused");
                let found = keeps.recipe();
                let as_told = matches!(&error, Error::OtherRecipe { found: told, .. } if *told == found);
                assert!(as_told, "{comes:?} comes to {keeps:?}: {error}");
                assert_eq!(record(&one.client, &name).await, kept, "{comes:?} wrote the record of {keeps:?}");
                assert_eq!(world.entries(&name).await.len(), 0, "{comes:?} left an entry with {keeps:?}");
            }
        }
        let delayed = in_time(world, "told", Way::DelayedMutex.hold(&one.client, &name)).await.unwrap_err();
        assert!(matches!(delayed, Error::OtherRecipe { wanted: "mutex", .. }), "{delayed}");
        let delayed = in_time(world, "told", Way::DelayedMutex.try_hold(&one.client, &name)).await.unwrap_err();
        assert!(matches!(delayed, Error::OtherRecipe { wanted: "mutex", .. }), "{delayed}");
        assert_eq!(record(&one.client, &name).await, kept, "a lock delay wrote the record of {keeps:?}");
        in_time(world, "it is still its own", keeps.keep(&one.client, &name)).await.unwrap();
    }
}

/// Who was refused has no claim on a name that never was its own.
pub async fn refused_one_leaves_the_name_to_others(world: &dyn World) {
    let two = contenders(world, 2).await;
    for comes in [Way::Semaphore, Way::DoubleBarrier, Way::Election, Way::Group] {
        let name = a_name();
        let holder = two[0].client.mutex(&name).unwrap().lock().await.unwrap();
        told(&in_time(world, "told", comes.hold(&two[1].client, &name)).await.unwrap_err(), &name, Way::Mutex, comes);
        let _ = in_time(world, "told", comes.try_hold(&two[1].client, &name)).await;
        let barrier = two[1].client.barrier(&name).unwrap();
        in_time(world, "nobody else keeps a record", barrier.raise()).await.unwrap();
        in_time(world, "it is still its own", barrier.lower()).await.unwrap();
        let delayed = two[1].client.mutex(&name).unwrap().with_lock_delay(DELAY);
        holder.release().await;
        in_time(world, "the name is free", delayed.lock()).await.unwrap().release().await;
    }
}

pub async fn those_who_wait_are_not_disturbed(world: &dyn World) {
    let two = contenders(world, 2).await;
    for (holds, comes) in pairs() {
        let name = a_name();
        let waits = match holds {
            // These would share.
            Way::Reader => Way::Writer,
            // A second owner of its own would have to be named.
            Way::ReentrantMutex => Way::Mutex,
            Way::Semaphore | Way::Group | Way::DoubleBarrier => continue,
            way => way,
        };
        let holder = in_time(world, "the name is free", holds.hold(&two[0].client, &name)).await.unwrap();
        let waiter = Waiter::nth(world, (&name, 2), {
            let (client, name) = (two[1].client.clone(), name.clone());
            async move { waits.hold(&client, &name).await }
        })
        .await;
        let outcome = tokio::time::timeout(NOT_WOKEN, comes.hold(&two[0].client, &name)).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{comes:?} waits for {waits:?}"));
        told(&outcome.unwrap_err(), &name, waits, comes);
        has_length(world, &name, 2).await;
        holder.check().unwrap();
        assert!(waiter.is_waiting());
        drop(holder);
        waiter.guard_at_once("the holder left").await.check().unwrap();
        has_length(world, &name, 0).await;
    }
}

pub async fn two_recipes_in_the_same_moment_never_hold_both(world: &dyn World) {
    let three = contenders(world, 3).await;
    for (one, other) in [
        (Way::Mutex, Way::Semaphore),
        (Way::Semaphore, Way::Reader),
        (Way::Reader, Way::Election),
        (Way::Writer, Way::MultiLock),
    ] {
        let name = a_name();
        let inside = Arc::new(AtomicI64::new(0));
        let mut tasks = Vec::new();
        for i in 0..6 {
            let (client, name, inside) = (three[i % 3].client.clone(), name.clone(), inside.clone());
            let (way, mine) = if i < 3 { (one, 1) } else { (other, -1) };
            tasks.push(tokio::spawn(async move {
                for _ in 0..6 {
                    match way.hold(&client, &name).await {
                        Ok(held) => {
                            let others = inside.fetch_add(mine, Ordering::SeqCst);
                            assert!(others * mine >= 0, "{one:?} and {other:?} both hold");
                            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..2_000))).await;
                            held.check().unwrap();
                            inside.fetch_sub(mine, Ordering::SeqCst);
                        }
                        Err(error) => assert!(matches!(error, Error::OtherRecipe { .. }), "{error}"),
                    }
                }
            }));
        }
        for task in tasks {
            in_time(world, "nobody waits for ever", task).await.unwrap();
        }
        has_length(world, &name, 0).await;
    }
}

/// A semaphore's limit outlives its users; a lock delay does not.
pub async fn what_is_kept_beside_the_queue_is_one_recipes(world: &dyn World) {
    let one = world.contender().await;
    let name = a_name();
    drop(Way::Semaphore.hold(&one.client, &name).await.unwrap());
    has_length(world, &name, 0).await;
    let delayed = tokio::time::timeout(NOT_WOKEN, Way::DelayedMutex.hold(&one.client, &name)).await;
    told(&delayed.expect("told at once").unwrap_err(), &name, Way::Semaphore, Way::DelayedMutex);
    let delayed = tokio::time::timeout(NOT_WOKEN, Way::DelayedMutex.try_hold(&one.client, &name)).await;
    told(&delayed.expect("told at once").unwrap_err(), &name, Way::Semaphore, Way::DelayedMutex);
    assert_eq!(world.entries(&name).await.len(), 0, "nothing is left when it is told");
    Way::Semaphore.hold(&one.client, &name).await.unwrap().check().unwrap();
    let name = a_name();
    let guard = one.client.mutex(&name).unwrap().with_lock_delay(DELAY).lock().await.unwrap();
    guard.release().await;
    in_time(world, "the name is free", Way::Semaphore.hold(&one.client, &name)).await.unwrap().check().unwrap();
}

/// Puts an entry of this kind into a queue, as one has that comes to another recipe and was not told yet.
async fn intrudes(client: &Client, name: &Name, kind: Kind) -> Entry {
    let (queue, id) = (name.clone(), format!("{:032x}", fastrand::u128(..)));
    let entering = client.with_session(move |live| async move {
        let request = Enqueue { queue: &queue, kind, id: &id, value: b"", only_if_free: false };
        live.session.enqueue(&request).await
    });
    match entering.await.unwrap() {
        Enqueued::Placed(placed) => placed.entry,
        Enqueued::Busy => panic!("it was to wait"),
    }
}

/// The first of a queue tells whose it is. One farther behind that comes to another recipe is in the way, and no more.
pub async fn one_that_is_about_to_be_refused_makes_nobody_else_be_refused(world: &dyn World) {
    let two = contenders(world, 2).await;
    for way in WAYS {
        let name = a_name();
        let holder = in_time(world, "the name is free", way.hold(&two[0].client, &name)).await.unwrap();
        let stranger = if way.recipe() == "read-write lock" { Kind::Member } else { Kind::Read };
        let intruder = intrudes(&two[0].client, &name, stranger).await;
        let newcomer = Waiter::nth(world, (&name, 3), {
            let (client, name) = (two[1].client.clone(), name.clone());
            async move { way.hold(&client, &name).await }
        })
        .await;
        // A party goes in with the one that is just before it.
        if way != Way::DoubleBarrier {
            let held = tokio::time::timeout(NOT_WOKEN, way.try_hold(&two[1].client, &name)).await.expect("at once");
            assert!(matches!(held, Ok(None)), "{way:?} takes what was not free");
        }
        has_length(world, &name, 3).await;
        assert!(newcomer.is_waiting(), "{way:?}");
        world.remove(&intruder).await;
        has_length(world, &name, 2).await;
        let mut holder = Some(holder);
        if !matches!(way, Way::Reader | Way::Semaphore | Way::Group | Way::DoubleBarrier) {
            assert!(newcomer.is_waiting(), "{way:?}: it is not its turn");
            holder.take();
        }
        newcomer.guard_at_once("the one in the way left").await.check().unwrap();
        drop(holder);
        has_length(world, &name, 0).await;
    }
}

/// What was ahead leaves in any order, so that one of another recipe may be the first for a moment.
pub async fn one_that_was_right_once_is_not_refused_later(world: &dyn World) {
    let two = contenders(world, 2).await;
    let name = a_name();
    let holder = two[0].client.mutex(&name).unwrap().lock().await.unwrap();
    let intruders =
        [intrudes(&two[0].client, &name, Kind::Read).await, intrudes(&two[0].client, &name, Kind::Read).await];
    let newcomer = Waiter::of({
        let mutex = two[1].client.mutex(&name).unwrap();
        async move { mutex.lock().await }
    });
    sleeps(world, &two[1], 1).await;
    holder.release().await;
    world.remove(&intruders[1]).await;
    sleeps(world, &two[1], 2).await;
    world.remove(&intruders[0]).await;
    newcomer.guard_at_once("all have left").await.check().unwrap();
}

/// Two come to another recipe at the same time. The second does not take the first for one that belongs there.
pub async fn one_behind_another_that_is_about_to_be_refused_is_refused(world: &dyn World) {
    let two = contenders(world, 2).await;
    for (comes, kind) in [
        (Way::Group, Kind::Member),
        (Way::DoubleBarrier, Kind::Party),
        (Way::Semaphore, Kind::Permits(1)),
        (Way::Reader, Kind::Read),
    ] {
        let name = a_name();
        let holder = two[0].client.mutex(&name).unwrap().lock().await.unwrap();
        let entry = intrudes(&two[0].client, &name, kind).await;
        let outcome = tokio::time::timeout(NOT_WOKEN, comes.hold(&two[1].client, &name)).await;
        told(&outcome.expect("told at once").unwrap_err(), &name, Way::Mutex, comes);
        has_length(world, &name, 2).await;
        world.remove(&entry).await;
        holder.check().unwrap();
    }
    let (name, mutex) = (a_name(), two[1].client.mutex(a_name()).unwrap());
    let _holder = two[0].client.mutex(&name).unwrap().lock().await.unwrap();
    intrudes(&two[0].client, &name, Kind::Sleeper).await;
    let sleeping = two[1].client.condvar(&name).unwrap();
    let wait = async { sleeping.wait(mutex.lock().await?, &mutex).await };
    let error = tokio::time::timeout(NOT_WOKEN, wait).await.expect("told at once").unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { found: "mutex", wanted: "condition variable", .. }), "{error}");
    has_length(world, &name, 2).await;
}

/// Those who look on see the recipe that has the name.
pub async fn one_that_is_about_to_be_refused_is_not_shown_by_the_recipe(world: &dyn World) {
    let two = contenders(world, 2).await;
    let (here, there) = (&two[0].client, &two[1].client);
    let name = a_name();
    let _member = here.group(&name).unwrap().join("member").await.unwrap();
    intrudes(there, &name, Kind::Read).await;
    let members = there.group(&name).unwrap().members().await.unwrap();
    assert_eq!(members.iter().map(|member| member.value.as_slice()).collect::<Vec<_>>(), [b"member"]);
    let mut watch = there.group(&name).unwrap().watch();
    assert_eq!(in_time(world, "the members", watch.next()).await.unwrap(), members);
    let name = a_name();
    let _leadership = here.election(&name).unwrap().campaign("leader").await.unwrap();
    intrudes(there, &name, Kind::Read).await;
    let candidates = there.election(&name).unwrap().candidates().await.unwrap();
    assert_eq!(candidates.iter().map(|one| one.value.as_slice()).collect::<Vec<_>>(), [b"leader"]);
    let name = a_name();
    let mutex = here.mutex(a_name()).unwrap();
    let sleeper = Waiter::nth(world, (&name, 1), {
        let (condvar, mutex) = (here.condvar(&name).unwrap(), mutex.clone());
        async move { condvar.wait(mutex.lock().await?, &mutex).await }
    })
    .await;
    let intruder = intrudes(there, &name, Kind::Read).await;
    assert_eq!(there.condvar(&name).unwrap().notify_all().await.unwrap(), 1);
    sleeper.guard_at_once("it was notified").await.release().await;
    assert_eq!(world.entries(&name).await.remove(0).entry, intruder);
    let name = a_name();
    let entrant = Waiter::nth(world, (&name, 1), {
        let barrier = here.double_barrier(&name, 2).unwrap();
        async move { barrier.enter().await }
    })
    .await;
    let intruder = intrudes(there, &name, Kind::Read).await;
    let last = Waiter::nth(world, (&name, 3), {
        let barrier = there.double_barrier(&name, 2).unwrap();
        async move { barrier.enter().await }
    })
    .await;
    world.remove(&intruder).await;
    let _inside = [entrant.guard_at_once("both have come").await, last.guard_at_once("both have come").await];
}

/// A queue that is never empty, and somebody who takes it for a semaphore again and again.
pub async fn misguided_crowd_disturbs_nobody(world: &dyn World) {
    const ROUNDS: usize = 25;
    let three = contenders(world, 3).await;
    let name = a_name();
    let done = Arc::new(AtomicBool::new(false));
    let mut guard = three[0].client.mutex(&name).unwrap().lock().await.unwrap();
    let crowd = [(); 3].map(|()| {
        let (semaphore, done) = (three[2].client.semaphore(&name, 3).unwrap(), done.clone());
        tokio::spawn(async move {
            let mut refused = 0;
            while !done.load(Ordering::SeqCst) {
                match semaphore.acquire(1).await {
                    // It was the first when it looked.
                    Ok(permit) => drop(permit),
                    Err(error) => assert!(matches!(error, Error::OtherRecipe { .. }), "{error}"),
                }
                refused += 1;
            }
            refused
        })
    });
    for round in 0..ROUNDS {
        let contender = &three[round % 2];
        let slept = contender.client.metrics().waits;
        let mutex = contender.client.mutex(&name).unwrap();
        let next = Waiter::of(async move { mutex.lock().await });
        // It has looked, and has not been refused.
        sleeps(world, contender, slept + 1).await;
        guard.release().await;
        guard = next.guard(world).await;
    }
    done.store(true, Ordering::SeqCst);
    for misguided in crowd {
        assert!(in_time(world, "it ends", misguided).await.unwrap() > 0);
    }
    guard.check().unwrap();
    guard.release().await;
    has_length(world, &name, 0).await;
}

pub async fn list_shows_what_should_not_be_there(world: &dyn World) {
    let one = world.contender().await;
    let name = a_name();
    let holder = one.client.mutex(&name).unwrap().with_lock_delay(DELAY).lock().await.unwrap();
    let stray = Enqueue {
        queue: &name,
        kind: Kind::Permits(2),
        id: "0123456789abcdef0123456789abcdef",
        value: b"not an owner",
        only_if_free: false,
    };
    assert!(matches!(holder.session().enqueue(&stray).await.unwrap(), Enqueued::Placed(_)));
    let places = one.client.queue(&name).unwrap().list().await.unwrap();
    assert_eq!(places.iter().map(|place| place.kind).collect::<Vec<_>>(), [Kind::Exclusive, Kind::Permits(2)]);
    assert_eq!(places.iter().map(|place| place.role).collect::<Vec<_>>(), [Role::Holder, Role::Waiter]);
    assert_eq!(places[1].value, b"not an owner");
    assert!(places[1].owner.is_some(), "its session's");
    // It might be about to leave, so that they wait; but no longer than one that leaves takes, and all at the same time.
    let began = Instant::now();
    let refused = [(); 4].map(|()| {
        let mutex = one.client.mutex(&name).unwrap();
        tokio::spawn(async move { mutex.lock().await.unwrap_err() })
    });
    for refused in refused {
        let error = in_time(world, "a refusal", refused).await.unwrap();
        assert!(matches!(error, Error::OtherRecipe { found: "semaphore", .. }), "{error}");
    }
    assert!(began.elapsed() < world.ttl() + SECOND, "took {:?}", began.elapsed());
    assert_eq!(world.entries(&name).await.len(), 2, "nothing is left of those who were refused");
    assert!(one.client.queue(&name).unwrap().revoke(holder.token()).await.unwrap());
    holder.check().unwrap();
}
