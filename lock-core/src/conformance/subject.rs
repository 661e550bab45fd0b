//! What the mutex's rules are run over: every recipe that lets one in at a time.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::ops::Deref;
use std::time::Duration;

use super::{Contender, World, fresh_name, has_length};
use crate::backend::QueueEntry;
use crate::{Client, Guard, Mutex, Name, Permits, Release, Result, RwLock, Semaphore, WriteGuard};

/// A recipe, used so that one holder at a time is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Mutex,
    Writer,
    SemaphoreOfOne,
    /// A semaphore of five, of which somebody else holds four all the time.
    LastOfFivePermits,
}

impl Subject {
    /// One lock in one client; of [`LastOfFivePermits`](Self::LastOfFivePermits) only together with its bystander.
    pub(super) fn of(self, client: &Client, name: &str) -> Exclusive {
        match self {
            Self::Mutex => Exclusive::Mutex(client.mutex(name).unwrap()),
            Self::Writer => Exclusive::Writer(client.rw_lock(name).unwrap()),
            Self::SemaphoreOfOne => Exclusive::Permit(client.semaphore(name, 1).unwrap()),
            Self::LastOfFivePermits => Exclusive::Permit(client.semaphore(name, 5).unwrap()),
        }
    }

    /// One lock of a fresh name in several clients.
    pub(super) async fn everywhere(self, world: &dyn World, contenders: &[Contender]) -> Everywhere {
        let name = fresh_name();
        let bystander = if self == Self::LastOfFivePermits {
            let bystander = world.contender().await;
            let permits = bystander.client.semaphore(&name, 5).unwrap().acquire(4).await.unwrap();
            Some((bystander, permits))
        } else {
            None
        };
        let clients: Vec<_> = contenders.iter().map(|contender| contender.client.clone()).collect();
        let locks = clients.iter().map(|client| self.of(client, &name)).collect();
        Everywhere { clients, locks, name: Name::new(name).unwrap(), bystander }
    }

    /// One lock of a fresh name in one client.
    pub(super) async fn in_one(self, world: &dyn World, contender: &Contender) -> Everywhere {
        self.everywhere(world, std::slice::from_ref(contender)).await
    }

    /// How often at most the next in the queue is told, for each grant, that it is the first waiter now.
    pub(super) fn nudges_per_grant(self) -> u64 {
        match self {
            Self::Mutex | Self::Writer | Self::SemaphoreOfOne => 0,
            Self::LastOfFivePermits => 1,
        }
    }
}

/// One lock in several clients, by the client's number.
pub(super) struct Everywhere {
    clients: Vec<Client>,
    locks: Vec<Exclusive>,
    pub(super) name: Name,
    bystander: Option<(Contender, Permits)>,
}

impl Everywhere {
    /// The queue without the bystander.
    pub(super) async fn entries(&self, world: &dyn World) -> Vec<QueueEntry> {
        let mut entries = world.entries(&self.name).await;
        if let Some((_, permits)) = &self.bystander {
            permits.check().expect("the bystander holds its permits all the time");
            assert_eq!(entries.remove(0).entry, *permits.entry());
        }
        entries
    }

    /// How often the waiters of a client have gone to sleep.
    pub(super) fn slept(&self, client: usize) -> u64 {
        self.clients[client].metrics().waits
    }

    /// Waits until the queue has `n` entries, the bystander not counted.
    pub(super) async fn has_length(&self, world: &dyn World, n: usize) {
        has_length(world, &self.name, n + usize::from(self.bystander.is_some())).await;
    }
}

impl Deref for Everywhere {
    type Target = [Exclusive];

    fn deref(&self) -> &[Exclusive] {
        &self.locks
    }
}

/// The way to one lock.
#[derive(Clone, Debug)]
pub(super) enum Exclusive {
    Mutex(Mutex),
    Writer(RwLock),
    Permit(Semaphore),
}

/// The lock, held.
#[derive(Debug)]
pub(super) enum Held {
    Mutex(Guard),
    Writer(WriteGuard),
    Permit(Permits),
}

impl Exclusive {
    pub(super) async fn lock(&self) -> Result<Held> {
        match self {
            Self::Mutex(mutex) => mutex.lock().await.map(Held::Mutex),
            Self::Writer(lock) => lock.write().await.map(Held::Writer),
            Self::Permit(semaphore) => semaphore.acquire(1).await.map(Held::Permit),
        }
    }

    pub(super) async fn try_lock(&self) -> Result<Option<Held>> {
        Ok(match self {
            Self::Mutex(mutex) => mutex.try_lock().await?.map(Held::Mutex),
            Self::Writer(lock) => lock.try_write().await?.map(Held::Writer),
            Self::Permit(semaphore) => semaphore.try_acquire(1).await?.map(Held::Permit),
        })
    }

    pub(super) async fn try_lock_for(&self, timeout: Duration) -> Result<Option<Held>> {
        Ok(match self {
            Self::Mutex(mutex) => mutex.try_lock_for(timeout).await?.map(Held::Mutex),
            Self::Writer(lock) => lock.try_write_for(timeout).await?.map(Held::Writer),
            Self::Permit(semaphore) => semaphore.try_acquire_for(1, timeout).await?.map(Held::Permit),
        })
    }

    pub(super) fn labelled(self, label: impl Into<String>) -> Self {
        match self {
            Self::Mutex(mutex) => Self::Mutex(mutex.labelled(label)),
            Self::Writer(lock) => Self::Writer(lock.labelled(label)),
            Self::Permit(semaphore) => Self::Permit(semaphore.labelled(label)),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Mutex(mutex) => mutex.name(),
            Self::Writer(lock) => lock.name(),
            Self::Permit(semaphore) => semaphore.name(),
        }
    }

    pub(super) async fn entries(&self) -> Result<Vec<QueueEntry>> {
        match self {
            Self::Mutex(mutex) => mutex.entries().await,
            Self::Writer(lock) => lock.entries().await,
            Self::Permit(semaphore) => semaphore.entries().await,
        }
    }
}

impl Held {
    pub(super) async fn release(self) -> Release {
        match self {
            Self::Mutex(guard) => guard.release().await,
            Self::Writer(guard) => guard.release().await,
            Self::Permit(permits) => permits.release().await,
        }
    }
}

impl Deref for Held {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        match self {
            Self::Mutex(guard) => guard,
            Self::Writer(guard) => guard,
            Self::Permit(permits) => permits,
        }
    }
}
