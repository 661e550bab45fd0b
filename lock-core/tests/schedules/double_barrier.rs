//! The double barrier: whole rounds go in, nobody is out of `leave` before all of its round are, and whoever can go in does.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use lock_core::backend::Kind;
use lock_core::memory::Op;
use lock_core::{Client, DoubleBarrier, Name, Party, Result};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use crate::chronicle::{Chronicle, Written};
use crate::plan::millis;
use crate::play::{Recipe, play_many, repeats};
use crate::turn::{Wait, hold, polled};
use crate::world::World;

struct DoubleBarriers<const PARTIES: u32> {
    world: Arc<World>,
    barriers: Vec<DoubleBarrier>,
    record: Chronicle,
    queue: Name,
}

#[derive(Clone, Debug)]
struct Action {
    enter: Wait,
    hold: Duration,
    leave: Leave,
}

#[derive(Clone, Debug)]
enum Leave {
    Together,
    For(Duration),
    Drop,
    Polled(u8),
}

/// The round of a token; `None` while it waits.
fn round_of(written: &Written, token: u64) -> Option<RangeInclusive<u64>> {
    let last = written.record["rounds"].as_array()?.iter().filter_map(|last| last.as_u64()).collect::<Vec<_>>();
    let at = last.iter().position(|last| token <= *last)?;
    let after = at.checked_sub(1).map_or(0, |before| last[before]);
    Some(after + 1..=last[at])
}

impl<const PARTIES: u32> DoubleBarriers<PARTIES> {
    async fn inside(&self, client: usize, party: Party, action: &Action) -> Result<()> {
        let (world, token) = (&self.world, party.token());
        world.granted(client, Kind::Party, &party).await;
        let round = round_of(&self.record.look().await, token);
        world.check(round.is_some(), || format!("token {token} is inside, and not in a round"));
        let Some(round) = round else { return Ok(()) };
        let arrived = world.arrived(round.clone());
        world.check(arrived >= PARTIES as usize, || format!("{arrived} have come, and {round:?} are inside"));
        sleep(action.hold).await;
        let began = Instant::now();
        let left = match action.leave {
            Leave::Together => party.leave().await.map(|()| true)?,
            Leave::For(patience) => {
                let left = party.leave_for(patience).await?;
                let took = began.elapsed();
                world.check(took <= patience + Duration::from_millis(5), || format!("leaving took {took:?}"));
                left
            }
            Leave::Drop => return Ok(()),
            Leave::Polled(polls) => return polled(party.leave(), polls).await.unwrap_or(Ok(())),
        };
        let inside: Vec<u64> = world.tokens(&self.queue).into_iter().filter(|token| round.contains(token)).collect();
        world.check(!left || inside.is_empty(), || format!("token {token} has left {round:?} with {inside:?} inside"));
        Ok(())
    }

    async fn come_and_go(&self, client: usize) {
        loop {
            // It is tried again.
            if let Ok(Some(party)) = self.barriers[client].enter_for(Duration::from_millis(700)).await {
                drop(party);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl<const PARTIES: u32> Recipe for DoubleBarriers<PARTIES> {
    const QUEUES: &'static [&'static str] = &["p"];
    const PROMPT: &'static [&'static str] = &[];
    const OPS: &'static [Op] = &[
        Op::Open,
        Op::Renew,
        Op::Enqueue,
        Op::Adopt,
        Op::Ahead,
        Op::Watch,
        Op::Read,
        Op::Write,
        Op::Entries,
        Op::Dequeue,
        Op::Close,
    ];
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        let leave = prop_oneof![
            4 => Just(Leave::Together),
            1 => millis(0..2_000).prop_map(Leave::For),
            1 => Just(Leave::Drop),
            1 => (0..6u8).prop_map(Leave::Polled),
        ];
        (Wait::waiting(), hold(), leave).prop_map(|(enter, hold, leave)| Action { enter, hold, leave }).boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let barrier = |client: &Client| client.double_barrier("p", PARTIES).expect("a valid name and number");
        let (record, queue) = (Chronicle::new(world.clone(), "p"), Name::new("p").expect("a valid name"));
        Self { world, barriers: clients.iter().map(barrier).collect(), record, queue }
    }

    async fn act(&self, client: usize, action: Action) {
        let (world, barrier, began) = (&self.world, &self.barriers[client], Instant::now());
        let outcome = match action.enter {
            Wait::For(patience) => {
                let outcome = barrier.enter_for(patience).await;
                let (took, budget) = (began.elapsed(), crate::play::TTL / 3 + Duration::from_millis(5));
                world.check(took <= patience + budget, || format!("client {client}: {patience:?} took {took:?}"));
                outcome
            }
            ref other => {
                let never = async |_| std::future::pending().await;
                world.wait(client, other, barrier.enter(), std::future::pending(), never).await
            }
        };
        if let Some(party) = world.or_excuse(client, outcome) {
            let left = self.inside(client, party, &action).await;
            world.or_excuse(client, left.map(Some));
        }
    }

    async fn help(&self) {
        // As many as a round can need.
        let mut helpers: Vec<_> = (0..PARTIES).map(|_| Box::pin(self.come_and_go(0))).collect();
        std::future::poll_fn(|cx| {
            for helper in &mut helpers {
                let _ = helper.as_mut().poll(cx);
            }
            std::task::Poll::Pending
        })
        .await
    }

    async fn witness(&self) {
        if !self.world.all_clean() {
            return self.record.follow().await;
        }
        let mut since = Instant::now();
        loop {
            let record = self.record.look().await;
            let waiting =
                self.world.tokens(&self.queue).into_iter().filter(|token| round_of(&record, *token).is_none());
            let waiting: Vec<u64> = waiting.collect();
            if waiting.len() < PARTIES as usize {
                since = Instant::now();
            }
            let late = since.elapsed();
            self.world.check(late < Duration::from_secs(1), || format!("{waiting:?} have been waiting for {late:?}"));
            let _ = timeout(Duration::from_millis(100), self.world.record_changed(&self.queue)).await;
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let mut all: Vec<_> =
            (0..PARTIES).map(|_| tokio::spawn(enter_and_leave(self.barriers[client].clone()))).collect();
        while let Some(one) = all.pop() {
            one.await.expect("no panic")?;
        }
        Ok(())
    }
}

async fn enter_and_leave(barrier: DoubleBarrier) -> Result<()> {
    barrier.enter().await?.leave().await
}

#[test]
fn no_schedule_breaks_a_promise_to_two() {
    play_many::<DoubleBarriers<2>>(250);
}

#[test]
fn no_schedule_breaks_a_promise_to_three() {
    play_many::<DoubleBarriers<3>>(250);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<DoubleBarriers<2>>();
}
