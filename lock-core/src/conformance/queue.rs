//! What people and tools see of a queue, and what an operator can do in it.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::time::Duration;

use super::{Contender, Cut, NOT_WOKEN, Waiter, World, contenders, fresh_name, has_length, in_time};
use crate::backend::Kind;
use crate::{Error, Guard, Loss, Mutex, Name, Place, Position, Queue, QueueWatch, Release, Role};

const SECOND: Duration = Duration::from_secs(1);

/// One name in several clients.
struct Bench {
    clients: Vec<Contender>,
    name: Name,
}

impl Bench {
    async fn new(world: &dyn World, clients: usize) -> Self {
        Self { clients: contenders(world, clients).await, name: Name::new(fresh_name()).unwrap() }
    }

    fn queue(&self, client: usize) -> Queue {
        self.clients[client].client.queue(&self.name).unwrap()
    }

    fn mutex(&self, client: usize) -> Mutex {
        self.clients[client].client.mutex(&self.name).unwrap()
    }

    async fn waiter(&self, world: &dyn World, client: usize, n: usize) -> Waiter<Guard> {
        Waiter::nth(world, (&self.name, n), self.mutex(client).lock()).await
    }

    async fn session(&self, client: usize) -> String {
        self.clients[client].client.session_id().await.unwrap()
    }
}

fn roles(places: &[Place]) -> Vec<Role> {
    places.iter().map(|place| place.role).collect()
}

pub async fn list_tells_who_holds_and_who_waits(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    assert_eq!(bench.queue(2).list().await.unwrap(), []);
    let holder = bench.mutex(0).labelled("the \"holder\" ü").lock().await.unwrap();
    let waiter = bench.waiter(world, 1, 2).await;
    let own = Waiter::nth(world, (&bench.name, 3), bench.mutex(0).labelled("again").lock()).await;
    let places = bench.queue(2).list().await.unwrap();
    assert_eq!(roles(&places), [Role::Holder, Role::Waiter, Role::Waiter]);
    assert!(places.iter().map(|place| place.position).eq(0..3));
    assert!(places.iter().all(|place| place.kind == Kind::Exclusive && !place.revoked));
    let sessions = [bench.session(0).await, bench.session(1).await, bench.session(0).await];
    assert!(places.iter().map(|place| &place.session).eq(&sessions));
    assert_eq!(places[0].token, Some(holder.token()));
    assert_eq!(places[0].entry, *holder.entry());
    assert!(places.windows(2).all(|pair| pair[0].token < pair[1].token));
    let owners: Vec<_> = places.iter().map(|place| place.owner.clone().expect("this library's clients")).collect();
    assert!(owners.iter().all(|owner| owner.pid == std::process::id()));
    let labels: Vec<_> = owners.iter().map(|owner| owner.label.as_deref()).collect();
    assert_eq!(labels, [Some("the \"holder\" ü"), None, Some("again")]);
    holder.release().await;
    let guard = waiter.guard_at_once("released").await;
    let places = bench.queue(0).list().await.unwrap();
    assert_eq!(roles(&places), [Role::Holder, Role::Waiter]);
    assert_eq!(places[0].token, Some(guard.token()));
    own.0.abort();
}

pub async fn time_left_is_of_holders_and_within_the_ttl(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    assert!(bench.queue(2).time_left(&[]).await.unwrap().is_empty());
    let _holder = bench.mutex(0).lock().await.unwrap();
    let _waiter = bench.waiter(world, 1, 2).await;
    let places = bench.queue(2).list().await.unwrap();
    let (session, ttl) = (bench.session(0).await, bench.clients[0].client.ttl().await.unwrap());
    let left = bench.queue(2).time_left(&places).await.unwrap();
    // Where the store tells.
    assert!(left.keys().all(|of| *of == session), "{left:?}");
    assert!(left.values().all(|left| !left.is_zero() && *left <= ttl + SECOND), "{left:?} of {ttl:?}");
    world.expire(&session).await;
    assert!(bench.queue(2).time_left(&places).await.unwrap().is_empty(), "it is over");
}

pub async fn time_left_runs_while_the_holder_is_silent(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let _holder = bench.mutex(0).lock().await.unwrap();
    let places = bench.queue(1).list().await.unwrap();
    let left = async || bench.queue(1).time_left(&places).await.unwrap().into_values().next();
    bench.clients[0].link.hold().await;
    let Some(mut last) = left().await else { return };
    let began = last;
    while let Some(now) = left().await {
        assert!(now <= last, "asking is no sign of life: {now:?} after {last:?}");
        last = now;
        tokio::time::sleep(SECOND / 5).await;
    }
    assert!(last + SECOND < began, "it went down: {last:?} of {began:?}");
}

pub async fn list_tells_every_holder_of_a_shared_lock(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let lock = bench.clients[0].client.rw_lock(&bench.name).unwrap();
    let (one, two) = (lock.read().await.unwrap(), lock.read().await.unwrap());
    let writer = Waiter::nth(world, (&bench.name, 3), lock.write()).await;
    let late = Waiter::nth(world, (&bench.name, 4), lock.read()).await;
    let places = bench.queue(1).list().await.unwrap();
    assert_eq!(roles(&places), [Role::Holder, Role::Holder, Role::Waiter, Role::Waiter]);
    let kinds: Vec<_> = places.iter().map(|place| place.kind).collect();
    assert_eq!(kinds, [Kind::Read, Kind::Read, Kind::Write, Kind::Read]);
    let tokens: Vec<_> = places.iter().map(|place| place.token).take(2).collect();
    assert_eq!(tokens, [Some(one.token()), Some(two.token())]);
    drop((one, two));
    let reading = writer.guard_at_once("nobody reads").await.downgrade().await.unwrap();
    let late = late.guard_at_once("nobody writes").await;
    let places = bench.queue(1).list().await.unwrap();
    assert_eq!(roles(&places), [Role::Holder, Role::Holder]);
    assert_eq!(places[0].token, Some(reading.token()), "a reader that was a writer keeps its token");
    assert!(places[0].owner.is_some());
    drop((reading, late));

    let bench = Bench::new(world, 2).await;
    let semaphore = bench.clients[0].client.semaphore(&bench.name, 5).unwrap();
    let held = (semaphore.acquire(2).await.unwrap(), semaphore.acquire(2).await.unwrap());
    let large = Waiter::nth(world, (&bench.name, 3), semaphore.acquire(2)).await;
    let small = Waiter::nth(world, (&bench.name, 4), semaphore.acquire(1)).await;
    let places = bench.queue(1).list().await.unwrap();
    assert_eq!(roles(&places), [Role::Holder, Role::Holder, Role::Waiter, Role::Waiter], "nobody overtakes");
    let kinds: Vec<_> = places.iter().map(|place| place.kind).collect();
    assert_eq!(kinds, [Kind::Permits(2), Kind::Permits(2), Kind::Permits(2), Kind::Permits(1)]);
    semaphore.set_limit(7).await.unwrap();
    let granted = (large.guard_at_once("the limit was raised").await, small.guard_at_once("raised").await);
    assert_eq!(roles(&bench.queue(1).list().await.unwrap()), [Role::Holder; 4]);
    drop((held, granted));
}

/// The queue, as soon as it is as `wanted`.
async fn seen(watch: &mut QueueWatch, what: &str, wanted: fn(&[Place]) -> bool) -> Vec<Place> {
    let see = async {
        loop {
            let places = watch.next().await.unwrap();
            if wanted(&places) {
                return places;
            }
        }
    };
    tokio::time::timeout(NOT_WOKEN, see).await.unwrap_or_else(|_| panic!("not told: {what}"))
}

pub async fn watch_sees_who_joins_and_leaves(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let mut watch = bench.queue(2).watch();
    assert_eq!(in_time(world, "the first is told at once", watch.next()).await.unwrap(), []);
    let holder = bench.mutex(0).lock().await.unwrap();
    let places = seen(&mut watch, "somebody joined", |places| places.len() == 1).await;
    assert_eq!((places[0].role, places[0].token), (Role::Holder, Some(holder.token())));
    let waiter = bench.waiter(world, 1, 2).await;
    seen(&mut watch, "somebody joined", |places| places.len() == 2).await;
    let quiet = tokio::time::timeout(Duration::from_millis(500), watch.next()).await;
    assert!(quiet.is_err(), "nothing happens, and nothing is told: {quiet:?}");
    holder.release().await;
    let guard = waiter.guard_at_once("released").await;
    let places = seen(&mut watch, "the holder left", |places| places.len() == 1).await;
    assert_eq!((places[0].role, places[0].token), (Role::Holder, Some(guard.token())));
    guard.release().await;
    seen(&mut watch, "the queue is empty", <[Place]>::is_empty).await;
    // The queue's place in the store may be gone by now.
    let holder = bench.mutex(0).lock().await.unwrap();
    seen(&mut watch, "somebody joined", |places| places.len() == 1).await;
    drop(holder);
}

pub async fn watch_goes_on_after_a_cut_and_a_session(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let mut watch = bench.queue(1).watch();
    assert_eq!(watch.next().await.unwrap(), []);
    for how in [Cut::Fin, Cut::Rst] {
        let (_, holder) = tokio::join!(bench.clients[1].link.cut(how), bench.mutex(0).lock());
        let holder = holder.unwrap();
        seen(&mut watch, "somebody joined", |places| places.len() == 1).await;
        bench.clients[1].link.cut(how).await;
        holder.release().await;
        seen(&mut watch, "the queue is empty", <[Place]>::is_empty).await;
    }
    let session = bench.session(1).await;
    let (_, holder) = tokio::join!(world.expire(&session), bench.mutex(0).lock());
    let holder = holder.unwrap();
    seen(&mut watch, "somebody joined", |places| places.len() == 1).await;
    holder.release().await;
    seen(&mut watch, "the queue is empty", <[Place]>::is_empty).await;
}

pub async fn watch_dropped_at_any_moment_misses_nothing(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let mut watch = bench.queue(1).watch();
    // Of a semaphore the limit is read, too.
    let semaphore = bench.clients[0].client.semaphore(&bench.name, 1).unwrap();
    let mut told = None;
    for round in 0..16 {
        // Before changes that come close together count as one, and while the queue is read.
        let moments = [Duration::ZERO, Duration::from_micros(500 * round), Duration::from_micros(20_000 + 500 * round)];
        let holder = semaphore.acquire(1).await.unwrap();
        for moment in moments {
            told = tokio::time::timeout(moment, watch.next()).await.ok().map(|places| places.unwrap().len()).or(told);
        }
        if told != Some(1) {
            seen(&mut watch, "somebody joined", |places| places.len() == 1).await;
        }
        holder.release().await;
        told = Some(1);
        for moment in moments {
            told = tokio::time::timeout(moment, watch.next()).await.ok().map(|places| places.unwrap().len()).or(told);
        }
        if told != Some(0) {
            seen(&mut watch, "the queue is empty", <[Place]>::is_empty).await;
        }
        told = Some(0);
    }
}

async fn revoked_in_time(guard: &Guard) {
    tokio::time::timeout(SECOND, guard.revoked()).await.expect("heard within a second");
    assert!(guard.is_revoked());
}

pub async fn revoke_reaches_the_holder_and_nobody_else(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let holder = bench.mutex(0).labelled("me").lock().await.unwrap();
    let waiter = bench.waiter(world, 1, 2).await;
    let queue = bench.queue(2);
    let waiting = queue.list().await.unwrap()[1].token.unwrap();
    for nobody in [0, holder.token() - 1, waiting, u64::MAX] {
        assert!(!queue.revoke(nobody).await.unwrap(), "{nobody} is no holder's token");
    }
    assert!(!holder.is_revoked());
    assert!(queue.list().await.unwrap().iter().all(|place| !place.revoked));
    assert!(queue.revoke(holder.token()).await.unwrap());
    revoked_in_time(&holder).await;
    holder.check().expect("whether it follows is its choice");
    assert!(waiter.is_waiting());
    assert!(queue.revoke(holder.token()).await.unwrap(), "asking again changes nothing");
    let places = queue.list().await.unwrap();
    assert_eq!(places.iter().map(|place| place.revoked).collect::<Vec<_>>(), [true, false]);
    assert_eq!(places[0].owner.as_ref().unwrap().label.as_deref(), Some("me"), "it is still seen who it is");
    assert_eq!(holder.release().await, Release::Released);
    let next = waiter.guard_at_once("released").await;
    let quiet = tokio::time::timeout(Duration::from_millis(500), next.revoked()).await;
    assert!(quiet.is_err() && !next.is_revoked(), "nobody asked this one");
    assert!(!queue.list().await.unwrap()[0].revoked);
}

pub async fn revoke_before_the_holder_listens_is_heard(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let holder = bench.mutex(0).lock().await.unwrap();
    assert!(bench.queue(1).revoke(holder.token()).await.unwrap());
    revoked_in_time(&holder).await;
    let lock = bench.clients[0].client.rw_lock(fresh_name()).unwrap();
    let writing = lock.write().await.unwrap();
    let queue = bench.clients[1].client.queue(lock.name()).unwrap();
    assert!(queue.revoke(writing.token()).await.unwrap());
    let reading = writing.downgrade().await.unwrap();
    revoked_in_time(&reading).await;
    assert!(queue.list().await.unwrap()[0].revoked);
}

pub async fn revoke_picks_one_of_several_holders(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let semaphore = bench.clients[0].client.semaphore(&bench.name, 4).unwrap();
    let mut held = Vec::new();
    for permits in [1, 2, 1] {
        held.push(semaphore.acquire(permits).await.unwrap());
    }
    let waiter = Waiter::nth(world, (&bench.name, 4), semaphore.acquire(2)).await;
    assert!(bench.queue(1).revoke(held[1].token()).await.unwrap());
    revoked_in_time(&held[1]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!held[0].is_revoked() && !held[2].is_revoked());
    held.remove(1).release().await;
    let granted = waiter.guard_at_once("two came back").await;
    assert!(!granted.is_revoked());
    assert!(bench.queue(1).revoke(granted.token()).await.unwrap());
    revoked_in_time(&granted).await;
    assert!(bench.queue(1).list().await.unwrap()[2].revoked);
}

pub async fn revoke_survives_a_lost_reply_and_a_cut(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 2).await;
        let holder = bench.mutex(0).lock().await.unwrap();
        bench.clients[1].link.lose_next_reply(bench.name.as_str(), how).await;
        bench.clients[0].link.cut(how).await;
        assert!(in_time(world, "it is asked", bench.queue(1).revoke(holder.token())).await.unwrap(), "{how:?}");
        tokio::time::timeout(NOT_WOKEN, holder.revoked()).await.expect("heard");
        holder.check().unwrap();
    }
}

pub async fn break_lock_removes_that_holder_and_never_the_next(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let holder = bench.mutex(0).lock().await.unwrap();
    let waiter = bench.waiter(world, 1, 2).await;
    let queue = bench.queue(2);
    let waiting = queue.list().await.unwrap()[1].token.unwrap();
    for nobody in [0, holder.token() - 1, waiting, u64::MAX] {
        assert!(!queue.break_lock(nobody).await.unwrap(), "{nobody} is no holder's token");
    }
    holder.check().unwrap();
    assert!(waiter.is_waiting());
    assert!(queue.break_lock(holder.token()).await.unwrap());
    let loss = tokio::time::timeout(SECOND, holder.lost()).await.expect("noticed within a second");
    assert_eq!(loss, Loss::EntryRemoved);
    let next = waiter.guard_at_once("the holder's entry is gone").await;
    assert_eq!(next.token(), waiting);
    assert!(!queue.break_lock(holder.token()).await.unwrap(), "that holder is gone");
    assert_eq!(holder.release().await, Release::NotHeld);
    next.check().unwrap();
    has_length(world, &bench.name, 1).await;
}

pub async fn break_lock_picks_one_of_several_holders(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let lock = bench.clients[0].client.rw_lock(&bench.name).unwrap();
    let former = lock.write().await.unwrap().downgrade().await.unwrap();
    let (one, two) = (lock.read().await.unwrap(), lock.read().await.unwrap());
    let queue = bench.queue(1);
    for (guard, left) in [(&*one, 2), (&*former, 1)] {
        assert!(queue.break_lock(guard.token()).await.unwrap());
        let loss = tokio::time::timeout(SECOND, guard.lost()).await.expect("noticed within a second");
        assert_eq!(loss, Loss::EntryRemoved);
        has_length(world, &bench.name, left).await;
        two.check().unwrap();
    }
}

pub async fn break_lock_with_a_lost_reply_spares_the_next(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 3).await;
        let holder = bench.mutex(0).lock().await.unwrap();
        let waiter = bench.waiter(world, 1, 2).await;
        bench.clients[2].link.lose_next_reply(bench.name.as_str(), how).await;
        assert!(in_time(world, "it is broken", bench.queue(2).break_lock(holder.token())).await.unwrap(), "{how:?}");
        let next = waiter.guard_at_once("the holder's entry is gone").await;
        tokio::time::timeout(SECOND, holder.lost()).await.expect("noticed within a second");
        next.check().unwrap();
        has_length(world, &bench.name, 1).await;
    }
}

async fn queues(contender: &Contender, prefix: &str) -> Vec<String> {
    let names = contender.client.queues(prefix).await.unwrap();
    names.iter().map(ToString::to_string).collect()
}

pub async fn queues_are_those_where_somebody_stands(world: &dyn World) {
    let clients = contenders(world, 2).await;
    let (one, other) = (&clients[0].client, &clients[1]);
    let base = fresh_name();
    let name = |recipe: &str| format!("{base}/{recipe}");
    assert!(queues(other, &base).await.is_empty());
    let mutex = one.mutex(name("mutex")).unwrap().with_lock_delay(Duration::from_millis(1)).lock().await.unwrap();
    let permits = one.semaphore(name("semaphore"), 3).unwrap();
    let (few, many) = (permits.acquire(1).await.unwrap(), permits.acquire(2).await.unwrap());
    let reading = one.rw_lock(name("rw-lock")).unwrap().write().await.unwrap().downgrade().await.unwrap();
    let leading = one.election(name("election")).unwrap().campaign("v").await.unwrap();
    one.barrier(name("barrier")).unwrap().raise().await.unwrap();
    let all = ["election", "mutex", "rw-lock", "semaphore"].map(name);
    assert_eq!(queues(other, &base).await, all, "each once, in order, and none that is only a record");
    let queue = Name::new(name("mutex")).unwrap();
    let waiter = Waiter::nth(world, (&queue, 2), other.client.mutex(&queue).unwrap().lock()).await;
    mutex.release().await;
    let mutex = waiter.guard_at_once("released").await;
    assert_eq!(queues(other, &base).await, all);
    mutex.release().await;
    reading.release().await;
    few.release().await;
    assert_eq!(queues(other, &base).await, ["election", "semaphore"].map(name), "whatever is left in the store");
    many.release().await;
    drop(leading);
    has_length(world, &Name::new(name("election")).unwrap(), 0).await;
    assert!(queues(other, &base).await.is_empty());
    one.barrier(name("barrier")).unwrap().lower().await.unwrap();
}

pub async fn queues_are_told_by_the_names_that_were_given(world: &dyn World) {
    let clients = contenders(world, 2).await;
    let (one, other) = (&clients[0].client, &clients[1]);
    let base = fresh_name();
    let ends = ["", "/", "/b", "/b/c", "/%", "/%2F", "-b", "0", ".", "é", "🔒", "\u{85}", " x\ty"];
    let mut names = ends.map(|end| format!("{base}{end}"));
    names.sort();
    let mut held = Vec::new();
    for name in &names {
        held.push(one.mutex(name).unwrap().lock().await.unwrap());
    }
    assert_eq!(queues(other, &base).await, names);
    for end in ["/", "/b", "/%", "🔒", "%"] {
        let prefix = format!("{base}{end}");
        let wanted: Vec<_> = names.iter().filter(|name| name.starts_with(&prefix)).cloned().collect();
        assert_eq!(queues(other, &prefix).await, wanted, "{prefix}");
    }
    let everything = queues(other, "").await;
    assert!(names.iter().all(|name| everything.contains(name)));
    assert!(everything.is_sorted());
    // Escaped unlike all other names that start like them.
    for name in [".", ".."] {
        let guard = one.mutex(name).unwrap().lock().await.unwrap();
        for prefix in ["", ".", name] {
            let told = queues(other, prefix).await;
            assert!(told.iter().any(|found| found == name), "{name} starts with {prefix}");
            assert!(told.iter().all(|found| found.starts_with(prefix)), "{told:?}");
        }
        guard.release().await;
    }
}

pub async fn queues_are_told_in_spite_of_lost_replies(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 2).await;
        let holder = bench.mutex(0).lock().await.unwrap();
        bench.clients[1].link.lose_next_reply(bench.name.as_str(), how).await;
        let told = in_time(world, "the names", queues(&bench.clients[1], bench.name.as_str())).await;
        assert_eq!(told, [bench.name.as_str()], "{how:?}");
        bench.clients[1].link.cut(how).await;
        assert_eq!(in_time(world, "the names", queues(&bench.clients[1], bench.name.as_str())).await, told);
        drop(holder);
    }
}

pub async fn position_counts_who_is_ahead(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let holder = bench.mutex(0).lock().await.unwrap();
    let middle = bench.waiter(world, 0, 2).await;
    let mut last = bench.mutex(1).lock();
    let place = async |acquire: &mut crate::Acquire<Guard>| {
        in_time(world, "the place", acquire.position()).await.unwrap().expect("it is in the queue")
    };
    assert_eq!(place(&mut last).await, Position { ahead: 2, length: 3 }, "asking enters the queue");
    let behind = bench.waiter(world, 0, 4).await;
    assert_eq!(place(&mut last).await, Position { ahead: 2, length: 4 });
    middle.0.abort();
    has_length(world, &bench.name, 3).await;
    assert_eq!(place(&mut last).await, Position { ahead: 1, length: 3 });
    holder.release().await;
    has_length(world, &bench.name, 2).await;
    assert_eq!(place(&mut last).await, Position { ahead: 0, length: 2 });
    let guard = in_time(world, "it is the first", &mut last).await.unwrap();
    guard.release().await;
    behind.guard_at_once("released").await.release().await;
    let mut withdrawn = bench.mutex(1).lock();
    assert_eq!(place(&mut withdrawn).await, Position { ahead: 0, length: 1 });
    drop(withdrawn);
    has_length(world, &bench.name, 0).await;
}

pub async fn position_of_a_refused_attempt_is_none(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let holder = bench.clients[0].client.semaphore(&bench.name, 2).unwrap().acquire(1).await.unwrap();
    let mut refused = bench.mutex(1).lock();
    // Known while the entry is still there, or not any more.
    let position = in_time(world, "an answer", refused.position()).await.unwrap();
    assert!(position.is_none_or(|position| position.ahead == 1), "{position:?}");
    let error = in_time(world, "a refusal", &mut refused).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { .. }), "{error}");
    assert!(bench.mutex(1).labelled("x".repeat(2 << 20)).lock().position().await.is_err());
    drop(holder);
}
