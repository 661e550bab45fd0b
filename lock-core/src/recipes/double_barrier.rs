//! The double barrier: parties go in together and out together.

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use crate::acquire::{Patience, acquire};
use crate::backend::{Change, Kind, QueueEntry, Watched};
use crate::client::Client;
use crate::clock::Instant;
use crate::decision::of_own_recipe;
use crate::error::{Error, Loss, Result};
use crate::guard::{Guard, Release};
use crate::name::Name;
use crate::recipes::Named;
use crate::recipes::recorded::Recorded;
use crate::recipes::rounds::{Round, Rounds};
use crate::record::{self, Record, Update};
use crate::session::{Backoff, Live, recheck};

/// A double barrier: a fixed number of parties go in together, when the last of them has come, and out together, when the
/// last of them wants to leave.
///
/// It works in rounds that need no reset: those who come are let in in the order of the queue, as many at a time as there
/// are parties, whether or not everybody of the round before has left. A party that dies while it waits does not count any
/// more; one that dies inside has left.
///
/// The number of parties is kept in the store. The first user sets it; a client that believes in another number is refused.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let step = client.double_barrier("simulation-step", 3)?;
/// let mut parties = tokio::task::JoinSet::new();
/// for _party in 0..3 {
///     let step = step.clone(); // in any process
///     parties.spawn(async move { step.enter().await?.leave().await });
/// }
/// while let Some(left) = parties.join_next().await {
///     left.expect("no panic")?; // no one before all three had come
/// }
/// assert!(step.entries().await?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DoubleBarrier {
    named: Named,
    state: Recorded,
    parties: u32,
}

/// A party inside of a double barrier. Leaves when dropped, without waiting for the others; all else it does is a
/// [`Guard`]'s: it knows when the others may take this one for dead.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let alone = client.double_barrier("simulation-step", 1)?.enter().await?;
/// alone.run(async { /* compute; stopped before the others may take it for dead */ }).await?;
/// alone.check()?;
/// alone.leave().await?;
/// # Ok(()) }
/// ```
#[must_use = "a party leaves when this is dropped"]
#[derive(Debug)]
pub struct Party {
    guard: Guard,
    round: Round,
    barrier: DoubleBarrier,
}

const DOUBLE_BARRIER: &str = "double barrier";

/// Whether a party was counted when its deadline passed is asked for at most this part of the ttl.
const WITHDRAWAL_BUDGET: u32 = 3;

impl DoubleBarrier {
    pub(crate) fn new(client: Client, name: Name, parties: u32) -> Result<Self> {
        if parties == 0 {
            return Err(Error::InvalidConfig {
                setting: "parties of the double barrier".into(),
                value: "0".into(),
                expected: "at least 1".into(),
            });
        }
        let state = Recorded::new(client.clone(), name.clone(), DOUBLE_BARRIER);
        Ok(Self { named: Named::new(client, name), state, parties })
    }

    /// The same barrier, with a text that people see beside this process in the queue. Default: the client's label.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let step = client.double_barrier("simulation-step", 1)?.labelled("tile 3/4");
    /// let inside = step.enter().await?;
    /// let party = client.queue("simulation-step")?.list().await?.remove(0).owner;
    /// assert_eq!(party.and_then(|owner| owner.label).as_deref(), Some("tile 3/4"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.named = self.named.labelled(label);
        self
    }

    /// The barrier's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.double_barrier("simulation-step", 3)?.name(), "simulation-step");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.named.name.as_str()
    }

    /// How many parties go in together, as this client believes.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.double_barrier("simulation-step", 3)?.parties(), 3);
    /// # Ok(()) }
    /// ```
    pub fn parties(&self) -> u32 {
        self.parties
    }

    /// Waits until all parties of a round have come, this one among them.
    ///
    /// # Errors
    /// [`Error::NumberMismatch`] when the store has another number of parties; [`Error::OtherRecipe`] when the name is in use
    /// by another recipe; otherwise as [`Mutex::lock`](crate::Mutex::lock). After a retryable one, enter again; the others
    /// may have been let in with this party as one that has died.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place and leaves nothing behind. If the round was let in at the same moment, this
    /// party has left it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let step = client.double_barrier("simulation-step", 2)?;
    /// let other = tokio::spawn({
    ///     let step = step.clone(); // in any process
    ///     async move { step.enter().await?.leave().await }
    /// });
    /// let inside = step.enter().await?; // both have come
    /// inside.run(async { /* compute */ }).await?;
    /// inside.leave().await?;            // both are done
    /// other.await.expect("no panic")?;
    /// # Ok(()) }
    /// ```
    pub async fn enter(&self) -> Result<Party> {
        let this = self.clone();
        let entering = async move {
            let guard = this.come().await?;
            let round = this.wait_for_round(&guard).await?;
            Ok(Party { guard, round, barrier: this })
        };
        self.named.client.while_wanted(entering).await
    }

    /// Waits until all parties of a round have come, for at most `timeout`; `None` when they had not, and then nobody was let
    /// in with this one.
    ///
    /// When the deadline passes, the place is given up, which takes a few requests more.
    ///
    /// # Errors
    /// As [`enter`](Self::enter), and [`Error::Timeout`] when the deadline passed before the store had given a place, or when
    /// it is not known whether the others count on this party: because it was let in in that very moment, or because the
    /// store does not answer within a third of the ttl. Then this party has left.
    ///
    /// # Cancel safety
    /// As [`enter`](Self::enter).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let step = client.double_barrier("simulation-step", 2)?;
    /// if step.enter_for(Duration::from_secs(60)).await?.is_none() {
    ///     println!("the other one did not come within a minute");
    /// }
    /// assert!(step.entries().await?.is_empty(), "and will not find this one");
    /// # Ok(()) }
    /// ```
    pub async fn enter_for(&self, timeout: Duration) -> Result<Option<Party>> {
        let this = self.clone();
        let deadline = self.named.client.clock().now() + timeout;
        let entering = async move {
            let late = |doing| Error::Timeout { lock: this.named.name.to_string(), after: timeout, doing };
            let Some(guard) = this.before(deadline, this.come()).await else {
                return Err(late("entering the queue"));
            };
            let guard = guard?;
            if let Some(round) = this.before(deadline, this.wait_for_round(&guard)).await {
                return Ok(Some(Party { guard, round: round?, barrier: this.clone() }));
            }
            let budget = guard.live().session.ttl() / WITHDRAWAL_BUDGET;
            match tokio::time::timeout(budget, this.withdraw(guard)).await {
                Ok(Ok(true)) => Ok(None),
                Ok(Err(error)) => Err(error),
                Ok(Ok(false)) | Err(_) => Err(late("withdrawing")),
            }
        };
        self.named.client.while_wanted(entering).await
    }

    /// Everybody who waits or is inside, in order.
    ///
    /// # Errors
    /// As [`Client::entries`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let step = client.double_barrier("simulation-step", 2)?;
    /// let first = tokio::spawn({
    ///     let step = step.clone();
    ///     async move { step.enter().await }
    /// });
    /// # tokio::time::sleep(Duration::from_secs(1)).await;
    /// println!("{} of 2 have come", step.entries().await?.len());
    /// # assert_eq!(step.entries().await?.len(), 1);
    /// # Ok(()) }
    /// ```
    pub async fn entries(&self) -> Result<Vec<QueueEntry>> {
        self.named.client.entries(&self.named.name).await
    }

    /// Takes a place in the queue. The first user sets the number of parties.
    async fn come(&self) -> Result<Guard> {
        let record = self.state.read().await?;
        self.rounds(record.as_ref())?;
        if record.is_none() {
            let this = self.clone();
            let first = move |record: Option<Record>| {
                let update =
                    if record.is_some() { Update::Keep } else { Update::Write(Rounds::new(this.parties).to_record()) };
                this.rounds(record.as_ref()).map(|_| (update, ()))
            };
            self.state.claim(Kind::Party, first).await?;
        }
        loop {
            let request = self.named.request(Kind::Party)?;
            // Without a deadline the answer is a guard or an error.
            if let Some(guard) = acquire(&self.named.client, request, Patience::Forever).await? {
                return Ok(guard);
            }
        }
    }

    async fn before<F: Future>(&self, deadline: Instant, work: F) -> Option<F::Output> {
        let left = deadline.saturating_duration_since(self.named.client.clock().now());
        tokio::time::timeout(left, work).await.ok()
    }

    async fn wait_for_round(&self, guard: &Guard) -> Result<Round> {
        tokio::select! {
            biased;
            round = self.look_for_round(guard) => round.map_err(|error| match error {
                Error::SessionOver { .. } => self.lost(guard.live().health.check().err().unwrap_or(Loss::SessionEnded)),
                error => error.of_lock(&self.named.name),
            }),
            loss = guard.lost() => Err(self.lost(loss)),
        }
    }

    /// Counts who is there once, opening the rounds that are complete, and then waits for a change of the record only: the
    /// last of a round to come counts after all others of it have come.
    async fn look_for_round(&self, guard: &Guard) -> Result<Round> {
        let (live, name) = (guard.live(), &self.named.name);
        let mut counted = false;
        let mut backoff = Backoff::default();
        loop {
            let look = record::look(live, name, DOUBLE_BARRIER).await?;
            let mut rounds = self.rounds(look.record.as_ref())?;
            if rounds.of(guard.token()).is_none() && !counted {
                // The queue is read after the record, and the record replaced if it is still that one: so nobody who has
                // withdrawn by then is counted.
                if let Some(opened) = self.opened(live, guard, &rounds).await? {
                    if !record::replace(live, name, look.version, &opened.to_record()).await? {
                        backoff.wait(&live.health).await;
                        continue;
                    }
                    rounds = opened;
                }
                counted = true;
            }
            if let Some(round) = rounds.of(guard.token()) {
                // An entry that somebody removed before the round was opened was not counted.
                if live.retry(|| live.session.read(guard.entry())).await?.is_none() {
                    live.renew_now();
                    return Err(self.lost(Loss::EntryRemoved));
                }
                live.proven().await.map_err(|_| live.over())?;
                return Ok(round);
            }
            look.changed(live).await;
        }
    }

    /// The rounds with those that are complete now, if any.
    async fn opened(&self, live: &Live, guard: &Guard, rounds: &Rounds) -> Result<Option<Rounds>> {
        let others = self.parties.saturating_sub(1) as usize;
        if others > 0 {
            live.counters.looks.add_one();
            let ahead = live.retry(|| live.session.ahead(guard.entry(), others)).await?;
            let ahead = ahead.ok_or_else(|| self.lost(Loss::EntryRemoved))?;
            // Not even with those inside.
            if ahead.nearest.len() < others {
                return Ok(None);
            }
        }
        let queue = live.retry(|| live.session.entries(&self.named.name, usize::MAX)).await?;
        let parties = of_own_recipe(queue, Kind::Party, |entry| entry.kind);
        let parties = parties.map_err(|found| record::other_recipe(&self.named.name, Kind::Party, found))?;
        Ok(rounds.opened(parties.iter().filter_map(|entry| entry.token).collect()))
    }

    /// Gives the place up so that nobody counts on it: whoever may have seen the entry must find the record written since.
    /// `false` when it was counted, or that cannot be known.
    async fn withdraw(&self, guard: Guard) -> Result<bool> {
        let (live, token) = (guard.live().clone(), guard.token());
        match guard.release().await {
            Release::Released => {}
            Release::Pending | Release::NotHeld => return Ok(false),
        }
        let settled = self.is_not_counted(&live, token).await;
        settled.map_err(|error| error.of_lock(&self.named.name))
    }

    async fn is_not_counted(&self, live: &Live, token: u64) -> Result<bool> {
        let mut first = None;
        let mut backoff = Backoff::default();
        loop {
            let (record, version) = record::read_version(live, &self.named.name, DOUBLE_BARRIER).await?;
            if self.rounds(record.as_ref())?.of(token).is_some() {
                return Ok(false);
            }
            // Written since the entry was removed, by this one or by another.
            let (Some(record), true) = (record, *first.get_or_insert(version) == version) else { return Ok(true) };
            if record::replace(live, &self.named.name, version, &record).await? {
                return Ok(true);
            }
            backoff.wait(&live.health).await;
        }
    }

    /// Waits until nobody of a round is inside.
    async fn wait_for_leavers(&self, round: Round) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let left = async { self.wait_for_leavers_over(&*self.named.client.live().await?, round).await };
            match left.await {
                Err(error) if error.is_retryable() => {
                    tracing::debug!(name = %self.named.name, %error, "cannot follow the queue, trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
                done => return done.map_err(|error| error.of_lock(&self.named.name)),
            }
        }
    }

    /// Watches the last party of the round only: of those who leave in any order, that one changes a few times, so that not
    /// everybody is woken by everybody.
    async fn wait_for_leavers_over(&self, live: &Live, round: Round) -> Result<()> {
        loop {
            live.counters.looks.add_one();
            let queue = live.retry(|| live.session.entries(&self.named.name, usize::MAX)).await?;
            let inside = |entry: &&QueueEntry| entry.token.is_some_and(|token| round.has(token));
            let Some(last) = queue.iter().filter(inside).max_by_key(|entry| entry.token) else { return Ok(()) };
            let Watched::Present(watch) = live.retry(|| live.session.watch(&last.entry)).await? else { continue };
            live.counters.waits.add_one();
            tokio::select! {
                biased;
                _ = live.health.lost() => return Err(live.over()),
                () = recheck() => {}
                change = watch => match change {
                    Change::Removed => live.counters.wakeups.add_one(),
                    Change::Updated => live.counters.nudges.add_one(),
                    // The connection may be gone, and with it the watches of all who wait here: not all at once.
                    Change::Unknown => Backoff::default().wait(&live.health).await,
                },
            }
        }
    }

    /// What a record tells; those of others were refused when it was read.
    fn rounds(&self, record: Option<&Record>) -> Result<Rounds> {
        let rounds = record.and_then(Rounds::from_record).unwrap_or_else(|| Rounds::new(self.parties));
        if rounds.parties != self.parties {
            return Err(Error::NumberMismatch {
                name: self.named.name.to_string(),
                recipe: DOUBLE_BARRIER,
                of: "parties",
                asked: self.parties,
                stored: rounds.parties,
            });
        }
        Ok(rounds)
    }

    /// The error of one whose entry went while it waited.
    fn lost(&self, loss: Loss) -> Error {
        let lock = self.named.name.to_string();
        if loss == Loss::EntryRemoved { Error::EntryRemoved { lock } } else { Error::SessionLost { lock, loss } }
    }
}

impl Party {
    /// Leaves, and waits until all others of the round have left. A party that dies has left when its session is over.
    ///
    /// # Errors
    /// [`Error::Lost`] when this party had been lost before: the others may have gone on without it. Otherwise those that
    /// asking again does not help against; while the store cannot be reached, this waits.
    ///
    /// # Cancel safety
    /// This party leaves all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let step = client.double_barrier("simulation-step", 2)?;
    /// let (one, two) = tokio::try_join!(step.enter(), step.enter())?;
    /// tokio::try_join!(one.leave(), two.leave())?; // neither of them goes on alone
    /// assert!(step.entries().await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn leave(self) -> Result<()> {
        self.leave_within(None).await.map(|_| ())
    }

    /// Leaves, and waits for at most `timeout` until all others of the round have left; `false` when they had not, as far as
    /// the store could tell.
    ///
    /// # Errors
    /// As [`leave`](Self::leave).
    ///
    /// # Cancel safety
    /// This party leaves all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let step = client.double_barrier("simulation-step", 2)?;
    /// let (quick, slow) = tokio::try_join!(step.enter(), step.enter())?;
    /// assert!(!quick.leave_for(Duration::from_secs(60)).await?, "the other one is still inside");
    /// assert!(slow.leave_for(Duration::from_secs(60)).await?);
    /// # Ok(()) }
    /// ```
    pub async fn leave_for(self, timeout: Duration) -> Result<bool> {
        self.leave_within(Some(timeout)).await
    }

    async fn leave_within(self, timeout: Option<Duration>) -> Result<bool> {
        self.guard.check()?;
        let Self { guard, round, barrier } = self;
        let client = barrier.named.client.clone();
        let deadline = timeout.map(|after| client.clock().now() + after);
        let leaving = async move {
            let leaving = async {
                // Should the answer be lost, the own entry is waited for as well.
                guard.release().await;
                barrier.wait_for_leavers(round).await
            };
            let left = match deadline {
                None => Some(leaving.await),
                Some(deadline) => barrier.before(deadline, leaving).await,
            };
            left.transpose().map(|left| left.is_some())
        };
        client.while_wanted(leaving).await
    }
}

impl Deref for Party {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}
