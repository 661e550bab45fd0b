//! The time in which the command runs: the lock, the warden, the terminal and the user all have a say.

use std::ffi::OsString;
use std::time::Duration;

use lock_core::clock::{BootClock, Clock as _, Instant};
use lock_core::{Guard, Loss};
use rustix::process::{Signal, kill_current_process_group};
use tokio::time::{sleep, timeout};

use crate::exit::{Exit, Failure, say};
use crate::output::time::rough;
use crate::run::command::Guarded;
use crate::run::environment::Described;
use crate::run::signals::{self, Signals, stop_this_process};
use crate::run::terminal::{self, Terminal};
use crate::run::timing::Timing;
use crate::run::wire::{Order, Outcome, Report, Start};

/// A signal that was sent to this process by itself arrives within this time.
const SOON: Duration = Duration::from_secs(1);

/// Runs a command while a lock is held. When it returns, nothing of the command is left.
///
/// # Errors
/// That the command could not be started or watched over.
pub(crate) async fn run(
    command: &[OsString],
    guard: &Guard,
    lock: &Described,
    timing: Timing,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let Some(until) = guard.valid_until() else {
        return Ok(Ended { exit: Exit::LOST, by_interrupt: false, lost: true, by_user: false });
    };
    let terminal = Terminal::open();
    // In a pipeline, others may read from the terminal; the command gets it when it asks for it.
    let foreground = terminal.as_ref().is_some_and(Terminal::is_ours) && !terminal::in_pipeline();
    let start =
        Start { until: until.as_nanos(), grace_ms: millis(timing.grace), margin_ms: millis(timing.margin), foreground };
    let guarded = Guarded::start(command, &start, guard, lock)?;
    let mut running = Running {
        guarded,
        guard,
        timing,
        terminal,
        foreground,
        until,
        kill_by: None,
        outcome: None,
        stopped: None,
        had_terminal: false,
        by_user: false,
        resuming: false,
    };
    if running.watch(signals).await {
        running.guarded.dismiss();
    } else {
        let gave_up = running.guarded.clear().await;
        let started = running.guarded.group.is_some() || !gave_up;
        running.stop(if started { Stopped::Unwatched } else { Stopped::NotStarted });
    }
    Ok(running.ended())
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// By Ctrl-C on the terminal, which scripts expect to see.
    pub(crate) by_interrupt: bool,
    /// The lock was lost while it ran.
    pub(crate) lost: bool,
    /// The user has sent a signal by which commands end.
    pub(crate) by_user: bool,
}

struct Running<'a> {
    guarded: Guarded,
    guard: &'a Guard,
    timing: Timing,
    terminal: Option<Terminal>,
    /// Whether the command has the terminal whenever this process could have it.
    foreground: bool,
    /// The proof that the warden knows.
    until: Instant,
    /// Once the command was to be ended at once: when that has to be done.
    kill_by: Option<Instant>,
    outcome: Option<Outcome>,
    /// Why the command was stopped for the sake of the lock.
    stopped: Option<Stopped>,
    /// Whether the command had the terminal when it ended.
    had_terminal: bool,
    /// A signal came by which commands end.
    by_user: bool,
    /// What is reported now comes from before the command was let go on.
    resuming: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stopped {
    Lost(Loss),
    Unproven,
    Unwatched,
    /// It never ran; the warden has told why.
    NotStarted,
}

impl Running<'_> {
    /// Returns whether the warden said that nothing is left; otherwise the warden is gone.
    async fn watch(&mut self, signals: &mut Signals) -> bool {
        let mut revoked = false;
        loop {
            let guard = self.guard;
            tokio::select! {
                biased;
                report = self.guarded.report() => match report {
                    Some(Report::Alone) => return true,
                    Some(report) => self.note(report, signals).await,
                    None => return false,
                },
                signal = signals.next() => self.pass(signal, signals).await,
                loss = guard.lost(), if self.kill_by.is_none() => self.lost(loss),
                () = guard.revoked(), if !revoked => {
                    revoked = true;
                    say("somebody asks for the lock to be let go, so the command is asked to end");
                    self.guarded.order(Order::Terminate);
                }
                () = sleep(self.timing.beat()) => {}
            }
            self.prolong();
            if BootClock.now() >= self.last_moment() {
                // It is stopped, or worse.
                self.guarded.end_warden();
            }
        }
    }

    /// Tells the warden of a new proof.
    fn prolong(&mut self) {
        if let Some(until) = self.guard.valid_until().filter(|until| *until > self.until) {
            self.until = until;
            self.guarded.order(Order::Until(until.as_nanos()));
        }
    }

    /// When a warden that is still there has failed: it had half of the margin to end the command.
    fn last_moment(&self) -> Instant {
        let half = self.timing.margin / 2;
        let proven = Instant::from_nanos(
            self.until.as_nanos().saturating_sub(u64::try_from(half.as_nanos()).unwrap_or(u64::MAX)),
        );
        self.kill_by.map_or(proven, |at| at.min(proven))
    }

    /// The lock is another's already, or may be in this moment.
    fn lost(&mut self, loss: Loss) {
        self.guarded.order(Order::Kill);
        self.kill_by = Some(BootClock.now() + self.timing.margin / 2);
        self.stop(Stopped::Lost(loss));
    }

    fn stop(&mut self, why: Stopped) {
        if self.outcome.is_none() && self.stopped.is_none() {
            self.stopped = Some(why);
            say(match why {
                Stopped::Lost(loss) => format!("the lock is lost ({loss}), so the command is ended"),
                Stopped::Unproven => {
                    "the store has not confirmed for too long that the lock is held, so the command is asked to \
                                      end while it still is"
                        .into()
                }
                Stopped::NotStarted => "the command was not started".into(),
                Stopped::Unwatched => "the warden of the command is gone, so the command was ended".into(),
            });
        }
    }

    async fn note(&mut self, report: Report, signals: &mut Signals) {
        match report {
            Report::Ended(outcome) => {
                // Told before it is released, so that whoever runs this knows that there may have been two.
                if let (None, Err(_), Some(loss)) = (self.stopped, self.guard.check(), self.loss()) {
                    say(format_args!("the lock was lost ({loss}) before the command ended by itself"));
                    self.stopped = Some(Stopped::Lost(loss));
                }
                self.outcome = Some(outcome);
                self.take_terminal_back();
            }
            Report::Ending => self.stop(Stopped::Unproven),
            Report::Left(count) => {
                say(format_args!(
                    "the command left {count} running, which are asked to end before the lock is released"
                ));
            }
            Report::Stopped(signal) if !self.resuming => self.command_stopped(signal, signals).await,
            Report::Resumed => self.resuming = false,
            Report::Stopped(_) | Report::Started(_) | Report::Alone => {}
        }
    }

    fn loss(&self) -> Option<Loss> {
        match self.guard.state() {
            lock_core::State::Lost(loss) => Some(loss),
            _ => None,
        }
    }

    /// Passes a signal on to the command.
    async fn pass(&mut self, signal: Signal, signals: &mut Signals) {
        match signal {
            Signal::TSTP => {
                self.guarded.order(Order::Pass(signal.as_raw()));
                self.say_suspended();
                self.sleep_stopped(signals).await;
            }
            Signal::CONT => self.resume(),
            signal => {
                self.by_user |= signals::ENDING.contains(&signal);
                self.guarded.order(Order::Pass(signal.as_raw()));
            }
        }
    }

    /// The command was stopped. On a terminal the whole job has to be, or its shell would wait for it for ever.
    async fn command_stopped(&mut self, signal: i32, signals: &mut Signals) {
        let (Some(terminal), Some(group)) = (&self.terminal, self.guarded.group) else { return };
        let wants_terminal = signal == Signal::TTIN.as_raw() || signal == Signal::TTOU.as_raw();
        let in_foreground = terminal.is_ours() || terminal.is_with(group);
        if wants_terminal && in_foreground {
            terminal.give(group);
            return self.resume();
        }
        if !wants_terminal && !in_foreground {
            return;
        }
        if terminal::is_orphaned() {
            if wants_terminal {
                say("the command wants the terminal and cannot have it");
            } else {
                self.resume();
            }
            return;
        }
        terminal.take_back(group);
        self.say_suspended();
        // The rest of the job, such as the script that this is a part of.
        if kill_current_process_group(Signal::TSTP).is_ok() {
            let arrived = async { while signals.next().await != Signal::TSTP {} };
            let _ = timeout(SOON, arrived).await;
        }
        self.sleep_stopped(signals).await;
    }

    /// Stops this process until it is let go on.
    async fn sleep_stopped(&mut self, signals: &mut Signals) {
        stop_this_process();
        let continued = async { while signals.next().await != Signal::CONT {} };
        let _ = timeout(SOON, continued).await;
        self.resume();
    }

    fn say_suspended(&self) {
        let ending = self.timing.grace + self.timing.margin;
        let left = self.guard.valid_for().saturating_sub(ending);
        say(format_args!("suspended; the command is ended unless it goes on within {}", rough(left)));
    }

    /// Lets the command go on.
    fn resume(&mut self) {
        if let (Some(terminal), Some(group), true) = (&self.terminal, self.guarded.group, self.foreground) {
            terminal.give(group);
        }
        self.resuming = true;
        self.guarded.order(Order::Resume);
    }

    fn take_terminal_back(&mut self) {
        if let (Some(terminal), Some(group)) = (&self.terminal, self.guarded.group)
            && terminal.is_with(group)
        {
            self.had_terminal = true;
            terminal.take_back(group);
        }
    }

    /// What became of it all.
    fn ended(mut self) -> Ended {
        self.take_terminal_back();
        let exit = match (self.stopped, self.outcome) {
            (None, Some(Outcome::Exited(code))) => Exit::of_command(code),
            (None, Some(Outcome::Signaled(signal))) => Exit::of_signal(signal),
            (Some(Stopped::NotStarted), _) => Exit::INTERNAL,
            _ => Exit::LOST,
        };
        let interrupt = Signal::INT.as_raw();
        let by_interrupt = exit == Exit::of_signal(interrupt)
            && self.outcome == Some(Outcome::Signaled(interrupt))
            && self.terminal.as_ref().is_some_and(Terminal::is_ours);
        if by_interrupt && self.had_terminal {
            // Only the command has been told by the terminal, not the rest of the job, such as a script that this is a part of.
            let _ = kill_current_process_group(Signal::INT);
        }
        Ended { exit, by_interrupt, lost: self.stopped.is_some(), by_user: self.by_user || by_interrupt }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
