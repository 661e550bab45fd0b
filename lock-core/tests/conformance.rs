//! The conformance suite on the memory backend, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{Entry, QueueEntry};
use lock_core::clock::TokioClock;
use lock_core::conformance::{Contender, Cut, Link, World};
use lock_core::memory::{Fault, Memory, Op};
use lock_core::{Client, Name};

const TTL: Duration = Duration::from_secs(3);

struct MemoryWorld {
    store: Memory,
    clock: TokioClock,
}

async fn world() -> MemoryWorld {
    MemoryWorld { store: Memory::new().with_ttl(TTL).expect("a valid ttl"), clock: TokioClock::new() }
}

#[async_trait]
impl World for MemoryWorld {
    fn ttl(&self) -> Duration {
        TTL
    }

    async fn contender(&self) -> Contender {
        let store = self.store.clone().with_own_link();
        store.link().set_latency(Duration::from_micros(200));
        let builder = Client::builder(store.clone()).clock(self.clock);
        let client = builder.runtime(tokio::runtime::Handle::current()).connect().await.expect("memory connects");
        Contender { client, link: Arc::new(MemoryLink(store)) }
    }

    async fn entries(&self, queue: &Name) -> Vec<QueueEntry> {
        self.store.entries(queue)
    }

    async fn remove(&self, entry: &Entry) {
        assert!(self.store.remove_entry(&entry.key), "no entry {entry:?}");
    }

    async fn expire(&self, session: &str) {
        assert!(self.store.expire_session(session), "no session {session}");
    }
}

struct MemoryLink(Memory);

#[async_trait]
impl Link for MemoryLink {
    async fn hold(&self) {
        self.0.link().hold();
    }

    async fn resume(&self) {
        self.0.link().resume();
    }

    async fn cut(&self, _how: Cut) {
        self.0.link().cut();
    }

    async fn lose_next_reply(&self, _text: &str, _how: Cut) {
        for op in [Op::Enqueue, Op::Dequeue, Op::Write, Op::Downgrade, Op::Queues] {
            self.0.link().plan(op, Fault::DropReply);
        }
    }
}

lock_core::conformance!(tokio::test(start_paused = true), world());
