//! Plays schedules.

use std::cell::Cell;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lock_core::Client;
use lock_core::clock::TokioClock;
use lock_core::memory::{Memory, Op};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::plan::{Break, Plan, Step, plans};
use crate::spy::{Removals, Spied};
use crate::world::{Grant, World};

pub(crate) const TTL: Duration = Duration::from_secs(3);

/// Watches are renewed at least this often.
const RECHECK: Duration = Duration::from_secs(20);

/// A recipe under test, with a handle for each client.
pub(crate) trait Recipe: Send + Sync + Sized + 'static {
    /// The names that it uses.
    const QUEUES: &'static [&'static str];

    /// Those of them in which nobody waits for anything but the queue.
    const PROMPT: &'static [&'static str] = Self::QUEUES;

    /// The requests that it makes.
    const OPS: &'static [Op];

    /// When nothing is broken any more, every task gets through within this time.
    const PATIENCE: Duration = TTL.saturating_mul(20);

    /// The queues are semaphores.
    const LIMITED: bool = false;

    /// After a holder that vanished, the next grant comes this much later.
    const DELAY: Duration = Duration::ZERO;

    /// What a task does at one step.
    type Action: Clone + Debug + Send + Sync + 'static;

    fn actions() -> BoxedStrategy<Self::Action>;

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self;

    /// Does something for a client, and checks what comes of it.
    fn act(&self, client: usize, action: Self::Action) -> impl Future<Output = ()> + Send;

    /// Sees to it, when nothing is broken any more, that everybody who waits for others gets through.
    fn help(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Looks on all the time.
    fn witness(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Does what has to be possible for a client when nothing is broken any more.
    fn in_the_end(&self, client: usize) -> impl Future<Output = lock_core::Result<()>> + Send;
}

/// Plays as many random schedules, or the one that the environment asks for.
pub(crate) fn play_many<R: Recipe>(schedules: u64) {
    let seeds = match setting("SCHEDULE_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            // The same ones each time, so that a run that fails tells of what was changed.
            let first = setting("SCHEDULES_FROM").unwrap_or(1);
            first..first.saturating_add(setting("SCHEDULES").unwrap_or(schedules))
        }
    };
    let plans = plans(R::actions(), R::OPS);
    let (grants, n) = (Cell::new(0), seeds.end - seeds.start);
    for seed in seeds {
        let outcome = runner(seed).run(&plans, |plan| match play::<R>(&plan) {
            Ok(trace) => {
                grants.set(grants.get() + trace.len() as u64);
                Ok(())
            }
            Err(broken) => Err(TestCaseError::fail(broken)),
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(broken, plan)) => panic!("{broken}\nSCHEDULE_SEED={seed}, made smaller: {plan:#?}"),
            Err(error) => panic!("SCHEDULE_SEED={seed}: {error}"),
        }
    }
    let grants = grants.get();
    println!("{n} schedules, {grants} grants");
    assert!(n == 1 || grants > n, "the schedules do something: {grants} grants in {n} schedules");
}

/// Plays some schedules twice.
pub(crate) fn repeats<R: Recipe>() {
    let plans = plans(R::actions(), R::OPS);
    for seed in 0..100 {
        let plan = plans.new_tree(&mut runner(seed)).expect("drawn without conditions").current();
        assert_eq!(play::<R>(&plan), play::<R>(&plan), "seed {seed}: {plan:#?}");
    }
}

fn runner(seed: u64) -> TestRunner {
    TestRunner::new(Config {
        cases: 1,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 5_000,
        ..Config::default()
    })
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value:?}: not a number")))
}

/// Plays one schedule; the grants in it, or the first promise that was broken.
pub(crate) fn play<R: Recipe>(plan: &Plan<R::Action>) -> Result<Vec<Grant>, String> {
    // The library draws its jitter from the thread's generator.
    fastrand::seed(plan.jitter);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(schedule::<R>(plan))
}

async fn schedule<R: Recipe>(plan: &Plan<R::Action>) -> Result<Vec<Grant>, String> {
    let memory = Memory::new().with_ttl(TTL).expect("a valid ttl");
    let clock = TokioClock::new();
    let removals = Removals::default();
    let mut clients = Vec::new();
    for (nth, latency) in plan.latencies.iter().enumerate() {
        let store = memory.clone().with_own_link();
        store.link().set_latency(*latency);
        let spied = Spied { store: store.clone(), removals: removals.clone() };
        let builder = Client::builder(spied).clock(clock).runtime(Handle::current());
        let client = builder.label(nth.to_string()).connect().await.expect("memory connects");
        clients.push((client, store.link().clone()));
    }
    let world = Arc::new(World::new::<R>(plan, &memory, removals, &clients).await);
    let clients: Vec<_> = clients.into_iter().map(|(client, _)| client).collect();
    let witness = tokio::spawn({
        let world = world.clone();
        async move { world.witness().await }
    });
    tokio::select! {
        biased;
        () = world.failed() => {}
        () = acts::<R>(plan, &world, clients) => {}
    }
    if witness.is_finished() {
        world.fail("the witness panicked");
    }
    world.outcome()
}

async fn acts<R: Recipe>(plan: &Plan<R::Action>, world: &Arc<World>, clients: Vec<Client>) {
    let recipe = Arc::new(R::new(world.clone(), clients.clone()));
    let task = |(nth, steps): (usize, &Vec<Step<R::Action>>)| {
        let (recipe, steps, client) = (recipe.clone(), steps.clone(), nth % plan.latencies.len());
        tokio::spawn(async move {
            for step in steps {
                sleep(step.after).await;
                recipe.act(client, step.action).await;
            }
        })
    };
    let tasks: Vec<_> = plan.tasks.iter().enumerate().map(task).collect();
    let looking_on = {
        let recipe = recipe.clone();
        tokio::spawn(async move { recipe.witness().await })
    };
    for Break { after, client, what } in &plan.breaks {
        sleep(*after).await;
        world.break_it(*client, what, &clients[*client]).await;
    }
    world.links.iter().for_each(|link| link.heal());
    // Requests that are late still arrive, and watches that will not tell are renewed one after the other.
    let patience = R::PATIENCE + RECHECK * plan.lost_events();
    let all = async {
        for (nth, task) in tasks.into_iter().enumerate() {
            match timeout(patience, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => world.fail(format!("task {nth}: {error}")),
                Err(_) => world.fail(format!("task {nth} does not get through")),
            }
        }
    };
    tokio::select! {
        biased;
        () = all => {}
        () = recipe.help() => {}
    }
    world.closed().await;
    settles(world, "left behind", || world.left()).await;
    for client in 0..clients.len() {
        match timeout(TTL * 3, recipe.in_the_end(client)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => world.fail(format!("in the end, client {client}: {error:?}")),
            Err(_) => world.fail(format!("in the end, client {client} does not get through")),
        }
    }
    looking_on.abort();
    if looking_on.await.is_err_and(|error| error.is_panic()) {
        world.fail("the recipe's witness panicked");
    }
    drop((recipe, clients));
    settles(world, "sessions left behind", || Some(world.session_count()).filter(|n| *n > 0).map(|n| n.to_string()))
        .await;
}

/// Waits until nothing is left.
async fn settles(world: &World, what: &str, left: impl Fn() -> Option<String> + Send + Sync) {
    let wait = async {
        while left().is_some() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(TTL * 3, wait).await.is_err() {
        world.fail(format!("{what}: {}", left().unwrap_or_default()));
    }
}
