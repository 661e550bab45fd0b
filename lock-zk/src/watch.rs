//! Watches: on an entry, on a record, on a queue.

use std::future::{Future, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lock_core::Result;
use lock_core::backend::{Change, Stir, Watch, Watched};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use zookeeper_client as zk;
use zookeeper_client::{Client, EventType, OneshotWatcher, Stat, StateWatcher};

use crate::session::ZkSession;

pub(crate) const WATCH: &str = "watch an entry";
pub(crate) const WATCH_QUEUE: &str = "watch the queue";

/// Bytes of watched paths that one session may have. The client registers its watches again after a reconnect, in requests
/// of up to 128 KiB which all have the same number: the answer to a second one is taken for a fault, and the client
/// reconnects for ever.
pub(crate) const MAX_WATCHED_BYTES: usize = 120 * 1024;

/// How often a node is looked at that cannot be watched for that limit.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl ZkSession {
    pub(crate) async fn watch_entry(&self, client: &Arc<Client>, path: &str) -> Result<Watched> {
        let Some(room) = self.room(path) else {
            return match client.check_stat(path).await {
                Ok(None) => Ok(Watched::Gone),
                Ok(seen) => Ok(Watched::Present(looked_at(client, path, seen))),
                Err(error) => Err(self.classify(WATCH, path, error)),
            };
        };
        let state = client.state_watcher();
        match client.get_and_watch_data(path).await {
            Ok((_, _, watcher)) => Ok(Watched::Present(change(watcher, state, room))),
            Err(zk::Error::NoNode) => Ok(Watched::Gone),
            Err(error) => Err(self.classify(WATCH, path, error)),
        }
    }

    /// A record that nobody wrote is no node, but present.
    pub(crate) async fn watch_record(&self, client: &Arc<Client>, path: &str) -> Result<Watched> {
        let Some(room) = self.room(path) else {
            let seen = client.check_stat(path).await.map_err(|error| self.classify(WATCH, path, error))?;
            return Ok(Watched::Present(looked_at(client, path, seen)));
        };
        let watched = client.check_and_watch_stat(path).await;
        let (_, watcher) = watched.map_err(|error| self.classify(WATCH, path, error))?;
        Ok(Watched::Present(update(watcher, room)))
    }

    pub(crate) async fn watch_children(&self, client: &Arc<Client>, directory: &str) -> Result<Stir> {
        let failed = |error| self.classify(WATCH_QUEUE, directory, error);
        let Some(room) = self.room(directory) else {
            let seen = client.check_stat(directory).await.map_err(failed)?;
            let look = looked_at(client, directory, seen);
            return Ok(Box::pin(async move {
                look.await;
            }));
        };
        let state = client.state_watcher();
        match client.list_and_watch_children(directory).await {
            Ok((_, watcher)) => return Ok(stir(watcher, state, room)),
            Err(zk::Error::NoNode) => {}
            Err(error) => return Err(failed(error)),
        }
        // Watching for the directory to be made leaves nothing behind.
        match client.check_and_watch_stat(directory).await.map_err(failed)? {
            (None, watcher) => Ok(stir(watcher, state, room)),
            (Some(_), watcher) => {
                drop(watcher);
                // It was made meanwhile, and maybe viewed. A server has one kind of watch of a session on one node, which has
                // just been made another and then removed.
                self.muted.send_modify(|times| *times += 1);
                Ok(Box::pin(ready(())))
            }
        }
    }

    /// A share of what the session may watch; `None` when there is not enough left.
    fn room(&self, path: &str) -> Option<OwnedSemaphorePermit> {
        let size = u32::try_from(path.len()).unwrap_or(u32::MAX);
        let room = self.watched_bytes.clone().try_acquire_many_owned(size).ok();
        if room.is_none() && !self.warned_of_watches.swap(true, Ordering::Relaxed) {
            tracing::warn!(session = self.id, "too many waiters for one session; the last ones are slower to notice");
        }
        room
    }
}

/// Resolves with the watch on an entry.
///
/// `state` was current before the watch was asked for: the watches that fired while the client was disconnected are
/// reported in no particular order, so that after a reconnect a removal is not told as a fact.
fn change(watcher: OneshotWatcher, mut state: StateWatcher, room: OwnedSemaphorePermit) -> Watch {
    Box::pin(async move {
        let event = caught(watcher.changed()).await.map(|event| event.event_type);
        drop(room);
        match event {
            Some(EventType::NodeDeleted) if !has_changed(&mut state) => Change::Removed,
            Some(EventType::NodeDataChanged) => Change::Updated,
            _ => Change::Unknown,
        }
    })
}

/// Resolves with the watch on a record.
fn update(watcher: OneshotWatcher, room: OwnedSemaphorePermit) -> Watch {
    Box::pin(async move {
        let event = caught(watcher.changed()).await.map(|event| event.event_type);
        drop(room);
        match event {
            Some(EventType::NodeCreated | EventType::NodeDataChanged | EventType::NodeDeleted) => Change::Updated,
            _ => Change::Unknown,
        }
    })
}

/// Resolves with the watch on a queue, or when the connection changes: what fired meanwhile is told then, but whoever
/// follows a queue should not have to trust in that.
fn stir(watcher: OneshotWatcher, mut state: StateWatcher, room: OwnedSemaphorePermit) -> Stir {
    Box::pin(async move {
        tokio::select! {
            _ = caught(watcher.changed()) => {}
            _ = caught(state.changed()) => {}
        }
        drop(room);
    })
}

/// In place of a watch: looks every now and then whether a node is as it was seen. A removal that is found like this is
/// told in no order with others, and so not as a fact.
fn looked_at(client: &Arc<Client>, path: &str, seen: Option<Stat>) -> Watch {
    let (client, path) = (Arc::downgrade(client), path.to_owned());
    Box::pin(async move {
        loop {
            sleep(LOOK_EVERY).await;
            // Without a reference while it waits, for which the session's end would wait in turn.
            let Some(look) = client.upgrade().map(|client| client.check_stat(&path)) else { return Change::Unknown };
            match caught(look).await {
                Some(Ok(now)) if now == seen => {}
                Some(Ok(Some(_))) => return Change::Updated,
                _ => return Change::Unknown,
            }
        }
    })
}

fn has_changed(state: &mut StateWatcher) -> bool {
    at_once(state.changed()).is_some()
}

/// What a future gives without waiting, [caught].
pub(crate) fn at_once<F: Future + Send>(future: F) -> Option<Option<F::Output>> {
    match pin!(caught(future)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// `None` when the future panics, as the client's do when its task is gone with its runtime.
pub(crate) async fn caught<F: Future + Send>(future: F) -> Option<F::Output> {
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
