//! One session for what an operator asks, ended with it.

use std::time::Duration;

use lock_core::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::connect::Store;
use crate::exit::{Exit, Failure};
use crate::run::signals::end_by_interrupt;

/// How long a store that does not answer may take to end a session; the ttl does it otherwise.
const FAREWELL: Duration = Duration::from_secs(2);

/// Opens a session, does some work over it, and ends it: when the work is done, and when a signal comes.
///
/// # Errors
/// Those of connecting and of the work.
pub(crate) async fn visit<F>(store: &Store, work: impl FnOnce(Client) -> F) -> Result<Exit, Failure>
where
    F: Future<Output = Result<Exit, Failure>>,
{
    let mut endings = Endings::new()?;
    let client = match endings.unless(store.connect(None)).await {
        Ok(client) => client,
        Err(failure) => {
            farewell(endings, &[]).await;
            return Err(failure);
        }
    };
    let outcome = endings.unless(work(client.clone())).await;
    farewell(endings, &[client]).await;
    outcome
}

/// Ends sessions, at the same time, unless one more signal says that even this takes too long. After Ctrl-C it does not
/// return.
pub(crate) async fn farewell(mut endings: Endings, clients: &[Client]) {
    let closing: Vec<_> = clients
        .iter()
        .map(|client| {
            let client = client.clone();
            tokio::spawn(async move { client.close().await })
        })
        .collect();
    let all = async {
        for closing in closing {
            // A task that panicked has nothing more to close.
            let _ = closing.await;
        }
        Ok(())
    };
    let _ = tokio::time::timeout(FAREWELL, endings.unless(all)).await;
    if endings.interrupted {
        end_by_interrupt();
    }
}

/// The signals that ask a program to end: INT, TERM and HUP.
#[derive(Debug)]
pub(crate) struct Endings {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    interrupted: bool,
}

impl Endings {
    /// Waits for them from now on.
    ///
    /// # Errors
    /// That the system does not let it.
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::system("listen for signals", error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            interrupted: false,
        })
    }

    /// Does some work, unless a signal comes first.
    ///
    /// # Errors
    /// Those of the work; and, without a word, that a signal came.
    pub(crate) async fn unless<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let signal = tokio::select! {
            biased;
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
            done = work => return done,
        };
        self.interrupted |= signal == SignalKind::interrupt();
        Err(Failure::quiet(Exit::of_signal(signal.as_raw_value())))
    }
}
