//! The command as `lockctl` sees it: a warden, and the channel to it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use lock_core::Guard;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait, waitpid};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::exit::Failure;
use crate::run::environment::{self, Described};
use crate::run::tree::{self, Process};
use crate::run::wire::{Channel, Order, Report, Start};

/// How soon to look again for processes that were ended and are still there.
const INSIST: Duration = Duration::from_millis(10);

/// A command that runs, with its warden.
#[derive(Debug)]
pub(crate) struct Guarded {
    warden: Pid,
    channel: Channel,
    arrivals: UnixStream,
    /// The command's process and process group, once it is known.
    pub(crate) group: Option<Pid>,
    /// What was started before by whoever became this process with `exec`.
    others: HashSet<Process>,
}

impl Guarded {
    /// Starts a warden, which starts the command.
    ///
    /// # Errors
    /// That the system does not let it.
    pub(crate) fn start(command: &[OsString], start: &Start, guard: &Guard, lock: &Described) -> Result<Self, Failure> {
        // If the warden is killed, what it watched over becomes this process's.
        set_child_subreaper(Some(getpid())).map_err(|error| Failure::system("keep the command's children", error))?;
        let others = tree::below(getpid()).map_err(|error| Failure::system("read /proc", error))?;
        let cannot = |error: io::Error| Failure::system("start the warden of the command", error);
        let (channel, its_end) = Channel::pair().map_err(cannot)?;
        let arrivals = channel.arrivals().map_err(cannot)?;
        let mut warden = Command::new("/proc/self/exe");
        warden.arg0("lockctl").args(["warden", "--"]).args(command).stdin(Stdio::from(its_end)).process_group(0);
        environment::prepare(&mut warden, lock);
        let child = warden.spawn().map_err(cannot)?;
        // Its end of the channel goes with the command's description of it, so that its death is the end of the channel.
        drop(warden);
        let warden = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let warden = warden.ok_or_else(|| Failure::internal("the system gave a process no id"))?;
        // Where a lock goes with its process, the warden keeps it until the command is dead.
        let lifeline = lock_any::lifeline(guard).map_err(cannot)?;
        let stdin = io::stdin();
        let files: Vec<_> = [stdin.as_fd()].into_iter().chain(lifeline.as_ref().map(AsFd::as_fd)).collect();
        // Without this message the command is not started, so nothing can go wrong after it.
        channel.send_start(start, &files).map_err(cannot)?;
        Ok(Self { warden, channel, arrivals, group: None, others: others.into_iter().collect() })
    }

    /// Tells the warden something. One that is gone will be noticed.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.channel.send(&order);
    }

    /// What the warden tells next; `None` when it is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    pub(crate) async fn report(&mut self) -> Option<Report> {
        loop {
            self.arrivals.readable().await.ok()?;
            match self.arrivals.try_io(Interest::READABLE, || self.channel.receive()) {
                Ok(report) => {
                    if let Some(Report::Started(pid)) = report {
                        self.group = Pid::from_raw(pid);
                    }
                    return report;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return None,
            }
        }
    }

    /// Ends the warden, when it does not do its duty; then the command dies with it.
    pub(crate) fn end_warden(&self) {
        let _ = kill_process(self.warden, Signal::KILL);
    }

    /// Waits for a warden that has said that nothing is left.
    pub(crate) fn dismiss(&self) {
        while let Err(Errno::INTR) = waitpid(Some(self.warden), WaitOptions::empty()) {}
    }

    /// Without a warden: ends what is left of the command and waits until nothing is. Returns whether the warden itself had
    /// given up, which it does only before it starts the command.
    pub(crate) async fn clear(&self) -> bool {
        let mut gave_up = false;
        let mut empty = 0;
        // One look may miss a process that just changes its parent.
        while empty < 2 {
            loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some((pid, status))) => gave_up |= pid == self.warden && status.exited(),
                    Err(Errno::INTR) => {}
                    Ok(None) => break,
                    Err(_nobody_left) => return gave_up,
                }
            }
            let left = tree::below_but(getpid(), &self.others).unwrap_or_default();
            empty = if left.is_empty() { empty + 1 } else { 0 };
            for process in left {
                process.signal(Signal::KILL);
            }
            tokio::time::sleep(INSIST).await;
        }
        gave_up
    }
}
