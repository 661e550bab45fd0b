//! Values: of entries, of records, and of the sessions' own nodes.

use lock_core::backend::{Content, Entry, Kind, Written};
use lock_core::{Error, Result};
use zookeeper_client as zk;
use zookeeper_client::{Client, CreateMode, MultiWriteError, SessionId};

use crate::error::{DeafCandidate, DirectoryGone, VersionsUsedUp};
use crate::names;
use crate::own_node;
use crate::queue::place;
use crate::session::{DIRECTORY_TRIES, ZkSession};

pub(crate) const READ: &str = "read a value";
pub(crate) const WRITE: &str = "write a value";
pub(crate) const OWNER: &str = "read a session's owner";

/// Entries checked in one transaction.
const CHECKED: usize = 200;

impl ZkSession {
    /// Where records are kept. No lock's segment looks like this one.
    fn records(&self) -> String {
        self.path("%record")
    }

    pub(crate) fn record_of(&self, segment: &str) -> String {
        format!("{}/{segment}", self.records())
    }

    pub(crate) fn is_record(&self, entry: &Entry) -> bool {
        entry.key.rsplit_once('/').is_some_and(|(directory, _)| directory == self.records())
    }

    pub(crate) async fn read_value(&self, client: &Client, entry: &Entry) -> Result<Option<Content>> {
        let sync = client.sync(&entry.key);
        let read = client.get_data(&entry.key);
        let (synced, read) = tokio::join!(sync, read);
        match synced.and(read) {
            Ok((value, stat)) => Ok(Some(Content { value, version: version(stat.version) })),
            Err(zk::Error::NoNode) => Ok(self.is_record(entry).then(Content::default)),
            Err(error) => Err(self.classify(READ, &entry.key, error)),
        }
    }

    /// Those of these entries that are gone or have another version, by transactions that check all of them.
    pub(crate) async fn changed_since(&self, client: &Client, seen: &[(Entry, u64)]) -> Result<Vec<Entry>> {
        let mut changed = Vec::new();
        for part in seen.chunks(CHECKED) {
            let mut unchecked: Vec<_> = part.iter().collect();
            while let Some((first, _)) = unchecked.first() {
                let refused = |error| self.classify(READ, &first.key, error);
                let mut checks = client.new_multi_writer();
                for (entry, version) in &unchecked {
                    checks.add_check_version(&entry.key, data_version(*version).unwrap_or(-1)).map_err(refused)?;
                }
                match checks.commit().await {
                    Ok(_) => break,
                    Err(MultiWriteError::OperationFailed {
                        index,
                        source: zk::Error::NoNode | zk::Error::BadVersion,
                    }) if index < unchecked.len() => {
                        changed.push(unchecked.swap_remove(index).0.clone());
                    }
                    Err(error) => return Err(refused(error.into())),
                }
            }
        }
        Ok(changed)
    }

    pub(crate) async fn write_value(
        &self,
        client: &Client,
        entry: &Entry,
        version: u64,
        value: &[u8],
    ) -> Result<Written> {
        if version == 0 {
            return if self.is_record(entry) {
                self.create_record(client, entry, value).await
            } else {
                Ok(Written::Conflict)
            };
        }
        let Some(version) = data_version(version) else {
            return Err(Error::refused(WRITE, VersionsUsedUp(entry.key.to_string())));
        };
        if let Some(behind) = self.deaf_candidate(client, entry).await? {
            return Err(Error::refused(WRITE, DeafCandidate(behind)));
        }
        match client.set_data(&entry.key, value, Some(version)).await {
            Ok(_) => Ok(Written::Done),
            Err(zk::Error::NoNode | zk::Error::BadVersion) => Ok(Written::Conflict),
            Err(error) => Err(self.classify(WRITE, &entry.key, error)),
        }
    }

    /// The candidate of another client that waits right behind a candidate. Curator's `LeaderLatch` watches its predecessor's
    /// data, once, and hears nothing but a deletion: after a write it would wait for ever.
    async fn deaf_candidate(&self, client: &Client, entry: &Entry) -> Result<Option<String>> {
        let Some((directory, mine)) = place(&entry.key).filter(|(_, place)| place.kind() == Kind::Candidate) else {
            return Ok(None);
        };
        let children = match client.list_children(directory).await {
            Ok(children) => children,
            Err(zk::Error::NoNode) => return Ok(None),
            Err(error) => return Err(self.classify(WRITE, directory, error)),
        };
        for behind in names::in_order(&children).into_iter().filter(|other| mine.precedes(*other)) {
            let node = format!("{directory}/{}", behind.name());
            let stat = client.check_stat(&node).await.map_err(|error| self.classify(WRITE, &node, error))?;
            if let Some(stat) = stat {
                let session = SessionId(stat.ephemeral_owner).to_string();
                return Ok(self.read_owner(client, &session).await?.is_none().then_some(node));
            }
        }
        Ok(None)
    }

    /// Creates the node of a record. It is never deleted, not even when the record is empty: the versions of a new node
    /// would be those of the old one, and a request that was delayed on its way could undo another's.
    async fn create_record(&self, client: &Client, record: &Entry, value: &[u8]) -> Result<Written> {
        let options = CreateMode::Persistent.with_acls(self.settings.acls);
        for _ in 0..DIRECTORY_TRIES {
            match client.create(&record.key, value, &options).await {
                Ok(_) => return Ok(Written::Done),
                Err(zk::Error::NodeExists) => return Ok(Written::Conflict),
                Err(zk::Error::NoNode) => {}
                Err(error) => return Err(self.classify(WRITE, &record.key, error)),
            }
            let made = client.mkdir(&self.records(), &options).await;
            made.map_err(|error| self.classify(WRITE, &self.records(), error))?;
        }
        Err(Error::unavailable(WRITE, DirectoryGone(self.records())))
    }

    /// What a live session keeps in its own node, whose name changes.
    pub(crate) async fn read_owner(&self, client: &Client, session: &str) -> Result<Option<Vec<u8>>> {
        let directory = self.path(own_node::DIRECTORY);
        let failed = |error| self.classify(OWNER, &directory, error);
        if session.is_empty() || session.contains('/') {
            return Ok(None);
        }
        let mut name = session.to_owned();
        for _ in 0..DIRECTORY_TRIES {
            let node = format!("{directory}/{name}");
            let sync = client.sync(&node);
            let read = client.get_data(&node);
            let (synced, read) = tokio::join!(sync, read);
            match synced.and(read) {
                Ok((owner, stat)) => {
                    let own = SessionId(stat.ephemeral_owner).to_string() == session;
                    return Ok(own.then_some(owner));
                }
                Err(zk::Error::NoNode) => {}
                Err(error) => return Err(failed(error)),
            }
            let listed = match client.list_children(&directory).await {
                Ok(listed) => listed,
                Err(zk::Error::NoNode) => return Ok(None),
                Err(error) => return Err(failed(error)),
            };
            match listed.into_iter().filter_map(|name| Some((own_node::number(&name, session)?, name))).max() {
                Some((_, latest)) => name = latest,
                None => return Ok(None),
            }
        }
        Err(Error::unavailable(OWNER, zk::Error::NoNode))
    }
}

/// The version of a value by that of its node's data: 0 is none.
fn version(of_data: i32) -> u64 {
    u64::from(of_data.cast_unsigned()) + 1
}

/// The other way round; `None` for what would be any version to the server. Its counter comes there after 2^32 writes.
fn data_version(version: u64) -> Option<i32> {
    let of_data = u32::try_from(version.checked_sub(1)?).ok()?.cast_signed();
    (of_data != -1).then_some(of_data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_version_is_any_version() {
        assert_eq!((version(0), version(i32::MAX), version(i32::MIN)), (1, 1 << 31, (1 << 31) + 1));
        for none in [0, version(-1), version(-1) + 1, u64::MAX] {
            assert_eq!(data_version(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn versions_come_back(of_data: i32) {
            prop_assert_eq!(data_version(version(of_data)), Some(of_data).filter(|it| *it != -1));
        }
    }
}
