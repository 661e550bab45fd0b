//! `lockctl run`: a command that runs while a lock is held, and not a moment longer.
//!
//! # How it never overlaps
//! Three processes stand between the lock and the command:
//!
//! * `lockctl` holds the lock, renews it, and talks to the user ([`guarded`]).
//! * The [`warden`] is its child and the command's parent. It has the moment until which the lock is proven to be held, and
//!   ends the command before that, even if `lockctl` is stopped or gone. Whatever the command has started is the warden's
//!   child in the end, so it sees when nothing is left.
//! * The [`stub`] becomes the command, after it has made sure that it dies with the warden.
//!
//! | What goes wrong | What ends the command |
//! |---|---|
//! | the store does not answer, or `lockctl` is stopped or stuck | the warden, by its clock: SIGTERM, the grace, SIGKILL |
//! | the entry was removed, and the next holder waits for the lock delay | `lockctl` tells the warden: SIGKILL |
//! | `lockctl` is killed | the warden, at the end of the channel: SIGKILL |
//! | the warden is killed | the command's death signal, and `lockctl`, to which all the rest falls |
//! | the warden is stopped or stuck | `lockctl`, which kills the warden |
//!
//! The lock is released when nothing of the command is left, never before.

pub(crate) mod acquire;
mod command;
mod deadline;
mod environment;
mod guarded;
pub(crate) mod held;
pub(crate) mod progress;
pub(crate) mod signals;
pub(crate) mod stub;
mod terminal;
pub(crate) mod timing;
mod tree;
pub(crate) mod warden;
mod wire;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use lock_core::clock::{BootClock, Clock as _};
use lock_core::{Client, Release};
use rustix::process::Signal;

use crate::cli::duration;
use crate::connect::Store;
use crate::exit::{Exit, Failure, say};
use acquire::{Patience, Without};
use environment::Described;
use guarded::Ended;
use held::{Held, Wanted};
use progress::Progress;
use signals::Signals;
use terminal::Terminal;
use timing::Timing;

const AFTER_HELP: &str = "\
The command gets the terminal, the signals and the standard input of lockctl, and lockctl ends with its exit code. It finds
LOCK_NAME, LOCK_KEY, LOCK_TOKEN (a number that grows with each holder) and LOCK_VALID_MS in its environment.

The command is dead before anybody else can hold the lock, even if somebody removes the lock by force: unless the last holder
has released it, the next one waits for --lock-delay. With --shared, --exclusive and --permits, nobody waits for that.

When the store has not confirmed the lock for too long, the command gets SIGTERM, and SIGKILL after --grace; when the lock is
gone already, SIGKILL. The exit code is 80 then. When somebody asks for the lock with `lockctl revoke`, the command gets
SIGTERM, and SIGKILL after --grace; the exit code is the command's. Whatever the command leaves running ends before the lock is
released. A command that becomes another user (sudo) cannot be ended by lockctl: run lockctl as that user.

Examples:
  lockctl run nightly-backup -- backup --full
  lockctl run --try reindex -- make reindex
  lockctl run --timeout 5m --shell deploy 'make build && make push'
  lockctl run --permits 1/4 downloads -- wget https://example.org/big";

/// What `run` is asked to do.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    how: How,

    /// Hold it for reading, together with others who do so
    #[arg(long, conflicts_with_all = ["exclusive", "permits"])]
    shared: bool,

    /// Hold it alone, where others take it with --shared
    #[arg(long, conflicts_with = "permits")]
    exclusive: bool,

    /// Hold K of the N permits of a semaphore; N is the same for everybody
    #[arg(long, value_name = "K/N", value_parser = permits)]
    permits: Option<(u32, u32)>,

    /// How long the next holder waits when this one vanishes without releasing the lock; 0s for not at all. One second more
    /// than the ttl if not given, so that the command is dead even if somebody removes the lock by force
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["shared", "exclusive", "permits"])]
    lock_delay: Option<Duration>,

    /// Do not wait: exit with 75 when the lock is not free
    #[arg(long = "try", conflicts_with = "timeout")]
    now: bool,

    /// Wait for at most this long, then exit with 75
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,

    /// The lock's name
    name: String,

    /// The command and its arguments; with --shell, one text for sh -c
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How a command is run, whatever it runs under.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct How {
    /// From SIGTERM to SIGKILL when the command has to end; 5s if not given, and less with a short ttl: 1.5s with one of 10s
    /// on ZooKeeper
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Option<Duration>,

    /// A text that people see beside this process in the queue; the command's name if not given
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,

    /// The command is one text for sh -c
    #[arg(long)]
    pub(crate) shell: bool,

    /// Tell nothing while waiting
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl How {
    /// What people see in the queue.
    pub(crate) fn label(&self, command: &[OsString]) -> Option<String> {
        self.label.clone().or_else(|| {
            let first = command.first()?.to_str()?;
            let program = if self.shell { first.split_whitespace().next()? } else { first };
            Some(Path::new(program).file_name()?.to_str()?.chars().take(64).collect())
        })
    }

    /// The program to execute and its arguments.
    ///
    /// # Errors
    /// More than one text for the shell.
    pub(crate) fn command(&self, command: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
        match command.as_slice() {
            _ if !self.shell => Ok(command),
            [text] => Ok(vec!["sh".into(), "-c".into(), text.clone()]),
            _ => Err(Failure::new(Exit::USAGE, "with --shell the command is one text; put it into quotes")),
        }
    }
}

/// Runs a command while holding a lock.
///
/// # Errors
/// That the lock was not acquired, or the command could not be started.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let patience = acquire::patience(args.timeout);
    let label = args.how.label(&args.command);
    let command = args.how.command(args.command.clone())?;
    let acquired = async {
        let client = acquire::connect(store, label.as_deref(), patience, &mut signals).await?;
        let timing = timing(&client, &args.how).await?;
        let wanted = match (args.shared, args.exclusive, args.permits) {
            (true, ..) => Wanted::Shared,
            (_, true, _) => Wanted::Exclusive,
            (_, _, Some((count, limit))) => Wanted::Permits { count, limit },
            _ => Wanted::Mutex { delay: args.lock_delay.unwrap_or(timing.removed) },
        };
        let held = acquire(&client, wanted, &args, patience, &mut signals).await?;
        Ok((client, timing, held))
    };
    match acquired.await {
        Ok((client, timing, held)) => {
            let ended = under(&client, held, &command, timing, is_etcd(store), &mut signals).await?;
            client.close().await;
            if ended.by_interrupt {
                signals::end_by_interrupt();
            }
            Ok(ended.exit)
        }
        Err(Without::Signal(signal)) => Ok(ended_while_waiting(signal)),
        Err(Without::Failure(failure)) => Err(failure),
    }
}

async fn acquire(
    client: &Client,
    wanted: Wanted,
    args: &Args,
    patience: Patience,
    signals: &mut Signals,
) -> Result<Held, Without> {
    let explained = |error| wanted.explained(error);
    if args.now {
        let trying = wanted.try_now(client, &args.name);
        return acquire::try_now(client, &args.name, signals, trying, explained).await;
    }
    let progress = (!args.how.quiet).then(|| Progress::new(client, &args.name));
    let enter = || wanted.wait(client, &args.name);
    acquire::wait(client, &args.name, patience, progress, signals, enter, explained).await
}

/// Runs a command under something that is held, and releases that when nothing of the command is left.
///
/// # Errors
/// That the command could not be started or watched over.
pub(crate) async fn under(
    client: &Client,
    held: Held,
    command: &[OsString],
    timing: Timing,
    is_etcd: bool,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let described = Described {
        name: held.name().to_owned(),
        key: held.entry().key.to_string(),
        token: held.token(),
        valid: held.valid_for(),
        is_etcd,
        term: held.term(),
    };
    let mut ended = guarded::run(command, &held, &described, timing, signals).await;
    let until = held.valid_until();
    match held.release().await {
        Release::Released => {}
        Release::Pending => {
            let ttl = client.ttl().await.unwrap_or_default();
            say(format_args!("the store has not confirmed the release; others may have to wait for up to {ttl:?}"));
        }
        // Not because its time was over meanwhile: somebody removed it, and until when the command had it is not known.
        Release::NotHeld => {
            if let (Ok(ended), Some(until)) = (&mut ended, until)
                && !ended.lost
                && BootClock.now() < until
            {
                say(
                    "somebody removed the lock before it was released, and others may have had it while the command ran",
                );
                *ended = Ended { exit: Exit::LOST, lost: true, ..*ended };
            }
        }
    }
    ended
}

/// The times of a command, from the ttl that the store has granted, and how long its proofs last.
///
/// # Errors
/// That the grace is too long, and those of the store.
pub(crate) async fn timing(client: &Client, how: &How) -> Result<Timing, Failure> {
    Timing::new(client.ttl().await?, client.valid_for().await?, how.grace)
}

/// The exit code of one who gave up because of a signal. For Ctrl-C on a terminal, it does not return.
pub(crate) fn ended_while_waiting(signal: Signal) -> Exit {
    if signal == Signal::INT && Terminal::open().is_some_and(|terminal| terminal.is_ours()) {
        signals::end_by_interrupt();
    }
    Exit::of_signal(signal.as_raw())
}

pub(crate) fn is_etcd(store: &Store) -> bool {
    store.backend.as_ref().is_some_and(|url| url.starts_with("etcd"))
}

/// `K/N`.
fn permits(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once('/').and_then(|(count, limit)| Some((count.parse().ok()?, limit.parse().ok()?)));
    match numbers {
        Some((count, limit)) if (1..=limit).contains(&count) => Ok((count, limit)),
        _ => Err("expected K/N with 1 <= K <= N, such as 1/4 for one of four permits".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(shell: bool) -> How {
        How { grace: None, label: None, shell, quiet: false }
    }

    #[test]
    fn permits_are_a_part_of_a_limit() {
        assert_eq!(permits("1/4"), Ok((1, 4)));
        assert_eq!(permits("4/4"), Ok((4, 4)));
        for wrong in ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4/5", "a/b"] {
            assert!(permits(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn people_see_the_name_of_the_command() {
        let label = |shell, command: &str| how(shell).label(&[command.into(), "secret".into()]);
        assert_eq!(label(false, "/usr/bin/backup").as_deref(), Some("backup"));
        assert_eq!(label(true, "make x && y").as_deref(), Some("make"));
        assert_eq!(label(true, ""), None);
        assert_eq!(How { label: Some("mine".into()), ..how(false) }.label(&[]).as_deref(), Some("mine"));
    }

    #[test]
    fn the_shell_gets_one_text() {
        let command = how(true).command(vec!["a | b".into()]).unwrap();
        assert_eq!(command, ["sh", "-c", "a | b"]);
        assert_eq!(how(true).command(vec!["a".into(), "b".into()]).unwrap_err().exit(), Exit::USAGE);
        assert_eq!(how(false).command(vec!["a".into(), "b".into()]).unwrap(), ["a", "b"]);
    }
}
