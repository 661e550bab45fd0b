//! What can be written on the command line. The options of a subcommand are beside its code.

use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::connect::Store;
use crate::{bench, break_lock, completions, doctor, elect, leader, ls, queue, revoke, run, wait, who};

const AFTER_HELP: &str = "\
Examples:
  lockctl run nightly-backup -- /usr/local/bin/backup --full
  lockctl --backend etcd://db1,db2,db3 run --try reindex -- make reindex

lockctl --exit-codes lists what the exit codes mean.";

/// Locks for shell scripts that never overlap, and a look into the queues
#[derive(Debug, Parser)]
#[command(name = "lockctl", version, after_help = AFTER_HELP, subcommand_help_heading = "Commands")]
pub(crate) struct Cli {
    /// List the exit codes and what they mean
    #[arg(long)]
    pub(crate) exit_codes: bool,

    #[command(flatten)]
    pub(crate) store: Store,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command while holding a lock
    Run(run::Args),

    /// Stand for leadership, and run a command while leading
    Elect(elect::Args),

    /// List the names that somebody holds or waits for
    Ls(ls::Args),

    /// Show who holds a lock and who waits for it
    Queue(queue::Args),

    /// Show who holds a lock; ends with 75 when nobody does
    Who(who::Args),

    /// Print the value of an election's leader; ends with 75 when nobody leads
    Leader(leader::Args),

    /// Ask holders to let go; whether they do is their choice
    Revoke(revoke::Args),

    /// Remove a holder by force, one that is gone for good
    Break(break_lock::Args),

    /// Wait until nobody holds a lock
    Wait(wait::Args),

    /// Check the way to the store and what it does
    Doctor(doctor::Args),

    /// Measure how fast locks are, alone and contended
    Bench(bench::Args),

    /// Print completions for a shell
    Completions(completions::Args),

    /// Print the manual page
    Man,

    #[command(hide = true)]
    Warden(run::warden::Args),
    #[command(hide = true)]
    Exec(run::stub::Args),
    #[command(hide = true)]
    Interrupt,
}

/// A duration such as `15s`, for options.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a duration with a unit, such as 15s, 500ms or 1m30s".to_owned())
}

/// A fencing token, for options.
pub(crate) fn token(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected the number that `lockctl who` shows".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("15").unwrap_err().contains("15s"));
    }
}
