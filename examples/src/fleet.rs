//! From a command line to several processes at work on one lock and one resource, and to a verdict.

use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::error::ErrorKind;
use clap::{Args, Parser};
use lock_core::Client;
use lock_core::memory::Memory;
use tokio::task::JoinSet;

use crate::children::Children;
use crate::fault::{Fault, Reins, interrupt};
use crate::history::Who;
use crate::report::{Style, complain, print, short};
use crate::service::{Connection, Resource, Service};
use crate::stop::Stop;
use crate::tasks::{Rein, Tasks};
use crate::verdict::Report;
use crate::{Failure, backend};

/// What every example's help says in the end.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  all claims hold, also after Ctrl-C and when processes were killed
  1  a claim does not hold
  2  wrong usage, or an error of the backend";

/// Of the memory backend, so that nobody waits long for a process that was killed.
const MEMORY_TTL: Duration = Duration::from_secs(2);

/// The options that all examples have.
#[derive(Args, Clone, Debug)]
pub struct Fleet {
    /// The store: memory, file:///DIRECTORY, etcd://HOST:2379/NAMESPACE or zk://HOST:2181/PATH; etcds:// and zks:// for TLS;
    /// hosts with commas
    #[arg(long, value_name = "URL", default_value = "memory")]
    backend: String,

    /// Processes; with the memory backend, tasks with a client each stand for them
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,

    /// Workers in each process
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,

    /// After this time others get what a dead process held; if not given, 2s with the memory backend, else the backend's own
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,

    /// Kill one process at the worst moment
    #[arg(long)]
    kill: bool,

    /// The number of this process, which another one started
    #[arg(long, hide = true, requires = "resource")]
    process: Option<u32>,

    /// Where the first process serves the resource
    #[arg(long, hide = true)]
    resource: Option<SocketAddr>,
}

/// A program that shows one use of a lock, and proves what it says about it.
pub trait Example: Parser + Send + Sync + 'static {
    /// What its lock protects.
    type Resource: Resource;

    /// The options that all examples have.
    fn fleet(&self) -> &Fleet;

    /// What is to happen to one process.
    fn fault(&self) -> Option<Fault> {
        self.fleet().fault()
    }

    /// The resource as it is at the start.
    fn resource(&self) -> Self::Resource;

    /// What is going to happen, in a sentence that goes on with where.
    fn introduction(&self) -> String;

    /// What is done once, before the processes start.
    ///
    /// # Errors
    /// Why they must not start.
    fn prepare(&self, _client: &Client) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// What each worker does.
    ///
    /// # Errors
    /// Why it cannot go on.
    fn work(&self, worker: &Worker) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What the resource has seen.
    fn verdict(&self, resource: &Self::Resource, report: &mut Report);
}

/// Somebody who works: in a process of many, one of many.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Who it is.
    pub who: Who,
    /// The client of its process.
    pub client: Client,
    resource: SocketAddr,
}

impl Worker {
    /// Opens a connection to the resource.
    ///
    /// # Errors
    /// That nobody answers.
    pub async fn connect<R: Resource>(&self) -> std::io::Result<Connection<R>> {
        Connection::open(self.resource, self.who.process).await
    }
}

impl Fleet {
    /// How many workers there are in all processes.
    pub fn all_workers(&self) -> u32 {
        self.processes * self.workers
    }

    /// Whether one process is to be killed.
    pub fn fault(&self) -> Option<Fault> {
        self.kill.then_some(Fault::Kill)
    }

    /// Who works, for people to read.
    pub fn shown(&self) -> String {
        let count = |n: u32, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
        let processes = if self.processes == 1 { "1 process".into() } else { format!("{} processes", self.processes) };
        format!("{processes} with {} each", count(self.workers, "worker"))
    }

    fn workers(&self, process: u32, client: &Client, resource: SocketAddr) -> impl Iterator<Item = Worker> {
        (0..self.workers).map(move |worker| Worker { who: Who { process, worker }, client: client.clone(), resource })
    }
}

/// Runs an example with the arguments of the command line.
pub async fn main<E: Example>() -> ExitCode {
    let example = E::parse();
    let outcome = match (example.fleet().process, example.fleet().resource) {
        (Some(process), Some(resource)) => run_child(example, process, resource).await.map(|()| true),
        _ => run(example).await,
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

/// Does what the command line says. Returns whether all claims hold.
async fn run<E: Example>(example: E) -> Result<bool, Failure> {
    let fleet = example.fleet().clone();
    let fault = example.fault();
    if fault.is_some() && fleet.processes < 2 {
        let problem = "a process can only be interrupted when there are others: --processes must be at least 2";
        E::command().error(ErrorKind::ArgumentConflict, problem).exit();
    }
    let mut stop = Stop::listen()?;
    let memory = match fleet.backend.as_str() {
        "memory" => Some(backend::memory(fleet.ttl.or(Some(MEMORY_TTL)))?),
        _ => None,
    };
    let label = E::command().get_name().to_owned();
    let connecting = async {
        match &memory {
            Some(memory) => backend::open(memory.clone(), &label).await,
            None => backend::connect(&fleet.backend, fleet.ttl, &label).await,
        }
    };
    let client = tokio::select! {
        client = connecting => client?,
        () = stop.requested() => return Err("stopped before the backend was connected".into()),
    };
    let ttl = client.ttl().await?;
    example.prepare(&client).await?;
    client.close().await;

    let service = Service::start(example.resource(), fault.is_some()).await?;
    let (store, shown) = (backend::shown(&fleet.backend), humantime::format_duration(ttl));
    print(&format!("{} on {store} (ttl {shown}).\n\n", example.introduction()))?;
    let started = Instant::now();
    let example = Arc::new(example);
    let (reins, working) = match memory {
        Some(memory) => start_tasks(&example, &memory, &label, service.address()).await?,
        None => start_processes(&fleet, service.address())?,
    };
    let interrupting = async {
        match fault {
            Some(fault) => interrupt(fault, service.trap(), &reins, ttl).await,
            None => std::future::pending().await,
        }
    };
    let (outcome, went_on) = both(working.wait(&mut stop), interrupting).await;

    if fault.is_some() {
        print("\n")?;
    }
    let mut report = Report::new(outcome.is_ok() && !stop.was_requested());
    report.fact("time", short(started.elapsed()));
    for killed in outcome.iter().flatten() {
        report.fact("killed", killed);
    }
    example.verdict(service.resource(), &mut report);
    let (refused, contested) = (service.tally().refused(), service.tally().contested());
    if refused > 0 {
        report.fact("refused", format!("{refused} that came late, from holders that had been replaced"));
    }
    if E::Resource::COMPARES_TOKENS {
        let claim = "nobody who still held the lock was refused for a later holder";
        report.claim(claim, contested == 0, format!("{contested} times"));
    }
    if fault == Some(Fault::Stall) && report.is_finished() {
        report.claim("what came late was refused", refused > 0, "it was not");
    }
    if let Some(went_on) = went_on {
        report.claim("the others went on without it", went_on, "not in time");
    }
    print(&report.text(Style::of(&std::io::stdout())))?;
    let failure = match outcome {
        Ok(_) if fault.is_some() && went_on.is_none() && report.is_finished() => {
            Some("the work was over before the others could go on without one process: give it more".into())
        }
        outcome => outcome.err(),
    };
    match failure {
        Some(failure) if report.is_right() => Err(failure),
        Some(failure) => {
            complain(&*failure);
            Ok(false)
        }
        None => Ok(report.is_right()),
    }
}

async fn start_tasks<E: Example>(
    example: &Arc<E>,
    memory: &Memory,
    label: &str,
    resource: SocketAddr,
) -> Result<(Reins, Working), Failure> {
    let (mut tasks, mut reins) = (Tasks::default(), Vec::new());
    let fleet = example.fleet();
    for process in 0..fleet.processes {
        let memory = memory.clone().with_own_link();
        let rein = Rein::new(memory.link().clone());
        let client = backend::open(memory, &format!("{label} p{process}")).await?;
        for worker in fleet.workers(process, &client, resource) {
            let example = example.clone();
            tasks.start(rein.clone(), async move { example.work(&worker).await });
        }
        reins.push(rein);
    }
    Ok((Reins::Tasks(reins), Working::Tasks(tasks)))
}

fn start_processes(fleet: &Fleet, resource: SocketAddr) -> Result<(Reins, Working), Failure> {
    let resource = resource.to_string();
    let children = Children::start(fleet.processes, |process| {
        ["--process".into(), process.to_string().into(), "--resource".into(), resource.clone().into()].into()
    })?;
    print(&format!("Their process ids, if you want to kill one: {:?}\n\n", children.ids()))?;
    Ok((Reins::Processes(children.signals()), Working::Processes(children)))
}

/// Waits for the end of the work, and tells how the interruption of a process went if there was one until then. If a process
/// cannot be interrupted, the work ends with that.
async fn both<T: Send>(
    working: impl Future<Output = Result<T, Failure>> + Send,
    interrupting: impl Future<Output = Result<bool, Failure>> + Send,
) -> (Result<T, Failure>, Option<bool>) {
    let (mut working, mut interrupting) = (pin!(working), pin!(interrupting));
    let mut went_on = None;
    loop {
        tokio::select! {
            biased;
            outcome = &mut working => return (outcome, went_on),
            outcome = &mut interrupting, if went_on.is_none() => match outcome {
                Ok(outcome) => went_on = Some(outcome),
                Err(error) => return (Err(error), None),
            }
        }
    }
}

enum Working {
    Tasks(Tasks),
    Processes(Children),
}

impl Working {
    async fn wait(self, stop: &mut Stop) -> Result<Vec<String>, Failure> {
        match self {
            Self::Tasks(tasks) => tasks.wait(stop).await.map(|()| Vec::new()),
            Self::Processes(children) => children.wait(stop).await,
        }
    }
}

/// Runs as one of several processes.
async fn run_child<E: Example>(example: E, process: u32, resource: SocketAddr) -> Result<(), Failure> {
    let fleet = example.fleet().clone();
    let mut stop = Stop::listen()?.with_stdin();
    let label = format!("{} p{process}", E::command().get_name());
    let client = tokio::select! {
        client = backend::connect(&fleet.backend, fleet.ttl, &label) => client?,
        () = stop.requested() => return Ok(()),
    };
    let example = Arc::new(example);
    let mut workers = JoinSet::new();
    for worker in fleet.workers(process, &client, resource) {
        let example = example.clone();
        workers.spawn(async move { example.work(&worker).await });
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
    // A worker that is dropped gives back its locks, or its places in the queues.
    workers.shutdown().await;
    client.close().await;
    outcome
}

/// A duration on a command line.
///
/// # Errors
/// What was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a number with a unit, such as 2ms, 15s or 1m".to_owned())
}
