//! What was in a record when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::Name;
use serde_json::Value;
use tokio::time::Instant;

use crate::world::World;

/// One who waits has seen the record for the first time after this, if its link works.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// Whoever waits for a change has to notice it within this time, if its link works.
const PROMPTLY: Duration = Duration::from_millis(500);

/// A record at a moment, as it stayed until the next one.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    at: Instant,
    /// Grows with every write, also with those that nobody saw.
    pub(crate) version: u64,
    pub(crate) record: Value,
}

/// Follows a record.
pub(crate) struct Chronicle {
    world: Arc<World>,
    name: Name,
    all: Mutex<Vec<Written>>,
}

impl Chronicle {
    pub(crate) fn new(world: Arc<World>, name: &str) -> Self {
        Self { world, name: Name::new(name).expect("a valid name"), all: Mutex::default() }
    }

    pub(crate) async fn follow(&self) {
        loop {
            self.look().await;
            self.world.record_changed(&self.name).await;
        }
    }

    /// What is in the record now.
    pub(crate) async fn look(&self) -> Written {
        let content = self.world.record(&self.name).await;
        let record = serde_json::from_slice(&content.value).unwrap_or(Value::Null);
        let now = Written { at: Instant::now(), version: content.version, record };
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.last().is_none_or(|last| last.version != now.version) {
            all.push(now.clone());
        }
        now
    }

    /// What was in the record from then on, first that which was there before.
    pub(crate) fn since(&self, from: Instant) -> Vec<Written> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.partition_point(|written| written.at < from).saturating_sub(1);
        all[first..].to_vec()
    }

    /// Judges one that has waited since `began`, and has seen what it waited for if `done`. `changed` says whether it may go
    /// on, given what it saw first and what is there.
    pub(crate) async fn judge(
        &self,
        client: usize,
        began: Instant,
        done: bool,
        changed: impl Fn(&Written, &Written) -> bool + Send,
    ) {
        self.look().await;
        let since_then = self.since(began);
        let first = &since_then[0];
        let may_go = since_then.iter().any(|now| changed(first, now));
        self.world.check(!done || may_go, || format!("client {client} went on without a reason: {since_then:?}"));
        // From its first look on, nothing may escape it.
        let looked = self.since(began + FIRST_LOOK);
        if !self.world.is_clean(client) || began.elapsed() < FIRST_LOOK || looked.is_empty() {
            return;
        }
        let first = &looked[0];
        if let Some(reason) = looked.iter().find(|now| changed(first, now)) {
            let late = reason.at.max(began + FIRST_LOOK).elapsed();
            self.world.check(late <= PROMPTLY, || format!("client {client} waited {late:?} too long: {reason:?}"));
        }
    }
}
