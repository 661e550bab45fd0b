//! Where a process is caught at the worst moment, to be killed or stopped there.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::service::Resource;

/// Holds back the first request that comes at the worst moment, and its process with it.
pub struct Trap<R: Resource> {
    armed: bool,
    caught: Mutex<Option<(u32, R::Request)>>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    caught: Option<u32>,
    others_went_on: bool,
    open: bool,
    answered: bool,
}

impl<R: Resource> Trap<R> {
    pub(crate) fn new(armed: bool) -> Self {
        Self { armed, caught: Mutex::default(), progress: watch::Sender::default() }
    }

    /// To be called with each request before it is answered. Returns whether it is the one that
    /// was caught.
    pub(crate) async fn pass(&self, resource: &R, process: u32, request: &R::Request) -> bool {
        if !self.armed {
            return false;
        }
        let (is_held, is_the_one) = {
            let mut caught = self.caught.lock().unwrap_or_else(PoisonError::into_inner);
            match &*caught {
                // The process stands still, or will in a moment.
                Some((interrupted, _)) if *interrupted == process => (true, false),
                Some((interrupted, its)) => {
                    if resource.goes_as_far(request, *interrupted, its) {
                        self.progress.send_modify(|progress| progress.others_went_on = true);
                    }
                    (false, false)
                }
                None if resource.is_worst_moment(request) => {
                    *caught = Some((process, request.clone()));
                    self.progress.send_modify(|progress| progress.caught = Some(process));
                    (true, true)
                }
                None => (false, false),
            }
        };
        if is_held {
            self.until(|progress| progress.open).await;
        }
        is_the_one
    }

    /// To be called when the caught request was answered.
    pub(crate) fn answered(&self) {
        self.progress.send_modify(|progress| progress.answered = true);
    }

    /// Resolves with the process when one is caught.
    pub async fn caught(&self) -> u32 {
        self.until(|progress| progress.caught.is_some()).await.caught.unwrap_or_default()
    }

    /// Resolves when another process has got as far as the caught one.
    pub async fn others_went_on(&self) {
        self.until(|progress| progress.others_went_on).await;
    }

    /// Lets the request that was held back arrive. Resolves when it is answered.
    pub async fn release(&self) {
        self.progress.send_modify(|progress| progress.open = true);
        self.until(|progress| progress.answered).await;
    }

    async fn until(&self, reached: impl FnMut(&Progress) -> bool + Send) -> Progress {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(reached).await.map(|progress| *progress);
        // The sender lives as long as the trap, so that there is a value.
        reached.unwrap_or_default()
    }
}

impl<R: Resource> fmt::Debug for Trap<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trap").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}
