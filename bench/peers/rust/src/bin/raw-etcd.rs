//! Limit: what an etcd server can do at all. No recipe, nothing that a lock could rely on.
//!
//! | workload | the least that it takes |
//! |---|---|
//! | w1, w3 | each worker on a key of its own: one transaction that creates it and reads the first, then its delete |
//! | w1 with `--recipe fenced` | the same with all that lock-etcd asks of the server: a second condition, a count, and a condition on the delete |
//! | w3 with `--recipe batch` | the same for all workers together: one transaction creates, one deletes |
//! | w2 | a hand-over in one process: the reply to the delete is the grant, and the next key is put meanwhile |
//! | w2x | a hand-over between two connections: a delete, and the event of it at the other one |
//! | w4 | keys that are there already are deleted one after the other |

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
};
use lock_peers::protocol::{mark, measure, report, report_drain};
use lock_peers::{Args, Clock, Record, Result, etcd};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, JoinSet};

fn main() -> Result<()> {
    let args = Args::parse()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(etcd::connect(&args))?;
    let lease = runtime.block_on(etcd::lease(&client, args.ttl))?;
    let raw = Raw { args: &args, client, lease };
    match (args.workload.as_str(), args.recipe.as_deref()) {
        ("w3", Some("batch")) => measure(&args, |total, clock| runtime.block_on(raw.batches(total, clock))),
        ("w1", Some("fenced")) => measure(&args, |total, clock| runtime.block_on(raw.fenced(total, clock))),
        ("w1" | "w3", None) => measure(&args, |total, clock| runtime.block_on(raw.singles(total, clock))),
        ("w2", None) => measure(&args, |total, clock| runtime.block_on(raw.chain(total, clock))),
        ("w2x", None) => runtime.block_on(raw.across()),
        ("w4", None) => runtime.block_on(raw.drain()),
        (workload, recipe) => Err(format!("no workload {workload} {recipe:?}").into()),
    }
}

struct Raw<'a> {
    args: &'a Args,
    client: Client,
    lease: i64,
}

impl Raw<'_> {
    fn key(&self, entry: u64) -> String {
        format!("{}/{entry:08}", self.args.prefix)
    }

    fn put(&self, key: &str) -> TxnOp {
        TxnOp::put(key, "", Some(PutOptions::new().with_lease(self.lease)))
    }

    /// Puts a key while others are at work.
    fn put_beside(&self, entry: u64) -> JoinHandle<Result<()>> {
        let (mut client, key, lease) = (self.client.clone(), self.key(entry), self.lease);
        tokio::spawn(async move {
            client.put(key, "", Some(PutOptions::new().with_lease(lease))).await?;
            Ok(())
        })
    }

    async fn singles(&self, total: u64, clock: Clock) -> Result<Vec<Record>> {
        let tickets = Arc::new(AtomicU64::new(0));
        let mut tasks: JoinSet<Result<Vec<Record>>> = JoinSet::new();
        for worker in 0..self.args.c {
            let (tickets, mut client) = (tickets.clone(), self.client.clone());
            let name = format!("{}/{worker:05}/", self.args.prefix);
            let key = format!("{name}{:x}", self.lease);
            let is_new = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
            let enqueue = Txn::new().when([is_new]).and_then([self.put(&key), first(&name)]);
            tasks.spawn(async move {
                let mut records = Vec::new();
                loop {
                    let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                    if ticket >= total {
                        return Ok(records);
                    }
                    let requested = clock.now();
                    if !client.txn(enqueue.clone()).await?.succeeded() {
                        return Err("the key was there already".into());
                    }
                    let granted = clock.now();
                    client.delete(key.clone(), None).await?;
                    let released = clock.now();
                    records.push(Record { worker, ticket, requested, granted, releasing: granted, released });
                }
            });
        }
        let mut records = Vec::new();
        while let Some(worker) = tasks.join_next().await {
            records.append(&mut worker??);
        }
        Ok(records)
    }

    async fn fenced(&self, total: u64, clock: Clock) -> Result<Vec<Record>> {
        let (mut client, name) = (self.client.clone(), format!("{}/fenced/", self.args.prefix));
        let (key, fence) = (format!("{name}{:x}", self.lease), format!("{}/fence", self.args.prefix));
        let fenced = client.put(fence.clone(), "", None).await?.header().ok_or("no header")?.revision();
        let counted = GetOptions::new().with_prefix().with_count_only();
        let enqueue = Txn::new()
            .when([
                Compare::create_revision(key.clone(), CompareOp::Equal, 0),
                Compare::mod_revision(fence, CompareOp::Equal, fenced),
            ])
            .and_then([self.put(&key), TxnOp::get(name, Some(counted))]);
        let mut records = Vec::new();
        for ticket in 0..total {
            let requested = clock.now();
            let entered = client.txn(enqueue.clone()).await?;
            let granted = clock.now();
            let created = entered.header().ok_or("no header")?.revision();
            let mine = Compare::create_revision(key.clone(), CompareOp::Equal, created);
            let left = client.txn(Txn::new().when([mine]).and_then([TxnOp::delete(key.clone(), None)])).await?;
            if !entered.succeeded() || !left.succeeded() {
                return Err("somebody else has used the key".into());
            }
            let released = clock.now();
            records.push(Record { worker: 0, ticket, requested, granted, releasing: granted, released });
        }
        Ok(records)
    }

    /// With the server's limit of 128 operations in a transaction, up to 64 workers.
    async fn batches(&self, total: u64, clock: Clock) -> Result<Vec<Record>> {
        let mut client = self.client.clone();
        let names: Vec<_> = (0..self.args.c).map(|worker| format!("{}/{worker:05}/", self.args.prefix)).collect();
        let mut records = Vec::new();
        while (records.len() as u64) < total {
            let (mut enqueues, mut removals) = (Vec::new(), Vec::new());
            for name in &names {
                let key = format!("{name}{:08}", records.len());
                enqueues.extend([self.put(&key), first(name)]);
                removals.push(TxnOp::delete(key, None));
            }
            let requested = clock.now();
            client.txn(Txn::new().and_then(enqueues)).await?;
            let granted = clock.now();
            client.txn(Txn::new().and_then(removals)).await?;
            let released = clock.now();
            for worker in 0..self.args.c {
                let ticket = records.len() as u64;
                records.push(Record { worker, ticket, requested, granted, releasing: granted, released });
            }
        }
        Ok(records)
    }

    async fn chain(&self, total: u64, clock: Clock) -> Result<Vec<Record>> {
        let (mut client, workers) = (self.client.clone(), self.args.c);
        let mut queue: VecDeque<_> = (0..workers).map(|entry| (clock.now(), self.put_beside(entry))).collect();
        let mut records = Vec::new();
        for ticket in 0..total {
            let Some((requested, put)) = queue.pop_front() else { break };
            put.await??;
            let granted = clock.now();
            client.delete(self.key(ticket), None).await?;
            let released = clock.now();
            records.push(Record { worker: ticket % workers, ticket, requested, granted, releasing: granted, released });
            if ticket + workers < total {
                queue.push_back((released, self.put_beside(ticket + workers)));
            }
        }
        Ok(records)
    }

    /// Puts as many keys as there will be hand-overs.
    async fn fill(&self, total: u64) -> Result<()> {
        let puts: Vec<_> = (0..total).map(|entry| self.put_beside(entry)).collect();
        for put in puts {
            put.await??;
        }
        Ok(())
    }

    async fn across(&self) -> Result<()> {
        let Args { warm, n, ref prefix, .. } = *self.args;
        self.fill(warm + n).await?;
        let mut clients = [self.client.clone(), etcd::connect(self.args).await?];
        let mut watches = Vec::new();
        for client in &mut clients {
            let mut watch = client.watch(format!("{prefix}/"), Some(WatchOptions::new().with_prefix())).await?;
            watch.message().await?; // that it is there
            watches.push(watch);
        }
        let (mut clock, mut records) = (Clock::start()?, Vec::new());
        for ticket in 0..warm + n {
            if ticket == warm {
                mark("begin")?;
                clock = Clock::start()?;
                records.clear();
            }
            let (worker, key) = ((ticket % 2) as usize, self.key(ticket));
            let requested = clock.now();
            let (mut client, removed) = (clients[worker].clone(), key.clone());
            tokio::spawn(async move { client.delete(removed, None).await });
            let watch = &mut watches[1 - worker];
            loop {
                let message = watch.message().await?.ok_or("the watch ended")?;
                if message.events().iter().any(|event| event.kv().is_some_and(|kv| kv.key() == key.as_bytes())) {
                    break;
                }
            }
            let granted = clock.now();
            let worker = worker as u64;
            records.push(Record { worker, ticket, requested, granted, releasing: granted, released: granted });
        }
        let wall = clock.now();
        mark("end")?;
        report(self.args, &records, wall, clock)
    }

    async fn drain(&self) -> Result<()> {
        let mut client = self.client.clone();
        mark("enq")?;
        let clock = Clock::start()?;
        self.fill(self.args.n).await?;
        let queued = clock.now();
        mark("begin")?;
        let start = clock.now();
        let mut records = Vec::new();
        for ticket in 0..self.args.n {
            let granted = clock.now();
            client.delete(self.key(ticket), None).await?;
            let released = clock.now();
            records.push(Record { worker: ticket, ticket, requested: 0, granted, releasing: granted, released });
        }
        mark("end")?;
        report_drain(self.args, &records, queued, start)
    }
}

/// Reads the first key that was created.
fn first(name: &str) -> TxnOp {
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(1);
    TxnOp::get(name, Some(options))
}
