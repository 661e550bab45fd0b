//! The decision of each recipe, as a pure function over what is ahead of an entry: no I/O, no clock.

use crate::backend::{Ahead, Entry, Standing};

/// What an entry may do, given what is ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision<'a> {
    /// It holds the lock.
    Granted,
    /// It waits for `on` to be removed. `last` tells that nothing else is ahead, so that this removal is the grant and
    /// needs no further look: entries only ever join behind.
    Wait {
        /// The predecessor.
        on: &'a Entry,
        /// Whether it is the only entry ahead.
        last: bool,
    },
}

/// How many entries ahead [`exclusive`] needs to see.
pub(crate) const EXCLUSIVE_LIMIT: usize = 1;

/// A mutex: granted to the first entry; every other one waits for its immediate predecessor, so that a release wakes one.
pub(crate) fn exclusive(ahead: &Ahead) -> Decision<'_> {
    match ahead.nearest.first() {
        None => Decision::Granted,
        Some(Standing { entry: on, .. }) => Decision::Wait { on, last: ahead.nearest.len() == 1 && !ahead.more },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Kind;

    fn entry(n: u64) -> Entry {
        Entry { key: format!("e{n}"), incarnation: n }
    }

    /// What a store answers for the entry at `position` of a queue with these members alive.
    fn ahead(alive: &[bool], position: usize, limit: usize) -> Ahead {
        let all: Vec<_> = (0..position)
            .rev()
            .filter(|&i| alive[i])
            .map(|i| Standing { entry: entry(i as u64), kind: Kind::Exclusive })
            .collect();
        Ahead { more: all.len() > limit, nearest: all.into_iter().take(limit).collect() }
    }

    /// Every queue of up to six entries, every subset of them alive, every order of leaving.
    #[test]
    fn one_holder_one_wakeup_and_nobody_forgotten_in_every_small_queue() {
        for n in 1..=6 {
            for alive in 0..1u32 << n {
                let alive: Vec<bool> = (0..n).map(|i| alive & (1 << i) != 0).collect();
                for limit in 1..=n {
                    check_queue(&alive, limit);
                }
            }
        }
    }

    fn check_queue(alive: &[bool], limit: usize) {
        let live: Vec<usize> = (0..alive.len()).filter(|&i| alive[i]).collect();
        for (rank, &i) in live.iter().enumerate() {
            let ahead = ahead(alive, i, limit);
            match exclusive(&ahead) {
                Decision::Granted => assert_eq!(rank, 0, "only the first is granted: {alive:?} {i}"),
                Decision::Wait { on, last } => {
                    assert_eq!(*on, entry(live[rank - 1] as u64), "waits for its live predecessor: {alive:?} {i}");
                    assert_eq!(last, rank == 1, "a removal is the grant only behind the holder: {alive:?} {i}");
                }
            }
        }
        for (rank, &leaver) in live.iter().enumerate() {
            let woken = live
                .iter()
                .filter(|&&i| {
                    matches!(exclusive(&ahead(alive, i, limit)), Decision::Wait { on, .. } if *on == entry(leaver as u64))
                })
                .count();
            assert_eq!(woken, usize::from(rank + 1 < live.len()), "one wake-up per leaver: {alive:?} {leaver}");
        }
    }
}
