//! Taking part for good: something that is held again after every loss, in the background.

use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, Loss, Result};
use crate::guard::{Guard, Release};
use crate::session::Backoff;

/// What was held for at least this long was no failure.
const LASTING: Duration = Duration::from_secs(1);

/// The pauses before trying again are this many times longer after an error that asking again is not expected to help
/// against: somebody has to change something first.
const HOPELESS: u32 = 10;

/// What can be held, with a guard.
pub(crate) trait Held: Send + Sync + 'static {
    fn guard(&self) -> &Guard;

    /// Resolves when it is lost, and does until then what there is to do.
    fn attend(&self) -> impl Future<Output = ()> + Send {
        async {
            self.guard().lost().await;
        }
    }
}

/// Something that a task holds, and again after every loss, until this is closed or dropped or the client is closed.
#[derive(Debug)]
pub(crate) struct Persistent<T> {
    name: String,
    held: watch::Receiver<Option<Arc<T>>>,
    trouble: Trouble,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Release>,
}

/// The failure of the last attempt.
type Trouble = Arc<Lock<Option<Error>>>;

impl<T: Held> Persistent<T> {
    /// Begins with `first`, if that is held already, and gets the next by `attempt`, whose futures may be dropped.
    pub(crate) fn start<F>(
        client: &Client,
        name: &str,
        first: Option<T>,
        attempt: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let first = first.map(Arc::new);
        let (shown, held) = watch::channel(first.clone());
        let (stop, stopped) = oneshot::channel();
        let trouble = Trouble::default();
        let keeper = Keeper { attempt, shown, trouble: trouble.clone(), stopped, closes: client.closes() };
        let task = client.runtime().spawn(keeper.keep(first));
        Self { name: name.to_owned(), held, trouble, stop: Some(stop), task }
    }

    /// What is held at this moment.
    pub(crate) fn current(&self) -> Option<Arc<T>> {
        self.held.borrow().clone().filter(|held| held.guard().check().is_ok())
    }

    /// What is held, when that has changed since this was asked last.
    pub(crate) async fn changed(&mut self) -> Result<Option<Arc<T>>> {
        match self.held.changed().await {
            Ok(()) => Ok(self.held.borrow_and_update().clone()),
            Err(_) => Err(Error::Lost { lock: self.name.clone(), loss: Loss::Closed }),
        }
    }

    /// Why the last attempt failed, if nothing was held since.
    pub(crate) fn trouble(&self) -> Option<Error> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, and waits for the store's answer.
    pub(crate) async fn close(mut self) -> Release {
        drop(self.stop.take());
        self.task.await.unwrap_or(Release::Pending)
    }
}

struct Keeper<T, A> {
    attempt: A,
    shown: watch::Sender<Option<Arc<T>>>,
    trouble: Trouble,
    stopped: oneshot::Receiver<()>,
    closes: watch::Receiver<u64>,
}

impl<T: Held, A, F> Keeper<T, A>
where
    A: Fn() -> F + Send + Sync,
    F: Future<Output = Result<T>> + Send,
{
    async fn keep(self, mut first: Option<Arc<T>>) -> Release {
        let Self { attempt, shown, trouble, stopped, mut closes } = self;
        let told = |error| *trouble.lock().unwrap_or_else(PoisonError::into_inner) = error;
        let mut stop = std::pin::pin!(async move {
            tokio::select! {
                biased;
                _ = stopped => {}
                // The process may be about to exit, and nothing would end a new session.
                _ = closes.changed() => {}
            }
        });
        let mut backoff = Backoff::default();
        loop {
            let held = match first.take() {
                Some(first) => Ok(first),
                None => tokio::select! {
                    biased;
                    () = &mut stop => return Release::NotHeld,
                    held = attempt() => held.map(Arc::new),
                },
            };
            let mut pause = 1;
            match held {
                Ok(held) => {
                    told(None);
                    let since = Instant::now();
                    shown.send_if_modified(|shown| {
                        let news = shown.is_none();
                        *shown = Some(held.clone());
                        news
                    });
                    let stopped = tokio::select! {
                        biased;
                        () = &mut stop => true,
                        () = held.attend() => false,
                    };
                    shown.send_replace(None);
                    if stopped {
                        return held.guard().let_go().await;
                    }
                    if since.elapsed() >= LASTING {
                        backoff = Backoff::default();
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "not held, trying again");
                    if !error.is_retryable() {
                        pause = HOPELESS;
                    }
                    told(Some(error));
                }
            }
            tokio::select! {
                biased;
                () = &mut stop => return Release::NotHeld,
                () = tokio::time::sleep(backoff.next() * pause) => {}
            }
        }
    }
}
