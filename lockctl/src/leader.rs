//! `lockctl leader`: who leads, and how that changes.

use std::io::{IsTerminal as _, stdout};

use lock_core::Leader;
use serde::Serialize;

use crate::connect::Store;
use crate::exit::{Exit, Failure, say};
use crate::output::plain::plain;
use crate::output::{self, json};
use crate::place::{Value, Who};
use crate::visit::visit;

/// What `leader` is asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The election's name
    name: String,

    /// Go on, and print each new leader or value; that nobody leads is said on the standard error output
    #[arg(long, short)]
    watch: bool,

    /// Print one JSON object with the leader, or null, and who it is; with --watch, one in a line for each change
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    name: &'a str,
    leader: Option<Json<'a>>,
}

#[derive(Debug, Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    value: Value,
    token: u64,
    term: Option<u64>,
    #[serde(flatten)]
    who: Who<'a>,
    session: &'a str,
    entry: &'a str,
}

/// Shows the value of the leader.
///
/// # Errors
/// That nobody leads, or the store cannot be read.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    visit(store, |client| async move {
        let election = client.election(&args.name)?;
        if args.watch {
            let mut observer = election.observe();
            loop {
                let leader = observer.next().await?;
                tell(&args, leader.as_ref())?;
            }
        }
        let leader = election.leader().await?;
        tell(&args, leader.as_ref())?;
        if leader.is_some() { Ok(Exit::OK) } else { Err(Failure::quiet(Exit::NOT_ACQUIRED)) }
    })
    .await
}

fn tell(args: &Args, leader: Option<&Leader>) -> Result<(), Failure> {
    match leader {
        _ if args.json => json::print(&Line { name: &args.name, leader: leader.map(json_of) }),
        None => {
            say(format_args!("nobody leads {:?}", args.name));
            Ok(())
        }
        Some(leader) if stdout().is_terminal() => {
            output::print_lines(&[plain(&String::from_utf8_lossy(&leader.value))])
        }
        Some(leader) => output::print_bytes(&[&leader.value, &b"\n"[..]].concat()),
    }
}

fn json_of(leader: &Leader) -> Json<'_> {
    Json {
        value: Value::of(&leader.value),
        token: leader.token,
        term: leader.term,
        who: Who::of(leader.owner.as_ref()),
        session: &leader.session,
        entry: &leader.entry.key,
    }
}
