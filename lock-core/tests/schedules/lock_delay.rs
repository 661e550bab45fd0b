//! The lock delay: after a holder that vanished, nobody gets the lock for that long.

use std::sync::Arc;
use std::time::Duration;

use lock_core::backend::Kind;
use lock_core::memory::{Fault, Op};
use lock_core::{Client, Mutex, Result};
use proptest::prelude::*;

use crate::plan::{Plan, Step, What};
use crate::play::{Recipe, play, play_many, repeats};
use crate::turn::{Turn, Wait};
use crate::world::World;

struct DelayedMutexes {
    world: Arc<World>,
    mutexes: Vec<Mutex>,
}

const DELAY: Duration = Duration::from_millis(700);

impl Recipe for DelayedMutexes {
    const QUEUES: &'static [&'static str] = &["d"];
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
    ];
    const DELAY: Duration = DELAY;
    type Action = Turn;

    fn actions() -> BoxedStrategy<Turn> {
        Turn::strategy().boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let mutex = |client: &Client| client.mutex("d").expect("a valid name").with_lock_delay(DELAY);
        Self { world, mutexes: clients.iter().map(mutex).collect() }
    }

    async fn act(&self, client: usize, turn: Turn) {
        let mutex = &self.mutexes[client];
        let try_for = async |patience| mutex.try_lock_for(patience).await;
        let outcome = self.world.wait(client, &turn.wait, mutex.lock(), mutex.try_lock(), try_for).await;
        if let Some(guard) = self.world.or_excuse(client, outcome) {
            self.world.granted(client, Kind::Exclusive, &guard).await;
            self.world.hold(client, &turn, guard).await;
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let guard = self.mutexes[client].lock().await?;
        guard.check()?;
        guard.release().await;
        Ok(())
    }
}

/// Each holds for these milliseconds, after those.
fn turns<const N: usize>(turns: [(u64, u64); N]) -> Vec<Vec<Step<Turn>>> {
    turns.map(|(after, hold)| vec![Step::after(after, Turn::simple(hold))]).into()
}

/// The first holder vanishes, and so does the one who waits for the delay to pass: that one is not granted the lock.
#[test]
fn an_entry_removed_during_the_delay_is_not_granted() {
    let plan = Plan::unbroken([0, 1], turns([(0, 100), (5, 100)]));
    let plan = plan.with([(20, 0, What::Remove(0)), (20, 0, What::Remove(0))]);
    assert_eq!(play::<DelayedMutexes>(&plan).map(|grants| grants.len()), Ok(1));
}

/// One whose entry was removed while it was being granted does not know that. It does not pass for the last holder.
#[test]
fn one_removed_before_its_grant_does_not_hide_that_the_next_vanished() {
    let plan = Plan::unbroken([3, 1], turns([(0, 0), (2, 125), (2, 0), (2, 0)]));
    let plan = plan.with([(4, 0, What::Remove(0)), (26, 0, What::Remove(0))]);
    play::<DelayedMutexes>(&plan).unwrap();
}

/// One whose session was ended while it was being granted never held either, even if its guard comes after the loss.
#[test]
fn one_whose_session_ended_before_its_grant_is_no_holder_that_vanished() {
    let plan = Plan::unbroken([2, 3], turns([(4, 0), (0, 0), (0, 0)]));
    let plan = plan.with([(7, 0, What::Hold), (3, 0, What::Expire)]);
    play::<DelayedMutexes>(&plan).unwrap();
}

/// One gives up while its request to ask the next one to wait is on its way, and overtakes it.
#[test]
fn one_that_gave_up_in_time_is_no_holder_that_vanished() {
    for given_up_after in 0..12 {
        let wait = Wait::Cancelled(Duration::from_millis(given_up_after));
        let gives_up = Step::after(0, Turn { wait, ..Turn::simple(0) });
        let plan = Plan::unbroken([1, 1], [vec![gives_up], vec![Step::after(20, Turn::simple(0))]].into());
        let late = What::Fault(Op::Write, Fault::Delay(Duration::from_millis(10)));
        // Links are healed after the last of these.
        let plan = plan.with([(0, 0, late), (50, 0, What::Resume)]);
        let grants = play::<DelayedMutexes>(&plan).unwrap();
        assert!(grants.iter().all(|(at, ..)| *at < DELAY), "given up after {given_up_after} ms: {grants:?}");
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<DelayedMutexes>(1_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<DelayedMutexes>();
}
