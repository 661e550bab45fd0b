//! Leading, as long as it lasts.

use std::ops::Deref;
use std::sync::{Arc, Mutex as Lock, PoisonError};

use tokio::sync::{Mutex as AsyncLock, watch};

use crate::error::{Error, Loss, Result};
use crate::guard::{Guard, Release};
use crate::recipes::election::{Candidate, office};
use crate::revocation;

/// Leadership of an election. Resigns when dropped; all else it does is a [`Guard`]'s. So it can be asked to let go with
/// [`Queue::revoke`](crate::Queue::revoke), and goes on until its holder follows.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let leadership = client.election("scheduler")?.campaign("10.0.0.1:7000").await?;
/// while leadership.check().is_ok() {
///     // … what only the leader does, a step at a time …
/// #   break;
/// }
/// leadership.resign().await;
/// # assert_eq!(client.election("scheduler")?.leader().await?, None);
/// # Ok(()) }
/// ```
#[must_use = "leadership ends when this is dropped"]
#[derive(Debug)]
pub struct Leadership {
    guard: Arc<Guard>,
    term: u64,
    shown: Arc<Lock<Vec<u8>>>,
    /// Who has it may speak to the store in the leader's name.
    turn: Arc<AsyncLock<()>>,
    /// Tells when the selector that this one belongs to is stopped.
    stopped: Option<watch::Receiver<bool>>,
}

/// Why a leader's work should come to an end.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::Ending;
///
/// let leadership = client.election("scheduler")?.campaign("10.0.0.1:7000").await?;
/// client.queue("scheduler")?.revoke(leadership.token()).await?; // in any process
/// match leadership.ending().await {
///     Ending::Lost(loss) => unreachable!("not a moment more: {loss}"),
///     ending => assert_eq!(ending, Ending::Revoked), // there is time to put things in order
/// }
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The leadership was lost: somebody else may lead already.
    Lost(Loss),
    /// Somebody asks the leader to let go.
    Revoked,
    /// The [`Selector`](crate::Selector) was stopped.
    Stopped,
}

impl Leadership {
    pub(super) fn new(guard: Guard, term: u64, value: Vec<u8>) -> Self {
        Self { guard: Arc::new(guard), term, shown: Arc::new(Lock::new(value)), turn: Arc::default(), stopped: None }
    }

    pub(super) fn stopped_by(mut self, stopped: watch::Receiver<bool>) -> Self {
        self.stopped = Some(stopped);
        self
    }

    /// Counts the leaders of this election, those of other kinds of clients left out: greater than that of every earlier
    /// leader. A candidate that was lost while it took office may have used up a number. To be compared by resources, take
    /// the [`token`](Guard::token), which every leader has.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// let first = election.campaign("10.0.0.1:7000").await?;
    /// assert_eq!(first.term(), 1);
    /// first.resign().await;
    /// assert_eq!(election.campaign("10.0.0.2:7000").await?.term(), 2);
    /// # Ok(()) }
    /// ```
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The value that the leader shows.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let leadership = client.election("scheduler")?.campaign("10.0.0.1:7000").await?;
    /// leadership.proclaim("10.0.0.1:7001").await?;
    /// assert_eq!(leadership.value(), b"10.0.0.1:7001");
    /// # Ok(()) }
    /// ```
    pub fn value(&self) -> Vec<u8> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another value of at most 4 KiB. Observers see it at once. Proclamations of one leader are made in the order of
    /// the calls.
    ///
    /// # Errors
    /// [`Error::Lost`] when the leadership was lost before or meanwhile; the value of another leader is never touched.
    /// [`Error::ValueTooLarge`], and [`Error::InvalidConfig`] for a value that begins with `__REVOKE__`. [`Error::Refused`]
    /// on ZooKeeper while a candidate of Curator's own waits right behind, which could not bear it.
    ///
    /// # Cancel safety
    /// The value may or may not be shown; if it is, before the value of any later call.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// let leadership = election.campaign("starting").await?;
    /// leadership.proclaim("ready").await?;
    /// let leader = election.leader().await?.expect("this one");
    /// assert_eq!((leader.value.as_slice(), leader.token), (&b"ready"[..], leadership.token()));
    /// # Ok(()) }
    /// ```
    pub async fn proclaim(&self, value: impl AsRef<[u8]> + Send) -> Result<()> {
        let value = revocation::checked(self.guard.lock(), value.as_ref())?;
        let shown = self.shown.clone();
        self.in_turn(|guard| async move {
            guard.show(&value).await?;
            *shown.lock().unwrap_or_else(PoisonError::into_inner) = value;
            Ok(())
        })
        .await
    }

    /// Hands over to this candidate: names it as the next leader, then resigns. `false` when it does not stand any more, and
    /// then this one goes on leading.
    ///
    /// Those before it in the queue step aside: they enter again at the end, and stay candidates all the time. Other kinds
    /// of clients do not know of it and lead first when they are before it. When the one named leaves before its turn, the
    /// next one leads as usual.
    ///
    /// # Errors
    /// [`Error::Lost`] when the leadership was lost before or meanwhile, [`Error::InvalidConfig`] for the leader itself, and
    /// those of [`Client::entries`](crate::Client::entries).
    ///
    /// # Cancel safety
    /// It is handed over all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let election = client.election("scheduler")?;
    /// let leadership = election.campaign("old").await?;
    /// let mut new = election.latch("new")?;
    /// let new = tokio::spawn(async move { new.leading().await.map(|leadership| leadership.term()) });
    /// loop {
    ///     let candidates = election.candidates().await?;
    ///     if let Some(candidate) = candidates.iter().find(|candidate| candidate.value == b"new") {
    ///         assert!(leadership.transfer_to(candidate).await?);
    ///         break;
    ///     }
    /// }
    /// assert!(leadership.check().is_err(), "it leads no longer");
    /// assert_eq!(new.await.expect("no panic")?, 2);
    /// # Ok(()) }
    /// ```
    pub async fn transfer_to(&self, candidate: &Candidate) -> Result<bool> {
        if candidate.entry == *self.guard.entry() {
            return Err(Error::InvalidConfig {
                setting: format!("successor in election {:?}", self.guard.name()),
                value: candidate.entry.key.to_string(),
                expected: "another candidate than the leader itself".into(),
            });
        }
        let (term, successor) = (self.term, candidate.entry.clone());
        self.in_turn(|guard| async move {
            let named = office::name_successor(&guard, term, &successor).await?;
            if named {
                guard.let_go().await;
            }
            Ok(named)
        })
        .await
    }

    /// Hands over to the next candidate: resigns if there is one. `false` otherwise, and then this one goes on leading.
    ///
    /// # Errors
    /// [`Error::Lost`] when the leadership was lost before or meanwhile, and those of
    /// [`Client::entries`](crate::Client::entries).
    ///
    /// # Cancel safety
    /// It is handed over all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let election = client.election("scheduler")?;
    /// let leadership = election.campaign("old").await?;
    /// assert!(!leadership.transfer().await?, "to nobody: it goes on leading");
    /// let mut next = election.latch("new")?;
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// assert!(leadership.transfer().await?);
    /// assert_eq!(next.leading().await?.value(), b"new");
    /// # Ok(()) }
    /// ```
    pub async fn transfer(&self) -> Result<bool> {
        self.in_turn(|guard| async move {
            let followed = office::is_followed(&guard).await?;
            if followed {
                guard.let_go().await;
            }
            Ok(followed)
        })
        .await
    }

    /// Resolves when work that is done as the leader should come to an end.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::{Ending, Loss};
    ///
    /// let leadership = client.election("scheduler")?.campaign("10.0.0.1:7000").await?;
    /// let work = tokio::spawn(async move {
    ///     leadership.ending().await // … while there is nothing to do …
    /// });
    /// client.close().await;
    /// assert_eq!(work.await.expect("no panic"), Ending::Lost(Loss::Closed));
    /// # Ok(()) }
    /// ```
    pub async fn ending(&self) -> Ending {
        let stopped = async {
            let told = match self.stopped.clone() {
                Some(mut stopped) => stopped.wait_for(|stopped| *stopped).await.is_ok(),
                None => false,
            };
            if !told {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            loss = self.lost() => Ending::Lost(loss),
            () = self.revoked() => Ending::Revoked,
            () = stopped => Ending::Stopped,
        }
    }

    /// Ends the leadership and waits for the store's answer, as [`Guard::release`]: lost locally before anything is sent, and
    /// tried again with a time budget of its own when the store does not answer.
    ///
    /// # Cancel safety
    /// The leadership ends all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::Release;
    ///
    /// let election = client.election("scheduler")?;
    /// let leadership = election.campaign("10.0.0.1:7000").await?;
    /// assert_eq!(leadership.resign().await, Release::Released);
    /// assert_eq!(election.leader().await?, None);
    /// # Ok(()) }
    /// ```
    pub async fn resign(self) -> Release {
        self.guard.let_go().await
    }
}

impl Leadership {
    /// Runs a task to its end, whatever becomes of the caller, after those that were begun before.
    async fn in_turn<T, F>(&self, task: impl FnOnce(Arc<Guard>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let turn = self.turn.clone().lock_owned().await;
        let task = task(self.guard.clone());
        let done = self.guard.live().runtime.spawn(async move {
            let _turn = turn;
            task.await
        });
        done.await.unwrap_or_else(|_| {
            Err(Error::Runtime { problem: "has been shut down; keep it alive as long as its locks".into() })
        })
    }
}

impl Deref for Leadership {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}
