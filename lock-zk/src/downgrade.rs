//! A writer that goes on as a reader, in its place.

use lock_core::backend::{Dequeued, Entry, Kind};
use lock_core::{Error, Result};
use zookeeper_client as zk;
use zookeeper_client::{Client, CreateMode, MultiWriteError};

use crate::commits::{Turn, Write};
use crate::names::Place;
use crate::queue::{entry, place};
use crate::session::ZkSession;

pub(crate) const DOWNGRADE: &str = "downgrade an entry";

/// How often the writer's node is read again because somebody wrote to it meanwhile.
const TRIES: usize = 8;

impl ZkSession {
    /// Puts a reader's node with the writer's number beside the writer's node, which it deletes, as Curator does, but in
    /// one transaction.
    ///
    /// The reader comes first, because servers show the parts of a transaction one by one: who lists the queue in between
    /// sees both nodes, not none. A request that was delayed on its way does no harm. It applies only while the writer's
    /// node is there with its data unchanged, which is not so any more after an answer to this call, or after the entry
    /// was [removed](Self::remove).
    pub(crate) async fn turn_reader(&self, client: &Client, mine: &Entry) -> Result<Option<Entry>> {
        let failed = |error| self.classify(DOWNGRADE, &mine.key, error);
        let Some((directory, writer)) = place(&mine.key) else { return Ok(None) };
        let options = CreateMode::Ephemeral.with_acls(self.settings.acls);
        for _ in 0..TRIES {
            let (value, stat) = match client.get_data(&mine.key).await {
                Ok(read) => read,
                Err(zk::Error::NoNode) => return self.turned(client, directory, writer).await.map_err(failed),
                Err(error) => return Err(failed(error)),
            };
            let Some(name) = writer.as_reader(stat.czxid.unsigned_abs()) else { return Ok(Some(mine.clone())) };
            let reader = format!("{directory}/{name}");
            let mut turn = client.new_multi_writer();
            let added = turn
                .add_create(&reader, &value, &options)
                .and_then(|()| turn.add_delete(&mine.key, Some(stat.version)));
            added.map_err(failed)?;
            match turn.commit().await {
                Ok(_) => return Ok(Some(entry(reader))),
                // Written to, removed, or turned by an earlier request without an answer.
                Err(MultiWriteError::OperationFailed {
                    source: zk::Error::BadVersion | zk::Error::NoNode | zk::Error::NodeExists,
                    ..
                }) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Err(Error::unavailable(DOWNGRADE, zk::Error::BadVersion))
    }

    /// Removes an entry, under the name that it has now.
    pub(crate) async fn remove(&self, client: &Client, entry: &Entry) -> Result<Dequeued, zk::Error> {
        // Node names are never used twice, so there is no later incarnation to spare.
        let deleted = match self.turn(|answer| Write::Leave(entry.key.to_string(), answer)).await {
            Turn::Answered(deleted) => deleted,
            Turn::Alone(_under_way) => client.delete(&entry.key, None).await,
        };
        match deleted {
            Ok(()) => return Ok(Dequeued::Removed),
            Err(zk::Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        let Some((directory, writer)) = place(&entry.key).filter(|(_, place)| place.kind() == Kind::Write) else {
            return Ok(Dequeued::Absent);
        };
        let Some(reader) = reader(client, directory, writer).await? else { return Ok(Dequeued::Absent) };
        match client.delete(&reader, None).await {
            Ok(()) => Ok(Dequeued::Removed),
            Err(zk::Error::NoNode) => Ok(Dequeued::Absent),
            Err(error) => Err(error),
        }
    }

    /// The entry that took the place of a writer of this session.
    async fn turned(&self, client: &Client, directory: &str, writer: Place<'_>) -> Result<Option<Entry>, zk::Error> {
        let Some(key) = reader(client, directory, writer).await? else { return Ok(None) };
        let stat = client.check_stat(&key).await?;
        let own = stat.is_some_and(|stat| stat.ephemeral_owner == self.raw_id);
        Ok(own.then(|| entry(key)))
    }
}

/// The node that took the place of a writer's node, which is gone.
async fn reader(client: &Client, directory: &str, writer: Place<'_>) -> Result<Option<String>, zk::Error> {
    let children = match client.list_children(directory).await {
        Ok(children) => children,
        Err(zk::Error::NoNode) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut readers = children.iter().filter(|name| Place::parse(name).is_some_and(|place| place.was(writer)));
    Ok(readers.next().map(|name| format!("{directory}/{name}")))
}
