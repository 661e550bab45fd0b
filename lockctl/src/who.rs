//! `lockctl who`: the holders.

use lock_core::{Place, Role};

use crate::connect::Store;
use crate::exit::{Exit, Failure};
use crate::output::{self, json};
use crate::place::{json as json_of, who_exactly};
use crate::visit::visit;

/// What `who` is asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The lock's name
    name: String,

    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// Shows who holds a lock.
///
/// # Errors
/// That nobody does, or the store cannot be read.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    visit(store, |client| async move {
        let mut holders = client.queue(&args.name)?.list().await?;
        holders.retain(|place| place.role == Role::Holder);
        tell(&holders, args.json, &args.name)
    })
    .await
}

fn tell(holders: &[Place], as_json: bool, name: &str) -> Result<Exit, Failure> {
    if as_json {
        json::print(&holders.iter().map(json_of).collect::<Vec<_>>())?;
    } else {
        output::print_lines(&holders.iter().map(who_exactly).collect::<Vec<_>>())?;
    }
    match (holders, as_json) {
        ([], true) => Err(Failure::quiet(Exit::NOT_ACQUIRED)),
        ([], false) => Err(nobody(name)),
        _ => Ok(Exit::OK),
    }
}

/// There is no holder.
pub(crate) fn nobody(name: &str) -> Failure {
    Failure::new(Exit::NOT_ACQUIRED, format!("nobody holds {name:?}"))
}
