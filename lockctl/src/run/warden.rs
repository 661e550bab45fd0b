//! The process that ends the command in time, whatever becomes of `lockctl`.
//!
//! It is the parent of the command, and of all that the command leaves behind. It knows until when the lock is proven to be
//! held, and acts on that alone: when `lockctl` is stopped or stuck, no new proof comes; when `lockctl` is gone, the channel
//! ends. It has one thread and one loop, and waits for nothing but the events of that loop.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use lock_core::clock::{BootClock, Clock as _, Instant};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, set_child_subreaper, wait};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::exit::{Exit, Failure};
use crate::run::deadline::{Deadline, Step};
use crate::run::tree::{self, Process};
use crate::run::wire::{Channel, Order, Outcome, Report, Start};

/// How soon to look again for processes that were ended and are still there.
const INSIST: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The command. Everything else comes by the channel.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the command and returns when nothing of it is left.
///
/// # Errors
/// That the command cannot be watched over; then it was not started.
pub(crate) fn main(args: &Args) -> Result<Exit, Failure> {
    let _ = rustix::thread::set_name(c"lockctl-warden");
    // All but those that cannot be: what the user sends is for the command, and `lockctl` passes it on.
    let mask = SigSet::all();
    mask.thread_block().map_err(|error| Failure::system("block signals", error))?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| Failure::system("listen to signals", error))?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
        .map_err(|error| Failure::system("make a timer", error))?;
    set_child_subreaper(Some(getpid())).map_err(|error| Failure::system("keep the command's children", error))?;

    let socket = io::stdin().as_fd().try_clone_to_owned();
    let channel = Channel::new(socket.map_err(|error| Failure::system("open the channel", error))?);
    let begun = channel.receive_start();
    let begun = begun.map_err(|error| Failure::system("be a warden for anybody but lockctl run", error))?;
    let Some((start, files)) = begun else { return Err(Failure::quiet(Exit::LOST)) };
    let mut files = files.into_iter();
    let stdin = files.next().ok_or_else(|| Failure::internal("the warden got no standard input for the command"))?;

    let command = spawn(args, &start, stdin)?;
    let deadline = Deadline::new(
        Instant::from_nanos(start.until),
        Duration::from_millis(start.grace_ms),
        Duration::from_millis(start.margin_ms),
    );
    let warden = Warden {
        channel: Some(channel),
        outbox: VecDeque::from([Report::Started(command.as_raw_nonzero().get())]),
        signals,
        timer,
        command,
        outcome: None,
        deadline,
        killing: false,
        _lifeline: files.next(),
    };
    warden.watch().map_err(|error| Failure::system("watch over the command", error))?;
    Ok(Exit::OK)
}

fn spawn(args: &Args, start: &Start, stdin: OwnedFd) -> Result<Pid, Failure> {
    let mut stub = Command::new("/proc/self/exe");
    stub.arg0("lockctl").arg("exec").args(["--warden", &getpid().as_raw_nonzero().to_string()]);
    if start.foreground {
        stub.arg("--foreground");
    }
    stub.arg("--").args(&args.command).stdin(Stdio::from(stdin)).process_group(0);
    let child = stub.spawn().map_err(|error| Failure::system("start the command", error))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::internal("the system gave a process no id"))
}

struct Warden {
    /// `None` once `lockctl` is gone.
    channel: Option<Channel>,
    outbox: VecDeque<Report>,
    signals: SignalFd,
    timer: OwnedFd,
    command: Pid,
    /// Once the command itself has ended; then its pid may be another's.
    outcome: Option<Outcome>,
    deadline: Deadline,
    killing: bool,
    /// Keeps the lock when `lockctl` dies, where that would pass it on at once.
    _lifeline: Option<OwnedFd>,
}

impl Warden {
    fn watch(mut self) -> io::Result<()> {
        loop {
            if self.reap()? {
                self.outbox.push_back(Report::Alone);
                self.report_all();
                return Ok(());
            }
            self.take_orders();
            match self.deadline.step(BootClock.now()) {
                _ if self.killing => self.kill(),
                Step::Kill => self.kill(),
                Step::Terminate => {
                    self.outbox.push_back(Report::Ending);
                    self.terminate();
                    continue;
                }
                Step::Wait(at) => self.set_timer(at)?,
            }
            self.report_all();
            self.sleep()?;
        }
    }

    /// Takes note of what ended or stopped. Returns whether nothing is left.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) if pid == self.command && self.outcome.is_none() => self.note(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return Ok(false),
                Err(Errno::CHILD) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes note of what became of the command itself. What it left behind has to end, too.
    fn note(&mut self, status: WaitStatus) {
        if let Some(signal) = status.stopping_signal() {
            self.outbox.push_back(Report::Stopped(signal));
            return;
        }
        let Some(outcome) = Outcome::of(status) else { return };
        self.outcome = Some(outcome);
        self.outbox.push_back(Report::Ended(outcome));
        let left = self.below().len();
        if left > 0 && !self.killing {
            self.outbox.push_back(Report::Left(left));
            self.terminate();
        }
    }

    fn take_orders(&mut self) {
        while let Some(channel) = &self.channel {
            match channel.receive() {
                Ok(Some(order)) => self.obey(order),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody holds the lock any more, or nobody can tell.
                Ok(None) | Err(_) => {
                    self.channel = None;
                    self.kill();
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Until(until) => self.deadline.set(Instant::from_nanos(until)),
            Order::Pass(signal) => {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    self.signal_group(signal);
                }
            }
            Order::Resume => {
                self.signal_group(Signal::CONT);
                self.outbox.push_back(Report::Resumed);
            }
            Order::Terminate => self.terminate(),
            Order::Kill => self.kill(),
        }
    }

    /// Asks everything to end. A process that is stopped has to go on to do so.
    fn terminate(&mut self) {
        if self.deadline.is_asked() && self.outcome.is_none() {
            return;
        }
        self.deadline.asked(BootClock.now());
        for signal in [Signal::TERM, Signal::CONT] {
            self.signal_group(signal);
            for process in self.outside_group() {
                process.signal(signal);
            }
        }
    }

    /// Ends everything, until there is nothing new to end.
    fn kill(&mut self) {
        self.killing = true;
        self.signal_group(Signal::KILL);
        let mut ended = HashSet::new();
        loop {
            let new: Vec<Process> = self.below().into_iter().filter(|process| ended.insert(*process)).collect();
            if new.is_empty() {
                return;
            }
            for process in new {
                process.signal(Signal::KILL);
            }
        }
    }

    fn signal_group(&self, signal: Signal) {
        // While the command itself is not reaped, its group is no other's.
        if self.outcome.is_none() {
            let _ = kill_process_group(self.command, signal);
        }
    }

    fn below(&self) -> Vec<Process> {
        // Without /proc no warden is ever started. The group is signalled anyway.
        tree::below(getpid()).unwrap_or_default()
    }

    fn outside_group(&self) -> Vec<Process> {
        let group = self.command.as_raw_nonzero().get();
        let is_outside = |process: &Process| self.outcome.is_some() || process.group != group;
        self.below().into_iter().filter(is_outside).collect()
    }

    /// Sends what is to be told, as far as `lockctl` has room for it.
    fn report_all(&mut self) {
        let Some(channel) = &self.channel else { return };
        while let Some(report) = self.outbox.front() {
            if channel.send(report).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            self.outbox.pop_front();
        }
    }

    fn set_timer(&self, at: Instant) -> io::Result<()> {
        let nanos = at.as_nanos();
        let value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or_default(),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Waits for the next event.
    fn sleep(&mut self) -> io::Result<()> {
        let mut events = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if !self.killing {
            events.push(PollFd::new(&self.timer, PollFlags::IN));
        }
        if let Some(channel) = &self.channel {
            let interest = if self.outbox.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            events.push(PollFd::new(channel, interest));
        }
        match poll(&mut events, self.killing.then_some(&INSIST)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // That a child changed is all they tell, and that is looked at anyway.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        Ok(())
    }
}
