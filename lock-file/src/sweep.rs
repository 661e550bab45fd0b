//! Removing what dead processes left behind. Nothing of it counts; it is only in the way of people who look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{Name, Result};
use tokio::runtime::Handle;

use crate::error::Failed;
use crate::names::{NEW_DIRECTORY, NEW_NUMBERS, Place, SESSIONS, is_session};
use crate::store::{Store, Transaction};
use crate::sys;

const SWEEP: &str = "remove what dead processes left";

/// For each of the short transactions of a sweep.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether something was found that a dead process left.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    wanted: AtomicBool,
    running: AtomicBool,
}

impl Wanted {
    pub(crate) fn set(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }
}

impl Store {
    /// Starts a sweep in the background if something was found. There is one at a time.
    pub(crate) fn sweep_if_wanted(self: &Arc<Self>) {
        let Wanted { wanted, running } = &self.sweep;
        if !wanted.load(Ordering::SeqCst) || running.swap(true, Ordering::SeqCst) {
            return;
        }
        let store = self.clone();
        let sweep = async move {
            loop {
                while store.sweep.wanted.swap(false, Ordering::SeqCst) {
                    if let Err(error) = store.sweep().await {
                        tracing::debug!(%error, "left to the next who comes across it");
                    }
                }
                store.sweep.running.store(false, Ordering::SeqCst);
                let missed = store.sweep.wanted.load(Ordering::SeqCst);
                if !missed || store.sweep.running.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(sweep)),
            // The next request of a task of the runtime does it.
            Err(_) => running.store(false, Ordering::SeqCst),
        }
    }

    /// One transaction for each queue, so that nobody waits for all of them. The files of the dead sessions come last: until
    /// then whoever finds them starts again. What cannot be removed does not keep the rest.
    async fn sweep(self: &Arc<Self>) -> Result<()> {
        let found = |store: &mut Transaction<'_>| {
            store.remove_drafts()?;
            Ok((store.dead_sessions()?, store.names("")?))
        };
        let (dead, queues) = self.run(SWEEP, LIMIT, found).await?;
        self.remove_all(dead, queues).await
    }

    async fn remove_all(self: &Arc<Self>, dead: BTreeSet<String>, queues: Vec<Name>) -> Result<()> {
        for queue in queues {
            match self.run(SWEEP, LIMIT, move |store| store.sweep_queue(queue.segment())).await {
                // Who died since then has left more than this.
                Ok(swept) if !swept.is_subset(&dead) => self.sweep.set(),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a queue cannot be swept"),
            }
        }
        for session in dead {
            self.run(SWEEP, LIMIT, move |store| store.remove_session(&session)).await?;
        }
        Ok(())
    }
}

impl Transaction<'_> {
    /// Removes what a transaction that was not ended has begun to make. No other is under way.
    pub(crate) fn remove_drafts(&mut self) -> Result<(), Failed> {
        sys::remove_directory(&self.path(NEW_DIRECTORY));
        sys::remove(&self.path(NEW_NUMBERS)).map(drop)
    }

    pub(crate) fn dead_sessions(&mut self) -> Result<BTreeSet<String>, Failed> {
        let mut dead = BTreeSet::new();
        for name in sys::list(&self.path(SESSIONS))? {
            let session = name.strip_suffix(".new").unwrap_or(&name);
            if is_session(session) && !self.is_alive(session)? {
                dead.insert(session.to_owned());
            }
        }
        Ok(dead)
    }

    /// Removes the entries of dead sessions from a queue, and its directory if it is empty then. Returns whose were removed.
    pub(crate) fn sweep_queue(&mut self, queue: &str) -> Result<BTreeSet<String>, Failed> {
        let directory = self.path(queue);
        let mut swept = BTreeSet::new();
        for place in sys::list(&directory)?.iter().filter_map(|name| Place::parse(name)) {
            if self.is_alive(&place.session)? {
                continue;
            }
            match sys::remove(&self.path(&place.entry(queue).key)) {
                Ok(true) => {
                    swept.insert(place.session);
                }
                Ok(false) => {}
                Err(failed) => tracing::debug!(error = %failed, "an entry of a dead process stays"),
            }
        }
        sys::remove_directory(&directory);
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use lock_core::backend::Kind;

    use super::*;
    use crate::store::test::{Directory, transact};

    /// It is dead when the queue is swept and was not when the sweep began.
    #[tokio::test]
    async fn who_dies_during_a_sweep_is_swept_away() {
        let directory = Directory::new();
        let (store, other) = (directory.store(), directory.store());
        let own = transact(&store, |store| store.open_session(b"")).unwrap();
        for queue in ["a", "b"] {
            let mine = (own.id.as_str(), "0a", Kind::Exclusive);
            transact(&store, |store| store.enqueue(queue, mine, b"", false)).map(drop).unwrap();
        }
        let (dead, queues) = transact(&other, |store| Ok((store.dead_sessions()?, store.names("")?))).unwrap();
        drop(own);
        other.remove_all(dead, queues).await.unwrap();
        assert!(other.sweep.wanted.load(Ordering::SeqCst), "its session is still there");
        other.sweep_if_wanted();
        let is_empty = || std::fs::read_dir(directory.path(SESSIONS)).unwrap().next().is_none();
        let until = std::time::Instant::now() + LIMIT;
        while !is_empty() && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(is_empty());
        assert!(!other.sweep.wanted.load(Ordering::SeqCst), "there is an end to it");
    }
}
