//! The workloads, for anything that can lock.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::protocol::{self, Clock, Record, mark, say};
use crate::{Args, Result};

/// How long waiters may take to enter the queue.
const QUEUEING: Duration = Duration::from_secs(240);

/// One of those who want a lock.
pub trait Contender: Send + 'static {
    type Guard: Send + 'static;
    fn acquire(&mut self, name: &str) -> impl Future<Output = Result<Self::Guard>> + Send;
    fn release(&mut self, guard: Self::Guard) -> impl Future<Output = Result<()>> + Send;
}

pub trait Peer: Send + Sync + 'static {
    type Contender: Contender;
    /// One more contender in this process.
    fn contender(&self) -> impl Future<Output = Result<Self::Contender>> + Send;
    /// How many hold or wait for this lock.
    fn queued(&self, name: &str) -> impl Future<Output = Result<u64>> + Send;
}

/// Runs the workload that `args` name.
pub async fn run<P: Peer>(args: &Args, peer: &P) -> Result<()> {
    match args.workload.as_str() {
        "w1" | "w2" | "w3" => contend(args, peer).await,
        "w4" => drain(args, peer).await,
        "hold" | "wait" | "holdmany" => hold(args, peer).await,
        other => Err(format!("unknown workload {other}").into()),
    }
}

async fn contend<P: Peer>(args: &Args, peer: &P) -> Result<()> {
    let mut contenders = Vec::new();
    for _ in 0..args.c {
        contenders.push(peer.contender().await?);
    }
    let (contenders, _) = pass(args, contenders, args.warm, Clock::start()?).await?;
    mark("begin")?;
    let clock = Clock::start()?;
    let (_, records) = pass(args, contenders, args.n, clock).await?;
    let wall = clock.now();
    mark("end")?;
    protocol::report(args, &records, wall, clock)
}

/// All contenders take and release locks, `total` times together.
async fn pass<C: Contender>(
    args: &Args,
    contenders: Vec<C>,
    total: u64,
    clock: Clock,
) -> Result<(Vec<C>, Vec<Record>)> {
    let tickets = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for (worker, mut contender) in contenders.into_iter().enumerate() {
        let (tickets, prefix) = (tickets.clone(), args.prefix.clone());
        let (locks, limit) = (args.locks, args.limit.as_nanos() as u64);
        tasks.spawn(async move {
            let mut random = Random::new(worker as u64 + 1);
            let mut records = Vec::new();
            loop {
                let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                if ticket >= total || clock.now() > limit {
                    return Ok((contender, records));
                }
                let name = if locks > 1 { lock_name(&prefix, random.next() % locks) } else { prefix.clone() };
                records.push(once(&mut contender, &name, worker as u64, ticket, clock).await?);
            }
        });
    }
    let (mut contenders, mut records) = (Vec::new(), Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (contender, mut own) = task?.map_err(|failure: crate::Failure| failure)?;
        contenders.push(contender);
        records.append(&mut own);
    }
    Ok((contenders, records))
}

async fn once<C: Contender>(contender: &mut C, name: &str, worker: u64, ticket: u64, clock: Clock) -> Result<Record> {
    let requested = clock.now();
    let guard = contender.acquire(name).await?;
    let granted = clock.now();
    contender.release(guard).await?;
    Ok(Record { worker, ticket, requested, granted, releasing: granted, released: clock.now() })
}

/// Many queue up behind one holder, who then lets go.
async fn drain<P: Peer>(args: &Args, peer: &P) -> Result<()> {
    let mut holder = peer.contender().await?;
    let mut contenders = Vec::new();
    for _ in 0..args.n {
        contenders.push(peer.contender().await?);
    }
    let guard = holder.acquire(&args.prefix).await?;
    mark("enq")?;
    let clock = Clock::start()?;
    let mut tasks = JoinSet::new();
    for (worker, mut contender) in contenders.into_iter().enumerate() {
        let name = args.prefix.clone();
        tasks.spawn(async move { once(&mut contender, &name, worker as u64, worker as u64, clock).await });
    }
    while peer.queued(&args.prefix).await? < args.n + 1 {
        if clock.now() > QUEUEING.as_nanos() as u64 {
            return Err(format!("{} waiters did not enter the queue within {QUEUEING:?}", args.n).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let queued = clock.now();
    mark("begin")?;
    let released = clock.now();
    holder.release(guard).await?;
    let mut records = Vec::new();
    while let Some(task) = tasks.join_next().await {
        records.push(task??);
    }
    mark("end")?;
    protocol::report_drain(args, &records, queued, released)
}

async fn hold<P: Peer>(args: &Args, peer: &P) -> Result<()> {
    let mut contender = peer.contender().await?;
    match args.workload.as_str() {
        "wait" => {
            say("WAITING")?;
            let _guard = contender.acquire(&args.prefix).await?;
            say("GRANTED")
        }
        "hold" => {
            let _guard = contender.acquire(&args.prefix).await?;
            say("HELD")?;
            protocol::until_stdin_ends()
        }
        _ => {
            let mut guards = Vec::new();
            for lock in 0..args.n {
                guards.push(contender.acquire(&lock_name(&args.prefix, lock)).await?);
            }
            say("HELD")?;
            protocol::until_stdin_ends()
        }
    }
}

fn lock_name(prefix: &str, lock: u64) -> String {
    format!("{prefix}/l{lock:05}")
}

/// A small generator of random numbers (xorshift), the same in every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
