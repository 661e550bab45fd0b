//! Orders to be handled one after the other, and the list of those that were.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lock_core::{FencingGate, Guard, StaleToken};
use serde::{Deserialize, Serialize};

use crate::service::{Caller, Connection, Resource};
use crate::setback::Setback;

/// Orders from 1 on. Every request names the token of its sender's lock, and is refused when a greater one was seen.
#[derive(Debug)]
pub struct Orders {
    last: u32,
    gate: FencingGate,
    handled: Mutex<Vec<Handling>>,
}

/// An order that was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handling {
    /// Which one.
    pub order: u32,
    /// By which process.
    pub process: u32,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first order that was not handled.
    Next,
    /// An order was handled.
    Complete(u32),
}

const LOCK: &str = "orders";

impl Orders {
    /// Orders from 1 to `last`.
    pub fn up_to(last: u32) -> Self {
        Self { last, gate: FencingGate::new(), handled: Mutex::default() }
    }

    /// What was handled, in the order in which that was reported.
    pub fn handled(&self) -> Vec<Handling> {
        self.lock().clone()
    }

    fn handle(&self, process: u32, token: u64, request: Request) -> Result<Option<u32>, StaleToken> {
        let mut handled = self.lock();
        self.gate.admit_and(LOCK, token, || match request {
            Request::Next => {
                let next = handled.last().map_or(0, |handling| handling.order) + 1;
                (next <= self.last).then_some(next)
            }
            // Whatever the order is: that it is the right one is for the lock to see to.
            Request::Complete(order) => {
                handled.push(Handling { order, process });
                None
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Handling>> {
        self.handled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource for Orders {
    type Request = (u64, Request);
    type Answer = Option<u32>;

    const WORST_MOMENT: &'static str = "with an order handled and not yet reported";

    fn is_worst_moment(&self, (_, request): &Self::Request) -> bool {
        matches!(request, Request::Complete(order) if *order > self.last / 3)
    }

    async fn answer(&self, from: Caller, (token, request): Self::Request) -> Result<Option<u32>, StaleToken> {
        self.handle(from.process, token, request)
    }
}

/// Both are refused when the queue knows a later holder of the lock.
impl Connection<Orders> {
    /// The first order that was not handled; `None` when there is none any more.
    ///
    /// # Errors
    /// That the lock is not held any more, or there is no answer.
    pub async fn next(&mut self, lock: &Guard) -> Result<Option<u32>, Setback> {
        self.ask_as_holder((lock.token(), Request::Next), || lock.check()).await
    }

    /// Reports that an order was handled.
    ///
    /// # Errors
    /// As [`next`](Self::next), and then it counts as not handled.
    pub async fn complete(&mut self, lock: &Guard, order: u32) -> Result<(), Setback> {
        self.ask_as_holder((lock.token(), Request::Complete(order)), || lock.check()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_an_old_token_does_not_count() {
        let orders = Orders::up_to(3);
        assert_eq!(orders.handle(0, 5, Request::Next).unwrap(), Some(1));
        assert_eq!(orders.handle(1, 7, Request::Next).unwrap(), Some(1));
        orders.handle(0, 5, Request::Complete(1)).unwrap_err();
        orders.handle(1, 7, Request::Complete(1)).unwrap();
        assert_eq!(orders.handle(1, 7, Request::Next).unwrap(), Some(2));
        assert_eq!(orders.handled(), [Handling { order: 1, process: 1 }]);
    }
}
