//! The own session: a file that this process has locked, and what belongs to it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Failed;
use crate::names::{RECORDS, SESSIONS, is_session, names};
use crate::store::{Store, Transaction, is_alive};
use crate::sys::{self, Identity};

/// How long the directory of a queue that this session has left is kept for the next to come: making and removing one
/// takes longer than a lock is held by many.
const KEEP_DIRECTORY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error("the file system does not keep locks apart")]
struct NoLocks;

/// The own session. It is over when this is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) id: String,
    path: PathBuf,
    identity: Identity,
    /// The open file that holds the lock; absent once the session is over.
    file: Mutex<Option<File>>,
    belongings: Mutex<Belongings>,
}

#[derive(Debug, Default)]
struct Belongings {
    /// The keys of the entries that may be there.
    entries: HashSet<Arc<str>>,
    /// The queues whose directories may be empty, and since when.
    left: HashMap<String, Instant>,
    /// The queues that are watched, and how often.
    watched: HashMap<String, usize>,
}

/// Keeps the directory of a queue as long as it is watched. Removing it would stir the watch.
pub(crate) struct Kept {
    own: Arc<Own>,
    queue: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut belongings = self.own.belongings();
        let Some(times) = belongings.watched.get_mut(&self.queue) else { return };
        *times -= 1;
        if *times == 0 {
            belongings.watched.remove(&self.queue);
            belongings.left.insert(std::mem::take(&mut self.queue), Instant::now());
        }
    }
}

impl Own {
    /// Whether the session's file is still there. Its lock is this process's own.
    pub(crate) fn is_there(&self) -> Result<bool, Failed> {
        Ok(self.is_open() && sys::identity_at(&self.path)? == Some(self.identity))
    }

    fn is_open(&self) -> bool {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Ends the session for all requests to come. The lock lasts as long as the file that is returned; the second time
    /// there is none.
    pub(crate) fn close(&self) -> Option<File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The open file once more. The lock lasts until both are closed.
    pub(crate) fn lifeline(&self) -> io::Result<Option<OwnedFd>> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().map(|file| file.try_clone().map(OwnedFd::from)).transpose()
    }

    pub(crate) fn has(&self, key: Arc<str>) {
        self.belongings().entries.insert(key);
    }

    /// Notes that an entry is gone, of this session or another.
    pub(crate) fn has_no_more(&self, key: &str) {
        let mut belongings = self.belongings();
        for name in names(key) {
            belongings.entries.remove(&*name);
        }
        if let Some((queue, _)) = key.split_once('/') {
            belongings.left.insert(queue.to_owned(), Instant::now());
        }
    }

    /// Keeps the directory of a queue that is about to be watched.
    pub(crate) fn keep(self: &Arc<Self>, queue: &str) -> Kept {
        *self.belongings().watched.entry(queue.to_owned()).or_default() += 1;
        Kept { own: self.clone(), queue: queue.to_owned() }
    }

    /// The queues that were left some time ago, to be forgotten.
    pub(crate) fn take_left(&self) -> Vec<String> {
        let now = Instant::now();
        let Belongings { left, watched, .. } = &mut *self.belongings();
        let is_over = |queue: &String, since: &mut Instant| {
            now.duration_since(*since) >= KEEP_DIRECTORY && !watched.contains_key(queue)
        };
        left.extract_if(is_over).map(|(queue, _)| queue).collect()
    }

    fn belongings(&self) -> MutexGuard<'_, Belongings> {
        // Each change is one step.
        self.belongings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Where a session writes a value before it counts.
    pub(crate) fn draft_path(&self, session: &str) -> PathBuf {
        self.path(SESSIONS).join(format!("{session}.new"))
    }
}

impl Transaction<'_> {
    /// Opens a session of this process.
    pub(crate) fn open_session(&mut self, owner: &[u8]) -> Result<Own, Failed> {
        self.make_directory(SESSIONS)?;
        self.make_directory(RECORDS)?;
        let mut in_use = false;
        for session in sys::list(&self.path(SESSIONS))?.iter().filter(|name| is_session(name)) {
            if self.is_alive(session)? {
                in_use = true;
            } else {
                self.store.sweep.set();
            }
        }
        if !in_use {
            self.distrust_numbers()?;
            self.store.sweep.set();
        }
        let id = format!("{}.{}", std::process::id(), self.take_number()?);
        let path = self.store.session_path(&id);
        let file = sys::create_empty(&path, self.store.access)?;
        match self.occupy(&path, &file, owner) {
            Ok(identity) => Ok(Own { id, path, identity, file: Mutex::new(Some(file)), belongings: Mutex::default() }),
            Err(failed) => {
                // If this fails too, it is the file of a session that is dead.
                let _ = sys::remove(&path);
                Err(failed)
            }
        }
    }

    fn occupy(&self, path: &Path, file: &File, owner: &[u8]) -> Result<Identity, Failed> {
        if !sys::try_lock(file, path)? || !is_alive(path)? {
            return Err(Failed::new("lock", path, io::Error::new(io::ErrorKind::Unsupported, NoLocks)));
        }
        sys::write(file, path, owner)?;
        sys::identity(file, path)
    }

    /// Removes all that belongs to the own session, its file last: whoever finds that one unlocked goes on with the rest.
    pub(crate) fn end_session(&mut self, own: &Own) -> Result<(), Failed> {
        let Belongings { entries, mut left, watched } = std::mem::take(&mut *own.belongings());
        for key in &entries {
            for name in names(key) {
                sys::remove(&self.path(&name))?;
            }
            if let Some((queue, _)) = key.split_once('/') {
                left.insert(queue.to_owned(), Instant::now());
            }
        }
        for queue in left.keys().chain(watched.keys()) {
            sys::remove_directory(&self.path(queue));
        }
        self.remove_session(&own.id)
    }

    /// Removes the files of a session.
    pub(crate) fn remove_session(&mut self, session: &str) -> Result<(), Failed> {
        sys::remove(&self.store.draft_path(session))?;
        sys::remove(&self.store.session_path(session)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test::{Directory, transact};

    #[test]
    fn directories_that_were_left_some_time_ago_are_given_out_once() {
        let directory = Directory::new();
        let own = transact(&directory.store(), |store| store.open_session(b"")).unwrap();
        own.has_no_more("new/entry");
        own.belongings().left.insert("old".into(), Instant::now() - KEEP_DIRECTORY);
        assert_eq!(own.take_left(), ["old"]);
        assert!(own.take_left().is_empty());
    }

    #[test]
    fn the_directory_of_a_queue_that_is_watched_is_not_given_out() {
        let directory = Directory::new();
        let own = Arc::new(transact(&directory.store(), |store| store.open_session(b"")).unwrap());
        let age = || own.belongings().left.insert("q".into(), Instant::now() - KEEP_DIRECTORY);
        let (one, other) = (own.keep("q"), own.keep("q"));
        age();
        assert!(own.take_left().is_empty());
        drop(one);
        assert!(own.take_left().is_empty(), "the other is still there");
        drop(other);
        assert!(own.take_left().is_empty(), "it was left this very moment");
        age();
        assert_eq!(own.take_left(), ["q"]);
    }

    #[test]
    fn a_session_counts_as_long_as_its_file_is_there_and_open() {
        let directory = Directory::new();
        let store = directory.store();
        let open = || transact(&store, |store| store.open_session(b"")).unwrap();
        let is_alive = |own: &Own| transact(&store, |store| store.is_alive(&own.id)).unwrap();
        let (kept, closed, removed) = (open(), open(), open());
        assert!(is_alive(&kept) && is_alive(&closed) && is_alive(&removed));
        drop(closed.close());
        // Other tests start processes, each of which has the file open until it is the program that it is to be.
        let until = Instant::now() + Duration::from_secs(10);
        while is_alive(&closed) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_file(&removed.path).unwrap();
        std::fs::write(&removed.path, "another").unwrap();
        assert!(is_alive(&kept) && !is_alive(&closed) && !is_alive(&removed));
        assert!(kept.is_there().unwrap() && !closed.is_there().unwrap() && !removed.is_there().unwrap());
        assert!(closed.close().is_none());
    }
}
