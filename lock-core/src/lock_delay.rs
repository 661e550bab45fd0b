//! A pause between a holder that vanished and the next one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Placed;
use crate::error::Result;
use crate::name::Name;
use crate::record::{self, Record, Update};
use crate::session::Live;

/// How long the next holder waits when this one vanishes without releasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockDelay(pub(crate) Duration);

const MUTEX: &str = "mutex";

/// What is known of the record when a turn has come.
#[derive(Debug)]
pub(crate) struct Before {
    /// The holder that vanished, and how long to wait because it did.
    pub(crate) pause: Option<Pause>,
    /// The record's version, if it may be replaced as it is.
    version: Option<u64>,
}

/// A pause that somebody is about to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    /// The token of the one who vanished.
    holder: u64,
    millis: u64,
}

impl Pause {
    pub(crate) fn length(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// How far one has come whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// The pause that has begun, if one has, and when.
    pub(crate) pause: OnceLock<(Pause, Instant)>,
    /// The next holder is being asked to wait, or has been.
    asks: AtomicBool,
}

impl LockDelay {
    /// Asks the next holder to wait if the one with this token vanishes. `false` when its entry is gone already.
    pub(crate) async fn ask(
        &self,
        live: &Live,
        name: &Name,
        placed: &Placed,
        before: Before,
        begun: &Begun,
    ) -> Result<bool> {
        begun.asks.store(true, Ordering::Relaxed);
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let mine = Record::LockDelay { holder: placed.token, millis };
        if let Some(version) = before.version
            && record::replace(live, name, version, &mine).await?
        {
            return Ok(true);
        }
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
/// Nobody knows when it vanished if nobody waited then, so the pause counts from now.
pub(crate) async fn before(live: &Live, name: &Name, placed: &Placed) -> Result<Before> {
    let (record, version) = record::read_version(live, name, MUTEX).await?;
    Ok(match record {
        Some(Record::LockDelay { holder, millis }) if holder != placed.token => {
            tracing::info!(lock = %name, millis, "the last holder vanished, waiting");
            let version = (holder < placed.token).then_some(version);
            Before { pause: Some(Pause { holder, millis }), version }
        }
        _ => Before { pause: None, version: Some(version) },
    })
}

/// Says that the holder with this token leaves in order. Where that cannot be said, the next one waits as if it had vanished.
pub(crate) async fn forget(live: &Live, name: &Name, token: u64) {
    withdraw(live, name, token, &Begun::default()).await;
}

/// Says that one leaves in order before it held, or in the moment in which it was about to. Of a pause that it has begun, the
/// next one has to make only what is left: waiters with little patience would else pause one after the other, for ever.
pub(crate) async fn withdraw(live: &Live, name: &Name, token: u64, begun: &Begun) {
    // A request to ask that nobody waits for any more may still be on its way. It does not apply to what was written since.
    let asks = begun.asks.load(Ordering::Relaxed);
    let left = begun
        .pause
        .get()
        .map(|(pause, since)| (pause.holder, pause.length().saturating_sub(since.elapsed()).as_millis()));
    let said = record::update(live, name, MUTEX, |record| {
        let update = match (record, left) {
            (Some(Record::LockDelay { holder, .. }), _) if holder == token => Update::Clear,
            (Some(Record::LockDelay { holder, millis }), Some((vanished, left))) if holder == vanished => {
                // Not counted twice when an answer was lost.
                let left = u64::try_from(left).unwrap_or(u64::MAX).min(millis);
                if left < millis || asks {
                    Update::Write(Record::LockDelay { holder, millis: left })
                } else {
                    Update::Keep
                }
            }
            (Some(record), _) if asks => Update::Write(record),
            (None, _) if asks => Update::Clear,
            _ => Update::Keep,
        };
        Ok((update, ()))
    });
    if let Err(error) = said.await {
        tracing::debug!(lock = %name, %error, "the next holder will wait as if this one had vanished");
    }
}
