//! What the workers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lock_core::{Client, Mutex};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::record::Record;
use crate::{Failure, phase};

/// How long waiters may take to enter the queue.
const QUEUEING: Duration = Duration::from_secs(240);

/// What happened in one pass.
pub(crate) struct Pass {
    pub(crate) records: Vec<Record>,
    pub(crate) wall: Duration,
    pub(crate) began: SystemTime,
}

/// `workers` take and release locks, chosen at random, `total` times in all. None begins after `limit`.
pub(crate) async fn contend(locks: &[Mutex], workers: usize, total: usize, limit: Duration) -> Result<Pass, Failure> {
    let (tickets, locks) = (Arc::new(AtomicUsize::new(0)), Arc::new(locks.to_vec()));
    let (start, began) = (Instant::now(), SystemTime::now());
    let mut tasks: JoinSet<lock_core::Result<Vec<Record>>> = JoinSet::new();
    for worker in 0..workers {
        let (tickets, locks) = (tickets.clone(), locks.clone());
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(worker as u64);
            let mut records = Vec::new();
            loop {
                let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                if ticket >= total || start.elapsed() > limit {
                    return Ok(records);
                }
                records.push(once(&locks[random.usize(..locks.len())], worker, ticket, start).await?);
            }
        });
    }
    let mut records = Vec::with_capacity(total);
    while let Some(worker) = tasks.join_next().await {
        records.append(&mut worker??);
    }
    Ok(Pass { records, wall: start.elapsed(), began })
}

async fn once(lock: &Mutex, worker: usize, ticket: usize, start: Instant) -> lock_core::Result<Record> {
    let requested = start.elapsed();
    let guard = lock.lock().await?;
    let granted = start.elapsed();
    guard.check()?;
    guard.release().await;
    Ok(Record { worker, ticket, requested, granted, releasing: granted, released: start.elapsed() })
}

/// What happened when many had waited for one lock.
pub(crate) struct Drain {
    pub(crate) records: Vec<Record>,
    queued: Duration,
    released: Duration,
}

/// `waiters` queue up behind one holder, who then lets go.
pub(crate) async fn drain(client: &Client, lock: Mutex, waiters: usize) -> Result<Drain, Failure> {
    let holder = lock.lock().await?;
    let entered = client.metrics().enqueued;
    phase::mark("enq")?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for worker in 0..waiters {
        let lock = lock.clone();
        tasks.spawn(async move { once(&lock, worker, worker, start).await });
    }
    while client.metrics().enqueued < entered + waiters as u64 {
        if start.elapsed() > QUEUEING {
            return Err(format!("{waiters} waiters did not enter the queue within {QUEUEING:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let queued = start.elapsed();
    phase::mark("begin")?;
    let released = start.elapsed();
    holder.release().await;
    let mut records = Vec::with_capacity(waiters);
    while let Some(waiter) = tasks.join_next().await {
        records.push(waiter??);
    }
    phase::mark("end")?;
    Ok(Drain { records, queued, released })
}

impl Drain {
    /// The time from the release to the last grant, and how long they took to queue up.
    pub(crate) fn summary(&self) -> Value {
        let last = self.records.iter().map(|record| record.granted).max().unwrap_or_default();
        json!({
            "drain_s": last.saturating_sub(self.released).as_secs_f64(),
            "queued_s": self.queued.as_secs_f64(),
            "done": self.records.len(),
        })
    }
}
