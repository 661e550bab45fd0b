//! Jobs that are due at every tick of a clock, and the list of those that ran.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lock_core::{FencingGate, Guard, StaleToken};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::service::{Caller, Connection, Resource};
use crate::setback::Setback;

const WORK: Duration = Duration::from_millis(10);

/// What is to be done at every tick, in this order.
pub const JOBS: [&str; 2] = ["collect", "report"];

/// A job at a tick; both are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Due {
    /// Which tick.
    pub tick: u32,
    /// Which of the [`JOBS`].
    pub job: u32,
}

/// A job that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What was due.
    pub due: Due,
    /// The process whose leader had it done.
    pub process: u32,
    /// How long after its tick.
    pub late: Duration,
}

/// Jobs and their clock, which begins to tick when somebody asks for it. Every request names the token of its sender's
/// leadership, and is refused when a greater one was seen.
#[derive(Debug)]
pub struct Jobs {
    ticks: u32,
    every: Duration,
    start: OnceLock<Instant>,
    gate: FencingGate,
    done: Mutex<Vec<Done>>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first job that was not done; answered when it is due.
    Next,
    /// A job is to be done.
    Run(Due),
}

const LOCK: &str = "jobs";

impl Jobs {
    /// Jobs at so many ticks, with this time between them.
    pub fn new(ticks: u32, every: Duration) -> Self {
        Self { ticks, every, start: OnceLock::new(), gate: FencingGate::new(), done: Mutex::default() }
    }

    /// The jobs that ran, in the order in which they did.
    pub fn done(&self) -> Vec<Done> {
        self.lock().clone()
    }

    fn due_at(&self, tick: u32) -> Instant {
        *self.start.get_or_init(Instant::now) + self.every * tick
    }

    fn next(&self, token: u64) -> Result<Option<Due>, StaleToken> {
        let done = self.lock();
        self.gate.admit_and(LOCK, token, || {
            let next = match done.last().map(|done| done.due) {
                None => Due { tick: 0, job: 0 },
                Some(Due { tick, job }) if (job as usize) < JOBS.len() - 1 => Due { tick, job: job + 1 },
                Some(Due { tick, .. }) => Due { tick: tick + 1, job: 0 },
            };
            (next.tick < self.ticks).then_some(next)
        })
    }

    /// Whatever is due: that nothing is done twice is for the election to see to.
    fn run(&self, process: u32, token: u64, due: Due) -> Result<(), StaleToken> {
        let mut done = self.lock();
        let late = Instant::now().saturating_duration_since(self.due_at(due.tick));
        self.gate.admit_and(LOCK, token, || done.push(Done { due, process, late }))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource for Jobs {
    type Request = (u64, Request);
    type Answer = Option<Due>;

    const WORST_MOMENT: &'static str = "with one of the two jobs of a tick done";

    fn is_worst_moment(&self, (_, request): &Self::Request) -> bool {
        matches!(request, Request::Run(due) if due.tick >= self.ticks / 3 && due.job == 1)
    }

    /// A job from the one on that was not done.
    fn goes_as_far(&self, (_, request): &Self::Request, _: u32, (_, its): &Self::Request) -> bool {
        matches!((request, its), (Request::Run(due), Request::Run(its)) if due >= its)
    }

    async fn answer(&self, from: Caller, (token, request): Self::Request) -> Result<Option<Due>, StaleToken> {
        match request {
            Request::Next => {
                let next = self.next(token)?;
                if let Some(due) = next {
                    tokio::time::sleep_until(self.due_at(due.tick)).await;
                }
                Ok(next)
            }
            Request::Run(due) => {
                tokio::time::sleep(WORK).await;
                self.run(from.process, token, due)?;
                Ok(None)
            }
        }
    }
}

/// Both are refused when a later leader is known.
impl Connection<Jobs> {
    /// Waits until the first job that was not done is due; `None` when there is none any more.
    ///
    /// # Errors
    /// That this is not the leader any more, or there is no answer.
    pub async fn next(&mut self, leader: &Guard) -> Result<Option<Due>, Setback> {
        self.ask_as_holder((leader.token(), Request::Next), || leader.check()).await
    }

    /// Does a job.
    ///
    /// # Errors
    /// As [`next`](Self::next), and then it was not done.
    pub async fn run(&mut self, leader: &Guard, due: Due) -> Result<(), Setback> {
        self.ask_as_holder((leader.token(), Request::Run(due)), || leader.check()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_leader_goes_on_where_the_last_one_ended_and_that_one_is_not_heard_any_more() {
        let jobs = Jobs::new(2, Duration::ZERO);
        let due = |tick, job| Due { tick, job };
        assert_eq!(jobs.next(5).unwrap(), Some(due(0, 0)));
        jobs.run(0, 5, due(0, 0)).unwrap();
        assert_eq!(jobs.next(5).unwrap(), Some(due(0, 1)));
        assert_eq!(jobs.next(8).unwrap(), Some(due(0, 1)));
        jobs.run(0, 5, due(0, 1)).unwrap_err();
        jobs.next(5).unwrap_err();
        for (now, next) in [(due(0, 1), Some(due(1, 0))), (due(1, 0), Some(due(1, 1))), (due(1, 1), None)] {
            jobs.run(1, 8, now).unwrap();
            assert_eq!(jobs.next(8).unwrap(), next);
        }
        assert_eq!(jobs.done().iter().map(|done| done.process).collect::<Vec<_>>(), [0, 1, 1, 1]);
    }
}
