//! Counters of a client, so that claims such as "one wake-up per release" are counted, not believed.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of a client's counters since it was made.
        ///
        /// # Examples
        /// ```
        /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
        /// # let clock = lock_core::clock::TokioClock::new();
        /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
        /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
        /// let mutex = client.mutex("reindex")?;
        /// let (guard, mut waiting) = (mutex.lock().await?, [mutex.lock(), mutex.lock(), mutex.lock()]);
        /// for waiter in &mut waiting {
        ///     waiter.position().await?;
        /// }
        /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        /// guard.release().await;
        /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        /// assert_eq!(client.metrics().wakeups, 1, "of three");
        /// # Ok(()) }
        /// ```
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Metrics {
                Metrics { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

metrics! {
    /// Sessions opened.
    sessions_opened,
    /// Sessions that ended other than by being closed.
    sessions_lost,
    /// Successful proofs of life of a session.
    renewals,
    /// Entries put into a queue.
    enqueued,
    /// Guards handed out.
    granted,
    /// Times a waiter went to sleep until what it waits for changes.
    waits,
    /// Times a waiter was woken because an entry that it waited for was removed.
    wakeups,
    /// Times a waiter was woken because something that it waited for was written: the state of a barrier; of a semaphore,
    /// the next in the queue is told that it is the first waiter now.
    nudges,
    /// Times a waiter read the entries ahead, or the state that it waits for.
    looks,
    /// Requests to enter a queue whose answer was lost and had to be settled.
    ambiguous,
    /// Entries removed.
    dequeued,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
