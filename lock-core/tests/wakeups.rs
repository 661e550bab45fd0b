//! Wake-ups that could be lost, with the memory backend's faults in virtual time.

use std::time::Duration;

use lock_core::clock::TokioClock;
use lock_core::memory::{Fault, Memory, Op};
use lock_core::{Client, Name, Semaphore};

const TTL: Duration = Duration::from_secs(6);
const SECOND: Duration = Duration::from_secs(1);

/// Waiters look again by themselves after 10 to 20 seconds; a wake-up that comes later than this was lost.
const AT_ONCE: Duration = Duration::from_secs(2);

struct Bench {
    memory: Memory,
    clock: TokioClock,
}

impl Bench {
    fn new() -> Self {
        Self { memory: Memory::new().with_ttl(TTL).expect("a valid ttl"), clock: TokioClock::new() }
    }

    /// A semaphore in a client of its own, and that client's store.
    async fn semaphore(&self, limit: u32) -> (Memory, Semaphore) {
        let store = self.memory.clone().with_own_link();
        let builder = Client::builder(store.clone()).clock(self.clock).runtime(tokio::runtime::Handle::current());
        let client = builder.connect().await.expect("memory connects");
        (store, client.semaphore("s", limit).expect("a valid semaphore"))
    }

    fn length(&self) -> usize {
        self.memory.entries(&Name::new("s").expect("a valid name")).len()
    }

    async fn has_length(&self, n: usize) {
        while self.length() != n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Who comes behind takes a slow one for the first waiter, and it never waits.
#[tokio::test(start_paused = true)]
async fn one_who_is_slow_to_look_and_finds_room_tells_the_next() {
    let bench = Bench::new();
    let (_, holder) = bench.semaphore(2).await;
    let (one, two) = (holder.acquire(1).await.unwrap(), holder.acquire(1).await.unwrap());
    let (store, slow) = bench.semaphore(2).await;
    store.link().plan(Op::Ahead, Fault::Delay(SECOND));
    let slow = tokio::spawn(async move { slow.acquire(1).await });
    bench.has_length(3).await;
    let (_, next) = bench.semaphore(2).await;
    let next = tokio::spawn(async move { next.acquire(1).await });
    bench.has_length(4).await;
    tokio::time::sleep(SECOND / 2).await;
    one.release().await;
    two.release().await;
    assert!(!slow.is_finished(), "it has not looked yet");
    let slow = slow.await.unwrap().unwrap();
    let next = tokio::time::timeout(AT_ONCE, next).await.expect("there is room for two").unwrap().unwrap();
    slow.check().unwrap();
    next.check().unwrap();
}

/// The one that is told is granted, and cannot prove for a while that it lives.
#[tokio::test(start_paused = true)]
async fn one_who_has_to_prove_its_life_first_does_not_hold_up_the_next() {
    let bench = Bench::new();
    let (_, holder) = bench.semaphore(2).await;
    let (one, two) = (holder.acquire(1).await.unwrap(), holder.acquire(1).await.unwrap());
    let (store, weak) = bench.semaphore(2).await;
    let weak = tokio::spawn(async move { weak.acquire(1).await });
    bench.has_length(3).await;
    let (_, next) = bench.semaphore(2).await;
    let next = tokio::spawn(async move { next.acquire(1).await });
    bench.has_length(4).await;
    // Every renewal fails until there is less than a beat left.
    for _ in 0..1000 {
        store.link().plan(Op::Renew, Fault::DropRequest);
    }
    tokio::time::sleep(TTL - TTL / 10 - SECOND / 2).await;
    one.release().await;
    two.release().await;
    let next = tokio::time::timeout(SECOND / 10, next).await.expect("there is room for two").unwrap().unwrap();
    next.check().unwrap();
    assert!(!weak.is_finished(), "nothing proves that it will stay alive");
}
