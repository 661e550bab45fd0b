//! `lockctl elect`: a candidate, and what it does when it leads.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use lock_core::{Client, Ending};
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::sleep;

use crate::connect::Store;
use crate::exit::{Exit, Failure, say};
use crate::output::json;
use crate::output::plain::plain;
use crate::run::acquire::{self, Patience, Without};
use crate::run::held::{Held, Waiting};
use crate::run::progress::Progress;
use crate::run::signals::{self, Signals};
use crate::run::timing::Timing;
use crate::run::{How, ended_while_waiting, is_etcd, timing, under};

/// With `--forever`, a command that fails at once is not started more often than this.
const PAUSE: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
The command runs while this candidate leads, under the same rules as with `lockctl run`, and finds LOCK_TERM in its
environment as well, a number that counts the leaders. Without a command, a line is printed when this candidate leads, and it
leads until it gets a signal.

Examples:
  lockctl elect scheduler $(hostname):7000 -- /usr/local/bin/scheduler
  lockctl elect --forever scheduler $(hostname):7000 -- /usr/local/bin/scheduler
  lockctl elect maintenance $(hostname)";

/// What `elect` is asked to do.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    how: How,

    /// Stand again when the command has ended or the leadership was lost, until a signal comes
    #[arg(long)]
    forever: bool,

    /// Without a command, print JSON when this candidate leads: one object in a line
    #[arg(long, conflicts_with = "command")]
    json: bool,

    /// The election's name
    name: String,

    /// What people see of the leader, such as its address
    value: String,

    /// The command and its arguments; with --shell, one text for sh -c
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Serialize)]
struct Leading<'a> {
    name: &'a str,
    value: &'a str,
    term: Option<u64>,
    token: u64,
    entry: &'a str,
}

/// Stands for leadership, and runs a command while leading.
///
/// # Errors
/// What keeps it from standing, or the command from being started.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let label = args.how.label(&args.command);
    let command = if args.command.is_empty() { Vec::new() } else { args.how.command(args.command.clone())? };
    let connected = acquire::connect(store, label.as_deref(), Patience::Forever, &mut signals).await;
    let client = match connected {
        Ok(client) => client,
        Err(Without::Signal(signal)) => return Ok(ended_while_waiting(signal)),
        Err(Without::Failure(failure)) => return Err(failure),
    };
    let candidate = Candidate {
        client: &client,
        args: &args,
        command,
        timing: timing(&client, &args.how).await?,
        is_etcd: is_etcd(store),
    };
    let end = candidate.stand(&mut signals).await;
    client.close().await;
    match end? {
        End::Exit { exit, by_interrupt: true } => {
            signals::end_by_interrupt();
            Ok(exit)
        }
        End::Exit { exit, .. } => Ok(exit),
        End::Waiting(signal) => Ok(ended_while_waiting(signal)),
    }
}

struct Candidate<'a> {
    client: &'a Client,
    args: &'a Args,
    command: Vec<OsString>,
    timing: Timing,
    is_etcd: bool,
}

/// How it ended for good.
enum End {
    Exit {
        exit: Exit,
        by_interrupt: bool,
    },
    /// By a signal, while somebody else led.
    Waiting(Signal),
}

impl Candidate<'_> {
    async fn stand(&self, signals: &mut Signals) -> Result<End, Failure> {
        loop {
            let leader = match self.campaign(signals).await {
                Ok(leader) => leader,
                Err(Without::Signal(signal)) => return Ok(End::Waiting(signal)),
                Err(Without::Failure(failure)) => return Err(failure),
            };
            let begun = Instant::now();
            let (end, told_to_end) = if self.command.is_empty() {
                self.hold(leader, signals).await?
            } else {
                let ended = under(self.client, leader, &self.command, self.timing, self.is_etcd, signals).await?;
                (End::Exit { exit: ended.exit, by_interrupt: ended.by_interrupt }, ended.by_user)
            };
            if !self.args.forever || told_to_end {
                return Ok(end);
            }
            tokio::select! {
                biased;
                signal = signals.ending() => return Ok(End::Waiting(signal)),
                () = sleep(PAUSE.saturating_sub(begun.elapsed())) => {}
            }
        }
    }

    async fn campaign(&self, signals: &mut Signals) -> Result<Held, Without> {
        let name = self.args.name.as_str();
        let progress = (!self.args.how.quiet).then(|| Progress::new(self.client, name));
        let enter = || -> lock_core::Result<Waiting> {
            let campaign = self.client.election(name)?.campaign(&self.args.value);
            Ok(Box::pin(async { campaign.await.map(Held::Leader) }))
        };
        acquire::wait(self.client, name, Patience::Forever, progress, signals, enter, Failure::from).await
    }

    /// Leads without a command, until a signal comes or it comes to an end. Returns whether it was a signal.
    async fn hold(&self, leader: Held, signals: &mut Signals) -> Result<(End, bool), Failure> {
        self.tell(&leader)?;
        let Held::Leader(leadership) = leader else { return Err(Failure::internal("not a leader")) };
        let (exit, told_to_end) = tokio::select! {
            biased;
            signal = signals.ending() => (Exit::of_signal(signal.as_raw()), true),
            ending = leadership.ending() => match ending {
                Ending::Lost(loss) => {
                    say(format_args!("the leadership is lost ({loss})"));
                    (Exit::LOST, false)
                }
                _ => {
                    say("somebody asks the leader to let go");
                    (Exit::OK, false)
                }
            },
        };
        let release = Held::Leader(leadership).release().await;
        if release == lock_core::Release::Pending {
            say("the store has not confirmed that this candidate has resigned; others may have to wait for the ttl");
        }
        Ok((End::Exit { exit, by_interrupt: false }, told_to_end))
    }

    fn tell(&self, leader: &Held) -> Result<(), Failure> {
        let (name, value, term, token) = (&self.args.name, &self.args.value, leader.term(), leader.token());
        if self.args.json {
            return json::print(&Leading { name, value, term, token, entry: &leader.entry().key });
        }
        let term = term.unwrap_or_default();
        crate::output::print(&format!("{} leads {} in term {term}, with token {token}\n", plain(value), plain(name)))
    }
}
