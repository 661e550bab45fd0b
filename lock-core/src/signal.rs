//! A value that changes, and that many wait for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Like tokio's `watch`, which wakes its receivers in random order: here, they are woken in the order in which they began to
/// wait. So what is random in this library comes from one generator, and a test can repeat a schedule from its seed.
#[derive(Debug)]
pub(crate) struct Signal<T> {
    present: Mutex<Present<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Present<T> {
    value: T,
    version: u64,
}

impl<T: Clone> Signal<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { present: Mutex::new(Present { value, version: 0 }), changed: Notify::new() }
    }

    pub(crate) fn value(&self) -> T {
        self.present().value.clone()
    }

    /// Grows with every change.
    pub(crate) fn version(&self) -> u64 {
        self.present().version
    }

    /// Lets `change` change the value, and tells everybody if that says so.
    pub(crate) fn set_if(&self, change: impl FnOnce(&mut T) -> bool) {
        {
            let mut present = self.present();
            if !change(&mut present.value) {
                return;
            }
            present.version += 1;
        }
        self.changed.notify_waiters();
    }

    /// Resolves with the version when it is another one than `seen`.
    pub(crate) async fn changed(&self, seen: u64) -> u64 {
        loop {
            // From here on no change is missed.
            let changed = self.changed.notified();
            let version = self.version();
            if version != seen {
                return version;
            }
            changed.await;
        }
    }

    /// Resolves when the value is as wanted.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&T) -> bool) {
        loop {
            let changed = self.changed.notified();
            if wanted(&self.present().value) {
                return;
            }
            changed.await;
        }
    }

    fn present(&self) -> MutexGuard<'_, Present<T>> {
        // Every step leaves the value whole.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn everybody_is_woken_in_the_order_of_waiting() {
        let signal = Arc::new(Signal::new(0));
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for i in 0..64 {
            let (signal, woken) = (signal.clone(), woken.clone());
            waiters.push(tokio::spawn(async move {
                signal.wait_for(|value| *value == 2).await;
                woken.lock().unwrap().push(i);
            }));
            tokio::task::yield_now().await;
        }
        signal.set_if(|value| std::mem::replace(value, 2) != 2);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..64).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_before_the_first_poll_is_told_and_no_change_is_not() {
        let signal = Signal::new(1);
        let seen = signal.version();
        signal.set_if(|_| false);
        assert_eq!(signal.version(), seen);
        let changed = signal.changed(seen);
        signal.set_if(|value| {
            *value = 5;
            true
        });
        assert_ne!(changed.await, seen);
        assert_eq!(signal.value(), 5);
    }
}
