//! The read-write lock: who shares, who waits for whom, and a writer that goes on as a reader.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{
    Contender, Cut, NOT_WOKEN, Waiter, World, contenders, count, eventually, fresh_name, has_length, in_time, patience,
    poll_and_drop, sleeps,
};
use crate::backend::Kind;
use crate::{Error, Loss, Name, ReadGuard, Release, Result, RwLock, WriteGuard};

/// One lock in several clients, by the client's number.
struct Bench {
    clients: Vec<Contender>,
    locks: Vec<RwLock>,
    name: Name,
}

impl Bench {
    async fn new(world: &dyn World, clients: usize) -> Self {
        let name = fresh_name();
        let clients = contenders(world, clients).await;
        let locks = clients.iter().map(|one| one.client.rw_lock(&name).unwrap()).collect();
        Self { clients, locks, name: Name::new(name).unwrap() }
    }

    async fn read(&self, client: usize) -> ReadGuard {
        self.locks[client].read().await.unwrap()
    }

    async fn write(&self, client: usize) -> WriteGuard {
        self.locks[client].write().await.unwrap()
    }

    /// Starts waiting and returns when the reader sleeps as the `n`-th in the queue.
    async fn reader(&self, world: &dyn World, client: usize, n: usize) -> Waiter<ReadGuard> {
        let slept = self.clients[client].client.metrics().waits;
        let waiter = Waiter::nth(world, (&self.name, n), self.locks[client].read()).await;
        sleeps(world, &self.clients[client], slept + 1).await;
        waiter
    }

    /// The same for a writer.
    async fn writer(&self, world: &dyn World, client: usize, n: usize) -> Waiter<WriteGuard> {
        let slept = self.clients[client].client.metrics().waits;
        let waiter = Waiter::nth(world, (&self.name, n), self.locks[client].write()).await;
        sleeps(world, &self.clients[client], slept + 1).await;
        waiter
    }

    /// Waits until the waiters of a client have gone to sleep once more than `slept`.
    async fn sleeps_again(&self, world: &dyn World, client: usize, slept: u64) {
        sleeps(world, &self.clients[client], slept + 1).await;
    }

    fn slept(&self, client: usize) -> u64 {
        self.clients[client].client.metrics().waits
    }

    async fn kinds(&self, world: &dyn World) -> Vec<Kind> {
        world.entries(&self.name).await.iter().map(|entry| entry.kind).collect()
    }

    async fn has_length(&self, world: &dyn World, n: usize) {
        has_length(world, &self.name, n).await;
    }

    async fn expire(&self, world: &dyn World, client: usize) {
        world.expire(&self.clients[client].client.session_id().await.unwrap()).await;
    }
}

pub async fn readers_share(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let mut readers = Vec::new();
    for client in [0, 1, 0, 1] {
        readers.push(in_time(world, "readers share", bench.locks[client].read()).await.unwrap());
    }
    readers.push(bench.locks[0].try_read().await.unwrap().expect("readers share"));
    readers.push(bench.locks[1].try_read_for(patience(world)).await.unwrap().expect("readers share"));
    readers.iter().for_each(|reader| reader.check().unwrap());
    assert!(readers.windows(2).all(|pair| pair[0].token() < pair[1].token()));
    bench.has_length(world, 6).await;
    for reader in readers {
        assert_eq!(reader.release().await, Release::Released);
    }
    bench.has_length(world, 0).await;
}

/// Readers count up from 0; a writer makes it -1.
#[derive(Default)]
struct Witness {
    inside: AtomicI64,
    grants: AtomicU64,
}

impl Witness {
    fn read(&self) {
        assert!(self.inside.fetch_add(1, Ordering::SeqCst) >= 0, "a reader beside a writer");
        self.grants.fetch_add(1, Ordering::SeqCst);
    }

    fn write(&self) {
        assert_eq!(self.inside.fetch_sub(1, Ordering::SeqCst), 0, "a writer beside others");
        self.grants.fetch_add(1, Ordering::SeqCst);
    }

    fn downgrade(&self) {
        self.inside.fetch_add(2, Ordering::SeqCst);
    }

    fn leave_reading(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    fn leave_writing(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
    }
}

/// `None` for a deadline that passed before there was a place in the queue.
fn or_late<G>(outcome: Result<Option<G>>) -> Option<G> {
    match outcome {
        Err(Error::Timeout { .. }) => None,
        outcome => outcome.unwrap(),
    }
}

/// One of the tasks of a storm: locks in every way.
async fn read_and_write(lock: RwLock, witness: Arc<Witness>, rounds: usize) {
    for _ in 0..rounds {
        let pause = Duration::from_micros(fastrand::u64(0..2_000));
        let way = fastrand::u8(0..9);
        let reading = if way < 4 {
            let reading = match way {
                0 => lock.try_read().await.unwrap(),
                1 => or_late(lock.try_read_for(pause * 10).await),
                2 => tokio::time::timeout(pause, lock.read()).await.ok().map(Result::unwrap),
                _ => Some(lock.read().await.unwrap()),
            };
            let Some(reading) = reading else { continue };
            witness.read();
            reading
        } else {
            let writing = match way {
                4 => lock.try_write().await.unwrap(),
                5 => or_late(lock.try_write_for(pause * 10).await),
                6 => tokio::time::timeout(pause, lock.write()).await.ok().map(Result::unwrap),
                _ => Some(lock.write().await.unwrap()),
            };
            let Some(writing) = writing else { continue };
            witness.write();
            tokio::time::sleep(pause).await;
            writing.check().unwrap();
            if way != 8 {
                witness.leave_writing();
                writing.release().await;
                continue;
            }
            witness.downgrade();
            writing.downgrade().await.unwrap()
        };
        tokio::time::sleep(pause).await;
        reading.check().unwrap();
        witness.leave_reading();
        if fastrand::bool() {
            reading.release().await;
        }
    }
}

pub async fn one_writer_or_readers_under_contention(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let witness = Arc::new(Witness::default());
    let mut tasks = Vec::new();
    for lock in bench.locks.iter().flat_map(|lock| std::iter::repeat_n(lock, 4)) {
        tasks.push(tokio::spawn(read_and_write(lock.clone(), witness.clone(), 12)));
    }
    for task in tasks {
        in_time(world, "every task has its rounds", task).await.unwrap();
    }
    assert!(witness.grants.load(Ordering::SeqCst) > 30, "the contention does something");
    bench.has_length(world, 0).await;
}

pub async fn reader_waits_for_the_nearest_writer_before_it(world: &dyn World) {
    let bench = Bench::new(world, 4).await;
    let writing = bench.write(0).await;
    let first = bench.reader(world, 1, 2).await;
    let between = bench.writer(world, 2, 3).await;
    let last = bench.reader(world, 3, 4).await;
    assert!(first.is_waiting());
    writing.release().await;
    let first = first.guard_at_once("no writer is before it").await;
    assert!(between.is_waiting() && last.is_waiting(), "one waits for the first, the other for the one between");
    between.0.abort();
    let last = last.guard_at_once("no writer is before it any more").await;
    first.check().unwrap();
    last.check().unwrap();
}

pub async fn reader_never_overtakes_a_waiting_writer(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let reading = bench.read(0).await;
    let writer = bench.writer(world, 1, 2).await;
    let late = bench.reader(world, 2, 3).await;
    for lock in &bench.locks {
        assert!(lock.try_read().await.unwrap().is_none(), "a writer waits");
        assert!(lock.try_read_for(Duration::from_millis(50)).await.unwrap().is_none(), "a writer waits");
    }
    bench.has_length(world, 3).await;
    assert!(writer.is_waiting() && late.is_waiting());
    reading.release().await;
    let writing = writer.guard_at_once("the reader has gone").await;
    assert!(late.is_waiting());
    writing.release().await;
    late.guard_at_once("the writer has gone").await.check().unwrap();
}

pub async fn writer_waits_for_everybody_before_it(world: &dyn World) {
    let bench = Bench::new(world, 4).await;
    let mut readers = Vec::new();
    for client in 0..3 {
        readers.push(bench.read(client).await);
    }
    let writer = bench.writer(world, 3, 4).await;
    // Neither the one it watches first, nor the first in the queue.
    for (left, index) in [(3, 1), (2, 1), (1, 0)] {
        assert!(writer.is_waiting(), "{left} read");
        let slept = bench.slept(3);
        let nearest = index == readers.len() - 1;
        readers.remove(index).release().await;
        if nearest && !readers.is_empty() {
            bench.sleeps_again(world, 3, slept).await;
        }
    }
    let writing = writer.guard_at_once("everybody has gone").await;
    let (second, third) = (bench.writer(world, 0, 2).await, bench.writer(world, 1, 3).await);
    assert!(second.is_waiting() && third.is_waiting());
    writing.release().await;
    let second = second.guard_at_once("the first has gone").await;
    assert!(third.is_waiting());
    second.release().await;
    third.guard_at_once("the second has gone").await.check().unwrap();
}

pub async fn who_does_not_wait_leaves_nothing(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let timeout = Duration::from_millis(300);
    let reading = bench.locks[0].try_read().await.unwrap().expect("the lock is free");
    assert!(bench.locks[1].try_write().await.unwrap().is_none());
    assert_eq!(bench.kinds(world).await, [Kind::Read]);
    let began = Instant::now();
    assert!(bench.locks[1].try_write_for(timeout).await.unwrap().is_none());
    assert!(began.elapsed() >= timeout && began.elapsed() < timeout * 3, "took {:?}", began.elapsed());
    bench.has_length(world, 1).await;
    reading.release().await;
    let writing = bench.locks[0].try_write().await.unwrap().expect("the lock is free");
    for lock in &bench.locks {
        assert!(lock.try_read().await.unwrap().is_none());
        assert!(lock.try_write().await.unwrap().is_none());
        assert_eq!(bench.kinds(world).await, [Kind::Write], "when it answers, its entry is gone");
    }
    let began = Instant::now();
    assert!(bench.locks[1].try_read_for(timeout).await.unwrap().is_none());
    assert!(began.elapsed() >= timeout && began.elapsed() < timeout * 3, "took {:?}", began.elapsed());
    bench.has_length(world, 1).await;
    writing.release().await;
    let reading = bench.locks[1].try_read_for(patience(world)).await.unwrap().expect("free now");
    drop(reading);
    bench.locks[1].try_write_for(patience(world)).await.unwrap().expect("free now").release().await;
    bench.has_length(world, 0).await;
}

pub async fn reading_withdrawn_at_any_moment_leaves_nothing(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    for held in [true, false] {
        let holder = if held { Some(bench.write(0).await) } else { None };
        for polls in 0..4 {
            poll_and_drop(bench.locks[1].read(), polls).await;
            poll_and_drop(bench.locks[1].try_read(), polls).await;
        }
        for step in 0..20 {
            let _ = tokio::time::timeout(Duration::from_micros(300 * step), bench.locks[1].read()).await;
        }
        bench.has_length(world, usize::from(held)).await;
        if let Some(holder) = holder {
            holder.check().unwrap();
            holder.release().await;
        }
        bench.locks[1].try_write_for(patience(world)).await.unwrap().expect("nobody is blocked").release().await;
    }
}

pub async fn writers_release_wakes_the_readers_behind_it_and_nobody_else(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let writing = bench.write(0).await;
    let mut readers = Vec::new();
    for i in 0..5 {
        readers.push(bench.reader(world, 1, i + 2).await);
    }
    let writer = bench.writer(world, 2, 7).await;
    let behind = bench.reader(world, 0, 8).await;
    assert_eq!(count(&bench.clients, |m| m.wakeups + m.nudges), 0);
    writing.release().await;
    let mut held = Vec::new();
    for reader in readers {
        held.push(reader.guard_at_once("the writer has gone").await);
    }
    assert_eq!(count(&bench.clients, |m| m.wakeups), 5, "one for each reader");
    assert!(writer.is_waiting() && behind.is_waiting());
    // From the first to the last, so that the writer, which watches the last, is woken once.
    for reading in held {
        reading.release().await;
    }
    let writing = writer.guard_at_once("all readers have gone").await;
    assert_eq!(count(&bench.clients, |m| m.wakeups), 6, "one for the writer");
    writing.release().await;
    behind.guard_at_once("the writer has gone").await.check().unwrap();
    assert_eq!(count(&bench.clients, |m| m.nudges), 0);
}

pub async fn reader_in_the_middle_that_goes_lets_nobody_in(world: &dyn World) {
    let bench = Bench::new(world, 4).await;
    let writing = bench.write(0).await;
    let first = bench.reader(world, 0, 2).await;
    let middle = bench.reader(world, 1, 3).await;
    let writer = bench.writer(world, 2, 4).await;
    let last = bench.reader(world, 3, 5).await;
    let slept = bench.slept(2);
    middle.0.abort();
    bench.sleeps_again(world, 2, slept).await;
    bench.has_length(world, 4).await;
    assert!(first.is_waiting() && writer.is_waiting() && last.is_waiting(), "a writer holds");
    writing.check().unwrap();
    writing.release().await;
    let first = first.guard_at_once("the writer has gone").await;
    assert!(writer.is_waiting() && last.is_waiting());
    first.release().await;
    let writing = writer.guard_at_once("the reader has gone").await;
    assert!(last.is_waiting());
    writing.release().await;
    last.guard_at_once("the writer has gone").await.check().unwrap();
}

pub async fn upgrade_is_refused(world: &dyn World) {
    let bench = Bench::new(world, 1).await;
    let reading = bench.read(0).await;
    let error = reading.upgrade().unwrap_err();
    assert!(matches!(&error, Error::UpgradeRefused { lock } if lock == bench.name.as_str()), "{error}");
    assert!(!error.is_retryable());
    reading.check().expect("the lock is still held for reading");
    assert_eq!(bench.kinds(world).await, [Kind::Read]);
}

pub async fn downgrade_keeps_its_place_and_its_token(world: &dyn World) {
    let bench = Bench::new(world, 4).await;
    let writing = bench.write(0).await;
    let first = bench.reader(world, 1, 2).await;
    let writer = bench.writer(world, 2, 3).await;
    let last = bench.reader(world, 3, 4).await;
    let token = writing.token();
    let states = writing.watch();
    let reading = writing.downgrade().await.unwrap();
    assert_eq!(reading.token(), token);
    assert_eq!(states.state(), crate::State::Lost(Loss::Released), "the writing is over");
    let other = first.guard_at_once("only a reader is before it").await;
    assert!(writer.is_waiting(), "two read");
    assert!(last.is_waiting(), "a writer waits before it");
    assert_eq!(bench.kinds(world).await, [Kind::Read, Kind::Read, Kind::Write, Kind::Read]);
    assert_eq!(world.entries(&bench.name).await[0].token, Some(token), "the place is kept");
    reading.check().unwrap();
    other.release().await;
    assert!(writer.is_waiting(), "one reads");
    assert_eq!(reading.release().await, Release::Released);
    let writing = writer.guard_at_once("nobody reads any more").await;
    assert!(writing.token() > token && last.is_waiting());
    writing.release().await;
    last.guard_at_once("the writer has gone").await.check().unwrap();
}

pub async fn downgrade_lets_new_readers_in_and_no_writer(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let reading = bench.write(0).await.downgrade().await.unwrap();
    let other = bench.locks[1].try_read().await.unwrap().expect("readers share");
    assert!(bench.locks[1].try_write().await.unwrap().is_none());
    assert!(other.token() > reading.token());
    assert!(reading.upgrade().is_err());
    drop(other);
    drop(reading);
    bench.locks[1].try_write_for(patience(world)).await.unwrap().expect("nobody reads").release().await;
}

pub async fn downgrade_lets_no_writer_in_that_watches_the_one_that_turns(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let writing = bench.write(0).await;
    let next = bench.writer(world, 1, 2).await;
    let last = bench.writer(world, 2, 3).await;
    let slept = bench.slept(1);
    let reading = writing.downgrade().await.unwrap();
    bench.sleeps_again(world, 1, slept).await;
    assert!(next.is_waiting() && last.is_waiting(), "one reads");
    assert_eq!(bench.kinds(world).await, [Kind::Read, Kind::Write, Kind::Write]);
    reading.check().unwrap();
    reading.release().await;
    let next = next.guard_at_once("nobody reads").await;
    assert!(last.is_waiting());
    next.release().await;
    last.guard_at_once("the writer has gone").await.check().unwrap();
}

/// Two that watch the same writer, and it turns in the moment in which they look.
pub async fn downgrade_is_seen_by_who_comes_in_that_moment(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    for moment in 0..15 {
        let writing = bench.write(0).await;
        let reader = Waiter::of(bench.locks[1].read());
        let writer = Waiter::of({
            let (lock, queue) = (bench.locks[2].clone(), Duration::from_micros(100));
            async move {
                tokio::time::sleep(queue).await;
                lock.write().await
            }
        });
        tokio::time::sleep(Duration::from_micros(150 * moment)).await;
        let reading = writing.downgrade().await.unwrap();
        // One of the two comes first. Whatever the order is, both get through, and the writer alone.
        let (other, writing) =
            tokio::join!(async { reader.guard_at_once("the writer turned").await.release().await }, async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                reading.check().unwrap();
                assert!(writer.is_waiting(), "one reads");
                reading.release().await;
                writer.guard_at_once("nobody reads").await.release().await
            });
        assert_eq!((other, writing), (Release::Released, Release::Released));
        bench.has_length(world, 0).await;
    }
}

pub async fn dropped_downgrade_releases(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    for polls in 0..5 {
        let writing = bench.write(0).await;
        let writer = bench.writer(world, 1, 2).await;
        poll_and_drop(writing.downgrade(), polls).await;
        writer.guard_at_once("the lock was released").await.release().await;
        bench.has_length(world, 0).await;
    }
}

pub async fn lost_reply_of_a_downgrade_is_settled(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 3).await;
        let writing = bench.write(0).await;
        let reader = bench.reader(world, 1, 2).await;
        let writer = bench.writer(world, 2, 3).await;
        let token = writing.token();
        bench.clients[0].link.lose_next_reply(bench.name.as_str(), how).await;
        let reading = in_time(world, "the downgrade is settled", writing.downgrade()).await.unwrap();
        assert_eq!(reading.token(), token, "{how:?}");
        reader.guard_at_once("only a reader is before it").await.release().await;
        assert!(writer.is_waiting(), "{how:?}: one reads");
        reading.check().unwrap();
        assert_eq!(bench.kinds(world).await, [Kind::Read, Kind::Write], "{how:?}");
        assert_eq!(reading.release().await, Release::Released);
        writer.guard_at_once("nobody reads").await.release().await;
        bench.has_length(world, 0).await;
    }
}

pub async fn downgraded_reader_is_released_after_a_lost_reply(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 2).await;
        let reading = bench.write(0).await.downgrade().await.unwrap();
        let writer = bench.writer(world, 1, 2).await;
        bench.clients[0].link.lose_next_reply(bench.name.as_str(), how).await;
        assert_eq!(in_time(world, "the release is settled", reading.release()).await, Release::Released, "{how:?}");
        writer.guard_at_once("nobody reads").await.release().await;
        bench.has_length(world, 0).await;
    }
}

pub async fn removed_reader_that_was_a_writer_is_lost_within_a_second(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let reading = bench.write(0).await.downgrade().await.unwrap();
    let writer = bench.writer(world, 1, 2).await;
    let entry = world.entries(&bench.name).await.remove(0).entry;
    assert_eq!(entry, *reading.entry());
    world.remove(&entry).await;
    let loss = tokio::time::timeout(Duration::from_secs(1), reading.lost()).await.expect("noticed within a second");
    assert_eq!(loss, Loss::EntryRemoved);
    let writing = writer.guard_at_once("nobody reads").await;
    assert_eq!(reading.release().await, Release::NotHeld);
    writing.check().unwrap();
}

pub async fn lost_writer_cannot_go_on_as_a_reader(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let writing = bench.write(0).await;
    let entry = world.entries(&bench.name).await.remove(0).entry;
    world.remove(&entry).await;
    // Noticed or not.
    let error = in_time(world, "the answer", writing.downgrade()).await.unwrap_err();
    assert!(matches!(error, Error::Lost { loss: Loss::EntryRemoved, .. }), "{error}");
    bench.has_length(world, 0).await;
    let writing = bench.write(0).await;
    bench.expire(world, 0).await;
    let next = bench.locks[1].try_write_for(patience(world)).await.unwrap().expect("free");
    let error = in_time(world, "the answer", writing.downgrade()).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    next.check().unwrap();
    assert_eq!(bench.kinds(world).await, [Kind::Write], "the late downgrade touched nothing");
}

pub async fn downgrade_in_silence_ends_before_the_next_writer_is_in(world: &dyn World) {
    let bench = Bench::new(world, 2).await;
    let writing = bench.write(0).await;
    let writer = bench.writer(world, 1, 2).await;
    bench.clients[0].link.hold().await;
    let downgrading = tokio::spawn(async move {
        let outcome = writing.downgrade().await;
        (outcome.map(drop), Instant::now())
    });
    let next = writer.guard(world).await;
    let granted = Instant::now();
    let (outcome, ended) = in_time(world, "the downgrade ends", downgrading).await.unwrap();
    assert!(matches!(outcome, Err(Error::Lost { .. })), "{outcome:?}");
    assert!(ended <= granted + Duration::from_millis(50), "it ends with the session, not with the link's return");
    bench.clients[0].link.resume().await;
    tokio::time::sleep(world.ttl() / 2).await;
    next.check().unwrap();
    assert_eq!(bench.kinds(world).await, [Kind::Write], "the late downgrade touched nothing");
}

pub async fn dead_reader_makes_way_for_the_writer(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let (dying, alive) = (bench.read(0).await, bench.read(1).await);
    let writer = bench.writer(world, 2, 3).await;
    bench.expire(world, 0).await;
    let loss = tokio::time::timeout(NOT_WOKEN, dying.lost()).await.expect("noticed");
    assert!(matches!(loss, Loss::SessionEnded | Loss::EntryRemoved | Loss::Expired), "{loss}");
    bench.has_length(world, 2).await;
    assert!(writer.is_waiting(), "another one reads");
    alive.check().unwrap();
    alive.release().await;
    let writing = writer.guard_at_once("nobody reads").await;
    assert!(dying.check().is_err());
    writing.check().unwrap();
}

pub async fn dead_writer_makes_way_for_the_readers(world: &dyn World) {
    let bench = Bench::new(world, 3).await;
    let dying = bench.write(0).await;
    let (one, two) = (bench.reader(world, 1, 2).await, bench.reader(world, 2, 3).await);
    bench.expire(world, 0).await;
    let one = one.guard_at_once("the writer is gone").await;
    let two = two.guard_at_once("the writer is gone").await;
    let loss = tokio::time::timeout(NOT_WOKEN, dying.lost()).await.expect("noticed");
    assert!(matches!(loss, Loss::SessionEnded | Loss::EntryRemoved | Loss::Expired), "{loss}");
    one.check().unwrap();
    two.check().unwrap();
}

pub async fn waiting_writer_that_dies_or_is_removed_lets_the_readers_behind_share(world: &dyn World) {
    for dies in [true, false] {
        let bench = Bench::new(world, 3).await;
        let reading = bench.read(0).await;
        let writer = bench.writer(world, 1, 2).await;
        let behind = bench.reader(world, 2, 3).await;
        if dies {
            bench.expire(world, 1).await;
        } else {
            let entry = world.entries(&bench.name).await.remove(1).entry;
            world.remove(&entry).await;
        }
        let behind = behind.guard_at_once("no writer is before it").await;
        reading.check().unwrap();
        behind.check().unwrap();
        let error = writer.outcome(world).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        bench.has_length(world, 2).await;
    }
}

pub async fn cut_keeps_readers_and_places(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let bench = Bench::new(world, 4).await;
        let (first, second) = (bench.read(0).await, bench.read(1).await);
        let writer = bench.writer(world, 2, 3).await;
        let behind = bench.reader(world, 3, 4).await;
        let before = world.entries(&bench.name).await;
        for client in &bench.clients {
            client.link.cut(how).await;
        }
        let renewed = |of: usize, before: u64| {
            let client = &bench.clients[of].client;
            async move {
                let again = || async { client.metrics().renewals > before };
                eventually("the session is renewed again", patience(world), again).await;
            }
        };
        for of in 0..4 {
            renewed(of, bench.clients[of].client.metrics().renewals).await;
        }
        first.check().unwrap();
        second.check().unwrap();
        assert!(writer.is_waiting() && behind.is_waiting());
        assert_eq!(world.entries(&bench.name).await, before, "{how:?}: every place is kept");
        second.release().await;
        bench.clients[2].link.cut(how).await;
        assert!(writer.is_waiting());
        first.release().await;
        let writing = writer.guard_at_once("nobody reads").await;
        assert!(behind.is_waiting());
        bench.clients[3].link.cut(how).await;
        writing.release().await;
        behind.guard_at_once("the writer has gone").await.check().unwrap();
    }
}
