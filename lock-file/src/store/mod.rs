//! The store's directory, and the transactions in which everything is done to it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Error, Result};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use crate::config::Access;
use crate::error::{Failed, NoAnswer};
use crate::names::{RECORDS, SESSIONS};
use crate::sys;

#[cfg(test)]
pub(crate) mod test;

/// Pauses between two tries to lock the store.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// Tries without a pause. A request takes about as long as the shortest pause.
const TRIES_AT_ONCE: u32 = 4;

/// One directory, as all sessions of one backend use it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) directory: PathBuf,
    pub(crate) access: Access,
    /// One request of this process at a time, in the order in which they were made.
    turn: Arc<Semaphore>,
    /// The directory, open: locked for the duration of a request.
    lock: Mutex<Option<File>>,
    pub(crate) sweep: crate::sweep::Wanted,
}

/// The store while no other process changes it.
pub(crate) struct Transaction<'a> {
    pub(crate) store: &'a Store,
    /// What is known of sessions.
    alive: HashMap<String, bool>,
}

/// How long a request may wait for its transaction.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    pub(crate) until: Instant,
    /// Nobody waits for the answer any more.
    abandoned: Arc<AtomicBool>,
}

/// Abandons a request when it is dropped.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Patience {
    pub(crate) fn until(until: Instant) -> Self {
        Self { until, abandoned: Arc::default() }
    }

    fn is_over(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
}

impl Store {
    pub(crate) fn new(directory: PathBuf, access: Access) -> Self {
        Self {
            directory,
            access,
            turn: Arc::new(Semaphore::new(1)),
            lock: Mutex::default(),
            sweep: crate::sweep::Wanted::default(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn session_path(&self, session: &str) -> PathBuf {
        self.path(SESSIONS).join(session)
    }

    /// Does work in a transaction, as [`on_thread`](Self::on_thread).
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        request: &'static str,
        limit: Duration,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        self.on_thread(request, limit, |store, patience| store.transact(patience, work)).await
    }

    /// Does work on a thread that may block, within a time limit.
    ///
    /// When nobody waits for the answer any more, it gives up waiting for its transaction. Whatever becomes of it, the next
    /// request begins when it has ended.
    pub(crate) async fn on_thread<T: Send + 'static>(
        self: &Arc<Self>,
        request: &'static str,
        limit: Duration,
        work: impl FnOnce(&Self, &Patience) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        let patience = Patience::until(Instant::now() + limit);
        let (waiting, until) = (Waiting(patience.abandoned.clone()), patience.until);
        let store = self.clone();
        let done = async move {
            // The semaphore is never closed.
            let turn = store.turn.clone().acquire_owned().await;
            let done = spawn_blocking(move || {
                let _turn = turn;
                work(&store, &patience)
            });
            done.await
        };
        let answer = match timeout_at(until.into(), done).await {
            Ok(Ok(answer)) => answer,
            // The runtime is being shut down.
            Ok(Err(error)) => return Err(Error::unavailable(request, error)),
            Err(_) => return Err(Error::unavailable(request, NoAnswer(limit))),
        };
        drop(waiting);
        self.sweep_if_wanted();
        answer.map_err(|failed| failed.classify(request, &self.directory))
    }

    /// Does work while no other process changes the store.
    pub(crate) fn transact<T>(
        &self,
        patience: &Patience,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let path = &self.directory;
        let late = || Failed::new("lock", path, io::Error::from(io::ErrorKind::TimedOut));
        // No panic leaves the file in a state of its own.
        let mut open = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            if Instant::now() >= patience.until || patience.is_over() {
                return Err(late());
            }
            let file = match open.take() {
                Some(file) => file,
                None => sys::open_directory(path)?,
            };
            if sys::try_lock(&file, path)? {
                let locked = Locked(&file);
                // Somebody may have removed it, and then others use another directory of this name.
                if sys::directory_identity_at(path)? == Some(sys::identity(&file, path)?) {
                    let done = work(&mut Transaction { store: self, alive: HashMap::new() });
                    drop(locked);
                    *open = Some(file);
                    return done;
                }
            } else {
                *open = Some(file);
            }
            tries += 1;
            if tries < TRIES_AT_ONCE {
                std::thread::yield_now();
            } else {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Unlocks a file at its end, whatever becomes of the work.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        sys::unlock(self.0);
    }
}

impl Transaction<'_> {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.store.path(name)
    }

    pub(crate) fn record_path(&self, queue: &str) -> PathBuf {
        self.path(RECORDS).join(queue)
    }

    /// Whether a session's process lives. What is dead stays so, for no session is ever locked a second time.
    pub(crate) fn is_alive(&mut self, session: &str) -> Result<bool, Failed> {
        if let Some(alive) = self.alive.get(session) {
            return Ok(*alive);
        }
        let alive = is_alive(&self.store.session_path(session))?;
        self.alive.insert(session.to_owned(), alive);
        Ok(alive)
    }

    /// Removes the file of an entry whose session is dead. What cannot be removed does not count either.
    pub(crate) fn bury(&mut self, path: &Path) {
        self.store.sweep.set();
        if let Err(failed) = sys::remove(path) {
            tracing::debug!(error = %failed, "an entry of a dead process stays");
        }
    }
}

/// Whether the session with this file lives: its process has locked it, and the kernel unlocks it when that dies.
pub(crate) fn is_alive(path: &Path) -> Result<bool, Failed> {
    match sys::open(path) {
        Ok(Some(file)) => Ok(!sys::try_lock_shared(&file, path)?),
        Ok(None) => Ok(false),
        // A symbolic link, which no session leaves there.
        Err(failed) if failed.is_symbolic_link() => Ok(false),
        Err(failed) => Err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::test::{Directory, transact};
    use super::*;

    #[test]
    fn work_that_nobody_waits_for_is_not_begun() {
        let directory = Directory::new();
        let patience = Patience::until(Instant::now() + Duration::from_secs(10));
        drop(Waiting(patience.abandoned.clone()));
        let done = directory.store().transact(&patience, |_| -> Result<(), Failed> { panic!("it was begun") });
        assert!(done.is_err());
        transact(&directory.store(), |_| Ok(())).unwrap();
    }

    #[test]
    fn a_directory_that_took_the_place_of_another_is_the_one_that_is_locked() {
        let directory = Directory::new();
        let store = directory.store();
        transact(&store, |_| Ok(())).unwrap();
        std::fs::remove_dir_all(directory.root()).unwrap();
        std::fs::create_dir(directory.root()).unwrap();
        transact(&directory.store(), |_| {
            let patience = Patience::until(Instant::now() + Duration::from_millis(50));
            assert!(store.transact(&patience, |_| Ok(())).is_err(), "both were in a transaction");
            Ok(())
        })
        .unwrap();
        transact(&store, |_| Ok(())).unwrap();
    }
}
