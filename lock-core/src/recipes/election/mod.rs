//! Leader election: a queue of candidates, of which the first leads.

mod latch;
mod leadership;
mod observer;
mod office;
mod selector;

pub use latch::LeaderLatch;
pub use leadership::{Ending, Leadership};
pub use observer::{Leader, Observer};
pub use selector::{Selector, Stopper, Turn};

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::acquire::Request;
use crate::backend::{Entry, Kind};
use crate::client::Client;
use crate::decision::of_own_recipe;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::{Place, Queue};
use crate::recipes::{Acquire, Named};
use crate::record;
use crate::revocation;
use office::Office;

const ELECTION: &str = "election";

/// A leader election: of all candidates one leads, until it resigns or is gone; then the next one does.
///
/// Candidates lead in the order in which the store saw them. Each shows a value, such as its address. Whatever becomes of
/// the marks that this library keeps beside the queue, only the first candidate of the queue leads; so Go's `Election`,
/// `etcdctl elect` and Curator's `LeaderLatch` can take part.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let election = client.election("scheduler")?;
/// let leadership = election.campaign("10.0.0.1:7000").await?;
/// let mut other = election.latch("10.0.0.2:7000")?; // in any process
/// assert!(!other.is_leader());
/// leadership.resign().await;
/// assert_eq!(other.leading().await?.value(), b"10.0.0.2:7000");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Election {
    named: Named,
}

/// One who stands for leadership.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let election = client.election("scheduler")?;
/// let _leadership = election.campaign("10.0.0.1:7000").await?;
/// let candidate = election.candidates().await?.remove(0);
/// assert_eq!(candidate.value, b"10.0.0.1:7000");
/// assert_eq!(candidate.owner.map(|owner| owner.pid), Some(std::process::id()));
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The fencing token that it has as the leader or will have.
    pub token: Option<u64>,
    /// The value that it shows.
    pub value: Vec<u8>,
    /// Who it is; `None` for other kinds of clients.
    pub owner: Option<Owner>,
    /// The session that owns it, as the store's own tools show it.
    pub session: String,
    /// The entry in the store.
    pub entry: Entry,
}

impl Election {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        Self { named: Named::new(client, name) }
    }

    /// The election's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.election("scheduler")?.name(), "scheduler");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.named.name.as_str()
    }

    /// Stands for leadership, showing this value of at most 4 KiB, and waits for it.
    ///
    /// # Errors
    /// As [`Mutex::lock`](crate::Mutex::lock); [`Error::ValueTooLarge`]; [`Error::InvalidConfig`] for a value that begins with
    /// `__REVOKE__`; [`Error::OtherRecipe`] when the name is in use by another recipe.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// let leadership = election.campaign("10.0.0.1:7000").await?;
    /// println!("leading in term {}, with token {}", leadership.term(), leadership.token());
    /// leadership.run(async { /* stopped before anybody else can lead */ }).await?;
    /// leadership.resign().await;
    /// # Ok(()) }
    /// ```
    pub fn campaign(&self, value: impl AsRef<[u8]>) -> Campaign {
        let (named, value) = (self.named.clone(), revocation::checked(&self.named.name, value.as_ref()));
        Campaign(Box::pin(async move {
            let value = value?;
            named.client.clone().while_wanted(stand(named, value)).await
        }))
    }

    /// Stands for leadership in the background from now on, showing this value, and again after every loss.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`], and [`Error::InvalidConfig`] for a value that begins with `__REVOKE__`. What goes wrong
    /// later, [`LeaderLatch::trouble`] tells.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut latch = client.election("scheduler")?.latch("10.0.0.1:7000")?;
    /// latch.leading().await?;
    /// if latch.is_leader() {
    ///     println!("leading");
    /// }
    /// latch.close().await;
    /// # Ok(()) }
    /// ```
    pub fn latch(&self, value: impl AsRef<[u8]>) -> Result<LeaderLatch> {
        let value = revocation::checked(&self.named.name, value.as_ref())?;
        Ok(LeaderLatch::start(self.clone(), value))
    }

    /// Stands for leadership again and again, showing this value, for work that is done whenever this candidate leads.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`], and [`Error::InvalidConfig`] for a value that begins with `__REVOKE__`.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
    /// let stopper = selector.stopper(); // for example for whoever listens to signals
    /// let mut rounds = 0;
    /// while let Some(turn) = selector.next().await? {
    ///     tokio::select! {
    ///         done = turn.run(async { /* the next round */ }) => done?,
    ///         _ = turn.ending() => {} // put things in order
    ///     }
    ///     rounds += 1;
    ///     if rounds == 3 {
    ///         stopper.stop();
    ///     }
    ///     turn.done().await; // only now somebody else can lead
    /// }
    /// # Ok(()) }
    /// ```
    pub fn selector(&self, value: impl AsRef<[u8]>) -> Result<Selector> {
        let value = revocation::checked(&self.named.name, value.as_ref())?;
        Ok(Selector::new(self.clone(), value))
    }

    /// Who leads now; `None` when nobody does, also for the moment between two leaders.
    ///
    /// # Errors
    /// As [`Client::entries`], and [`Error::OtherRecipe`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// assert_eq!(election.leader().await?, None);
    /// let leadership = election.campaign("10.0.0.1:7000").await?;
    /// let leader = election.leader().await?.expect("somebody leads");
    /// assert_eq!((leader.value.as_slice(), leader.token), (b"10.0.0.1:7000".as_slice(), leadership.token()));
    /// # Ok(()) }
    /// ```
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let name = self.named.name.clone();
        self.named.client.with_session(move |live| async move { observer::leader(&live, &name).await }).await
    }

    /// All candidates in order, the leader first.
    ///
    /// # Errors
    /// As [`Client::entries`], and [`Error::OtherRecipe`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// let leadership = election.campaign("10.0.0.1:7000").await?;
    /// let _latch = election.latch("10.0.0.2:7000")?;
    /// let mut queue = client.queue("scheduler")?.watch();
    /// while queue.next().await?.len() < 2 {} // until both stand
    /// let values = election.candidates().await?.into_iter().map(|candidate| candidate.value);
    /// assert!(values.eq([b"10.0.0.1:7000", b"10.0.0.2:7000"]));
    /// # Ok(()) }
    /// ```
    pub async fn candidates(&self) -> Result<Vec<Candidate>> {
        let queue = Queue::new(self.named.client.clone(), self.named.name.clone());
        let candidates = of_own_recipe(queue.list().await?, Kind::Candidate, |place| place.kind);
        let candidates = candidates.map_err(|found| record::other_recipe(&self.named.name, Kind::Candidate, found))?;
        Ok(candidates.into_iter().map(Candidate::from).collect())
    }

    /// Follows who leads.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// let mut observer = election.observe();
    /// assert_eq!(observer.next().await?, None);
    /// let leadership = election.campaign("10.0.0.1:7000").await?;
    /// assert_eq!(observer.next().await?.expect("a leader").value, b"10.0.0.1:7000");
    /// leadership.proclaim("10.0.0.1:7001").await?;
    /// assert_eq!(observer.next().await?.expect("still the same").value, b"10.0.0.1:7001");
    /// # Ok(()) }
    /// ```
    pub fn observe(&self) -> Observer {
        Observer::new(self.named.client.clone(), self.named.name.clone())
    }
}

/// Standing for leadership: a future of it.
///
/// Does nothing until it is polled.
///
/// # Cancel safety
/// Dropping it withdraws the candidate and leaves nothing behind.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let election = client.election("scheduler")?;
/// let leadership = election.campaign("10.0.0.1:7000").await?;
/// let campaign = election.campaign("10.0.0.2:7000");
/// tokio::select! {
///     elected = campaign => unreachable!("{elected:?}"),
///     () = async { /* a signal to end */ } => {} // withdraws the candidate
/// }
/// leadership.check()?;
/// # Ok(()) }
/// ```
#[must_use = "nobody stands for leadership unless this is awaited"]
pub struct Campaign(Pin<Box<dyn Future<Output = Result<Leadership>> + Send>>);

impl Future for Campaign {
    type Output = Result<Leadership>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Campaign").finish_non_exhaustive()
    }
}

impl From<Place> for Candidate {
    fn from(place: Place) -> Self {
        let Place { token, value, owner, session, entry, .. } = place;
        Self { token, value, owner, session, entry }
    }
}

/// Waits until the candidate is the first one and takes office, unless the last leader has named somebody else.
async fn stand(named: Named, value: Vec<u8>) -> Result<Leadership> {
    let stand = || {
        let request = Request::new(&named.name, Kind::Candidate, value.clone());
        named.wait(Ok(request), |guard, _| guard)
    };
    let mut standing: Acquire<_> = stand();
    let mut passed = None;
    loop {
        let guard = (&mut standing).await?;
        let office = tokio::select! {
            biased;
            _ = guard.lost() => Err(office::lost_place(&guard)),
            office = office::take(&guard, passed.as_ref()) => office,
        };
        match office {
            Ok(Office::Taken { term }) => return Ok(Leadership::new(guard, term, value)),
            Ok(Office::Reserved { successor }) => {
                tracing::debug!(election = %named.name, successor = &*successor.key, "stepping aside");
                standing = stand();
                // Enters before the old entry leaves, so that it never stops being a candidate.
                standing.entered().await?;
                drop(guard);
                passed = Some(successor);
            }
            Err(error) => {
                // Told when nothing of it is left.
                guard.let_go().await;
                return Err(error);
            }
        }
    }
}

fn check_kind(name: &Name, kind: Kind) -> Result<()> {
    match kind {
        Kind::Candidate | Kind::Unmarked => Ok(()),
        other => Err(Error::OtherRecipe { name: name.to_string(), wanted: ELECTION, found: other.recipe() }),
    }
}
