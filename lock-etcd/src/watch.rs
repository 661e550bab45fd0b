//! Watches: on an entry, on a record, on a queue.

use etcd_client::{GetOptions, ResponseHeader};
use lock_core::backend::{Stir, Watched};
use lock_core::{Name, Result};

use crate::error::Failure;
use crate::keys;
use crate::session::EtcdSession;
use crate::table::Subject;

pub(crate) const WATCH: &str = "watch an entry";
pub(crate) const WATCH_QUEUE: &str = "watch the queue";

impl EtcdSession {
    pub(crate) async fn watch_entry(&self, key: Vec<u8>, created: i64) -> Result<Watched> {
        // The revision at which the entry was seen, if it was.
        let see = async || {
            let range = self.get(WATCH, key.as_slice(), GetOptions::new().with_keys_only()).await?;
            let seen_at = range.header().map_or(0, ResponseHeader::revision);
            if seen_at < created {
                return Err(self.explain(Failure::unavailable("an answer older than the entry"), WATCH));
            }
            let lives = range.kvs().first().is_some_and(|kv| kv.create_revision() == created);
            Ok(lives.then_some(seen_at))
        };
        let subject = Subject::Entry { key: key.clone(), created };
        // Both at once: it is the revisions that tell whether the read is late enough.
        let (watching, seen) = tokio::join!(self.watches.watch(&subject), see());
        let Some(seen_at) = seen? else { return Ok(Watched::Gone) };
        let (watching, in_force_from) = watching.map_err(|failure| self.explain(failure, WATCH))?;
        if seen_at < in_force_from && see().await?.is_none() {
            return Ok(Watched::Gone);
        }
        Ok(Watched::Present(Box::pin(watching.change())))
    }

    /// A record that nobody wrote is no key, but present.
    pub(crate) async fn watch_record(&self, key: Vec<u8>) -> Result<Watched> {
        let watching = self.watches.watch(&Subject::Record { key }).await;
        let (watching, _) = watching.map_err(|failure| self.explain(failure, WATCH))?;
        Ok(Watched::Present(Box::pin(watching.change())))
    }

    pub(crate) async fn watch_entries(&self, queue: &Name) -> Result<Stir> {
        let prefix = keys::queue_prefix(self.namespace(), queue).into_bytes();
        let watching = self.watches.watch(&Subject::Queue { prefix }).await;
        let (watching, _) = watching.map_err(|failure| self.explain(failure, WATCH_QUEUE))?;
        Ok(Box::pin(async move {
            watching.change().await;
        }))
    }
}
