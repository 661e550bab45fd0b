//! Locks for shell scripts, and a look into the queues.
//!
//! `lockctl run` is the heart, and [`run`] tells how it keeps its promise: the command is dead before anybody else can
//! hold the lock.

mod bench;
mod break_lock;
mod cli;
mod completions;
mod connect;
mod doctor;
mod elect;
mod exit;
mod leader;
mod ls;
mod man;
mod output;
mod place;
mod queue;
mod revoke;
mod run;
mod visit;
mod wait;
mod who;

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Command};
use exit::{Exit, Failure};

#[cfg(not(target_os = "linux"))]
compile_error!(
    "lockctl needs Linux: it relies on death signals, child subreapers and CLOCK_BOOTTIME to end a command in time"
);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to be told that this failed.
            let _ = match (error.kind(), not_unicode()) {
                (ErrorKind::InvalidUtf8, Some(problem)) => writeln!(std::io::stderr(), "lockctl: {problem}"),
                _ => error.print(),
            };
            return if error.use_stderr() { Exit::USAGE.into() } else { Exit::OK.into() };
        }
    };
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell();
            failure.exit().into()
        }
    }
}

/// What cannot be read as text, with its bytes escaped: an argument, or else a variable that stands for one.
fn not_unicode() -> Option<String> {
    let is_not = |text: &OsString| text.to_str().is_none();
    if let Some(argument) = env::args_os().skip(1).find(is_not) {
        return Some(format!("the argument {argument:?} is not UTF-8, which names, values and options have to be"));
    }
    let variable =
        |(name, value): &(OsString, OsString)| is_not(value) && name.as_encoded_bytes().starts_with(b"LOCKCTL_");
    env::vars_os().find(variable).map(|(name, value)| format!("{} is {value:?}, which is not UTF-8", name.display()))
}

fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    if cli.exit_codes {
        output::print(&exit::table())?;
        return Ok(Exit::OK);
    }
    let Some(command) = cli.command else {
        let _ = write!(std::io::stderr(), "{}", Cli::command().render_help());
        return Ok(Exit::USAGE);
    };
    match &command {
        Command::Warden(args) => return run::warden::main(args),
        Command::Exec(args) => return run::stub::main(args),
        Command::Interrupt => return Ok(run::signals::interrupted()),
        _ => {}
    }
    run::signals::block_terminal_output()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal(format!("no runtime: {error}")))?;
    let store = cli.store;
    runtime.block_on(async {
        match command {
            Command::Run(args) => run::main(&store, args).await,
            Command::Elect(args) => elect::main(&store, args).await,
            Command::Ls(args) => ls::main(&store, args).await,
            Command::Queue(args) => queue::main(&store, args).await,
            Command::Who(args) => who::main(&store, args).await,
            Command::Leader(args) => leader::main(&store, args).await,
            Command::Revoke(args) => revoke::main(&store, args).await,
            Command::Break(args) => break_lock::main(&store, args).await,
            Command::Wait(args) => wait::main(&store, args).await,
            Command::Doctor(args) => doctor::main(&store, args).await,
            Command::Bench(args) => bench::main(&store, args).await,
            Command::Completions(args) => completions::main(&args),
            Command::Man => man::main(),
            // Parts of `run`, done above.
            Command::Warden(_) | Command::Exec(_) | Command::Interrupt => Ok(Exit::OK),
        }
    })
}
