//! The way to the lock, which the user may end at any time.

use std::time::Duration;

use lock_core::{Client, Error};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::connect::Store;
use crate::exit::{Exit, Failure, say, with_causes};
use crate::run::held::{Held, Waiting};
use crate::run::progress::Progress;
use crate::run::signals::Signals;

/// How soon to try again after a failure that may pass.
const AGAIN: Duration = Duration::from_secs(1);

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    Until(Instant),
    Forever,
}

impl Patience {
    /// Resolves when it is over.
    async fn over(self) {
        match self {
            Self::Until(at) => tokio::time::sleep_until(at).await,
            Self::Forever => std::future::pending().await,
        }
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum Without {
    Signal(Signal),
    Failure(Failure),
}

impl From<Failure> for Without {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Connects to the store.
///
/// # Errors
/// A signal, and why it cannot be reached.
pub(crate) async fn connect(
    store: &Store,
    label: Option<&str>,
    patience: Patience,
    signals: &mut Signals,
) -> Result<Client, Without> {
    tokio::select! {
        biased;
        signal = signals.ending() => Err(Without::Signal(signal)),
        client = store.connect(label) => Ok(client?),
        () = patience.over() => {
            Err(Failure::new(Exit::UNREACHABLE, "the store did not answer within the --timeout").into())
        }
    }
}

/// Waits for a lock, and enters the queue again when the place in it is lost. Without success, nothing is left in the queue.
///
/// # Errors
/// A signal, that the time is over, and what asking again does not help against.
pub(crate) async fn wait(
    client: &Client,
    name: &str,
    patience: Patience,
    mut progress: Option<Progress>,
    signals: &mut Signals,
    enter: impl Fn() -> Result<Waiting, Error> + Send + Sync,
    explained: impl Fn(Error) -> Failure + Send + Sync,
) -> Result<Held, Without> {
    let mut told = String::new();
    loop {
        let entered = enter();
        let waiting = async { entered?.await };
        let follow = async {
            match &mut progress {
                Some(progress) => progress.follow().await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            biased;
            signal = signals.ending() => Err(Without::Signal(signal)),
            held = waiting => Ok(held),
            () = patience.over() => Err(not_in_time(name)),
            () = follow => Ok(Err(Error::Runtime { problem: "ended".into() })),
        };
        let error = match end {
            Ok(Ok(held)) => return Ok(held),
            Ok(Err(error)) if error.is_retryable() => error,
            Ok(Err(error)) => {
                client.close().await;
                return Err(explained(error).into());
            }
            Err(without) => {
                // The end of the session is the end of its place in the queue, and this waits for it.
                drop(progress);
                client.close().await;
                return Err(without);
            }
        };
        let problem = with_causes(&error);
        if problem != told {
            say(format_args!("{problem}; trying again"));
            told = problem;
        }
        tokio::select! {
            biased;
            signal = signals.ending() => return Err(Without::Signal(signal)),
            () = patience.over() => return Err(not_in_time(name)),
            () = sleep(AGAIN) => {}
        }
    }
}

/// Takes a lock or does not, at once.
///
/// # Errors
/// A signal, that it is not free, and those of the store.
pub(crate) async fn try_now(
    client: &Client,
    name: &str,
    signals: &mut Signals,
    trying: impl Future<Output = Result<Option<Held>, Error>> + Send,
    explained: impl Fn(Error) -> Failure + Send + Sync,
) -> Result<Held, Without> {
    let tried = tokio::select! {
        biased;
        signal = signals.ending() => Err(Without::Signal(signal)),
        held = trying => Ok(held),
    };
    let without = match tried {
        Ok(Ok(Some(held))) => return Ok(held),
        Ok(Ok(None)) => Failure::new(Exit::NOT_ACQUIRED, format!("{name:?} is not free")).into(),
        Ok(Err(error)) => explained(error).into(),
        Err(without) => without,
    };
    client.close().await;
    Err(without)
}

fn not_in_time(name: &str) -> Without {
    Failure::new(Exit::NOT_ACQUIRED, format!("{name:?} was not free within the --timeout")).into()
}

/// The moment at which a `--timeout` that was given now is over.
pub(crate) fn patience(limit: Option<Duration>) -> Patience {
    limit.and_then(|limit| Instant::now().checked_add(limit)).map_or(Patience::Forever, Patience::Until)
}
