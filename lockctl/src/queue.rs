//! `lockctl queue`: who holds, who waits, and how that changes.

use std::time::Duration;

use lock_core::{Place, Queue, Role};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::connect::Store;
use crate::exit::{Exit, Failure, say};
use crate::output::plain::plain;
use crate::output::screen::{Screen, height};
use crate::output::style::Style;
use crate::output::time::now;
use crate::output::{self, json, table};
use crate::place::{Columns, Left, Timed, count, recipe, who};
use crate::visit::visit;

/// How often times such as `3m ago` are drawn again while nothing changes.
const REDRAW: Duration = Duration::from_secs(1);

/// What `queue` is asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The lock's name
    name: String,

    /// Go on, and tell of each change: on a terminal in place, otherwise in one line. Costs the store one watch, however
    /// many stand in the queue, and for a semaphore one more
    #[arg(long, short)]
    watch: bool,

    /// On a terminal, too, show everybody instead of the first who fit
    #[arg(long)]
    all: bool,

    /// Print one JSON object; with --watch, one in a line for each change
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Whole<'a> {
    name: &'a str,
    recipe: Option<String>,
    places: Vec<Timed<'a>>,
}

/// Shows a queue.
///
/// # Errors
/// That the store cannot be read.
pub(crate) async fn main(store: &Store, args: Args) -> Result<Exit, Failure> {
    visit(store, |client| async move {
        let queue = client.queue(&args.name)?;
        if args.watch { watch(&queue, &args).await } else { show(&queue, &args).await }
    })
    .await
}

async fn show(queue: &Queue, args: &Args) -> Result<Exit, Failure> {
    let places = queue.list().await?;
    let left = queue.time_left(&places).await?;
    if args.json {
        json::print(&whole(queue, &places, &left))?;
    } else if places.is_empty() {
        say(format_args!("nobody holds or waits for {:?}", queue.name()));
    } else {
        output::print_lines(&lines(queue, &places, &left, height().filter(|_| !args.all)))?;
    }
    Ok(Exit::OK)
}

async fn watch(queue: &Queue, args: &Args) -> Result<Exit, Failure> {
    let mut watch = queue.watch();
    let screen = if args.json { None } else { Screen::on_stdout() };
    let Some(mut screen) = screen else {
        loop {
            let places = watch.next().await?;
            if args.json {
                json::print(&whole(queue, &places, &queue.time_left(&places).await?))?;
            } else {
                output::print_lines(&[format!("{} {}", now(), summary(queue, &places))])?;
            }
        }
    };
    let mut resized =
        signal(SignalKind::window_change()).map_err(|error| Failure::system("listen for signals", error))?;
    let mut places = watch.next().await?;
    loop {
        screen.draw(&lines(queue, &places, &queue.time_left(&places).await?, height()))?;
        tokio::select! {
            next = watch.next() => places = next?,
            _ = resized.recv() => screen.clear()?,
            () = tokio::time::sleep(REDRAW) => {}
        }
    }
}

fn whole<'a>(queue: &'a Queue, places: &'a [Place], left: &Left) -> Whole<'a> {
    Whole {
        name: queue.name(),
        recipe: (!places.is_empty()).then(|| recipe(places)),
        places: places.iter().map(|place| Timed::of(place, left)).collect(),
    }
}

/// The queue in one line.
fn summary(queue: &Queue, places: &[Place]) -> String {
    let name = plain(queue.name());
    let (holders, waiters) = count(places);
    let Some(first) = places.iter().find(|place| place.role == Role::Holder) else {
        return match waiters {
            0 => format!("{name}: nobody"),
            _ => format!("{name}: no holder, {waiters} waiting"),
        };
    };
    let token = first.token.map(|token| format!(" (token {token})")).unwrap_or_default();
    let others = if holders > 1 { format!(" and {} more", holders - 1) } else { String::new() };
    format!("{name}: held by {}{token}{others}, {waiters} waiting", who(first))
}

/// The queue as a table, of at most so many lines.
fn lines(queue: &Queue, places: &[Place], left: &Left, most: Option<usize>) -> Vec<String> {
    let (holders, waiters) = count(places);
    let name = plain(queue.name());
    if places.is_empty() {
        return vec![format!("{name}: nobody")];
    }
    let plural = if holders == 1 { "" } else { "s" };
    let title = format!("{name}: {}, {holders} holder{plural}, {waiters} waiting", recipe(places));
    let (shown, more) = fitting(places.len(), most);
    let columns = Columns::of(places);
    let rows = [columns.heads()].into_iter().chain(places[..shown].iter().map(|place| columns.cells(place, left)));
    let mut lines = table::aligned(&rows.collect::<Vec<_>>());
    for (line, place) in lines.iter_mut().skip(1).zip(places) {
        if place.role == Role::Holder {
            *line = Style::Bold.paint(line);
        }
    }
    lines.insert(0, title);
    if more > 0 {
        lines.push(format!("… and {more} more"));
    }
    lines
}

/// How many of `places` rows are shown in `most` lines, two of which are taken, and how many are left out.
fn fitting(places: usize, most: Option<usize>) -> (usize, usize) {
    let room = most.map_or(usize::MAX, |most| most.saturating_sub(2).max(2));
    if places <= room { (places, 0) } else { (room - 1, places - (room - 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        for (places, most, want) in [
            (0, Some(23), (0, 0)),
            (21, Some(23), (21, 0)),
            (22, Some(23), (20, 2)),
            (1000, Some(39), (36, 964)),
            (1000, None, (1000, 0)),
            (1000, Some(0), (1, 999)),
            (2, Some(0), (2, 0)),
        ] {
            assert_eq!(fitting(places, most), want, "{places} in {most:?}");
        }
    }
}
