//! Doing work whenever one leads.

use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Result;
use crate::guard::Release;
use crate::recipes::election::{Election, Leadership};
use crate::session::Backoff;

/// Leadership again and again, for work that is done in turns with others.
///
/// [`run`](Self::run) does the work whenever this candidate leads; a loop over [`next`](Self::next) does the same and
/// borrows from what is around it. For each turn it stands for leadership anew, at the end of the queue. It ends when
/// somebody [stops](Stopper) it or the client is closed. A request to let go, by [`Queue::revoke`](crate::Queue::revoke), is
/// for the present turn only: when nobody else stands, the next one begins at once, and nobody has asked it.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
/// for term in 1..=3 {
///     let turn = selector.next().await?.expect("nobody stops it");
///     turn.run(async { /* a round of work */ }).await?;
///     assert_eq!(turn.term(), term, "others may lead in between");
///     turn.done().await;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Selector {
    election: Election,
    value: Vec<u8>,
    stop: Arc<watch::Sender<bool>>,
    closes: watch::Receiver<u64>,
    pace: Pace,
}

/// Leads, and resigns when it is done or dropped; all else it does is a [`Leadership`]'s.
///
/// **Work is never cut off.** It is told when it should come to an end, by [`Leadership::ending`]: the leadership was lost,
/// somebody asks the leader to let go, or the selector was stopped. Until the turn is done or dropped, the session is renewed
/// and the entry stays: the next one leads only after the work has ended. A loss is the exception that nothing can prevent:
/// then somebody else may lead while the work comes to its end. So [`check`](crate::Guard::check) before each effect, or
/// put what must not outlive the leadership into [`run`](crate::Guard::run).
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::Ending;
///
/// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
/// let stopper = selector.stopper();
/// let turn = selector.next().await?.expect("nobody stops it");
/// stopper.stop();
/// assert_eq!(turn.ending().await, Ending::Stopped);
/// turn.check()?; // it leads until its work has ended
/// turn.done().await;
/// # Ok(()) }
/// ```
#[must_use = "a turn that is dropped has failed"]
#[derive(Debug)]
pub struct Turn<'a> {
    leadership: Arc<Leadership>,
    pace: &'a mut Pace,
    done: bool,
}

/// Stops a [`Selector`] from elsewhere. Clones stop the same.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
/// let stopper = selector.stopper();
/// let signals = tokio::spawn(async move {
///     stopper.stop(); // … when the process is asked to end …
/// });
/// # signals.await.expect("no panic");
/// while let Some(turn) = selector.next().await? {
///     turn.done().await;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Stopper(Arc<watch::Sender<bool>>);

/// When the next turn may begin.
#[derive(Debug, Default)]
struct Pace {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Selector {
    pub(super) fn new(election: Election, value: Vec<u8>) -> Self {
        let closes = election.named.client.closes();
        Self { election, value, stop: Arc::new(watch::Sender::new(false)), closes, pace: Pace::default() }
    }

    /// What stops it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
    /// let stopper = selector.stopper(); // before the selector is borrowed by a turn
    /// stopper.stop();
    /// assert!(selector.next().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Does `work` whenever this candidate leads, until it is stopped. Each turn is [done](Turn::done) when its work has ended
    /// well, and [failed](Turn::failed) when it answers an error, which is logged.
    ///
    /// As every [`Turn`], the work is never cut off: it should end by itself when [`Leadership::ending`] tells it to.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    /// Dropping the future drops the work, then resigns or withdraws, and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
    /// let stopper = selector.stopper();
    /// selector
    ///     .run(|leadership| {
    ///         let stopper = stopper.clone();
    ///         async move {
    ///             leadership.check()?;
    ///             stopper.stop(); // after the first round
    ///             Ok::<(), lock_core::Error>(())
    ///         }
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn run<W, F, E>(&mut self, mut work: W) -> Result<()>
    where
        W: FnMut(Arc<Leadership>) -> F + Send,
        F: Future<Output = Result<(), E>> + Send,
        E: fmt::Display + Send,
    {
        let name = self.election.name().to_owned();
        while let Some(turn) = self.next().await? {
            match work(turn.leadership.clone()).await {
                Ok(()) => turn.done().await,
                Err(error) => {
                    tracing::warn!(election = name, %error, "the leader's work failed");
                    turn.failed().await
                }
            };
        }
        Ok(())
    }

    /// Waits for the next turn; `None` when it was stopped.
    ///
    /// After a turn that was not [done](Turn::done), and when the store cannot be reached, it pauses, so that others can
    /// lead: 10 ms, doubled each time up to a second, jittered. A turn that was done makes the pauses short again, and is
    /// followed by the next at once.
    ///
    /// # Errors
    /// Those of [`Election::campaign`] that trying again does not help against.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate and leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
    /// let stopper = selector.stopper();
    /// let mut rounds = 0;
    /// while let Some(turn) = selector.next().await? {
    ///     turn.run(async { rounds += 1 }).await?; // borrows from what is around it
    ///     stopper.stop();
    ///     turn.done().await;
    /// }
    /// assert_eq!(rounds, 1);
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Option<Turn<'_>>> {
        let (mut stop, mut closes) = (self.stop.subscribe(), self.closes.clone());
        let mut stopped = pin!(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                _ = closes.changed() => {}
            }
        });
        loop {
            let led = tokio::select! {
                biased;
                () = &mut stopped => return Ok(None),
                led = self.campaign() => led,
            };
            match led {
                Ok(leadership) => {
                    let leadership = Arc::new(leadership.stopped_by(self.stop.subscribe()));
                    return Ok(Some(Turn { leadership, pace: &mut self.pace, done: false }));
                }
                Err(error) if error.is_retryable() => {
                    tracing::debug!(election = self.election.name(), %error, "not elected, trying again");
                    self.pace.fail();
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn campaign(&self) -> Result<Leadership> {
        if let Some(not_before) = self.pace.not_before {
            let pause = async move {
                tokio::time::sleep_until(not_before).await;
                Ok(())
            };
            self.election.named.client.while_wanted(pause).await?;
        }
        self.election.campaign(&self.value).await
    }
}

impl Turn<'_> {
    /// Resigns, and waits for the store's answer as [`Leadership::resign`].
    ///
    /// # Cancel safety
    /// The turn is done all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::Release;
    ///
    /// let election = client.election("scheduler")?;
    /// let mut selector = election.selector("10.0.0.1:7000")?;
    /// let turn = selector.next().await?.expect("nobody stops it");
    /// assert_eq!(turn.done().await, Release::Released);
    /// assert_eq!(election.leader().await?, None, "others can lead");
    /// # Ok(()) }
    /// ```
    pub async fn done(mut self) -> Release {
        self.done = true;
        self.leadership.let_go().await
    }

    /// As [`done`](Self::done), for work that has failed: before the next turn there is a pause. Dropping the turn does the
    /// same without waiting for the answer.
    ///
    /// # Cancel safety
    /// The turn is over all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
    /// let failed = selector.next().await?.expect("nobody stops it").failed();
    /// failed.await; // its work answered an error
    /// let since = tokio::time::Instant::now();
    /// selector.next().await?.expect("nobody stops it").done().await;
    /// assert!(!since.elapsed().is_zero(), "after a pause");
    /// # Ok(()) }
    /// ```
    pub async fn failed(self) -> Release {
        self.leadership.let_go().await
    }
}

impl Deref for Turn<'_> {
    type Target = Leadership;

    fn deref(&self) -> &Leadership {
        &self.leadership
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Whoever was given the leadership may have kept it.
        self.leadership.abandon();
        if self.done {
            *self.pace = Pace::default();
        } else {
            self.pace.fail();
        }
    }
}

impl Stopper {
    /// Lets the present turn know that it should come to its end, and makes it the last one.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let mut selector = client.election("scheduler")?.selector("10.0.0.1:7000")?;
    /// let stopper = selector.stopper();
    /// let turn = selector.next().await?.expect("nobody stops it");
    /// stopper.stop();
    /// turn.check()?; // not cut off: it ends its work, and is the last one
    /// turn.done().await;
    /// assert!(selector.next().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Pace {
    fn fail(&mut self) {
        self.not_before = Some(Instant::now() + self.backoff.next());
    }
}
