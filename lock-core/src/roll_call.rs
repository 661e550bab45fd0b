//! Whether those of a session who hold are in the store as they were seen, asked for all together: events have been lost before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;

use crate::backend::Entry;
use crate::error::Loss;
use crate::health::Health;
use crate::session::{Live, recheck};

/// Entries in one call, which must be answered in time.
const AT_ONCE: usize = 500;

/// The entries that are held for longer than a moment.
#[derive(Debug, Default)]
pub(crate) struct RollCall {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// With the version that was seen.
    held: HashMap<Entry, (u64, oneshot::Sender<()>)>,
    /// There is a task that asks.
    served: bool,
}

/// An entry that is asked for until this is dropped.
pub(crate) struct Present<'a> {
    roll_call: &'a RollCall,
    entry: &'a Entry,
    changed: oneshot::Receiver<()>,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.roll_call.state().held.remove(self.entry);
    }
}

impl Present<'_> {
    /// Resolves when the entry is not there any more as it was seen.
    pub(crate) async fn changed(&mut self) {
        if (&mut self.changed).await.is_err() {
            std::future::pending().await
        }
    }
}

impl RollCall {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for an entry, which was seen in this version, from time to time.
    pub(crate) fn join<'a>(&'a self, live: &Arc<Live>, entry: &'a Entry, version: u64) -> Present<'a> {
        let (sender, changed) = oneshot::channel();
        let mut state = self.state();
        state.held.insert(entry.clone(), (version, sender));
        if !std::mem::replace(&mut state.served, true) {
            live.runtime.spawn(serve(Arc::downgrade(live), live.health.clone()));
        }
        Present { roll_call: self, entry, changed }
    }

    fn tell(&self, changed: &Entry) {
        tracing::debug!(entry = &*changed.key, "a held entry has changed");
        if let Some((_, sender)) = self.state().held.remove(changed) {
            let _ = sender.send(());
        }
    }
}

/// Asks for them until nobody is left, or the session is lost. What waits to ask keeps no session open.
async fn serve(live: Weak<Live>, health: Arc<Health>) {
    loop {
        tokio::select! {
            biased;
            _ = health.lost() => return,
            () = recheck() => {}
        }
        let Some(live) = live.upgrade() else { return };
        let held: Vec<_> = {
            let mut state = live.roll_call.state();
            state.served = !state.held.is_empty();
            state.held.iter().map(|(entry, (version, _))| (entry.clone(), *version)).collect()
        };
        if held.is_empty() {
            return;
        }
        for held in held.chunks(AT_ONCE) {
            match live.retry(|| live.session.changed(held)).await {
                Ok(changed) => changed.iter().for_each(|entry| live.roll_call.tell(entry)),
                Err(error) if error.is_session_lost() => return,
                Err(error) => {
                    tracing::error!(%error, "held entries cannot be found, ending their session");
                    live.health.lose(Loss::Stuck);
                    return;
                }
            }
        }
    }
}
