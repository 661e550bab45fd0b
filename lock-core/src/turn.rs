//! In the queue: from an entry to what it asks for.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use crate::acquire::{Attempt, Patience};
use crate::backend::{Change, Entry, Kind, Placed, Watch};
use crate::decision::{Decision, Hint, Limits, Rule};
use crate::error::{Error, Result};
use crate::locals::{left, shorten};
use crate::lock_delay::{self, LockDelay};
use crate::record;
use crate::session::{Backoff, Live, recheck};
use crate::watching::{First, Set, Watching};

/// Whether the limit that the caller believes in must be the stored one. It may have been changed since the caller entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    Checked,
    Any,
}

/// The outcome of waiting.
pub(crate) enum Turn {
    Granted {
        /// The watch on the own entry, if there was cause to open one.
        own: Option<Watch>,
    },
    Busy,
}

/// What ended a wait for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    /// An entry that was waited for was removed, while the own entry existed.
    Removed,
    /// This one, of this session, held and was given up, so that neither it nor anybody ahead of it counts any more.
    Left(Entry),
    /// Whatever else: look.
    Other,
}

impl Attempt {
    /// Waits until the entry is granted what it asks for, and the session is proven to live on for a while.
    pub(crate) async fn wait_for_turn(&self, live: &Arc<Live>, placed: &mut Placed) -> Result<Turn> {
        let mut known = placed.ahead.take();
        let mine = &placed.entry;
        let record = self.request.limit.map(|_| live.session.record(&self.request.queue));
        let mut rule = self.rule(live, Belief::Checked).await?;
        let mut rule_is_fresh = true;
        let mut limit = rule.first_look();
        let mut watching = Watching::default();
        // Those behind may have looked while this entry had to wait, and since then watch nothing else.
        let mut taken_for_waiter = false;
        let mut is_right_here = false;
        // One of another recipe that is ahead for longer was not refused: it should not be there, and may stay.
        let all_refused = tokio::time::Instant::now() + live.session.ttl();
        loop {
            let mut ahead = match known.take() {
                Some(ahead) => ahead,
                None => {
                    taken_for_waiter = true;
                    live.counters.looks.add_one();
                    let look = live.retry(|| live.session.ahead(mine, limit));
                    let now = async { if rule_is_fresh { Ok(rule) } else { self.rule(live, Belief::Any).await } };
                    let (now, ahead) = tokio::try_join!(now, look)?;
                    (rule, rule_is_fresh) = (now, true);
                    ahead.ok_or_else(|| self.entry_removed())?
                }
            };
            live.locals.settle(self.request.kind, &mut ahead);
            // It is kept for as long as the wait.
            ahead.nearest.shrink_to_fit();
            let mut intruder = None;
            let (mut on, hint) = match rule.decide(&ahead) {
                Decision::Granted => {
                    if ahead.more {
                        // The nearest may have come to another recipe, too, and not have been refused yet.
                        record::unclaimed(live, &self.request.queue, self.request.kind).await?;
                    }
                    if taken_for_waiter && rule.leaves_room_behind(&ahead) {
                        live.clone().touch_later(mine.clone());
                    }
                    break;
                }
                Decision::OtherRecipe(other) => {
                    if !is_right_here {
                        record::unclaimed(live, &self.request.queue, self.request.kind).await?;
                        is_right_here = true;
                    }
                    intruder = Some(other.kind);
                    (vec![&other.entry], Hint::Look)
                }
                Decision::LookFarther(farther) => {
                    limit = farther;
                    continue;
                }
                Decision::Wait { on, hint } => (on, hint),
            };
            if self.patience == Patience::Try {
                return Ok(Turn::Busy);
            }
            on.extend(&record);
            rule_is_fresh = false;
            // A wake-up is a hint and the queue decides, except that nothing can join ahead of a last obstacle.
            let changing = self.wait_for_change(live, mine, &mut watching, &on, hint);
            let news = match intruder {
                None => changing.await?,
                Some(kind) => match timeout_at(all_refused, Box::pin(changing)).await {
                    Ok(changed) => changed?,
                    Err(_) => return Err(self.other_recipe(kind)),
                },
            };
            match news {
                News::Removed if hint == Hint::Grant => break,
                News::Removed | News::Other => {}
                News::Left(left) => {
                    shorten(&mut ahead, &left);
                    known = Some(ahead);
                }
            }
        }
        if let Some(delay) = self.request.delay {
            Box::pin(self.keep_delay(delay, live, placed, &mut watching)).await?;
        }
        live.proven().await.map_err(|_| live.over())?;
        Ok(Turn::Granted { own: watching.into_own() })
    }

    /// Waits if the last holder vanished, and asks the next one to wait if this one does.
    async fn keep_delay(
        &self,
        delay: LockDelay,
        live: &Arc<Live>,
        placed: &Placed,
        watching: &mut Watching,
    ) -> Result<()> {
        let before = lock_delay::before(live, &self.request.queue, placed).await?;
        if let Some(pause) = before.pause {
            let _ = self.begun.pause.set((pause, tokio::time::Instant::now()));
            self.pause(live, &placed.entry, watching, pause.length()).await?;
        }
        if delay.ask(live, &self.request.queue, placed, before, &self.begun).await? {
            Ok(())
        } else {
            Err(self.entry_removed())
        }
    }

    /// Waits, with a turn that may be lost meanwhile.
    async fn pause(&self, live: &Arc<Live>, mine: &Entry, watching: &mut Watching, pause: Duration) -> Result<()> {
        let mut over = pin!(tokio::time::sleep(pause));
        loop {
            if watching.set(live, mine, &[]).await? == Set::OwnGone {
                return Err(self.entry_removed());
            }
            tokio::select! {
                biased;
                _ = live.health.lost() => return Err(live.over()),
                first = watching.first() => match first {
                    First::Own(Change::Removed) => return Err(self.entry_removed()),
                    _ => Backoff::default().wait(&live.health).await,
                },
                () = &mut over => break,
            }
        }
        // Events have been lost before, and the next one may have been waiting for as long.
        match live.retry(|| live.session.ahead(mine, 1)).await? {
            Some(_) => Ok(()),
            None => Err(self.entry_removed()),
        }
    }

    /// Waits until one of `on` may have changed, watching the own entry too.
    async fn wait_for_change(
        &self,
        live: &Arc<Live>,
        mine: &Entry,
        watching: &mut Watching,
        on: &[&Entry],
        hint: Hint,
    ) -> Result<News> {
        // Whoever may go on without the store waits for one entry.
        let departure = if let [only] = on { live.locals.departure(self.request.kind, only) } else { None };
        let told = async {
            loop {
                match watching.set(live, mine, on).await? {
                    Set::Opened if hint == Hint::LookTwice => return Ok(News::Other),
                    Set::Kept | Set::Opened => {}
                    Set::Gone => return Ok(News::Other),
                    Set::OwnGone => return Err(self.entry_removed()),
                }
                live.counters.waits.add_one();
                let first = tokio::select! {
                    biased;
                    _ = live.health.lost() => return Err(live.over()),
                    first = watching.first() => first,
                    () = recheck() => {
                        watching.clear();
                        continue;
                    }
                };
                match first {
                    First::Own(Change::Removed) => return Err(self.entry_removed()),
                    // Whoever wrote to a waiter's entry did not change its place.
                    First::Own(Change::Updated) => {}
                    First::Other(Change::Removed) => {
                        live.counters.wakeups.add_one();
                        return Ok(News::Removed);
                    }
                    First::Other(Change::Updated) => {
                        live.counters.nudges.add_one();
                        return Ok(News::Other);
                    }
                    First::Own(Change::Unknown) | First::Other(Change::Unknown) => {
                        // The connection may be gone, and with it the watches of all who wait here: not all at once.
                        Backoff::default().wait(&live.health).await;
                        return Ok(News::Other);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            news = told => news,
            () = left(departure) => {
                live.counters.wakeups.add_one();
                Ok(News::Left(on[0].clone()))
            }
        }
    }

    /// The rule of this moment: for a semaphore, the limit is read from the store.
    async fn rule(&self, live: &Live, belief: Belief) -> Result<Rule> {
        let limits = match self.request.limit {
            Some(believed) => Box::pin(record::limits_or_first(live, &self.request.queue, believed)).await?,
            None => Limits::NONE,
        };
        self.rule_within(limits, belief)
    }

    pub(crate) fn rule_within(&self, limits: Limits, belief: Belief) -> Result<Rule> {
        if let (Some(believed), Kind::Permits(wanted)) = (self.request.limit, self.request.kind) {
            if belief == Belief::Checked && limits.now != believed {
                let name = self.request.queue.to_string();
                return Err(Error::LimitMismatch { name, asked: believed, stored: limits.now });
            }
            if wanted > limits.now {
                return Err(Error::too_many_permits(wanted, limits.now));
            }
        }
        Ok(Rule { kind: self.request.kind, limits })
    }

    fn entry_removed(&self) -> Error {
        Error::EntryRemoved { lock: self.request.queue.to_string() }
    }

    pub(crate) fn other_recipe(&self, found: Kind) -> Error {
        record::other_recipe(&self.request.queue, self.request.kind, found)
    }
}
