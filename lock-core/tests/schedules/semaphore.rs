//! The semaphore: never more permits than the limit, nobody overtakes, no wake-up is lost, also while the limit changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lock_core::backend::Kind;
use lock_core::memory::{Fault, Op};
use lock_core::{Client, Error, Result, Semaphore};
use proptest::prelude::*;

use crate::plan::{Plan, Step, What};
use crate::play::{Recipe, play, play_many, repeats};
use crate::turn::{Turn, Wait};
use crate::world::World;

struct Semaphores {
    world: Arc<World>,
    clients: Vec<Client>,
    /// What each client believes to be the limit.
    limits: Vec<AtomicU32>,
}

#[derive(Clone, Debug)]
enum Action {
    Acquire(u32, Turn),
    SetLimit(u32),
}

const FIRST_LIMIT: u32 = 2;

impl Semaphores {
    fn semaphore(&self, client: usize) -> Semaphore {
        let limit = self.limits[client].load(Ordering::Relaxed);
        self.clients[client].semaphore("s", limit).expect("a valid name and limit")
    }

    /// Learns from a refusal, which is an excuse.
    fn learn(&self, client: usize, error: Error) -> Result<()> {
        match error {
            Error::LimitMismatch { stored, .. } => self.limits[client].store(stored, Ordering::Relaxed),
            // The limit was lowered while it waited.
            Error::InvalidConfig { .. } => {}
            error => return Err(error),
        }
        Ok(())
    }
}

impl Recipe for Semaphores {
    const QUEUES: &'static [&'static str] = &["s"];
    const OPS: &'static [Op] = &[
        Op::Open,
        Op::Renew,
        Op::Enqueue,
        Op::Adopt,
        Op::Ahead,
        Op::Watch,
        Op::Read,
        Op::Write,
        Op::Dequeue,
        Op::Close,
        Op::Entries,
    ];
    const LIMITED: bool = true;
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        prop_oneof![
            7 => (1..=3u32, Turn::strategy()).prop_map(|(permits, turn)| Action::Acquire(permits, turn)),
            1 => (1..=4u32).prop_map(Action::SetLimit),
        ]
        .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let limits = clients.iter().map(|_| AtomicU32::new(FIRST_LIMIT)).collect();
        world.limited("s", FIRST_LIMIT);
        Self { world, clients, limits }
    }

    async fn act(&self, client: usize, action: Action) {
        let (world, semaphore) = (&self.world, self.semaphore(client));
        let (permits, turn) = match action {
            Action::Acquire(permits, turn) => (permits.min(semaphore.limit()), turn),
            Action::SetLimit(limit) => {
                world.limited("s", limit);
                let outcome = semaphore.set_limit(limit).await;
                world.limited("s", limit);
                match outcome {
                    Ok(changed) => self.limits[client].store(changed.limit(), Ordering::Relaxed),
                    Err(error) => world.excuse(client, &error),
                }
                return;
            }
        };
        let lock = semaphore.acquire(permits);
        let try_for = async |patience| semaphore.try_acquire_for(permits, patience).await;
        let outcome = world.wait(client, &turn.wait, lock, semaphore.try_acquire(permits), try_for).await;
        let outcome = outcome.or_else(|error| self.learn(client, error).map(|()| None));
        let Some(guard) = world.or_excuse(client, outcome) else { return };
        world.granted(client, Kind::Permits(permits), &guard).await;
        world.hold(client, &turn, guard).await;
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        loop {
            let semaphore = self.semaphore(client);
            match semaphore.acquire(semaphore.limit()).await {
                Ok(permits) => return permits.check(),
                Err(error) => self.learn(client, error)?,
            }
        }
    }
}

/// The limit is raised after a waiter has read it and before it watches it.
#[test]
fn a_limit_that_rises_before_it_is_watched_is_seen() {
    let acquire = |permits, hold| vec![Step::at_once(Action::Acquire(permits, Turn::simple(hold)))];
    for after in 0..20 {
        let raise = vec![Step::after(after, Action::SetLimit(3))];
        let plan = Plan::unbroken([2, 1], vec![acquire(1, 0), raise, acquire(1, 0), acquire(2, 2_000)]);
        play::<Semaphores>(&plan).unwrap_or_else(|broken| panic!("raised after {after} ms: {broken}"));
    }
}

/// The limit is another one than the client believes, and its entry cannot be removed in time.
#[test]
fn a_deadline_holds_while_a_refused_entry_is_removed() {
    let lower = Step::at_once(Action::SetLimit(1));
    let turn = Turn { wait: Wait::For(Duration::from_millis(50)), ..Turn::simple(0) };
    let mistaken = vec![Step::after(20, Action::Acquire(2, turn))];
    let plan = Plan::unbroken([1, 1], vec![vec![lower], mistaken]);
    let slow = What::Fault(Op::Dequeue, Fault::Delay(Duration::from_millis(500)));
    // All is well after the last of them.
    let plan = plan.with([(0, 1, slow), (200, 1, What::Resume)]);
    assert_eq!(play::<Semaphores>(&plan).map(|grants| grants.len()), Ok(0));
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<Semaphores>(3_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<Semaphores>();
}
