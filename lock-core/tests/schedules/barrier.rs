//! The barrier: nobody goes on while it stays raised, everybody does when it was lowered.

use std::sync::Arc;
use std::time::Duration;

use lock_core::memory::Op;
use lock_core::{Barrier, Client, Result};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use crate::chronicle::{Chronicle, Written};
use crate::play::{Recipe, play_many, repeats};
use crate::turn::Wait;
use crate::world::World;

struct Barriers {
    world: Arc<World>,
    barriers: Vec<Barrier>,
    record: Chronicle,
}

#[derive(Clone, Debug)]
enum Action {
    Raise,
    Lower,
    Wait(Wait),
}

pub(crate) const RECORD_OPS: &[Op] = &[Op::Open, Op::Renew, Op::Watch, Op::Read, Op::Write, Op::Close];

fn is_raised(written: &Written) -> bool {
    written.record["raised"] == true
}

impl Recipe for Barriers {
    const QUEUES: &'static [&'static str] = &[];
    const OPS: &'static [Op] = RECORD_OPS;
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        prop_oneof![2 => Just(Action::Raise), 1 => Just(Action::Lower), 3 => Wait::waiting().prop_map(Action::Wait)]
            .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let barriers = clients.iter().map(|client| client.barrier("b").expect("a valid name")).collect();
        Self { record: Chronicle::new(world.clone(), "b"), world, barriers }
    }

    async fn act(&self, client: usize, action: Action) {
        let (world, barrier, began) = (&self.world, &self.barriers[client], Instant::now());
        self.record.look().await;
        let first = self.record.since(began).remove(0).version;
        let was =
            |raised| self.record.since(began).iter().any(|now| is_raised(now) == raised || now.version > first + 1);
        let outcome = match action {
            Action::Raise => {
                let raised = barrier.raise().await;
                self.record.look().await;
                world.check(raised.is_err() || was(true), || format!("client {client} has not raised it"));
                raised.map(|()| None::<()>)
            }
            Action::Lower => {
                let lowered = barrier.lower().await;
                self.record.look().await;
                world.check(lowered.is_err() || was(false), || format!("client {client} has not lowered it"));
                lowered.map(|()| None)
            }
            Action::Wait(how) => {
                let wait_for = async |patience| barrier.wait_for(patience).await.map(|done| done.then_some(()));
                let never = std::future::pending();
                let outcome = world.wait(client, &how, barrier.wait(), never, wait_for).await;
                let done = matches!(outcome, Ok(Some(())));
                let changed = |first: &Written, now: &Written| !is_raised(now) || now.version != first.version;
                self.record.judge(client, began, done, changed).await;
                outcome
            }
        };
        world.done(client, self.record.look().await.version);
        world.or_excuse(client, outcome);
    }

    async fn help(&self) {
        loop {
            sleep(Duration::from_millis(500)).await;
            // It is tried again.
            let _ = self.barriers[0].lower().await;
        }
    }

    async fn witness(&self) {
        self.record.follow().await;
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let barrier = &self.barriers[client];
        // The help's last request may be applied after it was dropped.
        while {
            barrier.raise().await?;
            !barrier.is_raised().await?
        } {}
        barrier.lower().await?;
        barrier.wait().await
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<Barriers>(500);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<Barriers>();
}
