//! A queue from one change to the next, across lost connections and sessions.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Kind, QueueEntry, Stir, Watched};
use crate::client::Client;
use crate::error::Result;
use crate::name::Name;
use crate::session::{Backoff, Live, recheck};

/// Changes that come this close together are seen as one, so that a crowd that joins does not cost a listing each.
const TOGETHER: Duration = Duration::from_millis(20);

/// Lists a queue, and again whenever it may have changed, or the limit of a semaphore that decides who in it holds.
pub(crate) struct Changes {
    client: Client,
    queue: Name,
    limit: usize,
    /// The watches that were in force before the last listing, and their session.
    watch: Option<(Arc<Live>, Stir)>,
}

impl Changes {
    /// Of the first `limit` entries of a queue.
    pub(crate) fn new(client: Client, queue: Name, limit: usize) -> Self {
        Self { client, queue, limit, watch: None }
    }

    /// The entries: the first time at once, then when they may have changed. Goes on through lost connections and sessions,
    /// after which it lists again.
    ///
    /// Dropping the future loses nothing: the next call lists again.
    ///
    /// # Errors
    /// Those that asking again does not help against.
    pub(crate) async fn next(&mut self) -> Result<Vec<QueueEntry>> {
        if let Some((live, stir)) = &mut self.watch {
            tokio::select! {
                biased;
                _ = live.health.lost() => {}
                () = stir => {}
                () = recheck() => {}
            }
            self.watch = None;
            tokio::time::sleep(TOGETHER).await;
        }
        let mut backoff = Backoff::default();
        loop {
            let (queue, limit) = (self.queue.clone(), self.limit);
            let listed = self.client.with_session(move |live| async move {
                let mut stir = live.retry(|| live.session.watch_queue(&queue)).await?;
                let entries = live.retry(|| live.session.entries(&queue, limit)).await?;
                if entries.iter().any(|entry| matches!(entry.kind, Kind::Permits(_))) {
                    let record = live.session.record(&queue);
                    stir = either(stir, live.retry(|| live.session.watch(&record)).await?);
                }
                Ok((live, stir, entries))
            });
            match listed.await {
                Ok((live, stir, entries)) => {
                    self.watch = Some((live, stir));
                    return Ok(entries);
                }
                Err(error) if error.is_retryable() => {
                    tracing::debug!(queue = %self.queue, %error, "cannot follow the queue, trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Resolves when a queue or its record may have changed.
fn either(stir: Stir, record: Watched) -> Stir {
    // Records are always present.
    let Watched::Present(written) = record else { return stir };
    Box::pin(async {
        tokio::select! {
            biased;
            () = stir => {}
            _ = written => {}
        }
    })
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("queue", &self.queue).finish_non_exhaustive()
    }
}
