//! Measures the mutex on any backend, through the public API: one workload a run.

#![allow(clippy::future_not_send, reason = "the program has one task of its own, on the main thread")]

mod phase;
mod record;
mod setup;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::runtime::Builder;

use phase::say;
use record::Record;

/// Why a run ends without a result.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measure the mutex on any backend. The last line on stdout is the result, as JSON
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Cli {
    /// What to do
    workload: Workload,

    /// The store: memory, etcd://HOST:PORT/NAMESPACE, zk://HOST:PORT/PATH
    #[arg(long, value_name = "URL", env = "LOCK_BENCH_BACKEND", default_value = "memory")]
    backend: String,

    /// Servers, instead of those in the URL, as HOST:PORT,…
    #[arg(long, value_name = "HOSTS")]
    endpoint: Option<String>,

    /// The lock; its last part is the name, the rest is put behind the path of the URL
    #[arg(long, value_name = "PATH", default_value = "bench/lock")]
    prefix: String,

    /// Acquisitions, of all workers together; waiters, with w4; locks, with holdmany
    #[arg(long, default_value_t = 2000)]
    n: usize,

    /// Workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    c: u32,

    /// Locks that the workers choose from at random
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    locks: u32,

    /// Acquisitions before the measurement begins
    #[arg(long, default_value_t = 300)]
    warm: usize,

    /// The ttl of the session in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    ttl: u64,

    /// No acquisition begins after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    max_s: u64,

    /// Threads of the program; with 1, all happens on the main thread
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,

    /// Renew and wait on these threads too, and not on one of the library
    #[arg(long)]
    shared_runtime: bool,

    /// Write a line for each acquisition: worker, ticket, and the times of request, grant, release and its end, in ns
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Examples:
  lock-bench w2 --c 16
  lock-bench w1 --backend etcd://localhost:2379
  lock-bench w4 --n 1000 --backend zk://localhost:2181

With BENCH_MARKS in the environment the program stops at each line MARK until it reads a line, so that whoever runs it can
read the counters of the servers.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// One worker, one lock
    W1,
    /// Many workers, one lock
    W2,
    /// Many workers, many locks
    W3,
    /// Many wait for one lock, and then each gets it
    W4,
    /// Hold a lock until stdin ends
    Hold,
    /// Wait for a lock, once
    Wait,
    /// Hold many locks until stdin ends
    Holdmany,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut runtime = match cli.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(usize::from(cli.threads)).enable_all().build();
    // As a task, so that it does not take turns with the threads of the others.
    let ended = runtime.map_err(Failure::from).and_then(|runtime| {
        let task = runtime.spawn(async move { run(&cli).await });
        runtime.block_on(task)?
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lock-bench: {failure}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: &Cli) -> Result<(), Failure> {
    let many = matches!(cli.workload, Workload::W3 | Workload::Holdmany);
    let setup = setup::Setup::new(cli, many)?;
    let client = setup.connect().await?;
    let limit = Duration::from_secs(cli.max_s);
    match cli.workload {
        Workload::W1 | Workload::W2 | Workload::W3 => {
            let locks = setup.mutexes(&client)?;
            let workers = cli.c as usize;
            workload::contend(&locks, workers, cli.warm.max(workers), limit).await?;
            phase::mark("begin")?;
            let pass = workload::contend(&locks, workers, cli.n, limit).await?;
            phase::mark("end")?;
            write(cli, &pass.records)?;
            let began = phase::unix_nanos(pass.began);
            say(&record::summary(&pass.records, pass.wall, began).to_string())?;
        }
        Workload::W4 => {
            let drain = workload::drain(&client, setup.mutex(&client)?, cli.n).await?;
            write(cli, &drain.records)?;
            say(&drain.summary().to_string())?;
        }
        Workload::Hold => {
            let guard = setup.mutex(&client)?.lock().await?;
            say("HELD")?;
            phase::until_stdin_ends().await?;
            guard.release().await;
        }
        Workload::Wait => {
            say("WAITING")?;
            let guard = setup.mutex(&client)?.lock().await?;
            say("GRANTED")?;
            guard.release().await;
        }
        Workload::Holdmany => {
            let mut guards = Vec::with_capacity(cli.n);
            for lock in 0..cli.n {
                guards.push(client.mutex(setup.name(lock))?.lock().await?);
            }
            say("HELD")?;
            phase::until_stdin_ends().await?;
        }
    }
    client.close().await;
    Ok(())
}

fn write(cli: &Cli, records: &[Record]) -> Result<(), Failure> {
    let Some(path) = &cli.raw else { return Ok(()) };
    record::write(path, records).map_err(|error| format!("--raw {}: {error}", path.display()).into())
}
