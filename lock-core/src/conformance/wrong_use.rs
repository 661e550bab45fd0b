//! One name for two kinds of recipe: told, and never waited for.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::{Contender, NOT_WOKEN, Waiter, World, contenders, fresh_name, has_length, in_time, record};
use crate::backend::{Enqueue, Enqueued, Kind};
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
            let outcome = tokio::time::timeout(NOT_WOKEN, comes.hold(client, &name)).await;
            let outcome = outcome.unwrap_or_else(|_| panic!("{comes:?} waits for {holds:?}"));
            told(&outcome.unwrap_err(), &name, holds, comes);
            nothing_is_left().await;
            let outcome = tokio::time::timeout(NOT_WOKEN, comes.try_hold(client, &name)).await;
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
    let error = in_time(world, "a refusal", one.client.mutex(&name).unwrap().lock()).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { found: "semaphore", .. }), "{error}");
    assert!(one.client.queue(&name).unwrap().revoke(holder.token()).await.unwrap());
    holder.check().unwrap();
}
