//! `lockctl completions`: what shells want to know.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::output;

/// What `completions` is asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints what a shell needs to complete command lines.
///
/// # Errors
/// That it cannot be written.
pub(crate) fn main(args: &Args) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lockctl", &mut text);
    output::print_bytes(&text)?;
    Ok(Exit::OK)
}
