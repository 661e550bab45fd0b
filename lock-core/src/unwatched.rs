//! Who holds without a watch on the own entry: whoever holds for a moment only does not pay for one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

/// What is to be started in time, unless it is taken back before.
#[derive(Default)]
pub(crate) struct Unwatched {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    due: BTreeMap<Key, Box<dyn FnOnce() + Send>>,
    next: u64,
    /// There is a task that starts what is due.
    served: bool,
}

/// When it is due, and which one it is.
pub(crate) type Key = (Instant, u64);

impl fmt::Debug for Unwatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwatched").field("holders", &self.state().due.len()).finish()
    }
}

impl Unwatched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts something at a time that is no earlier than those asked for before.
    pub(crate) fn add(self: &Arc<Self>, runtime: &Handle, at: Instant, start: impl FnOnce() + Send + 'static) -> Key {
        let mut state = self.state();
        let key = (at, state.next);
        state.next += 1;
        state.due.insert(key, Box::new(start));
        if !std::mem::replace(&mut state.served, true) {
            runtime.spawn(self.clone().serve());
        }
        key
    }

    pub(crate) fn take_back(&self, key: Key) {
        self.state().due.remove(&key);
    }

    async fn serve(self: Arc<Self>) {
        loop {
            let first = {
                let mut state = self.state();
                let first = state.due.first_key_value().map(|((at, _), _)| *at);
                state.served = first.is_some();
                first
            };
            let Some(first) = first else { return };
            sleep_until(first).await;
            let due = {
                let mut state = self.state();
                let later = state.due.split_off(&(Instant::now(), u64::MAX));
                std::mem::replace(&mut state.due, later)
            };
            due.into_values().for_each(|start| start());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn what_is_due_is_started_once_and_what_was_taken_back_never() {
        let (unwatched, started) = (Arc::new(Unwatched::default()), Arc::new(AtomicU32::new(0)));
        let add = |after: u64| {
            let started = started.clone();
            let start = move || {
                started.fetch_add(1, Ordering::Relaxed);
            };
            unwatched.add(&Handle::current(), Instant::now() + Duration::from_millis(after), start)
        };
        for _ in 0..2 {
            let before = started.load(Ordering::Relaxed);
            add(100);
            let back = add(100);
            add(150);
            unwatched.take_back(back);
            let told = async |after| {
                sleep(Duration::from_millis(after)).await;
                started.load(Ordering::Relaxed) - before
            };
            assert_eq!((told(90).await, told(20).await, told(90).await), (0, 1, 2));
            assert!(!unwatched.state().served, "nobody waits for nothing");
        }
    }
}
