//! The decision of each recipe, as a pure function over what is ahead of an entry: no I/O, no clock.

use crate::backend::{Ahead, Entry, Kind, QueueEntry, Standing};

/// What is decided by: what an entry asks for and, for a semaphore, the limits of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) kind: Kind,
    pub(crate) limits: Limits,
}

/// How many permits a semaphore has. Without meaning for other recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The limit in force.
    pub(crate) now: u32,
    /// The highest limit under which a permit that is still held may have been granted.
    pub(crate) highest: u32,
}

impl Limits {
    pub(crate) const NONE: Self = Self { now: 0, highest: 0 };

    /// Those of a semaphore whose first user believes in this limit.
    pub(crate) fn first(believed: u32) -> Self {
        Self { now: believed, highest: believed }
    }
}

/// What an entry may do, given what is ahead of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision<'a> {
    /// It holds what it asked for.
    Granted,
    /// It waits for a change of any of `on`.
    Wait {
        /// Nearest first, never empty.
        on: Vec<&'a Entry>,
        /// What a change tells.
        hint: Hint,
    },
    /// Too little was shown: look at this many entries.
    LookFarther(usize),
    /// The name is used by another recipe, or this one ahead, the nearest such, is about to be refused.
    OtherRecipe(&'a Standing),
}

/// What the change of an entry waited for tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Its removal is the grant and needs no further look: it is the last obstacle, and entries only ever join behind.
    Grant,
    /// That one has to look again.
    Look,
    /// The same; moreover an update counts, and those before the watch was in force are not told. So look once more then.
    LookTwice,
}

impl Rule {
    /// How many entries ahead to ask for at first.
    pub(crate) fn first_look(self) -> usize {
        match self.kind {
            Kind::Read => 16,
            Kind::Permits(_) => self.limits.now.max(self.limits.highest).max(1) as usize,
            _ => 1,
        }
    }

    /// Whether an entry of this kind is granted, by what is ahead of it.
    pub(crate) fn decide(self, ahead: &Ahead) -> Decision<'_> {
        if let Some(other) = ahead.nearest.iter().find(|other| !are_of_one_recipe(self.kind, other.kind)) {
            return Decision::OtherRecipe(other);
        }
        match self.kind {
            Kind::Exclusive | Kind::Unmarked | Kind::Candidate => first(ahead, |_| Hint::Grant),
            // A writer ahead may go by turning into a reader.
            Kind::Write => first(ahead, |kind| if kind == Kind::Read { Hint::Grant } else { Hint::Look }),
            Kind::Read => read(ahead),
            Kind::Permits(wanted) => permits(wanted, self.limits, ahead),
            Kind::Member | Kind::Party | Kind::Sleeper => Decision::Granted,
        }
    }

    /// Whether somebody behind an entry that was just granted may be granted too, or is the first waiter now. Everybody
    /// behind the only holder of all permits waits for that one anyway.
    pub(crate) fn leaves_room_behind(self, ahead: &Ahead) -> bool {
        matches!(self.kind, Kind::Permits(wanted) if wanted < self.limits.now || !ahead.nearest.is_empty())
    }
}

/// Whether an entry may be behind that other one in a queue.
pub(crate) fn are_of_one_recipe(mine: Kind, other: Kind) -> bool {
    mine.recipe() == other.recipe() || other == Kind::Unmarked && matches!(mine, Kind::Exclusive | Kind::Candidate)
}

/// Those of a queue that are of one's own recipe; an error with the recipe that has the name instead. Its first entry tells
/// whose it is: one of another recipe farther behind is about to be refused.
pub(crate) fn of_own_recipe<T>(queue: Vec<T>, mine: Kind, kind: impl Fn(&T) -> Kind) -> Result<Vec<T>, Kind> {
    let is_own = |other: &T| are_of_one_recipe(mine, kind(other));
    match queue.first() {
        Some(first) if !is_own(first) => Err(kind(first)),
        _ => Ok(queue.into_iter().filter(is_own).collect()),
    }
}

/// Granted to the first entry; every other one waits for its immediate predecessor, so that a release wakes one.
fn first(ahead: &Ahead, hint: impl Fn(Kind) -> Hint) -> Decision<'_> {
    match ahead.nearest.first() {
        None => Decision::Granted,
        Some(Standing { entry, kind }) => {
            let last = ahead.nearest.len() == 1 && !ahead.more;
            Decision::Wait { on: vec![entry], hint: if last { hint(*kind) } else { Hint::Look } }
        }
    }
}

/// A reader waits for the nearest writer ahead and shares with the readers behind that.
fn read(ahead: &Ahead) -> Decision<'_> {
    let mut writers = ahead.nearest.iter().filter(|other| other.kind == Kind::Write);
    match (writers.next(), ahead.more) {
        (Some(writer), _) => Decision::Wait { on: vec![&writer.entry], hint: Hint::LookTwice },
        (None, true) => Decision::LookFarther(ahead.nearest.len().max(1) * 2),
        (None, false) => Decision::Granted,
    }
}

/// Permits are granted strictly in order: an entry holds when all ahead of it and itself fit into the limit. So the holders
/// are the first entries of the queue, whatever each of them wants, and no entry overtakes a larger one.
///
/// Only the first waiter looks at the holders, since any of them may make room. Every other one waits for its immediate
/// predecessor, which leaves, or is granted and then touches its entry.
fn permits(wanted: u32, limits: Limits, ahead: &Ahead) -> Decision<'_> {
    let highest = limits.highest.max(limits.now);
    if ahead.more && ahead.nearest.len() < highest as usize {
        return Decision::LookFarther(highest as usize);
    }
    let taken = taken(ahead.nearest.iter().map(|other| other.kind));
    // More entries than there were ever permits: the nearest is a waiter, as it is when they want more than that.
    let behind_a_waiter = ahead.more || taken > u64::from(highest);
    if !behind_a_waiter && taken + u64::from(wanted) <= u64::from(limits.now) {
        return Decision::Granted;
    }
    let watched = if behind_a_waiter { 1 } else { ahead.nearest.len() };
    Decision::Wait { on: ahead.nearest.iter().take(watched).map(|other| &other.entry).collect(), hint: Hint::LookTwice }
}

fn taken(kinds: impl Iterator<Item = Kind>) -> u64 {
    kinds.map(|kind| if let Kind::Permits(permits) = kind { u64::from(permits) } else { 0 }).sum()
}

/// How many of the first entries of a queue hold what they asked for.
pub(crate) fn holders(queue: &[QueueEntry], limits: Limits) -> usize {
    let kinds = || queue.iter().map(|entry| entry.kind);
    match queue.first().map(|entry| entry.kind) {
        None => 0,
        Some(Kind::Exclusive | Kind::Unmarked | Kind::Candidate | Kind::Write) => 1,
        Some(Kind::Read) => kinds().take_while(|kind| *kind == Kind::Read).count(),
        Some(Kind::Permits(_)) => {
            (1..=queue.len()).take_while(|n| taken(kinds().take(*n)) <= u64::from(limits.now)).count()
        }
        Some(Kind::Member | Kind::Party | Kind::Sleeper) => queue.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn entry(n: usize) -> Entry {
        Entry { key: format!("e{n}").into(), incarnation: n as u64 }
    }

    /// A queue in which some have left.
    #[derive(Clone, Debug)]
    struct Model {
        kinds: Vec<Kind>,
        alive: Vec<bool>,
        limits: Limits,
    }

    impl Model {
        fn ahead(&self, position: usize, limit: usize) -> Ahead {
            let all: Vec<_> = (0..position).rev().filter(|&i| self.alive[i]).collect();
            let standing = |&i: &usize| Standing { entry: entry(i), kind: self.kinds[i] };
            Ahead { more: all.len() > limit, nearest: all.iter().take(limit).map(standing).collect() }
        }

        /// The decision of an entry, which looks as far as it has to, from a first look of `limit`.
        fn decide(&self, position: usize, mut limit: usize) -> (bool, Vec<usize>, Hint) {
            let rule = Rule { kind: self.kinds[position], limits: self.limits };
            loop {
                let ahead = self.ahead(position, limit);
                match rule.decide(&ahead) {
                    Decision::Granted => return (true, Vec::new(), Hint::Grant),
                    Decision::Wait { on, hint } => {
                        let on = on.iter().map(|entry| entry.incarnation as usize).collect();
                        return (false, on, hint);
                    }
                    Decision::LookFarther(farther) => {
                        assert!(farther > limit, "looking farther shows more");
                        limit = farther;
                    }
                    Decision::OtherRecipe(other) => panic!("{other:?} in {self:?}"),
                }
            }
        }

        /// Who holds, by the definition of the recipe and not by its rule.
        fn entitled(&self) -> Vec<usize> {
            let live: Vec<usize> = (0..self.kinds.len()).filter(|&i| self.alive[i]).collect();
            let mut entitled = Vec::new();
            let mut taken = 0;
            for (rank, &i) in live.iter().enumerate() {
                let before = &live[..rank];
                let holds = match self.kinds[i] {
                    Kind::Read => before.iter().all(|&other| self.kinds[other] == Kind::Read),
                    Kind::Permits(wanted) => {
                        taken += wanted;
                        taken <= self.limits.now
                    }
                    _ => before.is_empty(),
                };
                if holds {
                    entitled.push(i);
                }
            }
            entitled
        }
    }

    /// A queue in which everybody has entered, then leaves, and those who are told look again.
    #[derive(Clone)]
    struct Play {
        model: Model,
        granted: Vec<bool>,
        watching: Vec<Vec<usize>>,
        first_look: usize,
    }

    impl Play {
        fn new(model: Model, first_look: usize) -> Self {
            let n = model.kinds.len();
            let mut play = Self { model, granted: vec![false; n], watching: vec![Vec::new(); n], first_look };
            for i in 0..n {
                if play.model.alive[i] {
                    play.look(i, false);
                }
            }
            play
        }

        /// All that differs between two plays of one queue.
        fn state(&self) -> (Vec<bool>, Vec<bool>, Vec<Vec<usize>>) {
            (self.model.alive.clone(), self.granted.clone(), self.watching.clone())
        }

        fn look(&mut self, i: usize, waited: bool) {
            let (granted, on, _) = self.model.decide(i, self.first_look);
            self.granted[i] = granted;
            self.watching[i] = on;
            let rule = Rule { kind: self.model.kinds[i], limits: self.model.limits };
            if granted && waited && rule.leaves_room_behind(&self.model.ahead(i, usize::MAX)) {
                self.tell(i);
            }
        }

        /// Whoever watches `i` looks again; returns how many that are.
        fn tell(&mut self, i: usize) -> usize {
            let told: Vec<usize> =
                (0..self.granted.len()).filter(|&w| self.model.alive[w] && self.watching[w].contains(&i)).collect();
            for &waiter in &told {
                if !self.granted[waiter] {
                    self.look(waiter, true);
                }
            }
            told.len()
        }

        fn leave(&mut self, i: usize) -> usize {
            self.model.alive[i] = false;
            self.watching[i].clear();
            self.tell(i)
        }

        fn assert_nobody_is_forgotten(&self) {
            let granted: Vec<usize> =
                (0..self.granted.len()).filter(|&i| self.model.alive[i] && self.granted[i]).collect();
            assert_eq!(granted, self.model.entitled(), "{:?}", self.model);
        }
    }

    /// All queues of `n` entries with these kinds.
    fn queues(n: usize, kinds: &[Kind]) -> Vec<Vec<Kind>> {
        (0..n).fold(vec![Vec::new()], |queues, _| {
            queues
                .into_iter()
                .flat_map(|queue| kinds.iter().map(move |kind| [queue.clone(), vec![*kind]].concat()))
                .collect()
        })
    }

    /// Plays every order of leaving and gives `check` who left and how many were told. What can happen from a state on is
    /// played once, however that was reached.
    fn play_all(kinds: &[Kind], limits: Limits, check: impl Fn(&Play, Kind, usize)) {
        let model = Model { kinds: kinds.to_vec(), alive: vec![true; kinds.len()], limits };
        for first_look in [1, kinds.len()] {
            let play = Play::new(model.clone(), first_look);
            play.assert_nobody_is_forgotten();
            let mut reached = HashSet::from([play.state()]);
            let mut to_play = vec![play];
            while let Some(play) = to_play.pop() {
                for leaver in (0..kinds.len()).filter(|&i| play.model.alive[i]) {
                    let mut after = play.clone();
                    let told = after.leave(leaver);
                    after.assert_nobody_is_forgotten();
                    check(&after, kinds[leaver], told);
                    if reached.insert(after.state()) {
                        to_play.push(after);
                    }
                }
            }
        }
    }

    #[test]
    fn a_mutex_has_one_holder_and_one_wakeup_in_every_small_queue() {
        for n in 1..=6 {
            for kind in [Kind::Exclusive, Kind::Candidate] {
                play_all(&vec![kind; n], Limits::NONE, |play, _, told| assert!(told <= 1, "{:?}", play.model));
            }
        }
    }

    #[test]
    fn readers_share_and_nobody_overtakes_a_writer_in_every_small_queue() {
        for n in 1..=6 {
            for kinds in queues(n, &[Kind::Read, Kind::Write]) {
                // Readers behind a writer go on together, to the lock or to the writer before.
                play_all(&kinds, Limits::NONE, |play, leaver, told| {
                    assert!(told <= 1 || leaver == Kind::Write, "{told} told in {:?}", play.model);
                });
            }
        }
    }

    #[test]
    fn permits_are_never_exceeded_and_no_waiter_is_forgotten_in_every_small_queue() {
        for now in 1..=3 {
            let wanted: Vec<Kind> = (1..=now).map(Kind::Permits).collect();
            for n in 1..=6 {
                for kinds in queues(n, &wanted) {
                    // Only the first waiter looks at the holders, and each grant tells one more.
                    play_all(&kinds, Limits { now, highest: now }, |play, _, told| {
                        assert!(told <= 1, "{told} told in {:?}", play.model);
                    });
                }
            }
        }
    }

    /// Permits granted under a higher limit are still held: whoever waits has to see them come back.
    #[test]
    fn nobody_is_forgotten_after_the_limit_was_lowered() {
        for highest in 2..=4 {
            for now in 1..highest {
                for n in 1..=6 {
                    play_all(&vec![Kind::Permits(1); n], Limits { now, highest }, |_, _, _| {});
                }
            }
        }
    }

    /// The obvious rule, to watch the entry as many places ahead as there are permits, misses wake-ups; and the check
    /// above would find it.
    #[test]
    fn watching_the_entry_n_places_ahead_forgets_a_waiter() {
        // Two permits: 0 and 1 hold, 2 waits for 0, 3 for 1. When 1 leaves, a permit is free and 2 is not told.
        let mut model =
            Model { kinds: vec![Kind::Permits(1); 4], alive: vec![true; 4], limits: Limits { now: 2, highest: 2 } };
        let watches = |position: usize| position - 2;
        model.alive[1] = false;
        let told: Vec<usize> = (2..4).filter(|&waiter| watches(waiter) == 1).collect();
        assert_eq!(model.entitled(), [0, 2]);
        assert!(!told.contains(&2), "so it would wait on, with a permit free");
        let mut play = Play::new(Model { alive: vec![true; 4], ..model }, 4);
        assert_eq!(play.leave(1), 1);
        play.assert_nobody_is_forgotten();
    }

    #[test]
    fn a_removal_is_the_grant_only_when_nothing_else_can_be_in_the_way() {
        let hint = |kinds: &[Kind]| {
            let model =
                Model { kinds: kinds.to_vec(), alive: vec![true; kinds.len()], limits: Limits { now: 1, highest: 1 } };
            model.decide(kinds.len() - 1, 1).2
        };
        use Kind::{Candidate, Exclusive, Permits, Read, Unmarked, Write};
        assert_eq!(hint(&[Exclusive, Exclusive]), Hint::Grant);
        assert_eq!(hint(&[Unmarked, Exclusive]), Hint::Grant);
        assert_eq!(hint(&[Unmarked, Candidate]), Hint::Grant);
        assert_eq!(hint(&[Exclusive, Exclusive, Exclusive]), Hint::Look);
        assert_eq!(hint(&[Read, Write]), Hint::Grant);
        assert_eq!(hint(&[Write, Write]), Hint::Look, "it may turn into a reader");
        assert_eq!(hint(&[Write, Read]), Hint::LookTwice);
        assert_eq!(hint(&[Permits(1), Permits(1)]), Hint::LookTwice);
    }

    #[test]
    fn other_recipes_in_a_queue_are_told() {
        let kinds = [
            Kind::Exclusive,
            Kind::Unmarked,
            Kind::Read,
            Kind::Write,
            Kind::Permits(1),
            Kind::Candidate,
            Kind::Member,
            Kind::Party,
            Kind::Sleeper,
        ];
        for mine in kinds {
            for other in kinds {
                let ahead = Ahead { nearest: vec![Standing { entry: entry(1), kind: other }], more: false };
                let told = Rule { kind: mine, limits: Limits { now: 1, highest: 1 } }.decide(&ahead);
                let same = mine.recipe() == other.recipe()
                    || other == Kind::Unmarked && matches!(mine, Kind::Exclusive | Kind::Candidate);
                assert_eq!(told == Decision::OtherRecipe(&ahead.nearest[0]), !same, "{mine:?} behind {other:?}");
            }
        }
    }
}
