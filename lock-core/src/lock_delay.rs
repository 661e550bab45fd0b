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
    /// Waits as long as the holder before has asked for, if it vanished; then leaves the same wish.
    ///
    /// Nobody knows when it vanished if nobody waited then, so the pause always counts from now.
    pub(crate) async fn wait(&self, live: &Live, name: &Name, placed: &Placed) -> Result<()> {
        let mine =
            Record::LockDelay { holder: placed.token, millis: u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX) };
        if let Some(Record::LockDelay { holder, millis }) = record::read(live, name, MUTEX).await?
            && holder != placed.token
        {
            tracing::info!(lock = %name, millis, "the last holder vanished, waiting");
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        record::update(live, name, MUTEX, |_| Ok((Update::Write(mine.clone()), ()))).await
    }
}

/// Says that the holder with this token leaves in order.
pub(crate) async fn forget(live: &Live, name: &Name, token: u64) -> Result<()> {
    record::update(live, name, MUTEX, |record| {
        let update = match record {
            Some(Record::LockDelay { holder, .. }) if holder == token => Update::Clear,
            _ => Update::Keep,
        };
        Ok((update, ()))
    })
    .await
}
