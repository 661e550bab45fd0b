//! The names of the queues.

use std::io::ErrorKind;
use std::time::Instant;

use lock_core::{Name, Result};

use crate::error::Failed;
use crate::session::FileSession;
use crate::store::Transaction;
use crate::sys;

const LIST_NAMES: &str = "list the names of the queues";

/// Queues that are looked at in one transaction, so that nobody waits for all of them.
const AT_ONCE: usize = 32;

impl FileSession {
    pub(crate) async fn names(&self, prefix: &str) -> Result<Vec<Name>> {
        let (limit, began, prefix) = (self.limit(), Instant::now(), prefix.to_owned());
        let names = self.store.run(LIST_NAMES, limit, move |store| store.names(&prefix)).await?;
        let mut live = Vec::with_capacity(names.len());
        for some in names.chunks(AT_ONCE) {
            let (some, left) = (some.to_vec(), limit.saturating_sub(began.elapsed()));
            live.extend(self.store.run(LIST_NAMES, left, move |store| store.live(some)).await?);
        }
        Ok(live)
    }
}

impl Transaction<'_> {
    /// The names that start with `prefix` and have a directory, whether somebody stands there or not.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<Name>, Failed> {
        let segments = sys::list(&self.store.directory)?;
        let names = segments.iter().filter_map(|segment| Name::from_segment(segment));
        let mut names: Vec<_> = names.filter(|name| name.as_str().starts_with(prefix)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Keeps those in whose queue somebody stands.
    fn live(&mut self, names: Vec<Name>) -> Result<Vec<Name>, Failed> {
        let mut live = Vec::with_capacity(names.len());
        for name in names {
            match self.has_live_entry(name.segment()) {
                Ok(true) => live.push(name),
                Ok(false) => {}
                // Put there by somebody else.
                Err(failed) if failed.is(ErrorKind::NotADirectory) || failed.is(ErrorKind::PermissionDenied) => {}
                Err(failed) => return Err(failed),
            }
        }
        Ok(live)
    }
}
