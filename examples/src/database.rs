//! A database that counts its connections.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::StaleToken;

use crate::service::{Caller, Connection, Resource};
use crate::setback::Setback;

const QUERY: Duration = Duration::from_millis(10);

/// A database whose queries take 10 ms.
#[derive(Debug)]
pub struct Database {
    bound: usize,
    to_come: u32,
    seen: Mutex<Seen>,
}

/// What it has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The connections that are open.
    pub open: BTreeSet<Caller>,
    /// The most that were open at a time.
    pub most: usize,
    /// How many were opened.
    pub connections: u32,
    /// How many queries were answered.
    pub queries: u32,
}

impl Database {
    /// A database that expects this many queries, over at most `bound` connections at a time.
    pub fn new(bound: usize, to_come: u32) -> Self {
        Self { bound, to_come, seen: Mutex::default() }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource for Database {
    type Request = u32;
    type Answer = u32;

    /// Its permits have tokens, but of several that are valid the smallest is as good as the others.
    const COMPARES_TOKENS: bool = false;

    const WORST_MOMENT: &'static str = "in the middle of a query, with its connections open";

    fn is_worst_moment(&self, _: &u32) -> bool {
        self.lock().queries >= self.to_come / 10
    }

    /// When the others use all connections, those of the interrupted process among them.
    fn goes_as_far(&self, _: &u32, interrupted: u32, _: &u32) -> bool {
        self.lock().open.iter().filter(|from| from.process != interrupted).count() >= self.bound
    }

    fn opened(&self, from: Caller) {
        let mut seen = self.lock();
        seen.open.insert(from);
        seen.connections += 1;
        seen.most = seen.most.max(seen.open.len());
    }

    fn closed(&self, from: Caller) {
        self.lock().open.remove(&from);
    }

    async fn answer(&self, _: Caller, number: u32) -> Result<u32, StaleToken> {
        tokio::time::sleep(QUERY).await;
        self.lock().queries += 1;
        Ok(number.wrapping_mul(number))
    }
}

impl Connection<Database> {
    /// The square of a number.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn square(&mut self, number: u32) -> Result<u32, Setback> {
        self.ask(number).await
    }
}
