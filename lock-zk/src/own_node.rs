//! The session's own node: what heartbeats check, and what every enqueue depends on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lock_core::{Error, Result};
use tokio::sync::Mutex as AsyncMutex;
use zookeeper_client as zk;
use zookeeper_client::{Client, CreateMode, MultiWriteError, MultiWriter};

use crate::error::DirectoryGone;
use crate::session::{DIRECTORY_TRIES, RENEW, ZkSession};

const CREATE: &str = "create the session's node";

/// The segment of the directory of all sessions' nodes. No lock's segment looks like this one.
pub(crate) const DIRECTORY: &str = "%session";

/// An ephemeral node of the session, with its owner as data.
///
/// An enqueue is one transaction that creates the entry **and writes this node**. When an enqueue is not answered, the node
/// is replaced by one of another name, which is never used again. From then on the lost enqueue fails, however late it
/// comes. Nothing else fences it: a server refuses requests of a connection that a session has left, but a delayed request
/// to reconnect, of which there may be several, makes the session return to the server where the enqueue is waiting.
///
/// The answer to the write tells the transaction's id, which is the entry's creation id; servers before 3.9 leave it out
/// of the answer to a create in a transaction (ZOOKEEPER-4667).
#[derive(Debug)]
pub(crate) struct OwnNode {
    /// The path without what tells one node from the next.
    base: String,
    directory: String,
    data: Vec<u8>,
    current: Mutex<Arc<str>>,
    names: AtomicU64,
    replacing: AsyncMutex<()>,
}

impl OwnNode {
    pub(crate) fn new(directory: String, session: &str, owner: &[u8]) -> Self {
        let base = format!("{directory}/{session}");
        Self {
            current: Mutex::new(base.as_str().into()),
            base,
            directory,
            data: owner.to_vec(),
            names: AtomicU64::new(0),
            replacing: AsyncMutex::new(()),
        }
    }

    pub(crate) fn path(&self) -> Arc<str> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Tells the nodes of one session apart, later ones by greater numbers; `None` for another session's.
pub(crate) fn number(name: &str, session: &str) -> Option<u64> {
    match name.strip_prefix(session)? {
        "" => Some(0),
        rest => rest.strip_prefix('.')?.parse().ok(),
    }
}

impl ZkSession {
    /// Creates the session's first own node.
    pub(crate) async fn register(&self) -> Result<()> {
        let client = self.client()?;
        self.create_own(&client, &self.own.path(), None).await
    }

    /// The part of a transaction without which no entry is created.
    pub(crate) fn add_fence(&self, to: &mut MultiWriter<'_>, own: &str) -> Result<(), zk::Error> {
        to.add_set_data(own, &self.own.data, None)
    }

    /// Makes sure that an enqueue which wrote the node `used` is not applied from now on.
    pub(crate) async fn fence(&self, client: &Client, used: &str) -> Result<()> {
        let _replacing = self.own.replacing.lock().await;
        if *self.own.path() != *used {
            return Ok(());
        }
        let next = format!("{}.{}", self.own.base, self.own.names.fetch_add(1, Ordering::Relaxed) + 1);
        self.create_own(client, &next, Some(used)).await?;
        tracing::debug!(session = self.id, node = next, "replaced the session's node");
        *self.own.current.lock().unwrap_or_else(PoisonError::into_inner) = next.into();
        Ok(())
    }

    /// Creates an own node, in place of `former` if there is one.
    async fn create_own(&self, client: &Client, path: &str, former: Option<&str>) -> Result<()> {
        let options = CreateMode::Ephemeral.with_acls(self.settings.acls);
        for _ in 0..DIRECTORY_TRIES {
            let create = client.create(path, &self.own.data, &options);
            let delete = former.map(|former| client.delete(former, None));
            let (created, deleted) = tokio::join!(create, async {
                match delete {
                    Some(delete) => delete.await,
                    None => Ok(()),
                }
            });
            match deleted {
                Ok(()) | Err(zk::Error::NoNode) => {}
                Err(error) => return Err(self.classify(CREATE, path, error)),
            }
            match created {
                Ok(_) => return Ok(()),
                Err(zk::Error::NoNode) => self.make_directory(client, &self.own.directory).await?,
                Err(error) => return Err(self.classify(CREATE, path, error)),
            }
        }
        Err(Error::unavailable(CREATE, DirectoryGone(self.own.directory.clone())))
    }

    /// A transaction that fails unless a leader with a quorum still has this session.
    pub(crate) async fn heartbeat(&self, client: &Client) -> Result<()> {
        let node = self.own.path();
        let refused = |error| self.classify(RENEW, &node, error);
        let mut beat = client.new_multi_writer();
        beat.add_check_version(&node, -1).map_err(refused)?;
        match beat.commit().await {
            Ok(_) => Ok(()),
            // Somebody deleted the node, or the directories with it. The locks rest on their entries, which are watched
            // one by one, so the session is as good as before.
            Err(MultiWriteError::OperationFailed { source: zk::Error::NoNode, .. }) => {
                self.fence(client, &node).await?;
                // Somebody else may have replaced it, and before this heartbeat began.
                let mut beat = client.new_multi_writer();
                beat.add_check_version(&self.own.path(), -1).map_err(refused)?;
                beat.commit().await.map(drop).map_err(|error| refused(error.into()))
            }
            Err(error) => {
                let error = zk::Error::from(error);
                if error == zk::Error::SessionMoved {
                    // A server on which a session only ever fails transactions does not notice that the session was
                    // elsewhere meanwhile (ZOOKEEPER-2886). A plain write, which has no effect, makes it close the
                    // connection.
                    let _ = client.delete(&format!("{node}.none"), None).await;
                }
                Err(refused(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sessions_nodes_are_known_by_their_names() {
        for (name, want) in [
            ("0x1000a", Some(0)),
            ("0x1000a.1", Some(1)),
            ("0x1000a.12", Some(12)),
            ("0x1000ab", None),
            ("0x1000a1", None),
            ("0x1000a.", None),
            ("0x1000a.x", None),
            ("0x1000", None),
            ("", None),
        ] {
            assert_eq!(number(name, "0x1000a"), want, "{name}");
        }
    }
}
