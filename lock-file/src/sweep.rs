//! Removing what dead processes left behind. Nothing of it counts; it is only in the way of people who look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::Result;
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
        for queue in queues {
            if let Err(error) = self.run(SWEEP, LIMIT, move |store| store.sweep_queue(queue.segment())).await {
                tracing::debug!(%error, "a queue cannot be swept");
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

    /// Removes the entries of dead sessions from a queue, and its directory if it is empty then.
    pub(crate) fn sweep_queue(&mut self, queue: &str) -> Result<(), Failed> {
        let directory = self.path(queue);
        for place in sys::list(&directory)?.iter().filter_map(|name| Place::parse(name)) {
            if !self.is_alive(&place.session)? {
                let path = self.path(&place.entry(queue).key);
                if let Err(failed) = sys::remove(&path) {
                    tracing::debug!(error = %failed, "an entry of a dead process stays");
                }
            }
        }
        sys::remove_directory(&directory);
        Ok(())
    }
}
