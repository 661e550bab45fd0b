//! What happened under the lock, and the check that it was allowed to happen.
//!
//! Every moment in a history is one at which the writer's guard said "held": it reads the clock first and asks
//! [`Guard::check`](lock_core::Guard::check) after. So a holder is known to have held the lock from its grant to its last
//! such moment, and two holders whose known times overlap really held it both. The time of a holder that was killed, or
//! lost the lock, ends with its last such moment: it says nothing about the time after.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A worker: the number of its process, and its number in that process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Who {
    /// The process.
    pub process: u32,
    /// The worker in that process.
    pub worker: u32,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("p{}/w{}", self.process, self.worker))
    }
}

/// One line of a ledger. Moments are nanoseconds of the machine's clock since boot, the same for all its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When. For all but [`Event::Lost`] and a [`Event::Fenced`] that was not held: a moment at which the guard was valid.
    pub at: u64,
    /// Who wrote it.
    #[serde(flatten)]
    pub who: Who,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a worker reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first write under a grant.
    Begin {
        /// The grant's fencing token.
        token: u64,
        /// When the lock was granted.
        granted: u64,
        /// For how long it was waited for, in nanoseconds.
        waited: u64,
    },
    /// A further write under the same grant.
    Mark {
        /// The grant's fencing token.
        token: u64,
    },
    /// The last write under a grant, just before its release.
    End {
        /// The grant's fencing token.
        token: u64,
    },
    /// The ledger refused a write, because it had already seen a greater token.
    Fenced {
        /// The token refused.
        token: u64,
        /// When that lock was granted.
        granted: u64,
        /// Whether its guard still said "held" after the refusal, which it must not.
        held: bool,
    },
    /// The worker lost the lock or its place in the queue, and starts over.
    Lost {
        /// Why.
        why: String,
    },
}

impl Event {
    /// The token under which something is written, if this is a write.
    pub fn writes_with(&self) -> Option<u64> {
        match self {
            Self::Begin { token, .. } | Self::Mark { token } | Self::End { token } => Some(*token),
            Self::Fenced { .. } | Self::Lost { .. } => None,
        }
    }
}

/// One time that somebody had the lock, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub who: Who,
    /// The fencing token.
    pub token: u64,
    /// When it was granted.
    pub granted: u64,
    /// The last moment at which it is known to have been held.
    pub until: u64,
    /// For how long it was waited for.
    pub waited: Duration,
    /// How it went on.
    pub outcome: Outcome,
}

/// How a holder's time went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No more is known: still at work, stopped by the user, or killed.
    Open,
    /// It wrote its last line and released the lock.
    Ended,
    /// It noticed that it lost the lock, and wrote nothing more.
    Lost,
    /// The ledger refused its very first write.
    Refused,
}

impl Holder {
    /// For how long it is known to have had the lock.
    pub fn held(&self) -> Duration {
        Duration::from_nanos(self.until.saturating_sub(self.granted))
    }
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Everybody who wrote a first line, in the order of the ledger.
    pub grants: Vec<Holder>,
    /// Each time that the lock was granted while another holder still had it.
    pub overlaps: Vec<String>,
    /// Each time that the lock was granted with a token that was not greater than all before.
    pub order_violations: Vec<String>,
    /// Each time that the ledger accepted what it had to refuse.
    pub late_writes: Vec<String>,
    /// Whether the tokens of the grants increase in the order of the ledger.
    pub tokens_increasing: bool,
    /// How often a worker lost the lock or its place in the queue.
    pub lost: usize,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.overlaps.is_empty()
            && self.order_violations.is_empty()
            && self.late_writes.is_empty()
            && self.tokens_increasing
    }
}

/// Checks a ledger's records, given in the ledger's order.
pub fn verify(records: &[Record]) -> Verdict {
    let origin = records.first().map_or(0, |record| record.at);
    let mut verdict = Verdict { tokens_increasing: true, ..Verdict::default() };
    let mut holders: Vec<Holder> = Vec::new();
    // A worker does one thing after the other, so its records belong to its latest grant.
    let mut latest: HashMap<Who, usize> = HashMap::new();
    let mut greatest = 0;

    for Record { at, who, event } in records {
        let (at, who) = (*at, *who);
        if let Some(token) = event.writes_with()
            && token < greatest
        {
            verdict.late_writes.push(format!(
                "{who} wrote with token {token} at {}, after the ledger had seen token {greatest}",
                moment(origin, at)
            ));
        }
        match *event {
            Event::Begin { token, granted, waited } => {
                verdict.tokens_increasing &= token > greatest;
                greatest = greatest.max(token);
                latest.insert(who, holders.len());
                let waited = Duration::from_nanos(waited);
                holders.push(Holder { who, token, granted, until: at, waited, outcome: Outcome::Open });
            }
            Event::Mark { token } | Event::End { token } => {
                let holder = latest.get(&who).map(|&i| &mut holders[i]).filter(|holder| holder.token == token);
                match holder {
                    Some(holder) if holder.outcome == Outcome::Open => {
                        holder.until = holder.until.max(at);
                        if matches!(event, Event::End { .. }) {
                            holder.outcome = Outcome::Ended;
                        }
                    }
                    other => verdict.late_writes.push(format!(
                        "{who} wrote with token {token} at {}, {}",
                        moment(origin, at),
                        match other.map(|holder| holder.outcome) {
                            Some(Outcome::Ended) => "after its last write under that token",
                            Some(_) => "after it had noticed the loss of that lock",
                            None => "without a first write under that token",
                        }
                    )),
                }
            }
            Event::Fenced { token, granted, held } => {
                let known = latest.get(&who).copied().filter(|&i| holders[i].token == token);
                let i = known.unwrap_or_else(|| {
                    let waited = Duration::ZERO;
                    holders.push(Holder { who, token, granted, until: granted, waited, outcome: Outcome::Refused });
                    holders.len() - 1
                });
                latest.insert(who, i);
                if held {
                    holders[i].until = holders[i].until.max(at);
                }
            }
            Event::Lost { .. } => {
                verdict.lost += 1;
                if let Some(&i) = latest.get(&who)
                    && holders[i].outcome == Outcome::Open
                {
                    holders[i].outcome = Outcome::Lost;
                }
            }
        }
    }

    let mut in_order: Vec<&Holder> = holders.iter().collect();
    in_order.sort_by_key(|holder| holder.granted);
    // The holders so far that reach farthest in time and in tokens: if a new one is clear of these, it is clear of all.
    let mut last: Option<&Holder> = None;
    let mut newest: Option<&Holder> = None;
    for holder in in_order {
        match last {
            Some(last) if last.until > holder.granted => verdict.overlaps.push(format!(
                "{} and {}: both for {:?}",
                interval(origin, last),
                interval(origin, holder),
                Duration::from_nanos(last.until.min(holder.until).saturating_sub(holder.granted))
            )),
            _ => {}
        }
        match newest {
            Some(newest) if newest.token >= holder.token => verdict.order_violations.push(format!(
                "{} was granted with token {} at {}, after token {} had been granted to {} at {}",
                holder.who,
                holder.token,
                moment(origin, holder.granted),
                newest.token,
                newest.who,
                moment(origin, newest.granted)
            )),
            _ => newest = Some(holder),
        }
        if last.is_none_or(|last| last.until < holder.until) {
            last = Some(holder);
        }
    }
    holders.retain(|holder| holder.outcome != Outcome::Refused);
    verdict.grants = holders;
    verdict
}

fn interval(origin: u64, holder: &Holder) -> String {
    let Holder { who, token, granted, until, .. } = holder;
    format!("{who} with token {token} from {} to {}", moment(origin, *granted), moment(origin, *until))
}

/// A moment as seconds since the ledger's first record.
fn moment(origin: u64, at: u64) -> String {
    format!("{:.6} s", (at as f64 - origin as f64) / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history in text, one record a line: `at worker event`, where the event is `begin token granted`, `mark token`,
    /// `end token`, `fenced token granted held|lost` or `lost`.
    fn history(text: &str) -> Vec<Record> {
        let record = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |i: usize| words[i].parse::<u64>().unwrap();
            let event = match words[2] {
                "begin" => Event::Begin { token: number(3), granted: number(4), waited: 1 },
                "mark" => Event::Mark { token: number(3) },
                "end" => Event::End { token: number(3) },
                "fenced" => Event::Fenced { token: number(3), granted: number(4), held: words[5] == "held" },
                "lost" => Event::Lost { why: "a test".into() },
                other => panic!("{other}"),
            };
            let worker = words[1].parse().unwrap();
            Record { at: number(0), who: Who { process: worker, worker }, event }
        };
        text.lines().filter(|line| !line.trim().is_empty()).map(record).collect()
    }

    /// Overlaps, order violations, late writes, and whether the tokens increase.
    fn counts(text: &str) -> (usize, usize, usize, bool) {
        let verdict = verify(&history(text));
        let wrong = (verdict.overlaps.len(), verdict.order_violations.len(), verdict.late_writes.len());
        assert_eq!(verdict.is_right(), wrong == (0, 0, 0) && verdict.tokens_increasing);
        (wrong.0, wrong.1, wrong.2, verdict.tokens_increasing)
    }

    const RIGHT: (usize, usize, usize, bool) = (0, 0, 0, true);

    #[test]
    fn turns_one_after_the_other_are_right() {
        let text = "
            12 1 begin 5 10
            20 1 mark 5
            30 1 end 5
            33 2 begin 8 31
            40 2 end 8
            42 1 begin 9 41
            50 1 end 9";
        assert_eq!(counts(text), RIGHT);
        let verdict = verify(&history(text));
        let held: Vec<_> = verdict.grants.iter().map(|g| (g.token, g.held().as_nanos(), g.outcome)).collect();
        assert_eq!(held, [(5, 20, Outcome::Ended), (8, 9, Outcome::Ended), (9, 9, Outcome::Ended)]);
        assert_eq!(counts(""), RIGHT);
    }

    #[test]
    fn a_killed_holder_ends_with_its_last_write() {
        assert_eq!(counts("12 1 begin 5 10\n 20 1 mark 5\n 33 2 begin 8 31\n 40 2 end 8"), RIGHT);
        assert_eq!(counts("12 1 begin 5 10\n 20 2 begin 8 19"), RIGHT);
        let verdict = verify(&history("12 1 begin 5 10\n 20 1 mark 5\n 33 2 begin 8 31"));
        assert_eq!((verdict.grants[0].until, verdict.grants[0].outcome, verdict.lost), (20, Outcome::Open, 0));
    }

    #[test]
    fn a_holder_that_lost_the_lock_ends_with_its_last_write() {
        // It notices late, and begins again with a new token.
        let text = "
            12 1 begin 5 10
            33 2 begin 8 31
            35 1 lost
            40 2 end 8
            52 1 begin 9 50
            55 1 end 9";
        assert_eq!(counts(text), RIGHT);
        let verdict = verify(&history(text));
        assert_eq!((verdict.lost, verdict.grants[0].outcome), (1, Outcome::Lost));
    }

    #[test]
    fn a_stale_holder_may_be_refused_by_its_token() {
        assert_eq!(counts("12 1 begin 5 10\n 33 2 begin 8 31\n 34 1 fenced 5 10 lost\n 35 1 lost"), RIGHT);
        // Its process stood still between the grant and the first write.
        assert_eq!(counts("33 2 begin 8 31\n 34 1 fenced 5 10 lost\n 35 1 lost"), RIGHT);
        assert_eq!(verify(&history("33 2 begin 8 31\n 34 1 fenced 5 10 lost")).grants.len(), 1);
    }

    #[test]
    fn two_holders_at_once_are_caught() {
        // Both write first, then last.
        assert_eq!(counts("12 1 begin 5 10\n 20 2 begin 8 15\n 30 2 end 8\n 34 1 fenced 5 10 held"), (1, 0, 0, true));
        // The first one's writes come before the second one's, but the second had its grant in between.
        assert_eq!(counts("12 1 begin 5 10\n 30 1 end 5\n 32 2 begin 8 25\n 40 2 end 8"), (1, 0, 0, true));
        // A short time inside of a long one, with another in between.
        assert_eq!(
            counts("12 1 begin 5 10\n 90 1 end 5\n 91 2 begin 6 20\n 92 2 end 6\n 93 3 begin 7 30"),
            (2, 0, 0, true)
        );
        let verdict = verify(&history("12 1 begin 5 10\n 30 1 end 5\n 32 2 begin 8 25"));
        assert!(verdict.overlaps[0].contains("p1/w1 with token 5") && verdict.overlaps[0].contains("token 8"));
    }

    #[test]
    fn a_token_that_does_not_increase_is_caught() {
        // Refused by the ledger although the lock was held: only the order is wrong, the two do not meet.
        assert_eq!(counts("12 1 begin 8 10\n 20 1 end 8\n 34 2 fenced 5 30 held"), (0, 1, 0, true));
        // A ledger that does not look at tokens.
        assert_eq!(counts("12 1 begin 8 10\n 20 1 end 8\n 34 2 begin 5 30"), (0, 1, 1, false));
        // The same token twice passes the ledger.
        assert_eq!(counts("12 1 begin 8 10\n 20 1 end 8\n 34 2 begin 8 30"), (0, 1, 0, false));
    }

    #[test]
    fn a_write_after_the_loss_is_caught() {
        assert_eq!(counts("12 1 begin 5 10\n 20 1 lost\n 30 1 end 5"), (0, 0, 1, true));
        assert_eq!(counts("12 1 begin 5 10\n 20 1 end 5\n 30 1 mark 5"), (0, 0, 1, true));
        assert_eq!(counts("12 1 begin 5 10\n 20 2 begin 6 19\n 21 1 end 5").2, 1, "after a greater token");
        assert_eq!(counts("12 1 mark 5"), (0, 0, 1, true));
    }

    #[test]
    fn records_survive_json() {
        for record in history("12 1 begin 5 10\n 20 1 mark 5\n 30 1 end 5\n 34 2 fenced 5 30 held\n 35 2 lost") {
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{line}");
        }
    }
}
