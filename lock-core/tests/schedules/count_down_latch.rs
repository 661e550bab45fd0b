//! The count-down latch: each count-down counts once, nobody goes on before it was open, everybody does then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_core::memory::Op;
use lock_core::{Client, CountDownLatch, Result};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use crate::barrier::RECORD_OPS;
use crate::chronicle::{Chronicle, Written};
use crate::play::{Recipe, play_many, repeats};
use crate::turn::Wait;
use crate::world::World;

struct Latches {
    world: Arc<World>,
    latches: Vec<CountDownLatch>,
    record: Chronicle,
}

#[derive(Clone, Debug)]
enum Action {
    CountDown,
    Reset,
    Wait(Wait),
}

const COUNT: u32 = 3;

fn latches(clients: &[Client], count: u32) -> Vec<CountDownLatch> {
    clients.iter().map(|client| client.count_down_latch("l", count).expect("a valid name and count")).collect()
}

impl Recipe for Latches {
    const QUEUES: &'static [&'static str] = &[];
    const OPS: &'static [Op] = RECORD_OPS;
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        prop_oneof![4 => Just(Action::CountDown), 1 => Just(Action::Reset), 3 => Wait::waiting().prop_map(Action::Wait)]
            .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        Self { record: Chronicle::new(world.clone(), "l"), world, latches: latches(&clients, COUNT) }
    }

    async fn act(&self, client: usize, action: Action) {
        let (world, latch, began) = (&self.world, &self.latches[client], Instant::now());
        let outcome = match action {
            Action::CountDown => latch.count_down().await.map(|left| {
                world.check(left < COUNT, || format!("client {client} has counted down to {left}"));
                None
            }),
            Action::Reset => latch.reset().await.map(|()| None),
            Action::Wait(how) => {
                self.record.look().await;
                let wait_for = async |patience| latch.wait_for(patience).await.map(|done| done.then_some(()));
                let never = std::future::pending();
                let outcome = world.wait(client, &how, latch.wait(), never, wait_for).await;
                let done = matches!(outcome, Ok(Some(())));
                let opened = |written: &Written| written.record["opened"].as_u64().unwrap_or_default();
                let changed = |first: &Written, now: &Written| now.record["left"] == 0 || opened(now) != opened(first);
                self.record.judge(client, began, done, changed).await;
                outcome
            }
        };
        world.done(client, self.record.look().await.version);
        world.or_excuse(client, outcome);
    }

    async fn help(&self) {
        loop {
            sleep(Duration::from_millis(300)).await;
            // It is tried again.
            let _ = self.latches[0].count_down().await;
        }
    }

    async fn witness(&self) {
        self.record.follow().await;
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        // The last of those who helped come to their ends.
        sleep(Duration::from_secs(1)).await;
        let latch = &self.latches[client];
        latch.reset().await?;
        for left in (0..COUNT).rev() {
            let now = latch.count_down().await?;
            self.world.check(now == left, || format!("counted down to {now}, not {left}"));
        }
        latch.wait().await
    }
}

/// Count-downs of a latch that never opens.
struct Counts {
    world: Arc<World>,
    latches: Vec<CountDownLatch>,
    /// Those that were made, and those that may have been.
    made: AtomicU64,
    perhaps: AtomicU64,
}

const MANY: u32 = 1_000;

impl Recipe for Counts {
    const QUEUES: &'static [&'static str] = &[];
    const OPS: &'static [Op] = RECORD_OPS;
    type Action = Wait;

    fn actions() -> BoxedStrategy<Wait> {
        Wait::patient().boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let (made, perhaps) = Default::default();
        Self { world, latches: latches(&clients, MANY), made, perhaps }
    }

    async fn act(&self, client: usize, how: Wait) {
        let (world, latch) = (&self.world, &self.latches[client]);
        let never = async |_| std::future::pending().await;
        let outcome = world.wait(client, &how, latch.count_down(), std::future::pending(), never).await;
        world.done(client, outcome.as_ref().ok().copied().flatten().unwrap_or(MANY).into());
        let counted = match (&outcome, how) {
            (Ok(Some(_)), _) => &self.made,
            // It was not even begun.
            (_, Wait::Polled(0)) => return,
            // Once begun, it comes to its end.
            (Ok(None), _) if world.is_clean(client) => &self.made,
            _ => &self.perhaps,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        world.or_excuse(client, outcome);
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        // The last of those whose callers did not wait come to their ends.
        sleep(Duration::from_secs(1)).await;
        let counted = u64::from(MANY - self.latches[client].count().await?);
        let (made, perhaps) = (self.made.load(Ordering::Relaxed), self.perhaps.load(Ordering::Relaxed));
        let all = made..=made + perhaps;
        self.world.check(all.contains(&counted), || format!("counted {counted} times, not {all:?}"));
        Ok(())
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<Latches>(500);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<Latches>();
}

#[test]
fn no_schedule_counts_twice() {
    play_many::<Counts>(500);
}
