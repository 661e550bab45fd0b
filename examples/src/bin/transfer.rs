//! Money moved between two accounts, which are locked together.
//!
//! The use of the lock is in [`Cli::transfer`]; `cargo run --release -p examples --bin transfer -- --help` tells the rest.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Parser;
use examples::Failure;
use examples::bank::{Bank, Transfer};
use examples::fault::Fault;
use examples::fleet::{self, EXIT_CODES, Example, Fleet, Worker};
use examples::setback::{Setback, keep_trying};
use examples::verdict::Report;

/// Many move money between the accounts of a bank; the sum must stay the same.
#[derive(Clone, Debug, Parser)]
#[command(name = "transfer", after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    fleet: Fleet,

    /// Stop one process at the worst moment, for longer than the ttl
    #[arg(long, conflicts_with = "kill")]
    stall: bool,

    /// Accounts of the bank
    #[arg(long, value_name = "N", default_value = "6", value_parser = clap::value_parser!(u32).range(2..))]
    accounts: u32,

    /// Transfers that each worker makes
    #[arg(long, value_name = "N", default_value = "25", value_parser = clap::value_parser!(u32).range(1..))]
    transfers: u32,
}

/// What is in each account at the start.
const BALANCE: i64 = 100;

impl Cli {
    /// Moves money if there is enough.
    async fn transfer(
        &self,
        worker: &Worker,
        transfer: Transfer,
        [from, to]: [&str; 2],
        amount: i64,
    ) -> Result<(), Setback> {
        // Locked in the order of their names, so that two who want the same two never wait for each other.
        let both = worker.client.multi_lock([from, to])?.lock().await?;
        let moving = async {
            let mut bank = worker.connect::<Bank>().await?;
            let balances = (bank.balance(&both, from).await?, bank.balance(&both, to).await?);
            if balances.0 >= amount {
                bank.set_balance(&both, transfer, from, balances.0 - amount).await?;
                bank.set_balance(&both, transfer, to, balances.1 + amount).await?;
                // A lock does not undo what its holder has left half done when it died: this step makes it whole. Each
                // account's lock has a token; when the bank knows a later one of either, it refuses.
                bank.commit(&both, transfer).await?;
            }
            Ok::<_, Setback>(())
        };
        // Stopped before one of the locks can be anybody else's.
        both.run(moving).await??;
        both.release().await;
        Ok(())
    }
}

impl Example for Cli {
    type Resource = Bank;

    fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    fn fault(&self) -> Option<Fault> {
        if self.stall { Some(Fault::Stall) } else { self.fleet.fault() }
    }

    fn resource(&self) -> Bank {
        let transfers = self.fleet.all_workers() * self.transfers;
        Bank::new((0..self.accounts).map(account), BALANCE, transfers as usize)
    }

    fn introduction(&self) -> String {
        let Self { fleet, accounts, .. } = self;
        format!("{} move money between {accounts} accounts with {BALANCE} in each,", fleet.shown())
    }

    async fn work(&self, worker: &Worker) -> Result<(), Failure> {
        let tries = AtomicU32::new(0);
        for _ in 0..self.transfers {
            let from = fastrand::u32(0..self.accounts);
            let to = (from + fastrand::u32(1..self.accounts)) % self.accounts;
            let amount = fastrand::i64(1..=60);
            // After a setback it is another transfer: nobody knows whether the first was committed.
            let turn = || {
                let transfer = (worker.who.process, worker.who.worker, tries.fetch_add(1, Ordering::Relaxed));
                async move { self.transfer(worker, transfer, [&account(from), &account(to)], amount).await }
            };
            keep_trying(turn).await?;
        }
        Ok(())
    }

    fn verdict(&self, bank: &Bank, report: &mut Report) {
        let balances: Vec<i64> = bank.balances().into_values().collect();
        let (sum, expected) = (balances.iter().sum::<i64>(), BALANCE * i64::from(self.accounts));
        report.fact("transfers", bank.committed().to_string());
        report.fact("balances", format!("{balances:?}"));
        report.claim(
            format!("all accounts together have {expected}, as at the start"),
            sum == expected,
            format!("{sum}"),
        );
        report.claim("no account was ever overdrawn", bank.overdrawn() == 0, format!("{} times", bank.overdrawn()));
    }
}

fn account(number: u32) -> String {
    format!("account-{number}")
}

#[tokio::main]
async fn main() -> ExitCode {
    fleet::main::<Cli>().await
}
