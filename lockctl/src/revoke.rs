//! `lockctl revoke`: ask holders to let go.

use lock_core::{Place, Role};

use crate::cli::token;
use crate::connect::Store;
use crate::exit::{Exit, Failure, say};
use crate::output::{self, json};
use crate::place::{json as json_of, who};
use crate::visit::visit;
use crate::who::nobody;

/// What `revoke` is asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The lock's name
    name: String,

    /// Ask only the holder with this token; `lockctl who` shows it
    #[arg(long, value_parser = token)]
    token: Option<u64>,

    /// Print one JSON array with those who were asked
    #[arg(long)]
    json: bool,
}

/// Asks the holders of a lock to let go. Whether they follow is their choice.
///
/// # Errors
/// That nobody was asked, or the store cannot be reached.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    visit(store, |client| async move {
        let queue = client.queue(&args.name)?;
        let holders = holders(queue.list().await?, &args.name, args.token)?;
        let mut asked = Vec::new();
        for holder in &holders {
            match holder.token {
                Some(token) if queue.revoke(token).await? => asked.push(holder),
                Some(_) => say(format_args!("{} has let go meanwhile", who(holder))),
                None => say(format_args!("{} cannot be asked: the store does not tell its token", who(holder))),
            }
        }
        if args.json {
            json::print(&asked.iter().map(|place| json_of(place)).collect::<Vec<_>>())?;
        } else {
            let line = |place: &&Place| format!("asked {}{} to let go", who(place), token_of(place));
            output::print_lines(&asked.iter().map(line).collect::<Vec<_>>())?;
        }
        if asked.is_empty() { Err(Failure::quiet(Exit::NOT_ACQUIRED)) } else { Ok(Exit::OK) }
    })
    .await
}

/// The holders, or the one with this token.
///
/// # Errors
/// That there is none.
pub(crate) fn holders(places: Vec<Place>, name: &str, token: Option<u64>) -> Result<Vec<Place>, Failure> {
    let (holders, _): (Vec<_>, Vec<_>) = places.into_iter().partition(|place| place.role == Role::Holder);
    if holders.is_empty() {
        return Err(nobody(name));
    }
    let Some(token) = token else { return Ok(holders) };
    let (wanted, others): (Vec<_>, Vec<_>) = holders.into_iter().partition(|place| place.token == Some(token));
    if wanted.is_empty() {
        let others: Vec<_> = others.iter().map(|place| format!("{}{}", who(place), token_of(place))).collect();
        let problem = format!("no holder of {name:?} has token {token}; it is held by {}", others.join("; "));
        return Err(Failure::new(Exit::NOT_ACQUIRED, problem));
    }
    Ok(wanted)
}

pub(crate) fn token_of(place: &Place) -> String {
    place.token.map(|token| format!(" (token {token})")).unwrap_or_default()
}
