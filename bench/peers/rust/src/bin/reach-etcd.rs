//! Probe: what a recipe on etcd reaches that reads as little as possible. No library: it neither reconnects nor lets a
//! waiter give up.
//!
//! All contenders share one lease; keys are ordered by the revision of their creation.
//!
//! - Acquire: one transaction creates the key and counts the keys; the only one is granted at once.
//! - Wait: one watch per lock, from now on, and one listing at the revision at which the watch began. From then on the
//!   process knows the queue and nobody reads again.
//! - Release: one delete. Its reply wakes a successor in this process, without waiting for the event.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use lock_peers::{Args, Contender, Peer, Result, etcd, workload};
use tokio::sync::{OnceCell, oneshot};

/// The keys of a lock, and who waits here for one of them to be the first.
#[derive(Default)]
struct Queue {
    by_revision: BTreeMap<i64, String>,
    revisions: HashMap<String, i64>,
    waiters: HashMap<i64, oneshot::Sender<()>>,
}

impl Queue {
    fn put(&mut self, key: &str, revision: i64) {
        self.by_revision.insert(revision, key.to_owned());
        self.revisions.insert(key.to_owned(), revision);
    }

    fn remove(&mut self, key: &str) {
        if let Some(revision) = self.revisions.remove(key) {
            self.by_revision.remove(&revision);
        }
    }

    fn wake_first(&mut self) {
        let first = self.by_revision.first_key_value();
        if let Some(waiter) = first.and_then(|(revision, _)| self.waiters.remove(revision)) {
            // Nobody is there any more only when the program ends.
            let _ = waiter.send(());
        }
    }
}

#[derive(Default)]
struct Lock {
    watched: OnceCell<()>,
    queue: Mutex<Queue>,
}

impl Lock {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch(self: &Arc<Self>, client: &Client, name: &str) -> Result<()> {
        let (mut client, prefix) = (client.clone(), format!("{name}/"));
        let mut watch = client.watch(prefix.clone(), Some(WatchOptions::new().with_prefix())).await?;
        let began = watch.message().await?.ok_or("the watch ended")?;
        let revision = began.header().ok_or("no header")?.revision();
        let options = GetOptions::new().with_prefix().with_keys_only().with_revision(revision);
        let listing = client.get(prefix, Some(options)).await?;
        for entry in listing.kvs() {
            self.queue().put(entry.key_str()?, entry.create_revision());
        }
        let lock = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = watch.message().await {
                let mut queue = lock.queue();
                for event in message.events() {
                    let Some(entry) = event.kv() else { continue };
                    let Ok(key) = entry.key_str() else { continue };
                    match event.event_type() {
                        EventType::Put => queue.put(key, entry.create_revision()),
                        EventType::Delete => queue.remove(key),
                    }
                }
                queue.wake_first();
            }
        });
        Ok(())
    }
}

#[derive(Clone)]
struct Probe {
    client: Client,
    lease: i64,
    entries: Arc<AtomicU64>,
    locks: Arc<Mutex<HashMap<String, Arc<Lock>>>>,
}

impl Probe {
    fn lock(&self, name: &str) -> Arc<Lock> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(name.to_owned()).or_default().clone()
    }
}

impl Contender for Probe {
    type Guard = (String, Arc<Lock>);

    async fn acquire(&mut self, name: &str) -> Result<Self::Guard> {
        let lock = self.lock(name);
        let key = format!("{name}/{:x}-{:x}", self.lease, self.entries.fetch_add(1, Ordering::Relaxed));
        let enqueue = Txn::new().when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)]).and_then([
            TxnOp::put(key.clone(), "", Some(PutOptions::new().with_lease(self.lease))),
            TxnOp::get(format!("{name}/"), Some(GetOptions::new().with_prefix().with_count_only())),
        ]);
        let reply = self.client.txn(enqueue).await?;
        if let [_, TxnOpResponse::Get(counted)] = &reply.op_responses()[..]
            && counted.count() == 1
        {
            return Ok((key, lock));
        }
        let revision = reply.header().ok_or("no header")?.revision();
        lock.watched.get_or_try_init(|| lock.watch(&self.client, name)).await?;
        let (waiter, woken) = oneshot::channel();
        {
            let mut queue = lock.queue();
            queue.waiters.insert(revision, waiter);
            queue.wake_first();
        }
        woken.await?;
        Ok((key, lock))
    }

    async fn release(&mut self, (key, lock): Self::Guard) -> Result<()> {
        self.client.delete(key.clone(), None).await?;
        if lock.watched.initialized() {
            let mut queue = lock.queue();
            queue.remove(&key);
            queue.wake_first();
        }
        Ok(())
    }
}

impl Peer for Probe {
    type Contender = Self;

    async fn contender(&self) -> Result<Self> {
        Ok(self.clone())
    }

    async fn queued(&self, name: &str) -> Result<u64> {
        etcd::count(&self.client, name).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let client = etcd::connect(&args).await?;
    let lease = etcd::lease(&client, args.ttl).await?;
    let probe = Probe { client, lease, entries: Arc::default(), locks: Arc::default() };
    workload::run(&args, &probe).await
}
