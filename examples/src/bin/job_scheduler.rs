//! Jobs that a leader has done at every tick, and the next leader when it is gone, with an election.
//!
//! The use of the election is in [`Cli::work`] and [`Cli::lead`]; `cargo run --release -p examples --bin job_scheduler -- --help`
//! tells the rest.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::Failure;
use examples::fault::Fault;
use examples::fleet::{self, EXIT_CODES, Example, Fleet, Worker, duration};
use examples::jobs::{Done, Due, JOBS, Jobs};
use examples::report::short;
use examples::setback::Setback;
use examples::verdict::Report;
use lock_core::Leadership;

/// Many stand by to be the scheduler; each job must be done once at each tick, whoever leads.
#[derive(Clone, Debug, Parser)]
#[command(name = "job_scheduler", after_help = EXIT_CODES, mut_arg("workers", |arg| arg.default_value("1")))]
struct Cli {
    #[command(flatten)]
    fleet: Fleet,

    /// Stop one process at the worst moment, for longer than the ttl
    #[arg(long, conflicts_with = "kill")]
    stall: bool,

    /// The election's name
    #[arg(long, value_name = "NAME", default_value = "job-scheduler")]
    election: String,

    /// Ticks at which jobs are due
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u32).range(1..))]
    ticks: u32,

    /// The time from tick to tick
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    every: Duration,

    /// Ticks after which a leader hands over to the next
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    term: u32,
}

impl Cli {
    /// Has jobs done for a term. Returns whether there are more to come.
    async fn lead(&self, leadership: &Leadership, worker: &Worker) -> Result<bool, Setback> {
        let mut jobs = worker.connect::<Jobs>().await?;
        for _ in 0..self.term as usize * JOBS.len() {
            // What is done is kept with the jobs, not here. The fencing token goes along with each request: from now on
            // nobody who led before is heard.
            let Some(due) = jobs.next(leadership).await? else { return Ok(false) };
            jobs.run(leadership, due).await?;
            // Somebody asks for the next leader, perhaps to take this process out of service.
            if leadership.is_revoked() {
                break;
            }
        }
        Ok(true)
    }
}

impl Example for Cli {
    type Resource = Jobs;

    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn fault(&self) -> Option<Fault> {
        if self.stall { Some(Fault::Stall) } else { self.fleet.fault() }
    }

    fn resource(&self) -> Jobs {
        Jobs::new(self.ticks, self.every)
    }

    fn introduction(&self) -> String {
        let Self { fleet, ticks, term, .. } = self;
        let every = humantime::format_duration(self.every);
        format!("{} have jobs done at {ticks} ticks, one every {every}, and lead for {term} ticks,", fleet.shown())
    }

    /// Stands for leadership again and again, and leads when it is elected.
    async fn work(&self, worker: &Worker) -> Result<(), Failure> {
        let mut selector = worker.client.election(&self.election)?.selector(worker.who.to_string())?;
        while let Some(turn) = selector.next().await? {
            // Stopped before anybody else can lead.
            let led = turn.run(self.lead(&turn, worker)).await;
            match led.map_err(Setback::from).and_then(|led| led) {
                Ok(true) => turn.done().await,
                Ok(false) => {
                    turn.done().await;
                    break;
                }
                // Stands again after a pause, so that another one can try.
                Err(setback) if setback.is_passing() => turn.failed().await,
                Err(setback) => return Err(setback.into()),
            };
        }
        Ok(())
    }

    fn verdict(&self, jobs: &Jobs, report: &mut Report) {
        let done = jobs.done();
        let leaders: Vec<_> = done
            .chunk_by(|one, next| one.process == next.process)
            .map(|term| format!("process {} for {} jobs", term[0].process, term.len()))
            .collect();
        report.fact("leaders", leaders.join(", then "));
        let late = done.iter().map(|done| done.late).max().unwrap_or_default();
        report.fact("late", format!("at most {} after the tick", short(late)));
        let all = (0..self.ticks).flat_map(|tick| (0..JOBS.len() as u32).map(move |job| Due { tick, job }));
        let wrong = done.iter().zip(all).find(|(done, due)| done.due != *due);
        report.claim(
            "each job was done once at each tick, and in its turn",
            wrong.is_none() && done.len() <= self.ticks as usize * JOBS.len(),
            wrong.map_or_else(
                || format!("{:?} too many", done.last()),
                |(Done { due: it, .. }, due)| format!("{it:?} where {due:?} was due"),
            ),
        );
        if report.is_finished() {
            let (jobs, all) = (done.len(), self.ticks as usize * JOBS.len());
            report.claim("all jobs were done", jobs == all, format!("{jobs} of {all}"));
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    fleet::main::<Cli>().await
}
