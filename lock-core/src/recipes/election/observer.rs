//! Who leads, as everybody can see it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::backend::{Change, Entry, Kind, QueueEntry, Stir, Watch, Watched};
use crate::client::Client;
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::recipes::election::{ELECTION, check_kind};
use crate::record::{self, Record};
use crate::revocation;
use crate::session::{Backoff, Live, recheck};

/// One who leads.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let election = client.election("scheduler")?;
/// let leadership = election.campaign("10.0.0.1:7000").await?;
/// let leader = election.leader().await?.expect("this one");
/// assert_eq!(leader.value, b"10.0.0.1:7000"); // where to send requests to
/// assert_eq!((leader.token, leader.term), (leadership.token(), Some(leadership.term())));
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its fencing token: greater than that of every earlier leader.
    pub token: u64,
    /// Its [term](crate::Leadership::term); `None` for other kinds of clients.
    pub term: Option<u64>,
    /// The value that it shows.
    pub value: Vec<u8>,
    /// Who it is; `None` for other kinds of clients.
    pub owner: Option<Owner>,
    /// The session that owns it, as the store's own tools show it.
    pub session: String,
    /// The entry in the store.
    pub entry: Entry,
}

/// An election as seen from outside, from one leader or value to the next.
///
/// It keeps one watch, on the leader, and reads nothing of the other candidates.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let election = client.election("scheduler")?;
/// let mut observer = election.observe();
/// let _leadership = election.campaign("10.0.0.1:7000").await?;
/// let leader = loop {
///     if let Some(leader) = observer.next().await? {
///         break leader;
///     }
/// };
/// assert_eq!(leader.value, b"10.0.0.1:7000");
/// # Ok(()) }
/// ```
pub struct Observer {
    client: Client,
    name: Name,
    /// Resolves when what was seen last may have changed.
    change: Option<Stir>,
    last: Option<Option<Leader>>,
    greatest: u64,
}

impl Observer {
    pub(super) fn new(client: Client, name: Name) -> Self {
        Self { client, name, change: None, last: None, greatest: 0 }
    }

    /// Who leads: the first time at once, then for each new leader and each new value; `None` when nobody does, also for
    /// the moment between two leaders. Goes on through lost connections and sessions; what changed meanwhile is seen as
    /// one. Tokens never go backwards.
    ///
    /// While the store cannot be reached nothing is known, and nothing is told. Whether a leader leads at this moment, only
    /// its own [`check`](crate::Guard::check) can tell.
    ///
    /// # Errors
    /// Those that asking again does not help against, such as [`Error::AccessDenied`](crate::Error::AccessDenied) and
    /// [`Error::OtherRecipe`](crate::Error::OtherRecipe).
    ///
    /// # Cancel safety
    /// No change is missed by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// let mut observer = election.observe();
    /// assert_eq!(observer.next().await?, None); // at once
    /// let leadership = election.campaign("10.0.0.1:7000").await?;
    /// assert!(observer.next().await?.is_some());
    /// leadership.resign().await;
    /// assert_eq!(observer.next().await?, None);
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Option<Leader>> {
        let mut backoff = Backoff::default();
        loop {
            if let Some(change) = &mut self.change {
                change.await;
                self.change = None;
            }
            let name = self.name.clone();
            match self.client.with_session(move |live| async move { look(live, &name).await }).await {
                Ok((leader, change)) => {
                    let token = leader.as_ref().map_or(self.greatest, |leader| leader.token);
                    if token >= self.greatest {
                        self.greatest = token;
                        self.change = Some(change);
                        if self.last.as_ref() != Some(&leader) {
                            self.last = Some(leader.clone());
                            return Ok(leader);
                        }
                        continue;
                    }
                    // Whatever answered lags behind what was answered before.
                    tracing::warn!(election = %self.name, token, before = self.greatest, "an earlier leader is shown");
                }
                Err(error) if error.is_retryable() => {
                    tracing::debug!(election = %self.name, %error, "cannot follow the election, trying again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("election", &self.name).field("last", &self.last).finish_non_exhaustive()
    }
}

/// Who leads now.
pub(super) async fn leader(live: &Live, name: &Name) -> Result<Option<Leader>> {
    let mut backoff = Backoff::default();
    loop {
        let Some(first) = first(live, name).await? else { return Ok(None) };
        let Some(standing) = Standing::of(live, name, &first).await? else { return Ok(None) };
        if let Some(leader) = standing.shown(live, first).await? {
            return Ok(Some(leader));
        }
        backoff.wait(&live.health).await;
    }
}

/// Who leads now, and what resolves when that may have changed.
async fn look(live: Arc<Live>, name: &Name) -> Result<(Option<Leader>, Stir)> {
    let mut backoff = Backoff::default();
    loop {
        let mut found = first(&live, name).await?;
        if found.is_none() {
            let stir = live.retry(|| live.session.watch_queue(name)).await?;
            found = first(&live, name).await?;
            if found.is_none() {
                let joined = Box::pin(async {
                    stir.await;
                    Change::Updated
                });
                return Ok((None, until(live, vec![joined])));
            }
        }
        if let Some(first) = found
            && let Some(seen) = look_at(&live, name, first).await?
        {
            return Ok(seen);
        }
        // It was gone already.
        backoff.wait(&live.health).await;
    }
}

/// The same, given the first entry of the queue; `None` when that is gone.
async fn look_at(live: &Arc<Live>, name: &Name, first: QueueEntry) -> Result<Option<(Option<Leader>, Stir)>> {
    let Watched::Present(own) = live.retry(|| live.session.watch(&first.entry)).await? else { return Ok(None) };
    let mut watches = vec![own];
    let mut standing = Standing::of(live, name, &first).await?;
    if standing.is_none() {
        let record = live.session.record(name);
        if let Watched::Present(office) = live.retry(|| live.session.watch(&record)).await? {
            watches.push(office);
        }
        standing = Standing::of(live, name, &first).await?;
    }
    let Some(standing) = standing else { return Ok(Some((None, until(live.clone(), watches)))) };
    // The watch on the record has done its work.
    watches.truncate(1);
    let leader = standing.shown(live, first).await?;
    Ok(leader.map(|leader| (Some(leader), until(live.clone(), watches))))
}

/// The first entry of the queue.
async fn first(live: &Live, name: &Name) -> Result<Option<QueueEntry>> {
    let first = live.retry(|| live.session.entries(name, 1)).await?.into_iter().next();
    if let Some(first) = &first {
        check_kind(name, first.kind)?;
    }
    Ok(first)
}

/// What a first entry is that leads.
struct Standing {
    term: Option<u64>,
    owner: Option<Owner>,
}

impl Standing {
    /// `None` when it does not lead yet: candidates of this library first take office, or step aside.
    async fn of(live: &Live, name: &Name, first: &QueueEntry) -> Result<Option<Self>> {
        let owner = live.retry(|| live.session.owner(&first.session));
        let (record, owner) = tokio::try_join!(record::read(live, name, ELECTION), owner)?;
        let owner = owner.as_deref().and_then(Owner::decode);
        Ok(match record {
            Some(Record::Election { term, leader, .. }) if first.token == Some(leader) => {
                Some(Self { term: Some(term), owner })
            }
            _ if first.kind == Kind::Candidate && owner.is_some() => None,
            _ => Some(Self { term: None, owner }),
        })
    }

    /// The leader with the value that it shows now; `None` when it is gone.
    async fn shown(self, live: &Live, first: QueueEntry) -> Result<Option<Leader>> {
        let content = live.retry(|| live.session.read(&first.entry)).await?;
        Ok(content.map(|content| Leader {
            // Always told of candidates.
            token: first.token.unwrap_or_default(),
            term: self.term,
            value: revocation::plain(&content.value).to_vec(),
            owner: self.owner,
            session: first.session,
            entry: first.entry,
        }))
    }
}

/// Resolves when one of the watches tells something, or can no longer tell.
fn until(live: Arc<Live>, mut watches: Vec<Watch>) -> Stir {
    let first = poll_fn(move |cx| {
        let changes = watches.iter_mut().map(|watch| watch.as_mut().poll(cx));
        changes.fold(Poll::Pending, |first, change| if first.is_ready() { first } else { change })
    });
    Box::pin(async move {
        let change = tokio::select! {
            biased;
            _ = live.health.lost() => return,
            change = first => change,
            () = recheck() => return,
        };
        if change == Change::Unknown {
            // The connection may be gone, and with it the watches of all who look on: not all at once.
            Backoff::default().wait(&live.health).await;
        }
    })
}
