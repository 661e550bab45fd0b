//! `lockctl bench`: how fast locks are here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_core::Client;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::duration;
use crate::connect::Store;
use crate::exit::{Exit, Failure};
use crate::output::time::measured;
use crate::output::{self, json, table};
use crate::visit::{Endings, farewell};

/// What `bench` is asked to do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It uses names of its own, which start with lockctl-bench/, and leaves nothing behind. It is a load on the store: think
before running it beside production.")]
pub(crate) struct Args {
    /// How many contend for one lock, each with a session of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,

    /// How long each of the two parts takes
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = time)]
    time: Duration,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let shortest_to_longest = Duration::from_millis(100)..=Duration::from_secs(3600);
    let expected = "expected 100ms to 1h".to_owned();
    duration(text).and_then(|time| if shortest_to_longest.contains(&time) { Ok(time) } else { Err(expected) })
}

/// What was measured with one number of workers.
#[derive(Debug, Serialize)]
struct Load {
    workers: usize,
    grants: usize,
    per_second: f64,
    /// From asking for the lock to having it.
    acquire_median_us: u128,
    acquire_p99_us: u128,
    acquire_longest_us: u128,
    /// From letting go to being told that it was done.
    release_median_us: u128,
    /// The fewest and the most that one worker got.
    least: usize,
    most: usize,
}

#[derive(Debug, Serialize)]
struct Report {
    backend: String,
    alone: Load,
    contended: Load,
}

/// Times one grant.
#[derive(Clone, Copy, Debug)]
struct Sample {
    acquire: Duration,
    release: Duration,
}

/// Measures acquiring and releasing, alone and contended.
///
/// # Errors
/// That the store cannot be reached, or a lock was held twice.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    let url = store.url()?;
    store.warn_of_password(&url);
    let mut endings = Endings::new()?;
    let mut clients = Vec::new();
    let measured = endings.unless(measure(store, &url, &args, &mut clients)).await;
    farewell(endings, &clients).await;
    let (alone, contended) = measured?;
    let report = Report { backend: lock_any::shown(&url), alone, contended };
    if args.json {
        json::print(&report)?;
    } else {
        output::print_lines(&lines(&report))?;
    }
    Ok(Exit::OK)
}

async fn measure(store: &Store, url: &str, args: &Args, clients: &mut Vec<Client>) -> Result<(Load, Load), Failure> {
    for _ in 0..args.workers {
        clients.push(store.connect_to(url, Some("lockctl bench")).await?);
    }
    Ok((load(&clients[..1], args.time).await?, load(clients, args.time).await?))
}

/// Whether somebody is inside, and how often somebody was when another came.
#[derive(Debug, Default)]
struct Room {
    taken: AtomicBool,
    overlaps: AtomicU64,
}

async fn load(clients: &[Client], time: Duration) -> Result<Load, Failure> {
    let name = format!("lockctl-bench/{:016x}", fastrand::u64(..));
    let room = Arc::new(Room::default());
    let mut workers = JoinSet::new();
    let began = Instant::now();
    for client in clients {
        workers.spawn(work(client.clone(), name.clone(), room.clone(), began + time));
    }
    let mut all = Vec::with_capacity(clients.len());
    while let Some(worker) = workers.join_next().await {
        all.push(worker.map_err(|error| Failure::internal(format!("a worker failed: {error}")))??);
    }
    let took = began.elapsed();
    match room.overlaps.load(Ordering::SeqCst) {
        0 => Ok(summary(&all, took)),
        overlaps => Err(Failure::internal(format!("{name} had two holders at once, {overlaps} times"))),
    }
}

async fn work(client: Client, name: String, room: Arc<Room>, until: Instant) -> Result<Vec<Sample>, Failure> {
    let mutex = client.mutex(name)?;
    let mut samples = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        let guard = mutex.lock().await?;
        let acquire = asked.elapsed();
        if room.taken.swap(true, Ordering::SeqCst) {
            room.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        guard.check()?;
        room.taken.store(false, Ordering::SeqCst);
        let let_go = Instant::now();
        guard.release().await;
        samples.push(Sample { acquire, release: let_go.elapsed() });
    }
    Ok(samples)
}

fn summary(workers: &[Vec<Sample>], took: Duration) -> Load {
    let sorted = |time: fn(&Sample) -> Duration| {
        let mut times: Vec<_> = workers.iter().flatten().map(time).collect();
        times.sort_unstable();
        times
    };
    let (acquire, release) = (sorted(|sample| sample.acquire), sorted(|sample| sample.release));
    let at = |times: &[Duration], percent: usize| {
        times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).map_or(0, Duration::as_micros)
    };
    Load {
        workers: workers.len(),
        grants: acquire.len(),
        per_second: acquire.len() as f64 / took.as_secs_f64(),
        acquire_median_us: at(&acquire, 50),
        acquire_p99_us: at(&acquire, 99),
        acquire_longest_us: at(&acquire, 100),
        release_median_us: at(&release, 50),
        least: workers.iter().map(Vec::len).min().unwrap_or(0),
        most: workers.iter().map(Vec::len).max().unwrap_or(0),
    }
}

fn lines(report: &Report) -> Vec<String> {
    let heads =
        ["WORKERS", "GRANTS", "PER SECOND", "ACQUIRE median", "99%", "longest", "RELEASE median", "GRANTS OF ONE"];
    let row = |load: &Load| {
        let time = |micros: u128| measured(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)));
        vec![
            load.workers.to_string(),
            load.grants.to_string(),
            format!("{:.0}", load.per_second),
            time(load.acquire_median_us),
            time(load.acquire_p99_us),
            time(load.acquire_longest_us),
            time(load.release_median_us),
            if load.least == load.most { load.most.to_string() } else { format!("{} to {}", load.least, load.most) },
        ]
    };
    table::aligned(&[heads.map(str::to_owned).to_vec(), row(&report.alone), row(&report.contended)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_right_figures() {
        let sample = |ms| Sample { acquire: Duration::from_millis(ms), release: Duration::from_millis(1) };
        let workers = [(1..=60).map(sample).collect::<Vec<_>>(), (61..=100).map(sample).collect()];
        let load = summary(&workers, Duration::from_secs(2));
        assert_eq!((load.workers, load.grants, load.least, load.most), (2, 100, 40, 60));
        assert_eq!((load.acquire_median_us, load.acquire_p99_us, load.acquire_longest_us), (51_000, 100_000, 100_000));
        assert!((load.per_second - 50.0).abs() < 0.01);
        assert_eq!(summary(&[Vec::new()], Duration::from_secs(1)).grants, 0);
    }
}
