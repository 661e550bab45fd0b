//! Waiting for a condition instead of sleeping.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{Error, Result};

/// The limit of every wait that names none, 30 seconds: far more than a healthy machine needs, so that only a fault ends a wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `probe` until it answers, and returns the answer.
///
/// # Errors
///
/// [`Error::Timeout`], which names `what`, when `limit` passes first.
pub async fn eventually<T, F>(
    what: impl Into<String> + Send,
    limit: Duration,
    mut probe: impl FnMut() -> F + Send,
) -> Result<T>
where
    F: Future<Output = Option<T>> + Send,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe().await {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what: what.into(), limit, log: String::new() });
        }
        sleep(INTERVAL).await;
    }
}
