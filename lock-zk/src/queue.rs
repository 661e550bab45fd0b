//! Entries of a queue: how they are created, found again, and read.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use lock_core::backend::{Ahead, Enqueue, Enqueued, Entry, Kind, Placed, QueueEntry, Standing};
use lock_core::{Error, Result};
use zookeeper_client as zk;
use zookeeper_client::{Client, CreateMode, MultiWriteError, MultiWriteResult, MultiWriter, Stat};

use crate::commits::{Entered, Entering, Turn, UnderWay, Write, other_results};
use crate::error::{DirectoryGone, NumbersUsedUp};
use crate::names::{self, Place};
use crate::session::{ADOPT, DIRECTORY_TRIES, ENQUEUE, LIST, ZkSession};
use crate::view::ahead_of_new;

/// Entries ahead that an enqueue reports; who needs more asks.
const NEAREST: usize = 8;

/// Reads in flight when a whole queue is read.
const READS: usize = 64;

impl ZkSession {
    /// By the id of each enqueue that was sent and has no answer, the own node that it writes.
    pub(crate) fn unanswered(&self) -> MutexGuard<'_, HashMap<String, Arc<str>>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settled(&self, id: &str) {
        self.unanswered().remove(id);
    }

    pub(crate) async fn put(&self, client: &Client, request: &Enqueue<'_>) -> Result<Enqueued> {
        let directory = self.path(request.queue.segment());
        if request.only_if_free {
            match client.list_children(&directory).await {
                Ok(children) if children.iter().any(|name| Place::parse(name).is_some()) => return Ok(Enqueued::Busy),
                Ok(_) | Err(zk::Error::NoNode) => {}
                Err(error) => return Err(self.classify(LIST, &directory, error)),
            }
        }
        let mut entering = Entering {
            id: request.id.to_owned(),
            prefix: format!("{directory}/{}", names::prefix(request.id, request.kind)),
            directory: directory.clone(),
            value: request.value.to_vec(),
            lists: false,
        };
        for _ in 0..DIRECTORY_TRIES {
            // Where there is a view, or is going to be one because others enter at the same time, a list would be read in
            // vain.
            let listing = if self.views.find(&directory).is_none() { self.lists(&directory) } else { None };
            entering.lists = listing.is_some();
            let gathered = |answer| Write::Enter(entering.clone(), answer);
            let error = match self.turn(gathered).await {
                Turn::Answered(Ok(entered)) => return self.entered(client, request, &directory, entered).await,
                Turn::Answered(Err(error)) => error,
                Turn::Alone(under_way) => {
                    let own = self.own.path();
                    match self.create(client, &entering, &own, under_way).await {
                        Ok(entered) => return self.entered(client, request, &directory, entered).await,
                        Err(MultiWriteError::OperationFailed { index: 0, source: zk::Error::NoNode }) => {
                            self.settled(request.id);
                            self.fence(client, &own).await?;
                            continue;
                        }
                        Err(MultiWriteError::OperationFailed { index: 1, source: zk::Error::NoNode }) => {
                            self.settled(request.id);
                            self.make_directory(client, &directory).await?;
                            continue;
                        }
                        Err(error) => error.into(),
                    }
                }
            };
            let error = self.classify(ENQUEUE, &directory, error);
            if !matches!(error, Error::Unavailable { .. }) {
                self.settled(request.id);
            }
            return Err(error);
        }
        Err(Error::unavailable(ENQUEUE, DirectoryGone(directory)))
    }

    /// The part of a transaction that creates an entry.
    pub(crate) fn add_entry(&self, to: &mut MultiWriter<'_>, entering: &Entering) -> Result<(), zk::Error> {
        to.add_create(&entering.prefix, &entering.value, &CreateMode::EphemeralSequential.with_acls(self.settings.acls))
    }

    /// Creates an entry by a transaction of its own.
    async fn create(
        &self,
        client: &Client,
        entering: &Entering,
        own: &Arc<str>,
        under_way: Option<UnderWay>,
    ) -> Result<Entered, MultiWriteError> {
        let mut create = client.new_multi_writer();
        self.add_fence(&mut create, own)?;
        self.add_entry(&mut create, entering)?;
        // Both are given to the client here, in this order, before any answer. One server answers the list after the
        // create, so the list has everybody whose entry was created before and lives.
        let create = create.commit();
        let list = entering.lists.then(|| client.get_children(&entering.directory));
        self.unanswered().insert(entering.id.clone(), own.clone());
        let create = async {
            let created = create.await;
            drop(under_way);
            created
        };
        let (created, listed) = tokio::join!(create, async { list?.await.ok() });
        match <[_; 2]>::try_from(created?) {
            Ok([MultiWriteResult::SetData { stat }, MultiWriteResult::Create { path, .. }]) => {
                Ok(Entered { path, zxid: stat.mzxid, listed })
            }
            _ => Err(other_results().into()),
        }
    }

    async fn entered(
        &self,
        client: &Client,
        request: &Enqueue<'_>,
        directory: &str,
        entered: Entered,
    ) -> Result<Enqueued> {
        let Entered { path, zxid, listed } = entered;
        self.settled(request.id);
        // Whoever joined or left since the create makes the list one of a later moment.
        let later_will_do = !matches!(request.kind, Kind::Permits(_));
        let counts = |directory: &Stat| directory.pzxid == zxid || later_will_do;
        let view = if listed.is_none() { self.views.find(directory) } else { None };
        let length = match (&listed, &view) {
            (Some((children, _)), _) => children.len(),
            (None, Some(view)) => view.len(),
            (None, None) => 0,
        };
        let children = listed.and_then(|(children, stat)| counts(&stat).then_some(children));
        let mut placed = self.placed(client, path, zxid, children).await?;
        if let Some(view) = view.filter(|_| later_will_do) {
            placed.ahead = ahead_of_new(&view, &placed.entry, NEAREST).await;
        }
        self.has_entered(client, &placed, length).await;
        Ok(Enqueued::Placed(placed))
    }

    async fn placed(&self, client: &Client, key: String, czxid: i64, children: Option<Vec<String>>) -> Result<Placed> {
        let Some((directory, place)) = place(&key) else {
            return Err(Error::unavailable(ENQUEUE, zk::Error::UnexpectedError(format!("unexpected path {key}"))));
        };
        if place.is_unsafe() {
            return match client.delete(&key, None).await {
                Ok(()) | Err(zk::Error::NoNode) => Err(Error::refused(ENQUEUE, NumbersUsedUp(directory.to_owned()))),
                Err(error) => Err(Error::unavailable(ENQUEUE, error)),
            };
        }
        let ahead = children.and_then(|children| ahead(directory, &children, place, NEAREST));
        Ok(Placed { token: czxid.unsigned_abs(), ahead, entry: entry(key) })
    }

    pub(crate) async fn find(&self, client: &Client, request: &Enqueue<'_>) -> Result<Option<Placed>> {
        let directory = self.path(request.queue.segment());
        // A create that waits in the client for a connection, or on this connection, comes before what is sent now. One on
        // a former connection may come at any time, hence the fence. What the list does not show then cannot come any more.
        let used = self.unanswered().get(request.id).cloned();
        self.fence(client, &used.unwrap_or_else(|| self.own.path())).await?;
        let listed = client.list_children(&directory).await;
        let children = match listed {
            Ok(children) => children,
            Err(zk::Error::NoNode) => return Ok(None),
            Err(error) => return Err(self.classify(LIST, &directory, error)),
        };
        let prefix = names::prefix(request.id, request.kind);
        for name in children.iter().filter(|name| name.starts_with(&prefix) && Place::parse(name).is_some()) {
            let key = format!("{directory}/{name}");
            match client.check_stat(&key).await {
                // An earlier session of this client may have left one with the same id.
                Ok(Some(stat)) if stat.ephemeral_owner == self.raw_id => {
                    let length = children.len();
                    let children = (!matches!(request.kind, Kind::Permits(_))).then_some(children);
                    let placed = self.placed(client, key, stat.czxid, children).await?;
                    self.has_entered(client, &placed, length).await;
                    return Ok(Some(placed));
                }
                Ok(_) | Err(zk::Error::NoNode) => {}
                Err(error) => return Err(self.classify(ADOPT, &key, error)),
            }
        }
        Ok(None)
    }

    pub(crate) async fn read_all(&self, client: &Client, directory: &str, limit: usize) -> Result<Vec<QueueEntry>> {
        let sync = client.sync(directory);
        let list = client.list_children(directory);
        let (synced, listed) = tokio::join!(sync, list);
        let children = match synced.and(listed) {
            Ok(children) => children,
            Err(zk::Error::NoNode) => return Ok(Vec::new()),
            Err(error) => return Err(self.classify(LIST, directory, error)),
        };
        let mut places = names::in_order(&children).into_iter();
        let mut entries = Vec::new();
        loop {
            // Those that are gone by the time they are read make room for others.
            let wanted = limit.saturating_sub(entries.len()).min(READS);
            let chunk: Vec<_> = places.by_ref().take(wanted).collect();
            if chunk.is_empty() {
                break;
            }
            // Sent when called, not when awaited.
            let read = |place: Place<'_>| {
                let key = format!("{directory}/{}", place.name());
                (client.get_data(&key), key)
            };
            let reads: Vec<_> = chunk.iter().map(|place| (place, read(*place))).collect();
            for (place, (read, key)) in reads {
                match read.await {
                    Ok((value, stat)) => entries.push(QueueEntry {
                        entry: entry(key),
                        kind: place.kind(),
                        session: zk::SessionId(stat.ephemeral_owner).to_string(),
                        token: Some(place.former_token().unwrap_or_else(|| stat.czxid.unsigned_abs())),
                        value,
                    }),
                    Err(zk::Error::NoNode) => {}
                    Err(error) => return Err(self.classify(LIST, &key, error)),
                }
            }
        }
        Ok(entries)
    }
}

/// Names are never used twice: there is a fresh uuid in each.
pub(crate) fn entry(key: String) -> Entry {
    Entry { key: key.into(), incarnation: 0 }
}

/// The directory and the place of an entry.
pub(crate) fn place(key: &str) -> Option<(&str, Place<'_>)> {
    let (directory, name) = key.rsplit_once('/')?;
    Some((directory, Place::parse(name)?))
}

/// The entries ahead of `mine`; `None` when it is not there itself.
pub(crate) fn ahead(directory: &str, children: &[String], mine: Place<'_>, limit: usize) -> Option<Ahead> {
    if !children.iter().any(|name| name == mine.name()) {
        return None;
    }
    let ahead = names::ahead(children, mine);
    let standing =
        |place: &Place<'_>| Standing { entry: entry(format!("{directory}/{}", place.name())), kind: place.kind() };
    let nearest = ahead.iter().take(limit).map(standing).collect();
    Some(Ahead { nearest, more: ahead.len() > limit })
}
