//! What a command can run under, whichever recipe it is.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;

use lock_core::{Client, Error, Guard, Leadership, Mutex, Permits, ReadGuard, Release, WriteGuard};

use crate::exit::Failure;

/// What is wanted of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// With what the next holder waits when this one vanishes.
    Mutex {
        delay: Duration,
    },
    Shared,
    Exclusive,
    Permits {
        count: u32,
        limit: u32,
    },
}

/// A lock that is held.
#[derive(Debug)]
pub(crate) enum Held {
    Mutex(Guard),
    Shared(ReadGuard),
    Exclusive(WriteGuard),
    Permits(Permits),
    Leader(Leadership),
}

/// Waiting for a lock.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = lock_core::Result<Held>> + Send>>;

impl Wanted {
    /// Waits for it; dropped, it leaves the queue.
    ///
    /// # Errors
    /// What is wrong with the name or the numbers.
    pub(crate) fn wait(self, client: &Client, name: &str) -> Result<Waiting, Error> {
        Ok(match self {
            Self::Mutex { delay } => {
                let lock = mutex(client, name, delay)?.lock();
                Box::pin(async { lock.await.map(Held::Mutex) })
            }
            Self::Shared => {
                let lock = client.rw_lock(name)?.read();
                Box::pin(async { lock.await.map(Held::Shared) })
            }
            Self::Exclusive => {
                let lock = client.rw_lock(name)?.write();
                Box::pin(async { lock.await.map(Held::Exclusive) })
            }
            Self::Permits { count, limit } => {
                let permits = client.semaphore(name, limit)?.acquire(count);
                Box::pin(async { permits.await.map(Held::Permits) })
            }
        })
    }

    /// Takes it if nobody else has it or waits for it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and those of the store.
    pub(crate) async fn try_now(self, client: &Client, name: &str) -> Result<Option<Held>, Error> {
        Ok(match self {
            Self::Mutex { delay } => mutex(client, name, delay)?.try_lock().await?.map(Held::Mutex),
            Self::Shared => client.rw_lock(name)?.try_read().await?.map(Held::Shared),
            Self::Exclusive => client.rw_lock(name)?.try_write().await?.map(Held::Exclusive),
            Self::Permits { count, limit } => {
                client.semaphore(name, limit)?.try_acquire(count).await?.map(Held::Permits)
            }
        })
    }

    /// An error, with what can be done about it here.
    pub(crate) fn explained(self, error: Error) -> Failure {
        let hint = match (&error, self) {
            (Error::OtherRecipe { found: "read-write lock", .. }, Self::Mutex { .. }) => {
                Some("with --exclusive it is the write side of that lock, with --shared the read side")
            }
            (Error::OtherRecipe { found: "mutex", .. }, Self::Shared | Self::Exclusive) => {
                Some("a lock that is taken with --shared has to be taken with --exclusive by the others")
            }
            (Error::OtherRecipe { found: "semaphore", .. }, Self::Mutex { .. }) => {
                Some("once it was taken with --permits, a name stays a semaphore's, even while nobody holds it")
            }
            _ => None,
        };
        match hint {
            Some(hint) => Failure::from(error).with(hint),
            None => error.into(),
        }
    }
}

fn mutex(client: &Client, name: &str, delay: Duration) -> Result<Mutex, Error> {
    let mutex = client.mutex(name)?;
    Ok(if delay.is_zero() { mutex } else { mutex.with_lock_delay(delay) })
}

impl Held {
    /// Gives it up and waits for the store's answer.
    pub(crate) async fn release(self) -> Release {
        match self {
            Self::Mutex(guard) => guard.release().await,
            Self::Shared(guard) => guard.release().await,
            Self::Exclusive(guard) => guard.release().await,
            Self::Permits(permits) => permits.release().await,
            Self::Leader(leadership) => leadership.resign().await,
        }
    }

    /// For a leader, its term.
    pub(crate) fn term(&self) -> Option<u64> {
        match self {
            Self::Leader(leadership) => Some(leadership.term()),
            _ => None,
        }
    }
}

impl Deref for Held {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        match self {
            Self::Mutex(guard) => guard,
            Self::Shared(guard) => guard,
            Self::Exclusive(guard) => guard,
            Self::Permits(permits) => permits,
            Self::Leader(leadership) => leadership,
        }
    }
}
