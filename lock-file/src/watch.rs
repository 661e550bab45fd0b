//! Watches on entries, records and queues.
//!
//! The kernel only says that it is time to look; what is seen decides. A watch looks whenever it is asked, so when two
//! are asked one after the other, the second does not miss what came before that which the first has told.
//!
//! A look reads nothing, since the runtime would wait for the disk: even the time of the last access would have to be
//! written. Files that are watched are in memory.

use std::fs::File;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use lock_core::backend::{Change, Entry, Stir, Watch, Watched};

use crate::ear::Ear;
use crate::error::Failed;
use crate::names::{Key, names};
use crate::notices::{Heard, Kind};
use crate::store::{Store, Transaction, is_alive};
use crate::sys::{self, Stamp};
use crate::values::encode;

/// An entry or a record that is watched.
struct Sight {
    store: Arc<Store>,
    path: PathBuf,
    stamp: Stamp,
    /// For an entry, its key and the file of its session.
    of: Option<(Arc<str>, PathBuf)>,
    /// The file, when nobody tells that it is gone: as long as it is open, no other gets its number.
    _held: Option<File>,
}

impl Sight {
    /// How it has changed, if it has.
    fn change(&self, heard: Heard) -> Result<Option<Change>, Failed> {
        let now = sys::stamp_at(&self.path)?;
        // A file that took the place of this one may have got its number.
        let updated = (now != Some(self.stamp) || heard.is_replaced()).then_some(Change::Updated);
        let Some((key, session)) = &self.of else { return Ok(updated) };
        if now.is_none() {
            // A writer that goes on as a reader has another name.
            let mut elsewhere = names(key).map(|name| self.store.path(&name)).filter(|path| *path != self.path);
            let turned = elsewhere.try_fold(false, |found, path| Ok(found || sys::stamp_at(&path)?.is_some()))?;
            return Ok(Some(if turned { Change::Updated } else { Change::Removed }));
        }
        if !is_alive(session)? {
            self.store.sweep.set();
            self.store.sweep_if_wanted();
            return Ok(Some(Change::Removed));
        }
        Ok(updated)
    }

    fn watch(self, mut ear: Ear) -> Watch {
        Box::pin(poll_fn(move |cx| {
            let heard = ear.poll(cx);
            match self.change(heard) {
                Ok(Some(change)) => Poll::Ready(change),
                Ok(None) if !heard.is_deaf() => Poll::Pending,
                Ok(None) => Poll::Ready(Change::Unknown),
                Err(error) => {
                    tracing::debug!(%error, "a watch cannot look any more");
                    Poll::Ready(Change::Unknown)
                }
            }
        }))
    }
}

/// A file that is to be looked at without being told.
fn held(path: &Path, ear: &Ear) -> Result<Option<File>, Failed> {
    if ear.is_guessing() { sys::open(path) } else { Ok(None) }
}

impl Transaction<'_> {
    pub(crate) fn watch(&mut self, store: Arc<Store>, entry: &Entry, mut ear: Ear) -> Result<Watched, Failed> {
        match Key::parse(entry) {
            None => Ok(Watched::Gone),
            Some(Key::Record { queue }) => {
                let path = self.record_path(queue);
                if !ear.listen(&path, Kind::File)? {
                    // What is not there cannot be watched. Version 0 is what a record has that nobody wrote.
                    sys::create(&path, self.store.access, &encode(0, b""))?;
                    ear.listen(&path, Kind::File)?;
                }
                let held = held(&path, &ear)?;
                Ok(Watched::Present(match sys::stamp_at(&path)? {
                    Some(stamp) => Sight { store, path, stamp, of: None, _held: held }.watch(ear),
                    // Removed by hand this very moment.
                    None => Box::pin(std::future::ready(Change::Unknown)),
                }))
            }
            Some(Key::Entry { place, .. }) => {
                let Some(path) = self.find(&entry.key, &place.session)? else { return Ok(Watched::Gone) };
                let session = self.store.session_path(&place.session);
                let listening = ear.listen(&path, Kind::File)? && ear.listen(&session, Kind::Session)?;
                let Some(stamp) = sys::stamp_at(&path)?.filter(|_| listening) else { return Ok(Watched::Gone) };
                if !is_alive(&session)? {
                    self.bury(&path);
                    return Ok(Watched::Gone);
                }
                let (of, held) = (Some((entry.key.clone(), session)), held(&path, &ear)?);
                Ok(Watched::Present(Sight { store, path, stamp, of, _held: held }.watch(ear)))
            }
        }
    }

    pub(crate) fn watch_queue(&mut self, store: Arc<Store>, queue: &str, mut ear: Ear) -> Result<Stir, Failed> {
        let (directory, sessions) = self.sessions_in(queue)?;
        if !ear.listen(&directory, Kind::Directory)? {
            // Removed by hand this very moment.
            return Ok(Box::pin(std::future::ready(())));
        }
        let mut files = Vec::with_capacity(sessions.len());
        for session in sessions {
            let file = self.store.session_path(&session);
            if ear.listen(&file, Kind::Session)? && self.is_alive(&session)? {
                files.push(file);
            }
        }
        let before = sys::list(&directory)?;
        Ok(Box::pin(poll_fn(move |cx| {
            let heard = ear.poll(cx);
            if heard.in_directory() || heard.is_deaf() {
                return Poll::Ready(());
            }
            let same = || -> Result<bool, Failed> {
                for file in &files {
                    if !is_alive(file)? {
                        store.sweep.set();
                        store.sweep_if_wanted();
                        return Ok(false);
                    }
                }
                Ok(!ear.is_guessing() || sys::list(&directory)? == before)
            };
            // What cannot be looked at may have changed.
            if same().unwrap_or(false) { Poll::Pending } else { Poll::Ready(()) }
        })))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lock_core::backend::Written;
    use rustix::io::Errno;

    use super::*;
    use crate::notices::Notices;
    use crate::own::Own;
    use crate::queue::Entered;
    use crate::store::test::{Directory, transact};
    use crate::sys::test::{Plan, plan};

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn enter(store: &Store) -> (Own, Entry) {
        let own = transact(store, |store| store.open_session(b"")).unwrap();
        let entered = transact(store, |store| {
            store.enqueue("q", (&own.id, ID, lock_core::backend::Kind::Exclusive), b"old", false)
        });
        let Entered::Placed { place, .. } = entered.unwrap() else { panic!("nobody asked for a free queue") };
        (own, place.entry("q"))
    }

    fn present(store: &Arc<Store>, entry: &Entry, ear: Ear) -> Watch {
        match transact(store, |transaction| transaction.watch(store.clone(), entry, ear)).unwrap() {
            Watched::Present(watch) => watch,
            Watched::Gone => panic!("{entry:?} is gone"),
        }
    }

    /// A watch that has looked once, and is looked at by nobody but itself from now on.
    async fn asleep(watch: Watch) -> tokio::task::JoinHandle<Change> {
        let watch = tokio::spawn(watch);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!watch.is_finished());
        watch
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time")
    }

    async fn tells_all(store: &Arc<Store>, ear: impl Fn() -> Ear) {
        let (own, entry) = enter(store);
        let updated = present(store, &entry, ear());
        let draft = store.draft(&own.id, 1, b"new", false).unwrap().unwrap();
        assert_eq!(transact(store, |store| store.put(&entry, &draft)).unwrap(), Written::Done);
        assert_eq!(soon(updated).await, Change::Updated);

        let record = crate::names::record("q");
        let updated = present(store, &record, ear());
        let before = transact(store, |store| store.read_value(&record)).unwrap().unwrap();
        let draft = store.draft(&own.id, before.version, b"new", false).unwrap().unwrap();
        assert_eq!(transact(store, |store| store.put(&record, &draft)).unwrap(), Written::Done);
        assert_eq!(soon(updated).await, Change::Updated);

        let stir = transact(store, |transaction| transaction.watch_queue(store.clone(), "q", ear())).unwrap();
        let removed = present(store, &entry, ear());
        transact(store, |store| store.dequeue(&entry)).unwrap();
        assert_eq!(soon(removed).await, Change::Removed);
        soon(stir).await;

        let (dies, entry) = enter(store);
        let stir = transact(store, |transaction| transaction.watch_queue(store.clone(), "q", ear())).unwrap();
        let removed = present(store, &entry, ear());
        drop(dies);
        assert_eq!(soon(removed).await, Change::Removed);
        soon(stir).await;
    }

    #[tokio::test]
    async fn everything_is_told_with_inotify_and_without() {
        let directory = Directory::new();
        let store = directory.store();
        let notices = Arc::new(Notices::open().unwrap());
        tells_all(&store, || Ear::new(Some(notices.clone()))).await;
        tells_all(&store, || Ear::new(None)).await;
    }

    /// A file that got the number of one that is gone, in the same tick of the clock, would look like it.
    #[tokio::test]
    async fn no_file_gets_the_number_of_one_that_is_watched_without_inotify() {
        let directory = Directory::new();
        let store = directory.store();
        let (own, _) = enter(&store);
        for n in 0..100 {
            let record = crate::names::record(&format!("q{n}"));
            let write = |version| {
                let draft = store.draft(&own.id, version, b"new", false).unwrap().unwrap();
                assert_eq!(transact(&store, |store| store.put(&record, &draft)).unwrap(), Written::Done);
                sys::identity_at(&store.path(&record.key)).unwrap()
            };
            let first = write(0);
            let updated = present(&store, &record, Ear::new(None));
            for version in 1..4 {
                assert_ne!(write(version), first);
            }
            assert_eq!(soon(updated).await, Change::Updated);
        }
    }

    #[tokio::test]
    async fn an_inotify_that_breaks_hides_nothing() {
        let directory = Directory::new();
        let store = directory.store();
        let notices = Arc::new(Notices::open().unwrap());
        let (own, entry) = enter(&store);
        let before = present(&store, &entry, Ear::new(Some(notices.clone())));
        // Made before, listens later, and to no session, after whose deaths it would look anyway.
        let ear = Ear::new(Some(notices.clone()));
        notices.fail();
        assert_eq!(soon(before).await, Change::Unknown);
        let record = crate::names::record("q");
        let after = asleep(present(&store, &record, ear)).await;
        let draft = store.draft(&own.id, 0, b"new", false).unwrap().unwrap();
        assert_eq!(transact(&store, |store| store.put(&record, &draft)).unwrap(), Written::Done);
        assert_eq!(soon(after).await.unwrap(), Change::Updated);
    }

    #[tokio::test]
    async fn a_watch_too_many_is_no_error() {
        let directory = Directory::new();
        let store = directory.store();
        let notices = Arc::new(Notices::open().unwrap());
        let (_own, entry) = enter(&store);
        for at in 0..50 {
            plan(at, Plan::Fail(Errno::NOSPC));
            let ear = Ear::new(Some(notices.clone()));
            let watched = transact(&store, |transaction| transaction.watch(store.clone(), &entry, ear));
            plan(0, Plan::Nothing);
            // Other calls that fail are told.
            if let Ok(watched) = watched {
                assert!(matches!(watched, Watched::Present(_)), "at {at}");
            }
        }
        let watches = format!("{notices:?}");
        assert!(watches.contains("watches: 0"), "a watch that was dropped is over: {watches}");
    }

    /// A process may close its file before somebody watches it, and be interrupted before the kernel unlocks it.
    #[tokio::test]
    async fn a_death_is_noticed_whose_event_came_before_the_watch() {
        let directory = Directory::new();
        let store = directory.store();
        let notices = Arc::new(Notices::open().unwrap());
        let (dying, entry) = enter(&store);
        let removed = asleep(present(&store, &entry, Ear::new(Some(notices)))).await;
        // Tells nobody, as long as the file is open.
        let file = dying.close().unwrap();
        sys::unlock(&file);
        assert_eq!(soon(removed).await.unwrap(), Change::Removed);
        drop(file);
    }

    /// The event of a death comes before the kernel unlocks the file.
    #[tokio::test]
    async fn a_death_is_noticed_whose_event_comes_too_early() {
        let directory = Directory::new();
        let store = directory.store();
        let notices = Arc::new(Notices::open().unwrap());
        let (dying, entry) = enter(&store);
        let removed = asleep(present(&store, &entry, Ear::new(Some(notices)))).await;
        // Past the looks that come without an event.
        tokio::time::sleep(Duration::from_millis(700)).await;
        drop(File::options().append(true).open(store.session_path(&dying.id)).unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!removed.is_finished(), "it lives");
        let file = dying.close().unwrap();
        sys::unlock(&file);
        assert_eq!(soon(removed).await.unwrap(), Change::Removed);
        drop(file);
    }
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;

    /// Watches, without being told.
    pub(crate) fn look_at(store: &mut Transaction<'_>, entry: &Entry) -> Result<Watched, Failed> {
        let whole = Arc::new(Store::new(store.store.directory.clone(), store.store.access));
        store.watch(whole, entry, Ear::new(None))
    }
}
