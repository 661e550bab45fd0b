//! A page that is slow to make, and the cache that it is kept in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{FencingGate, Guard, StaleToken};
use serde::{Deserialize, Serialize};

use crate::service::{Caller, Connection, Resource};
use crate::setback::Setback;

const MAKING: Duration = Duration::from_millis(100);

/// A cache with one page, which is stale some time after it was made, and the origin that makes it.
#[derive(Debug)]
pub struct Cache {
    fresh_for: Duration,
    last: u32,
    gate: FencingGate,
    seen: Mutex<Seen>,
}

/// What the cache and the origin have seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    page: Option<(u32, Instant)>,
    /// How often the page was made.
    pub made: u32,
    /// How many are making it.
    making: u32,
    /// The most that were making it at a time.
    pub most: u32,
    /// How often it was made while that in the cache was fresh.
    pub needless: u32,
    /// How often a page was used as long as it was fresh.
    pub fresh: u32,
    /// How often a stale one was used.
    pub stale: u32,
}

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// How many were made before.
    pub edition: u32,
    /// Whether it may be used without a thought.
    pub fresh: bool,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The page in the cache, for the holder of this token if there is one.
    Get(Option<u64>),
    /// A new page from the origin.
    Make,
    /// A page is to be in the cache, says the holder of this token.
    Put(u64, Page),
    /// A page was used.
    Used(Page),
}

const LOCK: &str = "page";

impl Cache {
    /// An empty cache, which expects to be refreshed up to edition `last`.
    pub fn new(fresh_for: Duration, last: u32) -> Self {
        Self { fresh_for, last, gate: FencingGate::new(), seen: Mutex::default() }
    }

    /// What happened so far.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn page(&self, seen: &Seen) -> Option<Page> {
        seen.page.map(|(edition, made)| Page { edition, fresh: made.elapsed() < self.fresh_for })
    }

    async fn make(&self) -> Page {
        let edition = {
            let mut seen = self.lock();
            seen.needless += u32::from(self.page(&seen).is_some_and(|page| page.fresh));
            seen.making += 1;
            seen.most = seen.most.max(seen.making);
            seen.made += 1;
            seen.made
        };
        let _made = Made(self);
        tokio::time::sleep(MAKING).await;
        Page { edition, fresh: true }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Also when the one who asked for it has gone away.
struct Made<'a>(&'a Cache);

impl Drop for Made<'_> {
    fn drop(&mut self) {
        self.0.lock().making -= 1;
    }
}

impl Resource for Cache {
    type Request = Request;
    type Answer = Option<Page>;

    const WORST_MOMENT: &'static str = "with the new page made and not yet in the cache";

    fn is_worst_moment(&self, request: &Request) -> bool {
        matches!(request, Request::Put(_, page) if page.edition > self.last / 3)
    }

    async fn answer(&self, _: Caller, request: Request) -> Result<Option<Page>, StaleToken> {
        if let Request::Make = request {
            return Ok(Some(self.make().await));
        }
        let mut seen = self.lock();
        match request {
            Request::Get(Some(token)) => self.gate.admit_and(LOCK, token, || self.page(&seen)),
            Request::Put(token, page) => self.gate.admit_and(LOCK, token, || {
                seen.page = Some((page.edition, Instant::now()));
                None
            }),
            Request::Used(page) => {
                *(if page.fresh { &mut seen.fresh } else { &mut seen.stale }) += 1;
                Ok(None)
            }
            Request::Get(None) | Request::Make => Ok(self.page(&seen)),
        }
    }
}

impl Connection<Cache> {
    /// The page in the cache.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn get(&mut self) -> Result<Option<Page>, Setback> {
        self.ask(Request::Get(None)).await
    }

    /// The page in the cache, for the holder of the lock: nobody who held it before can put one there from now on.
    ///
    /// # Errors
    /// That the lock is not held any more, or there is no answer.
    pub async fn get_as_holder(&mut self, lock: &Guard) -> Result<Option<Page>, Setback> {
        self.ask_as_holder(Request::Get(Some(lock.token())), || lock.check()).await
    }

    /// Has a new page made, which takes 100 ms.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn make(&mut self) -> Result<Page, Setback> {
        let page = self.ask(Request::Make).await?;
        page.ok_or_else(|| std::io::Error::other("the origin made no page").into())
    }

    /// Puts a page into the cache. Refused when the cache knows a later holder of the lock.
    ///
    /// # Errors
    /// As [`get_as_holder`](Self::get_as_holder).
    pub async fn put(&mut self, lock: &Guard, page: Page) -> Result<(), Setback> {
        self.ask_as_holder(Request::Put(lock.token(), page), || lock.check()).await?;
        Ok(())
    }

    /// Uses a page.
    ///
    /// # Errors
    /// That there is no answer.
    pub async fn use_page(&mut self, page: Page) -> Result<(), Setback> {
        self.ask(Request::Used(page)).await?;
        Ok(())
    }
}
