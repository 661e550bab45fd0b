//! From a one-shot watch of the client to the removal of an entry.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use lock_core::backend::{Removal, Removed};
use tokio::sync::OwnedSemaphorePermit;
use zookeeper_client::{EventType, OneshotWatcher, StateWatcher};

/// Bytes of watched paths that one session may have. The client registers its watches again after a reconnect, in requests
/// of up to 128 KiB which all have the same number: the answer to a second one is taken for a fault, and the client
/// reconnects for ever.
pub(crate) const MAX_WATCHED_BYTES: usize = 120 * 1024;

/// Resolves with the watch.
///
/// `state` was current before the watch was asked for: the watches that fired while the client was disconnected are
/// reported in no particular order, so that after a reconnect a removal is not told as a fact.
pub(crate) fn removal(watcher: OneshotWatcher, mut state: StateWatcher, permit: OwnedSemaphorePermit) -> Removal {
    Box::pin(async move {
        let event = caught(watcher.changed()).await;
        drop(permit);
        match event {
            Some(event) if event.event_type == EventType::NodeDeleted && !has_changed(&mut state) => Removed::Gone,
            _ => Removed::Unknown,
        }
    })
}

fn has_changed(state: &mut StateWatcher) -> bool {
    let polled = pin!(caught(state.changed())).poll(&mut Context::from_waker(Waker::noop()));
    polled.is_ready()
}

/// `None` when the future panics, as the client's do when its task is gone with its runtime.
async fn caught<F: Future + Send>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_below_is_not_ours() {
        assert_eq!(caught(async { 7 }).await, Some(7));
        let gone: Option<()> = caught(async { panic!("expected in this test") }).await;
        assert_eq!(gone, None);
    }
}
