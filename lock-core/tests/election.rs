//! Elections on the memory backend: other kinds of clients in the queue, exact times, marks that are wrong.

use std::time::Duration;

use lock_core::clock::TokioClock;
use lock_core::memory::{Fault, Memory, Op};
use lock_core::{Client, Election, Error, Release};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(6);

fn store() -> Memory {
    Memory::new().with_ttl(TTL).expect("a valid ttl")
}

async fn connect(store: &Memory) -> Client {
    let builder = Client::builder(store.clone().with_own_link()).clock(TokioClock::new());
    builder.runtime(tokio::runtime::Handle::current()).connect().await.expect("memory connects")
}

async fn election(store: &Memory) -> Election {
    connect(store).await.election("e").expect("a valid name")
}

#[tokio::test(start_paused = true)]
async fn turns_that_fail_are_followed_by_growing_pauses_and_one_that_is_done_by_none() {
    let mut turns = election(&store()).await.turns("x").unwrap();
    let mut begun = Vec::new();
    for n in 0..15 {
        let turn = turns.next().await.unwrap().expect("not stopped");
        begun.push(Instant::now());
        match n {
            11 => assert_eq!(turn.done().await, Release::Released),
            12 => drop(turn),
            _ => assert_eq!(turn.failed().await, Release::Released),
        }
        if n == 13 {
            // Giving up on the wait does not shorten the pause.
            tokio::time::timeout(Duration::from_millis(1), turns.next()).await.map(drop).unwrap_err();
        }
    }
    let pauses: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let is_pause = |pause: Duration, tries: u32| {
        let ceiling = Duration::from_millis(10 << tries.min(7)).min(Duration::from_secs(1));
        assert!(pause >= ceiling / 2 && pause <= ceiling + Duration::from_millis(2), "{pause:?} after {tries} tries");
    };
    for (tries, pause) in (0..).zip(&pauses[..11]) {
        is_pause(*pause, tries);
    }
    assert!(pauses[11] < Duration::from_millis(2), "{:?}", pauses[11]);
    is_pause(pauses[12], 0);
    is_pause(pauses[13], 1);
}

#[tokio::test(start_paused = true)]
async fn a_latch_outlives_a_long_outage() {
    let memory = store();
    let own = memory.clone().with_own_link();
    let builder = Client::builder(own.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    let mut latch = client.election("e").unwrap().latch("x").unwrap();
    latch.leading().await.unwrap();
    own.link().hold();
    tokio::time::sleep(TTL * 100).await;
    assert!(!latch.is_leader());
    assert!(matches!(latch.trouble(), Some(Error::Unreachable { .. })), "{:?}", latch.trouble());
    own.link().resume();
    tokio::time::timeout(TTL, latch.leading()).await.expect("soon").unwrap();
    assert!(latch.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_latch_that_is_refused_does_not_hammer_the_store() {
    let memory = store();
    let client = connect(&memory).await;
    let lock = client.rw_lock("e").unwrap().write().await.unwrap();
    let before = client.metrics().enqueued;
    let latch = client.election("e").unwrap().latch("x").unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let attempts = client.metrics().enqueued - before;
    assert!((100..250).contains(&attempts), "{attempts} attempts");
    lock.release().await;
    drop(latch);
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_while_taking_office_counts_one_term() {
    let memory = store();
    let own = memory.clone().with_own_link();
    let builder = Client::builder(own.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let election = builder.connect().await.unwrap().election("e").unwrap();
    for term in 1..4 {
        own.link().plan(Op::Write, Fault::DropReply);
        let leadership = election.campaign("x").await.unwrap();
        assert_eq!(leadership.term(), term);
        leadership.resign().await;
    }
}
