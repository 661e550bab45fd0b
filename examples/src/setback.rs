//! What comes between a worker and its work, and trying once more.

use std::io;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::service::Refused;

/// A worker gives up when all its tries have failed for this long: more than a store that restarts needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a turn did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Setback {
    /// The lock was lost, or cannot be had.
    #[error(transparent)]
    Lock(#[from] lock_core::Error),
    /// The resource knows a later holder.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The resource does not answer.
    #[error("the resource does not answer")]
    Resource(#[from] io::Error),
}

impl Setback {
    /// Whether another try makes sense: sessions end, and servers restart.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Lock(error) => error.is_retryable(),
            Self::Refused(_) => true,
            Self::Resource(_) => false,
        }
    }
}

/// Tries until it works, with growing pauses.
///
/// # Errors
/// A setback that will not pass, or has not for a minute.
pub async fn keep_trying<T, F>(mut turn: impl FnMut() -> F + Send) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Setback>> + Send,
{
    let started = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        match turn().await {
            Ok(done) => return Ok(done),
            Err(error) if error.is_passing() && started.elapsed() < PATIENCE => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
