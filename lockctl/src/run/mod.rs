//! `lockctl run`: a command that runs while a lock is held.

use std::ffi::OsString;

use crate::connect::Store;
use crate::exit::{Exit, Failure, say};

/// What `run` is asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The lock's name
    name: String,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs a command while holding a lock.
///
/// # Errors
/// That the lock was not acquired, or the command could not be started.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    let client = store.connect(None).await?;
    let guard = client.mutex(&args.name)?.lock().await?;
    let status = std::process::Command::new(&args.command[0]).args(&args.command[1..]).status();
    guard.release().await;
    client.close().await;
    let status = status.map_err(|error| Failure::new(Exit::NOT_FOUND, format!("cannot run the command: {error}")))?;
    say(status);
    Ok(status.code().and_then(|code| code.try_into().ok()).map_or(Exit::LOST, Exit::of_command))
}
