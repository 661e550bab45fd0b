//! A queue as a session knows it by heart, for backends that are told of every change.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::backend::{Ahead, Change, Entry, Standing, Watched};

/// A queue that the store's events keep up to date, so that those of one session who wait in it need not read and watch
/// it each for themselves.
///
/// It is of use to a session that has a good share of those who wait: it costs two events for each who comes and goes,
/// whoever that is. `P` orders the entries as the store does.
///
/// A backend makes one when it has asked for the events, lists the queue into it, and from then on passes on what the
/// store tells, in the store's order.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> Result<(), lock_core::backend::Blind> {
/// use lock_core::backend::{Change, Entry, Kind, Standing, View, Watched};
///
/// let mutex = |n: u64| Standing { entry: Entry { key: format!("reindex/{n}").into(), incarnation: n }, kind: Kind::Exclusive };
/// let view = View::new([(5, mutex(5)), (7, mutex(7))], 8);
/// view.put(9, mutex(9));
/// assert!(view.reaches(&9).await);
/// let ahead = view.ahead(&9, &mutex(9).entry, 1)?.expect("it is there");
/// assert!(ahead.nearest == [mutex(7)] && ahead.more);
/// let Watched::Present(watch) = view.watch(&7, &mutex(7).entry)? else { unreachable!() };
/// view.remove("reindex/7");
/// assert_eq!(watch.await, Change::Removed);
/// assert_eq!(view.ahead(&7, &mutex(7).entry, 1)?, None);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct View<P> {
    state: Mutex<State<P>>,
    /// How far it reaches; `None` once it has ended.
    reached: watch::Sender<Option<P>>,
}

/// The answer of a [`View`] that has ended, or that does not [reach](View::reaches) so far: ask the store.
///
/// # Examples
/// ```
/// use lock_core::backend::{Blind, Entry, View};
///
/// let entry = Entry { key: "reindex/9".into(), incarnation: 9 };
/// assert_eq!(View::new([], 8).ahead(&9, &entry, 1), Err(Blind));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not told of so far")]
pub struct Blind;

#[derive(Debug)]
struct State<P> {
    seats: BTreeMap<P, Seat>,
    places: HashMap<Arc<str>, P>,
}

#[derive(Debug)]
struct Seat {
    standing: Standing,
    watches: Vec<oneshot::Sender<Change>>,
}

impl<P: Clone + Ord + Send + Sync + 'static> View<P> {
    /// The queue as it was listed, with everybody in it up to this place.
    ///
    /// # Examples
    /// See [`View`].
    pub fn new(listed: impl IntoIterator<Item = (P, Standing)>, reached: P) -> Self {
        let state = State { seats: BTreeMap::new(), places: HashMap::new() };
        let view = Self { state: Mutex::new(state), reached: watch::Sender::new(Some(reached)) };
        for (place, standing) in listed {
            view.put(place, standing);
        }
        view
    }

    fn state(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry joined the queue, or was written to.
    ///
    /// # Examples
    /// See [`View`].
    pub fn put(&self, place: P, standing: Standing) {
        let mut state = self.state();
        if let Some(seat) = state.seats.get_mut(&place) {
            seat.standing = standing;
            seat.tell(Change::Updated);
            return;
        }
        if let Some(former) = state.places.insert(standing.entry.key.clone(), place.clone())
            && let Some(mut seat) = state.seats.remove(&former)
        {
            // Nothing was told of its removal: what else was not?
            seat.tell(Change::Unknown);
        }
        state.seats.insert(place.clone(), Seat { standing, watches: Vec::new() });
        drop(state);
        self.reached.send_if_modified(|reached| {
            let farther = reached.as_ref().is_some_and(|reached| *reached < place);
            if farther {
                *reached = Some(place);
            }
            farther
        });
    }

    /// The entry with this key left the queue.
    ///
    /// # Examples
    /// See [`View`].
    pub fn remove(&self, key: &str) {
        let mut state = self.state();
        if let Some(place) = state.places.remove(key)
            && let Some(mut seat) = state.seats.remove(&place)
        {
            seat.tell(Change::Removed);
        }
    }

    /// From now on nothing more is told. All watches end without saying so.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() {
    /// use lock_core::backend::{Change, Entry, Kind, Standing, View, Watched};
    ///
    /// let entry = Entry { key: "reindex/5".into(), incarnation: 5 };
    /// let view = View::new([(5, Standing { entry: entry.clone(), kind: Kind::Exclusive })], 8);
    /// let Ok(Watched::Present(watch)) = view.watch(&5, &entry) else { unreachable!() };
    /// view.end();
    /// assert_eq!(watch.await, Change::Unknown);
    /// assert!(view.watch(&5, &entry).is_err() && !view.reaches(&5).await);
    /// # }
    /// ```
    pub fn end(&self) {
        let mut state = self.state();
        // First, so that nobody takes an entry for gone.
        self.reached.send_replace(None);
        state.seats.clear();
        state.places.clear();
    }

    /// Resolves when everybody who joined up to this place was told of; `false` if it ends before that.
    ///
    /// # Examples
    /// See [`View`].
    pub async fn reaches(&self, place: &P) -> bool {
        let mut reached = self.reached.subscribe();
        let there = reached.wait_for(|reached| reached.as_ref().is_none_or(|reached| reached >= place)).await;
        there.is_ok_and(|reached| reached.is_some())
    }

    /// Whether everybody who joined up to this place was told of, and it goes on.
    ///
    /// # Examples
    /// ```
    /// use lock_core::backend::View;
    ///
    /// let view = View::new([], 8);
    /// assert!(view.has_reached(&8) && !view.has_reached(&9));
    /// ```
    pub fn has_reached(&self, place: &P) -> bool {
        self.reached.borrow().as_ref().is_some_and(|reached| reached >= place)
    }

    /// As [`Session::ahead`](crate::backend::Session::ahead), of an entry in this place.
    ///
    /// # Errors
    /// [`Blind`].
    ///
    /// # Examples
    /// See [`View`].
    pub fn ahead(&self, place: &P, mine: &Entry, limit: usize) -> Result<Option<Ahead>, Blind> {
        let state = self.looked_at(place)?;
        if state.seat(place, mine).is_none() {
            return Ok(None);
        }
        let mut ahead = state.seats.range(..place).rev().map(|(_, seat)| seat.standing.clone());
        let nearest = ahead.by_ref().take(limit).collect();
        Ok(Some(Ahead { nearest, more: ahead.next().is_some() }))
    }

    /// As [`Session::watch`](crate::backend::Session::watch), of an entry in this place.
    ///
    /// # Errors
    /// [`Blind`].
    ///
    /// # Examples
    /// See [`View`].
    pub fn watch(&self, place: &P, entry: &Entry) -> Result<Watched, Blind> {
        let mut state = self.looked_at(place)?;
        if state.seat(place, entry).is_none() {
            return Ok(Watched::Gone);
        }
        let (sender, change) = oneshot::channel();
        if let Some(seat) = state.seats.get_mut(place) {
            seat.watches.retain(|other| !other.is_closed());
            seat.watches.push(sender);
        }
        Ok(Watched::Present(Box::pin(async { change.await.unwrap_or(Change::Unknown) })))
    }

    fn looked_at(&self, place: &P) -> Result<MutexGuard<'_, State<P>>, Blind> {
        let state = self.state();
        if self.has_reached(place) { Ok(state) } else { Err(Blind) }
    }

    /// How many entries there are.
    ///
    /// # Examples
    /// ```
    /// use lock_core::backend::View;
    ///
    /// assert_eq!(View::new([], 8).len(), 0);
    /// ```
    pub fn len(&self) -> usize {
        self.state().seats.len()
    }

    /// Whether nobody is there.
    ///
    /// # Examples
    /// ```
    /// use lock_core::backend::View;
    ///
    /// assert!(View::new([], 8).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<P: Ord> State<P> {
    /// The seat of this very incarnation.
    fn seat(&self, place: &P, entry: &Entry) -> Option<&Seat> {
        self.seats.get(place).filter(|seat| seat.standing.entry == *entry)
    }
}

impl Seat {
    fn tell(&mut self, change: Change) {
        for watch in self.watches.drain(..) {
            let _ = watch.send(change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Kind;

    fn standing(n: u64, kind: Kind) -> (u64, Standing) {
        (n, Standing { entry: Entry { key: format!("q/{n}").into(), incarnation: n }, kind })
    }

    fn view(listed: &[u64], reached: u64) -> View<u64> {
        View::new(listed.iter().map(|n| standing(*n, Kind::Write)), reached)
    }

    fn put(view: &View<u64>, n: u64, kind: Kind) {
        let (place, standing) = standing(n, kind);
        view.put(place, standing);
    }

    fn ahead(view: &View<u64>, mine: u64, limit: usize) -> Option<(Vec<u64>, bool)> {
        let ahead = view.ahead(&mine, &standing(mine, Kind::Write).1.entry, limit).unwrap()?;
        Some((ahead.nearest.iter().map(|other| other.entry.incarnation).collect(), ahead.more))
    }

    #[test]
    fn it_shows_who_is_ahead() {
        let view = view(&[3, 9, 5], 9);
        assert_eq!(ahead(&view, 9, 1), Some((vec![5], true)));
        assert_eq!(ahead(&view, 9, 2), Some((vec![5, 3], false)));
        assert_eq!(ahead(&view, 3, 2), Some((vec![], false)));
        assert_eq!(ahead(&view, 4, 2), None);
        view.remove("q/5");
        view.remove("q/5");
        assert_eq!((ahead(&view, 9, 1), ahead(&view, 5, 1)), (Some((vec![3], false)), None));
    }

    #[test]
    fn another_incarnation_of_a_key_is_another_entry() {
        let view = view(&[3], 3);
        view.remove("q/3");
        let again = Standing { entry: Entry { key: "q/3".into(), incarnation: 8 }, kind: Kind::Write };
        view.put(8, again.clone());
        assert_eq!(ahead(&view, 3, 1), None);
        assert!(matches!(view.watch(&3, &standing(3, Kind::Write).1.entry), Ok(Watched::Gone)));
        assert!(matches!(view.watch(&8, &again.entry), Ok(Watched::Present(_))));
    }

    #[tokio::test]
    async fn a_key_that_comes_again_untold_is_no_removal() {
        let view = view(&[3], 3);
        let Ok(Watched::Present(watch)) = view.watch(&3, &standing(3, Kind::Write).1.entry) else {
            panic!("it is there")
        };
        view.put(8, Standing { entry: Entry { key: "q/3".into(), incarnation: 8 }, kind: Kind::Write });
        assert_eq!(watch.await, Change::Unknown);
        assert_eq!((ahead(&view, 3, 1), view.len()), (None, 1));
    }

    #[tokio::test]
    async fn a_write_is_told_and_keeps_the_place() {
        let view = view(&[3, 5], 5);
        let Ok(Watched::Present(watch)) = view.watch(&3, &standing(3, Kind::Write).1.entry) else {
            panic!("it is there")
        };
        put(&view, 3, Kind::Read);
        assert_eq!(watch.await, Change::Updated);
        let nearest = view.ahead(&5, &standing(5, Kind::Write).1.entry, 9).unwrap().unwrap().nearest;
        assert_eq!(nearest, [standing(3, Kind::Read).1]);
    }

    #[tokio::test]
    async fn whoever_is_not_told_of_yet_is_waited_for() {
        let view = view(&[3], 4);
        assert!(view.reaches(&4).await);
        let reaching = tokio::join!(view.reaches(&6), async {
            tokio::task::yield_now().await;
            put(&view, 6, Kind::Write);
            // Somebody was there and has left.
            view.remove("q/6");
        });
        assert!(reaching.0 && view.has_reached(&6));
        assert_eq!(view.ahead(&7, &standing(7, Kind::Write).1.entry, 1), Err(Blind));
        let ended = tokio::join!(view.reaches(&7), async { view.end() });
        assert!(!ended.0);
    }

    #[tokio::test]
    async fn its_end_ends_the_watches_without_telling() {
        let view = view(&[3], 4);
        let Ok(Watched::Present(watch)) = view.watch(&3, &standing(3, Kind::Write).1.entry) else {
            panic!("it is there")
        };
        view.end();
        assert_eq!(watch.await, Change::Unknown);
        assert_eq!(view.ahead(&3, &standing(3, Kind::Write).1.entry, 1), Err(Blind));
        assert!(view.watch(&3, &standing(3, Kind::Write).1.entry).is_err());
        assert!(!view.reaches(&3).await);
    }
}
