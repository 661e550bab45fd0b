//! A pause between a holder that vanished and the next one.

use std::time::Duration;

use crate::backend::Placed;
use crate::error::Result;
use crate::name::Name;
use crate::record::{self, Record, Update};
use crate::session::Live;

/// How long the next holder waits when this one vanishes without releasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockDelay(pub(crate) Duration);

const MUTEX: &str = "mutex";

impl LockDelay {
    /// Asks the next holder to wait if the one with this token vanishes. `false` when its entry is gone already.
    pub(crate) async fn ask(&self, live: &Live, name: &Name, placed: &Placed) -> Result<bool> {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let mine = Record::LockDelay { holder: placed.token, millis };
        let mut is_there = false;
        loop {
            let asked = record::update(live, name, MUTEX, |record| {
                Ok(match record {
                    Some(Record::LockDelay { holder, .. }) if holder > placed.token && !is_there => {
                        (Update::Keep, false)
                    }
                    _ => (Update::Write(mine.clone()), true),
                })
            });
            if asked.await? {
                return Ok(true);
            }
            // Somebody behind in the queue holds. So the own entry is gone, or the record was brought here from elsewhere.
            is_there = live.retry(|| live.session.read(&placed.entry)).await?.is_some();
            if !is_there {
                return Ok(false);
            }
        }
    }
}

/// How long the holder before has asked to wait, if it vanished.
///
/// Nobody knows when it vanished if nobody waited then, so the pause always counts from now.
pub(crate) async fn pause(live: &Live, name: &Name, placed: &Placed) -> Result<Option<Duration>> {
    match record::read(live, name, MUTEX).await? {
        Some(Record::LockDelay { holder, millis }) if holder != placed.token => {
            tracing::info!(lock = %name, millis, "the last holder vanished, waiting");
            Ok(Some(Duration::from_millis(millis)))
        }
        _ => Ok(None),
    }
}

/// Says that the holder with this token leaves in order. Where that cannot be said, the next one waits as if it had vanished.
pub(crate) async fn forget(live: &Live, name: &Name, token: u64) {
    let forgotten = record::update(live, name, MUTEX, |record| {
        let update = match record {
            Some(Record::LockDelay { holder, .. }) if holder == token => Update::Clear,
            _ => Update::Keep,
        };
        Ok((update, ()))
    });
    if let Err(error) = forgotten.await {
        tracing::debug!(lock = %name, %error, "the next holder will wait as if this one had vanished");
    }
}
