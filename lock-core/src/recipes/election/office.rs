//! Taking office: what the first candidate of the queue does before it leads.
//!
//! The record of an election counts the terms and keeps whom the last leader has named as the next. It never lets anybody
//! lead who is not first.

use crate::backend::Entry;
use crate::error::{Error, Loss, Result};
use crate::guard::Guard;
use crate::recipes::election::ELECTION;
use crate::record::{self, Record, Update};

/// The outcome of [`take`].
pub(super) enum Office {
    /// It leads.
    Taken { term: u64 },
    /// The last leader has named another candidate, who still stands.
    Reserved { successor: Entry },
}

/// What the record says to a first candidate.
enum Word {
    Taken(u64),
    /// Another one was named, who may be gone.
    Named(Entry),
    /// Somebody behind in the queue has been leading.
    Behind,
}

/// Counts a term and clears the mark, unless the mark names somebody else who still stands.
///
/// Whoever steps aside is behind the one named, and can be first again only when that one is gone. So the one it has
/// stepped aside for before, `passed`, is nobody in this queue: the mark is wrong.
pub(super) async fn take(guard: &Guard, passed: Option<&Entry>) -> Result<Office> {
    let (live, mine) = (guard.live(), guard.token());
    let mut gone = passed.cloned();
    let mut stands = false;
    loop {
        let word = record::update(live, guard.lock(), ELECTION, |record| {
            let (term, leader, successor) = match record {
                Some(Record::Election { term, leader, successor }) => (term, leader, successor),
                _ => (0, 0, None),
            };
            // An earlier answer was lost.
            if leader == mine {
                return Ok((Update::Keep, Word::Taken(term)));
            }
            if leader > mine && !stands {
                return Ok((Update::Keep, Word::Behind));
            }
            if let Some(successor) = successor
                && successor != *guard.entry()
                && Some(&successor) != gone.as_ref()
            {
                return Ok((Update::Keep, Word::Named(successor)));
            }
            let term = term.saturating_add(1);
            Ok((Update::Write(Record::Election { term, leader: mine, successor: None }), Word::Taken(term)))
        });
        match word.await.map_err(|error| of_candidate(guard, error))? {
            Word::Taken(term) => {
                live.proven().await.map_err(|_| lost_place(guard))?;
                return Ok(Office::Taken { term });
            }
            Word::Named(successor) => {
                let standing = live.retry(|| live.session.read(&successor)).await;
                if standing.map_err(|error| of_candidate(guard, error))?.is_some() {
                    return Ok(Office::Reserved { successor });
                }
                gone = Some(successor);
            }
            // So the own entry is gone, or the record was brought here from elsewhere.
            Word::Behind => {
                let own = live.retry(|| live.session.read(guard.entry())).await;
                if own.map_err(|error| of_candidate(guard, error))?.is_none() {
                    live.renew_now();
                    return Err(Error::EntryRemoved { lock: guard.name().to_owned() });
                }
                tracing::warn!(election = guard.name(), "the record names a leader that cannot have been");
                stands = true;
            }
        }
    }
}

/// Notes whom the leader wants to lead next; `false` when that one does not stand.
pub(super) async fn name_successor(guard: &Guard, term: u64, successor: &Entry) -> Result<bool> {
    guard.check()?;
    let (live, mine) = (guard.live(), guard.token());
    let named = async {
        let candidates = live.retry(|| live.session.entries(guard.lock(), usize::MAX)).await?;
        if !candidates.iter().any(|candidate| candidate.entry == *successor) {
            return Ok(false);
        }
        record::update(live, guard.lock(), ELECTION, |record| {
            guard.check()?;
            let term = match record {
                Some(Record::Election { leader, .. }) if leader > mine => {
                    // If the record is wrong, the entry is still there, and would keep everybody behind it from leading.
                    live.clone().remove_later(guard.entry().clone());
                    return Err(guard.entry_removed());
                }
                Some(Record::Election { term, .. }) => term,
                _ => term,
            };
            let record = Record::Election { term, leader: mine, successor: Some(successor.clone()) };
            Ok((Update::Write(record), ()))
        })
        .await?;
        Ok(true)
    };
    let named = named.await;
    guard.check().and(named)
}

/// Whether there are other candidates than the leader.
pub(super) async fn is_followed(guard: &Guard) -> Result<bool> {
    guard.check()?;
    let live = guard.live();
    let first_two = live.retry(|| live.session.entries(guard.lock(), 2)).await;
    guard.check()?;
    Ok(first_two?.iter().any(|entry| entry.entry != *guard.entry()))
}

/// The error of a candidate whose guard was lost before it took office.
pub(super) fn lost_place(guard: &Guard) -> Error {
    let lock = guard.name().to_owned();
    match guard.check() {
        Err(Error::Lost { loss: Loss::EntryRemoved, .. }) => Error::EntryRemoved { lock },
        Err(Error::Lost { loss, .. }) => Error::SessionLost { lock, loss },
        _ => Error::SessionLost { lock, loss: Loss::SessionEnded },
    }
}

fn of_candidate(guard: &Guard, error: Error) -> Error {
    if error.is_session_lost() { lost_place(guard) } else { error.of_lock(guard.lock()) }
}
