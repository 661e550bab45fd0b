//! Hand-over within a process, where the store need not be waited for, and to others, who do wait for it.

use std::time::Duration;

use lock_core::clock::TokioClock;
use lock_core::memory::{Fault, Memory, Op};
use lock_core::{Client, Error};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const AT_ONCE: Duration = Duration::from_millis(100);

async fn client(store: &Memory) -> Client {
    let builder = Client::builder(store.clone()).clock(TokioClock::new());
    builder.runtime(tokio::runtime::Handle::current()).connect().await.expect("memory connects")
}

fn store() -> Memory {
    Memory::new().with_ttl(Duration::from_secs(12)).expect("a valid ttl")
}

#[tokio::test(start_paused = true)]
async fn the_next_of_the_same_session_does_not_wait_for_the_removal() {
    let memory = store();
    let (near, far) = (memory.clone().with_own_link(), memory.with_own_link());
    let (here, there) = (client(&near).await, client(&far).await);
    let guard = here.mutex("l").unwrap().lock().await.unwrap();
    let mut waiters = Vec::new();
    for client in [&here, &here, &there] {
        let mut waiting = client.mutex("l").unwrap().lock();
        waiting.position().await.unwrap();
        waiters.push(tokio::spawn(async move {
            let guard = waiting.await.unwrap();
            let at = Instant::now();
            guard.release().await;
            at
        }));
    }
    for _ in 0..3 {
        near.link().plan(Op::Dequeue, Fault::Delay(SECOND));
    }
    let began = Instant::now();
    drop(guard);
    let mut after = Vec::new();
    for waiter in waiters {
        after.push(waiter.await.unwrap() - began);
    }
    assert!(after[0] < AT_ONCE && after[1] < SECOND + AT_ONCE, "{after:?}");
    assert!(after[2] >= SECOND, "others wait until the entries ahead of theirs are gone: {after:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_gave_up_waiting_is_no_reason_to_go_on() {
    let store = store();
    let (here, there) = (client(&store).await, client(&store).await);
    let guard = there.mutex("l").unwrap().lock().await.unwrap();
    let (mut first, mut second) = (here.mutex("l").unwrap().lock(), here.mutex("l").unwrap().lock());
    first.position().await.unwrap();
    second.position().await.unwrap();
    drop(first);
    let second = tokio::spawn(second);
    sleep(SECOND).await;
    assert!(!second.is_finished(), "the holder is still there");
    guard.check().unwrap();
    guard.release().await;
    second.await.unwrap().unwrap().release().await;
}

#[tokio::test(start_paused = true)]
async fn one_whose_entry_was_removed_hands_nothing_over() {
    let store = store();
    let (here, there) = (client(&store).await, client(&store).await);
    let lost = here.mutex("l").unwrap().lock().await.unwrap();
    let mut far = there.mutex("l").unwrap().lock();
    far.position().await.unwrap();
    let mut near = here.mutex("l").unwrap().lock();
    near.position().await.unwrap();
    store.remove_entry(&lost.entry().key);
    let held = far.await.unwrap();
    let near = tokio::spawn(near);
    lost.lost().await;
    drop(lost);
    sleep(SECOND).await;
    assert!(!near.is_finished(), "the one between holds");
    held.check().unwrap();
    drop(held);
    assert!(!matches!(near.await.unwrap(), Err(Error::EntryRemoved { .. })));
}
