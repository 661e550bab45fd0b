//! A queue as people and tools see it: who holds, who waits, and what an operator can do about it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Dequeued, Entry, Kind, QueueEntry};
use crate::changes::Changes;
use crate::client::Client;
use crate::decision::{Limits, holders};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::owner::Owner;
use crate::record::{self, Record};
use crate::revocation;
use crate::session::{Backoff, Live};

/// The queue of a name, whatever recipe uses it.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::Role;
///
/// let guard = client.mutex("reindex")?.lock().await?;
/// let queue = client.queue("reindex")?;
/// for place in queue.list().await? {
///     if let (Role::Holder, Some(token)) = (place.role, place.token) {
///         queue.revoke(token).await?; // and `break_lock` for those who do not follow
///     }
/// }
/// guard.revoked().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    client: Client,
    name: Name,
}

/// One place in a queue.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let mutex = client.mutex("reindex")?.labelled("shard 3");
/// let (guard, mut waiting) = (mutex.lock().await?, mutex.lock());
/// waiting.position().await?;
/// let places = client.queue("reindex")?.list().await?;
/// let label = |at: usize| places[at].owner.as_ref()?.label.as_deref();
/// assert_eq!((label(0), label(1)), (Some("shard 3"), Some("shard 3")));
/// assert_eq!((places[0].token, places[1].position), (Some(guard.token()), 1));
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 0, the first holder's.
    pub position: usize,
    /// Whether it holds or waits.
    pub role: Role,
    /// What it asks for.
    pub kind: Kind,
    /// The fencing token that its holder has or will have; `None` where the listing does not tell.
    pub token: Option<u64>,
    /// Who it is; `None` for other kinds of clients. For elections and groups, whose values are the users', it is
    /// the session's owner.
    pub owner: Option<Owner>,
    /// The value that it shows, without a request to let go.
    pub value: Vec<u8>,
    /// The session that owns it, as the store's own tools show it.
    pub session: String,
    /// Whether it has been asked to let go.
    pub revoked: bool,
    /// The entry in the store.
    pub entry: Entry,
}

/// What one does in a queue.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::Role;
///
/// let downloads = client.semaphore("downloads", 2)?;
/// let (_one, _two, mut third) = (downloads.acquire(1).await?, downloads.acquire(1).await?, downloads.acquire(1));
/// third.position().await?;
/// let roles = client.queue("downloads")?.list().await?.into_iter().map(|place| place.role);
/// assert!(roles.eq([Role::Holder, Role::Holder, Role::Waiter]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds what it asked for, or will notice in a moment that it does.
    Holder,
    /// It waits.
    Waiter,
}

/// A queue, from one change to the next.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let mut watch = client.queue("reindex")?.watch();
/// let guard = client.mutex("reindex")?.lock().await?;
/// while watch.next().await?.is_empty() {} // until somebody holds
/// client.queue("reindex")?.revoke(guard.token()).await?;
/// assert!(watch.next().await?[0].revoked);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct QueueWatch {
    queue: Queue,
    changes: Changes,
    /// Listed, and not yet told.
    listed: Option<Vec<QueueEntry>>,
    last: Option<Vec<Place>>,
}

impl Queue {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        Self { client, name }
    }

    /// The name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.queue("reindex")?.name(), "reindex");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Everybody in it, in order.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("reindex")?.labelled("shard 3").lock().await?;
    /// for place in client.queue("reindex")?.list().await? {
    ///     println!("{} {:?} {:?} {:?}", place.position, place.role, place.token, place.owner);
    /// }
    /// # drop(guard); Ok(()) }
    /// ```
    pub async fn list(&self) -> Result<Vec<Place>> {
        let name = self.name.clone();
        self.client
            .with_session(move |live| async move {
                let entries = live.retry(|| live.session.entries(&name, usize::MAX)).await?;
                places(&live, &name, entries).await
            })
            .await
    }

    /// How long the store would still keep the holders among these places if they fell silent now, by their
    /// [session](Place::session). One request for each of these sessions; none for waiters.
    ///
    /// A session that is over is not in it, and no session where the store does not tell: ZooKeeper's protocol has no such
    /// request, and in a directory a lock ends with its process, at no time that is known before.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// let queue = client.queue("reindex")?;
    /// let places = queue.list().await?;
    /// let left = queue.time_left(&places).await?;
    /// assert!(left[&places[0].session] <= client.ttl().await?);
    /// # drop(guard); Ok(()) }
    /// ```
    pub async fn time_left(&self, places: &[Place]) -> Result<HashMap<String, Duration>> {
        let holders = places.iter().filter(|place| place.role == Role::Holder);
        let sessions: BTreeSet<String> = holders.map(|place| place.session.clone()).collect();
        if sessions.is_empty() {
            return Ok(HashMap::new());
        }
        self.client
            .with_session(|live| async move {
                let mut left = HashMap::new();
                for session in sessions {
                    if let Some(time) = live.retry(|| live.session.time_left(&session)).await? {
                        left.insert(session, time);
                    }
                }
                Ok(left)
            })
            .await
    }

    /// The queue now, and again whenever it has changed.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut watch = client.queue("reindex")?.watch();
    /// assert!(watch.next().await?.is_empty());
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// assert_eq!(watch.next().await?[0].token, Some(guard.token()));
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> QueueWatch {
        let changes = Changes::new(self.client.clone(), self.name.clone(), usize::MAX);
        QueueWatch { queue: self.clone(), changes, listed: None, last: None }
    }

    /// Asks the holder with this token to let go: its [`Guard::revoked`](crate::Guard::revoked) resolves. Whether it
    /// follows is its choice. `false` when no holder has this token, and then nobody was asked.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Cancel safety
    /// The holder may or may not be asked.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let holder = client.mutex("reindex")?.lock().await?;
    /// let (queue, token) = (client.queue("reindex")?, holder.token());
    /// assert!(queue.revoke(token).await?);
    /// holder.revoked().await;
    /// holder.release().await; // when it has come to a good place to stop
    /// assert!(!queue.revoke(token).await?, "nobody holds with this token any more");
    /// # Ok(()) }
    /// ```
    pub async fn revoke(&self, token: u64) -> Result<bool> {
        let name = self.name.clone();
        self.client
            .with_session(move |live| async move {
                let Some(holder) = holder(&live, &name, token).await? else { return Ok(false) };
                let ours = holder.kind != Kind::Unmarked;
                let shows_value = is_users(holder.kind) || Owner::decode(&holder.value).is_some();
                live.rewrite(&holder.entry, |value| {
                    let keep: &[u8] = if ours && shows_value { value } else { b"" };
                    (!revocation::is_asked(value)).then(|| revocation::ask(keep))
                })
                .await
            })
            .await
    }

    /// Removes the entry of the holder with this token by force; the next in the queue is granted at once. `false` when no
    /// holder has this token, and then nothing was removed.
    ///
    /// For a holder that is gone for good but whose session the store still keeps. A holder that is alive notices within
    /// a second; until then there are two. Ask it with [`revoke`](Self::revoke) first.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Cancel safety
    /// The entry may or may not be removed.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mutex = client.mutex("reindex")?;
    /// let stuck = mutex.lock().await?;
    /// assert!(client.queue("reindex")?.break_lock(stuck.token()).await?);
    /// let next = mutex.lock().await?;
    /// assert!(!client.queue("reindex")?.break_lock(stuck.token()).await?, "the next holder is safe from it");
    /// # drop(next); Ok(()) }
    /// ```
    pub async fn break_lock(&self, token: u64) -> Result<bool> {
        let name = self.name.clone();
        self.client
            .with_session(move |live| async move {
                let Some(holder) = holder(&live, &name, token).await? else { return Ok(false) };
                let removed = live.retry(|| live.session.dequeue(&holder.entry)).await?;
                // Gone by itself in between, or by this call's first try, whose answer was lost.
                tracing::warn!(lock = %name, token, by_us = removed == Dequeued::Removed, "a lock was broken");
                Ok(true)
            })
            .await
    }
}

impl QueueWatch {
    /// The queue: the first time at once, then when it has changed. Goes on through lost connections and sessions.
    /// Changes that come close together are seen as one.
    ///
    /// # Errors
    /// Those that asking again does not help against, such as [`Error::AccessDenied`](crate::Error::AccessDenied).
    ///
    /// # Cancel safety
    /// No change is missed by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut watch = client.queue("reindex")?.watch();
    /// assert!(watch.next().await?.is_empty());
    /// let guard = client.mutex("reindex")?.lock().await?;
    /// assert_eq!(watch.next().await?.len(), 1);
    /// guard.release().await;
    /// assert!(watch.next().await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Vec<Place>> {
        let mut backoff = Backoff::default();
        loop {
            let entries = match &self.listed {
                Some(entries) => entries.clone(),
                None => self.listed.insert(self.changes.next().await?).clone(),
            };
            let name = self.queue.name.clone();
            let places = self.queue.client.with_session(move |live| async move { places(&live, &name, entries).await });
            let places = match places.await {
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(backoff.next()).await;
                    continue;
                }
                places => places?,
            };
            self.listed = None;
            if self.last.as_ref() != Some(&places) {
                self.last = Some(places.clone());
                return Ok(places);
            }
        }
    }
}

/// The holder with this token.
async fn holder(live: &Live, name: &Name, token: u64) -> Result<Option<QueueEntry>> {
    let entries = live.retry(|| live.session.entries(name, usize::MAX)).await?;
    let held = holders(&entries, limits(live, name, &entries).await?);
    Ok(entries.into_iter().take(held).find(|entry| entry.token == Some(token)))
}

async fn limits(live: &Live, name: &Name, entries: &[QueueEntry]) -> Result<Limits> {
    if !entries.iter().any(|entry| matches!(entry.kind, Kind::Permits(_))) {
        return Ok(Limits::NONE);
    }
    match record::read(live, name, "semaphore").await {
        Ok(Some(Record::Semaphore { limit, highest })) => Ok(Limits { now: limit, highest }),
        // A name that two recipes use is when people look.
        Ok(_) | Err(Error::OtherRecipe { .. }) => Ok(Limits::NONE),
        Err(error) => Err(error),
    }
}

/// Whether the value is what a user shows, whatever it looks like.
fn is_users(kind: Kind) -> bool {
    matches!(kind, Kind::Candidate | Kind::Member)
}

async fn places(live: &Arc<Live>, name: &Name, entries: Vec<QueueEntry>) -> Result<Vec<Place>> {
    let held = holders(&entries, limits(live, name, &entries).await?);
    let mut owners: HashMap<String, Option<Owner>> = HashMap::new();
    let mut places = Vec::with_capacity(entries.len());
    for (position, entry) in entries.into_iter().enumerate() {
        let mut owner = if is_users(entry.kind) { None } else { Owner::decode(&entry.value) };
        if owner.is_none() {
            if !owners.contains_key(&entry.session) {
                let value = live.retry(|| live.session.owner(&entry.session)).await?;
                owners.insert(entry.session.clone(), value.as_deref().and_then(Owner::decode));
            }
            owner = owners.get(&entry.session).cloned().flatten();
        }
        places.push(Place {
            position,
            role: if position < held { Role::Holder } else { Role::Waiter },
            kind: entry.kind,
            token: entry.token,
            owner,
            value: revocation::plain(&entry.value).to_vec(),
            session: entry.session,
            revoked: revocation::is_asked(&entry.value),
            entry: entry.entry,
        });
    }
    Ok(places)
}
