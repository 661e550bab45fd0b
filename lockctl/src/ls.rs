//! `lockctl ls`: which names are in use.

use lock_core::{Client, Name, Place};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::connect::Store;
use crate::exit::{Exit, Failure, say};
use crate::output::plain::plain;
use crate::output::{self, json, table};
use crate::place::{count, recipe, who};
use crate::visit::visit;

/// Queues read at a time.
const READS: usize = 16;

/// What `ls` is asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only names that start like this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    recipe: String,
    holders: usize,
    waiters: usize,
    #[serde(skip)]
    first: String,
}

/// Lists the names in whose queues somebody stands.
///
/// # Errors
/// That the store cannot be read.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    visit(store, |client| list(client, args)).await
}

async fn list(client: Client, args: Args) -> Result<Exit, Failure> {
    let rows = rows(&client, client.queues(&args.prefix).await?).await?;
    if args.json {
        json::print(&rows)?;
    } else if rows.is_empty() {
        match &*args.prefix {
            "" => say("nobody holds or waits for anything"),
            prefix => say(format_args!("nobody holds or waits for a name that starts with {prefix:?}")),
        }
    } else {
        let heads = ["NAME", "RECIPE", "HOLDERS", "WAITERS", "FIRST"].map(str::to_owned).to_vec();
        let cells =
            |row: Row| vec![plain(&row.name), row.recipe, row.holders.to_string(), row.waiters.to_string(), row.first];
        let lines: Vec<_> = [heads].into_iter().chain(rows.into_iter().map(cells)).collect();
        output::print_lines(&table::aligned(&lines))?;
    }
    Ok(Exit::OK)
}

async fn rows(client: &Client, names: Vec<Name>) -> Result<Vec<Row>, Failure> {
    let mut reads = JoinSet::new();
    let mut rows = Vec::with_capacity(names.len());
    let mut names = names.into_iter();
    loop {
        while reads.len() < READS
            && let Some(name) = names.next()
        {
            let queue = client.queue(&name)?;
            reads.spawn(async move { queue.list().await.map(|places| (name, places)) });
        }
        let Some(read) = reads.join_next().await else { break };
        let (name, places) = read.map_err(|error| Failure::internal(format!("a task failed: {error}")))??;
        // Who stood there when the names were read may be gone.
        rows.extend(places.first().map(|first| row(&name, &places, first)));
    }
    rows.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(rows)
}

fn row(name: &Name, places: &[Place], first: &Place) -> Row {
    let (holders, waiters) = count(places);
    Row { name: name.to_string(), recipe: recipe(places), holders, waiters, first: who(first) }
}
