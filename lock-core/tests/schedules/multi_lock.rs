//! The multi-lock: every name excludes, and no two ever wait for each other.

use std::sync::Arc;

use lock_core::backend::Kind;
use lock_core::memory::Op;
use lock_core::{Client, Mutex, Result};
use proptest::prelude::*;
use proptest::sample::subsequence;

use crate::mutex::OPS;
use crate::play::{Recipe, play_many, repeats};
use crate::turn::{Hold, Turn};
use crate::world::World;

struct MultiLocks {
    world: Arc<World>,
    clients: Vec<Client>,
}

const NAMES: &[&str] = &["a", "b", "c"];

#[derive(Clone, Debug)]
enum Action {
    /// In the order in which they are given.
    Together(Vec<&'static str>, Turn),
    /// An ordinary mutex of one of the names.
    Alone(&'static str, Turn),
}

impl MultiLocks {
    fn alone(&self, client: usize, name: &str) -> Mutex {
        self.clients[client].mutex(name).expect("a valid name")
    }

    async fn held(&self, client: usize, turn: &Turn, guard: impl Hold) {
        for guard in guard.guards() {
            self.world.granted(client, Kind::Exclusive, guard).await;
        }
        self.world.hold(client, turn, guard).await;
    }
}

impl Recipe for MultiLocks {
    const QUEUES: &'static [&'static str] = NAMES;
    /// Whoever has got to the last name has got them all.
    const PROMPT: &'static [&'static str] = &["c"];
    const OPS: &'static [Op] = OPS;
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        let names = subsequence(NAMES, 1..=NAMES.len()).prop_shuffle();
        prop_oneof![
            1 => (prop::sample::select(NAMES), Turn::strategy()).prop_map(|(name, turn)| Action::Alone(name, turn)),
            3 => (names, Turn::strategy()).prop_map(|(names, turn)| Action::Together(names, turn)),
        ]
        .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        Self { world, clients }
    }

    async fn act(&self, client: usize, action: Action) {
        let world = &self.world;
        match action {
            Action::Alone(name, turn) => {
                let mutex = self.alone(client, name);
                let try_for = async |patience| mutex.try_lock_for(patience).await;
                let outcome = world.wait(client, &turn.wait, mutex.lock(), mutex.try_lock(), try_for).await;
                if let Some(guard) = world.or_excuse(client, outcome) {
                    self.held(client, &turn, guard).await;
                }
            }
            Action::Together(names, turn) => {
                let locks = self.clients[client].multi_lock(&names).expect("valid names");
                let try_for = async |patience| locks.try_lock_for(patience).await;
                let outcome = world.wait(client, &turn.wait, locks.lock(), locks.try_lock(), try_for).await;
                if let Some(guard) = world.or_excuse(client, outcome) {
                    world.check(guard.guards().len() == names.len(), || format!("{names:?}: {guard:?}"));
                    self.held(client, &turn, guard).await;
                }
            }
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        self.clients[client].multi_lock(NAMES)?.lock().await?.check()
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<MultiLocks>(1_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<MultiLocks>();
}
