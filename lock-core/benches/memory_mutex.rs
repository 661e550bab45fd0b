//! The mutex on the memory backend beside `tokio::sync::Mutex`: the cost of all that is not I/O.
//!
//! One iteration is a lock and a release. All runs on one thread, so that the scheduler of the system has no part in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use lock_core::Client;
use lock_core::memory::Memory;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let mut criterion = criterion.configure_from_args();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::builder(Memory::new()).runtime(runtime.handle().clone());
    let client = runtime.block_on(client.connect()).expect("the store in memory answers");
    let (ours, tokios) = (client.mutex("ledger").expect("a name"), Arc::new(tokio::sync::Mutex::new(())));

    let mut group = criterion.benchmark_group("mutex");
    for tasks in [1, 2, 16] {
        let case = if tasks == 1 { "uncontended".to_owned() } else { format!("{tasks} tasks") };
        group.bench_function(BenchmarkId::new("memory", &case), |bencher| {
            let ours = ours.clone();
            let once = move || {
                let ours = ours.clone();
                async move {
                    let guard = ours.lock().await.expect("granted");
                    hold(tasks).await;
                    guard.release().await;
                }
            };
            bencher.iter_custom(|iterations| runtime.block_on(all(tasks, iterations, once.clone())));
        });
        group.bench_function(BenchmarkId::new("tokio", &case), |bencher| {
            let tokios = tokios.clone();
            let once = move || {
                let tokios = tokios.clone();
                async move {
                    let _guard = tokios.lock().await;
                    hold(tasks).await;
                }
            };
            bencher.iter_custom(|iterations| runtime.block_on(all(tasks, iterations, once.clone())));
        });
    }
    group.finish();
    criterion.final_summary();
}

/// With others, until each of them has come to wait; on one thread there would be no contention otherwise.
async fn hold(tasks: u64) {
    if tasks > 1 {
        tokio::task::yield_now().await;
    }
}

/// How long `tasks` take to do something `iterations` times in all.
async fn all<F>(tasks: u64, iterations: u64, once: impl Fn() -> F + Clone + Send + 'static) -> Duration
where
    F: Future<Output = ()> + Send,
{
    let began = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let once = once.clone();
        running.spawn(async move {
            for _ in (task..iterations).step_by(tasks as usize) {
                once().await;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no panic");
    }
    began.elapsed()
}
