//! The condition variable, in calm and while things break.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Contender, Cut, World, contenders, eventually, fresh_name, in_time, patience, poll_and_drop};
use crate::{Condvar, Error, Guard, Loss, Mutex, Name, Result};

const SECOND: Duration = Duration::from_secs(1);

/// A mutex and a condition variable of one client.
#[derive(Clone, Debug)]
struct Pair {
    mutex: Mutex,
    condvar: Condvar,
}

/// One pair in several clients.
fn everywhere(contenders: &[Contender]) -> Vec<Pair> {
    let (mutex, condvar) = (fresh_name(), fresh_name());
    let pair = |contender: &Contender| Pair {
        mutex: contender.client.mutex(&mutex).unwrap(),
        condvar: contender.client.condvar(&condvar).unwrap(),
    };
    contenders.iter().map(pair).collect()
}

async fn length(world: &dyn World, name: &str, n: usize) {
    let name = Name::new(name).unwrap();
    eventually(&format!("{name} has {n} entries"), patience(world), || async { world.entries(&name).await.len() == n })
        .await;
}

impl Pair {
    /// Waits until `n` sleep and the mutex has `m` entries.
    async fn settles(&self, world: &dyn World, n: usize, m: usize) {
        length(world, self.condvar.name(), n).await;
        length(world, self.mutex.name(), m).await;
    }

    async fn lock(&self, world: &dyn World) -> Guard {
        in_time(world, "the mutex is free", self.mutex.lock()).await.unwrap()
    }
}

/// A task that sleeps.
struct Sleeper(JoinHandle<Result<Guard>>);

impl Sleeper {
    fn start_blindly(pair: &Pair) -> Self {
        let pair = pair.clone();
        Self(tokio::spawn(async move {
            let guard = pair.mutex.lock().await?;
            pair.condvar.wait(guard, &pair.mutex).await
        }))
    }

    /// Starts and returns when it sleeps as the last of `n`, and the mutex is free.
    async fn asleep(world: &dyn World, pair: &Pair, n: usize) -> Self {
        let sleeper = Self::start_blindly(pair);
        pair.settles(world, n, 0).await;
        sleeper
    }

    async fn outcome(self, world: &dyn World) -> Result<Guard> {
        in_time(world, "the sleeper has its answer", self.0).await.unwrap()
    }

    async fn wakes(self, world: &dyn World) {
        let guard = self.outcome(world).await.expect("it is woken");
        guard.check().unwrap();
        guard.release().await;
    }

    fn sleeps(&self) -> bool {
        !self.0.is_finished()
    }
}

/// Waits until all have woken, in whatever order they come to the mutex: each has it until its guard is taken.
async fn all_wake(world: &dyn World, mut sleepers: Vec<Sleeper>) {
    while !sleepers.is_empty() {
        let some = || async { sleepers.iter().any(|sleeper| !sleeper.sleeps()) };
        eventually("one of them has woken", patience(world), some).await;
        let at = sleepers.iter().position(|sleeper| !sleeper.sleeps()).unwrap();
        sleepers.swap_remove(at).wakes(world).await;
    }
}

fn is_session_end(error: &Error) -> bool {
    matches!(error, Error::SessionLost { .. }) && error.is_session_lost()
}

pub async fn notifying_one_wakes_the_longest_sleeping(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let mut sleepers = Vec::new();
    for i in 0..4 {
        sleepers.push(Sleeper::asleep(world, &pair[i % 2], i + 1).await);
    }
    for i in 0..4 {
        assert!(pair[i % 2].condvar.notify_one().await.unwrap());
        sleepers.remove(0).wakes(world).await;
        assert!(sleepers.iter().all(Sleeper::sleeps), "nobody else");
        assert_eq!(pair[0].condvar.entries().await.unwrap().len(), 3 - i);
    }
    assert!(!pair[0].condvar.notify_one().await.unwrap(), "nobody sleeps");
}

pub async fn notifying_all_wakes_everybody_who_sleeps(world: &dyn World) {
    const SLEEPERS: usize = 9;
    let three = contenders(world, 3).await;
    let pair = everywhere(&three);
    let mut sleepers = Vec::new();
    for i in 0..SLEEPERS {
        sleepers.push(Sleeper::asleep(world, &pair[i % 3], i + 1).await);
    }
    assert_eq!(pair[1].condvar.notify_all().await.unwrap(), SLEEPERS);
    all_wake(world, sleepers).await;
    assert_eq!(pair[0].condvar.notify_all().await.unwrap(), 0);
    pair[0].settles(world, 0, 0).await;
}

pub async fn mutex_is_free_in_sleep_and_held_after_it(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let first = pair[0].lock(world).await;
    let token = first.token();
    let sleeping = tokio::spawn({
        let pair = pair[0].clone();
        async move { pair.condvar.wait(first, &pair.mutex).await }
    });
    pair[0].settles(world, 1, 0).await;
    let other = pair[1].lock(world).await;
    assert!(pair[1].condvar.notify_one().await.unwrap(), "it may be notified under the mutex");
    length(world, pair[0].mutex.name(), 2).await;
    assert!(!sleeping.is_finished(), "it waits for the mutex");
    other.check().unwrap();
    other.release().await;
    let again = in_time(world, "it holds the mutex", sleeping).await.unwrap().unwrap();
    again.check().unwrap();
    assert!(again.token() > token);
    assert!(pair[1].mutex.try_lock().await.unwrap().is_none());
}

pub async fn notification_is_not_kept_for_later_sleepers(world: &dyn World) {
    let one = contenders(world, 1).await;
    let pair = everywhere(&one);
    assert!(!pair[0].condvar.notify_one().await.unwrap());
    assert_eq!(pair[0].condvar.notify_all().await.unwrap(), 0);
    let sleeper = Sleeper::asleep(world, &pair[0], 1).await;
    tokio::time::sleep(world.ttl() / 10).await;
    assert!(sleeper.sleeps());
    assert!(pair[0].condvar.notify_one().await.unwrap());
    sleeper.wakes(world).await;
}

/// Whoever has the mutex after the sleeper finds it asleep.
pub async fn no_notification_is_lost_between_release_and_sleep(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    for _ in 0..20 {
        let guard = pair[0].lock(world).await;
        let notifier = tokio::spawn({
            let pair = pair[1].clone();
            async move {
                let guard = pair.mutex.lock().await.unwrap();
                let woken = pair.condvar.notify_one().await.unwrap();
                guard.release().await;
                woken
            }
        });
        length(world, pair[0].mutex.name(), 2).await;
        let woken = in_time(world, "woken", pair[0].condvar.wait(guard, &pair[0].mutex)).await.unwrap();
        assert!(notifier.await.unwrap(), "it was asleep before it released the mutex");
        woken.release().await;
    }
}

pub async fn producers_and_consumers_lose_nothing(world: &dyn World) {
    const ITEMS: usize = 30;
    const CONSUMERS: usize = 4;
    let three = contenders(world, 3).await;
    let pair = everywhere(&three);
    let (stock, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut consumers = Vec::new();
    for i in 0..CONSUMERS {
        let (pair, stock, taken) = (pair[i % 3].clone(), stock.clone(), taken.clone());
        consumers.push(tokio::spawn(async move {
            loop {
                let mut guard = pair.mutex.lock().await.unwrap();
                while stock.load(Ordering::SeqCst) == 0 {
                    if taken.load(Ordering::SeqCst) == ITEMS {
                        return;
                    }
                    guard = pair.condvar.wait(guard, &pair.mutex).await.unwrap();
                }
                guard.check().unwrap();
                stock.fetch_sub(1, Ordering::SeqCst);
                let last = taken.fetch_add(1, Ordering::SeqCst) + 1 == ITEMS;
                guard.release().await;
                if last {
                    pair.condvar.notify_all().await.unwrap();
                }
            }
        }));
    }
    for i in 0..ITEMS {
        let pair = &pair[i % 3];
        let guard = pair.lock(world).await;
        stock.fetch_add(1, Ordering::SeqCst);
        if i % 2 == 0 {
            pair.condvar.notify_one().await.unwrap();
            guard.release().await;
        } else {
            guard.release().await;
            pair.condvar.notify_one().await.unwrap();
        }
    }
    for consumer in consumers {
        in_time(world, "nobody sleeps beside a full stock", consumer).await.unwrap();
    }
    assert_eq!((stock.load(Ordering::SeqCst), taken.load(Ordering::SeqCst)), (0, ITEMS));
    pair[0].settles(world, 0, 0).await;
}

pub async fn deadline_of_a_sleep_passes_on_time_and_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let timeout = Duration::from_millis(300);
    let guard = pair[0].lock(world).await;
    let began = Instant::now();
    let (guard, notified) = pair[0].condvar.wait_for(guard, &pair[0].mutex, timeout).await.unwrap();
    let took = began.elapsed();
    assert!(!notified && took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    guard.check().unwrap();
    pair[0].settles(world, 0, 1).await;
    let sleeping = tokio::spawn({
        let (pair, long) = (pair[0].clone(), patience(world));
        async move { pair.condvar.wait_for(guard, &pair.mutex, long).await }
    });
    pair[0].settles(world, 1, 0).await;
    assert!(pair[1].condvar.notify_one().await.unwrap());
    let (guard, notified) = in_time(world, "woken", sleeping).await.unwrap().unwrap();
    assert!(notified);
    guard.release().await;
}

/// Either the one whose deadline passes has it, or the next.
pub async fn notification_in_the_moment_of_a_deadline_wakes_somebody(world: &dyn World) {
    let two = contenders(world, 2).await;
    let timeout = Duration::from_millis(60);
    let mut tried = 0;
    for step in 0..40 {
        let pair = everywhere(&two);
        let guard = pair[0].lock(world).await;
        let hasty = tokio::spawn({
            let pair = pair[0].clone();
            async move {
                let (guard, notified) = pair.condvar.wait_for(guard, &pair.mutex, timeout).await.unwrap();
                guard.release().await;
                notified
            }
        });
        let seen = async |n| tokio::time::timeout(timeout / 2, length(world, pair[0].condvar.name(), n)).await.is_ok();
        let hasty_sleeps = seen(1).await;
        let began = Instant::now();
        // Both may wake, in either order: neither keeps the mutex.
        let patient = tokio::spawn({
            let pair = pair[1].clone();
            async move {
                let guard = pair.mutex.lock().await.unwrap();
                pair.condvar.wait(guard, &pair.mutex).await.unwrap().release().await;
            }
        });
        // On a slow machine the time may be over before both are seen, and then it is not what this is about.
        if !hasty_sleeps || !seen(2).await {
            patient.abort();
            in_time(world, "an answer", hasty).await.unwrap();
            pair[0].settles(world, 0, 0).await;
            continue;
        }
        tried += 1;
        let moment = timeout - Duration::from_millis(6) + Duration::from_micros(step * 200);
        tokio::time::sleep(moment.saturating_sub(began.elapsed())).await;
        assert!(pair[1].condvar.notify_one().await.unwrap(), "somebody sleeps");
        if in_time(world, "an answer", hasty).await.unwrap() {
            length(world, pair[0].condvar.name(), 1).await;
            assert!(!patient.is_finished(), "one notification wakes one");
            assert!(pair[0].condvar.notify_one().await.unwrap());
        }
        in_time(world, "the other is woken", patient).await.unwrap();
    }
    assert!(tried > 0, "too slow: a notification was never in time");
}

pub async fn dropped_wait_releases_the_mutex_and_leaves_no_sleeper(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    for polls in 0..6 {
        let guard = pair[0].lock(world).await;
        poll_and_drop(pair[0].condvar.wait(guard, &pair[0].mutex), polls).await;
        let guard = pair[0].lock(world).await;
        poll_and_drop(pair[0].condvar.wait_for(guard, &pair[0].mutex, SECOND), polls).await;
        pair[0].settles(world, 0, 0).await;
    }
    for step in 0..40 {
        let guard = pair[0].lock(world).await;
        let _ =
            tokio::time::timeout(Duration::from_micros(100 * step), pair[0].condvar.wait(guard, &pair[0].mutex)).await;
        pair[1].lock(world).await.release().await;
        pair[0].settles(world, 0, 0).await;
    }
    // Notified, and dropped while it waits for the mutex.
    let sleeper = Sleeper::asleep(world, &pair[0], 1).await;
    let holder = pair[1].lock(world).await;
    assert!(pair[1].condvar.notify_one().await.unwrap());
    length(world, pair[0].mutex.name(), 2).await;
    sleeper.0.abort();
    length(world, pair[0].mutex.name(), 1).await;
    holder.check().unwrap();
}

pub async fn notification_of_a_dropped_wait_goes_to_the_next(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let first = Sleeper::asleep(world, &pair[0], 1).await;
    let second = Sleeper::asleep(world, &pair[1], 2).await;
    let holder = pair[1].lock(world).await;
    assert!(pair[1].condvar.notify_one().await.unwrap());
    length(world, pair[0].mutex.name(), 2).await;
    first.0.abort();
    holder.release().await;
    second.wakes(world).await;
    // Dropped at the same moment, before it knows.
    for step in 0..30 {
        let first = Sleeper::asleep(world, &pair[0], 1).await;
        let second = Sleeper::asleep(world, &pair[1], 2).await;
        let dropping = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(50 * step)).await;
            first.0.abort();
            first.0.await.is_ok()
        });
        assert!(pair[1].condvar.notify_one().await.unwrap());
        if dropping.await.unwrap() {
            assert!(pair[1].condvar.notify_one().await.unwrap());
        }
        second.wakes(world).await;
        pair[0].settles(world, 0, 0).await;
    }
}

pub async fn refuses_bad_input_and_releases_the_mutex(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let other = two[0].client.mutex(fresh_name()).unwrap();
    let guard = other.lock().await.unwrap();
    let error = pair[0].condvar.wait(guard, &pair[0].mutex).await.unwrap_err();
    assert!(
        matches!(error, Error::InvalidConfig { .. }) && error.to_string().contains(pair[0].mutex.name()),
        "{error}"
    );
    length(world, other.name(), 0).await;
    let guard = pair[1].lock(world).await;
    let error = pair[0].condvar.wait(guard, &pair[1].mutex).await.unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "the mutex is another client's: {error}");
    let guard = pair[1].lock(world).await;
    let error = pair[0].condvar.wait(guard, &pair[0].mutex).await.unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "the guard is another client's: {error}");
    pair[0].settles(world, 0, 0).await;
    let itself = two[0].client.condvar(pair[0].mutex.name()).unwrap();
    let guard = pair[0].lock(world).await;
    let error = in_time(world, "told", itself.wait(guard, &pair[0].mutex)).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { wanted: "condition variable", found: "mutex", .. }), "{error}");
    pair[0].settles(world, 0, 0).await;
    let holder = pair[0].lock(world).await;
    for error in [itself.notify_one().await.unwrap_err(), itself.notify_all().await.unwrap_err()] {
        assert!(matches!(error, Error::OtherRecipe { found: "mutex", .. }), "{error}");
    }
    holder.check().expect("no notification removes a lock's entry");
    let sleeper = {
        holder.release().await;
        Sleeper::asleep(world, &pair[0], 1).await
    };
    let error = in_time(world, "told", two[1].client.mutex(pair[0].condvar.name()).unwrap().lock()).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { found: "condition variable", .. }), "{error}");
    assert!(sleeper.sleeps());
    sleeper.0.abort();
}

pub async fn lost_guard_does_not_sleep(world: &dyn World) {
    let one = contenders(world, 1).await;
    let pair = everywhere(&one);
    let guard = pair[0].lock(world).await;
    let name = Name::new(pair[0].mutex.name()).unwrap();
    world.remove(&world.entries(&name).await.remove(0).entry).await;
    in_time(world, "the guard is lost", guard.lost()).await;
    let error = in_time(world, "told", pair[0].condvar.wait(guard, &pair[0].mutex)).await.unwrap_err();
    assert!(matches!(error, Error::Lost { loss: Loss::EntryRemoved, .. }), "{error}");
    pair[0].settles(world, 0, 0).await;
}

pub async fn closing_the_client_wakes_nobody_and_leaves_no_sleeper(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let first = Sleeper::asleep(world, &pair[0], 1).await;
    let second = Sleeper::asleep(world, &pair[1], 2).await;
    two[0].client.close().await;
    let error = first.outcome(world).await.unwrap_err();
    assert!(is_session_end(&error), "{error}");
    length(world, pair[0].condvar.name(), 1).await;
    assert!(pair[0].condvar.notify_one().await.unwrap(), "the other has it");
    second.wakes(world).await;
}

pub async fn ended_session_is_never_a_notification(world: &dyn World) {
    for timed in [false, true] {
        let two = contenders(world, 2).await;
        let pair = everywhere(&two);
        let guard = pair[0].lock(world).await;
        let sleeping = tokio::spawn({
            let (pair, long) = (pair[0].clone(), patience(world) * 2);
            async move {
                match timed {
                    false => pair.condvar.wait(guard, &pair.mutex).await,
                    true => pair.condvar.wait_for(guard, &pair.mutex, long).await.map(|(guard, _)| guard),
                }
            }
        });
        pair[0].settles(world, 1, 0).await;
        let second = Sleeper::asleep(world, &pair[1], 2).await;
        world.expire(&two[0].client.session_id().await.unwrap()).await;
        length(world, pair[0].condvar.name(), 1).await;
        let error = in_time(world, "an answer", sleeping).await.unwrap().unwrap_err();
        assert!(is_session_end(&error), "{error}");
        assert!(second.sleeps());
        assert!(pair[1].condvar.notify_one().await.unwrap());
        second.wakes(world).await;
        pair[0].lock(world).await.release().await;
    }
}

pub async fn silence_longer_than_the_ttl_is_never_a_notification(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let first = Sleeper::asleep(world, &pair[0], 1).await;
    two[0].link.hold().await;
    length(world, pair[0].condvar.name(), 0).await;
    assert!(!pair[1].condvar.notify_one().await.unwrap(), "nobody sleeps any more");
    let error = first.outcome(world).await.unwrap_err();
    assert!(is_session_end(&error), "{error}");
    two[0].link.resume().await;
    let again = Sleeper::asleep(world, &pair[0], 1).await;
    assert!(pair[1].condvar.notify_one().await.unwrap());
    again.wakes(world).await;
}

pub async fn notification_into_short_silence_arrives(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    let sleeper = Sleeper::asleep(world, &pair[0], 1).await;
    two[0].link.hold().await;
    assert!(pair[1].condvar.notify_one().await.unwrap());
    tokio::time::sleep(world.ttl() / 4).await;
    two[0].link.resume().await;
    sleeper.wakes(world).await;
}

pub async fn cut_neither_wakes_nor_forgets_a_sleeper(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let pair = everywhere(&two);
        let sleeper = Sleeper::asleep(world, &pair[0], 1).await;
        two[0].link.cut(how).await;
        tokio::time::sleep(world.ttl() / 2).await;
        assert!(sleeper.sleeps(), "{how:?}");
        length(world, pair[0].condvar.name(), 1).await;
        // The event is lost on its way.
        two[0].link.hold().await;
        assert!(pair[1].condvar.notify_one().await.unwrap());
        two[0].link.cut(how).await;
        two[0].link.resume().await;
        sleeper.wakes(world).await;
    }
}

pub async fn lost_replies_of_the_sleeper_change_nothing(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let pair = everywhere(&two);
        for name in [pair[0].condvar.name(), pair[0].mutex.name()] {
            let guard = pair[0].lock(world).await;
            two[0].link.lose_next_reply(name, how).await;
            let sleeping = tokio::spawn({
                let pair = pair[0].clone();
                async move { pair.condvar.wait(guard, &pair.mutex).await }
            });
            pair[0].settles(world, 1, 0).await;
            assert!(!sleeping.is_finished());
            assert!(in_time(world, "notified", pair[1].condvar.notify_one()).await.unwrap(), "{how:?}");
            Sleeper(sleeping).wakes(world).await;
            pair[0].settles(world, 0, 0).await;
        }
        let timeout = world.ttl() / 8;
        let guard = pair[0].lock(world).await;
        let sleeping = tokio::spawn({
            let pair = pair[0].clone();
            async move { pair.condvar.wait_for(guard, &pair.mutex, timeout).await }
        });
        pair[0].settles(world, 1, 0).await;
        two[0].link.lose_next_reply(pair[0].condvar.name(), how).await;
        let (guard, _) = in_time(world, "the deadline", sleeping).await.unwrap().unwrap();
        guard.release().await;
        pair[0].settles(world, 0, 0).await;
    }
}

pub async fn lost_replies_of_the_notifier_wake_rather_one_too_many(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let pair = everywhere(&two);
        let first = Sleeper::asleep(world, &pair[0], 1).await;
        let second = Sleeper::asleep(world, &pair[0], 2).await;
        two[1].link.lose_next_reply(pair[1].condvar.name(), how).await;
        in_time(world, "notified", pair[1].condvar.notify_one()).await.unwrap();
        let name = Name::new(pair[0].condvar.name()).unwrap();
        if world.entries(&name).await.is_empty() {
            all_wake(world, vec![first, second]).await;
        } else {
            first.wakes(world).await;
            assert!(second.sleeps());
            assert!(pair[1].condvar.notify_one().await.unwrap());
            second.wakes(world).await;
        }
        let mut sleepers = Vec::new();
        for i in 0..3 {
            sleepers.push(Sleeper::asleep(world, &pair[0], i + 1).await);
        }
        two[1].link.lose_next_reply(pair[1].condvar.name(), how).await;
        assert!(in_time(world, "notified", pair[1].condvar.notify_all()).await.unwrap() <= 3, "{how:?}");
        all_wake(world, sleepers).await;
        pair[0].settles(world, 0, 0).await;
    }
}

/// A sleeper that gives up at the moment of a notification whose answer is lost does not take it along.
pub async fn cuts_at_any_moment_of_a_notification_wake_somebody(world: &dyn World) {
    let two = contenders(world, 2).await;
    let pair = everywhere(&two);
    for step in 0..20 {
        let met = Arc::new(AtomicBool::new(false));
        let sleeping = tokio::spawn({
            let (pair, met) = (pair[0].clone(), met.clone());
            async move {
                let mut guard = pair.mutex.lock().await.unwrap();
                while !met.load(Ordering::SeqCst) {
                    guard = pair.condvar.wait(guard, &pair.mutex).await.unwrap();
                }
                guard.release().await;
            }
        });
        pair[0].settles(world, 1, 0).await;
        let guard = pair[1].lock(world).await;
        met.store(true, Ordering::SeqCst);
        guard.release().await;
        let notifying = tokio::spawn({
            let condvar = pair[1].condvar.clone();
            async move { condvar.notify_one().await }
        });
        tokio::time::sleep(Duration::from_micros(150 * step)).await;
        let link = if step % 3 == 0 { &two[0].link } else { &two[1].link };
        link.cut(if step % 2 == 0 { Cut::Fin } else { Cut::Rst }).await;
        in_time(world, "notified", notifying).await.unwrap().unwrap();
        in_time(world, "woken", sleeping).await.unwrap();
    }
}
