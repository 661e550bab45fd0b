//! The condition variable: nobody sleeps beside a condition that is met, whatever breaks, and whoever is woken holds the mutex.

use std::sync::{Arc, Mutex as Shared, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::memory::{Fault, Op};
use lock_core::{Client, Condvar, Error, Guard, Loss, Mutex, Release, Result};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use crate::plan::{Plan, Step, What, millis};
use crate::play::{Recipe, play, play_many, repeats};
use crate::turn::polled;
use crate::world::World;

struct Condvars {
    world: Arc<World>,
    pairs: Vec<(Mutex, Condvar)>,
    stock: Shared<Stock>,
}

/// What the mutex protects.
#[derive(Debug, Default)]
struct Stock {
    items: usize,
    /// Since when there are some.
    since: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Action {
    Consume(Sleep),
    Produce { items: usize, how: Notify },
    NotifyForNothing,
}

/// How one sleeps until there is something.
#[derive(Clone, Debug)]
enum Sleep {
    /// Until nobody can come any more.
    Long,
    For(Duration),
    /// The future is dropped after this time.
    Cancelled(Duration),
    /// The future is dropped after this many polls.
    Polled(u8),
}

#[derive(Clone, Copy, Debug)]
enum Notify {
    /// As often as there are items, under the mutex.
    Held,
    /// The same, after it.
    Released,
    All,
}

const LONG: Duration = Duration::from_secs(90);

/// A sleeper should have seen what is there for this long: a lost event is found within 20 s, by the sleeper and by the
/// waiters for the mutex before it.
const SEEN: Duration = Duration::from_secs(70);

impl Condvars {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> bool {
        let mut stock = self.stock();
        let some = stock.items > 0;
        stock.items -= usize::from(some);
        if stock.items == 0 {
            stock.since = None;
        }
        some
    }

    /// Notifies until it is certain that it did; who has been told of an error has to.
    async fn notify(&self, client: usize, all: bool) {
        let (_, condvar) = &self.pairs[client];
        loop {
            let outcome = if all { condvar.notify_all().await } else { condvar.notify_one().await.map(usize::from) };
            match outcome {
                Ok(_) => return,
                Err(error) => self.excuse(client, &error),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn lock(&self, client: usize) -> Guard {
        loop {
            match self.pairs[client].0.lock().await {
                Ok(guard) => return guard,
                Err(error) => self.excuse(client, &error),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn consume(&self, client: usize, how: Sleep) {
        let (mutex, condvar) = &self.pairs[client];
        let mut guard = self.lock(client).await;
        let deadline = Instant::now() + LONG;
        loop {
            if guard.check().is_ok() && self.take() {
                self.world.done(client, guard.token());
                guard.release().await;
                return;
            }
            let outcome = match &how {
                Sleep::Long => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    condvar.wait_for(guard, mutex, left).await
                }
                Sleep::For(patience) => condvar.wait_for(guard, mutex, *patience).await,
                Sleep::Cancelled(after) => match timeout(*after, condvar.wait(guard, mutex)).await {
                    Ok(woken) => woken.map(|guard| (guard, true)),
                    Err(_) => return,
                },
                // One whom nobody notifies is not woken.
                Sleep::Polled(polls) => match timeout(LONG, polled(condvar.wait(guard, mutex), *polls)).await {
                    Ok(Some(woken)) => woken.map(|guard| (guard, true)),
                    Ok(None) | Err(_) => return,
                },
            };
            guard = match outcome {
                Ok((guard, notified)) => {
                    if !notified {
                        let beside = self.stock().since.is_some_and(|since| since.elapsed() > SEEN);
                        self.world.check(!beside, || format!("client {client} has slept beside a full stock"));
                        self.world.check(guard.check().is_ok() || !self.world.is_clean(client), || {
                            format!("client {client} woke up without the mutex")
                        });
                        // One who gives up takes what is there all the same.
                        if guard.check().is_ok() && self.take() {
                            self.world.done(client, guard.token());
                        }
                        guard.release().await;
                        return;
                    }
                    guard
                }
                // The condition may be met.
                Err(error) => {
                    self.excuse(client, &error);
                    sleep(Duration::from_millis(20)).await;
                    self.lock(client).await
                }
            };
        }
    }

    async fn produce(&self, client: usize, items: usize, how: Notify) {
        let mut guard = self.lock(client).await;
        while guard.check().is_err() {
            guard = self.lock(client).await;
        }
        {
            let mut stock = self.stock();
            stock.items += items;
            stock.since.get_or_insert_with(Instant::now);
        }
        if let Notify::Held = how {
            self.notify_each(client, items).await;
        }
        let released = guard.release().await;
        match how {
            Notify::Held => {}
            Notify::All => self.notify(client, true).await,
            Notify::Released => self.notify_each(client, items).await,
        }
        if released == Release::NotHeld {
            // Somebody else may have looked before and gone to sleep after.
            self.lock(client).await.release().await;
            self.notify(client, true).await;
        }
    }

    async fn notify_each(&self, client: usize, items: usize) {
        for _ in 0..items {
            self.notify(client, false).await;
        }
    }

    /// An error needs a reason; the ends of sessions remove entries, too.
    fn excuse(&self, client: usize, error: &Error) {
        if !matches!(error, Error::EntryRemoved { .. } | Error::Lost { loss: Loss::EntryRemoved, .. }) {
            self.world.excuse(client, error);
        }
    }
}

impl Recipe for Condvars {
    const QUEUES: &'static [&'static str] = &["c"];
    const PROMPT: &'static [&'static str] = &[];
    const PATIENCE: Duration = Duration::from_secs(600);
    const OPS: &'static [Op] = &[
        Op::Open,
        Op::Renew,
        Op::Enqueue,
        Op::Adopt,
        Op::Ahead,
        Op::Watch,
        Op::Read,
        Op::Dequeue,
        Op::Dequeue,
        Op::Entries,
        Op::Close,
    ];
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        let sleeps = prop_oneof![
            5 => Just(Sleep::Long),
            3 => millis(0..600).prop_map(Sleep::For),
            2 => millis(0..600).prop_map(Sleep::Cancelled),
            1 => (0..14u8).prop_map(Sleep::Polled),
        ];
        let notify = prop::sample::select(vec![Notify::Held, Notify::Released, Notify::Released, Notify::All]);
        prop_oneof![
            6 => sleeps.prop_map(Action::Consume),
            5 => (1..3usize, notify).prop_map(|(items, how)| Action::Produce { items, how }),
            1 => Just(Action::NotifyForNothing),
        ]
        .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let pair = |client: &Client| (client.mutex("m").expect("valid"), client.condvar("c").expect("valid"));
        Self { world, pairs: clients.iter().map(pair).collect(), stock: Shared::default() }
    }

    async fn act(&self, client: usize, action: Action) {
        match action {
            Action::Consume(how) => self.consume(client, how).await,
            Action::Produce { items, how } => self.produce(client, items, how).await,
            Action::NotifyForNothing => self.notify(client, false).await,
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let (mutex, condvar) = &self.pairs[client];
        let guard = mutex.lock().await?;
        let notifier = async || -> Result<bool> {
            // It is asleep before the mutex is free.
            let guard = mutex.lock().await?;
            let woken = condvar.notify_one().await?;
            guard.release().await;
            Ok(woken)
        };
        let (woken, notified) = tokio::join!(condvar.wait(guard, mutex), notifier());
        self.world.check(matches!(notified, Ok(true)), || format!("in the end: {notified:?}"));
        woken.map(drop)
    }
}

/// A sleeper gives up while the removal of its entry by the notifier is on its way back.
#[test]
fn a_notification_in_the_moment_of_a_deadline_is_not_lost() {
    for late in 0..30 {
        let hasty = vec![Step::at_once(Action::Consume(Sleep::For(Duration::from_millis(100))))];
        let patient = vec![Step::after(20, Action::Consume(Sleep::Long))];
        let produce = vec![Step::after(85 + late, Action::Produce { items: 1, how: Notify::Released })];
        let plan = Plan::unbroken([1, 2, 1], vec![hasty, patient, produce]);
        let lost = |client| (60, client, What::Fault(Op::Dequeue, Fault::DropReply));
        for plan in [plan.clone(), plan.clone().with([lost(0)]), plan.with([lost(2), lost(0)])] {
            let taken = play::<Condvars>(&plan).unwrap_or_else(|broken| panic!("{late} ms: {broken}"));
            assert_eq!(taken.len(), 1, "{late} ms");
        }
    }
}

/// A sleeper is dropped while it is notified.
#[test]
fn a_notification_of_one_who_is_dropped_is_passed_on() {
    for late in 0..30 {
        let dropped = vec![Step::at_once(Action::Consume(Sleep::Cancelled(Duration::from_millis(100))))];
        let patient = vec![Step::after(20, Action::Consume(Sleep::Long))];
        let produce = vec![Step::after(85 + late, Action::Produce { items: 1, how: Notify::Held })];
        let plan = Plan::unbroken([1, 2, 1], vec![dropped, patient, produce]);
        let taken = play::<Condvars>(&plan).unwrap_or_else(|broken| panic!("{late} ms: {broken}"));
        assert_eq!(taken.len(), 1, "{late} ms");
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<Condvars>(1_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<Condvars>();
}
