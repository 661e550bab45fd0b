//! The watches of one waiter: on its own entry, and on what it waits for.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::task::unconstrained;

use crate::backend::{Change, Entry, Watch, Watched};
use crate::error::Result;
use crate::session::Live;

/// Watches that are kept from one look to the next.
#[derive(Default)]
pub(crate) struct Watching {
    own: Option<Watch>,
    others: Vec<(Entry, Watch)>,
}

/// The outcome of [`Watching::set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// Everything was watched already.
    Kept,
    /// Some watches are new.
    Opened,
    /// One of the others is gone already.
    Gone,
    /// The own entry is gone.
    OwnGone,
}

/// What happened first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// To the own entry.
    Own(Change),
    /// To one of the others.
    Other(Change),
}

impl Watching {
    /// Watches the own entry and exactly these others.
    ///
    /// Both are in force when the own entry is found alive after that, and removals come in the store's order: so when
    /// another entry is told to be removed before the own one, it was.
    pub(crate) async fn set(&mut self, live: &Arc<Live>, mine: &Entry, others: &[&Entry]) -> Result<Set> {
        self.others.retain(|(entry, _)| others.contains(&entry));
        let missing: Vec<Entry> = others.iter().copied().filter(|entry| !self.watches(entry)).cloned().collect();
        let unwatched = self.own.is_none();
        if missing.is_empty() && !unwatched {
            return Ok(Set::Kept);
        }
        let own = async { if unwatched { watch(live, mine).await.map(Some) } else { Ok(None) } };
        // Boxed: it is done before the wait begins.
        let (own, opened) = Box::pin(async { tokio::try_join!(own, watch_all(live, missing)) }).await?;
        match own {
            None => {}
            Some(Watched::Present(own)) => self.own = Some(own),
            Some(Watched::Gone) => return Ok(Set::OwnGone),
        }
        let mut set = Set::Opened;
        self.others.reserve_exact(opened.len());
        for (entry, watched) in opened {
            match watched {
                Watched::Present(watch) => self.others.push((entry, watch)),
                Watched::Gone => set = Set::Gone,
            }
        }
        Ok(set)
    }

    /// Resolves with the first change of anything watched, whose watch is gone then.
    pub(crate) async fn first(&mut self) -> First {
        let first = poll_fn(|cx| {
            // The others are asked before the own entry, and the own entry counts before them: another thread may tell of
            // both in the middle, the own entry's removal first.
            let mut changed = None;
            for (at, (_, watch)) in self.others.iter_mut().enumerate() {
                if let Poll::Ready(change) = watch.as_mut().poll(cx) {
                    changed = Some((at, change));
                    break;
                }
            }
            if let Some(own) = &mut self.own
                && let Poll::Ready(change) = own.as_mut().poll(cx)
            {
                self.own = None;
                // An update of the own entry is no reason to forget the other's change, whose watch is used up.
                if changed.is_none() || change == Change::Removed {
                    return Poll::Ready(First::Own(change));
                }
            }
            let Some((at, change)) = changed else { return Poll::Pending };
            drop(self.others.swap_remove(at));
            Poll::Ready(First::Other(change))
        });
        // With a budget, the own watch could be silent because another's used it up.
        unconstrained(first).await
    }

    /// Ends all watches, so that [`set`](Self::set) opens them anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The watch on the own entry, if there was cause to open one.
    pub(crate) fn into_own(self) -> Option<Watch> {
        self.own
    }

    fn watches(&self, entry: &Entry) -> bool {
        self.others.iter().any(|(watched, _)| watched == entry)
    }
}

/// Opens several watches at a time.
async fn watch_all(live: &Arc<Live>, mut entries: Vec<Entry>) -> Result<Vec<(Entry, Watched)>> {
    let Some(last) = entries.pop() else { return Ok(Vec::new()) };
    let mut tasks = tokio::task::JoinSet::new();
    for entry in entries {
        let live = live.clone();
        tasks.spawn(async move { watch(&live, &entry).await.map(|watched| (entry, watched)) });
    }
    let watched = watch(live, &last).await?;
    let mut opened = vec![(last, watched)];
    while let Some(watched) = tasks.join_next().await {
        opened.push(watched.unwrap_or_else(|_| Err(live.over()))?);
    }
    Ok(opened)
}

async fn watch(live: &Live, entry: &Entry) -> Result<Watched> {
    live.retry(|| live.session.watch(entry)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn an_own_removal_told_between_two_looks_comes_first() {
        let told = Arc::new(AtomicBool::new(false));
        let of_own = told.clone();
        let own: Watch =
            Box::pin(poll_fn(
                move |_| {
                    if of_own.load(Ordering::SeqCst) { Poll::Ready(Change::Removed) } else { Poll::Pending }
                },
            ));
        // While this one is asked, another thread tells of both.
        let predecessor: Watch = Box::pin(poll_fn(move |_| {
            told.store(true, Ordering::SeqCst);
            Poll::Ready(Change::Removed)
        }));
        let entry = Entry { key: "predecessor".into(), incarnation: 1 };
        let mut watching = Watching { own: Some(own), others: vec![(entry, predecessor)] };
        assert_eq!(watching.first().await, First::Own(Change::Removed));
    }
}
