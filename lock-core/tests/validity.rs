//! What a guard's validity rests on, with the memory backend's faults and clocks of the tests' own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_core::clock::{Clock, Instant, TokioClock};
use lock_core::memory::{Fault, Memory, Op};
use lock_core::{Client, Error, Loss, Name, State};

const TTL: Duration = Duration::from_secs(6);
const BEAT: Duration = Duration::from_secs(1);

fn store() -> Memory {
    Memory::new().with_ttl(TTL).expect("a valid ttl")
}

async fn connect(store: &Memory, clock: impl Clock) -> Client {
    let builder = Client::builder(store.clone().with_own_link()).clock(clock);
    builder.runtime(tokio::runtime::Handle::current()).connect().await.expect("memory connects")
}

async fn connect_over(store: &Memory) -> Client {
    let builder = Client::builder(store.clone()).clock(TokioClock::new());
    builder.runtime(tokio::runtime::Handle::current()).connect().await.expect("memory connects")
}

#[tokio::test(start_paused = true)]
async fn a_grant_comes_with_a_beat_of_proven_life() {
    let store = store();
    let clock = TokioClock::new();
    let holder = connect(&store, clock).await.mutex("l").unwrap().lock().await.unwrap();
    let weak = store.clone().with_own_link();
    let builder = Client::builder(weak.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    let mutex = client.mutex("l").unwrap();
    let waiter = tokio::spawn(async move { mutex.lock().await });
    // Every renewal fails until there is less than a beat left.
    for _ in 0..1000 {
        weak.link().plan(Op::Renew, Fault::DropRequest);
    }
    tokio::time::sleep(TTL - TTL / 10 - BEAT / 2).await;
    holder.release().await;
    tokio::time::sleep(BEAT / 10).await;
    assert!(!waiter.is_finished(), "it is first, but nothing proves that it will stay alive");
    weak.link().heal();
    let guard = waiter.await.unwrap().unwrap();
    assert!(guard.valid_for() >= BEAT, "{:?}", guard.valid_for());
}

/// Between two tries that fail, as well as while one is under way.
#[tokio::test(start_paused = true)]
async fn a_loss_is_told_in_the_moment_in_which_the_proof_runs_out() {
    for silent in [false, true] {
        let (store, clock) = (store(), TokioClock::new());
        let client = connect_over(&store).await;
        let guard = client.mutex("l").unwrap().lock().await.unwrap();
        if silent {
            store.link().hold();
        } else {
            for _ in 0..1000 {
                store.link().plan(Op::Renew, Fault::DropRequest);
            }
        }
        let left = guard.valid_for();
        let began = clock.now();
        assert_eq!(guard.lost().await, Loss::Expired);
        let took = clock.now().saturating_duration_since(began);
        assert!(took >= left && took <= left + BEAT / 100, "{took:?} instead of {left:?}");
    }
}

/// A clock of the test's own, in nanoseconds.
#[derive(Clone, Debug)]
struct ManualClock(Arc<AtomicU64>);

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(start_paused = true)]
async fn time_spent_in_suspend_counts() {
    let clock = ManualClock(Arc::new(AtomicU64::new(1)));
    let guard = connect(&store(), clock.clone()).await.mutex("l").unwrap().lock().await.unwrap();
    guard.check().unwrap();
    assert_eq!(guard.valid_for(), TTL - TTL / 10);
    // tokio's clock stands still while the machine's moves on, as in suspend.
    clock.0.fetch_add(TTL.as_nanos() as u64, Ordering::SeqCst);
    let error = guard.check().unwrap_err();
    assert!(
        matches!(error, Error::Lost { loss: Loss::Expired, .. }),
        "the first check, before any timer or I/O: {error}"
    );
    assert_eq!(guard.state(), State::Lost(Loss::Expired));
    assert_eq!(guard.lost().await, Loss::Expired);
    let never_polled = guard.run(async { panic!("work is polled after the loss") }).await;
    assert!(matches!(never_polled, Err(Error::Lost { .. })));
}

#[tokio::test(start_paused = true)]
async fn work_that_is_woken_after_a_suspend_is_not_polled_again() {
    let clock = ManualClock(Arc::new(AtomicU64::new(1)));
    let guard = connect(&store(), clock.clone()).await.mutex("l").unwrap().lock().await.unwrap();
    let wake = Arc::new(tokio::sync::Notify::new());
    let woken = wake.clone();
    let work = tokio::spawn(async move {
        let work = async {
            woken.notified().await;
            panic!("polled after the loss");
        };
        guard.run(work).await
    });
    tokio::task::yield_now().await;
    clock.0.fetch_add(TTL.as_nanos() as u64, Ordering::SeqCst);
    wake.notify_one();
    let stopped: Result<(), Error> = work.await.expect("the work is not polled");
    assert!(matches!(stopped, Err(Error::Lost { loss: Loss::Expired, .. })));
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_the_request_not_from_its_late_answer() {
    let slow = store();
    let clock = TokioClock::new();
    let builder = Client::builder(slow.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let guard = builder.connect().await.unwrap().mutex("l").unwrap().lock().await.unwrap();
    let connected = guard.valid_until().unwrap();
    slow.link().plan(Op::Renew, Fault::Delay(BEAT * 3 / 2));
    // Asked for after one beat, answered after two and a half; the next ones are not answered.
    for _ in 0..10 {
        slow.link().plan(Op::Renew, Fault::DropRequest);
    }
    tokio::time::sleep(BEAT * 5 / 2 + BEAT / 100).await;
    let moved = guard.valid_until().unwrap().saturating_duration_since(connected);
    assert_eq!(moved.as_secs_f64().round(), BEAT.as_secs_f64(), "moved by {moved:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_renewal_is_suspect_before_it_fails() {
    let slow = store();
    let clock = TokioClock::new();
    let builder = Client::builder(slow.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let guard = builder.connect().await.unwrap().mutex("l").unwrap().lock().await.unwrap();
    slow.link().plan(Op::Renew, Fault::Delay(BEAT * 3 / 2));
    let mut states = guard.watch();
    let began = tokio::time::Instant::now();
    assert_eq!(states.changed().await, State::Suspect);
    assert_eq!(began.elapsed().as_secs_f64().round(), 2.0, "one beat until it is asked for, one until it is late");
    assert_eq!(states.changed().await, State::Held);
}

#[tokio::test(start_paused = true)]
async fn an_ended_session_is_noticed_by_the_next_renewal_without_any_event() {
    let deaf = store();
    let clock = TokioClock::new();
    let builder = Client::builder(deaf.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    let guard = client.mutex("l").unwrap().lock().await.unwrap();
    // The watch on the own entry opens, and stays silent.
    deaf.link().plan(Op::Watch, Fault::LostEvent);
    tokio::time::sleep(BEAT / 2).await;
    assert!(deaf.expire_session(&client.session_id().await.unwrap()));
    let loss = tokio::time::timeout(BEAT + BEAT / 10, guard.lost()).await.expect("within a beat");
    assert_eq!(loss, Loss::SessionEnded);
    assert_eq!(client.metrics().sessions_lost, 1);
}

/// Of many who hold, without an event, and without a request for each.
#[tokio::test(start_paused = true)]
async fn a_removal_that_no_event_tells_is_found_when_the_roll_is_called() {
    const N: usize = 50;
    let deaf = store();
    let clock = TokioClock::new();
    let builder = Client::builder(deaf.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    let mut guards = Vec::new();
    for n in 0..N {
        deaf.link().plan(Op::Watch, Fault::LostEvent);
        guards.push(client.mutex(format!("l{n}")).unwrap().lock().await.unwrap());
    }
    // All are watched, and what comes later has nothing to do with the watches.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(deaf.remove_entry(&guards[7].entry().key));
    client.queue("l8").unwrap().revoke(guards[8].token()).await.unwrap();
    let began = tokio::time::Instant::now();
    let loss = tokio::time::timeout(Duration::from_secs(20), guards[7].lost()).await.expect("in time");
    assert_eq!(loss, Loss::EntryRemoved);
    tokio::time::timeout(Duration::from_secs(20) - began.elapsed(), guards[8].revoked()).await.expect("in time");
    for (n, guard) in guards.iter().enumerate().filter(|(n, _)| *n != 7) {
        guard.check().unwrap_or_else(|error| panic!("l{n}: {error}"));
    }
}

#[tokio::test(start_paused = true)]
async fn work_is_stopped_while_the_lock_is_still_held() {
    let silent = store();
    let clock = TokioClock::new();
    let builder = Client::builder(silent.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let guard = builder.connect().await.unwrap().mutex("l").unwrap().lock().await.unwrap();
    silent.link().hold();
    let stopped = guard.run(std::future::pending::<()>()).await;
    assert!(matches!(stopped, Err(Error::Lost { loss: Loss::Expired, .. })));
    let left = guard.valid_for();
    assert!(left > TTL / 30 && left <= TTL / 20, "stopped with {left:?} left");
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_delays_a_grant_by_the_recheck_only() {
    let memory = store();
    let clock = TokioClock::new();
    let holder = connect(&memory, clock).await.mutex("l").unwrap().lock().await.unwrap();
    let deaf = memory.clone().with_own_link();
    // The waiter watches itself and its predecessor; neither event ever comes.
    deaf.link().plan(Op::Watch, Fault::LostEvent);
    deaf.link().plan(Op::Watch, Fault::LostEvent);
    let builder = Client::builder(deaf).clock(clock).runtime(tokio::runtime::Handle::current());
    let mutex = builder.connect().await.unwrap().mutex("l").unwrap();
    let waiter = tokio::spawn(async move { mutex.lock().await });
    tokio::time::sleep(BEAT).await;
    holder.release().await;
    let guard = tokio::time::timeout(Duration::from_secs(20), waiter).await.expect("rechecked").unwrap().unwrap();
    guard.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_entry_removed_without_an_event_is_not_granted() {
    let memory = store();
    let clock = TokioClock::new();
    let holder = connect(&memory, clock).await.mutex("l").unwrap().lock().await.unwrap();
    let deaf = memory.clone().with_own_link();
    deaf.link().plan(Op::Watch, Fault::LostEvent);
    let builder = Client::builder(deaf).clock(clock).runtime(tokio::runtime::Handle::current());
    let mutex = builder.connect().await.unwrap().mutex("l").unwrap();
    let waiter = tokio::spawn(async move { mutex.lock().await });
    tokio::time::sleep(BEAT).await;
    assert!(memory.remove_entry(&memory.entries(&Name::new("l").unwrap())[1].entry.key));
    let error = tokio::time::timeout(Duration::from_secs(20), waiter).await.expect("rechecked").unwrap().unwrap_err();
    assert!(matches!(error, Error::EntryRemoved { .. }), "{error}");
    holder.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_entry_was_removed_without_an_event_learns_it() {
    let memory = store();
    let deaf = memory.clone().with_own_link();
    let builder = Client::builder(deaf.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let guard = builder.connect().await.unwrap().mutex("l").unwrap().lock().await.unwrap();
    deaf.link().plan(Op::Watch, Fault::LostEvent);
    tokio::time::sleep(BEAT).await;
    assert!(memory.remove_entry(&memory.entries(&Name::new("l").unwrap())[0].entry.key));
    let loss = tokio::time::timeout(Duration::from_secs(20), guard.lost()).await.expect("rechecked");
    assert_eq!(loss, Loss::EntryRemoved);
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_lost_reply_cannot_be_settled_takes_its_session_with_it() {
    let memory = store();
    let clock = TokioClock::new();
    let refused = memory.clone().with_own_link();
    let builder = Client::builder(refused.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    refused.link().plan(Op::Enqueue, Fault::DropReply);
    refused.link().plan(Op::Adopt, Fault::Refuse);
    let error = client.mutex("l").unwrap().lock().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(client.metrics().sessions_lost, 1, "renewals would keep the entry for ever");
    refused.link().plan(Op::Enqueue, Fault::DropReply);
    for _ in 0..1000 {
        refused.link().plan(Op::Adopt, Fault::DropRequest);
    }
    let attempt = tokio::time::timeout(BEAT, client.mutex("l").unwrap().lock()).await;
    attempt.map(drop).expect_err("withdrawn, and yet to be settled");
    let other = connect(&memory, clock).await.mutex("l").unwrap();
    let next = tokio::time::timeout(TTL + Duration::from_secs(2), other.lock()).await.expect("within ttl + 2 s");
    next.unwrap().check().unwrap();
    assert_eq!(client.metrics().sessions_lost, 2);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_removed_takes_its_session_with_it() {
    let memory = store();
    let stuck = memory.clone().with_own_link();
    let clock = TokioClock::new();
    let builder = Client::builder(stuck.clone()).clock(clock).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    let (mutex, other) = (client.mutex("l").unwrap(), client.mutex("other").unwrap());
    let other = other.lock().await.unwrap();
    let guard = mutex.lock().await.unwrap();
    for _ in 0..1000 {
        stuck.link().plan(Op::Dequeue, Fault::DropRequest);
    }
    drop(guard);
    let waiter = connect(&memory, clock).await.mutex("l").unwrap();
    let next =
        tokio::time::timeout(TTL + Duration::from_secs(2), waiter.lock()).await.expect("within ttl + 2 s").unwrap();
    next.check().unwrap();
    assert_eq!(other.state(), State::Lost(Loss::Stuck), "renewals would keep the entry for ever");
    stuck.link().heal();
    client.mutex("third").unwrap().lock().await.unwrap().check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_while_a_lost_session_is_replaced() {
    let memory = store().with_own_link();
    let client = connect_over(&memory).await;
    memory.link().set_latency(Duration::from_millis(5));
    memory.expire_session(&client.session_id().await.unwrap());
    let (began, patience) = (tokio::time::Instant::now(), Duration::from_millis(12));
    // That the session is over is known just before the deadline.
    let error = client.mutex("l").unwrap().try_lock_for(patience).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(began.elapsed() <= patience + Duration::from_millis(1), "{:?}", began.elapsed());
}

#[test]
fn guards_survive_the_end_of_the_users_runtime_and_end_with_that_of_the_sessions() {
    let user = tokio::runtime::Runtime::new().unwrap();
    let store = store();
    let guard = user
        .block_on(async { Client::connect(store.clone()).await.unwrap().mutex("l").unwrap().lock().await.unwrap() });
    drop(user);
    guard.check().expect("the session lives on the library's thread");
    drop(guard);

    let sessions = tokio::runtime::Runtime::new().unwrap();
    let (client, guard) = sessions.block_on(async {
        let client = Client::builder(store).runtime(sessions.handle().clone()).connect().await.unwrap();
        let guard = client.mutex("m").unwrap().lock().await.unwrap();
        (client, guard)
    });
    drop(sessions);
    let user = tokio::runtime::Runtime::new().unwrap();
    let error = user.block_on(client.mutex("n").unwrap().lock()).unwrap_err();
    assert!(matches!(error, Error::Runtime { .. }), "{error}");
    user.block_on(client.close());
    assert!(guard.check().is_err());
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_a_session_that_is_being_opened() {
    let store = store().with_own_link();
    let builder = Client::builder(store.clone()).clock(TokioClock::new());
    let client = builder.runtime(tokio::runtime::Handle::current()).connect().await.unwrap();
    client.close().await;
    assert_eq!(store.session_count(), 0);
    store.link().plan(Op::Renew, Fault::Delay(BEAT));
    let mutex = client.mutex("l").unwrap();
    let waiter = tokio::spawn(async move { mutex.lock().await });
    while store.session_count() == 0 {
        tokio::time::sleep(BEAT / 100).await;
    }
    client.close().await;
    assert_eq!(store.session_count(), 0, "its opening ended after the call of close");
    // The waiter may have got the lock just before.
    let error = waiter.await.unwrap().and_then(|guard| guard.check()).unwrap_err();
    let closed =
        matches!(error, Error::SessionLost { loss: Loss::Closed, .. } | Error::Lost { loss: Loss::Closed, .. });
    assert!(closed, "{error}");
    client.mutex("l").unwrap().lock().await.unwrap().check().unwrap();
}
