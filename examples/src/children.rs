//! Processes that this program starts of itself.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::Failure;
use crate::stop::Stop;

/// Copies of this program. They are to stop when their standard input ends, which it does with this process at the latest.
#[derive(Debug)]
pub struct Children {
    running: Vec<Child>,
}

impl Children {
    /// Starts `count` of them with the arguments of this program and those that `args` adds for each.
    ///
    /// # Errors
    /// That a process cannot be started; those that were are killed.
    pub fn start(count: u32, args: impl Fn(u32) -> Vec<std::ffi::OsString>) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let start = |index| {
            let mut command = Command::new(&program);
            command.args(std::env::args_os().skip(1)).args(args(index));
            command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn()
        };
        Ok(Self { running: (0..count).map(start).collect::<Result<_, _>>()? })
    }

    /// Their process ids, for whoever wants to kill one.
    pub fn ids(&self) -> Vec<u32> {
        self.running.iter().filter_map(Child::id).collect()
    }

    /// A way to send them signals while they are waited for.
    pub fn signals(&self) -> Signals {
        Signals(self.ids())
    }

    /// Waits for all of them. The first request to stop, or the first failure, is passed on to all; the second kills them.
    ///
    /// Returns what is to be said about those that were killed.
    ///
    /// # Errors
    /// That one of them failed; it has written why to the standard error.
    pub async fn wait(self, stop: &mut Stop) -> Result<Vec<String>, Failure> {
        let mut inputs = Vec::new();
        let mut ends: JoinSet<(usize, std::io::Result<ExitStatus>)> = JoinSet::new();
        for (index, mut child) in self.running.into_iter().enumerate() {
            inputs.push(child.stdin.take());
            ends.spawn(async move { (index, child.wait().await) });
        }
        let mut killed = Vec::new();
        let mut failure = None;
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = ends.join_next() => match ended {
                    None => break,
                    Some(Err(error)) => return Err(error.into()),
                    Some(Ok((index, status))) => {
                        let status = status?;
                        match status.signal() {
                            Some(signal) => killed.push(format!("process {index} was killed by signal {signal}")),
                            None if status.success() => {}
                            None => {
                                failure.get_or_insert_with(|| format!("process {index} failed ({status})"));
                                inputs.clear();
                            }
                        }
                    }
                },
                () = stop.requested() => {
                    inputs.clear();
                    if stopping {
                        ends.abort_all();
                        return Err("stopped a second time before the processes had ended; they are killed".into());
                    }
                    stopping = true;
                }
            }
        }
        failure.map_or(Ok(killed), |failure| Err(failure.into()))
    }
}

/// Sends signals to children, which have the numbers that they were started with.
#[derive(Clone, Debug)]
pub struct Signals(Vec<u32>);

impl Signals {
    /// Sends a signal to a child that has not ended.
    ///
    /// # Errors
    /// That there is none of this number, or it is gone.
    pub fn send(&self, child: u32, signal: Signal) -> Result<(), Failure> {
        let id = self.0.get(child as usize).and_then(|id| Pid::from_raw(i32::try_from(*id).ok()?));
        Ok(kill_process(id.ok_or_else(|| format!("there is no process {child}"))?, signal)?)
    }
}
