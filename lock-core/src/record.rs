//! The record of a name: what a recipe keeps in the store beside its queue, for all sessions and none.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::backend::{Change, Entry, Kind, Watch, Watched, Written};
use crate::decision::{Limits, are_of_one_recipe};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::session::{Backoff, Live, recheck};

/// A record as it is stored, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "recipe", rename_all = "kebab-case")]
pub(crate) enum Record {
    Semaphore {
        limit: u32,
        /// The highest limit under which a permit may still be held.
        highest: u32,
    },
    /// A mutex whose next holder waits when the last one vanished.
    LockDelay {
        /// The token of the holder, until it releases.
        holder: u64,
        millis: u64,
    },
    Barrier {
        raised: bool,
    },
    DoubleBarrier {
        parties: u32,
        /// The last token of each round that may have parties inside, and of the latest one; oldest first.
        rounds: Vec<u64>,
    },
    CountDownLatch {
        /// What it counts down from.
        count: u32,
        left: u32,
        /// Each count-down that was made, until none is left to make, so that none counts twice.
        done: Vec<String>,
        /// How often it came to zero.
        opened: u64,
    },
    Election {
        /// How often somebody of this library has taken office.
        term: u64,
        /// The token of the one who did so last.
        leader: u64,
        /// The candidate whom that one has named as the next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        successor: Option<Entry>,
    },
    Group {
        /// Grows whenever a member shows another value.
        changes: u64,
    },
}

impl Record {
    /// The recipe that keeps it, as people call it.
    pub(crate) fn recipe(&self) -> &'static str {
        match self {
            Self::Semaphore { .. } => "semaphore",
            Self::LockDelay { .. } => "mutex",
            Self::Barrier { .. } => "barrier",
            Self::DoubleBarrier { .. } => "double barrier",
            Self::CountDownLatch { .. } => "count-down latch",
            Self::Election { .. } => "election",
            Self::Group { .. } => "group",
        }
    }

    pub(crate) fn is_of(&self, name: &Name, wanted: &'static str) -> Result<()> {
        let found = self.recipe();
        if found == wanted { Ok(()) } else { Err(Error::OtherRecipe { name: name.to_string(), wanted, found }) }
    }
}

/// Reads a record; `None` when there is none.
pub(crate) async fn read(live: &Live, name: &Name, wanted: &'static str) -> Result<Option<Record>> {
    Ok(read_version(live, name, wanted).await?.0)
}

/// Reads a record and its version, which is another one after each write.
pub(crate) async fn read_version(live: &Live, name: &Name, wanted: &'static str) -> Result<(Option<Record>, u64)> {
    let place = live.session.record(name);
    let content = live.retry(|| live.session.read(&place)).await?.unwrap_or_default();
    Ok((parse(&content.value, name, wanted)?, content.version))
}

/// Replaces a record by what `change` makes of it, until that is done; `change` answers what it wants written, if
/// anything, and a result. Returns the last result.
///
/// `change` is asked again when others were faster or an answer was lost; it may then see what it has written itself.
pub(crate) async fn update<T: Send>(
    live: &Live,
    name: &Name,
    wanted: &'static str,
    mut change: impl FnMut(Option<Record>) -> Result<(Update, T)> + Send,
) -> Result<T> {
    let place = live.session.record(name);
    let mut outcome = None;
    live.rewrite(&place, |value| {
        let changed = parse(value, name, wanted).and_then(&mut change);
        let (update, result) = match changed {
            Ok((update, result)) => (update, Ok(result)),
            Err(error) => (Update::Keep, Err(error)),
        };
        outcome = Some(result);
        match update {
            Update::Keep => None,
            Update::Write(record) => Some(serde_json::to_vec(&record).unwrap_or_default()),
            Update::Clear => Some(Vec::new()),
        }
    })
    .await?;
    // A record is always there, so `change` was asked.
    outcome.unwrap_or_else(|| Err(live.over()))
}

/// A record as it is, and the watch that tells of its next change.
pub(crate) struct Look {
    pub(crate) record: Option<Record>,
    /// Another one after each write.
    pub(crate) version: u64,
    watch: Watch,
}

/// Reads a record with a watch in force, so that no change after what was read is missed.
pub(crate) async fn look(live: &Live, name: &Name, wanted: &'static str) -> Result<Look> {
    let place = live.session.record(name);
    live.counters.looks.add_one();
    // A record is always present. If a backend says otherwise, looking again after a pause is what is left.
    let watch = match live.retry(|| live.session.watch(&place)).await? {
        Watched::Present(watch) => watch,
        Watched::Gone => Box::pin(async { Change::Unknown }),
    };
    let (record, version) = read_version(live, name, wanted).await?;
    Ok(Look { record, version, watch })
}

impl Look {
    /// Resolves when the record may have changed, or the session is lost.
    pub(crate) async fn changed(self, live: &Live) {
        live.counters.waits.add_one();
        tokio::select! {
            biased;
            _ = live.health.lost() => {}
            () = recheck() => {}
            change = self.watch => match change {
                // The connection may be gone, and with it the watches of all who wait here: not all at once.
                Change::Unknown => Backoff::default().wait(&live.health).await,
                Change::Updated | Change::Removed => live.counters.nudges.add_one(),
            }
        }
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("record", &self.record).field("version", &self.version).finish_non_exhaustive()
    }
}

/// Writes a record if it is still the one that was looked at. `false` when it was not, or the answer was lost: look again.
pub(crate) async fn replace(live: &Live, name: &Name, version: u64, record: &Record) -> Result<bool> {
    let place = live.session.record(name);
    // Names, numbers and lists always serialise.
    let value = serde_json::to_vec(record).unwrap_or_default();
    match live.session.write(&place, version, &value).await {
        Ok(written) => Ok(written == Written::Done),
        Err(Error::Unavailable { request, source }) => {
            tracing::debug!(%name, %request, %source, "the answer was lost");
            Ok(false)
        }
        Err(error) => {
            live.note(&error);
            Err(error)
        }
    }
}

/// Tells those who watch the record of a group that a member shows another value.
pub(crate) async fn count_change(live: &Live, name: &Name) -> Result<()> {
    let place = live.session.record(name);
    let mut backoff = Backoff::default();
    loop {
        let content = live.retry(|| live.session.read(&place)).await?.unwrap_or_default();
        let changes = match parse(&content.value, name, "group")? {
            Some(Record::Group { changes }) => changes,
            _ => 0,
        };
        let counted = Record::Group { changes: changes.wrapping_add(1) };
        match live.session.write(&place, content.version, &serde_json::to_vec(&counted).unwrap_or_default()).await {
            // Whoever was faster has told them, too, and after the value was written.
            Ok(Written::Done | Written::Conflict) => return Ok(()),
            Err(Error::Unavailable { request, source }) => {
                tracing::debug!(group = %name, %request, %source, "the answer was lost");
                backoff.wait(&live.health).await;
            }
            Err(error) => {
                live.note(&error);
                return Err(error);
            }
        }
    }
}

/// Refuses a name whose queue is in use by another recipe than that of `kind`. To be asked before the first record of a
/// recipe is written, because a record is a claim on the name that outlives the queue.
pub(crate) async fn unclaimed(live: &Live, name: &Name, kind: Kind) -> Result<()> {
    let first = live.retry(|| live.session.entries(name, 1)).await?.pop();
    match first {
        Some(first) if !are_of_one_recipe(kind, first.kind) => Err(other_recipe(name, kind, first.kind)),
        _ => Ok(()),
    }
}

pub(crate) fn other_recipe(name: &Name, wanted: Kind, found: Kind) -> Error {
    Error::OtherRecipe { name: name.to_string(), wanted: wanted.recipe(), found: found.recipe() }
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    Keep,
    Write(Record),
    Clear,
}

fn parse(value: &[u8], name: &Name, wanted: &'static str) -> Result<Option<Record>> {
    if value.is_empty() {
        return Ok(None);
    }
    let record: Record = serde_json::from_slice(value).map_err(|_| Error::OtherRecipe {
        name: name.to_string(),
        wanted,
        found: "recipe of another version or program",
    })?;
    record.is_of(name, wanted)?;
    Ok(Some(record))
}

const SEMAPHORE: &str = "semaphore";

/// The limits of a semaphore; `None` before its first use.
pub(crate) async fn limits(live: &Live, name: &Name) -> Result<Option<Limits>> {
    Ok(match read(live, name, SEMAPHORE).await? {
        Some(Record::Semaphore { limit, highest }) => Some(Limits { now: limit, highest }),
        _ => None,
    })
}

/// The same, for one who is about to use it: whoever comes first sets the one it believes in.
pub(crate) async fn limits_or_first(live: &Live, name: &Name, believed: u32) -> Result<Limits> {
    if let Some(limits) = limits(live, name).await? {
        return Ok(limits);
    }
    unclaimed(live, name, Kind::Permits(believed)).await?;
    update(live, name, SEMAPHORE, |record| {
        Ok(match record {
            Some(Record::Semaphore { limit, highest }) => (Update::Keep, Limits { now: limit, highest }),
            _ => {
                let first = Record::Semaphore { limit: believed, highest: believed };
                (Update::Write(first), Limits::first(believed))
            }
        })
    })
    .await
}
