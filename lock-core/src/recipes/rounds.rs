//! The rounds of a double barrier: who is let in together, as a pure function over the tokens of those who are there.

use crate::record::Record;

/// Rounds that are told apart. Of more, the oldest are taken for one, so that their parties wait for each other to leave.
const MAX_ROUNDS: usize = 1_000;

/// What the record of a double barrier tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rounds {
    pub(crate) parties: u32,
    /// The last token of each round that may have parties inside, and of the latest one; oldest first.
    last: Vec<u64>,
}

/// Those who were let in together: the entries with these tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    after: u64,
    through: u64,
}

impl Round {
    pub(crate) fn has(self, token: u64) -> bool {
        self.after < token && token <= self.through
    }
}

impl Rounds {
    pub(crate) fn new(parties: u32) -> Self {
        Self { parties, last: Vec::new() }
    }

    /// `None` for the record of another recipe.
    pub(crate) fn from_record(record: &Record) -> Option<Self> {
        match record {
            Record::DoubleBarrier { parties, rounds } => Some(Self { parties: *parties, last: rounds.clone() }),
            _ => None,
        }
    }

    pub(crate) fn to_record(&self) -> Record {
        Record::DoubleBarrier { parties: self.parties, rounds: self.last.clone() }
    }

    /// The round that an entry was let in with; `None` while it has to wait.
    pub(crate) fn of(&self, token: u64) -> Option<Round> {
        let at = self.last.partition_point(|&through| through < token);
        let after = at.checked_sub(1).map_or(0, |before| self.last[before]);
        self.last.get(at).map(|&through| Round { after, through })
    }

    /// The rounds once all that can be opened are, given the tokens of all who are there; `None` when too few wait.
    ///
    /// The first of those who wait are let in, always as many as there are parties, so that everybody who looks at the same
    /// queue opens the same rounds.
    pub(crate) fn opened(&self, mut there: Vec<u64>) -> Option<Self> {
        there.sort_unstable();
        let through = self.last.last().copied().unwrap_or(0);
        let (inside, waiting) = there.split_at(there.partition_point(|&token| token <= through));
        let opened = waiting.chunks_exact(self.parties.max(1) as usize).filter_map(|round| round.last().copied());
        let opened: Vec<u64> = opened.collect();
        if opened.is_empty() {
            return None;
        }
        // A round that everybody has left is told apart from the next one no more.
        let mut last: Vec<u64> = inside.iter().filter_map(|&token| self.of(token)).map(|round| round.through).collect();
        last.dedup();
        last.extend(opened);
        last.drain(..last.len().saturating_sub(MAX_ROUNDS));
        Some(Self { parties: self.parties, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    use fastrand::Rng;

    fn rounds(parties: u32, last: &[u64]) -> Rounds {
        Rounds { parties, last: last.to_vec() }
    }

    #[test]
    fn the_first_are_let_in_and_the_others_wait() {
        let none = Rounds::new(2);
        assert_eq!(none.of(1), None);
        assert_eq!(none.opened(vec![7]), None);
        let one = none.opened(vec![9, 7, 8]).expect("two of three");
        assert_eq!(one, rounds(2, &[8]));
        assert_eq!(one.of(7), Some(Round { after: 0, through: 8 }));
        assert_eq!(one.of(9), None);
        assert_eq!(one.opened(vec![7, 8, 9]), None, "those inside do not count");
        assert_eq!(one.opened(vec![8, 9, 12]), Some(rounds(2, &[8, 12])));
        assert_eq!(one.opened(vec![9, 12, 13, 14]), Some(rounds(2, &[12, 14])), "nobody is left in the first");
        assert_eq!(Rounds::new(1).opened(vec![3, 5]), Some(rounds(1, &[3, 5])));
    }

    #[test]
    fn a_round_that_is_not_empty_stays_apart() {
        let later = rounds(2, &[4]).opened(vec![3, 5, 6]).expect("two wait");
        assert_eq!(later.of(3), Some(Round { after: 0, through: 4 }));
        assert_eq!(later.of(5), Some(Round { after: 4, through: 6 }));
        assert!(later.of(6).is_some_and(|round| round.has(5) && !round.has(3) && !round.has(7)));
    }

    #[test]
    fn the_record_stays_small() {
        let mut all = Rounds::new(1);
        let tokens: Vec<u64> = (0..1_500).map(|i| u64::MAX - 1_500 + i).collect();
        for n in 1..=tokens.len() {
            all = all.opened(tokens[..n].to_vec()).expect("each opens a round");
        }
        let record = all.to_record();
        assert!(serde_json::to_vec(&record).unwrap().len() < 32 << 10);
        assert_eq!(Rounds::from_record(&record), Some(all.clone()));
        assert!(all.of(tokens[0]).is_some_and(|round| round.has(tokens[1])), "the oldest are one");
        assert!(all.of(tokens[1_499]).is_some_and(|round| !round.has(tokens[1_498])));
    }

    /// Where one party is in what it does, one request at a time.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum At {
        Entered,
        Read {
            version: u64,
            rounds: Rounds,
        },
        Listed {
            version: u64,
            there: Vec<u64>,
            opened: Option<Rounds>,
        },
        Waiting,
        /// Woken, has read that it was let in, and has to find out whether it was there then.
        LetIn(Round),
        Inside(Round),
        /// Its deadline has passed and its entry is removed.
        Withdrawing,
        /// The same, and it has read the record.
        Withdrawn {
            version: u64,
        },
        /// Told that nobody counts on it.
        NotEntered,
        /// Told that this is not known, or dead, or has left.
        Gone,
    }

    /// A store and its parties, which do what `double_barrier.rs` does, interleaved at random.
    struct Play {
        parties: usize,
        rounds: Rounds,
        version: u64,
        /// Entries in the store, by token.
        live: BTreeSet<u64>,
        all: BTreeMap<u64, At>,
        /// Everybody who was counted for each round, by its last token.
        let_in: BTreeMap<u64, BTreeSet<u64>>,
    }

    impl Play {
        fn new(parties: usize) -> Self {
            let rounds = Rounds::new(u32::try_from(parties).unwrap());
            let (live, all, let_in) = Default::default();
            Self { parties, rounds, version: 1, live, all, let_in }
        }

        fn write(&mut self, version: u64, rounds: Rounds, there: &[u64]) -> bool {
            let written = self.version == version;
            if written {
                for &through in rounds.last.iter().filter(|&&through| self.rounds.of(through).is_none()) {
                    let before = self.let_in.keys().next_back().copied().unwrap_or(0);
                    let counted = there.iter().copied().filter(|&token| before < token && token <= through).collect();
                    self.let_in.insert(through, counted);
                }
                self.rounds = rounds;
                self.version += 1;
            }
            written
        }

        fn enter(&mut self) {
            let token = self.all.keys().next_back().map_or(1, |last| last + 1);
            self.live.insert(token);
            self.all.insert(token, At::Entered);
        }

        /// One request of one party.
        fn step(&mut self, token: u64) {
            let next = match self.all[&token].clone() {
                At::Entered => At::Read { version: self.version, rounds: self.rounds.clone() },
                At::Read { rounds, .. } if rounds.of(token).is_some() => At::Waiting,
                At::Read { version, rounds } => {
                    let there: Vec<u64> = self.live.iter().copied().collect();
                    At::Listed { version, opened: rounds.opened(there.clone()), there }
                }
                At::Listed { opened: None, .. } => At::Waiting,
                At::Listed { version, there, opened: Some(opened) } => {
                    if self.write(version, opened, &there) {
                        At::Waiting
                    } else {
                        At::Entered
                    }
                }
                At::Waiting => self.rounds.of(token).map_or(At::Waiting, At::LetIn),
                At::LetIn(round) if self.live.contains(&token) => At::Inside(round),
                At::LetIn(_) => At::Gone,
                At::Withdrawing if self.rounds.of(token).is_some() => At::Gone,
                At::Withdrawing => At::Withdrawn { version: self.version },
                At::Withdrawn { version } => {
                    let same = self.rounds.clone();
                    let settled = self.write(version, same, &[]) || self.rounds.of(token).is_none();
                    if settled { At::NotEntered } else { At::Gone }
                }
                end => end,
            };
            self.all.insert(token, next);
        }

        /// Removes the entry: an operator, the end of the session, or the party itself.
        fn remove(&mut self, token: u64) {
            self.live.remove(&token);
        }

        fn withdraw(&mut self, token: u64) {
            if !matches!(self.all[&token], At::Inside(_) | At::Gone | At::NotEntered | At::Withdrawn { .. }) {
                self.remove(token);
                self.all.insert(token, At::Withdrawing);
            }
        }

        fn settle(&mut self) {
            let tokens: Vec<u64> = self.all.keys().copied().collect();
            for _ in 0..self.all.len() * 20 {
                tokens.iter().for_each(|&token| self.step(token));
            }
        }

        fn check(&self) {
            let state = || format!("{:?} {:?} {:?}", self.rounds, self.live, self.all);
            for (through, counted) in &self.let_in {
                assert_eq!(counted.len(), self.parties, "round {through}: {counted:?} {}", state());
            }
            let round_of = |token| self.let_in.range(token..).next().map(|(_, counted)| counted);
            let inside = |token| match self.all[&token] {
                At::Inside(round) if self.live.contains(&token) => Some(round),
                _ => None,
            };
            for (&token, at) in &self.all {
                let was_counted = round_of(token).is_some_and(|counted| counted.contains(&token));
                assert!(was_counted || !matches!(at, At::Inside(_)), "{token} is inside uncounted: {}", state());
                assert!(!was_counted || *at != At::NotEntered, "{token} was told that it is not counted: {}", state());
                for &other in self.all.keys() {
                    if let (Some(mine), Some(_)) = (inside(token), inside(other)) {
                        let together = round_of(token) == round_of(other);
                        assert_eq!(mine.has(other), together, "{token} and {other}: {}", state());
                    }
                }
            }
        }

        fn assert_nobody_is_forgotten(&self) {
            let waiting = self.live.iter().filter(|&&token| self.rounds.of(token).is_none()).count();
            assert!(waiting < self.parties, "{waiting} wait: {:?} {:?}", self.rounds, self.all);
            for (token, at) in &self.all {
                let settled = match at {
                    At::Waiting => self.rounds.of(*token).is_none(),
                    At::Inside(_) | At::Gone | At::NotEntered => true,
                    _ => false,
                };
                assert!(settled, "{token} is at {at:?}");
            }
        }
    }

    /// Every interleaving of requests, deaths, removals and deadlines lets in whole rounds only, and forgets nobody.
    #[test]
    fn rounds_are_whole_and_nobody_is_forgotten_in_random_plays() {
        let mut inside = 0;
        for seed in 0..5_000 {
            let mut rng = Rng::with_seed(seed);
            let mut play = Play::new(rng.usize(1..=4));
            for step in 0..80 {
                let there = play.all.len() as u64;
                match rng.u8(0..16) {
                    0..=3 if there < 12 => play.enter(),
                    4 if there > 0 => play.withdraw(rng.u64(1..=there)),
                    5 if there > 0 => play.remove(rng.u64(1..=there)),
                    _ if there > 0 => play.step(rng.u64(1..=there)),
                    _ => {}
                }
                if step % 8 == 0 {
                    play.check();
                }
            }
            play.check();
            play.settle();
            play.check();
            play.assert_nobody_is_forgotten();
            inside += play.all.values().filter(|at| matches!(at, At::Inside(_))).count();
        }
        assert!(inside > 5_000, "the plays let somebody in: {inside}");
    }
}
