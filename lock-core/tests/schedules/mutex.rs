//! The mutex: one holder, tokens in their order, everybody gets through, nothing is left.

use std::sync::Arc;

use lock_core::backend::Kind;
use lock_core::memory::Op;
use lock_core::{Client, Mutex, Result};
use proptest::prelude::*;

use crate::play::{Recipe, play_many, repeats};
use crate::turn::Turn;
use crate::world::World;

struct Mutexes {
    world: Arc<World>,
    mutexes: Vec<Mutex>,
}

/// What every lock asks of the store.
pub(crate) const OPS: &[Op] =
    &[Op::Open, Op::Renew, Op::Enqueue, Op::Adopt, Op::Ahead, Op::Watch, Op::Read, Op::Dequeue, Op::Close];

impl Recipe for Mutexes {
    const QUEUES: &'static [&'static str] = &["m"];
    const OPS: &'static [Op] = OPS;
    type Action = Turn;

    fn actions() -> BoxedStrategy<Turn> {
        Turn::strategy().boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let mutexes = clients.iter().map(|client| client.mutex("m").expect("a valid name")).collect();
        Self { world, mutexes }
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

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<Mutexes>(2_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<Mutexes>();
}
