//! Workers that want the same lock all the time, and a ledger that proves that only one has it.
//!
//! The use of the lock is in [`Worker::turn`]; `cargo run --release -p examples --bin workers -- --help` tells the rest.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use examples::children::Children;
use examples::history::{Event, Record, Who, verify};
use examples::ledger::{self, Ledger};
use examples::report::{Progress, Style, Summary, complain, print};
use examples::stop::Stop;
use examples::{Failure, backend};
use lock_core::clock::{BootClock, Clock};
use lock_core::{Client, Guard, Mutex};
use tokio::task::JoinSet;

const EXIT_CODES: &str = "\
Exit codes:
  0  the ledger is right, also after Ctrl-C and when processes were killed
  1  the ledger is wrong: two held the lock at once, or the order or the tokens are wrong
  2  wrong usage, or an error of the backend";

const EXAMPLES: &str = "\
Examples:
  workers
  workers --workers 64 --rounds 20 --hold 0s
  workers --backend etcd://localhost:2379 --processes 4
  workers --backend zk://h1:2181,h2:2181,h3:2181/locks --ttl 6s --processes 4 --json

With several processes, kill one, or a server, and see what becomes of the lock.";

/// Workers contend for one lock and write to a ledger under it; then the ledger is checked.
#[derive(Clone, Debug, Parser)]
#[command(name = "workers", after_help = EXIT_CODES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct Cli {
    /// The store: memory, file:///DIRECTORY, etcd://HOST:2379/NAMESPACE or zk://HOST:2181/PATH; etcds:// and zks:// for TLS;
    /// hosts with commas
    #[arg(long, value_name = "URL", default_value = "memory")]
    backend: String,

    /// The lock's name
    #[arg(long, value_name = "NAME", default_value = "workers-demo")]
    lock: String,

    /// Workers in each process
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,

    /// Processes; more than one need a backend other than memory
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,

    /// Times that each worker takes the lock
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How long a worker keeps the lock each time
    #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = duration)]
    hold: Duration,

    /// After this time others get the lock of a dead process; the backend's own if not given
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,

    /// The program gives up when all tries of a worker have failed for this long
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    patience: Duration,

    /// Keep the ledger in this file, one JSON record a line; else it is in memory, or in a temporary file
    #[arg(long, value_name = "FILE", overrides_with = "ledger")]
    ledger: Option<PathBuf>,

    /// Write nothing to the standard output but one line of JSON at the end
    #[arg(long)]
    json: bool,

    /// The number of this process, which another one started
    #[arg(long, hide = true)]
    process: Option<u32>,
}

/// One of many who want the lock.
struct Worker {
    who: Who,
    mutex: Mutex,
    ledger: Arc<Ledger>,
    cli: Arc<Cli>,
}

impl Worker {
    /// Takes its turn as often as it is to; after a setback once more.
    async fn work(self) -> Result<(), Failure> {
        for _ in 0..self.cli.rounds {
            let mut failing_since = None;
            let mut pause = Duration::from_millis(10);
            while let Err(error) = self.turn().await {
                if !error.is_passing() {
                    return Err(error.into());
                }
                let why = error.to_string();
                if failing_since.get_or_insert_with(Instant::now).elapsed() > self.cli.patience {
                    let patience = humantime::format_duration(self.cli.patience);
                    return Err(format!("{} gives up after {patience}: {why}", self.who).into());
                }
                self.ledger.write(&Record { at: now(), who: self.who, event: Event::Lost { why } })?;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
        Ok(())
    }

    /// Waits for the lock, writes to the ledger under it, and gives it back.
    async fn turn(&self) -> Result<(), Setback> {
        let asked = now();
        let guard = self.mutex.lock().await?;
        let (token, granted) = (guard.token(), now());

        self.write(&guard, granted, Event::Begin { token, granted, waited: granted.saturating_sub(asked) })?;
        // What happens in `run` is stopped before anybody else can have the lock.
        guard.run(self.hold(&guard, granted)).await??;
        self.write(&guard, granted, Event::End { token })?;

        // Whatever the answer is, the library sees to it that the lock is not kept.
        guard.release().await;
        Ok(())
    }

    /// The work that needs the lock: here it takes time and is noted now and then.
    async fn hold(&self, guard: &Guard, granted: u64) -> Result<(), Setback> {
        const BETWEEN_MARKS: Duration = Duration::from_millis(50);
        let mut left = self.cli.hold;
        while left > BETWEEN_MARKS {
            tokio::time::sleep(BETWEEN_MARKS).await;
            self.write(guard, granted, Event::Mark { token: guard.token() })?;
            left -= BETWEEN_MARKS;
        }
        tokio::time::sleep(left).await;
        Ok(())
    }

    /// Writes to the ledger if the lock is still held. Should this process stand still between the check and the write
    /// until somebody else has the lock, the ledger refuses the old token.
    fn write(&self, guard: &Guard, granted: u64, event: Event) -> Result<(), Setback> {
        let at = now();
        guard.check()?;
        let refused = match self.ledger.write(&Record { at, who: self.who, event }) {
            Err(refused @ ledger::Error::Fenced { .. }) => refused,
            result => return Ok(result?),
        };
        let at = now();
        let event = Event::Fenced { token: guard.token(), granted, held: guard.check().is_ok() };
        self.ledger.write(&Record { at, who: self.who, event })?;
        Err(refused.into())
    }
}

/// Why a turn did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error(transparent)]
    Lock(#[from] lock_core::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

impl Setback {
    /// Whether another try makes sense: sessions end, and servers restart.
    fn is_passing(&self) -> bool {
        match self {
            Self::Lock(error) => error.is_retryable(),
            Self::Ledger(error) => matches!(error, ledger::Error::Fenced { .. }),
        }
    }
}

/// Runs the workers of this process until all are done, one fails, or the user wants to stop.
async fn run_workers(client: Client, ledger: Arc<Ledger>, cli: Arc<Cli>, stop: &mut Stop) -> Result<(), Failure> {
    let mutex = client.mutex(&cli.lock)?;
    let mut workers = JoinSet::new();
    for worker in 0..cli.workers {
        let who = Who { process: cli.process.unwrap_or(0), worker };
        workers.spawn(Worker { who, mutex: mutex.clone(), ledger: ledger.clone(), cli: cli.clone() }.work());
    }
    let all_done = async {
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = all_done => outcome,
        () = stop.requested() => Ok(()),
    };
    // A worker that is dropped gives back the lock, or its place in the queue.
    workers.shutdown().await;
    client.close().await;
    outcome
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.process {
        Some(process) => run_child(cli, process).await.map(|()| true),
        None => run(cli).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            complain(&*error);
            ExitCode::from(2)
        }
    }
}

/// Does what the command line says. Returns whether the ledger is right.
async fn run(cli: Cli) -> Result<bool, Failure> {
    if cli.processes > 1 && cli.backend == "memory" {
        let problem = "--processes needs a backend that processes can share, such as --backend \
                       file:///tmp/locks, etcd://localhost:2379 or zk://localhost:2181: the memory backend is the memory of one process";
        Cli::command().error(ErrorKind::ArgumentConflict, problem).exit();
    }
    let mut stop = Stop::listen()?;
    let (path, _dir) = match &cli.ledger {
        None if cli.processes > 1 => {
            let dir = tempfile::Builder::new().prefix("workers-").tempdir()?;
            (Some(dir.path().join("ledger")), Some(dir))
        }
        path => (path.clone(), None),
    };
    let ledger = Arc::new(match &path {
        Some(path) => Ledger::create(path).map_err(|error| format!("--ledger {}: {error}", path.display()))?,
        None => Ledger::in_memory(),
    });
    let client = tokio::select! {
        client = backend::connect(&cli.backend, cli.ttl, "workers") => client?,
        () = stop.requested() => return Err("stopped before the backend was connected".into()),
    };
    client.mutex(&cli.lock)?;
    if !cli.json {
        print(&introduction(&cli, client.ttl().await?))?;
    }

    let started = Instant::now();
    let expected = u64::from(cli.workers) * u64::from(cli.processes) * u64::from(cli.rounds);
    let cli = Arc::new(cli);
    let work = async {
        match &path {
            Some(path) if cli.processes > 1 => {
                client.close().await;
                let children = start_processes(cli.processes, path)?;
                if !cli.json {
                    print(&format!("Their process ids, if you want to kill one: {:?}\n\n", children.ids()))?;
                }
                children.wait(&mut stop).await
            }
            _ => run_workers(client, ledger.clone(), cli.clone(), &mut stop).await.map(|()| Vec::new()),
        }
    };
    let (outcome, records) = watch(&ledger, Progress::new(expected), work).await?;
    let (killed, failure) = match outcome {
        Ok(killed) => (killed, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };

    let summary = Summary { verdict: verify(&records), expected, elapsed: started.elapsed(), killed };
    let right = summary.verdict.is_right();
    if cli.json {
        print(&format!("{}\n", summary.json()))?;
    } else {
        print(&summary.text(Style::of(&std::io::stdout())))?;
    }
    match failure {
        Some(failure) if right => Err(failure),
        Some(failure) => {
            complain(&*failure);
            Ok(false)
        }
        None => Ok(right),
    }
}

/// Runs as one of several processes, which share a ledger in a file.
async fn run_child(cli: Cli, process: u32) -> Result<(), Failure> {
    let path = cli.ledger.as_deref().ok_or("--process needs --ledger")?;
    let ledger = Arc::new(Ledger::open(path)?);
    let mut stop = Stop::listen()?.with_stdin();
    let label = format!("workers p{process}");
    let client = tokio::select! {
        client = backend::connect(&cli.backend, cli.ttl, &label) => client?,
        () = stop.requested() => return Ok(()),
    };
    run_workers(client, ledger, Arc::new(cli), &mut stop).await
}

fn start_processes(count: u32, ledger: &Path) -> Result<Children, Failure> {
    Children::start(count, |process| {
        vec!["--process".into(), process.to_string().into(), "--ledger".into(), ledger.into()]
    })
}

/// Shows the progress of `work` until it is done. Returns its result and the ledger's records.
async fn watch<T>(
    ledger: &Ledger,
    mut progress: Progress,
    work: impl Future<Output = T> + Send,
) -> Result<(T, Vec<Record>), Failure>
where
    T: Send,
{
    let mut work = std::pin::pin!(work);
    let mut records = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        let done = tokio::select! {
            result = &mut work => Some(result),
            _ = ticks.tick() => None,
        };
        let new = ledger.read_new()?;
        progress.update(&new);
        records.extend(new);
        if let Some(result) = done {
            progress.clear();
            return Ok((result, records));
        }
    }
}

fn introduction(cli: &Cli, ttl: Duration) -> String {
    let workers = match (cli.processes, cli.workers) {
        (1, 1) => "1 worker wants".to_owned(),
        (1, workers) => format!("{workers} workers want"),
        (processes, workers) => format!("{processes} processes with {workers} workers each want"),
    };
    format!(
        "{workers} the lock {:?} on {} (ttl {}): {} times each, for {} each time.\n\n",
        cli.lock,
        backend::shown(&cli.backend),
        humantime::format_duration(ttl),
        cli.rounds,
        humantime::format_duration(cli.hold),
    )
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a number with a unit, such as 2ms, 15s or 1m".to_owned())
}

/// The moment, on a clock that all processes of this machine share.
fn now() -> u64 {
    BootClock.now().as_nanos()
}
