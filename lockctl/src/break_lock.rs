//! `lockctl break`: remove a holder by force.

use crate::cli::token;
use crate::connect::Store;
use crate::exit::{Exit, Failure};
use crate::output::plain::plain;
use crate::output::{self, json};
use crate::place::{json as json_of, who};
use crate::revoke::{holders, token_of};
use crate::visit::visit;

const AFTER_HELP: &str = "\
A holder that is alive notices within a second; a command under `lockctl run` is killed then. The next one to run under the
same lock waits for the --lock-delay of the one that was removed, so that there are never two. For `lockctl elect`, for
--shared, --exclusive and --permits, and for clients that do not ask for a lock delay, there may be two until then.";

/// What `break` is asked to do.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The lock's name
    name: String,

    /// The token of the holder to remove, and no other; `lockctl who` shows it
    #[arg(long, value_parser = token)]
    token: u64,

    /// Print one JSON object with the holder that was removed
    #[arg(long)]
    json: bool,
}

/// Removes the entry of one holder. The next in the queue is granted at once, or after a lock delay.
///
/// # Errors
/// That no holder has this token, or the store cannot be reached.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    visit(store, |client| async move {
        let queue = client.queue(&args.name)?;
        let holder = holders(queue.list().await?, &args.name, Some(args.token))?.swap_remove(0);
        if !queue.break_lock(args.token).await? {
            let problem = format!("{}{} has let go meanwhile; nothing was removed", who(&holder), token_of(&holder));
            return Err(Failure::new(Exit::NOT_ACQUIRED, problem));
        }
        if args.json {
            json::print(&json_of(&holder))?;
        } else {
            let entry = plain(&holder.entry.key);
            output::print_lines(&[format!("removed {}{}: {entry}", who(&holder), token_of(&holder))])?;
        }
        Ok(Exit::OK)
    })
    .await
}
