//! Orders that must be handled one after the other, whoever does it, with a mutex and its fencing token.
//!
//! The use of the lock is in [`Cli::consume`]; `cargo run --release -p examples --bin queue_consumer -- --help` tells the rest.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::Failure;
use examples::fault::Fault;
use examples::fleet::{self, EXIT_CODES, Example, Fleet, Worker, duration};
use examples::orders::Orders;
use examples::setback::{Setback, keep_trying};
use examples::verdict::Report;
use lock_core::Mutex;

/// Many take turns at handling orders; each must be handled once, and in its turn.
#[derive(Clone, Debug, Parser)]
#[command(name = "queue_consumer", after_help = EXIT_CODES, mut_arg("workers", |arg| arg.default_value("1")))]
struct Cli {
    #[command(flatten)]
    fleet: Fleet,

    /// Stop one process at the worst moment, for longer than the ttl
    #[arg(long, conflicts_with = "kill")]
    stall: bool,

    /// The lock's name
    #[arg(long, value_name = "NAME", default_value = "queue-consumer")]
    lock: String,

    /// Orders to be handled
    #[arg(long, value_name = "N", default_value = "120", value_parser = clap::value_parser!(u32).range(1..))]
    orders: u32,

    /// Orders that are handled in a turn
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    /// How long an order takes
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = duration)]
    effort: Duration,
}

impl Cli {
    /// Takes a turn. Returns whether there is more to do.
    async fn consume(&self, mutex: &Mutex, worker: &Worker) -> Result<bool, Setback> {
        let guard = mutex.lock().await?;
        let mut orders = worker.connect::<Orders>().await?;
        for _ in 0..self.batch {
            // Sends the fencing token along: from now on the queue hears nobody who held the lock before.
            let Some(order) = orders.next(&guard).await? else { return Ok(false) };
            tokio::time::sleep(self.effort).await;
            // For not doing in vain what the queue would refuse. Between this and the next line the process can stand
            // still for as long as it likes: what then keeps the order is the token.
            guard.check()?;
            orders.complete(&guard, order).await?;
        }
        guard.release().await;
        Ok(true)
    }
}

impl Example for Cli {
    type Resource = Orders;

    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn fault(&self) -> Option<Fault> {
        if self.stall { Some(Fault::Stall) } else { self.fleet.fault() }
    }

    fn resource(&self) -> Orders {
        Orders::up_to(self.orders)
    }

    fn introduction(&self) -> String {
        format!("{} take turns at {} orders, {} in a turn,", self.fleet.shown(), self.orders, self.batch)
    }

    async fn work(&self, worker: &Worker) -> Result<(), Failure> {
        let mutex = worker.client.mutex(&self.lock)?;
        while keep_trying(|| self.consume(&mutex, worker)).await? {}
        Ok(())
    }

    fn verdict(&self, orders: &Orders, report: &mut Report) {
        let handled = orders.handled();
        let mut shares = BTreeMap::new();
        for handling in &handled {
            *shares.entry(handling.process).or_insert(0) += 1;
        }
        let shares: Vec<_> = shares.iter().map(|(process, share)| format!("{share} by process {process}")).collect();
        report.fact("handled", format!("{} orders: {}", handled.len(), shares.join(", ")));
        let wrong = handled.iter().zip(1..).find(|(handling, expected)| handling.order != *expected);
        report.claim(
            "each order was handled once, and in its turn",
            wrong.is_none(),
            wrong.map_or_else(String::new, |(handling, expected)| format!("{handling:?} where {expected} was due")),
        );
        if report.is_finished() {
            let all = handled.len() == self.orders as usize;
            report.claim("all orders were handled", all, format!("{} of {}", handled.len(), self.orders));
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    fleet::main::<Cli>().await
}
