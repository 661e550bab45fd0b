//! A page in a cache that one refreshes when it is stale, while the others go on with the old one.
//!
//! The use of the lock is in [`Cli::page`]; `cargo run --release -p examples --bin cache_refresh -- --help` tells the rest.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::Failure;
use examples::cache::{Cache, Page};
use examples::fault::Fault;
use examples::fleet::{self, EXIT_CODES, Example, Fleet, Worker, duration};
use examples::service::Connection;
use examples::setback::{Setback, keep_trying};
use examples::verdict::Report;
use lock_core::Mutex;

/// Many want a page that is slow to make; only one may have it made, and only when it is stale.
#[derive(Clone, Debug, Parser)]
#[command(name = "cache_refresh", after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    fleet: Fleet,

    /// Stop one process at the worst moment, for longer than the ttl
    #[arg(long, conflicts_with = "kill")]
    stall: bool,

    /// The lock's name
    #[arg(long, value_name = "NAME", default_value = "cache-refresh")]
    lock: String,

    /// How often the page is refreshed before the program ends
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..))]
    refreshes: u32,

    /// How long a page is fresh
    #[arg(long, value_name = "TIME", default_value = "150ms", value_parser = duration)]
    fresh_for: Duration,
}

impl Cli {
    /// The page: a fresh one if somebody has made it, else the old one while somebody makes it.
    async fn page(&self, mutex: &Mutex, cache: &mut Connection<Cache>) -> Result<Page, Setback> {
        let guard = match cache.get().await? {
            Some(fresh) if fresh.fresh => return Ok(fresh),
            // Whoever has the lock refreshes it, and the others do not wait for that.
            Some(stale) => match mutex.try_lock().await? {
                Some(guard) => guard,
                None => return Ok(stale),
            },
            // There is nothing to go on with.
            None => mutex.lock().await?,
        };
        // Somebody may have refreshed it since the first look.
        if let Some(fresh) = cache.get_as_holder(&guard).await?.filter(|page| page.fresh) {
            return Ok(fresh);
        }
        let page = guard.run(cache.make()).await??;
        // Refused when somebody else has had the lock since.
        cache.put(&guard, page).await?;
        guard.release().await;
        Ok(page)
    }
}

impl Example for Cli {
    type Resource = Cache;

    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn fault(&self) -> Option<Fault> {
        if self.stall { Some(Fault::Stall) } else { self.fleet.fault() }
    }

    fn resource(&self) -> Cache {
        Cache::new(self.fresh_for, self.refreshes)
    }

    fn introduction(&self) -> String {
        let fresh_for = humantime::format_duration(self.fresh_for);
        format!("{} want a page that is fresh for {fresh_for} and takes 100ms to make,", self.fleet.shown())
    }

    async fn work(&self, worker: &Worker) -> Result<(), Failure> {
        let mutex = worker.client.mutex(&self.lock)?;
        let turn = async || {
            // After a setback the old connection may still wait for an answer.
            let mut cache = worker.connect::<Cache>().await?;
            let page = self.page(&mutex, &mut cache).await?;
            cache.use_page(page).await?;
            Ok::<_, Setback>(page)
        };
        while keep_trying(&turn).await?.edition < self.refreshes {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    fn verdict(&self, cache: &Cache, report: &mut Report) {
        let seen = cache.seen();
        report.fact("made", format!("{} pages", seen.made));
        report.fact("used", format!("{} times fresh, {} times the old one meanwhile", seen.fresh, seen.stale));
        report.claim(
            "the page was never made by two at once",
            seen.most <= 1,
            format!("there were {} at once", seen.most),
        );
        report.claim(
            "it was never made while there was a fresh one",
            seen.needless == 0,
            format!("{} times of {}", seen.needless, seen.made),
        );
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    fleet::main::<Cli>().await
}
