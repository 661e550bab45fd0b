//! For which queues a session keeps a view, and for how long.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backend::{Change, Entry, View, Watched};

/// A view is worth it when at least one in this many of a queue waits in this session.
const SHARE: usize = 8;

/// A view is ended when fewer than one in this many do. So no queue is viewed by more sessions than this for long, however
/// many there are, and no event is told to more.
const SMALL_SHARE: usize = 2 * SHARE;

/// A view that nobody needs is kept for this long.
const LINGER: Duration = Duration::from_secs(1);

/// How often it is seen to whether a view is needed.
const TICK: Duration = Duration::from_millis(250);

/// After this time, more or less, a view is made anew: servers have lost events.
const LIFETIME: Duration = Duration::from_secs(15);

/// What is remembered of queues without waiters is forgotten when there are more than this.
const IDLE_QUEUES: usize = 256;

/// Resolves when a [`View`] is not told anything any more. Dropping it says that nothing more needs to be told.
///
/// # Examples
/// ```
/// use lock_core::backend::Feed;
///
/// let (events, mut told) = tokio::sync::mpsc::unbounded_channel::<u64>();
/// let feed: Feed = Box::pin(async move { while told.recv().await.is_some() {} });
/// drop(feed);
/// assert!(events.is_closed());
/// ```
pub type Feed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The [views](View) of a session: one for each queue in which a good share of those who wait are its own.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() {
/// use std::convert::Infallible;
/// use std::future::pending;
/// use lock_core::backend::{Entry, Feed, View, Views};
///
/// let views = Views::default();
/// let open = async || Ok::<_, Infallible>((View::new([], 8).into(), Box::pin(pending()) as Feed));
/// let mine = Entry { key: "reindex/9".into(), incarnation: 9 };
/// views.entered("reindex", 3); // behind two others
/// views.waits("reindex", &mine);
/// assert!(views.get("reindex", open).await.is_some(), "one of three");
/// views.left("reindex", &mine); // nobody needs it any more
/// views.entered("busy", 300);
/// assert!(views.get("busy", open).await.is_none(), "one of 300");
/// # }
/// ```
#[derive(Debug)]
pub struct Views<P> {
    queues: Mutex<HashMap<String, Arc<Slot<P>>>>,
}

#[derive(Debug)]
struct Slot<P> {
    /// How long the queue was when that was last known.
    length: AtomicUsize,
    /// The entries of this session that joined it behind others, until they leave.
    waiting: Mutex<HashSet<Entry>>,
    view: Mutex<Option<Arc<View<P>>>>,
    /// Somebody has asked for the view since that was last looked at.
    asked_for: AtomicBool,
    opening: tokio::sync::Mutex<()>,
}

impl<P> Default for Views<P> {
    fn default() -> Self {
        Self { queues: Mutex::default() }
    }
}

impl<P: Clone + Ord + Send + Sync + 'static> Views<P> {
    fn queues(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot<P>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, queue: &str) -> Arc<Slot<P>> {
        let mut queues = self.queues();
        if let Some(slot) = queues.get(queue) {
            return slot.clone();
        }
        if queues.len() >= IDLE_QUEUES && queues.len().is_power_of_two() {
            queues.retain(|_, slot| slot.is_used());
        }
        queues.entry(queue.to_owned()).or_default().clone()
    }

    /// An entry of this session has joined a queue, which is this long now.
    ///
    /// # Examples
    /// See [`Views`].
    pub fn entered(&self, queue: &str, length: usize) {
        // Whoever is alone will not wait, and needs no slot.
        if length > 1 {
            self.slot(queue).length.store(length, Ordering::Relaxed);
        } else if let Some(slot) = self.queues().get(queue) {
            slot.length.store(length, Ordering::Relaxed);
        }
    }

    /// An entry of this session has joined a queue behind others. It counts as waiting, once however often it is said,
    /// until it has [left](Self::left).
    ///
    /// # Examples
    /// See [`Views`].
    pub fn waits(&self, queue: &str, entry: &Entry) {
        self.slot(queue).waiting().insert(entry.clone());
    }

    /// An entry is in a queue no more. May be said of any entry, and more than once.
    ///
    /// # Examples
    /// See [`Views`].
    pub fn left(&self, queue: &str, entry: &Entry) {
        if let Some(slot) = self.queues().get(queue) {
            slot.waiting().remove(entry);
        }
    }

    /// The view of a queue, if there is one.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() {
    /// use std::convert::Infallible;
    /// use std::future::pending;
    /// use lock_core::backend::{Entry, Feed, View, Views};
    ///
    /// let views = Views::default();
    /// views.entered("reindex", 2);
    /// views.waits("reindex", &Entry { key: "reindex/9".into(), incarnation: 9 });
    /// let open = async || Ok::<_, Infallible>((View::new([], 8).into(), Box::pin(pending()) as Feed));
    /// assert!(views.find("reindex").is_none());
    /// views.get("reindex", open).await;
    /// assert!(views.find("reindex").is_some());
    /// # }
    /// ```
    pub fn find(&self, queue: &str) -> Option<Arc<View<P>>> {
        self.queues().get(queue)?.view()
    }

    /// Waits until the view of a queue, if there is one, shows an entry no more that the store said is gone, in another
    /// way: so that what it shows next is not older than what was said.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() {
    /// # use std::convert::Infallible;
    /// # use std::future::pending;
    /// # use lock_core::backend::{Feed, View, Views};
    /// use lock_core::backend::{Entry, Kind, Standing};
    ///
    /// let first = Standing { entry: Entry { key: "reindex/5".into(), incarnation: 5 }, kind: Kind::Exclusive };
    /// let views = Views::default();
    /// let open = async || Ok::<_, Infallible>((View::new([(5, first.clone())], 8).into(), Box::pin(pending()) as Feed));
    /// let Some(Ok(view)) = views.get("reindex", open).await else { unreachable!() };
    /// view.remove("reindex/5");
    /// views.catch_up("reindex", &5, &first.entry).await;
    /// # }
    /// ```
    pub async fn catch_up(&self, queue: &str, place: &P, entry: &Entry) {
        let Some(view) = self.find(queue) else { return };
        while let Ok(Watched::Present(watch)) = view.watch(place, entry) {
            if watch.await != Change::Updated {
                return;
            }
        }
    }

    /// The view of a queue for one who is about to wait, or who comes often and is alone, opened if it is worth it; `None`
    /// if it is not. It is kept while somebody waits, and for a second after it was last asked for.
    ///
    /// # Cancel safety
    /// Another one opens it.
    ///
    /// # Examples
    /// See [`Views`].
    pub async fn get<E>(
        &self,
        queue: &str,
        open: impl AsyncFnOnce() -> Result<(Arc<View<P>>, Feed), E>,
    ) -> Option<Result<Arc<View<P>>, E>> {
        let slot = self.slot(queue);
        slot.asked_for.store(true, Ordering::Relaxed);
        if let Some(view) = slot.view() {
            return Some(Ok(view));
        }
        // Whoever asks counts as one who waits.
        let waiting = slot.waiting().len() + 1;
        if waiting * SHARE < slot.length.load(Ordering::Relaxed) {
            return None;
        }
        let _opening = slot.opening.lock().await;
        if let Some(view) = slot.view() {
            return Some(Ok(view));
        }
        let (view, feed) = match open().await {
            Ok(opened) => opened,
            Err(error) => return Some(Err(error)),
        };
        *slot.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view.clone());
        tokio::spawn(slot.clone().keep(view.clone(), feed));
        Some(Ok(view))
    }
}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        Self {
            length: AtomicUsize::new(0),
            waiting: Mutex::default(),
            view: Mutex::default(),
            asked_for: AtomicBool::new(false),
            opening: tokio::sync::Mutex::default(),
        }
    }
}

impl<P: Clone + Ord + Send + Sync + 'static> Slot<P> {
    fn view(&self) -> Option<Arc<View<P>>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those of this session who wait.
    fn waiting(&self) -> MutexGuard<'_, HashSet<Entry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_used(&self) -> bool {
        !self.waiting().is_empty() || self.view().is_some()
    }

    /// Ends a view when nobody needs it any more, or when it is not told anything.
    async fn keep(self: Arc<Self>, view: Arc<View<P>>, mut feed: Feed) {
        let lifetime = LIFETIME.mul_f64(0.7 + 0.6 * fastrand::f64());
        let opened = Instant::now();
        let mut needed = opened;
        loop {
            tokio::select! {
                biased;
                () = &mut feed => break,
                () = sleep(TICK) => {}
            }
            let waiting = self.waiting().len();
            if waiting > 0 || self.asked_for.swap(false, Ordering::Relaxed) {
                needed = Instant::now();
            }
            let is_small_share = waiting > 0 && waiting * SMALL_SHARE < view.len();
            if is_small_share || needed.elapsed() >= LINGER || opened.elapsed() >= lifetime {
                break;
            }
        }
        self.length.store(view.len(), Ordering::Relaxed);
        // First, so that whoever is told of the end does not find it again.
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = None;
        view.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Kind, Standing};
    use std::convert::Infallible;
    use tokio::sync::oneshot;

    fn entry(n: u64) -> Entry {
        Entry { key: format!("q/{n}").into(), incarnation: n }
    }

    type Opened = Result<(Arc<View<u64>>, Feed), Infallible>;

    /// A view that goes on until the sender is gone.
    fn opened() -> (oneshot::Sender<()>, Opened) {
        let (told, tells) = oneshot::channel::<()>();
        let feed = Box::pin(async move {
            let _ = tells.await;
        });
        (told, Ok((View::new([], 8).into(), feed)))
    }

    async fn forever() -> Opened {
        Ok((View::new([], 8).into(), Box::pin(std::future::pending())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_share_reads_for_itself() {
        let views = Views::default();
        views.entered("q", SHARE + 1);
        assert!(views.get("q", forever).await.is_none());
        views.waits("q", &entry(1));
        assert!(views.get("q", forever).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_ends_when_the_share_has_become_small() {
        let views = Views::default();
        views.waits("q", &entry(1));
        let view = views.get("q", forever).await.unwrap().unwrap();
        let join = |n: u64| view.put(n, Standing { entry: entry(n), kind: Kind::Exclusive });
        (0..SMALL_SHARE as u64).for_each(join);
        sleep(TICK * 2).await;
        assert!(view.has_reached(&8));
        join(99);
        sleep(TICK * 2).await;
        assert!(!view.has_reached(&8));
        assert!(views.get("q", forever).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_share_one_view() {
        let views = Arc::new(Views::default());
        let times = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (views, times) = (views.clone(), times.clone());
            tasks.spawn(async move {
                let open = async || {
                    times.fetch_add(1, Ordering::Relaxed);
                    sleep(TICK).await;
                    forever().await
                };
                let view = views.get("q", open).await.expect("worth it").unwrap();
                sleep(TICK).await;
                view
            });
        }
        let all = tasks.join_all().await;
        assert!(all.iter().all(|view| Arc::ptr_eq(view, &all[0])));
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_that_nobody_needs_ends() {
        let views = Views::default();
        views.waits("q", &entry(1));
        views.waits("q", &entry(1));
        let view = views.get("q", forever).await.unwrap().unwrap();
        sleep(LINGER * 2).await;
        assert!(view.has_reached(&8));
        views.left("q", &Entry { incarnation: 2, ..entry(1) });
        sleep(LINGER * 2).await;
        assert!(view.has_reached(&8), "a later one with the same key");
        views.left("q", &entry(1));
        sleep(LINGER * 2).await;
        assert!(!view.has_reached(&8) && views.find("q").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_that_is_asked_for_again_and_again_is_kept() {
        let views = Views::default();
        views.entered("q", 100);
        assert!(views.get("q", forever).await.is_none());
        views.entered("q", 1);
        let view = views.get("q", forever).await.unwrap().unwrap();
        for _ in 0..10 {
            sleep(LINGER / 2).await;
            assert!(views.get("q", forever).await.is_some_and(|found| Arc::ptr_eq(&found.unwrap(), &view)));
        }
        sleep(LINGER * 2).await;
        assert!(views.find("q").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_is_made_anew_in_time() {
        let views = Views::default();
        views.waits("q", &entry(1));
        let view = views.get("q", forever).await.unwrap().unwrap();
        sleep(LIFETIME * 3 / 2).await;
        assert!(!view.has_reached(&8));
        assert!(views.get("q", forever).await.unwrap().unwrap().has_reached(&8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_ends_when_it_is_not_told_anything() {
        let views = Views::default();
        views.waits("q", &entry(1));
        let (told, opened) = opened();
        let view = views.get("q", async || opened).await.unwrap().unwrap();
        drop(told);
        assert!(!view.reaches(&9).await);
        assert!(views.find("q").is_none(), "not found by whoever was told of the end");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_queues_are_forgotten() {
        let views = Views::<u64>::default();
        views.waits("busy", &entry(1));
        for n in 0..IDLE_QUEUES * 8 {
            views.entered(&format!("q{n}"), 2);
        }
        assert!(views.queues().len() <= IDLE_QUEUES * 2 && views.queues().contains_key("busy"));
    }
}
