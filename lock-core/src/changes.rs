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

/// Lists a queue, and again whenever it may have changed, or what its record tells of those in it.
pub(crate) struct Changes {
    client: Client,
    queue: Name,
    limit: usize,
    /// There are entries of which the record tells more.
    with_record: bool,
    /// The watches that were in force before the last listing, and their session.
    watch: Option<(Arc<Live>, Stir)>,
}

impl Changes {
    /// Of the first `limit` entries of a queue.
    pub(crate) fn new(client: Client, queue: Name, limit: usize) -> Self {
        Self { client, queue, limit, with_record: false, watch: None }
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
            let (queue, limit, with_record) = (self.queue.clone(), self.limit, self.with_record);
            let listed = self.client.with_session(move |live| async move {
                let mut stir = live.retry(|| live.session.watch_queue(&queue)).await?;
                if with_record {
                    let record = live.session.record(&queue);
                    stir = either(stir, live.retry(|| live.session.watch(&record)).await?);
                }
                let entries = live.retry(|| live.session.entries(&queue, limit)).await?;
                Ok((live, stir, entries))
            });
            match listed.await {
                // What was written to the record before it was watched may be missing in the list.
                Ok((_, _, entries)) if !with_record && entries.iter().any(|entry| has_record(entry.kind)) => {
                    self.with_record = true;
                }
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

/// Whether the record of a queue with such an entry says who holds in it, or that a value was written.
fn has_record(kind: Kind) -> bool {
    matches!(kind, Kind::Permits(_) | Kind::Member)
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
