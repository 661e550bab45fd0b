//! Hand-over between the tasks of one process: what a session knows of its own entries before the store does.
//!
//! An entry of this session that held and was given up holds nothing any more, although the store still shows it: its removal
//! is on the way. So the next one of the same session need not wait for that. Everybody else sees the order of the queue as
//! before: both entries are ahead of all others until they are removed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::backend::{Ahead, Entry, Kind, Standing};

/// The entries of one session in queues where one may go on without the store.
#[derive(Debug, Default)]
pub(crate) struct Locals {
    entries: Mutex<HashMap<Entry, Local>>,
}

#[derive(Debug)]
enum Local {
    Waits {
        behind: Vec<oneshot::Sender<()>>,
    },
    /// It was granted, with nobody ahead of it, and handed out.
    Holds {
        behind: Vec<oneshot::Sender<()>>,
    },
    /// It held and was given up.
    Left,
}

/// Tells when an entry that held is given up.
pub(crate) type Departure = oneshot::Receiver<()>;

/// Resolves when an entry that held is given up; never for one that is not known, or of which only the store can tell.
pub(crate) async fn left(departure: Option<Departure>) {
    if let Some(departure) = departure
        && departure.await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Locals {
    fn entries(&self) -> MutexGuard<'_, HashMap<Entry, Local>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry of this session is in a queue.
    pub(crate) fn enter(&self, entry: &Entry, kind: Kind) {
        // Ahead of a reader that held there may be others.
        if matches!(kind, Kind::Exclusive | Kind::Write) {
            self.entries().insert(entry.clone(), Local::Waits { behind: Vec::new() });
        }
    }

    /// What it asked for was granted and handed out.
    pub(crate) fn grant(&self, entry: &Entry) {
        if let Some(local) = self.entries().get_mut(entry)
            && let Local::Waits { behind } = local
        {
            *local = Local::Holds { behind: std::mem::take(behind) };
        }
    }

    /// It is given up: it holds nothing from now on, and never will.
    pub(crate) fn leave(&self, entry: &Entry) {
        if let Some(local) = self.entries().get_mut(entry)
            && let Local::Holds { behind } = local
        {
            let behind = std::mem::take(behind);
            *local = Local::Left;
            for waiter in behind {
                let _ = waiter.send(());
            }
        }
    }

    /// The store does not show it any more.
    pub(crate) fn forget(&self, entry: &Entry) {
        self.entries().remove(entry);
    }

    /// For a waiter of this kind, when that entry is given up.
    pub(crate) fn departure(&self, kind: Kind, entry: &Entry) -> Option<Departure> {
        if !goes_on_without_the_store(kind) {
            return None;
        }
        let (sender, departure) = oneshot::channel();
        match self.entries().get_mut(entry)? {
            Local::Waits { behind } | Local::Holds { behind } => {
                behind.retain(|other| !other.is_closed());
                behind.push(sender);
            }
            Local::Left => drop(sender.send(())),
        }
        Some(departure)
    }

    /// Takes out of what is ahead of an entry of this kind one that held and left, and all ahead of that one: there was nobody
    /// when it was granted, and entries only ever join behind.
    pub(crate) fn settle(&self, kind: Kind, ahead: &mut Ahead) {
        if !goes_on_without_the_store(kind) || ahead.nearest.is_empty() {
            return;
        }
        let entries = self.entries();
        let left = |other: &&Standing| matches!(entries.get(&other.entry), Some(Local::Left));
        if let Some(entry) = ahead.nearest.iter().find(left).map(|other| other.entry.clone()) {
            shorten(ahead, &entry);
        }
    }
}

/// Takes out of what is ahead one that held and left, and all ahead of that one.
pub(crate) fn shorten(ahead: &mut Ahead, left: &Entry) {
    if let Some(at) = ahead.nearest.iter().position(|other| other.entry == *left) {
        ahead.nearest.truncate(at);
        ahead.more = false;
    }
}

/// Not semaphores, whose waiters of other sessions reckon with what each entry of the queue holds, and not elections,
/// where observers take the first entry for the leader.
fn goes_on_without_the_store(kind: Kind) -> bool {
    matches!(kind, Kind::Exclusive | Kind::Read | Kind::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry { key: format!("e{n}").into(), incarnation: n }
    }

    /// What is left of `shown`, nearest first, and whether more is behind that.
    fn settled(locals: &Locals, kind: Kind, shown: &[u64], more: bool) -> (Vec<u64>, bool) {
        let standing = |n: &u64| Standing { entry: entry(*n), kind: Kind::Exclusive };
        let mut ahead = Ahead { nearest: shown.iter().map(standing).collect(), more };
        locals.settle(kind, &mut ahead);
        (ahead.nearest.iter().map(|other| other.entry.incarnation).collect(), ahead.more)
    }

    #[test]
    fn nothing_is_ahead_of_one_that_held_and_left() {
        let (locals, mutex) = (Locals::default(), Kind::Exclusive);
        for n in [2, 4] {
            locals.enter(&entry(n), mutex);
        }
        assert_eq!(settled(&locals, mutex, &[5, 4, 3], true), (vec![5, 4, 3], true));
        locals.grant(&entry(4));
        assert_eq!(settled(&locals, mutex, &[5, 4, 3], true), (vec![5, 4, 3], true), "it holds");
        locals.leave(&entry(4));
        for kind in [Kind::Exclusive, Kind::Read, Kind::Write] {
            assert_eq!(settled(&locals, kind, &[5, 4, 3], true), (vec![5], false), "{kind:?}");
            assert_eq!(settled(&locals, kind, &[4, 3], true), (vec![], false), "{kind:?}");
        }
        locals.forget(&entry(4));
        assert_eq!(settled(&locals, mutex, &[4], false), (vec![4], false), "nothing is known of it");
    }

    #[test]
    fn one_that_gave_up_waiting_tells_nothing_of_those_ahead_of_it() {
        let (locals, mutex) = (Locals::default(), Kind::Exclusive);
        locals.enter(&entry(4), mutex);
        locals.leave(&entry(4));
        assert_eq!(settled(&locals, mutex, &[4, 3], false), (vec![4, 3], false));
    }

    #[test]
    fn others_may_be_ahead_of_a_reader_that_held() {
        let locals = Locals::default();
        locals.enter(&entry(4), Kind::Read);
        locals.grant(&entry(4));
        locals.leave(&entry(4));
        assert_eq!(settled(&locals, Kind::Write, &[4, 3], true), (vec![4, 3], true));
    }

    #[test]
    fn semaphores_and_elections_go_by_the_store() {
        let locals = Locals::default();
        locals.enter(&entry(4), Kind::Exclusive);
        locals.grant(&entry(4));
        locals.leave(&entry(4));
        for kind in [Kind::Permits(1), Kind::Candidate, Kind::Member] {
            assert!(locals.departure(kind, &entry(4)).is_none(), "{kind:?}");
            assert_eq!(settled(&locals, kind, &[4], false), (vec![4], false), "{kind:?}");
            locals.enter(&entry(5), kind);
            assert!(locals.departure(Kind::Exclusive, &entry(5)).is_none(), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_departure_is_told_when_it_has_happened() {
        let locals = Locals::default();
        locals.enter(&entry(4), Kind::Exclusive);
        let departure = || locals.departure(Kind::Exclusive, &entry(4));
        let early = departure();
        locals.grant(&entry(4));
        assert!(at_once(left(departure())).await.is_none());
        locals.leave(&entry(4));
        assert!(at_once(left(departure())).await.is_some());
        locals.forget(&entry(4));
        assert!(at_once(left(early)).await.is_some());
        assert!(at_once(left(departure())).await.is_none(), "nothing is known of it");
    }

    /// What a future gives at once.
    async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            told = future => Some(told),
            () = std::future::ready(()) => None,
        }
    }
}
