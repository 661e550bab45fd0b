//! A pool of connections that is bounded across processes, with a semaphore.
//!
//! The use of the lock is in [`Pool::connection`]; `cargo run --release -p examples --bin connection_pool -- --help` tells the
//! rest.

use std::process::ExitCode;

use clap::Parser;
use examples::Failure;
use examples::database::Database;
use examples::fleet::{self, EXIT_CODES, Example, Fleet, Worker};
use examples::service::Connection;
use examples::setback::{Setback, keep_trying};
use examples::verdict::Report;
use lock_core::{Client, Permits, Semaphore};

/// Many want connections to a database that bears only a few; the database counts them.
#[derive(Clone, Debug, Parser)]
#[command(name = "connection_pool", after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    fleet: Fleet,

    /// The pool's name
    #[arg(long, value_name = "NAME", default_value = "connection-pool")]
    pool: String,

    /// Connections that may be open at a time, in all processes together
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// Connections that each worker takes from the pool, one after the other
    #[arg(long, value_name = "N", default_value = "40", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Queries made with each connection.
const QUERIES: u32 = 2;

/// As many connections as the semaphore has permits.
struct Pool<'a> {
    permits: Semaphore,
    worker: &'a Worker,
}

/// A connection with its permit. The order of the fields is that in which they are dropped: when the permit is free, the
/// connection is closed.
struct Pooled {
    connection: Connection<Database>,
    permit: Permits,
}

impl Pool<'_> {
    /// Waits until there may be one more connection, and opens it.
    async fn connection(&self) -> Result<Pooled, Setback> {
        let permit = self.permits.acquire(1).await?;
        let connection = permit.run(self.worker.connect()).await??;
        Ok(Pooled { connection, permit })
    }
}

impl Pooled {
    /// Uses the connection; stops before the permit can be anybody else's.
    async fn square(&mut self, number: u32) -> Result<u32, Setback> {
        self.permit.run(self.connection.square(number)).await?
    }

    /// Closes the connection, and only then gives back the permit.
    async fn close(self) {
        self.connection.close().await;
        self.permit.release().await;
    }
}

impl Example for Cli {
    type Resource = Database;

    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn resource(&self) -> Database {
        Database::new(self.connections as usize, self.fleet.all_workers() * self.rounds * QUERIES)
    }

    fn introduction(&self) -> String {
        let Self { fleet, connections, .. } = self;
        format!("{} want connections to a database that bears {connections} at a time,", fleet.shown())
    }

    /// Sets the number of permits, which the store keeps, to what this run wants.
    async fn prepare(&self, client: &Client) -> Result<(), Failure> {
        client.semaphore(&self.pool, self.connections)?.set_limit(self.connections).await?;
        Ok(())
    }

    async fn work(&self, worker: &Worker) -> Result<(), Failure> {
        let pool = Pool { permits: worker.client.semaphore(&self.pool, self.connections)?, worker };
        for _ in 0..self.rounds {
            keep_trying(|| query(&pool)).await?;
        }
        Ok(())
    }

    fn verdict(&self, database: &Database, report: &mut Report) {
        let (seen, bound) = (database.seen(), self.connections as usize);
        report.fact("connections", format!("{}, at most {} of them at once", seen.connections, seen.most));
        report.fact("queries", seen.queries.to_string());
        report.claim(
            format!("the database never had more than {bound} connections at once"),
            seen.most <= bound,
            format!("it had {}", seen.most),
        );
        if report.is_finished() {
            report.claim("no connection is left open", seen.open.is_empty(), format!("{:?}", seen.open));
        }
    }
}

/// What somebody does with a connection.
async fn query(pool: &Pool<'_>) -> Result<(), Setback> {
    let mut connection = pool.connection().await?;
    for number in 0..QUERIES {
        connection.square(number).await?;
    }
    connection.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    fleet::main::<Cli>().await
}
