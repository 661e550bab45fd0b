//! The last step before the command: a process that dies with its warden becomes the command.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::exit::{Exit, Failure, with_causes};
use crate::output::plain::plain;
use crate::run::terminal;

/// What the warden says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The warden's process
    #[arg(long)]
    warden: i32,

    /// Take the terminal
    #[arg(long)]
    foreground: bool,

    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command.
///
/// # Errors
/// That it cannot, with the exit code that a shell would have.
pub(crate) fn main(args: &Args) -> Result<Exit, Failure> {
    // From here on the end of the warden is the end of this process, whatever it becomes.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::system("be sure to end with the warden", error))?;
    if getppid() != Pid::from_raw(args.warden) {
        return Err(Failure::quiet(Exit::LOST));
    }
    if args.foreground {
        terminal::take_for_this_group();
    }
    // Those that the warden blocks are for the command.
    SigSet::empty().thread_set_mask().map_err(|error| Failure::system("unblock signals", error))?;
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(Failure::new(Exit::USAGE, "no command"));
    };
    let error = Command::new(program).args(arguments).exec();
    let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NOT_FOUND } else { Exit::NOT_EXECUTABLE };
    // With what is no text escaped.
    let program = program.to_str().map_or_else(|| format!("{program:?}"), plain);
    Err(Failure::new(exit, format!("cannot run {program}: {}", with_causes(&error))))
}
