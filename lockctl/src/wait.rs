//! `lockctl wait`: until nobody holds a lock.

use std::time::Duration;

use lock_core::{Place, Role};

use crate::cli::duration;
use crate::connect::Store;
use crate::exit::{Exit, Failure};
use crate::place::who;
use crate::revoke::token_of;
use crate::visit::visit;

/// What `wait` is asked to do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It is free at the moment when it is seen to be, and may be anybody's when the next command starts: to do something while
nobody else does, use `lockctl run`. A lock that goes from hand to hand without a pause is not seen to be free.")]
pub(crate) struct Args {
    /// The lock's name
    name: String,

    /// Give up after this time, with exit code 75; 0s only looks
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

/// Waits until nobody holds a lock.
///
/// # Errors
/// That the time is up, or the store cannot be read.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    visit(store, |client| async move {
        let mut watch = client.queue(&args.name)?.watch();
        // The first look is always made.
        let mut places = watch.next().await?;
        let free = async {
            while holder(&places).is_some() {
                places = watch.next().await?;
            }
            Ok::<_, lock_core::Error>(())
        };
        let freed = match args.timeout {
            None => Ok(free.await),
            Some(timeout) => tokio::time::timeout(timeout, free).await,
        };
        match (freed, holder(&places)) {
            (Ok(freed), _) => Ok(freed.map(|()| Exit::OK)?),
            (Err(_), Some(holder)) => {
                let problem = format!("{:?} is held by {}{}", args.name, who(holder), token_of(holder));
                Err(Failure::new(Exit::NOT_ACQUIRED, problem))
            }
            (Err(_), None) => Ok(Exit::OK),
        }
    })
    .await
}

fn holder(places: &[Place]) -> Option<&Place> {
    places.iter().find(|place| place.role == Role::Holder)
}
