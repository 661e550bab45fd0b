//! What happens to one process on purpose: the program kills it, or stops it for longer than its ttl.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Failure;
use crate::children::Signals;
use crate::report::{print, short};
use crate::service::Resource;
use crate::tasks::Rein;
use crate::trap::Trap;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is killed.
    Kill,
    /// It stands still until others have its locks, and goes on then.
    Stall,
}

/// A hand on each of the processes.
#[derive(Debug)]
pub(crate) enum Reins {
    Processes(Signals),
    Tasks(Vec<Rein>),
}

impl Reins {
    fn kill(&self, process: u32) -> Result<(), Failure> {
        match self {
            Self::Processes(signals) => signals.send(process, Signal::KILL)?,
            Self::Tasks(reins) => reins[process as usize].kill(),
        }
        Ok(())
    }

    fn stop(&self, process: u32) -> Result<(), Failure> {
        match self {
            Self::Processes(signals) => signals.send(process, Signal::STOP)?,
            Self::Tasks(reins) => reins[process as usize].stop(),
        }
        Ok(())
    }

    fn go_on(&self, process: u32) -> Result<(), Failure> {
        match self {
            Self::Processes(signals) => signals.send(process, Signal::CONT)?,
            Self::Tasks(reins) => reins[process as usize].go_on(),
        }
        Ok(())
    }
}

/// Interrupts the process that the trap catches, and says so. Returns whether the others went on without it.
pub(crate) async fn interrupt<R: Resource>(
    fault: Fault,
    trap: &Trap<R>,
    reins: &Reins,
    ttl: Duration,
) -> Result<bool, Failure> {
    let moment = R::WORST_MOMENT;
    let process = trap.caught().await;
    let since = Instant::now();
    match fault {
        Fault::Kill => {
            reins.kill(process)?;
            print(&format!("process {process} is killed {moment}\n"))?;
        }
        Fault::Stall => {
            reins.stop(process)?;
            print(&format!("process {process} is stopped {moment}\n"))?;
        }
    }
    // Twice the time in which the library lets others have the locks of a dead process.
    let went_on = tokio::time::timeout((ttl + Duration::from_secs(2)) * 2, trap.others_went_on()).await.is_ok();
    if went_on {
        print(&format!("the others got as far without it after {}\n", short(since.elapsed())))?;
    }
    if fault == Fault::Stall {
        // What it had sent comes late, but before it can take it back.
        trap.release().await;
        reins.go_on(process)?;
        print(&format!("its request arrives after {}, and then it goes on\n", short(since.elapsed())))?;
    }
    Ok(went_on)
}
