//! The reentrant mutex: one owner at a time, who locks again at once; the last hold releases.

use std::sync::Arc;
use std::time::Duration;

use lock_core::backend::Kind;
use lock_core::memory::Op;
use lock_core::{Client, ReentrantGuard, ReentrantMutex, Release, Result};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use crate::mutex::OPS;
use crate::plan::{Plan, Step, pause};
use crate::play::{Recipe, play, play_many, repeats};
use crate::turn::{Turn, Wait};
use crate::world::World;

struct ReentrantMutexes {
    world: Arc<World>,
    mutexes: Vec<ReentrantMutex>,
}

#[derive(Clone, Debug)]
struct Action {
    owner: &'static str,
    turn: Turn,
    /// How the owner locks again, and after which pause.
    again: Vec<(Duration, Again)>,
}

#[derive(Clone, Debug)]
enum Again {
    Lock,
    Try,
    /// From the hold it has.
    Clone,
    /// The first hold ends.
    Unlock,
}

impl ReentrantMutexes {
    async fn again(&self, client: usize, owner: &str, how: &Again, holds: &mut Vec<ReentrantGuard>) {
        let (mutex, held) = (&self.mutexes[client], holds[0].check().is_ok());
        let began = Instant::now();
        let again = match how {
            Again::Lock if held => mutex.lock(owner).await.map(Some),
            Again::Try => mutex.try_lock(owner).await,
            Again::Clone => holds[0].again().map(Some),
            Again::Unlock if holds.len() > 1 => {
                let first = holds.remove(0);
                let released = first.release().await;
                self.world.check(released.is_none(), || format!("released under another hold: {released:?}"));
                return;
            }
            Again::Lock | Again::Unlock => return,
        };
        let same = |hold: &ReentrantGuard| hold.token() == holds[0].token();
        let taken = began.elapsed();
        match again {
            Ok(Some(hold)) if !held => self.world.granted(client, Kind::Exclusive, &hold).await,
            Ok(Some(hold)) => {
                self.world.check(same(&hold) && taken.is_zero(), || format!("{owner} got another lock in {taken:?}"));
                self.world.check(hold.count() > holds.len(), || format!("{} holds of {owner}", hold.count()));
                holds.push(hold);
            }
            Ok(None) => self.world.check(!held, || format!("{owner} is refused what it holds")),
            Err(error) => self.world.excuse(client, &error),
        }
    }
}

impl Recipe for ReentrantMutexes {
    const QUEUES: &'static [&'static str] = &["r"];
    const OPS: &'static [Op] = OPS;
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        let how = prop_oneof![Just(Again::Lock), Just(Again::Try), Just(Again::Clone), Just(Again::Unlock)];
        let again = proptest::collection::vec((pause(), how), 0..4);
        let owner = prop::sample::select(&["x", "y"][..]);
        (owner, Turn::strategy(), again).prop_map(|(owner, turn, again)| Action { owner, turn, again }).boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let mutexes = clients.iter().map(|client| client.reentrant_mutex("r").expect("a valid name")).collect();
        Self { world, mutexes }
    }

    async fn act(&self, client: usize, Action { owner, turn, again }: Action) {
        let (world, mutex) = (&self.world, &self.mutexes[client]);
        let try_for = async |patience| mutex.try_lock_for(owner, patience).await;
        let outcome = world.wait(client, &turn.wait, mutex.lock(owner), mutex.try_lock(owner), try_for).await;
        let Some(hold) = world.or_excuse(client, outcome) else { return };
        world.granted(client, Kind::Exclusive, &hold).await;
        let mut holds = vec![hold];
        for (after, how) in &again {
            sleep(*after).await;
            self.again(client, owner, how, &mut holds).await;
        }
        sleep(turn.hold).await;
        for hold in holds {
            let entry = hold.entry().clone();
            let released = match turn.wait {
                // Any way to end a hold will do, so the one to wait chooses.
                Wait::Try => return drop(hold),
                _ => hold.release().await,
            };
            if released == Some(Release::Released) {
                world.check(!world.is_there(&entry), || format!("{owner} has released {entry:?}, and it is there"));
            }
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let hold = self.mutexes[client].lock("x").await?;
        hold.check()?;
        hold.release().await;
        Ok(())
    }
}

/// The owner tries when its other task, which waited for its turn, has just been given it.
#[test]
fn an_owner_is_not_refused_what_it_holds_while_another_task_of_it_waits() {
    let lock = |owner, turn, again: &[_]| Action { owner, turn, again: again.to_vec() };
    let first = vec![Step::at_once(lock("x", Turn::simple(30), &[]))];
    let waits = vec![Step::after(5, lock("y", Turn::simple(0), &[]))];
    let tries = vec![Step::at_once(lock("y", Turn::simple(0), &[(Duration::ZERO, Again::Try)]))];
    let plan = Plan::unbroken([0], vec![first, waits, tries]);
    assert_eq!(play::<ReentrantMutexes>(&plan).map(|grants| grants.len()), Ok(3));
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<ReentrantMutexes>(1_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<ReentrantMutexes>();
}
