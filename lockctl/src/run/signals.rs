//! What the user and the terminal send to this process.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::{self, SigSet};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::exit::{Exit, Failure};

/// Those that a command may be waiting for. Signals that stop a process are among them, since this one has its own way to stop.
const HEARD: [Signal; 10] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::TSTP,
    Signal::CONT,
    Signal::WINCH,
];

/// Those that end the waiting for a lock.
pub(crate) const ENDING: [Signal; 5] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::ALARM, Signal::TERM];

/// The signals that arrive from now on, in order. Those that were ignored when this process was started, as with `nohup`, stay so,
/// for the command as well.
#[derive(Debug)]
pub(crate) struct Signals {
    arrived: mpsc::UnboundedReceiver<Signal>,
}

impl Signals {
    /// # Errors
    /// That the system does not let this process listen.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let ignored = fs::read_to_string("/proc/self/status").map(|status| ignored(&status)).unwrap_or_default();
        let (sender, arrived) = mpsc::unbounded_channel();
        for heard in HEARD.into_iter().filter(|heard| !contains(ignored, *heard)) {
            let mut stream = signal(SignalKind::from_raw(heard.as_raw())).map_err(|error: io::Error| {
                Failure::system(format_args!("listen to signal {}", heard.as_raw()), error)
            })?;
            let sender = sender.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(heard).is_ok() {} });
        }
        Ok(Self { arrived })
    }

    /// The next one.
    ///
    /// # Cancel safety
    /// None is lost by dropping it.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.arrived.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// The next one that ends the waiting for a lock. What only stops this process, stops it.
    pub(crate) async fn ending(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::TSTP => stop_this_process(),
                signal if ENDING.contains(&signal) => return signal,
                _ => {}
            }
        }
    }
}

/// Stops this process until somebody lets it go on.
pub(crate) fn stop_this_process() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
}

/// Lets this process write to a terminal of which it is in the background, and take it back. To be called before there are
/// threads, which inherit it.
///
/// # Errors
/// That the system refuses it.
pub(crate) fn block_terminal_output() -> Result<(), Failure> {
    let mut blocked = SigSet::empty();
    blocked.add(signal::Signal::SIGTTOU);
    blocked.thread_block().map_err(|error| Failure::system("block SIGTTOU", error))
}

/// Ends this process as Ctrl-C ends others: so that a script which runs it ends, too. Returns if that is not possible.
pub(crate) fn end_by_interrupt() {
    // Handlers do not outlast this, and without one the signal ends the process.
    let _ = Command::new("/proc/self/exe").arg0("lockctl").arg("interrupt").exec();
}

/// The process that `end_by_interrupt` makes.
pub(crate) fn interrupted() -> Exit {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::INT);
    Exit::of_signal(Signal::INT.as_raw())
}

/// The set of ignored signals in `/proc/PID/status`.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn contains(set: u64, signal: Signal) -> bool {
    set >> (signal.as_raw() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let set = ignored("Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\tffff\n");
        assert!(contains(set, Signal::HUP) && contains(set, Signal::PIPE) && !contains(set, Signal::INT));
        assert_eq!(ignored(""), 0);
    }
}
