//! Leading, as long as it lasts.

use std::ops::Deref;
use std::sync::{Arc, Mutex as Lock, PoisonError};

use tokio::sync::{Mutex as AsyncLock, watch};

use crate::error::{Error, Loss, Result};
use crate::guard::{Guard, Release};
use crate::revocation;

/// Leadership of an election. Resigns when dropped; all else it does is a [`Guard`]'s.
#[must_use = "leadership ends when this is dropped"]
#[derive(Debug)]
pub struct Leadership {
    guard: Arc<Guard>,
    term: u64,
    shown: Arc<Lock<Vec<u8>>>,
    /// Who has it writes the value.
    turn: Arc<AsyncLock<()>>,
    /// Tells when the turns that this one belongs to are stopped.
    stopped: Option<watch::Receiver<bool>>,
}

/// Why a leader's work should come to an end.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The leadership was lost: somebody else may lead already.
    Lost(Loss),
    /// Somebody asks the leader to let go.
    Revoked,
    /// The [`Turns`](crate::Turns) were stopped.
    Stopped,
}

impl Leadership {
    pub(super) fn new(guard: Guard, term: u64, value: Vec<u8>) -> Self {
        Self { guard: Arc::new(guard), term, shown: Arc::new(Lock::new(value)), turn: Arc::default(), stopped: None }
    }

    pub(super) fn stopped_by(mut self, stopped: watch::Receiver<bool>) -> Self {
        self.stopped = Some(stopped);
        self
    }

    /// Counts the leaders of this election, those of other kinds of clients left out: greater than that of every earlier
    /// leader. A candidate that was lost while it took office may have used up a number. To be compared by resources, take
    /// the [`token`](Guard::token), which every leader has.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The value that the leader shows.
    pub fn value(&self) -> Vec<u8> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another value of at most 4 KiB. Observers see it at once. Proclamations of one leader are made in the order of
    /// the calls.
    ///
    /// # Errors
    /// [`Error::Lost`] when the leadership was lost before or meanwhile; the value of another leader is never touched.
    /// [`Error::ValueTooLarge`], and [`Error::InvalidConfig`] for a value that begins with `__REVOKE__`.
    ///
    /// # Cancel safety
    /// The value may or may not be shown; if it is, before the value of any later call.
    pub async fn proclaim(&self, value: impl AsRef<[u8]> + Send) -> Result<()> {
        let value = revocation::checked(self.guard.lock(), value.as_ref())?;
        let turn = self.turn.clone().lock_owned().await;
        let (guard, shown) = (self.guard.clone(), self.shown.clone());
        let written = self.guard.live().runtime.spawn(async move {
            let _turn = turn;
            guard.show(&value).await?;
            *shown.lock().unwrap_or_else(PoisonError::into_inner) = value;
            Ok(())
        });
        written.await.unwrap_or_else(|_| Err(runtime_gone()))
    }

    /// Resolves when work that is done as the leader should come to an end.
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping it.
    pub async fn ending(&self) -> Ending {
        let stopped = async {
            let told = match self.stopped.clone() {
                Some(mut stopped) => stopped.wait_for(|stopped| *stopped).await.is_ok(),
                None => false,
            };
            if !told {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            loss = self.lost() => Ending::Lost(loss),
            () = self.revoked() => Ending::Revoked,
            () = stopped => Ending::Stopped,
        }
    }

    /// Ends the leadership and waits for the store's answer, as [`Guard::release`]: lost locally before anything is sent, and
    /// tried again with a time budget of its own when the store does not answer.
    ///
    /// # Cancel safety
    /// The leadership ends all the same.
    pub async fn resign(self) -> Release {
        self.guard.let_go().await
    }
}

impl Deref for Leadership {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

fn runtime_gone() -> Error {
    Error::Runtime { problem: "has been shut down; keep it alive as long as its locks".into() }
}
