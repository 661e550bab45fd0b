//! The read-write lock: one writer or many readers, nobody overtakes whom it excludes, and a writer that goes on with
//! reading lets no other writer in between.

use std::sync::Arc;
use std::time::Duration;

use lock_core::backend::Kind;
use lock_core::memory::Op;
use lock_core::{Client, Result, RwLock};
use proptest::prelude::*;
use tokio::time::sleep;

use crate::play::{Recipe, play_many, repeats};
use crate::turn::{Turn, hold, polled};
use crate::world::World;

struct RwLocks {
    world: Arc<World>,
    locks: Vec<RwLock>,
}

#[derive(Clone, Debug)]
enum Action {
    Read(Turn),
    Write(Turn),
    /// Writes for a while, then goes on with reading.
    WriteThenRead(Duration, Turn),
    /// The future of the downgrade is dropped after this many polls.
    WriteThenGiveUp(Turn, u8),
}

impl Recipe for RwLocks {
    const QUEUES: &'static [&'static str] = &["rw"];
    const OPS: &'static [Op] = &[
        Op::Open,
        Op::Renew,
        Op::Enqueue,
        Op::Adopt,
        Op::Ahead,
        Op::Watch,
        Op::Read,
        Op::Dequeue,
        Op::Close,
        Op::Downgrade,
        Op::Entries,
    ];
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        prop_oneof![
            4 => Turn::strategy().prop_map(Action::Read),
            3 => Turn::strategy().prop_map(Action::Write),
            2 => (hold(), Turn::strategy()).prop_map(|(writing, turn)| Action::WriteThenRead(writing, turn)),
            1 => (Turn::strategy(), 0..4u8).prop_map(|(turn, polls)| Action::WriteThenGiveUp(turn, polls)),
        ]
        .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let locks = clients.iter().map(|client| client.rw_lock("rw").expect("a valid name")).collect();
        Self { world, locks }
    }

    async fn act(&self, client: usize, action: Action) {
        let (world, lock) = (&self.world, &self.locks[client]);
        let (Action::Read(turn)
        | Action::Write(turn)
        | Action::WriteThenRead(_, turn)
        | Action::WriteThenGiveUp(turn, _)) = &action;
        if let Action::Read(turn) = &action {
            let try_for = async |patience| lock.try_read_for(patience).await;
            let outcome = world.wait(client, &turn.wait, lock.read(), lock.try_read(), try_for).await;
            if let Some(guard) = world.or_excuse(client, outcome) {
                world.granted(client, Kind::Read, &guard).await;
                world.hold(client, turn, guard).await;
            }
            return;
        }
        let try_for = async |patience| lock.try_write_for(patience).await;
        let outcome = world.wait(client, &turn.wait, lock.write(), lock.try_write(), try_for).await;
        let Some(guard) = world.or_excuse(client, outcome) else { return };
        world.granted(client, Kind::Write, &guard).await;
        match &action {
            Action::WriteThenRead(writing, _) => {
                sleep(*writing).await;
                world.turns(&guard, Kind::Read);
                match guard.downgrade().await {
                    Ok(reading) => {
                        world.turned(client, Kind::Read, &reading);
                        world.hold(client, turn, reading).await;
                    }
                    Err(error) => world.excuse(client, &error),
                }
            }
            Action::WriteThenGiveUp(_, polls) => {
                sleep(turn.hold).await;
                world.turns(&guard, Kind::Read);
                drop(polled(guard.downgrade(), *polls).await);
            }
            _ => world.hold(client, turn, guard).await,
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let guard = self.locks[client].write().await?.downgrade().await?;
        guard.check()?;
        self.locks[client].read().await?.check()
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<RwLocks>(2_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<RwLocks>();
}
