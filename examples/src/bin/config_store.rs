//! Settings that many read and few write, with a read-write lock.
//!
//! The use of the lock is in [`Cli::read`] and [`Cli::write`]; `cargo run --release -p examples --bin config_store -- --help`
//! tells the rest.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::Failure;
use examples::fault::Fault;
use examples::fleet::{self, EXIT_CODES, Example, Fleet, Worker};
use examples::setback::{Setback, keep_trying};
use examples::settings::Settings;
use examples::verdict::Report;
use lock_core::RwLock;

/// Many read settings that are in several files, and one in each process writes them; nobody may use half of a change.
#[derive(Clone, Debug, Parser)]
#[command(name = "config_store", after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    fleet: Fleet,

    /// Stop one process at the worst moment, for longer than the ttl
    #[arg(long, conflicts_with = "kill")]
    stall: bool,

    /// The lock's name
    #[arg(long, value_name = "NAME", default_value = "config-store")]
    lock: String,

    /// How often the settings are changed, by all processes together
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u64).range(1..))]
    changes: u64,
}

impl Cli {
    /// Reads the settings together with other readers, and uses them. Returns their version.
    async fn read(&self, lock: &RwLock, worker: &Worker) -> Result<u64, Setback> {
        let reading = lock.read().await?;
        let mut settings = worker.connect::<Settings>().await?;
        let config = reading.run(settings.load(&reading)).await??;
        reading.release().await;
        // With nobody writing this can only be what a writer that died has left: the next one writes all of it anew.
        if !config.unfinished {
            settings.apply(config.clone(), None).await?;
        }
        Ok(config.version())
    }

    /// Changes the settings alone, and goes on as a reader. Returns their version.
    async fn write(&self, lock: &RwLock, worker: &Worker) -> Result<u64, Setback> {
        let writing = lock.write().await?;
        let mut settings = worker.connect::<Settings>().await?;
        let change = async {
            let version = settings.version(&writing).await? + 1;
            settings.save(&writing, version).await?;
            Ok::<_, Setback>(version)
        };
        let written = writing.run(change).await??;

        // Lets the other readers in, and no writer before this one has seen its change work.
        let reading = writing.downgrade().await?;
        let config = reading.run(settings.load(&reading)).await??;
        settings.apply(config, Some(written)).await?;
        reading.release().await;
        Ok(written)
    }
}

impl Example for Cli {
    type Resource = Settings;

    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn fault(&self) -> Option<Fault> {
        if self.stall { Some(Fault::Stall) } else { self.fleet.fault() }
    }

    fn resource(&self) -> Settings {
        Settings::new(self.changes)
    }

    fn introduction(&self) -> String {
        let fleet = self.fleet.shown();
        format!("{fleet} read settings, and the first of each process changes them, {} times in all,", self.changes)
    }

    async fn work(&self, worker: &Worker) -> Result<(), Failure> {
        let lock = worker.client.rw_lock(&self.lock)?;
        loop {
            let version = match worker.who.worker {
                0 => keep_trying(|| self.write(&lock, worker)).await?,
                _ => keep_trying(|| self.read(&lock, worker)).await?,
            };
            if version >= self.changes {
                return Ok(());
            }
            // So that they come at any time, and not in step.
            let pause = if worker.who.worker == 0 { 0..150 } else { 0..20 };
            tokio::time::sleep(Duration::from_millis(fastrand::u64(pause))).await;
        }
    }

    fn verdict(&self, settings: &Settings, report: &mut Report) {
        let seen = settings.seen();
        report.fact("version", format!("{} in the end", settings.version()));
        report.fact("read", format!("and used {} times, by up to {} at once", seen.uses, seen.readers));
        report.claim(
            "nobody used settings that were half old and half new",
            seen.torn.is_empty(),
            format!("{} times, such as {:?}", seen.torn.len(), seen.torn.first()),
        );
        report.claim("nobody wrote while somebody read", seen.disturbed == 0, format!("{} times", seen.disturbed));
        report.claim(
            "every writer read what it had written, when it went on as a reader",
            seen.overwritten.is_empty(),
            format!("{} times it was {:?}", seen.overwritten.len(), seen.overwritten.first()),
        );
        if report.is_finished() {
            let all = settings.version() >= self.changes;
            report.claim("all changes were made", all, format!("only {}", settings.version()));
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    fleet::main::<Cli>().await
}
