//! Elections: one leader at a time, tokens and terms grow, what is shown is the leader's, a transfer goes to the one named.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::backend::{Entry, Kind};
use lock_core::memory::Op;
use lock_core::{Candidate, Client, Election, Guard, Leadership, Release, Result};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use crate::plan::{millis, pause};
use crate::play::{Recipe, play_many, repeats};
use crate::turn::{End, Hold, Wait, hold};
use crate::world::World;

struct Elections {
    world: Arc<World>,
    elections: Vec<Election>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The greatest term and its token.
    last: (u64, u64),
    /// Whom the leader with this token has named.
    successor: Option<(u64, Entry)>,
}

#[derive(Clone, Debug)]
enum Action {
    Lead {
        wait: Wait,
        during: Vec<(Duration, During)>,
        hold: Duration,
        end: End,
    },
    /// In the background, for this long.
    Latch(Duration),
    Observe(Duration),
}

#[derive(Clone, Debug)]
enum During {
    Proclaim(u8),
    Transfer,
    TransferTo(usize),
}

impl Hold for Leadership {
    fn guards(&self) -> Vec<&Guard> {
        vec![self]
    }

    async fn release(self) -> Release {
        self.resign().await
    }
}

impl Elections {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn leads(&self, client: usize, leadership: &Leadership) {
        let world = &self.world;
        world.granted(client, Kind::Candidate, leadership).await;
        let (term, token) = (leadership.term(), leadership.token());
        let (last, successor) = {
            let mut seen = self.seen();
            let (last, successor) = (seen.last, seen.successor.take());
            seen.last = seen.last.max((term, token));
            (last, successor)
        };
        if world.any_by_hand() {
            return;
        }
        let grows = term > last.0 && token > last.1;
        world.check(grows, || format!("term {term} with token {token} after {last:?}"));
        let passed =
            successor.filter(|(by, other)| *by == last.1 && other != leadership.entry() && world.is_there(other));
        world.check(passed.is_none(), || format!("token {token} leads, and {passed:?} was named"));
    }

    /// Who has handed over leads no longer, and who has not leads on unless something else broke.
    fn ends_with(&self, client: usize, leadership: &Leadership, handed_over: bool) {
        let broken = !self.world.is_clean(client) || self.world.any_by_hand();
        let ended = leadership.check().is_err();
        self.world.check(ended == handed_over || ended && broken, || format!("handed over: {handed_over}"));
    }

    async fn during(&self, client: usize, what: &During, leadership: &Leadership) -> Result<()> {
        match what {
            During::Proclaim(n) => {
                let value = format!("{client}, for the time {n}");
                leadership.proclaim(&value).await?;
                let shown = self.world.value(leadership.entry()).await.filter(|_| leadership.check().is_ok());
                let shows = shown.as_ref().is_none_or(|shown| shown == value.as_bytes());
                self.world.check(shows, || format!("{value:?} was proclaimed, and {shown:?} is shown"));
            }
            During::Transfer => {
                let handed_over = leadership.transfer().await?;
                self.ends_with(client, leadership, handed_over);
            }
            During::TransferTo(nth) => {
                let candidates = self.elections[client].candidates().await?;
                let others: Vec<&Candidate> =
                    candidates.iter().filter(|candidate| candidate.entry != *leadership.entry()).collect();
                let Some(candidate) = others.get(nth % others.len().max(1)) else { return Ok(()) };
                let named = leadership.transfer_to(candidate).await?;
                self.ends_with(client, leadership, named);
                self.seen().successor = named.then(|| (leadership.token(), candidate.entry.clone()));
            }
        }
        Ok(())
    }

    async fn latch(&self, client: usize, time: Duration) -> Result<()> {
        let mut latch = self.elections[client].latch("latch")?;
        let leads = async {
            loop {
                if let Ok(Some(leadership)) = latch.changed().await {
                    self.leads(client, &leadership).await;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        let _: Result<(), _> = timeout(time, leads).await;
        latch.close().await;
        Ok(())
    }

    async fn observe(&self, client: usize, time: Duration) -> Result<()> {
        let mut observer = self.elections[client].observe();
        let mut last = 0;
        let watching = async {
            loop {
                let Some(leader) = observer.next().await? else { continue };
                self.world.check(leader.token >= last, || format!("{leader:?} is shown after token {last}"));
                last = leader.token;
            }
        };
        timeout(time, watching).await.unwrap_or(Ok(()))
    }
}

impl Recipe for Elections {
    const QUEUES: &'static [&'static str] = &["e"];
    const OPS: &'static [Op] = &[
        Op::Open,
        Op::Renew,
        Op::Enqueue,
        Op::Adopt,
        Op::Ahead,
        Op::Watch,
        Op::WatchQueue,
        Op::Entries,
        Op::Read,
        Op::Write,
        Op::Owner,
        Op::Dequeue,
        Op::Close,
    ];
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        let during = prop_oneof![
            2 => any::<u8>().prop_map(During::Proclaim),
            1 => Just(During::Transfer),
            2 => (0..6usize).prop_map(During::TransferTo),
        ];
        let during = vec((pause(), during), 0..3);
        let lead = (Wait::patient(), during, hold(), End::strategy());
        prop_oneof![
            6 => lead.prop_map(|(wait, during, hold, end)| Action::Lead { wait, during, hold, end }),
            2 => millis(0..3_000).prop_map(Action::Latch),
            1 => millis(0..3_000).prop_map(Action::Observe),
        ]
        .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let elections = clients.iter().map(|client| client.election("e").expect("a valid name")).collect();
        Self { world, elections, seen: Mutex::default() }
    }

    async fn act(&self, client: usize, action: Action) {
        let (world, election) = (&self.world, &self.elections[client]);
        match action {
            Action::Lead { wait, during, hold, end } => {
                let campaign = election.campaign(format!("{client}"));
                let never = async |_| std::future::pending().await;
                let outcome = world.wait(client, &wait, campaign, std::future::pending(), never).await;
                let Some(leadership) = world.or_excuse(client, outcome) else { return };
                self.leads(client, &leadership).await;
                for (after, what) in &during {
                    sleep(*after).await;
                    let done = self.during(client, what, &leadership).await;
                    // After a transfer it leads no longer.
                    if leadership.check().is_ok() {
                        world.or_excuse(client, done.map(Some));
                    }
                }
                sleep(hold).await;
                world.end(client, &end, leadership).await;
            }
            Action::Latch(time) => {
                let outcome = self.latch(client, time).await;
                world.or_excuse(client, outcome.map(Some));
            }
            Action::Observe(time) => {
                let outcome = self.observe(client, time).await;
                world.or_excuse(client, outcome.map(Some));
            }
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let election = &self.elections[client];
        let leadership = election.campaign("last").await?;
        leadership.check()?;
        let leader = election.leader().await?;
        let shown = leader.as_ref().is_some_and(|leader| leader.term == Some(leadership.term()));
        self.world.check(shown, || format!("{leader:?} is shown, and {leadership:?} leads"));
        leadership.resign().await;
        Ok(())
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<Elections>(1_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<Elections>();
}
